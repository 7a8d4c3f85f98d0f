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
//!
//! Multiplied out, sums that are large beside what is left of them cancel, such as where one image is far away from all others.
//! Where the sums tell that this would take digits, a second pass centres the values before it multiplies them, and computes each from
//! the two images' features themselves, in f64. What has to be in memory is centred before it is multiplied in any case.

use std::ops::{Range, RangeInclusive};

use faer::MatRef;
use rayon::prelude::*;

use super::data::{Element, Features, Numbers, Values, multiply};
use super::{FeatureError, Measure, bytes_of, check_images, check_room, on_device};
use crate::memory;
use crate::random::Random;

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
        /// σ as a multiple of the median distance between different images.
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

/// Images whose distances are held at once to find their median.
const MEDIAN_OF: usize = 2048;
/// Distances that are held at once to find the median of those of more images.
const MEDIAN_HELD: u64 = 1 << 22;
/// Features that are multiplied in the features' own format before their sum is added in f64.
pub(super) const DEPTH: usize = 2048;

impl Form {
    /// The kernel for these features.
    pub(super) fn of(kernel: &Kernel, features: &Features) -> Self {
        match *kernel {
            Kernel::Distance => Self::Distance,
            Kernel::Linear => Self::Linear,
            Kernel::Gaussian { bandwidth } => {
                let images = 0..features.images();
                if images.len() > MEDIAN_OF {
                    return Self::of_width(bandwidth, Distances { features, side: 512 }.typical(MEDIAN_HELD));
                }
                let distances = block(features, Self::Distance, images.clone(), images);
                Self::gaussian(bandwidth, above_diagonal(&distances, features.images()))
            }
        }
    }

    /// By the distances between different images.
    fn gaussian(bandwidth: f64, mut distances: Vec<f64>) -> Self {
        let median = median(&mut distances);
        // Where half of the images are the same, the mean has to do; where all are, nothing matters.
        let mean = || distances.iter().sum::<f64>() / distances.len().max(1) as f64;
        Self::of_width(bandwidth, if median > 0.0 { median } else { mean() })
    }

    /// So many times `scale` wide.
    fn of_width(bandwidth: f64, scale: f64) -> Self {
        if scale > 0.0 { Self::Gaussian(-0.5 / (bandwidth * scale).powi(2)) } else { Self::Gaussian(0.0) }
    }

    /// From two images' features themselves, in f64.
    fn of_rows<T: Element>(self, a: &[T], b: &[T]) -> f64 {
        match self {
            Self::Distance => squared_distance(a, b).sqrt(),
            Self::Linear => a.iter().zip(b).map(|(a, b)| a.widen() * b.widen()).sum(),
            Self::Gaussian(factor) => (factor * squared_distance(a, b)).exp(),
        }
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

/// The distances between different images, block by block, of more images than all distances could be held of.
struct Distances<'a> {
    features: &'a Features,
    /// Of a block.
    side: usize,
}

/// How many distances lie where. Distances are told by their bits, whose order is theirs.
#[derive(Clone)]
struct Counted {
    /// Below the range.
    below: u64,
    /// The largest of these.
    largest_below: u64,
    /// In equal parts of the range.
    parts: Vec<u64>,
    /// All in the range, where they are held.
    held: Vec<u64>,
}

impl Distances<'_> {
    /// The median, or the mean where the median is 0. Each pass over all pairs counts how many lie in parts of a range, which shrinks to
    /// the part with the median, until no more than `most` are left, which can be held.
    fn typical(&self, most: u64) -> f64 {
        const PARTS: u64 = 4096;
        let images = self.features.images() as u64;
        let pairs = images * (images - 1) / 2;
        // The upper one of the two middle distances.
        let rank = pairs / 2;
        let all = (0, f64::INFINITY.to_bits());
        let (mut low, mut high) = self.guess();
        let mut inside = u64::MAX;
        let (middle, before) = loop {
            let is_held = inside <= most;
            let width = (high - low) / PARTS + 1;
            let counted = self.count(low..=high, width, is_held);
            if rank < counted.below {
                (low, high, inside) = (all.0, low - 1, u64::MAX);
                continue;
            }
            let mut below = counted.below;
            let part = counted.parts.iter().position(|&count| {
                let is_there = rank < below + count;
                below += if is_there { 0 } else { count };
                is_there
            });
            let Some(part) = part else {
                (low, high, inside) = (high + 1, all.1, u64::MAX);
                continue;
            };
            if is_held {
                let mut held = counted.held;
                held.sort_unstable();
                let place = (rank - counted.below) as usize;
                break (held[place], if place > 0 { held[place - 1] } else { counted.largest_below });
            }
            if low == high && rank > counted.below {
                break (low, low);
            }
            if low == high {
                break (low, counted.largest_below);
            }
            low += part as u64 * width;
            high = high.min(low + (width - 1));
            inside = counted.parts[part];
        };
        let middle = f64::from_bits(middle);
        let median = if pairs.is_multiple_of(2) { 0.5 * (middle + f64::from_bits(before)) } else { middle };
        if median > 0.0 { median } else { self.sum() / pairs as f64 }
    }

    /// A range in which the median is likely to lie, from a few images drawn at random.
    fn guess(&self) -> (u64, u64) {
        const IMAGES: usize = 512;
        let mut random = Random::of(&[0]);
        let drawn: Vec<usize> = (0..IMAGES).map(|_| random.below(self.features.images())).collect();
        let some = self.features.of_images(&drawn);
        let mut distances = above_diagonal(&block(&some, Form::Distance, 0..IMAGES, 0..IMAGES), IMAGES);
        let mut at = |share: f64| {
            let place = (share * distances.len() as f64) as usize;
            distances.select_nth_unstable_by(place, f64::total_cmp).1.to_bits()
        };
        (at(0.4), at(0.6))
    }

    /// The distances of a block's different images.
    fn of_block(&self, rows: &Range<usize>, columns: &Range<usize>) -> Vec<f64> {
        let values = block(self.features, Form::Distance, rows.clone(), columns.clone());
        if rows == columns { above_diagonal(&values, rows.len()) } else { values }
    }

    /// One pass: parts are so many bits wide.
    fn count(&self, range: RangeInclusive<u64>, width: u64, is_held: bool) -> Counted {
        let (low, high) = (*range.start(), *range.end());
        let parts = vec![0; ((high - low) / width + 1) as usize];
        let none = Counted { below: 0, largest_below: 0, parts, held: Vec::new() };
        let add = |mut counted: Counted, (rows, columns): &(Range<usize>, Range<usize>)| {
            for distance in self.of_block(rows, columns) {
                let bits = distance.to_bits();
                if bits < low {
                    counted.below += 1;
                    counted.largest_below = counted.largest_below.max(bits);
                } else if bits <= high {
                    counted.parts[((bits - low) / width) as usize] += 1;
                    if is_held {
                        counted.held.push(bits);
                    }
                }
            }
            counted
        };
        let merge = |mut one: Counted, other: Counted| {
            one.below += other.below;
            one.largest_below = one.largest_below.max(other.largest_below);
            one.parts.iter_mut().zip(other.parts).for_each(|(to, from)| *to += from);
            one.held.extend(other.held);
            one
        };
        let blocks = blocks(self.features.images(), self.side);
        blocks.par_iter().fold(|| none.clone(), add).reduce(|| none.clone(), merge)
    }

    /// Of all distances.
    fn sum(&self) -> f64 {
        let of_block = |(rows, columns): &(Range<usize>, Range<usize>)| self.of_block(rows, columns).iter().sum();
        let parts: Vec<f64> = blocks(self.features.images(), self.side).par_iter().map(of_block).collect();
        parts.iter().sum()
    }
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

/// As [`block`], each value from the two images' features themselves: slow, and with no more rounding than the features have.
fn exact_block(features: &Features, form: Form, rows: Range<usize>, columns: Range<usize>) -> Vec<f64> {
    match &features.values {
        Values::F32(values) => exact_block_of(values, features.width(), form, rows, columns),
        Values::F64(values) => exact_block_of(values, features.width(), form, rows, columns),
    }
}

fn exact_block_of<T: Element>(
    values: &[T],
    width: usize,
    form: Form,
    rows: Range<usize>,
    columns: Range<usize>,
) -> Vec<f64> {
    let row = |image: usize| &values[image * width..][..width];
    rows.flat_map(|a| columns.clone().map(move |b| form.of_rows(row(a), row(b)))).collect()
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
        Self::of_blocks(sets, forms, side, None)
    }

    /// The same once the values are centred: `shifts` are set → image → what is taken away from the image's row and column. Then
    /// nothing is left that could cancel. Values are computed from the features themselves.
    fn of_centred(sets: &[&Features], forms: &[Form], side: usize, shifts: &[Vec<f64>]) -> Self {
        Self::of_blocks(sets, forms, side, Some(shifts))
    }

    fn of_blocks(sets: &[&Features], forms: &[Form], side: usize, shifts: Option<&[Vec<f64>]>) -> Self {
        // Of each block the sums of its rows are kept until they are added, in order.
        const AT_ONCE: usize = 256;
        let images = sets.first().map_or(0, |set| set.images());
        let diagonal =
            |(set, form): (&&Features, &Form)| set.squares.iter().map(|&square| form.diagonal(square)).collect();
        let mut sums = Self::new(images, sets.iter().zip(forms).map(diagonal).collect());
        let values = |index: usize, rows: &Range<usize>, columns: &Range<usize>| {
            let (set, form) = (sets[index], forms[index]);
            let Some(shifts) = shifts else { return block(set, form, rows.clone(), columns.clone()) };
            let mut values = exact_block(set, form, rows.clone(), columns.clone());
            for (line, row) in values.chunks_exact_mut(columns.len()).zip(&shifts[index][rows.clone()]) {
                let of_columns = &shifts[index][columns.clone()];
                line.iter_mut().zip(of_columns).for_each(|(value, column)| *value -= row + column);
            }
            values
        };
        for (diagonal, shift) in sums.diagonal.iter_mut().zip(shifts.unwrap_or_default()) {
            diagonal.iter_mut().zip(shift).for_each(|(value, shift)| *value -= 2.0 * shift);
        }
        for blocks in blocks(images, side).chunks(AT_ONCE) {
            let parts: Vec<Part> = blocks
                .par_iter()
                .map(|(rows, columns)| {
                    Part::of((0..sets.len()).map(|index| values(index, rows, columns)).collect(), rows, columns)
                })
                .collect();
            for (part, (rows, columns)) in parts.into_iter().zip(blocks) {
                sums.add(part, rows.start, columns.start);
            }
        }
        sums
    }

    /// Of sets whose values are there; they are centred before they are multiplied.
    fn of_pairs(sets: &[Pairs], centring: Centring) -> Self {
        let images = sets.first().map_or(0, |set| set.diagonal.len());
        let sets: Vec<Pairs> = sets.par_iter().map(|set| set.centred(centring)).collect();
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

    /// Set → image → what centring takes away from the image's row and column.
    fn shifts(&self, centring: Centring) -> Vec<Vec<f64>> {
        self.rows.iter().zip(&self.diagonal).map(|(rows, diagonal)| shifts(rows, diagonal, centring)).collect()
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

    /// Set × set → ⟨A, B⟩.
    fn all_inner(&self, centring: Centring) -> Vec<f64> {
        let sets = self.diagonal.len();
        (0..sets * sets).map(|at| self.inner(at / sets, at % sets, centring)).collect()
    }

    /// Set → the mean square of its matrix.
    fn magnitudes(&self) -> Vec<f64> {
        let (sets, n) = (self.diagonal.len(), self.images as f64);
        let magnitude =
            |set: usize| (2.0 * self.above[set * sets + set] + dot(&self.diagonal[set], &self.diagonal[set])) / (n * n);
        (0..sets).map(magnitude).collect()
    }
}

/// Image → what centring takes away from the image's row and column: a_ij − s_i − s_j is the centred matrix, U-centred off the
/// diagonal.
fn shifts(rows: &[f64], diagonal: &[f64], centring: Centring) -> Vec<f64> {
    let n = rows.len() as f64;
    let (whole, share, of_total) = match centring {
        Centring::Unbiased => (rows.to_vec(), n - 2.0, 2.0 * (n - 1.0) * (n - 2.0)),
        Centring::Double => (rows.iter().zip(diagonal).map(|(row, diagonal)| row + diagonal).collect(), n, 2.0 * n * n),
    };
    let half = whole.iter().sum::<f64>() / of_total;
    whole.iter().map(|row| row / share - half).collect()
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
    /// What a number is rounded by, beside 1.
    unit: f64,
    /// What the values of images far away from most others are rounded by; 0 where no image is.
    rounding: f64,
}

/// How many times further apart two images must be than most are for one of them to count as far.
const FAR: f64 = 100.0;

impl Pairs {
    /// The same values centred, so that sums of their products do not cancel.
    fn centred(&self, centring: Centring) -> Self {
        let shifts = shifts(&self.rows, &self.diagonal, centring);
        let count = shifts.len();
        let (mut above, mut rows) = (Vec::with_capacity(self.above.len()), vec![0.0; count]);
        let mut values = self.above.iter();
        for row in 0..count {
            for column in row + 1..count {
                let value = values.next().expect("there is one for each pair") - (shifts[row] + shifts[column]);
                above.push(value);
                rows[row] += value;
                rows[column] += value;
            }
        }
        let diagonal = self.diagonal.iter().zip(&shifts).map(|(value, shift)| value - 2.0 * shift).collect();
        Self { above, rows, diagonal, ..*self }
    }

    /// The mean square of all values.
    fn magnitude(&self) -> f64 {
        let n = self.diagonal.len() as f64;
        (2.0 * dot(&self.above, &self.above) + dot(&self.diagonal, &self.diagonal)) / (n * n)
    }

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
        Self::of_products(square, count, kernel, [T::NEAR, T::UNIT], |a, b| squared_distance(row(a), row(b)))
    }

    /// From the products of `count` images' features with each other, moved to mean 0: `[image, image]`. Where a squared distance
    /// is below the share `near` of the two images' squares, `exact` is asked for it; `unit` is what a number is rounded by, beside 1.
    /// None if a square is not finite.
    pub(super) fn of_products(
        mut square: Vec<f64>,
        count: usize,
        kernel: &Kernel,
        [near, unit]: [f64; 2],
        exact: impl Fn(usize, usize) -> f64,
    ) -> Option<Self> {
        let of_rows: Vec<f64> = square.iter().step_by(count + 1).copied().collect();
        if of_rows.iter().any(|square| !square.is_finite()) {
            return None;
        }
        let squares = Squares { of_rows: &of_rows, near, exact };
        let mut distances = square.clone();
        Form::Distance.apply(&squares, 0..count, 0..count, &mut distances);
        let distances = above_diagonal(&distances, count);
        let farthest = farthest(&distances).unwrap_or(0.0);
        // Gaussian kernels of what is far away are 0.
        let (form, rounding) = match *kernel {
            Kernel::Distance => (Form::Distance, unit * farthest),
            Kernel::Linear => (Form::Linear, unit * farthest * farthest),
            Kernel::Gaussian { bandwidth } => (Form::gaussian(bandwidth, distances), 0.0),
        };
        form.apply(&squares, 0..count, 0..count, &mut square);
        let off_diagonal = |row: usize| square[row * count..][..count].iter().sum::<f64>() - square[row * (count + 1)];
        Some(Self {
            above: above_diagonal(&square, count),
            rows: (0..count).map(off_diagonal).collect(),
            diagonal: of_rows.iter().map(|&square| form.diagonal(square)).collect(),
            unit,
            rounding,
        })
    }
}

/// The largest distance, if it is far larger than a quarter of those between different images.
fn farthest(distances: &[f64]) -> Option<f64> {
    let largest = distances.iter().copied().fold(0.0, f64::max);
    let mut different: Vec<f64> = distances.iter().copied().filter(|&distance| distance > 0.0).collect();
    let quarter = different.len() / 4;
    let near = (!different.is_empty()).then(|| *different.select_nth_unstable_by(quarter, f64::total_cmp).1)?;
    (largest > FAR * near).then_some(largest)
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
    /// Set → what a number is rounded by, beside 1.
    units: Vec<f64>,
    /// Set → whether images far away left too few digits of it.
    lost: Vec<bool>,
    /// How the matrices were centred.
    passes: Passes,
}

/// How matrices were centred before their products were added up, which decides what rounding there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passes {
    /// After it: what is left of large sums.
    MultipliedOut,
    /// Before it, the values themselves from products of features.
    Centred,
    /// Before it, the values from the features themselves; so have sets enough digits, or are refused.
    Exact,
}

/// A matrix whose square shrinks to this share when it is centred is constant but for rounding.
const ROUNDING: f64 = 1e-12;
/// The same of values that are computed and centred in f64 throughout.
const ROUNDING_F64: f64 = 1e-26;
/// What may be lost to rounding of an inner product that is multiplied out, as a share of it.
const MAY_LOSE: f64 = 1e-9;
/// What may be lost to rounding of a correlation where all values are computed from the features themselves, by number format.
const MAY_LOSE_AT_ALL: f64 = 1e-6;
const MAY_LOSE_OF_F32: f64 = 1e-4;

fn may_lose_at_all(unit: f64) -> f64 {
    if unit <= f64::EPSILON { MAY_LOSE_AT_ALL } else { MAY_LOSE_OF_F32 }
}

impl InnerProducts {
    /// Of all images of the sets, each block for all sets at once.
    ///
    /// # Errors
    /// [`FeatureError::OtherImages`], [`FeatureError::TooFew`] or [`FeatureError::Rounded`].
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
        let sums = Sums::of(sets, &forms, side);
        let units = sets.iter().map(|set| set.unit()).collect();
        let passes = Passes::MultipliedOut;
        let (values, magnitudes) = (sums.all_inner(centring), sums.magnitudes());
        let found = Self { names, values, magnitudes, units, lost: vec![false; sets.len()], passes };
        let is_lost = |set: usize| f64::EPSILON * found.shrinks(set) > MAY_LOSE;
        if !(0..sets.len()).any(is_lost) {
            return Ok(found);
        }
        let centred = Sums::of_centred(sets, &forms, side, &sums.shifts(centring));
        let found = Self { values: centred.all_inner(centring), passes: Passes::Exact, ..found };
        // What does not vary with Gaussian kernels of a width is told by its correlations.
        let lost = |&set: &usize| !matches!(kernel, Kernel::Gaussian { .. }) && found.is_rounded(set, sets[set]);
        match (0..sets.len()).find(lost) {
            Some(set) => Err(FeatureError::Rounded { name: found.names[set].clone() }),
            None => Ok(found),
        }
    }

    /// By how much a set's mean square shrinks when it is centred.
    fn shrinks(&self, set: usize) -> f64 {
        self.magnitudes[set] / self.get(set, set).abs().max(f64::MIN_POSITIVE)
    }

    /// Whether a set's matrix is constant but for rounding.
    fn is_constant(&self, set: usize) -> bool {
        let is_wide = self.passes != Passes::MultipliedOut && self.units[set] <= f64::EPSILON;
        let share = if is_wide { ROUNDING_F64 } else { ROUNDING };
        self.get(set, set) <= share * self.magnitudes[set]
    }

    /// Whether too few digits are left of a set that is not constant, though its values are computed from its features. Distances are
    /// rounded by a share of their size, and features by a share of theirs: that of most images, or of those far away if there are any.
    fn is_rounded(&self, set: usize, features: &Features) -> bool {
        let most = match features.has_far {
            true => features.squares.iter().copied().fold(0.0, f64::max),
            false => median(&mut features.squares.clone()),
        };
        let of_features = self.units[set] * (most / self.get(set, set).max(f64::MIN_POSITIVE)).sqrt();
        let of_values = f64::EPSILON * self.shrinks(set).sqrt();
        // From an image far enough away all others are the same.
        (features.has_far || !self.is_constant(set)) && of_features + of_values > may_lose_at_all(self.units[set])
    }

    /// What rounding may change a set's correlation with one that is like it.
    pub(super) fn rounding(&self, set: usize) -> f64 {
        // Sums round more often than once.
        const OFTEN: f64 = 8.0;
        let of_values = self.units[set].powi(2) * self.shrinks(set);
        let of_sums = match self.passes {
            Passes::MultipliedOut => f64::EPSILON * self.shrinks(set).max(1.0),
            Passes::Centred | Passes::Exact => f64::EPSILON,
        };
        OFTEN * (of_values + of_sums)
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
        // At least two sums of all products, and for each set half of its values, as they are and centred.
        let (most, matrices) = (batch.min(images), 4 + sets.len());
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

    /// Of what is known of sets: set × set, and set → the mean square of its matrix before it is centred.
    pub(super) fn new(sets: &[&Features], values: Vec<f64>, magnitudes: Vec<f64>) -> Self {
        let names = sets.iter().map(|set| set.name().to_owned()).collect();
        let units = sets.iter().map(|set| set.unit()).collect();
        Self { names, values, magnitudes, units, lost: vec![false; sets.len()], passes: Passes::MultipliedOut }
    }

    /// ⟨A, B⟩.
    pub fn get(&self, a: usize, b: usize) -> f64 {
        self.values[a * self.names.len() + b]
    }

    /// ⟨A, B⟩ / √(⟨A, A⟩ ⟨B, B⟩).
    ///
    /// # Errors
    /// [`FeatureError::Constant`], or [`FeatureError::Rounded`] of mini-batches.
    pub fn correlation(&self, a: usize, b: usize) -> Result<f64, FeatureError> {
        for set in [a, b] {
            if self.lost[set] {
                return Err(FeatureError::Rounded { name: self.names[set].clone() });
            }
            if self.is_constant(set) {
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
    /// [`FeatureError::Constant`], [`FeatureError::Rounded`], [`FeatureError::NothingLeft`] or [`FeatureError::LittleLeft`].
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
        let sums = InnerProducts {
            names,
            values: vec![0.0; sets * sets],
            magnitudes: vec![0.0; sets],
            units: vec![0.0; sets],
            lost: vec![false; sets],
            passes: Passes::Centred,
        };
        Self { centring, sums, images: 0 }
    }

    /// Adds a batch, all sets of the same images; whether it has as many images as the statistic needs, else it is left out.
    pub fn add(&mut self, sets: &[Pairs]) -> bool {
        let images = sets.first().map_or(0, |set| set.diagonal.len());
        if images < self.centring.least_images() {
            return false;
        }
        let values = Sums::of_pairs(sets, self.centring).all_inner(self.centring);
        for (index, (lost, set)) in self.sums.lost.iter_mut().zip(sets).enumerate() {
            let size = values[index * (sets.len() + 1)].max(f64::MIN_POSITIVE).sqrt();
            *lost |= set.rounding > may_lose_at_all(set.unit) * size;
        }
        let magnitudes = sets.par_iter().map(Pairs::magnitude).collect();
        self.sums.units = sets.iter().map(|set| set.unit).collect();
        let weight = images as f64;
        for (to, from) in [(&mut self.sums.values, values), (&mut self.sums.magnitudes, magnitudes)] {
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
                close(Sums::of_pairs(&batch, centring).inner(1, 0, centring), "pairs");
                let sets = [&x, &y];
                let sums = Sums::of(&sets, &forms, 32);
                close(Sums::of_centred(&sets, &forms, 32, &sums.shifts(centring)).inner(0, 1, centring), "centred");
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

    /// Distances of rows by their differences.
    fn distances_of(values: &[f64], images: usize) -> Vec<f64> {
        let width = values.len() / images;
        let row = |image: usize| &values[image * width..][..width];
        (0..images * images).map(|at| squared_distance(row(at / images), row(at % images)).sqrt()).collect()
    }

    /// One image that is far away from all others leaves sums whose differences have no digits: those of the definition have.
    #[test]
    fn one_image_far_away_takes_no_digits() {
        let images = 60;
        let of = |a: &[f64], b: &[f64]| by_definition(a, b, images, Centring::Unbiased);
        for exponent in [2, 4, 6, 7, 8] {
            let [mut x, y, _] = related(3, images, [16, 5, 1]);
            x[59 * 16..].iter_mut().for_each(|value| *value *= 10f64.powi(exponent));
            let [a, b] = [&x, &y].map(|values| distances_of(values, images));
            let expected = of(&a, &b) / (of(&a, &a) * of(&b, &b)).sqrt();
            let sets = [in_f64("x", &x, images), in_f64("y", &y, images)];
            let sets = [&sets[0], &sets[1]];
            let (kernel, centring) = (Kernel::Distance, Centring::Unbiased);
            let whole = InnerProducts::of(&sets, &kernel, centring).unwrap().correlation(0, 1).unwrap();
            let batch = InnerProducts::of_mini_batches(&sets, &kernel, centring, images).unwrap();
            for (found, how) in [(whole, "whole"), (batch.correlation(0, 1).unwrap(), "mini-batch")] {
                assert!((found - expected).abs() < 1e-6, "10^{exponent}, {how}: {found}, {expected}");
            }
        }
        // So far away that the others are all the same from there.
        let [mut x, y, _] = related(3, images, [16, 5, 1]);
        x[59 * 16..].iter_mut().for_each(|value| *value *= 1e11);
        let sets = [in_f64("far.npy", &x, images), in_f64("y", &y, images)];
        let error = InnerProducts::of(&[&sets[0], &sets[1]], &Kernel::Distance, Centring::Unbiased).unwrap_err();
        assert!(matches!(&error, FeatureError::Rounded { name } if name == "far.npy"), "{error}");
        assert!(error.to_string().contains("far.npy"), "{error}");
    }

    /// 32-bit numbers with one image far away: right, or refused as such.
    #[test]
    fn far_images_of_32_bits_are_right_or_refused() {
        let images = 60;
        for exponent in [5, 7, 10] {
            let [mut x, y, _] = related(3, images, [16, 5, 1]);
            x[59 * 16..].iter_mut().for_each(|value| *value *= 10f64.powi(exponent));
            let x: Vec<f64> = x.into_iter().map(|value| f64::from(value as f32)).collect();
            let sets = [in_f32("far.npy", &x, images), in_f64("y", &y, images)];
            let sets = [&sets[0], &sets[1]];
            for kernel in KERNELS {
                let centring = Centring::Unbiased;
                // By differences of the features as they were given.
                let linear = |values: &[f64]| {
                    let width = values.len() / images;
                    let row = |image: usize| &values[image * width..][..width];
                    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                    (0..images * images).map(|at| product(row(at / images), row(at % images))).collect::<Vec<f64>>()
                };
                let [a, b] = [&x, &y].map(|values| match kernel {
                    Kernel::Linear => linear(values),
                    Kernel::Distance => distances_of(values, images),
                    Kernel::Gaussian { bandwidth } => {
                        let distances = distances_of(values, images);
                        let Form::Gaussian(factor) = Form::gaussian(bandwidth, above_diagonal(&distances, images))
                        else {
                            unreachable!("it is Gaussian")
                        };
                        distances.iter().map(|distance| (factor * distance * distance).exp()).collect()
                    }
                });
                let of = |a: &[f64], b: &[f64]| by_definition(a, b, images, centring);
                let expected = of(&a, &b) / (of(&a, &a) * of(&b, &b)).sqrt();
                let whole = InnerProducts::of(&sets, &kernel, centring).and_then(|found| found.correlation(0, 1));
                let batch = InnerProducts::of_mini_batches(&sets, &kernel, centring, images);
                for (found, how) in [(whole, "whole"), (batch.and_then(|found| found.correlation(0, 1)), "batch")] {
                    match found {
                        // The definition itself loses digits, too.
                        Ok(found) if exponent < 7 || matches!(kernel, Kernel::Gaussian { .. }) => {
                            assert!(
                                (found - expected).abs() < 1e-6,
                                "{kernel:?}, 10^{exponent}, {how}: {found}, {expected}"
                            );
                        }
                        Ok(found) => assert!(
                            (found - expected).abs() < 1e-3,
                            "{kernel:?}, 10^{exponent}, {how}: {found}, {expected}"
                        ),
                        Err(error) => {
                            assert!(
                                exponent > 7 && matches!(error, FeatureError::Rounded { .. }),
                                "{kernel:?}, {how}: {error}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// What leaves a network in 32 bits stays so: a mini-batch with an image too far away is refused, and not as constant.
    #[test]
    fn far_images_of_a_mini_batch_are_refused() {
        let images = 60;
        for (exponent, kernel) in
            [(5, Kernel::Distance), (7, Kernel::Distance), (5, Kernel::Linear), (7, Kernel::Linear)]
        {
            let [mut x, ..] = related(3, images, [16, 5, 1]);
            x[59 * 16..].iter_mut().for_each(|value| *value *= 10f64.powi(exponent));
            let values: Vec<f32> = x.iter().map(|&value| value as f32).collect();
            let pairs = Pairs::of("far", Numbers::F32(&values), images, &kernel).unwrap();
            let mut means = MiniBatches::new(vec!["far".into()], Centring::Unbiased);
            assert!(means.add(&[pairs]));
            let error = means.finish().unwrap().correlation(0, 0).unwrap_err();
            assert!(matches!(error, FeatureError::Rounded { .. }), "10^{exponent}, {kernel:?}: {error}");
        }
    }

    /// Of more images than all distances are held of, the median is that of all, sorted.
    #[test]
    fn medians_of_many_images_are_exact() {
        let images = 130;
        let same = images * (images - 1) / 2;
        // Clusters along the rows, whose even steps are all of one; and rows of which some, or most, are the same.
        let clustered: Vec<f64> = drawn(5, images * 3)
            .iter()
            .enumerate()
            .map(|(at, value)| value + if (at / 3) % 2 == 0 { 0.0 } else { 40.0 * value })
            .collect();
        let few: Vec<f64> = drawn(6, images * 3).iter().map(|value| (2.5 * value).round()).collect();
        let mut most = drawn(7, images * 3);
        most[..100 * 3].fill(0.25);
        for values in [clustered, few, most] {
            let features = in_f64("x", &values, images);
            let mut all = above_diagonal(&block(&features, Form::Distance, 0..images, 0..images), images);
            assert_eq!(all.len(), same);
            let expected = match median(&mut all) {
                0.0 => all.iter().sum::<f64>() / same as f64,
                median => median,
            };
            for (side, held) in [(130, 0), (32, 1), (7, 50), (64, u64::MAX - 1)] {
                let found = Distances { features: &features, side }.typical(held);
                assert!((found - expected).abs() < 1e-12 * expected, "{side}, {held}: {found}, {expected}");
            }
        }
        // Where the width is used.
        let images = MEDIAN_OF + 2;
        let values: Vec<f64> =
            (0..images).map(|at| if at % 2 == 0 { 1e-3 * at as f64 } else { 0.1 * at as f64 }).collect();
        let features = in_f64("x", &values, images);
        let mut all = above_diagonal(&block(&features, Form::Distance, 0..images, 0..images), images);
        let Form::Gaussian(factor) = Form::of(&Kernel::Gaussian { bandwidth: 1.0 }, &features) else {
            unreachable!("it is Gaussian")
        };
        let expected = -0.5 / median(&mut all).powi(2);
        assert!((factor / expected - 1.0).abs() < 1e-12, "{factor}, {expected}");
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
            assert!((of(50) - whole).abs() < 1e-11 * whole.abs());
            let part = |range: Range<usize>| {
                let of = |set: &Features| Pairs::of("set", set.numbers(range.clone()), range.len(), &kernel).unwrap();
                let pairs = sets.map(of);
                Sums::of_pairs(&pairs, Centring::Unbiased).inner(0, 1, Centring::Unbiased)
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
