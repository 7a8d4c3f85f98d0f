//! Bad input ends with one clear sentence and an exit code: 2 where nothing could be done, 1 where something was left out.

mod common;

use common::{Scratch, netkin, path_of, refusal, rewrite};
use netkin::images::{RgbImage, save_png};

/// The sentence says all of `parts`.
#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn eval(spec: &str, scratch: &Scratch) -> assert_cmd::Command {
    let (folder, labels) = scratch.images(2, |_| 0);
    let mut command = netkin();
    command.args(["eval", spec, "--data"]).arg(folder).arg("--labels").arg(labels);
    command
}

#[test]
fn an_unknown_model_brings_its_neighbours() {
    let text = refusal(netkin().args(["info", "resnet5O"]), 2);
    says(&text, &["resnet5O", "resnet50"]);
    for command in ["bench", "doctor"] {
        let text = refusal(netkin().args([command, "resnet5O"]), 2);
        says(&text, &["resnet5O", "resnet50"]);
    }
}

#[test]
fn a_pattern_without_matches_is_said() {
    let text = refusal(netkin().args(["models", "qqq*"]), 1);
    says(&text, &["qqq*"]);
}

#[test]
fn missing_weights() {
    let scratch = Scratch::new();
    let text = refusal(&mut eval("demo_resnet=/nonexistent/w.safetensors", &scratch), 2);
    says(&text, &["/nonexistent/w.safetensors"]);
}

#[test]
fn truncated_weights() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    let bytes = std::fs::read(path_of(&spec)).unwrap();
    std::fs::write(path_of(&spec), &bytes[..bytes.len() / 2]).unwrap();
    says(&refusal(&mut eval(&spec, &scratch), 2), &["demo_resnet-1.safetensors"]);
}

#[test]
fn weights_of_another_model() {
    let scratch = Scratch::new();
    let other = scratch.weights("demo_seresnet", 1);
    let spec = format!("demo_resnet={}", path_of(&other).display());
    says(&refusal(&mut eval(&spec, &scratch), 2), &["demo_seresnet"]);
}

#[test]
fn weights_that_are_not_numbers() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    rewrite(path_of(&spec), |name, values| {
        if name == "fc.bias" {
            values[3] = f32::NAN;
        }
    });
    says(&refusal(&mut eval(&spec, &scratch), 2), &["fc.bias"]);
}

/// No size that a file asks for ends in the allocator.
#[test]
fn a_configuration_of_enormous_images() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    for (value, parts) in [
        (r#""input_size": [3, 100000, 100000]"#, ["100000 × 100000", "2048"]),
        (r#""crop_pct": 1e-9"#, ["crop_pct", "twentieth"]),
    ] {
        let text = format!(r#"{{"architecture": "demo_resnet", "pretrained_cfg": {{{value}}}}}"#);
        std::fs::write(scratch.path("config.json"), text).unwrap();
        says(&refusal(&mut eval(&spec, &scratch), 2), &["config.json", parts[0], parts[1]]);
        says(&refusal(netkin().args(["info", &spec]), 2), &["config.json", parts[0], parts[1]]);
    }
}

#[test]
fn a_pickle_under_the_name_of_safetensors() {
    let scratch = Scratch::new();
    let path = scratch.path("w.safetensors");
    // The beginning of what torch.save wrote before it wrote zip files.
    std::fs::write(&path, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.").unwrap();
    says(&refusal(&mut eval(&format!("demo_resnet={}", path.display()), &scratch), 2), &["w.safetensors"]);
}

#[test]
fn a_folder_without_images() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    let folder = scratch.path("empty");
    std::fs::create_dir(&folder).unwrap();
    let text = refusal(netkin().args(["eval", &spec, "--data"]).arg(&folder), 2);
    says(&text, &["empty", "no images"]);
    let text = refusal(netkin().args(["eval", &spec, "--data", "/nonexistent"]), 2);
    says(&text, &["/nonexistent"]);
}

#[test]
fn a_corrupt_image_is_left_out_and_counted() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    let (folder, labels) = scratch.images(4, |_| 0);
    std::fs::write(folder.join("02.png"), b"\x89PNG\r\n\x1a\n and then nothing").unwrap();
    let mut command = netkin();
    command.args(["eval", &spec, "--data"]).arg(&folder).arg("--labels").arg(&labels);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    says(&stderr, &["02.png", "1 image(s) skipped"]);
    says(&stdout, &["model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation", ",3,"]);
    let text = refusal(command.arg("--strict"), 2);
    says(&text, &["02.png"]);

    // The same in a run of attacks, which also keeps what it has.
    let other = scratch.weights("demo_resnext", 2);
    let mut command = netkin();
    command.args(["sat", &spec, &other, "--steps", "1", "--json", "--data"]).arg(&folder);
    command.arg("--labels").arg(&labels).arg("--run").arg(scratch.path("run"));
    let output = command.output().unwrap();
    says(&String::from_utf8_lossy(&output.stderr), &["02.png", "1 image(s) skipped"]);
    assert_eq!(output.status.code(), Some(1));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["data"]["skipped"][0], "02.png");
}

#[test]
fn labels_that_do_not_fit() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    let (folder, labels) = scratch.images(2, |_| 0);
    let eval = |csv: &str| {
        std::fs::write(&labels, csv).unwrap();
        let mut command = netkin();
        command.args(["eval", &spec, "--data"]).arg(&folder).arg("--labels").arg(&labels);
        refusal(&mut command, 2)
    };
    says(&eval("file,label\n00.png,10\n"), &["00.png", "10"]);
    says(&eval("file,label\n00.png,0\nabsent.png,0\n"), &["absent.png", "ine 3"]);
    says(&eval("file,label\n00.png,cat\n"), &["cat", "ine 2"]);
    says(&eval("name,label\n00.png,0\n"), &["file"]);
}

/// Whatever would give bytes for ever, or wait for them for ever, is refused at once, wherever a file is named.
#[cfg(target_os = "linux")]
#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    let (folder, labels) = scratch.images(2, |_| 0);
    let pipe = scratch.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for endless in [pipe.as_path(), std::path::Path::new("/dev/zero")] {
        let refused = |command: &mut assert_cmd::Command| {
            let text = refusal(command.timeout(std::time::Duration::from_secs(20)), 2);
            says(&text, &["not a regular file", &endless.display().to_string()]);
        };
        let mut eval = netkin();
        eval.args(["eval", &format!("demo_resnet={}", endless.display()), "--data"]).arg(&folder);
        refused(eval.arg("--labels").arg(&labels));
        let mut eval = netkin();
        refused(eval.args(["eval", &spec, "--data"]).arg(&folder).arg("--labels").arg(endless));
        refused(netkin().args(["models", "--config"]).arg(endless));
        refused(netkin().args(["matrix", "summary"]).arg(endless));
        refused(netkin().args(["matrix", "compare"]).arg(endless).arg(endless));
        refused(netkin().arg("cluster").arg(endless));
        refused(netkin().arg("report").arg(endless).arg("--out").arg(scratch.path("report.html")));
        refused(netkin().args(["importance", "--published", "--components"]).arg(endless));
        let mut forward = netkin();
        forward.args(["forward", &spec, "--inputs"]).arg(endless).arg("--out").arg(scratch.path("out"));
        refused(&mut forward);
    }
    // Among images it is one that cannot be read.
    std::fs::remove_file(folder.join("01.png")).unwrap();
    std::fs::rename(&pipe, folder.join("01.png")).unwrap();
    let by_class = scratch.path("by-class");
    std::fs::create_dir(&by_class).unwrap();
    std::fs::rename(&folder, by_class.join("0")).unwrap();
    let mut eval = netkin();
    eval.args(["eval", &spec, "--data"]).arg(&by_class).timeout(std::time::Duration::from_secs(20));
    says(&refusal(&mut eval, 1), &["01.png", "not a regular file"]);
    let mut sat = netkin();
    let other = scratch.weights("demo_resnext", 2);
    sat.args(["sat", &spec, &other, "--steps", "1", "--data"]).arg(&by_class).arg("--run").arg(scratch.path("run"));
    says(&refusal(sat.timeout(std::time::Duration::from_secs(20)), 2), &["01.png", "not a regular file"]);
}

#[test]
fn doubts_about_labels_are_said_where_networks_are_known() {
    let scratch = Scratch::new();
    let (one, other) = (scratch.weights("demo_resnet", 1), scratch.weights("demo_resnext", 2));
    let (folder, _) = scratch.images(2, |_| 0);
    let data = scratch.path("data");
    for class in ["cat", "dog"] {
        std::fs::create_dir_all(data.join(class)).unwrap();
        std::fs::copy(folder.join("00.png"), data.join(class).join("a.png")).unwrap();
    }
    let doubt = ["2 class folders", "2 of 10 classes"];
    let stderr = |command: &mut assert_cmd::Command| {
        let output = command.arg("--data").arg(&data).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    says(&stderr(netkin().args(["eval", &one])), &doubt);
    says(&stderr(netkin().args(["attack", &one, "--steps", "1", "--out"]).arg(scratch.path("out"))), &doubt);
    let mut sat = netkin();
    let said = stderr(sat.args(["sat", &one, &other, "--steps", "1", "--run"]).arg(scratch.path("run")));
    says(&said, &doubt);
    assert_eq!(said.matches("class folders").count(), 1, "once for all networks: {said}");
    // A label beyond the classes is refused, with or without an offset.
    std::fs::rename(data.join("cat"), data.join("8")).unwrap();
    std::fs::rename(data.join("dog"), data.join("9")).unwrap();
    assert!(!stderr(netkin().args(["eval", &one])).contains("class folders"));
    let mut eval = netkin();
    eval.args(["eval", &one, "--label-offset", "1", "--data"]).arg(&data);
    says(&refusal(&mut eval, 2), &["label 10", "--label-offset"]);
}

/// Checkpoints as training programs leave them are unwrapped, and what was taken is said.
#[test]
fn what_was_taken_of_a_checkpoint_is_said() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    let bytes = std::fs::read(path_of(&spec)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let wrapped = file.tensors().into_iter().map(|(name, tensor)| (format!("model.{name}"), tensor));
    let bytes = safetensors::serialize(wrapped, None::<std::collections::HashMap<String, String>>).unwrap();
    std::fs::write(path_of(&spec), bytes).unwrap();
    let output = netkin().args(["--json", "info", &spec]).output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    says(document["weights"]["notes"][0].as_str().unwrap(), &["model. before every key"]);
    let output = eval(&spec, &scratch).arg("--json").output().unwrap();
    says(&String::from_utf8(output.stderr).unwrap(), &["model. before every key"]);
    says(&String::from_utf8(output.stdout).unwrap(), &["model. before every key"]);
}

/// Names may hold what a terminal takes for a command, and lines that pass for the program's own.
#[cfg(unix)]
#[test]
fn names_are_shown_and_not_obeyed() {
    const NAME: &str = "\u{1b}[2J\nnetkin: all is well";
    let scratch = Scratch::new();
    let (spec, other) = (scratch.weights("demo_resnet", 1), scratch.weights("demo_resnext", 2));
    let shown = |command: &mut assert_cmd::Command| {
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        says(&text, &["\\u{1b}[2J", "all is well"]);
        assert!(!text.contains('\u{1b}') && !text.contains("\nnetkin: all"), "{text:?}");
    };
    let odd = scratch.path(NAME);
    let model = format!("demo_resnet.odd={}", odd.display());
    shown(netkin().args(["weights", "path", &model]));
    shown(netkin().args(["weights", "list", &model]));

    // A run folder of which everything is missing.
    let (folder, labels) = scratch.images(3, |index| index);
    let mut plan = netkin();
    plan.args(["plan", &spec, &other, "--steps", "1", "--data"]).arg(&folder).arg("--labels").arg(labels);
    plan.arg("--run").arg(&odd).assert().success();
    shown(netkin().arg("merge").arg("--into").arg(&odd));

    // An image that cannot be decoded.
    let data = scratch.path("data");
    std::fs::create_dir_all(data.join("0")).unwrap();
    std::fs::copy(folder.join("00.png"), data.join("0/00.png")).unwrap();
    std::fs::write(data.join("0").join(format!("{NAME}.png")), "no image").unwrap();
    shown(netkin().args(["eval", &spec, "--data"]).arg(&data));
}

#[test]
fn bf16_is_refused_where_nothing_multiplies_it() {
    for command in ["doctor", "bench"] {
        let arguments = [command, "demo_resnet", "--precision", "bf16"];
        let text = refusal(netkin().args(arguments).env("NETKIN_BF16", "none"), 2);
        says(&text, &["AVX512-BF16", "AMX-BF16", "choose f32"]);
    }
    let scratch = Scratch::new();
    let mut command = eval(&scratch.weights("demo_resnet", 1), &scratch);
    let text = refusal(command.args(["--precision", "bf16"]).env("NETKIN_BF16", "none"), 2);
    says(&text, &["choose f32"]);
}

#[test]
fn far_too_many_threads_are_refused() {
    let mut command = assert_cmd::Command::cargo_bin("netkin").unwrap();
    says(&refusal(command.args(["--threads", "2000", "models", "demo_resnet"]), 2), &["2000 threads"]);
}

#[test]
fn attacks_out_of_range() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    let (folder, labels) = scratch.images(1, |_| 0);
    let attack = |option: &[&str]| {
        let mut command = netkin();
        command.args(["attack", &spec, "--data"]).arg(&folder).arg("--labels").arg(&labels);
        refusal(command.arg("--out").arg(scratch.path("out")).args(option), 2)
    };
    says(&attack(&["--eps", "8"]), &["eps 8", "8/255"]);
    says(&attack(&["--eps=-0.1"]), &["eps -0.1"]);
    says(&attack(&["--eps", "-0.1"]), &["--eps -0.1 is out of range", "from 0 up to 1"]);
    says(&attack(&["--eps", "-8/255"]), &["--eps -0.03", "out of range"]);
    says(&attack(&["--step-size", "-1"]), &["--step-size -1 is out of range"]);
    says(&attack(&["--eps", "4/255,0.1,4/255"]), &["--eps names 4/255 after 4/255"]);
    says(&attack(&["--eps", "1/2,0.5"]), &["--eps names 0.5 after 1/2"]);
    says(&attack(&["--translation", "9999999"]), &["--translation 9999999", "from 1 to 255"]);
    says(&attack(&["--attack", "bsr", "--blocks", "100"]), &["--blocks 100", "from 1 to 16"]);
    says(&attack(&["--momentum", "1e30"]), &["--momentum 1000", "from 0 to 10"]);
    says(&attack(&["--scales", "5000"]), &["--scales 5000", "from 1 to 16"]);
    says(&attack(&["--variance", "0"]), &["--variance 0"]);
    says(&attack(&["--flat", "0"]), &["--flat 0"]);
    says(&attack(&["--attack", "nes", "--queries", "0"]), &["--queries 0"]);
    says(&attack(&["--attack", "nes", "--queries", "1"]), &["--queries 1", "the 2 that"]);
    says(
        &attack(&["--attack", "nes", "--queries", "40", "--pairs", "25"]),
        &["--queries 40", "the 50 that", "--pairs"],
    );
    says(&attack(&["--average", "losses"]), &["--average", "--surrogates"]);
    let protocol =
        |option: &[&str]| attack(&[&["--attack", "mi-fgsm", "--protocol", "transferattack"][..], option].concat());
    says(&protocol(&["--eps", "8/255"]), &["--eps is not as --protocol transferattack", "16/255"]);
    says(&protocol(&["--steps", "3"]), &["--steps is not as --protocol transferattack"]);
    says(&protocol(&["--steps", "10", "--momentum", "0.5"]), &["--momentum is not as --protocol transferattack"]);
    says(&protocol(&["--scales", "5"]), &["--scales is not as --protocol transferattack"]);
    says(&protocol(&["--input-size", "256"]), &["--input-size is not as --protocol transferattack", "224"]);
    says(&protocol(&["--target", "3"]), &["--target is not as --protocol transferattack", "no target"]);
    says(&protocol(&["--surrogates", "demo_mixer"]), &["--surrogates is not as --protocol", "attacked alone"]);
    says(&protocol(&["--mask", "mask.png"]), &["--mask is not as --protocol", "no mask"]);
    says(&attack(&["--momentum", "0", "--look-ahead"]), &["--look-ahead", "--momentum 0", "leave out"]);
    says(&attack(&["--momentum", "-1"]), &["--momentum -1 is out of range"]);
    says(&attack(&["--variance", "2", "--radius", "-1"]), &["--radius -1 is out of range"]);
    says(&attack(&["--target", "-1"]), &["-1", "least-likely"]);
    says(&attack(&["--step-size", "0"]), &["--step-size 0"]);
    says(&attack(&["--steps", "0"]), &["--steps 0", "at least 1"]);
    says(&attack(&["--norm", "l2"]), &["--eps", "l2"]);
    says(&attack(&["--attack", "pgdd"]), &["pgdd", "pgd"]);
    says(&attack(&["--attack", "square", "--momentum", "1"]), &["--momentum", "square"]);
    says(&attack(&["--attack", "autoattack", "--target", "3"]), &["autoattack", "--target"]);
    says(&attack(&["--target", "10"]), &["--target 10", "0 to 9"]);
    says(&attack(&["--target", "cat"]), &["cat", "least-likely"]);
    says(&attack(&["--mask", &folder.join("nothing.png").to_string_lossy()]), &["nothing.png"]);
    let mask = scratch.path("mask.png");
    let masked = |level: u8| {
        save_png(&mask, &RgbImage::new(28, 28, vec![level; 3 * 28 * 28])).unwrap();
        attack(&["--mask", mask.to_str().unwrap()])
    };
    says(&masked(0), &["mask.png", "all black", "no pixel may change"]);
    says(&masked(128), &["mask.png", "784 pixel(s)", "neither black nor white"]);
    // What is read is not written over.
    let root = scratch.path("");
    says(&attack(&["--out", root.to_str().unwrap()]), &["--out", "labels.csv", "write over"]);
    // One image is of one class, so there is no other to mix in.
    says(&attack(&["--attack", "admix"]), &["other classes"]);
    says(&attack(&["--eps", "x"]), &["--eps", "8/255"]);
    assert!(!scratch.path("out").exists(), "nothing was begun");
}

fn sat(scratch: &Scratch, steps: &str) -> assert_cmd::Command {
    let (a, b) = (scratch.weights("demo_resnet", 1), scratch.weights("demo_resnext", 2));
    let (folder, labels) = scratch.images(3, |index| index);
    let mut command = netkin();
    command.args(["sat", &a, &b, "--steps", steps, "--data"]).arg(folder).arg("--labels").arg(labels);
    command
}

#[test]
fn a_run_folder_of_other_settings() {
    let scratch = Scratch::new();
    let run = scratch.path("run");
    sat(&scratch, "1").arg("--run").arg(&run).output().unwrap();
    let before = std::fs::read(run.join("sat.csv")).unwrap();
    let text = refusal(sat(&scratch, "2").arg("--run").arg(&run), 2);
    says(&text, &["steps = 1", "now it is 2", "--run"]);
    assert_eq!(std::fs::read(run.join("sat.csv")).unwrap(), before, "what was there stays");
}

#[test]
fn a_folder_that_cannot_be_written() {
    let scratch = Scratch::new();
    let file = scratch.path("file");
    std::fs::write(&file, "").unwrap();
    let text = refusal(sat(&scratch, "1").arg("--run").arg(file.join("run")), 2);
    says(&text, &["file/run", "cannot"]);
}

/// A file-size limit stands in for a full disk: the write fails in the same place.
#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing() {
    let scratch = Scratch::new();
    let run = scratch.path("run");
    let whole = sat(&scratch, "1").arg("--json").arg("--run").arg(scratch.path("whole")).output().unwrap();
    let mut command = sat(&scratch, "1");
    command.arg("--json").arg("--run").arg(&run);
    let arguments: Vec<_> = command.get_args().map(|a| a.to_owned()).collect();
    let program = command.get_program().to_owned();
    let mut limited = assert_cmd::Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"]).arg(program).args(arguments);
    let text = refusal(&mut limited, 75);
    says(&text, &["cannot write", "nothing that was finished is lost", "may succeed at another time"]);
    // With room again, the same command gives the same bytes.
    let resumed = command.output().unwrap();
    assert_eq!(resumed.stdout, whole.stdout);
    assert!(!whole.stdout.is_empty());
}

#[test]
fn devices_that_are_not_there() {
    let text = refusal(netkin().args(["bench", "demo_resnet", "--device", "gpu"]), 2);
    says(&text, &["gpu", "cuda:0"]);
    if !cfg!(feature = "cuda") {
        let text = refusal(netkin().args(["bench", "demo_resnet", "--device", "cuda:0"]), 2);
        says(&text, &["cuda", "--features cuda"]);
    }
}

#[test]
fn a_model_that_is_always_wrong_makes_no_score() {
    let scratch = Scratch::new();
    let (right, wrong) = (scratch.constant(0), scratch.constant(5).replace("demo_resnet=", "demo_resnet.other="));
    let (folder, labels) = scratch.images(3, |_| 0);
    let mut command = netkin();
    command.args(["sat", &right, &wrong, "--steps", "1", "--json", "--data"]).arg(folder);
    let output = command.arg("--labels").arg(labels).arg("--run").arg(scratch.path("run")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    says(&String::from_utf8_lossy(&output.stderr), &["n = 0"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let pair = &document["pairs"][0];
    assert_eq!((pair["n"].as_u64(), pair["sat"].is_null()), (Some(0), true), "{pair}");
    assert_eq!(document["clean"]["demo_resnet"], 3);
    assert_eq!(document["clean"]["demo_resnet.other"], 0);
}

#[test]
fn a_configuration_with_an_unknown_key() {
    let scratch = Scratch::new();
    let file = scratch.path("netkin.toml");
    let models = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = netkin();
        command.args(["models", "demo_resnet", "--config"]).arg(&file);
        command
    };
    says(&refusal(&mut models("depth = 3\n"), 2), &["netkin.toml", "depth"]);
    says(&refusal(&mut models("[sat]\nepz = 3\n"), 2), &["netkin.toml", "epz", "[sat]"]);
    says(&refusal(&mut models("[sit]\n"), 2), &["[sit]"]);
    says(&refusal(&mut models("json = 3\n"), 2), &["json", "true or false"]);
    says(&refusal(&mut models("json =\n"), 2), &["netkin.toml", "TOML"]);
    let output = models("json = true\n[sat]\nsteps = 3\n").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with('{'), "the option acts");
    says(&refusal(netkin().args(["models", "--config", "/nonexistent.toml"]), 2), &["/nonexistent.toml"]);
}

#[test]
fn the_command_line_wins_over_the_configuration() {
    let scratch = Scratch::new();
    let file = scratch.path("netkin.toml");
    std::fs::write(&file, "[sat]\nsteps = 7\nlimit = 2\n").unwrap();
    let mut command = sat(&scratch, "1");
    let output =
        command.arg("--json").arg("--config").arg(&file).arg("--run").arg(scratch.path("run")).output().unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["attack"]["steps"], 1);
    assert_eq!(document["data"]["images"], 2);
}

#[test]
fn tensors_that_do_not_fit() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    let inputs = scratch.path("inputs.safetensors");
    std::fs::write(&inputs, "nothing").unwrap();
    let mut command = netkin();
    command.args(["forward", &spec, "--inputs"]).arg(&inputs).arg("--out").arg(scratch.path("out.safetensors"));
    says(&refusal(&mut command, 2), &["inputs.safetensors"]);
}

/// Labels are of use for gradients alone.
#[test]
fn a_folder_of_images_needs_labels_for_gradients_only() {
    let scratch = Scratch::new();
    let spec = scratch.weights("demo_resnet", 1);
    let (folder, _) = scratch.images(3, |_| 0);
    let forward = || {
        let mut command = netkin();
        command.args(["forward", &spec, "--inputs"]).arg(&folder).arg("--out").arg(scratch.path("out.safetensors"));
        command
    };
    forward().assert().success();
    assert!(scratch.path("out.safetensors").is_file());
    says(&refusal(forward().arg("--grad"), 2), &["images", "labels"]);
}
