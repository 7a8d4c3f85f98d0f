//! Two-dimensional convolution.

use burn::module::{Initializer, Module, Param};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, module};
use netkin_kernels::{Activation, Cache, Convolution};

use super::standardisation::Standardisation;
use super::{BatchNorm2d, add, macs, scale_and_shift};

/// How the border of an image is treated; what is added is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// So many rows and columns on each side.
    Symmetric(usize),
    /// TensorFlow's "same": the output has ⌈size / stride⌉ rows and columns, and an odd remainder goes below and to the right.
    Same,
}

impl Padding {
    /// Pixels (before, after) along one axis.
    pub(super) fn amount(self, size: usize, kernel: usize, stride: usize, dilation: usize) -> (usize, usize) {
        match self {
            Self::Symmetric(amount) => (amount, amount),
            Self::Same => {
                let reach = (size.div_ceil(stride) - 1) * stride + (kernel - 1) * dilation + 1;
                let total = reach.saturating_sub(size);
                (total / 2, total - total / 2)
            }
        }
    }
}

/// A convolution over `[batch, channel, height, width]`.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[output, input / groups, height, width]`.
    pub weight: Param<Tensor<4>>,
    /// `[output]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// `[output, 1, 1, 1]`, by which standardised weights are multiplied, if there are gains.
    pub gain: Option<Param<Tensor<4>>>,
    stride: usize,
    #[module(skip)]
    padding: Padding,
    dilation: usize,
    groups: usize,
    #[module(skip)]
    standardisation: Option<Standardisation>,
    /// By which the bias is multiplied; the weights' standardisation contains it.
    multiplier: f64,
    #[module(skip)]
    cache: Cache,
}

/// What follows a convolution, in one pass with it where the device has one: normalisation, a residual, an activation, in
/// this order, each if there is one.
#[derive(Debug, Clone)]
pub struct Then<'a> {
    norm: Option<&'a BatchNorm2d>,
    scale: Option<&'a Param<Tensor<1>>>,
    residual: Option<Tensor<4>>,
    activation: Activation,
}

impl<'a> Then<'a> {
    /// An activation alone.
    pub fn activation(activation: Activation) -> Self {
        Self { norm: None, scale: None, residual: None, activation }
    }

    /// A normalisation, and an activation behind it.
    pub fn norm(norm: &'a BatchNorm2d, activation: Activation) -> Self {
        Self { norm: Some(norm), ..Self::activation(activation) }
    }

    /// A scale per channel, `[output]`.
    pub fn scale(scale: Option<&'a Param<Tensor<1>>>) -> Self {
        Self { scale, ..Self::activation(Activation::Identity) }
    }

    /// Something of the output's shape is added before the activation.
    pub fn residual(self, residual: impl Into<Option<Tensor<4>>>) -> Self {
        Self { residual: residual.into(), ..self }
    }

    /// What follows, step by step.
    pub(crate) fn after(self, y: Tensor<4>) -> Tensor<4> {
        let last = self.scale.is_none() && self.residual.is_none();
        let y = match self.norm {
            Some(norm) if last => return norm.forward(y, self.activation),
            Some(norm) => norm.forward(y, Activation::Identity),
            None => y,
        };
        let y = match self.scale {
            Some(scale) => scale_and_shift(y, 1, scale.val(), None),
            None => y,
        };
        match self.residual {
            Some(residual) => add(y, residual, self.activation),
            None => self.activation.forward(y),
        }
    }
}

/// The shape of a convolution: by default stride 1, size-keeping padding, no dilation, one group, no bias.
#[derive(Debug, Clone, Copy)]
pub struct Conv2dConfig {
    inputs: usize,
    outputs: usize,
    kernel: [usize; 2],
    stride: usize,
    padding: Option<Padding>,
    dilation: usize,
    groups: usize,
    bias: bool,
    standardisation: Option<Standardisation>,
    gain: Option<f64>,
    multiplier: f64,
}

impl Conv2d {
    /// A square kernel from `inputs` to `outputs` channels.
    pub fn config(inputs: usize, outputs: usize, kernel: usize) -> Conv2dConfig {
        Self::rectangular(inputs, outputs, [kernel; 2])
    }

    /// A kernel of `[rows, columns]` from `inputs` to `outputs` channels.
    pub fn rectangular(inputs: usize, outputs: usize, kernel: [usize; 2]) -> Conv2dConfig {
        Conv2dConfig {
            inputs,
            outputs,
            kernel,
            stride: 1,
            padding: None,
            dilation: 1,
            groups: 1,
            bias: false,
            standardisation: None,
            gain: None,
            multiplier: 1.0,
        }
    }

    /// Channels of the result.
    pub fn outputs(&self) -> usize {
        let [outputs, ..] = self.weight.lazy_shape().dims::<4>();
        outputs
    }

    /// `[batch, input, height, width]` → `[batch, output, height', width']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_then(x, Then::activation(Activation::Identity))
    }

    /// `[batch, input]` → `[batch, output]`, as images of one pixel: a classifier that is kept as a 1×1 convolution.
    pub fn forward_vectors(&self, x: Tensor<2>) -> Tensor<2> {
        let [batch, channels] = x.dims();
        let y = self.forward(x.reshape([batch, channels, 1, 1]));
        let [_, outputs, ..] = y.dims();
        y.reshape([batch, outputs])
    }

    /// The convolution and what follows it.
    pub fn forward_then(&self, x: Tensor<4>, then: Then) -> Tensor<4> {
        let (weight, bias) = self.parameters();
        let [batch, _, height, width] = x.dims();
        let [_, _, kernel_height, kernel_width] = weight.dims();
        let places = self.places(height, kernel_height) * self.places(width, kernel_width);
        macs::count(batch * places * weight.shape().num_elements());
        if !netkin_kernels::applies(&x) {
            return then.after(self.forward_plain(x, weight, bias));
        }
        let convolution = Convolution {
            stride: [self.stride; 2],
            padding: [self.amount(height, kernel_height), self.amount(width, kernel_width)],
            dilation: [self.dilation; 2],
            groups: self.groups,
            ..Convolution::pointwise(self.cache.clone())
        };
        fused(convolution, x, weight, bias, then)
    }

    /// The weights and the bias as they are applied.
    fn parameters(&self) -> (Tensor<4>, Option<Tensor<1>>) {
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        let Some(standardisation) = self.standardisation else {
            return (weight, bias);
        };
        let weight = standardisation.apply(weight, self.gain.as_ref().map(Param::val), &self.cache);
        let multiplied = |bias: Tensor<1>| if self.multiplier == 1.0 { bias } else { bias * self.multiplier };
        (weight, bias.map(multiplied))
    }

    /// By Burn's own operation.
    fn forward_plain(&self, x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let [_, _, kernel_height, kernel_width] = weight.dims();
        let mut options = ConvOptions::new([self.stride; 2], [0, 0], [self.dilation; 2], self.groups);
        options.padding = [self.amount(height, kernel_height), self.amount(width, kernel_width)];
        module::conv2d(x, weight, bias, options)
    }

    /// Places of the result along an axis.
    fn places(&self, size: usize, kernel: usize) -> usize {
        let (before, after) = self.amount(size, kernel);
        (before + size + after - (kernel - 1) * self.dilation - 1) / self.stride + 1
    }

    fn amount(&self, size: usize, kernel: usize) -> (usize, usize) {
        self.padding.amount(size, kernel, self.stride, self.dilation)
    }
}

/// A convolution by the kernels, together with what follows it as far as nothing of it is trained.
pub(super) fn fused(
    mut convolution: Convolution,
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    then: Then,
) -> Tensor<4> {
    convolution.trainable = weight.is_tracked();
    convolution.bias = bias.is_some();
    let mut inputs = vec![x.into_dispatch(), weight.into_dispatch()];
    inputs.extend(bias.map(Tensor::into_dispatch));
    if convolution.trainable || !then.norm.is_none_or(BatchNorm2d::is_fixed) {
        return then.after(netkin_kernels::run(convolution, inputs));
    }
    if let Some(norm) = then.norm {
        convolution.norm = Some(norm.epsilon());
        inputs.extend(norm.parts().map(Tensor::into_dispatch));
    }
    if let Some(scale) = then.scale {
        convolution.scale = true;
        inputs.push(scale.val().into_dispatch());
    }
    if let Some(residual) = then.residual {
        convolution.residual = true;
        inputs.push(residual.into_dispatch());
    }
    convolution.activation = then.activation;
    netkin_kernels::run(convolution, inputs)
}

impl Conv2dConfig {
    /// Channels of what it is given.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Channels of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Rows and columns from one output to the next.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// Another padding than the size-keeping one, ((stride − 1) + dilation · (kernel − 1)) / 2 on each side.
    pub fn padding(mut self, padding: Padding) -> Self {
        self.padding = Some(padding);
        self
    }

    /// Rows and columns from one tap of the kernel to the next.
    pub fn dilation(mut self, dilation: usize) -> Self {
        self.dilation = dilation;
        self
    }

    /// Groups of channels that do not see each other; as many as inputs and outputs: a depthwise convolution.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// With a bias.
    pub fn bias(mut self) -> Self {
        self.bias = true;
        self
    }

    /// With weights that are standardised before they are used.
    pub fn standardised(mut self, epsilon: f64) -> Self {
        self.standardisation = Some(Standardisation { epsilon, factor: 1.0 });
        self
    }

    /// With weights that are standardised, divided by the square root of the number of inputs that an output sees, and
    /// multiplied by `factor` and by a learnt gain per output, which begins at one.
    pub fn standardised_with_gain(mut self, epsilon: f64, factor: f64) -> Self {
        self.standardisation = Some(Standardisation { epsilon, factor });
        self.gain = Some(1.0);
        self
    }

    /// With gains, if there are any, that begin at zero, so that a residual branch begins as the identity.
    pub fn starting_at_zero(mut self) -> Self {
        self.gain = self.gain.map(|_| 0.0);
        self
    }

    /// With a multiple of all that it gives, the bias included; only with standardised weights.
    pub fn multiplied(mut self, multiplier: f64) -> Self {
        self.multiplier = multiplier;
        self
    }

    /// Weights are drawn by He's normal rule over the outputs (that of ResNet), biases are zero.
    ///
    /// # Panics
    /// If the groups divide the inputs or the outputs with a remainder, or weights that are not standardised are multiplied.
    pub fn build(self, device: &Device) -> Conv2d {
        let Self { inputs, outputs, kernel, stride, dilation, groups, .. } = self;
        assert!(
            inputs.is_multiple_of(groups) && outputs.is_multiple_of(groups),
            "{groups} groups divide neither {inputs} inputs nor {outputs} outputs"
        );
        assert!(
            self.multiplier == 1.0 || self.standardisation.is_some(),
            "only standardised weights can be multiplied"
        );
        let [rows, columns] = kernel;
        let area = rows * columns;
        let (fan_in, fan_out) = (inputs / groups * area, outputs / groups * area);
        let standardisation = self.standardisation.map(|Standardisation { epsilon, factor }| {
            let seen = if self.gain.is_some() { fan_in as f64 } else { 1.0 };
            Standardisation { epsilon, factor: factor * self.multiplier / seen.sqrt() }
        });
        let initializer = Initializer::KaimingNormal { gain: 2f64.sqrt(), fan_out_only: true };
        let shape = [outputs, inputs / groups, rows, columns];
        let size_keeping =
            if rows == columns { Padding::Symmetric((stride - 1 + dilation * (rows - 1)) / 2) } else { Padding::Same };
        Conv2d {
            weight: initializer.init_with(shape, Some(fan_in), Some(fan_out), device),
            bias: self.bias.then(|| Initializer::Zeros.init([outputs], device)),
            gain: self.gain.map(|value| Initializer::Constant { value }.init([outputs, 1, 1, 1], device)),
            stride,
            padding: self.padding.unwrap_or(size_keeping),
            dilation,
            groups,
            standardisation,
            multiplier: self.multiplier,
            cache: Cache::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Distribution, Tolerance};

    use super::*;

    /// In double precision, in which the kernels do not compute.
    fn in_double(conv: &Conv2d) -> Conv2d {
        fn double<const D: usize>(param: &Param<Tensor<D>>) -> Param<Tensor<D>> {
            Param::from_tensor(param.val().cast(DType::F64))
        }
        Conv2d {
            weight: double(&conv.weight),
            bias: conv.bias.as_ref().map(double),
            gain: conv.gain.as_ref().map(double),
            ..conv.clone()
        }
    }

    #[test]
    fn weights_that_are_replaced_are_standardised_anew() {
        let device = Device::flex();
        let mut conv = Conv2d::config(4, 6, 3).bias().standardised_with_gain(1e-5, 1.7).multiplied(0.2).build(&device);
        let x = Tensor::<4>::random([2, 4, 5, 5], Distribution::Default, &device);
        let drawn = Initializer::Normal { mean: 1.0, std: 2.0 };
        for _ in 0..2 {
            conv.weight = drawn.init([6, 4, 3, 3], &device);
            conv.bias = Some(drawn.init([6], &device));
            let expected = in_double(&conv).forward(x.clone().cast(DType::F64)).cast(DType::F32).into_data();
            for _ in 0..2 {
                conv.forward(x.clone()).into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
            }
        }
    }

    #[test]
    fn same_padding_puts_the_odd_pixel_behind() {
        assert_eq!(Padding::Same.amount(224, 3, 2, 1), (0, 1));
        assert_eq!(Padding::Same.amount(225, 3, 2, 1), (1, 1));
        assert_eq!(Padding::Same.amount(7, 5, 1, 1), (2, 2));
        assert_eq!(Padding::Same.amount(8, 1, 2, 1), (0, 0));
    }
}
