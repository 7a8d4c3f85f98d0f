//! `netkin attack`: adversarial images of one network or of several at once, and whom else they fool.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use netkin_weights::{ModelSet, ModelSpec};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Serialize;
use serde_json::Value;

use super::attack_options::AttackOptions;
use super::attack_target::{MaskFile, Target};
use super::common::{Common, DataOptions, ModelOptions, own_crop, print, print_json, report_skipped, say};
use super::surrogates::SurrogateOptions;
use super::{Failure, Outcome, values};
use crate::attacks::{
    Attack, AttackError, Average, Doubt, Effort, Ensemble, Norm, Surrogate, Targets, doubts_of, length, quantise,
    transfer,
};
use crate::files::read_regular;
use crate::images::{self, CropMode, Dataset, Filter, RgbImage, Skipped, Transform, decode, encode_png, resize};
use crate::model::{Model, argmax, to_f32};
use crate::runs::write_atomically;

/// Make adversarial images of one network, or of several at once, and see whom they fool
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG or NAME=WEIGHTS
    model: ModelSpec,
    #[command(flatten)]
    surrogates: SurrogateOptions,
    /// Show the adversarial images to these networks, too
    #[arg(long, value_name = "MODEL", num_args = 1..)]
    evaluate: Vec<ModelSet>,
    /// Take the setting of a published table, and set its results beside ours: transferattack
    #[arg(long, value_name = "PROTOCOL", value_parser = ["transferattack"])]
    protocol: Option<String>,
    /// What each image is to be taken for: a class's index, random, least-likely or second-best [default: anything but its label]
    #[arg(long, value_name = "CLASS", value_parser = Target::parse)]
    target: Option<Target>,
    /// An image, or a folder of images named as the data set's, that is white where pixels may change
    #[arg(long, value_name = "PATH")]
    mask: Option<PathBuf>,
    #[command(flatten)]
    attack: AttackOptions,
    #[command(flatten)]
    data: DataOptions,
    /// The folder for attack.json, attack.csv (a row for each image), the images (PNG, as data-set path) and
    /// adversarial.safetensors; with several eps, a folder in it for each
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Images attacked at once
    #[arg(long, value_name = "COUNT", default_value = "32", value_parser = values::positive)]
    batch: usize,
    #[command(flatten)]
    options: ModelOptions,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    model: String,
    sha256: String,
    /// The networks that were attacked with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    surrogates: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    average: Option<Average>,
    device: String,
    precision: String,
    attack: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    images: usize,
    skipped: usize,
    /// Images classified correctly before the attack.
    correct: usize,
    /// Of those, the ones that the attack turned, as floating-point numbers.
    fooled_float: usize,
    /// Of those, the ones that the attack turned, as 8-bit images.
    fooled_8bit: usize,
    /// Of all images, the percentage that was classified correctly and that the attack did not turn, as floating-point numbers.
    robust_accuracy: f64,
    /// What the parts of an attack did, one after another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Part>,
    /// Whom else the 8-bit images fool.
    evaluated: Vec<Evaluated>,
    doubts: Vec<Doubt>,
}

/// What a part of an attack did, of the images that those before it had left, as floating-point numbers.
#[derive(Serialize)]
struct Part {
    attack: &'static str,
    /// Images classified correctly before the attack that this part turned.
    fooled: usize,
    /// Of all images, the percentage that was classified correctly and that neither it nor the parts before it turned.
    robust_accuracy: f64,
}

/// What a network says of the 8-bit images.
#[derive(Serialize)]
struct Evaluated {
    model: String,
    /// Images classified correctly before the attack, as this network gets them.
    correct: usize,
    /// Of those, the ones that are misclassified afterwards (or taken for the target).
    fooled: usize,
    /// Of all images, the ones that are misclassified afterwards (or taken for the target).
    wrong: usize,
    /// The published share of all images that are misclassified, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<f64>,
}

/// What is known of one attacked image.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    label: usize,
    target: Option<usize>,
    /// Predictions: before the attack, of the numbers that it made, of the image that was saved.
    before: usize,
    float: usize,
    saved: usize,
    /// Distances of the saved image from the original one, pixels in [0, 1].
    linf: f64,
    l2: f64,
    l1: f64,
    queries: u32,
    gradients: u32,
    /// Of an attack of parts, the one that turned the image; empty if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    fooled_by: Option<&'static str>,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let Self { model, out, data, .. } = &self;
        let is_protocol = self.protocol.is_some();
        let dataset = data.open()?;
        let mut attack = self.attack.clone();
        let mut options = self.options.clone();
        if is_protocol {
            attack = attack.within(transfer::EPS);
            options.input_size = options.input_size.or(Some([transfer::SIZE; 2]));
        }
        let attacks = attack.all(&dataset)?;
        let model = common.load_one(&options.sized(model.clone()), options.precision)?;
        let judges = self.options.specs(&self.evaluate);
        let surrogates = self.surrogates.load(&self.model, &judges, common, &self.options)?;
        let judges = common.load(&judges, options.precision)?;
        let all: Vec<&Model> = std::iter::once(&model).chain(&surrogates).collect();
        let ensemble = if surrogates.is_empty() { None } else { Some(Ensemble::new(&all, self.surrogates.average)?) };
        let network: &dyn Surrogate = match &ensemble {
            Some(ensemble) => ensemble,
            None => &model,
        };
        for attack in &attacks {
            check(&**attack, network.num_classes(), self.target, self.mask.is_some())?;
        }
        if let Some(Target::Class(class)) = self.target
            && class >= model.num_classes()
        {
            let classes = model.num_classes();
            return Err(format!(
                "--target {class} is no class of {}, which has {classes}: give 0 to {}",
                model.name(),
                classes - 1
            )
            .into());
        }
        dataset.check_labels(judges.iter().chain(&surrogates).map(Model::num_classes).min().unwrap_or(usize::MAX))?;
        let mask = self.mask.as_deref().map(MaskFile::open).transpose()?;
        let mut transform = model.transform(own_crop(&dataset));
        if is_protocol {
            transform =
                Transform { crop_pct: 1.0, crop_mode: CropMode::Squash, interpolation: Filter::Bicubic, ..transform };
        }
        let work = Work {
            args: &self,
            common,
            dataset: &dataset,
            model: &model,
            network,
            surrogates: &surrogates,
            judges: &judges,
            mask,
            transform,
        };

        let mut outcome = Outcome::Done;
        let mut documents = Vec::new();
        for attack in &attacks {
            let out = match &attacks[..] {
                [_] => out.clone(),
                _ => out.join(format!("eps-{}", attack.bound().eps)),
            };
            let document = work.attack(&**attack, &out, data)?;
            if document.skipped > 0 {
                outcome = Outcome::FellShort;
            }
            if !common.json {
                print(&document.text(attacks.len() > 1))?;
            }
            documents.push(document);
        }
        match &documents[..] {
            _ if !common.json => {}
            [one] => print_json(one)?,
            all => print_json(&all)?,
        }
        Ok(outcome)
    }
}

/// Whether an attack is defined for what is wanted.
fn check(attack: &dyn Attack, classes: usize, target: Option<Target>, is_masked: bool) -> Result<(), Failure> {
    let name = attack.name().to_owned();
    if target.is_some() && !attack.can_be_targeted() {
        return Err(AttackError::Untargeted(name).into());
    }
    let least = attack.least_classes(target.is_some());
    if classes < least {
        return Err(AttackError::Classes { attack: name, least, classes }.into());
    }
    if is_masked && !attack.honours_mask() {
        return Err(format!("{name} knows no mask; leave out --mask, or take another attack, such as pgd").into());
    }
    Ok(())
}

/// All that an attack of a data set needs.
struct Work<'a> {
    args: &'a Args,
    common: &'a Common,
    dataset: &'a Dataset,
    model: &'a Model,
    network: &'a dyn Surrogate,
    surrogates: &'a [Model],
    judges: &'a [Model],
    mask: Option<MaskFile>,
    transform: Transform,
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

impl Work<'_> {
    /// Whether the published table has figures of this attack on this network.
    fn is_published(&self, attack: &dyn Attack) -> bool {
        let Args { target, mask, .. } = self.args;
        let is_alone = self.surrogates.is_empty() && target.is_none() && mask.is_none();
        is_alone
            && self.model.entry().name == "resnet50"
            && self.args.attack.is_default()
            && attack.bound().eps == transfer::EPS
    }

    /// Attacks all images, writes what it makes into `out`, and says how it went and how many images were skipped.
    fn attack(&self, attack: &dyn Attack, out: &Path, data: &DataOptions) -> Result<Document, Failure> {
        let Self { model, network, .. } = *self;
        let (mut loader, bar) = data.load(self.common, self.dataset, model, self.transform, self.args.batch)?;
        // An unwritable folder is said now, not after an hour's work.
        write_atomically(&out.join("attack.json"), &serde_json::to_vec_pretty(&attack.settings())?)?;
        let mut table = csv::Writer::from_writer(Vec::new());
        let mut collected = Collected::default();
        let (mut first, mut doubts) = (Vec::new(), Vec::new());
        let (mut correct, mut fooled_float, mut fooled_8bit) = (0, 0, 0);
        let names = attack.part_names();
        let mut fooled_by_part = vec![0; names.len()];
        let mut evaluated: Vec<[usize; 3]> = vec![[0; 3]; self.judges.len()];
        for batch in loader.by_ref() {
            let batch = batch?;
            let originals: Vec<RgbImage> = (0..batch.len()).map(|index| batch.image(index)).collect();
            let ids: Vec<&str> = batch.indices.iter().map(|&index| self.dataset.samples[index].id.as_str()).collect();
            let mut targets = Targets::new(model.pixels_of(&originals), &batch.labels, &ids);
            let logits = model.forward(targets.pixels.clone()).logits;
            if collected.count == 0 {
                first = doubts_of(network, &targets.pixels);
            }
            let seed = self.args.attack.seed();
            targets.wanted = self.args.target.map(|target| target.classes(&logits, &batch.labels, &ids, seed));
            targets.mask = self.mask.as_ref().map(|mask| mask.of(&ids, &targets.pixels)).transpose()?;
            let clean = argmax(logits);
            let (perturbed, fooled_by) = attack.perturb_by_parts(network, &targets);
            perturbed.doubts.iter().for_each(|&doubt| Doubt::add(&mut doubts, doubt));
            let float = model.predict(perturbed.pixels.clone());
            let values = to_f32(perturbed.pixels);
            let size = values.len() / originals.len();
            let images: Vec<RgbImage> = originals
                .par_iter()
                .zip(values.par_chunks_exact(size))
                .map(|(original, values)| quantise(values, original, attack.bound()))
                .collect();
            let saved = model.predict(model.pixels_of(&images));
            let (is_fooled_float, is_fooled) = (targets.fooled(&float), targets.fooled(&saved));
            for index in 0..originals.len() {
                let label = batch.labels[index];
                let was_correct = clean[index] == label;
                correct += usize::from(was_correct);
                fooled_float += usize::from(was_correct && is_fooled_float[index]);
                fooled_8bit += usize::from(was_correct && is_fooled[index]);
                if let Some(part) = names.iter().position(|name| Some(*name) == fooled_by[index]) {
                    fooled_by_part[part] += usize::from(was_correct);
                }
                write_png(out, ids[index], &images[index])?;
                let distance = |norm| distance(&images[index], &originals[index], norm);
                let Effort { queries, gradients } = perturbed.effort[index];
                table.serialize(Row {
                    id: ids[index],
                    label,
                    target: targets.wanted.as_ref().map(|wanted| wanted[index]),
                    before: clean[index],
                    float: float[index],
                    saved: saved[index],
                    linf: distance(Norm::Linf),
                    l2: distance(Norm::L2),
                    l1: distance(Norm::L1),
                    queries,
                    gradients,
                    fooled_by: (!names.is_empty()).then_some(fooled_by[index].unwrap_or_default()),
                })?;
                let values = &values[index * size..][..size];
                collected.push(values, &images[index], label, batch.indices[index], saved[index]);
            }
            for (judge, counts) in self.judges.iter().zip(&mut evaluated) {
                let clean = predict(judge, &originals);
                let fooled = targets.fooled(&predict(judge, &images));
                for ((clean, &label), is_fooled) in clean.into_iter().zip(&batch.labels).zip(fooled) {
                    counts[0] += usize::from(clean == label);
                    counts[1] += usize::from(clean == label && is_fooled);
                    counts[2] += usize::from(is_fooled);
                }
            }
            bar.inc(batch.len() as u64);
        }
        bar.finish_and_clear();
        let skipped: Vec<Skipped> = loader.skipped().to_vec();
        report_skipped(&skipped);
        if collected.count == 0 {
            let (images, data) = (self.dataset.samples.len(), data.data.display());
            return Err(format!("none of the {images} images can be decoded; check {data}").into());
        }
        write_atomically(&out.join("attack.csv"), &table.into_inner()?)?;
        write_atomically(&out.join("adversarial.safetensors"), &collected.serialise(model.input_size())?)?;
        let doubts = doubts.into_iter().map(|doubt: Doubt| doubt.of_all(collected.count));
        let doubts: Vec<Doubt> = first.into_iter().chain(doubts).collect();
        for doubt in &doubts {
            say(&format!("warning: {}: {doubt}", attack.name()));
        }
        let is_published = self.args.protocol.is_some() && self.is_published(attack);
        if self.args.protocol.is_some() && !is_published {
            self.common.note("the published figures are of resnet50 attacked alone, without targets, in the table's setting; they are left out");
        }
        let evaluated = self.judges.iter().zip(evaluated).map(|(judge, [correct, fooled, wrong])| {
            let published = transfer::published(attack.name(), judge.entry().name).filter(|_| is_published);
            Evaluated { model: judge.name().to_owned(), correct, fooled, wrong, published }
        });
        let mut standing = correct;
        let parts = names.iter().zip(fooled_by_part).map(|(&attack, fooled)| {
            standing -= fooled;
            Part { attack, fooled, robust_accuracy: percent(standing, collected.count) }
        });
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            model: model.name().to_owned(),
            sha256: model.sha256().to_owned(),
            surrogates: self.surrogates.iter().map(|model| model.name().to_owned()).collect(),
            average: (!self.surrogates.is_empty()).then_some(self.args.surrogates.average),
            device: self.common.device.to_string(),
            precision: self.args.options.precision.to_string(),
            attack: attack.settings(),
            target: self.args.target.map(|target| target.to_string()),
            images: collected.count,
            skipped: skipped.len(),
            correct,
            fooled_float,
            fooled_8bit,
            robust_accuracy: percent(correct - fooled_float, collected.count),
            parts: parts.collect(),
            evaluated: evaluated.collect(),
            doubts,
        };
        write_atomically(&out.join("attack.json"), &serde_json::to_vec_pretty(&document)?)?;
        Ok(document)
    }
}

impl Document {
    /// For people; with the radius before it, where there are several.
    fn text(&self, with_eps: bool) -> String {
        let of_correct = |part: usize| percent(part, self.correct);
        let eps = if with_eps { format!("eps {}\n", self.attack["eps"]) } else { String::new() };
        let mut text = format!(
            "{eps}{} images, {} classified correctly\nfooled as computed  {} ({:.1} %)\nfooled as 8-bit     {} ({:.1} %)\n",
            self.images,
            self.correct,
            self.fooled_float,
            of_correct(self.fooled_float),
            self.fooled_8bit,
            of_correct(self.fooled_8bit),
        );
        for Part { attack, robust_accuracy, .. } in &self.parts {
            text += &format!("robust accuracy after {attack:8} {robust_accuracy:.2} %\n");
        }
        if self.evaluated.is_empty() {
            return text;
        }
        let width = self.evaluated.iter().map(|judge| judge.model.len()).max().unwrap_or(0).max("model".len());
        let is_published = self.evaluated.iter().any(|judge| judge.published.is_some());
        let head = if is_published { "  published %" } else { "" };
        text += &format!("\n{:width$}  correct  fooled  of correct %  of all %{head}\n", "model");
        for Evaluated { model, correct, fooled, wrong, published } in &self.evaluated {
            let published = published.map_or(String::new(), |published| format!("  {published:>11.1}"));
            let (of_correct, of_all) = (percent(*fooled, *correct), percent(*wrong, self.images));
            text +=
                &format!("{model:width$}  {correct:>7}  {fooled:>6}  {of_correct:>12.1}  {of_all:>8.1}{published}\n");
        }
        text
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

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// The classes of 8-bit images of any size, as a network gets them.
fn predict(model: &Model, images: &[RgbImage]) -> Vec<usize> {
    let [height, width] = model.input_size();
    let images: Vec<RgbImage> =
        images.par_iter().map(|image| resize(image, (width, height), Filter::Bicubic)).collect();
    model.predict(model.pixels_of(&images))
}

/// How far two images are apart, pixels in [0, 1].
fn distance(image: &RgbImage, original: &RgbImage, norm: Norm) -> f64 {
    length(image.data().iter().zip(original.data()).map(|(a, b)| f64::from(a.abs_diff(*b)) / 255.0), norm)
}

/// Under the image's own path in the data set, as PNG; what is on the disk is the image.
fn write_png(out: &Path, id: &str, image: &RgbImage) -> Result<(), Failure> {
    let path = out.join("images").join(id).with_extension("png");
    write_atomically(&path, &encode_png(image))?;
    let bytes = read_regular(&path, images::MAX_FILE)?;
    match decode(&bytes, id)? == *image {
        true => Ok(()),
        false => Err(format!("{} is not what was written there; check the disk", path.display()).into()),
    }
}
