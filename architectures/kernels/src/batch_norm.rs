//! Batch normalisation by the batch's own statistics (Ioffe & Szegedy 2015), as in training.

use std::ops::Range;

use burn::tensor::Tensor;
use pulp::Simd;

use crate::activation::{Activation, Kept};
use crate::array::{Array, Output, Pointer};
use crate::operation::{Operation, Saved, run};
use crate::vectors::{Body, Part, Target, each, moments, over, parts, sums};

/// Each channel's mean and (biased) variance over images and places: `[batch, channel, height, width]` to `[2, channel]`.
///
/// No gradient flows through it: [`BatchNorm`]'s contains what they contribute.
pub fn batch_moments(x: &Tensor<4>) -> Tensor<2> {
    let moments = |x: Tensor<4>| run(Moments, vec![x.into_dispatch()]);
    // Not `detach`, which leaves a tensor that wants gradients one that wants gradients.
    if x.is_autodiff() { moments(x.clone().inner()).autodiff() } else { moments(x.clone()) }
}

#[derive(Debug)]
struct Moments;

impl Operation for Moments {
    fn name(&self) -> &'static str {
        "batch moments"
    }

    fn forward(&self, inputs: Vec<Array>, _keep: bool) -> (Array, Saved) {
        let planes = Planes::new(&inputs[0]);
        let mut output = Output::new(&[2, planes.channels]);
        let body = MomentsBody { planes, x: Pointer::reading(inputs[0].values()), to: output.pointer() };
        // SAFETY: every channel writes its own two values.
        unsafe {
            over(planes.channels, planes.images * planes.places, &body);
            (output.finish(), vec![])
        }
    }

    fn backward(&self, _gradient: Array, _saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        vec![None; wanted.len()]
    }
}

#[derive(Debug, Clone, Copy)]
struct Planes {
    images: usize,
    channels: usize,
    places: usize,
}

impl Planes {
    fn new(x: &Array) -> Self {
        let [images, channels, height, width] = x.dims();
        Self { images, channels, places: height * width }
    }

    /// Where a channel of an image begins.
    #[inline(always)]
    fn start(&self, image: usize, channel: usize) -> usize {
        (image * self.channels + channel) * self.places
    }
}

struct MomentsBody {
    planes: Planes,
    x: Pointer,
    to: Pointer,
}

impl Body for MomentsBody {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let Planes { images, channels, places } = self.planes;
        for channel in range {
            // Each plane by its own mean while it is in the cache, then all together in f64 (Chan et al. 1979).
            let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
            for image in 0..images {
                // SAFETY: the plane exists.
                let (of_plane, squares_of_plane) = unsafe {
                    let x = self.x.at(self.planes.start(image, channel));
                    moments(simd, places, x)
                };
                let (of_plane, squares_of_plane) = (f64::from(of_plane), f64::from(squares_of_plane));
                let more = places as f64;
                let distance = of_plane - mean;
                let together = count + more;
                mean += distance * more / together;
                squares += squares_of_plane + distance * distance * count * more / together;
                count = together;
            }
            // SAFETY: the channel belongs to this task.
            unsafe {
                *self.to.at(channel) = mean as f32;
                *self.to.at(channels + channel) = (squares / count) as f32;
            }
        }
    }
}

/// act((x − mean) / √(variance + epsilon) · scale + shift) over `[batch, channel, height, width]`.
///
/// Inputs: x, scale and shift `[channel]`, and x's own [`batch_moments`] `[2, channel]`. Gradients flow to the first three,
/// and take into account that the moments depend on x.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm {
    /// Added to the variance.
    pub epsilon: f64,
    /// What comes last.
    pub activation: Activation,
}

impl Operation for BatchNorm {
    fn name(&self) -> &'static str {
        "batch norm"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let [x, scale, shift, moments]: [Array; 4] = inputs.try_into().expect("four arrays");
        let planes = Planes::new(&x);
        let (means, variances) = moments.values().split_at(planes.channels);
        let inverses: Vec<f32> =
            variances.iter().map(|&variance| (1.0 / (f64::from(variance) + self.epsilon).sqrt()) as f32).collect();
        let kept = if keep { self.activation.kept() } else { Kept::Nothing };
        let mut slope = (kept == Kept::Slope).then(|| Output::new(x.shape()));
        let kept_x = keep.then(|| x.clone());
        let target = Target::over(x);
        let body = Forward {
            planes,
            activation: self.activation,
            means,
            inverses: &inverses,
            scale: scale.values(),
            shift: shift.values(),
            from: target.from,
            to: target.to,
            slope: slope.as_mut().map(Output::pointer),
        };
        // SAFETY: every plane writes to itself, and all are written.
        unsafe {
            over(planes.images * planes.channels, planes.places, &body);
            let y = target.finish();
            let Some(x) = kept_x else {
                return (y, vec![]);
            };
            let inverses = Array::from_vec(inverses, &[planes.channels]);
            let mut saved = vec![x, scale, moments, inverses];
            match (kept, slope) {
                (Kept::Output, _) => saved.push(y.clone()),
                (_, Some(slope)) => saved.push(slope.finish()),
                _ => {}
            }
            (y, saved)
        }
    }

    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let [x, scale, moments, inverses] = &saved[..4] else {
            unreachable!("four arrays are kept");
        };
        let planes = Planes::new(x);
        let shape = [planes.channels];
        let (mut to_scale, mut to_shift) = (Output::new(&shape), Output::new(&shape));
        let target = Target::over(gradient);
        let body = Back {
            planes,
            activation: self.activation,
            means: &moments.values()[..planes.channels],
            inverses: inverses.values(),
            scale: scale.values(),
            x: Pointer::reading(x.values()),
            kept: saved.get(4).map(|kept| Pointer::reading(kept.values())),
            gradient: target.from,
            to: target.to,
            to_scale: to_scale.pointer(),
            to_shift: to_shift.pointer(),
        };
        // SAFETY: every channel writes to itself, and all are written.
        unsafe {
            let work = planes.images * planes.channels * planes.places;
            each(planes.channels, work, &body);
            vec![
                Some(target.finish()),
                wanted[1].then(|| to_scale.finish()),
                wanted[2].then(|| to_shift.finish()),
                None,
            ]
        }
    }
}

struct Forward<'a> {
    planes: Planes,
    activation: Activation,
    means: &'a [f32],
    inverses: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    from: Pointer,
    to: Pointer,
    slope: Option<Pointer>,
}

impl Body for Forward<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let activation = self.activation;
        for plane in range {
            let channel = plane % self.planes.channels;
            let mean = simd.splat_f32s(self.means[channel]);
            let scale = simd.splat_f32s(self.scale[channel] * self.inverses[channel]);
            let shift = simd.splat_f32s(self.shift[channel]);
            // SAFETY: the plane is within the arrays and belongs to this task.
            unsafe {
                let start = plane * self.planes.places;
                let (from, to) = (self.from.at(start), self.to.at(start));
                let slope = self.slope.map(|slope| slope.at(start));
                parts(
                    simd,
                    self.planes.places,
                    #[inline(always)]
                    |part| {
                        let centred = simd.sub_f32s(part.load(simd, from), mean);
                        let normal = simd.mul_add_f32s(centred, scale, shift);
                        let y = match slope {
                            None => activation.value(simd, normal),
                            Some(to) => {
                                let (y, slope) = activation.value_and_slope(simd, normal);
                                part.store(simd, to, slope);
                                y
                            }
                        };
                        part.store(simd, to, y);
                    },
                );
            }
        }
    }
}

struct Back<'a> {
    planes: Planes,
    activation: Activation,
    means: &'a [f32],
    inverses: &'a [f32],
    scale: &'a [f32],
    x: Pointer,
    kept: Option<Pointer>,
    gradient: Pointer,
    to: Pointer,
    to_scale: Pointer,
    to_shift: Pointer,
}

impl Body for Back<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let Planes { images, places, .. } = self.planes;
        for channel in range {
            let mean = simd.splat_f32s(self.means[channel]);
            let inverse = self.inverses[channel];
            let (mut sum, mut aligned) = (0.0, 0.0);
            for image in 0..images {
                let start = self.planes.start(image, channel);
                // SAFETY: the plane is within the arrays and belongs to this task.
                unsafe {
                    let (gradient, to) = (self.gradient.at(start), self.to.at(start));
                    let x = self.x.at(start).cast_const();
                    let kept = self.kept.map(|kept| kept.at(start));
                    let [sum_of_plane, aligned_of_plane] = sums(
                        simd,
                        places,
                        #[inline(always)]
                        |[sum, aligned], part: Part| {
                            let mut gradient = part.load(simd, gradient);
                            if let Some(kept) = kept {
                                let kept = part.load(simd, kept);
                                gradient = self.activation.times_slope(simd, gradient, kept);
                                part.store(simd, to, gradient);
                            }
                            // Zero in lanes without values, because the gradient is.
                            let centred = simd.sub_f32s(part.load(simd, x), mean);
                            [simd.add_f32s(sum, gradient), simd.mul_add_f32s(gradient, centred, aligned)]
                        },
                    );
                    sum += f64::from(sum_of_plane);
                    aligned += f64::from(aligned_of_plane);
                }
            }
            let aligned = aligned * f64::from(inverse);
            let count = (images * places) as f64;
            let factor = f64::from(inverse) * f64::from(self.scale[channel]);
            // factor · (gradient − sum/count − (x − mean)·inverse·aligned/count).
            let of_x = simd.splat_f32s((-factor * aligned / count * f64::from(inverse)) as f32);
            let constant = simd.splat_f32s((-factor * sum / count) as f32);
            let factor = simd.splat_f32s(factor as f32);
            // SAFETY: the channel is within the arrays and belongs to this task.
            unsafe {
                *self.to_scale.at(channel) = aligned as f32;
                *self.to_shift.at(channel) = sum as f32;
                for image in 0..images {
                    let start = self.planes.start(image, channel);
                    let to = self.to.at(start);
                    let gradient = match self.kept {
                        Some(_) => to,
                        None => self.gradient.at(start),
                    };
                    let x = self.x.at(start).cast_const();
                    parts(
                        simd,
                        places,
                        #[inline(always)]
                        |part| {
                            let centred = simd.sub_f32s(part.load(simd, x), mean);
                            let rest = simd.mul_add_f32s(centred, of_x, constant);
                            let gradient = part.load(simd, gradient);
                            part.store(simd, to, simd.mul_add_f32s(gradient, factor, rest));
                        },
                    );
                }
            }
        }
    }
}
