//! Linear maps of a plane's pixels: resizing, shifting, turning, exchanging blocks; and their transposes, by which a gradient
//! comes back.

use crate::random::Random;

/// Every pixel of the result is a weighted sum of up to four pixels of a plane, `[height, width]`.
#[derive(Debug, Clone)]
pub struct Warp {
    pixels: usize,
    /// Of each pixel of the result, by rows.
    sums: Vec<[(u32, f64); 4]>,
}

const NOTHING: [(u32, f64); 4] = [(0, 0.0); 4];

impl Warp {
    /// A plane resized to `to` (bilinear, corners not aligned, as PyTorch's `interpolate`), whose upper left corner then lies
    /// at `corner` of a black plane of size `canvas`; all `[height, width]`.
    pub fn placed(from: [usize; 2], to: [usize; 2], corner: [usize; 2], canvas: [usize; 2]) -> Self {
        // Of each place on an axis: two source places with their weights.
        let axis = |axis: usize| -> Vec<Option<[(usize, f64); 2]>> {
            let (from, to, corner) = (from[axis], to[axis], corner[axis]);
            let source = |place: usize| {
                let place = place.checked_sub(corner).filter(|&place| place < to)?;
                let exact = ((place as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0);
                let first = (exact.floor() as usize).min(from - 1);
                let share = exact - first as f64;
                Some([(first, 1.0 - share), ((first + 1).min(from - 1), share)])
            };
            (0..canvas[axis]).map(source).collect()
        };
        let (rows, columns) = (axis(0), axis(1));
        let mut sums = Vec::with_capacity(rows.len() * columns.len());
        for row in &rows {
            for column in &columns {
                sums.push(match (row, column) {
                    (Some([above, below]), Some([left, right])) => {
                        [(above, left), (above, right), (below, left), (below, right)]
                            .map(|(row, column)| ((row.0 * from[1] + column.0) as u32, row.1 * column.1))
                    }
                    _ => NOTHING,
                });
            }
        }
        Self { pixels: from[0] * from[1], sums }
    }

    /// The block shuffle and rotation of Wang et al. (arXiv 2308.10299): strips of random width along one random axis, each
    /// turned by a random angle of up to ± `degrees`, cut along the other axis into `blocks` pieces, strips and pieces in random
    /// order.
    pub fn shuffled(size: [usize; 2], blocks: usize, degrees: f64, random: &mut Random) -> Self {
        let [height, width] = size;
        let outer = random.below(2);
        let inner = 1 - outer;
        let mut strips = cuts(size[outer], blocks, random);
        random.shuffle(&mut strips);
        let mut sums = vec![NOTHING; height * width];
        let mut at_outer = 0;
        for strip in strips {
            let angle = ((2.0 * random.unit() - 1.0) * degrees).to_radians();
            let mut pieces = cuts(size[inner], blocks, random);
            random.shuffle(&mut pieces);
            let mut at_inner = 0;
            for piece in pieces {
                for (step_outer, from_outer) in strip.clone().enumerate() {
                    for (step_inner, from_inner) in piece.clone().enumerate() {
                        let place = |outer_value: usize, inner_value: usize| match outer {
                            0 => [outer_value, inner_value],
                            _ => [inner_value, outer_value],
                        };
                        let [row, column] = place(at_outer + step_outer, at_inner + step_inner);
                        // Within the strip, which is turned as a whole.
                        let within = place(from_outer - strip.start, from_inner);
                        let corner = place(strip.start, 0);
                        let strip_size = place(strip.len(), size[inner]);
                        sums[row * width + column] = turned(within, strip_size, angle, corner, width);
                    }
                }
                at_inner += piece.len();
            }
            at_outer += strip.len();
        }
        Self { pixels: height * width, sums }
    }

    /// The map of a plane.
    pub fn apply(&self, plane: &[f64]) -> Vec<f64> {
        self.sums.iter().map(|sum| sum.iter().map(|&(from, weight)| weight * plane[from as usize]).sum()).collect()
    }

    /// The transposed map: from the gradient of the result to that of the plane.
    pub fn transpose(&self, gradient: &[f64]) -> Vec<f64> {
        let mut of_plane = vec![0.0; self.pixels];
        for (sum, gradient) in self.sums.iter().zip(gradient) {
            for &(from, weight) in sum {
                of_plane[from as usize] += weight * gradient;
            }
        }
        of_plane
    }
}

/// `count` neighbouring ranges of random length, of up to one to two, that fill `length`.
fn cuts(length: usize, count: usize, random: &mut Random) -> Vec<std::ops::Range<usize>> {
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
/// centre; what comes from outside of the strip is black.
fn turned(place: [usize; 2], size: [usize; 2], angle: f64, corner: [usize; 2], width: usize) -> [(u32, f64); 4] {
    let centre = size.map(|size| (size as f64 - 1.0) / 2.0);
    let [y, x] = [0, 1].map(|axis| place[axis] as f64 - centre[axis]);
    let (sin, cos) = angle.sin_cos();
    let [y, x] = [centre[0] + cos * y - sin * x, centre[1] + sin * y + cos * x];
    let (top, left) = (y.floor(), x.floor());
    let [below, right] = [y - top, x - left];
    [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)].map(|(down, across)| {
        let (row, column) = (top + down, left + across);
        if row < 0.0 || column < 0.0 || row >= size[0] as f64 || column >= size[1] as f64 {
            return (0, 0.0);
        }
        let weight =
            (if down == 0.0 { 1.0 - below } else { below }) * (if across == 0.0 { 1.0 - right } else { right });
        (((corner[0] + row as usize) * width + corner[1] + column as usize) as u32, weight)
    })
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
            Warp::shuffled([9, 7], 3, 24.0, &mut Random::of(&[5])),
        ];
        for warp in warps {
            let (x, y) = (plane(63), plane(warp.sums.len()));
            assert!((dot(&warp.apply(&x), &y) - dot(&x, &warp.transpose(&y))).abs() < 1e-9);
        }
    }

    /// Values of PyTorch's `interpolate(size=…, mode="bilinear")` of the row 0, 1, 4, 9.
    #[test]
    fn resizing_is_pytorchs() {
        let row = |to| Warp::placed([1, 4], [1, to], [0, 0], [1, to]).apply(&[0.0, 1.0, 4.0, 9.0]);
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
            let mut shuffled = Warp::shuffled([12, 10], 3, 0.0, &mut Random::of(&[seed])).apply(&x);
            let mut whole = x.clone();
            shuffled.sort_by(f64::total_cmp);
            whole.sort_by(f64::total_cmp);
            assert_eq!(shuffled, whole);
        }
    }

    #[test]
    fn a_quarter_turn_of_a_square_is_exact() {
        let from = |row, column| {
            let neighbours = turned([row, column], [3, 3], std::f64::consts::FRAC_PI_2, [0, 0], 3);
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
