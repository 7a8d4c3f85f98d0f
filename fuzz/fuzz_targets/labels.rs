//! Labels files, of a folder of images and of a stack of them.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use netkin::images::Dataset;

static IMAGES: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| {
    for name in ["a.png", "b.png", "cat/c.png", "dog/d.png", "n01440764/e.png"] {
        netkin_fuzz::file(&format!("images/{name}"), b"");
    }
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 3, 1, 2), }";
    let stack = [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[7; 18]].concat();
    (netkin_fuzz::folder().join("images"), netkin_fuzz::file("stack.npy", &stack))
});

netkin_fuzz::target!(|bytes| {
    let (folder, stack) = &*IMAGES;
    let labels = netkin_fuzz::file("labels.csv", bytes);
    for images in [folder, stack] {
        if let Ok(data) = Dataset::open(images, Some(&labels)) {
            let data = data.shifted(1);
            let _ = (data.check_labels(1000), data.doubts(1000));
        }
    }
});
