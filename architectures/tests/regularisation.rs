//! What networks do in training only, against timm (PyTorch Image Models): which branches and features they leave out, and
//! what their parameters begin with. `scripts/regularisation_reference.py` made the values.

#[allow(dead_code, reason = "this test takes its share")]
mod formula;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData};
use netkin_architectures::names::{self, Mapper, Visitor};
use netkin_architectures::{
    AnyConfiguration, Architecture, InputRule, Network, Outputs, Regularisation, Taps, find, registry, stochastic,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// As in the script.
const RATES: Regularisation = Regularisation { drop_path: 0.4, dropout: 0.25 };
const SEED: u64 = 7;
const BATCH: usize = 3;

/// |Δ| as a share of a typical logit; timm computes rates in single precision.
const BOUND_F64: f64 = 1e-5;
const BOUND_F32: f64 = 1e-4;

/// A network's logits.
#[derive(Deserialize)]
struct Forward {
    name: String,
    pixels: usize,
    norm: f64,
    samples: Vec<f64>,
}

/// Mean, standard deviation and kurtosis of what parameters begin with, by their keys.
#[derive(Deserialize)]
struct Initial {
    name: String,
    statistics: BTreeMap<String, [f64; 3]>,
}

fn lines<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/regularisation").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{path:?}: {error}"))).collect()
}

/// A network for square images of so many pixels that leaves so much out, if anything is said, with the formula's parameters.
fn network(name: &str, pixels: usize, rates: Option<Regularisation>, dtype: DType) -> Network {
    let entry = find(name).unwrap_or_else(|_| panic!("{name} is no network"));
    let sized;
    let any_size = entry.config.input_rule() == InputRule::Any;
    let config: &dyn AnyConfiguration = if any_size || entry.config.input_size() == [pixels; 2] {
        entry.config
    } else {
        sized = entry.config.resized([pixels; 2]);
        &*sized
    };
    let device = Device::flex();
    let built = match rates {
        Some(rates) => {
            let regularised = config.regularised(rates).unwrap_or_else(|| panic!("{name} leaves nothing out"));
            regularised.build(config.num_classes(), &device)
        }
        None => config.build(config.num_classes(), &device),
    };
    names::map(built, &mut Filler { dtype })
}

fn images(pixels: usize, dtype: DType) -> Tensor<4> {
    let shape = [BATCH, 3, pixels, pixels];
    let data = TensorData::new(formula::pixel_values(shape.iter().product()), shape);
    Tensor::from_data(data, (&Device::flex(), dtype))
}

fn outputs(network: &Network, images: &Tensor<4>) -> Outputs {
    network.forward(images.clone(), &mut Taps::none())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.try_into_vec_as().expect("a readable tensor")
}

/// Gives all parameters the formula's values.
struct Filler {
    dtype: DType,
}

impl Mapper for Filler {
    fn map<const D: usize>(&mut self, key: &str, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = parameter.lazy_shape().as_slice().to_vec();
        let values = formula::parameter_values(key, &shape, 1.0);
        let tensor = Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), self.dtype));
        Param::initialized(parameter.id, tensor)
    }
}

#[test]
fn branches_and_features_are_left_out_where_timm_does() {
    for Forward { name, pixels, norm, samples } in lines("forward.jsonl") {
        for (dtype, bound) in [(DType::F64, BOUND_F64), (DType::F32, BOUND_F32)] {
            let network = network(&name, pixels, Some(RATES), dtype);
            let images = images(pixels, dtype);
            let logits = values(stochastic(SEED, || outputs(&network, &images)).logits);
            let typical = norm / (logits.len() as f64).sqrt();
            for (index, there) in samples.iter().enumerate() {
                let here = logits[index * logits.len() / samples.len()];
                let error = (here - there).abs() / typical;
                assert!(error <= bound, "{name}, {dtype:?}: logit {index} of the samples is {here}, in timm {there}");
            }
        }
    }
}

#[test]
fn every_family_with_rates_is_compared_and_obeys_them() {
    let fixtures: Vec<Forward> = lines("forward.jsonl");
    let family = |name: &str| find(name).unwrap().family;
    let compared: BTreeSet<&str> = fixtures.iter().map(|fixture| family(&fixture.name)).collect();
    let able = registry::all().iter().filter(|entry| entry.config.regularised(RATES).is_some());
    let able: BTreeSet<&str> = able.map(|entry| entry.family).collect();
    assert_eq!(compared, able);

    for Forward { name, pixels, .. } in fixtures {
        let images = images(pixels, DType::F32);
        let plain = outputs(&network(&name, pixels, None, DType::F32), &images);
        let (features, logits) = (values(plain.features), values(plain.logits));

        let paths = network(&name, pixels, Some(Regularisation { drop_path: 0.5, dropout: 0.0 }), DType::F32);
        assert_eq!(values(outputs(&paths, &images).logits), logits, "{name}: outside of training");
        let of = |seed| values(stochastic(seed, || outputs(&paths, &images)).features);
        let first = of(1);
        assert!(first.iter().all(|feature| feature.is_finite()), "{name}");
        assert_ne!(first, features, "{name}: all branches stay");
        assert_eq!(first, of(1), "{name}: one seed");
        assert_ne!(first, of(2), "{name}: two seeds");

        let drops = network(&name, pixels, Some(Regularisation { drop_path: 0.0, dropout: 0.5 }), DType::F32);
        let dropped = stochastic(1, || outputs(&drops, &images));
        assert_eq!(values(dropped.features), features, "{name}: what dropout leaves alone");
        assert_ne!(values(dropped.logits), logits, "{name}: all features stay");
    }
}

/// Whether a gradient comes to every parameter.
struct Gradients<'a> {
    of: &'a burn::tensor::Gradients,
    norms: Vec<(String, f64)>,
}

impl Visitor for Gradients<'_> {
    fn visit<const D: usize>(&mut self, key: &str, parameter: &Param<Tensor<D>>) {
        if !names::is_statistic(key) {
            let gradient = parameter.val().grad(self.of).unwrap_or_else(|| panic!("no gradient comes to {key}"));
            let norm = values(gradient).iter().map(|value| value * value).sum::<f64>().sqrt();
            self.norms.push((key.to_owned(), norm));
        }
    }
}

#[test]
fn gradients_come_through_what_stays() {
    let device = Device::flex().autodiff();
    for name in ["demo_vit_patch7", "demo_efficientnet"] {
        let config = find(name).unwrap().config.regularised(Regularisation { drop_path: 0.3, dropout: 0.3 }).unwrap();
        let network = config.build(10, &device);
        let images = Tensor::<4>::from_data(images(28, DType::F32).into_data(), &device);
        let logits = stochastic(3, || outputs(&network, &images)).logits;
        let gradients = logits.square().sum().backward();
        let mut found = Gradients { of: &gradients, norms: Vec::new() };
        names::visit(&network, &mut found);
        assert!(found.norms.iter().all(|(_, norm)| norm.is_finite()), "{name}: {:?}", found.norms);
        let reached = found.norms.iter().filter(|(_, norm)| *norm > 0.0).count();
        assert!(2 * reached > found.norms.len(), "{name}: {:?}", found.norms);
    }
}

/// Draws the parameters of these keys.
struct Drawn<'a> {
    keys: &'a BTreeMap<String, [f64; 3]>,
    values: BTreeMap<String, Vec<f64>>,
}

impl Visitor for Drawn<'_> {
    fn visit<const D: usize>(&mut self, key: &str, parameter: &Param<Tensor<D>>) {
        if self.keys.contains_key(key) {
            self.values.insert(key.to_owned(), values(parameter.val()));
        }
    }
}

#[test]
fn parameters_begin_as_timms() {
    /// Standard errors of the difference of two samples by which they may differ.
    const ERRORS: f64 = 6.0;
    /// Below, timm draws what is as good as a constant.
    const NOTHING: f64 = 2e-6;
    /// With so many numbers the kurtosis tells a normal distribution, 3, from an even one, 1.8.
    const MANY: usize = 5_000;

    for Initial { name, statistics } in lines("initial.jsonl") {
        let network = find(&name).unwrap().build(&Device::flex());
        let mut drawn = Drawn { keys: &statistics, values: BTreeMap::new() };
        names::visit(&network, &mut drawn);
        for (key, there) in &statistics {
            let values = drawn.values.get(key).unwrap_or_else(|| panic!("{name} has no {key}"));
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let moment = |power| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>() / count;
            let deviation = moment(2).sqrt();
            let [mean_there, deviation_there, kurtosis_there] = *there;
            // The fixture has four digits.
            let digits = 1e-3 * mean_there.abs().max(deviation_there);
            let told = format!("{name}, {key}: mean {mean}, deviation {deviation}, in timm {there:?}");
            if deviation_there < NOTHING {
                assert!(deviation < NOTHING && (mean - mean_there).abs() < NOTHING + digits, "{told}");
                continue;
            }
            let of_mean = deviation_there * (2.0 / count).sqrt();
            assert!((mean - mean_there).abs() < ERRORS * of_mean + digits, "{told}");
            let of_deviation = deviation_there * ((kurtosis_there - 1.0).max(0.0) / (2.0 * count)).sqrt();
            assert!((deviation - deviation_there).abs() < ERRORS * of_deviation + digits, "{told}");
            if values.len() >= MANY {
                let kurtosis = moment(4) / deviation.powi(4);
                let of_kurtosis = (48.0 / count).sqrt();
                assert!((kurtosis - kurtosis_there).abs() < ERRORS * of_kurtosis + 0.02, "{told}, kurtosis {kurtosis}");
            }
        }
    }
}
