//! Image files of every format, by the library's decoders where ours is not asked, and their way to the size of a network. Panics of
//! the library's are caught by `decode`.
#![no_main]

use netkin::images::{CropMode, Filter, Transform, decode};

netkin_fuzz::target!(netkin_fuzz::begin_with_panics_caught(), |bytes| {
    let Ok(image) = decode(bytes, "x") else { return };
    for crop_mode in [CropMode::Center, CropMode::Squash, CropMode::Border([0; 3])] {
        let transform = Transform { input_size: (32, 24), crop_pct: 0.9, interpolation: Filter::Bicubic, crop_mode };
        let seen = transform.apply(&image);
        assert_eq!((seen.height(), seen.width()), transform.input_size);
    }
});
