//! What people look at: figures as SVG, and pages that hold them.

mod heat_map;

pub use heat_map::{HeatMap, page};
