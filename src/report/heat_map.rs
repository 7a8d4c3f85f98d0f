//! A matrix of scores as a coloured square.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::figure::{Figure, colour, escape, hexadecimal, width_of};
use crate::images::{RgbImage, encode_png};
use crate::similarity::Matrix;

/// A heat map of a [`Matrix`], names on both sides.
#[derive(Debug, Clone)]
pub struct HeatMap<'a> {
    /// What is shown.
    pub matrix: &'a Matrix,
    /// The networks from top to bottom and from left to right.
    pub order: &'a [usize],
    /// A group for each network; a line is drawn where it changes.
    pub groups: &'a [usize],
    /// What the figure is called.
    pub title: &'a str,
}

/// Up to so many networks the score stands in each cell.
const WRITTEN: usize = 20;
/// The colour of a cell without a score.
const MISSING: [u8; 3] = [0xcc, 0xcc, 0xcc];

/// Where the parts of a heat map lie; `report.js` moves names by it.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Layout {
    /// The side of a cell, in pixels.
    pub cell: f64,
    /// Left of the first cell, and above it.
    pub margin: f64,
    /// The size of names, in pixels; too many names are not written.
    pub letters: Option<f64>,
}

impl HeatMap<'_> {
    /// Where its parts lie.
    pub fn layout(&self) -> Layout {
        let cell = match self.order.len() {
            0..=WRITTEN => 44.0,
            21..=120 => 13.0,
            _ => 3.0,
        };
        let letters = (cell >= 10.0).then_some(if cell > 20.0 { 12.0 } else { 9.5 });
        let longest = |size: f64| self.matrix.names.iter().map(|name| width_of(name, size)).fold(0.0, f64::max);
        Layout { cell, margin: letters.map_or(12.0, |size| longest(size) + 14.0), letters }
    }

    /// The lowest and the highest score of different networks: the ends of the colours. The diagonal is beyond them, as a rule.
    pub fn range(&self) -> [f64; 2] {
        let size = self.matrix.names.len();
        let scores = (0..size * size)
            .filter(|index| index / size != index % size)
            .map(|index| self.matrix.values[index])
            .filter(|score| !score.is_nan());
        let (low, high) =
            scores.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), score| (low.min(score), high.max(score)));
        if low <= high { [low, high] } else { [0.0, 0.0] }
    }

    /// The drawing.
    pub fn figure(&self) -> Figure {
        let Layout { cell, margin, letters } = self.layout();
        let count = self.order.len();
        let side = cell * count as f64;
        let mut figure = Figure::new(self.title, margin + side + 96.0, margin + side + 16.0);
        figure.add(format_args!(
            "<image class=\"cells\" x=\"{margin}\" y=\"{margin}\" width=\"{side}\" height=\"{side}\" style=\"image-rendering:pixelated\" \
             preserveAspectRatio=\"none\" href=\"data:image/png;base64,{}\"/>",
            BASE64_STANDARD.encode(self.png())
        ));
        for (place, &network) in self.order.iter().enumerate() {
            let Some(size) = letters else { break };
            let name = escape(&self.matrix.names[network]);
            let middle = margin + cell * (place as f64 + 0.5);
            figure.add(format_args!(
                "<text class=\"row\" data-network=\"{network}\" font-size=\"{size}\" text-anchor=\"end\" dominant-baseline=\"central\" \
                 transform=\"translate({} {middle})\">{name}</text>\
                 <text class=\"column\" data-network=\"{network}\" font-size=\"{size}\" dominant-baseline=\"central\" \
                 transform=\"translate({middle} {}) rotate(-90)\">{name}</text>",
                margin - 6.0,
                margin - 6.0
            ));
        }
        if count <= WRITTEN {
            self.write_scores(&mut figure);
        }
        let lines: String = (1..count)
            .filter(|&place| self.groups[self.order[place]] != self.groups[self.order[place - 1]])
            .map(|place| {
                let at = margin + cell * place as f64;
                format!("M{at} {margin}v{side}M{margin} {at}h{side}")
            })
            .collect();
        figure.add(format_args!(
            "<path class=\"lines\" d=\"{lines}\" stroke=\"white\" stroke-width=\"1.5\" fill=\"none\"/>"
        ));
        legend(&mut figure, margin + side + 18.0, margin, side.clamp(60.0, 200.0), self.range());
        figure
    }

    fn write_scores(&self, figure: &mut Figure) {
        let Layout { cell, margin, .. } = self.layout();
        for (row, &a) in self.order.iter().enumerate() {
            for (column, &b) in self.order.iter().enumerate() {
                let score = self.matrix.get(a, b);
                let text = if score.is_nan() { "–".to_owned() } else { format!("{score:.2}") };
                let ink = if share(score, self.range()) > 0.45 { "white" } else { "black" };
                let (x, y) = (margin + cell * (column as f64 + 0.5), margin + cell * (row as f64 + 0.5));
                figure.add(format_args!(
                    "<text class=\"score\" x=\"{x}\" y=\"{y}\" font-size=\"11\" text-anchor=\"middle\" dominant-baseline=\"central\" \
                     fill=\"{ink}\" pointer-events=\"none\">{text}</text>"
                ));
            }
        }
    }

    /// One pixel for each cell.
    fn png(&self) -> Vec<u8> {
        let (count, range) = (self.order.len(), self.range());
        let pixels: Vec<u8> = self
            .order
            .iter()
            .flat_map(|&row| self.order.iter().map(move |&column| self.matrix.get(row, column)))
            .flat_map(|score| if score.is_nan() { MISSING } else { colour(share(score, range)) })
            .collect();
        encode_png(&RgbImage::new(count, count, pixels))
    }
}

/// Where a score lies between the ends of the colours; the middle if they are one.
fn share(score: f64, [low, high]: [f64; 2]) -> f64 {
    if high > low { (score - low) / (high - low) } else { 0.5 }
}

fn legend(figure: &mut Figure, x: f64, top: f64, height: f64, [low, high]: [f64; 2]) {
    const STEPS: usize = 40;
    let step = height / STEPS as f64;
    for index in 0..STEPS {
        let fill = hexadecimal(colour(1.0 - (index as f64 + 0.5) / STEPS as f64));
        let y = top + step * index as f64;
        figure.add(format_args!(
            "<rect x=\"{x}\" y=\"{y:.1}\" width=\"14\" height=\"{:.1}\" fill=\"{fill}\"/>",
            step + 0.5
        ));
    }
    figure.add(format_args!("<text x=\"{}\" y=\"{}\">{high:.2}</text>", x + 20.0, top + 10.0));
    figure.add(format_args!("<text x=\"{}\" y=\"{}\">{low:.2}</text>", x + 20.0, top + height));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        let names = vec!["a".into(), "<b>".into(), "c".into()];
        Matrix::new(names, |row, column| match (row, column) {
            (0, 2) | (2, 0) => f64::NAN,
            _ => (row + column) as f64,
        })
    }

    #[test]
    fn a_pixel_per_pair_in_the_order_and_names_are_escaped() {
        let matrix = matrix();
        let map = HeatMap { matrix: &matrix, order: &[2, 1, 0], groups: &[0, 0, 1], title: "T & t" };
        let svg = map.figure().to_svg();
        assert!(svg.contains("T &amp; t") && svg.contains("&lt;b&gt;") && !svg.contains("<b>"));
        assert_eq!(svg.matches("class=\"score\"").count(), 9);
        assert_eq!(map.range(), [1.0, 3.0]);
        let pixels = image::load_from_memory(&map.png()).unwrap().into_rgb8();
        assert_eq!((pixels.width(), pixels.height()), (3, 3));
        assert_eq!(pixels.get_pixel(1, 0).0, colour(1.0), "c and <b> score 3, the most");
        assert_eq!(pixels.get_pixel(2, 0).0, MISSING);
    }

    #[test]
    fn lines_are_where_groups_change() {
        let matrix = matrix();
        let lines = |groups: &[usize]| {
            let svg = HeatMap { matrix: &matrix, order: &[0, 1, 2], groups, title: "" }.figure().to_svg();
            svg.lines().find(|line| line.contains("class=\"lines\"")).unwrap().matches('v').count()
        };
        assert_eq!([lines(&[0, 0, 0]), lines(&[0, 0, 1]), lines(&[0, 1, 2])], [0, 1, 2]);
    }
}
