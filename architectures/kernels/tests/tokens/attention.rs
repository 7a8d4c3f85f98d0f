use burn::tensor::{Tensor, activation};
use netkin_kernels::{Attention, Products, run};
use proptest::prelude::*;

use super::check_bits;
use super::common::{compare, random};

/// By Burn's operations; the bias is `[group, head, token, token]`.
fn plain(attention: Attention, qkv: Tensor<4>, bias: Option<Tensor<4>>) -> Tensor<4> {
    let Attention { heads, scale, .. } = attention;
    let [batch, tokens, channels, _] = qkv.dims();
    let size = channels / (3 * heads);
    let qkv = qkv.reshape([batch, tokens, 3, heads, size]).permute([2, 0, 3, 1, 4]);
    let part = |index| qkv.clone().narrow(0, index, 1).reshape([batch, heads, tokens, size]);
    let mut scores = part(0).mul_scalar(scale).matmul(part(1).transpose());
    if let Some(bias) = bias {
        let repeats = batch / bias.dims()[0];
        scores = scores + bias.repeat_dim(0, repeats);
    }
    activation::softmax(scores, 3).matmul(part(2)).swap_dims(1, 2).reshape([batch, tokens, heads * size, 1])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn attention(batch in 1..4usize, tokens in 1..150usize, heads in 1..4usize, size in 1..70usize) {
        let attention = Attention { heads, scale: (size as f64).powf(-0.5), products: Products::F32 };
        let qkv = random([batch, tokens, 3 * heads * size]);
        compare(
            &[qkv.clone().unsqueeze_dim(3)],
            |[qkv]| {
                run::<3>(attention, vec![qkv.squeeze_dim::<3>(3).into_dispatch()]).unsqueeze_dim(3)
            },
            |[qkv]| plain(attention, qkv, None),
            1e-5,
        );
        check_bits::<3, 3>(attention, qkv, &[]);
    }

    #[test]
    fn attention_with_a_bias(images in 1..4usize, groups in 1..4usize, tokens in 1..60usize, heads in 1..4usize, size in 1..40usize) {
        let attention = Attention { heads, scale: 0.4, products: Products::F32 };
        let qkv = random([images * groups, tokens, 3 * heads * size, 1]);
        let bias = random([groups, heads, tokens, tokens]);
        compare(
            &[qkv, bias],
            |[qkv, bias]| {
                let inputs = vec![qkv.squeeze_dim::<3>(3).into_dispatch(), bias.into_dispatch()];
                run::<3>(attention, inputs).unsqueeze_dim(3)
            },
            |[qkv, bias]| plain(attention, qkv, Some(bias)),
            1e-5,
        );
    }
}

#[test]
fn a_mask_of_large_negative_numbers_excludes_tokens() {
    let attention = Attention { heads: 1, scale: 1.0, products: Products::F32 };
    let qkv = random([1, 20, 12]);
    // Nobody looks at the last eight tokens, so that these might as well not be there.
    let shown = Tensor::<2>::zeros([20, 12], &qkv.device());
    let hidden = Tensor::<2>::full([20, 8], -1e9, &qkv.device());
    let bias = Tensor::cat(vec![shown, hidden], 1).unsqueeze::<4>();
    let all: Tensor<3> = run(attention, vec![qkv.clone().into_dispatch(), bias.into_dispatch()]);
    let fewer: Tensor<3> = run(attention, vec![qkv.narrow(1, 0, 12).into_dispatch()]);
    all.narrow(1, 0, 12)
        .into_data()
        .assert_approx_eq::<f32>(&fewer.into_data(), burn::tensor::Tolerance::relative(1e-5));
}
