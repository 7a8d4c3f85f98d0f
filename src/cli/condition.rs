//! `netkin condition`: what one network's features tell of the classes that another's do not.

use std::ops::RangeInclusive;

use serde::Serialize;

use super::common::{Common, print, print_json, say};
use super::features::{DataSection, FeatureOptions, FeatureSource, Reader, Rows, SetSection, Third};
use super::{Failure, Outcome};
use crate::memory;
use crate::similarity::features::conditional::{Conditions, Estimate, LEAST_FOR_INTERVALS, conditions};
use crate::similarity::features::extract::Layer;
use crate::similarity::features::{FeatureError, Features, Values, bytes_of, check_room, counted};

/// Compare what two networks know of the classes, each alone and beyond the other
///
/// Prints squared distance correlations without bias (Zhen et al., arXiv 2207.09684): R²(X, GT), R²(Y, GT), and R²(X | Y, GT), where Y
/// is projected out of X. Intervals are the middle 95 % over images that are drawn anew.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NAME, NAME.TAG or NAME=WEIGHTS, or a .safetensors or .npy file with a row for each image
    #[arg(value_name = "X")]
    x: FeatureSource,
    /// The other one
    #[arg(value_name = "Y")]
    y: FeatureSource,
    /// The truth: labels, or a file; with --data or --labels it has a row for each class, in the order of the labels, else for each
    /// image
    #[arg(long, value_name = "labels|FILE", default_value = "labels", value_parser = truth)]
    truth: Third,
    /// A layer of X by timm's name of its block, such as layer1.0 or blocks.3, or a tensor of its file [default: pooled features]
    #[arg(long, value_name = "NAME", visible_alias = "layer-x")]
    layer: Option<String>,
    /// The same of Y
    #[arg(long, value_name = "NAME", visible_alias = "layer-y")]
    layer_b: Option<String>,
    /// How often images are drawn anew for intervals, of which there are none of fewer than 20 images
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = replicates)]
    replicates: usize,
    /// Decides what is drawn
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    seed: u64,
    #[command(flatten)]
    features: FeatureOptions,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    x: SetSection,
    y: SetSection,
    truth: SetSection,
    data: Option<DataSection>,
    images: usize,
    replicates: usize,
    seed: u64,
    #[serde(flatten)]
    conditions: Conditions,
    /// The number formats of X and Y.
    precision: String,
    device: String,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        if [&self.x, &self.y].iter().all(|source| matches!(source, FeatureSource::File(_))) {
            self.features.check_networks_options("condition")?;
        }
        let mut reader = self.features.reader(common)?;
        let x = reader.read(&self.x, self.layer.as_deref(), Layer::Pooled)?;
        let y = reader.read(&self.y, self.layer_b.as_deref(), Layer::Pooled)?;
        let (images, section_x, section_y) = (x.images, x.section.clone(), y.section.clone());
        let (section_truth, truth) = self.truth(&mut reader, images)?;
        let replicates = if images < LEAST_FOR_INTERVALS { 0 } else { self.replicates };
        let conditions = conditions(&x.features(common)?, &y.features(common)?, &truth, replicates, self.seed);
        let conditions = conditions.map_err(said_of_two)?;
        if replicates == 0 {
            let few = counted(images, "image");
            say(&format!("{few} drawn anew would tell too little for intervals; give at least {LEAST_FOR_INTERVALS}"));
        }
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            precision: SetSection::precision_of([&section_x, &section_y]),
            x: section_x,
            y: section_y,
            truth: section_truth,
            data: reader.data_section()?,
            images,
            replicates,
            seed: self.seed,
            conditions,
            device: common.device.to_string(),
        };
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_text())?;
        }
        Ok(if reader.has_skipped() { Outcome::FellShort } else { Outcome::Done })
    }

    fn truth(&self, reader: &mut Reader, images: usize) -> Result<(SetSection, Features), Failure> {
        let Third::Source(source) = &self.truth else {
            return reader.third(&self.truth, images);
        };
        let mut rows = reader.read(source, None, Layer::Pooled)?;
        if reader.has_labels() {
            let (width, labels) = (rows.section.features, reader.labels(images)?);
            reader.check_classes(&rows.section.name, rows.images, &labels)?;
            check_classes_are_finite(&rows)?;
            let bytes = bytes_of(images, width, size_of::<f64>());
            check_room("an embedding for each image", bytes, memory::available(), "take fewer images (--limit)")?;
            let of_images = labels.iter().flat_map(|label| (0..width).map(move |at| label * width + at));
            rows.values = Values::F64(of_images.map(|at| rows.values.get(at)).collect());
            rows.images = images;
        }
        Ok((rows.section.clone(), rows.features(reader.common)?))
    }
}

impl Document {
    fn to_text(&self) -> String {
        let Conditions { x_truth, y_truth, x_given_y, y_given_x, partial_x, partial_y } = self.conditions;
        let mut text = String::new();
        for (name, set) in [("X", &self.x), ("Y", &self.y), ("GT", &self.truth)] {
            text += &format!("{name:2}  {}\n", set.described());
        }
        text += &format!("{}\n\n", counted(self.images, "image"));
        text += &format!("{:14}  {:>8}  [95 %]\n", "", "");
        for (name, Estimate { estimate, interval }, what) in [
            ("R²(X, GT)", x_truth, ""),
            ("R²(Y, GT)", y_truth, ""),
            ("R²(X | Y, GT)", x_given_y, "  Y projected out of X"),
            ("R²(Y | X, GT)", y_given_x, "  X projected out of Y"),
            ("R²(X, GT | Y)", partial_x, "  Y projected out of X and GT"),
            ("R²(Y, GT | X)", partial_y, "  X projected out of Y and GT"),
        ] {
            let interval = match interval {
                Some([low, high]) => format!("[{low:7.4}, {high:7.4}]"),
                None => format!("{:18}", "none"),
            };
            text += &format!("{name:14}  {estimate:8.4}  {interval}{what}\n");
        }
        text
    }
}

/// Refuses an embedding with numbers that are none: of its own rows, since each is of many images.
fn check_classes_are_finite(rows: &Rows) -> Result<(), String> {
    let (values, width) = (&rows.values, rows.section.features);
    match (0..values.len()).find(|&at| !values.get(at).is_finite()) {
        None => Ok(()),
        Some(at) => Err(format!(
            "{} holds {} for class {} (counted from 0, row by row), feature {}; give that class numbers, or find out what made it",
            rows.section.name,
            values.get(at),
            at / width,
            at % width
        )),
    }
}

/// What is said of an error: sets of which one follows from the other are two that were given, and there is no third one.
fn said_of_two(error: FeatureError) -> String {
    let (name, given, what) = match &error {
        FeatureError::NothingLeft { name, given } => (name, given, "are the same as far as rounding tells"),
        FeatureError::LittleLeft { name, given, .. } => {
            (name, given, "are so nearly the same that rounding tells what differs")
        }
        _ => return error.to_string(),
    };
    format!(
        "the distances between images by {name} and by {given} {what}, but for a factor, so that neither has anything beyond the other; give \
         two that differ"
    )
}

/// The truth: no network has any.
fn truth(text: &str) -> Result<Third, String> {
    match text.parse() {
        Ok(third @ (Third::Labels | Third::Source(FeatureSource::File(_)))) => Ok(third),
        _ => Err("the truth is labels or a file; give --truth labels, or a .safetensors or .npy file".into()),
    }
}

/// Fewer replicates leave the ends of intervals to chance, and more tell no more.
const REPLICATES: RangeInclusive<usize> = 100..=100_000;

fn replicates(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| REPLICATES.contains(count));
    count.ok_or_else(|| format!("give a whole number from {} to {}", REPLICATES.start(), REPLICATES.end()))
}
