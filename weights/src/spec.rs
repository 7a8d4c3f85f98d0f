//! What a person writes where a model is expected.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use netkin_architectures::Entry;

use crate::{Error, catalogue};

/// A network and its weights: `NAME`, `NAME.TAG`, `NAME=PATH` or `NAME.TAG=PATH`.
///
/// With a path the weights come from that file, whose tag may be any: it names the model in results, and a published
/// one says how images are prepared. Without a path a tag names published weights, and where there is none
/// [`Self::usual_tag`] does.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    asked: String,
    entry: &'static Entry,
    tag: Option<String>,
    path: Option<PathBuf>,
    input_size: Option<[usize; 2]>,
}

impl ModelSpec {
    /// The same for images of this height and width in pixels, in place of what the weights are published for.
    pub fn at_size(self, input_size: [usize; 2]) -> Self {
        Self { input_size: Some(input_size), ..self }
    }

    /// The same with the weights of a file, as in `NAME=PATH`.
    pub fn with_path(self, path: PathBuf) -> Self {
        Self { path: Some(path), ..self }
    }

    /// Height and width in pixels, if asked for.
    pub fn input_size(&self) -> Option<[usize; 2]> {
        self.input_size
    }

    /// `NAME` or `NAME.TAG`, as asked for.
    pub fn name(&self) -> &str {
        &self.asked
    }

    /// The architecture.
    pub fn entry(&self) -> &'static Entry {
        self.entry
    }

    /// Which weights, if asked for.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The weights that are meant where no tag is: those that a name of 2022 stood for, else timm's default.
    pub fn usual_tag(&self) -> Option<&'static str> {
        let name = self.asked.split('.').next().unwrap_or_default();
        catalogue::tag_of_2022(name).or_else(|| catalogue::default_tag(self.entry.name))
    }

    /// The file, if given.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl FromStr for ModelSpec {
    type Err = Error;

    /// # Errors
    /// [`Error::UnknownNetwork`], [`Error::PathWithoutName`] or [`Error::Spec`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || Error::Spec { spec: text.into() };
        let (asked, path) = match text.split_once('=') {
            Some((_, "")) => return Err(malformed()),
            Some((asked, path)) => (asked, Some(PathBuf::from(path))),
            None => (text, None),
        };
        let (name, tag) = match asked.split_once('.') {
            Some((name, tag)) => (name, Some(tag)),
            None => (asked, None),
        };
        if asked.contains(['/', '\\']) || (path.is_none() && tag.is_some_and(is_file_extension)) {
            return Err(Error::PathWithoutName { spec: asked.into() });
        }
        if name.is_empty() || !tag.is_none_or(is_tag) {
            return Err(malformed());
        }
        let entry =
            netkin_architectures::find(name).map_err(|similar| Error::UnknownNetwork { name: name.into(), similar })?;
        Ok(Self { asked: asked.into(), entry, tag: tag.map(String::from), path, input_size: None })
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.asked)?;
        match &self.path {
            Some(path) => write!(f, "={}", path.display()),
            None => Ok(()),
        }
    }
}

/// Tags become parts of addresses and of file names.
fn is_tag(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !text.is_empty() && text.bytes().all(allowed) && !text.contains("..")
}

fn is_file_extension(text: &str) -> bool {
    matches!(text, "safetensors" | "pth" | "pt" | "bin" | "tar" | "ckpt")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ModelSpec {
        let spec: ModelSpec = text.parse().unwrap();
        assert_eq!(spec.to_string(), text);
        spec
    }

    #[test]
    fn all_four_forms() {
        let spec = parse("resnet18");
        assert_eq!((spec.name(), spec.tag(), spec.path()), ("resnet18", None, None));
        let spec = parse("resnet18.a1_in1k");
        assert_eq!((spec.name(), spec.tag()), ("resnet18.a1_in1k", Some("a1_in1k")));
        assert_eq!(spec.entry().name, "resnet18");
        let spec = parse("resnet18=../a.b/c=d.safetensors");
        assert_eq!(spec.path(), Some(Path::new("../a.b/c=d.safetensors")));
        assert_eq!((spec.name(), spec.tag()), ("resnet18", None));
        let spec = parse("resnet18.mine=x.pth");
        assert_eq!((spec.name(), spec.tag()), ("resnet18.mine", Some("mine")));
    }

    #[test]
    fn an_alias_keeps_its_name() {
        let spec = parse("gluon_resnet101_v1c=x.pth");
        assert_eq!(spec.name(), "gluon_resnet101_v1c");
        assert_eq!(spec.entry().name, "resnet101c");
    }

    #[test]
    fn a_name_of_2022_means_its_weights() {
        assert_eq!(parse("resnetv2_50x1_bitm").usual_tag(), Some("goog_in21k_ft_in1k"));
        assert_eq!(parse("resnetv2_50x1_bit").usual_tag(), Some("goog_distilled_in1k"));
        assert_eq!(parse("demo_resnet").usual_tag(), None);
    }

    #[test]
    fn what_is_no_model() {
        let error = |text: &str| text.parse::<ModelSpec>().unwrap_err().to_string();
        let misspelt = error("resnet5O=x");
        let begin = "there is no network named \"resnet5O\": did you mean resnet50 or ";
        assert!(misspelt.starts_with(begin), "{misspelt}");
        assert_eq!(error("qqq"), "there is no network named \"qqq\": `netkin models` lists them");
        for path in ["weights/resnet18", "resnet18.safetensors", "./x.pth"] {
            assert!(error(path).contains("looks like a file"), "{path}");
        }
        for text in ["", "=x", "resnet18=", "resnet18.", "resnet18.a b", "resnet18...x"] {
            assert!(error(text).contains("NAME.TAG=PATH"), "{text}");
        }
    }
}
