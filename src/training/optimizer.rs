//! AdamW (Loshchilov & Hutter, arXiv 1711.05101) with a group of parameters that do not decay.

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Tensor;
use netkin_architectures::Network;

/// An optimiser for the parameters of `network`, which it knows by their ids: betas 0.9 and 0.999, epsilon 1e-8.
/// Parameters of one dimension, biases and normalisation, do not decay.
pub fn adamw(network: &Network, weight_decay: f64) -> ModuleOptimizer {
    let config = AdamWConfig::new().with_epsilon(1e-8);
    let decaying = config.clone().with_weight_decay(weight_decay as f32).build();
    let plain = config.with_weight_decay(0.0).build();
    let mut one_dimensional = OneDimensional(Vec::new());
    network.visit(&mut one_dimensional);
    ModuleOptimizer::from(decaying).with_group(ParamGroup::from_ids(one_dimensional.0), plain, None)
}

struct OneDimensional(Vec<ParamId>);

impl ModuleVisitor for OneDimensional {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D == 1 {
            self.0.push(param.id);
        }
    }
}
