//! Convolutions side by side, as in the Inception networks.

use burn::tensor::{Device, Tensor};

use super::{Activation, Conv2d, ConvNorm, Named, Padding, average_pool_3x3, average_pool_inside, max_pool};

/// Convolutions one behind the other, each with its normalisation and ReLU.
#[derive(Debug, Clone)]
pub struct Branch {
    pool: Option<BranchPool>,
    layers: Vec<BranchLayer>,
    forked: bool,
}

/// What a branch begins with.
#[derive(Debug, Clone, Copy)]
pub enum BranchPool {
    /// Means of 3×3 places, beyond the border zeros that count.
    Means,
    /// Means of what lies inside of the image of 3×3 places.
    MeansInside,
    /// Maxima of every second 3×3 places.
    HalvingMaxima,
}

/// A convolution of a branch: its name within the block, its outputs and its shape.
#[derive(Debug, Clone, Copy)]
pub struct BranchLayer {
    name: &'static str,
    outputs: usize,
    kernel: [usize; 2],
    stride: usize,
    padded: bool,
}

impl BranchLayer {
    /// With a kernel of `[rows, columns]`; the size of the image stays.
    pub const fn new(name: &'static str, outputs: usize, kernel: [usize; 2]) -> Self {
        Self { name, outputs, kernel, stride: 1, padded: true }
    }

    /// A 1×1 convolution.
    pub const fn pointwise(name: &'static str, outputs: usize) -> Self {
        Self::new(name, outputs, [1, 1])
    }

    /// A 3×3 convolution of every second place, and only where it lies inside.
    pub const fn halving(name: &'static str, outputs: usize) -> Self {
        Self { stride: 2, ..Self::inside(name, outputs) }
    }

    /// A 3×3 convolution only where it lies inside.
    pub const fn inside(name: &'static str, outputs: usize) -> Self {
        Self { padded: false, ..Self::new(name, outputs, [3, 3]) }
    }
}

impl Branch {
    /// Of these layers.
    pub fn new(layers: &[BranchLayer]) -> Self {
        Self { pool: None, layers: layers.to_vec(), forked: false }
    }

    /// Of these layers, the last two of which stand side by side.
    pub fn forked(layers: &[BranchLayer]) -> Self {
        Self { forked: true, ..Self::new(layers) }
    }

    /// Of these layers behind a pooling.
    pub fn pooled(pool: BranchPool, layers: &[BranchLayer]) -> Self {
        Self { pool: Some(pool), ..Self::new(layers) }
    }

    /// The layers that stand one behind the other.
    fn chain(&self) -> usize {
        self.layers.len() - if self.forked { 2 } else { 0 }
    }

    /// The layers that stand at the end.
    fn ends(&self) -> &[BranchLayer] {
        let count = if self.forked { 2 } else { 1 };
        &self.layers[self.layers.len().saturating_sub(count)..]
    }

    fn build(&self, inputs: usize, epsilon: f64, device: &Device) -> Vec<(String, ConvNorm)> {
        let layer = |(position, layer): (usize, &BranchLayer)| {
            let inputs = match position.min(self.chain()) {
                0 => inputs,
                before => self.layers[before - 1].outputs,
            };
            let conv = Conv2d::rectangular(inputs, layer.outputs, layer.kernel).stride(layer.stride);
            let conv = if layer.padded { conv } else { conv.padding(Padding::Symmetric(0)) };
            (layer.name.to_owned(), ConvNorm::with_epsilon(conv, epsilon, Activation::Relu, device))
        };
        self.layers.iter().enumerate().map(layer).collect()
    }
}

impl BranchPool {
    fn forward(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Means => average_pool_3x3(x, 1),
            Self::MeansInside => average_pool_inside(x, 3),
            Self::HalvingMaxima => max_pool(x, 3, 2, 0),
        }
    }
}

/// Branches over one image, whose results are put one behind the other along the channels. The convolutions lie under
/// timm's names side by side.
pub type Branches = Named<ConvNorm, Vec<Branch>>;

impl Branches {
    /// For `inputs` channels; `epsilon` is the normalisations'.
    pub fn new(inputs: usize, branches: Vec<Branch>, epsilon: f64, device: &Device) -> Self {
        Self::with(branches.iter().flat_map(|branch| branch.build(inputs, epsilon, device)).collect(), branches)
    }

    /// Channels of the result for so many of the input.
    pub fn outputs(&self, inputs: usize) -> usize {
        let outputs = |branch: &Branch| match branch.ends() {
            [] => inputs,
            ends => ends.iter().map(|layer| layer.outputs).sum(),
        };
        self.data().iter().map(outputs).sum()
    }

    /// `[batch, channel, height, width]` → `[batch, channel', height', width']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut layers = self.iter().map(|(_, layer)| layer);
        let mut results = Vec::new();
        for branch in self.data() {
            let x = match branch.pool {
                Some(pool) => pool.forward(x.clone()),
                None => x.clone(),
            };
            let x = layers.by_ref().take(branch.chain()).fold(x, |x, layer| layer.forward(x));
            if branch.forked {
                results.extend(layers.by_ref().take(2).map(|layer| layer.forward(x.clone())));
            } else {
                results.push(x);
            }
        }
        Tensor::cat(results, 1)
    }
}
