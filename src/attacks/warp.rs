//! Linear maps of a plane's pixels: resizing, shifting, turning, exchanging blocks; and their transposes, by which a gradient
//! comes back.

use std::ops::{AddAssign, Mul, Range};

use crate::random::Random;

/// A number format of pixels.
pub trait Real: Copy + Default + Send + Sync + AddAssign + Mul<Output = Self> {
    /// The nearest number.
    fn of(value: f64) -> Self;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

/// From a plane, `[height, width]`, to another.
#[derive(Debug, Clone)]
pub struct Warp {
    from: [usize; 2],
    map: Map,
}

#[derive(Debug, Clone)]
enum Map {
    /// Every row of the result is a weighted sum of up to two rows, and every column of up to two columns.
    Axes([Vec<[(u32, f64); 2]>; 2]),
    /// Every pixel of the result, by rows, is a weighted sum of up to four pixels.
    Pixels(Vec<[(u32, f64); 4]>),
}

const NOTHING: (u32, f64) = (0, 0.0);

/// An image cut into strips, and these into pieces. Wang et al., *Boosting Adversarial Transferability by Block Shuffle and
/// Rotation* (arXiv 2308.10299).
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks {
    /// The axis on which strips lie behind each other: 0 where each is some rows, 1 where each is some columns.
    pub axis: usize,
    /// In their new order.
    pub strips: Vec<Strip>,
}

/// A part of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Strip {
    /// Where it comes from on the axis of the strips.
    pub from: Range<usize>,
    /// By how much it is turned around its centre, counter-clockwise.
    pub degrees: f64,
    /// Where its pieces come from on the other axis once it is turned, in their new order.
    pub pieces: Vec<Range<usize>>,
}

impl Blocks {
    /// Strips of random width along one random axis, each turned by a random angle of up to ± `degrees`, cut along the other axis
    /// into `blocks` pieces, strips and pieces in random order.
    pub fn draw(size: [usize; 2], blocks: usize, degrees: f64, random: &mut Random) -> Self {
        let axis = random.below(2);
        let mut strips = cuts(size[axis], blocks, random);
        random.shuffle(&mut strips);
        let strip = |from| {
            let degrees = (2.0 * random.unit() - 1.0) * degrees;
            let mut pieces = cuts(size[1 - axis], blocks, random);
            random.shuffle(&mut pieces);
            Strip { from, degrees, pieces }
        };
        Self { axis, strips: strips.into_iter().map(strip).collect() }
    }
}

impl Warp {
    /// A plane resized to `to` (bilinear, corners not aligned, as PyTorch's `interpolate`), whose upper left corner then lies
    /// at `corner` of a black plane of size `canvas`; all `[height, width]`.
    pub fn placed(from: [usize; 2], to: [usize; 2], corner: [usize; 2], canvas: [usize; 2]) -> Self {
        let axis = |axis: usize| -> Vec<[(u32, f64); 2]> {
            let (from, to, corner) = (from[axis], to[axis], corner[axis]);
            let source = |place: usize| {
                let Some(place) = place.checked_sub(corner).filter(|&place| place < to) else { return [NOTHING; 2] };
                let exact = ((place as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
                let first = (exact.floor() as usize).min(from - 1);
                let share = exact - first as f64;
                [(first as u32, 1.0 - share), ((first + 1).min(from - 1) as u32, share)]
            };
            (0..canvas[axis]).map(source).collect()
        };
        Self { from, map: Map::Axes([axis(0), axis(1)]) }
    }

    /// A plane of that size put together from its blocks. As the authors' code has it by torchvision's `rotate`, what comes from
    /// outside of a strip is black, and a pixel that comes from its edge is darkened once more by the share that comes from within.
    pub fn shuffled(size: [usize; 2], blocks: &Blocks) -> Self {
        let [height, width] = size;
        let outer = blocks.axis;
        let inner = 1 - outer;
        let place = |outer_value: usize, inner_value: usize| match outer {
            0 => [outer_value, inner_value],
            _ => [inner_value, outer_value],
        };
        let mut sums = vec![[NOTHING; 4]; height * width];
        let mut at_outer = 0;
        for Strip { from, degrees, pieces } in &blocks.strips {
            // Clockwise, from where a pixel comes.
            let turn = (-degrees.to_radians()).sin_cos();
            let corner = place(from.start, 0);
            let strip_size = place(from.len(), size[inner]);
            let mut at_inner = 0;
            for piece in pieces {
                for step_outer in 0..from.len() {
                    for (step_inner, from_inner) in piece.clone().enumerate() {
                        let [row, column] = place(at_outer + step_outer, at_inner + step_inner);
                        // Within the strip, which is turned as a whole.
                        let within = place(step_outer, from_inner);
                        sums[row * width + column] = turned(within, strip_size, turn, corner, width);
                    }
                }
                at_inner += piece.len();
            }
            at_outer += from.len();
        }
        Self { from: size, map: Map::Pixels(sums) }
    }

    /// The map of a plane.
    pub fn apply<T: Real>(&self, plane: &[T]) -> Vec<T> {
        match &self.map {
            Map::Pixels(sums) => sums
                .iter()
                .map(|sum| {
                    let mut value = T::default();
                    for &(from, weight) in sum {
                        value += T::of(weight) * plane[from as usize];
                    }
                    value
                })
                .collect(),
            Map::Axes([rows, columns]) => {
                let width = self.from[1];
                let mut new = Vec::with_capacity(rows.len() * columns.len());
                let mut blend = vec![T::default(); width];
                for [above, below] in rows {
                    let [first, second] =
                        [above, below].map(|(row, _)| &plane[*row as usize * width..(*row as usize + 1) * width]);
                    let weights = [T::of(above.1), T::of(below.1)];
                    for ((blend, first), second) in blend.iter_mut().zip(first).zip(second) {
                        *blend = weights[0] * *first;
                        *blend += weights[1] * *second;
                    }
                    new.extend(columns.iter().map(|[left, right]| {
                        let mut value = T::of(left.1) * blend[left.0 as usize];
                        value += T::of(right.1) * blend[right.0 as usize];
                        value
                    }));
                }
                new
            }
        }
    }

    /// The transposed map: from the gradient of the result to that of the plane.
    pub fn transpose<T: Real>(&self, gradient: &[T]) -> Vec<T> {
        let [height, width] = self.from;
        let mut of_plane = vec![T::default(); height * width];
        match &self.map {
            Map::Pixels(sums) => {
                for (sum, &gradient) in sums.iter().zip(gradient) {
                    for &(from, weight) in sum {
                        of_plane[from as usize] += T::of(weight) * gradient;
                    }
                }
            }
            Map::Axes([rows, columns]) => {
                let mut blend = vec![T::default(); width];
                for (row, gradient) in rows.iter().zip(gradient.chunks_exact(columns.len().max(1))) {
                    blend.fill(T::default());
                    for (column, &gradient) in columns.iter().zip(gradient) {
                        for &(from, weight) in column {
                            blend[from as usize] += T::of(weight) * gradient;
                        }
                    }
                    for &(from, weight) in row {
                        let weight = T::of(weight);
                        for (pixel, &blend) in of_plane[from as usize * width..][..width].iter_mut().zip(&blend) {
                            *pixel += weight * blend;
                        }
                    }
                }
            }
        }
        of_plane
    }
}

/// `count` neighbouring ranges of random length, of up to one to two, that fill `length`.
fn cuts(length: usize, count: usize, random: &mut Random) -> Vec<Range<usize>> {
    let shares: Vec<f64> = (0..count).map(|_| 1.0 + random.unit()).collect();
    let sum: f64 = shares.iter().sum();
    let mut end = 0.0;
    let mut start = 0;
    let range = |share: &f64| {
        end += share / sum;
        let range = start..((end * length as f64).round() as usize).clamp(start, length);
        start = range.end;
        range
    };
    shares.iter().map(range).collect()
}

/// The four neighbours, in the whole plane, of the point of a strip that comes to `place` when the strip is turned around its
/// centre by an angle of that sine and cosine.
fn turned(
    place: [usize; 2],
    size: [usize; 2],
    (sin, cos): (f64, f64),
    corner: [usize; 2],
    width: usize,
) -> [(u32, f64); 4] {
    let centre = size.map(|size| (size as f64 - 1.0) / 2.0);
    let [y, x] = [0, 1].map(|axis| place[axis] as f64 - centre[axis]);
    let [y, x] = [centre[0] + cos * y - sin * x, centre[1] + sin * y + cos * x];
    let (top, left) = (y.floor(), x.floor());
    let [below, right] = [y - top, x - left];
    let neighbours = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)].map(|(down, across)| {
        let (row, column) = (top + down, left + across);
        if row < 0.0 || column < 0.0 || row >= size[0] as f64 || column >= size[1] as f64 {
            return NOTHING;
        }
        let weight =
            (if down == 0.0 { 1.0 - below } else { below }) * (if across == 0.0 { 1.0 - right } else { right });
        (((corner[0] + row as usize) * width + corner[1] + column as usize) as u32, weight)
    });
    let within: f64 = neighbours.iter().map(|(_, weight)| weight).sum();
    neighbours.map(|(from, weight)| (from, weight * within))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane(count: usize) -> Vec<f64> {
        (0..count).map(|index| ((index * 37 + 11) % 101) as f64 / 101.0).collect()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn a_transpose_is_one() {
        let warps = [
            Warp::placed([9, 7], [6, 5], [2, 1], [9, 7]),
            Warp::placed([9, 7], [12, 10], [0, 0], [12, 10]),
            Warp::shuffled([9, 7], &Blocks::draw([9, 7], 3, 24.0, &mut Random::of(&[5]))),
        ];
        for warp in warps {
            let x = plane(63);
            let y = plane(warp.apply(&x).len());
            assert!((dot(&warp.apply(&x), &y) - dot(&x, &warp.transpose(&y))).abs() < 1e-9);
        }
    }

    /// Values of PyTorch's `interpolate(size=…, mode="bilinear")` of the row 0, 1, 4, 9.
    #[test]
    fn resizing_is_pytorchs() {
        let row = |to| Warp::placed([1, 4], [1, to], [0, 0], [1, to]).apply(&[0.0f64, 1.0, 4.0, 9.0]);
        let near = |actual: Vec<f64>, expected: &[f64]| {
            assert!(
                actual.iter().zip(expected).all(|(actual, expected)| (actual - expected).abs() < 1e-6),
                "{actual:?}"
            );
        };
        near(row(3), &[1.0 / 6.0, 2.5, 49.0 / 6.0]);
        near(row(6), &[0.0, 0.5, 1.5, 3.5, 6.5, 9.0]);
    }

    #[test]
    fn blocks_are_only_exchanged_where_nothing_turns() {
        let x = plane(12 * 10);
        for seed in 0..20 {
            let blocks = Blocks::draw([12, 10], 3, 0.0, &mut Random::of(&[seed]));
            let mut shuffled = Warp::shuffled([12, 10], &blocks).apply(&x);
            let mut whole = x.clone();
            shuffled.sort_by(f64::total_cmp);
            whole.sort_by(f64::total_cmp);
            assert_eq!(shuffled, whole);
        }
    }

    #[test]
    fn a_quarter_turn_of_a_square_is_exact() {
        let from = |row, column| {
            let neighbours = turned([row, column], [3, 3], std::f64::consts::FRAC_PI_2.sin_cos(), [0, 0], 3);
            neighbours.into_iter().find(|(_, weight)| *weight > 0.99).map(|(from, _)| from)
        };
        assert_eq!(from(0, 0), Some(6));
        assert_eq!(from(1, 1), Some(4));
    }

    #[test]
    fn cuts_fill_the_length() {
        for seed in 0..50 {
            let cuts = cuts(28, 3, &mut Random::of(&[seed]));
            assert_eq!(cuts.len(), 3);
            assert_eq!(cuts.iter().map(ExactSizeIterator::len).sum::<usize>(), 28);
            assert!(cuts.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }
}
