use burn::tensor::{DType, activation};
use netkin_kernels::{Activation, Add, Affine, MeanTokens, Multiply, SwapAxes, run};
use proptest::prelude::*;

use super::common::{compare, random};
use super::{check_bits, flat, parameter};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn affine_over_the_last_axis(batch in 1..4usize, tokens in 1..150usize, channels in 1..300usize) {
        let operation = Affine { axis: 2, trainable: true };
        let inputs = [random([batch, tokens, channels]), parameter(channels), parameter(channels)];
        compare(
            &inputs,
            |[x, scale, shift]| {
                run(operation, vec![x.into_dispatch(), scale.into_dispatch(), shift.into_dispatch()])
            },
            |[x, scale, shift]| x * scale + shift,
            1e-5,
        );
        let [x, scale, shift] = inputs;
        compare(
            &[x.clone(), scale.clone()],
            |[x, scale]| run(operation, vec![x.into_dispatch(), flat(scale).into_dispatch()]),
            |[x, scale]| x * scale,
            1e-5,
        );
        check_bits::<3, 3>(operation, x.clone(), &[flat(scale.clone()), flat(shift)]);
        // Frozen, it may work in place also under autodiff.
        let fixed = flat(scale.clone());
        compare(
            &[x],
            |[x]| {
                let operation = Affine { axis: 2, trainable: false };
                run(operation, vec![(x + 0.0).into_dispatch(), fixed.clone().autodiff().into_dispatch()])
            },
            |[x]| x * scale.clone().autodiff(),
            1e-6,
        );
    }

    #[test]
    fn affine_over_the_channels_of_images(batch in 1..4usize, channels in 1..20usize, height in 1..40usize, width in 1..40usize) {
        let operation = Affine { axis: 1, trainable: true };
        let inputs = [
            random([batch, channels, height, width]),
            random([1, channels, 1, 1]),
            random([1, channels, 1, 1]),
        ];
        compare(
            &inputs,
            |inputs| run(operation, inputs.map(|input| input.into_dispatch()).into()),
            // In f64: gradients of scale and shift are sums of thousands of products that nearly cancel.
            |inputs| {
                let [x, scale, shift] = inputs.map(|input| input.cast(DType::F64));
                (x * scale + shift).cast(DType::F32)
            },
            5e-5,
        );
        let [x, scale, shift] = inputs;
        check_bits::<4, 4>(operation, x, &[flat(scale), flat(shift)]);
    }

    #[test]
    fn add(rows in 1..5usize, columns in 1..20_000usize) {
        for kind in [Activation::Identity, Activation::Relu, Activation::Gelu] {
            let add = Add { activation: kind };
            compare(
                &[random([rows, columns]), random([rows, columns])],
                |[x, y]| run(add, vec![(x + 0.0).into_dispatch(), y.into_dispatch()]),
                |[x, y]| match kind {
                    Activation::Relu => activation::relu(x + y),
                    Activation::Gelu => activation::gelu(x + y),
                    _ => x + y,
                },
                1e-6,
            );
            // Both the same array.
            compare(
                &[random([rows, columns])],
                |[x]| run(add, vec![x.clone().into_dispatch(), x.into_dispatch()]),
                |[x]| match kind {
                    Activation::Relu => activation::relu(x * 2.0),
                    Activation::Gelu => activation::gelu(x * 2.0),
                    _ => x * 2.0,
                },
                1e-6,
            );
        }
    }

    #[test]
    fn multiply(rows in 1..5usize, columns in 1..20_000usize) {
        compare(
            &[random([rows, columns]), random([rows, columns])],
            |[x, y]| run(Multiply, vec![x.into_dispatch(), y.into_dispatch()]),
            |[x, y]| x * y,
            1e-6,
        );
    }

    #[test]
    fn mean_over_tokens(batch in 1..5usize, tokens in 1..100usize, channels in 1..400usize) {
        let x = random([batch, tokens, channels]);
        compare(
            std::array::from_ref(&x),
            |[x]| run::<2>(MeanTokens { tokens }, vec![x.into_dispatch()]).unsqueeze_dim(1),
            |[x]| x.mean_dim(1),
            1e-5,
        );
        check_bits::<3, 2>(MeanTokens { tokens }, x, &[]);
    }

    #[test]
    fn swap_axes(batch in 1..5usize, rows in 1..150usize, columns in 1..150usize) {
        compare(
            &[random([batch, rows, columns])],
            |[x]| run(SwapAxes, vec![x.into_dispatch()]),
            |[x]| x.swap_dims(1, 2),
            0.0,
        );
    }
}
