//! Images: from files and data sets to pixels, exactly as Pillow and torchvision make them.
//!
//! | part | what it does |
//! |---|---|
//! | [`decode`] | PNG, JPEG, WebP, GIF, BMP, TIFF and PNM files to [`RgbImage`], as Pillow's `Image.open(path).convert("RGB")` |
//! | [`resize`] | Pillow's antialiased bilinear and bicubic resize, bit for bit, and timm's evaluation [`Transform`] |
//! | [`dataset`] | which images there are, and which class each one is: class folders, a folder with a labels file, or a stack |
//! | [`stack`] | images that other programs keep in one file: `.npy`, safetensors, `.pt` |
//! | [`loader`] | batches of decoded and transformed images, made by threads while the network works |
//! | [`save`] | [`RgbImage`] to PNG |
//!
//! This module knows no tensors: images are 8-bit RGB in [`RgbImage`], pixels are `Vec<f32>` in [0, 1], channels first.

pub mod dataset;
pub mod decode;
pub mod idx;
pub(crate) mod jpeg;
pub mod loader;
pub mod resize;
pub mod save;
pub mod stack;

pub use dataset::{Dataset, DatasetError, Sample};
pub(crate) use decode::MAX_FILE;
pub use decode::{DecodeError, decode, decode_file};
pub use loader::{Batch, Loader, LoaderOptions, Skipped, load};
pub use resize::{CropMode, Filter, Transform, resize, resize_f32};
pub use save::{SaveError, encode_png, save_png};
pub(crate) use stack::labels_alone;
pub use stack::{Stack, StackError, StackedImage};

/// An 8-bit RGB image: `data` holds rows from top to bottom, `height × width × 3` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl RgbImage {
    /// Wraps `height × width × 3` bytes.
    ///
    /// # Panics
    /// If a side is 0, or `data` is not `height * width * 3` bytes long.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Self {
        assert!(width > 0 && height > 0, "an image has at least one pixel, this one is {width}×{height}");
        assert_eq!(data.len(), width * height * 3, "an RGB image of {width}×{height} has width × height × 3 bytes");
        Self { width, height, data }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, `[height, width, 3]`, without a copy.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// Pixels in [0, 1] as `[3, height, width]`: each byte divided by 255 in f32, as torchvision's `ToTensor`.
    pub fn to_pixels(&self) -> Vec<f32> {
        let mut pixels = vec![0.0; self.data.len()];
        bytes_to_pixels(&self.data, &mut pixels);
        pixels
    }

    /// The image of pixels in [0, 1], `[3, height, width]`: each value times 255, rounded to the nearest (halves away
    /// from zero) and clamped. `from_pixels(to_pixels(image))` is `image`.
    ///
    /// # Panics
    /// If a side is 0, or `pixels` is not `3 * height * width` long.
    pub fn from_pixels(pixels: &[f32], width: usize, height: usize) -> Self {
        assert_eq!(pixels.len(), 3 * width * height, "pixels of {width}×{height} are 3 × height × width values");
        let plane = width * height;
        let mut data = vec![0; pixels.len()];
        for (index, pixel) in data.chunks_exact_mut(3).enumerate() {
            for (channel, byte) in pixel.iter_mut().enumerate() {
                // `as` saturates, and turns NaN into 0.
                *byte = (pixels[channel * plane + index] * 255.0).round() as u8;
            }
        }
        Self::new(width, height, data)
    }
}

/// One image's bytes `[height, width, 3]` to pixels `[3, height, width]`.
pub(crate) fn bytes_to_pixels(bytes: &[u8], pixels: &mut [f32]) {
    let plane = bytes.len() / 3;
    for (channel, plane) in pixels.chunks_exact_mut(plane).enumerate() {
        for (value, pixel) in plane.iter_mut().zip(bytes.chunks_exact(3)) {
            *value = f32::from(pixel[channel]) / 255.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_channels_first_and_come_back() {
        let image = RgbImage::new(2, 1, vec![0, 128, 255, 1, 2, 3]);
        let pixels = image.to_pixels();
        assert_eq!(pixels, [0.0, 1.0 / 255.0, 128.0 / 255.0, 2.0 / 255.0, 1.0, 3.0 / 255.0]);
        assert_eq!(RgbImage::from_pixels(&pixels, 2, 1), image);
    }

    #[test]
    fn every_byte_survives_the_round_trip() {
        let bytes: Vec<u8> = (0..=255).flat_map(|value| [value; 3]).collect();
        let image = RgbImage::new(16, 16, bytes);
        assert_eq!(RgbImage::from_pixels(&image.to_pixels(), 16, 16), image);
    }

    #[test]
    fn pixels_out_of_range_are_clamped() {
        let image = RgbImage::from_pixels(&[-0.5, 1.5, f32::NAN], 1, 1);
        assert_eq!(image.data(), [0, 255, 0]);
    }
}
