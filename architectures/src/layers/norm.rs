//! Normalisation layers.

use burn::module::{Flag, Initializer, Module, Param, RunningState};
use burn::tensor::{Device, Tensor, module};
use netkin_kernels::Activation;

use super::{Conv2d, EvoNorm, FilterResponseNorm, Then, add, scale_and_shift};

/// Batch normalisation over `[batch, channel, height, width]` (Ioffe & Szegedy 2015).
///
/// In evaluation the running statistics are used. In training (parameters on an autodiff device and not frozen) the
/// batch's are, and the running ones follow with momentum 0.1, their variance unbiased, as in PyTorch.
#[derive(Module, Debug)]
pub struct BatchNorm2d {
    /// Scale, `[channel]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channel]`.
    pub bias: Param<Tensor<1>>,
    /// `[channel]`.
    pub running_mean: RunningState<Tensor<1>>,
    /// `[channel]`.
    pub running_var: RunningState<Tensor<1>>,
    training: Param<Flag>,
    epsilon: f64,
}

impl BatchNorm2d {
    const MOMENTUM: f64 = 0.1;

    /// For so many channels, with epsilon 1e-5.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self::with_epsilon(channels, 1e-5, device)
    }

    /// With another epsilon (TensorFlow's networks: 1e-3).
    pub fn with_epsilon(channels: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            weight: Initializer::Ones.init([channels], device),
            bias: Initializer::Zeros.init([channels], device),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            training: Param::from_bool(true),
            epsilon,
        }
    }

    /// Starts the scale at zero, so that a residual branch begins as the identity (Goyal et al. 2017).
    pub fn starting_at_zero(mut self, device: &Device) -> Self {
        self.weight = Initializer::Zeros.init(self.weight.lazy_shape(), device);
        self
    }

    /// Normalisation and an activation behind it; the shape stays.
    pub fn forward(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        if !self.is_fixed() {
            return self.forward_training(x, self.weight.val(), self.bias.val(), activation);
        }
        let [weight, bias, mean, variance] = self.parts();
        if netkin_kernels::applies(&x) {
            let scale = weight / (variance + self.epsilon).sqrt();
            let shift = bias - mean * scale.clone();
            return activation.forward(scale_and_shift(x, 1, scale, Some(shift)));
        }
        let y = module::batch_norm(x, weight, bias, mean, variance, self.epsilon);
        activation.forward(y)
    }

    /// Whether it only scales and shifts, by parameters that want no gradients.
    pub(super) fn is_fixed(&self) -> bool {
        !(self.training.is_enabled() && self.weight.val().is_autodiff())
    }

    pub(super) fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// Scale, shift, mean and variance, `[channel]` each.
    pub(super) fn parts(&self) -> [Tensor<1>; 4] {
        let (mean, variance) = (self.running_mean.value(), self.running_var.value());
        [self.weight.val(), self.bias.val(), mean, variance]
    }

    fn forward_training(&self, x: Tensor<4>, weight: Tensor<1>, bias: Tensor<1>, activation: Activation) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        if netkin_kernels::applies(&x) {
            let moments = netkin_kernels::batch_moments(&x);
            let moment = |index| moments.clone().narrow(0, index, 1).reshape([channels]);
            self.follow(moment(0), moment(1), batch * height * width);
            let inputs = vec![x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), moments.into_dispatch()];
            let epsilon = self.epsilon;
            let operation = netkin_kernels::BatchNorm { epsilon, activation };
            return netkin_kernels::run(operation, inputs);
        }
        let result = module::batch_norm_train(x, weight, bias, self.epsilon);
        self.follow(result.mean, result.variance, batch * height * width);
        activation.forward(result.output)
    }

    /// Lets the running statistics follow those of a batch with so many values per channel.
    fn follow(&self, mean: Tensor<1>, variance: Tensor<1>, count: usize) {
        let count = count as f64;
        let follow = |running: &RunningState<Tensor<1>>, now: Tensor<1>| {
            let kept = running.value_sync().mul_scalar(1.0 - Self::MOMENTUM);
            running.update((kept + now.detach().mul_scalar(Self::MOMENTUM)).detach());
        };
        follow(&self.running_mean, mean);
        let unbiased = variance.mul_scalar(count / (count - 1.0).max(1.0));
        follow(&self.running_var, unbiased);
    }
}

/// Layer normalisation over the last axis (Ba et al. 2016).
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[channel]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channel]`, if there is one.
    pub bias: Option<Param<Tensor<1>>>,
    epsilon: f64,
}

impl LayerNorm {
    /// For so many channels; Transformers use an epsilon of 1e-6, PyTorch's default is 1e-5.
    pub fn new(channels: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            bias: Some(Initializer::Zeros.init([channels], device)),
            ..Self::without_bias(channels, epsilon, device)
        }
    }

    /// Scales, but does not shift.
    pub fn without_bias(channels: usize, epsilon: f64, device: &Device) -> Self {
        Self { weight: Initializer::Ones.init([channels], device), bias: None, epsilon }
    }

    /// `[…, channel]`; the shape stays.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (weight, bias, epsilon) = (self.weight.val(), self.bias.as_ref().map(Param::val), self.epsilon);
        if netkin_kernels::applies(&x) {
            let bias = bias.unwrap_or_else(|| weight.zeros_like().detach());
            let inputs = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
            return netkin_kernels::run(netkin_kernels::LayerNorm { epsilon }, inputs.into());
        }
        module::layer_norm(x, weight, bias, epsilon)
    }
}

/// Layer normalisation over the channels of `[batch, channel, height, width]`, each place by itself.
#[derive(Module, Debug)]
pub struct LayerNorm2d {
    /// Scale, `[channel]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channel]`, if there is one.
    pub bias: Option<Param<Tensor<1>>>,
    epsilon: f64,
}

impl LayerNorm2d {
    /// For so many channels.
    pub fn new(channels: usize, epsilon: f64, device: &Device) -> Self {
        let LayerNorm { weight, bias, epsilon } = LayerNorm::new(channels, epsilon, device);
        Self { weight, bias, epsilon }
    }

    /// Scales, but does not shift.
    pub fn without_bias(channels: usize, epsilon: f64, device: &Device) -> Self {
        let LayerNorm { weight, bias, epsilon } = LayerNorm::without_bias(channels, epsilon, device);
        Self { weight, bias, epsilon }
    }

    /// The shape stays.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (weight, bias, epsilon) = (self.weight.val(), self.bias.as_ref().map(Param::val), self.epsilon);
        if netkin_kernels::applies(&x) {
            let bias = bias.unwrap_or_else(|| weight.zeros_like().detach());
            let inputs = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
            return netkin_kernels::run(netkin_kernels::ChannelNorm { epsilon }, inputs.into());
        }
        let last = x.permute([0, 2, 3, 1]);
        module::layer_norm(last, weight, bias, epsilon).permute([0, 3, 1, 2])
    }
}

/// Normalisation over groups of channels of `[batch, channel, height, width]` (Wu & He 2018).
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// Scale, `[channel]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channel]`, if there is one.
    pub bias: Option<Param<Tensor<1>>>,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    /// `groups` must divide `channels`.
    pub fn new(groups: usize, channels: usize, epsilon: f64, device: &Device) -> Self {
        let LayerNorm { weight, bias, epsilon } = LayerNorm::new(channels, epsilon, device);
        Self { weight, bias, groups, epsilon }
    }

    /// Scales, but does not shift.
    pub fn without_bias(groups: usize, channels: usize, epsilon: f64, device: &Device) -> Self {
        Self { bias: None, ..Self::new(groups, channels, epsilon, device) }
    }

    /// The shape stays.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_activated(x, Activation::Identity)
    }

    /// Normalisation and an activation behind it; the shape stays.
    pub fn forward_activated(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        let (groups, epsilon) = (self.groups, self.epsilon);
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        if netkin_kernels::applies(&x) {
            let bias = bias.unwrap_or_else(|| Tensor::zeros(weight.shape(), &x.device().without_autodiff()));
            let inputs = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
            return netkin_kernels::run(netkin_kernels::GroupNorm { groups, epsilon, activation }, inputs.into());
        }
        let shape = x.dims();
        let (centred, variance) = group_moments(x, groups);
        let normal = (centred / (variance + epsilon).sqrt()).reshape(shape);
        activation.forward(scale_and_shift(normal, 1, weight, bias))
    }
}

/// Distances from the mean of each group of channels, `[batch, group, value]`, and their variance, `[batch, group, 1]`.
pub(super) fn group_moments(x: Tensor<4>, groups: usize) -> (Tensor<3>, Tensor<3>) {
    let [batch, channels, height, width] = x.dims();
    let x = x.reshape([batch, groups, channels / groups * height * width]);
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    (centred, variance)
}

/// A normalisation of `[batch, channel, height, width]` and an activation, in the place of which some have a nonlinearity of
/// their own.
#[derive(Module, Debug)]
pub enum Norm2d {
    /// Over the batch.
    Batch(BatchNorm2d),
    /// Over groups of channels.
    Group(GroupNorm),
    /// With its own nonlinearity.
    Evo(EvoNorm),
    /// With its own nonlinearity.
    FilterResponse(FilterResponseNorm),
}

impl Norm2d {
    /// Batch normalisation with an epsilon of 1e-5.
    pub fn batch(channels: usize, device: &Device) -> Self {
        Self::Batch(BatchNorm2d::new(channels, device))
    }

    /// Group normalisation with an epsilon of 1e-5.
    pub fn group(groups: usize, channels: usize, device: &Device) -> Self {
        Self::Group(GroupNorm::new(groups, channels, 1e-5, device))
    }

    /// activation(norm(x)); the shape stays.
    pub fn forward(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        match self {
            Self::Batch(norm) => norm.forward(x, activation),
            Self::Group(norm) => norm.forward_activated(x, activation),
            Self::Evo(norm) => norm.forward(x),
            Self::FilterResponse(norm) => norm.forward(x),
        }
    }

    /// activation(norm(conv(x)) + residual), the residual of the result's shape, if there is one.
    pub fn after(&self, conv: &Conv2d, x: Tensor<4>, residual: Option<Tensor<4>>, activation: Activation) -> Tensor<4> {
        match (self, residual) {
            (Self::Batch(norm), residual) => conv.forward_then(x, Then::norm(norm, activation).residual(residual)),
            (_, None) => self.forward(conv.forward(x), activation),
            (_, Some(residual)) => add(self.forward(conv.forward(x), Activation::Identity), residual, activation),
        }
    }
}
