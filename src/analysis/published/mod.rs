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

/// A component of a network that its configuration shows to be another than the published table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disagreement {
    /// The network's name of 2022.
    pub name: &'static str,
    /// The column of the table.
    pub column: &'static str,
    /// What the table says.
    pub published: &'static str,
    /// What the configuration says.
    pub derived: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// All cells of the published table, 7 of 897, that configurations contradict.
pub const DISAGREEMENTS: &[Disagreement] = &[
    Disagreement {
        name: "pit_b_224",
        column: "Base architecture",
        published: "Hybrid",
        derived: "Transformer",
        reason: "pit_s_224, which differs in its widths alone, is a Transformer in the table",
    },
    isotropic("convmixer_1536_20"),
    isotropic("resmlp_big_24_224"),
    isotropic("gmlp_s16_224"),
    no_depthwise("gcresnet50t", "no convolution of it has as many groups as channels"),
    no_depthwise("gcresnext50ts", "its grouped convolutions have 32 channels in a group"),
    no_depthwise("nf_regnet_b1", "its grouped convolutions have 8 channels in a group"),
];

const fn isotropic(name: &'static str) -> Disagreement {
    Disagreement {
        name,
        column: "Hierarchical structure",
        published: "Yes",
        derived: "No",
        reason: "it has as many places in its last block as in its first",
    }
}

const fn no_depthwise(name: &'static str, reason: &'static str) -> Disagreement {
    Disagreement { name, column: "DW conv", published: "Yes", derived: "No", reason }
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
    use crate::analysis::components::derived;

    #[test]
    fn configurations_contradict_the_table_where_it_is_said() {
        let (table, names) = (components(), matrix().names);
        let mut found = Vec::new();
        for (name, published) in names.iter().zip(table.select(&names).unwrap().rows) {
            let entry = netkin_architectures::find(name).unwrap_or_else(|_| panic!("{name} is not registered"));
            for ((column, published), derived) in table.columns.iter().zip(published).zip(derived(entry)) {
                if published != derived {
                    found.push((name.clone(), column.clone(), published, derived));
                }
            }
        }
        let mut said: Vec<_> = DISAGREEMENTS
            .iter()
            .map(|it| [it.name, it.column, it.published, it.derived].map(String::from).into())
            .collect();
        said.sort();
        found.sort();
        assert_eq!(found, said);
    }

    #[test]
    fn the_three_tables_speak_of_the_same_networks() {
        let (matrix, components, models) = (matrix(), components(), models());
        assert_eq!(matrix.names.len(), 69);
        assert_eq!(components.columns.len(), 13);
        assert_eq!(models.iter().map(|model| &model.name).collect::<Vec<_>>(), matrix.names.iter().collect::<Vec<_>>());
        assert_eq!(components.select(&matrix.names).unwrap().rows.len(), 69);
    }
}
