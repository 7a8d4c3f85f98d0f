//! Weights as PyTorch saves them, of all times: archives, and pickles with numbers behind them.
#![no_main]

use netkin_architectures::find;

netkin_fuzz::target!(|bytes| {
    if bytes.starts_with(b"PK") || bytes.starts_with(b"\x80") {
        let path = netkin_fuzz::file("x.pth", bytes);
        let _ = netkin_weights::remap(find("resnet10t").expect("a network"), &path);
    }
});
