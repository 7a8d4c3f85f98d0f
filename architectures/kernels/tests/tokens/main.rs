//! The operations on rows, tokens and statistics beside Burn's.

#[path = "../common/mod.rs"]
mod common;

mod attention;
mod elementwise;
mod normalisation;
mod softmax;

use burn::tensor::Tensor;
use common::random;
use netkin_kernels::{Operation, run};

/// Checks that an operation on x and parameters gives the same bits for an image by itself, and where x may be overwritten.
fn check_bits<const D: usize, const E: usize>(
    operation: impl Operation + Clone,
    x: Tensor<D>,
    parameters: &[Tensor<1>],
) {
    let run_on = |x: Tensor<D>| -> Tensor<E> {
        let parameters = parameters.iter().map(|p| p.clone().into_dispatch());
        let inputs = std::iter::once(x.into_dispatch()).chain(parameters);
        run(operation.clone(), inputs.collect())
    };
    let all = run_on(x.clone());
    // A sum is a new tensor, which nobody else holds.
    let unique = run_on(x.clone() + 0.0);
    assert_eq!(unique.into_data(), all.clone().into_data(), "in place");
    for image in 0..x.dims()[0] {
        let alone = run_on(x.clone().narrow(0, image, 1));
        let expected = all.clone().narrow(0, image, 1);
        assert_eq!(alone.into_data(), expected.into_data(), "image {image} alone");
    }
}

/// A parameter as a tensor of as many axes as x has, as [`common::compare`] wants it.
fn parameter<const D: usize>(len: usize) -> Tensor<D> {
    let mut shape = [1; D];
    shape[D - 1] = len;
    random(shape)
}

fn flat<const D: usize>(parameter: Tensor<D>) -> Tensor<1> {
    let len = parameter.shape().num_elements();
    parameter.reshape([len])
}
