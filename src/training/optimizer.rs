//! From gradients to steps: AdamW, SGD with momentum, LAMB, as PyTorch and timm define them, on Burn's [`ModuleOptimizer`].
//!
//! Loshchilov & Hutter, *Decoupled Weight Decay Regularization* (arXiv 1711.05101); Sutskever et al., *On the importance of
//! initialization and momentum in deep learning* (ICML 2013); You et al., *Large Batch Optimization for Deep Learning* (1904.00962).
//!
//! Burn's own optimisers keep their constants in single precision (0.9 is 0.89999998), however precise the network is; here they are
//! numbers of double precision, so that steps in double precision are PyTorch's to 1e-9.

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{GradientsParams, LearningRate, ModuleOptimizer, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, Tensor};
use netkin_architectures::Network;
use netkin_architectures::names::{self, NamedTensor};
use serde::{Deserialize, Serialize};

use super::TrainingError;

/// The table `[optimizer]` of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Which one.
    pub name: Kind,
    /// The highest learning rate, above 0; see `base_batch`.
    pub lr: f64,
    /// For how many images per step `lr` is meant. If it is above 0 and a step sees another number of them, the rate is scaled:
    /// linearly (Goyal et al., arXiv 1706.02677), for LAMB by the square root. At 0 the rate is used as it is.
    pub base_batch: usize,
    /// At least 0. AdamW: the share of a parameter that is taken away per step, times the learning rate; SGD: the weight of the
    /// parameter in the gradient; LAMB: its weight in the step. Biases, parameters of one dimension and positions do not decay.
    pub weight_decay: f64,
    /// AdamW and LAMB: how much of the gradients' mean and mean square stays, in [0, 1).
    pub betas: [f64; 2],
    /// AdamW and LAMB: what is added to the root of the mean square, above 0; 1e-8 and 1e-6 if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
    /// SGD: how much of the last step's direction stays, in [0, 1).
    pub momentum: f64,
    /// SGD: whether the step looks ahead (Nesterov), as timm's `sgd` does.
    pub nesterov: bool,
    /// The gradient of all parameters together is made shorter if its norm is above; 0 never. If it is left out, LAMB clips at 1,
    /// as timm's does, and the others do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Batches whose gradients are averaged for one step, at least 1.
    pub accumulate: usize,
}

/// The optimisers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Adam with weight decay apart from the gradient.
    AdamW,
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam with steps as long as the parameters they change.
    Lamb,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: Kind::AdamW,
            lr: 2e-3,
            base_batch: 0,
            weight_decay: 0.05,
            betas: [0.9, 0.999],
            eps: None,
            momentum: 0.9,
            nesterov: true,
            clip_norm: None,
            accumulate: 1,
        }
    }
}

impl Options {
    /// Checks the ranges.
    ///
    /// # Errors
    /// If a number is out of its range.
    pub fn check(&self) -> Result<(), TrainingError> {
        let is_share = |share: f64| (0.0..1.0).contains(&share);
        let is_positive = |value: f64| value > 0.0 && value.is_finite();
        let is_amount = |value: f64| value >= 0.0 && value.is_finite();
        let told = |value: Option<f64>| value.map_or("left out".to_owned(), |value| value.to_string());
        let checks = [
            ("optimizer.lr", self.lr.to_string(), is_positive(self.lr), "above 0"),
            ("optimizer.weight_decay", self.weight_decay.to_string(), is_amount(self.weight_decay), "0 or above"),
            (
                "optimizer.betas",
                format!("{:?}", self.betas),
                self.betas.into_iter().all(is_share),
                "two numbers of 0 or above and below 1",
            ),
            ("optimizer.eps", told(self.eps), self.eps.is_none_or(is_positive), "above 0"),
            ("optimizer.momentum", self.momentum.to_string(), is_share(self.momentum), "0 or above and below 1"),
            ("optimizer.clip_norm", told(self.clip_norm), self.clip_norm.is_none_or(is_amount), "0 or above"),
            ("optimizer.accumulate", self.accumulate.to_string(), self.accumulate >= 1, "at least 1"),
        ];
        match checks.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((option, value, _, range)) => Err(TrainingError::Option { option, value, range }),
            None => Ok(()),
        }
    }

    /// The optimiser for the parameters of a network of that family (timm's file), which it knows by their ids.
    pub fn build(&self, network: &Network, family: &str) -> ModuleOptimizer {
        let spared = without_decay(network, family);
        let adam = |eps| Adam { betas: self.betas, eps: self.eps.unwrap_or(eps) };
        match self.name {
            Kind::AdamW => grouped(spared, self.weight_decay, |weight_decay| AdamW { adam: adam(1e-8), weight_decay }),
            Kind::Sgd => {
                let (momentum, nesterov) = (self.momentum, self.nesterov);
                grouped(spared, self.weight_decay, |weight_decay| Sgd { momentum, nesterov, weight_decay })
            }
            Kind::Lamb => grouped(spared, self.weight_decay, |weight_decay| Lamb { adam: adam(1e-6), weight_decay }),
        }
    }

    /// Makes the gradients shorter if their norm demands it.
    pub fn clip(&self, network: &Network, gradients: GradientsParams) -> GradientsParams {
        match (self.clip_norm, self.name) {
            (Some(largest), _) if largest > 0.0 => clip(network, gradients, largest, 1e-6),
            (None, Kind::Lamb) => clip(network, gradients, 1.0, 0.0),
            _ => gradients,
        }
    }
}

/// What timm's networks list as `no_weight_decay`, by family: parameters with a part of their name that begins so.
const SPARED: [(&str, &[&str]); 12] = [
    ("cait", &["pos_embed", "cls_token"]),
    ("coat", &["cls_token"]),
    ("convit", &["pos_embed", "cls_token"]),
    ("crossvit", &["pos_embed", "cls_token"]),
    ("levit", &["attention_biases"]),
    ("nest", &["pos_embed"]),
    ("pit", &["pos_embed", "cls_token"]),
    ("swin_transformer", &["relative_position_bias_table", "cpb_mlp", "logit_scale"]),
    ("tnt", &["patch_pos", "pixel_pos", "cls_token"]),
    ("twins", &["pos_block"]),
    ("vision_transformer", &["pos_embed", "cls_token", "dist_token"]),
    ("xcit", &["pos_embed", "cls_token"]),
];

/// Parameters that do not decay: those of one dimension, biases, and what timm lists.
fn without_decay(network: &Network, family: &str) -> Vec<ParamId> {
    let listed = SPARED.iter().find(|(name, _)| *name == family).map_or(&[][..], |(_, listed)| *listed);
    let is_listed = |part: &str| listed.iter().any(|listed| part.starts_with(listed));
    let is_spared = |tensor: &NamedTensor| {
        let parts = || tensor.name.split('.');
        tensor.shape.len() == 1 || parts().next_back() == Some("bias") || parts().any(is_listed)
    };
    names::tensors(network).iter().filter(|tensor| is_spared(tensor)).map(|tensor| tensor.id).collect()
}

/// One optimiser for what decays, and the same without decay for the rest.
fn grouped<O: Optimizer>(spared: Vec<ParamId>, weight_decay: f64, with: impl Fn(f64) -> O) -> ModuleOptimizer {
    ModuleOptimizer::from(with(weight_decay)).with_group(ParamGroup::from_ids(spared), with(0.0), None)
}

/// Scales all gradients by largest / (norm + extra) if that is below 1; the norm is Euclidean, over all parameters.
fn clip(network: &Network, mut gradients: GradientsParams, largest: f64, extra: f64) -> GradientsParams {
    let mut squares = Squares { gradients: &gradients, sum: None };
    network.visit(&mut squares);
    let Some(sum) = squares.sum else { return gradients };
    let factor = sum.sqrt().add_scalar(extra).recip().mul_scalar(largest).clamp_max(1.0);
    network.visit(&mut Scale { gradients: &mut gradients, factor });
    gradients
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let square = gradient.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    factor: Tensor<1>,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let factor = self.factor.clone().reshape([1usize; D]);
            self.gradients.register(param.id, gradient * factor);
        }
    }
}

/// Adam's step, and the decay beside it.
#[derive(Debug, Clone)]
struct AdamW {
    adam: Adam,
    weight_decay: f64,
}

impl Optimizer for AdamW {
    type State<const D: usize> = Moments<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        moments: Option<Moments<D>>,
    ) -> (Tensor<D>, Option<Moments<D>>) {
        let (direction, moments) = self.adam.step(gradient, moments);
        let kept =
            if self.weight_decay > 0.0 { parameter.mul_scalar(1.0 - rate * self.weight_decay) } else { parameter };
        (kept - direction.mul_scalar(rate), Some(moments))
    }

    fn to_device<const D: usize>(moments: Moments<D>, device: &Device) -> Moments<D> {
        moments.moved(device)
    }
}

/// Adam's step with the decay in it, scaled to the norm of the parameter where there is decay, as timm's does by default.
#[derive(Debug, Clone)]
struct Lamb {
    adam: Adam,
    weight_decay: f64,
}

impl Optimizer for Lamb {
    type State<const D: usize> = Moments<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        moments: Option<Moments<D>>,
    ) -> (Tensor<D>, Option<Moments<D>>) {
        let (mut direction, moments) = self.adam.step(gradient, moments);
        if self.weight_decay > 0.0 {
            direction = direction + parameter.clone().mul_scalar(self.weight_decay);
            let norm = |tensor: &Tensor<D>| tensor.clone().square().sum().sqrt();
            let (length, step) = (norm(&parameter), norm(&direction));
            // A parameter or a step of zeros is not scaled.
            let neither = length.clone().equal_scalar(0.0).bool_or(step.clone().equal_scalar(0.0));
            let ratio = (length / step).mask_fill(neither, 1.0);
            direction = direction * ratio.reshape([1usize; D]);
        }
        (parameter - direction.mul_scalar(rate), Some(moments))
    }

    fn to_device<const D: usize>(moments: Moments<D>, device: &Device) -> Moments<D> {
        moments.moved(device)
    }
}

/// What Adam makes of gradients (Kingma & Ba, arXiv 1412.6980).
#[derive(Debug, Clone, Copy)]
struct Adam {
    betas: [f64; 2],
    eps: f64,
}

impl Adam {
    /// The gradients' mean over the root of their mean square, both as if they had not begun at zero, and what is kept of them.
    fn step<const D: usize>(&self, gradient: Tensor<D>, before: Option<Moments<D>>) -> (Tensor<D>, Moments<D>) {
        let [beta1, beta2] = self.betas;
        let (mean, square) = (gradient.clone().mul_scalar(1.0 - beta1), gradient.square().mul_scalar(1.0 - beta2));
        let moments = match before {
            Some(before) => Moments {
                mean: before.mean.mul_scalar(beta1) + mean,
                square: before.square.mul_scalar(beta2) + square,
                steps: before.steps + 1,
            },
            None => Moments { mean, square, steps: 1 },
        };
        let steps = moments.steps as f64;
        let (mean, square) = (1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps));
        let root = moments.square.clone().sqrt().div_scalar(square.sqrt()).add_scalar(self.eps);
        (moments.mean.clone().div_scalar(mean) / root, moments)
    }
}

/// What Adam keeps of a parameter's gradients.
#[derive(Debug, Clone)]
struct Moments<const D: usize> {
    mean: Tensor<D>,
    square: Tensor<D>,
    steps: usize,
}

impl<const D: usize> Moments<D> {
    fn moved(self, device: &Device) -> Self {
        Self { mean: self.mean.to_device(device), square: self.square.to_device(device), steps: self.steps }
    }
}

impl<const D: usize> RecordState for Moments<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, "mean", self.mean.clone().into_data());
        out.push_tensor(prefix, "square", self.square.clone().into_data());
        out.push_scalar(prefix, "steps", self.steps.into());
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, device: &Device) -> Option<Self> {
        let mean = taken(source, prefix, "mean", device)?;
        let square = taken(source, prefix, "square", device)?;
        let steps = source.take_scalar(prefix, "steps")?.try_into().ok()?;
        Some(Self { mean, square, steps })
    }
}

/// A tensor of a record, in the number format that it was kept in.
fn taken<const D: usize>(source: &mut StateSource, prefix: &str, name: &str, device: &Device) -> Option<Tensor<D>> {
    let data = source.take_tensor(prefix, name)?;
    let dtype = data.dtype();
    Some(Tensor::from_data(data, (device, dtype)))
}

/// Descent with momentum; the first direction is the gradient itself, without dampening, as PyTorch has it.
#[derive(Debug, Clone)]
struct Sgd {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
}

impl Optimizer for Sgd {
    type State<const D: usize> = Velocity<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        velocity: Option<Velocity<D>>,
    ) -> (Tensor<D>, Option<Velocity<D>>) {
        let gradient =
            if self.weight_decay > 0.0 { gradient + parameter.clone().mul_scalar(self.weight_decay) } else { gradient };
        if self.momentum == 0.0 {
            return (parameter - gradient.mul_scalar(rate), None);
        }
        let velocity = match velocity {
            Some(Velocity(before)) => before.mul_scalar(self.momentum) + gradient.clone(),
            None => gradient.clone(),
        };
        let direction =
            if self.nesterov { gradient + velocity.clone().mul_scalar(self.momentum) } else { velocity.clone() };
        (parameter - direction.mul_scalar(rate), Some(Velocity(velocity)))
    }

    fn to_device<const D: usize>(velocity: Velocity<D>, device: &Device) -> Velocity<D> {
        Velocity(velocity.0.to_device(device))
    }
}

/// The direction of SGD's last step.
#[derive(Debug, Clone)]
struct Velocity<const D: usize>(Tensor<D>);

impl<const D: usize> RecordState for Velocity<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, "velocity", self.0.clone().into_data());
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, device: &Device) -> Option<Self> {
        taken(source, prefix, "velocity", device).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::to_f64;

    const DEVICE: fn() -> Device = Device::flex;

    fn vector(values: [f64; 2]) -> Tensor<1> {
        Tensor::from_data(values, &DEVICE())
    }

    /// The names of the parameters that do not decay.
    fn spared(name: &str) -> Vec<String> {
        let entry = netkin_architectures::find(name).unwrap();
        let network = entry.build(&DEVICE());
        let ids = without_decay(&network, entry.family);
        let tensors = names::tensors(&network).into_iter().filter(|tensor| ids.contains(&tensor.id));
        tensors.map(|tensor| tensor.name).collect()
    }

    #[test]
    fn biases_scales_and_positions_do_not_decay() {
        let found = spared("demo_vit_patch7");
        for name in ["pos_embed", "cls_token", "blocks.0.attn.qkv.bias", "norm.weight", "head.bias"] {
            assert!(found.iter().any(|found| found == name), "{name} is not in {found:?}");
        }
        for name in ["patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "head.weight"] {
            assert!(found.iter().all(|found| found != name), "{name}");
        }
        assert!(
            spared("swin_tiny_patch4_window7_224").iter().any(|name| name.ends_with("relative_position_bias_table"))
        );
    }

    #[test]
    fn families_without_decay_exist() {
        for (family, _) in SPARED {
            assert!(netkin_architectures::registry::all().iter().any(|entry| entry.family == family), "{family}");
        }
    }

    /// By hand: the first step of AdamW has the length of the rate; LAMB's that of the rate times the parameter's norm.
    #[test]
    fn first_steps_have_their_lengths() {
        let (parameter, gradient) = (vector([3.0, 4.0]), vector([0.1, -20.0]));
        let adam = Adam { betas: [0.9, 0.999], eps: 1e-12 };
        let adamw = AdamW { adam, weight_decay: 0.5 };
        let (after, _) = adamw.step(0.01, parameter.clone(), gradient.clone(), None);
        let expected = [3.0 * 0.995 - 0.01, 4.0 * 0.995 + 0.01];
        assert!(to_f64(after).iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-5));

        let lamb = Lamb { adam, weight_decay: 0.5 };
        let (after, _) = lamb.step(0.01, parameter.clone(), gradient.clone(), None);
        let length = to_f64(after - parameter.clone()).iter().map(|change| change * change).sum::<f64>().sqrt();
        assert!((length - 0.05).abs() < 1e-5, "{length}");
        let (after, _) = lamb.step(0.01, vector([0.0, 0.0]), vector([0.0, 0.0]), None);
        assert_eq!(to_f64(after), [0.0, 0.0]);

        let sgd = Sgd { momentum: 0.5, nesterov: false, weight_decay: 0.0 };
        let (once, velocity) = sgd.step(1.0, parameter, gradient.clone(), None);
        let (twice, _) = sgd.step(1.0, once, gradient, velocity);
        assert!(to_f64(twice).iter().zip([3.0 - 0.25, 4.0 + 50.0]).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    #[test]
    fn gradients_are_made_shorter_together() {
        let device = DEVICE().autodiff();
        let network = netkin_architectures::find("demo_vit_patch7").unwrap().build(&device);
        let norm = |gradients: &GradientsParams| {
            let mut squares = Squares { gradients, sum: None };
            network.visit(&mut squares);
            to_f64(squares.sum.unwrap())[0].sqrt()
        };
        struct Ones<'a>(&'a mut GradientsParams);
        impl ModuleVisitor for Ones<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.register(param.id, param.val().inner().ones_like());
            }
        }
        let mut gradients = GradientsParams::new();
        network.visit(&mut Ones(&mut gradients));
        let before = norm(&gradients);
        assert!(before > 2.0);
        let gradients = clip(&network, gradients, 2.0 * before, 0.0);
        assert!((norm(&gradients) - before).abs() < 1e-3 * before);
        let gradients = clip(&network, gradients, 2.0, 0.0);
        assert!((norm(&gradients) - 2.0).abs() < 1e-4);
    }
}
