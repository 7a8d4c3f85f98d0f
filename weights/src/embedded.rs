//! The weights that are part of the program: those of the small networks `demo_…`.

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../embedded/", $name, ".safetensors")))),*]
    };
}

/// Name of the network → its weights as safetensors, which `embedded/README.md` tells how to make.
const TABLE: &[(&str, &[u8])] = embedded![
    "demo_convnext",
    "demo_efficientnet",
    "demo_gmlp",
    "demo_mixer",
    "demo_mobilenetv2",
    "demo_resnet",
    "demo_resnext",
    "demo_seresnet",
    "demo_vit_patch4",
    "demo_vit_patch7",
];

/// The first 500 test images of Fashion-MNIST, IDX `[500, 28, 28]`, gzip.
pub const TEST_IMAGES: &[u8] = include_bytes!("../embedded/fashion_mnist_500/t10k-images-idx3-ubyte.gz");
/// Their labels, IDX `[500]`, gzip.
pub const TEST_LABELS: &[u8] = include_bytes!("../embedded/fashion_mnist_500/t10k-labels-idx1-ubyte.gz");

/// The safetensors of a network, if netkin carries them.
pub fn weights(name: &str) -> Option<&'static [u8]> {
    let row = TABLE.iter().find(|(network, _)| *network == name);
    row.map(|(_, bytes)| *bytes)
}

/// The networks whose weights netkin carries.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{HubConfig, Precision, load};

    #[test]
    fn every_one_loads() {
        let hub = HubConfig::nowhere();
        for name in names() {
            let spec = name.parse().unwrap();
            load(&spec, Precision::F32, &Device::flex(), &hub, &mut |_| {}).unwrap();
        }
    }

    #[test]
    fn a_network_without_weights_says_so() {
        assert_eq!(weights("resnet50"), None);
    }
}
