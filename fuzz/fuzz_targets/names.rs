//! Names of models and sets of them, patterns, and what a misspelt name may mean.
#![no_main]

use netkin_architectures::registry;
use netkin_weights::{ModelSet, ModelSpec};

netkin_fuzz::target!(|bytes| {
    let text = netkin_fuzz::text(bytes);
    match text.parse::<ModelSpec>() {
        Ok(spec) => assert_eq!(spec.to_string(), text),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    registry::matching(&text);
    let path = netkin_fuzz::file("models.txt", bytes);
    let _ = format!("@{}", path.display()).parse::<ModelSet>();
});
