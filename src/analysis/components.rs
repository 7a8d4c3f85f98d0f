//! Tables of the components that networks are made of.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use netkin_architectures::{Entry, registry};

use super::published;
use crate::files::{MAX_TABLE, read_text};

/// A word per network and column, as in the SAT paper's table: `Stem layer` of `convnext_tiny` is `4s4`.
#[derive(Debug, Clone, PartialEq)]
pub struct ComponentTable {
    /// What the columns are called.
    pub columns: Vec<String>,
    rows: HashMap<String, Vec<String>>,
}

/// The components of some networks, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkComponents {
    /// What the columns are called.
    pub columns: Vec<String>,
    /// Network → column → value.
    pub rows: Vec<Vec<String>>,
}

/// Why a table of components cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The file cannot be read.
    #[error("cannot read {} ({source}); give a CSV file with a network per row", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no table of components.
    #[error("{} is no table of components: {reason}; a header of column names, then a row per network, its name first", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No column has that name.
    #[error("there is no component {name:?}; the columns are {}", columns.join(", "))]
    NoColumn {
        /// The name.
        name: String,
        /// The columns of the table.
        columns: Vec<String>,
    },
    /// Some networks have no row.
    #[error("there are no components of {}; add a row for each to a CSV file (header: {}) and give it as --components", list(names), columns.join(","))]
    Missing {
        /// The networks.
        names: Vec<String>,
        /// The columns of the table.
        columns: Vec<String>,
    },
}

/// At most five names, and how many there are beside them.
fn list(names: &[String]) -> String {
    match names {
        [first, second, third, fourth, fifth, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third}, {fourth}, {fifth} and {} more", rest.len())
        }
        names => names.join(", "),
    }
}

/// The base architecture of networks that were found by search is that of what they are made of: `CNN` for `NAS (CNN)`, `Transformer`
/// for `NAS (TFM)`, all others as they are.
pub fn base_of(base_architecture: &str) -> &str {
    match base_architecture {
        "NAS (CNN)" => "CNN",
        "NAS (TFM)" => "Transformer",
        other => other,
    }
}

/// The thirteen components of a network by its configuration, in the order of the paper's table.
pub fn derived(entry: &Entry) -> Vec<String> {
    entry.config.components().values(entry.config.input_size()).into()
}

impl ComponentTable {
    /// Reads a CSV file: a header, then a row per network, its name first.
    ///
    /// # Errors
    /// [`ComponentError`], but for `Missing`.
    pub fn open(path: &Path) -> Result<Self, ComponentError> {
        let text =
            read_text(path, MAX_TABLE).map_err(|source| ComponentError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads the text of such a file; `path` is what errors call it.
    ///
    /// # Errors
    /// [`ComponentError::Malformed`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ComponentError> {
        let malformed = |reason: String| ComponentError::Malformed { path: path.to_owned(), reason };
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let header = reader.headers().map_err(|error| malformed(error.to_string()))?;
        let columns: Vec<String> = header.iter().skip(1).map(str::to_owned).collect();
        if columns.is_empty() {
            return Err(malformed("it has no column beside the names".into()));
        }
        if let Some(twice) = columns
            .iter()
            .enumerate()
            .find_map(|(index, column)| columns[..index].iter().find(|other| *other == column))
        {
            return Err(malformed(format!("it has two columns {twice:?}")));
        }
        let mut rows = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(|error| malformed(error.to_string()))?;
            let values = record.iter().skip(1).map(str::to_owned).collect();
            if rows.insert(record[0].to_owned(), values).is_some() {
                return Err(malformed(format!("it has two rows {:?}", &record[0])));
            }
        }
        Ok(Self { columns, rows })
    }

    /// The table for networks that netkin knows: the published one, under the names of 2022 and today's names in timm, and
    /// what the configurations of all others say.
    pub fn known() -> Self {
        let mut table = published::components();
        for model in published::models() {
            let values = table.rows[&model.name].clone();
            for name in [model.timm_name, model.tag] {
                table.rows.entry(name).or_insert_with(|| values.clone());
            }
        }
        for entry in registry::all() {
            table.rows.entry(entry.name.to_owned()).or_insert_with(|| derived(entry));
        }
        table
    }

    /// A network's row, or that of its architecture, whose name lies before the point of `resnet18.a1_in1k`.
    fn row(&self, name: &str) -> Option<&Vec<String>> {
        self.rows.get(name).or_else(|| self.rows.get(name.split_once('.')?.0))
    }

    /// The values of each network, in the order of `names`.
    ///
    /// # Errors
    /// [`ComponentError::Missing`] with all networks that have no row.
    pub fn select(&self, names: &[String]) -> Result<NetworkComponents, ComponentError> {
        match names.iter().map(|name| self.row(name).cloned()).collect() {
            Some(rows) => Ok(NetworkComponents { columns: self.columns.clone(), rows }),
            None => {
                let missing = names.iter().filter(|name| self.row(name).is_none()).cloned().collect();
                Err(ComponentError::Missing { names: missing, columns: self.columns.clone() })
            }
        }
    }
}

impl NetworkComponents {
    /// The values of one column.
    ///
    /// # Errors
    /// [`ComponentError::NoColumn`].
    pub fn column(&self, name: &str) -> Result<Vec<String>, ComponentError> {
        match self.columns.iter().position(|column| column == name) {
            Some(index) => Ok(self.rows.iter().map(|row| row[index].clone()).collect()),
            None => Err(ComponentError::NoColumn { name: name.to_owned(), columns: self.columns.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_per_network_in_the_order_that_is_asked_for() {
        let table = ComponentTable::parse("name,Stem,Norm\na, 4s4 ,LN\nb,7s2,BN\n", "x".as_ref()).unwrap();
        assert_eq!(table.columns, ["Stem", "Norm"]);
        assert_eq!(table.select(&["b".into(), "a".into()]).unwrap().rows, [["7s2", "BN"], ["4s4", "LN"]]);
        let error = table.select(&["c".into(), "a".into()]).unwrap_err().to_string();
        assert!(error.contains("no components of c;") && error.contains("Stem,Norm"), "{error}");
    }

    #[test]
    fn what_is_no_table_is_refused_with_a_reason() {
        let refused = |text: &str, part: &str| {
            let error = ComponentTable::parse(text, "x.csv".as_ref()).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("x.csv"), "{error}");
        };
        refused("name\na\n", "no column beside the names");
        refused("name,Stem,Stem\n", "two columns");
        refused("name,Stem\na,1\na,2\n", "two rows");
        refused("name,Stem\na,1,2\n", "fields");
    }

    #[test]
    fn todays_names_are_known_too() {
        let table = ComponentTable::known();
        let names = ["gluon_resnet101_v1c", "resnet101c"].map(String::from);
        let rows = table.select(&names).unwrap().rows;
        assert_eq!(rows[0], rows[1]);
    }

    #[test]
    fn networks_that_the_paper_has_not_are_described_by_their_configurations() {
        let names = ["resnet34.a1_in1k", "deit_small_patch16_224"].map(String::from);
        let table = ComponentTable::known();
        let stems = table.select(&names).unwrap().column("Stem layer").unwrap();
        assert_eq!(stems, ["7s2", "16s16"]);
    }
}
