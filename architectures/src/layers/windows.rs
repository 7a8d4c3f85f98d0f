//! Windows of an image's tokens.

use std::sync::Arc;

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use netkin_kernels::{GatherRows, RowOrder};

use super::{Linear, biased_self_attention};

/// Windows over a grid of tokens, side by side, and the way into them and back. Where the grid is no multiple of the window,
/// zeros are appended below and to the right.
#[derive(Debug, Clone)]
pub struct Windows {
    /// Rows and columns of a window, in tokens.
    pub size: [usize; 2],
    /// How many there are.
    pub count: usize,
    into: Arc<RowOrder>,
    back: Arc<RowOrder>,
    mask: Option<Arc<[f32]>>,
}

impl Windows {
    /// Over a grid of `[rows, columns]`, which is rolled by `shift` upwards and to the left first. The size of a window and the
    /// shift are rows and columns too.
    pub fn new([rows, columns]: [usize; 2], size: [usize; 2], shift: [usize; 2]) -> Self {
        let [height, width] = size;
        let padded = [rows.next_multiple_of(height), columns.next_multiple_of(width)];
        let [down, across] = [padded[0] / height, padded[1] / width];
        let mut sources = Vec::with_capacity(padded[0] * padded[1]);
        for (window, inside) in
            (0..across * down).flat_map(|window| (0..height * width).map(move |inside| (window, inside)))
        {
            let row = window / across * height + inside / width;
            let column = window % across * width + inside % width;
            let within = row < rows && column < columns;
            sources.push(within.then(|| (row + shift[0]) % rows * columns + (column + shift[1]) % columns));
        }
        let into = RowOrder::new(rows * columns, sources);
        let back = Arc::new(into.inverse());
        let mask = (shift != [0; 2]).then(|| mask(padded, size, shift));
        Self { size, count: across * down, into: Arc::new(into), back, mask }
    }

    /// Tokens of a window.
    pub fn tokens(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// `[batch, row · column, channel]` → `[batch · window, token, channel]`.
    pub fn partition(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, _, channels] = x.dims();
        gather_rows(x, &self.into).reshape([batch * self.count, self.tokens(), channels])
    }

    /// The way back.
    pub fn merge(&self, x: Tensor<3>) -> Tensor<3> {
        let [windows, tokens, channels] = x.dims();
        gather_rows(x.reshape([windows / self.count, self.count * tokens, channels]), &self.back)
    }

    /// The bias of scores within windows, `[1 or window, head, query, key]`, from one for each relative position of query and
    /// key, `[(2 · rows − 1) · (2 · columns − 1), head]`. It hides from each other what is neighbours by the rolling only.
    pub fn bias(&self, table: Tensor<2>) -> Tensor<4> {
        let ([_, heads], [height, width], tokens) = (table.dims(), self.size, self.tokens());
        let (device, dtype) = (table.device().without_autodiff(), table.dtype());
        let position = |pair: usize| {
            let (query, key) = (pair / tokens, pair % tokens);
            let down = query / width + height - 1 - key / width;
            let across = query % width + width - 1 - key % width;
            (down * (2 * width - 1) + across) as i64
        };
        let positions: Vec<i64> = (0..tokens * tokens).map(position).collect();
        let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [tokens * tokens]), &device);
        let bias = table.select(0, positions).swap_dims(0, 1).reshape([1, heads, tokens, tokens]);
        match &self.mask {
            None => bias,
            Some(mask) => {
                let mask = TensorData::new(mask.to_vec(), [self.count, 1, tokens, tokens]);
                bias + Tensor::<4>::from_data(mask, (&device, dtype))
            }
        }
    }
}

/// −100 where two tokens of a window are neighbours by the rolling only, else 0: `[window, token, token]`.
fn mask([rows, columns]: [usize; 2], [height, width]: [usize; 2], shift: [usize; 2]) -> Arc<[f32]> {
    let band = |place: usize, end: usize, side: usize, shift: usize| {
        usize::from(place >= end - side) + usize::from(place >= end - shift)
    };
    let across = columns / width;
    let region = |window: usize, token: usize| {
        let (row, column) = (window / across * height + token / width, window % across * width + token % width);
        3 * band(row, rows, height, shift[0]) + band(column, columns, width, shift[1])
    };
    let of_window = |window: usize| {
        let regions: Vec<usize> = (0..height * width).map(|token| region(window, token)).collect();
        let hidden = |pair: usize| regions[pair / regions.len()] != regions[pair % regions.len()];
        (0..regions.len() * regions.len()).map(|pair| if hidden(pair) { -100.0 } else { 0.0 }).collect::<Vec<f32>>()
    };
    (0..rows / height * across).flat_map(of_window).collect()
}

/// `[batch, row, channel]` in another order of the rows; rows without a source are zero.
pub fn gather_rows(x: Tensor<3>, order: &Arc<RowOrder>) -> Tensor<3> {
    if netkin_kernels::applies(&x) {
        return netkin_kernels::run(GatherRows(Arc::clone(order)), vec![x.into_dispatch()]);
    }
    let [batch, rows, channels] = x.dims();
    let device = x.device().without_autodiff();
    let sources: Vec<i64> = order.sources().iter().map(|source| source.unwrap_or(rows) as i64).collect();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(sources, [order.sources().len()]), &device);
    let zeros = Tensor::zeros([batch, 1, channels], (&device, x.dtype()));
    Tensor::cat(vec![x, zeros], 1).select(1, indices)
}

/// Multi-head self-attention within windows, with a learnt bias for each relative position (Liu et al. 2021, Swin).
#[derive(Module, Debug)]
pub struct WindowAttention {
    /// `[(2 · rows − 1) · (2 · columns − 1), head]` of a window.
    relative_position_bias_table: Param<Tensor<2>>,
    qkv: Linear,
    proj: Linear,
    heads: usize,
    #[module(skip)]
    windows: Windows,
}

impl WindowAttention {
    /// `heads` must divide `channels`.
    pub fn new(channels: usize, heads: usize, windows: Windows, device: &Device) -> Self {
        let [down, across] = windows.size.map(|side| 2 * side - 1);
        Self {
            relative_position_bias_table: Initializer::Normal { mean: 0.0, std: 0.02 }
                .init([down * across, heads], device),
            qkv: Linear::new(channels, 3 * channels, device),
            proj: Linear::new(channels, channels, device),
            heads,
            windows,
        }
    }

    /// shortcut + attention(x) over `[batch, row · column, channel]`.
    pub fn forward_residual(&self, x: Tensor<3>, shortcut: Tensor<3>) -> Tensor<3> {
        let qkv = self.qkv.forward(self.windows.partition(x));
        let bias = self.windows.bias(self.relative_position_bias_table.val());
        let mixed = self.windows.merge(biased_self_attention(qkv, self.heads, Some(bias)));
        self.proj.forward_residual(mixed, None, shortcut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_come_back() {
        let device = Device::flex();
        for (grid, size, shift) in [
            ([4, 4], [2, 2], [0, 0]),
            ([4, 4], [2, 2], [1, 1]),
            ([3, 5], [2, 2], [1, 1]),
            ([7, 7], [7, 7], [0, 0]),
            ([5, 3], [2, 3], [1, 0]),
        ] {
            let windows = Windows::new(grid, size, shift);
            let tokens = grid[0] * grid[1];
            let x = Tensor::<1, Int>::arange(0..2 * tokens as i64 * 3, &device).float().reshape([2, tokens, 3]);
            let inside = windows.partition(x.clone());
            assert_eq!(inside.dims(), [2 * windows.count, size[0] * size[1], 3]);
            let difference = (windows.merge(inside) - x).abs().max().into_scalar::<f32>();
            assert_eq!(difference, 0.0, "{grid:?} {size:?} {shift:?}");
        }
    }

    #[test]
    fn a_window_holds_neighbours() {
        let device = Device::flex();
        let x = Tensor::<1, Int>::arange(0..16, &device).float().reshape([1, 16, 1]);
        let first = |shift| {
            let windows = Windows::new([4, 4], [2, 2], shift);
            windows.partition(x.clone()).narrow(0, 0, 1).into_data().try_into_vec::<f32>().unwrap()
        };
        assert_eq!(first([0, 0]), [0.0, 1.0, 4.0, 5.0]);
        assert_eq!(first([1, 1]), [5.0, 6.0, 9.0, 10.0]);
        assert_eq!(first([1, 0]), [4.0, 5.0, 8.0, 9.0]);
    }

    #[test]
    fn a_bias_is_that_of_the_distance_in_rows_and_columns() {
        let device = Device::flex();
        // Two rows and one column: three distances down, one across. The grid is rolled by a row, so that in the last window
        // the first row is a neighbour of the last.
        let windows = Windows::new([4, 1], [2, 1], [1, 0]);
        let bias = windows.bias(Tensor::<2>::from_data([[1.0], [2.0], [3.0]], &device));
        assert_eq!(bias.dims(), [2, 1, 2, 2]);
        let values = bias.into_data().try_into_vec::<f32>().unwrap();
        assert_eq!(values, [2.0, 1.0, 3.0, 2.0, 2.0, -99.0, -97.0, 2.0]);
    }
}
