//! Image files to RGB, as Pillow's `Image.open(path).convert("RGB")` gives it.
//!
//! PNG, JPEG, WebP, GIF, BMP, TIFF and PNM (PPM, PGM, PBM), told apart by their content, not by the file's extension. What Pillow does with other kinds of
//! pixels is done here too: alpha is dropped (not blended), gray is repeated, palettes are looked up, 16-bit colour keeps its
//! high byte, 16-bit gray is clamped to 255, CMYK is converted without a colour profile. EXIF orientation and colour
//! profiles are not applied. Of an animation, the first picture counts.
//!
//! All are exact, but for JPEGs of CMYK or inside of TIFF, which are within a few levels: decoders of JPEG may differ by some levels, which is enough to turn close predictions, so the usual kinds
//! are read by our own ([`jpeg`]) and only the rare ones by the library. A JPEG that ends early is an error, as in Pillow,
//! although decoders can fill the rest with gray.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use thiserror::Error;

use super::{RgbImage, jpeg};
use crate::files::read_regular;

/// The largest image that is decoded, in pixels: the size beyond which Pillow refuses a file as a decompression bomb.
pub const MAX_PIXELS: u64 = 178_956_970;

/// The largest file that is read, in bytes.
pub(crate) const MAX_FILE: u64 = 1 << 30;

/// To decode a picture may take so many bytes of memory, and so many times its file's length besides: what real ones of
/// [`MAX_PIXELS`] take, and what a file of a megabyte may not.
const MEMORY: u64 = 900_000_000;
const TIMES: u64 = 32;
/// A longer side is none of a picture; to resize it would take hundreds of bytes for each of its pixels.
const MAX_SIDE: u32 = 1 << 20;
/// What decoders may allocate for anything but pixels, such as colour profiles.
const BESIDE_PIXELS: u64 = 64 << 20;

/// Why a file gives no image. `name` is the file's path, or what the caller called the bytes.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The file system refused.
    #[error("Cannot read the image `{name}` ({source}); check the path and its permissions.")]
    Read {
        /// The file.
        name: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The content is none of the known formats.
    #[error(
        "`{name}` is not a PNG, JPEG, WebP, GIF, BMP, TIFF or PNM image ({found}); convert it, or remove it from the data."
    )]
    NotAnImage {
        /// The file.
        name: String,
        /// What the content looks like.
        found: &'static str,
    },
    /// The file ends before the image does.
    #[error("`{name}` is a {format} image that ends too early; fetch the file again.")]
    Truncated {
        /// The file.
        name: String,
        /// `PNG`, `JPEG` and so on.
        format: &'static str,
    },
    /// The content breaks its format's rules, or uses a part of it that is not supported.
    #[error("`{name}` is a {format} image that cannot be decoded ({reason}); fetch the file again, or convert it.")]
    Undecodable {
        /// The file.
        name: String,
        /// `PNG`, `JPEG` and so on.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// More than [`MAX_PIXELS`].
    #[error(
        "`{name}` says that it has {width}×{height} pixels, more than the {MAX_PIXELS} that are decoded; scale it down."
    )]
    TooLarge {
        /// The file.
        name: String,
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
}

/// Reads and decodes one file.
///
/// # Errors
/// [`DecodeError`], which names the file.
pub fn decode_file(path: &Path) -> Result<RgbImage, DecodeError> {
    let name = path.display().to_string();
    match read_regular(path, MAX_FILE) {
        Ok(bytes) => decode(&bytes, &name),
        Err(source) => Err(DecodeError::Read { name, source }),
    }
}

/// Decodes a whole file's bytes; `name` is how errors call them.
///
/// # Errors
/// [`DecodeError`], never a panic, whatever the bytes are.
pub fn decode(bytes: &[u8], name: &str) -> Result<RgbImage, DecodeError> {
    let not_an_image = |found| DecodeError::NotAnImage { name: name.to_owned(), found };
    if bytes.is_empty() {
        return Err(not_an_image("it is empty"));
    }
    let (format, format_name) = match image::guess_format(bytes) {
        Ok(format @ ImageFormat::Png) => (format, "PNG"),
        Ok(format @ ImageFormat::Jpeg) => (format, "JPEG"),
        Ok(format @ ImageFormat::WebP) => (format, "WebP"),
        Ok(format @ ImageFormat::Gif) => (format, "GIF"),
        Ok(format @ ImageFormat::Bmp) => (format, "BMP"),
        Ok(format @ ImageFormat::Tiff) => (format, "TIFF"),
        Ok(format @ ImageFormat::Pnm) => (format, "PNM"),
        Ok(_) => return Err(not_an_image("it is an image in another format")),
        Err(_) => return Err(not_an_image("its first bytes are no image's")),
    };
    let complete = match format {
        ImageFormat::Jpeg => jpeg_is_complete(bytes),
        ImageFormat::WebP => webp_is_complete(bytes),
        // Its decoder says so by itself.
        _ => true,
    };
    if !complete {
        return Err(DecodeError::Truncated { name: name.to_owned(), format: format_name });
    }
    if format == ImageFormat::Gif && gif_covers_its_screen(bytes) == Some(false) {
        // Pillow fills the rest with a colour of the palette, the library with none.
        let reason = "its first picture covers a part of the screen only".to_owned();
        return Err(DecodeError::Undecodable { name: name.to_owned(), format: format_name, reason });
    }
    // One hostile file among thousands must not end a run of hours, so a panic of a decoder is that file's error.
    match catch_unwind(AssertUnwindSafe(|| decode_as(bytes, format))) {
        Ok(Ok(image)) => Ok(image),
        Ok(Err(Failure::TooLarge(width, height))) => {
            Err(DecodeError::TooLarge { name: name.to_owned(), width, height })
        }
        Ok(Err(Failure::NoPixels(width, height))) => {
            let reason = format!("it has {width}×{height} pixels");
            Err(DecodeError::Undecodable { name: name.to_owned(), format: format_name, reason })
        }
        Ok(Err(Failure::Memory(width, height))) => {
            let reason =
                format!("its {width}×{height} pixels take more memory than a file of its length should ask for");
            Err(DecodeError::Undecodable { name: name.to_owned(), format: format_name, reason })
        }
        Ok(Err(Failure::Decoder(error))) if ends_early(&error) => {
            Err(DecodeError::Truncated { name: name.to_owned(), format: format_name })
        }
        Ok(Err(Failure::Decoder(error))) => {
            let reason = error.to_string();
            Err(DecodeError::Undecodable { name: name.to_owned(), format: format_name, reason })
        }
        Err(_) => {
            let reason = "its decoder panicked".to_owned();
            Err(DecodeError::Undecodable { name: name.to_owned(), format: format_name, reason })
        }
    }
}

enum Failure {
    NoPixels(u32, u32),
    TooLarge(u32, u32),
    Memory(u32, u32),
    Decoder(image::ImageError),
}

impl From<image::ImageError> for Failure {
    fn from(error: image::ImageError) -> Self {
        Self::Decoder(error)
    }
}

fn decode_as(bytes: &[u8], format: ImageFormat) -> Result<RgbImage, Failure> {
    // What our own decoder refuses, because it is a rare kind or damaged inside, the library may still know how to read.
    if let (ImageFormat::Jpeg, Ok(image)) = (format, jpeg::decode(bytes)) {
        return Ok(RgbImage::new(image.width, image.height, image.rgb));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // A bound for what the decoders allocate besides the pixels; the pixels' own is checked below, before any are decoded.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(BESIDE_PIXELS);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Failure::NoPixels(width, height));
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Failure::TooLarge(width, height));
    }
    let pixels = u64::from(width) * u64::from(height);
    let memory = memory_of(format, decoder.color_type(), pixels);
    if memory > most_memory(bytes.len()) || width.max(height) > MAX_SIDE {
        return Err(Failure::Memory(width, height));
    }
    // The decoder of TIFF counts the pixels, too, of which those of four inks are larger than what they become.
    limits.max_alloc = Some(decoder.total_bytes() / 3 * 4 + BESIDE_PIXELS);
    decoder.set_limits(limits)?;
    let image = DynamicImage::from_decoder(decoder)?;
    Ok(RgbImage::new(width as usize, height as usize, rgb_bytes(image)))
}

/// The memory in bytes that a picture of a file of so many bytes may take.
pub(super) fn most_memory(file: usize) -> u64 {
    MEMORY + TIMES * file as u64
}

/// What the library takes at most to decode so many pixels, and what their conversion to RGB takes.
fn memory_of(format: ImageFormat, color: ColorType, pixels: u64) -> u64 {
    let decoded = pixels * u64::from(color.bytes_per_pixel());
    let beside = match format {
        // Read as a whole, then copied.
        ImageFormat::Tiff | ImageFormat::Pnm => decoded,
        // Coefficients of 16 bits of up to four components, if it is progressive.
        ImageFormat::Jpeg => 8 * pixels,
        ImageFormat::WebP => 4 * pixels,
        _ => 0,
    };
    let converted = if color == ColorType::Rgb8 { 0 } else { 3 * pixels };
    decoded + beside.max(converted)
}

/// Pillow's conversions to RGB.
fn rgb_bytes(image: DynamicImage) -> Vec<u8> {
    match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => image.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]]).collect(),
        DynamicImage::ImageLuma8(image) => image.pixels().flat_map(|p| [p.0[0]; 3]).collect(),
        DynamicImage::ImageLumaA8(image) => image.pixels().flat_map(|p| [p.0[0]; 3]).collect(),
        // Pillow reads 16-bit gray as integers and clamps them; every other 16-bit kind it shortens to the high byte.
        DynamicImage::ImageLuma16(image) => image.pixels().flat_map(|p| [p.0[0].min(255) as u8; 3]).collect(),
        DynamicImage::ImageLumaA16(image) => image.pixels().flat_map(|p| [high_byte(p.0[0]); 3]).collect(),
        DynamicImage::ImageRgb16(image) => image.into_raw().into_iter().map(high_byte).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.pixels().flat_map(|p| [high_byte(p.0[0]), high_byte(p.0[1]), high_byte(p.0[2])]).collect()
        }
        // Of floating-point pixels, which TIFF may have, [0, 1] is meant.
        other => other.into_rgb8().into_raw(),
    }
}

fn high_byte(value: u16) -> u8 {
    (value >> 8) as u8
}

/// Whether a decoder stopped because the bytes did, which some say by an error within an error, or in words.
fn ends_early(error: &image::ImageError) -> bool {
    let chain = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    chain.into_iter().any(|error| {
        let words = ["unexpected end of file", "failed to fill whole buffer", "not enough data"];
        let said = error.to_string().to_lowercase();
        let says_so = words.iter().any(|words| said.contains(words));
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        says_so || kind == Some(std::io::ErrorKind::UnexpectedEof)
    })
}

/// Whether the first picture of a GIF is as large as its screen; none if there is no picture.
fn gif_covers_its_screen(bytes: &[u8]) -> Option<bool> {
    const EXTENSION: u8 = 0x21;
    const PICTURE: u8 = 0x2C;
    // Signature, then the screen's width, height, and a byte that tells the size of the palette.
    let screen = bytes.get(6..10)?;
    let flags = *bytes.get(10)?;
    let palette = if flags & 0x80 == 0 { 0 } else { 3_usize << ((flags & 7) + 1) };
    let mut position = 13 + palette;
    while *bytes.get(position)? == EXTENSION {
        // A label, then blocks that begin with their length, up to an empty one.
        position += 2;
        while *bytes.get(position)? != 0 {
            position += usize::from(bytes[position]) + 1;
        }
        position += 1;
    }
    let descriptor = bytes.get(position..position + 9).filter(|descriptor| descriptor[0] == PICTURE)?;
    Some(descriptor[1..5] == [0; 4] && descriptor[5..9] == *screen)
}

/// Whether a WebP is as long as its header says.
fn webp_is_complete(bytes: &[u8]) -> bool {
    let length = bytes.get(4..).and_then(|rest| rest.first_chunk::<4>());
    length.is_some_and(|length| bytes.len() as u64 >= u64::from(u32::from_le_bytes(*length)) + 8)
}

/// Whether a JPEG's segments lead to an end-of-image marker.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const FILL: u8 = 0xFF;
    let mut rest = &bytes[2..];
    loop {
        // Skips entropy-coded data, and the junk between segments that decoders forgive.
        let Some(start) = rest.iter().position(|&byte| byte == FILL) else {
            return false;
        };
        rest = &rest[start..];
        let Some(marker) = rest.iter().position(|&byte| byte != FILL) else {
            return false;
        };
        let code = rest[marker];
        rest = &rest[marker + 1..];
        match code {
            0xD9 => return true,
            // An escaped FF, and the markers that have no segment.
            0x00 | 0x01 | 0xD0..=0xD8 => {}
            _ => {
                let Some(length) = rest.first_chunk::<2>() else {
                    return false;
                };
                let length = usize::from(u16::from_be_bytes(*length)).max(2);
                let Some(after) = rest.get(length..) else {
                    return false;
                };
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_that_is_no_image_is_named() {
        let error = decode(b"file,label\n", "labels.csv").unwrap_err().to_string();
        assert!(error.starts_with("`labels.csv` is not a PNG, JPEG, WebP, GIF"), "{error}");
        let error = decode(b"", "empty.png").unwrap_err().to_string();
        assert!(error.contains("it is empty"), "{error}");
        let error = decode(b"qoif\x00\x00\x00\x01", "small.qoi").unwrap_err().to_string();
        assert!(error.contains("another format"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = decode_file(Path::new("no/such/image.png")).unwrap_err().to_string();
        assert!(error.contains("`no/such/image.png`"), "{error}");
    }

    #[test]
    fn a_gigantic_header_takes_no_memory() {
        // A JPEG that says 65535×65535 and then nothing but its end.
        let bytes = [
            0xFF, 0xD8, 0xFF, 0xC0, 0, 11, 8, 0xFF, 0xFF, 0xFF, 0xFF, 1, 1, 0x11, 0, 0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63,
            0, 0xFF, 0xD9,
        ];
        let error = decode(&bytes, "bomb.jpg").unwrap_err();
        assert!(matches!(error, DecodeError::TooLarge { width: 65535, height: 65535, .. }), "{error}");
    }

    #[test]
    fn a_small_file_takes_no_more_memory_than_real_ones() {
        // Not more pixels than are decoded, but held twice.
        let error = decode(b"P6 13000 13000 255\n", "small.ppm").unwrap_err().to_string();
        assert!(error.contains("13000×13000 pixels take more memory"), "{error}");
        let error = decode(b"P6 1300 1300 255\n", "small.ppm").unwrap_err();
        assert!(matches!(error, DecodeError::Truncated { .. }), "{error}");
        let error = decode(b"P6 100000000 1 255\n", "long.ppm").unwrap_err().to_string();
        assert!(error.contains("100000000×1 pixels take more memory"), "{error}");
        // The largest that Pillow reads, as cameras and scanners write them.
        assert!(memory_of(ImageFormat::Tiff, ColorType::Rgb8, MAX_PIXELS) <= most_memory(100 << 20));
        assert!(memory_of(ImageFormat::Png, ColorType::Rgba8, MAX_PIXELS) <= most_memory(20 << 20));
    }
}
