//! The lambda layer (Bello 2021, *LambdaNetworks: Modeling Long-Range Interactions Without Attention*).

use burn::module::{Initializer, Module, Param};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, module};
use netkin_kernels::{Activation, Cache, Convolution};

use super::conv::fused;
use super::{BatchNorm2d, Conv2d, Then, average_pool, softmax};

/// Makes of the image a linear map (a lambda) for every place, from what is in the image and from where it is relative to
/// the place, and applies the map to the place's queries.
#[derive(Module, Debug)]
pub struct LambdaLayer {
    qkv: Conv2d,
    norm_q: BatchNorm2d,
    norm_v: BatchNorm2d,
    /// What values do to a map by their distance, up to a limit; or
    conv_lambda: Option<Kernel>,
    /// by any distance, `[2·size − 1, 2·size − 1, key]`.
    pos_emb: Option<Param<Tensor<3>>>,
    heads: usize,
    /// Whether the result is halved by averaging.
    pools: bool,
    #[module(skip)]
    cache: Cache,
}

/// A convolution over the places of each value, kept as PyTorch's three-dimensional one.
#[derive(Module, Debug)]
struct Kernel {
    /// `[key, 1, row, column, 1]`.
    weight: Param<Tensor<5>>,
    /// `[key]`.
    bias: Param<Tensor<1>>,
}

/// How far the values lie that tell a place's map apart from the other places'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LambdaScope {
    /// In a square of so many places, an odd number, around the place.
    Local(usize),
    /// Anywhere in the image of so many places, both ways.
    Global(usize),
}

impl LambdaLayer {
    /// Channels of a query and a key.
    const KEY: usize = 16;

    /// For so many channels, which `heads` must divide; a stride of 2 halves the image.
    pub fn new(channels: usize, stride: usize, heads: usize, scope: LambdaScope, device: &Device) -> Self {
        let (key, value) = (Self::KEY, channels / heads);
        let drawn = Initializer::Normal { mean: 0.0, std: (key as f64).powf(-0.5) };
        let (conv_lambda, pos_emb) = match scope {
            LambdaScope::Local(size) => {
                let weight = drawn.init([key, 1, size, size, 1], device);
                (Some(Kernel { weight, bias: Initializer::Zeros.init([key], device) }), None)
            }
            LambdaScope::Global(size) => {
                let drawn = Initializer::Normal { mean: 0.0, std: 0.02 };
                (None, Some(drawn.init([2 * size - 1, 2 * size - 1, key], device)))
            }
        };
        Self {
            qkv: Conv2d::config(channels, heads * key + key + value, 1).build(device),
            norm_q: BatchNorm2d::new(heads * key, device),
            norm_v: BatchNorm2d::new(value, device),
            conv_lambda,
            pos_emb,
            heads,
            pools: stride == 2,
            cache: Cache::default(),
        }
    }

    /// `[batch, channel, height, width]` → the same, halved by a stride of 2.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let (places, heads, key, value) = (height * width, self.heads, Self::KEY, channels / self.heads);
        let qkv = self.qkv.forward(x);
        let part = |start, channels| qkv.clone().narrow(1, start, channels);
        let queries = self.norm_q.forward(part(0, heads * key), Activation::Identity);
        let keys = softmax(part(heads * key, key).reshape([batch, key, places]));
        let values = self.norm_v.forward(part(heads * key + key, value), Activation::Identity);

        let content = values.clone().reshape([batch, value, places]).matmul(keys.transpose());
        let lambdas = self.position_lambdas(values) + content.reshape([batch, value, key, 1]);
        let y = apply(lambdas, queries.reshape([batch, heads, key, places])).reshape([batch, channels, height, width]);
        if self.pools { average_pool(y, 2, 2) } else { y }
    }

    /// Values `[batch, value, height, width]` → each place's map, `[batch, value, key, place]`. Vectors for all distances
    /// are the kernel of a convolution, too: one so large that it sees the image from everywhere.
    fn position_lambdas(&self, values: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = values.dims();
        let images = values.reshape([batch * channels, 1, height, width]);
        let (weight, bias) = match (&self.conv_lambda, &self.pos_emb) {
            (Some(kernel), _) => (kernel.weight.val().squeeze_dim(4), Some(kernel.bias.val())),
            (_, Some(vectors)) => (vectors.val().permute([2, 0, 1]).unsqueeze_dim(1), None),
            _ => unreachable!("a lambda layer has one of both"),
        };
        let [key, _, rows, columns] = weight.dims();
        let padding = [rows / 2, columns / 2].map(|amount| (amount, amount));
        let maps = if netkin_kernels::applies(&images) {
            let convolution = Convolution { padding, ..Convolution::pointwise(self.cache.clone()) };
            fused(convolution, images, weight, bias, Then::activation(Activation::Identity))
        } else {
            let mut options = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
            options.padding = padding;
            module::conv2d(images, weight, bias, options)
        };
        maps.reshape([batch, channels, key, height * width])
    }
}

/// The maps `[batch, value, key, place]` of the queries `[batch, head, key, place]` → `[batch, head, value, place]`.
fn apply(lambdas: Tensor<4>, queries: Tensor<4>) -> Tensor<4> {
    let lambdas = lambdas.permute([0, 3, 2, 1]);
    let queries = queries.permute([0, 3, 1, 2]);
    queries.matmul(lambdas).permute([0, 2, 3, 1])
}
