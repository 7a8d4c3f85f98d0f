//! The distillation study and the choice of a teacher.

mod common;

use std::fs;

use assert_cmd::Command;
use common::{Scratch, netkin, refusal, text};

const TEACHERS: [&str; 3] = ["demo_vit_patch4", "demo_seresnet", "demo_mixer"];

fn study(scratch: &Scratch, options: &[&str]) -> Command {
    let mut command = netkin();
    command.arg("distill-study").arg("--data").arg(scratch.fashion_mnist()).arg("--out").arg(scratch.path("study"));
    command.args(["--images", "96", "--test-images", "48", "--epochs", "1", "--batch", "32", "--seeds", "2"]);
    command.args(["--attack-images", "24", "--steps", "2"]).args(TEACHERS.iter().flat_map(|name| ["--teacher", *name]));
    command.args(options);
    command
}

/// One student for each teacher and seed, one without a teacher for each seed; what is done is found again.
#[test]
fn a_study_trains_each_student_once_and_correlates() {
    let scratch = Scratch::new();
    let first = study(&scratch, &["--json"]).assert().success().get_output().clone();
    let document: serde_json::Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!(
        (&document["student"], &document["base_architecture"]),
        (&"demo_vit_patch7".into(), &"Transformer".into())
    );
    let teachers = document["teachers"].as_array().unwrap();
    assert_eq!(teachers.len(), 3);
    for teacher in teachers {
        assert_eq!(teacher["sat"].as_array().unwrap().len(), 2);
        let is_transformer = teacher["teacher"] == "demo_vit_patch4";
        assert_eq!(teacher["relation"] == "same", is_transformer, "{teacher}");
        let alone = document["alone"]["mean"].as_f64().unwrap();
        let (student, gain) =
            (teacher["students"]["mean"].as_f64().unwrap(), teacher["gain"]["mean"].as_f64().unwrap());
        assert!((student - alone - gain).abs() < 1e-12);
    }
    let counts: Vec<u64> =
        document["correlations"].as_array().unwrap().iter().map(|group| group["teachers"].as_u64().unwrap()).collect();
    assert_eq!(counts, [3, 1, 2]);
    assert!(document["correlations"][1]["pearson"].is_null(), "one teacher correlates with nothing");
    assert_eq!(document["paper"][1]["pearson"], 0.70);

    let folder = scratch.path("study");
    let networks: Vec<String> = fs::read_dir(folder.join("networks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(networks.len(), 2 * (1 + TEACHERS.len()), "{networks:?}");
    let csv = fs::read_to_string(folder.join("distill-study.csv")).unwrap();
    assert_eq!(
        csv.lines().next().unwrap(),
        "teacher,base_architecture,relation,seed,sat,student_accuracy,alone_accuracy"
    );
    assert_eq!(csv.lines().count(), 1 + 2 * TEACHERS.len());
    let svg = fs::read_to_string(folder.join("distill-study.svg")).unwrap();
    assert!(svg.contains("accuracy of the student") && svg.matches("class=\"point\"").count() <= TEACHERS.len());

    let student = folder.join("networks/seed1-demo_mixer");
    let bytes = fs::read(student.join("model.safetensors")).unwrap();
    fs::remove_dir_all(&student).unwrap();
    let again = study(&scratch, &["--json"]).assert().success().get_output().clone();
    assert!(fs::read(student.join("model.safetensors")).unwrap() == bytes, "the same weights again");
    assert!(first.stdout == again.stdout);
    let said = refusal(&mut study(&scratch, &["--set", "distillation.alpha=0.9"]), 2);
    assert!(said.contains("its recipe.distillation.alpha is 0.5, and now it is 0.9"), "{said}");
    // A teacher of the same name and other weights has not taught the students that are there.
    let spec = scratch.weights("demo_mixer", 5);
    let mut other = netkin();
    other.arg("distill-study").arg("--data").arg(scratch.fashion_mnist()).arg("--out").arg(&folder);
    other.args(["--images", "96", "--test-images", "48", "--epochs", "1", "--batch", "32", "--seeds", "1"]);
    let said = refusal(other.args(["--teacher", &spec]), 2);
    assert!(said.contains("seed0-demo_mixer") && said.contains("was trained with another"), "{said}");
}

/// The folder of a study is taken as that of the run in it, and its students without their seeds.
#[test]
fn teachers_are_ranked_from_the_folder_of_a_study() {
    let scratch = Scratch::new();
    let run = scratch.path("study").join("sat-40-steps-500-images");
    fs::create_dir_all(&run).unwrap();
    fs::write(scratch.path("study").join("study.json"), "{\"study\": \"distillation\"}").unwrap();
    let matrix = ",demo_vit_patch4,demo_mixer,demo_vit_patch7.seed0,demo_vit_patch7.seed1\n\
                  demo_vit_patch4,0,1,0.25,0.75\n\
                  demo_mixer,1,0,0.5,-0.25\n\
                  demo_vit_patch7.seed0,0.25,0.5,0,3\n\
                  demo_vit_patch7.seed1,0.75,-0.25,3,0\n";
    fs::write(run.join("sat.csv"), matrix).unwrap();
    let folder = scratch.path("study").display().to_string();
    let document = common::json(&["teacher", "demo_vit_patch7", &folder]);
    let mut scores: Vec<(&str, f64)> = document["teachers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|teacher| (teacher["name"].as_str().unwrap(), teacher["sat"].as_f64().unwrap()))
        .collect();
    scores.sort_by(|a, b| a.0.cmp(b.0));
    assert_eq!(scores, [("demo_mixer", 0.125), ("demo_vit_patch4", 0.5)]);
}

#[test]
fn what_cannot_be_studied_is_said() {
    let scratch = Scratch::new();
    let command = |options: &[&str]| {
        let mut command = netkin();
        command.arg("distill-study").arg("--data").arg(scratch.fashion_mnist()).arg("--out").arg(scratch.path("study"));
        command.args(options);
        refusal(&mut command, 2)
    };
    let said = command(&["demo_resnet", "--teacher", "demo_mixer", "--teacher", "demo_resnet"]);
    assert!(said.contains("demo_resnet is the student and one of the teachers"), "{said}");
    let said = command(&["--teacher", "demo_mixer", "--teacher", "demo_mixer"]);
    assert!(said.contains("the teacher demo_mixer is given twice"), "{said}");
    let said = command(&["--recipe", "fashion-mnist"]);
    assert!(said.contains("distils nothing"), "{said}");
    let said = command(&["demo_resnet5"]);
    assert!(said.contains("demo_resnet5"), "{said}");
    let said = command(&["--teacher", "demo_mixer=nowhere.safetensors", "--images", "64"]);
    assert!(said.contains("nowhere.safetensors"), "{said}");
    let said = command(&["--set", "classes=3", "--set", "distillation.kind=soft"]);
    assert!(said.contains("the training set has 10 classes, but the network 3"), "{said}");
    let said = command(&["--set", "distillation.teacher=demo_mixer"]);
    assert!(said.contains("--set distillation.teacher is in vain"), "{said}");
    let said = command(&["--set", "seed=5"]);
    assert!(said.contains("give the first one as --seed"), "{said}");
    let said = command(&["demo_resnet", "--set", "model=demo_mixer"]);
    assert!(said.contains("the network's name and --set model give the same value"), "{said}");
    assert!(!scratch.path("study").exists(), "a command that is refused leaves no study that refuses the next");
}

#[test]
fn teachers_of_ten_classes_do_not_teach_four() {
    let scratch = Scratch::new();
    let folder = scratch.path("four");
    for split in ["train", "test"] {
        for class in 0..4 {
            let image = netkin::images::RgbImage::new(28, 28, vec![60 * class as u8; 28 * 28 * 3]);
            let path = folder.join(split).join(class.to_string());
            fs::create_dir_all(&path).unwrap();
            netkin::images::save_png(&path.join("image.png"), &image).unwrap();
        }
    }
    let mut command = netkin();
    command.arg("distill-study").arg("--data").arg(&folder).arg("--out").arg(scratch.path("study"));
    let said = refusal(&mut command, 2);
    assert!(said.contains("tells 10 classes apart and the student 4"), "{said}");
    assert!(!scratch.path("study").exists(), "nothing was trained or written");
}

#[test]
fn a_teacher_is_chosen_by_the_matrix_alone() {
    let ranked = text(&["teacher", "deit_small_patch16_224", "--published"]);
    let mut lines = ranked.lines();
    assert_eq!(lines.next(), Some("rank,teacher,base_architecture,sat,expected,reason"));
    let first = lines.next().unwrap();
    assert!(
        first.starts_with("1,deit_base_patch16_224,Transformer,3.831,+0.840,Transformer as the student"),
        "{first}"
    );
    assert_eq!(ranked.lines().count(), 69);
    let resnet = ranked.lines().find(|line| line.contains(",resnet101,")).unwrap();
    assert!(
        resnet.starts_with("4,resnet101,CNN,2.014,+0.588,CNN beside a Transformer (less similar is better)"),
        "{resnet}"
    );
    let document = common::json(&["teacher", "deit_small_patch16_224", "--published"]);
    assert!(document["evidence"].as_str().unwrap().contains("weak evidence"));
    assert_eq!(document["findings"][2]["teachers"], 18);

    let said = refusal(netkin().args(["teacher", "deit_smal", "--published"]), 2);
    assert!(said.contains("deit_smal is no network of"), "{said}");
    assert!(said.contains("did you mean ") && said.contains("deit_small_patch16_224"), "{said}");
    let scratch = Scratch::new();
    let matrix = scratch.path("matrix.csv");
    fs::write(&matrix, ",ours,theirs,third\nours,4,1,2\ntheirs,1,4,3\nthird,2,3,4\n").unwrap();
    let unknown = refusal(netkin().args(["teacher", "ours"]).arg(&matrix), 2);
    assert!(unknown.contains("--components"), "{unknown}");
    let components = scratch.path("components.csv");
    fs::write(&components, "name,Base architecture\nours,CNN\ntheirs,CNN\nthird,CNN\n").unwrap();
    let output = netkin().args(["teacher", "ours"]).arg(&matrix).arg("--components").arg(&components).output().unwrap();
    let ranked = String::from_utf8(output.stdout).unwrap();
    assert!(
        ranked.contains("\n1,third,CNN,2.000,+0.700,") && ranked.contains("\n2,theirs,CNN,1.000,-0.700,"),
        "{ranked}"
    );
    assert!(String::from_utf8(output.stderr).unwrap().contains("weak evidence"));
}
