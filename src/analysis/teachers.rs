//! Which network to take as a teacher, by a matrix of similarities alone.
//!
//! Hwang et al. (arXiv 2210.11407, ECCV 2024) distilled 25 ViT-Ti students, each from another teacher, and found that a student
//! follows its teacher's similarity and not its accuracy: among Transformers, which the student is one of, the more similar taught
//! better, among all others the more dissimilar. [`rank`] takes these correlations for slopes. They are of few teachers, one student
//! and one run each, whose accuracy varies by ± 0.4 % from seed to seed.

use serde::Serialize;

use crate::similarity::Matrix;

/// Whether a teacher has the student's base architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// It has.
    Same,
    /// It has another one.
    Other,
}

/// What the paper found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Finding {
    /// Of which teachers; of all, if of neither.
    pub relation: Option<Relation>,
    /// Pearson's correlation of a teacher's SAT with the student as it is without a teacher, and the accuracy of the student that
    /// it taught.
    pub pearson: f64,
    /// How likely a correlation as far from 0 is by chance.
    pub p_value: f64,
    /// Teachers.
    pub teachers: usize,
}

/// The paper's correlations, for a student ViT-Ti on ImageNet.
pub const FINDINGS: [Finding; 3] = [
    Finding { relation: None, pearson: -0.32, p_value: 0.12, teachers: 25 },
    Finding { relation: Some(Relation::Same), pearson: 0.70, p_value: 0.078, teachers: 7 },
    Finding { relation: Some(Relation::Other), pearson: -0.51, p_value: 0.030, teachers: 18 },
];

impl Relation {
    /// What was found of teachers that stand so to the student.
    pub fn finding(self) -> Finding {
        match self {
            Self::Same => FINDINGS[1],
            Self::Other => FINDINGS[2],
        }
    }
}

/// A network as a teacher.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Teacher {
    /// Its name.
    pub name: String,
    /// Its base architecture.
    pub base_architecture: String,
    /// Whether that is the student's.
    pub relation: Relation,
    /// Its score with the student.
    pub sat: f64,
    /// The score less the mean of all teachers of its relation, in their standard deviations; 0 where all are the same.
    pub standardised: f64,
    /// How good the student that it teaches is expected to be among the students of such teachers, in standard deviations: the
    /// correlation that was found times `standardised`. That teachers of both relations teach equally well on average is assumed.
    pub expected: f64,
}

/// All networks of a matrix but the student, at position `student`, as teachers: the most promising first. `bases` are the base
/// architectures of all networks, in the matrix's order.
pub fn rank(matrix: &Matrix, student: usize, bases: &[String]) -> Vec<Teacher> {
    let relation = |network: usize| if bases[network] == bases[student] { Relation::Same } else { Relation::Other };
    let others: Vec<usize> = (0..matrix.names.len()).filter(|&network| network != student).collect();
    let moments = |wanted: Relation| {
        let scores: Vec<f64> = others
            .iter()
            .filter(|&&network| relation(network) == wanted)
            .map(|&network| matrix.get(student, network))
            .collect();
        let count = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / count;
        let deviation = (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count).sqrt();
        (mean, deviation)
    };
    let (of_same, of_other) = (moments(Relation::Same), moments(Relation::Other));
    let teacher = |&network: &usize| {
        let relation = relation(network);
        let (mean, deviation) = if relation == Relation::Same { of_same } else { of_other };
        let sat = matrix.get(student, network);
        // Rounding alone makes no difference.
        let standardised = if deviation > 1e-12 { (sat - mean) / deviation } else { 0.0 };
        Teacher {
            name: matrix.names[network].clone(),
            base_architecture: bases[network].clone(),
            relation,
            sat,
            standardised,
            expected: relation.finding().pearson * standardised,
        }
    };
    let mut teachers: Vec<Teacher> = others.iter().map(teacher).collect();
    teachers.sort_by(|a, b| b.expected.total_cmp(&a.expected));
    teachers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_its_kind_the_nearest_and_of_others_the_farthest() {
        let names = ["student", "near", "far", "cnn near", "cnn far", "cnn between"].map(String::from).to_vec();
        let scores = [4.6, 3.0, 2.0, 3.5, 1.5, 2.5];
        let matrix = Matrix::new(names, |row, column| if row == 0 { scores[column] } else { scores[row] });
        let bases: Vec<String> =
            ["Transformer", "Transformer", "Transformer", "CNN", "CNN", "CNN"].map(String::from).to_vec();
        let ranked = rank(&matrix, 0, &bases);
        let order: Vec<&str> = ranked.iter().map(|teacher| teacher.name.as_str()).collect();
        // 0.70 · 1, 0.51 · √1.5, 0, −0.51 · √1.5, −0.70 · 1.
        assert_eq!(order, ["near", "cnn far", "cnn between", "cnn near", "far"]);
        assert!((ranked[0].standardised - 1.0).abs() < 1e-12 && (ranked[0].expected - 0.70).abs() < 1e-12);
        assert!((ranked[1].expected - 0.51 * 1.5f64.sqrt()).abs() < 1e-12);
        assert_eq!((ranked[1].relation, ranked[4].relation), (Relation::Other, Relation::Same));
    }

    #[test]
    fn one_teacher_of_its_kind_is_neither_near_nor_far() {
        let names = ["student", "only", "other"].map(String::from).to_vec();
        let matrix = Matrix::new(names, |row, column| (row + column) as f64);
        let bases: Vec<String> = ["CNN", "CNN", "MLP-Mixer"].map(String::from).to_vec();
        assert!(rank(&matrix, 0, &bases).iter().all(|teacher| teacher.expected == 0.0));
    }
}
