//! `netkin forward`: run a network on tensors from a file, to check it against any other framework.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use netkin_weights::{ModelSpec, Precision};
use safetensors::tensor::{Dtype, TensorView};

use super::common::{Common, ModelOptions};
use super::{Failure, Outcome, values};
use crate::images::{Dataset, Sample, Stack};
use crate::model::{Crop, Model, cross_entropy};
use crate::runs::write_atomically;

/// Run a network on pixels from a file and write its logits
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG or NAME=WEIGHTS
    model: ModelSpec,
    /// The weights, as in NAME=WEIGHTS
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// A file of pixels (.safetensors, .npy, .pt): [N, 3, height, width] or [N, height, width, 3], in [0, 1] or 8-bit; or a folder of
    /// images, by name, or of class folders. The network is built for their size, unless --input-size says another
    #[arg(long, visible_alias = "data", value_name = "FILE|DIR")]
    inputs: PathBuf,
    /// The labels, which --grad needs, as those of eval [default: what the file holds as labels or y]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// The safetensors file to write: logits [N, classes]
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Also write input_grad [N, 3, H, W], the gradient of the mean cross-entropy with respect to the pixels
    #[arg(long)]
    grad: bool,
    /// Also write features [N, channels], pooled, before the classifier
    #[arg(long)]
    features: bool,
    /// Images at once
    #[arg(long, value_name = "COUNT", default_value = "32", value_parser = values::positive)]
    batch: usize,
    #[command(flatten)]
    options: ModelOptions,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let spec = match &self.weights {
            Some(path) => self.model.clone().with_path(path.clone()),
            None => self.model.clone(),
        };
        let inputs = Inputs::open(&self.inputs, self.labels.as_deref(), self.grad)?;
        // Without another wish, the network is built for what it is given.
        let spec = self.options.sized(spec.at_size(inputs.size));
        let model = common.load_one(&spec, self.options.precision)?;
        inputs.check(&model)?;
        let count = inputs.count;
        let [height, width] = model.input_size();
        let (mut logits, mut features, mut gradient) = (Output::default(), Output::default(), Output::default());
        let bar = common.bar("images");
        bar.set_length(count as u64);
        for start in (0..count).step_by(self.batch) {
            let images = self.batch.min(count - start);
            let values = inputs.pixels(start..start + images, &model)?;
            let pixels = model.pixels(values, [images, 3, height, width]);
            if self.grad {
                let labels = &inputs.labels[start..start + images];
                let loss = |logits| cross_entropy(logits, labels).sum().div_scalar(count as f64);
                let result = model.input_gradient(pixels.clone(), loss);
                gradient.push(result.gradient);
                logits.push(result.logits);
            }
            if self.features || !self.grad {
                let outputs = model.forward(pixels);
                if !self.grad {
                    logits.push(outputs.logits);
                }
                if self.features {
                    features.push(outputs.features);
                }
            }
            bar.inc(images as u64);
        }
        bar.finish_and_clear();
        let outputs = [("logits", &logits), ("features", &features), ("input_grad", &gradient)];
        let mut tensors = Vec::new();
        for (name, output) in outputs {
            if !output.shape.is_empty() {
                let dtype = output_dtype(self.options.precision);
                tensors.push((name, TensorView::new(dtype, output.shape.clone(), &output.bytes)?));
            }
        }
        let made_by = HashMap::from([
            ("netkin".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("model".to_owned(), model.name().to_owned()),
            ("sha256".to_owned(), model.sha256().to_owned()),
            ("device".to_owned(), common.device.to_string()),
            ("precision".to_owned(), self.options.precision.to_string()),
        ]);
        write_atomically(&self.out, &safetensors::serialize(tensors, Some(made_by))?)?;
        common.note(&format!("wrote {}", self.out.display()));
        Ok(Outcome::Done)
    }
}

/// Half precision is written as f32, which holds it exactly and everyone reads.
fn output_dtype(precision: Precision) -> Dtype {
    match precision.dtype() {
        DType::F64 => Dtype::F64,
        _ => Dtype::F32,
    }
}

/// A tensor that grows along its first axis, as little-endian bytes.
#[derive(Default)]
struct Output {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Output {
    fn push<const D: usize>(&mut self, tensor: Tensor<D>) {
        let shape = tensor.dims();
        match self.shape.first_mut() {
            Some(count) => *count += shape[0],
            None => self.shape = shape.to_vec(),
        }
        let data = tensor.into_data();
        match data.dtype() {
            DType::F64 => self.bytes.extend(data.iter::<f64>().flat_map(f64::to_le_bytes)),
            _ => self.bytes.extend(data.iter::<f32>().flat_map(f32::to_le_bytes)),
        }
    }
}

/// What a network is shown.
struct Inputs {
    images: Images,
    count: usize,
    /// Height and width of the first image.
    size: [usize; 2],
    /// Of each image, if they are wanted.
    labels: Vec<usize>,
}

/// Where the images are.
enum Images {
    InOneFile(Arc<Stack>),
    InFiles(Vec<Sample>),
}

impl Inputs {
    fn open(path: &Path, labels: Option<&Path>, with_labels: bool) -> Result<Self, Failure> {
        let labels_of = |samples: &[Sample]| -> Vec<usize> {
            let all = samples.iter().filter(|_| with_labels);
            all.map(|sample| sample.label).collect()
        };
        if path.is_dir() {
            let plain = if with_labels || labels.is_some() { Vec::new() } else { Dataset::unlabelled(path)? };
            let samples = if plain.is_empty() { Dataset::open(path, labels)?.samples } else { plain };
            let first = samples[0].decode()?;
            return Ok(Self {
                count: samples.len(),
                size: [first.height(), first.width()],
                labels: labels_of(&samples),
                images: Images::InFiles(samples),
            });
        }
        let (stack, labels) = match with_labels || labels.is_some() {
            false => (Arc::new(Stack::open(path)?), Vec::new()),
            true => {
                let dataset = Dataset::from_stack(path, labels)?;
                let stack = dataset.stack().expect("there is an image").clone();
                (stack, labels_of(&dataset.samples))
            }
        };
        Ok(Self { count: stack.images(), size: stack.size(), labels, images: Images::InOneFile(stack) })
    }

    /// An error if the images cannot be shown to a network, or their labels are not its.
    fn check(&self, model: &Model) -> Result<(), Failure> {
        if let Images::InOneFile(stack) = &self.images {
            stack.check_shape(model.input_size())?;
        }
        match self.labels.iter().position(|&label| label >= model.num_classes()) {
            Some(image) => Err(format!(
                "image {image} has the label {}, but {} has {} classes; give class indices below that",
                self.labels[image],
                model.name(),
                model.num_classes()
            )
            .into()),
            None => Ok(()),
        }
    }

    /// Pixels in [0, 1] of some images, one after another, at the network's size.
    fn pixels(&self, images: Range<usize>, model: &Model) -> Result<Vec<f32>, Failure> {
        match &self.images {
            Images::InOneFile(stack) => Ok(stack.pixels(&images.collect::<Vec<_>>(), model.input_size())?),
            Images::InFiles(samples) => {
                let transform = model.transform(Crop::Whole);
                let mut pixels = Vec::new();
                for sample in &samples[images] {
                    pixels.extend(transform.apply(&sample.decode()?).to_pixels());
                }
                Ok(pixels)
            }
        }
    }
}
