//! `netkin distill-study`: do students follow how alike their teachers are to them?

use std::sync::Arc;
use std::sync::atomic::Ordering;

use netkin_weights::{ModelSet, ModelSpec, Precision, embedded};
use serde::Serialize;
use serde_json::json;

use super::common::{Common, print, print_json};
use super::sat::run_quietly;
use super::study_options::{StudyOptions, Trainees, again_later, percent, spec};
use super::{Failure, Outcome, known, stop, values};
use crate::analysis::components::{ComponentTable, base_of};
use crate::analysis::teachers::{FINDINGS, Finding, Relation, Teacher, rank};
use crate::analysis::uncertainty::WithInterval;
use crate::attacks::Iterative;
use crate::model::{Crop, Model};
use crate::report::{Figure, Point, Quantity, Series, points};
use crate::runs::write_atomically;
use crate::similarity::Matrix;
use crate::similarity::sat::{SatConfig, SatRun};
use crate::training::Recipe;
use crate::training::objective::{self, distillation};
use crate::training::study::{Correlation, OverSeeds, Study, Taught, correlation};

/// Distil students of one architecture from many teachers, and see whether similar or dissimilar ones teach better
///
/// Trains one student for each teacher and seed and one without a teacher for each seed, attacks the teachers and the students without one,
/// and correlates the SAT of a teacher and the student with the accuracy of the student that it taught: over all teachers, those of the
/// student's base architecture, and the others. What is done is kept: the same command goes on where it was stopped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The student's architecture [default: the recipe's]
    #[arg(value_name = "STUDENT")]
    student: Option<String>,
    #[command(flatten)]
    study: StudyOptions,
    /// The recipe that students are trained by, a name or a file
    #[arg(long, value_name = "NAME|FILE.toml", default_value = "fashion-mnist-distilled")]
    recipe: String,
    /// NAME, NAME.TAG, NAME=WEIGHTS, @demo or @FILE; may be given several times [default: the demo networks but the student]
    #[arg(long, value_name = "MODEL")]
    teacher: Vec<ModelSet>,
    /// Attack the first COUNT test images
    #[arg(long, value_name = "COUNT", default_value = "500", value_parser = values::positive)]
    attack_images: usize,
    /// Steps of the attack (PGD, 8/255 in steps of 2/255)
    #[arg(long, value_name = "COUNT", default_value = "20", value_parser = values::positive)]
    steps: usize,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    student: String,
    base_architecture: String,
    seeds: Vec<u64>,
    recipe: serde_json::Value,
    attack: Iterative,
    /// Images that were attacked.
    images: usize,
    /// Accuracy of the students without a teacher, 0 to 1.
    alone: OverSeeds,
    /// The teacher of the best students first.
    teachers: Vec<Row>,
    correlations: [Group; 3],
    /// Gain of the students of the teachers that `netkin teacher` ranks in the first half, and of the others.
    ranked: Option<Ranked>,
    /// What the paper found, in the order of `correlations`.
    paper: [Finding; 3],
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    taught: Taught,
    /// Of the images that were attacked, those that the teacher classifies correctly.
    teacher_correct: usize,
    /// The mean of `sat` over seeds.
    mean_sat: f64,
    students: OverSeeds,
    /// How much better than the student without a teacher.
    gain: OverSeeds,
}

/// Some of the teachers.
#[derive(Serialize)]
struct Group {
    relation: Option<Relation>,
    #[serde(flatten)]
    correlation: Correlation,
}

#[derive(Serialize)]
struct Ranked {
    first: OverSeeds,
    others: OverSeeds,
    difference: OverSeeds,
}

/// Teachers and seeds drawn anew for an interval, and permutations for a p-value.
const REPLICATES: usize = 10_000;

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        again_later(|| self.study(common))
    }

    fn study(&self, common: &Common) -> Result<Outcome, Failure> {
        let recipe = self.recipe()?;
        let student = known(&recipe.model)?;
        let teachers = self.teachers(student.name)?;
        let images = self.study.open()?;
        let options = recipe.distillation.clone().unwrap_or_default();
        let settings = json!({
            "study": "distillation",
            "recipe": recipe.settings(),
            "training data": images.training.fingerprint(),
            "test data": images.testing.fingerprint(),
        });
        let device = common.device.open()?;
        let seeds = self.study.seeds();
        images.check(&Recipe { seed: self.study.last_seed(), ..recipe.clone() }, &device)?;
        let classes = recipe.classes.unwrap_or_else(|| images.training.classes());
        let total = seeds.len() * (teachers.len() + 1);
        // A teacher that does not fit is refused before anything is trained or written.
        for teacher in &teachers {
            let recipe = taught_by(&recipe, &options, teacher, 0);
            objective::of(&recipe, classes, common.load(&objective::networks(&recipe)?, recipe.precision)?)?;
        }
        let study = Study::open(&self.study.out, &settings)?;
        let trainees = Trainees::new(&study, &images, total, device, stop::flag(), common);
        let mut alone = Vec::new();
        let mut accuracy = vec![Vec::new(); teachers.len()];
        for &seed in &seeds {
            let usual = Recipe { seed, distillation: None, ..recipe.clone() };
            let objective = objective::of(&usual, classes, Vec::new())?;
            let finished = trainees.train(&name_of(seed, None), &usual, &*objective)?;
            let Some(finished) = finished else { return Ok(Outcome::TryAgain) };
            alone.push(finished.accuracy());
            for (teacher, accuracy) in teachers.iter().zip(&mut accuracy) {
                let recipe = taught_by(&recipe, &options, teacher, seed);
                let models = common.load(&objective::networks(&recipe)?, recipe.precision)?;
                let objective = objective::of(&recipe, classes, models)?;
                let finished = trainees.train(&name_of(seed, Some(teacher)), &recipe, &*objective)?;
                let Some(finished) = finished else { return Ok(Outcome::TryAgain) };
                accuracy.push(finished.accuracy());
            }
        }
        // Whoever asked the last training to end, too late, is heard here.
        if stop::flag().load(Ordering::Relaxed) {
            common.note("stopped before the networks were attacked; the same command goes on");
            return Ok(Outcome::TryAgain);
        }
        let attack = Iterative { steps: self.steps, ..Iterative::default() };
        let dataset = images.write_tests(&study, self.attack_images)?;
        let mut specs = teachers.clone();
        for &seed in &seeds {
            specs.push(spec(&study, &recipe.model, &name_of(seed, None))?);
        }
        let models: Vec<Model> = common.load(&specs, Precision::F32)?;
        let config =
            SatConfig { attack: Arc::new(attack.clone()), crop: Crop::Own, batch: 128, ..SatConfig::default() };
        // Another attack, or other images of the same study, make another run.
        let folder = study.folder().join(format!("sat-{}-steps-{}-images", self.steps, dataset.samples.len()));
        let run = run_quietly(&models, &dataset, &config, &folder, common)?;
        write_atomically(&folder.join("sat.csv"), run.matrix().to_csv().as_bytes())?;

        let document = self.document(&recipe, &teachers, seeds, attack, &run, alone, accuracy)?;
        let text = document.to_text();
        let out = study.folder();
        write_atomically(&out.join("distill-study.json"), &serde_json::to_vec_pretty(&document)?)?;
        write_atomically(&out.join("distill-study.csv"), document.to_csv()?.as_bytes())?;
        write_atomically(&out.join("distill-study.svg"), document.figure().to_svg().as_bytes())?;
        write_atomically(&out.join("distill-study.txt"), text.as_bytes())?;
        if common.json {
            print_json(&document)?;
        } else {
            print(&text)?;
        }
        common.note(&format!("the results are in {}", out.join("distill-study.csv, .json and .svg").display()));
        Ok(trainees.outcome())
    }

    /// The students' recipe, checked.
    fn recipe(&self) -> Result<Recipe, Failure> {
        if self.study.sets("distillation.teacher") {
            return Err(
                "--set distillation.teacher is in vain, since a study has many teachers; give each as --teacher".into(),
            );
        }
        let recipe = self.study.recipe(&self.recipe, self.student.as_deref())?;
        match &recipe.distillation {
            Some(options) if options.kind != distillation::Kind::None => {}
            _ => {
                return Err(format!(
                    "the recipe {} distils nothing; give it a table [distillation] with kind = \"hard\" or \"soft\"",
                    self.recipe
                )
                .into());
            }
        }
        recipe.check()?;
        Ok(recipe)
    }

    /// The teachers, none of them twice or the student itself.
    fn teachers(&self, student: &str) -> Result<Vec<ModelSpec>, Failure> {
        let mut teachers: Vec<ModelSpec> = self.teacher.iter().flat_map(ModelSet::specs).cloned().collect();
        if teachers.is_empty() {
            let names = embedded::names().filter(|name| *name != student);
            teachers = names.map(str::parse).collect::<Result<_, _>>()?;
        }
        for (place, teacher) in teachers.iter().enumerate() {
            if teacher.name() == student {
                return Err(format!(
                    "{student} is the student and one of the teachers; leave it out, or name its weights as another network ({student}.TAG=FILE)"
                )
                .into());
            }
            if teachers[..place].iter().any(|other| other.name() == teacher.name()) {
                return Err(
                    format!("the teacher {} is given twice; name each once (NAME.TAG=FILE)", teacher.name()).into()
                );
            }
        }
        Ok(teachers)
    }

    /// What comes of it all. The networks of the run are the teachers, then the students without one.
    #[allow(clippy::too_many_arguments)]
    fn document(
        &self,
        recipe: &Recipe,
        teachers: &[ModelSpec],
        seeds: Vec<u64>,
        attack: Iterative,
        run: &SatRun,
        alone: Vec<f64>,
        accuracy: Vec<Vec<f64>>,
    ) -> Result<Document, Failure> {
        let names: Vec<String> = std::iter::once(recipe.model.clone())
            .chain(teachers.iter().map(|teacher| teacher.name().to_owned()))
            .collect();
        let components = ComponentTable::known().select(&names)?.column("Base architecture")?;
        let bases: Vec<String> = components.iter().map(|base| base_of(base).to_owned()).collect();
        let sat = |teacher: usize, seed: usize| run.pair(teacher, teachers.len() + seed).sat.unwrap_or(f64::NAN);
        let correct = run.clean();
        let mut rows: Vec<Row> = (0..teachers.len())
            .map(|teacher| {
                let taught = Taught {
                    teacher: names[1 + teacher].clone(),
                    base_architecture: bases[1 + teacher].clone(),
                    relation: if bases[1 + teacher] == bases[0] { Relation::Same } else { Relation::Other },
                    sat: (0..seeds.len()).map(|seed| sat(teacher, seed)).collect(),
                    accuracy: accuracy[teacher].clone(),
                };
                Row {
                    teacher_correct: correct[teacher],
                    mean_sat: taught.sat.iter().sum::<f64>() / taught.sat.len() as f64,
                    students: OverSeeds::of(taught.accuracy.clone()),
                    gain: OverSeeds::difference(&taught.accuracy, &alone),
                    taught,
                }
            })
            .collect();
        rows.sort_by(|a, b| b.students.mean.total_cmp(&a.students.mean));
        let group = |relation: Option<Relation>| {
            // A pair that classifies no image both correctly has no score.
            let taught: Vec<&Taught> = rows
                .iter()
                .filter(|row| relation.is_none_or(|relation| row.taught.relation == relation) && !row.mean_sat.is_nan())
                .map(|row| &row.taught)
                .collect();
            Group { relation, correlation: correlation(&taught, REPLICATES, self.study.seed) }
        };
        Ok(Document {
            netkin: env!("CARGO_PKG_VERSION"),
            student: recipe.model.clone(),
            base_architecture: bases[0].clone(),
            correlations: [None, Some(Relation::Same), Some(Relation::Other)].map(group),
            ranked: ranked(&rows, &names[0], &bases[0]),
            recipe: recipe.settings(),
            images: run.images,
            alone: OverSeeds::of(alone),
            teachers: rows,
            paper: FINDINGS,
            attack,
            seeds,
        })
    }
}

/// The student's recipe with a teacher and a seed.
fn taught_by(recipe: &Recipe, options: &distillation::Options, teacher: &ModelSpec, seed: u64) -> Recipe {
    let options = distillation::Options { teacher: teacher.to_string(), ..options.clone() };
    Recipe { seed, distillation: Some(options), ..recipe.clone() }
}

/// What a student is called.
fn name_of(seed: u64, teacher: Option<&ModelSpec>) -> String {
    match teacher {
        None => format!("seed{seed}"),
        Some(teacher) => format!("seed{seed}-{}", teacher.name()),
    }
}

/// What the students of the teachers gain that are ranked first by their similarity alone, beside those of the others; none of fewer than
/// two teachers with a score.
fn ranked(rows: &[Row], student: &str, base: &str) -> Option<Ranked> {
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.mean_sat.is_nan()).collect();
    if rows.len() < 2 {
        return None;
    }
    let names = std::iter::once(student.to_owned()).chain(rows.iter().map(|row| row.taught.teacher.clone())).collect();
    let of_student = |network: usize| if network == 0 { f64::NAN } else { rows[network - 1].mean_sat };
    let matrix = Matrix::new(names, |a, b| of_student(a.max(b)));
    let bases: Vec<String> =
        std::iter::once(base.to_owned()).chain(rows.iter().map(|row| row.taught.base_architecture.clone())).collect();
    let order = rank(&matrix, 0, &bases);
    let mean = |names: &[Teacher]| {
        let gains: Vec<&Vec<f64>> = rows
            .iter()
            .filter(|row| names.iter().any(|teacher| teacher.name == row.taught.teacher))
            .map(|row| &row.gain.values)
            .collect();
        let of_seed = |seed: usize| gains.iter().map(|gains| gains[seed]).sum::<f64>() / gains.len() as f64;
        (0..rows[0].gain.values.len()).map(of_seed).collect::<Vec<f64>>()
    };
    let (first, others) = order.split_at(order.len() / 2);
    let (first, others) = (mean(first), mean(others));
    let difference = OverSeeds::difference(&first, &others);
    Some(Ranked { first: OverSeeds::of(first), others: OverSeeds::of(others), difference })
}

impl Group {
    fn name(&self) -> &'static str {
        match self.relation {
            None => "all teachers",
            Some(Relation::Same) => "same base architecture",
            Some(Relation::Other) => "other base architectures",
        }
    }
}

impl Document {
    fn to_text(&self) -> String {
        let mut text = format!(
            "{} ({}), {} teachers, {} seed(s): accuracy of students in %{}\n\n",
            self.student,
            self.base_architecture,
            self.teachers.len(),
            self.seeds.len(),
            if self.seeds.len() > 1 { " [95 % over seeds]" } else { "" }
        );
        let names = self.teachers.iter().map(|row| row.taught.teacher.chars().count());
        let width = names.max().unwrap_or(0).max("without a teacher".len());
        let mut line = |cells: [&str; 5]| {
            let [teacher, base, sat, students, gain] = cells;
            text += format!("{teacher:width$}  {base:12}  {sat:>6}  {students:24}  {gain}").trim_end();
            text.push('\n');
        };
        line(["teacher", "base", "SAT", "students", "gain"]);
        line(["without a teacher", "", "", &percent(&self.alone), ""]);
        for Row { taught, mean_sat, students, gain, .. } in &self.teachers {
            let sat = if mean_sat.is_nan() { "none".to_owned() } else { format!("{mean_sat:.3}") };
            line([&taught.teacher, &taught.base_architecture, &sat, &percent(students), &percent(gain)]);
        }
        text += &format!(
            "\n{:34}{:>6}  {:16}  {:>5}  {:>2}  {}\n",
            "SAT and the accuracy of students", "r", "[95 %]", "p", "n", "in the paper"
        );
        for (group, paper) in self.correlations.iter().zip(&self.paper) {
            let Correlation { teachers, pearson, p_value } = group.correlation;
            let (r, interval) = match pearson {
                Some(WithInterval { estimate, interval: [low, high] }) => {
                    (format!("{estimate:.3}"), format!("[{low:.3}, {high:.3}]"))
                }
                None => ("none".to_owned(), String::new()),
            };
            let p = p_value.map_or(String::new(), |p| format!("{p:.3}"));
            text += &format!(
                "{:34}{r:>6}  {interval:16}  {p:>5}  {teachers:>2}  {:+.2}, p {:.3}, n {}\n",
                group.name(),
                paper.pearson,
                paper.p_value,
                paper.teachers
            );
        }
        text += "r: Pearson's, of means over seeds; its interval is over teachers and seeds, p by permutations of the teachers\n";
        if let Some(Ranked { first, others, difference }) = &self.ranked {
            text += &format!(
                "\nmean gain of students by rank of `netkin teacher`: first half {}, second half {}, difference {}\n",
                percent(first),
                percent(others),
                percent(difference)
            );
        }
        text
    }

    /// A row for each teacher and seed.
    fn to_csv(&self) -> Result<String, Failure> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record([
            "teacher",
            "base_architecture",
            "relation",
            "seed",
            "sat",
            "student_accuracy",
            "alone_accuracy",
        ])?;
        for Row { taught, .. } in &self.teachers {
            let relation = if taught.relation == Relation::Same { "same" } else { "other" };
            for (index, seed) in self.seeds.iter().enumerate() {
                let sat = taught.sat[index];
                let sat = if sat.is_nan() { String::new() } else { format!("{sat:.6}") };
                let [accuracy, alone] =
                    [taught.accuracy[index], self.alone.values[index]].map(|accuracy| format!("{accuracy:.6}"));
                let seed = seed.to_string();
                let record: [&str; 7] =
                    [&taught.teacher, &taught.base_architecture, relation, &seed, &sat, &accuracy, &alone];
                writer.write_record(record)?;
            }
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }

    /// Each teacher as a point: SAT, and the accuracy of its students.
    fn figure(&self) -> Figure {
        let of = |relation: Relation, name: String| Series {
            name,
            points: self
                .teachers
                .iter()
                .filter(|row| row.taught.relation == relation && !row.mean_sat.is_nan())
                .map(|row| Point {
                    place: [row.mean_sat, 100.0 * row.students.mean],
                    text: format!(
                        "{}: SAT {:.3}, students {} %",
                        row.taught.teacher,
                        row.mean_sat,
                        percent(&row.students)
                    ),
                })
                .collect(),
        };
        let series =
            [of(Relation::Same, self.base_architecture.clone()), of(Relation::Other, "other architectures".to_owned())];
        let across = Quantity { name: "SAT of the teacher and the student without one", unit: "" };
        let up = Quantity { name: "accuracy of the student", unit: " %" };
        points(&series, [across, up], &format!("Teachers of {}", self.student))
    }
}
