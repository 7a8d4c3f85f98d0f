//! Several models by one word.

use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use crate::{Error, ModelSpec, embedded};

/// What a person writes where models are expected: a model, or a set of them.
///
/// * `@paper69`: the 69 networks of the paper on SAT (Hwang et al., arXiv 2210.11407) with its weights;
/// * `@demo`: the small networks whose weights are in the program;
/// * `@FILE`: the models that a text file names, one a line; what follows a `#` is a remark.
#[derive(Debug, Clone)]
pub struct ModelSet(Vec<ModelSpec>);

/// The paper's names of 2022 and today's models.
const PAPER69: &str = include_str!("paper69.csv");

/// Today's models of the paper's 69 names, in the order of its table: `(jx_nest_tiny, nest_tiny_jx.goog_in1k)`.
pub fn paper69() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAPER69.lines().skip(1).map(|line| line.split_once(',').expect("paper69.csv has two columns"))
}

impl ModelSet {
    /// The models, in the order of their set.
    pub fn specs(&self) -> &[ModelSpec] {
        &self.0
    }

    fn from_file(path: &Path) -> Result<Self, Error> {
        let text = read(path).map_err(|error| Error::ModelSet { path: path.into(), error })?;
        let lines =
            text.lines().enumerate().map(|(index, line)| (index + 1, line.split('#').next().unwrap_or("").trim()));
        let specs = lines.filter(|(_, line)| !line.is_empty()).map(|(number, line)| {
            line.parse().map_err(|error| Error::ModelSetLine { path: path.into(), number, error: Box::new(error) })
        });
        let specs = specs.collect::<Result<Vec<_>, _>>()?;
        if specs.is_empty() {
            return Err(Error::EmptyModelSet { path: path.into() });
        }
        Ok(Self(specs))
    }
}

/// A pipe would never end, and neither would /dev/zero.
fn read(path: &Path) -> io::Result<String> {
    const MOST: u64 = 1 << 20;
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > MOST {
        return Err(io::Error::other("it is no regular file of at most 1 MiB"));
    }
    // Editors on Windows begin files with a mark of their encoding.
    Ok(fs::read_to_string(path)?.trim_start_matches('\u{feff}').to_owned())
}

impl FromStr for ModelSet {
    type Err = Error;

    /// # Errors
    /// Those of [`ModelSpec::from_str`], [`Error::ModelSet`], [`Error::ModelSetLine`] or [`Error::EmptyModelSet`].
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.strip_prefix('@') {
            None => Ok(Self(vec![text.parse()?])),
            Some("paper69") => paper69().map(|(_, model)| model.parse()).collect::<Result<_, _>>().map(Self),
            Some("demo") => embedded::names().map(str::parse).collect::<Result<_, _>>().map(Self),
            Some(path) => Self::from_file(Path::new(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let set: ModelSet = text.parse().unwrap();
        set.specs().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_word_or_a_file_names_many() {
        assert_eq!(names("resnet18.a1_in1k"), ["resnet18.a1_in1k"]);
        assert_eq!(names("@demo").len(), 10);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("models.txt");
        fs::write(&path, "# two of them\nresnet18\n\nresnet50=a b.pth # mine\n").unwrap();
        assert_eq!(names(&format!("@{}", path.display())), ["resnet18", "resnet50=a b.pth"]);
        fs::write(&path, "\u{feff}resnet18\n").unwrap();
        assert_eq!(names(&format!("@{}", path.display())), ["resnet18"]);
    }

    #[test]
    fn a_file_that_names_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("models.txt");
        let error = |text: &str| {
            fs::write(&path, text).unwrap();
            format!("@{}", path.display()).parse::<ModelSet>().unwrap_err().to_string()
        };
        assert!(error("\n").contains("names no model"));
        assert!(error("resnet18\nresnet5O\n").contains("models.txt, line 2: there is no network named"));
        assert!(
            format!("@{}", folder.path().display()).parse::<ModelSet>().unwrap_err().to_string().contains("regular")
        );
        assert!("@/nowhere/models.txt".parse::<ModelSet>().unwrap_err().to_string().contains("@paper69"));
    }
}
