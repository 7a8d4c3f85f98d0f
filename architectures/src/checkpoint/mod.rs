//! The tensors of a weights file on their way into a network.

mod positions;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Names and shapes of a file's tensors, and what is to become of their values.
///
/// A family brings them to its network's layout ([`Configuration::convert`](crate::Configuration::convert)) without reading
/// a value: who knows the file reads what is needed in the end ([`Self::values`]).
#[derive(Debug, Default)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Tensor>,
    notes: Vec<String>,
}

/// A tensor as it will be.
#[derive(Debug, Clone)]
struct Tensor {
    shape: Vec<usize>,
    origin: Origin,
}

/// Where a tensor's values come from.
#[derive(Clone)]
enum Origin {
    /// The file's tensor of this name.
    File(String),
    /// Computed from others, in row-major order.
    Computed(Vec<Tensor>, Arc<Computation>),
}

type Computation = dyn Fn(Vec<Vec<f64>>) -> Vec<f64> + Send + Sync;

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::File(name) => write!(f, "File({name:?})"),
            Self::Computed(parts, _) => write!(f, "Computed({parts:?})"),
        }
    }
}

impl Origin {
    /// The file's tensors that it is made of.
    fn names<'a>(&'a self, into: &mut Vec<&'a str>) {
        match self {
            Self::File(name) => into.push(name),
            Self::Computed(parts, _) => parts.iter().for_each(|part| part.origin.names(into)),
        }
    }

    fn values<E>(&self, read: &mut impl FnMut(&str) -> Result<Vec<f64>, E>) -> Result<Vec<f64>, E> {
        match self {
            Self::File(name) => read(name),
            Self::Computed(parts, compute) => {
                let values = parts.iter().map(|part| part.origin.values(read)).collect::<Result<_, E>>()?;
                Ok(compute(values))
            }
        }
    }
}

impl Checkpoint {
    /// From names and shapes; what PyTorch keeps as a number without axes becomes a vector of one.
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let shape = if shape.is_empty() { vec![1] } else { shape };
            (name.clone(), Tensor { shape, origin: Origin::File(name) })
        };
        Self { tensors: tensors.into_iter().map(tensor).collect(), notes: Vec::new() }
    }

    /// What was changed that a person should know of, in sentences: that the file was made for something else.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The name in the file of a tensor that still has the file's values, under whichever name.
    pub fn unchanged(&self, name: &str) -> Option<&str> {
        match &self.tensors.get(name)?.origin {
            Origin::File(name) => Some(name),
            Origin::Computed(..) => None,
        }
    }

    /// The names in the file of all that a tensor is made of; none for zeros that stand where a file has nothing.
    pub fn origins(&self, name: &str) -> Vec<&str> {
        let mut names = Vec::new();
        if let Some(tensor) = self.tensors.get(name) {
            tensor.origin.names(&mut names);
        }
        names
    }

    /// The values of a tensor in row-major order; `read` reads one of the file's.
    ///
    /// # Errors
    /// Those of `read`.
    ///
    /// # Panics
    /// If there is no tensor of that name.
    pub fn values<E>(&self, name: &str, mut read: impl FnMut(&str) -> Result<Vec<f64>, E>) -> Result<Vec<f64>, E> {
        self.tensors[name].origin.values(&mut read)
    }

    /// Leaves out every tensor whose name fulfils `unneeded`.
    pub fn remove(&mut self, unneeded: impl Fn(&str) -> bool) {
        self.tensors.retain(|name, _| !unneeded(name));
    }

    /// Leaves out every tensor whose name does not begin with `prefix`, and takes it off the others.
    pub fn keep_under(&mut self, prefix: &str) {
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        self.tensors =
            tensors.filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor))).collect();
    }

    /// Takes the network out of a file of OpenCLIP: it lies under `visual.trunk.` there, and the linear map behind it, which has
    /// no bias, becomes its classifier (as in timm).
    pub fn take_from_open_clip(&mut self, classifier: &str) {
        const PROJECTION: &str = "visual.head.proj.weight";
        const TRUNK: &str = "visual.trunk.";
        let weight = format!("{classifier}.weight");
        self.rename(|name| if name == PROJECTION { format!("{TRUNK}{weight}") } else { name.to_owned() });
        self.keep_under(TRUNK);
        // A weight without numbers may claim any number of classes.
        if let Some(&[classes, inputs]) = self.shape(&weight)
            && inputs > 0
        {
            let zeros = Origin::Computed(Vec::new(), Arc::new(move |_: Vec<Vec<f64>>| vec![0.0; classes]));
            let bias = self.tensors.entry(format!("{classifier}.bias"));
            bias.or_insert(Tensor { shape: vec![classes], origin: zeros });
        }
    }

    /// Gives every tensor the name that `rename` makes of its own.
    pub fn rename(&mut self, rename: impl Fn(&str) -> String) {
        let tensors = std::mem::take(&mut self.tensors);
        self.tensors = tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
    }

    /// Gives a tensor another shape of as many values, and does nothing if it is not there or has another number of them.
    pub fn reshape(&mut self, name: &str, shape: &[usize]) {
        if let Some(tensor) = self.tensors.get_mut(name)
            && tensor.shape.iter().product::<usize>() == shape.iter().product::<usize>()
        {
            tensor.shape = shape.to_vec();
        }
    }

    /// Makes of a tensor another one of the given shape, by a map of the values in row-major order.
    pub fn compute(
        &mut self,
        name: &str,
        shape: &[usize],
        compute: impl Fn(Vec<f64>) -> Vec<f64> + Send + Sync + 'static,
    ) {
        if let Some(tensor) = self.tensors.remove(name) {
            let compute = move |mut values: Vec<Vec<f64>>| compute(values.swap_remove(0));
            let origin = Origin::Computed(vec![tensor], Arc::new(compute));
            self.tensors.insert(name.into(), Tensor { shape: shape.to_vec(), origin });
        }
    }

    /// Cuts a tensor along its first axis into equal parts, and does nothing if it is not there or cannot be cut so.
    pub fn split(&mut self, name: &str, into: &[String]) {
        let Some(tensor) = self.tensors.get(name).cloned() else {
            return;
        };
        if !tensor.shape[0].is_multiple_of(into.len()) {
            return;
        }
        self.tensors.remove(name);
        let mut shape = tensor.shape.clone();
        shape[0] /= into.len();
        let len: usize = shape.iter().product();
        for (number, part) in into.iter().enumerate() {
            let compute = move |values: Vec<Vec<f64>>| values[0][number * len..][..len].to_vec();
            let origin = Origin::Computed(vec![tensor.clone()], Arc::new(compute));
            self.tensors.insert(part.clone(), Tensor { shape: shape.clone(), origin });
        }
    }

    /// Puts tensors one behind the other along their first axis, and does nothing unless all are there and alike but for that.
    pub fn concatenate(&mut self, names: &[&str], into: &str) {
        let others = |name: &str| self.shape(name).map(|shape| &shape[1..]);
        let Some(first) = names.first().and_then(|name| others(name)) else {
            return;
        };
        if !names.iter().all(|name| others(name) == Some(first)) {
            return;
        }
        let parts: Vec<Tensor> = names.iter().filter_map(|name| self.tensors.remove(*name)).collect();
        let mut shape = parts[0].shape.clone();
        shape[0] = parts.iter().map(|part| part.shape[0]).sum();
        let origin = Origin::Computed(parts, Arc::new(|values: Vec<Vec<f64>>| values.concat()));
        self.tensors.insert(into.into(), Tensor { shape, origin });
    }
}

/// What becomes of a file's tensors by a family's configuration, a line for each in the order of their names:
/// `head.weight [1000, 384]`. For the tests of families.
#[cfg(test)]
pub(crate) fn converted(config: &dyn crate::family::Configuration, file: &[(&str, &[usize])]) -> Vec<String> {
    let mut checkpoint = Checkpoint::new(file.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())));
    config.convert(&mut checkpoint);
    checkpoint.tensors.iter().map(|(name, tensor)| format!("{name} {:?}", tensor.shape)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> Result<Vec<f64>, ()> {
        match name {
            "q" => Ok(vec![1.0, 2.0]),
            "k" => Ok(vec![3.0, 4.0]),
            _ => Err(()),
        }
    }

    #[test]
    fn tensors_change_their_names_shapes_and_values() {
        let mut checkpoint =
            Checkpoint::new([("q".into(), vec![1, 2]), ("k".into(), vec![1, 2]), ("x".into(), vec![])]);
        assert_eq!(checkpoint.shape("x"), Some([1].as_slice()));
        checkpoint.remove(|name| name == "x");
        checkpoint.concatenate(&["q", "k"], "qk");
        checkpoint.rename(|name| format!("attn.{name}"));
        checkpoint.compute("attn.qk", &[2, 2], |values| values.iter().map(|value| 10.0 * value).collect());
        checkpoint.reshape("attn.qk", &[4, 1]);
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["attn.qk"]);
        assert_eq!(checkpoint.shape("attn.qk"), Some([4, 1].as_slice()));
        assert_eq!(checkpoint.values("attn.qk", read), Ok(vec![10.0, 20.0, 30.0, 40.0]));
        assert_eq!(checkpoint.origins("attn.qk"), ["q", "k"]);
    }

    #[test]
    fn parts_are_cut_along_the_first_axis() {
        let mut checkpoint = Checkpoint::new([("q".into(), vec![2, 1])]);
        let parts = ["a", "b"].map(String::from);
        checkpoint.split("q", &["a", "b", "c"].map(String::from));
        assert!(checkpoint.contains("q"));
        checkpoint.split("q", &parts);
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(checkpoint.shape("b"), Some([1, 1].as_slice()));
        assert_eq!(checkpoint.values("b", read), Ok(vec![2.0]));
    }

    #[test]
    fn a_network_is_taken_out_of_open_clip() {
        let names =
            [("visual.trunk.norm.bias", vec![2]), ("visual.head.proj.weight", vec![3, 2]), ("logit_scale", vec![])];
        let mut checkpoint = Checkpoint::new(names.map(|(name, shape)| (name.to_owned(), shape)));
        checkpoint.take_from_open_clip("head");
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["head.bias", "head.weight", "norm.bias"]);
        assert_eq!(checkpoint.values("head.bias", read), Ok(vec![0.0; 3]));
        assert!(checkpoint.origins("head.bias").is_empty());
        assert_eq!(checkpoint.unchanged("head.weight"), Some("visual.head.proj.weight"));
    }

    /// Zeros of a size that a file claims and does not hold are not made.
    #[test]
    fn a_weight_without_numbers_has_no_bias() {
        let mut checkpoint = Checkpoint::new([("visual.head.proj.weight".into(), vec![1 << 60, 0])]);
        checkpoint.take_from_open_clip("head");
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["head.weight"]);
    }

    #[test]
    fn what_differs_beyond_the_first_axis_is_not_put_together() {
        let mut checkpoint = Checkpoint::new([("q".into(), vec![2, 2]), ("k".into(), vec![2, 1])]);
        checkpoint.concatenate(&["q", "k"], "qk");
        checkpoint.concatenate(&[], "nothing");
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["k", "q"]);
    }

    #[test]
    fn what_is_not_there_is_left() {
        let mut checkpoint = Checkpoint::new([("q".into(), vec![1, 2])]);
        checkpoint.concatenate(&["q", "k"], "qk");
        checkpoint.compute("k", &[1], |values| values);
        checkpoint.reshape("q", &[3]);
        assert_eq!(checkpoint.shape("q"), Some([1, 2].as_slice()));
        assert_eq!(checkpoint.unchanged("q"), Some("q"));
    }
}
