//! Sums, products, scales per channel and means, value by value.

use std::ops::Range;

use pulp::Simd;

use crate::activation::{Activation, Kept, times_slope};
use crate::array::{Array, Output, Pointer};
use crate::operation::{Operation, Saved};
use crate::vectors::{BLOCK, Body, Part, Partial, Target, each, over, parts, sums};

/// x · scale + shift with one scale and shift per channel.
///
/// Inputs: x of any shape; scale and, if there is one, shift, with as many values as the axis. Gradients flow to x and, if
/// it is `trainable`, to scale and shift.
#[derive(Debug, Clone, Copy)]
pub struct Affine {
    /// The axis of the channels.
    pub axis: usize,
    /// Whether scale and shift want gradients, for which x is kept.
    pub trainable: bool,
}

impl Operation for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn forward(&self, mut inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let x = inputs.remove(0);
        let layout = Layout::new(&x, self.axis);
        let fits = |input: &Array| input.values().len() == layout.channels;
        assert!(inputs.iter().all(fits), "one scale and shift for each of {} channels", layout.channels);
        let kept = (keep && self.trainable).then(|| x.clone());
        let target = Target::over(x);
        let body = Scaled {
            layout,
            from: target.from,
            to: target.to,
            scale: Pointer::reading(inputs[0].values()),
            shift: inputs.get(1).map(|shift| Pointer::reading(shift.values())),
        };
        // SAFETY: every row writes to itself, and all are written.
        let y = unsafe {
            over(layout.rows(), layout.row(), &body);
            target.finish()
        };
        if !keep {
            return (y, vec![]);
        }
        inputs.extend(kept);
        (y, inputs)
    }

    fn backward(&self, gradient: Array, mut saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let layout = Layout::new(&gradient, self.axis);
        let parameters = wanted[1..].contains(&true);
        let mut results = vec![None; wanted.len()];
        if parameters {
            assert!(self.trainable, "an affine map that is not trainable has no gradients to its scale");
            let x = saved.pop().expect("kept for training");
            let sums = layout.parameter_gradients(&gradient, &x);
            for ((result, sums), parameter) in results[1..].iter_mut().zip(sums).zip(&saved) {
                *result = Some(Array::from_vec(sums, parameter.shape()));
            }
            for (result, wanted) in results.iter_mut().zip(wanted) {
                if !wanted {
                    *result = None;
                }
            }
        }
        if wanted[0] {
            let target = Target::over(gradient);
            let body = Scaled {
                layout,
                from: target.from,
                to: target.to,
                scale: Pointer::reading(saved[0].values()),
                shift: None,
            };
            // SAFETY: as in the forward pass.
            results[0] = Some(unsafe {
                over(layout.rows(), layout.row(), &body);
                target.finish()
            });
        }
        results
    }
}

/// `[outer, channel, inner]`.
#[derive(Debug, Clone, Copy)]
struct Layout {
    outer: usize,
    channels: usize,
    inner: usize,
}

impl Layout {
    fn new(x: &Array, axis: usize) -> Self {
        let shape = x.shape();
        assert!(axis < shape.len(), "axis {axis} of an array of shape {shape:?}");
        Self { outer: shape[..axis].iter().product(), channels: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    /// Whether a row of neighbouring values has all channels, or only one.
    #[inline(always)]
    fn is_last(&self) -> bool {
        self.inner == 1
    }

    /// Values of a row.
    #[inline(always)]
    fn row(&self) -> usize {
        if self.is_last() { self.channels } else { self.inner }
    }

    fn rows(&self) -> usize {
        if self.is_last() { self.outer } else { self.outer * self.channels }
    }

    /// The sums of gradient · x and of the gradient for each channel.
    fn parameter_gradients(&self, gradient: &Array, x: &Array) -> [Vec<f32>; 2] {
        // One sum for every row of a single channel, else for a block of rows.
        let block = if self.is_last() { (BLOCK / self.channels.max(1)).max(1) } else { self.channels };
        let blocks = self.rows().div_ceil(block.max(1));
        let mut partial = Partial::new(blocks, 2 * self.channels);
        let body = ChannelSums {
            layout: *self,
            block,
            gradient: Pointer::reading(gradient.values()),
            x: Pointer::reading(x.values()),
            to: partial.pointer(),
        };
        // SAFETY: every block writes to its own sums.
        unsafe { each(blocks, self.rows() * self.row(), &body) };
        let mut first = partial.total();
        let second = first.split_off(self.channels);
        [first, second]
    }
}

struct Scaled {
    layout: Layout,
    from: Pointer,
    to: Pointer,
    scale: Pointer,
    shift: Option<Pointer>,
}

impl Body for Scaled {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let zero = simd.splat_f32s(0.0);
        let len = self.layout.row();
        for row in range {
            // SAFETY: the row is within the arrays and belongs to this task.
            unsafe {
                let (from, to) = (self.from.at(row * len), self.to.at(row * len));
                if self.layout.is_last() {
                    let scale = self.scale.at(0);
                    let shift = self.shift.map(|shift| shift.at(0));
                    parts(
                        simd,
                        len,
                        #[inline(always)]
                        |part| {
                            let (x, scale) = (part.load(simd, from), part.load(simd, scale));
                            let y = match shift {
                                Some(shift) => simd.mul_add_f32s(x, scale, part.load(simd, shift)),
                                None => simd.mul_f32s(x, scale),
                            };
                            part.store(simd, to, y);
                        },
                    );
                } else {
                    let channel = row % self.layout.channels;
                    let scale = simd.splat_f32s(*self.scale.at(channel));
                    let shift = self.shift.map(|shift| simd.splat_f32s(*shift.at(channel)));
                    let shift = shift.unwrap_or(zero);
                    parts(
                        simd,
                        len,
                        #[inline(always)]
                        |part| {
                            let x = part.load(simd, from);
                            part.store(simd, to, simd.mul_add_f32s(x, scale, shift));
                        },
                    );
                }
            }
        }
    }
}

struct ChannelSums {
    layout: Layout,
    /// Rows of a block.
    block: usize,
    gradient: Pointer,
    x: Pointer,
    to: Pointer,
}

impl Body for ChannelSums {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let Layout { channels, .. } = self.layout;
        let len = self.layout.row();
        for block in range {
            let rows = block * self.block..((block + 1) * self.block).min(self.layout.rows());
            for row in rows {
                // SAFETY: the row is within the arrays, and the block's sums belong to this task.
                unsafe {
                    let gradient = self.gradient.at(row * len).cast_const();
                    let x = self.x.at(row * len).cast_const();
                    let first = self.to.at(2 * block * channels);
                    let second = first.add(channels);
                    if self.layout.is_last() {
                        parts(
                            simd,
                            len,
                            #[inline(always)]
                            |part| {
                                let gradient = part.load(simd, gradient);
                                let so_far = part.load(simd, first);
                                let sum = simd.mul_add_f32s(gradient, part.load(simd, x), so_far);
                                part.store(simd, first, sum);
                                let sum = simd.add_f32s(gradient, part.load(simd, second));
                                part.store(simd, second, sum);
                            },
                        );
                    } else {
                        let channel = row % channels;
                        let [aligned, sum] = sums(
                            simd,
                            len,
                            #[inline(always)]
                            |[aligned, sum], part: Part| {
                                let gradient = part.load(simd, gradient);
                                [simd.mul_add_f32s(gradient, part.load(simd, x), aligned), simd.add_f32s(gradient, sum)]
                            },
                        );
                        *first.add(channel) = aligned;
                        *second.add(channel) = sum;
                    }
                }
            }
        }
    }
}

/// act(x + y) of two arrays of one shape; both gradients are one array.
#[derive(Debug, Clone, Copy)]
pub struct Add {
    /// What follows the sum.
    pub activation: Activation,
}

impl Operation for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let [mut x, mut y] = two(inputs);
        if x.unique_values().is_none() {
            std::mem::swap(&mut x, &mut y);
        }
        let kept = if keep { self.activation.kept() } else { Kept::Nothing };
        let mut slope = (kept == Kept::Slope).then(|| Output::new(x.shape()));
        let len = x.values().len();
        let target = Target::over(x);
        let body = Sum {
            activation: self.activation,
            x: target.from,
            y: Pointer::reading(y.values()),
            to: target.to,
            slope: slope.as_mut().map(Output::pointer),
        };
        // SAFETY: every value writes to itself, and all are written.
        unsafe {
            over(len, 1, &body);
            let sum = target.finish();
            let saved = match (kept, slope) {
                (Kept::Output, _) => vec![sum.clone()],
                (_, Some(slope)) => vec![slope.finish()],
                _ => vec![],
            };
            (sum, saved)
        }
    }

    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let gradient = times_slope(self.activation, gradient, saved.first());
        wanted.iter().map(|&wanted| wanted.then(|| gradient.clone())).collect()
    }
}

fn two(inputs: Vec<Array>) -> [Array; 2] {
    let [x, y] = inputs.try_into().expect("two arrays");
    assert_eq!(x.shape(), y.shape(), "both of one shape");
    [x, y]
}

struct Sum {
    activation: Activation,
    x: Pointer,
    y: Pointer,
    to: Pointer,
    slope: Option<Pointer>,
}

impl Body for Sum {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        // SAFETY: the range is within the arrays and belongs to this task.
        unsafe {
            let (x, y) = (self.x.at(range.start), self.y.at(range.start));
            let to = self.to.at(range.start);
            let slope = self.slope.map(|slope| slope.at(range.start));
            parts(
                simd,
                range.len(),
                #[inline(always)]
                |part| {
                    let sum = simd.add_f32s(part.load(simd, x), part.load(simd, y));
                    let value = match slope {
                        None => self.activation.value(simd, sum),
                        Some(to) => {
                            let (value, slope) = self.activation.value_and_slope(simd, sum);
                            part.store(simd, to, slope);
                            value
                        }
                    };
                    part.store(simd, to, value);
                },
            );
        }
    }
}

/// x · y, value by value, of two arrays of one shape.
#[derive(Debug, Clone, Copy)]
pub struct Multiply;

impl Operation for Multiply {
    fn name(&self) -> &'static str {
        "multiply"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let saved = if keep { inputs.clone() } else { vec![] };
        let [mut x, mut y] = two(inputs);
        if x.unique_values().is_none() {
            std::mem::swap(&mut x, &mut y);
        }
        (product(x, &y), saved)
    }

    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let [x, y] = two(saved);
        if !(wanted[0] && wanted[1]) {
            let to_x = wanted[0].then_some(&y);
            let to_y = wanted[1].then_some(&x);
            return [to_x, to_y].map(|factor| factor.map(|factor| product(gradient.clone(), factor))).into();
        }
        let len = gradient.values().len();
        let mut to_y = Output::new(y.shape());
        let target = Target::over(gradient);
        let body = Products {
            gradient: target.from,
            x: Pointer::reading(x.values()),
            y: Pointer::reading(y.values()),
            to_x: target.to,
            to_y: to_y.pointer(),
        };
        // SAFETY: every value writes to itself, and all are written.
        let (to_x, to_y) = unsafe {
            over(len, 1, &body);
            (Some(target.finish()), Some(to_y.finish()))
        };
        vec![to_x, to_y]
    }
}

/// The product, in place of the first if nobody else holds it.
fn product(x: Array, y: &Array) -> Array {
    let len = x.values().len();
    let target = Target::over(x);
    let body = Product { x: target.from, y: Pointer::reading(y.values()), to: target.to };
    // SAFETY: every value writes to itself, and all are written.
    unsafe {
        over(len, 1, &body);
        target.finish()
    }
}

struct Product {
    x: Pointer,
    y: Pointer,
    to: Pointer,
}

impl Body for Product {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        // SAFETY: the range is within the arrays and belongs to this task.
        unsafe {
            let (x, y) = (self.x.at(range.start), self.y.at(range.start));
            let to = self.to.at(range.start);
            parts(
                simd,
                range.len(),
                #[inline(always)]
                |part| {
                    let value = simd.mul_f32s(part.load(simd, x), part.load(simd, y));
                    part.store(simd, to, value);
                },
            );
        }
    }
}

/// gradient · y and gradient · x.
struct Products {
    gradient: Pointer,
    x: Pointer,
    y: Pointer,
    to_x: Pointer,
    to_y: Pointer,
}

impl Body for Products {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        // SAFETY: the range is within the arrays and belongs to this task.
        unsafe {
            let gradient = self.gradient.at(range.start);
            let (x, y) = (self.x.at(range.start), self.y.at(range.start));
            let (to_x, to_y) = (self.to_x.at(range.start), self.to_y.at(range.start));
            parts(
                simd,
                range.len(),
                #[inline(always)]
                |part| {
                    let gradient = part.load(simd, gradient);
                    let (x, y) = (part.load(simd, x), part.load(simd, y));
                    part.store(simd, to_x, simd.mul_f32s(gradient, y));
                    part.store(simd, to_y, simd.mul_f32s(gradient, x));
                },
            );
        }
    }
}

/// The mean over the tokens: `[batch, token, channel]` to `[batch, channel]`.
#[derive(Debug, Clone, Copy)]
pub struct MeanTokens {
    /// How many tokens there are.
    pub tokens: usize,
}

impl Operation for MeanTokens {
    fn name(&self) -> &'static str {
        "mean over tokens"
    }

    fn forward(&self, inputs: Vec<Array>, _keep: bool) -> (Array, Saved) {
        let x = &inputs[0];
        let [batch, tokens, channels] = x.dims();
        assert_eq!(tokens, self.tokens, "as many tokens as were announced");
        let mut output = Output::new(&[batch, channels]);
        let body = Means { tokens, channels, x: Pointer::reading(x.values()), to: output.pointer() };
        // SAFETY: every task writes its own channels of an image, and all are written.
        unsafe {
            let tasks = batch * channels.div_ceil(MEANS);
            each(tasks, x.values().len(), &body);
            (output.finish(), vec![])
        }
    }

    fn backward(&self, gradient: Array, _saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        let [batch, channels] = gradient.dims();
        let mut output = Output::new(&[batch, self.tokens, channels]);
        let body = MeansBack {
            tokens: self.tokens,
            channels,
            gradient: Pointer::reading(gradient.values()),
            to: output.pointer(),
        };
        // SAFETY: every token writes to itself, and all are written.
        unsafe {
            over(batch * self.tokens, channels, &body);
            vec![Some(output.finish())]
        }
    }
}

/// Channels of a task: eight cache lines.
const MEANS: usize = 128;

struct Means {
    tokens: usize,
    channels: usize,
    x: Pointer,
    to: Pointer,
}

impl Body for Means {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let Self { tokens, channels, .. } = *self;
        let per_token = simd.splat_f32s(1.0 / tokens as f32);
        let per_image = channels.div_ceil(MEANS);
        for task in range {
            let (image, first) = (task / per_image, task % per_image * MEANS);
            let len = MEANS.min(channels - first);
            // SAFETY: the channels are within the arrays and belong to this task.
            unsafe {
                let x = self.x.at(image * tokens * channels + first);
                let to = self.to.at(image * channels + first);
                let lanes = S::F32_LANES;
                let mut index = 0;
                // As many chains as hide an addition's delay.
                while index + 8 * lanes <= len {
                    let mut sums = [simd.splat_f32s(0.0); 8];
                    for token in 0..tokens {
                        let x = x.add(token * channels + index);
                        for (number, sum) in sums.iter_mut().enumerate() {
                            let whole = Part { index: number * lanes, count: lanes };
                            *sum = simd.add_f32s(*sum, whole.load(simd, x));
                        }
                    }
                    for (number, &sum) in sums.iter().enumerate() {
                        let whole = Part { index: number * lanes, count: lanes };
                        whole.store(simd, to.add(index), simd.mul_f32s(sum, per_token));
                    }
                    index += 8 * lanes;
                }
                parts(
                    simd,
                    len - index,
                    #[inline(always)]
                    |part| {
                        let mut sum = simd.splat_f32s(0.0);
                        for token in 0..tokens {
                            let x = x.add(token * channels + index);
                            sum = simd.add_f32s(sum, part.load(simd, x));
                        }
                        part.store(simd, to.add(index), simd.mul_f32s(sum, per_token));
                    },
                );
            }
        }
    }
}

struct MeansBack {
    tokens: usize,
    channels: usize,
    gradient: Pointer,
    to: Pointer,
}

impl Body for MeansBack {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let per_token = simd.splat_f32s(1.0 / self.tokens as f32);
        for token in range {
            // SAFETY: the token is within the array and belongs to this task.
            unsafe {
                let gradient = self.gradient.at(token / self.tokens * self.channels);
                let to = self.to.at(token * self.channels);
                parts(
                    simd,
                    self.channels,
                    #[inline(always)]
                    |part| {
                        let gradient = part.load(simd, gradient);
                        part.store(simd, to, simd.mul_f32s(gradient, per_token));
                    },
                );
            }
        }
    }
}
