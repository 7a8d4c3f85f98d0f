//! Linear maps of planes whose rows and columns are each weighted sums of a few neighbouring ones: resizing, shifting, cutting.

use super::sums::{Real, weighted_sums};

/// A number's place on an axis of the result, that on the axis it comes from, and its weight.
pub type Entry = (usize, usize, f64);

/// A matrix each row of which has few neighbouring columns that are not zero.
#[derive(Debug, Clone)]
pub struct Band {
    /// Of each row the first column; all `taps` of them exist.
    first: Vec<usize>,
    taps: usize,
    /// `[row, taps]`.
    weights: Vec<f64>,
}

/// Taps that are summed up at once along a row.
const GROUP: usize = 4;

impl Band {
    /// The matrix of so many rows and at least one column; entries of the same place are added.
    pub fn new(entries: &[Entry], [rows, columns]: [usize; 2]) -> Self {
        let mut ranges = vec![[columns, 0]; rows];
        for &(row, column, _) in entries {
            let [first, end] = ranges[row];
            ranges[row] = [first.min(column), end.max(column + 1)];
        }
        let taps = ranges.iter().map(|[first, end]| end.saturating_sub(*first)).fold(1, usize::max);
        let first: Vec<usize> = ranges.into_iter().map(|[first, _]| first.min(columns - taps)).collect();
        let mut weights = vec![0.0; rows * taps];
        for &(row, column, weight) in entries {
            weights[row * taps + column - first[row]] += weight;
        }
        Self { first, taps, weights }
    }

    /// With the axes exchanged.
    pub fn transposed(entries: &[Entry], [rows, columns]: [usize; 2]) -> Self {
        let entries: Vec<Entry> = entries.iter().map(|&(row, column, weight)| (column, row, weight)).collect();
        Self::new(&entries, [columns, rows])
    }

    fn len(&self) -> usize {
        self.first.len()
    }

    /// The weights in another number format, filled up with zeros to whole groups.
    fn groups<T: Real>(&self) -> (Vec<T>, usize) {
        let padded = self.taps.next_multiple_of(GROUP);
        let mut groups = vec![T::default(); self.len() * padded];
        for (new, weights) in groups.chunks_exact_mut(padded).zip(self.weights.chunks_exact(self.taps)) {
            new.iter_mut().zip(weights).for_each(|(new, &weight)| *new = T::of(weight));
        }
        (groups, padded)
    }
}

/// Planes, each of `size`, height and width, by whose rows and columns the `rows` and `columns` of the results are summed up.
pub fn apply<T: Real>([rows, columns]: &[Band; 2], planes: &[T], [height, width]: [usize; 2]) -> Vec<T> {
    let along_rows: Vec<T> = rows.weights.iter().map(|&weight| T::of(weight)).collect();
    let (groups, padded) = columns.groups::<T>();
    let result = rows.len() * columns.len();
    let mut new = vec![T::default(); planes.len() / (height * width) * result];
    // With room for the last group.
    let mut sums = vec![T::default(); width + GROUP];
    for (plane, new) in planes.chunks_exact(height * width).zip(new.chunks_exact_mut(result)) {
        let of_rows = rows.first.iter().zip(along_rows.chunks_exact(rows.taps));
        for ((&first, weights), new) in of_rows.zip(new.chunks_exact_mut(columns.len())) {
            weighted_sums(&mut sums[..width], &plane[first * width..], weights, width);
            for ((new, &first), weights) in new.iter_mut().zip(&columns.first).zip(groups.chunks_exact(padded)) {
                *new = product(weights, &sums[first..][..padded]);
            }
        }
    }
    new
}

/// The sum of the products of whole groups.
#[inline]
fn product<T: Real>(weights: &[T], values: &[T]) -> T {
    let mut sum = T::default();
    for (weights, values) in weights.as_chunks::<GROUP>().0.iter().zip(values.as_chunks::<GROUP>().0) {
        for (&weight, &value) in weights.iter().zip(values) {
            sum += weight * value;
        }
    }
    sum
}

/// The matrix product of two lists of entries: first by `before`, of whose rows there are so many, then by `after`.
pub fn composed(before: &[Entry], rows: usize, after: &[Entry]) -> Vec<Entry> {
    let mut of_row: Vec<Vec<(usize, f64)>> = vec![Vec::with_capacity(2); rows];
    for &(row, column, weight) in before {
        of_row[row].push((column, weight));
    }
    let of_entry = |&(row, middle, weight): &Entry| {
        of_row[middle].iter().map(move |&(column, before)| (row, column, weight * before))
    };
    after.iter().flat_map(of_entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside sums over all entries.
    #[test]
    fn bands_are_the_matrices_of_their_entries() {
        let rows = [(0, 1, 0.5), (0, 3, 2.0), (2, 0, -1.0), (2, 0, 0.25)];
        let columns = [(0, 5, 1.0), (1, 0, 3.0), (1, 1, -2.0), (3, 4, 0.5), (3, 5, 0.125)];
        let (from, to) = ([4, 6], [3, 4]);
        let planes: Vec<f64> = (0..2 * 24).map(|index| f64::from((index * 37 + 11) % 101)).collect();
        let bands = [Band::new(&rows, [to[0], from[0]]), Band::new(&columns, [to[1], from[1]])];
        let mut expected = vec![0.0; 2 * 12];
        for plane in 0..2 {
            for (row, from_row, of_row) in rows {
                for (column, from_column, of_column) in columns {
                    let value = planes[plane * 24 + from_row * 6 + from_column];
                    expected[plane * 12 + row * 4 + column] += of_row * of_column * value;
                }
            }
        }
        let near = |actual: Vec<f64>, expected: &[f64]| {
            assert_eq!(actual.len(), expected.len());
            assert!(actual.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{actual:?} is not {expected:?}");
        };
        near(apply(&bands, &planes, from), &expected);
        let double: Vec<Entry> = (0..3).map(|place| (place, 2 - place, 2.0)).collect();
        let twice = [Band::new(&composed(&rows, 3, &double), [3, 4]), bands[1].clone()];
        let turned: Vec<f64> = expected
            .chunks_exact(12)
            .flat_map(|plane| plane.chunks_exact(4).rev().flatten())
            .map(|x| 2.0 * x)
            .collect();
        near(apply(&twice, &planes, from), &turned);
    }
}
