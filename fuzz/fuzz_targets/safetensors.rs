//! Weights as safetensors, into networks whose files are converted and one whose are not.
#![no_main]

use netkin_architectures::find;

const NETWORKS: [&str; 4] = ["demo_resnet", "demo_convnext", "demo_vit_patch7", "demo_mixer"];

netkin_fuzz::target!(|bytes| {
    let path = netkin_fuzz::file("x.safetensors", bytes);
    let network = NETWORKS[bytes.len() % NETWORKS.len()];
    let _ = netkin_weights::remap(find(network).expect("a network"), &path);
});
