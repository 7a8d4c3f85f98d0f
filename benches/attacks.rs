//! What iterative attacks cost beside the passes through the network that they ask for.
//!
//!     cargo bench --bench attacks                # prints the table of docs/attacks.md
//!     cargo bench --bench attacks -- di-fgsm     # of one attack
//!
//! Each attack is timed in turn with its bare passes: as many of the same images, forward alone and with the gradient of the
//! pixels, as the attack says that it took. The overhead is the ratio of the fastest of either over the rounds, less one: what
//! disturbs a machine only ever adds to a time, and both take turns at meeting it first.

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use netkin::Model;
use netkin::attacks::views::Pool;
use netkin::attacks::{Attack, Effort, Loss, LossOf, Norm, Surrogate, Targets, Wishes, gradient, named};
use netkin::images::RgbImage;
use netkin_weights::{HubConfig, Precision};

const ROUNDS: usize = 12;

/// Network, height and width of the images, images at once, steps of an attack.
const SETTINGS: [(&str, usize, usize, usize); 2] = [("resnet18", 224, 8, 4), ("demo_resnet", 28, 32, 10)];

/// Attacks with their wishes, so that each has about as many passes.
fn attacks(steps: usize, size: usize) -> Vec<(&'static str, Wishes)> {
    let plain = Wishes { steps: Some(steps), ..Wishes::default() };
    let picture = |level| RgbImage::new(size, size, vec![level; 3 * size * size]);
    let pool = Pool::new(vec![(0, picture(50)), (1, picture(200))]);
    let evolution = Wishes { queries: Some(8 * steps), pairs: Some(4), ..Wishes::default() };
    vec![
        ("pgd", plain.clone()),
        ("pgd", Wishes { norm: Some(Norm::L2), eps: Some(1.0), ..plain.clone() }),
        ("mi-fgsm", plain.clone()),
        ("ni-fgsm", plain.clone()),
        ("di-fgsm", Wishes { diversity: Some(1.0), ..plain.clone() }),
        ("ti-fgsm", plain.clone()),
        ("si-ni-fgsm", Wishes { scales: Some(3), ..plain.clone() }),
        ("vmi-fgsm", Wishes { variance: Some(3), ..plain.clone() }),
        ("admix", Wishes { admix: Some(2), scales: Some(2), pool, ..plain.clone() }),
        ("bsr", Wishes { shuffle: Some(3), ..plain.clone() }),
        ("pgn", Wishes { flat: Some(2), ..plain.clone() }),
        ("lf-pgd", plain),
        ("nes", evolution),
    ]
}

/// A network with random weights: time does not depend on them.
fn model(name: &str) -> Model {
    let device = Device::flex();
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let path = folder.path().join("weights.safetensors");
    let entry = netkin_architectures::find(name).expect("the network is registered");
    netkin_weights::save(&entry.build(&device), &path, Precision::F32).expect("the weights can be written");
    let spec = format!("{name}={}", path.display()).parse().expect("NAME=PATH");
    let loaded = netkin_weights::load(&spec, Precision::F32, &device, &HubConfig::nowhere(), &mut |_| {});
    Model::new(loaded.expect("the weights fit"), Precision::F32, device)
}

fn targets(model: &Model, size: usize, batch: usize) -> Targets {
    let values = (0..batch * 3 * size * size).map(|place| (place * 37 % 251) as f32 / 250.0).collect();
    let ids: Vec<String> = (0..batch).map(|index| format!("{index}.png")).collect();
    let labels: Vec<usize> = (0..batch).map(|index| 2 + index % 5).collect();
    let pixels = model.pixels(values, [batch, 3, size, size]);
    Targets::new(pixels, &labels, &ids.iter().map(String::as_str).collect::<Vec<_>>())
}

fn milliseconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() * 1e3
}

/// The passes of an attack and nothing else.
fn passes(model: &Model, targets: &Targets, effort: Effort) {
    let loss: &LossOf = &|logits| Loss::CrossEntropy.of(logits, targets);
    for _ in 0..effort.gradients {
        drop(gradient(model, targets.pixels.clone(), loss));
    }
    for _ in effort.gradients..effort.queries {
        drop(model.losses(targets.pixels.clone(), loss));
    }
}

fn main() {
    netkin::runtime::prepare(None).expect("the first to ask");
    // Cargo adds options of its own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    println!("| network | batch | px | attack | passes | passes, ms | attack, ms | overhead, % |");
    println!("|---|---:|---:|---|---:|---:|---:|---:|");
    let mut largest = f64::NEG_INFINITY;
    for (network, size, batch, steps) in SETTINGS {
        let model = model(network);
        let targets = targets(&model, size, batch);
        for (name, wishes) in attacks(steps, size) {
            if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
                continue;
            }
            let attack: Arc<dyn Attack> = named(name, &wishes).expect("the wishes are in range");
            let effort = attack.perturb(&model, &targets).effort[0];
            passes(&model, &targets, effort);
            let attack = || milliseconds(|| drop(attack.perturb(&model, &targets)));
            let bare = || milliseconds(|| passes(&model, &targets, effort));
            let mut fastest = [f64::INFINITY; 2];
            for round in 0..ROUNDS {
                let times = if round % 2 == 0 {
                    [attack(), bare()]
                } else {
                    let bare = bare();
                    [attack(), bare]
                };
                fastest = std::array::from_fn(|which| fastest[which].min(times[which]));
            }
            let [whole, bare] = fastest;
            let overhead = 100.0 * (whole / bare - 1.0);
            let norm = if wishes.norm == Some(Norm::L2) { " in L2" } else { "" };
            let count = effort.queries;
            println!(
                "| {network} | {batch} | {size} | {name}{norm} | {count} | {bare:.1} | {whole:.1} | {overhead:.1} |"
            );
            largest = largest.max(overhead);
        }
    }
    eprintln!("the largest overhead is {largest:.1} %");
}
