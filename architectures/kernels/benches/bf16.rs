//! Products in f32 and with factors rounded to bf16, at the sizes of ResNet-50, ConvNeXt-T and ViT-S with eight images; on one
//! thread, unless `THREADS` says more.
//!
//! Where the processor multiplies no bf16, only f32 is timed.

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput};
use netkin_kernels::{Activation, Array, Attention, Cache, Convolution, Linear, Operation, Products};

fn random(shape: &[usize]) -> Array {
    let len = shape.iter().product::<usize>();
    let values = Tensor::<1>::random([len], Distribution::Uniform(-1.0, 1.0), &Device::flex());
    Array::from_vec(values.into_data().try_into_vec().expect("f32"), shape)
}

/// Times both ways; a "step" is the forward pass and the input gradient. `products` are multiplications of the forward pass, of
/// which criterion says how many thousands of millions pass in a second.
fn compare<O: Operation>(
    criterion: &mut Criterion,
    name: &str,
    inputs: &[Array],
    products: usize,
    operation: impl Fn(Products) -> O,
) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    let ways = [Some(("f32", Products::F32)), Products::bf16_unit().map(|unit| (unit, Products::Bf16))];
    for (way, products_in) in ways.into_iter().flatten() {
        let operation = operation(products_in);
        let (y, _) = operation.forward(inputs.to_vec(), false);
        let gradient = random(y.shape());
        let wanted: Vec<bool> = (0..inputs.len()).map(|index| index == 0).collect();
        group.throughput(Throughput::Elements(products as u64));
        group.bench_function(BenchmarkId::new("forward", way), |bencher| {
            bencher.iter(|| black_box(operation.forward(inputs.to_vec(), false)));
        });
        group.throughput(Throughput::Elements(2 * products as u64));
        group.bench_function(BenchmarkId::new("step", way), |bencher| {
            bencher.iter(|| {
                let (_, saved) = operation.forward(inputs.to_vec(), true);
                black_box(operation.backward(gradient.clone(), saved, &wanted))
            });
        });
    }
    group.finish();
}

fn main() {
    let threads = std::env::var("THREADS").map_or(1, |threads| threads.parse().expect("THREADS is a number"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread();
    pool.build_global().expect("no pool yet");
    let mut criterion = Criterion::default().configure_from_args();
    let c = &mut criterion;

    for [rows, inputs, outputs] in
        [[1576, 384, 1152], [1576, 384, 1536], [1576, 1536, 384], [25_088, 96, 384], [8, 2048, 1000]]
    {
        let name = format!("linear {rows}x{inputs}x{outputs}");
        let arrays = [random(&[rows, inputs]), random(&[outputs, inputs])];
        compare(c, &name, &arrays, rows * inputs * outputs, |products| Linear {
            bias: false,
            activation: Activation::Identity,
            scale: false,
            residual: false,
            trainable: false,
            products,
            cache: Cache::default(),
        });
    }
    // Inputs, outputs, kernel, stride, size; of the 3×3 kernels of stride 1, only the last is no work for Winograd's way.
    for [inputs, outputs, kernel, stride, size] in [
        [64, 256, 1, 1, 56],
        [256, 64, 1, 1, 56],
        [512, 128, 1, 1, 28],
        [256, 1024, 1, 1, 14],
        [2048, 512, 1, 1, 7],
        [128, 128, 3, 2, 56],
        [256, 256, 3, 1, 14],
        [512, 512, 3, 1, 7],
        [3, 64, 7, 2, 224],
    ] {
        let name = format!("{kernel}x{kernel}/{stride}, {inputs} to {outputs}, {size}");
        let arrays = [random(&[8, inputs, size, size]), random(&[outputs, inputs, kernel, kernel])];
        let places = 8 * (size / stride) * (size / stride);
        compare(c, &name, &arrays, places * inputs * outputs * kernel * kernel, |products| Convolution {
            stride: [stride; 2],
            padding: [(kernel / 2, kernel / 2); 2],
            products,
            ..Convolution::pointwise(Cache::default())
        });
    }
    for [batch, tokens, heads, size] in [[8, 197, 6, 64], [512, 49, 3, 32]] {
        let name = format!("attention {batch}x{tokens}x{heads}x{size}");
        let arrays = [random(&[batch, tokens, 3 * heads * size])];
        compare(c, &name, &arrays, 2 * batch * tokens * tokens * heads * size, |products| Attention {
            heads,
            scale: (size as f64).powf(-0.5),
            products,
        });
    }
    criterion.final_summary();
}
