//! `netkin attack`: adversarial images of one network.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use netkin_weights::ModelSpec;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Serialize;

use super::common::{Common, DataOptions, ModelOptions, print, print_json, report_skipped};
use super::{Failure, Outcome, values};
use crate::attacks::{Attack, Pgd, Targets, quantise};
use crate::images::{RgbImage, encode_png};
use crate::model::{argmax, to_f32};
use crate::runs::write_atomically;

/// Make adversarial images of one network
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG or NAME=WEIGHTS
    model: ModelSpec,
    /// The attack: pgd
    #[arg(long, value_name = "ATTACK", default_value = "pgd", value_parser = ["pgd"])]
    attack: String,
    #[command(flatten)]
    pgd: PgdOptions,
    #[command(flatten)]
    data: DataOptions,
    /// The folder for the images (PNG, as data-set path) and adversarial.safetensors
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Images attacked at once
    #[arg(long, value_name = "COUNT", default_value = "32", value_parser = values::positive)]
    batch: usize,
    #[command(flatten)]
    options: ModelOptions,
}

/// Options of projected gradient descent.
#[derive(Debug, clap::Args)]
pub struct PgdOptions {
    /// The largest change of a pixel, in [0, 1]
    #[arg(long, value_name = "CHANGE", default_value = "8/255", value_parser = values::fraction)]
    eps: f64,
    /// The change of a pixel in one step, in [0, 1]
    #[arg(long, value_name = "CHANGE", default_value = "2/255", value_parser = values::fraction)]
    step_size: f64,
    /// Steps
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    steps: usize,
    /// Start from the image instead of a random point around it
    #[arg(long)]
    no_random_start: bool,
    /// Seeds the random start
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
}

impl PgdOptions {
    /// The attack, its ranges checked.
    pub fn pgd(&self) -> Result<Pgd, Failure> {
        let pgd = Pgd {
            eps: self.eps,
            step_size: self.step_size,
            steps: self.steps,
            random_start: !self.no_random_start,
            seed: self.seed,
        };
        pgd.check()?;
        Ok(pgd)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    netkin: &'static str,
    model: &'a str,
    sha256: &'a str,
    device: String,
    precision: String,
    attack: &'a Pgd,
    images: usize,
    skipped: usize,
    /// Images classified correctly before the attack.
    correct: usize,
    /// Of those, the ones that the attack turned, as floating-point numbers.
    fooled_float: usize,
    /// Of those, the ones that the attack turned, as 8-bit images.
    fooled_8bit: usize,
}

/// Everything that goes into adversarial.safetensors.
#[derive(Default)]
struct Collected {
    float: Vec<u8>,
    bytes: Vec<u8>,
    labels: Vec<u8>,
    indices: Vec<u8>,
    predictions: Vec<u8>,
    count: usize,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let pgd = self.pgd.pgd()?;
        let dataset = self.data.open()?;
        let model = common.load_one(&self.options.sized(self.model.clone()), self.options.precision)?;
        let (mut loader, bar) = self.data.load(common, &dataset, &model, self.batch)?;
        // An unwritable folder is said now, not after an hour's work.
        write_atomically(&self.out.join("attack.json"), &serde_json::to_vec_pretty(&pgd)?)?;

        let (mut correct, mut fooled_float, mut fooled_8bit) = (0, 0, 0);
        let mut collected = Collected::default();
        for batch in loader.by_ref() {
            let batch = batch?;
            let originals: Vec<RgbImage> = (0..batch.len()).map(|index| batch.image(index)).collect();
            let ids: Vec<&str> = batch.indices.iter().map(|&index| dataset.samples[index].id.as_str()).collect();
            let pixels = model.pixels_of(&originals);
            let clean = model.predict(pixels.clone());
            let targets = Targets { pixels, labels: &batch.labels, ids: &ids };
            let adversarial = pgd.perturb(&model, &targets);
            let float = argmax(model.forward(adversarial.clone()).logits);
            let values = to_f32(adversarial);
            let size = values.len() / originals.len();
            let images: Vec<RgbImage> = originals
                .iter()
                .zip(values.chunks_exact(size))
                .map(|(original, values)| quantise(values, original, pgd.eps()))
                .collect();
            let quantised = model.predict(model.pixels_of(&images));
            for index in 0..originals.len() {
                let label = batch.labels[index];
                let was_correct = clean[index] == label;
                correct += usize::from(was_correct);
                fooled_float += usize::from(was_correct && float[index] != label);
                fooled_8bit += usize::from(was_correct && quantised[index] != label);
                write_png(&self.out, ids[index], &images[index])?;
                collected.push(
                    &values[index * size..][..size],
                    &images[index],
                    label,
                    batch.indices[index],
                    quantised[index],
                );
            }
            bar.inc(batch.len() as u64);
        }
        bar.finish_and_clear();
        let skipped = loader.skipped().to_vec();
        report_skipped(&skipped);
        if collected.count == 0 {
            return Err(format!(
                "none of the {} images can be decoded; check {}",
                dataset.samples.len(),
                self.data.data.display()
            )
            .into());
        }
        let path = self.out.join("adversarial.safetensors");
        write_atomically(&path, &collected.serialise(model.input_size())?)?;

        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            model: model.name(),
            sha256: model.sha256(),
            device: common.device.to_string(),
            precision: self.options.precision.to_string(),
            attack: &pgd,
            images: collected.count,
            skipped: skipped.len(),
            correct,
            fooled_float,
            fooled_8bit,
        };
        write_atomically(&self.out.join("attack.json"), &serde_json::to_vec_pretty(&document)?)?;
        if common.json {
            print_json(&document)?;
        } else {
            let percent = |part: usize| 100.0 * part as f64 / correct.max(1) as f64;
            print(&format!(
                "{} images, {correct} classified correctly\nfooled as computed  {fooled_float} ({:.1} %)\nfooled as 8-bit     {fooled_8bit} ({:.1} %)\n",
                document.images,
                percent(fooled_float),
                percent(fooled_8bit),
            ))?;
        }
        Ok(if skipped.is_empty() { Outcome::Done } else { Outcome::FellShort })
    }
}

impl Collected {
    fn push(&mut self, values: &[f32], image: &RgbImage, label: usize, index: usize, prediction: usize) {
        self.float.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let plane = image.width() * image.height();
        let data = image.data();
        self.bytes.extend((0..3).flat_map(|channel| (0..plane).map(move |place| data[3 * place + channel])));
        self.labels.extend((label as i64).to_le_bytes());
        self.indices.extend((index as i64).to_le_bytes());
        self.predictions.extend((prediction as i64).to_le_bytes());
        self.count += 1;
    }

    /// `pixels` f32 and `images` u8, both `[image, 3, height, width]`; `labels`, `indices` (in the data set) and
    /// `predictions` (on the 8-bit images) i64 `[image]`.
    fn serialise(&self, [height, width]: [usize; 2]) -> Result<Vec<u8>, Failure> {
        let images = vec![self.count, 3, height, width];
        let each = vec![self.count];
        let tensors = [
            ("pixels", TensorView::new(Dtype::F32, images.clone(), &self.float)?),
            ("images", TensorView::new(Dtype::U8, images, &self.bytes)?),
            ("labels", TensorView::new(Dtype::I64, each.clone(), &self.labels)?),
            ("indices", TensorView::new(Dtype::I64, each.clone(), &self.indices)?),
            ("predictions", TensorView::new(Dtype::I64, each, &self.predictions)?),
        ];
        Ok(safetensors::serialize(tensors, None::<HashMap<String, String>>)?)
    }
}

/// Under the image's own path in the data set, as PNG.
fn write_png(out: &Path, id: &str, image: &RgbImage) -> Result<(), Failure> {
    let path = out.join("images").join(id).with_extension("png");
    Ok(write_atomically(&path, &encode_png(image))?)
}
