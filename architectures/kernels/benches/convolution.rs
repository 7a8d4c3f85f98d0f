//! Convolutions, dense, grouped and depthwise; with BESIDE_BURN set, beside Burn's own: forward, and forward with the gradient
//! of the input.

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Distribution, Tensor, module};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use netkin_kernels::{Activation, Array, Cache, Convolution, Operation, Products};

/// As programs do at their start: two threads of which one is this, and an allocator that keeps its memory.
fn prepare() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        const M_TRIM_THRESHOLD: i32 = -1;
        const M_TOP_PAD: i32 = -2;
        const M_MMAP_MAX: i32 = -4;
        // SAFETY: mallopt changes settings under the allocator's own lock.
        unsafe {
            mallopt(M_MMAP_MAX, 0);
            mallopt(M_TRIM_THRESHOLD, i32::MAX);
            mallopt(M_TOP_PAD, 64 << 20);
        }
    }
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("the first to ask");
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &Device::flex())
}

fn array<const D: usize>(tensor: Tensor<D>) -> Array {
    let shape = tensor.dims();
    Array::from_vec(tensor.into_data().try_to_vec().expect("f32"), &shape)
}

/// Channels, groups, size of the map, kernel, stride.
const CASES: [[usize; 5]; 20] = [
    [256, 1, 56, 1, 1],
    [1024, 1, 14, 1, 1],
    [64, 1, 56, 3, 1],
    [256, 1, 14, 3, 1],
    [128, 1, 56, 3, 2],
    [512, 1, 7, 3, 1],
    [144, 144, 56, 3, 1],
    [96, 96, 56, 7, 1],
    [240, 240, 28, 5, 1],
    [144, 144, 56, 3, 2],
    [240, 240, 28, 5, 2],
    [480, 480, 14, 3, 1],
    [672, 672, 14, 5, 1],
    [384, 384, 14, 7, 1],
    [1152, 1152, 7, 5, 1],
    [768, 768, 7, 7, 1],
    [32, 32, 112, 3, 1],
    [128, 32, 56, 3, 1],
    [256, 32, 56, 3, 2],
    [1024, 32, 7, 3, 1],
];

fn convolutions(criterion: &mut Criterion) {
    prepare();
    let beside_burn = std::env::var_os("BESIDE_BURN").is_some();
    let mut group = criterion.benchmark_group("convolution");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(400));
    for [channels, groups, size, kernel, stride] in CASES {
        let padding = kernel / 2;
        let x = random([8, channels, size, size]);
        let weight = random([channels, channels / groups, kernel, kernel]);
        let name = format!("{kernel}x{kernel}/{stride}, {channels}/{groups} x {size}");
        let ours = Convolution {
            stride: [stride; 2],
            padding: [(padding, padding); 2],
            dilation: [1; 2],
            groups,
            bias: false,
            norm: None,
            scale: false,
            residual: false,
            activation: Activation::Identity,
            trainable: false,
            products: Products::F32,
            cache: Cache::default(),
        };
        let inputs = [array(x.clone()), array(weight.clone())];
        let (y, _) = ours.forward(inputs.to_vec(), false);
        let gradient = array(random(y.dims::<4>()));
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| ours.forward(black_box(inputs.to_vec()), false));
        });
        group.bench_function(BenchmarkId::new("with gradient", &name), |bencher| {
            bencher.iter(|| {
                let (y, saved) = ours.forward(black_box(inputs.to_vec()), true);
                (y, ours.backward(gradient.clone(), saved, &[true, false]))
            });
        });
        if !beside_burn {
            continue;
        }
        let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], groups);
        group.bench_function(BenchmarkId::new("Burn, forward", &name), |bencher| {
            bencher.iter(|| module::conv2d(x.clone(), weight.clone(), None, options.clone()));
        });
        group.bench_function(BenchmarkId::new("Burn, with gradient", &name), |bencher| {
            bencher.iter(|| {
                let x = x.clone().autodiff().require_grad();
                let y = module::conv2d(x.clone(), weight.clone().autodiff(), None, options.clone());
                x.grad_remove(&mut y.sum().backward())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, convolutions);
criterion_main!(benches);
