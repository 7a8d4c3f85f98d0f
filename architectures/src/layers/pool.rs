//! Pooling over `[batch, channel, height, width]`.

use burn::tensor::ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions};
use burn::tensor::{Tensor, TensorData, module};
use netkin_kernels as kernels;

/// The largest value of each square window; outside the image nothing counts.
pub fn max_pool(x: Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Tensor<4> {
    maxima(x, kernels::MaxPool { kernel, stride, padding, ceil: false })
}

/// As [`max_pool`] without padding, but with the windows that begin inside and end outside of the image (PyTorch:
/// `ceil_mode=True`).
pub fn max_pool_ceil(x: Tensor<4>, kernel: usize, stride: usize) -> Tensor<4> {
    maxima(x, kernels::MaxPool { kernel, stride, padding: 0, ceil: true })
}

fn maxima(x: Tensor<4>, pool: kernels::MaxPool) -> Tensor<4> {
    if kernels::applies(&x) {
        return kernels::run(pool, vec![x.into_dispatch()]);
    }
    let mut options = MaxPoolOptions::new([pool.kernel; 2]);
    options.stride = [pool.stride; 2];
    options.padding = [(pool.padding, pool.padding); 2];
    options.ceil_mode = pool.ceil;
    module::max_pool2d(x, options)
}

/// The mean of each square window without padding. Windows that begin inside and end outside of the image are kept, and
/// average what lies inside (PyTorch: `ceil_mode=True, count_include_pad=False`).
pub fn average_pool(x: Tensor<4>, kernel: usize, stride: usize) -> Tensor<4> {
    means(x, kernels::AveragePool { kernel, stride, padding: 0, ceil: true, less_middle: false })
}

/// As [`average_pool`], but without the windows that end outside of the image.
pub fn average_pool_floor(x: Tensor<4>, kernel: usize, stride: usize) -> Tensor<4> {
    means(x, kernels::AveragePool { kernel, stride, padding: 0, ceil: false, less_middle: false })
}

/// The mean of what lies inside of the image of each square window of odd size around a place; the size of the image stays
/// (PyTorch: `stride=1, padding=kernel // 2, count_include_pad=False`).
pub fn average_pool_inside(x: Tensor<4>, kernel: usize) -> Tensor<4> {
    means(x, around(kernel))
}

/// [`average_pool_inside`] less x, the token mixer of PoolFormer (Yu et al. 2022).
pub fn average_pool_less_middle(x: Tensor<4>, kernel: usize) -> Tensor<4> {
    if kernels::applies(&x) {
        let pool = kernels::AveragePool { less_middle: true, ..around(kernel) };
        return kernels::run(pool, vec![x.into_dispatch()]);
    }
    means(x.clone(), around(kernel)) - x
}

/// Windows of odd size around each place.
fn around(kernel: usize) -> kernels::AveragePool {
    kernels::AveragePool { kernel, stride: 1, padding: kernel / 2, ceil: false, less_middle: false }
}

fn means(x: Tensor<4>, pool: kernels::AveragePool) -> Tensor<4> {
    if kernels::applies(&x) {
        return kernels::run(pool, vec![x.into_dispatch()]);
    }
    let mut options = AvgPoolOptions::new([pool.kernel; 2]);
    options.stride = [pool.stride; 2];
    options.padding = [(pool.padding, pool.padding); 2];
    options.ceil_mode = pool.ceil;
    options.count_include_pad = false;
    module::avg_pool2d(x, options)
}

/// The mean of each 3×3 window, beyond the border of the image zeros that count (PyTorch: `padding=1`).
pub fn average_pool_3x3(x: Tensor<4>, stride: usize) -> Tensor<4> {
    let [_, channels, ..] = x.dims();
    let device = x.device().without_autodiff();
    let kernel = Tensor::<4>::full([channels, 1, 3, 3], 1.0 / 9.0, (&device, x.dtype()));
    depthwise(x, kernel, stride, 1)
}

/// `[batch, channel, height, width]` → `[batch, channel]`, the mean over the places.
pub fn global_average_pool(x: Tensor<4>) -> Tensor<2> {
    if kernels::applies(&x) {
        return kernels::run(kernels::GlobalAveragePool, vec![x.into_dispatch()]);
    }
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels])
}

/// x · gate with one gate per channel, `[batch, channel]`.
pub fn gate(x: Tensor<4>, gate: Tensor<2>) -> Tensor<4> {
    if kernels::applies(&x) {
        return kernels::run(kernels::Gate, vec![x.into_dispatch(), gate.into_dispatch()]);
    }
    let [batch, channels, _, _] = x.dims();
    x * gate.reshape([batch, channels, 1, 1])
}

/// Low-pass filtering by the binomial kernel (1 2 1)/4 in both directions on a mirrored border, and every `stride`-th
/// place of the result: downsampling that does not alias (Zhang 2019).
pub fn blur_pool(x: Tensor<4>, stride: usize) -> Tensor<4> {
    let [_, channels, height, width] = x.dims();
    let mirrored = |x: Tensor<4>, axis: usize, size: usize| {
        let before = x.clone().narrow(axis, 1, 1);
        let after = x.clone().narrow(axis, size - 2, 1);
        Tensor::cat(vec![before, x, after], axis)
    };
    let x = mirrored(mirrored(x, 2, height), 3, width);
    let row = [1.0f64, 2.0, 1.0];
    let kernel: Vec<f64> = row.iter().flat_map(|a| row.iter().map(move |b| a * b / 16.0)).collect();
    let device = x.device().without_autodiff();
    let kernel =
        Tensor::<4>::from_data(TensorData::new(kernel, [1, 1, 3, 3]), (&device, x.dtype())).repeat_dim(0, channels);
    depthwise(x, kernel, stride, 0)
}

/// The same kernel, `[channel, 1, row, column]`, over each channel by itself.
fn depthwise(x: Tensor<4>, kernel: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    let [_, channels, ..] = x.dims();
    if kernels::applies(&x) {
        let convolution = kernels::Convolution {
            stride: [stride; 2],
            padding: [(padding, padding); 2],
            groups: channels,
            ..kernels::Convolution::pointwise(kernels::Cache::default())
        };
        return kernels::run(convolution, vec![x.into_dispatch(), kernel.into_dispatch()]);
    }
    let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], channels);
    module::conv2d(x, kernel, None, options)
}
