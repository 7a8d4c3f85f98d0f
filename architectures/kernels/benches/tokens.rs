//! The operations on rows, tokens and statistics, at the sizes of ViT-S, ConvNeXt-T and ResNet-50 with eight images, beside
//! Burn's own in the same run.
//!
//! "gradient" is a forward pass that keeps and a backward pass; Burn's also contains the sum that its autodiff begins with.

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::{Device, Distribution, Tensor, activation, module};
use criterion::{BenchmarkId, Criterion};
use netkin_kernels::{
    Activation, Add, Affine, Array, Attention, BatchNorm, ChannelNorm, LayerNorm, MeanTokens, Multiply, Operation,
    Products, Softmax, SwapAxes, batch_moments, run,
};

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &Device::flex())
}

fn array<const D: usize>(x: &Tensor<D>) -> Array {
    let values = x.to_data().try_into_vec::<f32>().expect("f32");
    Array::from_vec(values, &x.dims())
}

/// Measures ours on x and parameters, of which those beyond x want gradients if `train`, and Burn's on x.
fn compare<const D: usize, const E: usize>(
    criterion: &mut Criterion,
    name: &str,
    operation: impl Operation,
    x: Tensor<D>,
    parameters: &[Array],
    train: bool,
    burn: impl Fn(Tensor<D>) -> Tensor<E>,
) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(400));
    let mut inputs = vec![array(&x)];
    inputs.extend_from_slice(parameters);
    let wanted: Vec<bool> = (0..inputs.len()).map(|index| index == 0 || train).collect();
    group.bench_function(BenchmarkId::new("ours", "forward"), |bencher| {
        bencher.iter(|| black_box(operation.forward(inputs.clone(), false)));
    });
    let (y, _) = operation.forward(inputs.clone(), false);
    let gradient = Array::from_vec(vec![0.5; y.values().len()], y.shape());
    group.bench_function(BenchmarkId::new("ours", "gradient"), |bencher| {
        bencher.iter(|| {
            let (_, saved) = operation.forward(inputs.clone(), true);
            black_box(operation.backward(gradient.clone(), saved, &wanted))
        });
    });
    if std::env::var_os("OURS").is_some() {
        return;
    }
    group.bench_function(BenchmarkId::new("burn", "forward"), |bencher| {
        bencher.iter(|| black_box(burn(x.clone())));
    });
    group.bench_function(BenchmarkId::new("burn", "gradient"), |bencher| {
        bencher.iter(|| {
            let x = x.clone().autodiff().require_grad();
            black_box(burn(x.clone()).sum().backward())
        });
    });
}

/// A parameter on x's device, as Burn's functions want it.
fn beside<const D: usize>(x: &Tensor<D>, parameter: &Tensor<1>) -> Tensor<1> {
    if x.is_autodiff() { parameter.clone().autodiff() } else { parameter.clone() }
}

fn plain_attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, channels] = qkv.dims();
    let size = channels / (3 * heads);
    let qkv = qkv.reshape([batch, tokens, 3, heads, size]).permute([2, 0, 3, 1, 4]);
    let part = |index| qkv.clone().narrow(0, index, 1).reshape([batch, heads, tokens, size]);
    let scores = part(0).mul_scalar((size as f64).powf(-0.5)).matmul(part(1).transpose());
    activation::softmax(scores, 3).matmul(part(2)).swap_dims(1, 2).reshape([batch, tokens, channels / 3])
}

fn main() {
    // Without it the main thread only waits for the pool's.
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
    pool.build_global().expect("no pool yet");
    let mut criterion = Criterion::default().configure_from_args();
    let c = &mut criterion;

    for (rows, channels) in [(1576, 384), (25_088, 96)] {
        let (scale, shift) = (random([channels]), random([channels]));
        let parameters = [array(&scale), array(&shift)];
        let burn = |x: Tensor<2>| {
            let shift = beside(&x, &shift);
            module::layer_norm(x.clone(), beside(&x, &scale), Some(shift), 1e-6)
        };
        let operation = LayerNorm { epsilon: 1e-6 };
        let x = random([rows, channels]);
        let name = format!("layer norm {rows}x{channels}");
        compare(c, &name, operation, x.clone(), &parameters, false, burn);
        compare(c, &(name + " train"), operation, x, &parameters, true, burn);
    }

    let (scale, shift) = (random([96]), random([96]));
    let parameters = [array(&scale), array(&shift)];
    let burn = |x: Tensor<4>| {
        let (scale, shift) = (beside(&x, &scale), beside(&x, &shift));
        module::layer_norm(x.permute([0, 2, 3, 1]), scale, Some(shift), 1e-6).permute([0, 3, 1, 2])
    };
    let operation = ChannelNorm { epsilon: 1e-6 };
    let x = random([8, 96, 56, 56]);
    compare(c, "channel norm 8x96x56x56", operation, x.clone(), &parameters, false, burn);
    compare(c, "channel norm 8x96x56x56 train", operation, x, &parameters, true, burn);

    let operation = Attention { heads: 6, scale: 0.125, products: Products::F32 };
    let x = random([8, 197, 3 * 384]);
    compare(c, "attention 8x197x6x64", operation, x, &[], false, |x| plain_attention(x, 6));
    let x = random([1, 197, 3 * 384]);
    compare(c, "attention 1x197x6x64", operation, x, &[], false, |x| plain_attention(x, 6));
    let operation = Attention { heads: 3, scale: 0.17, products: Products::F32 };
    let x = random([512, 49, 3 * 96]);
    compare(c, "attention of windows 512x49x3x32", operation, x, &[], false, |x| plain_attention(x, 3));

    let x = random([9456, 197]);
    compare(c, "softmax 9456x197", Softmax, x, &[], false, |x| activation::softmax(x, 1));

    let x = random([8, 64, 56, 56]);
    let (scale, shift) = (random([64]), random([64]));
    let moments = batch_moments(&x);
    let parameters = [array(&scale), array(&shift), array(&moments)];
    let operation = BatchNorm { epsilon: 1e-5, activation: Activation::Relu };
    compare(c, "batch norm 8x64x56x56", operation, x.clone(), &parameters, true, |x| {
        let (scale, shift) = (beside(&x, &scale), beside(&x, &shift));
        activation::relu(module::batch_norm_train(x, scale, shift, 1e-5).output)
    });
    c.bench_function("batch moments 8x64x56x56", |bencher| {
        bencher.iter(|| black_box(batch_moments(&x)));
    });

    let (x, y) = (random([8, 256, 56, 56]), random([8, 256, 56, 56]));
    let operation = Add { activation: Activation::Relu };
    compare(c, "add, relu 8x256x56x56", operation, x, &[array(&y)], true, |x| {
        let y = if x.is_autodiff() { y.clone().autodiff() } else { y.clone() };
        activation::relu(x + y)
    });
    let (x, y) = (random([8, 197, 384]), random([8, 197, 384]));
    let operation = Add { activation: Activation::Identity };
    compare(c, "add 8x197x384", operation, x, &[array(&y)], true, |x| {
        let y = if x.is_autodiff() { y.clone().autodiff() } else { y.clone() };
        x + y
    });
    let (x, y) = (random([8, 197, 1536]), random([8, 197, 1536]));
    compare(c, "multiply 8x197x1536", Multiply, x, &[array(&y)], true, |x| {
        let y = if x.is_autodiff() { y.clone().autodiff() } else { y.clone() };
        x * y
    });
    let (scale, shift) = (random([384]), random([384]));
    let parameters = [array(&scale), array(&shift)];
    let operation = Affine { axis: 2, trainable: false };
    compare(c, "affine 8x197x384", operation, random([8, 197, 384]), &parameters, false, |x| {
        let (scale, shift) = (beside(&x, &scale), beside(&x, &shift));
        x * scale.unsqueeze::<3>() + shift.unsqueeze::<3>()
    });
    let (scale, shift) = (random([3]), random([3]));
    let parameters = [array(&scale), array(&shift)];
    let operation = Affine { axis: 1, trainable: false };
    compare(c, "affine 8x3x224x224", operation, random([8, 3, 224, 224]), &parameters, false, |x| {
        let (scale, shift) = (beside(&x, &scale), beside(&x, &shift));
        x * scale.reshape([1, 3, 1, 1]) + shift.reshape([1, 3, 1, 1])
    });
    for shape in [[8, 196, 384], [8, 96, 3136], [8, 3136, 96]] {
        let name = format!("swap axes {shape:?}");
        compare(c, &name, SwapAxes, random(shape), &[], false, |x| {
            // A product needs the values in their new order.
            x.swap_dims(1, 2) * 1.0
        });
    }
    let x = random([8, 197, 384]);
    compare(c, "mean over tokens 8x197x384", MeanTokens { tokens: 197 }, x, &[], false, |x| x.mean_dim(1));
    // What the way through Burn costs for almost no work.
    let x = random([1, 1, 16]);
    c.bench_function("overhead", |bencher| {
        bencher.iter(|| black_box(run::<3>(Softmax, vec![x.clone().into_dispatch()])));
    });
    criterion.final_summary();
}
