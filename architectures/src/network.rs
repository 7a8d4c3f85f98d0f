//! Any network of any family behind one type.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::families::{convnext, efficientnet, mlp_mixer, resnet, vision_transformer};
use crate::taps::Taps;

/// What a network gives for a batch of images.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// The pooled features just before the classifier, `[batch, feature]` (timm's `forward_head(…, pre_logits=True)`).
    pub features: Tensor<2>,
    /// Unnormalised class scores, `[batch, class]`.
    pub logits: Tensor<2>,
}

/// An image classification network.
pub trait Architecture: Module {
    /// Runs on normalised images `[batch, 3, height, width]`, showing every block to `taps`.
    ///
    /// # Panics
    /// If the images do not have the shape that the network was built for.
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs;
}

macro_rules! networks {
    ($($family:ident :: $network:ident),* $(,)?) => {
        /// A network of any family. Loading, freezing, training and saving go through Burn's [`Module`].
        ///
        /// The variant's name is no part of a parameter's key: collect and apply with `skip_enum_variants`.
        #[derive(Module, Debug)]
        #[allow(missing_docs, clippy::large_enum_variant)]
        pub enum Network {
            $($network($family::$network)),*
        }

        impl Architecture for Network {
            fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs {
                match self {
                    $(Self::$network(network) => network.forward(images, taps)),*
                }
            }
        }

        $(impl From<$family::$network> for Network {
            fn from(network: $family::$network) -> Self {
                Self::$network(network)
            }
        })*
    };
}

networks! {
    convnext::ConvNext,
    efficientnet::EfficientNet,
    mlp_mixer::MlpMixer,
    resnet::ResNet,
    vision_transformer::VisionTransformer,
}
