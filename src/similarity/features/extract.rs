//! What networks make of images: the features of one layer of all images, or the layers of networks, all at once.

use std::time::{Duration, Instant};

use burn::tensor::{DType, Tensor};
use netkin_architectures::Taps;

use super::kept::{LayerRecord, LayersOf};
use super::products::{MiniBatches, Pairs};
use super::{Centring, FeatureError, InnerProducts, Kernel, Measure, Numbers, Values, bytes_of, check_room, on_device};
use crate::device::is_cpu;
use crate::images::{Batch, Loader, LoaderOptions, Sample, Skipped, Transform, load};
use crate::memory;
use crate::model::{Crop, Model};

/// A layer of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// What goes into the classifier.
    Pooled,
    /// What comes out of it.
    Logits,
    /// An intermediate result by timm's name of its block, `layer1.0` or `blocks.3`, all its numbers in one row.
    Tap(String),
}

/// How images are shown to networks.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// What networks see of an image.
    pub crop: Crop,
    /// Images at once, at least 1.
    pub batch: usize,
    /// Whether an image that cannot be decoded is an error instead of being left out.
    pub strict: bool,
}

/// One layer of all images.
#[derive(Debug, Clone)]
pub struct Extracted {
    /// `[image, feature]`, row by row.
    pub values: Values,
    /// The position of each image among the samples.
    pub images: Vec<usize>,
    /// The label of each image.
    pub labels: Vec<usize>,
    /// Images that could not be decoded.
    pub skipped: Vec<Skipped>,
}

/// Runs a network on all samples. `progress` is told how many images a batch had.
///
/// # Errors
/// [`FeatureError::Tap`], [`FeatureError::Memory`], [`FeatureError::NoImages`] or [`FeatureError::Decode`].
pub fn extract(
    model: &Model,
    samples: &[Sample],
    layer: &Layer,
    view: View,
    mut progress: impl FnMut(usize),
) -> Result<Extracted, FeatureError> {
    let mut loader = loader(model.transform(view.crop), samples, view);
    let mut extracted = Extracted {
        values: if model.precision().dtype() == DType::F64 { Values::F64(Vec::new()) } else { Values::F32(Vec::new()) },
        images: Vec::new(),
        labels: Vec::new(),
        skipped: Vec::new(),
    };
    for batch in loader.by_ref() {
        let batch = batch?;
        let rows = rows_of(model, &batch, layer)?;
        if extracted.images.is_empty() {
            let (width, advice) = (rows.dims()[1], "take fewer images (--limit) or another layer");
            let bytes = bytes_of(samples.len(), width, extracted.values.bytes_each());
            let what = format!("the features of {}", named(model, layer));
            check_room(what, bytes, memory::available(), advice)?;
            extracted.values.reserve(samples.len() * width);
        }
        extracted.values.append(rows);
        extracted.images.extend(&batch.indices);
        extracted.labels.extend(&batch.labels);
        progress(batch.len());
    }
    extracted.skipped = loader.skipped().to_vec();
    if extracted.images.is_empty() { Err(FeatureError::NoImages(samples.len())) } else { Ok(extracted) }
}

/// What messages call a layer of a network.
pub fn named(model: &Model, layer: &Layer) -> String {
    match layer {
        Layer::Pooled => model.name().to_owned(),
        Layer::Logits => format!("{}:logits", model.name()),
        Layer::Tap(tap) => format!("{}:{tap}", model.name()),
    }
}

fn loader(transform: Transform, samples: &[Sample], view: View) -> Loader {
    load(samples, transform, LoaderOptions { strict: view.strict, ..LoaderOptions::new(view.batch) })
}

fn pixels(model: &Model, batch: &Batch) -> Tensor<4> {
    let [height, width] = model.input_size();
    model.pixels(batch.pixels(), [batch.len(), 3, height, width])
}

/// One layer of a batch, `[image, feature]`.
fn rows_of(model: &Model, batch: &Batch, layer: &Layer) -> Result<Tensor<2>, FeatureError> {
    let pixels = pixels(model, batch);
    let tap = match layer {
        Layer::Pooled => return Ok(model.forward(pixels).features),
        Layer::Logits => return Ok(model.forward(pixels).logits),
        Layer::Tap(tap) => tap,
    };
    let (mut found, mut names) = (None, Vec::new());
    {
        let mut taps = Taps::observe(|name, _, x| {
            if name == tap {
                found = Some(x.clone());
            }
            // A tap may come again, as the same features.
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
            x
        });
        model.forward_observed(pixels, &mut taps);
    }
    found.ok_or_else(|| FeatureError::Tap {
        model: model.name().to_owned(),
        tap: tap.clone(),
        similar: similar(tap, &names),
        names,
    })
}

/// The three names that are most like one that there is not.
pub(super) fn similar(name: &str, names: &[String]) -> String {
    // Longer texts are no misspelt names, and to compare them takes long.
    const LONGEST_NAME: usize = 200;
    let name: String = name.chars().take(LONGEST_NAME).collect();
    let mut scored: Vec<(f64, &str)> =
        names.iter().map(|other| (strsim::jaro_winkler(&name, other), other.as_str())).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let some: Vec<&str> = scored.into_iter().take(3).map(|(_, other)| other).collect();
    some.join(" or ")
}

impl Values {
    fn bytes_each(&self) -> usize {
        match self {
            Self::F32(_) => 4,
            Self::F64(_) => 8,
        }
    }

    /// Makes room for so many numbers.
    fn reserve(&mut self, count: usize) {
        match self {
            Self::F32(values) => values.reserve_exact(count),
            Self::F64(values) => values.reserve_exact(count),
        }
    }

    /// Adds a batch; half precision is held as f32, which holds it exactly.
    fn append(&mut self, rows: Tensor<2>) {
        match (self, Self::of(rows)) {
            (Self::F32(all), Self::F32(new)) => all.extend(new),
            (Self::F64(all), Self::F64(new)) => all.extend(new),
            _ => unreachable!("all batches of a network have its precision"),
        }
    }

    /// The numbers of a tensor.
    pub(super) fn of(rows: Tensor<2>) -> Self {
        let data = rows.into_data();
        match data.dtype() {
            DType::F64 => Self::F64(data.try_into_vec().expect("what is f64 is read as f64")),
            DType::F32 => Self::F32(data.try_into_vec().expect("what is f32 is read as f32")),
            _ => Self::F32(data.iter::<f32>().collect()),
        }
    }
}

/// All layers of some networks, compared with each other.
#[derive(Debug)]
pub struct Layers {
    /// Network → its layers in their order: the taps of blocks, and the pooled features where no tap is those.
    pub names: Vec<Vec<String>>,
    /// Of all layers of all networks, the mean over mini-batches.
    pub products: InnerProducts,
    /// Images that count.
    pub images: usize,
    /// Images of a last mini-batch that was too small for the statistic.
    pub left_out: usize,
    /// Images that could not be decoded.
    pub skipped: Vec<Skipped>,
    /// What took how long.
    pub timing: LayerTiming,
}

/// How long the parts of a comparison of layers took; on a device that works by itself, waiting counts where its results are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct LayerTiming {
    /// In networks.
    pub networks: Duration,
    /// In what is compared: the kernel's values between images, and their products.
    pub comparison: Duration,
}

impl Layers {
    /// What is kept of it, of images with that fingerprint, and why layers that are constant have no values.
    ///
    /// # Errors
    /// [`FeatureError::Constant`] if that is so of all.
    pub fn record(
        &self,
        models: &[&Model],
        measure: Measure,
        bandwidth: Option<f64>,
        view: View,
        fingerprint: String,
    ) -> Result<(LayerRecord, Vec<FeatureError>), FeatureError> {
        let count: usize = self.names.iter().map(Vec::len).sum();
        let constant = |layer: usize| self.products.correlation(layer, layer).err();
        let mut errors: Vec<FeatureError> = (0..count).filter_map(constant).collect();
        if errors.len() == count {
            return Err(errors.swap_remove(0));
        }
        let row = |a: usize| -> Vec<Option<f64>> { (0..count).map(|b| self.products.correlation(a, b).ok()).collect() };
        let of = |(model, layers): (&&Model, &Vec<String>)| LayersOf {
            name: model.name().to_owned(),
            sha256: model.sha256().to_owned(),
            layers: layers.clone(),
        };
        let (precision, device) = match models.first() {
            Some(model) => (model.precision().to_string(), crate::device::name(model.device())),
            None => (String::new(), String::new()),
        };
        let record = LayerRecord {
            netkin: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint,
            images: self.images,
            measure,
            bandwidth,
            mini_batch: view.batch,
            models: models.iter().zip(&self.names).map(of).collect(),
            values: (0..count).map(row).collect(),
            precision,
            device,
        };
        Ok((record, errors))
    }
}

/// Runs all networks on all samples once and compares every layer with every other, over mini-batches of `view.batch` images: of
/// each layer only its kernel's values between the images of a batch are kept. `progress` is told how many images a batch had.
///
/// # Errors
/// [`FeatureError::NotFinite`], [`FeatureError::TooLarge`], [`FeatureError::TooFew`], [`FeatureError::NoImages`] or
/// [`FeatureError::Decode`].
pub fn layers(
    models: &[&Model],
    samples: &[Sample],
    kernel: &Kernel,
    centring: Centring,
    view: View,
    mut progress: impl FnMut(usize),
) -> Result<Layers, FeatureError> {
    // Networks that take images of one form share them.
    let transforms: Vec<Transform> = models.iter().map(|model| model.transform(view.crop)).collect();
    let mut forms: Vec<Transform> = Vec::new();
    for transform in &transforms {
        if !forms.contains(transform) {
            forms.push(*transform);
        }
    }
    let mut loaders: Vec<Loader> = forms.iter().map(|&form| loader(form, samples, view)).collect();
    let (mut names, mut means) = (Vec::new(), None);
    let mut left_out = 0;
    let mut timing = LayerTiming::default();
    loop {
        let batches: Vec<Batch> = loaders.iter_mut().filter_map(Iterator::next).collect::<Result<_, _>>()?;
        let Some(first) = batches.first() else { break };
        let images = first.len();
        let mut of_batch = Vec::new();
        names.clear();
        for (model, transform) in models.iter().zip(&transforms) {
            let form = forms.iter().position(|form| form == transform).expect("it is one of the forms");
            let batch = &batches[form];
            // The same files fail to be decoded for every network.
            assert_eq!(batch.indices, first.indices, "all networks see the same images");
            let (layers, pairs): (Vec<String>, Vec<Pairs>) =
                layers_of(model, batch, kernel, &mut timing)?.into_iter().unzip();
            names.push(layers);
            of_batch.extend(pairs);
        }
        let all = || {
            models
                .iter()
                .zip(&names)
                .flat_map(|(model, layers)| layers.iter().map(|tap| format!("{}:{tap}", model.name())))
        };
        let means = means.get_or_insert_with(|| MiniBatches::new(all().collect(), centring));
        let start = Instant::now();
        if !means.add(&of_batch) {
            left_out += images;
        }
        timing.comparison += start.elapsed();
        progress(images);
    }
    let skipped = loaders.first().map_or(Vec::new(), |loader| loader.skipped().to_vec());
    let means = means.ok_or(FeatureError::NoImages(samples.len()))?;
    let images = means.images();
    let products = means.finish().ok_or_else(|| FeatureError::TooFew {
        name: "every mini-batch".to_owned(),
        images: left_out.min(view.batch),
        what: "the statistic",
        least: centring.least_images(),
    })?;
    Ok(Layers { names, products, images, left_out, skipped, timing })
}

/// The name and the kernel's values of every layer, on one batch.
fn layers_of(
    model: &Model,
    batch: &Batch,
    kernel: &Kernel,
    timing: &mut LayerTiming,
) -> Result<Vec<(String, Pairs)>, FeatureError> {
    let start = Instant::now();
    let mut comparison = Duration::ZERO;
    let mut layers: Vec<(String, Pairs)> = Vec::new();
    let mut failed = None;
    let mut see = |name: &str, rows: Tensor<2>| {
        let start = Instant::now();
        let (rows, pairs) = pairs_of(&format!("{}:{name}", model.name()), rows, kernel);
        match pairs {
            Ok(pairs) => layers.push((name.to_owned(), pairs)),
            Err(error) => drop(failed.get_or_insert(error)),
        }
        comparison += start.elapsed();
        rows
    };
    let pixels = pixels(model, batch);
    let mut width = 0;
    let features = {
        let mut taps = Taps::observe(|name, shape, x| {
            width = shape[1..].iter().product();
            see(name, x)
        })
        .without_repeats();
        model.forward_observed(pixels, &mut taps).features
    };
    // Most networks show the pooled features as their last tap.
    if width != features.dims()[1] {
        drop(see("pooled", features));
    }
    timing.comparison += comparison;
    timing.networks += start.elapsed() - comparison;
    match failed {
        Some(error) => Err(error),
        None => Ok(layers),
    }
}

/// A layer, and its kernel's values. On the CPU its numbers are handed over and back, without a copy; elsewhere they stay where they
/// are.
fn pairs_of(name: &str, rows: Tensor<2>, kernel: &Kernel) -> (Tensor<2>, Result<Pairs, FeatureError>) {
    let (device, dtype, images) = (rows.device(), rows.dtype(), rows.dims()[0]);
    if !is_cpu(&device) {
        let pairs = on_device::pairs(name, rows.clone(), kernel);
        return (rows, pairs);
    }
    let data = rows.into_data();
    let wide: Vec<f32>;
    let numbers = match dtype {
        DType::F64 => Numbers::F64(data.as_slice().expect("what is f64 is read as f64")),
        DType::F32 => Numbers::F32(data.as_slice().expect("what is f32 is read as f32")),
        _ => {
            wide = data.iter::<f32>().collect();
            Numbers::F32(&wide)
        }
    };
    let pairs = Pairs::of(name, numbers, images, kernel);
    (Tensor::from_data(data, (&device, dtype)), pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_alike_are_suggested() {
        let names: Vec<String> = ["act1", "layer1.0", "layer1.1", "layer4", "global_pool"].map(String::from).into();
        assert_eq!(similar("layer1_0", &names), "layer1.0 or layer1.1 or layer4");
        assert!(similar("globl_pool", &names).starts_with("global_pool or "));
        assert_eq!(similar("x", &names[..1]), "act1");
    }
}
