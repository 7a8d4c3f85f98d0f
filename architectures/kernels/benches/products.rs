//! The matrix products behind linear layers, attention and convolutions, at the sizes of ViT-S, ResMLP-24, ConvNeXt-T and
//! ResNet-50 with eight images, beside the crate `gemm` in the same run, and the share of what the processor can.
//!
//! Rates in GFLOP/s, each the best of some repetitions: forward; "gradient", that of the input; and of `gemm` the product
//! alone, of matrices that lie there, where a convolution must first collect its windows. 3×3 convolutions may be faster than
//! the processor: they are computed with fewer multiplications. RAYON_NUM_THREADS and NETKIN_SIMD count; an argument takes
//! the networks whose name contains it.

use std::hint::black_box;
use std::time::Instant;

use gemm::Parallelism;
use netkin_kernels::{Activation, Array, Attention, Cache, Convolution, Linear, Operation, Products};
use pulp::{Arch, Simd, WithSimd};

const BATCH: usize = 8;
const REPETITIONS: usize = 12;

#[derive(Debug, Clone, Copy)]
enum Case {
    /// Rows, inputs, outputs.
    Linear([usize; 3]),
    /// Inputs, outputs, rows and columns of the map, kernel, stride.
    Convolution([usize; 5]),
    /// Tokens, heads, channels of a head.
    Attention([usize; 3]),
}

use Case::{Attention as A, Convolution as C, Linear as L};

/// With how often the network has it.
const CASES: [(&str, usize, Case); 41] = [
    ("vit_small", 12, L([1576, 384, 1152])),
    ("vit_small", 12, A([197, 6, 64])),
    ("vit_small", 12, L([1576, 384, 384])),
    ("vit_small", 12, L([1576, 384, 1536])),
    ("vit_small", 12, L([1576, 1536, 384])),
    ("vit_small", 1, C([3, 384, 224, 16, 16])),
    ("resmlp_24", 24, L([3072, 196, 196])),
    ("resmlp_24", 24, L([1568, 384, 1536])),
    ("resmlp_24", 24, L([1568, 1536, 384])),
    ("convnext_tiny", 3, C([96, 384, 56, 1, 1])),
    ("convnext_tiny", 3, C([384, 96, 56, 1, 1])),
    ("convnext_tiny", 3, C([192, 768, 28, 1, 1])),
    ("convnext_tiny", 3, C([768, 192, 28, 1, 1])),
    ("convnext_tiny", 9, C([384, 1536, 14, 1, 1])),
    ("convnext_tiny", 9, C([1536, 384, 14, 1, 1])),
    ("convnext_tiny", 3, C([768, 3072, 7, 1, 1])),
    ("convnext_tiny", 3, C([3072, 768, 7, 1, 1])),
    ("convnext_tiny", 1, C([96, 192, 56, 2, 2])),
    ("convnext_tiny", 1, C([384, 768, 14, 2, 2])),
    ("resnet50", 1, C([64, 64, 56, 1, 1])),
    ("resnet50", 4, C([64, 256, 56, 1, 1])),
    ("resnet50", 2, C([256, 64, 56, 1, 1])),
    ("resnet50", 1, C([256, 128, 56, 1, 1])),
    ("resnet50", 4, C([128, 512, 28, 1, 1])),
    ("resnet50", 3, C([512, 128, 28, 1, 1])),
    ("resnet50", 1, C([512, 256, 28, 1, 1])),
    ("resnet50", 6, C([256, 1024, 14, 1, 1])),
    ("resnet50", 5, C([1024, 256, 14, 1, 1])),
    ("resnet50", 1, C([1024, 512, 14, 1, 1])),
    ("resnet50", 3, C([512, 2048, 7, 1, 1])),
    ("resnet50", 2, C([2048, 512, 7, 1, 1])),
    ("resnet50", 1, C([256, 512, 56, 1, 2])),
    ("resnet50", 1, C([512, 1024, 28, 1, 2])),
    ("resnet50", 1, C([1024, 2048, 14, 1, 2])),
    ("resnet50", 3, C([64, 64, 56, 3, 1])),
    ("resnet50", 3, C([128, 128, 28, 3, 1])),
    ("resnet50", 5, C([256, 256, 14, 3, 1])),
    ("resnet50", 2, C([512, 512, 7, 3, 1])),
    ("resnet50", 1, C([128, 128, 56, 3, 2])),
    ("resnet50", 1, C([256, 256, 28, 3, 2])),
    ("resnet50", 1, C([512, 512, 14, 3, 2])),
];

/// An operation with the product that it amounts to: rows, columns, depth.
struct Job {
    name: String,
    operation: Box<dyn Operation>,
    inputs: Vec<Array>,
    products: Vec<[usize; 3]>,
    /// Multiplications of the gradient, as a multiple of the forward pass'.
    gradient_work: f64,
}

fn job(case: Case) -> Job {
    let cache = Cache::default;
    match case {
        Case::Linear([rows, depth, outputs]) => Job {
            name: format!("{rows} x {depth} -> {outputs}"),
            operation: Box::new(Linear {
                bias: false,
                activation: Activation::Identity,
                scale: false,
                residual: false,
                trainable: false,
                products: Products::F32,
                cache: cache(),
            }),
            inputs: vec![array(&[rows, depth]), array(&[outputs, depth])],
            products: vec![[rows, outputs, depth]],
            gradient_work: 1.0,
        },
        Case::Convolution([inputs, outputs, size, kernel, stride]) => {
            // Kernels as large as their stride tile the image.
            let padding = if kernel == stride { 0 } else { kernel / 2 };
            let places = BATCH * ((size + 2 * padding - kernel) / stride + 1).pow(2);
            Job {
                name: format!("{inputs} -> {outputs}, {kernel}x{kernel}/{stride} of {size}"),
                operation: Box::new(Convolution {
                    stride: [stride; 2],
                    padding: [(padding, padding); 2],
                    ..Convolution::pointwise(cache())
                }),
                inputs: vec![array(&[BATCH, inputs, size, size]), array(&[outputs, inputs, kernel, kernel])],
                products: vec![[outputs, places, inputs * kernel * kernel]],
                gradient_work: 1.0,
            }
        }
        Case::Attention([tokens, heads, size]) => Job {
            name: format!("attention {tokens} x {heads} x {size}"),
            operation: Box::new(Attention { heads, scale: (size as f64).powf(-0.5), products: Products::F32 }),
            inputs: vec![array(&[BATCH, tokens, 3 * heads * size])],
            products: [[tokens, tokens, size], [tokens, size, tokens]].repeat(BATCH * heads),
            // The scores once more, and for each of the two products two.
            gradient_work: 2.5,
        },
    }
}

/// Numbers between −½ and ½ that look random.
fn array(shape: &[usize]) -> Array {
    let len = shape.iter().product::<usize>();
    let value = |index: usize| (index.wrapping_mul(2_654_435_761) >> 8 & 0xffff) as f32 / 65536.0 - 0.5;
    Array::from_vec((0..len).map(value).collect(), shape)
}

/// Seconds of the fastest repetition.
fn fastest<T>(mut run: impl FnMut() -> T) -> f64 {
    let seconds = |_| {
        let start = Instant::now();
        black_box(run());
        start.elapsed().as_secs_f64()
    };
    (0..REPETITIONS).map(seconds).fold(f64::INFINITY, f64::min)
}

/// rows × columns = left · right, all row-major.
fn multiply([rows, columns, depth]: [usize; 3], left: &[f32], right: &[f32], to: &mut [f32]) {
    assert!(left.len() >= rows * depth && right.len() >= depth * columns && to.len() >= rows * columns);
    let parallelism = match rayon::current_num_threads() {
        1 => Parallelism::None,
        _ => Parallelism::Rayon(0),
    };
    let [column_step, depth_step] = [columns, depth].map(|step| step as isize);
    // SAFETY: the matrices are as large as their sizes say.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            to.as_mut_ptr(),
            1,
            column_step,
            false,
            left.as_ptr(),
            1,
            depth_step,
            right.as_ptr(),
            1,
            column_step,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// GFLOP/s of one thread whose values stay in registers.
struct Peak;

impl WithSimd for Peak {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        const SUMS: usize = 12;
        const STEPS: usize = 200_000;
        let [factor, summand] = black_box([0.999, 0.001]).map(|value| simd.splat_f32s(value));
        let mut seconds = f64::INFINITY;
        // Without a closure, which would be compiled for a lesser processor.
        for _ in 0..REPETITIONS {
            let start = Instant::now();
            let mut sums = [summand; SUMS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = simd.mul_add_e_f32s(*sum, factor, summand);
                }
            }
            black_box(sums);
            seconds = seconds.min(start.elapsed().as_secs_f64());
        }
        (2 * SUMS * STEPS * S::F32_LANES) as f64 / seconds / 1e9
    }
}

/// As programs do at their start: an allocator that keeps its memory.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD.
        for (parameter, value) in [(-4, 0), (-1, i32::MAX), (-2, 64 << 20)] {
            // SAFETY: mallopt changes settings under the allocator's own lock.
            unsafe { mallopt(parameter, value) };
        }
    }
}

fn main() {
    keep_memory();
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().expect("no pool yet");
    let threads = rayon::current_num_threads();
    let peak = threads as f64 * Arch::new().dispatch(Peak);
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    println!("{threads} threads; the processor can {peak:.0} GFLOP/s\n");
    println!("| network | product | forward | gradient | gemm | forward / gemm | gradient / gemm | forward / peak |");
    println!("|---|---|---:|---:|---:|---:|---:|---:|");
    let mut all: Vec<(&str, [f64; 3])> = vec![];
    for (network, count, case) in CASES {
        if !network.contains(&wanted) {
            continue;
        }
        let Job { name, operation, inputs, products, gradient_work } = job(case);
        let work = products.iter().map(|sizes| 2 * sizes.iter().product::<usize>()).sum::<usize>() as f64 / 1e9;
        let forward = fastest(|| operation.forward(inputs.clone(), false));
        let (y, saved) = operation.forward(inputs.clone(), true);
        let gradient = array(y.shape());
        // Nothing but x wants a gradient.
        let wanted: Vec<bool> = (0..inputs.len()).map(|index| index == 0).collect();
        let backward = fastest(|| operation.backward(gradient.clone(), saved.clone(), &wanted)) / gradient_work;
        let most = |pair: [usize; 2]| products.iter().map(|sizes| sizes[pair[0]] * sizes[pair[1]]).max().unwrap_or(0);
        let [left, right, to] = [[0, 2], [2, 1], [0, 1]].map(|pair| array(&[most(pair)]));
        let mut to = to.values().to_vec();
        let theirs = fastest(|| {
            for &sizes in &products {
                multiply(sizes, left.values(), right.values(), &mut to);
            }
        });
        let seconds = [forward, backward, theirs];
        println!("| {network} | {name} | {}", cells(seconds.map(|seconds| work / seconds), peak));
        let total = seconds.map(|seconds| count as f64 * seconds);
        match all.last_mut() {
            Some((last, sums)) if *last == network => *sums = std::array::from_fn(|index| sums[index] + total[index]),
            _ => all.push((network, total)),
        }
    }
    println!("\nAll products of a pass, in milliseconds:\n");
    println!("| network | forward | gradient | gemm |\n|---|---:|---:|---:|");
    for (network, seconds) in all {
        let [forward, backward, theirs] = seconds.map(|seconds| 1e3 * seconds);
        println!("| {network} | {forward:.1} | {backward:.1} | {theirs:.1} |");
    }
}

fn cells([forward, backward, theirs]: [f64; 3], peak: f64) -> String {
    format!(
        "{forward:.0} | {backward:.0} | {theirs:.0} | {:.2} | {:.2} | {:.2} |",
        forward / theirs,
        backward / theirs,
        forward / peak
    )
}
