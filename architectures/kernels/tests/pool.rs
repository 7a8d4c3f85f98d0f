//! Pooling beside Burn's.

mod common;

use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions};
use burn::tensor::{DType, Tensor, module};
use common::{compare, distance, random};
use netkin_kernels::{AveragePool, Gate, GlobalAveragePool, MaxPool, run};
use proptest::prelude::*;

fn plain_max(x: Tensor<4>, pool: MaxPool) -> Tensor<4> {
    let mut options = MaxPoolOptions::new([pool.kernel; 2]);
    options.stride = [pool.stride; 2];
    options.padding = [(pool.padding, pool.padding); 2];
    options.ceil_mode = pool.ceil;
    module::max_pool2d(x, options)
}

fn plain_average(x: Tensor<4>, pool: AveragePool) -> Tensor<4> {
    let mut options = AvgPoolOptions::new([pool.kernel; 2]);
    options.stride = [pool.stride; 2];
    options.padding = [(pool.padding, pool.padding); 2];
    options.ceil_mode = pool.ceil;
    options.count_include_pad = false;
    module::avg_pool2d(x, options)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn largest_values_are_those_of_burn(
        batch in 1..3usize,
        channels in 1..5usize,
        size in prop::array::uniform2(1..40usize),
        kernel in 1..6usize,
        stride in 1..4usize,
        padding in 0..3usize,
        ceil in any::<bool>(),
        ties in any::<bool>(),
    ) {
        let pool = MaxPool { kernel, stride, padding: padding.min(kernel / 2), ceil };
        let [height, width] = size.map(|size| size.max(kernel));
        let x = random([batch, channels, height, width]);
        // Whole numbers are often equal: then the first takes the gradient.
        let x = if ties { x.round() } else { x };
        compare(&[x], |[x]| run(pool, vec![x.into_dispatch()]), |[x]| plain_max(x, pool), 1e-6);
    }

    #[test]
    fn means_are_those_of_burn(
        batch in 1..3usize,
        channels in 1..5usize,
        size in prop::array::uniform2(1..40usize),
        kernel in 1..6usize,
        stride in 1..4usize,
        padding in 0..3usize,
        ceil in any::<bool>(),
    ) {
        let pool = AveragePool { kernel, stride, padding: padding.min(kernel / 2), ceil, less_middle: false };
        let [height, width] = size.map(|size| size.max(kernel));
        let x = random([batch, channels, height, width]);
        compare(&[x], |[x]| run(pool, vec![x.into_dispatch()]), |[x]| plain_average(x, pool), 1e-6);
    }

    #[test]
    fn means_less_the_middle_are_those_of_burn(
        batch in 1..3usize,
        channels in 1..5usize,
        size in prop::array::uniform2(1..40usize),
        padding in 0..3usize,
    ) {
        let pool = AveragePool { kernel: 2 * padding + 1, stride: 1, padding, ceil: false, less_middle: true };
        let [height, width] = size.map(|size| size.max(pool.kernel));
        let x = random([batch, channels, height, width]);
        let plain = |x: Tensor<4>| plain_average(x.clone(), pool) - x;
        compare(&[x], |[x]| run(pool, vec![x.into_dispatch()]), |[x]| plain(x), 1e-6);
    }

    #[test]
    fn global_means_are_those_of_burn(batch in 1..3usize, channels in 1..20usize, size in prop::array::uniform2(1..30usize)) {
        let [height, width] = size;
        let x = random([batch, channels, height, width]);
        let plain = |x: Tensor<4>| {
            let x = x.reshape([batch, channels, height * width]);
            x.mean_dim(2).reshape([batch, channels, 1, 1])
        };
        compare(
            &[x],
            |[x]| run::<2>(GlobalAveragePool, vec![x.into_dispatch()]).reshape([batch, channels, 1, 1]),
            |[x]| plain(x),
            2e-6,
        );
    }

    #[test]
    fn gates_are_those_of_burn(batch in 1..3usize, channels in 1..20usize, size in prop::array::uniform2(1..30usize)) {
        let [height, width] = size;
        let x = random([batch, channels, height, width]);
        let gate = random([batch, channels, 1, 1]);
        compare(
            &[x, gate],
            |[x, gate]| {
                let gate = gate.reshape([batch, channels]);
                run(Gate, vec![x.into_dispatch(), gate.into_dispatch()])
            },
            // In f64: the gate's gradient is a sum of up to a thousand products that nearly cancel.
            |[x, gate]| (x.cast(DType::F64) * gate.cast(DType::F64)).cast(DType::F32),
            5e-5,
        );
    }
}

#[test]
fn what_is_not_a_number_stays() {
    let x = Tensor::<4>::from_floats([[[[1.0, f32::NAN, 3.0], [4.0, 5.0, 6.0]]]], &burn::tensor::Device::flex());
    let pool = MaxPool { kernel: 2, stride: 1, padding: 0, ceil: false };
    let y: Tensor<4> = run(pool, vec![x.into_dispatch()]);
    assert!(y.into_data().iter::<f32>().all(f32::is_nan));
}

#[test]
fn an_image_alone_is_pooled_as_in_a_batch() {
    let x = random([3, 5, 17, 19]);
    let pool = MaxPool { kernel: 3, stride: 2, padding: 1, ceil: false };
    let all: Tensor<4> = run(pool, vec![x.clone().into_dispatch()]);
    let one: Tensor<4> = run(pool, vec![x.narrow(0, 1, 1).into_dispatch()]);
    assert_eq!(distance(one, all.narrow(0, 1, 1)), 0.0);
}
