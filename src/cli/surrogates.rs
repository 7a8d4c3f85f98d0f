//! Which networks are attacked together with the first one: those that are named, or the least alike of a matrix.

use std::path::{Path, PathBuf};

use netkin_weights::{ModelSet, ModelSpec, catalogue, paper69};

use super::common::{Common, ModelOptions, say};
use super::{Failure, values};
use crate::analysis::diverse::{least_alike, likeness};
use crate::analysis::published;
use crate::analysis::read::{self, Asymmetry, MatrixError};
use crate::attacks::Average;
use crate::model::Model;
use crate::similarity::Matrix;
use crate::similarity::sat::Outcomes;

/// Options of commands that attack several networks as one.
#[derive(Debug, Clone, clap::Args)]
pub struct SurrogateOptions {
    /// Attack these networks together with the first one, which gives the images' size
    #[arg(long, value_name = "MODEL", num_args = 1..)]
    surrogates: Vec<ModelSet>,
    /// Choose the surrogates from a run, a matrix of similarities (CSV, a higher score means more alike), or the published one
    /// (`published`): the least alike, also to the first network; those of --evaluate are left out
    #[arg(long, value_name = "RUN|FILE", requires = "surrogates_count", conflicts_with = "surrogates")]
    surrogates_from: Option<PathBuf>,
    /// How many surrogates are chosen, the first network not counted
    #[arg(long, value_name = "COUNT", requires = "surrogates_from", value_parser = values::positive)]
    surrogates_count: Option<usize>,
    /// What of several networks is averaged: logits, losses or probabilities [default: logits]
    #[arg(long, value_name = "WHAT", value_parser = average)]
    average: Option<Average>,
}

impl SurrogateOptions {
    /// What of several networks is averaged.
    pub fn average(&self) -> Average {
        self.average.unwrap_or(Average::Logits)
    }

    /// The first option that was given, as the command line calls it.
    pub fn given(&self) -> Option<&'static str> {
        let all = [
            ("surrogates", !self.surrogates.is_empty()),
            ("surrogates-from", self.surrogates_from.is_some()),
            ("average", self.average.is_some()),
        ];
        all.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option)
    }

    /// The networks that are attacked together with `first`, which `model` names; none twice, and not the first once more.
    ///
    /// # Errors
    /// If a matrix cannot be read or has too few networks, or weights cannot be loaded or are not those of the run; if there is
    /// nothing to average.
    pub fn load(
        &self,
        model: &ModelSpec,
        first: &Model,
        judges: &[ModelSpec],
        common: &Common,
        options: &ModelOptions,
    ) -> Result<Vec<Model>, Failure> {
        if self.average.is_some() && self.surrogates.is_empty() && self.surrogates_from.is_none() {
            return Err("--average is for several networks attacked as one, and here one is attacked alone; give --surrogates, or leave out --average".into());
        }
        let mut models: Vec<Model> = Vec::new();
        for surrogate in self.load_all(model, judges, common, options)? {
            let mut others = std::iter::once(first).chain(&models);
            let same = others.find(|other| other.sha256() == surrogate.sha256()).map(|other| other.name().to_owned());
            match same {
                None => models.push(surrogate),
                Some(other) => say(&format!(
                    "warning: the surrogate {} has the weights of {other}, which is attacked anyhow; it counts once",
                    surrogate.name()
                )),
            }
        }
        Ok(models)
    }

    /// Those that are named or chosen, as they are.
    fn load_all(
        &self,
        model: &ModelSpec,
        judges: &[ModelSpec],
        common: &Common,
        options: &ModelOptions,
    ) -> Result<Vec<Model>, Failure> {
        let (Some(path), Some(count)) = (&self.surrogates_from, self.surrogates_count) else {
            return common.load(&options.specs(&self.surrogates), options.precision);
        };
        let chosen = chosen(path, count, model, judges)?;
        common.note(&chosen.in_words(model));
        let specs: Vec<ModelSpec> = chosen.specs.into_iter().map(|spec| options.sized(spec)).collect();
        let models = common.load(&specs, options.precision)?;
        if path.join("run.json").is_file() {
            let outcomes = Outcomes::open(path)?;
            for model in &models {
                let name = model.name();
                let there = outcomes.networks().iter().find(|network| network.name == name);
                if let Some(there) = there.filter(|there| there.sha256 != model.sha256()) {
                    return Err(format!(
                        "{} has {name} with weights of SHA-256 {}, and those that are loaded by that name are of {}; name the surrogates with their weights: --surrogates {name}=WEIGHTS",
                        path.display(),
                        there.sha256,
                        model.sha256()
                    )
                    .into());
                }
            }
        }
        Ok(models)
    }
}

/// Networks of a matrix.
struct Chosen {
    /// What the matrix is called.
    matrix: String,
    specs: Vec<ModelSpec>,
    /// The largest score of two of them and the first network.
    largest: f64,
    /// Whether the first network is in the matrix.
    knows_first: bool,
}

impl Chosen {
    fn in_words(&self, model: &ModelSpec) -> String {
        let names: Vec<&str> = self.specs.iter().map(ModelSpec::name).collect();
        let others = if self.knows_first {
            String::new()
        } else {
            format!(" ({} is not in {}, so that they are little alike to each other only)", model.name(), self.matrix)
        };
        let largest = match self.largest.is_finite() {
            true => format!("; the two most alike of all score {:.3}", self.largest),
            false => String::new(),
        };
        format!("surrogates besides {}: {}{largest}{others}", model.name(), names.join(", "))
    }
}

fn chosen(path: &Path, count: usize, model: &ModelSpec, judges: &[ModelSpec]) -> Result<Chosen, Failure> {
    let (matrix, name) = matrix(path)?;
    let specs = matrix.names.iter().map(|network| spec(network, path, &name)).collect::<Result<Vec<_>, _>>()?;
    let first: Vec<usize> = (0..specs.len()).filter(|&place| is_same(&specs[place], model)).collect();
    let is_judge = |place: &usize| judges.iter().any(|judge| is_same(&specs[*place], judge));
    let candidates: Vec<usize> = (0..specs.len()).filter(|place| !first.contains(place) && !is_judge(place)).collect();
    if candidates.len() < count {
        return Err(format!(
            "{name} has {} network(s) besides {} and those of --evaluate, and --surrogates-count asks for {count}; ask for fewer",
            candidates.len(),
            model.name()
        )
        .into());
    }
    let places = least_alike(&matrix, &first, &candidates, count);
    let (largest, _) = likeness(&matrix, &[&first[..], &places[..]].concat());
    Ok(Chosen {
        matrix: name,
        specs: places.into_iter().map(|place| specs[place].clone()).collect(),
        largest,
        knows_first: !first.is_empty(),
    })
}

fn is_published(path: &Path) -> bool {
    path == Path::new("published") && !path.exists()
}

/// A matrix and what it is called. Of two scores of a pair it has the mean.
fn matrix(path: &Path) -> Result<(Matrix, String), Failure> {
    if is_published(path) {
        return Ok((published::matrix(), "the published matrix".to_owned()));
    }
    let name = path.display().to_string();
    match read::open(path, Asymmetry::Mean, &[]) {
        Ok(matrix) => Ok((matrix, name)),
        Err(MatrixError::NoScore { row, column, count, .. }) => Err(format!(
            "{name} has no score where {row} meets {column} ({count} in all), so that nobody knows how alike they are; finish the run, or leave one of the two out of the file"
        )
        .into()),
        Err(error) => Err(error.into()),
    }
}

/// The network and weights that a matrix names; the published one has names of 2022.
fn spec(network: &str, path: &Path, matrix: &str) -> Result<ModelSpec, Failure> {
    let name = match is_published(path) {
        true => paper69().find(|(old, _)| *old == network).map_or(network, |(_, today)| today),
        false => network,
    };
    name.parse::<ModelSpec>().map_err(|error| {
        Failure::from(format!(
            "{matrix} names {network}, which cannot be attacked ({error}); name the surrogates by --surrogates"
        ))
    })
}

/// Whether two names mean the same weights, as far as names tell.
fn is_same(one: &ModelSpec, other: &ModelSpec) -> bool {
    let weights = |spec: &ModelSpec| -> Option<String> {
        let tag = spec.tag().or_else(|| catalogue::default_tag(spec.entry().name));
        tag.map(str::to_owned)
    };
    one.name() == other.name()
        || (one.entry().name == other.entry().name && one.path() == other.path() && weights(one) == weights(other))
}

fn average(text: &str) -> Result<Average, String> {
    match text {
        "logits" => Ok(Average::Logits),
        "losses" => Ok(Average::Losses),
        "probabilities" => Ok(Average::Probabilities),
        _ => Err("give logits, losses or probabilities".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(names: &[&str]) -> Vec<ModelSpec> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn names(chosen: &Chosen) -> Vec<&str> {
        chosen.specs.iter().map(ModelSpec::name).collect()
    }

    /// Four networks on a line: resnet18, resnet34, vit_small_patch16_224, convnext_tiny.
    fn file(folder: &Path) -> PathBuf {
        let networks = ["resnet18", "resnet34", "vit_small_patch16_224", "convnext_tiny"];
        let places = [0.0f64, 1.0, 4.0, 9.0];
        let mut text = format!(",{}\n", networks.join(","));
        for (network, one) in networks.iter().zip(places) {
            let scores: Vec<String> = places.iter().map(|other| format!("{}", 9.0 - (one - other).abs())).collect();
            text += &format!("{network},{}\n", scores.join(","));
        }
        let path = folder.join("matrix.csv");
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn surrogates_are_little_alike_and_no_judges() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path());
        let choose = |count: usize, model: &str, judges: &[&str]| {
            chosen(&path, count, &specs(&[model])[0], &specs(judges)).map_err(|error| error.to_string())
        };
        let one = choose(1, "resnet18", &[]).unwrap();
        assert_eq!((names(&one), one.largest), (vec!["convnext_tiny"], 0.0));
        assert_eq!(names(&choose(2, "resnet18", &[]).unwrap()), ["vit_small_patch16_224", "convnext_tiny"]);
        assert_eq!(names(&choose(1, "resnet18", &["convnext_tiny"]).unwrap()), ["vit_small_patch16_224"]);
        // The same weights by another name.
        let default = catalogue::default_tag("resnet18").unwrap();
        assert_eq!(names(&choose(1, &format!("resnet18.{default}"), &[]).unwrap()), ["convnext_tiny"]);
        let other = choose(2, "demo_resnet", &[]).unwrap();
        assert_eq!(names(&other), ["resnet18", "convnext_tiny"]);
        let model = &specs(&["demo_resnet"])[0];
        assert!(other.in_words(model).contains("demo_resnet is not in"), "{}", other.in_words(model));
        let error = choose(4, "resnet18", &["resnet34"]).err().unwrap();
        assert!(error.contains("2 network(s) besides resnet18") && error.contains("asks for 4"), "{error}");
    }

    #[test]
    fn matrices_that_cannot_be_used_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("matrix.csv");
        let model = &specs(&["resnet18"])[0];
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            chosen(&path, 1, model, &[]).err().unwrap().to_string()
        };
        let error = refused(",resnet18,other\nresnet18,1,2\nother,2,1\n");
        assert!(error.contains("names other") && error.contains("--surrogates"), "{error}");
        let error = refused(",resnet18,resnet34\nresnet18,1,\nresnet34,,1\n");
        assert!(error.contains("resnet18 meets resnet34 (2 in all)"), "{error}");
    }

    #[test]
    fn the_published_matrix_has_todays_networks() {
        let chosen = chosen(Path::new("published"), 3, &specs(&["resnet50"])[0], &[]).unwrap();
        assert_eq!(chosen.specs.len(), 3);
        assert!(chosen.largest.is_finite());
        for (old, today) in paper69() {
            assert!(today.parse::<ModelSpec>().is_ok(), "{old}");
        }
    }
}
