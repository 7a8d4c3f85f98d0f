//! Pillow's antialiased resize, bit for bit, and timm's evaluation transform on top of it.
//!
//! An output pixel is a weighted mean of the input pixels under a kernel whose width grows with the reduction (so that nothing
//! aliases). The horizontal pass usually comes first and is rounded to bytes, then the vertical one; a pass whose size does not
//! change is left out. Weights are made in f64 and, for bytes, rounded to 22-bit fixed point, which is why other libraries differ from
//! Pillow by some levels. Only what the crop keeps is computed.
//!
//! Nothing for bytes uses rayon: the images of a data set are made in parallel by [`super::loader`], whose threads must not wait
//! for a pool that waits for them.

use std::ops::Range;

use rayon::prelude::*;

use super::RgbImage;

/// The interpolation kernel; both are Pillow's, with the support scaled by the reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Triangle, support 1.
    Bilinear,
    /// Keys' cubic with a = −0.5, support 2.
    Bicubic,
}

impl Filter {
    /// timm's and torchvision's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
        }
    }

    /// The filter of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Bilinear, Self::Bicubic].into_iter().find(|filter| filter.name() == name)
    }

    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The kernel at distance `x`; the order of the operations is part of being identical.
    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// What the resized image becomes before it enters the network: timm's `crop_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CropMode {
    /// Keep the aspect ratio, cover the scaled size, crop its centre.
    Center,
    /// Stretch to the scaled size, crop its centre.
    Squash,
    /// Keep the aspect ratio, fit inside the scaled size, fill what is missing with this colour (timm: the weight's mean
    /// times 255).
    Border([u8; 3]),
}

/// timm's `transforms_imagenet_eval`, up to the pixels: resize to `floor(input_size / crop_pct)`, then crop to `input_size`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    /// Height and width of what the network sees, each at least 1.
    pub input_size: (usize, usize),
    /// The crop's share of the scaled size, above 0; usually 0.8 to 1. It must be the configuration's own f64: 0.95 that went
    /// through f32 can scale to another size.
    pub crop_pct: f64,
    /// The kernel.
    pub interpolation: Filter,
    /// How the crop is taken.
    pub crop_mode: CropMode,
}

impl Transform {
    /// The centre crop, which nearly every weight uses.
    pub fn center(input_size: (usize, usize), crop_pct: f64, interpolation: Filter) -> Self {
        Self { input_size, crop_pct, interpolation, crop_mode: CropMode::Center }
    }

    /// The image as the network sees it: `input_size`, 8-bit.
    ///
    /// # Panics
    /// If a side of `input_size` is 0 or `crop_pct` is not above 0.
    pub fn apply(&self, image: &RgbImage) -> RgbImage {
        let (height, width) = self.input_size;
        assert!(height > 0 && width > 0, "the input size has two sides of at least 1, not {height}×{width}");
        let (scaled_width, scaled_height) = self.scaled_size(image.width(), image.height());
        let columns = Crop::center(scaled_width, width);
        let rows = Crop::center(scaled_height, height);
        let resized = resize_window(
            image,
            (scaled_width, scaled_height),
            columns.kept.clone(),
            rows.kept.clone(),
            self.interpolation,
        );
        if columns.before == 0 && rows.before == 0 && resized.width() == width && resized.height() == height {
            return resized;
        }
        let fill = match self.crop_mode {
            CropMode::Border(colour) => colour,
            CropMode::Center | CropMode::Squash => [0; 3],
        };
        let mut canvas = fill.repeat(width * height);
        for (y, row) in resized.data().chunks_exact(resized.width() * 3).enumerate() {
            let start = ((rows.before + y) * width + columns.before) * 3;
            canvas[start..start + row.len()].copy_from_slice(row);
        }
        RgbImage::new(width, height, canvas)
    }

    /// Width and height of a `width × height` image after the resize and before the crop.
    ///
    /// # Panics
    /// If `crop_pct` is not above 0.
    pub fn scaled_size(&self, width: usize, height: usize) -> (usize, usize) {
        assert!(self.crop_pct > 0.0, "crop_pct is above 0, not {}", self.crop_pct);
        let target = |side: usize| ((side as f64 / self.crop_pct).floor() as usize).max(1);
        let (target_height, target_width) = (target(self.input_size.0), target(self.input_size.1));
        let keep_ratio = |ratio: f64| {
            let side = |side: usize| ((side as f64 / ratio).round_ties_even() as usize).max(1);
            (side(width), side(height))
        };
        let ratio_height = height as f64 / target_height as f64;
        let ratio_width = width as f64 / target_width as f64;
        match self.crop_mode {
            CropMode::Squash => (target_width, target_height),
            CropMode::Border(_) => keep_ratio(ratio_height.max(ratio_width)),
            // torchvision's Resize(int) truncates the long side where timm's own resize rounds it.
            CropMode::Center if target_height == target_width => {
                let (short, long) = (width.min(height), width.max(height));
                let scaled = ((target_width * long) as f64 / short as f64) as usize;
                if width <= height { (target_width, scaled) } else { (scaled, target_width) }
            }
            CropMode::Center => keep_ratio(ratio_height.min(ratio_width)),
        }
    }
}

/// One axis of torchvision's `CenterCrop`: which part of the image is kept, and how much fill stands before it.
struct Crop {
    kept: Range<usize>,
    before: usize,
}

impl Crop {
    fn center(size: usize, crop: usize) -> Self {
        if crop > size {
            return Self { kept: 0..size, before: (crop - size) / 2 };
        }
        // Python's round: halves go to the even number.
        let start = ((size - crop) as f64 / 2.0).round_ties_even() as usize;
        Self { kept: start..start + crop, before: 0 }
    }
}

/// Pillow's `Image.resize((width, height), filter)` on RGB, identical in every byte.
///
/// # Panics
/// If a side of `size` is 0.
pub fn resize(image: &RgbImage, size: (usize, usize), filter: Filter) -> RgbImage {
    resize_window(image, size, 0..size.0, 0..size.1, filter)
}

/// The part `columns × rows` of `resize(image, size, filter)`, without computing the rest.
fn resize_window(
    image: &RgbImage,
    size: (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
    filter: Filter,
) -> RgbImage {
    let (width, height) = (columns.len(), rows.len());
    let from = (image.width(), image.height());
    let mut across = Weights::unless_equal(from.0, size.0, columns.clone(), filter);
    let mut down = Weights::unless_equal(from.1, size.1, rows.clone(), filter);
    let columns = across.as_mut().map_or(columns, Weights::start_at_zero);
    let rows = down.as_mut().map_or(rows, Weights::start_at_zero);
    let stride = from.0 * 3;
    let source = Rows {
        data: &image.data()[rows.start * stride + columns.start * 3..rows.end * stride],
        stride,
        bytes: columns.len() * 3,
    };
    let data = match (&across, &down) {
        (None, None) => source.iter().flatten().copied().collect(),
        (Some(across), None) => horizontal(source, across),
        (None, Some(down)) => vertical(source, down),
        (Some(across), Some(down)) if vertical_first(from, size) => {
            horizontal(Rows::packed(&vertical(source, down), source.bytes), across)
        }
        (Some(across), Some(down)) => vertical(Rows::packed(&horizontal(source, across), width * 3), down),
    };
    RgbImage::new(width, height, data)
}

/// Resizes float planes with the same kernels and no rounding to bytes: `planes` is `[count, height, width]` of `from`
/// (height, width), the result that of `to`. Sums are f64 and each pass gives f32, as in Pillow's mode `F`; values
/// may leave [0, 1] with bicubic, by its overshoot.
///
/// # Panics
/// If a side is 0 or `planes` is not a whole number of planes.
pub fn resize_f32(planes: &[f32], from: (usize, usize), to: (usize, usize), filter: Filter) -> Vec<f32> {
    let (input, output) = (from.0 * from.1, to.0 * to.1);
    assert!(input > 0 && output > 0, "planes have two sides of at least 1, not {from:?} and {to:?}");
    assert_eq!(planes.len() % input, 0, "planes of {from:?} are a multiple of {input} values");
    let across = Weights::unless_equal(from.1, to.1, 0..to.1, filter);
    let down = Weights::unless_equal(from.0, to.0, 0..to.0, filter);
    let resize_plane = |plane: &[f32]| match (&across, &down) {
        (None, None) => plane.to_vec(),
        (Some(across), None) => horizontal_f32(plane, from.1, across),
        (None, Some(down)) => vertical_f32(plane, from.1, down),
        (Some(across), Some(down)) if vertical_first((from.1, from.0), (to.1, to.0)) => {
            horizontal_f32(&vertical_f32(plane, from.1, down), from.1, across)
        }
        (Some(across), Some(down)) => vertical_f32(&horizontal_f32(plane, from.1, across), to.1, down),
    };
    let mut resized = vec![0.0; planes.len() / input * output];
    resized
        .par_chunks_exact_mut(output)
        .zip(planes.par_chunks_exact(input))
        .for_each(|(resized, plane)| resized.copy_from_slice(&resize_plane(plane)));
    resized
}

/// Whether Pillow makes the vertical pass first, for (width, height) before and after. Since version 13 it does where the
/// height loses more than twice as many pixels as the width, as in pictures more than twice as tall as wide; before, never.
fn vertical_first(from: (usize, usize), to: (usize, usize)) -> bool {
    let lost = |axis: fn((usize, usize)) -> usize| axis(from) as i64 - axis(to) as i64;
    let (width_lost, height_lost) = (lost(|size| size.0), lost(|size| size.1));
    height_lost > 0 && height_lost > 2 * width_lost
}

/// The fraction's bits of a fixed-point weight: what an i32 has left beside a byte and two bits for overshoot.
const PRECISION: u32 = 32 - 8 - 2;
/// What a sum of fixed-point products begins with, so that shifting it rounds.
const HALF: i32 = 1 << (PRECISION - 1);

/// The weights of one axis, for a window of the outputs.
struct Weights {
    taps: Vec<Tap>,
    exact: Vec<f64>,
    fixed: Vec<i32>,
}

/// Which inputs make one output, and where their weights lie.
struct Tap {
    inputs: Range<usize>,
    weights: Range<usize>,
}

impl Weights {
    fn new(input_size: usize, output_size: usize, window: Range<usize>, filter: Filter) -> Self {
        assert!(output_size > 0, "an image is resized to at least one pixel");
        let scale = input_size as f64 / output_size as f64;
        // Enlarging interpolates with the kernel as it is; reducing widens it.
        let widening = scale.max(1.0);
        let support = filter.support() * widening;
        let narrowing = 1.0 / widening;
        let (mut taps, mut exact) = (Vec::with_capacity(window.len()), Vec::new());
        for output in window {
            let center = (output as f64 + 0.5) * scale;
            // `as usize` truncates, and makes 0 of what lies before the first pixel.
            let first = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(input_size);
            let start = exact.len();
            exact.extend((first..end).map(|input| filter.weight((input as f64 - center + 0.5) * narrowing)));
            let sum = exact[start..].iter().fold(0.0, |sum, weight| sum + weight);
            if sum != 0.0 {
                exact[start..].iter_mut().for_each(|weight| *weight /= sum);
            }
            taps.push(Tap { inputs: first..end, weights: start..exact.len() });
        }
        let fixed = exact.iter().map(|&weight| to_fixed(weight)).collect();
        Self { taps, exact, fixed }
    }

    /// `None` for sizes that are equal: Pillow leaves such a pass out.
    fn unless_equal(input_size: usize, output_size: usize, window: Range<usize>, filter: Filter) -> Option<Self> {
        (input_size != output_size).then(|| Self::new(input_size, output_size, window, filter))
    }

    /// Gives all inputs that the window needs, and counts them from the first of these.
    fn start_at_zero(&mut self) -> Range<usize> {
        let (Some(first), Some(last)) = (self.taps.first(), self.taps.last()) else {
            return 0..0;
        };
        let needed = first.inputs.start..last.inputs.end;
        for tap in &mut self.taps {
            tap.inputs = tap.inputs.start - needed.start..tap.inputs.end - needed.start;
        }
        needed
    }
}

/// Rounds halves away from zero.
fn to_fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

/// RGB rows of `bytes` each, `stride` apart; the last may end where its bytes do.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [u8],
    stride: usize,
    bytes: usize,
}

impl<'a> Rows<'a> {
    fn packed(data: &'a [u8], bytes: usize) -> Self {
        Self { data, stride: bytes, bytes }
    }

    fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        self.data.chunks(self.stride).map(move |row| &row[..self.bytes])
    }
}

/// Every row to the width of `weights`' outputs.
fn horizontal(source: Rows, weights: &Weights) -> Vec<u8> {
    let width = weights.taps.len() * 3;
    let mut output = vec![0; source.iter().len() * width];
    // Four bytes are summed at once, the fourth for nothing: the last pixel needs one byte behind it.
    let mut padded = vec![0; source.bytes + 1];
    for (row, output) in source.iter().zip(output.chunks_exact_mut(width)) {
        padded[..source.bytes].copy_from_slice(row);
        horizontal_row(&padded, weights, output);
    }
    output
}

fn horizontal_row(padded: &[u8], weights: &Weights, output: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { horizontal_row_avx2(padded, weights, output) };
    }
    horizontal_row_anywhere(padded, weights, output);
}

fn horizontal_row_anywhere(padded: &[u8], weights: &Weights, output: &mut [u8]) {
    for (pixel, tap) in output.chunks_exact_mut(3).zip(&weights.taps) {
        let mut inputs = &padded[tap.inputs.start * 3..];
        let mut sums = [HALF; 4];
        for &weight in &weights.fixed[tap.weights.clone()] {
            add_weighted(&mut sums, inputs, weight);
            inputs = &inputs[3..];
        }
        write_bytes(&sums, pixel);
    }
}

/// The same with a pixel's sums in one register; the compiler, left alone, spreads the inputs over registers instead, which
/// takes twice as long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn horizontal_row_avx2(padded: &[u8], weights: &Weights, output: &mut [u8]) {
    use std::arch::x86_64::*;
    for (pixel, tap) in output.chunks_exact_mut(3).zip(&weights.taps) {
        let mut inputs = &padded[tap.inputs.start * 3..];
        let mut sums = _mm_set1_epi32(HALF);
        for &weight in &weights.fixed[tap.weights.clone()] {
            let bytes = *inputs.first_chunk().expect("every weight has its input");
            let lanes = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(i32::from_le_bytes(bytes)));
            sums = _mm_add_epi32(sums, _mm_mullo_epi32(lanes, _mm_set1_epi32(weight)));
            inputs = &inputs[3..];
        }
        // Both packs saturate, which clamps to a byte.
        let words = _mm_packs_epi32(_mm_srai_epi32::<{ PRECISION as i32 }>(sums), sums);
        let bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes();
        pixel.copy_from_slice(&bytes[..3]);
    }
}

/// All rows to as many as `weights` has outputs.
fn vertical(source: Rows, weights: &Weights) -> Vec<u8> {
    let mut output = vec![0; weights.taps.len() * source.bytes];
    for (output, tap) in output.chunks_exact_mut(source.bytes).zip(&weights.taps) {
        let rows = &source.data[tap.inputs.start * source.stride..];
        vertical_row(rows, source.stride, &weights.fixed[tap.weights.clone()], output);
    }
    output
}

fn vertical_row(rows: &[u8], stride: usize, weights: &[i32], output: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn vertical_row_avx2(rows: &[u8], stride: usize, weights: &[i32], output: &mut [u8]) {
            vertical_blocks(rows, stride, weights, output);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { vertical_row_avx2(rows, stride, weights, output) };
        }
    }
    vertical_blocks(rows, stride, weights, output);
}

/// One row from the `rows` under each other, in blocks whose sums stay in registers.
#[inline(always)]
fn vertical_blocks(rows: &[u8], stride: usize, weights: &[i32], output: &mut [u8]) {
    const BLOCK: usize = 32;
    let whole = output.len() / BLOCK * BLOCK;
    vertical_block::<BLOCK>(rows, stride, weights, &mut output[..whole]);
    if whole < output.len() {
        vertical_block::<1>(&rows[whole..], stride, weights, &mut output[whole..]);
    }
}

#[inline(always)]
fn vertical_block<const LANES: usize>(rows: &[u8], stride: usize, weights: &[i32], output: &mut [u8]) {
    for (block, output) in output.chunks_exact_mut(LANES).enumerate() {
        let mut sums = [HALF; LANES];
        for (row, &weight) in weights.iter().enumerate() {
            add_weighted(&mut sums, &rows[row * stride + block * LANES..], weight);
        }
        write_bytes(&sums, output);
    }
}

/// Adds the first `LANES` bytes, weighted.
#[inline(always)]
fn add_weighted<const LANES: usize>(sums: &mut [i32; LANES], bytes: &[u8], weight: i32) {
    let bytes: &[u8; LANES] = bytes.first_chunk().expect("every weight has its input");
    for (sum, &byte) in sums.iter_mut().zip(bytes) {
        *sum += i32::from(byte) * weight;
    }
}

/// Writes as many of the sums as `output` has bytes.
#[inline(always)]
fn write_bytes(sums: &[i32], output: &mut [u8]) {
    for (byte, &sum) in output.iter_mut().zip(sums) {
        *byte = (sum >> PRECISION).clamp(0, 255) as u8;
    }
}

/// One float plane of width `from` to the width of `weights`' outputs.
fn horizontal_f32(plane: &[f32], from: usize, weights: &Weights) -> Vec<f32> {
    let width = weights.taps.len();
    let mut output = vec![0.0; plane.len() / from * width];
    for (row, output) in plane.chunks_exact(from).zip(output.chunks_exact_mut(width)) {
        for (value, tap) in output.iter_mut().zip(&weights.taps) {
            let inputs = row[tap.inputs.clone()].iter().zip(&weights.exact[tap.weights.clone()]);
            *value = inputs.fold(0.0, |sum, (&x, &weight)| sum + f64::from(x) * weight) as f32;
        }
    }
    output
}

/// One float plane of this width to as many rows as `weights` has outputs.
fn vertical_f32(plane: &[f32], width: usize, weights: &Weights) -> Vec<f32> {
    let mut output = vec![0.0; weights.taps.len() * width];
    let mut sums = vec![0.0; width];
    for (output, tap) in output.chunks_exact_mut(width).zip(&weights.taps) {
        sums.fill(0.0);
        for (input, &weight) in tap.inputs.clone().zip(&weights.exact[tap.weights.clone()]) {
            for (sum, &x) in sums.iter_mut().zip(&plane[input * width..][..width]) {
                *sum += f64::from(x) * weight;
            }
        }
        for (value, &sum) in output.iter_mut().zip(&sums) {
            *value = sum as f32;
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(input_size: (usize, usize), crop_pct: f64, crop_mode: CropMode, size: (usize, usize)) -> (usize, usize) {
        Transform { input_size, crop_pct, interpolation: Filter::Bicubic, crop_mode }.scaled_size(size.0, size.1)
    }

    #[test]
    fn the_short_side_is_scaled_and_the_long_one_follows() {
        assert_eq!(scaled((224, 224), 0.875, CropMode::Center, (500, 375)), (341, 256));
        assert_eq!(scaled((224, 224), 0.875, CropMode::Center, (375, 500)), (256, 341));
        assert_eq!(scaled((224, 224), 0.9, CropMode::Center, (300, 300)), (248, 248));
        assert_eq!(scaled((384, 384), 1.0, CropMode::Center, (640, 480)), (512, 384));
        // Not square: rounded, not truncated.
        assert_eq!(scaled((100, 200), 1.0, CropMode::Center, (301, 300)), (200, 199));
        assert_eq!(scaled((384, 384), 1.0, CropMode::Squash, (640, 480)), (384, 384));
        assert_eq!(scaled((384, 384), 1.0, CropMode::Border([0; 3]), (640, 480)), (384, 288));
    }

    #[test]
    fn odd_margins_are_rounded_to_the_even_number() {
        assert_eq!(Crop::center(225, 224).kept, 0..224);
        assert_eq!(Crop::center(227, 224).kept, 2..226);
        let crop = Crop::center(5, 8);
        assert_eq!((crop.kept, crop.before), (0..5, 1));
    }

    #[test]
    fn a_window_is_a_part_of_the_whole() {
        let data = (0..40 * 30 * 3).map(|i| (i * i % 251) as u8).collect();
        let image = RgbImage::new(40, 30, data);
        let whole = resize(&image, (23, 47), Filter::Bicubic);
        let window = resize_window(&image, (23, 47), 5..17, 11..40, Filter::Bicubic);
        for y in 0..29 {
            let row = &whole.data()[((y + 11) * 23 + 5) * 3..][..12 * 3];
            assert_eq!(&window.data()[y * 12 * 3..][..12 * 3], row);
        }
    }

    #[test]
    fn every_processor_gives_the_same_bytes() {
        let row: Vec<u8> = (0..1000 * 3 + 1).map(|i| (i * i % 253) as u8).collect();
        for (filter, size) in [(Filter::Bilinear, 333), (Filter::Bicubic, 1501)] {
            let weights = Weights::new(1000, size, 0..size, filter);
            let (mut here, mut anywhere) = (vec![0; size * 3], vec![0; size * 3]);
            horizontal_row(&row, &weights, &mut here);
            horizontal_row_anywhere(&row, &weights, &mut anywhere);
            assert_eq!(here, anywhere);

            let weights = [-700_000, 5_000_000, 100_000];
            let (mut here, mut anywhere) = (vec![0; 70], vec![0; 70]);
            vertical_row(&row, 70, &weights, &mut here);
            vertical_blocks(&row, 70, &weights, &mut anywhere);
            assert_eq!(here, anywhere);
        }
    }

    #[test]
    fn an_extreme_shape_costs_only_its_crop() {
        let image = RgbImage::new(60_000, 1, vec![7; 180_000]);
        let crop = Transform::center((224, 224), 0.875, Filter::Bicubic).apply(&image);
        assert!(crop.data().iter().all(|&byte| byte == 7));
    }
}
