//! Comparing a kernel with Burn's own operations, value and gradients.

use burn::tensor::{Bool, Device, Distribution, Tensor};

/// Values between −2 and 2, on the CPU without autodiff.
pub fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-2.0, 2.0), &Device::flex())
}

/// The largest difference, relative to the largest value of `expected` (or 1, if that is less).
pub fn distance<const D: usize>(actual: Tensor<D>, expected: Tensor<D>) -> f32 {
    assert_eq!(actual.dims(), expected.dims());
    let size = expected.clone().abs().max().into_scalar::<f32>().max(1.0);
    (actual - expected).abs().max().into_scalar::<f32>() / size
}

/// Checks that `ours` and `plain` agree in value and in the gradient with respect to each of the tensors, which are tracked.
pub fn compare<const D: usize, const N: usize>(
    inputs: &[Tensor<D>; N],
    ours: impl Fn([Tensor<D>; N]) -> Tensor<D>,
    plain: impl Fn([Tensor<D>; N]) -> Tensor<D>,
    bound: f32,
) {
    let tracked = || inputs.each_ref().map(|x| x.clone().autodiff().require_grad());
    let (inputs_of_ours, inputs_of_plain) = (tracked(), tracked());
    let output = ours(inputs_of_ours.clone());
    let expected_output = plain(inputs_of_plain.clone());
    let (value, expected) = (output.clone().inner(), expected_output.clone().inner());
    let distance_of_values = distance(value.clone(), expected.clone());
    assert!(distance_of_values <= bound, "values differ by {distance_of_values}");
    // A gradient of the output that differs from place to place.
    let weights = random(value.dims()).mask_fill(on_two_sides_of_a_turn(&value, &expected), 0.0);
    let gradients = |output: Tensor<D>, inputs: [Tensor<D>; N]| {
        let mut gradients = (output * weights.clone().autodiff()).sum().backward();
        inputs.map(|x| x.grad_remove(&mut gradients).expect("an input's gradient"))
    };
    let pairs = gradients(output, inputs_of_ours).into_iter().zip(gradients(expected_output, inputs_of_plain));
    for (index, (gradient, expected)) in pairs.enumerate() {
        let distance = distance(gradient, expected);
        assert!(distance <= bound, "gradient {index} differs by {distance}");
    }
    // Without a graph the same values must come out, to the bit.
    let untracked = ours(inputs.clone());
    assert_eq!(untracked.into_data(), value.into_data(), "tracking changes the values");
}

/// Where rounding puts `x` and `y` on two sides of 0 or 6, where ReLU and ReLU6 turn: one is the turn itself, the other is not.
fn on_two_sides_of_a_turn<const D: usize>(x: &Tensor<D>, y: &Tensor<D>) -> Tensor<D, Bool> {
    let near = |turn: f32| (y.clone() - turn).abs().lower_elem(1e-3);
    near(0.0).bool_or(near(6.0)).bool_and(x.clone().not_equal(y.clone()))
}
