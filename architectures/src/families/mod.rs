//! One file per family of networks.
//!
//! Each file, from top to bottom: what it is and the paper; `Config`; `VARIANTS`, pure data; the network; its blocks.

pub mod convnext;
pub mod efficientnet;
pub mod mlp_mixer;
pub mod resnet;
pub mod vision_transformer;
