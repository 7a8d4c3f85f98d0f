//! The published results on 69 ImageNet networks, inside the program.
//!
//! Hwang, Han, Heo, Park, Chun, Lee: *Similarity of Neural Architectures using Adversarial Attack Transferability* (arXiv
//! 2210.11407, ECCV 2024): their matrix of SAT scores, their table of components, and the networks that they used.

use crate::analysis::components::ComponentTable;
use crate::analysis::read;
use crate::similarity::Matrix;

/// How to cite the data.
pub const CITATION: &str = "Hwang, Han, Heo, Park, Chun, Lee: Similarity of Neural Architectures using Adversarial Attack \
                            Transferability, ECCV 2024, arXiv 2210.11407";

const SAT: &str = include_str!("sat_imagenet69.csv");
const COMPONENTS: &str = include_str!("components_imagenet69.csv");
const MODELS: &str = include_str!("models_imagenet69.csv");

/// A network of the paper.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishedModel {
    /// The name in the matrix: timm's name of 2022.
    pub name: String,
    /// Today's name in timm.
    pub timm_name: String,
    /// Today's name in timm with the tag of the weights.
    pub tag: String,
    /// Parameters of the network.
    pub parameters: usize,
    /// Share of ImageNet's validation images that it classifies correctly, in percent, as timm listed it in 2022.
    pub top1: f64,
}

/// SAT scores of 69 networks, symmetric, each network with itself on the diagonal.
pub fn matrix() -> Matrix {
    read::parse(SAT, "the published matrix".as_ref(), read::Asymmetry::Refuse)
        .expect("the published matrix is well-formed")
}

/// The 13 components of the 69 networks, in the paper's words.
pub fn components() -> ComponentTable {
    ComponentTable::parse(COMPONENTS, "the published components".as_ref()).expect("the published table is well-formed")
}

/// The 69 networks, in the order of the matrix.
pub fn models() -> Vec<PublishedModel> {
    let mut reader = csv::Reader::from_reader(MODELS.as_bytes());
    let headers = reader.headers().expect("the published table has a header").clone();
    let column =
        |name: &str| headers.iter().position(|header| header == name).expect("the published table has the column");
    let [name, timm_name, tag, parameters, top1] = ["name", "timm_name", "tag", "params", "top1_2022"].map(column);
    reader
        .records()
        .map(|record| {
            let record = record.expect("the published table is well-formed");
            PublishedModel {
                name: record[name].to_owned(),
                timm_name: record[timm_name].to_owned(),
                tag: record[tag].to_owned(),
                parameters: record[parameters].parse().expect("a whole number"),
                top1: record[top1].parse().expect("a number"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_tables_speak_of_the_same_networks() {
        let (matrix, components, models) = (matrix(), components(), models());
        assert_eq!(matrix.names.len(), 69);
        assert_eq!(components.columns.len(), 13);
        assert_eq!(models.iter().map(|model| &model.name).collect::<Vec<_>>(), matrix.names.iter().collect::<Vec<_>>());
        assert_eq!(components.select(&matrix.names).unwrap().rows.len(), 69);
    }
}
