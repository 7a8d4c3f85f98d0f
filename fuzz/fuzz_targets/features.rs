//! Features in `.npy` and safetensors files.
#![no_main]

use netkin::similarity::features::{Features, file};

netkin_fuzz::target!(|bytes| {
    let name = if bytes.starts_with(b"\x93NUMPY") { "x.npy" } else { "x.safetensors" };
    let path = netkin_fuzz::file(name, bytes);
    if let Ok(stored) = file::read(&path, "features", false) {
        let _ = Features::new("x", stored.values, stored.rows);
    }
});
