//! Planes copied between zeros, so that the loops over them need no borders, and the axes of a sliding window.
//!
//! Where a window moves by more than one place, the copy is sorted by the places' residues modulo the stride: then what
//! neighbouring outputs read lies side by side.

use std::ops::{Deref, DerefMut, Range};

use pulp::Simd;

use crate::simd;

/// Behind the last value that belongs to a copy, so many more may be read: a vector, whatever the processor.
const SLACK: usize = 64;

/// Values of a cache line, which is also the widest vector.
const LINE: usize = 16;

/// Memory for a task's own use, aligned to cache lines.
pub(crate) struct Scratch(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

impl Scratch {
    /// At least so many of this value.
    pub fn new(len: usize, value: f32) -> Self {
        Self(vec![Line([value; LINE]); len.div_ceil(LINE)])
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: lines are values without gaps.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LINE) }
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: lines are values without gaps.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LINE) }
    }
}

/// One axis of a sliding window: which source places the outputs of each residue meet, and through which taps.
///
/// The output at phase p + i·(number of phases) reads, through the tap `k` of a pair (k, offset) of that phase, the padded
/// source at i·split + offset.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    /// Places of the source.
    pub source: usize,
    /// Places of the output.
    pub output: usize,
    /// Zeros before the first place of the source.
    pub before: usize,
    /// How far the window moves over the source from one output to the next of the same phase.
    pub split: usize,
    /// Taps and offsets by phase, offsets rising.
    pub phases: Vec<Vec<(usize, usize)>>,
}

impl Axis {
    /// From input to output.
    pub fn forward([input, output]: [usize; 2], kernel: usize, stride: usize, padding: usize, dilation: usize) -> Self {
        Self {
            source: input,
            output,
            before: padding,
            split: stride,
            phases: vec![(0..kernel).map(|tap| (tap, tap * dilation)).collect()],
        }
    }

    /// From the gradient of the output to that of the input: input i meets through tap k the output
    /// (i + padding − k·dilation) / stride, if that is a whole number.
    pub fn backward(
        [input, output]: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: usize,
        dilation: usize,
    ) -> Self {
        let meets = |phase: usize| {
            let place = move |tap| (phase + padding) as isize - (tap * dilation) as isize;
            (0..kernel)
                .rev()
                .filter(move |&tap| place(tap) % stride as isize == 0)
                .map(move |tap| (tap, place(tap) / stride as isize))
        };
        let least = (0..stride).flat_map(meets).map(|(_, offset)| offset).min();
        let before = least.map_or(0, |offset| (-offset).max(0));
        let phases = (0..stride).map(|phase| {
            let taps = meets(phase).map(|(tap, offset)| (tap, (offset + before) as usize));
            taps.collect()
        });
        Self { source: output, output: input, before: before as usize, split: 1, phases: phases.collect() }
    }

    /// How many outputs the phase has.
    pub fn outputs(&self, phase: usize) -> usize {
        self.output.saturating_sub(phase).div_ceil(self.phases.len())
    }

    /// How many places of the padded source are met, if so many outputs of each phase are computed.
    pub fn reach(&self, outputs: usize) -> usize {
        let offsets = self.phases.iter().flatten().map(|&(_, offset)| offset);
        outputs.saturating_sub(1) * self.split + offsets.max().unwrap_or(0) + 1
    }
}

/// Values behind a copy: for a row that is sorted, and not less than what may be read there.
fn behind(columns: &Axis) -> usize {
    let row = (columns.source + 1).next_multiple_of(2 * LINE);
    SLACK.max(row * (columns.split - 1).min(1))
}

/// Where the places of a padded plane lie in the copy.
#[derive(Debug, Clone)]
pub(crate) struct Padded {
    source: [usize; 2],
    before: [usize; 2],
    split: [usize; 2],
    /// The padded places that are met; what the source has beyond them is not copied.
    reach: [usize; 2],
    row_phase: usize,
    row_step: usize,
    column_phase: usize,
    /// Where the first row begins.
    lead: usize,
    padding: f32,
    len: usize,
}

impl Padded {
    /// Row after row, each sorted by the columns' residues. `outputs` are the rows and columns that will be computed of
    /// each phase, at least as many as there are.
    pub fn by_rows(rows: &Axis, columns: &Axis, outputs: [usize; 2]) -> Self {
        // The source's first column and all rows begin with a cache line.
        let lead = (columns.before / columns.split).wrapping_neg() % LINE;
        let copied = (columns.before + columns.source) / columns.split + LINE;
        let widest = columns.reach(outputs[1]).div_ceil(columns.split).max(copied);
        let widest = (lead + widest).next_multiple_of(LINE);
        let row = widest * columns.split;
        Self {
            source: [rows.source, columns.source],
            before: [rows.before, columns.before],
            split: [rows.split, columns.split],
            reach: [rows, columns].map(|axis| axis.reach(axis.outputs(0))),
            row_phase: row,
            row_step: rows.split * row,
            column_phase: widest,
            lead,
            padding: 0.0,
            len: (rows.reach(outputs[0]) * row).next_multiple_of(LINE) + behind(columns),
        }
    }

    /// Sorted by the residues of rows and columns, and each part so that its rows make one long row, in which the zeros
    /// after a row are those before the next. The output at (row, column) of a phase reads, whatever the offset, at
    /// row·[`Self::pitch`] + column from there.
    pub fn by_planes(rows: &Axis, columns: &Axis) -> Self {
        let reach = [rows, columns].map(|axis| axis.reach(axis.outputs(0)));
        let split = columns.split;
        let end = reach[1].min(columns.before + columns.source);
        let up_to = |column: usize, phase: usize| column.saturating_sub(phase).div_ceil(split);
        let pitches = (0..split).map(|phase| {
            let zeros_before = up_to(columns.before, phase);
            up_to(end, phase).max(up_to(reach[1], phase).saturating_sub(zeros_before))
        });
        let pitch = pitches.fold(columns.outputs(0), usize::max).max(1);
        let plane = reach[0].div_ceil(rows.split) * pitch + reach[1].div_ceil(split) + LINE;
        Self {
            source: [rows.source, columns.source],
            before: [rows.before, columns.before],
            split: [rows.split, split],
            reach,
            row_phase: split * plane,
            row_step: pitch,
            column_phase: plane,
            lead: 0,
            padding: 0.0,
            len: (rows.split * split * plane).next_multiple_of(LINE) + behind(columns),
        }
    }

    /// With this value instead of zero around the plane.
    pub fn with_padding(self, padding: f32) -> Self {
        Self { padding, ..self }
    }

    /// Values of a copy.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Memory for so many copies, all padding, which is what stays where [`Self::fill`] writes nothing.
    pub fn scratch(&self, copies: usize) -> Scratch {
        Scratch::new(copies * self.len, self.padding)
    }

    /// From one row to the next, if they lie [`Self::by_rows`].
    pub fn row_length(&self) -> usize {
        self.row_phase
    }

    /// From one row to the next of the same residue.
    pub fn pitch(&self) -> usize {
        self.row_step
    }

    /// Where the padded plane's first place lies.
    pub fn lead(&self) -> usize {
        self.lead
    }

    /// How far behind its first place the padded plane's place lies.
    pub fn index(&self, row: usize, column: usize) -> usize {
        let [rows, columns] = self.split;
        row % rows * self.row_phase
            + row / rows * self.row_step
            + column % columns * self.column_phase
            + column / columns
    }

    /// Copies the source's values, times `scale`, that belong into these rows of the padded plane; rows must be copied in
    /// order. `from` begins with the plane, and may go on behind it.
    ///
    /// # Safety
    /// `to` must point to [`Self::len`] values that nobody else uses.
    #[inline(always)]
    pub unsafe fn fill<S: Simd>(&self, simd: S, from: &[f32], to: *mut f32, rows: Range<usize>, scale: f32) {
        let first = rows.start.max(self.before[0]);
        let last = rows.end.min(self.before[0] + self.source[0]).min(self.reach[0]);
        let count = self.source[1].min(self.reach[1].saturating_sub(self.before[1]));
        let split = self.split[1];
        if count == 0 || first >= last {
            return;
        }
        let copy = Row::new(simd, count, scale, self.padding);
        if self.split == [1, 1] {
            let from = &from[(first - self.before[0]) * self.source[1]..];
            let start = self.lead + first * self.row_step + self.before[1];
            // SAFETY: the rows' places, and behind each place for a vector, are this call's alone.
            unsafe {
                let to = to.add(start);
                copy.copy_rows(last - first, from, self.source[1], to, self.row_step);
            }
            return;
        }
        // Where a row is put before it is sorted, so that it ends with padding.
        let shift = self.before[1] % split;
        let pairs = (shift + count).div_ceil(2).next_multiple_of(LINE);
        let [mut step, mut phase] = [first / self.split[0], first % self.split[0]];
        for index in first..last {
            let from = &from[(index - self.before[0]) * self.source[1]..];
            let start = self.lead + phase * self.row_phase + step * self.row_step;
            phase += 1;
            if phase == self.split[0] {
                [step, phase] = [step + 1, 0];
            }
            // SAFETY: the row's place, and behind it place for a vector, are this call's alone.
            unsafe {
                if split == 1 {
                    copy.copy(from, to.add(start + self.before[1]));
                } else if split == 2 {
                    let row = to.add(self.len - 2 * pairs);
                    copy.copy(from, row.add(shift));
                    let row = std::slice::from_raw_parts(row, 2 * pairs);
                    let to = to.add(start + self.before[1] / 2);
                    let even = std::slice::from_raw_parts_mut(to, pairs);
                    let odd = std::slice::from_raw_parts_mut(to.add(self.column_phase), pairs);
                    deinterleave(row, even, odd);
                } else {
                    for (column, value) in from[..count].iter().enumerate() {
                        let column = column + self.before[1];
                        let place = column % split * self.column_phase + column / split;
                        *to.add(start + place) = value * scale;
                    }
                }
            }
        }
    }
}

/// Far enough ahead of what is copied that it has arrived when it is wanted; in values.
const AHEAD: usize = 1024;

/// Asks for the cache line of values that will be read.
#[inline(always)]
fn prefetch(values: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Copies rows of one length.
struct Row<S: Simd> {
    simd: S,
    count: usize,
    scale: S::f32s,
    padding: S::f32s,
    /// The lanes of a row's only vector.
    inside: S::m32s,
}

impl<S: Simd> Row<S> {
    #[inline(always)]
    fn new(simd: S, count: usize, scale: f32, padding: f32) -> Self {
        const PLACES: [f32; LINE] =
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
        // SAFETY: no vector has more lanes.
        let places = unsafe { simd::load(simd, PLACES.as_ptr()) };
        Self {
            simd,
            count,
            scale: simd.splat_f32s(scale),
            padding: simd.splat_f32s(padding),
            inside: simd.less_than_f32s(places, simd.splat_f32s(count as f32)),
        }
    }

    /// Copies rows, which begin so many values apart.
    #[inline(always)]
    unsafe fn copy_rows(&self, rows: usize, from: &[f32], apart: usize, to: *mut f32, to_apart: usize) {
        let Self { simd, count, scale, padding, inside } = *self;
        let lanes = S::F32_LANES;
        // SAFETY: what is read is within `from`, and behind a short row there is place for a vector.
        unsafe {
            let mut row = 0;
            if count < lanes {
                // Those that end a vector before the end.
                let whole = from.len().saturating_sub(lanes) / apart;
                let [mut place, mut to] = [from.as_ptr(), to.cast_const()];
                while row < rows.min(whole) {
                    let values = simd.mul_f32s(simd::load(simd, place), scale);
                    simd::store(simd, to.cast_mut(), simd.select_f32s(inside, values, padding));
                    prefetch(place.wrapping_add(AHEAD));
                    place = place.add(apart);
                    to = to.add(to_apart);
                    row += 1;
                }
            }
            while row < rows {
                self.copy(&from[row * apart..], to.add(row * to_apart));
                row += 1;
            }
        }
    }

    /// Copies the first `count` values, less than a vector with padding after them.
    #[inline(always)]
    unsafe fn copy(&self, from: &[f32], to: *mut f32) {
        let simd = self.simd;
        let room = from.len();
        let from = from[..self.count].as_ptr();
        let lanes = S::F32_LANES;
        // SAFETY: what is read is within `from`, and behind a short row there is place for a vector.
        unsafe {
            if self.count < lanes {
                let values =
                    if room < lanes { simd::load_some(simd, from, self.count) } else { simd::load(simd, from) };
                let values = simd.mul_f32s(values, self.scale);
                simd::store(simd, to, simd.select_f32s(self.inside, values, self.padding));
                prefetch(from.wrapping_add(AHEAD));
                return;
            }
            let mut index = 0;
            while index < self.count {
                // The last vector may write some values again.
                let place = index.min(self.count - lanes);
                let values = simd.mul_f32s(simd::load(simd, from.add(place)), self.scale);
                prefetch(from.wrapping_add(place + AHEAD));
                simd::store(simd, to.add(place), values);
                index += lanes;
            }
        }
    }
}

/// Pairs that are joined at once.
const PAIRS: usize = 8;

/// The values at even and odd places.
#[inline(always)]
fn deinterleave(from: &[f32], even: &mut [f32], odd: &mut [f32]) {
    for ((pair, even), odd) in from.chunks_exact(2).zip(even).zip(odd) {
        *even = pair[0];
        *odd = pair[1];
    }
}

/// Values from each phase in turn: the n-th of `to` is the value n / phases of the phase n % phases, which begins at
/// `from[phase · pitch]`.
#[inline(always)]
pub(crate) fn interleave(from: &[f32], pitch: usize, phases: usize, to: &mut [f32]) {
    if phases == 1 {
        return to.copy_from_slice(&from[..to.len()]);
    }
    let pairs = to.len() / 2;
    if phases != 2 || pairs < PAIRS {
        for (index, to) in to.iter_mut().enumerate() {
            *to = from[index % phases * pitch + index / phases];
        }
        return;
    }
    let (even, odd) = from.split_at(pitch);
    if to.len() % 2 == 1 {
        to[2 * pairs] = even[pairs];
    }
    let mut index = 0;
    while index < pairs {
        // The last may be joined again.
        let place = index.min(pairs - PAIRS);
        let even: &[f32; PAIRS] = even[place..][..PAIRS].try_into().expect("as many");
        let odd: &[f32; PAIRS] = odd[place..][..PAIRS].try_into().expect("as many");
        let to: &mut [f32; 2 * PAIRS] = (&mut to[2 * place..][..2 * PAIRS]).try_into().expect("as many");
        let mut both = [0.0; 2 * PAIRS];
        for pair in 0..PAIRS {
            both[2 * pair] = even[pair];
            both[2 * pair + 1] = odd[pair];
        }
        *to = both;
        index += PAIRS;
    }
}
