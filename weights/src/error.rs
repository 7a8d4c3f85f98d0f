//! What can go wrong between a name and a network: each error is one sentence that says what, where, and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use netkin_architectures::InputRule;

use crate::Precision;
use crate::preprocessing::LARGEST_SIDE;

/// Why there is no network, or no file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// No network of that name.
    #[error("there is no network named {name:?}{}", did_you_mean(similar))]
    UnknownNetwork { name: String, similar: Vec<&'static str> },
    /// Not of the form that a model is written in.
    #[error("{spec:?} names no model: write NAME, NAME.TAG, NAME=PATH or NAME.TAG=PATH")]
    Spec { spec: String },
    /// A path where a name should be.
    #[error(
        "{spec:?} looks like a file: say whose weights it holds by writing NAME={spec} (`netkin models` lists the names)"
    )]
    PathWithoutName { spec: String },
    /// A file of models that cannot be read.
    #[error("@{} is no set of models ({error}): @paper69 and @demo are, and @FILE with a model or a set a line", path.display())]
    ModelSet { path: PathBuf, error: io::Error },
    /// A line of such a file that names no model.
    #[error("{}, line {number}: {error}", path.display())]
    ModelSetLine { path: PathBuf, number: usize, error: Box<Error> },
    /// A file that names itself, or another that names it.
    #[error("@{} names itself, directly or by way of other sets: leave that line out", path.display())]
    ModelSetLoop { path: PathBuf },
    /// More models than anyone means.
    #[error("@{} names more than {most} models, with the sets in it: give fewer at once", path.display())]
    ModelSetLarge { path: PathBuf, most: usize },
    /// A file without models.
    #[error("{} names no model: write one a line", path.display())]
    EmptyModelSet { path: PathBuf },
    /// Weights that are in nobody's repository.
    #[error("{name} is on no hub: if you have its file, give it as {name}=PATH")]
    FileOnly { name: String },
    /// No published weights of that tag, and no file given.
    #[error(
        "there are no weights {name}.{tag}{}: the tags of {name} are {}; weights of your own are given as {name}.{tag}=PATH",
        did_you_mean_tag(similar), tags.join(", ")
    )]
    UnknownTag { name: &'static str, tag: String, similar: Vec<&'static str>, tags: Vec<&'static str> },
    /// A name without published weights, and no file given.
    #[error("timm publishes no weights of {name} that netkin knows of: give a file as {name}=PATH")]
    NotPublished { name: String },
    /// One of netkin's own networks without embedded weights.
    #[error("netkin carries no weights of {name}: give a file as {name}=PATH")]
    NotEmbedded { name: String },

    /// There is nothing at the path.
    #[error("there is no file {}: check the path", path.display())]
    NoFile { path: PathBuf },
    /// The path is a folder.
    #[error("{} is a folder, not a file of weights: name the file inside it", path.display())]
    Folder { path: PathBuf },
    /// The operating system refused.
    #[error("cannot {action} {}: {error}", path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    /// Nothing in the file.
    #[error("{file} is empty: copy or download it again")]
    Empty { file: String },
    /// Some other kind of file.
    #[error("{file} is {what}, neither safetensors nor a PyTorch checkpoint: {advice}")]
    NotWeights { file: String, what: &'static str, advice: &'static str },
    /// The right kind of file, but without weights.
    #[error(
        "{file} holds no tensors: give the file of the weights themselves, as torch.save writes a network's state_dict, or as \
         safetensors"
    )]
    NoTensors { file: String },
    /// The right kind of file, with something in it that is no plain tensor.
    #[error("{file} cannot be read ({reason}): save the network's state_dict with plain tensors, or as safetensors")]
    Unreadable { file: String, reason: String },
    /// The right kind of file, but broken.
    #[error("{file} is damaged or cut short ({reason}): copy or download it again")]
    Damaged { file: String, reason: String },
    /// Tensors are missing, left over or of another shape.
    #[error(transparent)]
    Misfit(Box<Misfit>),
    /// NaN or infinity among the weights.
    #[error("{tensor} of {file} holds NaN or infinity: use other weights, these cannot be computed with")]
    NotFinite { file: String, tensor: String },
    /// A weight beyond the precision's range.
    #[error("{tensor} of {file} holds values beyond the range of {precision}: choose f32 or bf16")]
    Overflow { file: String, tensor: String, precision: Precision },
    /// No unit of the processor does it.
    #[error(
        "this processor cannot multiply bf16 numbers (it has neither AVX512-BF16 nor AMX-BF16): choose f32, or compute on a \
         device that can, such as cuda:0"
    )]
    NoBf16,
    /// A configuration beside the weights that cannot be used.
    #[error(
        "{file} does not say how images are prepared ({reason}): mend it, or move it away to use timm's usual values"
    )]
    Config { file: String, reason: String },
    /// The network does not run on images of that size.
    #[error("{network} does not take images of {height} × {width} pixels: {}", takes(*rule, *own))]
    InputSize { network: &'static str, height: usize, width: usize, rule: InputRule, own: [usize; 2] },
    /// The device did not give a parameter back.
    #[error("cannot read {tensor} back from the device: {reason}")]
    Device { tensor: String, reason: String },

    /// Not in the cache, and the hub may not be asked.
    #[error(
        "{repository}/{file} is not in the cache folder {} and HF_HUB_OFFLINE forbids asking the hub: unset it, or give a file as NAME=PATH",
        cache.display()
    )]
    Offline { repository: String, file: String, cache: PathBuf },
    /// The hub does not know the model, or hides it.
    #[error("{endpoint} has no model {repository}{}", published(tags))]
    NotOnHub { endpoint: String, repository: String, tags: Vec<&'static str> },
    /// The model is there, the file is not.
    #[error("{repository} on the hub holds no {file}: choose other weights, or give a file as NAME=PATH")]
    NoSuchHubFile { repository: String, file: String },
    /// The hub wants to know who asks.
    #[error("the hub refuses {repository} (HTTP {status}): {}", token_hint(*with_token))]
    Refused { repository: String, status: u16, with_token: bool },
    /// The hub is in trouble.
    #[error("{url} answers HTTP {status}: try again later")]
    Status { url: String, status: u16 },
    /// No connection.
    #[error("cannot reach {url} ({reason}): check the network and HF_ENDPOINT, or give a file as NAME=PATH")]
    Unreachable { url: String, reason: String },
    /// The connection broke in mid-file; what has come is kept.
    #[error(
        "the download of {url} broke off after {done} of {} bytes ({reason}): the same command again goes on from there",
        total.map_or("unknown".into(), |total| total.to_string())
    )]
    Cut { url: String, done: u64, total: Option<u64>, reason: String },
    /// The download is not what was announced; it is deleted.
    #[error("the download of {url} has sha256 {found}, not {announced} as announced, and was deleted: try again")]
    Corrupt { url: String, announced: String, found: String },
    /// Something that does not behave as the hub does.
    #[error("{url} does not answer as the Hugging Face hub does ({reason}): check HF_ENDPOINT and any proxy")]
    NotAHub { url: String, reason: String },
}

/// Which images a network takes.
fn takes(rule: InputRule, [height, width]: [usize; 2]) -> String {
    match rule {
        InputRule::Any => format!("give 1 to {LARGEST_SIDE} for each side; its usual size is {height} × {width}"),
        InputRule::Multiple(step) => {
            format!("give a height and a width that are multiples of {step}, and at most {LARGEST_SIDE}")
        }
        InputRule::Retrained(step) => format!(
            "give a square whose side is a multiple of {step}, and at most {LARGEST_SIDE}, and weights that were trained at it"
        ),
        InputRule::Fixed => format!("it is made for {height} × {width} and cannot be built for another size"),
    }
}

/// How a file differs from the network that it was to fill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The file, as named in messages.
    pub file: String,
    /// The network's name.
    pub network: &'static str,
    /// Keys of the network that the file lacks.
    pub missing: Vec<String>,
    /// Keys of the file that the network lacks.
    pub unused: Vec<String>,
    /// Tensors in both, with another shape, each as a phrase.
    pub different: Vec<String>,
    /// Tensors in both, of numbers that are no f32, f64, f16 or bf16, each as a phrase with their type.
    pub unreadable: Vec<String>,
    /// Networks that the file fits exactly.
    pub fits: Vec<&'static str>,
    /// Whether only the classifier is missing.
    pub headless: bool,
}

impl Misfit {
    /// Of a file that fits.
    pub(crate) fn none(file: &str, network: &'static str) -> Self {
        Self {
            file: file.to_owned(),
            network,
            missing: Vec::new(),
            unused: Vec::new(),
            different: Vec::new(),
            unreadable: Vec::new(),
            fits: Vec::new(),
            headless: false,
        }
    }
}

impl std::error::Error for Misfit {}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not fit {}: ", self.file, self.network)?;
        let parts = [
            ("missing", &self.missing),
            ("left over", &self.unused),
            ("different", &self.different),
            ("of a number type that netkin does not read", &self.unreadable),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(_, keys)| !keys.is_empty())
            .map(|(what, keys)| {
                let noun = if keys.len() == 1 { "tensor is" } else { "tensors are" };
                format!("{} {noun} {what} ({})", keys.len(), listed(keys, 10))
            })
            .collect();
        write!(f, "{}; ", parts.join(", "))?;
        if self.missing.is_empty() && self.unused.is_empty() && self.different.is_empty() {
            return write!(f, "save the weights as f32, f64, f16 or bf16, quantised ones after dequantising them");
        }
        match (&self.fits[..], self.headless) {
            ([], true) => write!(f, "these weights have no classifier, take some that have"),
            ([], false) => write!(f, "take a file that was saved for {}", self.network),
            (fits, _) if fits.contains(&self.network) => {
                write!(f, "the file fits {} at the size that it is made for: ask for no other", self.network)
            }
            (fits, _) => write!(f, "the file fits {}", listed(fits, 5)),
        }
    }
}

fn did_you_mean(similar: &[&str]) -> String {
    match similar {
        [] => ": `netkin models` lists them".into(),
        similar => format!(": did you mean {}?", similar.join(" or ")),
    }
}

fn did_you_mean_tag(similar: &[&str]) -> String {
    match similar {
        [] => String::new(),
        similar => format!(" (did you mean {}?)", similar.join(" or ")),
    }
}

fn published(tags: &[&str]) -> String {
    match tags {
        [] => ": check the name, and set HF_TOKEN if the model is private".into(),
        tags => format!(": its published tags are {}", tags.join(", ")),
    }
}

fn token_hint(with_token: bool) -> &'static str {
    if with_token {
        "check that the token may read it (HF_TOKEN, or the token file that `hf auth login` writes)"
    } else {
        "set HF_TOKEN to a token that may read it, and check the name"
    }
}

/// The first `most` of `words`, and how many more there are.
pub(crate) fn listed<W: AsRef<str>>(words: &[W], most: usize) -> String {
    let shown: Vec<&str> = words.iter().take(most).map(AsRef::as_ref).collect();
    match words.len().saturating_sub(most) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(listed(&["a", "b"], 2), "a, b");
        assert_eq!(listed(&["a", "b", "c", "d"], 2), "a, b and 2 more");
    }

    #[test]
    fn a_misfit_is_one_sentence() {
        let misfit = Misfit {
            file: "x.safetensors".into(),
            network: "resnet18",
            missing: vec!["fc.bias".into()],
            unused: vec!["head.bias".into(), "head.weight".into()],
            different: vec!["fc.weight is [10, 2], not [10, 512]".into()],
            unreadable: Vec::new(),
            fits: vec!["resnet34"],
            headless: false,
        };
        assert_eq!(
            misfit.to_string(),
            "x.safetensors does not fit resnet18: 1 tensor is missing (fc.bias), 2 tensors are left over (head.bias, \
             head.weight), 1 tensor is different (fc.weight is [10, 2], not [10, 512]); the file fits resnet34"
        );
        let unreadable = vec!["fc.weight: I8".into()];
        let quantised = Misfit { unreadable, ..Misfit::none("x.safetensors", "resnet18") };
        assert_eq!(
            quantised.to_string(),
            "x.safetensors does not fit resnet18: 1 tensor is of a number type that netkin does not read (fc.weight: I8); \
             save the weights as f32, f64, f16 or bf16, quantised ones after dequantising them"
        );
    }
}
