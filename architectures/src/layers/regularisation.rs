//! What makes another network of a network in each step of training: branches and features that are left out at random.
//!
//! Nothing is left out but within [`stochastic`]; a forward pass elsewhere costs and gives what it does without.

use std::cell::RefCell;
use std::iter::repeat_n;

use burn::tensor::{Tensor, TensorData};

use super::{Activation, add, multiply, scale_and_shift};
use crate::random::Random;

thread_local! {
    static RANDOM: RefCell<Option<Random>> = const { RefCell::new(None) };
}

/// The result of `run`, in which every [`StochasticDepth`] and [`Dropout`] on this thread leaves something out.
///
/// What that is depends on `seed` and on the order of their calls alone: it is drawn on the host, the same for every
/// device and precision.
pub fn stochastic<T>(seed: u64, run: impl FnOnce() -> T) -> T {
    /// Whatever happens in `run`, afterwards all is as before.
    struct Before(Option<Random>);
    impl Drop for Before {
        fn drop(&mut self) {
            RANDOM.set(self.0.take());
        }
    }
    let _before = Before(RANDOM.replace(Some(Random::of(&[seed]))));
    run()
}

/// How much a network leaves out in training, within [`stochastic`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Regularisation {
    /// With which probability the last residual branch is left out for an image, 0 up to below 1 (timm's
    /// `drop_path_rate`). For those before it, it grows from 0 or is the same, as in timm's networks of the family.
    pub drop_path: f64,
    /// With which probability each feature before the classifier is zero, 0 up to below 1 (timm's `drop_rate`).
    pub dropout: f64,
}

impl Regularisation {
    /// Nothing is left out.
    pub const NONE: Self = Self { drop_path: 0.0, dropout: 0.0 };

    /// For the block at `position` of `stage` in a network of so many blocks in each stage: the rate grows linearly from 0
    /// in the first block to the whole in the last (timm's `calculate_drop_path_rates`).
    pub fn growing(&self, depths: &[usize], stage: usize, position: usize) -> StochasticDepth {
        let before: usize = depths[..stage].iter().sum();
        let last = depths.iter().sum::<usize>().saturating_sub(1);
        self.share((before + position) as f64 / last.max(1) as f64)
    }

    /// With the same rate in every block.
    pub fn constant(&self) -> StochasticDepth {
        self.share(1.0)
    }

    /// With a share of the rate, 0 to 1.
    pub fn share(&self, share: f64) -> StochasticDepth {
        StochasticDepth::new(self.drop_path * share)
    }

    /// Before the classifier.
    pub fn dropout(&self) -> Dropout {
        Dropout::new(self.dropout)
    }
}

/// The end of a residual branch that is left out at random, for each image by itself, and else divided by the probability
/// that it stays, so that the mean is that of the branch (Huang et al. 2016, *Deep Networks with Stochastic Depth*; timm's
/// `DropPath`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StochasticDepth {
    rate: f64,
    parts: usize,
}

impl StochasticDepth {
    /// A branch that is never left out.
    pub const NONE: Self = Self { rate: 0.0, parts: 1 };

    /// With the probability `rate` of being left out.
    ///
    /// # Panics
    /// If the rate is not in 0 up to below 1.
    pub fn new(rate: f64) -> Self {
        Self { rate: checked(rate), parts: 1 }
    }

    /// Where each image is so many elements of the first axis, one behind the other.
    pub fn of_parts(self, parts: usize) -> Self {
        Self { parts, ..self }
    }

    /// shortcut + branch: `branch` adds its result to what it is given. The first axis is the batch.
    pub fn residual<const D: usize>(
        &self,
        shortcut: Tensor<D>,
        branch: impl FnOnce(Tensor<D>) -> Tensor<D>,
    ) -> Tensor<D> {
        self.residual_activated(shortcut, Activation::Identity, |shortcut, _| branch(shortcut))
    }

    /// activation(shortcut + branch): `branch` adds its result to what it is given, and applies the activation that it is
    /// given.
    pub fn residual_activated<const D: usize>(
        &self,
        shortcut: Tensor<D>,
        activation: Activation,
        branch: impl FnOnce(Tensor<D>, Activation) -> Tensor<D>,
    ) -> Tensor<D> {
        let rows = shortcut.dims()[0];
        let Some(factors) = factors(rows / self.parts, self.rate) else {
            return branch(shortcut, activation);
        };
        let factors: Vec<f64> = factors.into_iter().flat_map(|factor| repeat_n(factor, self.parts)).collect();
        let (device, dtype) = (shortcut.device().without_autodiff(), shortcut.dtype());
        let factors = Tensor::<1>::from_data(TensorData::new(factors, [rows]), (&device, dtype));
        let alone = branch(Tensor::zeros(shortcut.shape(), (&device, dtype)), Activation::Identity);
        add(scale_and_shift(alone, 0, factors, None), shortcut, activation)
    }
}

/// Sets values to zero at random, each by itself, and divides the others by the probability that they stay
/// (Srivastava et al. 2014).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    rate: f64,
}

impl Dropout {
    /// With the probability `rate` of becoming zero.
    ///
    /// # Panics
    /// If the rate is not in 0 up to below 1.
    pub fn new(rate: f64) -> Self {
        Self { rate: checked(rate) }
    }

    /// The shape stays.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let Some(factors) = factors(x.shape().num_elements(), self.rate) else {
            return x;
        };
        let options = (&x.device().without_autodiff(), x.dtype());
        let factors = Tensor::<D>::from_data(TensorData::new(factors, x.dims()), options);
        multiply(x, factors)
    }
}

fn checked(rate: f64) -> f64 {
    assert!((0.0..1.0).contains(&rate), "a share of {rate} cannot be left out; give a rate of 0 up to below 1");
    rate
}

/// For each of so many things 0 with the probability `rate`, else 1 / (1 − rate); none where nothing is left out.
fn factors(count: usize, rate: f64) -> Option<Vec<f64>> {
    #[cfg(test)]
    tests::SEEN.with_borrow_mut(|rates| rates.push(rate));
    if rate == 0.0 {
        return None;
    }
    RANDOM.with_borrow_mut(|random| {
        let random = random.as_mut()?;
        let stays = 1.0 - rate;
        Some((0..count).map(|_| if random.unit() < stays { 1.0 / stays } else { 0.0 }).collect())
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::family::Architecture;
    use crate::registry::find;
    use crate::taps::Taps;

    thread_local! {
        /// The rates that were asked for on this thread, in order.
        pub static SEEN: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
    }

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        x.try_into_vec_as().expect("a readable tensor")
    }

    /// 2 for each of so many images beside a shortcut of 10.
    fn sums(depth: StochasticDepth, images: usize) -> Vec<f64> {
        let shortcut = Tensor::<2>::full([images, 1], 10.0, &Device::flex());
        values(depth.residual(shortcut, |shortcut| shortcut + 2.0))
    }

    #[test]
    fn branches_stay_as_often_as_the_rate_says_and_keep_their_mean() {
        let sums = stochastic(5, || sums(StochasticDepth::new(0.2), 10_000));
        assert!(sums.iter().all(|sum| [10.0, 12.5].contains(sum)));
        let kept = sums.iter().filter(|sum| **sum > 10.0).count();
        // The standard deviation is 40.
        assert!((7_850..8_150).contains(&kept), "{kept} of 10,000");
        let mean = sums.iter().sum::<f64>() / sums.len() as f64;
        assert!((mean - 12.0).abs() < 0.04, "{mean}");
    }

    #[test]
    fn features_stay_as_often_as_the_rate_says_each_by_itself() {
        let x = Tensor::<2>::ones([100, 100], &Device::flex());
        let dropped = values(stochastic(6, || Dropout::new(0.4).forward(x)));
        assert!(dropped.iter().all(|value| *value == 0.0 || (value - 1.0 / 0.6).abs() < 1e-6));
        let mean = dropped.iter().sum::<f64>() / dropped.len() as f64;
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        // No row and no column goes as a whole.
        for index in 0..100 {
            let row: f64 = dropped[100 * index..][..100].iter().sum();
            let column: f64 = dropped.iter().skip(index).step_by(100).sum();
            assert!((60.0..140.0).contains(&row) && (60.0..140.0).contains(&column), "{row} {column}");
        }
    }

    #[test]
    fn nothing_is_left_out_elsewhere_and_a_seed_tells_all() {
        let depth = StochasticDepth::new(0.5);
        assert_eq!(sums(depth, 100), [12.0; 100]);
        let of = |seed| stochastic(seed, || sums(depth, 100));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        // One call goes on where the other ended; one within another begins anew and leaves the outer as it was.
        let twice = |inner: bool| {
            stochastic(1, || {
                let first = sums(depth, 100);
                if inner {
                    of(2);
                }
                [first, sums(depth, 100)]
            })
        };
        let [first, second] = twice(true);
        assert_ne!(first, second);
        assert_eq!([first, second], twice(false));
        let panicked = std::panic::catch_unwind(|| stochastic(1, || -> usize { panic!("in a network") }));
        assert!(panicked.is_err());
        assert_eq!(sums(depth, 100), [12.0; 100]);
    }

    #[test]
    fn an_image_of_parts_goes_as_a_whole() {
        let sums = stochastic(3, || sums(StochasticDepth::new(0.5).of_parts(4), 40));
        assert!(sums.chunks_exact(4).all(|image| image.iter().all(|sum| *sum == image[0])));
        assert!(sums.contains(&10.0) && sums.contains(&14.0));
    }

    #[test]
    fn the_activation_follows_the_sum() {
        let shortcut = Tensor::<2>::full([64, 1], -3.0, &Device::flex());
        let sums = stochastic(3, || {
            let depth = StochasticDepth::new(0.5);
            let branch = |shortcut: Tensor<2>, activation: Activation| activation.forward(shortcut + 2.0);
            values(depth.residual_activated(shortcut, Activation::Relu, branch))
        });
        // −3 + 2 · 2 where the branch stays, −3 where it does not.
        assert!(sums.iter().all(|sum| [0.0, 1.0].contains(sum)));
        assert!(sums.contains(&0.0) && sums.contains(&1.0));
    }

    #[test]
    fn gradients_pass_as_the_values_do() {
        let device = Device::flex();
        for dtype in [DType::F32, DType::F64] {
            let tracked = || Tensor::<2>::ones([32, 3], (&device, dtype)).autodiff().require_grad();
            let (shortcut, x) = (tracked(), tracked());
            let branch = |sum| add(x.clone() * 5.0, sum, Activation::Identity);
            let y = stochastic(8, || StochasticDepth::new(0.5).residual(shortcut.clone(), branch));
            let factors: Vec<f64> = values(y.clone()).into_iter().map(|sum| sum - 1.0).collect();
            let gradients = y.sum().backward();
            assert!(values(shortcut.grad(&gradients).unwrap()).iter().all(|gradient| *gradient == 1.0));
            assert_eq!(values(x.grad(&gradients).unwrap()), factors);
            assert!(factors.contains(&0.0) && factors.contains(&10.0));
        }
    }

    #[test]
    #[should_panic(expected = "give a rate of 0 up to below 1")]
    fn all_cannot_be_left_out() {
        StochasticDepth::new(1.0);
    }

    /// The rates of a network in the order in which a forward pass asks for them, `drop_path` 0.1 and `dropout` 0.3.
    fn rates(name: &str, size: usize) -> Vec<f64> {
        let device = Device::flex();
        let config = find(name).unwrap().config;
        let regularised = config.regularised(Regularisation { drop_path: 0.1, dropout: 0.3 }).expect("a rate to set");
        let regularised = if config.input_size() == [size; 2] { regularised } else { regularised.resized([size; 2]) };
        let network = regularised.build(10, &device);
        SEEN.take();
        network.forward(Tensor::zeros([1, 3, size, size], &device), &mut Taps::none());
        SEEN.take()
    }

    /// What timm 1.0.31 gives its blocks for `drop_path_rate=0.1`, once for each branch of a block.
    #[test]
    fn rates_are_those_of_timm() {
        let check = |name: &str, size: usize, branches: usize, blocks: &[f64]| {
            let expected: Vec<f64> = blocks.iter().flat_map(|rate| repeat_n(*rate, branches)).chain([0.3]).collect();
            let found = rates(name, size);
            assert_eq!(found.len(), expected.len(), "{name}");
            let equal = |(found, expected): (&f64, &f64)| (found - expected).abs() < 1e-7;
            assert!(found.iter().zip(&expected).all(equal), "{name}: {found:?}");
        };
        let twelve = [
            0.0, 0.0090909, 0.0181818, 0.0272727, 0.0363636, 0.0454545, 0.0545455, 0.0636364, 0.0727273, 0.0818182,
            0.0909091, 0.1,
        ];
        check("deit_tiny_patch16_224", 32, 2, &twelve);
        check("swin_tiny_patch4_window7_224", 32, 2, &twelve);
        let sixteen = [
            0.0, 0.0066667, 0.0133333, 0.02, 0.0266667, 0.0333333, 0.04, 0.0466667, 0.0533333, 0.06, 0.0666667,
            0.0733333, 0.08, 0.0866667, 0.0933333, 0.1,
        ];
        check("resnet50", 224, 1, &sixteen);
        let eighteen = [
            0.0, 0.0058824, 0.0117647, 0.0176471, 0.0235294, 0.0294118, 0.0352941, 0.0411765, 0.0470588, 0.0529412,
            0.0588235, 0.0647059, 0.0705882, 0.0764706, 0.0823529, 0.0882353, 0.0941176, 0.1,
        ];
        check("convnext_tiny", 224, 1, &eighteen);
    }
}
