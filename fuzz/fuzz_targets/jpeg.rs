//! Our own decoder of JPEG.
#![no_main]

netkin_fuzz::target!(|bytes| {
    let _ = netkin::fuzzing::jpeg(bytes);
});
