//! Which matrix an analysis reads, and which components belong to its networks.

use std::path::{Path, PathBuf};

use super::Failure;
use super::sat::ScoreOptions;
use crate::analysis::components::{ComponentError, ComponentTable, NetworkComponents};
use crate::analysis::published;
use crate::analysis::read::{self, Asymmetry};
use crate::similarity::Matrix;
use crate::similarity::sat::{Outcomes, SatRun};

/// Options of every command that reads a matrix.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// A run folder, or a CSV file: a header of names behind an empty field, then a row per network
    #[arg(value_name = "RUN|FILE", required_unless_present = "published", conflicts_with = "published")]
    path: Option<PathBuf>,
    /// Read the 69 × 69 matrix of ImageNet networks that the authors of SAT published (arXiv 2210.11407)
    #[arg(long)]
    published: bool,
    /// Take the mean of the two scores of each pair, where the matrix is not symmetric
    #[arg(long)]
    symmetrise: bool,
    /// Leave this network out; may be given several times
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
}

/// Options of every command that reads components.
#[derive(Debug, clap::Args)]
pub struct ComponentOptions {
    /// A CSV file with a network per row, its name first, and a component per column [default: what netkin knows]
    #[arg(long, value_name = "CSV")]
    components: Option<PathBuf>,
}

impl Source {
    /// The matrix, symmetric and complete.
    pub fn matrix(&self) -> Result<Matrix, Failure> {
        match &self.path {
            Some(path) => {
                let asymmetry = if self.symmetrise { Asymmetry::Mean } else { Asymmetry::Refuse };
                Ok(read::open(path, asymmetry, &self.without)?)
            }
            None => Ok(read::leave_out(published::matrix(), &self.without, "the published matrix".as_ref())?),
        }
    }

    /// The run behind a matrix that was read; none where there is no more than the matrix.
    ///
    /// # Errors
    /// If the run is unfinished, or the matrix is of other networks.
    pub fn run(&self, matrix: &Matrix, score: &ScoreOptions) -> Result<Option<RunBehind>, Failure> {
        let Some(folder) = self.folder() else { return Ok(None) };
        let outcomes = Outcomes::open(folder)?;
        let run = outcomes.collect(score.epsilon_s()?)?;
        let names = run.names();
        let place = |name: &String| names.iter().position(|other| other == name);
        match matrix.names.iter().map(place).collect() {
            Some(places) => Ok(Some(RunBehind { outcomes, run, places })),
            None => Err(format!(
                "{} has networks that the run beside it has not; run the command that made the run again, which writes it anew",
                folder.join("sat.csv").display()
            )
            .into()),
        }
    }

    /// What was named: a run folder or a file; none for the published matrix.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The folder of a run; none where there is no more than a matrix.
    pub fn folder(&self) -> Option<&Path> {
        self.path.as_deref().filter(|path| path.join("run.json").is_file())
    }

    /// What the matrix is called in titles.
    pub fn name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => format!("published by {}", published::CITATION),
        }
    }
}

/// The finished run behind a matrix.
pub struct RunBehind {
    /// Its folder.
    pub outcomes: Outcomes,
    /// All of it.
    pub run: SatRun,
    /// Where the networks of the matrix are in it.
    pub places: Vec<usize>,
}

impl RunBehind {
    /// The run of the matrix's networks, in its order.
    pub fn selected(&self) -> SatRun {
        self.run.select(&self.places)
    }
}

/// The position of a network among those of a run or matrix, which is called `of`.
pub fn position(names: &[String], name: &str, of: &str) -> Result<usize, Failure> {
    let found = names.iter().position(|other| other == name);
    found.ok_or_else(|| format!("{name} is no network of {of}; {}", hint(names, name)).into())
}

/// The networks whose names are most like one that is not there, or else all of them.
fn hint(names: &[String], name: &str) -> String {
    let mut scored: Vec<(f64, &String)> = names
        .iter()
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let similar: Vec<&str> = scored.iter().take(3).map(|(_, name)| name.as_str()).collect();
    match similar.as_slice() {
        [] => format!("it has {}", names.join(", ")),
        similar => format!("did you mean {}?", similar.join(", ")),
    }
}

impl ComponentOptions {
    /// The columns, and a value of each for every network.
    pub fn of(&self, names: &[String]) -> Result<NetworkComponents, ComponentError> {
        let table = match &self.components {
            Some(path) => ComponentTable::open(path)?,
            None => ComponentTable::known(),
        };
        table.select(names)
    }

    /// The same, or nothing where netkin does not know all networks and no table was given.
    pub fn if_known(&self, names: &[String]) -> Result<Option<NetworkComponents>, ComponentError> {
        match self.of(names) {
            Ok(components) => Ok(Some(components)),
            Err(ComponentError::Missing { .. }) if self.components.is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
