//! A matrix of scores as a coloured square.

use std::fmt::Write;

use crate::similarity::Matrix;

/// A heat map of a [`Matrix`], names on both sides, the score in each cell.
#[derive(Debug, Clone)]
pub struct HeatMap<'a> {
    /// What is shown.
    pub matrix: &'a Matrix,
    /// A group for each row, such as its family; a line is drawn where it changes.
    pub groups: &'a [String],
    /// Above the map.
    pub title: &'a str,
}

/// Side of a cell in pixels.
const CELL: usize = 46;
/// Width of a letter of the names, about.
const LETTER: usize = 7;
/// From low to high: light yellow, orange, red, dark purple. Brightness falls evenly, so it prints in grey and can be read
/// by those who do not see the colours.
const COLOURS: [[f64; 3]; 4] = [[255.0, 247.0, 206.0], [252.0, 166.0, 84.0], [199.0, 51.0, 87.0], [59.0, 15.0, 99.0]];

impl HeatMap<'_> {
    /// The figure as an SVG document.
    pub fn to_svg(&self) -> String {
        let names = &self.matrix.names;
        let count = names.len();
        let margin = 16 + LETTER * names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let (left, top) = (margin, margin + 30);
        let side = CELL * count;
        let (width, height) = (left + side + 90, top + side + 20);
        let (low, high) = range(&self.matrix.values);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\">\n<title>{title}</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"16\" y=\"20\" font-size=\"15\" font-weight=\"600\">{title}</text>\n",
            title = escape(self.title),
        );
        for (index, name) in names.iter().enumerate() {
            let centre = CELL * index + CELL / 2;
            let name = escape(name);
            push(
                &mut svg,
                format_args!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>", left - 8, top + centre + 4),
            );
            let (x, y) = (left + centre + 4, top - 8);
            push(&mut svg, format_args!("<text transform=\"translate({x} {y}) rotate(-90)\">{name}</text>"));
        }
        for row in 0..count {
            for column in 0..count {
                self.cell(&mut svg, [left, top], [row, column], [low, high]);
            }
        }
        for index in 1..count {
            if self.groups.get(index) != self.groups.get(index - 1) {
                let (x, y) = (left + CELL * index, top + CELL * index);
                push(
                    &mut svg,
                    format_args!(
                        "<path d=\"M{x} {top}v{side}M{left} {y}h{side}\" stroke=\"white\" stroke-width=\"3\"/>"
                    ),
                );
            }
        }
        legend(&mut svg, left + side + 20, top, side.min(200), [low, high]);
        svg.push_str("</svg>\n");
        svg
    }

    fn cell(&self, svg: &mut String, [left, top]: [usize; 2], [row, column]: [usize; 2], [low, high]: [f64; 2]) {
        let score = self.matrix.get(row, column);
        let (x, y) = (left + CELL * column, top + CELL * row);
        let names = &self.matrix.names;
        let pair = format!("{} – {}", escape(&names[row]), escape(&names[column]));
        if score.is_nan() {
            push(
                svg,
                format_args!(
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"#ddd\"><title>{pair}: no score</title></rect>"
                ),
            );
            return;
        }
        let share = if high > low { (score - low) / (high - low) } else { 0.5 };
        let ink = if share > 0.45 { "white" } else { "black" };
        push(
            svg,
            format_args!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"{}\"><title>{pair}: {score:.3}</title></rect>",
                colour(share)
            ),
        );
        push(
            svg,
            format_args!(
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{ink}\" pointer-events=\"none\">{score:.2}</text>",
                x + CELL / 2,
                y + CELL / 2 + 4
            ),
        );
    }
}

/// A page of its own that shows the heat map, then `text` as it is.
pub fn page(map: &HeatMap, text: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>body{{font-family:system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}svg{{max-width:100%;height:auto}}</style>\n\
         {svg}<pre>{text}</pre>\n</html>\n",
        title = escape(map.title),
        svg = map.to_svg(),
        text = escape(text),
    )
}

fn legend(svg: &mut String, x: usize, top: usize, height: usize, [low, high]: [f64; 2]) {
    const STEPS: usize = 40;
    for step in 0..STEPS {
        let y = top as f64 + (height * step) as f64 / STEPS as f64;
        let fill = colour(1.0 - (step as f64 + 0.5) / STEPS as f64);
        let tall = height as f64 / STEPS as f64 + 0.5;
        push(svg, format_args!("<rect x=\"{x}\" y=\"{y:.1}\" width=\"14\" height=\"{tall:.1}\" fill=\"{fill}\"/>"));
    }
    push(svg, format_args!("<text x=\"{}\" y=\"{}\">{high:.2}</text>", x + 20, top + 10));
    push(svg, format_args!("<text x=\"{}\" y=\"{}\">{low:.2}</text>", x + 20, top + height));
}

fn push(svg: &mut String, line: std::fmt::Arguments) {
    writeln!(svg, "{line}").expect("a string takes every line");
}

/// The smallest and the largest score; (0, 0) without any.
fn range(values: &[f64]) -> (f64, f64) {
    let scores = values.iter().copied().filter(|score| !score.is_nan());
    let low = scores.clone().fold(f64::INFINITY, f64::min);
    let high = scores.fold(f64::NEG_INFINITY, f64::max);
    if low <= high { (low, high) } else { (0.0, 0.0) }
}

/// The colour at `share` ∈ [0, 1] of the scale.
fn colour(share: f64) -> String {
    let place = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let index = (place as usize).min(COLOURS.len() - 2);
    let between = place - index as f64;
    let [red, green, blue] = std::array::from_fn(|channel| {
        let (from, to) = (COLOURS[index][channel], COLOURS[index + 1][channel]);
        (from + between * (to - from)).round() as u8
    });
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
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
    fn a_cell_per_pair_and_names_are_escaped() {
        let groups = ["x".into(), "x".into(), "y".into()];
        let map = HeatMap { matrix: &matrix(), groups: &groups, title: "T & t" };
        let svg = map.to_svg();
        assert_eq!(svg.matches("<title>").count(), 10, "one per cell and the figure's");
        assert!(svg.contains("T &amp; t") && svg.contains("&lt;b&gt;") && !svg.contains("<b>"));
        assert!(svg.contains("no score"));
        assert_eq!(svg.matches("<path").count(), 1, "one change of group");
        assert!(page(&map, "1 < 2").contains("1 &lt; 2"));
    }

    #[test]
    fn colours_run_from_end_to_end() {
        assert_eq!(colour(0.0), "#fff7ce");
        assert_eq!(colour(1.0), "#3b0f63");
        assert_eq!(colour(f64::NAN.max(2.0)), "#3b0f63");
    }
}
