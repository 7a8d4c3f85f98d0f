//! A map: a mark for each network, close to those that are like it.

use super::figure::{Figure, escape, group_mark};

/// The side of the map, in pixels.
pub const SIDE: f64 = 560.0;
/// Around the marks.
const MARGIN: f64 = 24.0;
/// Up to so many networks, names stand beside the marks.
const NAMED: usize = 24;

/// Places within the figure, of any places in the plane: the same scale in both directions.
pub fn fitted(places: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let ends = [0, 1].map(|axis| {
        let values = places.iter().map(move |place| place[axis]);
        (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
    });
    let extent = ends.iter().map(|(low, high)| high - low).fold(0.0, f64::max);
    let scale = if extent > 0.0 { (SIDE - 2.0 * MARGIN) / extent } else { 0.0 };
    let fit =
        |place: &[f64; 2]| [0, 1].map(|axis| SIDE / 2.0 + scale * (place[axis] - 0.5 * (ends[axis].0 + ends[axis].1)));
    places.iter().map(fit).collect()
}

/// Draws it, each network with the mark of its group.
pub fn map(places: &[[f64; 2]], names: &[String], groups: &[usize], title: &str) -> Figure {
    let mut figure = Figure::new(title, SIDE, SIDE);
    figure.add(format_args!(
        "<rect x=\"0.5\" y=\"0.5\" width=\"{0}\" height=\"{0}\" rx=\"8\" fill=\"none\" stroke=\"currentColor\" stroke-opacity=\"0.2\"/>",
        SIDE - 1.0
    ));
    for (network, [x, y]) in fitted(places).into_iter().enumerate() {
        let (colour, shape) = group_mark(groups[network]);
        let name = escape(&names[network]);
        let written = if names.len() <= NAMED {
            let (x, anchor) = if x > SIDE * 0.7 { (-9, "end") } else { (9, "start") };
            format!(
                "<text x=\"{x}\" dominant-baseline=\"central\" text-anchor=\"{anchor}\" font-size=\"11\">{name}</text>"
            )
        } else {
            String::new()
        };
        figure.add(format_args!(
            "<g class=\"mark\" data-network=\"{network}\" transform=\"translate({x:.1} {y:.1})\"><title>{name}</title>\
             <path d=\"{shape}\" fill=\"{colour}\" stroke=\"white\" stroke-width=\"0.7\"/>{written}</g>"
        ));
    }
    figure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_fill_the_figure_without_being_distorted() {
        let places = fitted(&[[0.0, 0.0], [2.0, 1.0], [1.0, 0.5]]);
        assert_eq!(places[0], [MARGIN, SIDE / 2.0 - (SIDE - 2.0 * MARGIN) / 4.0]);
        assert_eq!(places[1][0], SIDE - MARGIN);
        assert_eq!(places[2], [SIDE / 2.0; 2]);
        assert_eq!(fitted(&[[3.0, 3.0]; 2]), [[SIDE / 2.0; 2]; 2]);
    }
}
