//! Every registered network against timm (PyTorch Image Models): parameter keys, logits, features, input gradients.
//!
//! A new network is tested as follows:
//! 1. write it, and list its name in its family's `VARIANTS`;
//! 2. `python scripts/timm_reference.py NAME…` (which needs `pip install torch timm numpy`) adds timm's values to
//!    `tests/fixtures/timm/FAMILY.jsonl`;
//! 3. `cargo test --release --workspace --test timm -- FAMILY` (or a part of a name) compares, a test for each network.
//!
//! With `NETKIN_TABLE=FILE.md` in the environment, what was measured is written there as a table.
//!
//! Both sides fill the parameters by the same formula, in double precision, where rounding cannot hide a mistake. The
//! file holds a digest of each of timm's results: see [`Digest`].

mod formula;

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation};
use burn_store::{ModuleSnapshot, bridge};
use libtest_mimic::{Arguments, Failed, Trial};
use netkin_architectures::names::{self, NamedTensor};
use netkin_architectures::{AnyConfiguration, Architecture, Entry, InputRule, Network, Taps, registry};
use serde::Deserialize;

/// ‖Δ‖/‖·‖ between netkin and timm, both in double precision.
const BOUND_F64: f64 = 1e-8;
/// ‖Δ‖/‖·‖ between netkin in single and in double precision: logits and features.
const BOUND_F32: f64 = 1e-4;
/// The share of pixels whose gradient has the same sign in single and in double precision. Its norm says less: near the
/// kinks of ReLU and max-pooling, rounding decides which way the gradient goes.
const BOUND_SIGNS: f64 = 0.99;

fn main() -> ExitCode {
    let rows: Arc<Mutex<Vec<Row>>> = Arc::default();
    let mut trials = vec![
        Trial::test("every_network_has_a_fixture_and_every_fixture_a_network", || complete().map_err(Failed::from)),
        Trial::test("bits_are_those_of_the_script", || {
            formula::bits_are_those_of_the_script();
            Ok(())
        }),
    ];
    trials.extend(registry::all().iter().map(|entry| {
        let rows = Arc::clone(&rows);
        Trial::test(format!("{}::{}", entry.family, entry.name), move || {
            let row = check(entry)?;
            let complaints = row.complaints();
            rows.lock().unwrap().push(row);
            if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n").into()) }
        })
    }));
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    if let Some(path) = std::env::var_os("NETKIN_TABLE") {
        fs::write(&path, table(&mut rows.lock().unwrap())).expect("a table that can be written");
    }
    conclusion.exit_code()
}

/// What was measured, as Markdown.
fn table(rows: &mut [Row]) -> String {
    rows.sort_by_key(|row| row.name);
    let rows: Vec<String> = rows.iter().map(Row::to_string).collect();
    format!("{}\n{}\n", Row::HEADER, rows.join("\n"))
}

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
    /// Height and width that the network is built for, if it takes any and these are not its own.
    #[serde(default)]
    built: Option<[usize; 2]>,
    /// The mean cross-entropy.
    loss: f64,
    logits: Digest,
    features: Digest,
    /// The gradient of the loss with respect to the pixels.
    gradient: Digest,
    /// What timm's `feature_info` names: the outputs of stages; of some networks more.
    taps: Vec<Tap>,
}

/// What is kept of an intermediate result.
#[derive(Debug, Deserialize)]
struct Tap {
    /// timm's path of the module.
    name: String,
    shape: Vec<usize>,
    digest: Digest,
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

/// Says which networks have no fixture, and which fixtures no network.
fn complete() -> Result<(), String> {
    let mut complaints = Vec::new();
    for entry in registry::all() {
        if !fixtures(entry.family).contains_key(entry.name) {
            complaints.push(format!("{0}: no fixture; run scripts/timm_reference.py {0}", entry.name));
        }
    }
    for file in fs::read_dir(fixture_folder()).unwrap() {
        let path = file.unwrap().path();
        let family = path.file_stem().unwrap().to_str().unwrap();
        for name in fixtures(family).keys() {
            if !registry::all().iter().any(|entry| entry.name == name && entry.family == family) {
                complaints.push(format!("{name}: a fixture in {path:?} without a network of that family"));
            }
        }
    }
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n")) }
}

/// Compares a network with its fixture.
fn check(entry: &'static Entry) -> Result<Row, String> {
    let fixtures = fixtures(entry.family);
    let fixture =
        fixtures.get(entry.name).ok_or(format!("no fixture; run scripts/timm_reference.py {}", entry.name))?;
    let start = Instant::now();
    let measured = catch_unwind(AssertUnwindSafe(|| measure(entry, fixture)));
    let row = measured.unwrap_or_else(|panic| Err(panic_message(&*panic).to_owned()))?;
    Ok(Row { milliseconds: start.elapsed().as_millis(), ..row })
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
    /// Of the worst intermediate result, in double precision.
    taps: f64,
    milliseconds: u128,
}

impl Row {
    const HEADER: &str = "| network | logits, f64 | features, f64 | gradient, f64 | stages, f64 | logits, f32 | features, f32 | equal signs, f32 | ms |\n\
                          |---|---|---|---|---|---|---|---|---|";

    fn complaints(&self) -> Vec<String> {
        let errors = [
            ("logits, f64", self.logits_f64, BOUND_F64),
            ("features, f64", self.features_f64, BOUND_F64),
            ("gradient, f64", self.gradient_f64, BOUND_F64),
            ("outputs of stages, f64", self.taps, BOUND_F64),
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
            "| {} | {:.1e} | {:.1e} | {:.1e} | {:.1e} | {:.1e} | {:.1e} | {:.3} % | {} |",
            self.name,
            self.logits_f64,
            self.features_f64,
            self.gradient_f64,
            self.taps,
            self.logits_f32,
            self.features_f32,
            100.0 * self.signs,
            self.milliseconds
        )
    }
}

/// Compares one network; the error says what makes a comparison pointless.
fn measure(entry: &'static Entry, fixture: &Fixture) -> Result<Row, String> {
    let name = entry.name;
    let [.., height, width] = fixture.input;
    let built = match entry.config.input_rule() {
        InputRule::Any => fixture.built.unwrap_or(entry.config.input_size()),
        InputRule::Multiple(step) | InputRule::Retrained(step)
            if !height.is_multiple_of(step) || !width.is_multiple_of(step) =>
        {
            return Err(format!("the fixture's images are {height} × {width}, but sides are multiples of {step}"));
        }
        // Those that are said to be for one size alone have smaller squares in some fixtures: their layers allow it.
        InputRule::Multiple(_) | InputRule::Retrained(_) | InputRule::Fixed => [height, width],
    };
    let resized;
    let config = if built == entry.config.input_size() {
        entry.config
    } else {
        resized = entry.config.resized(built);
        &*resized
    };
    check_keys(name, config, fixture)?;

    let double = run(config, fixture, DType::F64)?;
    let loss_error = (double.loss - fixture.loss).abs() / fixture.loss;
    let single = run(config, fixture, DType::F32)?;
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
        taps: worst_tap(fixture, &double.taps)?,
        milliseconds: 0,
    })
}

/// The largest relative error of what timm's `feature_info` names.
fn worst_tap(fixture: &Fixture, found: &BTreeMap<String, (Vec<usize>, Vec<f64>)>) -> Result<f64, String> {
    if fixture.taps.is_empty() {
        return Err("the fixture has no stage to compare with".into());
    }
    let mut errors = Vec::new();
    for Tap { name, shape, digest } in &fixture.taps {
        let Some((shape_here, values)) = found.get(name) else {
            let names: Vec<&str> = found.keys().map(String::as_str).collect();
            return Err(format!(
                "nothing is shown under {name}, which timm's feature_info names; only {}",
                names.join(" ")
            ));
        };
        if shape_here != shape {
            return Err(format!("{name} is {shape_here:?}, in timm {shape:?}"));
        }
        errors.push(digest.relative_error(values));
    }
    Ok(worst(errors))
}

/// Keys, shapes and parameter count. If the keys differ, ours are written where they can be compared.
fn check_keys(name: &str, config: &dyn AnyConfiguration, fixture: &Fixture) -> Result<(), String> {
    let network = config.build(config.num_classes(), &Device::flex());
    let lines = key_lines(&network);
    if format!("{:016x}", formula::fnv1a(lines.as_bytes())) != fixture.keys {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.keys"));
        fs::write(&path, lines + "\n").unwrap();
        return Err(format!(
            "other keys or shapes than timm's; compare {path:?} with the output of scripts/timm_reference.py --keys {name}"
        ));
    }
    let parameters = registry::parameters(&network);
    if parameters != fixture.parameters {
        return Err(format!("{parameters} parameters, but timm counts {}", fixture.parameters));
    }
    Ok(())
}

/// `key:2x3` for every parameter and buffer, sorted, a line each.
fn key_lines(network: &Network) -> String {
    let mut lines: Vec<String> = names::tensors(network)
        .into_iter()
        .map(|tensor| {
            let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
            format!("{}:{}", tensor.name, shape.join("x"))
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

/// What a network gives, widened to double precision.
struct Results {
    loss: f64,
    logits: Vec<f64>,
    features: Vec<f64>,
    gradient: Vec<f64>,
    /// Everything that the network shows: its shape and values by its name.
    taps: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

/// Runs a network on the formula's parameters, pixels and labels.
fn run(config: &dyn AnyConfiguration, fixture: &Fixture, dtype: DType) -> Result<Results, String> {
    let input = fixture.input;
    let device = Device::flex();
    let network = filled(config, fixture.gain, dtype, &device)?;
    let data = TensorData::new(formula::pixel_values(input.iter().product()), input);
    let pixels = Tensor::<4>::from_data(data, (&device, dtype)).autodiff().require_grad();
    let named: Vec<&str> = fixture.taps.iter().map(|tap| tap.name.as_str()).collect();
    let mut taps = BTreeMap::new();
    let outputs = network.forward(
        pixels.clone(),
        &mut Taps::observe(|name, shape, x| {
            // Of the others the names only, for a message.
            let kept = if named.contains(&name) { values(x.clone()) } else { Vec::new() };
            taps.insert(name.to_owned(), (shape.to_vec(), kept));
            x
        }),
    );

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
        taps,
    })
}

/// The network with the formula's parameters, loaded as a file's would be.
fn filled(config: &dyn AnyConfiguration, gain: f64, dtype: DType, device: &Device) -> Result<Network, String> {
    let mut network = config.build(config.num_classes(), device);
    let tensors = names::tensors(&network)
        .into_iter()
        .map(|NamedTensor { name, shape, .. }| {
            bridge::deferred(name.clone(), dtype, shape.clone().into(), None, move || {
                let values = formula::parameter_values(&name, &shape, gain);
                Ok(data(values, &shape, dtype))
            })
        })
        .collect();
    let result = network.apply(tensors, None, None, true);
    let complete = result.errors.is_empty() && result.missing.is_empty();
    if complete && result.unused.is_empty() { Ok(network) } else { Err(result.to_string()) }
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
