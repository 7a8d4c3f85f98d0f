//! Linear maps beside Burn's.

mod common;

use burn::tensor::{Tensor, activation};
use common::{compare, distance, random};
use netkin_kernels::{Activation, Cache, Linear, Products, run};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn value_and_gradient_are_those_of_burn(
        rows in 1..150usize,
        inputs in 1..100usize,
        outputs in 1..120usize,
        deep in any::<bool>(),
        gelu in any::<bool>(),
    ) {
        let inputs = if deep { inputs + 600 } else { inputs };
        let (weight, bias) = (random([outputs, inputs]), random([outputs]));
        let layer = Linear {
            bias: true,
            activation: if gelu { Activation::Gelu } else { Activation::Identity },
            scale: false,
            residual: false,
            trainable: true,
            products: Products::F32,
            cache: Cache::default(),
        };
        let act = |x: Tensor<2>| if gelu { activation::gelu(x) } else { x };
        compare(
            &[random([rows, inputs]), weight],
            |[x, w]| {
                let bias = bias.clone().autodiff();
                run(layer.clone(), vec![x.into_dispatch(), w.into_dispatch(), bias.into_dispatch()])
            },
            |[x, w]| act(x.matmul(w.transpose()) + bias.clone().autodiff().unsqueeze()),
            3e-5,
        );
    }

    #[test]
    fn scale_and_residual_come_last(rows in 1..40usize, inputs in 1..40usize, outputs in 1..120usize) {
        let (weight, bias, scale) = (random([outputs, inputs]), random([outputs]), random([outputs]));
        for activation in [Activation::Identity, Activation::Relu, Activation::Gelu] {
            let layer = Linear {
                bias: true,
                activation,
                scale: true,
                residual: true,
                trainable: false,
                products: Products::F32,
                cache: Cache::default(),
            };
            let act = |x: Tensor<2>| match activation {
                Activation::Relu => activation::relu(x),
                Activation::Gelu => activation::gelu(x),
                _ => x,
            };
            // x and the residual in one tensor, cut apart, so that both are compared.
            let both = random([rows, inputs + outputs]);
            let cut = |both: Tensor<2>| {
                let x = both.clone().narrow(1, 0, inputs);
                (x, both.narrow(1, inputs, outputs))
            };
            compare(
                &[both],
                |[both]| {
                    let (x, residual) = cut(both);
                    let inputs = vec![
                        x.into_dispatch(),
                        weight.clone().into_dispatch(),
                        bias.clone().into_dispatch(),
                        scale.clone().into_dispatch(),
                        residual.into_dispatch(),
                    ];
                    run(layer.clone(), inputs)
                },
                |[both]| {
                    let (x, residual) = cut(both);
                    let plain = |tensor: &Tensor<1>| tensor.clone().autodiff().unsqueeze();
                    let weight = weight.clone().autodiff();
                    act(x.matmul(weight.transpose()) + plain(&bias)) * plain(&scale) + residual
                },
                3e-5,
            );
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    let layer = || Linear {
        bias: false,
        activation: Activation::Identity,
        scale: false,
        residual: false,
        trainable: false,
        products: Products::F32,
        cache: Cache::default(),
    };
    let (x, weight) = (random::<2>([203, 700]), random::<2>([100, 700]));
    let map = |x: Tensor<2>| -> Tensor<2> { run(layer(), vec![x.into_dispatch(), weight.clone().into_dispatch()]) };
    let all = map(x.clone());
    for row in [0, 7, 100, 201, 202] {
        let alone = map(x.clone().narrow(0, row, 1));
        assert_eq!(distance(alone, all.clone().narrow(0, row, 1)), 0.0);
    }
}
