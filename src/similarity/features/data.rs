//! Features: a row of numbers for each image.

use std::borrow::Cow;
use std::ops::{Add, AddAssign, Mul, Range, Sub};

use burn::tensor::{DType, Device, Tensor, TensorData};
use faer::linalg::matmul::matmul;
use faer::traits::ComplexField;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::{FeatureError, bytes_of, check_room};
use crate::device::is_cpu;
use crate::memory;

/// Numbers in the format in which products of them are computed; sums of such products are in f64 either way.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 32 bits, about 7 digits.
    F32(Vec<f32>),
    /// 64 bits, about 16 digits.
    F64(Vec<f64>),
}

/// Such numbers, held elsewhere.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    /// 32 bits.
    F32(&'a [f32]),
    /// 64 bits.
    F64(&'a [f64]),
}

impl Values {
    /// All of them.
    pub fn numbers(&self) -> Numbers<'_> {
        match self {
            Self::F32(values) => Numbers::F32(values),
            Self::F64(values) => Numbers::F64(values),
        }
    }

    /// How many numbers.
    pub fn len(&self) -> usize {
        self.numbers().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number at a place.
    pub fn get(&self, index: usize) -> f64 {
        self.numbers().get(index)
    }

    /// The same in 64 bits, if there is room for that.
    fn widened(self, available: Option<u64>) -> Self {
        match self {
            Self::F32(values) if available.is_none_or(|bytes| bytes_of(values.len(), 1, size_of::<f64>()) <= bytes) => {
                Self::F64(values.into_iter().map(f64::from).collect())
            }
            other => other,
        }
    }
}

impl Numbers<'_> {
    /// How many.
    pub fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The number at a place.
    pub fn get(self, index: usize) -> f64 {
        match self {
            Self::F32(values) => values[index].into(),
            Self::F64(values) => values[index],
        }
    }

    /// What is said of features `[image, feature]` that are not all finite, or too large.
    pub(super) fn not_finite(self, name: &str, width: usize) -> FeatureError {
        let name = name.to_owned();
        match (0..self.len()).find(|&at| !self.get(at).is_finite()) {
            Some(at) => FeatureError::NotFinite { name, image: at / width, feature: at % width, value: self.get(at) },
            None => FeatureError::TooLarge { name },
        }
    }
}

/// What a network, or anything else, makes of some images: a row of numbers for each, `[image, feature]`.
///
/// The rows are moved so that their mean is 0, which keeps digits, and scaled by a power of two so that their squares are
/// about 1, which keeps squares within f32. No measure here sees either. Where few images lie far away from all others, the mean
/// lies far away from all, and takes their digits: then rows are moved by their medians, and held in 64 bits where memory allows.
#[derive(Debug, Clone)]
pub struct Features {
    name: String,
    pub(super) values: Values,
    images: usize,
    width: usize,
    /// The squared length of each row.
    pub(super) squares: Vec<f64>,
    /// Whether images lie so far away from most others that rows are moved by their medians instead of their mean.
    pub(super) has_far: bool,
    /// The values where they are multiplied, if that is not the CPU.
    pub(super) on_device: Option<Tensor<2>>,
}

impl Features {
    /// Takes the features of `images` images, row by row. `name` is what messages call them.
    ///
    /// # Errors
    /// [`FeatureError::Empty`], [`FeatureError::NotFinite`], or [`FeatureError::Rounded`] where images lie so far away that the squares of
    /// the others are nothing beside theirs.
    ///
    /// # Panics
    /// If the numbers are not as many for each image.
    pub fn new(name: impl Into<String>, mut values: Values, images: usize) -> Result<Self, FeatureError> {
        let name = name.into();
        let width = values.len().checked_div(images).unwrap_or(0);
        if width == 0 {
            return Err(FeatureError::Empty { name, images, width });
        }
        assert_eq!(values.len(), images * width, "every image has as many features");
        let farthest = match &values {
            Values::F32(values) => farthest(values, width),
            Values::F64(values) => farthest(values, width),
        };
        let has_far = farthest > FAR;
        if has_far {
            values = values.widened(memory::available());
        }
        let squares = match &mut values {
            Values::F32(values) => standardise(values, width, has_far),
            Values::F64(values) => standardise(values, width, has_far),
        };
        let Some(squares) = squares else {
            return Err(values.numbers().not_finite(&name, width));
        };
        let too_far = if matches!(values, Values::F32(_)) { TOO_FAR_OF_F32 } else { TOO_FAR };
        if farthest > too_far {
            return Err(FeatureError::Rounded { name });
        }
        Ok(Self { name, values, images, width, squares, has_far, on_device: None })
    }

    /// The same with mean 0, in 64 bits where they are not moved so.
    ///
    /// # Errors
    /// [`FeatureError::Memory`].
    pub(super) fn with_mean_0(&self) -> Result<Cow<'_, Self>, FeatureError> {
        if !self.has_far {
            return Ok(Cow::Borrowed(self));
        }
        let what = format!("the features of {} in 64 bits", self.name);
        let bytes = bytes_of(self.images, self.width, size_of::<f64>());
        check_room(what, bytes, memory::available(), "take fewer images (--limit)")?;
        let mut values: Vec<f64> = (0..self.values.len()).map(|at| self.values.get(at)).collect();
        let Some(squares) = standardise(&mut values, self.width, false) else {
            return Err(self.values.numbers().not_finite(&self.name, self.width));
        };
        let values = Values::F64(values);
        Ok(Cow::Owned(Self { values, squares, has_far: false, name: self.name.clone(), on_device: None, ..*self }))
    }

    /// The labels of images as features: 1 where a class is the image's, else 0.
    ///
    /// # Errors
    /// [`FeatureError::Empty`] or [`FeatureError::Memory`].
    pub fn one_hot(name: impl Into<String>, labels: &[usize]) -> Result<Self, FeatureError> {
        let mut classes = labels.to_vec();
        classes.sort_unstable();
        classes.dedup();
        let advice = "take fewer images (--limit) or fewer classes";
        let bytes = bytes_of(labels.len(), classes.len(), size_of::<f64>());
        check_room("a number for each class of each image", bytes, memory::available(), advice)?;
        let mut values = vec![0.0; labels.len() * classes.len()];
        for (row, label) in values.chunks_exact_mut(classes.len().max(1)).zip(labels) {
            row[classes.binary_search(label).expect("every label is among the classes")] = 1.0;
        }
        Self::new(name, Values::F64(values), labels.len())
    }

    /// The same features, whose products are computed on a device; 64-bit numbers, which few GPUs multiply fast, stay on the CPU.
    pub fn on(self, device: &Device) -> Self {
        if is_cpu(device) { self } else { self.multiplied_on(device) }
    }

    /// As [`Self::on`], with any device.
    pub(super) fn multiplied_on(mut self, device: &Device) -> Self {
        if let Values::F32(values) = &self.values {
            let data = TensorData::new(values.clone(), [self.images, self.width]);
            self.on_device = Some(Tensor::from_data(data, (device, DType::F32)));
        }
        self
    }

    /// What messages call them.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many images.
    pub fn images(&self) -> usize {
        self.images
    }

    /// What a number is rounded by, beside 1.
    pub(super) fn unit(&self) -> f64 {
        match self.values {
            Values::F32(_) => f32::UNIT,
            Values::F64(_) => f64::UNIT,
        }
    }

    /// How many features an image has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The features of some images, row by row.
    pub(super) fn numbers(&self, images: Range<usize>) -> Numbers<'_> {
        let places = images.start * self.width..images.end * self.width;
        match &self.values {
            Values::F32(values) => Numbers::F32(&values[places]),
            Values::F64(values) => Numbers::F64(&values[places]),
        }
    }

    /// These images alone.
    pub(super) fn of_images(&self, kept: &[usize]) -> Self {
        let values = match &self.values {
            Values::F32(values) => Values::F32(rows(values, self.width, kept)),
            Values::F64(values) => Values::F64(rows(values, self.width, kept)),
        };
        let squares = kept.iter().map(|&image| self.squares[image]).collect();
        Self { name: self.name.clone(), values, images: kept.len(), squares, on_device: None, ..*self }
    }
}

fn rows<T: Copy>(values: &[T], width: usize, kept: &[usize]) -> Vec<T> {
    kept.iter().flat_map(|row| &values[row * width..][..width]).copied().collect()
}

/// A format in which products are computed.
pub(super) trait Element:
    ComplexField + Copy + Send + Sync + Add<Output = Self> + AddAssign + Sub<Output = Self> + Mul<Output = Self>
{
    const ZERO: Self;
    const ONE: Self;
    /// Squared distances below this share of the two rows' squares are too much rounded by the difference of products.
    const NEAR: f64;
    /// What a number is rounded by, beside 1.
    const UNIT: f64;
    fn widen(self) -> f64;
    fn narrow(value: f64) -> Self;

    /// The inner products of rows of so many features with each other over a stretch of them, each moved to mean 0: a square.
    fn centred_products(values: &[Self], width: usize, stretch: Range<usize>) -> Vec<Self> {
        let (count, length) = (values.len() / width, stretch.len());
        let first = &values[stretch.clone()];
        let rows = || values.chunks_exact(width).map(|row| &row[stretch.clone()]);
        // From the first row, so that a constant has no rounding. The mean itself may be rounded: nothing sees where features are
        // moved.
        let mut means = vec![Self::ZERO; length];
        for row in rows() {
            for ((sum, &value), &first) in means.iter_mut().zip(row).zip(first) {
                *sum += value - first;
            }
        }
        let share = Self::narrow(1.0 / count as f64);
        means.iter_mut().zip(first).for_each(|(mean, &first)| *mean = first + *mean * share);
        let mut moved = vec![Self::ZERO; count * length];
        for (to, row) in moved.chunks_exact_mut(length).zip(rows()) {
            for ((to, &value), &mean) in to.iter_mut().zip(row).zip(&means) {
                *to = value - mean;
            }
        }
        let mut products = vec![Self::ZERO; count * count];
        let moved = MatRef::from_row_major_slice(&moved, count, length);
        multiply(moved, moved, &mut products);
        products
    }
}

/// The products of all rows of one matrix with all rows of the other, row by row.
pub(super) fn multiply<T: Element>(left: MatRef<T>, right: MatRef<T>, to: &mut [T]) {
    let to = MatMut::from_row_major_slice_mut(to, left.nrows(), right.nrows());
    matmul(to, Accum::Replace, left, right.transpose(), T::ONE, Par::Seq);
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEAR: f64 = 1e-4;
    const UNIT: f64 = f32::EPSILON as f64 / 2.0;

    fn widen(self) -> f64 {
        self.into()
    }

    fn narrow(value: f64) -> Self {
        value as f32
    }

    fn centred_products(values: &[Self], width: usize, stretch: Range<usize>) -> Vec<Self> {
        netkin_kernels::centred_products(values, width, stretch)
    }
}

impl Element for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEAR: f64 = 1e-6;
    const UNIT: f64 = f64::EPSILON / 2.0;

    fn widen(self) -> f64 {
        self
    }

    fn narrow(value: f64) -> Self {
        value
    }
}

/// How many times further away than most images one must lie to count as far.
const FAR: f64 = 100.0;
/// How many times further away one may lie for the squares of the others to be numbers beside its own.
const TOO_FAR: f64 = 1e100;
const TOO_FAR_OF_F32: f64 = 1e12;

/// How many times further away the farthest image lies from the middle than half of the images do that are not there, by the feature
/// that differs most; 1 where none is.
fn farthest<T: Element>(values: &[T], width: usize) -> f64 {
    let largest = values.par_iter().map(|value| value.widen().abs()).reduce(|| 0.0, f64::max);
    if !(largest > 0.0 && largest.is_finite()) {
        return 1.0;
    }
    let scale = power_of_two(-largest.log2());
    let middle: Vec<f64> = medians(values, width).into_iter().map(|value| value * scale).collect();
    let from_middle = |row: &[T]| {
        let differences = row.iter().zip(&middle).map(|(value, middle)| (value.widen() * scale - middle).abs());
        differences.fold(0.0, f64::max)
    };
    let mut distances: Vec<f64> = values.par_chunks_exact(width).map(from_middle).collect();
    distances.retain(|&distance| distance > 0.0);
    let farthest = distances.iter().copied().fold(0.0, f64::max);
    let Some(half) = distances.len().checked_sub(1).map(|last| last / 2) else { return 1.0 };
    farthest / *distances.select_nth_unstable_by(half, f64::total_cmp).1
}

/// The median of each column over some rows at even steps: a place in the middle of most rows, wherever few others lie.
fn medians<T: Element>(values: &[T], width: usize) -> Vec<f64> {
    const ROWS: usize = 101;
    let images = values.len() / width;
    let step = images.div_ceil(ROWS);
    let of_column = |column: usize| {
        let mut some: Vec<f64> =
            (0..images).step_by(step).map(|image| values[image * width + column].widen()).collect();
        let half = some.len() / 2;
        *some.select_nth_unstable_by(half, f64::total_cmp).1
    };
    (0..width).into_par_iter().map(of_column).collect()
}

/// Moves the rows' mean, or that of most of them, to 0 and scales them to about 1; the squared length of each row, or none where a
/// number is not finite. The sums do not depend on the number of threads.
fn standardise<T: Element>(values: &mut [T], width: usize, has_far: bool) -> Option<Vec<f64>> {
    let (mut means, mut mean_square) = moments(values, width);
    // The squares of the smallest numbers are 0, and those of the largest are infinite.
    if !(1e-280..1e280).contains(&mean_square) {
        scale_largest_to_1(values)?;
        (means, mean_square) = moments(values, width);
    }
    if has_far {
        means = medians(values, width);
    }
    let scale = if mean_square > 0.0 { power_of_two(-0.5 * mean_square.log2()) } else { 1.0 };
    let one_row = |row: &mut [T]| {
        for (value, mean) in row.iter_mut().zip(&means) {
            *value = T::narrow((value.widen() - mean) * scale);
        }
        square_of(row)
    };
    Some(values.par_chunks_exact_mut(width).map(one_row).collect())
}

/// The mean of each column, and the mean square of the rows once these are taken away; not finite where a square is not.
fn moments<T: Element>(values: &[T], width: usize) -> (Vec<f64>, f64) {
    const COLUMNS: usize = 1024;
    let images = (values.len() / width) as f64;
    let of_columns = |start: usize| {
        let columns = start..(start + COLUMNS).min(width);
        // From the first row, so that a constant has no rounding.
        let first = &values[columns.clone()];
        let (mut sums, mut squares) = (vec![0.0; columns.len()], vec![0.0; columns.len()]);
        for row in values.chunks_exact(width) {
            let both = sums.iter_mut().zip(&mut squares);
            for ((sum, square), (value, first)) in both.zip(row[columns.clone()].iter().zip(first)) {
                let difference = value.widen() - first.widen();
                *sum += difference;
                *square += difference * difference;
            }
        }
        let spread = |(sum, square): (&f64, &f64)| match square.is_finite() {
            true => (square - sum * sum / images).max(0.0),
            false => f64::NAN,
        };
        let total: f64 = sums.iter().zip(&squares).map(spread).sum();
        let means: Vec<f64> = first.iter().zip(&sums).map(|(first, sum)| first.widen() + sum / images).collect();
        (means, total)
    };
    let starts: Vec<usize> = (0..width).step_by(COLUMNS).collect();
    let found: Vec<(Vec<f64>, f64)> = starts.into_par_iter().map(of_columns).collect();
    let mean_square = found.iter().map(|(_, total)| total).sum::<f64>() / images;
    (found.into_iter().flat_map(|(means, _)| means).collect(), mean_square)
}

/// Scales numbers by a power of two so that the largest is about 1; none where one is not finite.
fn scale_largest_to_1<T: Element>(values: &mut [T]) -> Option<()> {
    if values.par_iter().any(|value| !value.widen().is_finite()) {
        return None;
    }
    let largest = values.par_iter().map(|value| value.widen().abs()).reduce(|| 0.0, f64::max);
    if largest > 0.0 {
        let scale = power_of_two(-largest.log2());
        values.par_iter_mut().for_each(|value| *value = T::narrow(value.widen() * scale));
    }
    Some(())
}

/// The power of two with the nearest exponent, within what multiplies and divides any number.
fn power_of_two(exponent: f64) -> f64 {
    exponent.round().clamp(-1000.0, 1000.0).exp2()
}

/// The squared length of a row.
fn square_of<T: Element>(row: &[T]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|value| value.widen() * value.widen()).sum();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value.widen() * value.widen();
        }
    }
    rest + sums.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_mean_0_and_squares_of_about_1() {
        for scale in [1e-30, 1.0, 1e30] {
            let values: Vec<f32> = (0..3000).map(|at| scale * (5.0 + (at as f32).sin())).collect();
            let features = Features::new("x", Values::F32(values), 2).unwrap();
            assert_eq!((features.images(), features.width()), (2, 1500));
            assert!(features.squares.iter().all(|square| (0.4..2.1).contains(square)), "{:?}", features.squares);
            let mean = |column: usize| features.values.get(column) + features.values.get(1500 + column);
            assert!((0..1500).all(|column| mean(column).abs() < 1e-7));
        }
    }

    /// Also where squares are 0, or infinite.
    #[test]
    fn numbers_of_any_size_are_scaled() {
        let of = |exponent: i32| {
            let scale = 2f64.powi(exponent);
            let values: Vec<f64> = (0..60).map(|at| scale * f64::from(at).sin()).collect();
            Features::new("x", Values::F64(values), 10).unwrap()
        };
        let plain = of(0);
        for exponent in [-1000, -600, 600, 1000, 1023] {
            let scaled = of(exponent);
            assert!(scaled.values == plain.values && scaled.squares == plain.squares, "{exponent}");
        }
        let subnormal = Features::new("x", Values::F64(vec![5e-324, 0.0, 1e-323, 0.0]), 4).unwrap();
        assert!(subnormal.squares.iter().sum::<f64>() > 1.0);
        let constant = Features::new("x", Values::F64(vec![1e-200; 4]), 4).unwrap();
        assert_eq!(constant.squares, [0.0; 4]);
    }

    #[test]
    fn what_is_no_number_is_found() {
        let of = |values: Vec<f64>| Features::new("x", Values::F64(values), 2).unwrap_err();
        let place = |error| match error {
            FeatureError::NotFinite { image, feature, .. } => (image, feature),
            other => panic!("{other}"),
        };
        assert_eq!(place(of(vec![1.0, 2.0, 3.0, f64::NAN])), (1, 1));
        assert_eq!(place(of(vec![f64::INFINITY, 2.0, 3.0, 4.0])), (0, 0));
        assert_eq!(place(of(vec![1e200, 2.0, -1e200, f64::NAN])), (1, 1));
        assert!(matches!(of(vec![]), FeatureError::Empty { images: 2, width: 0, .. }));
    }

    #[test]
    fn labels_become_columns() {
        let features = Features::one_hot("labels", &[7, 3, 7]).unwrap();
        assert_eq!((features.images(), features.width()), (3, 2));
        assert_eq!(features.values.get(0), features.values.get(4));
        assert_ne!(features.values.get(0), features.values.get(2));
        assert!(Features::one_hot("labels", &[]).is_err());
    }

    #[test]
    fn some_images_alone() {
        let features = Features::new("x", Values::F64((0..10).map(f64::from).collect()), 10).unwrap();
        let some = features.of_images(&[0, 3, 9]);
        assert_eq!(some.images(), 3);
        assert_eq!(some.values.get(1), features.values.get(3));
        assert_eq!(some.squares[2], features.squares[9]);
    }

    /// One image far away neither takes the others' digits nor leaves them in 32 bits.
    #[test]
    fn near_images_keep_their_digits() {
        let near: Vec<f32> = (0..60).map(|at| (at as f32 * 1.7).sin()).collect();
        for factor in [1e5, 1e10] {
            let mut values = near.clone();
            values[57..].iter_mut().for_each(|value| *value = factor * (1.0 + value.abs()));
            let features = Features::new("x", Values::F32(values), 20).unwrap();
            assert!(features.has_far && matches!(features.values, Values::F64(_)));
            let difference = |at: usize| features.values.get(at) - features.values.get(at + 3);
            let scale = difference(0) / f64::from(near[0] - near[3]);
            for at in 0..50 {
                let expected = scale * (f64::from(near[at]) - f64::from(near[at + 3]));
                assert!((difference(at) - expected).abs() < 1e-6 * scale.abs(), "{factor}, {at}");
            }
            let centred = features.with_mean_0().unwrap();
            let sum: f64 = (0..20).map(|image| centred.values.get(3 * image)).sum();
            assert!(sum.abs() < 1e-9, "{sum}");
        }
        assert!(!Features::new("x", Values::F32(near.clone()), 20).unwrap().has_far);
        assert!(matches!(Values::F32(near.clone()).widened(Some(100)), Values::F32(_)));
        let mut values: Vec<f64> = near.into_iter().map(f64::from).collect();
        values[7] = 1e308;
        let error = Features::new("x", Values::F64(values), 20).unwrap_err();
        assert!(matches!(error, FeatureError::Rounded { .. }), "{error}");
    }
}
