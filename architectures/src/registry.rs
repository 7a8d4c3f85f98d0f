//! Every network by its name.

use std::fmt::Debug;
use std::sync::LazyLock;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

use crate::families::{convnext, efficientnet, mlp_mixer, resnet, vision_transformer};
use crate::network::Network;

/// What a family's configuration must tell, and do.
pub trait Configuration: Debug + Sync {
    /// Height and width in pixels that the network is made for.
    fn input_size(&self) -> [usize; 2];
    /// Whether other image sizes run too: true without position embeddings and token mixing.
    fn any_input_size(&self) -> bool;
    /// The number of classes of the published weights.
    fn num_classes(&self) -> usize;
    /// Builds the network with `num_classes` outputs on `device`; parameters are drawn when they are first used.
    fn build(&self, num_classes: usize, device: &Device) -> Network;
}

/// Implements [`Configuration`] for a family's `Config`, whose fields `input_size` (of a square) and `num_classes` say what
/// they say, and whose network is built by `new(config, num_classes, device)`.
macro_rules! configuration {
    ($network:ident, any_input_size: $any_input_size:literal) => {
        impl crate::registry::Configuration for Config {
            fn input_size(&self) -> [usize; 2] {
                [self.input_size; 2]
            }

            fn any_input_size(&self) -> bool {
                $any_input_size
            }

            fn num_classes(&self) -> usize {
                self.num_classes
            }

            fn build(&self, num_classes: usize, device: &burn::tensor::Device) -> crate::network::Network {
                $network::new(self, num_classes, device).into()
            }
        }
    };
}
pub(crate) use configuration;

/// A network that can be built.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// timm's name of the architecture, `resnet50`; the small networks that netkin carries begin with `demo_`.
    pub name: &'static str,
    /// The family, as timm names its file: `resnet`.
    pub family: &'static str,
    /// The family's configuration.
    pub config: &'static dyn Configuration,
}

impl Entry {
    /// Builds the network with the published number of classes; see [`Configuration::build`].
    pub fn build(&self, device: &Device) -> Network {
        self.config.build(self.config.num_classes(), device)
    }

    /// The number of trained parameters with the published number of classes; running statistics and other buffers do not count.
    pub fn parameters(&self) -> usize {
        let mut counter = ParameterCounter::default();
        self.build(&Device::flex()).visit(&mut counter);
        counter.count
    }
}

macro_rules! entries {
    ($($family:ident),* $(,)?) => {
        static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
            let mut entries = Vec::new();
            $(entries.extend($family::VARIANTS.iter().map(|(name, config)| Entry {
                name,
                family: stringify!($family),
                config,
            }));)*
            entries.sort_by_key(|entry| entry.name);
            entries
        });
    };
}

entries!(convnext, efficientnet, mlp_mixer, resnet, vision_transformer);

/// Names of 2022, as the papers' tables print them, and today's.
const ALIASES: &[(&str, &str)] = &[("gluon_resnet101_v1c", "resnet101c")];

/// All networks, sorted by name.
pub fn all() -> &'static [Entry] {
    &ENTRIES
}

/// The network of that name or alias, or the names most like it, best first.
pub fn find(name: &str) -> Result<&'static Entry, Vec<&'static str>> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, today)| today);
    match ENTRIES.binary_search_by_key(&name, |entry| entry.name) {
        Ok(index) => Ok(&ENTRIES[index]),
        Err(_) => Err(most_similar(name)),
    }
}

/// The networks whose names match `pattern`, in which `*` stands for any characters and `?` for one; a pattern with
/// neither matches the names that contain it. Sorted by name.
pub fn matching(pattern: &str) -> Vec<&'static Entry> {
    let wild = pattern.contains(['*', '?']);
    ENTRIES
        .iter()
        .filter(|entry| match wild {
            true => matches_wildcard(pattern.as_bytes(), entry.name.as_bytes()),
            false => entry.name.contains(pattern),
        })
        .collect()
}

fn matches_wildcard(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            matches_wildcard(&pattern[1..], name) || (!name.is_empty() && matches_wildcard(pattern, &name[1..]))
        }
        (Some(b'?'), Some(_)) => matches_wildcard(&pattern[1..], &name[1..]),
        (Some(a), Some(b)) if a == b => matches_wildcard(&pattern[1..], &name[1..]),
        _ => false,
    }
}

fn most_similar(name: &str) -> Vec<&'static str> {
    let mut scored: Vec<_> = ENTRIES
        .iter()
        .map(|entry| (strsim::jaro_winkler(name, entry.name), entry.name))
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Counts what an optimiser would change: everything but batch norm's running statistics.
#[derive(Default)]
struct ParameterCounter {
    count: usize,
    in_statistics: bool,
}

impl ModuleVisitor for ParameterCounter {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.in_statistics = matches!(name, "running_mean" | "running_var");
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        if !self.in_statistics {
            self.count += parameter.lazy_shape().num_elements();
        }
    }
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
    }

    #[test]
    fn wildcards() {
        assert!(matching("resnet?0").iter().any(|e| e.name == "resnet50"));
        assert!(matching("*xt50*").iter().any(|e| e.name == "resnext50_32x4d"));
        assert!(matching("resnet50").len() > 1);
        assert!(matching("nothing*").is_empty());
    }
}
