//! Images that other programs keep in one file: a NumPy `.npy`, safetensors, or what `torch.save` writes.
//!
//! torchattacks, foolbox and AutoAttack give adversarial images as an array `[image, 3, height, width]`, some as
//! `[image, height, width, 3]`: the axis of three is the colours. Numbers are f32, f64 or of half precision in [0, 1], or 8-bit
//! levels. Of several arrays the one under a usual name is taken. Labels come from the file itself, or from another: a table
//! with one label a row, or an array of whole numbers.
//!
//! Opening a file reads every number once, so that what is out of range is said before anything is computed; afterwards images
//! are read one by one, so that the file may be larger than memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use thiserror::Error;

use super::dataset::{number, text_of, wnids};
use super::{Filter, RgbImage, Sample, resize_f32};
use crate::arrays::{Array, ArrayError, ArrayFile};
use crate::files::read_regular;
use crate::npy::Number;

/// The names under which adversarial images are kept, the first of those that are there counts: torchattacks', AutoAttack's, netkin's
/// own and what people write.
const IMAGES: [&str; 13] = [
    "adv_inputs",
    "adv_complete",
    "adversarial",
    "adversarials",
    "adv_images",
    "x_adv",
    "adv",
    "advs",
    "pixels",
    "images",
    "inputs",
    "x",
    "0",
];
/// So many of them, the first, are of adversarial images and nothing else: of two of those nobody knows which one counts.
const ADVERSARIAL: usize = 8;
/// The same of labels.
const LABELS: [&str; 3] = ["labels", "y", "1"];

/// So many images at most are in a file.
const MAX_IMAGES: usize = 10_000_000;
/// The longest side of an image, in pixels.
const MAX_SIDE: usize = 1 << 14;
/// The largest table of labels that is read, in bytes.
const MAX_TABLE: u64 = 1 << 30;
/// Numbers that are looked at at once.
const AT_ONCE: usize = 1 << 18;
/// How far beyond 0 and 1 a pixel may be by rounding; it then counts as 0 or 1.
const BEYOND: f32 = 1e-6;
/// By how much of a level a number may be off and still count as one.
const ROUNDING: f32 = 1e-3;

/// Images of one size in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    file: ArrayFile,
    array: Array,
    channels_last: bool,
    images: usize,
    size: [usize; 2],
    has_levels: bool,
}

/// An image of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackedImage {
    stack: Arc<Stack>,
    index: usize,
}

/// Why a file gives no images or no labels.
#[derive(Debug, Error)]
pub enum StackError {
    /// It cannot be read, or holds no arrays.
    #[error(transparent)]
    Array(#[from] ArrayError),
    /// None of its arrays are images.
    #[error("`{}` holds no images: {reason}.", path.display())]
    NoImages {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A pixel is out of range.
    #[error("Image {image} of `{}` has a pixel of {value}; pixels are from 0 to 1, not normalised, or 8-bit levels saved as uint8.", path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// Which image, from 0.
        image: usize,
        /// The pixel.
        value: f32,
    },
    /// Images of another shape than the network's.
    #[error("The images of `{}` are {} × {} pixels, and the network sees {} × {}: to resize them would stretch them, so resize or crop them as you mean it, or give --input-size.", path.display(), size[0], size[1], wanted[0], wanted[1])]
    Shape {
        /// The file.
        path: PathBuf,
        /// Their height and width.
        size: [usize; 2],
        /// The network's.
        wanted: [usize; 2],
    },
    /// There are no labels, or they are of no use.
    #[error("The labels of `{}` cannot be used: {reason}.", path.display())]
    Labels {
        /// The file of images.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
}

/// Labels in the order of the images, and the line of each where they come from a table.
pub(super) struct Labels {
    pub labels: Vec<usize>,
    pub lines: Option<Vec<u64>>,
}

impl Stack {
    /// Opens a file and looks at every number of its images.
    ///
    /// # Errors
    /// [`StackError`].
    pub fn open(path: &Path) -> Result<Self, StackError> {
        let file = ArrayFile::open(path)?;
        let no_images = |reason: String| StackError::NoImages { path: path.to_owned(), reason };
        let array = images_of(&file).map_err(no_images)?.clone();
        let [images, first, second, last] = axes(&array).expect("images have four axes");
        let (channels_last, size) = match (first == 3, last == 3) {
            (true, false) => (false, [second, last]),
            (false, true) => (true, [first, second]),
            (true, true) => {
                return Err(no_images(format!(
                    "of the shape {:?} both the second and the last axis may be colours; images three pixels wide cannot be told apart so",
                    array.shape
                )));
            }
            (false, false) => {
                return Err(no_images(format!(
                    "of the shape {:?} neither the second nor the last axis is 3, the colours; repeat the one of grey images three times",
                    array.shape
                )));
            }
        };
        if images == 0 || images > MAX_IMAGES || size.iter().any(|&side| side == 0 || side > MAX_SIDE) {
            return Err(no_images(format!(
                "its array has the shape {:?}; there are 1 to {MAX_IMAGES} images of sides of 1 to {MAX_SIDE} pixels",
                array.shape
            )));
        }
        match array.number {
            Number::U8 | Number::F16 | Number::BF16 | Number::F32 | Number::F64 => {}
            other => {
                return Err(no_images(format!(
                    "its numbers are {}; save levels from 0 to 255 as uint8, or pixels from 0 to 1 as float32",
                    other.name()
                )));
            }
        }
        let mut stack = Self { file, array, channels_last, images, size, has_levels: true };
        if stack.array.number != Number::U8 {
            stack.has_levels = stack.check()?;
        }
        Ok(stack)
    }

    /// Looks at every number; whether all are 8-bit levels.
    fn check(&self) -> Result<bool, StackError> {
        let unread = |source| ArrayError::Read { path: self.file.path.clone(), source };
        let mut file = File::open(&self.file.path).map_err(unread)?;
        let (each, all) = (self.numbers_each(), self.images * self.numbers_each());
        let mut has_levels = true;
        for start in (0..all).step_by(AT_ONCE) {
            let count = AT_ONCE.min(all - start);
            let bytes = self.array.read(&mut file, start, count).map_err(unread)?;
            let values = self.array.number.floats(&bytes);
            if let Some(place) = values.iter().position(|&value| !is_pixel(value)) {
                let (path, image) = (self.file.path.clone(), (start + place) / each);
                return Err(StackError::Range { path, image, value: values[place] });
            }
            let is_level = |value: &f32| (value * 255.0 - (value * 255.0).round()).abs() < ROUNDING;
            has_levels &= values.iter().all(is_level);
        }
        Ok(has_levels)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// How many images, at least 1.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Height and width of each in pixels.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Whether all pixels are 8-bit levels, so that nothing is lost where images are kept as such.
    pub fn has_levels(&self) -> bool {
        self.has_levels
    }

    /// Checks that images can be resized for a network without being stretched.
    ///
    /// # Errors
    /// [`StackError::Shape`].
    pub fn check_shape(&self, wanted: [usize; 2]) -> Result<(), StackError> {
        let (size, path) = (self.size, self.file.path.clone());
        match size[0] * wanted[1] == size[1] * wanted[0] {
            true => Ok(()),
            false => Err(StackError::Shape { path, size, wanted }),
        }
    }

    fn numbers_each(&self) -> usize {
        3 * self.size[0] * self.size[1]
    }

    /// Pixels in [0, 1] of some images, one after another, each `[3, height, width]`, as the file has them; of another size, they are
    /// resized as images are for transfer (Pillow's bicubic kernel), without rounding to levels.
    ///
    /// # Errors
    /// If the file has changed since it was opened.
    ///
    /// # Panics
    /// If there are no such images.
    pub fn pixels(&self, indices: &[usize], size: [usize; 2]) -> Result<Vec<f32>, StackError> {
        let one = |&index: &usize| -> Result<Vec<f32>, StackError> {
            let pixels = self.pixels_of(index)?;
            if size == self.size {
                return Ok(pixels);
            }
            let mut pixels = resize_f32(&pixels, self.size.into(), size.into(), Filter::Bicubic);
            pixels.iter_mut().for_each(|pixel| *pixel = pixel.clamp(0.0, 1.0));
            Ok(pixels)
        };
        let images: Vec<Vec<f32>> = indices.par_iter().map(one).collect::<Result<_, StackError>>()?;
        Ok(images.concat())
    }

    fn pixels_of(&self, index: usize) -> Result<Vec<f32>, StackError> {
        assert!(index < self.images, "image {index} of {}", self.images);
        let unread = |source| ArrayError::Read { path: self.file.path.clone(), source };
        let each = self.numbers_each();
        let mut file = File::open(&self.file.path).map_err(unread)?;
        let bytes = self.array.read(&mut file, index * each, each).map_err(unread)?;
        let mut values = self.array.number.floats(&bytes);
        if self.array.number == Number::U8 {
            values.iter_mut().for_each(|value| *value /= 255.0);
        }
        if let Some(&value) = values.iter().find(|&&value| !is_pixel(value)) {
            return Err(StackError::Range { path: self.file.path.clone(), image: index, value });
        }
        values.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
        if !self.channels_last {
            return Ok(values);
        }
        let plane = each / 3;
        Ok((0..each).map(|place| values[place % plane * 3 + place / plane]).collect())
    }

    /// The labels of the images: of `file`, or else the stack's own.
    ///
    /// # Errors
    /// [`StackError::Labels`].
    pub(super) fn labels(&self, file: Option<&Path>) -> Result<Labels, StackError> {
        let labels = match file {
            None => self.own_labels().map(|labels| Labels { labels, lines: None }),
            Some(file) => labels_of(file),
        };
        let path = || self.file.path.clone();
        let labels = labels.map_err(|reason| StackError::Labels { path: path(), reason })?;
        match labels.labels.len() == self.images {
            true => Ok(labels),
            false => {
                let reason = format!("there are {} of them and {} images", labels.labels.len(), self.images);
                Err(StackError::Labels { path: path(), reason })
            }
        }
    }

    fn own_labels(&self) -> Result<Vec<usize>, String> {
        let array = named(&self.file, &LABELS).filter(|array| **array != self.array).ok_or(
            "it holds none under the name labels or y; give --labels FILE, a table with one label a row or an array of whole numbers",
        )?;
        whole(&self.file, array)
    }
}

impl StackedImage {
    /// The image at `index` of a stack.
    pub fn new(stack: Arc<Stack>, index: usize) -> Self {
        Self { stack, index }
    }

    /// The stack that it is of.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.stack
    }

    /// Its position in the stack.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The image, each pixel the nearest 8-bit level.
    ///
    /// # Errors
    /// If the file has changed since it was opened.
    pub fn image(&self) -> Result<RgbImage, StackError> {
        let [height, width] = self.stack.size;
        Ok(RgbImage::from_pixels(&self.stack.pixels_of(self.index)?, width, height))
    }
}

/// Whether a number is a pixel, up to rounding.
fn is_pixel(value: f32) -> bool {
    (-BEYOND..=1.0 + BEYOND).contains(&value)
}

/// The file's array of that name, whatever leads to it; of several names the first counts.
fn named<'f>(file: &'f ArrayFile, names: &[&str]) -> Option<&'f Array> {
    names.iter().find_map(|name| file.arrays.iter().find(|array| is_called(array, name)))
}

/// Whether an array has that name, whatever leads to it.
fn is_called(array: &Array, name: &str) -> bool {
    array.name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case(name))
}

/// The lengths of an array's four axes, if it has four.
fn axes(array: &Array) -> Option<[usize; 4]> {
    array.shape.as_slice().try_into().ok()
}

/// The array of images: the one that has a usual name, or else the only one of four axes.
fn images_of(file: &ArrayFile) -> Result<&Array, String> {
    let like_images: Vec<&Array> = file.arrays.iter().filter(|array| axes(array).is_some()).collect();
    let names = |arrays: Vec<&Array>| -> String {
        let name = |array: &Array| format!("{} {:?}", array.name, array.shape).trim_start().to_owned();
        arrays.into_iter().take(5).map(name).collect::<Vec<_>>().join(", ")
    };
    let is_adversarial = |array: &&Array| IMAGES[..ADVERSARIAL].iter().any(|name| is_called(array, name));
    let adversarial: Vec<&Array> = like_images.iter().copied().filter(is_adversarial).collect();
    if adversarial.len() > 1 {
        return Err(format!(
            "it holds several arrays of adversarial images, {}; save the one that counts in a file of its own",
            names(adversarial)
        ));
    }
    if let Some(array) = named(file, &IMAGES).filter(|array| axes(array).is_some()) {
        return Ok(array);
    }
    match like_images[..] {
        [only] => Ok(only),
        [] if file.arrays.is_empty() => Err("it holds no arrays at all".to_owned()),
        [] => Err(format!(
            "it holds {}, and images have [N, 3, height, width] or [N, height, width, 3]",
            names(file.arrays.iter().collect())
        )),
        _ => Err(format!(
            "it holds several arrays that may be images, {}; save the one that counts under the name adversarial",
            names(like_images)
        )),
    }
}

/// An array of one label for each image.
fn whole(file: &ArrayFile, array: &Array) -> Result<Vec<usize>, String> {
    // A column is as good as a row.
    let axes = array.shape.iter().filter(|&&axis| axis != 1).count();
    let count: usize = array.shape.iter().fold(1, |count, &axis| count.saturating_mul(axis));
    if axes > 1 || count > MAX_IMAGES {
        return Err(format!("their array has the shape {:?}; there is one for each image", array.shape));
    }
    let labels = array.whole(&file.path).map_err(|error| error.to_string())?;
    labels.ok_or_else(|| {
        let kind = array.number.name();
        match not_whole(file, array, count) {
            Some((row, value)) => {
                format!("row {row} (counted from 0) is {value} ({kind}); labels are whole numbers from 0 on")
            }
            None => format!("they are no whole numbers from 0 on, but {kind}"),
        }
    })
}

/// The first number that is no whole one from 0 on, and its row.
fn not_whole(file: &ArrayFile, array: &Array, count: usize) -> Option<(usize, f32)> {
    let bytes = array.read(&mut File::open(&file.path).ok()?, 0, count).ok()?;
    array.number.floats(&bytes).into_iter().enumerate().find(|(_, value)| !(*value >= 0.0 && value.fract() == 0.0))
}

/// The labels that a file holds, whatever images they are of: an array, or a table with a label a row.
///
/// # Errors
/// The reason, which begins with the file.
pub(crate) fn labels_alone(path: &Path) -> Result<Vec<usize>, String> {
    labels_of(path).map(|found| found.labels)
}

/// Labels of a file: an array, or a table.
fn labels_of(path: &Path) -> Result<Labels, String> {
    let place = path.display();
    match ArrayFile::open(path) {
        Ok(file) => {
            let array = match &file.arrays[..] {
                [only] => Some(only),
                _ => named(&file, &LABELS),
            };
            let array = array.ok_or_else(|| format!("{place} holds none under the name labels or y"))?;
            let labels = whole(&file, array).map_err(|reason| format!("{place}: {reason}"))?;
            Ok(Labels { labels, lines: None })
        }
        Err(ArrayError::Format { reason, .. }) => Err(format!("{place}: {reason}")),
        Err(ArrayError::OtherKind { .. }) => {
            let bytes = read_regular(path, MAX_TABLE).map_err(|error| format!("{place} cannot be read ({error})"))?;
            let text = text_of(&bytes).ok_or_else(|| format!("{place} is neither a table nor an array"))?;
            table(&text).map_err(|reason| format!("{place}: {reason}"))
        }
        Err(ArrayError::Read { source, .. }) => Err(format!("{place} cannot be read ({source})")),
    }
}

/// A label a row: of the column `label` or `labels` if the first row names one, else of the only column.
fn table(text: &str) -> Result<Labels, String> {
    let mut builder = csv::ReaderBuilder::new();
    // Of a semicolon or a tab, commas make one column.
    let first = text.lines().next().unwrap_or_default();
    let delimiter = [b';', b'\t'].into_iter().find(|&delimiter| first.contains(char::from(delimiter)));
    builder.has_headers(false).flexible(true).trim(csv::Trim::All).delimiter(delimiter.unwrap_or(b','));
    let mut column = 0;
    let (mut cells, mut lines) = (Vec::new(), Vec::new());
    for (row, record) in builder.from_reader(text.as_bytes()).records().enumerate() {
        let record = record.map_err(|error| error.to_string())?;
        let line = record.position().map_or(0, csv::Position::line);
        let is_name = |cell: &str| ["label", "labels", "y"].iter().any(|name| cell.eq_ignore_ascii_case(name));
        if row == 0 {
            if let Some(named) = record.iter().position(is_name) {
                column = named;
                continue;
            }
            if record.len() != 1 {
                return Err(
                    "its first row names no column label, and there are several; give one label a row".to_owned()
                );
            }
        }
        let cell = record.get(column).ok_or_else(|| format!("line {line} has no label"))?;
        cells.push(cell.to_owned());
        lines.push(line);
    }
    let ids = wnids();
    let is_number = cells.first().is_some_and(|cell| number(cell).is_some());
    let label = |cell: &String| if is_number { number(cell) } else { ids.get(cell.as_str()).copied() };
    let mut labels = Vec::with_capacity(cells.len());
    for (cell, line) in cells.iter().zip(&lines) {
        labels.push(label(cell).ok_or_else(|| {
            format!("line {line} has {cell:?}; labels are all whole numbers from 0, or all ImageNet ids")
        })?);
    }
    Ok(Labels { labels, lines: Some(lines) })
}

/// Pixels of images of one stack, one after another, of that size; see [`Stack::pixels`].
///
/// # Errors
/// If the file has changed since it was opened.
///
/// # Panics
/// If a sample is a file of its own.
pub fn pixels_of(samples: &[Sample], size: [usize; 2]) -> Result<Vec<f32>, StackError> {
    let Some(first) = samples.first() else { return Ok(Vec::new()) };
    let of = |sample: &Sample| sample.stacked.clone().expect("a sample of a stack");
    let indices: Vec<usize> = samples.iter().map(|sample| of(sample).index).collect();
    of(first).stack.pixels(&indices, size)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::tensor::{Dtype, TensorView};

    use super::*;
    use crate::images::Dataset;
    use crate::npy::tests::npy;

    /// The level at a place of scripts/array_fixtures.py.
    fn level(place: usize) -> u8 {
        (place * 37 % 256) as u8
    }

    fn levels() -> Vec<u8> {
        (0..180).map(level).collect()
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/arrays").join(name)
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        }

        fn npy(&self, kind: &str, shape: &str, data: &[u8]) -> PathBuf {
            let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
            self.file("x.npy", &npy(1, &header, data))
        }
    }

    fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        values.into_iter().flat_map(f32::to_le_bytes).collect()
    }

    #[track_caller]
    fn refused<T>(result: Result<T, impl std::error::Error>, parts: &[&str]) {
        let text = result.err().unwrap().to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert!(text.ends_with('.') && !text.contains('\n'), "{text}");
    }

    #[test]
    fn images_of_every_format_are_the_same() {
        let folder = Folder::new();
        let exact = f32s(levels().into_iter().map(|level| f32::from(level) / 255.0));
        let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).unwrap();
        let labels: Vec<u8> = [7i64, 0, 3].into_iter().flat_map(i64::to_le_bytes).collect();
        let tensors = [
            ("clean", view(Dtype::F32, &[3, 3, 4, 5], &exact)),
            ("adversarial", view(Dtype::F32, &[3, 3, 4, 5], &exact)),
            ("y", view(Dtype::I64, &[3, 1], &labels)),
        ];
        let safetensors = safetensors::serialize(tensors, None::<HashMap<String, String>>).unwrap();
        let safetensors = folder.file("x.safetensors", &safetensors);
        // The same with the colours last.
        let turned: Vec<u8> = (0..180).map(|place| level(place / 60 * 60 + place % 3 * 20 + place % 60 / 3)).collect();
        let paths = [
            fixture("bare.pt"),
            fixture("torchattacks.pt"),
            fixture("pair.pt"),
            fixture("turned.pt"),
            safetensors,
            folder.npy("|u1", "(3, 4, 5, 3)", &turned),
        ];
        for path in paths {
            let stack = Stack::open(&path).unwrap();
            assert_eq!((stack.images(), stack.size(), stack.has_levels()), (3, [4, 5], true), "{}", path.display());
            let pixels = stack.pixels(&[2, 0], [4, 5]).unwrap();
            let expected: Vec<f32> = (120..180).chain(0..60).map(|place| f32::from(level(place)) / 255.0).collect();
            assert_eq!(pixels, expected, "{}", path.display());
            let image = StackedImage::new(Arc::new(stack), 1).image().unwrap();
            assert_eq!(image.data()[..3], [level(60), level(80), level(100)]);
            let table = folder.file("labels.csv", b"7\n0\n3\n");
            let data = Dataset::open(&path, Some(&table)).unwrap();
            assert_eq!(data.samples.iter().map(|sample| sample.label).collect::<Vec<_>>(), [7, 0, 3]);
            assert_eq!(data.samples[1].decode().unwrap(), image);
            assert_eq!(data.samples[1].id, "000001");
        }
        for path in ["torchattacks.pt", "pair.pt"] {
            let data = Dataset::open(&fixture(path), None).unwrap();
            assert_eq!(data.samples.iter().map(|sample| sample.label).collect::<Vec<_>>(), [7, 0, 3]);
        }
    }

    #[test]
    fn pixels_between_levels_stay_for_those_who_take_them() {
        let folder = Folder::new();
        let values: Vec<f32> = (0..12).map(|place| place as f32 / 11.0).collect();
        let path = folder.npy("<f4", "(1, 3, 2, 2)", &f32s(values.clone()));
        let stack = Stack::open(&path).unwrap();
        assert!(!stack.has_levels());
        assert_eq!(stack.pixels(&[0], [2, 2]).unwrap(), values);
        let large = stack.pixels(&[0], [4, 4]).unwrap();
        assert_eq!(large.len(), 48);
        assert!(large.iter().all(|value| (0.0..=1.0).contains(value)));
        assert!(stack.check_shape([4, 4]).is_ok());
        refused(stack.check_shape([4, 6]), &["2 × 2", "4 × 6", "stretch"]);
        // What is double precision is the same.
        let wide: Vec<u8> = values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
        let wide = Stack::open(&folder.npy("<f8", "(1, 3, 2, 2)", &wide)).unwrap();
        assert_eq!(wide.pixels(&[0], [2, 2]).unwrap(), values);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let folder = Folder::new();
        let open = |kind: &str, shape: &str, data: &[u8]| Stack::open(&folder.npy(kind, shape, data));
        let with = |value: f32| f32s((0..12).map(|place| if place == 7 { value } else { 0.5 }));
        refused(open("<f4", "(1, 3, 2, 2)", &with(1.5)), &["Image 0", "1.5", "x.npy", "normalised"]);
        refused(open("<f4", "(1, 3, 2, 2)", &with(-0.1)), &["-0.1"]);
        refused(open("<f4", "(1, 3, 2, 2)", &with(1.00001)), &["1.00001"]);
        for (value, pixel) in [(1.0 + f32::EPSILON, 1.0), (1.000_000_5, 1.0), (-1e-7, 0.0)] {
            let stack = open("<f4", "(1, 3, 2, 2)", &with(value)).unwrap();
            assert_eq!(stack.pixels(&[0], [2, 2]).unwrap()[7], pixel, "{value}");
        }
        refused(open("<f4", "(1, 3, 2, 2)", &with(f32::NAN)), &["NaN"]);
        refused(open("<f4", "(2, 3, 1, 2)", &with(2.0)), &["Image 1"]);
        refused(open("<f4", "(1, 3, 1, 3)", &[0; 36]), &["both", "three pixels wide"]);
        refused(open("<f4", "(3, 1, 2, 2)", &[0; 48]), &["neither", "grey"]);
        refused(open("<f4", "(3, 2, 2)", &[0; 48]), &["[3, 2, 2]", "[N, 3, height, width]"]);
        refused(open("<i8", "(1, 3, 2, 2)", &[0; 96]), &["int64", "uint8"]);
        refused(open("<f4", "(0, 3, 2, 2)", &[]), &["1 to 10000000 images"]);
        refused(open("<f4", "(1, 3, 0, 2)", &[]), &["sides"]);
        refused(open("<f4", "(1, 3, 2, 3000000000)", &[0; 48]), &["half written"]);
        refused(open("<f4", "(4611686018427387904, 3, 2, 2)", &[0; 48]), &["half written"]);
        let view = |data| TensorView::new(Dtype::F32, vec![1, 3, 2, 2], data).unwrap();
        let two = [("a", view(&[0; 48])), ("b", view(&[0; 48]))];
        let two = safetensors::serialize(two, None::<HashMap<String, String>>).unwrap();
        refused(Stack::open(&folder.file("two.safetensors", &two)), &["a [1, 3, 2, 2], b [", "adversarial"]);
        let two = [("adversarial", view(&[0; 48])), ("x_adv", view(&[0; 48]))];
        let two = safetensors::serialize(two, None::<HashMap<String, String>>).unwrap();
        let refused_both =
            ["several arrays of adversarial images", "adversarial [1, 3, 2, 2]", "x_adv [", "of its own"];
        refused(Stack::open(&folder.file("both.safetensors", &two)), &refused_both);
        let none: Vec<(&str, TensorView)> = Vec::new();
        let none = safetensors::serialize(none, None::<HashMap<String, String>>).unwrap();
        refused(Stack::open(&folder.file("none.safetensors", &none)), &["no arrays at all"]);
        refused(Stack::open(&folder.file("x.zip", b"PK\x03\x04 and so on")), &["x.zip", "ZIP"]);
    }

    #[test]
    fn labels_of_tables_and_arrays() {
        let folder = Folder::new();
        let stack = Stack::open(&fixture("bare.pt")).unwrap();
        let of = |name: &str, bytes: &[u8]| {
            let path = folder.file(name, bytes);
            stack.labels(Some(&path)).map(|labels| labels.labels)
        };
        for text in [
            "7\n0\n3",
            "label\n7\n0\n3\n",
            "file,Label\r\na.png,7\r\nb.png,0\r\nc.png,3\r\n",
            "id;label\n0;7\n1;0\n2;3.0\n",
        ] {
            assert_eq!(of("x.csv", text.as_bytes()).unwrap(), [7, 0, 3], "{text:?}");
        }
        assert_eq!(of("x.csv", b"n01440764\nn01443537\nn01440764\n").unwrap(), [0, 1, 0]);
        let header = "{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }\n";
        let numbers: Vec<u8> = [7i32, 0, 3].into_iter().flat_map(i32::to_le_bytes).collect();
        assert_eq!(of("y.npy", &npy(1, header, &numbers)).unwrap(), [7, 0, 3]);
        assert_eq!(stack.labels(Some(&fixture("torchattacks.pt"))).unwrap().labels, [7, 0, 3]);

        refused(stack.labels(None), &["bare.pt", "--labels"]);
        refused(of("x.csv", b"7\n0\n"), &["2 of them and 3 images"]);
        refused(of("x.csv", b"7\ncat\n3\n"), &["line 2", "cat"]);
        refused(of("x.csv", b"7\n-1\n3\n"), &["line 2", "-1"]);
        refused(of("x.csv", b"a.png,7\nb.png,0\nc.png,3\n"), &["no column label"]);
        let negative: Vec<u8> = [7i32, -1, 3].into_iter().flat_map(i32::to_le_bytes).collect();
        refused(of("y.npy", &npy(1, header, &negative)), &["y.npy", "whole numbers"]);
        let wide = "{'descr': '<i4', 'fortran_order': False, 'shape': (3, 2), }\n";
        refused(of("y.npy", &npy(1, wide, &[0; 24])), &["[3, 2]"]);
        refused(of("x.csv", b"\xff\xfe\xff"), &["neither a table nor an array"]);
        refused(stack.labels(Some(Path::new("/nonexistent/y.npy"))), &["/nonexistent/y.npy"]);
    }

    /// Numbers that change after a file was opened are no images.
    #[test]
    fn a_file_that_changes_is_noticed() {
        let folder = Folder::new();
        let path = folder.npy("<f4", "(1, 3, 2, 2)", &f32s([0.5; 12]));
        let stack = Stack::open(&path).unwrap();
        folder.npy("<f4", "(1, 3, 2, 2)", &f32s([7.0; 12]));
        refused(stack.pixels(&[0], [2, 2]), &["Image 0", "7"]);
        folder.npy("<f4", "(1, 3, 2, 2)", &f32s([0.5; 3]));
        refused(stack.pixels(&[0], [2, 2]), &["x.npy"]);
    }
}
