//! Normalisation over groups of channels of `[batch, channel, height, width]`: group normalisation (Wu & He 2018) and
//! EvoNorm-S0 (Liu et al. 2020).

use std::ops::Range;

use pulp::Simd;

use crate::activation::{Activation, Kept, sigmoid, times_slope};
use crate::array::{Array, Output, Pointer};
use crate::layer_norm::{parameter_gradients, three};
use crate::operation::{Operation, Saved};
use crate::vectors::{Body, Part, Partial, Target, moments, over, parts, sums};

/// activation((x − mean) / √(variance + epsilon) · scale + shift), mean and variance over each group of an image's channels.
///
/// Inputs: x, scale and shift `[channel]`. Gradients flow to all three.
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm {
    /// Of channels; they divide them.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// What comes last.
    pub activation: Activation,
}

/// x·σ(v·x) / √(variance + epsilon) · scale + shift, the variance over each group of an image's channels.
///
/// Inputs: x, scale, shift and v `[channel]`. Gradients flow to all four.
#[derive(Debug, Clone, Copy)]
pub struct EvoNorm {
    /// Of channels; they divide them.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
}

/// How the values of an image lie: those of a group follow each other.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    /// Of the whole batch.
    groups: usize,
    groups_per_image: usize,
    /// Channels of a group.
    channels: usize,
    places: usize,
}

impl Geometry {
    fn new(x: &Array, groups_per_image: usize) -> Self {
        let [batch, channels, height, width] = x.dims();
        assert!(channels.is_multiple_of(groups_per_image), "{groups_per_image} groups of {channels} channels");
        let groups = batch * groups_per_image;
        Self { groups, groups_per_image, channels: channels / groups_per_image, places: height * width }
    }

    /// Values of a group.
    fn len(&self) -> usize {
        self.channels * self.places
    }

    fn images(&self) -> usize {
        self.groups / self.groups_per_image
    }

    fn channels_of_image(&self) -> usize {
        self.groups_per_image * self.channels
    }

    /// The channels of a group within its image, each with its first value.
    fn channels(&self, group: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let first = group % self.groups_per_image * self.channels;
        let (start, places) = (group * self.len(), self.places);
        (0..self.channels).map(move |channel| (first + channel, start + channel * places))
    }

    /// The place of a channel's sum, the `number`-th of so many, among those of the group's image.
    fn sum_at(&self, group: usize, count: usize, number: usize, channel: usize) -> usize {
        (group / self.groups_per_image * count + number) * self.channels_of_image() + channel
    }
}

impl Operation for GroupNorm {
    fn name(&self) -> &'static str {
        "group norm"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let [x, scale, shift] = three(inputs);
        let geometry = Geometry::new(&x, self.groups);
        let kept = if keep { self.activation.kept() } else { Kept::Nothing };
        let x_kept = keep.then(|| x.clone());
        let mut statistics = keep.then(|| Output::new(&[geometry.groups, 2]));
        let mut slope = (kept == Kept::Slope).then(|| Output::new(x.shape()));
        let target = Target::over(x);
        let body = Forward {
            geometry,
            epsilon: self.epsilon as f32,
            activation: self.activation,
            from: target.from,
            to: target.to,
            scale: Pointer::reading(scale.values()),
            shift: Pointer::reading(shift.values()),
            statistics: statistics.as_mut().map(Output::pointer),
            slope: slope.as_mut().map(Output::pointer),
        };
        // SAFETY: every group writes to itself, and all are written.
        unsafe {
            over(geometry.groups, geometry.len(), &body);
            let y = target.finish();
            let (Some(x), Some(statistics)) = (x_kept, statistics) else {
                return (y, vec![]);
            };
            let mut saved = vec![x, scale, statistics.finish()];
            match slope {
                Some(slope) => saved.push(slope.finish()),
                None if kept == Kept::Output => saved.push(y.clone()),
                None => {}
            }
            (y, saved)
        }
    }

    fn backward(&self, gradient: Array, mut saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let kept = (saved.len() > 3).then(|| saved.remove(3));
        let gradient = times_slope(self.activation, gradient, kept.as_ref());
        let [x, scale, statistics] = three(saved);
        let geometry = Geometry::new(&x, self.groups);
        let parameters = wanted[1] || wanted[2];
        let mut partial = parameters.then(|| Partial::new(geometry.images(), 2 * geometry.channels_of_image()));
        let target = Target::over(gradient);
        let body = Backward {
            geometry,
            gradient: target.from,
            to: target.to,
            x: Pointer::reading(x.values()),
            scale: Pointer::reading(scale.values()),
            statistics: Pointer::reading(statistics.values()),
            partial: partial.as_mut().map(Partial::pointer),
        };
        // SAFETY: every group writes to itself and to its channels' sums, and all are written.
        let gradient = unsafe {
            over(geometry.groups, geometry.len(), &body);
            target.finish()
        };
        let [to_scale, to_shift] = parameter_gradients(partial, scale.shape(), wanted);
        vec![Some(gradient), to_scale, to_shift]
    }
}

struct Forward {
    geometry: Geometry,
    epsilon: f32,
    activation: Activation,
    from: Pointer,
    to: Pointer,
    scale: Pointer,
    shift: Pointer,
    statistics: Option<Pointer>,
    slope: Option<Pointer>,
}

impl Body for Forward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let len = self.geometry.len();
        for group in range {
            // SAFETY: the group is within the arrays and belongs to this task.
            unsafe {
                let (mean, squares) = moments(simd, len, self.from.at(group * len));
                let inverse = 1.0 / (squares / len as f32 + self.epsilon).sqrt();
                let mean_lanes = simd.splat_f32s(mean);
                for (channel, start) in self.geometry.channels(group) {
                    let factor = simd.splat_f32s(*self.scale.at(channel) * inverse);
                    let shift = simd.splat_f32s(*self.shift.at(channel));
                    let (from, to) = (self.from.at(start).cast_const(), self.to.at(start));
                    parts(
                        simd,
                        self.geometry.places,
                        #[inline(always)]
                        |part| {
                            let centred = simd.sub_f32s(part.load(simd, from), mean_lanes);
                            let x = simd.mul_add_f32s(centred, factor, shift);
                            let y = match self.slope {
                                None => self.activation.value(simd, x),
                                Some(slope) => {
                                    let (y, values) = self.activation.value_and_slope(simd, x);
                                    part.store(simd, slope.at(start), values);
                                    y
                                }
                            };
                            part.store(simd, to, y);
                        },
                    );
                }
                if let Some(statistics) = self.statistics {
                    *statistics.at(2 * group) = mean;
                    *statistics.at(2 * group + 1) = inverse;
                }
            }
        }
    }
}

struct Backward {
    geometry: Geometry,
    gradient: Pointer,
    to: Pointer,
    x: Pointer,
    scale: Pointer,
    statistics: Pointer,
    partial: Option<Pointer>,
}

impl Body for Backward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let geometry = &self.geometry;
        let count = geometry.len() as f32;
        for group in range {
            // SAFETY: the group is within the arrays and belongs to this task.
            unsafe {
                let mean = simd.splat_f32s(*self.statistics.at(2 * group));
                let inverse = *self.statistics.at(2 * group + 1);
                // Of gradient · scale, and of it with the normalised values.
                let (mut total, mut total_aligned) = (0.0, 0.0);
                for (channel, start) in geometry.channels(group) {
                    let (gradient, x) = (self.gradient.at(start).cast_const(), self.x.at(start).cast_const());
                    let [sum, aligned] = sums(
                        simd,
                        geometry.places,
                        #[inline(always)]
                        |[sum, aligned], part: Part| {
                            // Zero in lanes without values.
                            let gradient = part.load(simd, gradient);
                            let centred = simd.sub_f32s(part.load(simd, x), mean);
                            [simd.add_f32s(sum, gradient), simd.mul_add_f32s(gradient, centred, aligned)]
                        },
                    );
                    let aligned = aligned * inverse;
                    if let Some(partial) = self.partial {
                        *partial.at(geometry.sum_at(group, 2, 0, channel)) = aligned;
                        *partial.at(geometry.sum_at(group, 2, 1, channel)) = sum;
                    }
                    let scale = *self.scale.at(channel);
                    total += scale * sum;
                    total_aligned += scale * aligned;
                }
                let rest = simd.splat_f32s(-total / count * inverse);
                let per_distance = simd.splat_f32s(total_aligned / count * inverse * inverse);
                for (channel, start) in geometry.channels(group) {
                    let (gradient, x) = (self.gradient.at(start).cast_const(), self.x.at(start).cast_const());
                    let to = self.to.at(start);
                    let factor = simd.splat_f32s(*self.scale.at(channel) * inverse);
                    parts(
                        simd,
                        geometry.places,
                        #[inline(always)]
                        |part| {
                            let centred = simd.sub_f32s(part.load(simd, x), mean);
                            let own = simd.mul_add_f32s(part.load(simd, gradient), factor, rest);
                            part.store(simd, to, simd.negate_mul_add_f32s(centred, per_distance, own));
                        },
                    );
                }
            }
        }
    }
}

impl Operation for EvoNorm {
    fn name(&self) -> &'static str {
        "EvoNorm"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let [x, scale, shift, v]: [Array; 4] = inputs.try_into().expect("four arrays");
        let geometry = Geometry::new(&x, self.groups);
        let x_kept = keep.then(|| x.clone());
        let mut statistics = keep.then(|| Output::new(&[geometry.groups, 2]));
        let target = Target::over(x);
        let body = EvoForward {
            geometry,
            epsilon: self.epsilon as f32,
            from: target.from,
            to: target.to,
            parameters: [&scale, &shift, &v].map(|values| Pointer::reading(values.values())),
            statistics: statistics.as_mut().map(Output::pointer),
        };
        // SAFETY: every group writes to itself, and all are written.
        unsafe {
            over(geometry.groups, geometry.len(), &body);
            let saved = match (x_kept, statistics) {
                (Some(x), Some(statistics)) => vec![x, scale, v, statistics.finish()],
                _ => vec![],
            };
            (target.finish(), saved)
        }
    }

    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let [x, scale, v, statistics]: [Array; 4] = saved.try_into().expect("four arrays");
        let geometry = Geometry::new(&x, self.groups);
        let channels = geometry.channels_of_image();
        let parameters = wanted[1..].contains(&true);
        let mut partial = parameters.then(|| Partial::new(geometry.images(), 3 * channels));
        let target = Target::over(gradient);
        let body = EvoBackward {
            geometry,
            gradient: target.from,
            to: target.to,
            x: Pointer::reading(x.values()),
            scale: Pointer::reading(scale.values()),
            v: Pointer::reading(v.values()),
            statistics: Pointer::reading(statistics.values()),
            partial: partial.as_mut().map(Partial::pointer),
        };
        // SAFETY: every group writes to itself and to its channels' sums, and all are written.
        let gradient = unsafe {
            over(geometry.groups, geometry.len(), &body);
            target.finish()
        };
        let total = partial.map(|partial| partial.total());
        let parameter = |number: usize| {
            let total = total.as_ref().filter(|_| wanted[1 + number])?;
            Some(Array::from_vec(total[number * channels..][..channels].to_vec(), &[channels]))
        };
        vec![Some(gradient), parameter(0), parameter(1), parameter(2)]
    }
}

struct EvoForward {
    geometry: Geometry,
    epsilon: f32,
    from: Pointer,
    to: Pointer,
    /// Scale, shift, v.
    parameters: [Pointer; 3],
    statistics: Option<Pointer>,
}

impl Body for EvoForward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let len = self.geometry.len();
        for group in range {
            // SAFETY: the group is within the arrays and belongs to this task.
            unsafe {
                let (mean, squares) = moments(simd, len, self.from.at(group * len));
                let inverse = 1.0 / (squares / len as f32 + self.epsilon).sqrt();
                for (channel, start) in self.geometry.channels(group) {
                    let [scale, shift, v] = self.parameters.map(|values| *values.at(channel));
                    let [factor, shift, v] = [scale * inverse, shift, v].map(
                        #[inline(always)]
                        |value| simd.splat_f32s(value),
                    );
                    let (from, to) = (self.from.at(start).cast_const(), self.to.at(start));
                    parts(
                        simd,
                        self.geometry.places,
                        #[inline(always)]
                        |part| {
                            let x = part.load(simd, from);
                            let gated = simd.mul_f32s(x, sigmoid(simd, simd.mul_f32s(v, x)));
                            part.store(simd, to, simd.mul_add_f32s(gated, factor, shift));
                        },
                    );
                }
                if let Some(statistics) = self.statistics {
                    *statistics.at(2 * group) = mean;
                    *statistics.at(2 * group + 1) = inverse;
                }
            }
        }
    }
}

struct EvoBackward {
    geometry: Geometry,
    gradient: Pointer,
    to: Pointer,
    x: Pointer,
    scale: Pointer,
    v: Pointer,
    statistics: Pointer,
    partial: Option<Pointer>,
}

impl Body for EvoBackward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let geometry = &self.geometry;
        for group in range {
            // SAFETY: the group is within the arrays and belongs to this task.
            unsafe {
                let mean = simd.splat_f32s(*self.statistics.at(2 * group));
                let inverse = *self.statistics.at(2 * group + 1);
                // Of gradient · scale · x·σ(v·x).
                let mut total = 0.0;
                for (channel, start) in geometry.channels(group) {
                    let (gradient, x) = (self.gradient.at(start).cast_const(), self.x.at(start).cast_const());
                    let v = simd.splat_f32s(*self.v.at(channel));
                    let [sum, gated, sharp] = sums(
                        simd,
                        geometry.places,
                        #[inline(always)]
                        |[sum, gated, sharp], part: Part| {
                            // Zero in lanes without values.
                            let (gradient, x) = (part.load(simd, gradient), part.load(simd, x));
                            let gate = sigmoid(simd, simd.mul_f32s(v, x));
                            let value = simd.mul_f32s(x, gate);
                            let closed = simd.sub_f32s(simd.splat_f32s(1.0), gate);
                            let slope = simd.mul_f32s(simd.mul_f32s(x, value), closed);
                            [
                                simd.add_f32s(sum, gradient),
                                simd.mul_add_f32s(gradient, value, gated),
                                simd.mul_add_f32s(gradient, slope, sharp),
                            ]
                        },
                    );
                    let scale = *self.scale.at(channel);
                    if let Some(partial) = self.partial {
                        *partial.at(geometry.sum_at(group, 3, 0, channel)) = gated * inverse;
                        *partial.at(geometry.sum_at(group, 3, 1, channel)) = sum;
                        *partial.at(geometry.sum_at(group, 3, 2, channel)) = sharp * inverse * scale;
                    }
                    total += scale * gated;
                }
                let per_distance = simd.splat_f32s(total * inverse.powi(3) / geometry.len() as f32);
                for (channel, start) in geometry.channels(group) {
                    let (gradient, x) = (self.gradient.at(start).cast_const(), self.x.at(start).cast_const());
                    let to = self.to.at(start);
                    let v = simd.splat_f32s(*self.v.at(channel));
                    let factor = simd.splat_f32s(*self.scale.at(channel) * inverse);
                    parts(
                        simd,
                        geometry.places,
                        #[inline(always)]
                        |part| {
                            let x = part.load(simd, x);
                            let sharpened = simd.mul_f32s(v, x);
                            let gate = sigmoid(simd, sharpened);
                            // d(x·σ(v·x))/dx = σ·(1 + v·x·(1 − σ)).
                            let closed = simd.sub_f32s(simd.splat_f32s(1.0), gate);
                            let slope = simd.mul_f32s(gate, simd.mul_add_f32s(sharpened, closed, simd.splat_f32s(1.0)));
                            let own = simd.mul_f32s(simd.mul_f32s(part.load(simd, gradient), factor), slope);
                            let centred = simd.sub_f32s(x, mean);
                            part.store(simd, to, simd.negate_mul_add_f32s(centred, per_distance, own));
                        },
                    );
                }
            }
        }
    }
}
