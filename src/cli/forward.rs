//! `netkin forward`: run a network on tensors from a file, to check it against any other framework.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use netkin_weights::{ModelSpec, Precision};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::common::{Common, ModelOptions};
use super::{Failure, Outcome, values};
use crate::files::{MAX_TENSORS, read_regular};
use crate::model::{Model, cross_entropy};
use crate::runs::write_atomically;

/// Run a network on pixels from a safetensors file and write its logits
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG or NAME=WEIGHTS
    model: ModelSpec,
    /// The weights, as in NAME=WEIGHTS
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// A safetensors file with pixels: f32 [N, 3, H, W] in [0, 1], and for --grad labels: i64 [N]
    #[arg(long, value_name = "FILE.safetensors")]
    inputs: PathBuf,
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
        let inputs = Inputs::read(&self.inputs, self.grad)?;
        // Without another wish, the network is built for what it is given.
        let [_, _, height, width] = inputs.shape;
        let spec = self.options.sized(spec.at_size([height, width]));
        let model = common.load_one(&spec, self.options.precision)?;
        inputs.check(&self.inputs, &model)?;
        let [count, _, height, width] = inputs.shape;
        let size = 3 * height * width;
        let (mut logits, mut features, mut gradient) = (Output::default(), Output::default(), Output::default());
        let bar = common.bar("images");
        bar.set_length(count as u64);
        for start in (0..count).step_by(self.batch) {
            let images = self.batch.min(count - start);
            let values = inputs.pixels[start * size..(start + images) * size].to_vec();
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

struct Inputs {
    pixels: Vec<f32>,
    shape: [usize; 4],
    labels: Vec<usize>,
}

impl Inputs {
    fn read(path: &Path, with_labels: bool) -> Result<Self, Failure> {
        let place = path.display();
        let bytes = read_regular(path, MAX_TENSORS)
            .map_err(|error| format!("cannot read {place} ({error}); check the path given as --inputs"))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| format!("{place} is not a safetensors file ({error}); give one with pixels"))?;
        let tensor = |name: &str, dtype: Dtype, wanted: &str| -> Result<(Vec<usize>, Vec<u8>), Failure> {
            let tensor =
                file.tensor(name).map_err(|_| format!("{place} holds no tensor {name}; it must be {wanted}"))?;
            if tensor.dtype() == dtype {
                Ok((tensor.shape().to_vec(), tensor.data().to_vec()))
            } else {
                Err(format!("{name} in {place} is {:?}; it must be {wanted}", tensor.dtype()).into())
            }
        };
        const PIXELS: &str = "f32 [N, 3, H, W] with values in [0, 1]";
        let (shape, bytes) = tensor("pixels", Dtype::F32, PIXELS)?;
        let shape: [usize; 4] = shape
            .as_slice()
            .try_into()
            .ok()
            .filter(|shape: &[usize; 4]| shape[0] > 0 && shape[1] == 3)
            .ok_or_else(|| format!("pixels in {place} has the shape {shape:?}; it must be {PIXELS}"))?;
        let pixels: Vec<f32> =
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect();
        if let Some(wrong) = pixels.iter().find(|value| !(0.0..=1.0).contains(*value)) {
            return Err(format!("pixels in {place} holds {wrong}; it must be {PIXELS}, not normalised").into());
        }
        let mut labels = Vec::new();
        if with_labels {
            const LABELS: &str = "i64 [N] with class indices, which --grad needs";
            let (label_shape, bytes) = tensor("labels", Dtype::I64, LABELS)?;
            if label_shape != [shape[0]] {
                return Err(format!(
                    "labels in {place} has the shape {label_shape:?}; it must be {LABELS}, N = {}",
                    shape[0]
                )
                .into());
            }
            for eight in bytes.chunks_exact(8) {
                let label = i64::from_le_bytes(eight.try_into()?);
                labels.push(
                    usize::try_from(label)
                        .map_err(|_| format!("labels in {place} holds {label}; it must be {LABELS}"))?,
                );
            }
        }
        Ok(Self { pixels, shape, labels })
    }

    fn check(&self, path: &Path, model: &Model) -> Result<(), Failure> {
        let place = path.display();
        let [_, _, height, width] = self.shape;
        if [height, width] != model.input_size() {
            let [own_height, own_width] = model.input_size();
            return Err(format!(
                "pixels in {place} are {height} × {width}, but --input-size says {own_height} × {own_width}; leave it out"
            )
            .into());
        }
        match self.labels.iter().find(|&&label| label >= model.num_classes()) {
            Some(label) => Err(format!(
                "labels in {place} holds {label}, but {} has {} classes; give class indices below that",
                model.name(),
                model.num_classes()
            )
            .into()),
            None => Ok(()),
        }
    }
}
