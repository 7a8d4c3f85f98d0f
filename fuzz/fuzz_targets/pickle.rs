//! The pickle alone, in an archive around it, by both of its readers: for weights, and for images.
#![no_main]

use netkin::images::Stack;
use netkin_architectures::find;

netkin_fuzz::target!(|bytes| {
    let numbers = 0.5f32.to_le_bytes().repeat(256);
    let entries = [("x/data.pkl", bytes), ("x/byteorder", b"little"), ("x/data/0", &numbers), ("x/data/1", &numbers)];
    let path = netkin_fuzz::file("x.pt", &netkin_fuzz::archive(&entries));
    let _ = netkin_weights::remap(find("resnet10t").expect("a network"), &path);
    if let Ok(stack) = Stack::open(&path) {
        let size = stack.size();
        let _ = stack.pixels(&[stack.images() - 1], size);
    }
});
