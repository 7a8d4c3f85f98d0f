//! What attacks may ask of a network.

use burn::tensor::{DType, Device, Tensor};

use netkin_architectures::layers::with_attention;

use super::{Doubt, Reason};
use crate::model::{Model, to_f64};

/// From logits `[batch, class]` to one number for each image, `[batch]`.
pub type LossOf<'a> = dyn Fn(Tensor<2>) -> Tensor<1> + 'a;

/// A network that is attacked: a white box whose logits can be differentiated.
pub trait Surrogate {
    /// Classes that it tells apart.
    fn num_classes(&self) -> usize;

    /// Unnormalised class scores `[batch, class]` of pixels in [0, 1], `[batch, 3, height, width]`; tracked if they are.
    fn logits(&self, pixels: Tensor<4>) -> Tensor<2>;

    /// The logits and `loss` of them, `[batch]`. An ensemble may take the loss of each member instead.
    fn losses(&self, pixels: Tensor<4>, loss: &LossOf) -> (Tensor<2>, Tensor<1>) {
        let logits = self.logits(pixels);
        (logits.clone(), loss(logits))
    }

    /// The logits, and what each layer of self-attention paid to what, `[batch, head, query, token]`, in the order of the layers;
    /// tracked if the pixels are. Empty for a network without.
    fn attention(&self, pixels: Tensor<4>) -> (Tensor<2>, Vec<Tensor<4>>) {
        (self.logits(pixels), Vec::new())
    }

    /// Where it computes, and in which number format.
    fn placement(&self) -> (Device, DType);
}

/// What one backward pass gives, without autodiff.
#[derive(Debug, Clone)]
pub struct LossGradient {
    /// `[batch, class]`.
    pub logits: Tensor<2>,
    /// `[batch]`.
    pub losses: Tensor<1>,
    /// Of the sum of the losses with respect to the pixels, `[batch, 3, height, width]`: each image's own, whatever the batch.
    pub gradient: Tensor<4>,
}

/// Losses at `pixels` and their gradients, `[batch, 3, height, width]`.
pub fn gradient(network: &dyn Surrogate, pixels: Tensor<4>, loss: &LossOf) -> LossGradient {
    let pixels = pixels.autodiff().require_grad();
    let (logits, losses) = network.losses(pixels.clone(), loss);
    let mut gradients = losses.clone().sum().backward();
    let gradient = pixels.grad_remove(&mut gradients).unwrap_or_else(|| pixels.inner().zeros_like());
    LossGradient { logits: logits.inner(), losses: losses.inner(), gradient }
}

impl Surrogate for Model {
    fn num_classes(&self) -> usize {
        Model::num_classes(self)
    }

    fn logits(&self, pixels: Tensor<4>) -> Tensor<2> {
        self.forward(pixels).logits
    }

    fn attention(&self, pixels: Tensor<4>) -> (Tensor<2>, Vec<Tensor<4>>) {
        with_attention(|| self.forward(pixels).logits)
    }

    fn placement(&self) -> (Device, DType) {
        (self.device().clone(), self.dtype())
    }
}

/// What looks wrong with a network before it is attacked: outputs that differ from pass to pass, or that are probabilities
/// already. `pixels` are some of the images.
pub fn doubts_of(network: &dyn Surrogate, pixels: &Tensor<4>) -> Vec<Doubt> {
    let classes = network.num_classes();
    let [once, again] = [0, 1].map(|_| to_f64(network.logits(pixels.clone())));
    let of = once.len() / classes.max(1);
    let pairs = once.chunks_exact(classes).zip(again.chunks_exact(classes));
    let randomised = pairs.filter(|(once, again)| once != again).count();
    let is_probable = |logits: &&[f64]| {
        logits.iter().all(|logit| (0.0..=1.0).contains(logit)) && (logits.iter().sum::<f64>() - 1.0).abs() < 1e-4
    };
    let probable = once.chunks_exact(classes).filter(is_probable).count();
    let mut doubts = Vec::new();
    if randomised > 0 {
        doubts.push(Doubt { reason: Reason::Randomised, images: randomised, of });
    }
    if probable > 0 {
        doubts.push(Doubt { reason: Reason::Probabilities, images: probable, of });
    }
    doubts
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use burn::tensor::TensorData;

    use super::*;
    use crate::attacks::testing::Tiny;

    /// Says the same of every image, and with each pass as much more of the first class.
    struct Odd {
        logits: [f64; 2],
        drift: f64,
        passes: Cell<u32>,
    }

    impl Surrogate for Odd {
        fn num_classes(&self) -> usize {
            2
        }

        fn logits(&self, pixels: Tensor<4>) -> Tensor<2> {
            let [batch, ..] = pixels.dims();
            let [first, second] = self.logits;
            let first = first + self.drift * f64::from(self.passes.replace(self.passes.get() + 1));
            let data = TensorData::new([first, second].repeat(batch), [batch, 2]);
            Tensor::from_data(data, (&pixels.device(), pixels.dtype()))
        }

        fn placement(&self) -> (Device, DType) {
            (Device::flex(), DType::F64)
        }
    }

    #[test]
    fn chance_and_probabilities_are_doubted() {
        let tiny = Tiny::new(DType::F64);
        let pixels = tiny.targets(0..3).pixels;
        assert_eq!(doubts_of(&tiny, &pixels), []);
        let of = |logits: [f64; 2], drift: f64| doubts_of(&Odd { logits, drift, passes: Cell::new(0) }, &pixels);
        let all = |reason| Doubt { reason, images: 3, of: 3 };
        assert_eq!(of([0.3, 0.7], 0.0), [all(Reason::Probabilities)]);
        assert_eq!(of([3.0, -1.0], 0.01), [all(Reason::Randomised)]);
        assert_eq!(of([0.3, 0.7], 1e-6), [all(Reason::Randomised), all(Reason::Probabilities)]);
        // In [0, 1] without a sum of 1, and with one of them out of it.
        assert_eq!(of([0.3, 0.6], 0.0), []);
        assert_eq!(of([1.5, -0.5], 0.0), []);
        let said = all(Reason::Randomised).to_string();
        assert!(said.starts_with("3 of 3 images: ") && said.contains("different logits"), "{said}");
        assert!(all(Reason::Probabilities).to_string().contains("probabilities"));
        assert_eq!(serde_json::to_value(all(Reason::Randomised)).unwrap()["doubt"], "randomised");
        assert_eq!(serde_json::to_value(all(Reason::Probabilities)).unwrap()["doubt"], "probabilities");
    }
}
