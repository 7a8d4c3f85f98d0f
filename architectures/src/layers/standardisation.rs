//! Weight standardisation.

use burn::tensor::Tensor;
use netkin_kernels::Cache;

/// What a convolution does with its weights before it uses them: those of each output are brought to mean 0 and variance 1
/// (Qiao et al. 2019, arXiv 1903.10520), and multiplied by a factor and, if there are gains, by a learnt one per output
/// (Brock et al. 2021, 2101.08692).
#[derive(Debug, Clone, Copy)]
pub(super) struct Standardisation {
    /// Added to the variance.
    pub epsilon: f64,
    /// The same for all outputs.
    pub factor: f64,
}

impl Standardisation {
    /// The standardised weights `[output, input, height, width]`; gains `[output, 1, 1, 1]`.
    ///
    /// Where the kernels compute, weights that are not trained are standardised once, and are the same array at every call,
    /// by which what is made from them is known again.
    pub fn apply(self, weight: Tensor<4>, gain: Option<Tensor<4>>, cache: &Cache) -> Tensor<4> {
        let Self { epsilon, factor } = self;
        if netkin_kernels::applies(&weight) {
            let trainable = weight.is_tracked() || gain.as_ref().is_some_and(Tensor::is_tracked);
            let operation = netkin_kernels::Standardisation { epsilon, factor, trainable, cache: cache.clone() };
            let mut inputs = vec![weight.into_dispatch()];
            inputs.extend(gain.map(Tensor::into_dispatch));
            return netkin_kernels::run(operation, inputs);
        }
        let shape = weight.dims();
        let rows = weight.reshape([shape[0] as i64, -1]);
        let centred = rows.clone() - rows.mean_dim(1);
        let variance = centred.clone().square().mean_dim(1);
        let standard = (centred / (variance + epsilon).sqrt()).mul_scalar(factor).reshape(shape);
        match gain {
            Some(gain) => standard * gain,
            None => standard,
        }
    }
}
