//! Softmax over the last axis, and the cross entropy after one.

use std::ops::Range;

use pulp::Simd;

use crate::array::{Array, Pointer};
use crate::operation::{Operation, Saved};
use crate::simd::exp;
use crate::vectors::{Body, Part, Target, largest, over, parts, sums};

/// eˣ / Σ eˣ over the last axis of an array of any shape.
#[derive(Debug, Clone, Copy)]
pub struct Softmax;

impl Operation for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn forward(&self, mut inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let x = inputs.remove(0);
        let [rows, columns] = rows(&x);
        let target = Target::over(x);
        let body = Forward { columns, from: target.from, to: target.to };
        // SAFETY: every row writes to itself, and all are written.
        let y = unsafe {
            over(rows, columns, &body);
            target.finish()
        };
        let saved = if keep { vec![y.clone()] } else { vec![] };
        (y, saved)
    }

    fn backward(&self, gradient: Array, saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        let y = &saved[0];
        let [rows, columns] = rows(y);
        let target = Target::over(gradient);
        let body = Back { columns, gradient: target.from, to: target.to, y: Pointer::reading(y.values()) };
        // SAFETY: as above.
        unsafe {
            over(rows, columns, &body);
            vec![Some(target.finish())]
        }
    }
}

fn rows(x: &Array) -> [usize; 2] {
    let columns = x.shape().last().copied().unwrap_or(1);
    [x.values().len() / columns.max(1), columns]
}

/// e^(x − max) of a row to `to`, which may be `from`; gives the largest value and the sum.
///
/// # Safety
/// `len` values must exist at both places, and `to` be free to write.
#[inline(always)]
pub(crate) unsafe fn exponentials<S: Simd>(simd: S, len: usize, from: *const f32, to: *mut f32) -> (f32, f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let largest = largest(simd, len, from);
        let shift = simd.splat_f32s(largest);
        let [sum] = sums(
            simd,
            len,
            #[inline(always)]
            |[sum], part: Part| {
                let values = exp(simd, simd.sub_f32s(part.load(simd, from), shift));
                part.store(simd, to, values);
                [simd.add_f32s(sum, part.only(simd, values, 0.0))]
            },
        );
        (largest, sum)
    }
}

struct Forward {
    columns: usize,
    from: Pointer,
    to: Pointer,
}

impl Body for Forward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        for row in range {
            // SAFETY: the row is within the arrays and belongs to this task.
            unsafe {
                let from = self.from.at(row * self.columns);
                let to = self.to.at(row * self.columns);
                let (_, sum) = exponentials(simd, self.columns, from, to);
                let inverse = simd.splat_f32s(1.0 / sum);
                parts(
                    simd,
                    self.columns,
                    #[inline(always)]
                    |part| part.store(simd, to, simd.mul_f32s(part.load(simd, to), inverse)),
                );
            }
        }
    }
}

struct Back {
    columns: usize,
    gradient: Pointer,
    to: Pointer,
    y: Pointer,
}

impl Body for Back {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        for row in range {
            // SAFETY: the row is within the arrays and belongs to this task.
            unsafe {
                let gradient = self.gradient.at(row * self.columns).cast_const();
                let to = self.to.at(row * self.columns);
                let y = self.y.at(row * self.columns).cast_const();
                let [mean] = sums(
                    simd,
                    self.columns,
                    #[inline(always)]
                    |[sum], part: Part| {
                        let gradient = part.load(simd, gradient);
                        [simd.mul_add_f32s(gradient, part.load(simd, y), sum)]
                    },
                );
                let mean = simd.splat_f32s(mean);
                parts(
                    simd,
                    self.columns,
                    #[inline(always)]
                    |part| {
                        let centred = simd.sub_f32s(part.load(simd, gradient), mean);
                        part.store(simd, to, simd.mul_f32s(centred, part.load(simd, y)));
                    },
                );
            }
        }
    }
}

/// −ln softmax(logits)[label] of each image: logits `[batch, class]` to losses `[batch]`.
#[derive(Debug, Clone)]
pub struct CrossEntropy {
    /// The class of each image.
    pub labels: Vec<usize>,
}

impl Operation for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross entropy"
    }

    fn forward(&self, mut inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let logits = inputs.remove(0);
        let [batch, classes] = logits.dims();
        assert_eq!(batch, self.labels.len(), "one label per image");
        let within = self.labels.iter().all(|&label| label < classes);
        assert!(within, "every label is one of {classes} classes");
        let chosen = std::iter::zip(logits.values().chunks(classes), &self.labels);
        let mut losses: Vec<f32> = chosen.map(|(row, &label)| -row[label]).collect();
        let target = Target::over(logits);
        let body = Losses { classes, from: target.from, to: target.to, losses: Pointer::to(&mut losses), keep };
        // SAFETY: every row writes to itself, and all are written.
        let probabilities = unsafe {
            over(batch, classes, &body);
            target.finish()
        };
        let saved = if keep { vec![probabilities] } else { vec![] };
        (Array::from_vec(losses, &[batch]), saved)
    }

    fn backward(&self, gradient: Array, mut saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        let probabilities = saved.remove(0);
        let [batch, classes] = probabilities.dims();
        let target = Target::over(probabilities);
        let body =
            LossesBack { classes, labels: &self.labels, gradient: gradient.values(), from: target.from, to: target.to };
        // SAFETY: as above.
        unsafe {
            over(batch, classes, &body);
            vec![Some(target.finish())]
        }
    }
}

struct Losses {
    classes: usize,
    from: Pointer,
    /// Where the probabilities go.
    to: Pointer,
    /// Holds minus the label's logit, and then the loss.
    losses: Pointer,
    keep: bool,
}

impl Body for Losses {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        for row in range {
            // SAFETY: the row is within the arrays and belongs to this task.
            unsafe {
                let from = self.from.at(row * self.classes);
                let to = self.to.at(row * self.classes);
                let (largest, sum) = exponentials(simd, self.classes, from, to);
                // In this order the large numbers cancel before the small one is added.
                let loss = self.losses.at(row);
                *loss = (*loss + largest) + sum.ln();
                if self.keep {
                    let inverse = simd.splat_f32s(1.0 / sum);
                    parts(
                        simd,
                        self.classes,
                        #[inline(always)]
                        |part| part.store(simd, to, simd.mul_f32s(part.load(simd, to), inverse)),
                    );
                }
            }
        }
    }
}

struct LossesBack<'a> {
    classes: usize,
    labels: &'a [usize],
    gradient: &'a [f32],
    from: Pointer,
    to: Pointer,
}

impl Body for LossesBack<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        for row in range {
            // SAFETY: the row is within the arrays and belongs to this task.
            unsafe {
                let from = self.from.at(row * self.classes).cast_const();
                let to = self.to.at(row * self.classes);
                let gradient = simd.splat_f32s(self.gradient[row]);
                // Of the one that is subtracted, before its place may be overwritten.
                let label = self.labels[row];
                let at_label = (*from.add(label) - 1.0) * self.gradient[row];
                parts(
                    simd,
                    self.classes,
                    #[inline(always)]
                    |part| part.store(simd, to, simd.mul_f32s(part.load(simd, from), gradient)),
                );
                *to.add(label) = at_label;
            }
        }
    }
}
