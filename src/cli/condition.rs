//! `netkin condition`: what one network's features tell of the classes that another's do not.

use serde::Serialize;

use super::common::{Common, print, print_json};
use super::features::{DataSection, FeatureOptions, FeatureSource, Reader, SetSection, Third};
use super::{Failure, Outcome, values};
use crate::similarity::features::conditional::{Conditions, Estimate, conditions};
use crate::similarity::features::extract::Layer;
use crate::similarity::features::{FeatureError, Features, Values};

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
    /// The truth: labels, or a file; with --data it has a row for each class, in the order of the labels, else for each image
    #[arg(long, value_name = "labels|FILE", default_value = "labels")]
    truth: Third,
    /// A layer of X by timm's name of its block, such as layer1.0 or blocks.3, or a tensor of its file [default: pooled features]
    #[arg(long, value_name = "NAME", visible_alias = "layer-x")]
    layer: Option<String>,
    /// The same of Y
    #[arg(long, value_name = "NAME", visible_alias = "layer-y")]
    layer_b: Option<String>,
    /// How often images are drawn anew for intervals
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = values::positive)]
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
    precision: String,
    device: String,
}

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let mut reader = self.features.reader(common)?;
        let x = reader.read(&self.x, self.layer.as_deref(), Layer::Pooled)?;
        let y = reader.read(&self.y, self.layer_b.as_deref(), Layer::Pooled)?;
        let (images, section_x, section_y) = (x.images, x.section.clone(), y.section.clone());
        let (section_truth, truth) = self.truth(&mut reader, images)?;
        let conditions = conditions(&x.features(common)?, &y.features(common)?, &truth, self.replicates, self.seed)?;
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            x: section_x,
            y: section_y,
            truth: section_truth,
            data: reader.data_section()?,
            images,
            replicates: self.replicates,
            seed: self.seed,
            conditions,
            precision: self.features.precision(),
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
        let FeatureSource::File(_) = source else {
            return Err("the truth is labels or a file; give --truth labels, or a .safetensors or .npy file".into());
        };
        let mut rows = reader.read(source, None, Layer::Pooled)?;
        if reader.has_data() {
            let width = rows.section.features;
            let labels = reader.labels(images)?;
            if let Some(&label) = labels.iter().find(|&&label| label >= rows.images) {
                let (name, classes) = (rows.section.name, rows.images);
                return Err(FeatureError::NoEmbedding { name, classes, label }.into());
            }
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
            text += &format!("{name:2}  {} ({} features)\n", set.name, set.features);
        }
        text += &format!("{} images\n\n", self.images);
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
