//! Convolution with kernels of several sizes.

use burn::module::Module;
use burn::tensor::Tensor;

use super::{Conv2d, Then};

/// One convolution, or several of different kernel sizes side by side, each over its share of the channels
/// (Tan & Le 2019, MixConv).
#[derive(Module, Debug)]
pub enum MixedConv2d {
    /// Over all channels.
    Single(Conv2d),
    /// Each over its share.
    Mixed(Vec<Conv2d>),
}

impl MixedConv2d {
    /// Inputs and outputs are shared evenly among the `kernels`; `build` makes the convolution for a share, from its
    /// inputs, outputs and kernel size.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernels: &[usize],
        build: impl Fn(usize, usize, usize) -> Conv2d,
    ) -> Self {
        match kernels {
            [kernel] => Self::Single(build(inputs, outputs, *kernel)),
            _ => Self::Mixed(
                shares(inputs, kernels.len())
                    .zip(shares(outputs, kernels.len()))
                    .zip(kernels)
                    .map(|((inputs, outputs), kernel)| build(inputs, outputs, *kernel))
                    .collect(),
            ),
        }
    }

    /// `[batch, input, height, width]` → `[batch, output, height', width']`, and what follows.
    pub fn forward_then(&self, x: Tensor<4>, then: Then) -> Tensor<4> {
        match self {
            Self::Single(conv) => conv.forward_then(x, then),
            Self::Mixed(convs) => {
                let mut start = 0;
                let parts = convs
                    .iter()
                    .zip(shares(x.dims()[1], convs.len()))
                    .map(|(conv, share)| {
                        let part = x.clone().narrow(1, start, share);
                        start += share;
                        conv.forward(part)
                    })
                    .collect();
                then.after(Tensor::cat(parts, 1))
            }
        }
    }
}

/// `channels` in `count` equal shares; the first also takes the remainder.
fn shares(channels: usize, count: usize) -> impl Iterator<Item = usize> {
    let share = channels / count;
    let first = channels - share * (count - 1);
    std::iter::once(first).chain(std::iter::repeat_n(share, count - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_share_takes_the_remainder() {
        assert!(shares(240, 4).eq([60, 60, 60, 60]));
        assert!(shares(200, 3).eq([68, 66, 66]));
    }
}
