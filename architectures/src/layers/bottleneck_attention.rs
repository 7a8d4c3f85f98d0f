//! The self-attention of Bottleneck Transformers (Srinivas et al. 2021, *Bottleneck Transformers for Visual Recognition*).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::block_attention::{RelativePositions, attend_in_blocks};
use super::{Conv2d, average_pool};

/// Self-attention between all places of a square image.
#[derive(Module, Debug)]
pub struct BottleneckAttention {
    qkv: Conv2d,
    pos_embed: RelativePositions,
    heads: usize,
    size: usize,
    /// Whether the result is halved by averaging.
    pools: bool,
}

impl BottleneckAttention {
    /// For so many channels, which `heads` must divide, at `size` × `size` places. Queries and keys have `head_channels`
    /// within a head, values the head's part of the channels; a stride of 2 halves the image.
    pub fn new(
        channels: usize,
        stride: usize,
        heads: usize,
        head_channels: usize,
        size: usize,
        device: &Device,
    ) -> Self {
        Self {
            qkv: Conv2d::config(channels, 2 * heads * head_channels + channels, 1).build(device),
            pos_embed: RelativePositions::new(size, head_channels, device),
            heads,
            size,
            pools: stride == 2,
        }
    }

    /// `[batch, channel, height, width]` → the same, halved by a stride of 2.
    ///
    /// # Panics
    /// If the image has not the size that the layer was made for.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let size = self.size;
        assert!([height, width] == [size; 2], "{height} × {width} places where attention is made for {size} × {size}");
        let qkv = self.qkv.forward(x);
        let queries = (qkv.dims()[1] - channels) / 2;
        let part = |start: usize, channels: usize| {
            let part = qkv.clone().narrow(1, start, channels);
            part.reshape([batch * self.heads, channels / self.heads, size, size])
        };
        let parts = [part(0, queries), part(queries, queries), part(2 * queries, channels)];
        let y = attend_in_blocks(parts, &self.pos_embed, size, 0).reshape([batch, channels, size, size]);
        if self.pools { average_pool(y, 2, 2) } else { y }
    }
}
