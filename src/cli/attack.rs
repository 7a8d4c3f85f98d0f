//! `netkin attack`: adversarial images of one network or of several at once, and whom else they fool.

use std::collections::{HashMap, HashSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use netkin_weights::{ModelSet, ModelSpec, catalogue};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attack_options::{AttackOptions, is_near};
use super::attack_target::MaskFile;
use super::common::{Common, DataOptions, ModelOptions, own_crop, print, print_json, report_skipped, say};
use super::surrogates::SurrogateOptions;
use super::{Failure, Outcome, values};
use crate::attacks::{
    Attack, Average, Doubt, Effort, Ensemble, Norm, Reason, Surrogate, Targets, check_target, doubts_of, length,
    quantise, transfer,
};
use crate::files::read_regular;
use crate::images::{self, Batch, CropMode, Dataset, Filter, RgbImage, Skipped, Transform, decode, encode_png, resize};
use crate::model::{Model, argmax, to_f32};
use crate::runs::{RunError, write_atomically};

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
    /// Take the setting of a published table, and set its results beside ours: transferattack. Its eps, its size of images, one network
    /// attacked alone, no target, no mask and its attacks' settings are part of it
    #[arg(long, value_name = "PROTOCOL", value_parser = ["transferattack"])]
    protocol: Option<String>,
    /// An image, or a folder of images named as the data set's, that is white where pixels may change and black elsewhere
    #[arg(long, value_name = "PATH")]
    mask: Option<PathBuf>,
    #[command(flatten)]
    attack: AttackOptions,
    #[command(flatten)]
    data: DataOptions,
    /// The folder for attack.json, attack.csv (a row for each image), the images (PNG, as data-set path), their labels.csv and
    /// adversarial.safetensors; with several eps, a folder in it for each, such as eps-4_255
    ///
    /// An attack that was stopped begins anew. What an earlier attack wrote there is written over, its tables are removed first; images
    /// of it that this attack does not have stay, which is said.
    ///
    /// Columns of attack.csv: id (the image in the data set); label; target (what it is to be taken for; empty without --target);
    /// before, float, saved (what the network takes for the image before the attack, as computed, and as the 8-bit image that was
    /// saved); linf, l2, l1 (how far the saved image is from the original one, pixels in [0, 1]); queries, gradients (forward and
    /// backward passes); iterations (steps, of square proposals); fooled_by (of autoattack: the part that turned the image).
    ///
    /// The saved images are judged again by netkin eval MODEL --data DIR/images --labels DIR/labels.csv --crop whole.
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
    /// As they were given.
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    images: usize,
    skipped: usize,
    /// Images whose label is what they are to be taken for: they stay as they are and count in none of the numbers below.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_is_label: Option<usize>,
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
    /// Of the images classified correctly, the ones that several networks together took for another class before, so that the attack
    /// left them out.
    #[serde(skip)]
    left_by_several: usize,
    doubts: Vec<Doubt>,
}

/// What a part of an attack did, of the images that those before it had left, as floating-point numbers. Where several networks were
/// attacked, it counts whether the first one is fooled, as everything else here.
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
    /// Whether it was attacked itself, so that its numbers say nothing about transfer.
    attacked: bool,
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
    iterations: u32,
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
            self.check_protocol(&dataset)?;
            attack = attack.within(transfer::EPS);
            options.input_size = Some([transfer::SIZE; 2]);
        }
        let attacks = attack.all(&dataset)?;
        check_names(&dataset)?;
        let folders: Vec<PathBuf> = match &attacks[..] {
            [_] => vec![out.clone()],
            _ => self.attack.eps.iter().map(|eps| out.join(eps.folder())).collect(),
        };
        let weights = self.evaluate.iter().flat_map(ModelSet::specs).chain([model]).filter_map(ModelSpec::path);
        let read: Vec<&Path> = [data.labels.as_deref(), Some(&*data.data), self.mask.as_deref()]
            .into_iter()
            .flatten()
            .chain(weights)
            .collect();
        let classes = (data.labels.is_none() && data.data.is_dir()).then_some(&*data.data);
        folders.iter().try_for_each(|out| check_out(out, &read, classes))?;
        say_what_stays(out, &folders, &dataset);
        let model = common.load_one(&options.sized(model.clone()), options.precision)?;
        let judges = self.options.specs(&self.evaluate);
        let surrogates = self.surrogates.load(&self.model, &model, &judges, common, &self.options)?;
        let judges = common.load(&judges, options.precision)?;
        let all: Vec<&Model> = std::iter::once(&model).chain(&surrogates).collect();
        let ensemble = if surrogates.is_empty() { None } else { Some(Ensemble::new(&all, self.surrogates.average())?) };
        let network: &dyn Surrogate = match &ensemble {
            Some(ensemble) => ensemble,
            None => &model,
        };
        for attack in &attacks {
            check_target(&**attack, model.name(), network.num_classes(), self.attack.target)?;
            if self.mask.is_some() && !attack.honours_mask() {
                let name = attack.name();
                return Err(
                    format!("{name} knows no mask; leave out --mask, or take another attack, such as pgd").into()
                );
            }
        }
        for judge in judges.iter().filter(|judge| is_of(judge, &surrogates)) {
            let name = judge.name();
            say(&format!(
                "warning: {name} of --evaluate is attacked itself, so what it says of the images is no transfer"
            ));
        }
        dataset.check_labels(judges.iter().chain(&surrogates).map(Model::num_classes).min().unwrap_or(usize::MAX))?;
        let mask = self.mask.as_deref().map(MaskFile::open).transpose()?;
        if let Some(mask) = &mask {
            mask.check(dataset.samples.iter().map(|sample| sample.id.as_str()), model.input_size())?;
        }
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

        if is_protocol && let Some(why) = work.unpublished(&*attacks[0]) {
            let left_out = if self.evaluate.is_empty() { "" } else { "; published figures are left out" };
            say(&format!("warning: this is not the published setting of --protocol: {why}{left_out}"));
        }

        let _claims = folders.iter().map(|out| claim(out)).collect::<Result<Vec<_>, _>>()?;
        let mut outcome = Outcome::Done;
        let mut documents = Vec::new();
        for (index, (attack, out)) in attacks.iter().zip(&folders).enumerate() {
            let document = work.attack(&**attack, out, data)?;
            if document.skipped > 0 {
                outcome = Outcome::FellShort;
            }
            if !common.json {
                let eps = (attacks.len() > 1).then(|| self.attack.eps[index].text());
                print(&document.text(eps))?;
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

    /// Refuses what is not the setting of the protocol, which would be called by its name all the same. Another network or attack than
    /// those of the table is its user's affair, and said.
    fn check_protocol(&self, dataset: &Dataset) -> Result<(), Failure> {
        let Self { attack, options, surrogates, mask, .. } = self;
        let others = [
            ("target", attack.target.is_some()),
            ("mask", mask.is_some()),
            ("eps", attack.eps.iter().any(|eps| !is_near(&eps.value.into(), &transfer::EPS.into()))),
            ("input-size", options.input_size.is_some_and(|size| size != [transfer::SIZE; 2])),
        ];
        let other = others.into_iter().find(|(_, is_other)| *is_other).map(|(option, _)| option);
        let option = match other.or(surrogates.given()) {
            Some(option) => option,
            None => match attack.departure(dataset, transfer::EPS)? {
                Some(option) => option,
                None => return Ok(()),
            },
        };
        Err(format!(
            "--{option} is not as --protocol transferattack has it, whose setting is fixed (eps 16/255, images of {} pixels, one network attacked alone, no target and no mask, its attacks' own settings); leave out one of the two",
            transfer::SIZE
        )
        .into())
    }
}

/// Whether a network has the weights of one of the others.
fn is_of(network: &Model, others: &[Model]) -> bool {
    others.iter().any(|other| other.sha256() == network.sha256())
}

/// Refuses data sets of which two images would be saved under one name.
fn check_names(dataset: &Dataset) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    match dataset.samples.iter().find(|sample| !seen.insert(saved_as(&sample.id))) {
        None => Ok(()),
        Some(sample) => {
            let name = saved_as(&sample.id);
            Err(format!("{} is one of two images that would both be saved as {name}; rename it", sample.id).into())
        }
    }
}

/// What an attack writes into its folder, beside `images/`.
const TABLES: [&str; 3] = ["attack.csv", "labels.csv", "adversarial.safetensors"];

/// Refuses to write over what is read, and into class folders, where the images would be a class for whoever reads these next.
fn check_out(out: &Path, read: &[&Path], classes: Option<&Path>) -> Result<(), Failure> {
    let images = resolved(&out.join("images"));
    let tables: Vec<PathBuf> = TABLES.iter().chain(&["attack.json"]).map(|name| resolved(&out.join(name))).collect();
    for path in read {
        let there = resolved(path);
        if there.starts_with(&images) || tables.contains(&there) {
            let (out, path) = (out.display(), path.display());
            return Err(format!("--out {out} would write over {path}, which is read; give another folder").into());
        }
    }
    match classes {
        Some(data) if resolved(out).starts_with(resolved(data)) => Err(format!(
            "--out {} lies in --data {}, whose folders are classes, and would be one of them from now on; give a folder elsewhere",
            out.display(),
            data.display()
        )
        .into()),
        _ => Ok(()),
    }
}

/// The path without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let exists = path.ancestors().find_map(|there| Some((there, there.canonicalize().ok()?)));
    match exists {
        Some((there, canonical)) => match path.strip_prefix(there) {
            Ok(rest) if !rest.as_os_str().is_empty() => canonical.join(rest),
            _ => canonical,
        },
        None => path,
    }
}

/// Keeps other attacks out of a folder, whose tables would speak of each other's images, for as long as it is held. Where folders
/// cannot be locked, nobody is refused.
fn claim(out: &Path) -> Result<Option<File>, Failure> {
    std::fs::create_dir_all(out).map_err(|source| RunError::Write { path: out.to_owned(), source })?;
    let Ok(folder) = File::open(out) else { return Ok(None) };
    match folder.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(format!("another attack writes into {}; wait until it has ended, or give another --out", out.display())
                .into())
        }
        _ => Ok(Some(folder)),
    }
}

/// Says what an earlier attack left in the folder and this one does not write over: it would be taken for a part of this one.
fn say_what_stays(out: &Path, folders: &[PathBuf], dataset: &Dataset) {
    if folders.len() > 1 && out.join("attack.csv").exists() {
        say(&format!(
            "warning: {} keeps the tables and images of an earlier attack beside the folders of this one; delete them, or give another --out",
            out.display()
        ));
    }
    let written: HashSet<String> = dataset.samples.iter().map(|sample| saved_as(&sample.id)).collect();
    for folder in folders {
        let left: Vec<String> = saved_before(folder)
            .into_iter()
            .filter(|name| !written.contains(name) && folder.join("images").join(name).exists())
            .collect();
        if let Some(first) = left.first() {
            say(&format!(
                "warning: {} keeps {} image(s) of an earlier attack that this one does not have, such as {first}, and its tables will not name them; delete them, or give another --out",
                folder.join("images").display(),
                left.len()
            ));
        }
    }
}

/// The images that an earlier attack saved in the folder, as its labels.csv names them; none if it has none that can be read.
fn saved_before(folder: &Path) -> Vec<String> {
    let Ok(bytes) = read_regular(&folder.join("labels.csv"), images::MAX_FILE) else { return Vec::new() };
    let rows = csv::Reader::from_reader(&bytes[..]).into_deserialize::<SavedLabel>();
    rows.map_while(Result::ok).map(|row| row.file).collect()
}

/// The path below the folder of saved images of an image of the data set.
fn saved_as(id: &str) -> String {
    Path::new(id).with_extension("png").to_string_lossy().into_owned()
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
    /// Why the published table has no figures of this attack on this network, if it has none.
    fn unpublished(&self, attack: &dyn Attack) -> Option<String> {
        if !transfer::attacks().any(|name| name == attack.name()) {
            let names: Vec<&str> = transfer::attacks().collect();
            return Some(format!(
                "the table of --protocol has no row of {}; it has {}",
                attack.name(),
                names.join(", ")
            ));
        }
        // Weights of a file may be those of the table.
        let spec = &self.args.model;
        let tag = spec.tag().or_else(|| catalogue::default_tag(self.model.entry().name));
        let is_there = self.model.entry().name == "resnet50" && (spec.path().is_some() || tag == Some("tv2_in1k"));
        (!is_there).then(|| {
            format!(
                "the published figures are of resnet50 attacked alone, with the weights tv2_in1k, not of {}",
                self.model.name()
            )
        })
    }

    /// Attacks all images, writes what it makes into `out`, and says how it went and how many images were skipped.
    fn attack(&self, attack: &dyn Attack, out: &Path, data: &DataOptions) -> Result<Document, Failure> {
        let model = self.model;
        let (mut loader, bar) = data.load(self.common, self.dataset, model, self.transform, self.args.batch)?;
        // An unwritable folder is said now, not after an hour's work.
        write_atomically(&out.join("attack.json"), &serde_json::to_vec_pretty(&attack.settings())?)?;
        // Those of an earlier attack would speak of the images of this one, if it is stopped.
        for name in TABLES {
            match std::fs::remove_file(out.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(RunError::Write { path: out.join(name), source: error }.into());
                }
                _ => {}
            }
        }
        let mut made = Made::new(attack, self.judges.len());
        for batch in loader.by_ref() {
            let batch = batch?;
            let originals: Vec<RgbImage> = (0..batch.len()).map(|index| batch.image(index)).collect();
            self.attack_batch(attack, &batch, &originals, out, &mut made)?;
            bar.inc(batch.len() as u64);
        }
        bar.finish_and_clear();
        let skipped: Vec<Skipped> = loader.skipped().to_vec();
        report_skipped(&skipped);
        if made.collected.count == 0 {
            let (images, data) = (self.dataset.samples.len(), data.data.display());
            return Err(format!("none of the {images} images can be decoded; check {data}").into());
        }
        let Made { table, labels, collected, .. } = &mut made;
        write_atomically(&out.join("attack.csv"), &std::mem::replace(table, new_table()).into_inner()?)?;
        write_atomically(&out.join("labels.csv"), &std::mem::replace(labels, new_table()).into_inner()?)?;
        write_atomically(&out.join("adversarial.safetensors"), &collected.serialise(model.input_size())?)?;
        let document = self.document(attack, made, skipped.len());
        self.say_what_to_mind(attack, &document);
        write_atomically(&out.join("attack.json"), &serde_json::to_vec_pretty(&document)?)?;
        Ok(document)
    }

    /// Attacks the images of a batch, `originals`, and adds what came of it to `made`.
    fn attack_batch(
        &self,
        attack: &dyn Attack,
        batch: &Batch,
        originals: &[RgbImage],
        out: &Path,
        made: &mut Made,
    ) -> Result<(), Failure> {
        let Self { model, network, .. } = *self;
        let labels = &batch.labels;
        let ids: Vec<&str> = batch.indices.iter().map(|&index| self.dataset.samples[index].id.as_str()).collect();
        let mut targets = Targets::new(model.pixels_of(originals), labels, &ids);
        let logits = model.forward(targets.pixels.clone()).logits;
        if made.collected.count == 0 {
            made.doubts_before = doubts_of(network, &targets.pixels);
        }
        let AttackOptions { target, .. } = self.args.attack;
        targets.wanted = target.map(|target| target.classes(&logits, labels, &ids, self.args.attack.seed()));
        targets.mask = self.mask.as_ref().map(|mask| mask.of(&ids, &targets.pixels)).transpose()?;
        let before = argmax(logits);
        let (perturbed, fooled_by) = attack.perturb_by_parts(network, &targets);
        perturbed.doubts.iter().for_each(|&doubt| Doubt::add(&mut made.doubts, doubt));
        let pixels = targets.only_where_wanted(perturbed.pixels);
        let float = model.predict(pixels.clone());
        let values = to_f32(pixels);
        let size = values.len() / originals.len();
        let images: Vec<RgbImage> = originals
            .par_iter()
            .zip(values.par_chunks_exact(size))
            .map(|(original, values)| quantise(values, original, attack.bound()))
            .collect();
        let saved = model.predict(model.pixels_of(&images));
        let (fools_float, fools_saved) = (targets.fooled(&float), targets.fooled(&saved));
        let wants_label = targets.wants_label();
        for index in 0..originals.len() {
            let was_correct = before[index] == labels[index] && !wants_label[index];
            let is_turned = was_correct && fools_float[index];
            let by = turned_by(made.parts, fooled_by[index], is_turned);
            let effort = perturbed.effort[index];
            made.wants_label += usize::from(wants_label[index]);
            made.correct += usize::from(was_correct);
            made.fooled_float += usize::from(is_turned);
            made.fooled_8bit += usize::from(was_correct && fools_saved[index]);
            made.lost += usize::from(is_turned && !fools_saved[index]);
            made.left += usize::from(was_correct && effort.queries <= 1 && effort.gradients == 0);
            if let Some(part) = made.parts.iter().position(|name| Some(*name) == by) {
                made.fooled_by_part[part] += 1;
            }
            let name = saved_as(ids[index]);
            write_png(&out.join("images").join(&name), ids[index], &images[index])?;
            made.labels.serialize(Label { file: &name, label: labels[index] })?;
            let distance = |norm| distance(&images[index], &originals[index], norm);
            let Effort { queries, gradients, iterations } = effort;
            made.table.serialize(Row {
                id: ids[index],
                label: labels[index],
                target: targets.wanted.as_ref().map(|wanted| wanted[index]),
                before: before[index],
                float: float[index],
                saved: saved[index],
                linf: distance(Norm::Linf),
                l2: distance(Norm::L2),
                l1: distance(Norm::L1),
                queries,
                gradients,
                iterations,
                fooled_by: (!made.parts.is_empty()).then_some(by.unwrap_or_default()),
            })?;
            let values = &values[index * size..][..size];
            made.collected.push(values, &images[index], labels[index], batch.indices[index], saved[index]);
        }
        for (judge, counts) in self.judges.iter().zip(&mut made.judged) {
            let before = predict(judge, originals);
            let fooled = targets.fooled(&predict(judge, &images));
            for index in (0..originals.len()).filter(|&index| !wants_label[index]) {
                let was_correct = before[index] == labels[index];
                counts[0] += usize::from(was_correct);
                counts[1] += usize::from(was_correct && fooled[index]);
                counts[2] += usize::from(fooled[index]);
            }
        }
        Ok(())
    }

    /// What came of an attack.
    fn document(&self, attack: &dyn Attack, made: Made, skipped: usize) -> Document {
        let Self { model, args, .. } = *self;
        let images = made.collected.count;
        let counted = images - made.wants_label;
        let doubts = made.doubts.into_iter().map(|doubt| doubt.of_all(images));
        let mut doubts: Vec<Doubt> = made.doubts_before.into_iter().chain(doubts).collect();
        if made.lost as f64 > LOST * made.fooled_float as f64 {
            doubts.push(Doubt { reason: Reason::LostOnSaving, images: made.lost, of: made.fooled_float });
        }
        let is_published = args.protocol.is_some() && self.unpublished(attack).is_none();
        let evaluated = self.judges.iter().zip(made.judged).map(|(judge, [correct, fooled, wrong])| {
            let published = transfer::published(attack.name(), judge.entry().name).filter(|_| is_published);
            let attacked = judge.sha256() == model.sha256() || is_of(judge, self.surrogates);
            Evaluated { model: judge.name().to_owned(), attacked, correct, fooled, wrong, published }
        });
        let mut standing = made.correct;
        let parts = made.parts.iter().zip(made.fooled_by_part).map(|(&attack, fooled)| {
            standing -= fooled;
            Part { attack, fooled, robust_accuracy: percent(standing, counted) }
        });
        Document {
            netkin: env!("CARGO_PKG_VERSION"),
            model: model.name().to_owned(),
            sha256: model.sha256().to_owned(),
            surrogates: self.surrogates.iter().map(|model| model.name().to_owned()).collect(),
            average: (!self.surrogates.is_empty()).then_some(args.surrogates.average()),
            device: self.common.device.to_string(),
            precision: args.options.precision.to_string(),
            attack: attack.settings(),
            data: args.data.data.display().to_string(),
            labels: args.data.labels.as_ref().map(|path| path.display().to_string()),
            mask: args.mask.as_ref().map(|path| path.display().to_string()),
            protocol: args.protocol.clone(),
            target: args.attack.target.map(|target| target.to_string()),
            images,
            skipped,
            target_is_label: args.attack.target.map(|_| made.wants_label),
            correct: made.correct,
            fooled_float: made.fooled_float,
            fooled_8bit: made.fooled_8bit,
            robust_accuracy: percent(made.correct - made.fooled_float, counted),
            parts: parts.collect(),
            evaluated: evaluated.collect(),
            left_by_several: if self.surrogates.is_empty() || attack.bound().eps == 0.0 { 0 } else { made.left },
            doubts,
        }
    }

    /// Says what people should know before they believe the numbers.
    fn say_what_to_mind(&self, attack: &dyn Attack, document: &Document) {
        for doubt in &document.doubts {
            say(&format!("warning: {}: {doubt}", attack.name()));
        }
        let name = self.model.name();
        match document.images - document.target_is_label.unwrap_or(0) {
            0 => say(
                "warning: every image's label is the target, so that there is nothing to reach; give another --target",
            ),
            counted if document.correct == 0 => say(&format!(
                "warning: {name} classifies none of the {counted} images correctly, so that there is nothing to fool; check whether the labels are its classes (--labels, --label-offset){}",
                self.other_size()
            )),
            _ => {}
        }
        if document.left_by_several > 0 {
            say(&format!(
                "warning: {} image(s) that {name} classifies correctly stay as they are, since all networks together took them for another class before, and {} leaves out what is fooled",
                document.left_by_several,
                attack.name()
            ));
        }
    }

    /// What else may be why nothing is classified correctly: images of another size than the weights', where --input-size or
    /// --protocol asked for one.
    fn other_size(&self) -> String {
        let Self { args, model, .. } = *self;
        let ([height, width], entry, spec) = (model.input_size(), model.entry(), &args.model);
        let published = if spec.path().is_none() { catalogue::preprocessing(entry.name, spec.tag()) } else { None };
        let [rows, columns] = published.map_or(entry.config.input_size(), |published| published.input_size);
        let why = match (&args.protocol, args.options.input_size) {
            _ if [rows, columns] == [height, width] => return String::new(),
            (Some(_), _) => "--protocol transferattack",
            (None, Some(_)) => "--input-size",
            (None, None) => return String::new(),
        };
        format!(
            ", and whether it can see images of {height} × {width} pixels, which {why} asks for: its weights are for {rows} × {columns}"
        )
    }
}

/// The share of the fooled images that may be lost on saving before that is said.
const LOST: f64 = 0.05;

/// The part that made an image that was turned: the one that fooled all attacked networks together, or, where none did though the first
/// network is fooled, the first part, whose images are given then.
fn turned_by(parts: &[&'static str], fooled_by: Option<&'static str>, is_turned: bool) -> Option<&'static str> {
    fooled_by.or(parts.first().copied()).filter(|_| is_turned)
}

type Table = csv::Writer<Vec<u8>>;

fn new_table() -> Table {
    csv::Writer::from_writer(Vec::new())
}

/// A row of labels.csv, from which the saved images are read again.
#[derive(Serialize)]
struct Label<'a> {
    file: &'a str,
    label: usize,
}

/// The same as an earlier attack wrote it; its label is nobody's concern.
#[derive(Deserialize)]
struct SavedLabel {
    file: String,
}

/// What an attack has made so far.
struct Made {
    table: Table,
    labels: Table,
    collected: Collected,
    /// What is to be doubted of the network, whatever attacks it, and of the attack.
    doubts_before: Vec<Doubt>,
    doubts: Vec<Doubt>,
    /// Images whose label is what they are to be taken for; they are not among those below.
    wants_label: usize,
    /// Images classified correctly before.
    correct: usize,
    /// Of those, the ones that were turned, as numbers and as 8-bit images, and the ones that were so as numbers only.
    fooled_float: usize,
    fooled_8bit: usize,
    lost: usize,
    /// Of those, the ones that were not attacked.
    left: usize,
    /// The names of the attack's parts, and what each turned.
    parts: &'static [&'static str],
    fooled_by_part: Vec<usize>,
    /// Of each judge: images classified correctly, of those the ones that fool it, and all that fool it.
    judged: Vec<[usize; 3]>,
}

impl Made {
    fn new(attack: &dyn Attack, judges: usize) -> Self {
        let parts = attack.part_names();
        Self {
            table: new_table(),
            labels: new_table(),
            collected: Collected::default(),
            doubts_before: Vec::new(),
            doubts: Vec::new(),
            wants_label: 0,
            correct: 0,
            fooled_float: 0,
            fooled_8bit: 0,
            lost: 0,
            left: 0,
            parts,
            fooled_by_part: vec![0; parts.len()],
            judged: vec![[0; 3]; judges],
        }
    }
}

impl Document {
    /// For people; with the radius before it as it was written, where there are several.
    fn text(&self, eps: Option<&str>) -> String {
        let of_correct = |part: usize| percent(part, self.correct);
        let eps = eps.map_or(String::new(), |eps| format!("eps {eps}\n"));
        let own = match self.target_is_label {
            None | Some(0) => String::new(),
            Some(count) => format!(
                "{count} image(s) have the target as their label: they stay as they are and are counted nowhere else\n"
            ),
        };
        let mut text = format!(
            "{eps}{} images, {} classified correctly\n{own}fooled as computed  {} ({:.1} %)\nfooled as 8-bit     {} ({:.1} %)\n",
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
        let counted = self.images - self.target_is_label.unwrap_or(0);
        for Evaluated { model, correct, fooled, wrong, published, .. } in &self.evaluated {
            let published = published.map_or(String::new(), |published| format!("  {published:>11.1}"));
            let (of_correct, of_all) = (percent(*fooled, *correct), percent(*wrong, counted));
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

/// As PNG; what is on the disk is the image.
fn write_png(path: &Path, id: &str, image: &RgbImage) -> Result<(), Failure> {
    write_atomically(path, &encode_png(image))?;
    let bytes = read_regular(path, images::MAX_FILE)?;
    match decode(&bytes, id)? == *image {
        true => Ok(()),
        false => Err(format!("{} is not what was written there; check the disk", path.display()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_attacks_do_not_write_into_one_folder() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("deep/out");
        let first = claim(&out).unwrap();
        assert!(claim(&out).unwrap_err().to_string().contains("another attack writes into"));
        drop(first);
        assert!(claim(&out).unwrap().is_some());
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "nothing is left in it");
    }

    #[test]
    fn paths_are_the_same_whatever_leads_to_them() {
        let scratch = tempfile::tempdir().unwrap();
        let there = scratch.path().canonicalize().unwrap();
        assert_eq!(resolved(&there), there);
        assert_eq!(resolved(&scratch.path().join("not/there")), there.join("not/there"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&there, there.join("link")).unwrap();
            assert_eq!(resolved(&there.join("link/a")), there.join("a"));
        }
    }
}
