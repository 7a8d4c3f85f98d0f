//! One file per family of networks, and the one list of them.
//!
//! Each file, from top to bottom: what it is and the paper; `Config`; `VARIANTS`, pure data; the network; its blocks. What a
//! family must offer lies in [`crate::family`]; a new family is a file here and a line in the list below, from which
//! come its module, its place in [`Network`] and its names in the registry.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::family::{Architecture, Configuration, Construct, Outputs};
use crate::layers::Regularisation;
use crate::taps::Taps;

macro_rules! families {
    ($($family:ident :: $network:ident),* $(,)?) => {
        $(pub mod $family;)*

        /// A network of any family. Loading, freezing, training and saving go through Burn's [`Module`].
        ///
        /// The variant's name is no part of a parameter's key: collect and apply with `skip_enum_variants`.
        #[derive(Module, Debug)]
        #[allow(missing_docs)]
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

        /// All variants with their names and families.
        pub(crate) fn variants() -> Vec<(&'static str, &'static str, &'static dyn AnyConfiguration)> {
            let mut variants: Vec<(_, _, &'static dyn AnyConfiguration)> = Vec::new();
            $(variants.extend($family::VARIANTS.iter().map(|(name, config)| (*name, stringify!($family), config as _)));)*
            variants
        }
    };
}

families! {
    byobnet::ByobNet,
    cait::Cait,
    coat::CoaT,
    convit::ConVit,
    convmixer::ConvMixer,
    convnext::ConvNext,
    crossvit::CrossVit,
    cspnet::CspNet,
    densenet::DenseNet,
    dla::DeepLayerAggregation,
    dpn::DualPathNetwork,
    efficientnet::EfficientNet,
    ghostnet::GhostNet,
    gluon_xception::GluonXception,
    hrnet::HighResolutionNet,
    inception_resnet_v2::InceptionResNetV2,
    inception_v3::InceptionV3,
    inception_v4::InceptionV4,
    levit::Levit,
    metaformer::MetaFormer,
    mlp_mixer::MlpMixer,
    mobilenetv3::MobileNetV3,
    nest::Nest,
    nfnet::NormFreeNet,
    pit::PoolingVisionTransformer,
    regnet::RegNet,
    repvit::RepVit,
    resnest::ResNeSt,
    resnet::ResNet,
    resnetv2::ResNetV2,
    rexnet::RexNet,
    senet::SeNet,
    starnet::StarNet,
    swin_transformer::SwinTransformer,
    tnt::TransformerInTransformer,
    twins::Twins,
    vgg::Vgg,
    visformer::Visformer,
    vision_transformer::VisionTransformer,
    vovnet::VovNet,
    xception::Xception,
    xception_aligned::XceptionAligned,
    xcit::Xcit,
}

/// A [`Configuration`] of any family.
pub trait AnyConfiguration: Configuration {
    /// See [`Construct::construct`].
    fn build(&self, num_classes: usize, device: &Device) -> Network;
    /// See [`Construct::at_size`].
    fn resized(&self, size: [usize; 2]) -> Box<dyn AnyConfiguration>;
    /// The same network, of which so much is left out in training (within [`stochastic`](crate::stochastic)); `None` if its
    /// family leaves nothing out.
    fn regularised(&self, regularisation: Regularisation) -> Option<Box<dyn AnyConfiguration>>;
}

impl<C: Construct> AnyConfiguration for C
where
    Network: From<C::Network>,
{
    fn build(&self, num_classes: usize, device: &Device) -> Network {
        self.construct(num_classes, device).into()
    }

    fn resized(&self, size: [usize; 2]) -> Box<dyn AnyConfiguration> {
        Box::new(self.at_size(size))
    }

    fn regularised(&self, regularisation: Regularisation) -> Option<Box<dyn AnyConfiguration>> {
        Some(Box::new(self.with_regularisation(regularisation)?))
    }
}
