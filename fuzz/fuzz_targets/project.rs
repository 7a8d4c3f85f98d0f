//! The way back into the ball around an image: near enough and within [0, 1] from any finite numbers, also as 8-bit levels.
#![no_main]

use burn::tensor::{DType, Device, Tensor, TensorData};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use netkin::attacks::{Bound, Norm, quantise};
use netkin::images::RgbImage;

/// From where a pixel may be anywhere to where most are.
fn anywhere(input: &mut Unstructured) -> Result<f32> {
    Ok(match input.arbitrary::<u8>()? {
        0..=127 => f32::from(input.arbitrary::<i16>()?) / 16384.0,
        128..=191 => Some(input.arbitrary::<f32>()?).filter(|value| value.is_finite()).unwrap_or(0.0),
        192..=223 => [0.0, 1.0, -0.0, 0.5][input.int_in_range(0..=3)?],
        _ => [f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45][input.int_in_range(0..=3)?],
    })
}

fn check(input: &mut Unstructured) -> Result<()> {
    let norm = *input.choose(&[Norm::Linf, Norm::L2, Norm::L1])?;
    let eps = match input.arbitrary::<u8>()? {
        0..=199 => f64::from(input.int_in_range(1..=2000u16)?) / 1000.0,
        200..=249 => 10f64.powi(input.int_in_range(-60..=4)?),
        _ => f64::MIN_POSITIVE,
    };
    let eps = if norm == Norm::Linf { eps.min(1.0) } else { eps };
    let dtype = *input.choose(&[DType::F32, DType::F64])?;
    let (height, width) = (input.int_in_range(1..=4usize)?, input.int_in_range(1..=4usize)?);
    let count = 3 * height * width;
    let levels: Vec<u8> = (0..count).map(|_| input.arbitrary()).collect::<Result<_>>()?;
    let far: Vec<f64> = (0..count).map(|_| Ok(anywhere(input)?.into())).collect::<Result<_>>()?;
    let original = RgbImage::new(width, height, levels);
    let tensor = |values: Vec<f64>| {
        Tensor::<4>::from_data(TensorData::new(values, [1, 3, height, width]), (&Device::flex(), dtype))
    };
    let pixels = tensor(original.to_pixels().into_iter().map(f64::from).collect());
    let bound = Bound { norm, eps };
    let near = bound.project(tensor(far), &pixels);
    let distance = bound.distances(&near, &pixels)[0];
    let near: Vec<f32> = near.into_data().convert::<f32>().try_into_vec().expect("numbers of that kind");
    // Each pixel is rounded once.
    let rounding = match norm {
        Norm::Linf => 1.0,
        Norm::L2 => (count as f64).sqrt(),
        Norm::L1 => count as f64,
    } * if dtype == DType::F32 { 1.2e-7 } else { 1e-9 };
    assert!(distance <= eps * (1.0 + 1e-6) + rounding, "{bound:?}: {distance}");
    assert!(near.iter().all(|value| (0.0..=1.0).contains(value)), "{bound:?}: {near:?}");

    let image = quantise(&near, &original, bound);
    let changes = image.data().iter().zip(original.data()).map(|(a, b)| f64::from(a.abs_diff(*b)) / 255.0);
    let distance = match norm {
        Norm::Linf => changes.fold(0.0, f64::max),
        Norm::L2 => changes.map(|change| change * change).sum::<f64>().sqrt(),
        Norm::L1 => changes.sum(),
    };
    assert!(distance <= eps + 1e-6, "{bound:?}: {distance} of levels");
    Ok(())
}

netkin_fuzz::target!(|bytes| {
    let _ = check(&mut Unstructured::new(bytes));
});
