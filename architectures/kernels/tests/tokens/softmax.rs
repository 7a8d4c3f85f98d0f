use burn::tensor::{Tensor, activation};
use netkin_kernels::{CrossEntropy, Softmax, run};
use proptest::prelude::*;

use super::check_bits;
use super::common::{compare, random};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn softmax(batch in 1..4usize, rows in 1..50usize, columns in 1..400usize, scale in 0.1..20.0f32) {
        let x = random([batch, rows, columns]) * scale;
        compare(
            std::array::from_ref(&x),
            |[x]| run(Softmax, vec![x.into_dispatch()]),
            |[x]| activation::softmax(x, 2),
            1e-5,
        );
        check_bits::<3, 3>(Softmax, x, &[]);
    }

    #[test]
    fn cross_entropy(labels in prop::collection::vec(0..50usize, 1..7), more in 0..1000usize, scale in 0.1..20.0f32) {
        let classes = 50 + more;
        let x = random([labels.len(), classes]) * scale;
        compare(
            &[x],
            |[x]| {
                let operation = CrossEntropy { labels: labels.clone() };
                run::<1>(operation, vec![x.into_dispatch()]).unsqueeze_dim(1)
            },
            |[x]| {
                let chosen = activation::log_softmax(x, 1);
                let losses = labels.iter().enumerate().map(|(image, &label)| {
                    -chosen.clone().narrow(0, image, 1).narrow(1, label, 1)
                });
                Tensor::cat(losses.collect(), 0)
            },
            1e-5,
        );
    }
}
