//! From an image to tokens.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, module};
use netkin_kernels::{Activation, Cache, Convolution};

use super::conv::fused;
use super::{LayerNorm, Then, macs, transposed};

/// Cuts an image into square patches and maps each linearly to a token (Dosovitskiy et al. 2021).
#[derive(Module, Debug)]
pub struct PatchEmbed {
    proj: Projection,
    norm: Option<LayerNorm>,
    image_size: [usize; 2],
    patch_size: usize,
    #[module(skip)]
    cache: Cache,
}

/// Panics unless the images have the height and width that a network was made for.
pub fn assert_size(images: &Tensor<4>, [rows, columns]: [usize; 2]) {
    let [.., height, width] = images.dims();
    assert!(
        [height, width] == [rows, columns],
        "images of {height} × {width} pixels given to a network for {rows} × {columns}: resize them",
    );
}

/// The map, kept as timm's convolution has it.
#[derive(Module, Debug)]
struct Projection {
    /// `[output, colour, row, column]`.
    weight: Param<Tensor<4>>,
    /// `[output]`.
    bias: Param<Tensor<1>>,
}

impl PatchEmbed {
    /// For images of a height and width in pixels, which are multiples of the side of a square patch. Weights are drawn from
    /// the normal distribution that keeps the variance, biases are zero.
    pub fn new(image_size: [usize; 2], patch_size: usize, channels: usize, device: &Device) -> Self {
        let inputs = 3 * patch_size * patch_size;
        let variance_keeping = Initializer::Normal { mean: 0.0, std: (inputs as f64).powf(-0.5) };
        Self {
            proj: Projection {
                weight: variance_keeping.init([channels, 3, patch_size, patch_size], device),
                bias: Initializer::Zeros.init([channels], device),
            },
            norm: None,
            image_size,
            patch_size,
            cache: Cache::default(),
        }
    }

    /// With a normalisation of the tokens.
    pub fn with_norm(self, epsilon: f64, device: &Device) -> Self {
        let [channels, ..] = self.proj.weight.lazy_shape().dims::<4>();
        Self { norm: Some(LayerNorm::new(channels, epsilon, device)), ..self }
    }

    /// How many tokens an image becomes.
    pub fn tokens(&self) -> usize {
        self.image_size.iter().map(|side| side / self.patch_size).product()
    }

    /// `[batch, 3, height, width]` → `[batch, token, channel]`, row by row.
    ///
    /// # Panics
    /// If the images do not have the size that the layer was made for.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        let x = self.project(images);
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    fn project(&self, images: Tensor<4>) -> Tensor<3> {
        let [batch, colours, height, width] = images.dims();
        assert_size(&images, self.image_size);
        let size = self.patch_size;
        let (weight, bias) = (self.proj.weight.val(), self.proj.bias.val());
        let [channels, ..] = weight.dims();
        macs::count(batch * self.tokens() * weight.shape().num_elements());
        if netkin_kernels::applies(&images) {
            let convolution = Convolution { stride: [size; 2], ..Convolution::pointwise(self.cache.clone()) };
            let then = Then::activation(Activation::Identity);
            let planes = fused(convolution, images, weight, Some(bias), then);
            return transposed(planes.reshape([batch, channels, self.tokens()]));
        }
        let inputs = colours * size * size;
        let patches = images
            .reshape([batch, colours, height / size, size, width / size, size])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, self.tokens(), inputs]);
        let weight = weight.reshape([channels, inputs]).transpose();
        module::linear(patches, weight, Some(bias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_come_row_by_row() {
        let device = Device::flex();
        let mut embed = PatchEmbed::new([4, 6], 2, 1, &device);
        assert_eq!(embed.tokens(), 6);
        embed.proj.weight = Initializer::Ones.init([1, 3, 2, 2], &device);
        let [first, second] = [[1.0, 1.0, 2.0, 2.0, 3.0, 3.0], [4.0, 4.0, 5.0, 5.0, 6.0, 6.0]];
        let rows = [first, first, second, second];
        let images = Tensor::<4>::from_data([[rows; 3]], &device);
        let tokens = embed.forward(images).into_data();
        assert_eq!(tokens.try_into_vec::<f32>().unwrap(), [12.0, 24.0, 36.0, 48.0, 60.0, 72.0]);
    }

    #[test]
    #[should_panic(expected = "resize them")]
    fn another_size_is_refused() {
        let device = Device::flex();
        let embed = PatchEmbed::new([4, 4], 2, 1, &device);
        embed.forward(Tensor::zeros([1, 3, 5, 4], &device));
    }
}
