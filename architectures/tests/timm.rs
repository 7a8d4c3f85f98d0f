//! Every registered network against timm (PyTorch Image Models): parameter keys, logits, features, input gradients.
//!
//! A new network is tested as follows:
//! 1. write it, and list its name in its family's `VARIANTS` (a new family also in [`families`] below);
//! 2. `python scripts/timm_reference.py NAME…` (which needs `pip install torch timm numpy`) adds timm's values to
//!    `tests/fixtures/timm/FAMILY.jsonl`;
//! 3. `cargo test --release --workspace --test timm -- FAMILY --nocapture` prints what the networks reach.
//!
//! Both sides fill the parameters by the same formula, in double precision, where rounding cannot hide a mistake. The
//! file holds a digest of each of timm's results: see [`Digest`].

mod formula;

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation};
use burn_store::{ModuleSnapshot, bridge};
use netkin_architectures::{Architecture, Entry, Network, Taps, registry};
use serde::Deserialize;

/// ‖Δ‖/‖·‖ between netkin and timm, both in double precision.
const BOUND_F64: f64 = 1e-8;
/// ‖Δ‖/‖·‖ between netkin in single and in double precision: logits and features.
const BOUND_F32: f64 = 1e-4;
/// The share of pixels whose gradient has the same sign in single and in double precision. Its norm says less: near the
/// kinks of ReLU and max-pooling, rounding decides which way the gradient goes.
const BOUND_SIGNS: f64 = 0.99;

/// Height and width for networks that take any size: small, not square, and odd after halving here and there.
const FREE_SIZE: [usize; 2] = [72, 61];

macro_rules! families {
    ($($family:ident),* $(,)?) => {
        const FAMILIES: &[&str] = &[$(stringify!($family)),*];
        $(#[test]
        fn $family() {
            check_family(stringify!($family));
        })*
    };
}

families!(convnext, efficientnet, mlp_mixer, resnet, vision_transformer);

/// timm's values for one network.
#[derive(Debug, Deserialize)]
struct Fixture {
    name: String,
    /// The number of trained parameters.
    parameters: usize,
    /// The hash of all keys with their shapes: see [`key_lines`].
    keys: String,
    /// A factor for the weights: see [`formula::parameter_values`].
    gain: f64,
    /// The shape of the pixels.
    input: [usize; 4],
    /// The mean cross-entropy.
    loss: f64,
    logits: Digest,
    features: Digest,
    /// The gradient of the loss with respect to the pixels.
    gradient: Digest,
}

/// What is kept of a tensor: enough to tell another one apart, and to estimate by how much it differs.
#[derive(Debug, Deserialize)]
struct Digest {
    /// Euclidean.
    norm: f64,
    /// Values at random places.
    samples: Vec<f64>,
    /// Products with vectors whose components are drawn from [−1, 1). The mean square of such a product is a third of
    /// the squared norm, so that the products of two tensors tell the norm of their difference.
    projections: Vec<f64>,
}

impl Digest {
    /// The relative error of `values` by three measures, and the worst of them.
    fn relative_error(&self, values: &[f64]) -> f64 {
        let of_norm = (norm(values) - self.norm).abs() / self.norm;
        let typical = self.norm / (values.len() as f64).sqrt();
        let of_samples = formula::bits("samples")
            .zip(&self.samples)
            .map(|(bits, sample)| values[(bits % values.len() as u64) as usize] - sample)
            .map(|difference| difference.abs() / typical);
        let squares = self.projections.iter().enumerate().map(|(index, there)| {
            let vector = formula::uniform(&format!("projection{index}"));
            let here: f64 = values.iter().zip(vector).map(|(a, b)| a * b).sum();
            (here - there).powi(2)
        });
        let squared_norm = 3.0 * squares.sum::<f64>() / self.projections.len() as f64;
        worst(of_samples.chain([of_norm, squared_norm.sqrt() / self.norm]))
    }
}

/// The fixtures of a family; none if there is no file.
fn fixtures(family: &str) -> BTreeMap<String, Fixture> {
    let path = fixture_folder().join(format!("{family}.jsonl"));
    let text = fs::read_to_string(&path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{path:?}: {e}")))
        .map(|fixture: Fixture| (fixture.name.clone(), fixture))
        .collect()
}

fn fixture_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/timm")
}

#[test]
fn every_network_has_a_fixture_and_every_fixture_a_network() {
    let mut complaints = Vec::new();
    for entry in registry::all() {
        if !FAMILIES.contains(&entry.family) {
            complaints.push(format!("{}: list its family {} in this test", entry.name, entry.family));
        } else if !fixtures(entry.family).contains_key(entry.name) {
            complaints.push(format!("{0}: no fixture; run scripts/timm_reference.py {0}", entry.name));
        }
    }
    for file in fs::read_dir(fixture_folder()).unwrap() {
        let path = file.unwrap().path();
        let family = path.file_stem().unwrap().to_str().unwrap();
        for name in fixtures(family).keys() {
            let registered = registry::all().iter().any(|entry| entry.name == name && entry.family == family);
            if !registered {
                complaints.push(format!("{name}: a fixture in {path:?} without a network of that family"));
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Compares all networks of a family, prints a table, and fails with everything that is wrong.
fn check_family(family: &str) {
    let fixtures = fixtures(family);
    let mut complaints = Vec::new();
    println!("{:30}{:^30}{:^30}{:>8}", "", "double precision, ‖Δ‖/‖·‖", "single precision", "");
    println!("{}", Row::HEADER);
    for entry in registry::all().iter().filter(|e| e.family == family) {
        let Some(fixture) = fixtures.get(entry.name) else {
            complaints.push(format!("{0}: no fixture; run scripts/timm_reference.py {0}", entry.name));
            continue;
        };
        let start = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| measure(entry, fixture))) {
            Ok(Ok(row)) => {
                println!("{row} {:7.1}", start.elapsed().as_secs_f64());
                complaints.extend(row.complaints());
            }
            Ok(Err(complaint)) => complaints.push(complaint),
            Err(panic) => complaints.push(format!("{}: {}", entry.name, panic_message(&*panic))),
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// What was measured of one network.
struct Row {
    name: &'static str,
    logits_f64: f64,
    features_f64: f64,
    gradient_f64: f64,
    logits_f32: f64,
    features_f32: f64,
    signs: f64,
}

impl Row {
    const HEADER: &str =
        "name                             logits  features  gradient    logits  features     signs       s";

    fn complaints(&self) -> Vec<String> {
        let errors = [
            ("logits, f64", self.logits_f64, BOUND_F64),
            ("features, f64", self.features_f64, BOUND_F64),
            ("gradient, f64", self.gradient_f64, BOUND_F64),
            ("logits, f32", self.logits_f32, BOUND_F32),
            ("features, f32", self.features_f32, BOUND_F32),
            ("share of other gradient signs, f32", 1.0 - self.signs, 1.0 - BOUND_SIGNS),
        ];
        let failed = errors.into_iter().filter(|(_, error, bound)| {
            let passed = error <= bound;
            !passed
        });
        failed.map(|(what, error, bound)| format!("{}: {what}: {error:.1e} is above {bound:.0e}", self.name)).collect()
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            f,
            "{:30} {:9.1e} {:9.1e} {:9.1e} {:9.1e} {:9.1e} {:8.3}%",
            self.name,
            self.logits_f64,
            self.features_f64,
            self.gradient_f64,
            self.logits_f32,
            self.features_f32,
            100.0 * self.signs
        )
    }
}

/// Compares one network; the error says what makes a comparison pointless.
fn measure(entry: &'static Entry, fixture: &Fixture) -> Result<Row, String> {
    let name = entry.name;
    let [_, _, height, width] = fixture.input;
    let size = match entry.config.any_input_size() {
        true => FREE_SIZE,
        false => entry.config.input_size(),
    };
    if [height, width] != size {
        return Err(format!("{name}: the fixture has {height} × {width} pixels, not {size:?}"));
    }
    check_keys(entry, fixture)?;

    let double = run(entry, fixture, DType::F64)?;
    let loss_error = (double.loss - fixture.loss).abs() / fixture.loss;
    let single = run(entry, fixture, DType::F32)?;
    let same_signs = double
        .gradient
        .iter()
        .zip(&single.gradient)
        .filter(|(a, b)| a.partial_cmp(&&0.0) == b.partial_cmp(&&0.0))
        .count();
    Ok(Row {
        name,
        logits_f64: worst([fixture.logits.relative_error(&double.logits), loss_error]),
        features_f64: fixture.features.relative_error(&double.features),
        gradient_f64: fixture.gradient.relative_error(&double.gradient),
        logits_f32: relative_difference(&single.logits, &double.logits),
        features_f32: relative_difference(&single.features, &double.features),
        signs: same_signs as f64 / double.gradient.len() as f64,
    })
}

/// Keys, shapes and parameter count. If the keys differ, ours are written where they can be compared.
fn check_keys(entry: &Entry, fixture: &Fixture) -> Result<(), String> {
    let name = entry.name;
    let lines = key_lines(&entry.build(&Device::flex()));
    if format!("{:016x}", formula::fnv1a(lines.as_bytes())) != fixture.keys {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.keys"));
        fs::write(&path, lines + "\n").unwrap();
        return Err(format!(
            "{name}: other keys or shapes than timm's; compare {path:?} with the output of \
             scripts/timm_reference.py --keys {name}"
        ));
    }
    let parameters = entry.parameters();
    if parameters != fixture.parameters {
        return Err(format!("{name}: {parameters} parameters, but timm counts {}", fixture.parameters));
    }
    Ok(())
}

/// `key:2x3` for every parameter and buffer, sorted, a line each.
fn key_lines(network: &Network) -> String {
    let mut lines: Vec<String> = Keys::of(network)
        .into_iter()
        .map(|(key, shape)| {
            let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
            format!("{key}:{}", shape.join("x"))
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

/// Collects keys and shapes without drawing the parameters.
#[derive(Default)]
struct Keys {
    path: Vec<String>,
    found: Vec<(String, Vec<usize>)>,
}

impl Keys {
    fn of(network: &Network) -> Vec<(String, Vec<usize>)> {
        let mut keys = Self::default();
        network.visit(&mut keys);
        keys.found
    }
}

impl ModuleVisitor for Keys {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        if !container_type.starts_with("Enum:") {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _: &str, container_type: &str) {
        if !container_type.starts_with("Enum:") {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.lazy_shape().as_slice().to_vec();
        self.found.push((self.path.join("."), shape));
    }
}

/// What a network gives, widened to double precision.
struct Results {
    loss: f64,
    logits: Vec<f64>,
    features: Vec<f64>,
    gradient: Vec<f64>,
}

/// Runs a network on the formula's parameters, pixels and labels.
fn run(entry: &Entry, fixture: &Fixture, dtype: DType) -> Result<Results, String> {
    let input = fixture.input;
    let device = Device::flex();
    let network = filled(entry, fixture.gain, dtype, &device)?;
    let data = TensorData::new(formula::pixel_values(input.iter().product()), input);
    let pixels = Tensor::<4>::from_data(data, (&device, dtype)).autodiff().require_grad();
    let outputs = network.forward(pixels.clone(), &mut Taps::none());

    let [batch, classes] = outputs.logits.dims();
    let labels = TensorData::new(formula::label_values(batch, classes), [batch, 1]);
    let labels = Tensor::<2, Int>::from_data(labels, &outputs.logits.device());
    let loss = activation::log_softmax(outputs.logits.clone(), 1).gather(1, labels).mean().neg();
    let gradient = pixels.grad(&loss.backward()).ok_or("no gradient reached the pixels")?;
    Ok(Results {
        loss: values(loss)[0],
        logits: values(outputs.logits),
        features: values(outputs.features),
        gradient: values(gradient),
    })
}

/// The network with the formula's parameters, loaded as a file's would be.
fn filled(entry: &Entry, gain: f64, dtype: DType, device: &Device) -> Result<Network, String> {
    let mut network = entry.build(device);
    let tensors = Keys::of(&network)
        .into_iter()
        .map(|(key, shape)| {
            let (name, shape_there) = (key.clone(), shape.clone().into());
            bridge::deferred(name, dtype, shape_there, None, move || {
                let values = formula::parameter_values(&key, &shape, gain);
                Ok(data(values, &shape, dtype))
            })
        })
        .collect();
    let result = network.apply(tensors, None, None, true);
    let complete = result.errors.is_empty() && result.missing.is_empty();
    match complete && result.unused.is_empty() {
        true => Ok(network),
        false => Err(format!("{}: {result}", entry.name)),
    }
}

/// Values in single or double precision.
fn data(values: Vec<f64>, shape: &[usize], dtype: DType) -> TensorData {
    match dtype {
        DType::F32 => {
            let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
            TensorData::new(values, shape)
        }
        _ => TensorData::new(values, shape),
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.try_into_vec_as().expect("a readable tensor")
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn relative_difference(values: &[f64], reference: &[f64]) -> f64 {
    let difference: Vec<f64> = values.iter().zip(reference).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(reference)
}

/// The largest, or not a number if any is none.
fn worst(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}
