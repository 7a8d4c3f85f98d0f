//! Training: it learns, repeats itself, goes on after any step to the same bits, and says clearly what it cannot do.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::Device;
use netkin::images::{DecodeError, RgbImage, save_png};
use netkin::training::augment::{Augmentation, Crop};
use netkin::training::data::{self, Images, Source, Split};
use netkin::training::objective::CrossEntropy;
use netkin::training::optimizer::Kind;
use netkin::training::schedule::Per;
use netkin::training::{self, Ended, EpochReport, Event, Recipe, Run, Trained, TrainingError};
use netkin_architectures::Network;
use netkin_weights::{Precision, to_safetensors};
use safetensors::{Dtype, SafeTensors};

const SIDE: usize = 28;

/// Four classes, told by the quarter of the image that is bright, on a noisy background.
fn quarter_images(count: usize) -> Vec<(RgbImage, usize)> {
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 26) as u8
    };
    (0..count)
        .map(|image| {
            let label = image % 4;
            let mut data = Vec::new();
            for place in 0..SIDE * SIDE {
                let (row, column) = (place / SIDE, place % SIDE);
                let quarter = row / (SIDE / 2) * 2 + column / (SIDE / 2);
                data.extend([(); 3].map(|()| noise() + if quarter == label { 150 } else { 0 }));
            }
            (RgbImage::new(SIDE, SIDE, data), label)
        })
        .collect()
}

fn quarters(count: usize) -> Arc<dyn Source> {
    let (images, labels) = quarter_images(count).into_iter().unzip();
    Arc::new(Images::new(images, labels, 4).unwrap())
}

/// Three epochs of five batches of a small residual network.
fn recipe() -> Recipe {
    let mut recipe = Recipe::open("fashion-mnist", &[]).unwrap();
    recipe.model = "demo_resnet".into();
    (recipe.epochs, recipe.batch_size, recipe.optimizer.lr) = (3, 8, 3e-3);
    recipe.checkpoint_every = 2;
    recipe
}

/// A transformer with everything that is drawn at random, and everything that a checkpoint must hold.
fn busy_recipe(optimizer: Kind) -> Recipe {
    let mut recipe = recipe();
    recipe.model = "demo_vit_patch7".into();
    recipe.optimizer.name = optimizer;
    recipe.optimizer.accumulate = 2;
    recipe.optimizer.clip_norm = Some(0.5);
    recipe.regularisation.drop_path = 0.2;
    recipe.regularisation.dropout = 0.1;
    recipe.regularisation.ema_decay = 0.8;
    recipe.augmentation = Augmentation {
        crop: Crop::RandomResized,
        rand_augment: "rand-m9-mstd0.5-inc1".into(),
        erase: 0.5,
        mixup: 0.8,
        cutmix: 1.0,
        repeats: 2,
        ..Augmentation::default()
    };
    recipe
}

fn train_until(
    recipe: &Recipe,
    folder: Option<&Path>,
    stop: &AtomicBool,
    mut on_event: impl FnMut(&Event),
) -> Result<Trained, TrainingError> {
    let run = Run {
        recipe,
        objective: &CrossEntropy,
        training: quarters(44),
        testing: quarters(20),
        folder,
        device: &Device::flex(),
        stop,
        initial: None,
    };
    training::train(&run, &mut on_event)
}

fn train(recipe: &Recipe, folder: Option<&Path>, on_event: impl FnMut(&Event)) -> Result<Trained, TrainingError> {
    train_until(recipe, folder, &AtomicBool::new(false), on_event)
}

fn bytes(network: &Network) -> Vec<u8> {
    to_safetensors(network, Precision::F32).unwrap()
}

/// What of a report does not depend on the machine.
fn told(report: &EpochReport) -> (usize, f64, f64, f64, Option<f64>, usize) {
    let EpochReport { epoch, loss, train_accuracy, test_accuracy, ema_accuracy, skipped, .. } = report;
    (*epoch, *loss, *train_accuracy, *test_accuracy, *ema_accuracy, *skipped)
}

fn assert_same(trained: &Trained, expected: &Trained, when: &str) {
    assert_eq!(trained.ended, Ended::Done);
    assert!(bytes(&trained.network) == bytes(&expected.network), "{when}");
    let average = |trained: &Trained| trained.ema.as_ref().map(bytes);
    assert!(average(trained) == average(expected), "average, {when}");
    assert!(trained.epochs.iter().map(told).eq(expected.epochs.iter().map(told)), "{when}");
}

#[test]
fn a_run_killed_at_any_checkpoint_goes_on_to_the_same_weights() {
    for recipe in [recipe(), busy_recipe(Kind::AdamW)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let copied = |from: &Path, to: &Path| {
            fs::create_dir_all(to).unwrap();
            for name in ["checkpoint", "log.jsonl"] {
                fs::copy(from.join(name), to.join(name)).unwrap();
            }
        };
        let mut kept: Vec<PathBuf> = Vec::new();
        let whole = train(&recipe, Some(&path), |event| {
            if let Event::Checkpoint { epoch, batch } = event {
                let copy = folder.path().join(format!("{epoch}-{batch}"));
                copied(&path, &copy);
                kept.push(copy);
            }
        })
        .unwrap();
        // After batches 2 and 4 of 5, and after each epoch.
        assert_eq!(kept.len(), 9);
        assert_eq!(whole.epochs.len(), 3);
        for copy in kept {
            copied(&copy, &path);
            let resumed = train(&recipe, Some(&path), |_| ()).unwrap();
            assert_same(&resumed, &whole, &copy.display().to_string());
        }
        let log = fs::read_to_string(path.join("log.jsonl")).unwrap();
        let epochs = log.lines().filter(|line| line.contains("\"event\":\"epoch\"")).count();
        assert_eq!(epochs, 3, "each epoch stands in the log once:\n{log}");
        assert!(fs::read_to_string(path.join("curves.svg")).unwrap().contains("accuracy"));
        let echoed = fs::read_to_string(path.join("recipe.toml")).unwrap();
        assert_eq!(Recipe::parse("echo", &echoed, &[]).unwrap(), recipe);
    }
}

#[test]
fn a_run_stopped_after_any_step_goes_on_to_the_same_weights() {
    for (optimizer, stops) in [(Kind::AdamW, 1..=7), (Kind::Sgd, 4..=4), (Kind::Lamb, 5..=5)] {
        let recipe = Recipe { checkpoint_every: 0, ..busy_recipe(optimizer) };
        let whole = train(&recipe, None, |_| ()).unwrap();
        assert!(whole.ema.is_some());
        for steps in stops {
            let folder = tempfile::tempdir().unwrap();
            let stop = AtomicBool::new(false);
            let mut done = 0;
            let stopped = train_until(&recipe, Some(folder.path()), &stop, |event| {
                done += usize::from(matches!(event, Event::Step(_)));
                stop.store(done >= steps, Ordering::Relaxed);
            });
            assert_eq!(stopped.unwrap().ended, Ended::Stopped);
            let resumed = train(&recipe, Some(folder.path()), |_| ()).unwrap();
            assert_same(&resumed, &whole, &format!("{optimizer:?} after {steps} steps"));
        }
    }
}

#[test]
fn the_seed_decides_and_reading_threads_do_not() {
    let run = |seed, threads| {
        let recipe = Recipe { epochs: 2, seed, threads, ..recipe() };
        bytes(&train(&recipe, None, |_| ()).unwrap().network)
    };
    let first = run(1, 1);
    assert!(first == run(1, 3));
    assert!(first != run(2, 1));
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let short = Recipe { epochs: 2, ..recipe() };
    train(&short, Some(folder.path()), |_| ()).unwrap();
    let refused = |recipe: &Recipe| train(recipe, Some(folder.path()), |_| ()).unwrap_err().to_string();
    let message = refused(&recipe());
    assert!(message.contains("belongs to another run: its epochs is 2, yours is 3"), "{message}");
    let mut slower = short.clone();
    slower.optimizer.lr = 1e-3;
    let message = refused(&slower);
    assert!(message.contains("its optimizer.lr is 0.003, yours is 0.001"), "{message}");
    let mut averaged = short.clone();
    averaged.regularisation.ema_decay = 0.5;
    let message = refused(&averaged);
    assert!(message.contains("its regularisation.ema_decay is 0.0, yours is 0.5"), "{message}");

    let run = Run {
        recipe: &short,
        objective: &CrossEntropy,
        training: quarters(40),
        testing: quarters(20),
        folder: Some(folder.path()),
        device: &Device::flex(),
        stop: &AtomicBool::new(false),
        initial: None,
    };
    let message = training::train(&run, &mut |_| ()).unwrap_err().to_string();
    let expected = "it was trained on 44 images of 4 classes (0 to 43), yours are 40 images of 4 classes (0 to 39)";
    assert!(message.contains(expected), "{message}");
    // What the weights do not depend on may change.
    train(&Recipe { checkpoint_every: 7, threads: 2, log_every: 1, ..short }, Some(folder.path()), |_| ()).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = Recipe { epochs: 2, ..recipe() };
    let checkpoint = folder.path().join("checkpoint");
    train(&recipe, Some(folder.path()), |_| ()).unwrap();
    let whole = fs::read(&checkpoint).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&whole[..whole.len() / 2], &flipped, b"", b"no checkpoint"] {
        fs::write(&checkpoint, damaged).unwrap();
        let error = train(&recipe, Some(folder.path()), |_| ()).unwrap_err();
        assert!(matches!(error, TrainingError::Checkpoint { .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.contains("it is damaged") && message.contains("remove it to train from the beginning"),
            "{message}"
        );
    }
    fs::remove_file(&checkpoint).unwrap();
    fs::create_dir(&checkpoint).unwrap();
    let message = train(&recipe, Some(folder.path()), |_| ()).unwrap_err().to_string();
    assert!(message.contains("not a regular file"), "{message}");
}

#[test]
fn a_folder_that_cannot_be_written_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("no folder");
    fs::write(&file, "").unwrap();
    let message = train(&recipe(), Some(&file.join("run")), |_| ()).unwrap_err().to_string();
    assert!(message.starts_with("cannot write "), "{message}");
    let message = train(&recipe(), Some(&file), |_| ()).unwrap_err().to_string();
    assert!(message.ends_with("is a file, and a run is kept in a folder; give a folder as --run"), "{message}");
}

#[test]
fn a_folder_in_which_another_process_trains_is_left_alone() {
    let scratch = common::Scratch::new();
    let run = scratch.path("run");
    fs::create_dir(&run).unwrap();
    let lock = fs::File::create(run.join("lock")).unwrap();
    lock.lock().unwrap();
    let error = train(&recipe(), Some(&run), |_| ()).unwrap_err();
    assert!(matches!(error, TrainingError::Busy { .. }), "{error}");
    let mut command = common::netkin();
    command.args(["train", "demo_resnet", "--epochs", "1", "--data"]).arg(scratch.fashion_mnist());
    let said = common::refusal(command.arg("--run").arg(&run), 75);
    assert!(said.contains("another process trains in "), "{said}");
    assert_eq!(fs::read_dir(&run).unwrap().count(), 1, "nothing was written");
}

#[test]
fn what_no_machine_holds_is_refused_before_anything_is_written() {
    let scratch = common::Scratch::new();
    let (data, run) = (scratch.fashion_mnist(), scratch.path("run"));
    let refused = |options: &[&str]| {
        let mut command = common::netkin();
        command.args(["train", "demo_resnet", "--data"]).arg(&data).arg("--run").arg(&run).args(options);
        common::refusal(&mut command, 2)
    };
    for (options, expected) in [
        (["--set", "input_size=100000"], "input_size is 100000, but must be from 1 to 2048 pixels"),
        (["--set", "classes=100000000"], "classes is 100000000, but must be from 1 to 1048576"),
        (["--batch", "99999999999"], "batch_size is 99999999999, but must be from 1 to 1048576"),
        (["--lr", "nan"], "give a number above 0 such as 1e-3"),
        (["--seed", "18446744073709551615"], "at least 0 and below 2^63"),
    ] {
        let said = refused(&options);
        assert!(said.contains(expected), "{said}");
    }
    assert!(!run.exists());
    let shown = common::text(&["train", "--print-recipe", "--lr", "1e30"]);
    assert_eq!(Recipe::parse("shown", &shown, &[]).unwrap().optimizer.lr, 1e30);
}

#[test]
fn what_contradicts_itself_or_teaches_nothing_is_refused() {
    let scratch = common::Scratch::new();
    let (data, run) = (scratch.fashion_mnist(), scratch.path("run"));
    let refused = |options: &[&str]| {
        let mut command = common::netkin();
        command.args(["train", "demo_resnet", "--data"]).arg(&data).arg("--run").arg(&run).args(options);
        let output = command.assert().code(2).get_output().clone();
        assert!(output.stdout.is_empty(), "no head of a table that has no rows");
        String::from_utf8(output.stderr).unwrap()
    };
    for (options, expected) in [
        (["--lr", "0.2", "--set", "optimizer.lr=0.1"], "--lr and --set optimizer.lr give the same value"),
        (["--batch", "64", "--set", "batch_size=0"], "--batch and --set batch_size give the same value"),
        (["--epochs", "2", "--set", "seed=9223372036854775808"], "of at least 0 and below 2^63"),
        (["--epochs", "2", "--recipe", "diverge"], "no networks to differ from"),
        (["--epochs", "2", "--set", "diverge.alpha=0.1"], "by `netkin diverge`"),
        (["--epochs", "2", "--set", "augmentation.rand_augment=rand-m9-n1000000"], "must be n1 to n16"),
    ] {
        let said = refused(&options);
        assert!(said.contains(expected), "{said}");
    }
    assert!(!run.exists());
}

/// A class folder without images is told by its name, and nothing else changes; of one class alone nothing is learnt.
#[test]
fn classes_without_images_are_told_by_name() {
    let scratch = common::Scratch::new();
    let data = scratch.path("images");
    let save = |class: &str| {
        for (split, (image, _)) in ["train", "test"].into_iter().zip(quarter_images(2)) {
            let path = data.join(split).join(class);
            fs::create_dir_all(&path).unwrap();
            save_png(&path.join("image.png"), &image).unwrap();
        }
    };
    let command = |run: &str| {
        let mut command = common::netkin();
        command
            .args(["train", "demo_resnet", "--epochs", "1", "--data"])
            .arg(&data)
            .arg("--run")
            .arg(scratch.path(run));
        command
    };
    save("cat");
    let said = common::refusal(&mut command("one"), 2);
    assert!(said.contains("all training images are of the class 0") && !scratch.path("one").exists(), "{said}");
    save("dog");
    fs::create_dir_all(data.join("train/emu")).unwrap();
    let output = command("two").assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("1 of 3 classes without training images, of which nothing is learnt: emu"), "{said}");
}

/// Images of which some come only once they are let go.
struct Held {
    images: Arc<dyn Source>,
    free: usize,
    is_let_go: Arc<AtomicBool>,
}

impl Source for Held {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn classes(&self) -> usize {
        self.images.classes()
    }

    fn label(&self, index: usize) -> usize {
        self.images.label(index)
    }

    fn id(&self, index: usize) -> String {
        self.images.id(index)
    }

    fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
        let start = Instant::now();
        // Without a limit, a fault would hang the test.
        while index >= self.free && !self.is_let_go.load(Ordering::Relaxed) && start.elapsed().as_secs() < 20 {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.images.read(index)
    }

    fn fingerprint(&self) -> String {
        self.images.fingerprint()
    }
}

#[test]
fn a_run_that_waits_for_images_stops_and_goes_on_to_the_same_weights() {
    let recipe = Recipe { checkpoint_every: 0, ..recipe() };
    let whole = train(&recipe, None, |_| ()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (stop, is_let_go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let training = Arc::new(Held { images: quarters(44), free: 20, is_let_go: Arc::clone(&is_let_go) });
    let run = Run {
        recipe: &recipe,
        objective: &CrossEntropy,
        training,
        testing: quarters(20),
        folder: Some(folder.path()),
        device: &Device::flex(),
        stop: &stop,
        initial: None,
    };
    let asks = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
        })
    };
    // The checkpoint is there before the threads that read have ended, which is when they are let go.
    let stopped = training::train(&run, &mut |event| {
        if matches!(event, Event::Checkpoint { .. }) {
            assert!(stop.load(Ordering::Relaxed), "the first epoch cannot have ended");
            is_let_go.store(true, Ordering::Relaxed);
        }
    });
    asks.join().unwrap();
    let stopped = stopped.unwrap();
    assert_eq!((stopped.ended, stopped.epochs.len()), (Ended::Stopped, 0));
    let resumed = train(&recipe, Some(folder.path()), |_| ()).unwrap();
    assert_same(&resumed, &whole, "stopped while it waited");
}

/// A folder takes the place of the checkpoint for an epoch, as a disk that is full does.
#[test]
fn a_checkpoint_that_cannot_be_written_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe();
    let checkpoint = folder.path().join("checkpoint");
    let (mut refused, mut written) = (Vec::new(), 0);
    let trained = train(&recipe, Some(folder.path()), |event| match event {
        Event::Step(report) if (report.epoch, report.batch) == (1, 1) => {
            fs::create_dir_all(checkpoint.join("full")).unwrap();
        }
        Event::Epoch(report) if report.epoch == 1 => fs::remove_dir_all(&checkpoint).unwrap(),
        Event::NotWritten { reason } => refused.push(reason.clone()),
        Event::Checkpoint { .. } => written += 1,
        _ => {}
    })
    .unwrap();
    assert_eq!((refused.len(), written), (3, 6), "{refused:?}");
    assert!(refused.iter().all(|reason| reason.starts_with("cannot write ") && reason.contains("checkpoint")));
    // There was none before, so that much would be lost.
    assert!(refused.iter().all(|reason| reason.contains("it would begin anew; make room")), "{refused:?}");
    assert!(trained.is_kept);
    assert_same(&trained, &train(&recipe, None, |_| ()).unwrap(), "with a full disk");
    let resumed = train(&recipe, Some(folder.path()), |_| ()).unwrap();
    assert_same(&resumed, &trained, "from the last checkpoint");

    // A run whose last checkpoint fails says so.
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint");
    let unkept = train(&Recipe { epochs: 2, ..recipe }, Some(folder.path()), |event| {
        if let Event::Step(_) = event {
            let _ = fs::remove_file(&checkpoint);
            fs::create_dir_all(checkpoint.join("full")).unwrap();
        }
    });
    assert!(!unkept.unwrap().is_kept);
}

/// The loss of the only batch is finite, the weights that its step makes are not.
#[test]
fn weights_that_are_no_numbers_are_told_with_the_step_that_made_them() {
    let mut recipe = Recipe { checkpoint_every: 0, epochs: 2, batch_size: 44, ..recipe() };
    // Half of it in the second epoch, beyond what f32 holds.
    recipe.optimizer.lr = 1e39;
    recipe.schedule.per = Per::Epoch;
    recipe.schedule.warmup_lr = 1e-3;
    let error = train(&recipe, None, |_| ()).unwrap_err();
    assert!(matches!(error, TrainingError::Diverged { epoch: 2, batch: 1, loss: None, .. }), "{error}");
    let message = error.to_string();
    assert!(message.starts_with("the step of epoch 2, batch 1 made weights that are no finite numbers; "), "{message}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_the_last_good_checkpoint_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = Recipe { checkpoint_every: 0, ..recipe() };
    // A transformer, since batch normalisation withstands weights of any size.
    recipe.model = "demo_vit_patch7".into();
    // 0.001 in the first epoch, 10³⁰ in the second.
    recipe.optimizer.lr = 1e30;
    recipe.schedule.per = Per::Epoch;
    recipe.schedule.warmup_lr = 1e-3;
    let mut kept = Vec::new();
    let checkpoint = folder.path().join("checkpoint");
    let error = train(&recipe, Some(folder.path()), |event| {
        if let Event::Checkpoint { .. } = event {
            kept = fs::read(&checkpoint).unwrap();
        }
    })
    .unwrap_err();
    assert!(matches!(error, TrainingError::Diverged { epoch: 2, .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("lower the learning rate"), "{message}");
    assert!(message.ends_with("checkpoint keeps the state before epoch 2, batch 1"), "{message}");
    assert!(!kept.is_empty() && fs::read(&checkpoint).unwrap() == kept);
    let log = fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["epoch"]), (&"failed".into(), &2.into()));
    assert_eq!(last["reason"], message);

    let folder = tempfile::tempdir().unwrap();
    recipe.schedule.warmup_epochs = 0;
    let message = train(&recipe, Some(folder.path()), |_| ()).unwrap_err().to_string();
    assert!(message.ends_with(" has no checkpoint yet, so the same command begins anew"), "{message}");
}

/// Images whose storage goes and comes.
struct Storage {
    source: Arc<dyn Source>,
    is_gone: AtomicBool,
}

impl Storage {
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { source: quarters(count), is_gone: AtomicBool::new(false) })
    }
}

impl Source for Storage {
    fn len(&self) -> usize {
        self.source.len()
    }
    fn classes(&self) -> usize {
        self.source.classes()
    }
    fn label(&self, index: usize) -> usize {
        self.source.label(index)
    }
    fn id(&self, index: usize) -> String {
        self.source.id(index)
    }
    fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
        if self.is_gone.load(Ordering::Relaxed) {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(DecodeError::Read { name: self.id(index), source });
        }
        self.source.read(index)
    }
    fn fingerprint(&self) -> String {
        self.source.fingerprint()
    }
}

/// Nothing that was trained is lost, and nothing is trained without the images that were out of reach.
#[test]
fn a_run_whose_images_are_out_of_reach_goes_on_from_before_them() {
    for optimizer in [Kind::AdamW, Kind::Sgd] {
        let recipe = Recipe { checkpoint_every: 0, batch_size: 4, threads: 1, ..busy_recipe(optimizer) };
        let whole = train(&recipe, None, |_| ()).unwrap();
        // The training images in the second epoch, the test images after the first or the second one.
        for (set, epoch) in [("training", 2), ("test", 1), ("test", 2)] {
            let folder = tempfile::tempdir().unwrap();
            let (training, testing) = (Storage::new(44), Storage::new(20));
            let run = Run {
                recipe: &recipe,
                objective: &CrossEntropy,
                training: training.clone(),
                testing: testing.clone(),
                folder: Some(folder.path()),
                device: &Device::flex(),
                stop: &AtomicBool::new(false),
                initial: None,
            };
            let storage = if set == "training" { &training } else { &testing };
            let error = training::train(&run, &mut |event| match event {
                Event::Step(step) if step.epoch == epoch => storage.is_gone.store(true, Ordering::Relaxed),
                _ => {}
            })
            .unwrap_err();
            let message = error.to_string();
            assert_eq!(matches!(error, TrainingError::Outage { .. }), epoch == 2, "{message}");
            let kept =
                format!("nothing that was trained is lost: the same command goes on after epoch {epoch}, batch ");
            assert!(message.contains(set) && message.contains(&kept), "{message}");
            assert!(fs::read_to_string(folder.path().join("log.jsonl")).unwrap().contains("\"event\":\"failed\""));
            storage.is_gone.store(false, Ordering::Relaxed);
            let resumed = training::train(&run, &mut |_| ()).unwrap();
            assert_same(&resumed, &whole, &format!("{set} images gone in epoch {epoch}"));
            assert!(resumed.epochs.iter().all(|epoch| (epoch.skipped, epoch.test_skipped) == (0, 0)));
        }
    }
}

/// Class folders with 24 training and 8 test images, of each of which one cannot be read.
fn damaged_images(folder: &Path) {
    for (split, count) in [("train", 24), ("test", 8)] {
        for (index, (image, label)) in quarter_images(count).into_iter().enumerate() {
            let path = folder.join(split).join(label.to_string()).join(format!("{index:02}.png"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            save_png(&path, &image).unwrap();
        }
    }
    fs::write(folder.join("train/1/13.png"), "no image").unwrap();
    fs::write(folder.join("test/2/02.png"), "no image").unwrap();
}

/// As README.md says of every command; also when an earlier process has told them.
#[test]
fn the_command_ends_with_1_if_images_were_left_out() {
    let scratch = common::Scratch::new();
    let data = scratch.path("images");
    damaged_images(&data);
    for _ in 0..2 {
        let mut command = common::netkin();
        command.args(["train", "demo_resnet", "--epochs", "1", "--batch", "8", "--data"]).arg(&data);
        let said = common::refusal(command.arg("--run").arg(scratch.path("run")), 1);
        assert!(said.contains("some images could not be read"), "{said}");
    }
    let log = fs::read_to_string(scratch.path("run").join("log.jsonl")).unwrap();
    assert!(log.contains("\"skipped\":1,\"test_skipped\":1"), "{log}");
}

/// Of many images that are left out the first are named, and what lies beside the class folders is said once.
#[test]
fn what_is_left_out_is_told_in_few_lines() {
    let scratch = common::Scratch::new();
    let data = scratch.path("images");
    damaged_images(&data);
    for label in [0, 1] {
        for file in fs::read_dir(data.join(format!("train/{label}"))).unwrap() {
            fs::write(file.unwrap().path(), "no image").unwrap();
        }
    }
    fs::write(data.join("train/loose.png"), "").unwrap();
    let mut command = common::netkin();
    command.args(["train", "demo_resnet", "--epochs", "1", "--batch", "8", "--data"]).arg(&data);
    let said = common::refusal(command.arg("--run").arg(scratch.path("run")), 1);
    assert_eq!(said.lines().filter(|line| line.contains("skipped ")).count(), 11, "{said}");
    assert!(said.contains("skipped 3 more images that could not be read; the log names them"), "{said}");
    assert!(said.contains("warning: 1 images in ") && said.contains(": loose.png"), "{said}");
    let log = fs::read_to_string(scratch.path("run").join("log.jsonl")).unwrap();
    assert_eq!(log.matches("\"event\":\"skipped\"").count(), 13);
}

#[test]
fn an_unreadable_image_is_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    damaged_images(folder.path());
    let recipe = Recipe { epochs: 2, ..recipe() };
    let run = Run {
        recipe: &recipe,
        objective: &CrossEntropy,
        training: data::open(folder.path(), Split::Train).unwrap(),
        testing: data::open(folder.path(), Split::Test).unwrap(),
        folder: None,
        device: &Device::flex(),
        stop: &AtomicBool::new(false),
        initial: None,
    };
    let mut skipped = Vec::new();
    let trained = training::train(&run, &mut |event| {
        if let Event::Skipped { id, reason } = event {
            skipped.push((id.clone(), reason.clone()));
        }
    })
    .unwrap();
    let mut ids: Vec<&str> = skipped.iter().map(|(id, _)| id.as_str()).collect();
    ids.sort();
    assert_eq!(ids, ["1/13.png", "2/02.png"], "each is told once: {skipped:?}");
    assert!(trained.epochs.iter().all(|epoch| (epoch.skipped, epoch.test_skipped) == (1, 1)));
    // Of the seven that could be read.
    let sevenths = 7.0 * trained.epochs[1].test_accuracy;
    assert!((sevenths - sevenths.round()).abs() < 1e-9);

    for label in 0..4 {
        for file in fs::read_dir(folder.path().join(format!("train/{label}"))).unwrap() {
            fs::write(file.unwrap().path(), "no image").unwrap();
        }
    }
    let nothing = Run { training: data::open(folder.path(), Split::Train).unwrap(), ..run };
    let message = training::train(&nothing, &mut |_| ()).unwrap_err().to_string();
    assert!(message.starts_with("no image of the training set could be read; of the first: "), "{message}");
}

#[test]
fn it_learns_and_its_weights_are_stored_as_timm_names_them() {
    let recipe = Recipe { epochs: 10, augmentation: Augmentation::none(), ..recipe() };
    let trained = train(&recipe, None, |_| ()).unwrap();
    let last = trained.epochs.last().unwrap();
    assert!(last.train_accuracy > 0.9, "{last:?}");
    assert!(last.test_accuracy > 0.9, "{last:?}");
    let accuracy = training::accuracy(&trained.network, &recipe, quarters(20), &Device::flex());
    assert_eq!(accuracy, last.test_accuracy);

    let half = to_safetensors(&trained.network, Precision::F16).unwrap();
    let half = SafeTensors::deserialize(&half).unwrap();
    for name in ["conv1.0.weight", "bn1.running_var", "layer2.0.downsample.1.weight", "fc.bias"] {
        assert_eq!(half.tensor(name).unwrap().dtype(), Dtype::F16);
    }
}

/// All numbers of a network.
fn numbers(network: &Network) -> Vec<f64> {
    let bytes = to_safetensors(network, Precision::F64).unwrap();
    let mut tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let number = |eight: &[u8]| f64::from_le_bytes(eight.try_into().unwrap());
    tensors.iter().flat_map(|(_, tensor)| tensor.data().chunks_exact(8).map(number)).collect()
}

#[test]
fn gradients_of_two_small_batches_are_those_of_a_large_one() {
    let mut large = Recipe { precision: Precision::F64, augmentation: Augmentation::none(), ..recipe() };
    // A network that sees each image by itself.
    large.model = "demo_vit_patch7".into();
    let mut small = large.clone();
    (small.batch_size, small.optimizer.accumulate) = (4, 2);
    let train = |recipe: &Recipe| {
        let run = Run {
            recipe,
            objective: &CrossEntropy,
            training: quarters(40),
            testing: quarters(4),
            folder: None,
            device: &Device::flex(),
            stop: &AtomicBool::new(false),
            initial: None,
        };
        numbers(&training::train(&run, &mut |_| ()).unwrap().network)
    };
    let (large, small) = (train(&large), train(&small));
    let largest = large.iter().zip(&small).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest < 1e-9, "{largest}");
}

#[test]
fn classes_may_be_more_than_the_images_have_and_not_fewer() {
    let wide = train(&Recipe { epochs: 2, classes: Some(7), ..recipe() }, None, |_| ()).unwrap();
    let bytes = bytes(&wide.network);
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("fc.bias").unwrap().shape(), [7]);
    let message = train(&Recipe { classes: Some(3), ..recipe() }, None, |_| ()).unwrap_err().to_string();
    assert!(message.contains("the training set has 4 classes, but the network 3"), "{message}");
}

#[test]
fn what_training_begins_with_counts() {
    let (device, entry) = (Device::flex(), netkin_architectures::find("demo_resnet").unwrap());
    let recipe = Recipe { epochs: 2, ..recipe() };
    let folder = tempfile::tempdir().unwrap();
    let begin = |initial: Network, folder: Option<&Path>| {
        let run = Run {
            recipe: &recipe,
            objective: &CrossEntropy,
            training: quarters(44),
            testing: quarters(20),
            folder,
            device: &device,
            stop: &AtomicBool::new(false),
            initial: Some(initial),
        };
        training::train(&run, &mut |_| ())
    };
    let drawn = |seed| training::initial_network(entry.config, 4, seed, &device);
    // As it is drawn without; frozen networks train all the same.
    let scratch = train(&recipe, None, |_| ()).unwrap();
    assert_same(&begin(drawn(recipe.seed).freeze(), Some(folder.path())).unwrap(), &scratch, "the same begin");
    let message = begin(drawn(9), Some(folder.path())).unwrap_err().to_string();
    assert!(message.contains("its initial weights is"), "{message}");
    let message = begin(training::initial_network(entry.config, 5, 0, &device), None).unwrap_err().to_string();
    assert!(message.contains("tells 5 classes apart, but 4 are learnt"), "{message}");
}

#[test]
fn sets_without_images_are_refused() {
    let recipe = recipe();
    let run = Run {
        recipe: &recipe,
        objective: &CrossEntropy,
        training: quarters(8),
        testing: Arc::new(Images::new(Vec::new(), Vec::new(), 4).unwrap()),
        folder: None,
        device: &Device::flex(),
        stop: &AtomicBool::new(false),
        initial: None,
    };
    let error = training::train(&run, &mut |_| ());
    assert_eq!(error.unwrap_err().to_string(), "the test set has no images; give at least one");
}

/// The command writes what others load, goes on after SIGTERM, and does not mix recipes.
#[cfg(unix)]
#[test]
fn the_command_stops_at_sigterm_and_goes_on() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let scratch = common::Scratch::new();
    let data = scratch.fashion_mnist();
    let arguments = |run: &Path| -> Vec<std::ffi::OsString> {
        let words = ["--threads", "1", "train", "demo_mobilenetv2", "--epochs", "8", "--batch", "16", "--set"];
        let mut all: Vec<std::ffi::OsString> = words.into_iter().map(Into::into).collect();
        all.push("regularisation.ema_decay=0.9".into());
        for (option, path) in [("--data", data.as_path()), ("--run", run)] {
            all.extend([option.into(), path.into()]);
        }
        all
    };
    let whole = scratch.path("whole");
    common::netkin().args(arguments(&whole)).assert().success();

    let stopped = scratch.path("stopped");
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("netkin"))
        .args(arguments(&stopped))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The head of the table and the first epoch.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let head = lines.next().unwrap().unwrap();
    assert_eq!(head, "epoch,loss,train_accuracy,test_accuracy,images_per_second,ema_accuracy");
    assert!(lines.next().unwrap().unwrap().starts_with("1,"));
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains("stopped; the same command goes on with epoch "), "{said}");
    assert!(!stopped.join("model.safetensors").exists());

    let resumed = common::netkin().args(arguments(&stopped)).assert().success().get_output().clone();
    let said = String::from_utf8(resumed.stderr).unwrap();
    assert!(said.contains("goes on with epoch "), "{said}");
    for name in ["model.safetensors", "model_ema.safetensors", "recipe.toml", "config.json"] {
        assert!(fs::read(whole.join(name)).unwrap() == fs::read(stopped.join(name)).unwrap(), "{name}");
    }
    // Once more: there is nothing to do.
    let finished = common::netkin().args(arguments(&stopped)).assert().success().get_output().clone();
    let said = String::from_utf8(finished.stderr).unwrap();
    assert!(said.contains("is finished: all 8 epochs are done; to train further, "), "{said}");

    let refused = |options: &[&str]| common::refusal(common::netkin().args(arguments(&stopped)).args(options), 2);
    let said = refused(&["--set", "optimizer.momentum=0.5"]);
    assert!(said.contains("belongs to another run") && said.contains("optimizer.momentum"), "{said}");
    let said = refused(&["--set", "optimizer.momentun=0.5"]);
    assert!(said.contains("did you mean optimizer.momentum?"), "{said}");
    let said = refused(&["--data", &scratch.path("stopped").display().to_string()]);
    assert!(said.contains("has no training images"), "{said}");
}

#[test]
fn the_command_shows_recipes_and_begins_with_weights() {
    let shown = common::text(&["train", "--print-recipe", "--recipe", "deit-tiny", "--batch", "256"]);
    let recipe = Recipe::parse("shown", &shown, &[]).unwrap();
    assert_eq!(recipe, Recipe::open("deit-tiny", &["batch_size=256".into()]).unwrap());

    // Fewer epochs than the recipe's warm-up are told, on stderr and in the recipe.
    let lowered = common::netkin().args(["train", "--print-recipe", "--epochs", "1"]).assert().success();
    let output = lowered.get_output();
    let note = "schedule.warmup_epochs is lowered from 1 to 0, since epochs is 1\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("netkin: {note}"));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with(&format!("# {note}")));

    let scratch = common::Scratch::new();
    let (data, run) = (scratch.fashion_mnist(), scratch.path("run"));
    let mut command = common::netkin();
    command.args(["train", "--from", "demo_resnet", "--epochs", "2", "--set", "classes=12", "--json", "--data"]);
    let output = command.arg(&data).arg("--run").arg(&run).assert().success().get_output().clone();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["epochs"].as_array().unwrap().len(), 2);
    assert_eq!(document["recipe"]["normalisation"]["mean"][0], 0.5);
    let bytes = fs::read(run.join("model.safetensors")).unwrap();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().tensor("fc.weight").unwrap().shape()[0], 12);
    let spec = format!("demo_resnet={}", run.join("model.safetensors").display());
    assert!(common::text(&["weights", "check", &spec]).contains("12 classes"));

    // A recipe of one's own that has another normalisation than the weights is not followed in silence.
    let own = scratch.path("own.toml");
    fs::write(&own, "base = \"fashion-mnist\"\nepochs = 1\n[normalisation]\nmean = [0.1, 0.1, 0.1]").unwrap();
    let mut command = common::netkin();
    command.args(["train", "--from", "demo_resnet", "--recipe"]).arg(&own).arg("--data").arg(&data);
    let output = command.arg("--run").arg(scratch.path("own")).assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("images are normalised as demo_resnet wants them (mean [0.5, 0.5, 0.5]"), "{said}");

    // The report shows the training, and no matrix.
    let page = scratch.path("report.html");
    let report = |options: &[&str]| {
        let mut command = common::netkin();
        command.arg("report").arg(&run).arg("--out").arg(&page).args(options);
        command
    };
    report(&["--figures", &scratch.path("figures").display().to_string()]).assert().success();
    let html = fs::read_to_string(&page).unwrap();
    for part in ["Training of demo_resnet", "2 of 2", "learning rate", "test accuracy", "classes = 12"] {
        assert!(html.to_lowercase().contains(&part.to_lowercase()), "{part}");
    }
    assert!(fs::read_to_string(scratch.path("figures").join("curves.svg")).unwrap().contains("learning rate"));
    assert!(common::refusal(&mut report(&["--k", "2"]), 2).contains("is a training, which has no matrix"));

    let mut wrong = common::netkin();
    wrong
        .args(["train", "demo_mixer", "--from", "demo_resnet", "--data"])
        .arg(&data)
        .arg("--run")
        .arg(scratch.path("x"));
    let said = common::refusal(&mut wrong, 2);
    assert!(said.contains("--from gives weights of demo_resnet, but the network is demo_mixer"), "{said}");
    let mut warm = common::netkin();
    warm.args(["train", "demo_resnet", "--epochs", "1", "--set", "schedule.warmup_epochs=1", "--data"])
        .arg(&data)
        .arg("--run")
        .arg(scratch.path("x"));
    let said = common::refusal(&mut warm, 2);
    assert!(said.contains("set schedule.warmup_epochs to at most 0, or epochs to at least 2"), "{said}");
    let mut unnamed = common::netkin();
    unnamed.args(["train", "--data"]).arg(&data).arg("--run").arg(scratch.path("x"));
    assert!(common::refusal(&mut unnamed, 2).contains("names no network; give one as MODEL"));
}

/// The command trains what is missing, goes on from there, and does not mix settings.
#[test]
fn training_diversity_goes_on_where_it_was() {
    let scratch = common::Scratch::new();
    let (data, out) = (scratch.fashion_mnist(), scratch.path("diversity"));
    let command = |options: &[&str]| {
        let mut command = common::netkin();
        command.args(["training-diversity", "demo_vit_patch7", "--other", "demo_resnet", "--images", "128"]);
        command
            .args(["--test-images", "24", "--steps", "1", "--epochs", "1", "--data"])
            .arg(&data)
            .arg("--out")
            .arg(&out);
        command.args(options);
        command
    };
    let first = command(&["--json"]).assert().success().get_output().clone();
    let document: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    let networks = document["networks"].as_array().unwrap();
    assert_eq!(networks.len(), 12);
    let architecture = &document["architectures"][0];
    let pairs: Vec<u64> =
        architecture["comparisons"].as_array().unwrap().iter().map(|row| row[1]["pairs"].as_u64().unwrap()).collect();
    assert_eq!(pairs, [10, 10, 3]);
    assert_eq!(document["between_architectures"]["pairs"], 1);

    let weights = out.join("networks").join("demo_vit_patch7.seed2.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::remove_file(&weights).unwrap();
    let again = command(&["--json"]).assert().success().get_output().clone();
    assert!(fs::read(&weights).unwrap() == bytes, "what was missing is trained to the same weights");
    assert!(first.stdout == again.stdout);
    let said = common::refusal(&mut command(&["--batch", "32"]), 2);
    assert!(said.contains("other options") && said.contains("--out"), "{said}");
}
