//! Disentanglement: a code of what an image holds beside some attributes is to tell nothing of them.
//!
//! Zhen, Meng, Chakraborty & Singh, *On the Versatile Uses of Partial Distance Correlation in Deep Learning* (arXiv 2207.09684, ECCV
//! 2022), "Disentanglement": the distance correlation between a residual code and the attributes is added to what the code is
//! learnt by, such as the error of a reconstruction from both; first, Liu et al., *Measuring the Biases and Effectiveness of
//! Content-Style Disentanglement* (arXiv 2008.12378).

use burn::tensor::Tensor;

use crate::similarity::features::loss::dependence;

/// The biased distance correlation R² of codes and attributes, `[1]`, each `[batch, number]` of the same images: 0 to 1, to be added to
/// a loss with a weight. Where all codes or all attributes of a batch are the same it is 0.
///
/// The authors' code scales each code and each row of attributes to length 1 before;
/// [`diverge_loss`](crate::similarity::features::loss::diverge_loss) is that.
///
/// # Panics
/// If the batches differ, or have fewer than two images.
pub fn disentanglement_loss(code: Tensor<2>, attributes: Tensor<2>) -> Tensor<1> {
    dependence(code, attributes)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;
    use crate::model::to_f64;
    use crate::similarity::features::tests::drawn;

    fn tensor(values: Vec<f64>, width: usize) -> Tensor<2> {
        let images = values.len() / width;
        Tensor::from_data(TensorData::new(values, [images, width]), (&Device::flex(), DType::F64))
    }

    /// A code, and a reconstruction of the image from the code and the attribute.
    #[derive(Clone)]
    struct Parts {
        /// Image → code.
        encoder: Tensor<2>,
        /// Code → image.
        decoder: Tensor<2>,
        /// Attribute → image.
        attribute: Tensor<2>,
    }

    impl Parts {
        /// A linear code of one number that begins as mostly the attribute.
        fn new() -> Self {
            Self {
                encoder: tensor(vec![0.8, 0.2, -0.3, 0.4], 1),
                decoder: tensor(vec![0.1, -0.3, 0.1, 0.2], 4),
                attribute: tensor(vec![0.0; 4], 4),
            }
        }

        fn error(&self, images: &Tensor<2>, attributes: &Tensor<2>) -> Tensor<1> {
            let code = images.clone().matmul(self.encoder.clone());
            let made = code.matmul(self.decoder.clone()) + attributes.clone().matmul(self.attribute.clone());
            (made - images.clone()).square().mean()
        }
    }

    /// The worked example of docs/diverge.md. An image is a mixture of an attribute, which is known, and something else. A code
    /// is learnt from which, with the attribute, the image can be made again.
    #[test]
    fn a_code_forgets_the_attribute_and_keeps_the_rest() {
        let attribute: Vec<f64> = drawn(21, 48).into_iter().map(|value| if value > 0.0 { 1.0 } else { -1.0 }).collect();
        let rest: Vec<f64> = drawn(22, 48).into_iter().map(|value| 2.0 * value).collect();
        let (attributes, rest) = (tensor(attribute, 1), tensor(rest, 1));
        let of_attribute = tensor(vec![1.0, 0.5, -0.5, 0.2], 4);
        let of_rest = tensor(vec![0.3, -1.0, 0.4, 0.8], 4);
        let images = attributes.clone().matmul(of_attribute) + rest.clone().matmul(of_rest);
        let learnt = |weight: f64| {
            let mut parts = Parts::new();
            for _ in 0..200 {
                let tracked = Parts {
                    encoder: parts.encoder.autodiff().require_grad(),
                    decoder: parts.decoder.autodiff().require_grad(),
                    attribute: parts.attribute.autodiff().require_grad(),
                };
                let code = images.clone().matmul(tracked.encoder.clone());
                let penalty = disentanglement_loss(code, attributes.clone());
                let loss = tracked.error(&images, &attributes) + penalty.mul_scalar(weight);
                let mut gradients = loss.backward();
                let mut moved = |x: Tensor<2>| {
                    let gradient = x.grad_remove(&mut gradients).unwrap();
                    x.inner() - gradient.mul_scalar(0.3)
                };
                parts = Parts {
                    encoder: moved(tracked.encoder),
                    decoder: moved(tracked.decoder),
                    attribute: moved(tracked.attribute),
                };
            }
            let code = images.clone().matmul(parts.encoder.clone());
            let correlation = |with: &Tensor<2>| to_f64(disentanglement_loss(code.clone(), with.clone()))[0];
            [to_f64(parts.error(&images, &attributes))[0], correlation(&attributes), correlation(&rest)]
        };
        let [error, of_attribute, _] = learnt(0.0);
        assert!(error < 1e-3 && of_attribute > 0.3, "without the penalty: {error}, {of_attribute}");
        let [error, of_attribute, of_rest] = learnt(0.2);
        assert!(error < 1e-3, "{error}");
        assert!(of_attribute < 0.02 && of_rest > 0.95, "{of_attribute} and {of_rest}");
    }
}
