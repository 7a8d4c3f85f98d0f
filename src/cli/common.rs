//! The options that all commands share, and what they make.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use burn::tensor::Device;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use netkin_weights::{HubConfig, ModelSet, ModelSpec, Precision};

use super::{Failure, values};
use crate::device::DeviceNames;
use crate::images::{CropMode, Dataset, Loader, LoaderOptions, Skipped, Transform, load};
use crate::model::{Crop, Model};

/// Options of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// Where to compute: flex (the CPU), cuda:0, vulkan:0; sat takes several, too: cuda:0,cuda:1, or cuda:all
    #[arg(long, global = true, value_name = "DEVICE", default_value = "flex")]
    pub device: DeviceNames,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no progress
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Threads on the CPU [default: one per processor]
    #[arg(long, global = true, value_name = "COUNT", value_parser = values::positive)]
    pub threads: Option<usize>,
    /// Take options from a TOML file; the command line wins over it
    #[arg(long, global = true, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
}

/// Options of every command that runs models.
#[derive(Debug, Clone, Args)]
pub struct ModelOptions {
    /// The number format of all computations: f32, f64, f16 or bf16 (on the CPU that of products alone, if the processor
    /// multiplies it)
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    pub precision: Precision,
    /// Run the networks on images of this size, PIXELS or HEIGHTxWIDTH [default: each weight's own]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub input_size: Option<[usize; 2]>,
}

impl ModelOptions {
    /// The models of all sets, at the size that was asked for.
    pub fn specs(&self, sets: &[ModelSet]) -> Vec<ModelSpec> {
        sets.iter().flat_map(ModelSet::specs).cloned().map(|spec| self.sized(spec)).collect()
    }

    /// A model at the size that was asked for.
    pub fn sized(&self, spec: ModelSpec) -> ModelSpec {
        match self.input_size {
            Some(size) => spec.at_size(size),
            None => spec,
        }
    }
}

/// Options of every command that reads images.
#[derive(Debug, Args)]
pub struct DataOptions {
    /// A folder of class folders, or of the images that --labels names; or a file of images that another program saved (.npy,
    /// .safetensors, .pt): [N, 3, height, width] or [N, height, width, 3], in [0, 1] or 8-bit
    #[arg(long, value_name = "DIR|FILE")]
    pub data: PathBuf,
    /// A table (CSV) with the columns file and label: the class's index, ImageNet id, or class folder's name; of a file of images a
    /// table with one label a row, or an array of whole numbers [default: what the file holds as labels or y]
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Add NUMBER to every label: 1 for weights whose class 0 is a background that the labels do not count, -1 for labels that
    /// count from 1
    #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true)]
    pub label_offset: i64,
    /// Use the first COUNT images only
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    pub limit: Option<usize>,
    /// Stop at an image that cannot be decoded, instead of leaving it out
    #[arg(long)]
    pub strict: bool,
}

impl DataOptions {
    /// The data set that they name, for those who take images at 8 bits.
    pub fn open(&self) -> Result<Dataset, Failure> {
        let dataset = self.open_as_given()?;
        if let Some(stack) = dataset.stack().filter(|stack| !stack.has_levels()) {
            let path = stack.path().display();
            say(&format!(
                "warning: the pixels in {path} are no 8-bit levels and are rounded to the nearest, as images are kept (netkin eval and netkin forward take them as they are)"
            ));
        }
        Ok(dataset)
    }

    /// The data set that they name, for those who also take numbers between 8-bit levels.
    pub fn open_as_given(&self) -> Result<Dataset, Failure> {
        let dataset = Dataset::open(&self.data, self.labels.as_deref())?.shifted_by(self.label_offset)?;
        Ok(match self.limit {
            Some(count) => dataset.limit(count),
            None => dataset,
        })
    }

    /// Reads the images of `dataset` as `transform` makes them for `model`, `batch` at a time, and gives a bar for them.
    ///
    /// # Errors
    /// If a label is not one of the model's classes.
    pub fn load(
        &self,
        common: &Common,
        dataset: &Dataset,
        model: &Model,
        transform: Transform,
        batch: usize,
    ) -> Result<(Loader, ProgressBar), Failure> {
        let bar = begin(common, dataset, model, transform)?;
        let options = LoaderOptions { strict: self.strict, ..LoaderOptions::new(batch) };
        Ok((load(&dataset.samples, transform, options), bar))
    }
}

/// Checks that images made in that way can be shown to a network, says what is to be doubted, and gives a bar for them.
///
/// # Errors
/// If a label is not one of the model's classes, or the images are of another shape.
pub fn begin(common: &Common, dataset: &Dataset, model: &Model, transform: Transform) -> Result<ProgressBar, Failure> {
    dataset.check_labels(model.num_classes())?;
    check_shape(dataset, model, transform.crop_mode == CropMode::Squash)?;
    say_doubts(dataset, [model.num_classes()]);
    let bar = common.bar("images");
    bar.set_length(dataset.samples.len() as u64);
    bar.set_message(model.name().to_owned());
    Ok(bar)
}

/// What a network sees of an image where nothing else is wanted: its weights' crop, and all of the images that another program saved.
pub fn own_crop(dataset: &Dataset) -> Crop {
    if dataset.stack().is_some() { Crop::Whole } else { Crop::Own }
}

/// Checks that a file's images can be shown to a network whole.
///
/// # Errors
/// If they are of another shape and the whole is to be seen.
pub fn check_shape(dataset: &Dataset, model: &Model, is_whole: bool) -> Result<(), Failure> {
    match dataset.stack().filter(|_| is_whole) {
        Some(stack) => Ok(stack.check_shape(model.input_size())?),
        None => Ok(()),
    }
}

impl Common {
    /// Loads models in the order of their names, with a bar for each download.
    pub fn load(&self, specs: &[ModelSpec], precision: Precision) -> Result<Vec<Model>, Failure> {
        self.load_on(&self.device.open()?, specs, precision)
    }

    /// As [`Self::load`], on one of several devices.
    pub fn load_on(&self, device: &Device, specs: &[ModelSpec], precision: Precision) -> Result<Vec<Model>, Failure> {
        specs.iter().map(|spec| self.load_one_on(device, spec, precision)).collect()
    }

    /// Loads one model.
    pub fn load_one(&self, spec: &ModelSpec, precision: Precision) -> Result<Model, Failure> {
        self.load_one_on(&self.device.open()?, spec, precision)
    }

    fn load_one_on(&self, device: &Device, spec: &ModelSpec, precision: Precision) -> Result<Model, Failure> {
        let hub = HubConfig::from_env();
        let bar = self.bar("bytes");
        bar.set_message(visible(&spec.to_string()).into_owned());
        let loaded = netkin_weights::load(spec, precision, device, &hub, &mut |progress| {
            bar.set_length(progress.total.unwrap_or(0));
            bar.set_position(progress.done);
        })?;
        bar.finish_and_clear();
        for note in &loaded.notes {
            say(&format!("{spec}: {note}"));
        }
        Ok(Model::new(loaded, precision, device.clone()))
    }

    /// A progress bar on a terminal, else nothing.
    pub fn bar(&self, unit: &str) -> ProgressBar {
        if self.quiet || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let template = match unit {
            "bytes" => "{msg} {wide_bar} {bytes}/{total_bytes} {eta}",
            _ => "{msg} {wide_bar} {pos}/{len} {eta}",
        };
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        let bar = ProgressBar::new(0).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Says something about the progress, unless it is unwanted.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }
}

/// Loads models once more, on another device; what is to be said of them was said when [`Common::load_on`] did.
pub fn load_again(
    device: &Device,
    specs: &[ModelSpec],
    precision: Precision,
) -> Result<Vec<Model>, netkin_weights::Error> {
    let hub = HubConfig::from_env();
    let load = |spec: &ModelSpec| {
        let loaded = netkin_weights::load(spec, precision, device, &hub, &mut |_| {})?;
        Ok(Model::new(loaded, precision, device.clone()))
    };
    specs.iter().map(load).collect()
}

/// Says what may be wrong with the labels for networks that know so many classes, each doubt once.
pub fn say_doubts(dataset: &Dataset, num_classes: impl IntoIterator<Item = usize>) {
    let mut said = Vec::new();
    for doubt in num_classes.into_iter().flat_map(|classes| dataset.doubts(classes)) {
        if !said.contains(&doubt) {
            say(&format!("warning: {doubt}"));
            said.push(doubt);
        }
    }
}

/// Reports images that were left out, each with its reason.
pub fn report_skipped(skipped: &[Skipped]) {
    for image in skipped {
        say(&format!("skipped {}: {}", image.id, image.reason));
    }
    if !skipped.is_empty() {
        eprintln!("netkin: {} image(s) skipped in all", skipped.len());
    }
}

/// Says a sentence on stderr. Lines that it goes on with stand beneath it, so that none that a name holds passes for a sentence.
pub fn say(sentence: &str) {
    let shown = visible(sentence);
    eprintln!("netkin: {}", shown.lines().collect::<Vec<_>>().join("\n        "));
}

/// Text as it can be shown to people: names may hold what a terminal takes for a command, or for the end of what it shows.
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_odd = |letter: char| {
        letter.is_control() && !matches!(letter, '\n' | '\t')
            || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    let shown = |letter: char| if is_odd(letter) { letter.escape_unicode().to_string() } else { letter.to_string() };
    Cow::Owned(text.chars().map(shown).collect())
}

/// Prints data, on a terminal as people can see it. A reader that has gone away, as `head` does, ends the program quietly.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let text = if stdout.is_terminal() { visible(text) } else { Cow::Borrowed(text) };
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|error| format!("cannot write to stdout: {error}").into()),
    }
}

/// Prints one JSON document.
pub fn print_json(document: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document).expect("documents are made of strings and numbers");
    print(&(text + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert!(matches!(visible("a\tb\nß – c"), Cow::Borrowed(_)));
        assert_eq!(visible("a\0b\u{1b}[2Jc\rd\u{202e}e\n"), "a\\u{0}b\\u{1b}[2Jc\\u{d}d\\u{202e}e\n");
    }
}
