//! What every family of networks offers: the ground that the families stand on, which knows none of them.

use std::fmt::Debug;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
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
    /// Runs on normalised images `[batch, 3, height, width]`, showing every block and stage to `taps`.
    ///
    /// # Panics
    /// If the images do not have the shape that the network was built for.
    fn forward(&self, images: Tensor<4>, taps: &mut Taps) -> Outputs;
}

/// Which image sizes a network runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputRule {
    /// Any, the built network as it is: nothing in it depends on the size.
    Any,
    /// Squares of a multiple of so many pixels, for which it is built anew and its position tables are resampled.
    Multiple(usize),
    /// Only the one that it was made for.
    Fixed,
}

/// What a family's configuration must tell. Families implement it by the macro `configuration!`.
pub trait Configuration: Debug + Sync + 'static {
    /// Height and width in pixels that the network is made for.
    fn input_size(&self) -> [usize; 2];
    /// Which other sizes it runs on.
    fn input_rule(&self) -> InputRule;
    /// The number of classes of the published weights.
    fn num_classes(&self) -> usize;
    /// Brings the tensors of a weights file to this network's keys and shapes where timm does so (its
    /// `checkpoint_filter_fn`): from the layout of the day when the file was saved, and from the position tables of another
    /// image size.
    fn convert(&self, checkpoint: &mut Checkpoint);
    /// The components by which the paper on SAT tells networks apart.
    fn components(&self) -> Components;
}

/// What a family's configuration must do.
pub trait Construct: Configuration + Clone {
    /// What it makes.
    type Network: Architecture;

    /// The network with `num_classes` outputs on `device`; parameters are drawn when they are first used.
    fn construct(&self, num_classes: usize, device: &Device) -> Self::Network;
    /// The same network for square images of `pixels`. Only asked of [`InputRule::Multiple`].
    fn at_size(&self, pixels: usize) -> Self;
}

/// Implements [`Configuration`] and [`Construct`] for a family's `Config`, which has the fields `input_size` (the side of a square) and
/// `num_classes` and the method `components(&self) -> Components`, and whose network is built by
/// `new(&config, num_classes, &device)`.
///
/// ```ignore
/// configuration!(ConvNext, InputRule::Any);
/// // The rule may depend on the configuration, and a function `(&Config, &mut Checkpoint)` converts weights.
/// configuration!(VisionTransformer, |config| InputRule::Multiple(config.patch_size), convert);
/// ```
macro_rules! configuration {
    ($network:ident, |$config:ident| $rule:expr, $convert:expr) => {
        impl crate::family::Configuration for Config {
            fn input_size(&self) -> [usize; 2] {
                [self.input_size; 2]
            }

            fn input_rule(&self) -> crate::family::InputRule {
                let $config = self;
                $rule
            }

            fn num_classes(&self) -> usize {
                self.num_classes
            }

            fn convert(&self, checkpoint: &mut crate::checkpoint::Checkpoint) {
                $convert(self, checkpoint)
            }

            fn components(&self) -> crate::components::Components {
                self.components()
            }
        }

        impl crate::family::Construct for Config {
            type Network = $network;

            fn construct(&self, num_classes: usize, device: &burn::tensor::Device) -> $network {
                $network::new(self, num_classes, device)
            }

            fn at_size(&self, pixels: usize) -> Self {
                Self { input_size: pixels, ..self.clone() }
            }
        }
    };
    ($network:ident, $rule:expr, $convert:expr) => {
        crate::family::configuration!($network, |_config| $rule, $convert);
    };
    ($network:ident, |$config:ident| $rule:expr) => {
        crate::family::configuration!(
            $network,
            |$config| $rule,
            |_: &Config, _: &mut crate::checkpoint::Checkpoint| {}
        );
    };
    ($network:ident, $rule:expr) => {
        crate::family::configuration!($network, |_config| $rule);
    };
}
pub(crate) use configuration;
