//! Linear maps of the last axis, with what follows them in the same pass: bias, activation, channel scale, residual.

use std::sync::Arc;

use pulp::{Simd, WithSimd};

use crate::activation::{Activation, Kept, times_slope};
use crate::array::{Array, Output, Pointer};
use crate::bf16::{self, Unit};
use crate::gemm::{self, Left, RightPanels};
use crate::operation::{Cache, Operation, Saved};
use crate::products::Products;
use crate::{parallel, simd};

/// act(x·Wᵀ + bias)·scale + residual over the last axis.
///
/// Inputs in this order: x `[…, input]`; the weights `[output, input]`; the bias `[output]`, the scale `[output]` and the
/// residual, of the output's shape, each if there is one.
///
/// Gradients flow to x and to the residual, and, if it is `trainable` (then without scale), to weights and bias.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Whether there is a bias.
    pub bias: bool,
    /// What comes behind the bias.
    pub activation: Activation,
    /// Whether each output channel is scaled behind the activation.
    pub scale: bool,
    /// Whether something is added at the end.
    pub residual: bool,
    /// Whether the weights want gradients; if not, what is made of them is kept in `cache`.
    pub trainable: bool,
    /// How x or its gradient is multiplied with the weights; the product that is the gradient to the weights is f32.
    pub products: Products,
    /// Belongs to the layer.
    pub cache: Cache,
}

/// The inputs by their names.
struct Inputs {
    x: Array,
    weight: Array,
    bias: Option<Array>,
    scale: Option<Array>,
    residual: Option<Array>,
}

impl Linear {
    fn sort(&self, inputs: Vec<Array>) -> Inputs {
        let mut inputs = inputs.into_iter();
        let mut next = |there: bool| there.then(|| inputs.next().expect("an input for each part"));
        Inputs {
            x: next(true).expect("x"),
            weight: next(true).expect("weights"),
            bias: next(self.bias),
            scale: next(self.scale),
            residual: next(self.residual),
        }
    }

    /// Packed weights: made once, or at every call while they change. `make` packs them as f32, and `value` gives the element of
    /// (depth, column).
    fn packed(
        &self,
        [purpose, rounded_purpose]: [&'static str; 2],
        sources: &[&Array],
        [depth, columns]: [usize; 2],
        make: impl FnOnce() -> RightPanels,
        value: impl Fn(usize, usize) -> f32 + Sync,
    ) -> Right {
        let Some(unit) = self.products.unit() else {
            return Right::F32(if self.trainable { Arc::new(make()) } else { self.cache.get(purpose, sources, make) });
        };
        let make = || bf16::RightPanels::new(unit, depth, columns, value);
        let panels = if self.trainable { Arc::new(make()) } else { self.cache.get(rounded_purpose, sources, make) };
        Right::Bf16(unit, panels)
    }
}

impl Operation for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn multiplies(&self) -> bool {
        true
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let Inputs { x, weight, bias, scale, residual } = self.sort(inputs);
        let [outputs, depth] = weight.dims();
        let rows = x.values().len() / depth;
        let values = weight.values();
        let right = self.packed(
            ["forward", "forward in bf16"],
            &[&weight],
            [depth, outputs],
            || RightPanels::pack(values, depth, outputs, 1, depth),
            |k, column| values[column * depth + k],
        );
        let mut shape = x.shape().to_vec();
        *shape.last_mut().expect("at least one axis") = outputs;
        let mut output = Output::new(&shape);
        let kept = if keep { self.activation.kept() } else { Kept::Nothing };
        // With a scale behind it, the activation's own output is not there to tell the slope.
        let kept_slope = kept == Kept::Slope || (kept == Kept::Output && self.scale);
        let mut slope = kept_slope.then(|| Output::new(&shape));
        let product = Product {
            rows,
            left: x.values(),
            right: right.borrowed(),
            to: output.pointer(),
            bias: bias.as_ref().map(Array::values),
            scale: scale.as_ref().map(Array::values),
            residual: residual.as_ref().map(Array::values),
            activation: self.activation,
            slope: slope.as_mut().map(Output::pointer),
        };
        multiply(product, [depth, 1]);
        // SAFETY: the product writes every element.
        let (y, slope) = unsafe { (output.finish(), slope.map(|slope| slope.finish())) };
        if !keep {
            return (y, vec![]);
        }
        let mut saved = vec![weight];
        saved.extend(scale);
        match kept {
            Kept::Nothing => {}
            _ => saved.push(slope.unwrap_or_else(|| y.clone())),
        }
        if self.trainable {
            saved.push(x);
        }
        (y, saved)
    }

    fn backward(&self, gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let mut saved = saved.into_iter();
        let weight = saved.next().expect("weights");
        let scale = self.scale.then(|| saved.next().expect("scale"));
        let kept = match self.activation.kept() {
            Kept::Nothing => None,
            _ => saved.next(),
        };
        let x = self.trainable.then(|| saved.next().expect("x"));
        let residual = self.residual.then(|| gradient.clone());
        // A scale is folded into the weights.
        let gradient = match (&kept, self.scale) {
            (Some(kept), true) => crate::activation::times(gradient, kept),
            (kept, _) => times_slope(self.activation, gradient, kept.as_ref()),
        };
        let [outputs, inputs] = weight.dims();
        let rows = gradient.values().len() / outputs;
        let mut shape = gradient.shape().to_vec();
        *shape.last_mut().expect("at least one axis") = inputs;
        let input_gradient = wanted[0].then(|| {
            let sources: Vec<&Array> = [&weight].into_iter().chain(&scale).collect();
            let values = weight.values();
            let factor = |row: usize| scale.as_ref().map_or(1.0, |scale| scale.values()[row]);
            let right = self.packed(
                ["backward", "backward in bf16"],
                &sources,
                [outputs, inputs],
                || match &scale {
                    None => RightPanels::pack(values, outputs, inputs, inputs, 1),
                    Some(scale) => {
                        let rows = values.chunks_exact(inputs).zip(scale.values());
                        let scaled: Vec<f32> =
                            rows.flat_map(|(row, &scale)| row.iter().map(move |weight| weight * scale)).collect();
                        RightPanels::pack(&scaled, outputs, inputs, inputs, 1)
                    }
                },
                |k, column| values[k * inputs + column] * factor(k),
            );
            product_with(&gradient, [rows, outputs, 1], right.borrowed()).reshape(&shape)
        });
        let mut results = vec![input_gradient];
        results.push((wanted[1] && self.trainable).then(|| {
            let x = x.as_ref().expect("kept while training");
            weight_gradient(&gradient, x, outputs, inputs)
        }));
        if self.bias {
            let wanted = wanted[2] && self.trainable;
            results.push(wanted.then(|| column_sums(&gradient, outputs)));
        }
        if self.scale {
            results.push(None);
        }
        if self.residual {
            results.push(residual);
        }
        results
    }
}

/// gradientᵀ · x: `[output, input]`.
fn weight_gradient(gradient: &Array, x: &Array, outputs: usize, inputs: usize) -> Array {
    let depth = x.values().len() / inputs;
    let right = RightPanels::pack(x.values(), depth, inputs, inputs, 1);
    plain_product(gradient, [outputs, 1, outputs], &right)
}

/// left · right: `[rows, column]`; the left factor's element (row, depth) is at row·strides[0] + depth·strides[1].
pub(crate) fn plain_product(left: &Array, strides: [usize; 3], right: &RightPanels) -> Array {
    product_with(left, strides, RightFactor::F32(right))
}

fn product_with(left: &Array, [rows, row_stride, depth_stride]: [usize; 3], right: RightFactor) -> Array {
    let mut output = Output::new(&[rows, right.columns()]);
    let product = Product {
        rows,
        left: left.values(),
        right,
        to: output.pointer(),
        bias: None,
        scale: None,
        residual: None,
        activation: Activation::Identity,
        slope: None,
    };
    multiply(product, [row_stride, depth_stride]);
    // SAFETY: the product writes every element.
    unsafe { output.finish() }
}

/// The sum of the rows of `[…, column]`: `[column]`.
fn column_sums(values: &Array, columns: usize) -> Array {
    let mut sums = vec![0.0f64; columns];
    for row in values.values().chunks_exact(columns) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += f64::from(value);
        }
    }
    let sums = sums.into_iter().map(|sum| sum as f32).collect();
    Array::from_vec(sums, &[columns])
}

/// Packed weights.
enum Right {
    F32(Arc<RightPanels>),
    Bf16(Unit, Arc<bf16::RightPanels>),
}

impl Right {
    fn borrowed(&self) -> RightFactor<'_> {
        match self {
            Self::F32(panels) => RightFactor::F32(panels),
            Self::Bf16(unit, panels) => RightFactor::Bf16(*unit, panels),
        }
    }
}

/// A right factor.
#[derive(Clone, Copy)]
enum RightFactor<'a> {
    F32(&'a RightPanels),
    /// The left factor, row by row without gaps in depth, will be rounded, too.
    Bf16(Unit, &'a bf16::RightPanels),
}

impl RightFactor<'_> {
    fn depth(&self) -> usize {
        match self {
            Self::F32(panels) => panels.depth,
            Self::Bf16(_, panels) => panels.depth,
        }
    }

    fn columns(&self) -> usize {
        match self {
            Self::F32(panels) => panels.columns,
            Self::Bf16(_, panels) => panels.columns,
        }
    }

    fn panels(&self) -> usize {
        match self {
            Self::F32(panels) => panels.panels(),
            Self::Bf16(_, panels) => panels.panels(),
        }
    }

    /// Columns of a panel.
    fn width(&self) -> usize {
        match self {
            Self::F32(panels) => panels.width,
            Self::Bf16(..) => bf16::COLUMNS,
        }
    }
}

/// act(left · right + bias)·scale + residual.
struct Product<'a> {
    rows: usize,
    left: &'a [f32],
    right: RightFactor<'a>,
    to: Pointer,
    bias: Option<&'a [f32]>,
    scale: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    activation: Activation,
    slope: Option<Pointer>,
}

/// So many values of depth are summed before the next rows' turn; their panel stays in the second-level cache.
const DEPTH: usize = 512;
/// So many rows meet a panel while it is in the cache.
const ROW_BLOCK: usize = 96;

/// With the left factor's element (row, depth) at row·strides[0] + depth·strides[1].
fn multiply(product: Product, strides: [usize; 2]) {
    let Product { rows, right, .. } = product;
    let (panels, depth) = (right.panels(), right.depth());
    let work = rows * right.columns() * depth / 16;
    let threads = rayon::current_num_threads();
    // As much for each thread, of whole tiles; the order of each sum does not depend on the cut.
    let [height, _] = gemm::tile();
    let row_panels = rows.div_ceil(height);
    let row_parts = rows.div_ceil(ROW_BLOCK).next_multiple_of(threads).min(row_panels);
    let panel_parts = if row_parts < 2 * threads { (2 * threads).div_ceil(row_parts).min(panels) } else { 1 };
    parallel::for_each(row_parts * panel_parts, work, |task| {
        let (row_part, panel_part) = (task % row_parts, task / row_parts);
        let row = |part: usize| (row_panels * part / row_parts * height).min(rows);
        let panel = |part: usize| panels * part / panel_parts;
        simd::dispatch(Block {
            product: &product,
            strides,
            rows: row(row_part)..row(row_part + 1),
            panels: panel(panel_part)..panel(panel_part + 1),
        });
    });
}

struct Block<'a> {
    product: &'a Product<'a>,
    strides: [usize; 2],
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let right = self.product.right;
        let mut rounded = match right {
            RightFactor::F32(_) => None,
            RightFactor::Bf16(unit, _) => Some(bf16::Rows::new(unit)),
        };
        for start in (0..right.depth()).step_by(DEPTH) {
            let part = start..(start + DEPTH).min(right.depth());
            if let Some(rounded) = &mut rounded {
                let rows = self.rows.clone().map(|row| &self.product.left[row * self.strides[0]..][part.clone()]);
                rounded.fill(rows, part.len());
            }
            for panel in self.panels.clone() {
                let first = panel * right.width();
                let used = right.width().min(right.columns() - first);
                let mut row = self.rows.start;
                while row < self.rows.end {
                    let size = [self.rows.end - row, used.div_ceil(S::F32_LANES)];
                    let rounded = rounded.as_ref();
                    row += gemm::with_size!(S, size, (Self::tile(&self, simd, row, panel, &part, rounded)));
                }
            }
        }
    }
}

impl Block<'_> {
    /// A tile of `R` rows; says of how many.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        row: usize,
        panel: usize,
        part: &std::ops::Range<usize>,
        rounded: Option<&bf16::Rows>,
    ) -> usize {
        let Product { left, right, to, bias, scale, residual, activation, slope, .. } = *self.product;
        let (columns, first) = (right.columns(), panel * right.width());
        let used = right.width().min(columns - first);
        let at = |row: usize, vector: usize| row * columns + first + vector * S::F32_LANES;
        let lanes = |vector: usize| S::F32_LANES.min(used - vector * S::F32_LANES);
        // SAFETY: rows and columns are within the matrices, and this task is the only one that writes to them.
        unsafe {
            for index in row..row + R {
                simd::prefetch(to.at(at(index, 0)), used);
            }
            let mut sums: [[S::f32s; V]; R] = match (right, rounded) {
                (RightFactor::Bf16(_, panels), Some(rounded)) => {
                    rounded.product(simd, row - self.rows.start, panels.at(panel, part.start))
                }
                (RightFactor::F32(panels), _) => {
                    let start = row * self.strides[0] + part.start * self.strides[1];
                    let left = Left { pointer: left.as_ptr().add(start), row: self.strides[0], step: self.strides[1] };
                    gemm::product(simd, part.len(), left, panels.at(panel, part.start), panels.width)
                }
                (RightFactor::Bf16(..), None) => unreachable!("rows are rounded for a rounded factor"),
            };
            // Piece by piece, which rounds less than one long sum.
            if part.start > 0 {
                for (index, sums) in sums.iter_mut().enumerate() {
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        let from = to.at(at(row + index, vector));
                        *sum = simd.add_f32s(*sum, simd::load_some(simd, from, lanes(vector)));
                    }
                }
            }
            let last = part.end == right.depth();
            for (index, sums) in sums.iter().enumerate() {
                for (vector, &sum) in sums.iter().enumerate() {
                    let place = at(row + index, vector);
                    let count = lanes(vector);
                    if !last {
                        simd::store_some(simd, to.at(place), count, sum);
                        continue;
                    }
                    let column = first + vector * S::F32_LANES;
                    let mut value = sum;
                    if let Some(bias) = bias {
                        let bias = simd::load_some(simd, bias.as_ptr().add(column), count);
                        value = simd.add_f32s(value, bias);
                    }
                    value = match slope {
                        None => activation.value(simd, value),
                        Some(slope) => {
                            let (value, values) = activation.value_and_slope(simd, value);
                            simd::store_some(simd, slope.at(place), count, values);
                            value
                        }
                    };
                    if let Some(scale) = scale {
                        let scale = simd::load_some(simd, scale.as_ptr().add(column), count);
                        value = simd.mul_f32s(value, scale);
                    }
                    if let Some(residual) = residual {
                        let more = simd::load_some(simd, residual.as_ptr().add(place), count);
                        value = simd.add_f32s(value, more);
                    }
                    simd::store_some(simd, to.at(place), count, value);
                }
            }
        }
        R
    }
}
