//! Images in `.npy`, safetensors and `.pt` files, with their labels.
#![no_main]

use netkin::images::Dataset;

netkin_fuzz::target!(|bytes| {
    let path = netkin_fuzz::file("x.npy", bytes);
    if let Ok(data) = Dataset::open(&path, None) {
        let _ = data.samples.last().expect("a stack has images").decode();
    }
    let _ = Dataset::open(&path, Some(&path));
    if let Ok(stack) = netkin::images::Stack::open(&path) {
        let pixels = stack.pixels(&[0], [4, 4]).expect("the file is what it was");
        assert!(pixels.len() == 48 && pixels.iter().all(|value| (0.0..=1.0).contains(value)));
    }
});
