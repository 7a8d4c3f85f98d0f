//! `netkin teacher`: which networks to take as teachers of a student.

use serde::Serialize;

use super::common::{Common, print, print_json};
use super::source::{ComponentOptions, Source, position};
use super::{Failure, Outcome};
use crate::analysis::components::base_of;
use crate::analysis::teachers::{FINDINGS, Finding, Relation, Teacher, rank};
use crate::similarity::Matrix;

/// Rank the networks of a run or a matrix as teachers of one of them, by their similarity alone
///
/// The student is one of the networks as it is without a teacher. Of the others, those of its base architecture are the more promising the
/// more similar they are to it, those of another one the more dissimilar: the finding of the SAT paper for a ViT-Ti, whose evidence is weak.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The student; where it is there once for each seed as NAME.seed0, NAME.seed1, …, the mean over seeds counts as NAME
    #[arg(value_name = "STUDENT")]
    student: String,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    components: ComponentOptions,
}

#[derive(Serialize)]
struct Document {
    netkin: &'static str,
    matrix: String,
    student: String,
    base_architecture: String,
    /// What the ranking is based on.
    findings: [Finding; 3],
    evidence: &'static str,
    /// The most promising first.
    teachers: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    rank: usize,
    #[serde(flatten)]
    teacher: Teacher,
    reason: String,
}

/// How far to trust it.
const EVIDENCE: &str = "based on 25 ViT-Ti students of one run each (Hwang et al., ECCV 2024): Pearson +0.70 among 7 teachers of the \
                        student's base architecture (p .078), -0.51 among 18 others (p .030), -0.32 among all (p .12); weak evidence, so \
                        try several of the first";

impl Args {
    pub fn run(self, common: &Common) -> Result<Outcome, Failure> {
        let matrix = over_seeds(self.source.matrix()?, &self.student);
        let student = position(&matrix.names, &self.student, &self.source.name())?;
        let known = self.components.of(&matrix.names)?.column("Base architecture")?;
        let bases: Vec<String> = known.iter().map(|base| base_of(base).to_owned()).collect();
        let teachers = rank(&matrix, student, &bases);
        let base = &bases[student];
        let row = |(index, teacher): (usize, Teacher)| Row { rank: index + 1, reason: reason(&teacher, base), teacher };
        let document = Document {
            netkin: env!("CARGO_PKG_VERSION"),
            matrix: self.source.name(),
            student: self.student.clone(),
            base_architecture: base.clone(),
            findings: FINDINGS,
            evidence: EVIDENCE,
            teachers: teachers.into_iter().enumerate().map(row).collect(),
        };
        if common.json {
            print_json(&document)?;
        } else {
            print(&document.to_csv()?)?;
        }
        common.note(EVIDENCE);
        Ok(Outcome::Done)
    }
}

/// The matrix with the networks `NAME.seed0`, `NAME.seed1`, … as one network of that name, each of whose scores is the mean of theirs; as it
/// is if it has `name` itself.
fn over_seeds(matrix: Matrix, name: &str) -> Matrix {
    let is_of_seed = |other: &String| {
        let seed = other.strip_prefix(name).and_then(|rest| rest.strip_prefix(".seed"));
        seed.is_some_and(|seed| !seed.is_empty() && seed.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let (seeds, others): (Vec<usize>, Vec<usize>) =
        (0..matrix.names.len()).partition(|&index| is_of_seed(&matrix.names[index]));
    if seeds.is_empty() || matrix.names.iter().any(|other| other == name) {
        return matrix;
    }
    let names = std::iter::once(name.to_owned()).chain(others.iter().map(|&index| matrix.names[index].clone()));
    let groups: Vec<Vec<usize>> = std::iter::once(seeds).chain(others.iter().map(|&index| vec![index])).collect();
    Matrix::new(names.collect(), |row, column| {
        if row == column {
            return matrix.get(groups[row][0], groups[row][0]);
        }
        let scores = groups[row].iter().flat_map(|&row| groups[column].iter().map(move |&column| (row, column)));
        let count = groups[row].len() * groups[column].len();
        scores.map(|(row, column)| matrix.get(row, column)).sum::<f64>() / count as f64
    })
}

/// Why a teacher stands where it does.
fn reason(teacher: &Teacher, base: &str) -> String {
    let (deviations, than) = (teacher.standardised.abs(), "than the mean of such teachers");
    let how = match (teacher.standardised, teacher.relation) {
        (0.0, _) => "as similar as the others".to_owned(),
        (above, _) if above > 0.0 => format!("{deviations:.1} standard deviations more similar {than}"),
        _ => format!("{deviations:.1} standard deviations less similar {than}"),
    };
    match teacher.relation {
        Relation::Same => format!("{base} as the student (more similar is better): {how}"),
        Relation::Other => format!("{} beside a {base} (less similar is better): {how}", teacher.base_architecture),
    }
}

impl Document {
    fn to_csv(&self) -> Result<String, Failure> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["rank", "teacher", "base_architecture", "sat", "expected", "reason"])?;
        for Row { rank, teacher, reason } in &self.teachers {
            let (rank, sat) = (rank.to_string(), format!("{:.3}", teacher.sat));
            // A zero has no sign.
            let expected = format!("{:+.3}", teacher.expected + 0.0);
            writer.write_record([&rank, &teacher.name, &teacher.base_architecture, &sat, &expected, reason])?;
        }
        Ok(String::from_utf8(writer.into_inner()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_several_seeds_count_as_one() {
        let names = ["t", "s.seed0", "s.seed10", "s.seedy"].map(String::from).to_vec();
        let matrix = Matrix::new(names, |row, column| if row == column { 1.0 } else { (row + column) as f64 });
        let merged = over_seeds(matrix.clone(), "s");
        assert_eq!(merged.names, ["s", "t", "s.seedy"]);
        assert_eq!((merged.get(0, 1), merged.get(2, 0), merged.get(1, 2), merged.get(0, 0)), (1.5, 4.5, 3.0, 1.0));
        for name in ["s.seed0", "other"] {
            assert_eq!(over_seeds(matrix.clone(), name), matrix);
        }
    }
}
