//! How alike networks are: scores of pairs, and the matrix that they fill.

mod batches;
mod matrix;
pub mod sat;

pub use matrix::Matrix;
