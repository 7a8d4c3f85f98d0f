//! Self-attention within blocks of an image, with relative positions.

use burn::module::{Initializer, Module, Param};
use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Tensor};

use super::softmax;

/// Adds to the score of a query and a key the product of the query with a vector for their distance down and one for their
/// distance across (Bello et al. 2019, *Attention Augmented Convolutional Networks*).
#[derive(Module, Debug)]
pub(super) struct RelativePositions {
    /// `[2·window − 1, channel]`.
    height_rel: Param<Tensor<2>>,
    /// `[2·window − 1, channel]`.
    width_rel: Param<Tensor<2>>,
}

impl RelativePositions {
    /// For keys in squares of `window` places, and queries of so many channels.
    pub fn new(window: usize, channels: usize, device: &Device) -> Self {
        let drawn = || {
            let initializer = Initializer::Normal { mean: 0.0, std: (channels as f64).powf(-0.5) };
            initializer.init([2 * window - 1, channels], device)
        };
        Self { height_rel: drawn(), width_rel: drawn() }
    }

    /// Queries of square blocks, `[block, place, channel]`, → what is added to their scores, `[block, place, key]`.
    fn scores(&self, queries: Tensor<3>) -> Tensor<3> {
        let [blocks, places, channels] = queries.dims();
        let size = places.isqrt();
        let rows = queries.reshape([blocks, size, size, channels]);
        let lines = |x: Tensor<4>| x.reshape([blocks * size, size, channels]);
        let across = scores_along_lines(lines(rows.clone()), self.width_rel.val());
        let down = scores_along_lines(lines(rows.swap_dims(1, 2)), self.height_rel.val());
        let [_, _, window] = across.dims();
        let across = across.reshape([blocks, size, size, 1, window]);
        let down = down.reshape([blocks, size, size, window, 1]).swap_dims(1, 2);
        (down + across).reshape([blocks, places, window * window])
    }
}

/// Queries `[line, place, channel]` and vectors `[2·window − 1, channel]` → `[line, place, key]`: of place q with key k the
/// product with vector window − 1 + k − q.
fn scores_along_lines(queries: Tensor<3>, vectors: Tensor<2>) -> Tensor<3> {
    let ([lines, places, channels], [distances, _]) = (queries.dims(), vectors.dims());
    let window = distances.div_ceil(2);
    let products = queries.reshape([lines * places, channels]).matmul(vectors.transpose());
    // Of each place's row the key's score is wanted one column further left than of the one before. Cut into rows that are
    // one shorter, the row of place q begins q columns later.
    products
        .reshape([lines, places * distances])
        .pad([(0, window)], PadMode::Constant(0.0))
        .narrow(1, window - 1, places * (distances - 1))
        .reshape([lines, places, distances - 1])
        .narrow(2, 0, window)
}

/// Cuts images into square blocks, and lets each block's queries attend to the keys in it and up to `halo` places around
/// it, where what lies outside of the image counts as zeros: softmax(queries · keysᵀ / √channels + positions) · values.
///
/// Over `[image and head, channel, height, width]`, the same images in each; sides are multiples of `block`. Queries may have
/// fewer places, as many in each block, and the result has as many as they.
pub(super) fn attend_in_blocks(
    [queries, keys, values]: [Tensor<4>; 3],
    positions: &RelativePositions,
    block: usize,
    halo: usize,
) -> Tensor<4> {
    let [_, channels, height, width] = keys.dims();
    assert!(
        height.is_multiple_of(block) && width.is_multiple_of(block),
        "an image of {height} × {width} places does not fall into blocks of {block} × {block}"
    );
    let counts = [height / block, width / block];
    let [keys, values] = [keys, values].map(|x| tokens(with_halos(x, block, halo), counts));
    let [_, _, rows, _] = queries.dims();
    let queries = tokens(queries, counts);
    let scale = (channels as f64).powf(-0.5);
    let scores = queries.clone().mul_scalar(scale).matmul(keys.transpose()) + positions.scores(queries);
    image(softmax(scores).matmul(values), counts, rows / counts[0])
}

/// The blocks together with `halo` places on each side, side by side; so what lies near a border occurs repeatedly.
fn with_halos(x: Tensor<4>, block: usize, halo: usize) -> Tensor<4> {
    if halo == 0 {
        return x;
    }
    let overlapping = |x: Tensor<4>, axis: usize| {
        let count = (x.dims()[axis] - 2 * halo) / block;
        Tensor::cat((0..count).map(|index| x.clone().narrow(axis, index * block, block + 2 * halo)).collect(), axis)
    };
    let padded = x.pad([(halo, halo), (halo, halo)], PadMode::Constant(0.0));
    overlapping(overlapping(padded, 2), 3)
}

/// `[image, channel, height, width]` → `[image and block, place, channel]` with so many blocks down and across.
fn tokens(x: Tensor<4>, [down, across]: [usize; 2]) -> Tensor<3> {
    let [images, channels, height, width] = x.dims();
    let (rows, columns) = (height / down, width / across);
    let blocks = x.reshape([images, channels, down, rows, across, columns]).permute([0, 2, 4, 3, 5, 1]);
    blocks.reshape([images * down * across, rows * columns, channels])
}

/// The way back from [`tokens`] of square blocks.
fn image(x: Tensor<3>, [down, across]: [usize; 2], size: usize) -> Tensor<4> {
    let [blocks, _, channels] = x.dims();
    let images = blocks / (down * across);
    let rows = x.reshape([images, down, across, size, size, channels]).permute([0, 5, 1, 3, 2, 4]);
    rows.reshape([images, channels, down * size, across * size])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_that_of_the_distance() {
        let device = Device::flex();
        let vectors = Tensor::<2>::from_data([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0]], &device);
        let queries = Tensor::<3>::from_data([[[1.0], [1.0]], [[1.0], [10.0]]], &device);
        let scores = scores_along_lines(queries, vectors).into_data();
        scores.assert_eq(
            &[[[3.0f32, 4.0, 5.0, 6.0], [2.0, 3.0, 4.0, 5.0]], [[3.0, 4.0, 5.0, 6.0], [20.0, 30.0, 40.0, 50.0]]].into(),
            true,
        );
    }

    #[test]
    fn windows_overlap_and_end_in_zeros() {
        let device = Device::flex();
        let x = Tensor::<4>::from_data([[[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]]], &device);
        let windows = tokens(with_halos(x.clone(), 2, 1), [1, 2]).into_data();
        let windows: Vec<f32> = windows.try_into_vec().unwrap();
        let first = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.0, 5.0, 6.0, 7.0, 0.0, 0.0, 0.0, 0.0];
        let second = [0.0, 0.0, 0.0, 0.0, 2.0, 3.0, 4.0, 0.0, 6.0, 7.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(windows, [first, second].concat());
        image(tokens(x.clone(), [1, 2]), [1, 2], 2).into_data().assert_eq(&x.into_data(), true);
    }
}
