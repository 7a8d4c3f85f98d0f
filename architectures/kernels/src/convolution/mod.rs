//! Convolution over `[batch, channel, height, width]`, with what follows it in the same pass: batch normalisation by fixed
//! statistics, a residual, an activation.

mod dense;
mod depthwise;
mod finish;
mod grouped;
mod source;
mod stem;
#[cfg(test)]
mod tests;
mod weights;
mod winograd;

use crate::activation::{Activation, Kept, times_slope};
use crate::array::Array;
use crate::fold::{Fold, Norm};
use crate::operation::{Cache, Operation, Saved};
use crate::padded::Axis;
use crate::products::Products;
use dense::Packing;
use source::Source;

/// act(norm(w ∗ x + bias) + residual), or act(scale·(w ∗ x + bias) + residual).
///
/// Inputs in this order: x `[batch, input, height, width]`; the weights `[output, input / groups, rows, columns]`; the bias
/// `[output]`, if there is one; the norm's scale, shift, mean and variance, `[output]` each, if there is one; the scale
/// `[output]`, if there is one; the residual, of the output's shape, if there is one.
///
/// Gradients flow to x and to the residual, and, if it is `trainable` (then without norm and scale), to weights and bias.
#[derive(Debug, Clone)]
pub struct Convolution {
    /// Rows and columns from one output to the next.
    pub stride: [usize; 2],
    /// Zeros (before, after) along rows and columns.
    pub padding: [(usize, usize); 2],
    /// Rows and columns from one tap of the kernel to the next.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// The epsilon of the batch normalisation, if there is one.
    pub norm: Option<f64>,
    /// Whether there is a scale; not with a norm.
    pub scale: bool,
    /// Whether something is added before the activation.
    pub residual: bool,
    /// What comes last.
    pub activation: Activation,
    /// Whether the weights want gradients; if not, what is made of them is kept in `cache`.
    pub trainable: bool,
    /// How matrix products of it are multiplied; those of the gradient to the weights are f32.
    pub products: Products,
    /// Belongs to the layer.
    pub cache: Cache,
}

/// The sizes of one convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub batch: usize,
    /// Input channels, of all groups.
    pub inputs: usize,
    /// Output channels, of all groups.
    pub outputs: usize,
    pub groups: usize,
    /// Rows and columns of the input.
    pub input: [usize; 2],
    /// Rows and columns of the output.
    pub output: [usize; 2],
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Zeros before the first row and column.
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
}

/// The ways to compute a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dense,
    Depthwise,
    Grouped,
}

/// Channels of a group up to which grouped convolutions are computed directly, not as matrix products.
const MOST_GROUPED: usize = 32;

impl Geometry {
    /// How many multiplications the convolution takes.
    pub(crate) fn work(&self) -> usize {
        let per_output = self.inputs / self.groups * self.kernel[0] * self.kernel[1];
        self.batch * self.outputs * self.output[0] * self.output[1] * per_output
    }

    /// Whether every input belongs to exactly one window.
    pub(crate) fn is_tiling(&self) -> bool {
        let whole = [0, 1].map(|axis| self.output[axis] * self.stride[axis] == self.input[axis]);
        self.kernel == self.stride && self.padding == [0, 0] && self.dilation == [1, 1] && whole == [true, true]
    }

    /// The taps that reach the rows (axis 0) or columns (axis 1) of this parity, the same for all of them, and how far
    /// from place / stride the output lies that each belongs to.
    fn reaching(&self, axis: usize, parity: usize) -> Vec<(usize, isize)> {
        let stride = self.stride[axis] as isize;
        (0..self.kernel[axis])
            .filter_map(|tap| {
                let offset = (tap * self.dilation[axis]) as isize;
                let reach = (parity + self.padding[axis]) as isize - offset;
                (reach.rem_euclid(stride) == 0).then(|| (tap, reach.div_euclid(stride)))
            })
            .collect()
    }

    /// How windows move along rows and columns, from input to output.
    fn forward_axes(&self) -> [Axis; 2] {
        [0, 1].map(|axis| self.axis(axis, Axis::forward))
    }

    /// How the gradient of the input reads that of the output, along rows and columns.
    fn backward_axes(&self) -> [Axis; 2] {
        [0, 1].map(|axis| self.axis(axis, Axis::backward))
    }

    fn axis(&self, axis: usize, make: fn([usize; 2], usize, usize, usize, usize) -> Axis) -> Axis {
        make(
            [self.input[axis], self.output[axis]],
            self.kernel[axis],
            self.stride[axis],
            self.padding[axis],
            self.dilation[axis],
        )
    }

    /// The kernel that is best at it.
    fn kind(&self) -> Kind {
        let of_group = (self.inputs / self.groups).max(self.outputs / self.groups);
        match self.groups {
            1 => Kind::Dense,
            groups if groups == self.inputs && groups == self.outputs => Kind::Depthwise,
            _ if of_group <= MOST_GROUPED => Kind::Grouped,
            _ => Kind::Dense,
        }
    }

    fn output_shape(&self) -> [usize; 4] {
        [self.batch, self.outputs, self.output[0], self.output[1]]
    }

    fn input_shape(&self) -> [usize; 4] {
        [self.batch, self.inputs, self.input[0], self.input[1]]
    }
}

/// The inputs by their names.
struct Inputs {
    x: Array,
    weight: Array,
    bias: Option<Array>,
    norm: Option<[Array; 4]>,
    scale: Option<Array>,
    residual: Option<Array>,
}

impl Convolution {
    /// A 1×1 convolution with nothing behind it, whose weights are not trained.
    pub fn pointwise(cache: Cache) -> Self {
        Self {
            stride: [1; 2],
            padding: [(0, 0); 2],
            dilation: [1; 2],
            groups: 1,
            bias: false,
            norm: None,
            scale: false,
            residual: false,
            activation: Activation::Identity,
            trainable: false,
            products: Products::current(),
            cache,
        }
    }

    fn sort(&self, inputs: Vec<Array>) -> Inputs {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().expect("an input for each part");
        Inputs {
            x: next(),
            weight: next(),
            bias: self.bias.then(&mut next),
            norm: self.norm.map(|_| std::array::from_fn(|_| next())),
            scale: self.scale.then(&mut next),
            residual: self.residual.then(&mut next),
        }
    }

    fn geometry(&self, x: &[usize], weight: &[usize]) -> Geometry {
        let (&[batch, inputs, ..], &[outputs, _, rows, columns]) = (x, weight) else {
            panic!("a convolution of {x:?} with {weight:?}");
        };
        let (input, kernel) = ([x[2], x[3]], [rows, columns]);
        let output = [0, 1].map(|axis| {
            let (before, after) = self.padding[axis];
            let reach = self.dilation[axis] * (kernel[axis] - 1) + 1;
            (input[axis] + before + after - reach) / self.stride[axis] + 1
        });
        Geometry {
            batch,
            inputs,
            outputs,
            groups: self.groups,
            input,
            output,
            kernel,
            stride: self.stride,
            padding: self.padding.map(|(before, _)| before),
            dilation: self.dilation,
        }
    }

    fn fold(&self, channels: usize, bias: Option<&Array>, norm: Option<&[Array; 4]>, scale: Option<&Array>) -> Fold {
        if let Some(scale) = scale {
            return Fold::scaled(bias, scale);
        }
        let norm = norm.map(|[scale, shift, mean, variance]| Norm {
            scale,
            shift,
            mean,
            variance,
            epsilon: self.norm.expect("a norm has an epsilon"),
        });
        Fold::new(channels, bias, norm)
    }

    fn lasting_cache(&self) -> Option<&Cache> {
        (!self.trainable).then_some(&self.cache)
    }
}

impl Operation for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn multiplies(&self) -> bool {
        true
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let Inputs { x, weight, bias, norm, scale, residual } = self.sort(inputs);
        let geometry = self.geometry(x.shape(), weight.shape());
        let fold = self.fold(geometry.outputs, bias.as_ref(), norm.as_ref(), scale.as_ref());
        let (residual, activation, unit) = (residual.as_ref(), self.activation, self.products.unit());
        let (y, slope) = match geometry.kind() {
            Kind::Depthwise => depthwise::forward(&geometry, &x, &weight, &fold, residual, activation, keep),
            Kind::Grouped => grouped::forward(&geometry, &x, &weight, &fold, residual, activation, keep),
            Kind::Dense if !self.trainable && winograd::applies(&geometry, unit) => {
                winograd::forward(&geometry, [&x, &weight], &fold, residual, activation, keep, &self.cache)
            }
            Kind::Dense => {
                let packing = Packing { cache: self.lasting_cache(), unit };
                dense::forward(&geometry, [&x, &weight], &fold, residual, activation, keep, packing)
            }
        };
        if !keep {
            return (y, vec![]);
        }
        // The input's sizes are told by x itself, which is only kept where it is needed.
        let sizes = geometry.input.map(|size| size as f32);
        let mut saved = vec![weight, Array::from_vec(sizes.to_vec(), &[2])];
        saved.extend(norm.into_iter().flatten());
        saved.extend(scale);
        if self.activation.kept() != Kept::Nothing {
            saved.push(slope.unwrap_or_else(|| y.clone()));
        }
        if self.trainable {
            saved.push(x);
        }
        (y, saved)
    }

    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let mut saved = saved.into_iter();
        let mut next = || saved.next().expect("what forward kept");
        let (weight, sizes) = (next(), next());
        let norm: Option<[Array; 4]> = self.norm.map(|_| std::array::from_fn(|_| next()));
        let scale = self.scale.then(&mut next);
        let kept = (self.activation.kept() != Kept::Nothing).then(&mut next);
        let x = self.trainable.then(&mut next);
        let [batch, ..] = gradient.dims::<4>();
        let inputs = weight.shape()[1] * self.groups;
        let [rows, columns] = [0, 1].map(|axis| sizes.values()[axis] as usize);
        let geometry = self.geometry(&[batch, inputs, rows, columns], weight.shape());
        // Where only matrix products read the gradient, they multiply it by the slope.
        let by_product = geometry.kind() == Kind::Dense && !stem::applies(&geometry);
        let (gradient, kept) = if by_product && !self.residual && !self.trainable {
            (gradient, kept)
        } else {
            (times_slope(self.activation, gradient, kept.as_ref()), None)
        };
        let mut results = Vec::new();
        results.push(wanted[0].then(|| {
            let fold = self.fold(geometry.outputs, None, norm.as_ref(), scale.as_ref());
            let factors = fold.scale.as_deref();
            match geometry.kind() {
                Kind::Depthwise => depthwise::input_gradient(&geometry, &gradient, &weight, factors),
                Kind::Grouped => grouped::input_gradient(&geometry, &gradient, &weight, factors),
                Kind::Dense if stem::applies(&geometry) => stem::input_gradient(&geometry, &gradient, &weight, factors),
                Kind::Dense => {
                    // The arrays that the scale was made from, by which the packed weights are known again.
                    let sources = match (&norm, &scale) {
                        (Some([scale, _, _, variance]), _) => vec![scale, variance],
                        (None, scale) => scale.iter().collect(),
                    };
                    let scale = factors.map(|scale| (scale, &sources[..]));
                    let gradient = match &kept {
                        None => Source::plain(gradient.values()),
                        Some(kept) => Source::before(self.activation, gradient.values(), kept.values()),
                    };
                    let unit = self.products.unit();
                    match self.lasting_cache() {
                        Some(cache) if winograd::applies(&geometry, unit) => {
                            winograd::input_gradient(&geometry, gradient, &weight, scale, cache)
                        }
                        cache => dense::input_gradient(&geometry, gradient, &weight, scale, Packing { cache, unit }),
                    }
                }
            }
        }));
        results.push((self.trainable && wanted[1]).then(|| {
            let x = x.as_ref().expect("kept while training");
            match geometry.kind() {
                Kind::Depthwise => depthwise::weight_gradient(&geometry, x, &gradient),
                Kind::Grouped => grouped::weight_gradient(&geometry, x, &gradient),
                Kind::Dense => weights::gradient(&geometry, x, &gradient),
            }
        }));
        if self.bias {
            let wanted = self.trainable && wanted[2];
            results.push(wanted.then(|| channel_sums(&gradient)));
        }
        if self.norm.is_some() {
            results.extend([const { None }; 4]);
        }
        if self.scale {
            results.push(None);
        }
        if self.residual {
            results.push(Some(gradient));
        }
        results
    }
}

/// The sum of each channel of `[batch, channel, height, width]`: `[channel]`.
fn channel_sums(values: &Array) -> Array {
    let [_, channels, height, width] = values.dims();
    let mut sums = vec![0.0f64; channels];
    for (index, plane) in values.values().chunks_exact(height * width).enumerate() {
        let sum: f32 = plane.iter().sum();
        sums[index % channels] += f64::from(sum);
    }
    let sums = sums.into_iter().map(|sum| sum as f32).collect();
    Array::from_vec(sums, &[channels])
}
