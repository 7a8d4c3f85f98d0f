//! A run that many processes share: `plan`, `sat --shard`, `status`, `merge`. However it was divided, stopped and merged,
//! its results have the bytes of a run that was done alone.

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{Scratch, netkin, path_of};

/// Two networks that nearly agree and 100 images, four chunks.
struct Setting {
    scratch: Scratch,
    models: Vec<String>,
}

impl Setting {
    fn new() -> Self {
        let scratch = Scratch::new();
        let first = scratch.weights("demo_resnet", 3);
        let (folder, labels) = scratch.images(100, |_| 0);
        let predictions = common::predictions(&first, &folder, &labels);
        scratch.images(100, |index| predictions[index]);
        let second = scratch.perturbed(&first, 1);
        Self { scratch, models: vec![first, second] }
    }

    fn command(&self, name: &str, folder: &str) -> Command {
        let mut command = Command::new(netkin().get_program());
        command.env("HF_HUB_OFFLINE", "1").args(["--threads", "1", "--json", name]).args(&self.models);
        command.args(["--steps", "2", "--data"]).arg(self.scratch.path("images"));
        command.arg("--labels").arg(self.scratch.path("labels.csv"));
        command.arg("--run").arg(self.scratch.path(folder));
        command
    }

    fn shard(&self, folder: &str, shard: &str) -> Command {
        let mut command = self.command("sat", folder);
        command.args(["--shard", shard]);
        command
    }

    /// The bytes of stdout and of sat.csv of a run that is done alone.
    fn alone(&self) -> (String, Vec<u8>) {
        let stdout = ok(&mut self.command("sat", "alone"));
        (stdout, std::fs::read(self.scratch.path("alone/sat.csv")).unwrap())
    }

    fn merged(&self, from: &[&str], into: &str) -> Output {
        let mut command = Command::new(netkin().get_program());
        command.args(["--json", "merge"]).args(from.iter().map(|name| self.scratch.path(name)));
        command.arg("--into").arg(self.scratch.path(into)).output().unwrap()
    }

    fn status(&self, folder: &str, shards: &str) -> (Option<i32>, serde_json::Value) {
        let mut command = Command::new(netkin().get_program());
        command.args(["--json", "status"]).arg(self.scratch.path(folder)).args(["--shards", shards]);
        let output = command.output().unwrap();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

#[track_caller]
fn ok(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[test]
fn shares_in_one_folder_give_the_bytes_of_a_run_alone() {
    let setting = Setting::new();
    let (stdout, csv) = setting.alone();
    let plan: serde_json::Value = serde_json::from_str(&ok(&mut setting.command("plan", "run"))).unwrap();
    assert_eq!((&plan["chunks"], &plan["total"], &plan["missing"]), (&4.into(), &8.into(), &8.into()));
    let (code, status) = setting.status("run", "3");
    assert_eq!((code, status["array"].as_str()), (Some(1), Some("0-2")));

    let share: serde_json::Value = serde_json::from_str(&ok(&mut setting.shard("run", "0/3"))).unwrap();
    assert_eq!((&share["total"], &share["done_now"]), (&4.into(), &4.into()), "chunks 0 and 3 on two networks");
    let (code, status) = setting.status("run", "3");
    assert_eq!((code, status["array"].as_str(), &status["done"]), (Some(1), Some("1-2"), &4.into()));
    // Another number of shares goes on from what is there: chunk 1 is new, chunk 3 is done.
    let share: serde_json::Value = serde_json::from_str(&ok(&mut setting.shard("run", "1/2"))).unwrap();
    assert_eq!((&share["total"], &share["done_before"], &share["done_now"]), (&4.into(), &2.into(), &2.into()));
    let merged = setting.merged(&[], "run");
    assert_eq!(merged.status.code(), Some(1), "something is missing");
    assert!(text(&merged.stderr).contains("2 of 8 units of work are missing"), "{}", text(&merged.stderr));

    ok(&mut setting.shard("run", "2/3"));
    let (code, status) = setting.status("run", "3");
    assert_eq!((code, status["array"].as_str(), &status["missing"]), (Some(0), Some(""), &0.into()));
    assert_eq!(status["made_by"][0]["units"], 24, "4 chunks of 2 networks, each seen clean and judged twice");
    // No network is needed any more.
    setting.models.iter().for_each(|model| std::fs::remove_file(path_of(model)).unwrap());
    ok(&mut setting.shard("run", "0/3"));
    let merged = setting.merged(&[], "run");
    assert_eq!((merged.status.code(), text(&merged.stdout)), (Some(0), stdout));
    assert_eq!(std::fs::read(setting.scratch.path("run/sat.csv")).unwrap(), csv);
    assert_eq!(files(&setting.scratch.path("run/units")), 4, "one pack for each chunk");
}

#[test]
fn shares_in_folders_of_their_own_are_merged() {
    let setting = Setting::new();
    let (stdout, csv) = setting.alone();
    for (folder, shard) in [("a", "0/2"), ("b", "1/2")] {
        ok(setting.shard(folder, shard).arg("--keep-adversarial"));
    }
    let partly = setting.merged(&["a"], "into");
    assert_eq!(partly.status.code(), Some(1));
    let merged = setting.merged(&["a", "b"], "into");
    assert_eq!((merged.status.code(), text(&merged.stdout)), (Some(0), stdout.clone()));
    assert_eq!(std::fs::read(setting.scratch.path("into/sat.csv")).unwrap(), csv);
    // The command itself finds nothing to do in it.
    assert_eq!(ok(&mut setting.command("sat", "into")), stdout);
    ok(setting.command("sat", "into").arg("--keep-adversarial"));

    ok(setting.command("plan", "other").args(["--steps", "3"]));
    let refused = setting.merged(&["a", "other"], "into2");
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("steps"), "{}", text(&refused.stderr));
    assert!(!setting.scratch.path("into2/units").exists());
    // The same name for other weights.
    let others = Setting::new();
    let second = path_of(&setting.models[1]);
    std::fs::copy(path_of(&others.scratch.perturbed(&others.models[0], 7)), second).unwrap();
    let output = setting.shard("a", "0/2").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "nothing is missing, so no weights were looked at");
    let output = setting.shard("a", "1/2").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("with weights of SHA-256"), "{}", text(&output.stderr));
    ok(&mut setting.command("plan", "c"));
    let refused = setting.merged(&["c"], "into");
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("other weights"), "{}", text(&refused.stderr));
}

/// All at once, one of them killed and started again, two at the same share.
#[test]
fn shares_beside_each_other_with_one_killed_give_the_same_bytes() {
    let setting = Setting::new();
    let (stdout, _) = setting.alone();
    let start = |shard: &str| setting.shard("run", shard).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut killed = start("0/3");
    let mut others: Vec<_> = ["1/3", "2/3", "2/3"].map(start).into();
    std::thread::sleep(Duration::from_millis(700));
    killed.kill().unwrap();
    killed.wait().unwrap();
    others.push(start("0/3"));
    for mut child in others {
        assert!(child.wait().unwrap().success());
    }
    let merged = setting.merged(&[], "run");
    assert_eq!((merged.status.code(), text(&merged.stdout)), (Some(0), stdout));
}

/// A file-size limit stands in for a full disk.
#[cfg(unix)]
#[test]
fn a_share_says_whether_to_try_again() {
    let setting = Setting::new();
    ok(&mut setting.command("plan", "run"));
    let share = setting.shard("run", "0/2");
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"])
        .arg(share.get_program())
        .args(share.get_args());
    let output = limited.output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("at another time"));
    // Images that cannot be decoded are data, and no failure of a share; of the whole they are said with exit code 1.
    std::fs::write(setting.scratch.path("images/03.png"), b"no image").unwrap();
    let output = setting.shard("run", "0/2").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "the image is another than when the run was planned");
    assert!(text(&output.stderr).contains("03.png"), "{}", text(&output.stderr));
    for shard in ["0/2", "1/2"] {
        let output = setting.shard("with-skipped", shard).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr).contains("skipped 03.png"), shard == "0/2");
    }
    let merged = setting.merged(&[], "with-skipped");
    assert_eq!(merged.status.code(), Some(1));
    assert!(text(&merged.stderr).contains("skipped 03.png"));
    // What will never work.
    std::fs::remove_file(path_of(&setting.models[0])).unwrap();
    assert_eq!(setting.shard("new", "0/2").output().unwrap().status.code(), Some(2));
}

#[test]
fn auto_asks_the_environment() {
    let setting = Setting::new();
    ok(&mut setting.command("plan", "run"));
    let mut slurm = setting.shard("run", "auto");
    slurm.env("SLURM_ARRAY_TASK_ID", "2").env("SLURM_ARRAY_TASK_MIN", "1").env("SLURM_ARRAY_TASK_MAX", "4");
    slurm.env("SLURM_ARRAY_TASK_STEP", "1").env("SLURM_ARRAY_TASK_COUNT", "4");
    let share: serde_json::Value = serde_json::from_str(&ok(&mut slurm)).unwrap();
    assert_eq!(share["shard"], "1/4");
    let share = ok(setting.shard("run", "auto/4").env("HQ_TASK_ID", "3"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&share).unwrap()["shard"], "3/4");
    for (shard, words) in [("auto", "no SLURM_ARRAY_TASK_ID"), ("4/4", "I from 0 to N - 1")] {
        let output = setting.shard("run", shard).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
    let (_, status) = setting.status("run", "4");
    assert_eq!(status["array"], "0,2");
}

#[test]
fn a_list_or_a_record_that_was_lost_changes_no_result_unsaid() {
    let setting = Setting::new();
    let (_, csv) = setting.alone();
    let run = setting.scratch.path("alone");
    let merged = |said: &str, code: i32| {
        let output = setting.merged(&[], "alone");
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    };

    let list = std::fs::read_to_string(run.join("images.csv")).unwrap();
    let half: String = list.split_inclusive('\n').take(33).collect();
    for (damaged, said) in [
        (half.as_str(), "images.csv is damaged (it lists 32 images, and run.json says 100)"),
        ("", "images.csv is damaged (it lists 0 images, and run.json says 100)"),
        (&list.replacen("00.png", "x0.png", 1), "images.csv is damaged (its images or labels are not those"),
    ] {
        std::fs::write(run.join("images.csv"), damaged).unwrap();
        merged(said, 2);
        let output = setting.command("sat", "alone").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
    std::fs::remove_file(run.join("images.csv")).unwrap();
    merged("images.csv is damaged (it is not there)", 2);
    assert_eq!(std::fs::read(run.join("sat.csv")).unwrap(), csv, "what was there stays");
    std::fs::write(run.join("images.csv"), list).unwrap();

    let record = std::fs::read_dir(run.join("models")).unwrap().last().unwrap().unwrap().path();
    std::fs::remove_file(record).unwrap();
    merged("units of networks of which the folder models/ has no record", 1);
    let (code, status) = setting.status("alone", "1");
    assert_eq!((code, &status["missing"]), (Some(1), &0.into()));
    assert!(status["unrecorded"].as_u64() > Some(0));
    ok(&mut setting.command("sat", "alone"));
    assert_eq!(std::fs::read(run.join("sat.csv")).unwrap(), csv);
}

#[test]
fn what_is_no_run_folder_is_refused() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("empty")).unwrap();
    for folder in ["empty", "absent"] {
        let text = common::refusal(netkin().arg("status").arg(scratch.path(folder)), 2);
        assert!(text.contains("is no run folder"), "{text}");
        let text =
            common::refusal(netkin().arg("merge").arg(scratch.path(folder)).arg("--into").arg(scratch.path("x")), 2);
        assert!(text.contains("is no run folder"), "{text}");
    }
}
