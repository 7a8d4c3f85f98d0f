//! Several models by one word.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::{Error, ModelSpec, embedded};

/// What a person writes where models are expected: a model, or a set of them.
///
/// * `@paper69`: the 69 networks of the paper on SAT (Hwang et al., arXiv 2210.11407) with its weights;
/// * `@demo`: the small networks whose weights are in the program;
/// * `@FILE`: the models and sets that a text file names, one a line; what follows a `#` is a remark. Paths in it are
///   relative to the folder that the program runs in.
#[derive(Debug, Clone)]
pub struct ModelSet(Vec<ModelSpec>);

/// More models than that are a mistake, and sets that name sets could go on for ever.
const MOST_MODELS: usize = 10_000;

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

    /// A model or a set, on a line of the innermost of the files `within`.
    fn parse(text: &str, within: &mut Vec<PathBuf>) -> Result<Self, Error> {
        match text.strip_prefix('@') {
            None => Ok(Self(vec![text.parse()?])),
            Some("paper69") => paper69().map(|(_, model)| model.parse()).collect::<Result<_, _>>().map(Self),
            Some("demo") => embedded::names().map(str::parse).collect::<Result<_, _>>().map(Self),
            Some(path) => Self::from_file(Path::new(path), within),
        }
    }

    fn from_file(path: &Path, within: &mut Vec<PathBuf>) -> Result<Self, Error> {
        let unreadable = |error| Error::ModelSet { path: path.into(), error };
        let text = read(path).map_err(unreadable)?;
        let file = fs::canonicalize(path).map_err(unreadable)?;
        if within.contains(&file) {
            return Err(Error::ModelSetLoop { path: path.into() });
        }
        within.push(file);
        let mut specs = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let wrong = |error| Error::ModelSetLine { path: path.into(), number: index + 1, error: Box::new(error) };
            specs.extend(Self::parse(line, within).map_err(wrong)?.0);
            if specs.len() > MOST_MODELS {
                return Err(Error::ModelSetLarge { path: path.into(), most: MOST_MODELS });
            }
        }
        within.pop();
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
    /// Those of [`ModelSpec::from_str`], [`Error::ModelSet`], [`Error::ModelSetLine`], [`Error::ModelSetLoop`],
    /// [`Error::ModelSetLarge`] or [`Error::EmptyModelSet`].
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text, &mut Vec::new())
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
    fn a_file_may_name_sets() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("@{}", folder.path().join(name).display());
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("mine.txt", "resnet18\nresnet34");
        write("all.txt", &format!("@demo\n{}  # and these\nresnet50", path("mine.txt")));
        let all = names(&path("all.txt"));
        assert_eq!(all.len(), 13);
        assert_eq!(all[10..], ["resnet18", "resnet34", "resnet50"]);
        // The same set twice is no loop.
        write("twice.txt", &format!("{0}\n{0}\n", path("mine.txt")));
        assert_eq!(names(&path("twice.txt")).len(), 4);
    }

    #[test]
    fn sets_that_never_end_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("@{}", folder.path().join(name).display());
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let refused = |name: &str, end: &str| {
            let error = path(name).parse::<ModelSet>().unwrap_err().to_string();
            assert!(error.ends_with(end), "{error}");
            error
        };
        write("a.txt", &format!("resnet18\n{}\n", path("b.txt")));
        write("b.txt", &path("a.txt"));
        let loops = refused("a.txt", "a.txt names itself, directly or by way of other sets: leave that line out");
        assert!(loops.contains("a.txt, line 2: ") && loops.contains("b.txt, line 1: "), "{loops}");
        // 2 models, 4, 8, … 16384.
        write("0.txt", "resnet18\nresnet18");
        for number in 1..14 {
            let before = path(&format!("{}.txt", number - 1));
            write(&format!("{number}.txt"), &format!("{before}\n{before}"));
        }
        refused("13.txt", "13.txt names more than 10000 models, with the sets in it: give fewer at once");
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
