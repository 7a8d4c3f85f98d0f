//! `netkin eval`: accuracy on a data set.

use std::time::Instant;

use netkin_weights::ModelSet;
use serde::Serialize;

use super::common::{Common, DataOptions, ModelOptions, begin, own_crop, print, print_json, report_skipped};
use super::{Failure, Outcome, sat, values};
use crate::images::{Dataset, LoaderOptions, load, stack};
use crate::model::{Crop, Model, to_f64};

/// Measure top-1 and top-5 accuracy; prints CSV with the columns of timm's results files
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG, NAME=WEIGHTS, @paper69, @demo or @FILE
    #[arg(required = true)]
    models: Vec<ModelSet>,
    #[command(flatten)]
    data: DataOptions,
    /// What networks see of an image: own (each its weights' crop), shared (all the same field of view) or whole (all of it, stretched
    /// where it has another size, as saved adversarial images are to be judged) [default: own, or whole for a file of images]
    #[arg(long, value_name = "CROP", value_parser = sat::crop)]
    crop: Option<Crop>,
    /// Images at once
    #[arg(long, value_name = "COUNT", default_value = "32", value_parser = values::positive)]
    batch: usize,
    #[command(flatten)]
    options: ModelOptions,
}

/// The first nine columns are timm's.
#[derive(Debug, Serialize)]
struct Row {
    model: String,
    top1: String,
    top1_err: String,
    top5: String,
    top5_err: String,
    /// Millions.
    param_count: String,
    img_size: usize,
    crop_pct: f64,
    interpolation: String,
    images: usize,
    correct: usize,
    images_per_second: String,
    /// What was chosen among several things in the weights' file.
    notes: String,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let dataset = self.data.open_as_given()?;
        let mut rows = Vec::new();
        let mut complete = true;
        for spec in &self.options.specs(&self.models) {
            let model = common.load_one(spec, self.options.precision)?;
            let (row, skipped) = self.evaluate(common, &model, &dataset)?;
            rows.push(row);
            complete &= skipped == 0;
        }
        if common.json {
            print_json(&serde_json::json!({"results": rows}))?;
        } else {
            let mut writer = csv::Writer::from_writer(Vec::new());
            for row in &rows {
                writer.serialize(row)?;
            }
            print(&String::from_utf8(writer.into_inner()?)?)?;
        }
        Ok(if complete { Outcome::Done } else { Outcome::FellShort })
    }

    /// One model's row, and how many images were left out.
    fn evaluate(&self, common: &Common, model: &Model, dataset: &Dataset) -> Result<(Row, usize), Failure> {
        let crop = self.crop.unwrap_or(own_crop(dataset));
        let transform = model.transform(crop);
        let bar = begin(common, dataset, model, transform)?;
        let (mut images, mut top1, mut top5) = (0, 0, 0);
        let start = Instant::now();
        let size @ [height, width] = model.input_size();
        let mut count = |pixels: Vec<f32>, labels: &[usize]| {
            let logits = to_f64(model.forward(model.pixels(pixels, [labels.len(), 3, height, width])).logits);
            for (logits, &label) in logits.chunks_exact(model.num_classes()).zip(labels) {
                let rank = rank(logits, label);
                top1 += usize::from(rank < 1);
                top5 += usize::from(rank < 5);
            }
            images += labels.len();
            bar.inc(labels.len() as u64);
        };
        let mut skipped = Vec::new();
        // What another program saved is judged as it is, without rounding to 8 bits.
        if dataset.stack().is_some() && crop == Crop::Whole {
            for samples in dataset.samples.chunks(self.batch) {
                let labels: Vec<usize> = samples.iter().map(|sample| sample.label).collect();
                count(stack::pixels_of(samples, size)?, &labels);
            }
        } else {
            let options = LoaderOptions { strict: self.data.strict, ..LoaderOptions::new(self.batch) };
            let mut loader = load(&dataset.samples, transform, options);
            for batch in loader.by_ref() {
                let batch = batch?;
                count(batch.pixels(), &batch.labels);
            }
            skipped = loader.skipped().to_vec();
        }
        let seconds = start.elapsed().as_secs_f64();
        bar.finish_and_clear();
        report_skipped(&skipped);
        if images == 0 {
            return Err(format!(
                "none of the {} images can be decoded; check {}",
                dataset.samples.len(),
                self.data.data.display()
            )
            .into());
        }
        let percent = |part: usize| 100.0 * part as f64 / images as f64;
        let row = Row {
            model: model.name().to_owned(),
            top1: format!("{:.3}", percent(top1)),
            top1_err: format!("{:.3}", percent(images - top1)),
            top5: format!("{:.3}", percent(top5)),
            top5_err: format!("{:.3}", percent(images - top5)),
            param_count: format!("{:.2}", model.parameters() as f64 / 1e6),
            img_size: model.input_size()[0],
            crop_pct: transform.crop_pct,
            interpolation: transform.interpolation.name().to_owned(),
            images,
            correct: top1,
            images_per_second: format!("{:.1}", images as f64 / seconds),
            notes: model.notes().join("; "),
        };
        Ok((row, skipped.len()))
    }
}

/// How many classes come before the label: those with larger logits, and those with equal ones and a smaller index.
fn rank(logits: &[f64], label: usize) -> usize {
    let own = logits[label];
    logits
        .iter()
        .enumerate()
        .filter(|&(class, &logit)| logit > own || (logit == own && class < label) || logit.is_nan())
        .count()
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn ranks() {
        let logits = [0.5, 2.0, 2.0, -1.0];
        assert_eq!([0, 1, 2, 3].map(|label| rank(&logits, label)), [2, 0, 1, 3]);
    }
}
