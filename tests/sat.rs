//! A run of `netkin sat`: what is kept is not done again, and a run that was killed gives the bytes of one that was not.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::{Scratch, netkin, refusal};

/// `netkin sat` on networks that [`models`] made and 40 images, two chunks.
fn command(scratch: &Scratch, models: &[String], steps: usize) -> Command {
    let mut command = Command::new(netkin().get_program());
    command.args(["--threads", "2", "--json", "sat"]).args(models);
    command.args(["--steps", &steps.to_string(), "--data"]).arg(scratch.path("images"));
    command.arg("--labels").arg(scratch.path("labels.csv"));
    command
}

fn run(command: &mut Command, folder: &Path) -> Vec<u8> {
    let output = command.arg("--run").arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Three networks that nearly agree, and images with the labels that the first gives them, so that there is something to
/// attack.
fn models(scratch: &Scratch) -> Vec<String> {
    let first = scratch.weights("demo_resnet", 3);
    let (folder, labels) = scratch.images(40, |_| 0);
    let predictions = common::predictions(&first, &folder, &labels);
    scratch.images(40, |index| predictions[index]);
    let others = [1, 2].map(|seed| scratch.perturbed(&first, seed));
    std::iter::once(first).chain(others).collect()
}

/// Every file under `folder` with its time of change.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, SystemTime)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => all.push((path.clone(), path.metadata().unwrap().modified().unwrap())),
        }
    }
    all.sort();
    all
}

/// Every file under `folder` with its bytes.
fn contents(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let files = files(folder).into_iter();
    files.map(|(path, _)| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn a_killed_run_goes_on_and_gives_the_same_bytes() {
    let scratch = Scratch::new();
    let models = models(&scratch);
    let start = Instant::now();
    let whole = run(&mut command(&scratch, &models, 40), &scratch.path("whole"));
    let time = start.elapsed();

    let folder = scratch.path("killed");
    for part in 1..=3 {
        let mut child = command(&scratch, &models, 40).arg("--run").arg(&folder).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(time.mul_f64(0.2 * f64::from(part)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let resumed = run(&mut command(&scratch, &models, 40), &folder);
    assert_eq!(String::from_utf8(resumed), String::from_utf8(whole));
    let csv = |folder: &str| std::fs::read(scratch.path(folder).join("sat.csv")).unwrap();
    assert_eq!(csv("killed"), csv("whole"));
}

#[test]
fn a_finished_run_computes_nothing_and_a_new_model_only_what_is_new() {
    let scratch = Scratch::new();
    let mut models = models(&scratch);
    let third = models.pop().unwrap();
    let folder = scratch.path("run");
    let first = run(&mut command(&scratch, &models, 2), &folder);
    let units = folder.join("units");
    let before = files(&units);
    // File times are that coarse on some systems.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(run(&mut command(&scratch, &models, 2), &folder), first);
    assert_eq!(files(&units), before, "nothing was written again");

    models.push(third);
    let three = run(&mut command(&scratch, &models, 2), &folder);
    let after = files(&units);
    assert!(before.iter().all(|unit| after.contains(unit)), "what was there stayed as it was");
    assert!(after.len() > before.len());
    let fresh = run(&mut command(&scratch, &models, 2), &scratch.path("fresh"));
    assert_eq!(String::from_utf8(three), String::from_utf8(fresh), "as if all three had been there from the beginning");
}

/// A batch spans the units; a run that finds some of them gone computes in the same batches again.
#[test]
fn a_batch_of_several_units_goes_on_with_the_same_bytes() {
    let scratch = Scratch::new();
    let models = models(&scratch);
    let folder = scratch.path("run");
    let large = || {
        let mut command = command(&scratch, &models, 3);
        command.args(["--batch", "64"]);
        command
    };
    let whole = run(&mut large(), &folder);
    let before = contents(&folder.join("units"));
    for (index, (path, _)) in before.iter().enumerate() {
        if index % 3 == 0 {
            std::fs::remove_file(path).unwrap();
        }
    }
    assert_eq!(run(&mut large(), &folder), whole);
    assert_eq!(contents(&folder.join("units")), before);
}

/// The time is said on stderr, so that what goes to stdout stays the same.
#[test]
fn the_time_is_said_apart() {
    let scratch = Scratch::new();
    let models = models(&scratch);
    let output = command(&scratch, &models[..2], 2).arg("--run").arg(scratch.path("run")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("% outside of the networks"), "{said}");
    assert!(!String::from_utf8(output.stdout).unwrap().contains("seconds"));
}

#[test]
fn the_document_and_the_csv_agree() {
    let scratch = Scratch::new();
    let models = &models(&scratch)[..2];
    let folder = scratch.path("run");
    let document: serde_json::Value = serde_json::from_slice(&run(&mut command(&scratch, models, 5), &folder)).unwrap();
    let pairs = document["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 1);
    assert_eq!((&pairs[0]["a"], &pairs[0]["b"]), (&"demo_resnet".into(), &"demo_resnet.1".into()));
    assert_eq!(document["clean"].as_object().unwrap().len(), 2);
    let csv = std::fs::read_to_string(folder.join("sat.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["", "demo_resnet", "demo_resnet.1"]);
    assert_eq!(rows[1][2], rows[2][1], "the matrix is symmetric");
    let number = |name: &str| pairs[0][name].as_u64().unwrap();
    let (n, fooled) = (number("n"), number("fooled_ab") + number("fooled_ba"));
    assert!(n > 10 && fooled > 0, "there is something to see: {}", pairs[0]);
    let score = (100.0 * fooled as f64 / (2 * n) as f64).ln();
    assert_eq!(rows[1][2], format!("{score:.9}"));
    assert_eq!(pairs[0]["sat"].as_f64(), Some(score));
}

/// A unit that changed on the disk is noticed, said, and done again.
#[test]
fn a_damaged_unit_is_done_again() {
    let scratch = Scratch::new();
    let models = &models(&scratch)[..2];
    let folder = scratch.path("run");
    let whole = run(&mut command(&scratch, models, 2), &folder);
    let before = contents(&folder.join("units"));
    for (path, bytes) in &before {
        // In the last value, in the index, in the header, and the file's end gone.
        let length = bytes.len();
        for damaged in
            [flipped(bytes, length - 1), flipped(bytes, 200), flipped(bytes, 9), bytes[..length / 2].to_vec()]
        {
            std::fs::write(path, damaged).unwrap();
            let output = command(&scratch, models, 2).arg("--run").arg(&folder).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains("damaged") && said.contains("done again"), "{said}");
            assert_eq!(output.stdout, whole);
            assert_eq!(contents(&folder.join("units")), before);
        }
    }
    let output = command(&scratch, models, 2).arg("--run").arg(&folder).output().unwrap();
    assert!(!String::from_utf8(output.stderr).unwrap().contains("damaged"), "the folder has healed");
}

fn flipped(bytes: &[u8], position: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[position] ^= 4;
    bytes
}

#[test]
fn adversarial_images_are_kept_on_request_and_used() {
    let scratch = Scratch::new();
    let mut models = models(&scratch);
    let third = models.pop().unwrap();
    let run_all = |models: &[String], folder: &str, options: &[&str]| {
        let mut command = command(&scratch, models, 2);
        let output = command.args(options).arg("--run").arg(scratch.path(folder)).output().unwrap();
        assert!(output.status.success());
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let without = run_all(&models, "without", &[]);
    assert!(!scratch.path("without/large").exists());
    let with = run_all(&models, "with", &["--keep-adversarial", "--keep-logits"]);
    assert_eq!(without.0, with.0);
    assert!(!with.1.contains("attacked again"));
    let large = contents(&scratch.path("with/large"));
    // Asked for later, they are made later, and are the same.
    run_all(&models, "without", &["--keep-adversarial", "--keep-logits"]);
    let names =
        |files: &[(std::path::PathBuf, Vec<u8>)]| -> Vec<Vec<u8>> { files.iter().map(|file| file.1.clone()).collect() };
    assert_eq!(names(&contents(&scratch.path("without/large"))), names(&large));

    models.push(third);
    let (fresh, _) = run_all(&models, "fresh", &[]);
    let (from_kept, said) = run_all(&models, "with", &[]);
    assert_eq!(from_kept, fresh);
    assert!(!said.contains("attacked again"), "{said}");
    // A kept image that is damaged is made again.
    for (path, bytes) in contents(&scratch.path("with/large")) {
        std::fs::write(path, flipped(&bytes, bytes.len() - 1)).unwrap();
    }
    std::fs::remove_dir_all(scratch.path("with/units")).unwrap();
    assert_eq!(run_all(&models, "with", &[]).0, fresh);

    std::fs::remove_dir_all(scratch.path("without/large")).unwrap();
    let (made_again, said) = run_all(&models, "without", &[]);
    assert_eq!(made_again, fresh);
    assert!(said.contains("attacked again") && said.contains("--keep-adversarial"), "{said}");
}

#[test]
fn networks_can_be_attacked_in_another_precision() {
    let scratch = Scratch::new();
    let models = models(&scratch);
    let run_in = |precision: &str, folder: &str| {
        let mut command = command(&scratch, &models, 2);
        command.args(["--attack-precision", precision]);
        serde_json::from_slice::<serde_json::Value>(&run(&mut command, &scratch.path(folder))).unwrap()
    };
    let plain: serde_json::Value =
        serde_json::from_slice(&run(&mut command(&scratch, &models, 2), &scratch.path("plain"))).unwrap();
    // Their own is no other: the same run.
    let before = files(&scratch.path("plain/units"));
    assert_eq!(run_in("f32", "plain"), plain);
    assert_eq!(files(&scratch.path("plain/units")), before);
    let wide = run_in("f64", "wide");
    assert_eq!((&wide["precision"], &wide["attack"]["precision"]), (&"f32".into(), &"f64".into()));
    assert_eq!(wide["clean"], plain["clean"]);
    // What was attacked in one precision is not gone on with in another.
    let mut command = command(&scratch, &models, 2);
    let output = command.args(["--attack-precision", "f64", "--run"]).arg(scratch.path("plain")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("attack.precision = null, and now it is \"f64\""));
}

#[test]
fn what_is_kept_can_be_read_without_networks() {
    let scratch = Scratch::new();
    let models = models(&scratch);
    let folder = scratch.path("run");
    let mut command = command(&scratch, &models, 3);
    let document: serde_json::Value = serde_json::from_slice(&run(command.arg("--keep-logits"), &folder)).unwrap();
    let outcomes = netkin::similarity::sat::Outcomes::open(&folder).unwrap();
    let again = outcomes.collect(0.01).unwrap();
    assert_eq!(serde_json::to_value(again.pairs()).unwrap(), document["pairs"]);
    assert_eq!(std::fs::read_to_string(folder.join("sat.csv")).unwrap(), again.matrix().to_csv());
    assert_eq!(outcomes.chunks(), 2);
    let mut images = 0;
    for index in 0..2 {
        let chunk = outcomes.chunk(index).unwrap();
        for (network, clean) in chunk.clean.iter().enumerate() {
            let logits = outcomes.logits(index, network).unwrap().unwrap();
            for (class, logits) in clean.iter().zip(logits.chunks_exact(10)) {
                let best = (0..10).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
                assert_eq!(class.map(usize::from), best);
            }
            assert_eq!(chunk.adversarial[network][0].len(), chunk.attacked[network].len());
        }
        images += chunk.clean[0].len();
    }
    assert_eq!(images, 40);
    std::fs::remove_dir_all(folder.join("units")).unwrap();
    let error = outcomes.collect(0.01).unwrap_err().to_string();
    assert!(error.contains("6 of 6 units of work"), "{error}");
}

#[test]
fn images_that_changed_since_the_run_began_are_refused() {
    let scratch = Scratch::new();
    let models = &models(&scratch)[..2];
    let folder = scratch.path("run");
    run(&mut command(&scratch, models, 1), &folder);
    let image = scratch.path("images/03.png");
    std::fs::copy(scratch.path("images/04.png"), &image).unwrap();
    let output = command(&scratch, models, 1).arg("--run").arg(&folder).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("03.png") && said.contains("another content"), "{said}");
}

#[test]
fn a_set_is_compared_at_one_size() {
    let scratch = Scratch::new();
    let models = models(&scratch);
    let list = scratch.path("models.txt");
    std::fs::write(&list, models.join("\n")).unwrap();
    let set = [format!("@{}", list.display())];
    let folder = scratch.path("run");
    let sized = || {
        let mut command = command(&scratch, &set, 2);
        command.args(["--input-size", "24"]);
        command
    };
    let document: serde_json::Value = serde_json::from_slice(&run(&mut sized(), &folder)).unwrap();
    assert_eq!(document["models"].as_array().unwrap().len(), 3);
    assert_eq!(document["models"][0]["preprocessing"]["input_size"], serde_json::json!([24, 24]));

    let refused = |mut command: Command, folder: &Path| {
        let output = command.arg("--run").arg(folder).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(command(&scratch, &set, 2), &folder);
    assert!(said.contains("input_size"), "the folder is for another size: {said}");
    let said = refused(command(&scratch, &models[..1], 2), &scratch.path("one"));
    assert!(said.contains("a similarity needs two"), "{said}");
}

/// What images are to be taken for is a setting of the run, as all that its results depend on.
#[test]
fn a_target_is_kept_among_the_settings() {
    let scratch = Scratch::new();
    let models = &models(&scratch)[..2];
    let with = |target: &[&str], folder: &str| {
        let mut command = command(&scratch, models, 3);
        command.args(["--limit", "12"]).args(target);
        let document: serde_json::Value = serde_json::from_slice(&run(&mut command, &scratch.path(folder))).unwrap();
        document
    };
    let targeted = with(&["--target", "least-likely"], "targeted");
    assert_eq!(targeted["attack"]["target"], "least-likely");
    let plain = with(&[], "plain");
    assert_eq!(plain["attack"]["target"], serde_json::Value::Null);
    let adversarial = |document: &serde_json::Value| document["white_box"].clone();
    let first = adversarial(&targeted);
    assert_eq!(adversarial(&with(&["--target", "least-likely"], "targeted")), first, "it goes on");
    let again = |options: &[&str]| {
        let mut command = netkin();
        command.arg("sat").args(models).args(["--steps", "3", "--limit", "12", "--data"]).arg(scratch.path("images"));
        command.arg("--labels").arg(scratch.path("labels.csv")).args(options);
        refusal(command.arg("--run").arg(scratch.path("targeted")), 2)
    };
    let said = again(&["--target", "random"]);
    assert!(said.contains("target") && said.contains("least-likely") && said.contains("random"), "{said}");
    let said = again(&[]);
    assert!(said.contains("target"), "{said}");
    let said = again(&["--target", "10"]);
    assert!(said.contains("--target 10 is no class of demo_resnet"), "{said}");
    let said = again(&["--attack", "autoattack", "--target", "1"]);
    assert!(said.contains("--target"), "{said}");
}
