//! Halo attention (Vaswani et al. 2021, *Scaling Local Self-Attention for Parameter Efficient Visual Backbones*).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::block_attention::{RelativePositions, attend_in_blocks};
use super::{Conv2d, average_pool};

/// Self-attention of each block of an image to the block and what lies around it.
#[derive(Module, Debug)]
pub struct HaloAttention {
    q: Conv2d,
    kv: Conv2d,
    pos_embed: RelativePositions,
    heads: usize,
    block: usize,
    halo: usize,
    /// Whether the result is halved by averaging, where halving the queries would cut blocks.
    pools: bool,
}

/// The sizes of a [`HaloAttention`].
#[derive(Debug, Clone, Copy)]
pub struct HaloShape {
    /// Attention heads, which divide the channels.
    pub heads: usize,
    /// Channels of a query and a key within a head; a value has the head's part of the channels.
    pub head_channels: usize,
    /// Places of a block, both ways.
    pub block: usize,
    /// Places on each side of a block to which it attends too.
    pub halo: usize,
}

impl HaloAttention {
    /// For so many channels; a stride of 2 halves the image.
    pub fn new(channels: usize, stride: usize, shape: HaloShape, device: &Device) -> Self {
        let HaloShape { heads, head_channels, block, halo } = shape;
        let pools = !block.is_multiple_of(stride);
        let query_stride = if pools { 1 } else { stride };
        let queries = heads * head_channels;
        Self {
            q: Conv2d::config(channels, queries, 1).stride(query_stride).build(device),
            kv: Conv2d::config(channels, queries + channels, 1).build(device),
            pos_embed: RelativePositions::new(block + 2 * halo, head_channels, device),
            heads,
            block,
            halo,
            pools,
        }
    }

    /// `[batch, channel, height, width]` → the same, halved by a stride of 2.
    ///
    /// # Panics
    /// If height or width is no multiple of the block.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, _, _] = x.dims();
        let by_head = |x: Tensor<4>| {
            let [_, channels, height, width] = x.dims();
            x.reshape([batch * self.heads, channels / self.heads, height, width])
        };
        let queries = by_head(self.q.forward(x.clone()));
        // Each head has its keys and values together.
        let keys_and_values = by_head(self.kv.forward(x));
        let [_, size, height, width] = queries.dims();
        let keys = keys_and_values.clone().narrow(1, 0, size);
        let values = keys_and_values.narrow(1, size, channels / self.heads);
        let y = attend_in_blocks([queries, keys, values], &self.pos_embed, self.block, self.halo)
            .reshape([batch, channels, height, width]);
        if self.pools { average_pool(y, 2, 2) } else { y }
    }
}
