//! Images cut into blocks that are exchanged and turned. Wang et al., *Boosting Adversarial Transferability by Block Shuffle and
//! Rotation* (arXiv 2308.10299).

use std::ops::Range;

use super::sums::Real;
use crate::random::Random;

/// An image cut into strips, and these into pieces.
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

/// The blocks of a plane, of which every pixel is a weighted sum of up to four. Where these lie is computed anew, a row of a
/// block at a time, whenever planes are mapped: kept, it would be several times as large as the planes.
#[derive(Debug, Clone)]
pub struct Tiles {
    size: [usize; 2],
    tiles: Vec<Tile>,
}

/// A block in the plane that is put together. Pairs are of rows and of columns.
#[derive(Debug, Clone)]
struct Tile {
    /// Where it lies.
    start: [usize; 2],
    size: [usize; 2],
    /// Where its first pixel comes from in its strip, once that is turned.
    within: [usize; 2],
    /// Where the strip lies in the plane that it comes from.
    strip_start: [usize; 2],
    strip_size: [usize; 2],
    /// Sine and cosine of the angle, clockwise, by which a pixel is turned to where it comes from.
    turn: (f64, f64),
}

/// Where a pixel comes from: four neighbours, as far apart as [`Tile::steps`] says.
#[derive(Debug, Clone, Copy)]
struct Sources<T> {
    first: usize,
    weights: [T; 4],
}

impl Tiles {
    /// The blocks of a plane, `[height, width]`.
    pub fn new(size: [usize; 2], blocks: &Blocks) -> Self {
        let outer = blocks.axis;
        let pair = |of_outer: usize, of_inner: usize| match outer {
            0 => [of_outer, of_inner],
            _ => [of_inner, of_outer],
        };
        let mut tiles = Vec::new();
        let mut at_outer = 0;
        for Strip { from, degrees, pieces } in &blocks.strips {
            let mut at_inner = 0;
            for piece in pieces {
                tiles.push(Tile {
                    start: pair(at_outer, at_inner),
                    size: pair(from.len(), piece.len()),
                    within: pair(0, piece.start),
                    strip_start: pair(from.start, 0),
                    strip_size: pair(from.len(), size[1 - outer]),
                    turn: (-degrees.to_radians()).sin_cos(),
                });
                at_inner += piece.len();
            }
            at_outer += from.len();
        }
        Self { size, tiles }
    }

    /// Planes, one behind the other, put together from their blocks.
    pub fn apply<T: Real>(&self, planes: &[T]) -> Vec<T> {
        let mut new = vec![T::default(); planes.len()];
        self.each_run(|start, steps, run: &[Sources<T>]| {
            for (plane, new) in planes.chunks_exact(self.pixels()).zip(new.chunks_exact_mut(self.pixels())) {
                for (new, sources) in new[start..].iter_mut().zip(run) {
                    let mut sum = T::default();
                    for (step, weight) in steps.into_iter().zip(sources.weights) {
                        sum += weight * plane[sources.first + step];
                    }
                    *new = sum;
                }
            }
        });
        new
    }

    /// From the gradients of the results to those of the planes.
    pub fn transpose<T: Real>(&self, gradients: &[T]) -> Vec<T> {
        let mut of_planes = vec![T::default(); gradients.len()];
        self.each_run(|start, steps, run: &[Sources<T>]| {
            let planes = gradients.chunks_exact(self.pixels()).zip(of_planes.chunks_exact_mut(self.pixels()));
            for (gradient, of_plane) in planes {
                for (&gradient, sources) in gradient[start..].iter().zip(run) {
                    for (step, weight) in steps.into_iter().zip(sources.weights) {
                        of_plane[sources.first + step] += weight * gradient;
                    }
                }
            }
        });
        of_planes
    }

    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Calls `of_run` for each row of each block, with where it begins in the plane, how far the four sources of a pixel are from the first
    /// of them, and the sources of its pixels.
    fn each_run<T: Real>(&self, mut of_run: impl FnMut(usize, [usize; 4], &[Sources<T>])) {
        let width = self.size[1];
        let mut run = Vec::with_capacity(width);
        for tile in &self.tiles {
            for row in 0..tile.size[0] {
                run.clear();
                run.extend(tile.sources::<T>(row, width));
                of_run((tile.start[0] + row) * width + tile.start[1], tile.steps(width), &run);
            }
        }
    }
}

impl Tile {
    /// How far the four neighbours of a point are from the first of them in a plane of that width. A strip of one row or column has no
    /// second one, and none of its points wants any.
    fn steps(&self, width: usize) -> [usize; 4] {
        let [down, across] = [0, 1].map(|axis| usize::from(self.strip_size[axis] > 1));
        [0, across, down * width, down * width + across]
    }

    /// Of each pixel of a `row` of the block, the neighbours, in a plane of that width, of where it comes from when the strip is turned
    /// around its centre. What is outside of the strip has no weight.
    fn sources<T: Real>(&self, row: usize, width: usize) -> impl Iterator<Item = Sources<T>> {
        let (sin, cos) = self.turn;
        let centre = self.strip_size.map(|size| (size as f64 - 1.0) / 2.0);
        let y = (self.within[0] + row) as f64 - centre[0];
        let left = self.within[1] as f64 - centre[1];
        let start = [centre[0] + cos * y, centre[1] + sin * y];
        let [height_of_strip, width_of_strip] = self.strip_size;
        let first = self.strip_start[0] * width + self.strip_start[1];
        (0..self.size[1] as u32).map(move |column| {
            let x = left + f64::from(column);
            let (row, rows) = neighbours(start[0] - sin * x, height_of_strip);
            let (column, columns) = neighbours(start[1] + cos * x, width_of_strip);
            let within = (rows[0] + rows[1]) * (columns[0] + columns[1]);
            let rows = rows.map(|weight| weight * within);
            let weights = [rows[0] * columns[0], rows[0] * columns[1], rows[1] * columns[0], rows[1] * columns[1]];
            Sources { first: first + row * width + column, weights: weights.map(T::of) }
        })
    }
}

/// Added to a number, it leaves the nearest whole number in the lowest bits: in less time than conversions take.
const ROUNDER: f64 = 1.5 * (1u64 << 52) as f64;

/// The first of two places on an axis of that size between which a position is, and the weights of both; a place that is not on the axis
/// has none.
#[inline(always)]
fn neighbours(position: f64, size: usize) -> (usize, [f64; 2]) {
    // Whole numbers may be taken for the end of a step as well as for the beginning of the next.
    let shifted = position - 0.5 + ROUNDER;
    let first = shifted.to_bits() as i32;
    let share = position - (shifted - ROUNDER);
    let last = size as i32 - 1;
    if (0..last).contains(&first) {
        (first as usize, [1.0 - share, share])
    } else if first == -1 {
        (0, [share, 0.0])
    } else if first != last {
        (0, [0.0; 2])
    } else if last == 0 {
        (0, [1.0 - share, 0.0])
    } else {
        (size - 2, [0.0, 1.0 - share])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_only_exchanged_where_nothing_turns() {
        let x: Vec<f64> = (0..12 * 10).map(|index| f64::from((index * 37 + 11) % 101) / 101.0).collect();
        for seed in 0..20 {
            let blocks = Blocks::draw([12, 10], 3, 0.0, &mut Random::of(&[seed]));
            let mut shuffled = Tiles::new([12, 10], &blocks).apply(&x);
            let mut whole = x.clone();
            shuffled.sort_by(f64::total_cmp);
            whole.sort_by(f64::total_cmp);
            assert_eq!(shuffled, whole);
        }
    }

    #[test]
    fn a_quarter_turn_of_a_square_is_exact() {
        let strip = Strip { from: 0..3, degrees: 90.0, pieces: std::iter::once(0..3).collect() };
        let turned = Tiles::new([3, 3], &Blocks { axis: 0, strips: vec![strip] });
        // Counter-clockwise: the last column becomes the first row.
        let turned = turned.apply(&[0.0f64, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let expected = [2.0, 5.0, 8.0, 1.0, 4.0, 7.0, 0.0, 3.0, 6.0];
        assert!(turned.iter().zip(expected).all(|(turned, expected)| (turned - expected).abs() < 1e-9), "{turned:?}");
    }

    #[test]
    fn more_blocks_than_pixels_leave_some_empty() {
        for seed in 0..20 {
            let blocks = Blocks::draw([3, 2], 5, 24.0, &mut Random::of(&[seed]));
            assert_eq!(Tiles::new([3, 2], &blocks).apply(&[1.0f32; 6]).len(), 6);
        }
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
