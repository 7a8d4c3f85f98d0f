//! What a matrix of similarities tells: numbers, clusters, maps, and which components make networks differ.
//!
//! Everything here reads a [`Matrix`](crate::similarity::Matrix), whether it comes from a run, from a [CSV file](read) or from
//! the [published data](published) of Hwang et al., *Similarity of Neural Architectures using Adversarial Attack
//! Transferability* (arXiv 2210.11407, ECCV 2024), whose analyses these are.
//!
//! Random numbers are drawn from a seed, so that the same matrix gives the same answers.

pub mod boosting;
pub mod clusters;
pub mod compare;
pub mod components;
pub mod distance;
pub mod diverse;
mod eigen;
pub mod embedding;
pub mod ensembles;
pub mod hierarchy;
pub mod importance;
mod kmeans;
pub mod partition;
pub mod published;
pub mod read;
pub mod stability;
pub mod summary;
pub mod teachers;
pub mod uncertainty;
