//! Random numbers that are a function of named parts. They lie beside the networks, which draw some of them in training.

pub use netkin_architectures::Random;
