//! Position tables of another image size, and patches of another size.

use super::Checkpoint;
use crate::interpolation::Interpolation;

/// The largest patch that is brought to another size, in pixels.
const LARGEST_PATCH: usize = 256;

impl Checkpoint {
    /// Brings learnt positions, `[1, prefix + place, channel]` with the places of a square row by row, to another number of
    /// rows and columns; those of the `prefix` tokens before them stay (timm's `resample_abs_pos_embed`). Places of no square
    /// are left as they are.
    pub fn resample_positions(&mut self, name: &str, prefix: usize, [rows, columns]: [usize; 2]) {
        let Some(&[1, tokens, channels]) = self.shape(name) else {
            return;
        };
        let side = tokens.saturating_sub(prefix).isqrt();
        // Without numbers a file can claim any number of places.
        if side == 0 || channels == 0 || prefix + side * side != tokens || [rows, columns] == [side; 2] {
            return;
        }
        let matrices = [rows, columns].map(|to| Interpolation::AntialiasedBicubic.matrix(side, to));
        self.compute(name, &[1, prefix + rows * columns, channels], move |values| {
            let (first, places) = values.split_at(prefix * channels);
            [first.to_vec(), in_both_directions(&matrices, places, side, channels)].concat()
        });
    }

    /// Brings a table of the relative positions within a square window, `[(2 · side − 1)², head]` row by row, to a window of so
    /// many rows and columns, if it has not that many already (timm's `resize_rel_pos_bias_table`).
    pub fn resample_relative_positions(&mut self, name: &str, window: [usize; 2]) {
        let Some(&[distances, heads]) = self.shape(name) else {
            return;
        };
        let (before, after) = (distances.isqrt(), window.map(|side| 2 * side - 1));
        if heads == 0 || before * before != distances || before.is_multiple_of(2) || [before; 2] == after {
            return;
        }
        let matrices = after.map(|after| of_distances(before / 2, after / 2));
        self.compute(name, &[after[0] * after[1], heads], move |values| {
            in_both_directions(&matrices, &values, before, heads)
        });
    }

    /// Brings the weight of a convolution over patches, `[output, channel, row, column]`, to patches of another size, if they
    /// have not that size already, and notes it: of a patch that is resized it gives what it gave of the patch itself, as nearly
    /// as can be (Beyer et al. 2023, *FlexiViT*, arXiv 2212.08013; timm's `resample_patch_embed`).
    pub fn resample_patches(&mut self, name: &str, size: usize) {
        let Some(&[outputs, channels, rows, columns]) = self.shape(name) else {
            return;
        };
        if [rows, columns] == [size; 2] || ![rows, columns].iter().all(|side| (1..=LARGEST_PATCH).contains(side)) {
            return;
        }
        let matrices = [rows, columns]
            .map(|from| transposed_pseudoinverse(&Interpolation::AntialiasedBicubic.matrix(from, size), from));
        self.compute(name, &[outputs, channels, size, size], move |values| {
            let planes = values.chunks_exact(rows * columns);
            planes.flat_map(|plane| in_both_directions(&matrices, plane, columns, 1)).collect()
        });
        self.notes.push(format!(
            "{name} was made for patches of {rows} × {columns} pixels and resampled for {size} × {size}, as timm does: \
             the network is no longer the one that was trained"
        ));
    }
}

/// The transposed pseudoinverse of a matrix `[to, from]` whose rows or columns, whichever are fewer, are independent; of the
/// same shape.
fn transposed_pseudoinverse(matrix: &[f64], from: usize) -> Vec<f64> {
    let to = matrix.len() / from;
    if to > from {
        return transposed(&transposed_pseudoinverse(&transposed(matrix, from), to), to);
    }
    // (R · Rᵀ)⁻¹ · R by elimination in [R · Rᵀ | R]. The product is symmetric and positive, so that no rows need be exchanged.
    let rows: Vec<&[f64]> = matrix.chunks_exact(from).collect();
    let product = |row: &[f64], other: &[f64]| row.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
    let mut system: Vec<Vec<f64>> = rows
        .iter()
        .map(|&row| rows.iter().map(|&other| product(row, other)).chain(row.iter().copied()).collect())
        .collect();
    for pivot in 0..to {
        let scale = system[pivot][pivot].recip();
        system[pivot].iter_mut().for_each(|value| *value *= scale);
        let chosen = system[pivot].clone();
        for (_, row) in system.iter_mut().enumerate().filter(|(number, _)| *number != pivot) {
            let factor = row[pivot];
            row.iter_mut().zip(&chosen).for_each(|(value, other)| *value -= factor * other);
        }
    }
    system.iter().flat_map(|row| &row[to..]).copied().collect()
}

/// A matrix of so many columns, rows and columns exchanged.
fn transposed(matrix: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| matrix.iter().skip(column).step_by(columns)).copied().collect()
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
        // resample_abs_pos_embed(v(17).reshape(1, 17, 1), [2, 8], [4, 4]): as many places, but others
        let (_, found) = resampled(&[1, 17, 1], |x| x.resample_positions("x", 1, [2, 8]));
        let expected = [
            0.0, 2.753403, 2.728057, 2.674973, 2.218008, 1.360892, 1.15264, 1.564306, 1.758386, 2.898517, 2.375943,
            1.268942, 0.785931, 1.004746, 1.864267, 3.265941, 3.927807,
        ];
        assert_close(&found, &expected);
    }

    #[test]
    fn relative_positions_are_resampled_as_by_timm() {
        let (shape, found) = resampled(&[25, 2], |x| x.resample_relative_positions("x", [2, 2]));
        assert_eq!(shape, [9, 2]);
        // resize_rel_pos_bias_table(v(50).reshape(25, 2), (2, 2), (9, 2))
        let expected = [4.0, 1.0, 0.0, 1.0, 4.0, 2.0, 1.0, 4.0, 2.0, 2.0, 4.0, 1.0, 2.0, 4.0, 1.0, 0.0, 1.0, 4.0];
        assert_close(&found, &expected);
        // resize_rel_pos_bias_table(v(25).reshape(25, 1), (4, 2), (21, 1)): no square, whose columns become fewer
        let (shape, found) = resampled(&[25, 1], |x| x.resample_relative_positions("x", [4, 2]));
        assert_eq!(shape, [21, 1]);
        let expected = [
            1.0, 4.0, 2.0, 1.0, 2.666668, 1.666667, 1.0, 0.0, 1.0, 2.0, 4.0, 1.0, 4.0, 2.0, 2.0, 1.333332, 1.333333,
            3.333334, 0.0, 1.0, 4.0,
        ];
        assert_close(&found, &expected);
        // The same to (2, 3), (15, 1): columns that stay as many are not quite what they were.
        let (_, found) = resampled(&[25, 1], |x| x.resample_relative_positions("x", [2, 3]));
        let expected =
            [3.970294, 1.0, 0.0, 1.0, 3.970294, 2.0, 2.0, 4.0, 1.0, 0.009902, 1.029706, 4.0, 2.0, 2.0, 3.980196];
        assert_close(&found, &expected);
        let rows = of_distances(3, 4);
        let rows: Vec<f64> =
            rows.chunks_exact(7).map(|row| (0..7).map(|n| row[n] * (n * n % 7) as f64).sum()).collect();
        // resize_rel_pos_bias_table(v(7).reshape(7, 1).expand(7, 7).reshape(49, 1), (5, 5), (81, 1)).reshape(9, 9)[:, 0]
        assert_close(&rows, &[0.0, 0.589198, 1.697225, 4.0, 2.0, 2.0, 3.535183, 2.767593, 1.0]);
    }

    #[test]
    fn patches_are_resampled_as_by_timm() {
        // resample_patch_embed(v(18).reshape(1, 2, 3, 3), (2, 2)), and v(8).reshape(1, 2, 2, 2) to (4, 4)
        let (shape, found) = resampled(&[1, 2, 3, 3], |x| x.resample_patches("x", 2));
        assert_eq!(shape, [1, 2, 2, 2]);
        assert_close(&found, &[0.535496, 9.01825, 2.591507, 2.677744, 8.479964, 1.335617, 5.042427, 4.195468]);
        let (shape, found) = resampled(&[1, 2, 2, 2], |x| x.resample_patches("x", 4));
        assert_eq!(shape, [1, 2, 4, 4]);
        let expected = [
            -0.251072, -0.119087, 0.14263, 0.274616, 0.137445, 0.181685, 0.269411, 0.313652, 0.907847, 0.778096,
            0.520808, 0.391057, 1.296363, 1.078868, 0.647589, 0.430093, 0.430093, 0.647589, 1.078868, 1.296363,
            0.391057, 0.520808, 0.778096, 0.907847, 0.313652, 0.269411, 0.181685, 0.137445, 0.274616, 0.14263,
            -0.119087, -0.251072,
        ];
        assert_close(&found, &expected);
    }

    #[test]
    fn resampled_patches_are_noted() {
        let mut checkpoint = Checkpoint::new([("a".into(), vec![1, 3, 4, 4])]);
        checkpoint.resample_patches("a", 4);
        assert!(checkpoint.notes().is_empty());
        assert_eq!(checkpoint.unchanged("a"), Some("a"));
        checkpoint.resample_patches("a", 2);
        let [note] = checkpoint.notes() else {
            panic!("one note is due, not {:?}", checkpoint.notes());
        };
        assert!(note.starts_with("a was made for patches of 4 × 4 pixels"), "{note}");
    }

    /// Of no places no grid can be made, and of places without numbers a file of a few bytes may claim any number.
    #[test]
    fn claims_without_numbers_are_left() {
        for (shape, prefix) in [(vec![1, 1, 8], 1), (vec![1, 0, 8], 0), (vec![1, 0, 8], 1), (vec![1, 1 << 60, 0], 0)] {
            let mut checkpoint = Checkpoint::new([("x".to_owned(), shape)]);
            checkpoint.resample_positions("x", prefix, [14, 14]);
            assert_eq!(checkpoint.unchanged("x"), Some("x"));
        }
        let side = (1 << 30) - 1;
        let mut checkpoint = Checkpoint::new([("x".to_owned(), vec![side * side, 0])]);
        checkpoint.resample_relative_positions("x", [7, 7]);
        assert_eq!(checkpoint.unchanged("x"), Some("x"));
    }

    #[test]
    fn what_fits_stays_and_what_is_no_square_is_left() {
        let shapes = [("a", vec![1, 10, 2]), ("b", vec![24, 1]), ("c", vec![1, 1, 100_000, 1])];
        let mut checkpoint = Checkpoint::new(shapes.map(|(name, shape)| (name.to_owned(), shape)));
        checkpoint.resample_positions("a", 1, [3, 3]);
        checkpoint.resample_relative_positions("b", [2, 2]);
        checkpoint.resample_patches("c", 16);
        assert_eq!(checkpoint.unchanged("a"), Some("a"));
        assert_eq!(checkpoint.unchanged("b"), Some("b"));
        assert_eq!(checkpoint.unchanged("c"), Some("c"));
    }
}
