//! From similarities to distances, for what needs those: dendrograms, maps, silhouettes.

use crate::similarity::Matrix;

/// Distances between all networks, row by row: by how much each score stays below the highest of the matrix, 0 on the
/// diagonal. For SAT that is the distance from a pair that always falls for the same images, ln 100 − SAT, as long as some
/// network always falls for an attack on itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Distances {
    size: usize,
    values: Vec<f64>,
}

impl Distances {
    /// Of a complete matrix.
    pub fn of(matrix: &Matrix) -> Self {
        let highest = matrix.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self::new(matrix.names.len(), |row, column| highest - matrix.get(row, column))
    }

    /// Asks for every pair of different positions, above and below the diagonal.
    pub fn new(size: usize, distance: impl Fn(usize, usize) -> f64) -> Self {
        let at = |row, column| if row == column { 0.0 } else { distance(row, column) };
        Self { size, values: (0..size * size).map(|index| at(index / size, index % size)).collect() }
    }

    /// How many networks there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The distance between two of them.
    pub fn get(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.size + column]
    }
}
