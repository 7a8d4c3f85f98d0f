//! Patch-Fool: one patch of an image changed at will.
//!
//! Fu et al., *Patch-Fool: Are Vision Transformers Always Robust Against Adversarial Perturbations?* (ICLR 2022, arXiv
//! 2203.08392): the patch that draws most attention in one layer is exchanged for one that raises the cross-entropy and draws the
//! attention of all tokens; where the two gradients oppose each other, what of the attention's opposes the other is taken out
//! (equations 5 to 9). Steps are Adam's.
//!
//! A step goes along ∇J + w·(A − min(0, ⟨A, ∇J⟩)·∇J / ‖∇J‖²) at the patch's pixels: J is the cross-entropy, A the gradient of the mean
//! logarithm of the attention that is paid to the patch, w its weight. Pixels of the patch may become anything, so that ε is 1 by default.
//!
//! Of a network without attention over patches (a CNN, a Swin) the patch is the one whose pixels' gradient is the largest in
//! all, and the loss is the cross-entropy alone, as the authors do for CNNs; [`Reason::NoAttention`] says so. Where there are no
//! more patches than are to be changed, every pixel may change, which [`Reason::EveryPatch`] says. A network that attends to patches
//! keeps its own, and [`Reason::OwnPatches`] says if others were asked for. With a mask, patches are chosen among those that have pixels
//! which may change.
//!
//! Deviations: the attention losses of all layers are added before they are set against the cross-entropy's gradient (the authors'
//! code does that layer by layer, with as many backward passes, and divides by the norm where the paper's equation 9 has its
//! square, as here); the authors' learning rate 0.22 is in units of the network's normalised pixels, here it is that of pixels in
//! [0, 1] with a deviation of 0.225; small images have smaller patches ([`PatchFool::patch_size`]).

use burn::tensor::{Int, Tensor, TensorData};
use serde::Serialize;

use super::norm::{norms, per_image};
use super::views::Moment;
use super::{
    Attack, AttackError, Bound, Doubt, Effort, Loss, LossOf, Norm, Perturbed, Reason, Surrogate, Targets, gradient,
    host,
};
use crate::model::to_f64;

/// Patch-Fool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PatchFool {
    /// How far a changed pixel may go in L∞; 1 allows all, less is the paper's "mild" form.
    #[serde(flatten)]
    pub bound: Bound,
    /// Patches that are changed, at least 1.
    pub patches: usize,
    /// The side of a patch in pixels where the network has no patches of its own, at least 1; without it 16, or of images of less
    /// than 64 pixels a quarter of their shorter side, so that there are patches to choose among.
    pub patch_size: Option<usize>,
    /// Steps, at least 1.
    pub steps: usize,
    /// Adam's learning rate in pixels of [0, 1], above 0.
    pub learning_rate: f64,
    /// The learning rate is multiplied by this …
    pub decay: f64,
    /// … every so many steps.
    pub decay_steps: usize,
    /// The weight of the attention's gradients, at least 0.
    pub attention_weight: f64,
    /// The layer whose attention chooses the patch, from 0; of a network of fewer layers the last one.
    pub layer: usize,
    /// Seeds the patch's first pixels.
    pub seed: u64,
}

impl Default for PatchFool {
    /// The authors': one patch, 250 steps, the attention of layer 4 weighted by 0.002.
    fn default() -> Self {
        Self {
            bound: Bound { norm: Norm::Linf, eps: 1.0 },
            patches: 1,
            patch_size: None,
            steps: 250,
            learning_rate: 0.22 * 0.225,
            decay: 0.95,
            decay_steps: 10,
            attention_weight: 0.002,
            layer: 4,
            seed: 0,
        }
    }
}

/// Attention over the patches of an image.
struct Maps {
    /// `[batch, head, query, token]` of each layer.
    layers: Vec<Tensor<4>>,
    /// Tokens before the patches.
    prefix: usize,
    /// Patches along each axis.
    grid: usize,
}

impl Maps {
    /// Those of square grids of patches, if the network attends to them; `maps` are as [`Surrogate::attention`] gives them.
    fn of(maps: Vec<Tensor<4>>, [batch, height, width]: [usize; 3]) -> Option<Self> {
        let [_, _, queries, tokens] = maps.first()?.dims();
        // Of windows there are more than images.
        let is_like = |map: &Tensor<4>| map.dims()[0] == batch && map.dims()[2..] == [queries, tokens];
        if height != width || queries != tokens || !maps.iter().all(is_like) {
            return None;
        }
        let (prefix, grid) = (0..=2).find_map(|prefix| {
            let grid = tokens.checked_sub(prefix)?.isqrt();
            (grid > 1 && grid * grid + prefix == tokens && height % grid == 0).then_some((prefix, grid))
        })?;
        Some(Self { layers: maps, prefix, grid })
    }
}

impl PatchFool {
    /// Checks the ranges.
    ///
    /// # Errors
    /// A sentence that names the first setting that is out of its range.
    pub fn check(&self) -> Result<(), AttackError> {
        self.bound.check()?;
        if self.bound.norm != Norm::Linf {
            return Err(AttackError::Norm { attack: "patchfool", norm: self.bound.norm });
        }
        host::at_least_one("steps", self.steps)?;
        host::at_least_one("patches", self.patches)?;
        host::at_least_one("patch-size", self.patch_size.unwrap_or(1))?;
        AttackError::check("learning-rate", self.learning_rate, self.learning_rate > 0.0, "a change of pixels above 0")
    }

    /// The side of a patch of images whose network has none of its own.
    fn side(&self, [height, width]: [usize; 2]) -> usize {
        let shorter = height.min(width);
        self.patch_size.unwrap_or((shorter / 4).clamp(1, 16)).min(shorter)
    }

    /// 1 at the pixels of the chosen patches, `[batch, 1, height, width]`, and the first chosen patch of each image: those of the
    /// highest scores in which a pixel may change.
    fn mask(&self, mut scores: Vec<Vec<f64>>, side: usize, targets: &Targets) -> (Tensor<4>, Vec<usize>) {
        let like = &targets.pixels;
        let [batch, _, height, width] = like.dims();
        let columns = width / side;
        if targets.mask.is_some() {
            let ones = Tensor::ones([batch, 1, height, width], (&like.device(), like.dtype()));
            let may_change = to_f64(targets.masked(ones));
            for (scores, may_change) in scores.iter_mut().zip(may_change.chunks_exact(may_change.len() / batch)) {
                for (score, pixels) in scores.iter_mut().zip(patch_sums(may_change, side, [height, width])) {
                    if pixels == 0.0 {
                        *score = f64::NEG_INFINITY;
                    }
                }
            }
        }
        let mut values = vec![0.0; scores.len() * height * width];
        let mut firsts = Vec::new();
        for (image, scores) in values.chunks_exact_mut(height * width).zip(&scores) {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            firsts.push(order[0]);
            for &patch in order.iter().take(self.patches) {
                let (top, left) = (patch / columns * side, patch % columns * side);
                for row in image.chunks_exact_mut(width).skip(top).take(side) {
                    row[left..left + side].fill(1.0);
                }
            }
        }
        let data = TensorData::new(values, [scores.len(), 1, height, width]);
        (Tensor::from_data(data, (&like.device(), like.dtype())), firsts)
    }
}

impl Attack for PatchFool {
    fn name(&self) -> &str {
        "patchfool"
    }

    fn settings(&self) -> serde_json::Value {
        host::settings(self)
    }

    fn bound(&self) -> Bound {
        self.bound
    }

    fn perturb(&self, network: &dyn Surrogate, targets: &Targets) -> Perturbed {
        let original = &targets.pixels;
        let [batch, channels, height, width] = original.dims();
        if batch == 0 || self.bound.eps == 0.0 {
            return host::nothing(targets);
        }
        let loss: &LossOf = &|logits| Loss::CrossEntropy.of(logits, targets);
        let mut effort = Effort::QUERY;
        let maps = Maps::of(network.attention(original.clone()).1, [batch, height, width]);
        let layout = maps.as_ref().map(|maps| (maps.layers.len(), maps.prefix));
        let has_others =
            maps.as_ref().is_some_and(|maps| self.patch_size.is_some_and(|side| side != height / maps.grid));
        let (mask, patches, count) = match maps {
            Some(maps) => {
                let layer = maps.layers[self.layer.min(maps.layers.len() - 1)].clone();
                // How much attention each patch draws from all tokens.
                let drawn = layer.mean_dim(1).mean_dim(2).reshape([batch as i32, -1]);
                let [_, tokens] = drawn.dims();
                let scores: Vec<Vec<f64>> =
                    to_f64(drawn).chunks_exact(tokens).map(|drawn| drawn[maps.prefix..].to_vec()).collect();
                let (mask, patches) = self.mask(scores, height / maps.grid, targets);
                (mask, patches, maps.grid * maps.grid)
            }
            None => {
                effort += Effort::GRADIENT;
                let side = self.side([height, width]);
                let sizes = to_f64(targets.masked(gradient(network, original.clone(), loss).gradient.abs()));
                let scores: Vec<Vec<f64>> = sizes
                    .chunks_exact(channels * height * width)
                    .map(|sizes| patch_sums(sizes, side, [height, width]))
                    .collect();
                let (mask, patches) = self.mask(scores, side, targets);
                (mask, patches, (height / side) * (width / side))
            }
        };
        let mask = targets.masked(mask);
        // Noise in [0, 1], or in the ball where that is smaller.
        let moment = Moment { seed: self.seed, restart: 0, step: 0, turn: 0 };
        let noise = moment.uniform("netkin attack patch", targets, 1.0);
        let start = match self.bound.eps >= 1.0 {
            true => noise.add_scalar(1.0).mul_scalar(0.5),
            false => original.clone() + noise.mul_scalar(self.bound.eps),
        };
        let inside = |pixels: Tensor<4>| {
            let pixels = self.bound.project(pixels, original);
            original.clone() + (pixels - original.clone()) * mask.clone()
        };
        let mut pixels = inside(start);
        let mut adam = Adam::new(original);
        for step in 0..self.steps {
            let found = gradient(network, pixels.clone(), loss);
            effort += Effort::GRADIENT;
            effort += Effort::ITERATION;
            let mut along = found.gradient * mask.clone();
            if let Some((layers, prefix)) = layout.filter(|_| self.attention_weight > 0.0) {
                let of_attention = attention_gradient(network, pixels.clone(), &patches, layers, prefix) * mask.clone();
                effort += Effort::GRADIENT;
                along = along.clone() + without_opposition(of_attention, &along).mul_scalar(self.attention_weight);
            }
            let rate = self.learning_rate * self.decay.powi((step / self.decay_steps.max(1)) as i32);
            pixels = inside(pixels + adam.step(along).mul_scalar(rate));
        }
        let said = [
            (Reason::NoAttention, layout.is_none()),
            (Reason::EveryPatch, self.patches >= count),
            (Reason::OwnPatches, has_others),
        ];
        let doubts = said.into_iter().filter(|(_, is_so)| *is_so);
        let doubts = doubts.map(|(reason, _)| Doubt { reason, images: batch, of: batch }).collect();
        Perturbed { pixels, effort: vec![effort; batch], doubts }
    }
}

/// The sum of `values`, `[channel, height, width]`, in each patch.
fn patch_sums(values: &[f64], side: usize, [height, width]: [usize; 2]) -> Vec<f64> {
    let (rows, columns) = (height / side, width / side);
    let mut sums = vec![0.0; rows * columns];
    for (index, value) in values.iter().enumerate() {
        let (row, column) = (index / width % height / side, index % width / side);
        if row < rows && column < columns {
            sums[row * columns + column] += value;
        }
    }
    sums
}

/// The gradient of the mean logarithm of the attention that all tokens pay to the chosen patch, over heads, added up over the layers
/// of the first half but the first one.
fn attention_gradient(
    network: &dyn Surrogate,
    pixels: Tensor<4>,
    patches: &[usize],
    layers: usize,
    prefix: usize,
) -> Tensor<4> {
    let tracked = pixels.autodiff().require_grad();
    let (_, maps) = network.attention(tracked.clone());
    let chosen = |map: &Tensor<4>| {
        let [batch, _, queries, tokens] = map.dims();
        let indices: Vec<i64> =
            patches.iter().flat_map(|patch| std::iter::repeat_n((patch + prefix) as i64, queries)).collect();
        let indices = TensorData::new(indices, [batch, queries, 1]);
        let indices = Tensor::<3, Int>::from_data(indices, &map.device().without_autodiff());
        let of_heads = map.clone().mean_dim(1).reshape([batch, queries, tokens]);
        of_heads.gather(2, indices).log().sum().mul_scalar(1.0 / queries as f64)
    };
    let last = (layers / 2).max(2).min(layers);
    let Some(sum) = maps[..last].iter().skip(usize::from(layers > 1)).map(chosen).reduce(|sum, more| sum + more) else {
        return tracked.inner().zeros_like();
    };
    let mut gradients = sum.backward();
    tracked.grad_remove(&mut gradients).unwrap_or_else(|| tracked.inner().zeros_like())
}

/// `gradient` without its part along `other` in the images where they point apart.
fn without_opposition(gradient: Tensor<4>, other: &Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = gradient.dims();
    let flat = (gradient.clone() * other.clone()).reshape([batch, channels * height * width]);
    let dot = flat.sum_dim(1).reshape([batch]).clamp_max(0.0);
    let size = norms(other, Norm::L2).clamp_min(f64::from(f32::MIN_POSITIVE));
    gradient - other.clone() * per_image(dot / size.clone() / size)
}

/// Kingma & Ba, *Adam* (arXiv 1412.6980), algorithm 1, with its usual constants; PyTorch's is the same.
struct Adam {
    mean: Tensor<4>,
    square: Tensor<4>,
    steps: i32,
}

impl Adam {
    fn new(like: &Tensor<4>) -> Self {
        Self { mean: like.zeros_like(), square: like.zeros_like(), steps: 0 }
    }

    /// Of length about 1 in each pixel.
    fn step(&mut self, gradient: Tensor<4>) -> Tensor<4> {
        const DECAY: [f64; 2] = [0.9, 0.999];
        self.steps += 1;
        let blend = |before: &Tensor<4>, now: Tensor<4>, decay: f64| {
            before.clone().mul_scalar(decay) + now.mul_scalar(1.0 - decay)
        };
        self.mean = blend(&self.mean, gradient.clone(), DECAY[0]);
        self.square = blend(&self.square, gradient.clone() * gradient, DECAY[1]);
        let [mean, square] = [(&self.mean, DECAY[0]), (&self.square, DECAY[1])]
            .map(|(moment, decay)| moment.clone().mul_scalar(1.0 / (1.0 - decay.powi(self.steps))));
        mean / square.sqrt().add_scalar(1e-8)
    }
}
