//! Every network by its name.

use std::sync::LazyLock;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use wildmatch::WildMatch;

use crate::families::{self, AnyConfiguration, Network};
use crate::family::Architecture;
use crate::layers::multiply_accumulates;
use crate::names;
use crate::taps::Taps;

/// A network that can be built.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// timm's name of the architecture, `resnet50`; the small networks that netkin carries begin with `demo_`.
    pub name: &'static str,
    /// The family, as timm names its file: `resnet`.
    pub family: &'static str,
    /// The family's configuration.
    pub config: &'static dyn AnyConfiguration,
}

impl Entry {
    /// Builds the network with the published number of classes; see [`AnyConfiguration::build`].
    pub fn build(&self, device: &Device) -> Network {
        self.config.build(self.config.num_classes(), device)
    }

    /// The number of trained parameters with the published number of classes; running statistics and other buffers do not count.
    pub fn parameters(&self) -> usize {
        parameters(&self.build(&Device::flex()))
    }

    /// Multiply-accumulate operations for one image of the size that the network is made for: those of convolutions, linear
    /// maps and attention. Runs the network once.
    pub fn multiply_accumulates(&self) -> u64 {
        let device = Device::flex();
        let [height, width] = self.config.input_size();
        let network = self.build(&device).freeze();
        let image = Tensor::zeros([1, 3, height, width], &device);
        multiply_accumulates(|| network.forward(image, &mut Taps::none())).1
    }
}

/// The number of trained parameters of a network.
pub fn parameters(network: &Network) -> usize {
    let tensors = names::tensors(network).into_iter().filter(|tensor| !names::is_statistic(&tensor.name));
    tensors.map(|tensor| tensor.shape.iter().product::<usize>()).sum()
}

/// All networks, sorted by name.
static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let entry = |(name, family, config)| Entry { name, family, config };
    let mut entries: Vec<Entry> = families::variants().into_iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.name);
    entries
});

/// Names of 2022, as the papers' tables print them, and today's.
const ALIASES: &[(&str, &str)] = &[
    ("efficientnet_b2a", "efficientnet_b2"),
    ("efficientnet_b3a", "efficientnet_b3"),
    ("gluon_resnet101_v1c", "resnet101c"),
    ("jx_nest_base", "nest_base_jx"),
    ("jx_nest_small", "nest_small_jx"),
    ("jx_nest_tiny", "nest_tiny_jx"),
    ("mnasnet_a1", "semnasnet_100"),
    ("mnasnet_b1", "mnasnet_100"),
    ("regnetz_040h", "regnetz_040_h"),
    ("resnetv2_101x1_bitm", "resnetv2_101x1_bit"),
    ("resnetv2_50x1_bitm", "resnetv2_50x1_bit"),
    ("resnetv2_50x3_bitm", "resnetv2_50x3_bit"),
    ("vit_base_resnet50_384", "vit_base_r50_s16_384"),
    ("xception", "legacy_xception"),
];

/// All networks, sorted by name.
pub fn all() -> &'static [Entry] {
    &ENTRIES
}

/// The network of that name or alias, or the names most like it, best first.
pub fn find(name: &str) -> Result<&'static Entry, Vec<&'static str>> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, today)| today);
    match ENTRIES.binary_search_by_key(&name, |entry| entry.name) {
        Ok(index) => Ok(&ENTRIES[index]),
        Err(_) => Err(most_similar(name, ENTRIES.iter().map(|entry| entry.name))),
    }
}

/// The networks whose names, of today or of 2022, match `pattern`, in which `*` stands for any characters and `?` for one; a
/// pattern with neither matches the names that contain it. Sorted by name.
pub fn matching(pattern: &str) -> Vec<&'static Entry> {
    let pattern = if pattern.contains(['*', '?']) { pattern.to_owned() } else { format!("*{pattern}*") };
    let pattern = WildMatch::new(&pattern);
    let of_2022 = |name: &str| ALIASES.iter().any(|(alias, today)| *today == name && pattern.matches(alias));
    ENTRIES.iter().filter(|entry| pattern.matches(entry.name) || of_2022(entry.name)).collect()
}

/// Longer texts are no misspelt names, and to compare a whole file's text with all names takes long.
const LONGEST_NAME: usize = 100;

/// The three of `names` that are most like `name`, best first, if they are like it at all: what a misspelt name may mean.
pub fn most_similar(name: &str, names: impl IntoIterator<Item = &'static str>) -> Vec<&'static str> {
    let mut scored: Vec<_> = names
        .into_iter()
        .filter(|_| name.len() <= LONGEST_NAME)
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        assert!(all().windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn running_statistics_are_no_parameters() {
        assert_eq!(find("resnet50").unwrap().parameters(), 25_557_032);
    }

    #[test]
    fn aliases_lead_somewhere() {
        for (alias, name) in ALIASES {
            assert_eq!(find(alias).unwrap().name, *name);
        }
    }

    #[test]
    fn a_misspelt_name_brings_its_neighbours() {
        assert_eq!(find("resnet5O").unwrap_err()[0], "resnet50");
        assert!(find("qqq").unwrap_err().is_empty());
        let long = |more: usize| format!("vit_base_patch16_224{}", "z".repeat(more));
        assert!(!find(&long(80)).unwrap_err().is_empty());
        assert!(find(&long(81)).unwrap_err().is_empty());
    }

    #[test]
    fn wildcards() {
        assert!(matching("resnet?0").iter().any(|e| e.name == "resnet50"));
        assert!(matching("*xt50*").iter().any(|e| e.name == "resnext50_32x4d"));
        assert!(matching("resnet50").len() > 1);
        assert_eq!(matching("gluon_resnet101_v1?")[0].name, "resnet101c");
        assert!(matching("nothing*").is_empty());
        assert!(matching("****************************!").is_empty());
    }
}
