//! What every family of networks offers: the ground that the families stand on, which knows none of them.

use std::fmt::Debug;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::components::Components;
use crate::layers::Regularisation;
use crate::taps::Taps;

/// What a network gives for a batch of images.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// The pooled features just before the classifier and its dropout, `[batch, feature]` (timm's
    /// `forward_head(…, pre_logits=True)`).
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
    /// Any, the built network as it is: nothing in it depends on the size, or it resizes the images itself.
    Any,
    /// Heights and widths that are multiples of so many pixels, for which it is built anew and its position tables, if it has
    /// any, are resampled as timm does.
    Multiple(usize),
    /// Squares of a multiple of so many pixels, for which it is built anew and has to be trained anew: timm resamples none of
    /// its position tables, so that weights of one size are of no use at another.
    Retrained(usize),
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
    /// The same network for images of this height and width. Asked of [`InputRule::Multiple`] and [`InputRule::Retrained`];
    /// others can be built for other squares too, as far as their layers allow.
    fn at_size(&self, size: [usize; 2]) -> Self;
    /// The same network, of which so much is left out in training; `None` if the family leaves nothing out.
    fn with_regularisation(&self, _: Regularisation) -> Option<Self> {
        None
    }
}

/// How a configuration writes the size of its images: height and width, or the side of a square.
pub(crate) trait ImageSize: Copy {
    /// Height and width in pixels.
    fn height_and_width(self) -> [usize; 2];
    /// # Panics
    /// If they differ and only a side can be written.
    fn of_height_and_width(size: [usize; 2]) -> Self;
}

impl ImageSize for [usize; 2] {
    fn height_and_width(self) -> [usize; 2] {
        self
    }

    fn of_height_and_width(size: [usize; 2]) -> Self {
        size
    }
}

impl ImageSize for usize {
    fn height_and_width(self) -> [usize; 2] {
        [self; 2]
    }

    fn of_height_and_width([height, width]: [usize; 2]) -> Self {
        assert!(height == width, "a network for squares cannot be built for {height} × {width} pixels");
        height
    }
}

/// Implements [`Configuration`] and [`Construct`] for a family's `Config`, which has the fields `input_size` (an [`ImageSize`])
/// and `num_classes` and the method `components(&self) -> Components`, and whose network is built by
/// `new(&config, num_classes, &device)`.
///
/// ```ignore
/// configuration!(ConvNext, InputRule::Any);
/// // The rule may depend on the configuration, and a function `(&Config, &mut Checkpoint)` converts weights.
/// configuration!(VisionTransformer, |config| InputRule::Multiple(config.patch_size), convert);
/// // If there is something to leave out in training, the field behind the semicolon says how much.
/// configuration!(ConvNext, InputRule::Any; regularisation);
/// ```
macro_rules! configuration {
    ($network:ident, |$config:ident| $rule:expr, $convert:expr $(; $regularisation:ident)?) => {
        impl crate::family::Configuration for Config {
            fn input_size(&self) -> [usize; 2] {
                crate::family::ImageSize::height_and_width(self.input_size)
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

            fn at_size(&self, size: [usize; 2]) -> Self {
                Self { input_size: crate::family::ImageSize::of_height_and_width(size), ..self.clone() }
            }

            $(fn with_regularisation(&self, value: crate::layers::Regularisation) -> Option<Self> {
                Some(Self { $regularisation: value, ..self.clone() })
            })?
        }
    };
    ($network:ident, $rule:expr, $convert:expr $(; $regularisation:ident)?) => {
        crate::family::configuration!($network, |_config| $rule, $convert $(; $regularisation)?);
    };
    ($network:ident, |$config:ident| $rule:expr $(; $regularisation:ident)?) => {
        crate::family::configuration!(
            $network,
            |$config| $rule,
            |_: &Config, _: &mut crate::checkpoint::Checkpoint| {}
            $(; $regularisation)?
        );
    };
    ($network:ident, $rule:expr $(; $regularisation:ident)?) => {
        crate::family::configuration!($network, |_config| $rule $(; $regularisation)?);
    };
}
pub(crate) use configuration;
