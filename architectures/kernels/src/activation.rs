//! Elementwise nonlinearities and their slopes.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::tensor::{Device, Tensor, activation};
use pulp::{Simd, WithSimd};

use crate::array::{Array, Output, Pointer};
use crate::operation::{Operation, Saved, applies, run};
use crate::{parallel, simd};

/// An elementwise nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x.
    Identity,
    /// max(x, 0).
    Relu,
    /// min(max(x, 0), 6).
    Relu6,
    /// max(x, x/100).
    LeakyRelu,
    /// max(x, 0)².
    SquaredRelu,
    /// x·Φ(x) with the exact normal distribution function.
    Gelu,
    /// x·σ(x), also called swish.
    Silu,
    /// 1/(1 + exp(−x)).
    Sigmoid,
    /// min(max(x + 3, 0), 6) / 6.
    HardSigmoid,
    /// x·min(max(x + 3, 0), 6) / 6.
    HardSwish,
}

/// GELU from Burn's operations. Burn's own has, on every device but the CPU, the slope of its approximation by tanh, which is
/// off by up to 9·10⁻⁴ and would make of exact networks' gradients approximate ones.
fn plain_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.device().without_autodiff() == Device::flex() {
        return activation::gelu(x);
    }
    gelu_by_erf(x)
}

/// min(max(x + 3, 0), 6) / 6. Burn's own rounds the sixth to single precision.
fn plain_hard_sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    // By a product, since the gradient of Burn's quotient by a number has single precision in any format.
    activation::hardtanh(x.add_scalar(3.0), 0.0, 6.0).mul_scalar(1.0 / 6.0)
}

/// x/2·(1 + erf(x/√2)).
fn gelu_by_erf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let distribution = x.clone().mul_scalar(FRAC_1_SQRT_2).erf().add_scalar(1.0);
    x.mul_scalar(0.5) * distribution
}

/// What an activation's backward pass needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nothing: the slope is 1.
    Nothing,
    /// The activation's output tells the slope.
    Output,
    /// The slope itself.
    Slope,
}

impl Activation {
    /// Applies the nonlinearity; the shape stays.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Identity => x,
            _ if applies(&x) => run(Activate(self), vec![x.into_dispatch()]),
            Self::Relu => activation::relu(x),
            Self::Relu6 => activation::hardtanh(x, 0.0, 6.0),
            Self::LeakyRelu => activation::leaky_relu(x, 0.01),
            Self::SquaredRelu => activation::relu(x).square(),
            Self::Gelu => plain_gelu(x),
            Self::Silu => activation::silu(x),
            Self::Sigmoid => activation::sigmoid(x),
            Self::HardSigmoid => plain_hard_sigmoid(x),
            Self::HardSwish => x.clone() * plain_hard_sigmoid(x),
        }
    }

    /// What the backward pass needs.
    pub(crate) fn kept(self) -> Kept {
        match self {
            Self::Identity => Kept::Nothing,
            Self::Relu | Self::Relu6 | Self::LeakyRelu | Self::Sigmoid | Self::HardSigmoid => Kept::Output,
            Self::SquaredRelu | Self::Gelu | Self::Silu | Self::HardSwish => Kept::Slope,
        }
    }

    /// The activation of every lane.
    #[inline(always)]
    pub(crate) fn value<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let splat = |value| simd.splat_f32s(value);
        match self {
            Self::Identity => x,
            Self::Relu => simd.max_f32s(x, splat(0.0)),
            Self::Relu6 => simd.min_f32s(simd.max_f32s(x, splat(0.0)), splat(6.0)),
            Self::LeakyRelu => simd.max_f32s(x, simd.mul_f32s(x, splat(0.01))),
            Self::SquaredRelu => {
                let positive = simd.max_f32s(x, splat(0.0));
                simd.mul_f32s(positive, positive)
            }
            Self::Gelu => simd.mul_f32s(x, distribution(simd, x)),
            Self::Silu => simd.mul_f32s(x, sigmoid(simd, x)),
            Self::Sigmoid => sigmoid(simd, x),
            Self::HardSigmoid => hard_sigmoid(simd, x),
            Self::HardSwish => simd.mul_f32s(x, hard_sigmoid(simd, x)),
        }
    }

    /// The activation and the slope of every lane.
    #[inline(always)]
    pub(crate) fn value_and_slope<S: Simd>(self, simd: S, x: S::f32s) -> (S::f32s, S::f32s) {
        let splat = |value| simd.splat_f32s(value);
        match self {
            Self::SquaredRelu => {
                let positive = simd.max_f32s(x, splat(0.0));
                (simd.mul_f32s(positive, positive), simd.add_f32s(positive, positive))
            }
            Self::Gelu => (self.value(simd, x), gelu_slope(simd, x)),
            Self::Silu => {
                let gate = sigmoid(simd, x);
                let value = simd.mul_f32s(x, gate);
                // σ·(1 + x·(1 − σ)) = σ + xσ·(1 − σ).
                let rest = simd.sub_f32s(splat(1.0), gate);
                (value, simd.mul_add_f32s(value, rest, gate))
            }
            Self::HardSwish => {
                let gate = hard_sigmoid(simd, x);
                let sixth = simd.mul_f32s(x, splat(1.0 / 6.0));
                let inside = simd.less_than_f32s(simd.abs_f32s(x), splat(3.0));
                let slope = simd.select_f32s(inside, simd.add_f32s(gate, sixth), gate);
                (simd.mul_f32s(x, gate), slope)
            }
            _ => {
                let value = self.value(simd, x);
                (value, self.slope_of_output(simd, value))
            }
        }
    }

    /// `gradient` times the slope, from what [`Self::kept`] says was kept.
    #[inline(always)]
    pub(crate) fn times_slope<S: Simd>(self, simd: S, gradient: S::f32s, kept: S::f32s) -> S::f32s {
        let zero = simd.splat_f32s(0.0);
        match self.kept() {
            Kept::Nothing => gradient,
            Kept::Slope => simd.mul_f32s(gradient, kept),
            Kept::Output => match self {
                Self::Relu => simd.select_f32s(simd.less_than_f32s(zero, kept), gradient, zero),
                _ => simd.mul_f32s(gradient, self.slope_of_output(simd, kept)),
            },
        }
    }

    #[inline(always)]
    fn slope_of_output<S: Simd>(self, simd: S, y: S::f32s) -> S::f32s {
        let splat = |value| simd.splat_f32s(value);
        let above = |bound| simd.less_than_f32s(splat(bound), y);
        let where_true = |mask, value| simd.select_f32s(mask, splat(value), splat(0.0));
        match self {
            Self::Relu => where_true(above(0.0), 1.0),
            Self::Relu6 => {
                let below = simd.less_than_f32s(y, splat(6.0));
                simd.select_f32s(below, where_true(above(0.0), 1.0), splat(0.0))
            }
            Self::LeakyRelu => simd.select_f32s(above(0.0), splat(1.0), splat(0.01)),
            Self::Sigmoid => simd.mul_f32s(y, simd.sub_f32s(splat(1.0), y)),
            Self::HardSigmoid => {
                let below = simd.less_than_f32s(y, splat(1.0));
                simd.select_f32s(below, where_true(above(0.0), 1.0 / 6.0), splat(0.0))
            }
            Self::Identity | Self::SquaredRelu | Self::Gelu | Self::Silu | Self::HardSwish => splat(1.0),
        }
    }
}

#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    let decayed = simd::exp(simd, simd.neg_f32s(x));
    simd.div_f32s(one, simd.add_f32s(one, decayed))
}

#[inline(always)]
fn hard_sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |value| simd.splat_f32s(value);
    let line = simd.mul_add_f32s(x, splat(1.0 / 6.0), splat(0.5));
    simd.min_f32s(simd.max_f32s(line, splat(0.0)), splat(1.0))
}

/// Φ(x), the normal distribution function, within 1.5·10⁻⁷.
#[inline(always)]
fn distribution<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // (Φ(x) − ½)/x over x² scaled to [−1, 1]: our own Chebyshev fit of the absolute error on |x| ≤ 5.3.
    const POLYNOMIAL: [f32; 16] = [
        1.333_925_6e-1,
        -6.651_844e-2,
        4.926_447e-2,
        -3.959_154_7e-2,
        3.207_401e-2,
        -2.526_785_2e-2,
        1.896_257e-2,
        -1.334_1e-2,
        8.712_679e-3,
        -5.443_632e-3,
        3.319_772e-3,
        -1.661_036_6e-3,
        5.864_073e-4,
        -3.653_678_3e-4,
        3.284_624_3e-4,
        -1.124_458e-4,
    ];
    odd(simd, x, 5.3, POLYNOMIAL)
}

/// d(x·Φ(x))/dx = Φ(x) + x·φ(x), within 5·10⁻⁷.
#[inline(always)]
fn gelu_slope<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // As above, on |x| ≤ 5.6.
    const POLYNOMIAL: [f32; 17] = [
        1.264_166_4e-1,
        -6.428_234e-2,
        5.180_828_6e-2,
        -5.097_092_7e-2,
        5.667_726_3e-2,
        -6.490_026_4e-2,
        7.169_647e-2,
        -7.365_712_5e-2,
        6.632_452e-2,
        -5.190_401_5e-2,
        4.332_094e-2,
        -3.780_624e-2,
        1.958_328e-2,
        -2.850_518_8e-3,
        4.737_827e-3,
        -7.927_733e-3,
        3.019_719_6e-3,
    ];
    odd(simd, x, 5.6, POLYNOMIAL)
}

/// ½ + x·p(2x²/limit² − 1), constant beyond ±limit.
#[inline(always)]
fn odd<S: Simd, const N: usize>(simd: S, x: S::f32s, limit: f32, polynomial: [f32; N]) -> S::f32s {
    let splat = |value| simd.splat_f32s(value);
    let x = simd.min_f32s(simd.max_f32s(x, splat(-limit)), splat(limit));
    let square = simd.mul_f32s(x, x);
    let scaled = simd.mul_add_f32s(square, splat(2.0 / (limit * limit)), splat(-1.0));
    simd.mul_add_f32s(x, simd::polynomial(simd, scaled, polynomial), splat(0.5))
}

/// An activation by itself, over an array of any shape.
#[derive(Debug)]
pub struct Activate(pub Activation);

impl Operation for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn forward(&self, mut inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let mut x = inputs.remove(0);
        let kept = if keep { self.0.kept() } else { Kept::Nothing };
        let len = x.values().len();
        let mut slope = (kept == Kept::Slope).then(|| Output::new(x.shape()));
        let slope_pointer = slope.as_mut().map(Output::pointer);
        let forward = |from, to| {
            move |range| {
                simd::dispatch(Forward { activation: self.0, from, to, slope: slope_pointer, range });
            }
        };
        let y = if let Some(values) = x.unique_values() {
            let pointer = Pointer::to(values);
            over_blocks(len, forward(pointer, pointer));
            x
        } else {
            let mut output = Output::new(x.shape());
            let to = output.pointer();
            // Only read: nobody writes to `x` here.
            let from = Pointer::reading(x.values());
            over_blocks(len, forward(from, to));
            // SAFETY: the blocks cover all values.
            unsafe { output.finish() }
        };
        let saved = match (kept, slope) {
            (Kept::Output, _) => vec![y.clone()],
            // SAFETY: the blocks cover all values.
            (_, Some(slope)) => vec![unsafe { slope.finish() }],
            _ => vec![],
        };
        (y, saved)
    }

    fn backward(&self, gradient: Array, saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        vec![Some(times_slope(self.0, gradient, saved.first()))]
    }
}

/// Values per task: large enough to be worth a task, small enough for the second-level cache.
const BLOCK: usize = 1 << 14;

fn over_blocks(len: usize, task: impl Fn(std::ops::Range<usize>) + Sync + Send) {
    parallel::for_ranges(len, BLOCK, len, task);
}

struct Forward {
    activation: Activation,
    from: Pointer,
    to: Pointer,
    slope: Option<Pointer>,
    range: std::ops::Range<usize>,
}

impl WithSimd for Forward {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { activation, from, to, slope, range } = self;
        let mut index = range.start;
        while index < range.end {
            let count = S::F32_LANES.min(range.end - index);
            // SAFETY: `index + count` is within the range, which is within the arrays and belongs to this task.
            unsafe {
                let x = simd::load_some(simd, from.at(index), count);
                let y = match slope {
                    None => activation.value(simd, x),
                    Some(slope) => {
                        let (y, values) = activation.value_and_slope(simd, x);
                        simd::store_some(simd, slope.at(index), count, values);
                        y
                    }
                };
                simd::store_some(simd, to.at(index), count, y);
            }
            index += count;
        }
    }
}

/// gradient ⊙ factors; in place if nobody else holds `gradient`.
pub(crate) fn times(gradient: Array, factors: &Array) -> Array {
    // Of all activations whose slope is kept the backward pass is this product.
    times_slope(Activation::Gelu, gradient, Some(factors))
}

/// The gradient before an activation from that behind it and what was kept; in place if nobody else holds `gradient`.
pub(crate) fn times_slope(activation: Activation, mut gradient: Array, kept: Option<&Array>) -> Array {
    let Some(kept) = kept else {
        return gradient;
    };
    let len = gradient.values().len();
    let kept = Pointer::reading(kept.values());
    if let Some(values) = gradient.unique_values() {
        let to = Pointer::to(values);
        over_blocks(len, |range| {
            simd::dispatch(Back { activation, from: to, kept, to, range });
        });
        return gradient;
    }
    let from = Pointer::reading(gradient.values());
    let mut output = Output::new(gradient.shape());
    let to = output.pointer();
    over_blocks(len, |range| {
        simd::dispatch(Back { activation, from, kept, to, range });
    });
    // SAFETY: the blocks cover all values.
    unsafe { output.finish() }
}

struct Back {
    activation: Activation,
    from: Pointer,
    kept: Pointer,
    to: Pointer,
    range: std::ops::Range<usize>,
}

impl WithSimd for Back {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut index = self.range.start;
        while index < self.range.end {
            let count = S::F32_LANES.min(self.range.end - index);
            // SAFETY: as in the forward pass.
            unsafe {
                let gradient = simd::load_some(simd, self.from.at(index), count);
                let kept = simd::load_some(simd, self.kept.at(index), count);
                let result = self.activation.times_slope(simd, gradient, kept);
                simd::store_some(simd, self.to.at(index), count, result);
            }
            index += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;

    /// The other devices' way, computed where there is an exact one to compare with.
    #[test]
    fn gelu_by_erf_has_the_exact_value_and_slope() {
        let x = Tensor::<1>::from_data(
            (-60..60).map(|x| f64::from(x) / 10.0).collect::<Vec<_>>().as_slice(),
            (&Device::flex(), DType::F64),
        );
        let value_and_slope = |gelu: fn(Tensor<1>) -> Tensor<1>| {
            let x = x.clone().autodiff().require_grad();
            let y = gelu(x.clone());
            let slope = x.grad(&y.clone().sum().backward()).expect("x wants one");
            [y.inner(), slope].map(|tensor| tensor.into_data().iter::<f64>().collect::<Vec<_>>())
        };
        let actual = value_and_slope(gelu_by_erf);
        let expected = value_and_slope(activation::gelu);
        for (actual, expected) in actual.iter().flatten().zip(expected.iter().flatten()) {
            assert!((actual - expected).abs() < 1e-12, "{actual} is not {expected}");
        }
    }
}
