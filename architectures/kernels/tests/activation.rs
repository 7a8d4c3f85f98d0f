//! Activations beside Burn's.

mod common;

use burn::tensor::{Tensor, activation};
use common::{compare, random};
use netkin_kernels::{Activate, Activation, run};
use proptest::prelude::*;

fn plain(activation: Activation, x: Tensor<2>) -> Tensor<2> {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn value_and_gradient_are_those_of_burn(rows in 1..5usize, columns in 1..20_000usize, scale in 0.5..5.0f32) {
        for kind in [
            Activation::Relu,
            Activation::Relu6,
            Activation::LeakyRelu,
            Activation::SquaredRelu,
            Activation::Gelu,
            Activation::Silu,
            Activation::Sigmoid,
            Activation::HardSigmoid,
            Activation::HardSwish,
        ] {
            // Odd 128ths: no slope jumps there, where rounding would decide between two.
            let x = ((random([rows, columns]) * (scale * 64.0)).floor() + 0.5) / 64.0;
            compare(
                &[x],
                |[x]| run(Activate(kind), vec![x.into_dispatch()]),
                |[x]| plain(kind, x),
                1e-6,
            );
        }
    }
}
