//! Multi-head self-attention.

use std::cell::RefCell;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use netkin_kernels::Products;

use super::{Linear, macs, softmax};

thread_local! {
    static SEEN: RefCell<Option<Vec<Tensor<4>>>> = const { RefCell::new(None) };
}

/// The result of `run` and the weights of every attention in it, `[batch, head, query, token]` each (of windows, the batch is that
/// of the windows), in the order in which they were taken. Networks then compute them as tensors, which is slower.
pub fn with_attention<T>(run: impl FnOnce() -> T) -> (T, Vec<Tensor<4>>) {
    /// Whatever happens in `run`, nobody looks afterwards.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            SEEN.with_borrow_mut(|seen| *seen = None);
        }
    }
    SEEN.with_borrow_mut(|seen| *seen = Some(Vec::new()));
    let _end = End;
    let result = run();
    let weights = SEEN.with_borrow_mut(|seen| seen.take().unwrap_or_default());
    (result, weights)
}

/// Shows weights to [`with_attention`], if somebody looks.
fn show(weights: &Tensor<4>) {
    SEEN.with_borrow_mut(|seen| seen.iter_mut().for_each(|seen| seen.push(weights.clone())));
}

/// Multi-head self-attention over `[batch, token, channel]` (Vaswani et al. 2017) with one map for queries, keys and values.
#[derive(Module, Debug)]
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    /// `heads` must divide `channels`.
    pub fn new(channels: usize, heads: usize, device: &Device) -> Self {
        Self { qkv: Linear::new(channels, 3 * channels, device), proj: Linear::new(channels, channels, device), heads }
    }

    /// The same without biases in the map for queries, keys and values.
    pub fn without_bias(channels: usize, heads: usize, device: &Device) -> Self {
        Self { qkv: Linear::without_bias(channels, 3 * channels, device), ..Self::new(channels, heads, device) }
    }

    /// The same without any biases.
    pub fn without_any_bias(channels: usize, heads: usize, device: &Device) -> Self {
        Self { proj: Linear::without_bias(channels, channels, device), ..Self::without_bias(channels, heads, device) }
    }

    /// shortcut + gamma·attention(x) over `[batch, token, channel]`, gamma `[channel]`, if there is one.
    pub fn forward_residual(&self, x: Tensor<3>, gamma: Option<&Param<Tensor<1>>>, shortcut: Tensor<3>) -> Tensor<3> {
        let mixed = self_attention(self.qkv.forward(x), self.heads);
        self.proj.forward_residual(mixed, gamma, shortcut)
    }
}

/// softmax(q·kᵀ / √size)·v in each head, whose size is channel / heads: queries, keys and values side by side,
/// `[batch, token, 3 · channel]`, → `[batch, token, channel]`.
pub fn self_attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    biased_self_attention(qkv, heads, None)
}

/// The same with a bias on the scores, if there is one, `[group, head, token, token]`: element i of the batch belongs to group
/// i modulo the number of groups (the windows of an image, say).
pub fn biased_self_attention(qkv: Tensor<3>, heads: usize, bias: Option<Tensor<4>>) -> Tensor<3> {
    let [batch, tokens, channels] = qkv.dims();
    let channels = channels / 3;
    if netkin_kernels::applies(&qkv) && SEEN.with_borrow(Option::is_none) {
        macs::count(2 * batch * tokens * tokens * channels);
        let scale = ((channels / heads) as f64).powf(-0.5);
        let mut inputs = vec![qkv.into_dispatch()];
        inputs.extend(bias.map(Tensor::into_dispatch));
        let operation = netkin_kernels::Attention { heads, scale, products: Products::current() };
        return netkin_kernels::run(operation, inputs);
    }
    biased_attention([0, 1, 2].map(|index| qkv.clone().narrow(2, index * channels, channels)), heads, bias)
}

/// softmax(q·kᵀ / √size)·v in each head, whose size is channel / heads: queries `[batch, query, channel]`, keys and values
/// `[batch, token, channel]`, → `[batch, query, channel]`.
pub fn attention(queries_keys_values: [Tensor<3>; 3], heads: usize) -> Tensor<3> {
    mixed_attention(queries_keys_values, heads, |weights| weights)
}

/// The same with other weights, `[batch, head, query, token]`, made from those of the softmax.
pub fn mixed_attention(
    queries_keys_values: [Tensor<3>; 3],
    heads: usize,
    mix: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Tensor<3> {
    weighted(queries_keys_values, heads, |scores| mix(softmax(scores)))
}

fn biased_attention(queries_keys_values: [Tensor<3>; 3], heads: usize, bias: Option<Tensor<4>>) -> Tensor<3> {
    weighted(queries_keys_values, heads, |scores| {
        let Some(bias) = bias else {
            return softmax(scores);
        };
        let shape = scores.dims();
        let ([groups, ..], [batch, heads, count, tokens]) = (bias.dims(), shape);
        let grouped = scores.reshape([batch / groups, groups * heads, count, tokens]);
        let bias = bias.reshape([1, groups * heads, count, tokens]);
        softmax((grouped + bias).reshape(shape))
    })
}

/// Values by weights that are made from the scores, `[batch, head, query, token]`.
pub(super) fn weighted(
    [queries, keys, values]: [Tensor<3>; 3],
    heads: usize,
    weights: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Tensor<3> {
    let ([batch, count, channels], [_, tokens, _]) = (queries.dims(), keys.dims());
    macs::count(2 * batch * count * tokens * channels);
    let scale = ((channels / heads) as f64).powf(-0.5);
    let [queries, keys, values] = [queries, keys, values].map(|x| split_heads(x, heads));
    let scores = queries.mul_scalar(scale).matmul(keys.transpose());
    let weights = weights(scores);
    show(&weights);
    join_heads(weights.matmul(values))
}

/// softmax(q·kᵀ / √size + bias)·v with tokens last: queries `[batch, head, size, query]`, keys `[batch, head, size, token]`,
/// values `[batch, head, channel, token]`, bias `[1, head, query, token]`, → `[batch, head, channel, query]`.
pub fn channels_first_attention([queries, keys, values]: [Tensor<4>; 3], bias: Tensor<4>) -> Tensor<4> {
    let ([batch, heads, size, count], [_, _, channels, tokens]) = (queries.dims(), values.dims());
    macs::count(batch * heads * count * tokens * (size + channels));
    let scores = queries.mul_scalar((size as f64).powf(-0.5)).transpose().matmul(keys) + bias;
    let weights = softmax(scores);
    show(&weights);
    values.matmul(weights.transpose())
}

/// `[batch, token, channel]` → `[batch, head, token, channel / heads]`.
pub(super) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, channels] = x.dims();
    x.reshape([batch, tokens, heads, channels / heads]).swap_dims(1, 2)
}

/// The way back from [`split_heads`].
pub(super) fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, tokens, size] = x.dims();
    x.swap_dims(1, 2).reshape([batch, tokens, heads * size])
}
