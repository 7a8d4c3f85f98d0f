//! How alike networks are: scores of pairs, and the matrix that they fill.

mod batches;
pub mod features;
mod matrix;
pub mod sat;

pub(crate) use batches::{is_device_lost, is_out_of_memory};
pub use matrix::Matrix;
