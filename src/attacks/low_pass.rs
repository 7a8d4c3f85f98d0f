//! The lowest frequencies of images in f32 on the CPU, by the products of matrices that the layers of networks are computed by.

use burn::tensor::Tensor;
use netkin_kernels::{Activation, Cache, Linear, Products, SwapAxes, run};

/// Keeps what lies in the span of some rows and of some columns.
#[derive(Debug, Clone)]
pub struct LowPass {
    /// From a plane's rows to their coefficients, and back.
    rows: [Factor; 2],
    /// From its columns to theirs, and back.
    columns: [Factor; 2],
}

/// A matrix by which all planes are multiplied, `[1, 1, output, input]`.
#[derive(Debug, Clone)]
struct Factor {
    matrix: Tensor<4>,
    /// Holds what the kernels make of it.
    cache: Cache,
}

impl LowPass {
    /// Of orthonormal `rows`, `[1, 1, count, height]`, and `columns`, `[1, 1, count, width]`, each with its transpose behind it.
    pub fn new(rows: [Tensor<4>; 2], columns: [Tensor<4>; 2]) -> Self {
        let factor = |matrix| Factor { matrix, cache: Cache::default() };
        Self { rows: rows.map(factor), columns: columns.map(factor) }
    }

    /// The filtered images, `[batch, channel, height, width]`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let ([to_rows, from_rows], [to_columns, from_columns]) = (&self.rows, &self.columns);
        // The fewer columns are left, the less there is to swap.
        let strips = swapped(to_columns.along(x.reshape([batch * channels, height, width])));
        let strips = swapped(from_rows.along(to_rows.along(strips)));
        from_columns.along(strips).reshape([batch, channels, height, width])
    }
}

impl Factor {
    /// `[plane, row, input]` to `[plane, row, output]`.
    fn along(&self, planes: Tensor<3>) -> Tensor<3> {
        let [_, _, outputs, inputs] = self.matrix.dims();
        let weight: Tensor<2> = self.matrix.clone().reshape([outputs, inputs]);
        let product = Linear {
            bias: false,
            activation: Activation::Identity,
            scale: false,
            residual: false,
            trainable: false,
            products: Products::F32,
            cache: self.cache.clone(),
        };
        run(product, vec![planes.into_dispatch(), weight.into_dispatch()])
    }
}

/// `[plane, row, column]` to `[plane, column, row]`.
fn swapped(planes: Tensor<3>) -> Tensor<3> {
    run(SwapAxes, vec![planes.into_dispatch()])
}
