//! Several devices in one process. Here each is the CPU, which is a device like others to what divides a run among them.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use common::{Scratch, netkin, refusal};
use netkin::Model;
use netkin::attacks::{Attack, Bound, Perturbed, Surrogate, Targets, Wishes, named};
use netkin::device::DeviceName;
use netkin::images::{Dataset, RgbImage, idx, save_png};
use netkin::runs::{Shard, Trust};
use netkin::similarity::sat::{self, Devices, NetworkRecord, Progress, SatConfig, SatError, SatFolder, SatRun};
use netkin_weights::{Error, HubConfig, Precision, embedded};

/// Five chunks, the last of 12 images.
const IMAGES: usize = 140;
/// Those of a chunk.
const CHUNK: usize = sat::CHUNK;

/// Two networks that netkin carries.
fn load(device: &Device) -> Result<Vec<Model>, Error> {
    let load = |name: &str| -> Result<Model, Error> {
        let loaded = netkin_weights::load(&name.parse()?, Precision::F32, device, &HubConfig::nowhere(), &mut |_| {})?;
        Ok(Model::new(loaded, Precision::F32, device.clone()))
    };
    ["demo_vit_patch7", "demo_mobilenetv2"].into_iter().map(load).collect()
}

/// Images that are attacked `batch` at once, of which everything is kept.
fn config(batch: usize) -> SatConfig {
    let attack = named("pgd", &Wishes { steps: Some(2), ..Wishes::default() }).unwrap();
    SatConfig { attack, batch, keep_adversarial: true, keep_logits: true, ..SatConfig::default() }
}

struct Setting {
    scratch: Scratch,
    models: Vec<Model>,
    dataset: Dataset,
}

impl Setting {
    fn new() -> Self {
        let scratch = Scratch::new();
        let (folder, labels) = (scratch.path("images"), scratch.path("labels.csv"));
        std::fs::create_dir_all(&folder).unwrap();
        let pictures = idx::parse(embedded::TEST_IMAGES, "images".as_ref()).unwrap().elements;
        let classes = idx::parse(embedded::TEST_LABELS, "labels".as_ref()).unwrap().elements;
        let mut table = String::from("file,label\n");
        for (index, (grey, class)) in pictures.chunks_exact(28 * 28).zip(&classes).take(IMAGES).enumerate() {
            let name = format!("{index:03}.png");
            let levels = grey.iter().flat_map(|&level| [level; 3]).collect();
            save_png(&folder.join(&name), &RgbImage::new(28, 28, levels)).unwrap();
            table += &format!("{name},{class}\n");
        }
        std::fs::write(&labels, table).unwrap();
        let dataset = Dataset::open(&folder, Some(&labels)).unwrap();
        Self { scratch, models: load(&Device::flex()).unwrap(), dataset }
    }

    /// A run on so many devices, as the command does it.
    fn run(
        &self,
        name: &str,
        devices: usize,
        config: &SatConfig,
        load: &sat::Load<'_>,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<SatRun, SatError> {
        let named = vec![(DeviceName::Flex, Device::flex()); devices];
        let devices = Devices { named: &named, load };
        sat::run_on(&self.models, devices, &self.dataset, config, &self.scratch.path(name), progress)
    }

    /// The chunks of which something is missing.
    fn missing(&self, name: &str, config: &SatConfig) -> Vec<usize> {
        let networks = NetworkRecord::of_all(&self.models, config.crop);
        let folder = SatFolder::open(networks, &self.dataset, config, &self.scratch.path(name), Trust::Files).unwrap();
        let plan = folder.plan(Shard::WHOLE).unwrap();
        plan.shelves.iter().filter(|shelf| !shelf.missing.is_empty()).map(|shelf| shelf.index).collect()
    }

    /// Every file of a run with its bytes.
    fn contents(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let root = self.scratch.path(name);
        let mut all = contents(&root, &root);
        all.sort();
        all
    }
}

fn contents(root: &Path, folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(contents(root, &path)),
            false => all.push((path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap())),
        }
    }
    all
}

#[test]
fn several_devices_give_the_bytes_of_one() {
    let setting = Setting::new();
    // With the largest batch there is one group of images, and others than the first device have nothing to do.
    for (batch, loaded) in [(32, [0, 1, 2]), (64, [0, 1, 2]), (256, [0, 0, 0])] {
        let made = [1, 2, 3].map(|devices| {
            let name = format!("{batch}-{devices}");
            let loads = AtomicUsize::new(0);
            let load = |device: &Device| {
                loads.fetch_add(1, Ordering::Relaxed);
                load(device)
            };
            let mut steps = Vec::new();
            let progress = |event: Progress<'_>| {
                if let Progress::Step { done, total, .. } = event {
                    steps.push((done, total));
                }
            };
            let run = setting.run(&name, devices, &config(batch), &load, progress).unwrap();
            assert!(steps.is_sorted() && steps.last() == Some(&(10, 10)), "{name}: {steps:?}");
            assert_eq!(loads.into_inner(), loaded[devices - 1], "{name}");
            let pairs = serde_json::to_string(&run.pairs()).unwrap();
            (run.matrix().to_csv(), pairs, run.made_by, setting.contents(&name))
        });
        assert!(made[0].3.len() > 10, "units and large ones of each chunk, and what describes the run");
        assert!(made[0] == made[1], "batch {batch}: two devices give other bytes than one");
        assert!(made[0] == made[2], "batch {batch}: three devices give other bytes than one");
    }
}

/// An attack whose device is gone when it comes to a chunk.
#[derive(Debug)]
struct Lost {
    attack: Arc<dyn Attack>,
    chunk: usize,
}

impl Attack for Lost {
    fn name(&self) -> &str {
        self.attack.name()
    }

    fn settings(&self) -> serde_json::Value {
        self.attack.settings()
    }

    fn bound(&self) -> Bound {
        self.attack.bound()
    }

    fn perturb(&self, network: &dyn Surrogate, targets: &Targets) -> Perturbed {
        let chunk_of = |id: &String| id[..3].parse::<usize>().unwrap() / CHUNK;
        assert!(!targets.ids.iter().any(|id| chunk_of(id) == self.chunk), "device lost at chunk {}", self.chunk);
        self.attack.perturb(network, targets)
    }
}

#[test]
fn a_device_that_fails_leaves_the_others_their_work() {
    let setting = Setting::new();
    let config = config(32);
    setting.run("alone", 1, &config, &load, |_| {}).unwrap();
    let alone = setting.contents("alone");
    // Of two devices the first has chunks 0, 2 and 4, and the second has 1 and 3.
    for (chunk, missing) in [(3, vec![3]), (2, vec![2, 4]), (1, vec![1, 3])] {
        let name = format!("lost-at-{chunk}");
        let lost = SatConfig { attack: Arc::new(Lost { attack: config.attack.clone(), chunk }), ..config.clone() };
        let mut told = Vec::new();
        let progress = |event: Progress<'_>| {
            if let Progress::DeviceFailed { device, reason } = event {
                told.push(format!("{device}: {reason}"));
            }
        };
        let error = setting.run(&name, 2, &lost, &load, progress).unwrap_err();
        assert!(matches!(error, SatError::Devices { devices: 2, .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!("1 of 2 devices failed: flex (device lost at chunk {chunk}); what the others had to do is done")
        );
        assert_eq!(told, [format!("flex: device lost at chunk {chunk}")]);
        assert_eq!(setting.missing(&name, &config), missing);
        // The same again, on devices that last.
        setting.run(&name, 2, &config, &load, |_| {}).unwrap();
        assert!(setting.contents(&name) == alone, "{name}: other bytes after going on");
    }
}

#[test]
fn a_device_that_takes_no_networks_leaves_the_others_their_work() {
    let setting = Setting::new();
    let config = config(32);
    let no_room = |_: &Device| -> Result<Vec<Model>, Error> { panic!("CUDA_ERROR_OUT_OF_MEMORY") };
    let error = setting.run("no-room", 2, &config, &no_room, |_| {}).unwrap_err();
    assert!(matches!(error, SatError::Devices { devices: 2, .. }), "{error:?}");
    assert_eq!(setting.missing("no-room", &config), [1, 3]);
    // Weights that are gone, or others now, are no matter of the device.
    let gone = |_: &Device| -> Result<Vec<Model>, Error> { Err(Error::NoFile { path: "weights".into() }) };
    let error = setting.run("gone", 2, &config, &gone, |_| {}).unwrap_err();
    assert!(matches!(error, SatError::Weights(Error::NoFile { .. })), "{error:?}");
    let others = |device: &Device| -> Result<Vec<Model>, Error> { Ok(load(device)?.into_iter().rev().collect()) };
    let error = setting.run("others", 2, &config, &others, |_| {}).unwrap_err();
    assert!(matches!(error, SatError::OtherWeights { .. }), "{error:?}");
}

#[test]
fn several_devices_are_for_sat() {
    for command in [&["models"][..], &["eval", "demo_resnet", "--data", "images"], &["doctor", "demo_resnet"]] {
        let text = refusal(netkin().args(command).args(["--device", "flex,cuda:0"]), 2);
        assert!(text.contains("flex,cuda:0 are several devices") && text.contains("netkin sat"), "{text}");
    }
    let sat = ["sat", "@demo", "--data", "images", "--run", "run", "--device", "flex,flex"];
    let text = refusal(netkin().args(sat), 2);
    assert!(text.contains("flex is named twice"), "{text}");
}
