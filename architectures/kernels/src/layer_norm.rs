//! Layer normalisation (Ba et al. 2016) over the last axis.

use std::ops::Range;

use pulp::Simd;

use crate::array::{Array, Output, Pointer};
use crate::operation::{Operation, Saved};
use crate::vectors::{BLOCK, Body, Part, Partial, Target, each, moments, over, parts, sums};

/// (x − mean) / √(variance + epsilon) · scale + shift over the last axis.
///
/// Inputs: x of any shape, scale and shift `[channel]` of the last axis' size. Gradients flow to all three.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// Added to the variance.
    pub epsilon: f64,
}

impl Operation for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let [x, scale, shift] = three(inputs);
        let columns = scale.values().len();
        assert_eq!(x.shape().last(), Some(&columns), "layer norm over the last axis");
        let rows = x.values().len() / columns.max(1);
        let kept = keep.then(|| x.clone());
        let mut statistics = keep.then(|| Output::new(&[rows, 2]));
        let target = Target::over(x);
        let body = RowsForward {
            epsilon: self.epsilon as f32,
            columns,
            from: target.from,
            to: target.to,
            scale: Pointer::reading(scale.values()),
            shift: Pointer::reading(shift.values()),
            statistics: statistics.as_mut().map(Output::pointer),
        };
        // SAFETY: every row writes to itself, and all are written.
        unsafe {
            over(rows, columns, &body);
            let saved = match (kept, statistics) {
                (Some(x), Some(statistics)) => vec![x, scale, statistics.finish()],
                _ => vec![],
            };
            (target.finish(), saved)
        }
    }

    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let [x, scale, statistics] = three(saved);
        let columns = scale.values().len();
        let rows = x.values().len() / columns.max(1);
        let block = (BLOCK / columns.max(1)).max(1);
        let blocks = rows.div_ceil(block);
        let parameters = wanted[1] || wanted[2];
        let mut partial = parameters.then(|| Partial::new(blocks, 2 * columns));
        let target = Target::over(gradient);
        let body = RowsBackward {
            rows,
            columns,
            block,
            gradient: target.from,
            to: target.to,
            x: Pointer::reading(x.values()),
            scale: Pointer::reading(scale.values()),
            statistics: Pointer::reading(statistics.values()),
            partial: partial.as_mut().map(Partial::pointer),
        };
        // SAFETY: every block writes to its own rows and sums, and all rows are written.
        let gradient = unsafe {
            each(blocks, rows * columns, &body);
            target.finish()
        };
        let [to_scale, to_shift] = parameter_gradients(partial, scale.shape(), wanted);
        vec![Some(gradient), to_scale, to_shift]
    }
}

pub(crate) fn three(arrays: Vec<Array>) -> [Array; 3] {
    arrays.try_into().expect("three arrays")
}

/// Gradients to scale and shift from sums `[scale … shift …]`.
pub(crate) fn parameter_gradients(partial: Option<Partial>, shape: &[usize], wanted: &[bool]) -> [Option<Array>; 2] {
    let Some(partial) = partial else {
        return [None, None];
    };
    let mut to_scale = partial.total();
    let to_shift = to_scale.split_off(to_scale.len() / 2);
    [wanted[1].then(|| Array::from_vec(to_scale, shape)), wanted[2].then(|| Array::from_vec(to_shift, shape))]
}

struct RowsForward {
    epsilon: f32,
    columns: usize,
    from: Pointer,
    to: Pointer,
    scale: Pointer,
    shift: Pointer,
    statistics: Option<Pointer>,
}

impl Body for RowsForward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let columns = self.columns;
        let count = columns as f32;
        for row in range {
            // SAFETY: the row is within the arrays and belongs to this task.
            unsafe {
                let from = self.from.at(row * columns).cast_const();
                let to = self.to.at(row * columns);
                let (mean, squares) = moments(simd, columns, from);
                let mean_lanes = simd.splat_f32s(mean);
                let inverse = 1.0 / (squares / count + self.epsilon).sqrt();
                let inverse_lanes = simd.splat_f32s(inverse);
                let scale = self.scale.at(0).cast_const();
                let shift = self.shift.at(0).cast_const();
                parts(
                    simd,
                    columns,
                    #[inline(always)]
                    |part| {
                        let centred = simd.sub_f32s(part.load(simd, from), mean_lanes);
                        let normal = simd.mul_f32s(centred, inverse_lanes);
                        let (scale, shift) = (part.load(simd, scale), part.load(simd, shift));
                        part.store(simd, to, simd.mul_add_f32s(normal, scale, shift));
                    },
                );
                if let Some(statistics) = self.statistics {
                    *statistics.at(2 * row) = mean;
                    *statistics.at(2 * row + 1) = inverse;
                }
            }
        }
    }
}

struct RowsBackward {
    rows: usize,
    columns: usize,
    /// Rows in a block.
    block: usize,
    gradient: Pointer,
    to: Pointer,
    x: Pointer,
    scale: Pointer,
    statistics: Pointer,
    partial: Option<Pointer>,
}

impl Body for RowsBackward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let columns = self.columns;
        let per_column = simd.splat_f32s(1.0 / columns as f32);
        for block in range {
            for row in block * self.block..((block + 1) * self.block).min(self.rows) {
                // SAFETY: the row is within the arrays and belongs to this task.
                unsafe {
                    let gradient = self.gradient.at(row * columns).cast_const();
                    let to = self.to.at(row * columns);
                    let x = self.x.at(row * columns).cast_const();
                    let scale = self.scale.at(0).cast_const();
                    let mean = simd.splat_f32s(*self.statistics.at(2 * row));
                    let inverse = simd.splat_f32s(*self.statistics.at(2 * row + 1));
                    let [sum, aligned] = sums(
                        simd,
                        columns,
                        #[inline(always)]
                        |[sum, aligned], part: Part| {
                            // Zero in lanes without values, because the gradient is.
                            let scaled = simd.mul_f32s(part.load(simd, gradient), part.load(simd, scale));
                            let centred = simd.sub_f32s(part.load(simd, x), mean);
                            [simd.add_f32s(sum, scaled), simd.mul_add_f32s(scaled, centred, aligned)]
                        },
                    );
                    let sum = simd.mul_f32s(simd.splat_f32s(sum), per_column);
                    let aligned = simd.mul_f32s(simd.splat_f32s(aligned), per_column);
                    let aligned = simd.mul_f32s(aligned, inverse);
                    parts(
                        simd,
                        columns,
                        #[inline(always)]
                        |part| {
                            let gradient = part.load(simd, gradient);
                            let centred = simd.sub_f32s(part.load(simd, x), mean);
                            let normal = simd.mul_f32s(centred, inverse);
                            if let Some(partial) = self.partial {
                                let to_scale = partial.at(block * 2 * columns);
                                let to_shift = partial.at((block * 2 + 1) * columns);
                                let so_far = part.load(simd, to_scale);
                                let now = simd.mul_add_f32s(gradient, normal, so_far);
                                part.store(simd, to_scale, now);
                                let now = simd.add_f32s(part.load(simd, to_shift), gradient);
                                part.store(simd, to_shift, now);
                            }
                            let scaled = simd.mul_f32s(gradient, part.load(simd, scale));
                            let rest = simd.sub_f32s(scaled, sum);
                            let rest = simd.negate_mul_add_f32s(normal, aligned, rest);
                            part.store(simd, to, simd.mul_f32s(rest, inverse));
                        },
                    );
                }
            }
        }
    }
}
