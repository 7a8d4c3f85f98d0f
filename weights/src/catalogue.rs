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
    /// There are none: the row says how timm prepares images for such a network, and has no tag.
    Nowhere,
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
    let exists = |row: &&Published| row.name == name && row.place != PublishedAt::Nowhere;
    let mut rows: Vec<_> = CATALOGUE.iter().filter(exists).collect();
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

/// How images are prepared for published weights; without a tag, for the default ones, or as timm does for an architecture
/// that has none.
pub fn preprocessing(name: &str, tag: Option<&str>) -> Option<Preprocessing> {
    let row = match tag {
        Some(tag) => find(name, tag),
        None => CATALOGUE.iter().find(|row| row.name == name && row.default),
    };
    row.map(|row| row.preprocessing)
}

/// Names of 2022 that stood for these weights, where timm's name of today needs a tag to do so.
const OF_2022: [(&str, &str); 5] = [
    ("gluon_resnet101_v1c", "gluon_in1k"),
    ("resnetv2_101x1_bitm", "goog_in21k_ft_in1k"),
    ("resnetv2_50x1_bitm", "goog_in21k_ft_in1k"),
    ("resnetv2_50x3_bitm", "goog_in21k_ft_in1k"),
    ("vit_base_resnet50_384", "orig_in21k_ft_in1k"),
];

/// The tag of the weights that a name of 2022 stood for, if that name said which.
pub fn tag_of_2022(name: &str) -> Option<&'static str> {
    OF_2022.iter().find(|(old, _)| *old == name).map(|(_, tag)| *tag)
}

/// The repository on the Hugging Face hub: `timm/NAME.TAG`, but for a few; none for weights that are in files only. Tags
/// that the catalogue does not know may have come to the hub since.
pub fn repository(name: &str, tag: &str) -> Option<String> {
    match find(name, tag).map_or(PublishedAt::Hub, |row| row.place) {
        PublishedAt::Hub => Some(format!("timm/{name}.{tag}")),
        PublishedAt::Repository(repository) => Some(repository.to_owned()),
        PublishedAt::File | PublishedAt::Nowhere => None,
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
            "none" => PublishedAt::Nowhere,
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
        let on_the_hub = |row: &&Published| matches!(row.place, PublishedAt::Hub | PublishedAt::Repository(_));
        for name in CATALOGUE.iter().filter(on_the_hub).map(|row| row.name) {
            let defaults: Vec<_> = published(name).into_iter().filter(|row| row.default).collect();
            assert!(defaults.len() == 1 && defaults[0].place != PublishedAt::File, "{name}: {defaults:?}");
        }
    }

    /// What stands there is what timm says of the name alone: scripts/timm_catalogue.py compares it.
    #[test]
    fn every_network_of_timm_is_made_for_the_images_of_its_default() {
        let of_timm = |entry: &&netkin_architectures::Entry| !entry.name.starts_with("demo_");
        for entry in netkin_architectures::registry::all().iter().filter(of_timm) {
            let default = preprocessing(entry.name, None).unwrap_or_else(|| panic!("{} is missing", entry.name));
            assert_eq!(default.input_size, entry.config.input_size(), "{}", entry.name);
        }
    }

    #[test]
    fn images_of_networks_without_weights_are_prepared_as_by_timm() {
        let default = |name| preprocessing(name, None).unwrap();
        assert_eq!((default("mixer_s16_224").mean, default("mixer_s16_224").crop_pct), ([0.5; 3], 0.875));
        assert_eq!((default("efficientnet_b6").input_size, default("efficientnet_b6").crop_pct), ([528; 2], 0.942));
        assert_eq!(default("lcnet_035").interpolation, Interpolation::Bilinear);
        assert_eq!((default("legacy_xception").std, default("legacy_xception").crop_pct), ([0.5; 3], 0.8975));
        // There are no weights, or no more on the hub.
        assert!(published("mixer_s16_224").is_empty() && default_tag("mixer_s16_224").is_none());
        assert_eq!(tags("legacy_xception"), ["tf_in1k"]);
        assert_eq!(repository("legacy_xception", "tf_in1k"), None);
    }

    #[test]
    fn a_fixed_input_size_is_that_of_the_weights() {
        for entry in netkin_architectures::registry::all() {
            use netkin_architectures::InputRule;
            if matches!(entry.config.input_rule(), InputRule::Fixed | InputRule::Retrained(_)) {
                for row in published(entry.name) {
                    let size = row.preprocessing.input_size;
                    assert_eq!(size, entry.config.input_size(), "{row:?}");
                }
            }
        }
    }

    /// timm's table of names that it has given up says so.
    #[test]
    fn names_of_2022_stand_for_weights_that_exist() {
        for (name, tag) in OF_2022 {
            let today = netkin_architectures::find(name).unwrap().name;
            assert!(name != today && tags(today).contains(&tag), "{name}: {today}.{tag}");
        }
        assert_eq!(tag_of_2022("resnetv2_50x1_bitm"), Some("goog_in21k_ft_in1k"));
        assert_eq!(default_tag("resnetv2_50x1_bit"), Some("goog_distilled_in1k"));
        assert_eq!(tag_of_2022("resnet50"), None);
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
