//! A network with its weights and their preprocessing.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use netkin_architectures::layers::scale_and_shift;
use netkin_architectures::{Architecture, Entry, Network, Outputs, Taps};
use netkin_weights::{CropMode, Interpolation, Loaded, Precision, Preprocessing};

use crate::images::{self, Filter, RgbImage, Transform};

/// A network that takes pixels in [0, 1] and is frozen: normalisation lives in here, so nobody can forget it or do it twice.
#[derive(Debug)]
pub struct Model {
    name: String,
    entry: &'static Entry,
    network: Network,
    preprocessing: Preprocessing,
    num_classes: usize,
    parameters: usize,
    sha256: String,
    notes: Vec<String>,
    precision: Precision,
    device: Device,
}

/// What one backward pass gives. All on the model's device, without autodiff.
#[derive(Debug)]
pub struct InputGradient {
    /// Unnormalised class scores, `[batch, class]`.
    pub logits: Tensor<2>,
    /// The gradient of the loss with respect to the pixels, `[batch, 3, height, width]`.
    pub gradient: Tensor<4>,
}

/// Which field of view a network sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// The same for every network: the short side resized to size / 0.875, the centre cropped.
    Shared,
    /// The crop that the weights were evaluated with.
    Own,
    /// All of an image, at the network's size: what has it is taken as it is, such as adversarial images, and another size is stretched
    /// (bicubic), as images are for transfer.
    Whole,
}

impl Model {
    /// Takes loaded weights.
    pub fn new(loaded: Loaded, precision: Precision, device: Device) -> Self {
        Self {
            name: loaded.name,
            entry: loaded.entry,
            network: loaded.network,
            preprocessing: loaded.preprocessing,
            num_classes: loaded.num_classes,
            parameters: loaded.parameters,
            sha256: loaded.sha256,
            notes: loaded.notes,
            precision,
            device,
        }
    }

    /// The name as it was asked for: timm's architecture, with the tag if one was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The architecture.
    pub fn entry(&self) -> &'static Entry {
        self.entry
    }

    /// The number of classes.
    pub fn num_classes(&self) -> usize {
        self.num_classes
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The SHA-256 of the weights' file, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What was chosen among several things in the weights' file, in sentences for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How the weights want their images.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// The number format of all computations, or, on the CPU, for bf16 that of the products' factors.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The type of all tensors.
    pub fn dtype(&self) -> DType {
        self.precision.held_on(&self.device).dtype()
    }

    /// The same network on the same device in another precision, to which its weights are rounded; where they hold the same
    /// numbers, they are shared. [`Precision::check`] tells whether the device has that precision.
    pub fn in_precision(&self, precision: Precision) -> Self {
        let held = precision.held_on(&self.device).dtype();
        // Copies share their running statistics, also those that are cast; `valid` makes others.
        let cast = || self.network.valid().map(&mut Cast(held.into()));
        Self {
            name: self.name.clone(),
            entry: self.entry,
            network: if held == self.dtype() { self.network.clone() } else { cast() },
            preprocessing: self.preprocessing,
            num_classes: self.num_classes,
            parameters: self.parameters,
            sha256: self.sha256.clone(),
            notes: self.notes.clone(),
            precision,
            device: self.device.clone(),
        }
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Height and width in pixels of the images that it takes.
    pub fn input_size(&self) -> [usize; 2] {
        self.preprocessing.input_size
    }

    /// How an image file becomes this model's input.
    pub fn transform(&self, crop: Crop) -> Transform {
        const SHARED_CROP: f64 = 0.875;
        let [height, width] = self.input_size();
        let (crop_pct, crop_mode) = match (crop, self.preprocessing.crop_mode) {
            (Crop::Shared, _) => (SHARED_CROP, images::CropMode::Center),
            (Crop::Whole, _) => (1.0, images::CropMode::Squash),
            (Crop::Own, CropMode::Center) => (self.preprocessing.crop_pct, images::CropMode::Center),
            (Crop::Own, CropMode::Squash) => (self.preprocessing.crop_pct, images::CropMode::Squash),
        };
        let interpolation = match (crop, self.preprocessing.interpolation) {
            (Crop::Shared | Crop::Own, Interpolation::Bilinear) => Filter::Bilinear,
            (Crop::Whole, _) | (_, Interpolation::Bicubic) => Filter::Bicubic,
        };
        Transform { input_size: (height, width), crop_pct, interpolation, crop_mode }
    }

    /// Images of this model's size as pixels in [0, 1], `[batch, 3, height, width]`, on its device.
    pub fn pixels_of<'a>(&self, images: impl IntoIterator<Item = &'a RgbImage>) -> Tensor<4> {
        let [height, width] = self.input_size();
        let mut values = Vec::new();
        for image in images {
            values.extend(image.to_pixels());
        }
        let count = values.len() / (3 * height * width);
        self.pixels(values, [count, 3, height, width])
    }

    /// Values in [0, 1] of the given shape, on this model's device in its precision.
    pub fn pixels(&self, values: Vec<f32>, shape: [usize; 4]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values, shape), (&self.device, self.dtype()))
    }

    /// Runs on pixels in [0, 1], `[batch, 3, height, width]`.
    pub fn forward(&self, pixels: Tensor<4>) -> Outputs {
        self.forward_observed(pixels, &mut Taps::none())
    }

    /// As [`Self::forward`], showing every block to `taps`.
    pub fn forward_observed(&self, pixels: Tensor<4>, taps: &mut Taps) -> Outputs {
        let products = self.precision.products_on(&self.device);
        products.within(|| self.network.forward(self.normalise(pixels), taps))
    }

    /// The most probable class of each image.
    pub fn predict(&self, pixels: Tensor<4>) -> Vec<usize> {
        argmax(self.forward(pixels).logits)
    }

    /// The gradient with respect to the pixels of `loss`, which gets the logits `[batch, class]` and gives one number.
    pub fn input_gradient(&self, pixels: Tensor<4>, loss: impl FnOnce(Tensor<2>) -> Tensor<1>) -> InputGradient {
        let pixels = pixels.autodiff().require_grad();
        let logits = self.forward(pixels.clone()).logits;
        let mut gradients = loss(logits.clone()).backward();
        let gradient = pixels.grad_remove(&mut gradients).unwrap_or_else(|| pixels.inner().zeros_like());
        InputGradient { logits: logits.inner(), gradient }
    }

    /// (pixels − mean) / deviation, per channel.
    fn normalise(&self, pixels: Tensor<4>) -> Tensor<4> {
        let Preprocessing { mean, std, .. } = &self.preprocessing;
        let per_channel = |value: &dyn Fn(usize) -> f64| {
            let values = TensorData::from(std::array::from_fn::<f64, 3, _>(value));
            Tensor::<1>::from_data(values, (&self.device, self.dtype()))
        };
        let scale = per_channel(&|channel| 1.0 / widen(std[channel]));
        let shift = per_channel(&|channel| -widen(mean[channel]) / widen(std[channel]));
        scale_and_shift(pixels, 1, scale, Some(shift))
    }
}

/// Casts all parameters, which stay tracked if they are.
pub(crate) struct Cast(pub FloatDType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let tracked = parameter.is_require_grad();
        parameter.map(|tensor| match tensor.is_autodiff() {
            // Only a tensor that no operation has made can be tracked.
            true => tensor.inner().cast(self.0).autodiff().set_require_grad(tracked),
            false => tensor.cast(self.0),
        })
    }
}

/// The decimal number that an f32 constant was written as (0.485, not 0.48500001430511475), which is what f64 computations want.
fn widen(value: f32) -> f64 {
    value.to_string().parse().expect("a printed number can be read")
}

pub use netkin_architectures::layers::cross_entropy;

/// The index of the largest value of each row; the first of equals.
pub fn argmax(logits: Tensor<2>) -> Vec<usize> {
    let [count, classes] = logits.dims();
    let values = to_f64(logits);
    (0..count)
        .map(|row| {
            let row = &values[row * classes..(row + 1) * classes];
            let mut best = 0;
            for (index, value) in row.iter().enumerate() {
                if *value > row[best] {
                    best = index;
                }
            }
            best
        })
        .collect()
}

/// All values in row-major order.
pub fn to_f64<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// All values in row-major order.
pub fn to_f32<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_widen_to_what_was_written() {
        assert_eq!(widen(0.485f32), 0.485f64);
        assert_eq!(widen(0.5f32), 0.5f64);
    }

    #[test]
    fn the_first_of_equal_logits_wins() {
        let logits = Tensor::<2>::from_data([[1.0, 3.0, 3.0], [0.0, -1.0, 0.0]], &Device::flex());
        assert_eq!(argmax(logits), [1, 0]);
    }

    #[test]
    fn cross_entropy_of_uniform_logits_is_the_logarithm_of_the_classes() {
        let logits = Tensor::<2>::zeros([2, 10], &Device::flex());
        for value in to_f64(cross_entropy(logits, &[3, 9])) {
            assert!((value - 10f64.ln()).abs() < 1e-6);
        }
    }
}
