//! A linear map over the last axis.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, module};
use netkin_kernels::{Activation, Cache};

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
        Self {
            bias: Some(Initializer::Zeros.init([outputs], device)),
            ..Self::without_bias(inputs, outputs, device)
        }
    }

    /// With a bias; weights and biases begin as these say.
    pub fn with_initializers(
        inputs: usize,
        outputs: usize,
        [weight, bias]: [Initializer; 2],
        device: &Device,
    ) -> Self {
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
    pub fn forward_activated<const D: usize>(
        &self,
        x: Tensor<D>,
        activation: Activation,
    ) -> Tensor<D> {
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

    /// The map over the middle axis: `[batch, input, other]` → `[batch, output, other]`; an activation behind it, and then
    /// something of the output's shape added, if there is something.
    pub fn forward_across(
        &self,
        x: Tensor<3>,
        activation: Activation,
        shortcut: Option<Tensor<3>>,
    ) -> Tensor<3> {
        let [batch, inputs, others] = x.dims();
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        let trainable = weight.is_require_grad();
        if !netkin_kernels::applies(&x) {
            let y = module::linear(x.swap_dims(1, 2), weight.transpose(), bias).swap_dims(1, 2);
            return follow(activation.forward(y), None, shortcut);
        }
        // The same as a 1×1 convolution in which the middle axis is that of the channels.
        let [outputs, _] = weight.dims();
        let fused = !trainable && (activation == Activation::Identity || shortcut.is_none());
        let (residual, later) = match fused {
            true => (shortcut, None),
            false => (None, shortcut),
        };
        let operation = netkin_kernels::Convolution {
            stride: [1; 2],
            padding: [(0, 0); 2],
            dilation: [1; 2],
            groups: 1,
            bias: bias.is_some(),
            norm: None,
            scale: false,
            residual: residual.is_some(),
            activation,
            trainable,
            cache: self.cache.clone(),
        };
        let mut inputs = vec![
            x.reshape([batch, inputs, others, 1]).into_dispatch(),
            weight.reshape([outputs, inputs, 1, 1]).into_dispatch(),
        ];
        inputs.extend(bias.map(Tensor::into_dispatch));
        inputs.extend(
            residual.map(|x| x.reshape([batch, outputs, others, 1]).into_dispatch()),
        );
        let y: Tensor<4> = netkin_kernels::run(operation, inputs);
        follow(y.reshape([batch, outputs, others]), None, later)
    }

    fn compute<const D: usize>(
        &self,
        x: Tensor<D>,
        activation: Activation,
        scale: Option<&Param<Tensor<1>>>,
        residual: Option<Tensor<D>>,
    ) -> Tensor<D> {
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        let trainable = weight.is_require_grad();
        let scale = scale.map(Param::val);
        let fuses_scale = !trainable || scale.is_none();
        if netkin_kernels::applies(&x) {
            let (scale, later) = match fuses_scale {
                true => (scale, None),
                false => (None, scale),
            };
            let (residual, residual_later) = match fuses_scale {
                true => (residual, None),
                false => (None, residual),
            };
            let operation = netkin_kernels::Linear {
                bias: bias.is_some(),
                activation,
                scale: scale.is_some(),
                residual: residual.is_some(),
                trainable,
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
fn follow<const D: usize>(
    y: Tensor<D>,
    scale: Option<Tensor<1>>,
    residual: Option<Tensor<D>>,
) -> Tensor<D> {
    let y = match scale {
        Some(scale) => y * scale.unsqueeze(),
        None => y,
    };
    match residual {
        Some(residual) => y + residual,
        None => y,
    }
}
