//! Position tables of another image size.

use super::Checkpoint;
use crate::interpolation::Interpolation;

impl Checkpoint {
    /// Brings learnt positions, `[1, prefix + place, channel]` with the places of a square row by row, to another number of
    /// rows and columns, if they have not that many places already; those of the `prefix` tokens before them stay (timm's
    /// `resample_abs_pos_embed`).
    pub fn resample_positions(&mut self, name: &str, prefix: usize, [rows, columns]: [usize; 2]) {
        let Some(&[1, tokens, channels]) = self.shape(name) else {
            return;
        };
        let side = tokens.saturating_sub(prefix).isqrt();
        if prefix + side * side != tokens || prefix + rows * columns == tokens {
            return;
        }
        let matrices = [rows, columns].map(|to| Interpolation::AntialiasedBicubic.matrix(side, to));
        self.compute(name, &[1, prefix + rows * columns, channels], move |values| {
            let (first, places) = values.split_at(prefix * channels);
            [first.to_vec(), in_both_directions(&matrices, places, side, channels)].concat()
        });
    }

    /// The same for positions that are kept as an image, `[1, channel, row, column]`.
    pub fn resample_position_planes(&mut self, name: &str, [rows, columns]: [usize; 2]) {
        let Some(&[1, channels, height, width]) = self.shape(name) else {
            return;
        };
        if [height, width] == [rows, columns] {
            return;
        }
        let matrices =
            [(height, rows), (width, columns)].map(|(from, to)| Interpolation::AntialiasedBicubic.matrix(from, to));
        self.compute(name, &[1, channels, rows, columns], move |values| {
            values
                .chunks_exact(height * width)
                .flat_map(|plane| in_both_directions(&matrices, plane, width, 1))
                .collect()
        });
    }

    /// The same for positions in square blocks, `[1, block, place, channel]` with the blocks of a square row by row, whose
    /// sides become `side` places each (`resize_pos_embed` of timm's NesT).
    pub fn resample_block_positions(&mut self, name: &str, side: usize) {
        let Some(&[1, blocks, places, channels]) = self.shape(name) else {
            return;
        };
        let (across, before) = (blocks.isqrt(), places.isqrt());
        if across * across != blocks || before * before != places || before == side {
            return;
        }
        let matrix = Interpolation::Bicubic.matrix(across * before, across * side);
        self.compute(name, &[1, blocks, side * side, channels], move |values| {
            let mut image = vec![0.0; values.len()];
            for (place, values) in in_blocks(across, before).zip(values.chunks_exact(channels)) {
                image[place * channels..][..channels].copy_from_slice(values);
            }
            let matrices = [&matrix; 2];
            let image = in_both_directions(&matrices, &image, across * before, channels);
            in_blocks(across, side).flat_map(|place| &image[place * channels..][..channels]).copied().collect()
        });
    }

    /// Brings a table of the relative positions within a square window, `[(2 · window − 1)², head]` row by row, to a window of
    /// so many rows and columns, if it has not that many already (timm's `resize_rel_pos_bias_table`).
    pub fn resample_relative_positions(&mut self, name: &str, window: usize) {
        let Some(&[distances, heads]) = self.shape(name) else {
            return;
        };
        let (before, after) = (distances.isqrt(), 2 * window - 1);
        if before * before != distances || before.is_multiple_of(2) || before == after {
            return;
        }
        let matrix = of_distances(before / 2, after / 2);
        self.compute(name, &[after * after, heads], move |values| {
            in_both_directions(&[&matrix; 2], &values, before, heads)
        });
    }
}

/// Places of `[row, column, channel]` of so many columns, by a matrix `[to, from]` for the rows and one for the columns.
fn in_both_directions(
    [down, across]: &[impl AsRef<[f64]>; 2],
    values: &[f64],
    columns: usize,
    channels: usize,
) -> Vec<f64> {
    let rows = along(down.as_ref(), values, columns * channels);
    rows.chunks_exact(columns * channels).flat_map(|row| along(across.as_ref(), row, channels)).collect()
}

/// A matrix `[to, from]` times `[from, inner]`, in row-major order.
fn along(matrix: &[f64], values: &[f64], inner: usize) -> Vec<f64> {
    let from = values.len() / inner;
    let row = |weights: &[f64]| {
        let mut sums = vec![0.0; inner];
        for (weight, values) in weights.iter().zip(values.chunks_exact(inner)) {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
        }
        sums
    };
    matrix.chunks_exact(from).flat_map(row).collect()
}

/// The places of an image block by block: `across` blocks in each direction, of `side` rows and columns.
fn in_blocks(across: usize, side: usize) -> impl Iterator<Item = usize> {
    let area = side * side;
    (0..across * across * area).map(move |number| {
        let (block, place) = (number / area, number % area);
        let (row, column) = (block / across * side + place / side, block % across * side + place % side);
        row * across * side + column
    })
}

/// The matrix `[to, from]` from values at the distances −`before` … `before` to those at −`after` … `after`.
///
/// The old distances are spread over the new ones as a geometric progression, so that near ones stay what they are and far
/// ones move; between them it is linear (Bao et al. 2021, BEiT).
fn of_distances(before: usize, after: usize) -> Vec<f64> {
    let sum = |ratio: f64| (1.0 - ratio.powi(before as i32)) / (1.0 - ratio);
    let (mut low, mut high, mut ratio) = (1.01, 1.5, 0.0);
    while high - low > 1e-6 {
        ratio = (low + high) / 2.0;
        if sum(ratio) > after as f64 {
            high = ratio;
        } else {
            low = ratio;
        }
    }
    let spread: Vec<f64> = (1..=before).map(|step| (1.0 - ratio.powi(step as i32)) / (1.0 - ratio)).collect();
    let old: Vec<f64> = spread.iter().rev().map(|distance| -distance).chain([0.0]).chain(spread.clone()).collect();
    let mut matrix = vec![0.0; (2 * after + 1) * old.len()];
    for (number, row) in matrix.chunks_exact_mut(old.len()).enumerate() {
        let distance = number as f64 - after as f64;
        let right = old.partition_point(|&old| old < distance).min(old.len() - 1);
        let left = right.saturating_sub(1);
        // Beyond the last, nothing is nearer than it.
        let to_left = (distance - old[left]).max(0.0);
        let to_right = (old[right] - distance).max(0.0);
        if to_left + to_right == 0.0 {
            row[right] = 1.0;
        } else {
            row[left] += to_right / (to_left + to_right);
            row[right] += to_left / (to_left + to_right);
        }
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of the values n² modulo 7 under a name and shape.
    fn resampled(shape: &[usize], resample: impl Fn(&mut Checkpoint)) -> (Vec<usize>, Vec<f64>) {
        let count: usize = shape.iter().product();
        let mut checkpoint = Checkpoint::new([("x".into(), shape.to_vec())]);
        resample(&mut checkpoint);
        let read = |_: &str| Ok::<_, ()>((0..count).map(|n| (n * n % 7) as f64).collect());
        (checkpoint.shape("x").unwrap().to_vec(), checkpoint.values("x", read).unwrap())
    }

    /// timm rounds to single precision on its way.
    fn assert_close(found: &[f64], expected: &[f64]) {
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close && found.len() == expected.len(), "{found:?} is not {expected:?}");
    }

    #[test]
    fn planes_of_positions_are_resampled_as_by_pytorch() {
        let (shape, found) = resampled(&[1, 2, 3, 3], |x| x.resample_position_planes("x", [2, 4]));
        assert_eq!(shape, [1, 2, 2, 4]);
        // torch.nn.functional.interpolate(torch.arange(18).pow(2).remainder(7).reshape(1, 2, 3, 3).double(), size=(2, 4),
        // mode="bicubic", antialias=True)
        let expected = [
            0.703912, 0.983817, 2.482711, 4.260919, 1.466232, 0.905692, 1.180418, 2.118181, 4.25572, 2.518395,
            1.232306, 1.203721, 2.004815, 2.707572, 2.33961, 1.131609,
        ];
        assert_close(&found, &expected);
    }

    #[test]
    fn positions_are_resampled_as_by_timm() {
        let (shape, found) = resampled(&[1, 10, 2], |x| x.resample_positions("x", 1, [2, 4]));
        assert_eq!(shape, [1, 9, 2]);
        // v = lambda n: torch.arange(n).pow(2).remainder(7).double()
        // resample_abs_pos_embed(v(20).reshape(1, 10, 2), [2, 4], [3, 3])
        let expected = [
            0.0, 1.0, 3.046298, 2.795153, 2.304598, 3.336458, 1.923112, 2.187733, 2.141001, 0.069128, 0.069128,
            2.141001, 2.187733, 1.923112, 3.336458, 2.304597, 2.795153, 3.046298,
        ];
        assert_close(&found, &expected);
    }

    #[test]
    fn block_positions_are_resampled_as_by_timm() {
        let (shape, found) = resampled(&[1, 4, 4, 1], |x| x.resample_block_positions("x", 3));
        assert_eq!(shape, [1, 4, 9, 1]);
        // resize_pos_embed(v(16).reshape(1, 4, 4, 1).float(), torch.zeros(1, 4, 9, 1))
        let expected = [
            -0.456634, 0.17296, 1.151797, 2.365344, 1.805664, 1.203017, 4.028711, 3.247251,
            2.164378, // the first block
            1.744036, 3.327041, 4.54344, 1.155708, 1.553711, 1.965929, 1.670524, 0.51143, -0.344058, //
            1.196985, 2.658999, 4.173514, 1.047852, 2.288086, 3.248951, 2.109412, 2.160374, 1.468442, //
            4.213375, 2.342738, 0.516876, 2.548575, 1.602539, 0.990669, -0.156735, 0.122613, 1.116946,
        ];
        assert_close(&found, &expected);
    }

    #[test]
    fn relative_positions_are_resampled_as_by_timm() {
        let (shape, found) = resampled(&[25, 2], |x| x.resample_relative_positions("x", 2));
        assert_eq!(shape, [9, 2]);
        // resize_rel_pos_bias_table(v(50).reshape(25, 2), (2, 2), (9, 2))
        let expected = [4.0, 1.0, 0.0, 1.0, 4.0, 2.0, 1.0, 4.0, 2.0, 2.0, 4.0, 1.0, 2.0, 4.0, 1.0, 0.0, 1.0, 4.0];
        assert_close(&found, &expected);
        let rows = of_distances(3, 4);
        let rows: Vec<f64> =
            rows.chunks_exact(7).map(|row| (0..7).map(|n| row[n] * (n * n % 7) as f64).sum()).collect();
        // resize_rel_pos_bias_table(v(7).reshape(7, 1).expand(7, 7).reshape(49, 1), (5, 5), (81, 1)).reshape(9, 9)[:, 0]
        assert_close(&rows, &[0.0, 0.589198, 1.697225, 4.0, 2.0, 2.0, 3.535183, 2.767593, 1.0]);
    }

    #[test]
    fn what_fits_stays_and_what_is_no_square_is_left() {
        let mut checkpoint = Checkpoint::new([("a".into(), vec![1, 10, 2]), ("b".into(), vec![24, 1])]);
        checkpoint.resample_positions("a", 1, [3, 3]);
        checkpoint.resample_relative_positions("b", 2);
        assert_eq!(checkpoint.unchanged("a"), Some("a"));
        assert_eq!(checkpoint.unchanged("b"), Some("b"));
    }
}
