use burn::tensor::{Tensor, activation, module};
use netkin_kernels::{
    Activation, BatchNorm, ChannelNorm, GlobalResponseNorm, LayerNorm, batch_moments, run,
};
use proptest::prelude::*;

use super::common::{compare, distance, random};
use super::{check_bits, flat, parameter};

const EPSILON: f64 = 1e-5;

/// x · scale + shift over the channels of images.
fn per_channel(x: Tensor<4>, scale: Tensor<4>, shift: Tensor<4>) -> Tensor<4> {
    x * scale.swap_dims(1, 3) + shift.swap_dims(1, 3)
}

fn three<const D: usize>(
    x: Tensor<D>,
    scale: Tensor<D>,
    shift: Tensor<D>,
) -> Vec<burn::backend::tensor::FloatTensor<burn::backend::Dispatch>> {
    vec![
        x.into_dispatch(),
        flat(scale).into_dispatch(),
        flat(shift).into_dispatch(),
    ]
}

fn compare_global_response_norm(inputs: &[Tensor<4>; 3]) {
    compare(
        inputs,
        |[x, scale, shift]| run(GlobalResponseNorm { epsilon: 1e-6 }, three(x, scale, shift)),
        |[x, scale, shift]| {
            let strength = x.clone().square().sum_dim(1).sum_dim(2).sqrt();
            let relative = strength.clone() / (strength.mean_dim(3) + 1e-6);
            x * (relative * scale + 1.0) + shift
        },
        2e-5,
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn layer_norm(batch in 1..4usize, tokens in 1..70usize, channels in 2..300usize) {
        let inputs = [random([batch, tokens, channels]), parameter(channels), parameter(channels)];
        compare(
            &inputs,
            |[x, scale, shift]| run(LayerNorm { epsilon: EPSILON }, three(x, scale, shift)),
            |[x, scale, shift]| {
                let centred = x.clone() - x.mean_dim(2);
                let variance = centred.clone().square().mean_dim(2);
                centred / (variance + EPSILON).sqrt() * scale + shift
            },
            1e-5,
        );
        let [x, scale, shift] = inputs;
        check_bits::<3, 3>(LayerNorm { epsilon: EPSILON }, x, &[flat(scale), flat(shift)]);
    }

    #[test]
    fn channel_norm(batch in 1..4usize, channels in 2..70usize, height in 1..40usize, width in 1..40usize) {
        let inputs = [random([batch, channels, height, width]), parameter(channels), parameter(channels)];
        compare(
            &inputs,
            |[x, scale, shift]| run(ChannelNorm { epsilon: EPSILON }, three(x, scale, shift)),
            |[x, scale, shift]| {
                let centred = x.clone() - x.mean_dim(1);
                let variance = centred.clone().square().mean_dim(1);
                per_channel(centred / (variance + EPSILON).sqrt(), scale, shift)
            },
            2e-5,
        );
        let [x, scale, shift] = inputs;
        check_bits::<4, 4>(ChannelNorm { epsilon: EPSILON }, x, &[flat(scale), flat(shift)]);
    }

    #[test]
    fn global_response_norm(batch in 1..4usize, height in 1..30usize, width in 1..30usize, channels in 1..100usize) {
        let inputs = [random([batch, height, width, channels]), parameter(channels), parameter(channels)];
        compare_global_response_norm(&inputs);
        let operation = GlobalResponseNorm { epsilon: 1e-6 };
        let [x, scale, shift] = inputs;
        check_bits::<4, 4>(operation, x, &[flat(scale), flat(shift)]);
    }

    #[test]
    fn batch_norm(batch in 1..5usize, channels in 1..9usize, height in 2..20usize, width in 1..20usize) {
        let inputs = [random([batch, channels, height, width]), parameter(channels), parameter(channels)];
        for kind in [Activation::Identity, Activation::Relu6, Activation::Silu] {
            compare(
                &inputs,
                |[x, scale, shift]| {
                    let moments = batch_moments(&x);
                    let mut inputs = three(x, scale, shift);
                    inputs.push(moments.into_dispatch());
                    run(BatchNorm { epsilon: EPSILON, activation: kind }, inputs)
                },
                |[x, scale, shift]| {
                    let mean = |x: Tensor<4>| x.mean_dim(0).mean_dim(2).mean_dim(3);
                    let centred = x.clone() - mean(x);
                    let variance = mean(centred.clone().square());
                    let y = per_channel(centred / (variance + EPSILON).sqrt(), scale, shift);
                    match kind {
                        Activation::Relu6 => activation::hardtanh(y, 0.0, 6.0),
                        Activation::Silu => activation::silu(y),
                        _ => y,
                    }
                },
                3e-5,
            );
        }
    }
}

#[test]
fn moments_of_values_far_from_zero_are_exact() {
    let x = random([3, 2, 30, 31]);
    let near = batch_moments(&x).narrow(0, 1, 1);
    let far = batch_moments(&(x.clone() + 100.0)).narrow(0, 1, 1);
    assert!(distance(far, near) < 1e-4);
    let burn = module::batch_norm_train(
        x.clone(),
        Tensor::ones([2], &x.device()),
        Tensor::zeros([2], &x.device()),
        EPSILON,
    );
    let expected = Tensor::stack::<2>(vec![burn.mean, burn.variance], 0);
    assert!(distance(batch_moments(&x), expected) < 1e-5);
}

#[test]
fn a_dead_channel_has_no_gradient_through_its_strength() {
    let device = burn::tensor::Device::flex();
    // The strengths are 5 and 0, their mean 2.5: the first channel grows by the factor 1 + 2.
    let x = Tensor::<4>::from_data([[[[3.0, 0.0], [4.0, 0.0]]]], &device)
        .autodiff()
        .require_grad();
    let ones = Tensor::<1>::ones([2], &device).autodiff();
    let zeros = Tensor::<1>::zeros([2], &device).autodiff();
    let inputs = vec![
        x.clone().into_dispatch(),
        ones.into_dispatch(),
        zeros.into_dispatch(),
    ];
    let y: Tensor<4> = run(GlobalResponseNorm { epsilon: 1e-6 }, inputs);
    let tolerance = burn::tensor::Tolerance::<f32>::relative(1e-5);
    let expected = [[[[9.0f32, 0.0], [12.0, 0.0]]]].into();
    y.clone()
        .inner()
        .into_data()
        .assert_approx_eq(&expected, tolerance);
    let gradient = x
        .grad(&y.sum().backward())
        .expect("x wants one")
        .into_data();
    assert!(gradient.iter::<f32>().all(f32::is_finite), "{gradient}");
}

#[test]
fn global_response_norm_of_more_images_than_fit_the_cache() {
    compare_global_response_norm(&[random([5, 40, 50, 201]), parameter(201), parameter(201)]);
}
