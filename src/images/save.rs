//! [`RgbImage`] to PNG: 8-bit RGB, no metadata, and the same bytes for the same image every time.

use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use thiserror::Error;

use super::RgbImage;

/// Why an image was not written.
#[derive(Debug, Error)]
#[error("Cannot write the image `{}` ({source}); check that its folder is there, writable, and not full.", path.display())]
pub struct SaveError {
    /// The file that was to be written.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: std::io::Error,
}

/// The image as the bytes of a PNG file.
pub fn encode_png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (width, height) = (image.width() as u32, image.height() as u32);
    // Both settings are named so that a change of the encoder's defaults changes no stored bytes.
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive)
        .write_image(image.data(), width, height, ExtendedColorType::Rgb8)
        .expect("writing PNG into memory does not fail");
    bytes
}

/// Writes the image to `path` as PNG; an existing file is replaced.
///
/// # Errors
/// [`SaveError`] when the file cannot be written.
pub fn save_png(path: &Path, image: &RgbImage) -> Result<(), SaveError> {
    std::fs::write(path, encode_png(image)).map_err(|source| SaveError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{decode, decode_file};

    fn gradient() -> RgbImage {
        RgbImage::new(31, 17, (0..31 * 17 * 3).map(|i| (i * 7 % 256) as u8).collect())
    }

    #[test]
    fn what_is_saved_is_what_is_read() {
        let image = gradient();
        assert_eq!(decode(&encode_png(&image), "memory").unwrap(), image);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.png");
        save_png(&path, &image).unwrap();
        assert_eq!(decode_file(&path).unwrap(), image);
        assert_eq!(std::fs::read(&path).unwrap(), encode_png(&image));
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("image.png");
        let error = save_png(&path, &gradient()).unwrap_err().to_string();
        assert!(error.contains("missing/image.png"), "{error}");
    }
}
