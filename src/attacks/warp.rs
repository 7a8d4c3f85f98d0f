//! Linear maps of a plane's pixels: resizing, shifting, turning, exchanging blocks; and their transposes, by which a gradient
//! comes back.

use super::bands::{self, Band, Entry, composed};
use super::blocks::{Blocks, Tiles};
use super::sums::Real;

/// From a plane, `[height, width]`, to another.
#[derive(Debug, Clone)]
pub enum Warp {
    /// Resized and shifted: along rows and columns alone.
    Axes(Box<Axes>),
    /// Blocks, each of which is turned.
    Blocks(Tiles),
}

/// What is done with rows and with columns.
#[derive(Debug, Clone)]
pub struct Axes {
    from: [usize; 2],
    to: [usize; 2],
    there: [Band; 2],
    /// Their transposes.
    back: [Band; 2],
}

impl Warp {
    /// A plane resized to `to` (bilinear, corners not aligned, as PyTorch's `interpolate`), whose upper left corner then lies at `corner`
    /// of a black plane of size `canvas`, which is resized to the first one's `size`; all `[height, width]`.
    pub fn placed(size: [usize; 2], to: [usize; 2], corner: [usize; 2], canvas: [usize; 2]) -> Self {
        Self::of_axes(size, size, |axis| {
            let placed = resized(size[axis], to[axis], corner[axis], canvas[axis]);
            composed(&placed, canvas[axis], &resized(canvas[axis], size[axis], 0, size[axis]))
        })
    }

    fn of_axes(from: [usize; 2], to: [usize; 2], entries: impl Fn(usize) -> Vec<Entry>) -> Self {
        let axes = [0, 1].map(entries);
        let sides = |axis: usize| [to[axis], from[axis]];
        let there = [0, 1].map(|axis| Band::new(&axes[axis], sides(axis)));
        let back = [0, 1].map(|axis| Band::transposed(&axes[axis], sides(axis)));
        Self::Axes(Box::new(Axes { from, to, there, back }))
    }

    /// A plane of that size put together from its blocks. As the authors' code has it by torchvision's `rotate`, what comes from
    /// outside of a strip is black, and a pixel that comes from its edge is darkened once more by the share that comes from within.
    pub fn shuffled(size: [usize; 2], blocks: &Blocks) -> Self {
        Self::Blocks(Tiles::new(size, blocks))
    }

    /// The map of one or more planes, one behind the other.
    pub fn apply<T: Real>(&self, planes: &[T]) -> Vec<T> {
        match self {
            Self::Axes(axes) => bands::apply(&axes.there, planes, axes.from),
            Self::Blocks(tiles) => tiles.apply(planes),
        }
    }

    /// The transposed map: from the gradients of the results to those of the planes.
    pub fn transpose<T: Real>(&self, gradients: &[T]) -> Vec<T> {
        match self {
            Self::Axes(axes) => bands::apply(&axes.back, gradients, axes.to),
            Self::Blocks(tiles) => tiles.transpose(gradients),
        }
    }
}

/// The entries of an axis that is resized and then placed.
fn resized(from: usize, to: usize, corner: usize, canvas: usize) -> Vec<Entry> {
    let of_place = |place: usize| {
        let exact = ((place as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
        let first = (exact.floor() as usize).min(from - 1);
        let share = exact - first as f64;
        [(place + corner, first, 1.0 - share), (place + corner, (first + 1).min(from - 1), share)]
    };
    let inside = |&(place, _, weight): &Entry| place < canvas && weight != 0.0;
    (0..to).flat_map(of_place).filter(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// A plane resized and placed on a canvas that stays as it is.
    fn placed(from: [usize; 2], to: [usize; 2], corner: [usize; 2], canvas: [usize; 2]) -> Warp {
        Warp::of_axes(from, canvas, |axis| resized(from[axis], to[axis], corner[axis], canvas[axis]))
    }

    fn planes(count: usize) -> Vec<f64> {
        (0..count).map(|index| ((index * 37 + 11) % 101) as f64 / 101.0).collect()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn a_transpose_is_one() {
        let size = [9, 7];
        let warps = [
            placed(size, [6, 5], [2, 1], size),
            placed(size, [12, 10], [0, 0], [12, 10]),
            Warp::placed(size, [10, 8], [1, 2], [12, 10]),
            Warp::placed(size, [30, 25], [3, 0], [36, 28]),
            Warp::shuffled(size, &Blocks::draw(size, 3, 24.0, &mut Random::of(&[5]))),
            Warp::shuffled(size, &Blocks::draw(size, 4, 24.0, &mut Random::of(&[6]))),
        ];
        for warp in warps {
            let x = planes(2 * 63);
            let y = planes(warp.apply(&x).len());
            assert!((dot(&warp.apply(&x), &y) - dot(&x, &warp.transpose(&y))).abs() < 1e-9);
            // Planes have nothing to do with each other.
            let each = x.chunks_exact(63).flat_map(|x| warp.apply(x)).collect::<Vec<f64>>();
            assert_eq!(each, warp.apply(&x));
        }
    }

    /// Values of PyTorch's `interpolate(size=…, mode="bilinear")` of the row 0, 1, 4, 9.
    #[test]
    fn resizing_is_pytorchs() {
        let row = |to| placed([1, 4], [1, to], [0, 0], [1, to]).apply(&[0.0f64, 1.0, 4.0, 9.0]);
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
    fn two_maps_in_one_are_the_one_after_the_other() {
        let (size, x) = ([9, 7], planes(63));
        for (to, corner, canvas) in [([10, 8], [1, 2], [12, 10]), ([9, 7], [0, 0], [9, 7]), ([5, 4], [4, 0], [9, 7])] {
            let there = placed(size, to, corner, canvas);
            let back = placed(canvas, size, [0, 0], size);
            let both = Warp::placed(size, to, corner, canvas);
            let pairs = [
                (both.apply(&x), back.apply(&there.apply(&x))),
                (both.transpose(&x), there.transpose(&back.transpose(&x))),
            ];
            for (actual, expected) in pairs {
                assert_eq!(actual.len(), 63);
                assert!(actual.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12), "{actual:?}, {expected:?}");
            }
        }
    }
}
