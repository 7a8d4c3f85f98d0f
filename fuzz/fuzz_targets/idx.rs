//! IDX files, plain and gzipped.
#![no_main]

use std::path::Path;

use netkin::images::idx::parse;

netkin_fuzz::target!(|bytes| {
    if let Ok(idx) = parse(bytes, Path::new("x")) {
        assert_eq!(idx.elements.len(), idx.dimensions.iter().product::<usize>());
    }
});
