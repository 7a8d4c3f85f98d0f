//! What convolutions are tested with: one of any geometry, beside Burn's own operations in double precision.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Distribution, Tensor, activation, module};
use proptest::prelude::*;

use super::Geometry;
use crate::activation::{Activation, Kept, times_slope};
use crate::array::Array;
use crate::fold::Fold;

/// A way to compute convolutions.
pub(super) struct Functions {
    #[allow(clippy::type_complexity)]
    pub forward: fn(&Geometry, &Array, &Array, &Fold, Option<&Array>, Activation, bool) -> (Array, Option<Array>),
    pub input_gradient: fn(&Geometry, &Array, &Array, Option<&[f32]>) -> Array,
    pub weight_gradient: fn(&Geometry, &Array, &Array) -> Array,
}

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub batch: usize,
    pub groups: usize,
    /// Of a group, in and out.
    pub channels: [usize; 2],
    pub size: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Before and after rows and columns.
    pub padding: [[usize; 2]; 2],
    pub dilation: [usize; 2],
    pub activation: Activation,
    pub residual: bool,
    pub scaled: bool,
}

/// Geometries with kernels up to this size.
pub(super) fn cases(kernel: usize) -> impl Strategy<Value = Case> {
    let pair = |range: std::ops::Range<usize>| prop::array::uniform2(range);
    let activation = prop::sample::select(vec![
        Activation::Identity,
        Activation::Relu,
        Activation::Relu6,
        Activation::LeakyRelu,
        Activation::SquaredRelu,
        Activation::Gelu,
        Activation::Silu,
        Activation::Sigmoid,
        Activation::HardSigmoid,
        Activation::HardSwish,
    ]);
    let square = prop_oneof![(1..=kernel).prop_map(|size| [size; 2]), pair(1..kernel + 1),];
    let stride = prop_oneof![Just([1; 2]), Just([2; 2]), pair(1..4)];
    let dilation = prop_oneof![4 => Just([1; 2]), 1 => pair(1..4)];
    let padding = prop::array::uniform2(pair(0..4));
    let shape = (1..4usize, pair(1..40), square, stride, padding, dilation);
    let finish = (activation, any::<bool>(), any::<bool>());
    (shape, finish).prop_map(|(shape, (activation, residual, scaled))| {
        let (batch, size, kernel, stride, padding, dilation) = shape;
        // At least one window fits.
        let least = [0, 1].map(|axis| (kernel[axis] - 1) * dilation[axis] + 1);
        Case {
            batch,
            groups: 1,
            channels: [1, 1],
            size: [0, 1].map(|axis| size[axis].max(least[axis])),
            kernel,
            stride,
            padding,
            dilation,
            activation,
            residual,
            scaled,
        }
    })
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &Device::flex())
}

fn array<const D: usize>(tensor: &Tensor<D>) -> Array {
    Array::from_vec(tensor.to_data().iter::<f32>().collect(), &tensor.dims())
}

fn activate(activation: Activation, x: Tensor<4>) -> Tensor<4> {
    match activation {
        Activation::Identity => x,
        Activation::Relu => activation::relu(x),
        Activation::Relu6 => activation::hardtanh(x, 0.0, 6.0),
        Activation::LeakyRelu => activation::leaky_relu(x, 0.01),
        Activation::SquaredRelu => activation::relu(x).square(),
        Activation::Gelu => activation::gelu(x),
        Activation::Silu => activation::silu(x),
        Activation::Sigmoid => activation::sigmoid(x),
        Activation::HardSigmoid => activation::hard_sigmoid(x, 1.0 / 6.0, 0.5),
        Activation::HardSwish => x.clone() * activation::hard_sigmoid(x, 1.0 / 6.0, 0.5),
    }
}

/// Where the slope of an activation is not continuous.
fn jumps(activation: Activation) -> &'static [f64] {
    match activation {
        Activation::Relu | Activation::LeakyRelu => &[0.0],
        Activation::Relu6 => &[0.0, 6.0],
        Activation::HardSigmoid | Activation::HardSwish => &[-3.0, 3.0],
        Activation::Identity | Activation::SquaredRelu | Activation::Gelu | Activation::Silu | Activation::Sigmoid => {
            &[]
        }
    }
}

/// `padding` zeros before and after rows and columns.
fn pad(x: Tensor<4>, padding: [[usize; 2]; 2]) -> Tensor<4> {
    let [[top, bottom], [left, right]] = padding;
    x.pad((left, right, top, bottom), burn::tensor::ops::PadMode::Constant(0.0))
}

fn assert_close(what: &str, actual: &Array, expected: &Tensor<4>) {
    let expected_values: Vec<f64> = expected.to_data().iter::<f64>().collect();
    assert_eq!(actual.shape(), expected.dims(), "{what}");
    let size = expected_values.iter().fold(1.0, |size: f64, value| size.max(value.abs()));
    for (index, (actual, expected)) in actual.values().iter().zip(&expected_values).enumerate() {
        let distance = (f64::from(*actual) - expected).abs() / size;
        assert!(distance < 1e-5, "{what} {index}: {actual} for {expected}");
    }
}

/// Compares value and gradients with Burn's, and an image alone with the same in a batch.
pub(super) fn check(functions: &Functions, case: Case) {
    let Case { batch, groups, channels, kernel, stride, padding, dilation, .. } = case;
    let [inputs, outputs] = channels.map(|channels| groups * channels);
    let [height, width] = case.size;
    let output = [0, 1].map(|axis| {
        let [before, after] = padding[axis];
        let reach = (kernel[axis] - 1) * dilation[axis] + 1;
        (case.size[axis] + before + after - reach) / stride[axis] + 1
    });
    let geometry = Geometry {
        batch,
        inputs,
        outputs,
        groups,
        input: case.size,
        output,
        kernel,
        stride,
        padding: padding.map(|[before, _]| before),
        dilation,
    };
    let x = random([batch, inputs, height, width]);
    let weight = random([outputs, channels[0], kernel[0], kernel[1]]);
    let scale = random([1, outputs, 1, 1]);
    let shift = random([1, outputs, 1, 1]);
    let residual = random([batch, outputs, output[0], output[1]]);
    let gradient = random([batch, outputs, output[0], output[1]]);

    let double = |x: &Tensor<4>| x.clone().cast(DType::F64);
    let convolve = |x, weight| {
        let options = ConvOptions::new(stride, [0, 0], dilation, groups);
        module::conv2d(pad(x, padding), weight, None, options)
    };
    let mut weights = double(&gradient).autodiff();
    let tracked = double(&x).autodiff().require_grad();
    let mut summed = convolve(tracked.clone(), double(&weight).autodiff());
    if case.scaled {
        summed = summed * double(&scale).autodiff();
    }
    summed = summed + double(&shift).autodiff();
    if case.residual {
        summed = summed + double(&residual).autodiff();
    }
    // Where a slope jumps, rounding decides which one is taken: no gradient comes to what lies that near.
    let distance = |at: &f64| (summed.clone().inner() - *at).abs();
    for jump in jumps(case.activation) {
        let far = distance(jump).greater_elem(1e-4).float().cast(DType::F64);
        weights = weights * far.autodiff();
    }
    let gradient = weights.clone().inner().cast(DType::F32);
    let expected = activate(case.activation, summed);
    let mut gradients = (expected.clone() * weights.clone()).sum().backward();
    let expected_of_x = tracked.grad_remove(&mut gradients).expect("tracked");
    let tracked = double(&weight).autodiff().require_grad();
    let convolved = convolve(double(&x).autodiff(), tracked.clone());
    let mut gradients = (convolved * weights).sum().backward();
    let expected_of_weight = tracked.grad_remove(&mut gradients).expect("tracked");

    let fold =
        Fold { scale: case.scaled.then(|| array(&scale).values().to_vec()), shift: array(&shift).values().to_vec() };
    let [x, weight, gradient, residual] = [&x, &weight, &gradient, &residual].map(array);
    let residual = case.residual.then_some(residual);
    let forward = |geometry: &Geometry, x: &Array, residual: Option<&Array>, keep| {
        (functions.forward)(geometry, x, &weight, &fold, residual, case.activation, keep)
    };
    let (y, slope) = forward(&geometry, &x, residual.as_ref(), true);
    assert_close("value", &y, &expected.inner());
    let kept = match case.activation.kept() {
        Kept::Nothing => None,
        Kept::Output => Some(&y),
        Kept::Slope => slope.as_ref(),
    };
    assert_eq!(slope.is_some(), case.activation.kept() == Kept::Slope);
    let before = times_slope(case.activation, gradient.clone(), kept);
    let of_x = (functions.input_gradient)(&geometry, &before, &weight, fold.scale.as_deref());
    assert_close("gradient of x", &of_x, &expected_of_x);
    let of_weight = (functions.weight_gradient)(&geometry, &x, &gradient);
    assert_close("gradient of the weights", &of_weight, &expected_of_weight);

    // The last image alone.
    let last = |array: &Array| {
        let values = array.values();
        let mut shape = array.shape().to_vec();
        shape[0] = 1;
        Array::from_vec(values[values.len() / batch * (batch - 1)..].to_vec(), &shape)
    };
    let alone = Geometry { batch: 1, ..geometry };
    let (one, none) = forward(&alone, &last(&x), residual.as_ref().map(last).as_ref(), false);
    assert_eq!(one.values(), last(&y).values(), "alone and in a batch");
    assert!(none.is_none());
    let scale = fold.scale.as_deref();
    let of_one = (functions.input_gradient)(&alone, &last(&before), &weight, scale);
    assert_eq!(of_one.values(), last(&of_x).values(), "alone and in a batch");
}
