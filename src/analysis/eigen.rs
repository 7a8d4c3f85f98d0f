//! Eigenvectors of symmetric matrices.

use faer::{Mat, Side};

/// The eigenvalues of a symmetric matrix from the largest down, each with its eigenvector of unit length, of which the
/// largest element is positive.
///
/// # Panics
/// If an element is not finite.
pub fn descending(size: usize, element: impl Fn(usize, usize) -> f64) -> Vec<(f64, Vec<f64>)> {
    let matrix = Mat::from_fn(size, size, element);
    let eigen = matrix.self_adjoint_eigen(Side::Lower).expect("finite symmetric matrices have eigenvectors");
    let (values, vectors) = (eigen.S(), eigen.U());
    (0..size)
        .rev()
        .map(|index| {
            let mut vector: Vec<f64> = (0..size).map(|row| vectors[(row, index)]).collect();
            let largest = vector.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
            if largest < 0.0 {
                vector.iter_mut().for_each(|element| *element = -*element);
            }
            (values[index], vector)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_and_vectors_are_those_of_the_matrix() {
        let matrix = [[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 0.5]];
        let pairs = descending(3, |row, column| matrix[row][column]);
        assert!(pairs.windows(2).all(|two| two[0].0 >= two[1].0));
        for (value, vector) in &pairs {
            for (row, element) in matrix.iter().zip(vector) {
                let product: f64 = row.iter().zip(vector).map(|(a, b)| a * b).sum();
                assert!((product - value * element).abs() < 1e-12);
            }
            assert!((vector.iter().map(|element| element * element).sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }
}
