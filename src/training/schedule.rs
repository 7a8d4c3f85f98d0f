//! Learning rates: half a cosine with a linear warm-up, the numbers of timm's `CosineLRScheduler` (Loshchilov & Hutter, *SGDR*,
//! arXiv 1608.03983).
//!
//! The warm-up takes the place of the cosine's beginning, as timm has it by default: what follows it starts a little below the peak.

use serde::{Deserialize, Serialize};

/// The table `[schedule]` of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Epochs in which the rate rises linearly to the peak, which it would have after them; below the number of epochs.
    pub warmup_epochs: usize,
    /// The rate of the first step of the warm-up, at least 0.
    pub warmup_lr: f64,
    /// Where the cosine ends, at least 0 and at most the highest rate.
    pub min_lr: f64,
    /// Epochs at `min_lr` that follow the cosine. They come on top of the recipe's epochs, as in timm.
    pub cooldown_epochs: usize,
    /// How often the rate changes.
    pub per: Per,
}

/// How often the rate changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// At each step of the optimiser (timm's `--sched-on-updates`).
    Step,
    /// At each epoch.
    Epoch,
}

impl Default for Options {
    fn default() -> Self {
        Self { warmup_epochs: 1, warmup_lr: 1e-6, min_lr: 0.0, cooldown_epochs: 0, per: Per::Step }
    }
}

/// The rates of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// How it rises and falls.
    pub options: Options,
    /// Epochs of the cosine, the warm-up among them.
    pub epochs: usize,
    /// Steps of the optimiser in an epoch.
    pub steps: usize,
}

impl Schedule {
    /// The rate of a step, counted from 0 within its epoch, which is counted from 1.
    pub fn rate(&self, epoch: usize, step: usize) -> f64 {
        let Options { warmup_epochs, warmup_lr, min_lr, per, .. } = self.options;
        let (unit, time) = match per {
            Per::Step => (self.steps, (epoch - 1) * self.steps + step),
            Per::Epoch => (1, epoch - 1),
        };
        let (warmup, length) = (warmup_epochs * unit, self.epochs * unit);
        if time < warmup {
            warmup_lr + time as f64 * (self.peak - warmup_lr) / warmup as f64
        } else if time < length {
            let angle = std::f64::consts::PI * time as f64 / length as f64;
            min_lr + 0.5 * (self.peak - min_lr) * (1.0 + angle.cos())
        } else {
            min_lr
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Case {
        peak: f64,
        options: Options,
        epochs: usize,
        steps: usize,
        /// Of each step of each epoch, by timm.
        rates: Vec<Vec<f64>>,
    }

    /// By `scripts/training_reference.py`.
    #[test]
    fn rates_are_those_of_timm() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../tests/fixtures/training/schedule.json")).unwrap();
        assert!(cases.len() >= 5);
        for Case { peak, options, epochs, steps, rates } in cases {
            let schedule = Schedule { peak, options, epochs, steps };
            assert_eq!(rates.len(), epochs + options.cooldown_epochs);
            for (index, of_epoch) in rates.iter().enumerate() {
                for (step, expected) in of_epoch.iter().enumerate() {
                    let rate = schedule.rate(index + 1, step);
                    assert!((rate - expected).abs() <= 1e-6 * peak, "{schedule:?}: {rate} in place of {expected}");
                }
            }
        }
    }

    #[test]
    fn a_rate_may_stay_as_it_is() {
        let options = Options { warmup_epochs: 0, min_lr: 0.1, ..Options::default() };
        let schedule = Schedule { peak: 0.1, options, epochs: 3, steps: 2 };
        assert!((1..=3).all(|epoch| schedule.rate(epoch, 1) == 0.1));
    }
}
