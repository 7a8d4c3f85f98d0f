//! The keys and shapes of a network's parameters, without their values.

use burn::tensor::Device;
use netkin_architectures::{AnyConfiguration, Network, names};

/// Keys and shapes in the network's order, running statistics included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout(pub Vec<(String, Vec<usize>)>);

impl Layout {
    /// That of a built network.
    pub fn of(network: &Network) -> Self {
        Self(names::tensors(network).into_iter().map(|tensor| (tensor.name, tensor.shape)).collect())
    }

    /// How many numbers an optimiser would change.
    pub fn parameters(&self) -> usize {
        let trained = self.0.iter().filter(|(key, _)| !names::is_statistic(key));
        trained.map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

/// The layouts of an architecture for every number of classes.
pub(crate) struct Pattern {
    layout: Layout,
    num_classes: usize,
    /// The positions of the tensors whose first axis is the class.
    classifier: Vec<usize>,
}

impl Pattern {
    /// Found by building the network with two numbers of classes: what differs is the classifier.
    pub fn of(config: &dyn AnyConfiguration) -> Self {
        let num_classes = config.num_classes();
        let build = |classes| Layout::of(&config.build(classes, &Device::flex()));
        let (layout, other) = (build(num_classes), build(num_classes + 1));
        let classifier = (0..layout.0.len()).filter(|&index| layout.0[index] != other.0[index]).collect();
        Self { layout, num_classes, classifier }
    }

    /// The keys of the classifier.
    pub fn classifier(&self) -> impl Iterator<Item = &str> {
        self.classifier.iter().map(|&index| self.layout.0[index].0.as_str())
    }

    /// The number of classes that a file has, as far as its classifier resembles ours; else the published one.
    pub fn classes<'a>(&self, shape_in_file: impl Fn(&str) -> Option<&'a [usize]>) -> usize {
        self.classifier
            .iter()
            .find_map(|&index| {
                let (key, shape) = &self.layout.0[index];
                let found = shape_in_file(key)?;
                (found.len() == shape.len() && found[0] > 0).then_some(found[0])
            })
            .unwrap_or(self.num_classes)
    }

    /// The layout for so many classes.
    pub fn layout(&self, classes: usize) -> Layout {
        let mut layout = self.layout.clone();
        for &index in &self.classifier {
            layout.0[index].1[0] = classes;
        }
        layout
    }
}

#[cfg(test)]
mod tests {
    use netkin_architectures::{find, registry};

    use super::*;

    #[test]
    fn keys_are_those_of_timm() {
        let layout = Pattern::of(find("resnet18").unwrap().config).layout(1000);
        let shape = |key: &str| &layout.0.iter().find(|(found, _)| found == key).unwrap().1;
        assert_eq!(shape("conv1.weight"), &[64, 3, 7, 7]);
        assert_eq!(shape("layer2.0.downsample.0.weight"), &[128, 64, 1, 1]);
        assert_eq!(shape("bn1.running_var"), &[64]);
        assert_eq!(shape("fc.bias"), &[1000]);
        // timm: sum(p.numel() for p in resnet18().parameters())
        assert_eq!(layout.parameters(), 11_689_512);
    }

    #[test]
    fn the_classifier_is_found_in_every_network() {
        for entry in registry::all() {
            let pattern = Pattern::of(entry.config);
            assert!(pattern.classifier().count() > 0, "{}", entry.name);
            let classes = entry.config.num_classes() + 7;
            let network = entry.config.build(classes, &Device::flex());
            assert_eq!(pattern.layout(classes), Layout::of(&network), "{}", entry.name);
        }
    }
}
