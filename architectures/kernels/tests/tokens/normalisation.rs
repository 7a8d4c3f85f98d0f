use burn::tensor::{Tensor, activation, module};
use netkin_kernels::{
    Activation, BatchNorm, Cache, ChannelNorm, EvoNorm, GroupNorm, LayerNorm, Standardisation, batch_moments, run,
};
use proptest::prelude::*;

use super::common::{compare, distance, random};
use super::{check_bits, flat, parameter};

/// Large enough that two nearly equal channels do not make every rounding error a large one.
const EPSILON: f64 = 1e-2;

/// x · scale + shift over the channels of images.
fn per_channel(x: Tensor<4>, scale: Tensor<4>, shift: Tensor<4>) -> Tensor<4> {
    x * scale.swap_dims(1, 3) + shift.swap_dims(1, 3)
}

fn three<const D: usize>(
    x: Tensor<D>,
    scale: Tensor<D>,
    shift: Tensor<D>,
) -> Vec<burn::backend::tensor::FloatTensor<burn::backend::Dispatch>> {
    vec![x.into_dispatch(), flat(scale).into_dispatch(), flat(shift).into_dispatch()]
}

/// The distances from the mean of each of two groups of channels, and their variance.
fn group_moments(x: Tensor<4>) -> (Tensor<3>, Tensor<3>) {
    let [batch, channels, height, width] = x.dims();
    let x = x.reshape([batch, 2, channels / 2 * height * width]);
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    (centred, variance)
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
                        // Unlike hardtanh's, its slope at 6 itself is 0, as ours is.
                        Activation::Relu6 => -activation::relu(-activation::relu(y) + 6.0) + 6.0,
                        Activation::Silu => activation::silu(y),
                        _ => y,
                    }
                },
                3e-5,
            );
        }
    }

    #[test]
    fn group_norm(batch in 1..4usize, half in 1..9usize, height in 2..12usize, width in 1..20usize) {
        let channels = 2 * half;
        let inputs = [random([batch, channels, height, width]), parameter(channels), parameter(channels)];
        for kind in [Activation::Identity, Activation::Relu, Activation::Silu] {
            let operation = GroupNorm { groups: 2, epsilon: EPSILON, activation: kind };
            compare(
                &inputs,
                |[x, scale, shift]| run(operation, three(x, scale, shift)),
                |[x, scale, shift]| {
                    let (centred, variance) = group_moments(x.clone());
                    let y = per_channel((centred / (variance + EPSILON).sqrt()).reshape(x.dims()), scale, shift);
                    match kind {
                        Activation::Relu => activation::relu(y),
                        Activation::Silu => activation::silu(y),
                        _ => y,
                    }
                },
                3e-5,
            );
            let [x, scale, shift] = inputs.clone();
            check_bits::<4, 4>(operation, x, &[flat(scale), flat(shift)]);
        }
    }

    #[test]
    fn evo_norm(batch in 1..4usize, half in 1..9usize, height in 2..12usize, width in 1..20usize) {
        let channels = 2 * half;
        let x = random([batch, channels, height, width]);
        let inputs = [x, parameter(channels), parameter(channels), parameter(channels)];
        let operation = EvoNorm { groups: 2, epsilon: EPSILON };
        compare(
            &inputs,
            |[x, scale, shift, v]| {
                let mut inputs = three(x, scale, shift);
                inputs.push(flat(v).into_dispatch());
                run(operation, inputs)
            },
            |[x, scale, shift, v]| {
                let (groups, variance) = group_moments(x.clone());
                let gated = x.clone() * activation::sigmoid(x.clone() * v.swap_dims(1, 3));
                let y = gated.reshape(groups.dims()) / (variance + EPSILON).sqrt();
                per_channel(y.reshape(x.dims()), scale, shift)
            },
            3e-5,
        );
        let [x, scale, shift, v] = inputs;
        check_bits::<4, 4>(operation, x, &[flat(scale), flat(shift), flat(v)]);
    }

    #[test]
    fn standardisation(outputs in 1..30usize, inputs in 1..20usize, kernel in 1..4usize, gains: bool) {
        let weight = random([outputs, inputs, kernel, kernel]);
        let gain = random([outputs, 1, 1, 1]);
        compare(
            &[weight, gain],
            |[weight, gain]| {
                let cache = Cache::default();
                let operation = Standardisation { epsilon: EPSILON, factor: 0.7, trainable: true, cache };
                let (gains, gain) = if gains { (Some(gain), None) } else { (None, Some(gain)) };
                let mut inputs = vec![weight.into_dispatch()];
                inputs.extend(gains.map(Tensor::into_dispatch));
                let y: Tensor<4> = run(operation, inputs);
                match gain {
                    Some(gain) => y * gain,
                    None => y,
                }
            },
            |[weight, gain]| {
                let mean = |x: Tensor<4>| x.mean_dim(1).mean_dim(2).mean_dim(3);
                let centred = weight.clone() - mean(weight);
                let variance = mean(centred.clone().square());
                centred / (variance + EPSILON).sqrt() * gain * 0.7
            },
            1e-5,
        );
    }
}

#[test]
fn moments_of_values_far_from_zero_are_exact() {
    let x = random([3, 2, 30, 31]);
    let near = batch_moments(&x).narrow(0, 1, 1);
    let far = batch_moments(&(x.clone() + 100.0)).narrow(0, 1, 1);
    assert!(distance(far, near) < 1e-4);
    let burn =
        module::batch_norm_train(x.clone(), Tensor::ones([2], &x.device()), Tensor::zeros([2], &x.device()), EPSILON);
    let expected = Tensor::stack::<2>(vec![burn.mean, burn.variance], 0);
    assert!(distance(batch_moments(&x), expected) < 1e-5);
}
