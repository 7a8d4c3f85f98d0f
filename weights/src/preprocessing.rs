//! How an image becomes a network's input.

use netkin_architectures::Entry;
use serde::{Deserialize, Serialize};

/// How images are prepared for a set of weights, in timm's terms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Preprocessing {
    /// Height and width in pixels that the network sees.
    pub input_size: [usize; 2],
    /// The part of the resized image's side that the crop keeps, in (0, 1].
    pub crop_pct: f64,
    /// Whether the shape of the image is kept.
    pub crop_mode: CropMode,
    /// How the image is resized.
    pub interpolation: Interpolation,
    /// What is subtracted from the red, green and blue values in [0, 1].
    pub mean: [f32; 3],
    /// What the difference is divided by.
    pub std: [f32; 3],
}

/// A way to resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// From two by two pixels.
    Bilinear,
    /// From four by four pixels.
    Bicubic,
}

/// What happens to an image that is not square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CropMode {
    /// The short side is resized to size / `crop_pct`, then the centre is cut out.
    Center,
    /// Both sides are resized to size / `crop_pct`, each by its own factor, then the centre is cut out.
    Squash,
}

/// The most rows or columns of pixels that a network is run on: far more than any was trained for, and few enough that what
/// it computes can be held.
pub(crate) const LARGEST_SIDE: usize = 2048;
/// The least part of an image's side that a crop keeps: an image is resized to its inverse.
const SMALLEST_CROP: f64 = 0.05;

/// ImageNet's mean and standard deviation of red, green and blue.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

impl Preprocessing {
    /// For a network that the [`catalogue`](crate::catalogue) does not know: its input size, and timm's usual values; for the
    /// small networks that netkin carries (`demo_…`): the whole image, scaled to [−1, 1].
    pub fn usual(entry: &Entry) -> Self {
        let demo = entry.name.starts_with("demo_");
        let (mean, std) = if demo { ([0.5; 3], [0.5; 3]) } else { IMAGENET };
        Self {
            input_size: entry.config.input_size(),
            crop_pct: if demo { 1.0 } else { 0.875 },
            crop_mode: CropMode::Center,
            interpolation: Interpolation::Bicubic,
            mean,
            std,
        }
    }

    /// Whether every value is in its range; the reason if not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        if self.input_size.contains(&0) {
            Err("the input size is 0")
        } else if !positive(self.crop_pct) || self.crop_pct > 1.0 {
            Err("crop_pct is not in (0, 1]")
        } else if self.crop_pct < SMALLEST_CROP {
            Err("crop_pct keeps less than a twentieth of an image's side")
        } else if !self.mean.iter().all(|value| value.is_finite()) {
            Err("the mean is not finite")
        } else if !self.std.iter().all(|&value| positive(value.into())) {
            Err("the standard deviation is not positive")
        } else {
            Ok(())
        }
    }
}

/// timm's `config.json`, of a model on the Hugging Face hub or beside saved weights, as far as netkin uses it.
#[derive(Deserialize)]
pub(crate) struct Config {
    #[serde(default)]
    pretrained_cfg: Pretrained,
}

#[derive(Deserialize, Default)]
struct Pretrained {
    input_size: Option<[usize; 3]>,
    crop_pct: Option<f64>,
    crop_mode: Option<CropMode>,
    interpolation: Option<Interpolation>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
}

impl Config {
    /// The network that the file's text is about, if it names one; else why it is no JSON.
    pub fn architecture(text: &str) -> Result<Option<String>, String> {
        let file: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let name = file.get("architecture").and_then(|name| name.as_str());
        Ok(name.map(String::from))
    }

    /// What the file's text says; what it leaves out stays as in `usual`. Else why it cannot be used.
    pub fn parse(text: &str, usual: Preprocessing) -> Result<Preprocessing, String> {
        let file: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let given = file.pretrained_cfg;
        let input_size = match given.input_size {
            None => usual.input_size,
            Some([3, height, width]) => [height, width],
            Some([channels, ..]) => {
                return Err(format!("the images have {channels} channels, not 3"));
            }
        };
        let preprocessing = Preprocessing {
            input_size,
            crop_pct: given.crop_pct.unwrap_or(usual.crop_pct),
            crop_mode: given.crop_mode.unwrap_or(usual.crop_mode),
            interpolation: given.interpolation.unwrap_or(usual.interpolation),
            mean: given.mean.unwrap_or(usual.mean),
            std: given.std.unwrap_or(usual.std),
        };
        preprocessing.check()?;
        Ok(preprocessing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual() -> Preprocessing {
        Preprocessing::usual(netkin_architectures::find("resnet18").unwrap())
    }

    #[test]
    fn a_config_of_the_hub() {
        let text = r#"{
            "architecture": "resnet18", "num_classes": 1000, "num_features": 512,
            "pretrained_cfg": {
                "tag": "a1_in1k", "custom_load": false, "input_size": [3, 160, 192], "fixed_input_size": false,
                "interpolation": "bilinear", "crop_pct": 0.95, "crop_mode": "squash",
                "mean": [0.5, 0.25, 0.125], "std": [0.5, 0.5, 1.0], "num_classes": 1000, "classifier": "fc"
            }
        }"#;
        assert_eq!(Config::architecture(text), Ok(Some("resnet18".into())));
        assert_eq!(
            Config::parse(text, usual()).unwrap(),
            Preprocessing {
                input_size: [160, 192],
                crop_pct: 0.95,
                crop_mode: CropMode::Squash,
                interpolation: Interpolation::Bilinear,
                mean: [0.5, 0.25, 0.125],
                std: [0.5, 0.5, 1.0],
            }
        );
    }

    #[test]
    fn what_a_config_leaves_out_is_usual() {
        assert_eq!(Config::parse("{}", usual()), Ok(usual()));
        assert_eq!(Config::architecture("{}"), Ok(None));
        assert!(Config::architecture("{").is_err());
    }

    #[test]
    fn impossible_values_are_refused() {
        for (values, reason) in [
            (r#""crop_pct": 0"#, "crop_pct"),
            (r#""crop_pct": 1e-9"#, "twentieth"),
            (r#""std": [1, 0, 1]"#, "deviation"),
            (r#""input_size": [1, 28, 28]"#, "1 channels"),
            (r#""input_size": [3, 0, 28]"#, "size is 0"),
            (r#""interpolation": "random""#, "random"),
            (r#""mean": "blue""#, "blue"),
        ] {
            let text = format!(r#"{{"pretrained_cfg": {{{values}}}}}"#);
            let error = Config::parse(&text, usual()).unwrap_err();
            assert!(error.contains(reason), "{values}: {error}");
        }
    }
}
