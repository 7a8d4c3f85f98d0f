//! Networks whose weights are drawn from a seed: the same numbers in every precision and on every device.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use netkin_architectures::{Entry, Network};
use netkin_weights::Precision;

use crate::noise;

/// Builds a network, frozen, with numbers under which its outputs depend on the image, neither fading nor exploding with
/// depth. `gain` is a factor for matrices and convolutions.
pub fn drawn(entry: &Entry, seed: u64, gain: f64, precision: Precision, device: &Device) -> Network {
    let mut filler = Filler { path: Vec::new(), seed, gain, precision, device: device.clone() };
    entry.build(device).map(&mut filler).freeze()
}

/// `count` numbers in [−1, 1) from (seed, name) alone.
pub fn uniform(seed: u64, name: &str, count: usize) -> Vec<f32> {
    noise::uniform("netkin doctor numbers v1", seed, name, count)
}

struct Filler {
    path: Vec<String>,
    seed: u64,
    gain: f64,
    precision: Precision,
    device: Device,
}

impl Filler {
    /// The middle and the reach of the numbers under a key that ends in `name`.
    fn range(&self, name: &str, shape: &[usize]) -> (f32, f32) {
        match name {
            "running_var" => (1.0, 0.3),
            // Scales of residual branches, which begin near zero in training.
            "gamma" | "ls1" | "ls2" | "skipinit_gain" => (0.5, 0.2),
            // Of standardised weights, whose own scale says nothing.
            "gain" => (self.gain as f32, 0.2 * self.gain as f32),
            // Scales of normalisations.
            "alpha" => (1.0, 0.2),
            "weight" if shape.len() == 1 => (1.0, 0.2),
            "weight" => {
                let inputs: usize = shape[1..].iter().product();
                (0.0, (self.gain * (3.0 / inputs as f64).sqrt()) as f32)
            }
            _ => (0.0, 0.1),
        }
    }
}

impl ModuleMapper for Filler {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = parameter.lazy_shape().as_slice().to_vec();
        let name = self.path.last().map_or("", String::as_str);
        let (middle, reach) = self.range(name, &shape);
        let mut values = uniform(self.seed, &self.path.join("."), shape.iter().product());
        for value in &mut values {
            *value = middle + reach * *value;
        }
        let tensor = Tensor::from_data(TensorData::new(values, shape), (&self.device, self.precision.dtype()));
        Param::initialized(parameter.id, tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netkin_architectures::{Architecture, Taps};

    #[test]
    fn two_networks_of_one_seed_are_equal_and_logits_are_not_trivial() {
        let device = Device::flex();
        let entry = netkin_architectures::find("demo_vit_patch7").unwrap();
        let images =
            Tensor::<4>::from_data(TensorData::new(uniform(3, "images", 3 * 28 * 28), [1, 3, 28, 28]), &device);
        let logits = |seed| {
            let network = drawn(entry, seed, 1.0, Precision::F32, &device);
            let outputs = network.forward(images.clone(), &mut Taps::none());
            crate::model::to_f32(outputs.logits)
        };
        let values = logits(1);
        assert_eq!(values, logits(1));
        assert_ne!(values, logits(2));
        assert!(values.iter().any(|value| (value - values[0]).abs() > 0.1));
    }
}
