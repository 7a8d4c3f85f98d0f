//! Pooling over `[batch, channel, height, width]`, and the gate of squeeze-and-excitation, which belongs to it.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::array::{Array, Output, Pointer};
use crate::operation::{Operation, Saved};
use crate::padded::{Axis, Padded, Scratch, interleave};
use crate::{parallel, simd};

/// The largest value of each square window `[batch, channel, height, width]`; what lies outside of the image never wins.
/// The gradient goes to the first of equal values in row-major order. A window with a value that is not a number gives
/// such a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxPool {
    /// Rows and columns of the window; at most 15.
    pub kernel: usize,
    /// From one window to the next.
    pub stride: usize,
    /// Places around the image; at most half of the window.
    pub padding: usize,
    /// Whether windows that begin inside and end outside are kept (PyTorch: `ceil_mode`).
    pub ceil: bool,
}

/// The mean of what lies inside of the image of each square window (PyTorch: `count_include_pad=False`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AveragePool {
    /// Rows and columns of the window.
    pub kernel: usize,
    /// From one window to the next.
    pub stride: usize,
    /// Places around the image; at most half of the window.
    pub padding: usize,
    /// Whether windows that begin inside and end outside are kept (PyTorch: `ceil_mode`).
    pub ceil: bool,
    /// Whether the value in the middle of each window is subtracted; only where the size of the image stays.
    pub less_middle: bool,
}

/// `[batch, channel, height, width]` → `[batch, channel]`, the mean over the places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobalAveragePool;

/// x · gate: x is `[batch, channel, height, width]`, the gate `[batch, channel]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate;

impl Operation for MaxPool {
    fn name(&self) -> &'static str {
        "max pool"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        assert!(self.kernel <= 15 && 2 * self.padding <= self.kernel);
        let x = &inputs[0];
        let [batch, channels, height, width] = x.dims();
        let [rows, columns] =
            [height, width].map(|size| forward_axis(size, self.kernel, self.stride, self.padding, self.ceil));
        let shape = [batch, channels, rows.output, columns.output];
        let mut output = Output::new(&shape);
        // One byte per output: the tap that won.
        let count: usize = shape.iter().product();
        let mut taps = keep.then(|| Output::new(&[count.div_ceil(4)]));
        let windows = Windows {
            padded: padded(&rows, &columns).with_padding(f32::NEG_INFINITY),
            rows,
            columns,
            x: x.values(),
            to: output.pointer(),
            taps: taps.as_mut().map(Output::pointer),
            reduce: Reduce::Max,
        };
        windows.run(batch * channels, self.kernel);
        // SAFETY: all planes were computed. The last bytes belong to no output.
        unsafe {
            let taps = taps.map(|mut taps| {
                let end = taps.pointer().at(0).cast::<u8>();
                (count..count.next_multiple_of(4)).for_each(|place| end.add(place).write(0));
                taps.finish()
            });
            let saved = taps.map(|taps| vec![taps, sizes(height, width)]);
            (output.finish(), saved.unwrap_or_default())
        }
    }

    fn backward(&self, gradient: Array, saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        let [taps, size] = saved.try_into().expect("as kept");
        let back =
            |size: f32, output| Axis::backward([size as usize, output], self.kernel, self.stride, self.padding, 1);
        vec![Some(spread(&gradient, &size, back, Reduce::Max, Some(&taps), self.kernel))]
    }
}

impl Operation for AveragePool {
    fn name(&self) -> &'static str {
        "average pool"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let x = &inputs[0];
        let [batch, channels, height, width] = x.dims();
        let [rows, columns] =
            [height, width].map(|size| forward_axis(size, self.kernel, self.stride, self.padding, self.ceil));
        let mut output = Output::new(&[batch, channels, rows.output, columns.output]);
        let windows = Windows {
            padded: padded(&rows, &columns),
            rows,
            columns,
            x: x.values(),
            to: output.pointer(),
            taps: None,
            reduce: self.reduce(),
        };
        windows.run(batch * channels, self.kernel);
        let saved = if keep { vec![sizes(height, width)] } else { vec![] };
        // SAFETY: all planes were computed.
        (unsafe { output.finish() }, saved)
    }

    fn backward(&self, gradient: Array, saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        let back =
            |size: f32, output| Axis::backward([size as usize, output], self.kernel, self.stride, self.padding, 1);
        vec![Some(spread(&gradient, &saved[0], back, self.reduce(), None, self.kernel))]
    }
}

impl AveragePool {
    fn reduce(&self) -> Reduce {
        let keeps_size = self.stride == 1 && 2 * self.padding + 1 == self.kernel;
        assert!(keeps_size || !self.less_middle, "windows around each place");
        Reduce::Mean { padding: self.padding, less_middle: self.less_middle }
    }
}

impl Operation for GlobalAveragePool {
    fn name(&self) -> &'static str {
        "global average pool"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let x = &inputs[0];
        let [batch, channels, height, width] = x.dims();
        let mut output = Output::new(&[batch, channels]);
        let pool = Mean { x: x.values(), plane: height * width, to: output.pointer() };
        parallel::for_ranges(batch * channels, 1, x.values().len(), |range| {
            simd::dispatch(MeanOf { pool: &pool, range });
        });
        let saved = if keep { vec![sizes(height, width)] } else { vec![] };
        // SAFETY: all means were computed.
        (unsafe { output.finish() }, saved)
    }

    fn backward(&self, gradient: Array, saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        let [height, width] = read_sizes(&saved[0]);
        let [batch, channels] = gradient.dims();
        let mut output = Output::new(&[batch, channels, height, width]);
        let to = output.pointer();
        let plane = height * width;
        let count = batch * channels;
        parallel::for_ranges(count, 1, count * plane, |range| {
            for index in range {
                let value = gradient.values()[index] / plane as f32;
                // SAFETY: the plane belongs to this task.
                unsafe { to.slice(index * plane, plane) }.fill(value);
            }
        });
        // SAFETY: all planes were written.
        vec![Some(unsafe { output.finish() })]
    }
}

impl Operation for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let saved = if keep { inputs.clone() } else { vec![] };
        let [mut x, gate] = inputs.try_into().expect("x and its gate");
        let [batch, channels, height, width] = x.dims();
        assert_eq!(gate.shape(), [batch, channels], "one gate per channel");
        let mut output = None;
        let len = x.values().len();
        let [from, to] = match x.unique_values() {
            Some(values) => [Pointer::to(values); 2],
            None => {
                let output = output.insert(Output::new(x.shape()));
                [Pointer::reading(x.values()), output.pointer()]
            }
        };
        let plane = height * width;
        parallel::for_ranges(batch * channels, 1, len, |range| {
            simd::dispatch(Times { from, gate: gate.values(), to, plane, range });
        });
        // SAFETY: all planes were written.
        (output.map_or(x, |output| unsafe { output.finish() }), saved)
    }

    fn backward(&self, mut gradient: Array, saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let [x, gate] = saved.try_into().expect("as kept");
        let [_, _, height, width] = x.dims();
        let [plane, count] = [height * width, gate.values().len()];
        let mut of_gate = wanted[1].then(|| Output::new(gate.shape()));
        if let Some(of_gate) = &mut of_gate {
            let to = of_gate.pointer();
            let [x, gradient] = [x.values(), gradient.values()];
            parallel::for_ranges(count, 1, 2 * x.len(), |range| {
                simd::dispatch(Products { x, gradient, to, plane, range });
            });
        }
        let of_x = wanted[0].then(|| {
            let mut output = None;
            let [from, to] = match gradient.unique_values() {
                Some(values) => [Pointer::to(values); 2],
                None => {
                    let output = output.insert(Output::new(gradient.shape()));
                    [Pointer::reading(gradient.values()), output.pointer()]
                }
            };
            parallel::for_ranges(count, 1, count * plane, |range| {
                simd::dispatch(Times { from, gate: gate.values(), to, plane, range });
            });
            // SAFETY: all planes were written.
            output.map_or(gradient, |output| unsafe { output.finish() })
        });
        // SAFETY: all products were computed.
        vec![of_x, of_gate.map(|of_gate| unsafe { of_gate.finish() })]
    }
}

/// What a window becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduce {
    Max,
    /// Of what lies inside, with so many places around the image; perhaps less the value in the middle.
    Mean {
        padding: usize,
        less_middle: bool,
    },
}

/// Of the widest vector.
const LANES: usize = 16;

/// Rows and columns, kept for the backward pass.
fn sizes(height: usize, width: usize) -> Array {
    Array::from_vec(vec![height as f32, width as f32], &[2])
}

fn read_sizes(sizes: &Array) -> [usize; 2] {
    [0, 1].map(|axis| sizes.values()[axis] as usize)
}

/// Room for whole vectors of outputs.
fn padded(rows: &Axis, columns: &Axis) -> Padded {
    let outputs = [rows.outputs(0), columns.outputs(0).next_multiple_of(LANES)];
    Padded::by_rows(rows, columns, outputs)
}

/// From an image's rows or columns to the windows over them. With `ceil`, as many as begin inside or before, the last of
/// them the first to reach the end.
fn forward_axis(size: usize, kernel: usize, stride: usize, padding: usize, ceil: bool) -> Axis {
    let reach = (size + 2 * padding).saturating_sub(kernel);
    let output =
        if ceil { (reach.div_ceil(stride) + 1).min((size + padding).div_ceil(stride)) } else { reach / stride + 1 };
    Axis::forward([size, output], kernel, stride, padding, 1)
}

impl Reduce {
    /// By what the windows' sums along an axis are to be divided: how many places of each are inside. Nothing for maxima.
    fn counts(self, source: usize, output: usize, kernel: usize, stride: usize) -> Vec<f32> {
        let Self::Mean { padding, .. } = self else {
            return vec![];
        };
        let count = |place: usize| {
            let start = place * stride;
            (start + kernel - padding).min(source) - start.saturating_sub(padding)
        };
        (0..output).map(|place| count(place) as f32).collect()
    }

    /// Subtracts, if it has to, from a row of results, or of the gradient that goes back, what lies there in the plane.
    fn subtract_middle(self, results: &mut [f32], plane: &[f32], row: usize) {
        if let Self::Mean { less_middle: true, .. } = self {
            let middle = &plane[row * results.len()..];
            results.iter_mut().zip(middle).for_each(|(result, middle)| *result -= middle);
        }
    }
}

/// Pooling of many planes.
struct Windows<'a> {
    rows: Axis,
    columns: Axis,
    padded: Padded,
    x: &'a [f32],
    to: Pointer,
    /// Bytes.
    taps: Option<Pointer>,
    reduce: Reduce,
}

impl Windows<'_> {
    fn run(&self, planes: usize, kernel: usize) {
        let stride = self.rows.split;
        let offsets = self.rows.phases[0].iter().flat_map(|&(_, row)| {
            let columns = self.columns.phases[0].iter();
            columns.map(move |&(_, column)| self.padded.index(row, column))
        });
        let offsets: Vec<usize> = offsets.collect();
        let mut counts =
            [&self.rows, &self.columns].map(|axis| self.reduce.counts(axis.source, axis.output, kernel, stride));
        counts[1].resize(self.columns.output.next_multiple_of(LANES), 1.0);
        let work = planes * self.rows.output * self.columns.output * offsets.len();
        parallel::for_ranges(planes, 1, work, |range| {
            simd::dispatch(WindowsOf { windows: self, offsets: &offsets, counts: &counts, range });
        });
    }
}

struct WindowsOf<'a> {
    windows: &'a Windows<'a>,
    offsets: &'a [usize],
    counts: &'a [Vec<f32>; 2],
    range: Range<usize>,
}

impl WithSimd for WindowsOf<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { windows, offsets, counts, range } = self;
        let Windows { rows, columns, padded, .. } = windows;
        let [height, width] = [rows.output, columns.output];
        let lanes = S::F32_LANES;
        let mut copy = padded.scratch(1);
        // A row of results and of the taps that won.
        let row_len = width.next_multiple_of(LANES);
        let mut results = Scratch::new(row_len, 0.0);
        let mut winners = Scratch::new(row_len, 0.0);
        for plane in range {
            let source = &windows.x[plane * rows.source * columns.source..];
            // SAFETY: the copy has the size for it.
            unsafe { padded.fill(simd, source, copy.as_mut_ptr(), 0..usize::MAX, 1.0) };
            for row in 0..height {
                let from = padded.lead() + row * rows.split * padded.row_length();
                for column in (0..row_len).step_by(lanes) {
                    let from = copy[from + column..].as_ptr();
                    // SAFETY: the copy is large enough for whole vectors of outputs, and so are the rows.
                    unsafe {
                        let result = match (windows.reduce, windows.taps) {
                            (Reduce::Max, None) => largest(simd, from, offsets),
                            (Reduce::Max, Some(_)) => {
                                let (value, winner) = largest_and_tap(simd, from, offsets);
                                simd::store(simd, winners[column..].as_mut_ptr(), winner);
                                value
                            }
                            (Reduce::Mean { .. }, _) => {
                                let columns = simd::load(simd, counts[1][column..].as_ptr());
                                let count = simd.mul_f32s(columns, simd.splat_f32s(counts[0][row]));
                                simd.div_f32s(sum(simd, from, offsets), count)
                            }
                        };
                        simd::store(simd, results[column..].as_mut_ptr(), result);
                    }
                }
                let place = (plane * height + row) * width;
                // SAFETY: the row belongs to this task.
                let to = unsafe { windows.to.slice(place, width) };
                to.copy_from_slice(&results[..width]);
                windows.reduce.subtract_middle(to, source, row);
                if let Some(taps) = windows.taps {
                    // SAFETY: one byte per output; the row belongs to this task.
                    let taps = unsafe {
                        let start = taps.at(0).cast::<u8>().add(place);
                        std::slice::from_raw_parts_mut(start, width)
                    };
                    for (tap, &winner) in taps.iter_mut().zip(&*winners) {
                        *tap = winner as u8;
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn largest<S: Simd>(simd: S, from: *const f32, offsets: &[usize]) -> S::f32s {
    let mut best = simd.splat_f32s(f32::NEG_INFINITY);
    for &offset in offsets {
        // SAFETY: the caller's promise.
        let x = unsafe { simd::load(simd, from.add(offset)) };
        best = simd.select_f32s(stays(simd, best, x), best, x);
    }
    best
}

#[inline(always)]
unsafe fn largest_and_tap<S: Simd>(simd: S, from: *const f32, offsets: &[usize]) -> (S::f32s, S::f32s) {
    let mut best = simd.splat_f32s(f32::NEG_INFINITY);
    let mut tap = simd.splat_f32s(0.0);
    for (index, &offset) in offsets.iter().enumerate() {
        // SAFETY: the caller's promise.
        let x = unsafe { simd::load(simd, from.add(offset)) };
        let stays = stays(simd, best, x);
        best = simd.select_f32s(stays, best, x);
        tap = simd.select_f32s(stays, tap, simd.splat_f32s(index as f32));
    }
    (best, tap)
}

/// Where `best` stays the best: where x is not larger, or `best` is not a number.
#[inline(always)]
fn stays<S: Simd>(simd: S, best: S::f32s, x: S::f32s) -> S::m32s {
    let number = simd.less_than_or_equal_f32s(best, best);
    let not_larger = simd.less_than_or_equal_f32s(x, best);
    simd.or_m32s(not_larger, simd.not_m32s(number))
}

#[inline(always)]
unsafe fn sum<S: Simd>(simd: S, from: *const f32, offsets: &[usize]) -> S::f32s {
    let mut sum = simd.splat_f32s(0.0);
    for &offset in offsets {
        // SAFETY: the caller's promise.
        sum = simd.add_f32s(sum, unsafe { simd::load(simd, from.add(offset)) });
    }
    sum
}

/// The gradient of what was pooled.
fn spread(
    gradient: &Array,
    size: &Array,
    back: impl Fn(f32, usize) -> Axis,
    reduce: Reduce,
    taps: Option<&Array>,
    kernel: usize,
) -> Array {
    let [batch, channels, height, width] = gradient.dims();
    let rows = back(size.values()[0], height);
    let columns = back(size.values()[1], width);
    let mut output = Output::new(&[batch, channels, rows.output, columns.output]);
    let padded = padded(&rows, &columns);
    let stride = rows.phases.len();
    let counts = [&rows, &columns].map(|axis| reduce.counts(axis.output, axis.source, kernel, stride));
    // By phase: the taps that meet it, and where they look.
    let mut phases = Vec::new();
    for row_taps in &rows.phases {
        for column_taps in &columns.phases {
            let mut met = Vec::new();
            for &(row_tap, row) in row_taps {
                for &(tap, column) in column_taps {
                    met.push(((row_tap * kernel + tap) as f32, padded.index(row, column)));
                }
            }
            phases.push(met);
        }
    }
    let work = batch * channels * height * width * kernel * kernel;
    let spread = Spread {
        reduce,
        padded,
        phases,
        counts,
        gradient: gradient.values(),
        taps: taps.map(|taps| Pointer::reading(taps.values())),
        to: output.pointer(),
        rows,
        columns,
    };
    parallel::for_ranges(batch * channels, 1, work, |range| {
        simd::dispatch(SpreadOf { spread: &spread, range });
    });
    // SAFETY: all planes were written.
    unsafe { output.finish() }
}

struct Spread<'a> {
    reduce: Reduce,
    rows: Axis,
    columns: Axis,
    padded: Padded,
    phases: Vec<Vec<(f32, usize)>>,
    /// By what the rows and columns of the gradient are to be divided.
    counts: [Vec<f32>; 2],
    gradient: &'a [f32],
    /// Bytes; if there are any, only what went through its tap comes back.
    taps: Option<Pointer>,
    to: Pointer,
}

struct SpreadOf<'a> {
    spread: &'a Spread<'a>,
    range: Range<usize>,
}

impl WithSimd for SpreadOf<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { spread, range } = self;
        let Spread { rows, columns, padded, phases, counts, .. } = spread;
        let lanes = S::F32_LANES;
        let [height, width] = [rows.source, columns.source];
        let [row_phases, column_phases] = [rows.phases.len(), columns.phases.len()];
        let mut copy = padded.scratch(1);
        // No tap is minus one.
        let tapped = padded.clone().with_padding(-1.0);
        let mut taps = tapped.scratch(1);
        let mut plane_copy = vec![0.0; height * width];
        let row_len = columns.outputs(0).next_multiple_of(LANES);
        let mut sums = Scratch::new(column_phases * row_len, 0.0);
        for plane in range {
            let gradient = &spread.gradient[plane * height * width..][..height * width];
            // SAFETY: the copies have the size for it, and there is a byte per place.
            unsafe {
                if let Some(bytes) = spread.taps {
                    padded.fill(simd, gradient, copy.as_mut_ptr(), 0..usize::MAX, 1.0);
                    let bytes = bytes.at(0).cast::<u8>().add(plane * height * width);
                    let bytes = std::slice::from_raw_parts(bytes, height * width);
                    for (tap, &byte) in plane_copy.iter_mut().zip(bytes) {
                        *tap = f32::from(byte);
                    }
                    tapped.fill(simd, &plane_copy, taps.as_mut_ptr(), 0..usize::MAX, 1.0);
                } else {
                    let from = gradient.chunks_exact(width).zip(plane_copy.chunks_exact_mut(width));
                    for ((from, to), &rows) in from.zip(&counts[0]) {
                        for ((from, to), &columns) in from.iter().zip(to).zip(&counts[1]) {
                            *to = from / (rows * columns);
                        }
                    }
                    padded.fill(simd, &plane_copy, copy.as_mut_ptr(), 0..usize::MAX, 1.0);
                }
            }
            for row in 0..rows.output {
                let from = padded.lead() + row / row_phases * padded.row_length();
                let phases = &phases[row % row_phases * column_phases..][..column_phases];
                for (met, sums) in phases.iter().zip(sums.chunks_exact_mut(row_len)) {
                    for column in (0..row_len).step_by(lanes) {
                        let place = from + column;
                        let mut sum = simd.splat_f32s(0.0);
                        for &(tap, offset) in met {
                            // SAFETY: the copies are large enough for whole vectors.
                            unsafe {
                                let gradient = copy[place + offset..].as_ptr();
                                let mut gradient = simd::load(simd, gradient);
                                if spread.taps.is_some() {
                                    let winner = simd::load(simd, taps[place + offset..].as_ptr());
                                    let won = simd.equal_f32s(winner, simd.splat_f32s(tap));
                                    let zero = simd.splat_f32s(0.0);
                                    gradient = simd.select_f32s(won, gradient, zero);
                                }
                                sum = simd.add_f32s(sum, gradient);
                            }
                        }
                        // SAFETY: the row has place for whole vectors.
                        unsafe { simd::store(simd, sums[column..].as_mut_ptr(), sum) };
                    }
                }
                let place = (plane * rows.output + row) * columns.output;
                // SAFETY: the row belongs to this task.
                let to = unsafe { spread.to.slice(place, columns.output) };
                interleave(&sums, row_len, column_phases, to);
                spread.reduce.subtract_middle(to, gradient, row);
            }
        }
    }
}

struct Mean<'a> {
    x: &'a [f32],
    plane: usize,
    to: Pointer,
}

struct MeanOf<'a> {
    pool: &'a Mean<'a>,
    range: Range<usize>,
}

impl WithSimd for MeanOf<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Mean { x, plane, to } = *self.pool;
        for index in self.range {
            let values = &x[index * plane..][..plane];
            let sum = reduce(simd, values, values, false);
            // SAFETY: the value belongs to this task.
            unsafe { *to.at(index) = sum / plane as f32 };
        }
    }
}

/// The sum of the values, or of the products of both.
#[inline(always)]
fn reduce<S: Simd>(simd: S, a: &[f32], b: &[f32], products: bool) -> f32 {
    let lanes = S::F32_LANES;
    let mut sums = [simd.splat_f32s(0.0); 4];
    let mut place = 0;
    while place < a.len() {
        for sum in &mut sums {
            let count = lanes.min(a.len() - place);
            if count == 0 {
                break;
            }
            // SAFETY: `count` values are left.
            unsafe {
                let load = if count == lanes {
                    [a, b].map(|values| simd::load(simd, values[place..].as_ptr()))
                } else {
                    [a, b].map(|values| simd::load_some(simd, values[place..].as_ptr(), count))
                };
                *sum = if products { simd.mul_add_f32s(load[0], load[1], *sum) } else { simd.add_f32s(load[0], *sum) };
            }
            place += count;
        }
    }
    let [a, b, c, d] = sums;
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
}

/// Planes times their gates.
struct Times<'a> {
    from: Pointer,
    gate: &'a [f32],
    to: Pointer,
    plane: usize,
    range: Range<usize>,
}

impl WithSimd for Times<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let lanes = S::F32_LANES;
        for index in self.range {
            let gate = simd.splat_f32s(self.gate[index]);
            let mut place = index * self.plane;
            let end = place + self.plane;
            // SAFETY: the plane belongs to this task.
            unsafe {
                while place + lanes <= end {
                    let x = simd::load(simd, self.from.at(place));
                    simd::store(simd, self.to.at(place), simd.mul_f32s(x, gate));
                    place += lanes;
                }
                if place < end {
                    let x = simd::load_some(simd, self.from.at(place), end - place);
                    simd::store_some(simd, self.to.at(place), end - place, simd.mul_f32s(x, gate));
                }
            }
        }
    }
}

/// For each plane the sum of its products with the gradient.
struct Products<'a> {
    x: &'a [f32],
    gradient: &'a [f32],
    to: Pointer,
    plane: usize,
    range: Range<usize>,
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for index in self.range {
            let [x, gradient] = [self.x, self.gradient].map(|values| &values[index * self.plane..][..self.plane]);
            // SAFETY: the value belongs to this task.
            unsafe { *self.to.at(index) = reduce(simd, x, gradient, true) };
        }
    }
}
