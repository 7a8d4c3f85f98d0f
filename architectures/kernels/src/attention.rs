//! Multi-head self-attention (Vaswani et al. 2017) between the linear maps around it.

use std::ops::Range;

use pulp::Simd;
use rayon::current_num_threads;

use crate::array::{Array, Output, Pointer};
use crate::bf16::Unit;
use crate::operation::{Operation, Saved};
use crate::products::Products;
use crate::simd::exp;
use crate::small_product::{PADDING, Product, ROWS};
use crate::softmax::exponentials;
use crate::transposition::transpose;
use crate::vectors::{Body, Part, Scratch, clear, each, parts, sums};

/// softmax(scale · q·kᵀ + bias)·v for every image and head.
///
/// Inputs: queries, keys and values as one linear map gives them, `[batch, token, 3 · channel]`, of which the last axis is
/// `[3, head, channel / head]`; and, if there is one, the bias `[group, head, token, token]` or `[head, token, token]`,
/// where image i belongs to group i modulo the number of groups (the windows of an image, say). Output: `[batch, token,
/// channel]`.
///
/// Gradients flow to both. The scores are computed again in the backward pass, from two numbers per query.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Into how many parts the channels are divided.
    pub heads: usize,
    /// What the scores are multiplied by; usually 1/√(channel / head).
    pub scale: f64,
    /// How queries and keys, probabilities and values are multiplied.
    pub products: Products,
}

impl Operation for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn multiplies(&self) -> bool {
        true
    }

    fn forward(&self, inputs: Vec<Array>, keep: bool) -> (Array, Saved) {
        let sizes = Sizes::new(self, &inputs[0], inputs.get(1));
        let Sizes { batch, tokens, heads, size, .. } = sizes;
        let mut output = Output::new(&[batch, tokens, heads * size]);
        let mut statistics = keep.then(|| Output::new(&[batch, heads, tokens, 2]));
        // An image's head is a task; where these are few, the queries are divided as well.
        let blocks = tokens.div_ceil(QUERIES);
        let parts = (4 * current_num_threads()).div_ceil((batch * heads).max(1)).clamp(1, blocks.max(1));
        let body = Forward {
            sizes,
            scale: self.scale as f32,
            parts,
            qkv: Pointer::reading(inputs[0].values()),
            bias: inputs.get(1).map(|bias| Pointer::reading(bias.values())),
            output: output.pointer(),
            statistics: statistics.as_mut().map(Output::pointer),
        };
        // SAFETY: every task writes its own queries' part of the output, and all are written.
        unsafe {
            each(batch * heads * parts, sizes.work(), &body);
            let saved = match statistics {
                Some(statistics) => {
                    let mut saved = inputs;
                    saved.push(statistics.finish());
                    saved
                }
                None => vec![],
            };
            (output.finish(), saved)
        }
    }

    fn backward(&self, gradient: Array, mut saved: Saved, wanted: &[bool]) -> Vec<Option<Array>> {
        let statistics = saved.pop().expect("kept by the forward pass");
        let (qkv, bias) = (&saved[0], saved.get(1));
        let sizes = Sizes::new(self, qkv, bias);
        let mut to_qkv = Output::new(qkv.shape());
        let mut to_bias = bias.filter(|_| wanted[1]).map(|bias| (vec![0.0; bias.values().len()], bias.shape()));
        // Images that share a bias are one task if its gradient is wanted, so that it has one order.
        let images_per_task = match &to_bias {
            Some(_) => sizes.batch.div_ceil(sizes.groups),
            None => 1,
        };
        let body = Back {
            sizes,
            scale: self.scale as f32,
            qkv: Pointer::reading(qkv.values()),
            bias: bias.map(|bias| Pointer::reading(bias.values())),
            statistics: Pointer::reading(statistics.values()),
            gradient: Pointer::reading(gradient.values()),
            to_qkv: to_qkv.pointer(),
            to_bias: to_bias.as_mut().map(|(values, _)| Pointer::to(values)),
        };
        let first_images = match images_per_task {
            1 => sizes.batch,
            _ => sizes.groups,
        };
        // SAFETY: every task writes to its own heads' part of the gradients, and all of that to qkv is written.
        let to_qkv = unsafe {
            each(first_images * sizes.heads, 3 * sizes.work(), &body);
            to_qkv.finish()
        };
        let mut gradients = vec![Some(to_qkv)];
        if bias.is_some() {
            gradients.push(to_bias.map(|(values, shape)| Array::from_vec(values, shape)));
        }
        gradients
    }
}

/// Queries whose scores are in memory at a time.
const QUERIES: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    /// Channels of a head.
    size: usize,
    /// Groups of the bias.
    groups: usize,
    /// Tokens and channels of a head with padding.
    padded_tokens: usize,
    padded_size: usize,
    unit: Option<Unit>,
}

impl Sizes {
    fn new(attention: &Attention, qkv: &Array, bias: Option<&Array>) -> Self {
        let [batch, tokens, channels] = qkv.dims();
        let heads = attention.heads;
        assert!(channels % (3 * heads) == 0, "{channels} channels are no queries, keys and values of {heads} heads");
        let size = channels / (3 * heads);
        let groups = bias.map_or(1, |bias| {
            let per_group = heads * tokens * tokens;
            let len = bias.values().len();
            assert!(len > 0 && len % per_group == 0, "the bias {:?} belongs to other tokens or heads", bias.shape());
            len / per_group
        });
        Self {
            batch,
            tokens,
            heads,
            size,
            groups,
            padded_tokens: tokens.next_multiple_of(PADDING),
            padded_size: size.next_multiple_of(PADDING),
            unit: attention.products.unit(),
        }
    }

    /// Multiplications of the forward pass.
    fn work(&self) -> usize {
        2 * self.batch * self.heads * self.tokens * self.tokens * self.size
    }

    /// From one token to the next in qkv.
    #[inline(always)]
    fn step(&self) -> usize {
        3 * self.heads * self.size
    }

    /// Where a head's queries (part 0), keys (1) or values (2) of an image begin in qkv.
    #[inline(always)]
    fn start(&self, image: usize, head: usize, part: usize) -> usize {
        image * self.tokens * self.step() + (part * self.heads + head) * self.size
    }

    /// From one token to the next in the output.
    #[inline(always)]
    fn output_step(&self) -> usize {
        self.heads * self.size
    }

    #[inline(always)]
    fn output_start(&self, image: usize, head: usize) -> usize {
        image * self.tokens * self.output_step() + head * self.size
    }

    /// Where a head's bias begins.
    #[inline(always)]
    fn bias_start(&self, image: usize, head: usize) -> usize {
        (image % self.groups * self.heads + head) * self.tokens * self.tokens
    }

    /// Copies rows of a head's channels, times `factor`, to padded rows; so many more rows are zero.
    #[inline(always)]
    unsafe fn pack<S: Simd>(
        &self,
        simd: S,
        [from, step]: [usize; 2],
        source: Pointer,
        [rows, padded_rows]: [usize; 2],
        factor: f32,
        to: *mut f32,
    ) {
        let factor = simd.splat_f32s(factor);
        // SAFETY: the caller's promise that source and goal have so many rows.
        unsafe {
            for row in 0..rows {
                let from = source.at(from + row * step);
                let to = to.add(row * self.padded_size);
                parts(
                    simd,
                    self.size,
                    #[inline(always)]
                    |part| part.store(simd, to, simd.mul_f32s(part.load(simd, from), factor)),
                );
                clear(to.add(self.size), self.padded_size - self.size);
            }
            let end = to.add(rows * self.padded_size);
            clear(end, (padded_rows - rows) * self.padded_size);
        }
    }

    /// A head's channels as rows over the tokens, padded.
    #[inline(always)]
    unsafe fn pack_transposed(&self, source: *const f32, to: *mut f32) {
        // SAFETY: the caller's promise that source and goal exist.
        unsafe {
            transpose(source, self.step(), [self.tokens, self.size], to, self.padded_tokens);
            for channel in 0..self.size {
                let end = to.add(channel * self.padded_tokens + self.tokens);
                clear(end, self.padded_tokens - self.tokens);
            }
        }
    }

    /// Copies padded rows, times `factor`, to a head's channels.
    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, simd: S, from: *const f32, rows: usize, factor: f32, to: *mut f32, step: usize) {
        let factor = simd.splat_f32s(factor);
        for row in 0..rows {
            // SAFETY: the caller's promise that source and goal have so many rows.
            unsafe {
                let from = from.add(row * self.padded_size);
                let to = to.add(row * step);
                parts(
                    simd,
                    self.size,
                    #[inline(always)]
                    |part| part.store(simd, to, simd.mul_f32s(part.load(simd, from), factor)),
                );
            }
        }
    }

    /// scores = rows · columns, from packed rows `[rows, size]` and transposed packed `columns`.
    #[inline(always)]
    fn scores(&self, rows: usize, a: *const f32, columns: *const f32, scores: *mut f32) -> Product {
        Product {
            rows: rows.next_multiple_of(ROWS),
            columns: self.padded_tokens,
            depth: self.size,
            a,
            a_row: self.padded_size,
            a_step: 1,
            b: columns,
            b_step: self.padded_tokens,
            c: scores,
            c_row: self.padded_tokens,
            add: false,
            unit: self.unit,
        }
    }

    /// Rows of scores times packed rows of all tokens.
    #[inline(always)]
    fn mixed(&self, rows: usize, scores: *const f32, packed: *const f32, to: *mut f32) -> Product {
        Product {
            rows: rows.next_multiple_of(ROWS),
            columns: self.padded_size,
            depth: self.tokens,
            a: scores,
            a_row: self.padded_tokens,
            a_step: 1,
            b: packed,
            b_step: self.padded_size,
            c: to,
            c_row: self.padded_size,
            add: false,
            unit: self.unit,
        }
    }

    /// Transposed rows of scores times as many packed rows: one row for each token.
    #[inline(always)]
    fn collected(&self, rows: usize, scores: *const f32, packed: *const f32, to: *mut f32, add: bool) -> Product {
        Product {
            rows: self.tokens.next_multiple_of(ROWS),
            columns: self.padded_size,
            depth: rows,
            a: scores,
            a_row: 1,
            a_step: self.padded_tokens,
            b: packed,
            b_step: self.padded_size,
            c: to,
            c_row: self.padded_size,
            add,
            unit: self.unit,
        }
    }
}

/// Adds a row of the bias.
#[inline(always)]
unsafe fn add_bias<S: Simd>(simd: S, len: usize, scores: *mut f32, bias: *const f32) {
    parts(
        simd,
        len,
        #[inline(always)]
        |part| {
            // SAFETY: the caller's promise that both rows exist.
            unsafe {
                let sum = simd.add_f32s(part.load(simd, scores), part.load(simd, bias));
                part.store(simd, scores, sum);
            }
        },
    );
}

struct Forward {
    sizes: Sizes,
    scale: f32,
    /// Into how many tasks a head's queries are divided.
    parts: usize,
    qkv: Pointer,
    bias: Option<Pointer>,
    output: Pointer,
    statistics: Option<Pointer>,
}

impl Body for Forward {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let sizes = &self.sizes;
        let per_head = sizes.padded_tokens * sizes.padded_size;
        let lengths = [
            per_head,
            per_head,
            QUERIES * sizes.padded_size,
            QUERIES * sizes.padded_tokens,
            QUERIES * sizes.padded_size,
        ];
        let blocks = sizes.tokens.div_ceil(QUERIES);
        for task in range {
            let (index, part) = (task / self.parts, task % self.parts);
            let (image, head) = (index / sizes.heads, index % sizes.heads);
            let of_part = blocks * part / self.parts..blocks * (part + 1) / self.parts;
            let scratch = Scratch::new(lengths);
            let [keys, values, queries, scores, mixed] = scratch.pieces;
            // SAFETY: the scratch is as large as the sizes say; the head and its queries belong to this task.
            unsafe {
                sizes.pack_transposed(self.qkv.at(sizes.start(image, head, 1)), keys);
                let start = [sizes.start(image, head, 2), sizes.step()];
                let all = [sizes.tokens, sizes.padded_tokens];
                sizes.pack(simd, start, self.qkv, all, 1.0, values);
                for block in of_part {
                    let first = block * QUERIES;
                    let rows = QUERIES.min(sizes.tokens - first);
                    let start = sizes.start(image, head, 0) + first * sizes.step();
                    let padded = [rows, rows.next_multiple_of(ROWS)];
                    let start = [start, sizes.step()];
                    sizes.pack(simd, start, self.qkv, padded, self.scale, queries);
                    sizes.scores(rows, queries, keys, scores).compute(simd);
                    let mut inverses = [0.0; QUERIES];
                    for (row, inverse) in inverses[..rows].iter_mut().enumerate() {
                        let scores = scores.add(row * sizes.padded_tokens);
                        if let Some(bias) = self.bias {
                            let row = (first + row) * sizes.tokens;
                            let bias = bias.at(sizes.bias_start(image, head) + row);
                            add_bias(simd, sizes.tokens, scores, bias);
                        }
                        let (largest, sum) = exponentials(simd, sizes.tokens, scores, scores);
                        *inverse = 1.0 / sum;
                        if let Some(statistics) = self.statistics {
                            let query = index * sizes.tokens + first + row;
                            *statistics.at(2 * query) = largest;
                            *statistics.at(2 * query + 1) = *inverse;
                        }
                    }
                    sizes.mixed(rows, scores, values, mixed).compute(simd);
                    let step = sizes.output_step();
                    let to = sizes.output_start(image, head) + first * step;
                    for (row, &inverse) in inverses[..rows].iter().enumerate() {
                        let from = mixed.add(row * sizes.padded_size);
                        let to = self.output.at(to + row * step);
                        sizes.unpack(simd, from, 1, inverse, to, step);
                    }
                }
            }
        }
    }
}

struct Back {
    sizes: Sizes,
    scale: f32,
    qkv: Pointer,
    bias: Option<Pointer>,
    statistics: Pointer,
    gradient: Pointer,
    to_qkv: Pointer,
    to_bias: Option<Pointer>,
}

impl Body for Back {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        let sizes = &self.sizes;
        for task in range {
            let (first, head) = (task / sizes.heads, task % sizes.heads);
            // SAFETY: the head of these images belongs to this task.
            unsafe {
                match self.to_bias {
                    None => self.head(simd, first, head),
                    Some(_) => {
                        for image in (first..sizes.batch).step_by(sizes.groups) {
                            self.head(simd, image, head);
                        }
                    }
                }
            }
        }
    }
}

impl Back {
    #[inline(always)]
    unsafe fn head<S: Simd>(&self, simd: S, image: usize, head: usize) {
        let sizes = &self.sizes;
        let per_head = sizes.padded_tokens * sizes.padded_size;
        let per_block = QUERIES * sizes.padded_size;
        let lengths = [
            per_head,
            per_head,
            per_head,
            per_block,
            per_block,
            QUERIES * sizes.padded_tokens,
            QUERIES * sizes.padded_tokens,
            per_block,
            per_head,
            per_head,
        ];
        let scratch = Scratch::new(lengths);
        let [keys_transposed, values_transposed, keys, queries, gradients, ..] = scratch.pieces;
        let [.., scores, slopes, to_queries, to_keys, to_values] = scratch.pieces;
        // SAFETY: the scratch is as large as the sizes say; the head belongs to this task.
        unsafe {
            let starts = [0, 1, 2].map(|part| sizes.start(image, head, part));
            let [query_start, key_start, value_start] = starts;
            sizes.pack_transposed(self.qkv.at(key_start), keys_transposed);
            sizes.pack_transposed(self.qkv.at(value_start), values_transposed);
            let all = [sizes.tokens, sizes.padded_tokens];
            sizes.pack(simd, [key_start, sizes.step()], self.qkv, all, 1.0, keys);
            for first in (0..sizes.tokens).step_by(QUERIES) {
                let rows = QUERIES.min(sizes.tokens - first);
                let padded = [rows, rows.next_multiple_of(ROWS)];
                let start = [query_start + first * sizes.step(), sizes.step()];
                sizes.pack(simd, start, self.qkv, padded, self.scale, queries);
                let output_step = sizes.output_step();
                let start = sizes.output_start(image, head) + first * output_step;
                let start = [start, output_step];
                sizes.pack(simd, start, self.gradient, padded, 1.0, gradients);
                sizes.scores(rows, queries, keys_transposed, scores).compute(simd);
                sizes.scores(rows, gradients, values_transposed, slopes).compute(simd);
                for row in 0..rows {
                    let scores = scores.add(row * sizes.padded_tokens);
                    let slopes = slopes.add(row * sizes.padded_tokens);
                    self.row(simd, [image, head, first + row], scores, slopes);
                }
                let add = first > 0;
                sizes.collected(rows, scores, gradients, to_values, add).compute(simd);
                sizes.collected(rows, slopes, queries, to_keys, add).compute(simd);
                sizes.mixed(rows, slopes, keys, to_queries).compute(simd);
                let to = self.to_qkv.at(query_start + first * sizes.step());
                sizes.unpack(simd, to_queries, rows, self.scale, to, sizes.step());
            }
            let to = self.to_qkv.at(key_start);
            sizes.unpack(simd, to_keys, sizes.tokens, 1.0, to, sizes.step());
            let to = self.to_qkv.at(value_start);
            sizes.unpack(simd, to_values, sizes.tokens, 1.0, to, sizes.step());
        }
    }

    /// One query: its scores become probabilities, and the gradients to these the gradients to the scores.
    #[inline(always)]
    unsafe fn row<S: Simd>(&self, simd: S, [image, head, query]: [usize; 3], scores: *mut f32, slopes: *mut f32) {
        let sizes = &self.sizes;
        let of_bias = sizes.bias_start(image, head) + query * sizes.tokens;
        // SAFETY: the rows exist and belong to this task.
        unsafe {
            if let Some(bias) = self.bias {
                add_bias(simd, sizes.tokens, scores, bias.at(of_bias));
            }
            let index = (image * sizes.heads + head) * sizes.tokens + query;
            let largest = simd.splat_f32s(*self.statistics.at(2 * index));
            let inverse = simd.splat_f32s(*self.statistics.at(2 * index + 1));
            let [mean] = sums(
                simd,
                sizes.tokens,
                #[inline(always)]
                |[sum], part: Part| {
                    let shifted = simd.sub_f32s(part.load(simd, scores), largest);
                    let probability = simd.mul_f32s(exp(simd, shifted), inverse);
                    part.store(simd, scores, probability);
                    // Zero in lanes without values.
                    [simd.mul_add_f32s(probability, part.load(simd, slopes), sum)]
                },
            );
            let mean = simd.splat_f32s(mean);
            parts(
                simd,
                sizes.tokens,
                #[inline(always)]
                |part| {
                    let centred = simd.sub_f32s(part.load(simd, slopes), mean);
                    let slope = simd.mul_f32s(centred, part.load(simd, scores));
                    part.store(simd, slopes, slope);
                    if let Some(to_bias) = self.to_bias {
                        let to_bias = to_bias.at(of_bias);
                        let sum = simd.add_f32s(part.load(simd, to_bias), slope);
                        part.store(simd, to_bias, sum);
                    }
                },
            );
        }
    }
}
