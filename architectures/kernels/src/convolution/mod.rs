//! Convolution over `[batch, channel, height, width]`, with what follows it in the same pass: batch normalisation by fixed
//! statistics, a residual, an activation.

mod dense;

use crate::activation::{Activation, Kept, times_slope};
use crate::array::Array;
use crate::fold::Fold;
use crate::operation::{Cache, Operation, Saved};

/// act(norm(w ∗ x + bias) + residual).
///
/// Inputs in this order: x `[batch, input, height, width]`; the weights `[output, input / groups, rows, columns]`; the bias
/// `[output]`, if there is one; the norm's scale, shift, mean and variance, `[output]` each, if there is one; the residual,
/// of the output's shape, if there is one.
///
/// Gradients flow to x and to the residual, and, if it is `trainable` (then without norm and activation), to weights and bias.
#[derive(Debug, Clone)]
pub struct Convolution {
    /// Rows and columns from one output to the next.
    pub stride: [usize; 2],
    /// Zeros (before, after) along rows and columns.
    pub padding: [(usize, usize); 2],
    /// Rows and columns from one tap of the kernel to the next.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// The epsilon of the batch normalisation, if there is one.
    pub norm: Option<f64>,
    /// Whether something is added before the activation.
    pub residual: bool,
    /// What comes last.
    pub activation: Activation,
    /// Whether the weights want gradients; if not, what is made of them is kept in `cache`.
    pub trainable: bool,
    /// Belongs to the layer.
    pub cache: Cache,
}

/// The sizes of one convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub batch: usize,
    /// Input channels, of all groups.
    pub inputs: usize,
    /// Output channels, of all groups.
    pub outputs: usize,
    pub groups: usize,
    /// Rows and columns of the input.
    pub input: [usize; 2],
    /// Rows and columns of the output.
    pub output: [usize; 2],
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Zeros before the first row and column.
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
}

impl Geometry {
    /// How many multiplications the convolution takes.
    pub(crate) fn work(&self) -> usize {
        let per_output = self.inputs / self.groups * self.kernel[0] * self.kernel[1];
        self.batch * self.outputs * self.output[0] * self.output[1] * per_output
    }

    fn output_shape(&self) -> [usize; 4] {
        [self.batch, self.outputs, self.output[0], self.output[1]]
    }

    fn input_shape(&self) -> [usize; 4] {
        [self.batch, self.inputs, self.input[0], self.input[1]]
    }
}
