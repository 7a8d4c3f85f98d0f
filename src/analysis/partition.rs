//! Partitions of networks into clusters: how alike two are, and how well the clusters of one lie apart.

use super::distance::Distances;

/// The adjusted Rand index (Hubert & Arabie 1985) of two partitions of the same networks: 1 where they are the same but for
/// the labels, about 0 where they agree as often as chance has it.
pub fn adjusted_rand_index(one: &[usize], other: &[usize]) -> f64 {
    let size = |labels: &[usize]| labels.iter().max().map_or(0, |max| max + 1);
    let (rows, columns) = (size(one), size(other));
    let mut table = vec![0u64; rows * columns];
    for (&a, &b) in one.iter().zip(other) {
        table[a * columns + b] += 1;
    }
    let choose_two = |count: u64| (count * count.saturating_sub(1) / 2) as f64;
    let sum_of_rows = |row: usize| table[row * columns..(row + 1) * columns].iter().sum();
    let sum_of_columns = |column: usize| (0..rows).map(|row| table[row * columns + column]).sum();
    let together: f64 = table.iter().copied().map(choose_two).sum();
    let in_one: f64 = (0..rows).map(|row| choose_two(sum_of_rows(row))).sum();
    let in_other: f64 = (0..columns).map(|column| choose_two(sum_of_columns(column))).sum();
    let expected = in_one * in_other / choose_two(one.len() as u64).max(1.0);
    let highest = 0.5 * (in_one + in_other);
    if highest == expected { 1.0 } else { (together - expected) / (highest - expected) }
}

/// The silhouette of each network (Rousseeuw 1987): (b − a) / max(a, b), where a is its mean distance from the others of its
/// cluster and b that from the nearest other cluster. Near 1 it lies well inside, below 0 it would fit another cluster better;
/// 0 where it is alone.
pub fn silhouettes(distances: &Distances, labels: &[usize]) -> Vec<f64> {
    let clusters = labels.iter().max().map_or(0, |max| max + 1);
    let mut sizes = vec![0usize; clusters];
    for &label in labels {
        sizes[label] += 1;
    }
    (0..labels.len())
        .map(|network| {
            let own = labels[network];
            let mut sums = vec![0.0; clusters];
            for (other, &label) in labels.iter().enumerate() {
                sums[label] += distances.get(network, other);
            }
            let nearest = (0..clusters)
                .filter(|&cluster| cluster != own && sizes[cluster] > 0)
                .map(|cluster| sums[cluster] / sizes[cluster] as f64)
                .fold(f64::INFINITY, f64::min);
            if sizes[own] < 2 || nearest.is_infinite() {
                return 0.0;
            }
            let inside = sums[own] / (sizes[own] - 1) as f64;
            match inside.max(nearest) {
                0.0 => 0.0,
                larger => (nearest - inside) / larger,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As scikit-learn's adjusted_rand_score gives them.
    #[test]
    fn adjusted_rand_indices() {
        let index = adjusted_rand_index;
        assert_eq!(index(&[0, 0, 1, 1], &[1, 1, 0, 0]), 1.0);
        assert!((index(&[0, 0, 1, 2], &[0, 0, 1, 1]) - 0.571_428_571_428_571_4).abs() < 1e-12);
        assert!((index(&[0, 0, 0, 1, 1, 1], &[0, 1, 2, 0, 1, 2]) + 0.363_636_363_636_363_65).abs() < 1e-12);
        assert_eq!(index(&[0, 0, 0], &[0, 0, 0]), 1.0);
        assert_eq!(index(&[0, 1, 2], &[0, 1, 2]), 1.0);
    }

    #[test]
    fn silhouettes_tell_who_lies_where() {
        let places = [0.0, 1.0, 10.0, 12.0, 5.0f64];
        let distances = Distances::new(5, |row, column| (places[row] - places[column]).abs());
        let values = silhouettes(&distances, &[0, 0, 1, 1, 2]);
        assert!((values[0] - (5.0 - 1.0) / 5.0).abs() < 1e-12 && (values[2] - (5.0 - 2.0) / 5.0).abs() < 1e-12);
        assert_eq!(values[4], 0.0, "it is alone");
        let values = silhouettes(&distances, &[0, 1, 1, 1, 0]);
        assert!(values[1] < 0.0, "it would fit the other cluster better: {values:?}");
        assert_eq!(silhouettes(&distances, &[0; 5]), [0.0; 5]);
    }
}
