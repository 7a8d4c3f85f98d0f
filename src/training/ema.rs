//! The exponential moving average of a network's numbers, as timm's `ModelEmaV2` and `ModelEmaV3` keep it: after each step of the
//! optimiser, average ← decay · average + (1 − decay) · network, for parameters and running statistics alike.

use std::collections::VecDeque;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use netkin_architectures::Network;

/// The average of a network in training.
#[derive(Debug)]
pub struct Average {
    /// In evaluation mode, without autodiff.
    network: Network,
    decay: f64,
}

impl Average {
    /// Begins at the network as it is; `decay` in [0, 1).
    pub fn new(network: &Network, decay: f64) -> Self {
        Self { network: network.valid(), decay }
    }

    /// The average itself, in evaluation mode, without autodiff.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The average, of which nothing more is wanted.
    pub fn into_network(self) -> Network {
        self.network
    }

    /// Puts another state of the same network in place of the average.
    pub fn replace(&mut self, network: Network) {
        self.network = network;
    }

    /// Follows the network, after a step.
    pub fn follow(&mut self, network: &Network) {
        let mut now = Values::default();
        // In evaluation mode running statistics are up to date.
        network.valid().visit(&mut now);
        self.network = self.network.clone().map(&mut Follow { now: now.0, decay: self.decay });
    }
}

/// All numbers of a network, tensor by tensor, each as one row.
#[derive(Default)]
struct Values(VecDeque<Tensor<1>>);

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let count = value.shape().num_elements();
        self.0.push_back(value.reshape([count]));
    }
}

/// Moves each tensor a little towards its value now; a module is mapped in the order in which it is visited.
struct Follow {
    now: VecDeque<Tensor<1>>,
    decay: f64,
}

impl ModuleMapper for Follow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let now = self.now.pop_front().expect("the average has the tensors of its network");
        let decay = self.decay;
        param.map(|average| {
            let now = now.reshape(average.dims());
            average.mul_scalar(decay) + now.mul_scalar(1.0 - decay)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::to_f64;
    use burn::tensor::Device;

    fn weights(network: &Network) -> Vec<f64> {
        let mut values = Values::default();
        network.visit(&mut values);
        values.0.into_iter().flat_map(to_f64).collect()
    }

    /// Three steps to another network, by the sum that the recursion stands for.
    #[test]
    fn the_average_follows_with_its_decay() {
        let device = Device::flex().autodiff();
        let entry = netkin_architectures::find("demo_resnet").unwrap();
        let [first, second] = [(); 2].map(|()| entry.config.build(10, &device));
        let (start, goal) = (weights(&first.valid()), weights(&second.valid()));
        let mut average = Average::new(&first, 0.75);
        for _ in 0..3 {
            average.follow(&second);
        }
        let kept = 0.75f64.powi(3);
        let found = weights(average.network());
        assert_eq!(found.len(), start.len());
        for ((found, start), goal) in found.iter().zip(&start).zip(&goal) {
            assert!((found - (kept * start + (1.0 - kept) * goal)).abs() < 1e-6);
        }
        assert_eq!(weights(&first.valid()), start, "the network itself stays");
    }
}
