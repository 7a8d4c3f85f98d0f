//! Convolutions beside Burn's.

mod common;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, activation, module};
use common::{compare, distance, random};
use netkin_kernels::{Activation, Cache, Convolution, Products, run};
use proptest::prelude::*;

fn layer(stride: usize, padding: [(usize, usize); 2], dilation: usize, groups: usize) -> Convolution {
    Convolution {
        stride: [stride; 2],
        padding,
        dilation: [dilation; 2],
        groups,
        bias: false,
        norm: None,
        scale: false,
        residual: false,
        activation: Activation::Identity,
        trainable: true,
        products: Products::F32,
        cache: Cache::default(),
    }
}

fn plain(layer: &Convolution, x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let mut options = ConvOptions::new(layer.stride, [0, 0], layer.dilation, layer.groups);
    options.padding = layer.padding;
    module::conv2d(x, weight, bias, options)
}

prop_compose! {
    /// A convolution with its input and weights.
    fn convolutions()(
        (batch, height, width) in (1..4usize, 3..20usize, 3..60usize),
        (kernel, stride, dilation) in (1..5usize, 1..4usize, 1..3usize),
        (groups, inputs, outputs) in (1..4usize, 1..12usize, 1..20usize),
        (before, after) in (0..3usize, 0..3usize),
    ) -> (Convolution, Tensor<4>, Tensor<4>) {
        // A kernel fits into what is padded, and a padding is less than the kernel.
        let reach = dilation * (kernel - 1) + 1;
        let padding = (before.min(kernel - 1), after.min(kernel - 1));
        let (height, width) = (height.max(reach), width.max(reach));
        let layer = layer(stride, [padding, (padding.1, padding.0)], dilation, groups);
        let x = random([batch, groups * inputs, height, width]);
        let weight = random([groups * outputs, inputs, kernel, kernel]);
        (layer, x, weight)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn value_and_gradients_are_those_of_burn((layer, x, weight) in convolutions()) {
        compare(
            &[x, weight],
            |[x, weight]| run(layer.clone(), vec![x.into_dispatch(), weight.into_dispatch()]),
            |[x, weight]| plain(&layer, x, weight, None),
            3e-5,
        );
    }

    #[test]
    fn norm_residual_and_activation_follow(
        (layer, x, weight) in convolutions(),
        kind in 0..4usize,
        with_residual: bool,
    ) {
        let activation = [Activation::Identity, Activation::Relu, Activation::Silu, Activation::Relu6][kind];
        let layer = Convolution {
            bias: true,
            norm: Some(1e-5),
            residual: with_residual,
            activation,
            trainable: false,
            ..layer
        };
        let [outputs, ..] = weight.dims();
        let bias = random::<1>([outputs]);
        let [scale, shift, mean] = [(); 3].map(|()| random::<1>([outputs]));
        let variance = random::<1>([outputs]).abs() + 0.1;
        let residual = random(plain(&layer, x.clone(), weight.clone(), None).dims());
        let constants = [&bias, &scale, &shift, &mean, &variance];
        // The residual is tested by its value and by what the activation lets through to x.
        compare(
            &[x],
            |[x]| {
                let mut inputs = vec![x.into_dispatch(), weight.clone().into_dispatch()];
                inputs.extend(constants.map(|tensor| tensor.clone().into_dispatch()));
                inputs.extend(with_residual.then(|| residual.clone().into_dispatch()));
                run(layer.clone(), inputs)
            },
            |[x]| {
                let [bias, scale, shift, mean, variance] = constants.map(|tensor| tensor.clone().autodiff());
                let y = plain(&layer, x, weight.clone().autodiff(), Some(bias));
                let mut y = module::batch_norm(y, scale, shift, mean, variance, 1e-5);
                if with_residual {
                    y = y + residual.clone().autodiff();
                }
                match activation {
                    Activation::Relu => activation::relu(y),
                    Activation::Silu => activation::silu(y),
                    // Unlike hardtanh's, its slope at 6 itself is 0, as ours is.
                    Activation::Relu6 => -activation::relu(-activation::relu(y) + 6.0) + 6.0,
                    _ => y,
                }
            },
            1e-4,
        );
    }
}

#[test]
fn the_residual_has_the_gradient_before_the_activation() {
    let layer =
        Convolution { residual: true, activation: Activation::Relu, trainable: false, ..layer(1, [(1, 1); 2], 1, 1) };
    let weight = random([4, 4, 3, 3]);
    compare(
        &[random([2, 4, 9, 9])],
        |[x]| {
            let inputs = vec![x.clone().into_dispatch(), weight.clone().into_dispatch(), x.into_dispatch()];
            run(layer.clone(), inputs)
        },
        |[x]| {
            let y = plain(&layer, x.clone(), weight.clone().autodiff(), None);
            activation::relu(y + x)
        },
        3e-5,
    );
}

#[test]
fn wide_three_by_three_kernels_are_like_any_other() {
    for (inputs, outputs, [height, width], padding, with_residual) in [
        (32, 40, [7, 7], 1, true),
        (64, 32, [14, 23], 1, false),
        (40, 36, [9, 5], 0, false),
        (33, 32, [6, 70], 2, true),
    ] {
        let layer = Convolution {
            residual: with_residual,
            activation: Activation::Silu,
            trainable: false,
            ..layer(1, [(padding, padding); 2], 1, 1)
        };
        let weight = random([outputs, inputs, 3, 3]) * 0.1;
        let x = random([3, inputs, height, width]);
        let residual = random(plain(&layer, x.clone(), weight.clone(), None).dims());
        compare(
            &[x],
            |[x]| {
                let mut inputs = vec![x.into_dispatch(), weight.clone().into_dispatch()];
                inputs.extend(with_residual.then(|| residual.clone().into_dispatch()));
                run(layer.clone(), inputs)
            },
            |[x]| {
                let mut y = plain(&layer, x, weight.clone().autodiff(), None);
                if with_residual {
                    y = y + residual.clone().autodiff();
                }
                activation::silu(y)
            },
            3e-5,
        );
    }
}

#[test]
fn images_of_three_colours_are_like_any_other() {
    for (kernel, stride, size) in [(3, 1, 9), (3, 2, 33), (7, 2, 40), (5, 3, 80), (2, 3, 20)] {
        let padding = [((kernel - 1) / 2, kernel / 2), (kernel / 2, (kernel - 1) / 2)];
        let layer = layer(stride, padding, 1, 1);
        compare(
            &[random([2, 3, size, size + 3]), random([10, 3, kernel, kernel])],
            |[x, weight]| run(layer.clone(), vec![x.into_dispatch(), weight.into_dispatch()]),
            |[x, weight]| plain(&layer, x, weight, None),
            3e-5,
        );
    }
}

#[test]
fn windows_that_tile_the_image_are_like_any_other() {
    for (size, groups) in [(2, 1), (4, 1), (3, 2)] {
        let layer = layer(size, [(0, 0); 2], 1, groups);
        compare(
            &[random([2, 3 * groups, 4 * size, 5 * size]), random([10 * groups, 3, size, size])],
            |[x, weight]| run(layer.clone(), vec![x.into_dispatch(), weight.into_dispatch()]),
            |[x, weight]| plain(&layer, x, weight, None),
            3e-5,
        );
    }
}

#[test]
fn an_image_does_not_depend_on_the_others() {
    let layer = Convolution { trainable: false, ..layer(1, [(1, 1); 2], 1, 1) };
    let (x, weight) = (random([5, 130, 7, 7]), random([40, 130, 3, 3]));
    let map =
        |x: Tensor<4>| -> Tensor<4> { run(layer.clone(), vec![x.into_dispatch(), weight.clone().into_dispatch()]) };
    let all = map(x.clone());
    for image in 0..5 {
        let alone = map(x.clone().narrow(0, image, 1));
        assert_eq!(distance(alone, all.clone().narrow(0, image, 1)), 0.0);
    }
}
