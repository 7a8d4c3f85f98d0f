//! Weight standardisation (Qiao et al. 2019).

use crate::array::{Array, Output};
use crate::operation::{Cache, Operation, Saved};
use crate::parallel;

/// (w − mean) / √(variance + epsilon) · factor · gain, with the mean and variance of each output's weights.
///
/// Inputs: weights, whose first axis is the outputs', and one gain per output, if there are gains. Gradients flow to both.
#[derive(Debug, Clone)]
pub struct Standardisation {
    /// Added to the variance.
    pub epsilon: f64,
    /// The same for all outputs.
    pub factor: f64,
    /// Whether weights or gains want gradients; if not, the result is kept in `cache`, and is the same array at every call.
    pub trainable: bool,
    /// Belongs to the layer.
    pub cache: Cache,
}

impl Operation for Standardisation {
    fn name(&self) -> &'static str {
        "weight standardisation"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let compute = || self.compute(&inputs[0], inputs.get(1));
        if self.trainable {
            return (compute(), if keep { inputs } else { vec![] });
        }
        let sources: Vec<&Array> = inputs.iter().collect();
        (Array::clone(&self.cache.get("standardised weights", &sources, compute)), vec![])
    }

    fn backward(&self, gradient: Array, saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        let (weight, gain) = (&saved[0], saved.get(1));
        let [rows, columns] = sizes(weight);
        let mut to_weight = Output::new(weight.shape());
        let mut to_gain = gain.map(|gain| Output::new(gain.shape()));
        let (weights_to, gains_to) = (to_weight.pointer(), to_gain.as_mut().map(Output::pointer));
        parallel::for_each(rows, rows * columns, |row| {
            let [weights, gradients] = [weight, &gradient].map(|array| &array.values()[row * columns..][..columns]);
            let (mean, inverse) = moments(weights, self.epsilon);
            let normal = |weight: f32| (f64::from(weight) - mean) * inverse;
            let (mut sum, mut aligned) = (0.0, 0.0);
            for (&weight, &gradient) in weights.iter().zip(gradients) {
                sum += f64::from(gradient);
                aligned += f64::from(gradient) * normal(weight);
            }
            let (mean_gradient, mean_aligned) = (sum / columns as f64, aligned / columns as f64);
            let scale = inverse * self.scale(gain, row);
            // SAFETY: each row and its gain are one task's.
            unsafe {
                let to = weights_to.slice(row * columns, columns);
                for ((to, &weight), &gradient) in to.iter_mut().zip(weights).zip(gradients) {
                    *to = ((f64::from(gradient) - mean_gradient - normal(weight) * mean_aligned) * scale) as f32;
                }
                if let Some(to) = gains_to {
                    *to.at(row) = (aligned * self.factor) as f32;
                }
            }
        });
        // SAFETY: all rows have been written.
        unsafe {
            let mut results = vec![Some(to_weight.finish())];
            results.extend(to_gain.map(|to_gain| Some(to_gain.finish())));
            results
        }
    }
}

impl Standardisation {
    fn compute(&self, weight: &Array, gain: Option<&Array>) -> Array {
        let [rows, columns] = sizes(weight);
        let mut output = Output::new(weight.shape());
        let to = output.pointer();
        parallel::for_each(rows, rows * columns, |row| {
            let weights = &weight.values()[row * columns..][..columns];
            let (mean, inverse) = moments(weights, self.epsilon);
            let scale = inverse * self.scale(gain, row);
            // SAFETY: each row is one task's.
            let to = unsafe { to.slice(row * columns, columns) };
            for (to, &weight) in to.iter_mut().zip(weights) {
                *to = ((f64::from(weight) - mean) * scale) as f32;
            }
        });
        // SAFETY: all rows have been written.
        unsafe { output.finish() }
    }

    fn scale(&self, gain: Option<&Array>, row: usize) -> f64 {
        self.factor * gain.map_or(1.0, |gain| f64::from(gain.values()[row]))
    }
}

/// Outputs, and weights of each.
fn sizes(weight: &Array) -> [usize; 2] {
    let rows = weight.shape()[0];
    [rows, weight.values().len() / rows]
}

/// The mean, and 1 / √(variance + epsilon).
fn moments(weights: &[f32], epsilon: f64) -> (f64, f64) {
    let count = weights.len() as f64;
    let mean = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>() / count;
    let variance = weights.iter().map(|&weight| (f64::from(weight) - mean).powi(2)).sum::<f64>() / count;
    (mean, (variance + epsilon).sqrt().recip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_stay_are_standardised_once() {
        let operation = Standardisation { epsilon: 0.0, factor: 2.0, trainable: false, cache: Cache::default() };
        let run = |weight: &Array, gain: &Array| operation.forward(vec![weight.clone(), gain.clone()], false).0;
        let weight = Array::from_vec(vec![1.0, 3.0, 5.0, 5.5], &[2, 2]);
        let gain = Array::from_vec(vec![1.0, 10.0], &[2, 1]);
        let first = run(&weight, &gain);
        assert_eq!(first.values(), [-2.0, 2.0, -20.0, 20.0]);
        assert!(run(&weight, &gain).is_same(&first));
        let replaced = run(&weight, &Array::from_vec(vec![2.0, 10.0], &[2, 1]));
        assert_eq!(replaced.values(), [-4.0, 4.0, -20.0, 20.0]);
    }
}
