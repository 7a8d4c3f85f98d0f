//! Which weights timm publishes, and how images are prepared for them.
//!
//! The table is `catalogue.csv`, written by `scripts/timm_catalogue.py` from timm itself. Rows of architectures that
//! netkin does not have are harmless.

use std::sync::LazyLock;

use crate::preprocessing::{CropMode, Interpolation, Preprocessing};

/// One set of published weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// The architecture, `resnet50`.
    pub name: &'static str,
    /// Which of its weights, `a1_in1k`.
    pub tag: &'static str,
    /// Whether timm takes these where no tag is given.
    pub default: bool,
    /// Outputs of the classifier; 0 if there is none.
    pub num_classes: usize,
    /// How images are prepared.
    pub preprocessing: Preprocessing,
    /// Where they are.
    pub place: PublishedAt,
}

/// Where published weights are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishedAt {
    /// `timm/NAME.TAG` on the Hugging Face hub.
    Hub,
    /// Another repository there.
    Repository(&'static str),
    /// In files that people have; nobody is asked for them.
    File,
}

static CATALOGUE: LazyLock<Vec<Published>> = LazyLock::new(|| {
    include_str!("catalogue.csv")
        .lines()
        .skip(1)
        .map(|line| row(line).unwrap_or_else(|| panic!("catalogue.csv has a bad row: {line}")))
        .collect()
});

/// All published weights of an architecture, the default first.
pub fn published(name: &str) -> Vec<&'static Published> {
    let mut rows: Vec<_> = CATALOGUE.iter().filter(|row| row.name == name).collect();
    rows.sort_by_key(|row| !row.default);
    rows
}

/// The tags of an architecture's published weights, the default first.
pub fn tags(name: &str) -> Vec<&'static str> {
    published(name).iter().map(|row| row.tag).collect()
}

/// The tag that stands where none is given.
pub fn default_tag(name: &str) -> Option<&'static str> {
    let first = published(name).into_iter().find(|row| row.default);
    first.map(|row| row.tag)
}

/// How images are prepared for published weights; without a tag, for the default ones.
pub fn preprocessing(name: &str, tag: Option<&str>) -> Option<Preprocessing> {
    find(name, tag.or(default_tag(name))?).map(|row| row.preprocessing)
}

/// The repository on the Hugging Face hub: `timm/NAME.TAG`, but for a few; none for weights that are in files only. Tags
/// that the catalogue does not know may have come to the hub since.
pub fn repository(name: &str, tag: &str) -> Option<String> {
    match find(name, tag).map_or(PublishedAt::Hub, |row| row.place) {
        PublishedAt::Hub => Some(format!("timm/{name}.{tag}")),
        PublishedAt::Repository(repository) => Some(repository.to_owned()),
        PublishedAt::File => None,
    }
}

fn find(name: &str, tag: &str) -> Option<&'static Published> {
    CATALOGUE.iter().find(|row| row.name == name && row.tag == tag)
}

fn row(line: &'static str) -> Option<Published> {
    let columns: Vec<&'static str> = line.split(',').collect();
    let &[name, tag, default, num_classes, height, width, crop_pct, crop_mode, interpolation, mean, std, place] =
        columns.as_slice()
    else {
        return None;
    };
    let preprocessing = Preprocessing {
        input_size: [height.parse().ok()?, width.parse().ok()?],
        crop_pct: crop_pct.parse().ok()?,
        crop_mode: match crop_mode {
            "center" => CropMode::Center,
            "squash" => CropMode::Squash,
            _ => return None,
        },
        interpolation: match interpolation {
            "bilinear" => Interpolation::Bilinear,
            "bicubic" => Interpolation::Bicubic,
            _ => return None,
        },
        mean: colours(mean)?,
        std: colours(std)?,
    };
    Some(Published {
        name,
        tag,
        default: default.parse().ok()?,
        num_classes: num_classes.parse().ok()?,
        preprocessing,
        place: match place {
            "" => PublishedAt::Hub,
            "file" => PublishedAt::File,
            repository => PublishedAt::Repository(repository),
        },
    })
}

fn colours(text: &str) -> Option<[f32; 3]> {
    let values: Result<Vec<f32>, _> = text.split(' ').map(str::parse).collect();
    values.ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_is_sound() {
        let mut seen = HashSet::new();
        for row in CATALOGUE.iter() {
            assert!(seen.insert((row.name, row.tag)), "{row:?}");
            assert_eq!(row.preprocessing.check(), Ok(()), "{row:?}");
        }
    }

    #[test]
    fn every_architecture_on_the_hub_has_one_default_there() {
        for name in CATALOGUE.iter().filter(|row| row.place != PublishedAt::File).map(|row| row.name) {
            let defaults: Vec<_> = published(name).into_iter().filter(|row| row.default).collect();
            assert!(defaults.len() == 1 && defaults[0].place != PublishedAt::File, "{name}: {defaults:?}");
        }
    }

    #[test]
    fn a_fixed_input_size_is_that_of_the_weights() {
        for entry in netkin_architectures::registry::all() {
            if entry.config.input_rule() == netkin_architectures::InputRule::Fixed {
                for row in published(entry.name) {
                    let size = row.preprocessing.input_size;
                    assert_eq!(size, entry.config.input_size(), "{row:?}");
                }
            }
        }
    }

    #[test]
    fn the_weights_of_the_paper_are_there() {
        for (name, model) in crate::paper69() {
            let (architecture, tag) = model.split_once('.').expect("NAME.TAG");
            assert!(tags(architecture).contains(&tag), "{name}: {model}");
        }
    }

    #[test]
    fn look_up() {
        assert_eq!(default_tag("resnet18"), Some("a1_in1k"));
        assert_eq!(tags("resnet18")[0], "a1_in1k");
        assert!(tags("resnet18").contains(&"tv_in1k"));
        assert_eq!(default_tag("demo_resnet"), None);
        assert_eq!(repository("resnet18", "new").as_deref(), Some("timm/resnet18.new"));
        let clip = repository("vit_base_patch16_clip_quickgelu_224", "openai");
        assert_eq!(clip.as_deref(), Some("timm/vit_base_patch16_clip_224.openai"));
        assert_eq!(repository("mobilenetv2_100", "tv_in1k"), None);

        let default = preprocessing("resnet18", None).unwrap();
        assert_eq!(Some(default), preprocessing("resnet18", Some("a1_in1k")));
        assert_eq!(default.crop_pct, 0.95);
        assert_eq!(default.interpolation, Interpolation::Bicubic);
        let torchvision = preprocessing("resnet18", Some("tv_in1k")).unwrap();
        assert_eq!(torchvision.crop_pct, 0.875);
        assert_eq!(torchvision.interpolation, Interpolation::Bilinear);
        assert_eq!(preprocessing("resnet18", Some("new")), None);
    }
}
