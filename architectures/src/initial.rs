//! The values that a family's training begins with, where they are others than those that the layers draw by themselves.
//!
//! The layers draw as follows: linear maps by Xavier's uniform rule, convolutions by He's normal rule over the outputs that
//! an input of a group reaches, biases are zero, normalisations begin as the identity. Families for which timm does
//! otherwise change that by [`initialised`]; `docs/networks-in-training.md` has the table.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Distribution, Shape, Tensor};

use crate::names::{self, Mapper};

/// What a parameter begins with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// The same number everywhere.
    Constant(f64),
    /// Normal numbers around 0 with this standard deviation.
    ///
    /// It is also what timm's `trunc_normal_(std=0.02)` gives, which cuts at ±2, a hundred deviations away.
    Normal(f64),
    /// The same of those within two deviations alone, which are scaled so that this is their standard deviation.
    TruncatedNormal(f64),
    /// Even numbers between minus this and this.
    Uniform(f64),
}

/// A parameter that is not drawn yet.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// timm's key: `blocks.0.attn.qkv.weight`.
    pub key: &'a str,
    /// The shape of the weights of its layer: its own, or that of the weights beside which it is a bias.
    weights: &'a [usize],
    is_bias: bool,
}

impl Parameter<'_> {
    /// Weights of linear maps are normal with this standard deviation, their biases zero; nothing is said of others.
    pub fn linear(&self, deviation: f64) -> Option<Initial> {
        self.of_axes(2, Initial::Normal(deviation))
    }

    /// The same for linear maps and convolutions.
    pub fn normal(&self, deviation: f64) -> Option<Initial> {
        self.linear(deviation).or_else(|| self.of_axes(4, Initial::Normal(deviation)))
    }

    /// PyTorch's default: weights and biases of linear maps and convolutions are even within 1 / √inputs, of so many as an
    /// output sees; nothing is said of others.
    pub fn pytorch(&self) -> Option<Initial> {
        let is_map = [2, 4].contains(&self.weights.len());
        is_map.then(|| Initial::Uniform((self.inputs() as f64).powf(-0.5)))
    }

    /// He's normal rule over all outputs, in whatever groups they are, for the weights of convolutions; nothing is said of
    /// others (PyTorch's `kaiming_normal_` with `fan_out`).
    pub fn convolution(&self) -> Option<Initial> {
        let [outputs, _, rows, columns] = *self.weights else {
            return None;
        };
        let deviation = (2.0 / (outputs * rows * columns) as f64).sqrt();
        (!self.is_bias).then_some(Initial::Normal(deviation))
    }

    /// Inputs that an output of the layer sees, and 1 for normalisations.
    pub fn inputs(&self) -> usize {
        self.weights.iter().skip(1).product()
    }

    /// Of weights with so many axes, and zero for biases beside such.
    fn of_axes(&self, axes: usize, initial: Initial) -> Option<Initial> {
        let of_bias = Initial::Constant(0.0);
        (self.weights.len() == axes).then_some(if self.is_bias { of_bias } else { initial })
    }
}

/// The network with the parameters that `rule` gives something; the others stay what they are. Nothing is drawn by this: what
/// weights are loaded for is never drawn.
pub fn initialised<M: Module>(network: M, rule: impl Fn(&Parameter) -> Option<Initial>) -> M {
    names::map(network, &mut Drawing { rule, weights: (String::new(), Vec::new()) })
}

struct Drawing<F> {
    rule: F,
    /// Of the weights that came last, the path of their layer and their shape.
    weights: (String, Vec<usize>),
}

impl<F: Fn(&Parameter) -> Option<Initial>> Mapper for Drawing<F> {
    fn map<const D: usize>(&mut self, key: &str, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (layer, name) = key.rsplit_once('.').unwrap_or(("", key));
        if name == "weight" {
            self.weights = (layer.to_owned(), parameter.lazy_shape().as_slice().to_vec());
        }
        let is_bias = name == "bias";
        let belongs = name == "weight" || (is_bias && self.weights.0 == layer);
        let weights = if belongs { self.weights.1.as_slice() } else { &[] };
        match (self.rule)(&Parameter { key, weights, is_bias }) {
            Some(initial) => initial.parameter(parameter.lazy_shape(), &parameter.lazy_device()),
            None => parameter,
        }
    }
}

impl Initial {
    /// A parameter that is drawn when it is first used.
    fn parameter<const D: usize>(self, shape: Shape, device: &Device) -> Param<Tensor<D>> {
        match self {
            Self::Constant(value) => Initializer::Constant { value }.init(shape, device),
            Self::Normal(std) => Initializer::Normal { mean: 0.0, std }.init(shape, device),
            Self::TruncatedNormal(std) => {
                let normal: Param<Tensor<D>> = Initializer::Normal { mean: 0.0, std: 1.0 }.init(shape, device);
                normal.init_mapper(move |normal| truncated(normal).mul_scalar(std / DEVIATION_WITHIN_TWO))
            }
            Self::Uniform(bound) => Initializer::Uniform { min: -bound, max: bound }.init(shape, device),
        }
    }
}

/// Of a standard normal number that is known to lie between −2 and 2.
const DEVIATION_WITHIN_TWO: f64 = 0.879_625_661_034_239_8;

/// Draws again what lies beyond ±2.
fn truncated<const D: usize>(mut normal: Tensor<D>) -> Tensor<D> {
    // One in twenty does: after ten times, one in 10¹⁴.
    for _ in 0..10 {
        let beyond = normal.clone().abs().greater_elem(2.0);
        let again = Tensor::random(normal.shape(), Distribution::Normal(0.0, 1.0), &normal.device());
        normal = normal.mask_where(beyond, again);
    }
    normal.clamp(-2.0, 2.0)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::layers::{BatchNorm2d, Conv2d, Linear};

    #[derive(Module, Debug)]
    struct Layers {
        conv: Conv2d,
        norm: BatchNorm2d,
        fc: Linear,
        /// A bias that is none of the weights'.
        bias: Param<Tensor<1>>,
    }

    fn layers() -> Layers {
        let device = Device::flex();
        Layers {
            conv: Conv2d::config(4, 8, 3).groups(2).bias().build(&device),
            norm: BatchNorm2d::new(8, &device),
            fc: Linear::new(8, 10, &device),
            bias: Initializer::Ones.init([10], &device),
        }
    }

    #[test]
    fn rules_tell_layers_apart_and_draw_nothing() {
        let rules: [fn(&Parameter) -> Option<Initial>; 4] =
            [|p| p.linear(0.5), |p| p.normal(0.5), |p| p.pytorch(), |p| p.convolution()];
        let keys = ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "fc.weight", "fc.bias", "bias"];
        let (zero, half) = (Some(Initial::Constant(0.0)), Some(Initial::Normal(0.5)));
        let (of_conv, of_fc) = (Some(Initial::Uniform(18f64.powf(-0.5))), Some(Initial::Uniform(8f64.powf(-0.5))));
        let expected = [
            [None, None, None, None, half, zero, None],
            [half, zero, None, None, half, zero, None],
            [of_conv, of_conv, None, None, of_fc, of_fc, None],
            [Some(Initial::Normal(1.0 / 6.0)), None, None, None, None, None, None],
        ];
        for (rule, expected) in rules.into_iter().zip(expected) {
            let found = RefCell::new(Vec::new());
            let layers = initialised(layers(), |parameter| {
                let initial = rule(parameter);
                found.borrow_mut().push((parameter.key.to_owned(), initial));
                initial
            });
            assert!(!layers.fc.weight.is_initialized() && !layers.conv.weight.is_initialized());
            let found = found.into_inner();
            let found: Vec<_> = found.iter().filter(|(key, _)| !key.contains("running")).cloned().collect();
            let expected: Vec<_> = keys.iter().map(|key| key.to_string()).zip(expected).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_truncated_normal_has_its_deviation_and_its_ends() {
        let shape = Shape::from([40_000_usize]);
        let drawn: Param<Tensor<1>> = Initial::TruncatedNormal(0.5).parameter(shape, &Device::flex());
        let values: Vec<f64> = drawn.val().try_into_vec_as().unwrap();
        let end = 2.0 * 0.5 / DEVIATION_WITHIN_TWO;
        assert!(values.iter().all(|value| value.abs() <= end + 1e-6));
        let mean_square = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
        assert!((mean_square.sqrt() - 0.5).abs() < 0.01, "{mean_square}");
        // Nothing piles up at the ends.
        assert!(values.iter().filter(|value| value.abs() > 0.999 * end).count() < 40);
    }
}
