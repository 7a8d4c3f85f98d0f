//! What all figures share: SVG around them, colours, escaped text.

use std::fmt::Write;

/// A drawing in SVG, without the document around it. Text and lines have the colour of the text around the figure.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What is shown, for those who cannot see it.
    pub title: String,
    /// In pixels.
    pub width: f64,
    /// In pixels.
    pub height: f64,
    /// Elements, one a line.
    pub body: String,
}

impl Figure {
    /// An empty drawing.
    pub fn new(title: impl Into<String>, width: f64, height: f64) -> Self {
        Self { title: title.into(), width, height, body: String::new() }
    }

    /// Adds an element.
    pub fn add(&mut self, element: std::fmt::Arguments) {
        writeln!(self.body, "{element}").expect("a string takes every line");
    }

    /// A file of its own, on white.
    pub fn to_svg(&self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" {} color=\"#1b1b1f\">\n<title>{}</title>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
            self.frame(),
            escape(&self.title),
            self.body
        )
    }

    /// An element of a page, found there by its name.
    pub fn to_html(&self, id: &str) -> String {
        format!("<svg id=\"{id}\" {} aria-label=\"{}\">\n{}</svg>\n", self.frame(), escape(&self.title), self.body)
    }

    fn frame(&self) -> String {
        let (width, height) = (self.width.ceil(), self.height.ceil());
        format!(
            "viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
             font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"currentColor\""
        )
    }
}

/// From low to high: light yellow, orange, red, dark purple. Brightness falls evenly, so it prints in grey and can be read
/// by those who do not see the colours.
const SCALE: [[f64; 3]; 4] = [[255.0, 247.0, 206.0], [252.0, 166.0, 84.0], [199.0, 51.0, 87.0], [59.0, 15.0, 99.0]];

/// The colour at `share` ∈ [0, 1] of the scale: red, green, blue.
pub fn colour(share: f64) -> [u8; 3] {
    let place = share.clamp(0.0, 1.0) * (SCALE.len() - 1) as f64;
    let index = (place as usize).min(SCALE.len() - 2);
    let between = place - index as f64;
    std::array::from_fn(|channel| {
        let (from, to) = (SCALE[index][channel], SCALE[index + 1][channel]);
        (from + between * (to - from)).round() as u8
    })
}

/// As SVG writes it.
pub fn hexadecimal([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// Colours for groups, to be seen on white and on black.
pub const GROUP_COLOURS: [&str; 10] =
    ["#3b7dd8", "#e07b1a", "#2e9e5b", "#d6453d", "#8e63ce", "#a8754f", "#d863a8", "#7c8087", "#9a9a1f", "#14a5b5"];

/// Shapes for groups, about the origin, so that groups are told apart without colours, too.
pub const GROUP_SHAPES: [&str; 4] =
    ["M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "M-4.5-4.5h9v9h-9z", "M0-5.5L5.5 4.5h-11z", "M0-6L6 0 0 6-6 0z"];

/// The colour and the shape of a group by its number.
pub fn group_mark(group: usize) -> (&'static str, &'static str) {
    (GROUP_COLOURS[group % GROUP_COLOURS.len()], GROUP_SHAPES[group % GROUP_SHAPES.len()])
}

/// Text as HTML and SVG take it.
pub fn escape(text: &str) -> String {
    // What XML does not allow, and what turns the direction of all that follows.
    let is_odd = |letter: char| {
        letter.is_control() && !matches!(letter, '\t' | '\n' | '\r')
            || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let text: String =
        text.chars().map(|letter| if is_odd(letter) { char::REPLACEMENT_CHARACTER } else { letter }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// How wide a text is, in pixels at that size: about, since fonts differ.
pub fn width_of(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.58
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_run_from_end_to_end() {
        assert_eq!(hexadecimal(colour(0.0)), "#fff7ce");
        assert_eq!(hexadecimal(colour(1.0)), "#3b0f63");
        assert_eq!(hexadecimal(colour(f64::NAN.max(2.0))), "#3b0f63");
    }

    #[test]
    fn what_xml_does_not_allow_is_replaced() {
        assert_eq!(escape("a\u{1b}b\0c\u{202e}d\ne"), "a\u{fffd}b\u{fffd}c\u{fffd}d\ne");
    }

    #[test]
    fn titles_are_escaped() {
        let figure = Figure::new("<a> & \"b\"", 10.0, 10.0);
        assert!(figure.to_svg().contains("&lt;a&gt; &amp; &quot;b&quot;") && !figure.to_html("x").contains("<a>"));
    }
}
