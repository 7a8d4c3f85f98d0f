//! Products of factors that are rounded to bf16. Where the processor multiplies no bf16, there is nothing to test.

#[allow(dead_code, reason = "products are compared in double precision")]
mod common;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, TensorData, activation, module};
use common::{distance, random};
use netkin_kernels::{Activation, Attention, Cache, Convolution, Linear, Operation, Products, run};
use proptest::prelude::*;

/// Whether there is something to test.
fn is_possible() -> bool {
    Products::bf16_unit().is_some()
}

/// Values that bf16 holds, so that the factors of a product are what they are, and only its sums are rounded.
fn representable<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    random(shape).cast(DType::BF16).cast(DType::F32)
}

fn linear(products: Products) -> Linear {
    Linear {
        bias: false,
        activation: Activation::Identity,
        scale: false,
        residual: false,
        trainable: false,
        products,
        cache: Cache::default(),
    }
}

fn convolution(stride: usize, padding: usize, groups: usize) -> Convolution {
    let products = Products::Bf16;
    let padding = [(padding, padding); 2];
    Convolution { stride: [stride; 2], padding, groups, products, ..Convolution::pointwise(Cache::default()) }
}

fn apply<const D: usize>(operation: impl Operation, x: Tensor<D>, weight: Tensor<D>) -> Tensor<D> {
    run(operation, vec![x.into_dispatch(), weight.into_dispatch()])
}

/// Compares value and gradient with respect to x, which bf16 holds, with `plain` in double precision.
fn check<const D: usize>(
    x: Tensor<D>,
    ours: impl Fn(Tensor<D>) -> Tensor<D>,
    plain: impl Fn(Tensor<D>) -> Tensor<D>,
    bound: f32,
) {
    let tracked = x.clone().autodiff().require_grad();
    let y = ours(tracked.clone());
    let wide = x.clone().cast(DType::F64).autodiff().require_grad();
    let expected = plain(wide.clone());
    let single = |x: Tensor<D>| x.inner().cast(DType::F32);
    let far = distance(y.clone().inner(), single(expected.clone()));
    assert!(far <= bound, "values differ by {far}");
    assert_eq!(ours(x).into_data(), y.clone().inner().into_data(), "tracking changes the values");
    let weights = representable(y.dims());
    let mut gradients = (y * weights.clone().autodiff()).sum().backward();
    let gradient = tracked.grad_remove(&mut gradients).expect("the gradient of x");
    let mut gradients = (expected * weights.cast(DType::F64).autodiff()).sum().backward();
    let expected = wide.grad_remove(&mut gradients).expect("the gradient of x");
    let far = distance(gradient, expected.cast(DType::F32));
    assert!(far <= bound, "gradients differ by {far}");
}

/// By Burn in double precision.
fn plain_convolution(layer: &Convolution, x: Tensor<4>, weight: &Tensor<4>) -> Tensor<4> {
    let mut options = ConvOptions::new(layer.stride, [0, 0], layer.dilation, layer.groups);
    options.padding = layer.padding;
    module::conv2d(x, weight.clone().cast(DType::F64).autodiff(), None, options)
}

#[test]
fn factors_are_rounded_to_the_nearest_and_of_two_to_the_even() {
    if !is_possible() {
        return;
    }
    let device = Device::flex();
    // Halfway between neighbours, up and down; on both sides of halfway; and whatever comes.
    let tie = 1.0 + 2f32.powi(-8);
    let mut values = vec![tie, tie + 2f32.powi(-7), -tie, tie.next_up(), tie.next_down(), 3.0e38, 0.0, 1.2e-38];
    values.extend(random::<1>([92]).into_data().iter::<f32>());
    let x = Tensor::<2>::from_data(TensorData::new(values, [10, 10]), &device);
    let y = apply(linear(Products::Bf16), x.clone(), Tensor::eye(10, &device));
    assert_eq!(y.into_data(), x.cast(DType::BF16).cast(DType::F32).into_data());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn linear_maps(rows in 1..150usize, inputs in 1..100usize, outputs in 1..120usize, deep in any::<bool>()) {
        if !is_possible() {
            return Ok(());
        }
        let inputs = if deep { inputs + 600 } else { inputs };
        let weight = representable([outputs, inputs]);
        let layer = linear(Products::Bf16);
        check(
            representable([rows, inputs]),
            |x| apply(layer.clone(), x, weight.clone()),
            |x| x.matmul(weight.clone().cast(DType::F64).autodiff().transpose()),
            1e-5,
        );
    }

    #[test]
    fn convolutions(
        (batch, size) in (1..4usize, prop::array::uniform2(5..30usize)),
        (kernel, stride, padding) in (1..6usize, 1..4usize, 0..3usize),
        (groups, inputs, outputs) in (1..3usize, 33..100usize, 1..70usize),
    ) {
        if !is_possible() {
            return Ok(());
        }
        // Of more than 32 channels in a group, so that it is a matrix product; and not by Winograd's way, which stays f32 and is
        // exact all the same.
        let layer = convolution(stride, padding.min(kernel - 1), groups);
        let weight = representable([groups * outputs, inputs, kernel, kernel]);
        let [height, width] = size;
        check(
            representable([batch, groups * inputs, height, width]),
            |x| apply(layer.clone(), x, weight.clone()),
            |x| plain_convolution(&layer, x, &weight),
            3e-5,
        );
    }

    /// Scores and probabilities are rounded on the way, so that bf16's own rounding, 2⁻⁹, bounds the difference.
    #[test]
    fn attention(batch in 1..3usize, tokens in 1..150usize, heads in 1..4usize, size in 1..70usize) {
        if !is_possible() {
            return Ok(());
        }
        let scale = (size as f64).powf(-0.5);
        let plain = |qkv: Tensor<4>| {
            let qkv = qkv.reshape([batch, tokens, 3, heads, size]).permute([2, 0, 3, 1, 4]);
            let part = |index| qkv.clone().narrow(0, index, 1).reshape([batch, heads, tokens, size]);
            let scores = part(0).mul_scalar(scale).matmul(part(1).transpose());
            activation::softmax(scores, 3).matmul(part(2)).swap_dims(1, 2).reshape([batch, tokens, heads * size, 1])
        };
        check(
            representable([batch, tokens, 3 * heads * size, 1]),
            |qkv| {
                let operation = Attention { heads, scale, products: Products::Bf16 };
                run::<3>(operation, vec![qkv.squeeze_dim::<3>(3).into_dispatch()]).unsqueeze_dim(3)
            },
            plain,
            3e-2,
        );
    }
}

#[test]
fn tiling_windows_and_few_channels() {
    if !is_possible() {
        return;
    }
    for (size, inputs) in [(4, 3), (2, 64), (1, 200)] {
        let layer = convolution(size, 0, 1);
        let weight = representable([40, inputs, size, size]);
        check(
            representable([2, inputs, 4 * size, 5 * size]),
            |x| apply(layer.clone(), x, weight.clone()),
            |x| plain_convolution(&layer, x, &weight),
            1e-5,
        );
    }
}

#[test]
fn what_follows_a_product_follows_it_here() {
    if !is_possible() {
        return;
    }
    let (weight, bias, scale) = (representable::<2>([50, 420]), random::<1>([50]), random::<1>([50]));
    let residual = random::<2>([37, 50]);
    let layer =
        Linear { bias: true, activation: Activation::Gelu, scale: true, residual: true, ..linear(Products::Bf16) };
    let wide = |tensor: &Tensor<1>| tensor.clone().cast(DType::F64).unsqueeze::<2>();
    let x = representable([37, 420]);
    let inputs = vec![
        x.clone().into_dispatch(),
        weight.clone().into_dispatch(),
        bias.clone().into_dispatch(),
        scale.clone().into_dispatch(),
        residual.clone().into_dispatch(),
    ];
    let y: Tensor<2> = run(layer, inputs);
    let sums = x.cast(DType::F64).matmul(weight.cast(DType::F64).transpose()) + wide(&bias);
    let expected = activation::gelu(sums) * wide(&scale) + residual.cast(DType::F64);
    assert!(distance(y, expected.cast(DType::F32)) < 1e-5);
}

#[test]
fn an_image_does_not_depend_on_the_others() {
    if !is_possible() {
        return;
    }
    fn check<const D: usize>(x: Tensor<D>, map: impl Fn(Tensor<D>) -> Tensor<D>) {
        let gradient_of = |x: Tensor<D>| {
            let x = x.autodiff().require_grad();
            let y = map(x.clone());
            let gradients = (y.clone() * y).sum().backward();
            x.grad(&gradients).expect("the gradient of x")
        };
        let (all, gradient) = (map(x.clone()), gradient_of(x.clone()));
        for index in 0..x.dims()[0] {
            let alone = x.clone().narrow(0, index, 1);
            assert_eq!(map(alone.clone()).into_data(), all.clone().narrow(0, index, 1).into_data());
            assert_eq!(gradient_of(alone).into_data(), gradient.clone().narrow(0, index, 1).into_data());
        }
    }
    let (layer, weight) = (linear(Products::Bf16), random::<2>([100, 700]));
    check(random([67, 700]), |x| apply(layer.clone(), x, weight.clone()));
    for (kernel, stride) in [(3, 1), (5, 2), (1, 1)] {
        let (layer, weight) = (convolution(stride, kernel / 2, 1), random([40, 130, kernel, kernel]));
        check(random([5, 130, 7, 9]), |x| apply(layer.clone(), x, weight.clone()));
    }
    let operation = Attention { heads: 3, scale: 0.2, products: Products::Bf16 };
    check(random::<3>([5, 77, 3 * 3 * 24]), |x| run(operation, vec![x.into_dispatch()]));
}

#[test]
fn both_ways_share_a_layer_and_keep_apart() {
    if !is_possible() {
        return;
    }
    let (x, weight) = (random::<2>([20, 300]), random::<2>([30, 300]));
    let cache = Cache::default();
    let map = |products| {
        let layer = Linear { cache: cache.clone(), ..linear(products) };
        apply(layer, x.clone(), weight.clone()).into_data()
    };
    let (plain, rounded) = (map(Products::F32), map(Products::Bf16));
    assert_ne!(plain, rounded);
    assert_eq!((map(Products::F32), map(Products::Bf16)), (plain, rounded));
}

#[test]
fn layers_multiply_as_is_said_around_them() {
    assert_eq!(Products::current(), Products::F32);
    let inside = Products::Bf16.within(|| (Products::current(), Products::F32.within(Products::current)));
    assert_eq!(inside, (Products::Bf16, Products::F32));
    assert_eq!(Products::current(), Products::F32);
    assert_eq!(Products::Bf16.within(|| Convolution::pointwise(Cache::default())).products, Products::Bf16);
    let panicked = std::panic::catch_unwind(|| Products::Bf16.within(|| panic!("on purpose")));
    assert!(panicked.is_err());
    assert_eq!(Products::current(), Products::F32);
}
