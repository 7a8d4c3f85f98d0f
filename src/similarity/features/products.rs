//! Inner products of centred matrices of distances or kernels between images: what distance correlation and CKA are made of.
//!
//! From features come matrices a_ij of n × n: distances |x_i − x_j|, or a kernel. Centred, they have inner products
//!
//! | centring | ⟨A, B⟩ | of distances | of kernels |
//! |---|---|---|---|
//! | double | Σ_ij A_ij B_ij / n², A_ij = a_ij − ā_i − ā_j + ā | squared distance covariance (Székely, Rizzo & Bakirov 2007) | HSIC, biased (Gretton et al. 2005) |
//! | unbiased | Σ_{i≠j} A_ij B_ij / (n (n − 3)), A U-centred | its unbiased estimate (Székely & Rizzo 2014) | HSIC₁ (Song et al. 2012) |
//!
//! where a U-centred matrix is a_ij − Σ_l a_il / (n−2) − Σ_k a_kj / (n−2) + Σ a / ((n−1)(n−2)) off the diagonal and 0 on it. No
//! centred matrix is ever made: multiplied out, all inner products follow from Σ a_ij b_ij and the sums of rows, which one
//! pass over blocks of a and b gives. A block is a product of matrices; above it, everything is added in f64, in an order
//! that does not depend on the number of threads.

use std::ops::Range;

use faer::MatRef;
use rayon::prelude::*;

use super::data::{Element, Features, Numbers, Values, multiply};
use super::{FeatureError, Measure, bytes_of, check_images, check_room, on_device};
use crate::memory;

/// How a matrix is centred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Centring {
    /// Rows and columns have mean 0; biased upwards on few images.
    Double,
    /// U-centred: the inner product of independent features is 0 on average.
    Unbiased,
}

impl Centring {
    /// The least number of images for which it is defined.
    pub const fn least_images(self) -> usize {
        match self {
            Self::Double => 2,
            Self::Unbiased => 4,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Double => "a doubly centred statistic",
            Self::Unbiased => "an unbiased statistic",
        }
    }
}

/// What is computed of two images' features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kernel {
    /// |x − y|.
    Distance,
    /// x · y.
    Linear,
    /// exp(−|x − y|² / (2σ²)).
    Gaussian {
        /// σ as a multiple of the median distance between different images (of at most 2,048, at even steps).
        bandwidth: f64,
    },
}

/// A kernel whose parameters are known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Distance,
    Linear,
    /// exp(factor · |x − y|²).
    Gaussian(f64),
}

/// Images of which the median distance is found.
const MEDIAN_OF: usize = 2048;
/// Features that are multiplied in the features' own format before their sum is added in f64.
pub(super) const DEPTH: usize = 2048;

impl Form {
    /// The kernel for these features.
    pub(super) fn of(kernel: &Kernel, features: &Features) -> Self {
        match *kernel {
            Kernel::Distance => Self::Distance,
            Kernel::Linear => Self::Linear,
            Kernel::Gaussian { bandwidth } => {
                let some = features.thinned(MEDIAN_OF);
                let images = 0..some.images();
                let distances = block(&some, Self::Distance, images.clone(), images);
                Self::gaussian(bandwidth, above_diagonal(&distances, some.images()))
            }
        }
    }

    /// By the distances between different images.
    fn gaussian(bandwidth: f64, mut distances: Vec<f64>) -> Self {
        let median = median(&mut distances);
        // Where half of the images are the same, the mean has to do; where all are, nothing matters.
        let scale = if median > 0.0 { median } else { distances.iter().sum::<f64>() / distances.len().max(1) as f64 };
        if scale > 0.0 { Self::Gaussian(-0.5 / (bandwidth * scale).powi(2)) } else { Self::Gaussian(0.0) }
    }

    /// Of an image with itself.
    fn diagonal(self, square: f64) -> f64 {
        match self {
            Self::Distance => 0.0,
            Self::Linear => square,
            Self::Gaussian(_) => 1.0,
        }
    }

    /// From products of features to values, for the images `rows` with the images `columns`, row by row.
    fn apply<F: Fn(usize, usize) -> f64>(
        self,
        of: &Squares<F>,
        rows: Range<usize>,
        columns: Range<usize>,
        values: &mut [f64],
    ) {
        if let Self::Linear = self {
            return;
        }
        let of_columns = &of.of_rows[columns.clone()];
        for (row, line) in rows.zip(values.chunks_exact_mut(columns.len())) {
            let square = of.of_rows[row];
            let mut is_near = false;
            for (value, other) in line.iter_mut().zip(of_columns) {
                let both = square + other;
                *value = both - 2.0 * *value;
                is_near |= *value <= of.near * both;
            }
            if is_near {
                for (column, value) in columns.clone().zip(line.iter_mut()) {
                    let both = square + of.of_rows[column];
                    if *value <= of.near * both {
                        let is_same = row == column || both == 0.0;
                        *value = if is_same { 0.0 } else { (of.exact)(row, column) };
                    }
                }
            }
            match self {
                Self::Distance => line.iter_mut().for_each(|value| *value = value.sqrt()),
                Self::Gaussian(factor) => line.iter_mut().for_each(|value| *value = (factor * *value).exp()),
                Self::Linear => {}
            }
        }
    }
}

/// What distances follow from besides products of features.
struct Squares<'a, F> {
    /// The squared length of each row, once the rows' mean is taken away.
    of_rows: &'a [f64],
    /// Squared distances below this share of the two rows' squares are too much rounded by the difference of products.
    near: f64,
    /// Those, from two rows themselves.
    exact: F,
}

pub(super) fn squared_distance<T: Element>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a.widen() - b.widen()).powi(2)).sum()
}

/// The middle value, or the mean of the two middle ones; 0 of none. The values change their order.
fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let is_even = values.len().is_multiple_of(2);
    let (below, &mut middle, _) = values.select_nth_unstable_by(values.len() / 2, f64::total_cmp);
    if is_even { 0.5 * (middle + below.iter().copied().fold(f64::NEG_INFINITY, f64::max)) } else { middle }
}

/// The kernel's values of the images `rows` with the images `columns`, row by row.
pub(super) fn block(features: &Features, form: Form, rows: Range<usize>, columns: Range<usize>) -> Vec<f64> {
    match &features.values {
        Values::F32(values) => block_of(values, features, form, rows, columns),
        Values::F64(values) => block_of(values, features, form, rows, columns),
    }
}

fn block_of<T: Element>(
    values: &[T],
    features: &Features,
    form: Form,
    rows: Range<usize>,
    columns: Range<usize>,
) -> Vec<f64> {
    let width = features.width();
    let mut sums = match &features.on_device {
        Some(features) => on_device::products_of(features, &rows, &columns),
        None => products_here(values, width, &rows, &columns),
    };
    let row = |image: usize| &values[image * width..][..width];
    let exact = |a: usize, b: usize| squared_distance(row(a), row(b));
    form.apply(&Squares { of_rows: &features.squares, near: T::NEAR, exact }, rows, columns, &mut sums);
    sums
}

/// The products of the images `rows` with the images `columns`, row by row.
fn products_here<T: Element>(values: &[T], width: usize, rows: &Range<usize>, columns: &Range<usize>) -> Vec<f64> {
    let mut part = vec![T::ZERO; rows.len() * columns.len()];
    let mut sums = vec![0.0; part.len()];
    for start in (0..width).step_by(DEPTH) {
        let length = DEPTH.min(width - start);
        let [left, right] = [rows, columns].map(|images| {
            let from = &values[images.start * width + start..];
            MatRef::from_row_major_slice_with_stride(from, images.len(), length, width)
        });
        multiply(left, right, &mut part);
        sums.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part.widen());
    }
    sums
}

/// The values above the diagonal of a square matrix, row by row.
fn above_diagonal(values: &[f64], size: usize) -> Vec<f64> {
    (0..size).flat_map(|row| &values[row * size + row + 1..(row + 1) * size]).copied().collect()
}

/// Blocks of that side over the upper triangle of a square: (rows, columns).
fn blocks(images: usize, side: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let starts = move || (0..images).step_by(side);
    let range = move |start: usize| start..(start + side).min(images);
    starts().flat_map(|row| (row..images).step_by(side).map(move |column| (range(row), range(column)))).collect()
}

/// The sum of products, in eight parts that the processor can add side by side.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    rest + sums.iter().sum::<f64>()
}

/// Σ_i a_i b_i and Σ_i a_i · Σ_i b_i of sums of rows.
fn of_rows(a: &[f64], b: &[f64]) -> (f64, f64) {
    (dot(a, b), a.iter().sum::<f64>() * b.iter().sum::<f64>())
}

/// All that inner products of several sets of features follow from.
#[derive(Debug, Clone)]
struct Sums {
    images: usize,
    /// Set → image → its value with itself.
    diagonal: Vec<Vec<f64>>,
    /// Set → image → the sum of its values with the others.
    rows: Vec<Vec<f64>>,
    /// Set × set → Σ_{i<j} a_ij b_ij, for the upper triangle of the sets.
    above: Vec<f64>,
}

/// What one block adds to [`Sums`].
struct Part {
    rows: Vec<Vec<f64>>,
    /// Empty on the diagonal.
    columns: Vec<Vec<f64>>,
    above: Vec<f64>,
}

impl Sums {
    fn new(images: usize, diagonal: Vec<Vec<f64>>) -> Self {
        let sets = diagonal.len();
        Self { images, diagonal, rows: vec![vec![0.0; images]; sets], above: vec![0.0; sets * sets] }
    }

    /// Blocks of that side, each for all sets at once.
    fn of(sets: &[&Features], forms: &[Form], side: usize) -> Self {
        // Of each block the sums of its rows are kept until they are added, in order.
        const AT_ONCE: usize = 256;
        let images = sets.first().map_or(0, |set| set.images());
        let diagonal =
            |(set, form): (&&Features, &Form)| set.squares.iter().map(|&square| form.diagonal(square)).collect();
        let mut sums = Self::new(images, sets.iter().zip(forms).map(diagonal).collect());
        for blocks in blocks(images, side).chunks(AT_ONCE) {
            let parts: Vec<Part> = blocks
                .par_iter()
                .map(|(rows, columns)| {
                    let values = sets.iter().zip(forms);
                    Part::of(
                        values.map(|(set, &form)| block(set, form, rows.clone(), columns.clone())).collect(),
                        rows,
                        columns,
                    )
                })
                .collect();
            for (part, (rows, columns)) in parts.into_iter().zip(blocks) {
                sums.add(part, rows.start, columns.start);
            }
        }
        sums
    }

    /// Of sets whose values are there.
    fn of_pairs(sets: &[Pairs]) -> Self {
        let images = sets.first().map_or(0, |set| set.diagonal.len());
        let mut sums = Self::new(images, sets.iter().map(|set| set.diagonal.clone()).collect());
        sums.rows = sets.iter().map(|set| set.rows.clone()).collect();
        let pairs = upper(sets.len());
        let products: Vec<f64> = pairs.par_iter().map(|&(a, b)| dot(&sets[a].above, &sets[b].above)).collect();
        for ((a, b), product) in pairs.into_iter().zip(products) {
            sums.above[a * sets.len() + b] = product;
        }
        sums
    }

    fn add(&mut self, part: Part, row: usize, column: usize) {
        for (start, sums) in [(row, part.rows), (column, part.columns)] {
            for (to, from) in self.rows.iter_mut().zip(sums) {
                to[start..].iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
        self.above.iter_mut().zip(part.above).for_each(|(to, from)| *to += from);
    }

    /// ⟨A, B⟩ of the centred matrices.
    fn inner(&self, a: usize, b: usize, centring: Centring) -> f64 {
        let n = self.images as f64;
        let above = self.above[a.min(b) * self.diagonal.len() + a.max(b)];
        match centring {
            Centring::Unbiased => {
                let (rows, totals) = of_rows(&self.rows[a], &self.rows[b]);
                (2.0 * above - 2.0 / (n - 2.0) * rows + totals / ((n - 1.0) * (n - 2.0))) / (n * (n - 3.0))
            }
            Centring::Double => {
                let whole = |set: usize| -> Vec<f64> {
                    self.rows[set].iter().zip(&self.diagonal[set]).map(|(row, diagonal)| row + diagonal).collect()
                };
                let (rows, totals) = of_rows(&whole(a), &whole(b));
                let all = 2.0 * above + dot(&self.diagonal[a], &self.diagonal[b]);
                (all - 2.0 / n * rows + totals / (n * n)) / (n * n)
            }
        }
    }

    /// All inner products, of sets with these names.
    fn inner_products(&self, names: Vec<String>, centring: Centring) -> InnerProducts {
        let sets = names.len();
        let n = self.images as f64;
        let values = (0..sets * sets).map(|at| self.inner(at / sets, at % sets, centring)).collect();
        let magnitude =
            |set: usize| (2.0 * self.above[set * sets + set] + dot(&self.diagonal[set], &self.diagonal[set])) / (n * n);
        InnerProducts { values, magnitudes: (0..sets).map(magnitude).collect(), names }
    }
}

/// (a, b) with a ≤ b < `sets`.
fn upper(sets: usize) -> Vec<(usize, usize)> {
    (0..sets).flat_map(|a| (a..sets).map(move |b| (a, b))).collect()
}

impl Part {
    /// `values` are each set's, row by row.
    fn of(mut values: Vec<Vec<f64>>, rows: &Range<usize>, columns: &Range<usize>) -> Self {
        let breadth = columns.len();
        let is_diagonal = rows == columns;
        if is_diagonal {
            for values in &mut values {
                values.iter_mut().step_by(breadth + 1).for_each(|value| *value = 0.0);
            }
        }
        let of_rows = |values: &Vec<f64>| values.chunks_exact(breadth).map(|line| line.iter().sum()).collect();
        let of_columns = |values: &Vec<f64>| {
            let mut sums = vec![0.0; breadth];
            for line in values.chunks_exact(breadth) {
                sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += value);
            }
            sums
        };
        // On the diagonal every pair is there twice.
        let share = if is_diagonal { 0.5 } else { 1.0 };
        let mut above = vec![0.0; values.len() * values.len()];
        for (a, b) in upper(values.len()) {
            above[a * values.len() + b] = share * dot(&values[a], &values[b]);
        }
        Self {
            rows: values.iter().map(of_rows).collect(),
            columns: if is_diagonal { Vec::new() } else { values.iter().map(of_columns).collect() },
            above,
        }
    }
}

/// A kernel's values of all pairs of a few images, for statistics of mini-batches: `n (n − 1) / 2` numbers.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// Row by row above the diagonal.
    above: Vec<f64>,
    rows: Vec<f64>,
    diagonal: Vec<f64>,
}

impl Pairs {
    /// Of a few images' features, as many for each image, row by row. `name` is what messages call them.
    ///
    /// # Errors
    /// [`FeatureError::Empty`], [`FeatureError::NotFinite`] or [`FeatureError::TooLarge`].
    pub fn of(name: &str, numbers: Numbers, images: usize, kernel: &Kernel) -> Result<Self, FeatureError> {
        let width = numbers.len().checked_div(images).unwrap_or(0);
        if width == 0 {
            return Err(FeatureError::Empty { name: name.to_owned(), images, width });
        }
        let found = match numbers {
            Numbers::F32(values) => Self::of_values(values, width, kernel),
            Numbers::F64(values) => Self::of_values(values, width, kernel),
        };
        found.ok_or_else(|| numbers.not_finite(name, width))
    }

    /// None if a number or its square is not finite.
    fn of_values<T: Element>(values: &[T], width: usize, kernel: &Kernel) -> Option<Self> {
        // Few images with many features: threads share the features, each stretch is moved to mean 0 where it lies in the
        // cache, and the whole is read once. As many parts are added up side by side as that many numbers make, whatever the
        // threads.
        const STRETCH: usize = 1024;
        const HELD: usize = 1 << 22;
        let count = values.len() / width;
        let stretches: Vec<usize> = (0..width).step_by(STRETCH).collect();
        let parts = (HELD / (count * count)).clamp(2, 64);
        let part = |starts: &[usize]| {
            let mut sums = vec![0.0f64; count * count];
            for &start in starts {
                let products = T::centred_products(values, width, start..(start + STRETCH).min(width));
                sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += product.widen());
            }
            sums
        };
        let parts: Vec<Vec<f64>> = stretches.par_chunks(stretches.len().div_ceil(parts)).map(part).collect();
        let mut square = vec![0.0f64; count * count];
        for part in parts {
            square.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let row = |image: usize| &values[image * width..][..width];
        Self::of_products(square, count, kernel, T::NEAR, |a, b| squared_distance(row(a), row(b)))
    }

    /// From the products of `count` images' features with each other, moved to mean 0: `[image, image]`. Where a squared distance
    /// is below the share `near` of the two images' squares, `exact` is asked for it. None if a square is not finite.
    pub(super) fn of_products(
        mut square: Vec<f64>,
        count: usize,
        kernel: &Kernel,
        near: f64,
        exact: impl Fn(usize, usize) -> f64,
    ) -> Option<Self> {
        let of_rows: Vec<f64> = square.iter().step_by(count + 1).copied().collect();
        if of_rows.iter().any(|square| !square.is_finite()) {
            return None;
        }
        let squares = Squares { of_rows: &of_rows, near, exact };
        let form = match *kernel {
            Kernel::Distance => Form::Distance,
            Kernel::Linear => Form::Linear,
            Kernel::Gaussian { bandwidth } => {
                let mut distances = square.clone();
                Form::Distance.apply(&squares, 0..count, 0..count, &mut distances);
                Form::gaussian(bandwidth, above_diagonal(&distances, count))
            }
        };
        form.apply(&squares, 0..count, 0..count, &mut square);
        let off_diagonal = |row: usize| square[row * count..][..count].iter().sum::<f64>() - square[row * (count + 1)];
        Some(Self {
            above: above_diagonal(&square, count),
            rows: (0..count).map(off_diagonal).collect(),
            diagonal: of_rows.iter().map(|&square| form.diagonal(square)).collect(),
        })
    }
}

/// The inner products of the centred matrices of several sets of features, each with each.
#[derive(Debug, Clone)]
pub struct InnerProducts {
    /// What messages call the sets.
    names: Vec<String>,
    /// Set × set.
    values: Vec<f64>,
    /// Set → the mean square of its matrix before it is centred: what rounding is measured by.
    magnitudes: Vec<f64>,
}

/// A matrix whose square shrinks to this share when it is centred is constant but for rounding.
const ROUNDING: f64 = 1e-12;

impl InnerProducts {
    /// Of all images of the sets, each block for all sets at once.
    ///
    /// # Errors
    /// [`FeatureError::OtherImages`] or [`FeatureError::TooFew`].
    pub fn of(sets: &[&Features], kernel: &Kernel, centring: Centring) -> Result<Self, FeatureError> {
        check_images(sets, centring.name(), centring.least_images())?;
        let images = sets.first().map_or(0, |set| set.images());
        // A block of each set must fit into the processor's cache, and there must be blocks for all threads; a device wants more at once.
        let side = match (images, sets.len()) {
            _ if sets.iter().any(|set| set.on_device.is_some()) => 2048,
            (..2048, _) => 128,
            (_, ..=8) => 512,
            _ => 256,
        };
        let forms: Vec<Form> = sets.iter().map(|set| Form::of(kernel, set)).collect();
        let names = sets.iter().map(|set| set.name().to_owned()).collect();
        Ok(Sums::of(sets, &forms, side).inner_products(names, centring))
    }

    /// The means over mini-batches of `batch` images each, weighted by their images (Nguyen, Raghu & Kornblith, arXiv 2010.15327);
    /// a rest of fewer images than the statistic needs is left out.
    ///
    /// # Errors
    /// As [`Self::of`], and [`FeatureError::Memory`].
    pub fn of_mini_batches(
        sets: &[&Features],
        kernel: &Kernel,
        centring: Centring,
        batch: usize,
    ) -> Result<Self, FeatureError> {
        check_images(sets, centring.name(), centring.least_images())?;
        let images = sets.first().map_or(0, |set| set.images());
        if batch < centring.least_images() {
            let name = format!("a mini-batch of {batch}");
            return Err(FeatureError::TooFew {
                name,
                images: batch,
                what: centring.name(),
                least: centring.least_images(),
            });
        }
        // At least two sums of all products, and for each set half of its values.
        let (most, matrices) = (batch.min(images), 4 + sets.len().div_ceil(2));
        let bytes = bytes_of(most, most.saturating_mul(matrices), size_of::<f64>());
        check_room("a mini-batch", bytes, memory::available(), "take a smaller --mini-batch, or none")?;
        let mut means = MiniBatches::new(sets.iter().map(|set| set.name().to_owned()).collect(), centring);
        for start in (0..images).step_by(batch) {
            let of_batch = start..(start + batch).min(images);
            let pairs = |set: &&Features| Pairs::of(set.name(), set.numbers(of_batch.clone()), of_batch.len(), kernel);
            means.add(&sets.iter().map(pairs).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(means.finish().expect("there are as many images as the statistic needs"))
    }

    /// Of what is known: set × set, and set → the mean square of its matrix before it is centred.
    pub(super) fn new(names: Vec<String>, values: Vec<f64>, magnitudes: Vec<f64>) -> Self {
        Self { names, values, magnitudes }
    }

    /// ⟨A, B⟩.
    pub fn get(&self, a: usize, b: usize) -> f64 {
        self.values[a * self.names.len() + b]
    }

    /// ⟨A, B⟩ / √(⟨A, A⟩ ⟨B, B⟩).
    ///
    /// # Errors
    /// [`FeatureError::Constant`].
    pub fn correlation(&self, a: usize, b: usize) -> Result<f64, FeatureError> {
        for set in [a, b] {
            let is_constant = self.get(set, set) <= ROUNDING * self.magnitudes[set];
            if is_constant {
                return Err(FeatureError::Constant { name: self.names[set].clone() });
            }
        }
        if a == b {
            return Ok(1.0);
        }
        // Rounding must not lead beyond the range.
        Ok((self.get(a, b) / (self.get(a, a) * self.get(b, b)).sqrt()).clamp(-1.0, 1.0))
    }

    /// The measure of the first set with the second; a third is projected out where the measure is partial.
    ///
    /// # Errors
    /// [`FeatureError::Constant`] or [`FeatureError::NothingLeft`].
    ///
    /// # Panics
    /// If there are too few sets.
    pub fn measure(&self, measure: Measure) -> Result<f64, FeatureError> {
        match measure {
            Measure::Pdcor => self.partial(0, 1, 2),
            Measure::SemiPdcor => self.semi_partial(0, 1, 2),
            _ => self.correlation(0, 1),
        }
    }

    pub(super) fn name(&self, set: usize) -> &str {
        &self.names[set]
    }
}

/// Means of inner products over mini-batches, weighted by their images.
#[derive(Debug, Clone)]
pub struct MiniBatches {
    centring: Centring,
    sums: InnerProducts,
    images: usize,
}

impl MiniBatches {
    /// Of sets with these names.
    pub fn new(names: Vec<String>, centring: Centring) -> Self {
        let sets = names.len();
        let sums = InnerProducts { names, values: vec![0.0; sets * sets], magnitudes: vec![0.0; sets] };
        Self { centring, sums, images: 0 }
    }

    /// Adds a batch, all sets of the same images; whether it has as many images as the statistic needs, else it is left out.
    pub fn add(&mut self, sets: &[Pairs]) -> bool {
        let images = sets.first().map_or(0, |set| set.diagonal.len());
        if images < self.centring.least_images() {
            return false;
        }
        let of_batch = Sums::of_pairs(sets).inner_products(self.sums.names.clone(), self.centring);
        let weight = images as f64;
        for (to, from) in [(&mut self.sums.values, of_batch.values), (&mut self.sums.magnitudes, of_batch.magnitudes)] {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
        }
        self.images += images;
        true
    }

    /// How many images were added.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The means; none of no batch.
    pub fn finish(self) -> Option<InnerProducts> {
        let mut means = self.sums;
        let scale = 1.0 / self.images as f64;
        means.values.iter_mut().chain(&mut means.magnitudes).for_each(|value| *value *= scale);
        (self.images > 0).then_some(means)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{drawn, in_f32, in_f64, related};
    use super::*;

    /// The definition at the top of this file, matrix by matrix.
    fn by_definition(a: &[f64], b: &[f64], n: usize, centring: Centring) -> f64 {
        let count = n as f64;
        let centred = |m: &[f64]| -> Vec<f64> {
            let off = |row: usize, column: usize| match centring {
                Centring::Unbiased if row == column => 0.0,
                _ => m[row * n + column],
            };
            let rows: Vec<f64> = (0..n).map(|row| (0..n).map(|column| off(row, column)).sum()).collect();
            let total: f64 = rows.iter().sum();
            (0..n * n)
                .map(|at| (at / n, at % n))
                .map(|(row, column)| match centring {
                    Centring::Double => {
                        m[row * n + column] - (rows[row] + rows[column]) / count + total / (count * count)
                    }
                    Centring::Unbiased if row == column => 0.0,
                    Centring::Unbiased => {
                        m[row * n + column] - (rows[row] + rows[column]) / (count - 2.0)
                            + total / ((count - 1.0) * (count - 2.0))
                    }
                })
                .collect()
        };
        let sum: f64 = centred(a).iter().zip(centred(b)).map(|(a, b)| a * b).sum();
        match centring {
            Centring::Double => sum / (count * count),
            Centring::Unbiased => sum / (count * (count - 3.0)),
        }
    }

    const KERNELS: [Kernel; 3] = [Kernel::Distance, Kernel::Linear, Kernel::Gaussian { bandwidth: 0.8 }];

    /// Blocks of any side, and pairs of a mini-batch, give what the definition gives.
    #[test]
    fn inner_products_are_those_of_the_definition() {
        let images = 75;
        let [x, y, _] = related(3, images, [20, 7, 1]);
        let (x, y) = (in_f64("x", &x, images), in_f64("y", &y, images));
        for kernel in KERNELS {
            let forms = [Form::of(&kernel, &x), Form::of(&kernel, &y)];
            let [a, b] = [(&x, forms[0]), (&y, forms[1])].map(|(set, form)| block(set, form, 0..images, 0..images));
            let batch = [&x, &y].map(|set| Pairs::of("set", set.numbers(0..images), images, &kernel).unwrap());
            for centring in [Centring::Double, Centring::Unbiased] {
                let expected = by_definition(&a, &b, images, centring);
                let close = |ours: f64, how: &str| {
                    let tolerance = 1e-11 * expected.abs().max(1e-3);
                    assert!((ours - expected).abs() < tolerance, "{kernel:?}, {centring:?}, {how}: {ours}, {expected}");
                };
                for side in [1, 8, 32, 75, 100] {
                    close(Sums::of(&[&x, &y], &forms, side).inner(0, 1, centring), &format!("side {side}"));
                }
                close(Sums::of_pairs(&batch).inner(1, 0, centring), "pairs");
            }
        }
    }

    #[test]
    fn distances_are_those_of_the_features() {
        let images = 9;
        let values = drawn(4, images * 5000);
        let exact = |a: usize, b: usize| {
            let row = |image: usize| &values[image * 5000..][..5000];
            row(a).iter().zip(row(b)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
        };
        for (features, tolerance) in [(in_f64("x", &values, images), 1e-12), (in_f32("x", &values, images), 1e-6)] {
            let distances = block(&features, Form::Distance, 2..7, 0..images);
            // Features are scaled by a power of two.
            let scale = distances[1] / exact(2, 1);
            for (at, distance) in distances.iter().enumerate() {
                let expected = scale * exact(2 + at / images, at % images);
                assert!((distance - expected).abs() <= tolerance * expected, "{distance}, {expected}");
            }
        }
    }

    /// Rows that are almost the same: differences of products would leave no digit.
    #[test]
    fn what_is_near_is_not_rounded_away() {
        let mut values = drawn(8, 4 * 300);
        for feature in 0..300 {
            values[300 + feature] = values[feature] * (1.0 + 1e-3 * (feature as f64).sin());
            values[600 + feature] = values[feature];
        }
        let (wide, narrow) = (in_f64("x", &values, 4), in_f32("x", &values, 4));
        let of = |features: &Features| block(features, Form::Distance, 0..4, 0..4);
        for (wide, narrow) in of(&wide).iter().zip(of(&narrow)) {
            assert!((wide - narrow).abs() <= 3e-4 * wide, "{wide}, {narrow}");
        }
        assert_eq!(of(&narrow)[2], 0.0);
    }

    #[test]
    fn sums_do_not_depend_on_threads() {
        let images = 300;
        let [x, y, _] = related(6, images, [9, 4, 1]);
        let (x, y) = (in_f32("x", &x, images), in_f32("y", &y, images));
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| InnerProducts::of(&[&x, &y], &Kernel::Distance, Centring::Unbiased).unwrap().values)
        };
        assert_eq!(on(1), on(3));
    }

    /// One mini-batch of everything is everything; two are the mean of both, weighted by their images.
    #[test]
    fn mini_batches_are_means() {
        let images = 50;
        let [x, y, _] = related(7, images, [9, 4, 1]);
        let sets = [in_f64("x", &x, images), in_f64("y", &y, images)];
        let sets = [&sets[0], &sets[1]];
        for kernel in [Kernel::Distance, Kernel::Linear] {
            let of = |batch: usize| {
                InnerProducts::of_mini_batches(&sets, &kernel, Centring::Unbiased, batch).unwrap().get(0, 1)
            };
            let whole = InnerProducts::of(&sets, &kernel, Centring::Unbiased).unwrap().get(0, 1);
            assert!((of(50) - whole).abs() < 1e-12 * whole.abs());
            let part = |range: Range<usize>| {
                let of = |set: &Features| Pairs::of("set", set.numbers(range.clone()), range.len(), &kernel).unwrap();
                let pairs = sets.map(of);
                Sums::of_pairs(&pairs).inner(0, 1, Centring::Unbiased)
            };
            let expected = (30.0 * part(0..30) + 20.0 * part(30..50)) / 50.0;
            assert!((of(30) - expected).abs() < 1e-12 * expected.abs());
            // The rest of two images is left out.
            let expected = 0.5 * (part(0..24) + part(24..48));
            assert!((of(24) - expected).abs() < 1e-12 * expected.abs());
        }
        let error = InnerProducts::of_mini_batches(&sets, &Kernel::Linear, Centring::Unbiased, 3).unwrap_err();
        assert!(error.to_string().contains("at least 4"), "{error}");
    }

    #[test]
    fn bad_features_are_refused() {
        let x = in_f64("x", &drawn(1, 20), 10);
        let of = |sets: &[&Features], centring| InnerProducts::of(sets, &Kernel::Distance, centring);
        let constant = in_f64("constant", &[3.25; 20], 10);
        let products = of(&[&x, &constant], Centring::Unbiased).unwrap();
        assert!(matches!(products.correlation(0, 1), Err(FeatureError::Constant { name }) if name == "constant"));
        assert_eq!(products.correlation(0, 0).unwrap(), 1.0);
        // All images equally far from each other.
        let alone = Features::one_hot("labels", &(0..10).collect::<Vec<_>>()).unwrap();
        let products = of(&[&x, &alone], Centring::Unbiased).unwrap();
        assert!(matches!(products.correlation(0, 1), Err(FeatureError::Constant { name }) if name == "labels"));
        let other = in_f64("y", &drawn(1, 20), 5);
        assert!(matches!(of(&[&x, &other], Centring::Double), Err(FeatureError::OtherImages { .. })));
        let few = in_f64("few", &drawn(1, 6), 3);
        assert!(matches!(of(&[&few, &few], Centring::Unbiased), Err(FeatureError::TooFew { least: 4, .. })));
        assert!(of(&[&few, &few], Centring::Double).is_ok());
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut []), 0.0);
    }
}
