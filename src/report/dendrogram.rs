//! A dendrogram: networks on the left, joined to the right where their distance is.

use super::figure::{Figure, escape, group_mark, width_of};
use crate::analysis::hierarchy::Dendrogram;

/// How wide the joins are, in pixels.
const WIDTH: f64 = 560.0;

/// Draws it with the networks in its order, each name in the colour of its group.
pub fn dendrogram(dendrogram: &Dendrogram, names: &[String], groups: &[usize], title: &str) -> Figure {
    let count = names.len();
    let (row, letters) = if count <= 150 { (14.0, 10.5) } else { (5.0, 4.5) };
    let left = 24.0 + names.iter().map(|name| width_of(name, letters)).fold(0.0, f64::max);
    let top = 8.0;
    let highest = dendrogram.joins.iter().map(|join| join.height).fold(0.0, f64::max);
    let x = |height: f64| left + if highest > 0.0 { WIDTH * height / highest } else { 0.0 };
    let mut figure = Figure::new(title, left + WIDTH + 24.0, top + row * count as f64 + 34.0);
    let mut places = vec![(0.0, 0.0); count];
    for (place, &network) in dendrogram.order.iter().enumerate() {
        let y = top + row * (place as f64 + 0.5);
        places[network] = (x(0.0), y);
        let (colour, _) = group_mark(groups[network]);
        figure.add(format_args!(
            "<circle cx=\"{}\" cy=\"{y}\" r=\"{}\" fill=\"{colour}\"/><text x=\"{}\" y=\"{y}\" font-size=\"{letters}\" text-anchor=\"end\" \
             dominant-baseline=\"central\">{}</text>",
            left - 8.0,
            0.3 * letters,
            left - 16.0,
            escape(&names[network])
        ));
    }
    let mut path = String::new();
    for join in &dendrogram.joins {
        let ((ax, ay), (bx, by), at) = (places[join.a], places[join.b], x(join.height));
        path += &format!("M{ax:.1} {ay:.1}H{at:.1}V{by:.1}H{bx:.1}");
        places.push((at, 0.5 * (ay + by)));
    }
    figure.add(format_args!("<path d=\"{path}\" fill=\"none\" stroke=\"currentColor\" stroke-opacity=\"0.7\"/>"));
    let bottom = top + row * count as f64 + 12.0;
    for part in 0..=4 {
        let height = highest * f64::from(part) / 4.0;
        figure.add(format_args!(
            "<path d=\"M{0:.1} {1}v5\" stroke=\"currentColor\"/><text x=\"{0:.1}\" y=\"{2}\" font-size=\"10\" text-anchor=\"middle\">{height:.2}</text>",
            x(height),
            bottom - 6.0,
            bottom + 10.0
        ));
    }
    figure
}
