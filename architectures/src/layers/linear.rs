//! A linear map over the last axis.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, module};
use netkin_kernels::{Activation, Cache, Products};

use super::conv::fused;
use super::{Then, add, macs, scale_and_shift};

/// y = x·Wᵀ + b over the last axis.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[output, input]`, as PyTorch stores it.
    pub weight: Param<Tensor<2>>,
    /// `[output]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    cache: Cache,
}

impl Linear {
    /// With a bias. Weights are drawn by Xavier's uniform rule, biases are zero.
    pub fn new(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self { bias: Some(Initializer::Zeros.init([outputs], device)), ..Self::without_bias(inputs, outputs, device) }
    }

    /// With a bias; weights and biases begin as these say.
    pub fn with_initializers(inputs: usize, outputs: usize, [weight, bias]: [Initializer; 2], device: &Device) -> Self {
        Self {
            weight: weight.init([outputs, inputs], device),
            bias: Some(bias.init([outputs], device)),
            cache: Cache::default(),
        }
    }

    /// Without a bias.
    pub fn without_bias(inputs: usize, outputs: usize, device: &Device) -> Self {
        let initializer = Initializer::XavierUniform { gain: 1.0 };
        Self {
            weight: initializer.init_with([outputs, inputs], Some(inputs), Some(outputs), device),
            bias: None,
            cache: Cache::default(),
        }
    }

    /// `[…, input]` → `[…, output]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_activated(x, Activation::Identity)
    }

    /// The map and an activation behind it.
    pub fn forward_activated<const D: usize>(&self, x: Tensor<D>, activation: Activation) -> Tensor<D> {
        self.compute(x, activation, None, None)
    }

    /// shortcut + scale·(x·Wᵀ + b), the scale `[output]`, if there is one: the end of a residual branch.
    pub fn forward_residual<const D: usize>(
        &self,
        x: Tensor<D>,
        scale: Option<&Param<Tensor<1>>>,
        shortcut: Tensor<D>,
    ) -> Tensor<D> {
        self.compute(x, Activation::Identity, scale, Some(shortcut))
    }

    /// act(map(x) + shortcut) with the map over the middle axis: `[batch, input, other]` → `[batch, output, other]`; the
    /// shortcut of the output's shape, if there is one.
    pub fn forward_across(&self, x: Tensor<3>, activation: Activation, shortcut: Option<Tensor<3>>) -> Tensor<3> {
        let ([batch, _, others], [outputs, _]) = (x.dims(), self.weight.dims());
        let flat = |x: Tensor<3>| {
            let [batch, channels, others] = x.dims();
            x.reshape([batch, channels, others, 1])
        };
        let then = Then::activation(activation).residual(shortcut.map(flat));
        self.forward_channels(flat(x), then).reshape([batch, outputs, others])
    }

    /// The map at every place: `[batch, input, height, width]` → `[batch, output, height, width]`, and what follows.
    pub fn forward_channels(&self, x: Tensor<4>, then: Then) -> Tensor<4> {
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        let [batch, _, height, width] = x.dims();
        macs::count(batch * height * width * weight.shape().num_elements());
        if !netkin_kernels::applies(&x) {
            let y = module::linear(x.permute([0, 2, 3, 1]), weight.transpose(), bias);
            return then.after(y.permute([0, 3, 1, 2]));
        }
        let [outputs, inputs] = weight.dims();
        let weight = weight.reshape([outputs, inputs, 1, 1]);
        let convolution = netkin_kernels::Convolution::pointwise(self.cache.clone());
        fused(convolution, x, weight, bias, then)
    }

    fn compute<const D: usize>(
        &self,
        x: Tensor<D>,
        activation: Activation,
        scale: Option<&Param<Tensor<1>>>,
        residual: Option<Tensor<D>>,
    ) -> Tensor<D> {
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        let [outputs, _] = weight.dims();
        macs::count(x.shape().num_elements() * outputs);
        let trainable = weight.is_tracked();
        let scale = scale.map(Param::val);
        let fuses_scale = !trainable || scale.is_none();
        if netkin_kernels::applies(&x) {
            let (scale, later) = if fuses_scale { (scale, None) } else { (None, scale) };
            let (residual, residual_later) = if fuses_scale { (residual, None) } else { (None, residual) };
            let operation = netkin_kernels::Linear {
                bias: bias.is_some(),
                activation,
                scale: scale.is_some(),
                residual: residual.is_some(),
                trainable,
                products: Products::current(),
                cache: self.cache.clone(),
            };
            let mut inputs = vec![x.into_dispatch(), weight.into_dispatch()];
            inputs.extend(bias.map(Tensor::into_dispatch));
            inputs.extend(scale.map(Tensor::into_dispatch));
            inputs.extend(residual.map(Tensor::into_dispatch));
            return follow(netkin_kernels::run(operation, inputs), later, residual_later);
        }
        let y = activation.forward(module::linear(x, weight.transpose(), bias));
        follow(y, scale, residual)
    }
}

/// scale·y + residual, each if there is one.
fn follow<const D: usize>(y: Tensor<D>, scale: Option<Tensor<1>>, residual: Option<Tensor<D>>) -> Tensor<D> {
    let y = match scale {
        Some(scale) => scale_and_shift(y, D - 1, scale, None),
        None => y,
    };
    match residual {
        Some(residual) => add(y, residual, Activation::Identity),
        None => y,
    }
}
