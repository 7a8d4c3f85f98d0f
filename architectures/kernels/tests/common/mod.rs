//! Comparing a kernel with Burn's own operations, value and gradients.

use burn::tensor::{Device, Distribution, Tensor};

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
    let run = |function: &dyn Fn([Tensor<D>; N]) -> Tensor<D>, weights: Option<Tensor<D>>| {
        let tracked = inputs
            .each_ref()
            .map(|x| x.clone().autodiff().require_grad());
        let output = function(tracked.clone());
        let value = output.clone().inner();
        // A gradient that differs from place to place.
        let weights = weights.unwrap_or_else(|| random(value.dims()));
        let mut gradients = (output * weights.clone().autodiff()).sum().backward();
        let gradients =
            tracked.map(|x| x.grad_remove(&mut gradients).expect("an input's gradient"));
        (value, gradients, weights)
    };
    let (expected, expected_gradients, weights) = run(&plain, None);
    let (value, gradients, _) = run(&ours, Some(weights));
    let distance_of_values = distance(value.clone(), expected);
    assert!(
        distance_of_values <= bound,
        "values differ by {distance_of_values}"
    );
    for (index, (gradient, expected)) in gradients.into_iter().zip(expected_gradients).enumerate() {
        let distance = distance(gradient, expected);
        assert!(distance <= bound, "gradient {index} differs by {distance}");
    }
    // Without a graph the same values must come out, to the bit.
    let untracked = ours(inputs.clone());
    assert_eq!(
        untracked.into_data(),
        value.into_data(),
        "tracking changes the values"
    );
}
