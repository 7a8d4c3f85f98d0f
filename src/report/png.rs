//! Figures as PNG, drawn by resvg.

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::fontdb::Family;
use resvg::usvg::{Options, Tree};

use super::figure::Figure;

/// Pixels of the file for each pixel of the figure, so that it is sharp in print.
const SCALE: f32 = 2.0;
/// Pixels of the largest file; each takes four bytes of memory.
const MOST_PIXELS: u64 = 1 << 28;
/// Fonts in the order of preference, where the system has no sans serif of its own choice.
const FONTS: [&str; 4] = ["DejaVu Sans", "Noto Sans", "Liberation Sans", "Arial"];

/// Why there is no PNG.
#[derive(Debug, thiserror::Error)]
pub enum PngError {
    /// Names cannot be written.
    #[error("this machine has no fonts to write names with; install one (Debian: fonts-dejavu-core), or take SVG")]
    NoFonts,
    /// The figure cannot be drawn.
    #[error("the figure {title:?} cannot be drawn as PNG ({reason}); take SVG")]
    Figure {
        /// Its title.
        title: String,
        /// What is wrong.
        reason: String,
    },
}

/// Draws figures with the fonts of this machine.
#[derive(Debug)]
pub struct Painter {
    options: Options<'static>,
}

impl Painter {
    /// Finds the fonts.
    ///
    /// # Errors
    /// If there are none.
    pub fn new() -> Result<Self, PngError> {
        let mut options = Options::default();
        let fonts = options.fontdb_mut();
        fonts.load_system_fonts();
        let families: Vec<String> =
            fonts.faces().flat_map(|face| face.families.iter().map(|(family, _)| family.clone())).collect();
        let has = |family: &str| families.iter().any(|other| other == family);
        if !has(fonts.family_name(&Family::SansSerif)) {
            let preferred = FONTS.into_iter().find(|family| has(family)).map(String::from);
            let family = preferred.or_else(|| families.first().cloned()).ok_or(PngError::NoFonts)?;
            fonts.set_sans_serif_family(family);
        }
        Ok(Self { options })
    }

    /// A figure as the bytes of a PNG file, twice as large in each direction.
    ///
    /// # Errors
    /// If it is too large.
    pub fn paint(&self, figure: &Figure) -> Result<Vec<u8>, PngError> {
        let failed = |reason: String| PngError::Figure { title: figure.title.clone(), reason };
        let tree = Tree::from_str(&figure.to_svg(), &self.options).map_err(|error| failed(error.to_string()))?;
        let size = tree.size();
        let [width, height] = [size.width(), size.height()].map(|side| (SCALE * side).ceil() as u32);
        let picture =
            (u64::from(width) * u64::from(height) <= MOST_PIXELS).then(|| Pixmap::new(width, height)).flatten();
        let mut picture = picture.ok_or_else(|| failed(format!("it has {width} × {height} pixels")))?;
        resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut picture.as_mut());
        picture.encode_png().map_err(|error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A black bar on white; fonts are another matter.
    #[test]
    fn a_figure_is_drawn_twice_as_large_on_white() {
        let painter = Painter { options: Options::default() };
        let mut figure = Figure::new("bar", 20.0, 10.0);
        figure.add(format_args!("<rect x=\"5\" y=\"0\" width=\"10\" height=\"10\" fill=\"black\"/>"));
        let drawn = image::load_from_memory(&painter.paint(&figure).unwrap()).unwrap().into_rgb8();
        assert_eq!((drawn.width(), drawn.height()), (40, 20));
        let at = |x: u32| drawn.get_pixel(x, 10).0;
        assert_eq!([at(5), at(20), at(35)], [[255; 3], [0; 3], [255; 3]]);
        let endless = Figure::new("endless", 1e7, 1e7);
        assert!(painter.paint(&endless).unwrap_err().to_string().contains("take SVG"));
    }
}
