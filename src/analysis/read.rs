//! Reading a square matrix with named rows and columns.
//!
//! The layout is that of the SAT paper's published matrix, which [`Matrix::to_csv`] writes: a header of names behind an empty
//! field, then a row per network, its name first.

use std::path::{Path, PathBuf};

use crate::files::{MAX_TABLE, read_text};
use crate::similarity::Matrix;

/// What to do with a matrix of which the two halves differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asymmetry {
    /// Refuse it.
    Refuse,
    /// Take the mean of the two scores of each pair.
    Mean,
}

/// By how much the two scores of a pair may differ in a symmetric matrix, relative to the larger or to 1.
const ROUNDING: f64 = 1e-6;
/// Scores whose squares can be added up.
const LARGEST: f64 = 1e100;

/// Why a matrix cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// The file cannot be read.
    #[error("cannot read {} ({source}); give a CSV file with a square matrix, or a run folder", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A run folder without a matrix.
    #[error("{} holds no sat.csv, so its run is unfinished; the command that began it goes on with it", path.display())]
    Unfinished {
        /// The run folder.
        path: PathBuf,
    },
    /// The folder of a study in which several runs have a matrix.
    #[error("{} holds several runs ({}); give one of them", path.display(), runs.join(", "))]
    Several {
        /// The folder.
        path: PathBuf,
        /// The names of the folders of the runs in it.
        runs: Vec<String>,
    },
    /// The file is no table.
    #[error("{} is no matrix: {reason}; a header of names behind an empty field, then a row per name", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// More or fewer rows than columns.
    #[error("the matrix in {} is not square: it has {rows} rows and {columns} columns of scores; give one row and one column per network", path.display())]
    NotSquare {
        /// The file.
        path: PathBuf,
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// A row is called otherwise than its column.
    #[error("row {number} of {} is called {row:?} and column {number} {column:?}; rows and columns must be the same networks in the same order", path.display())]
    OtherNames {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        number: usize,
        /// The row's name.
        row: String,
        /// The column's name.
        column: String,
    },
    /// A name comes twice.
    #[error("{} has {name:?} twice; give every network a name of its own", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A field that is no number.
    #[error("{} has {text:?} where {row} meets {column}; give a number", path.display())]
    NotANumber {
        /// The file.
        path: PathBuf,
        /// The field.
        text: String,
        /// The row's name.
        row: String,
        /// The column's name.
        column: String,
    },
    /// Pairs without a score.
    #[error("{} has no score where {row} meets {column} ({count} in all); leave one of the two out by --without, or finish the run", path.display())]
    NoScore {
        /// The file.
        path: PathBuf,
        /// The row's name.
        row: String,
        /// The column's name.
        column: String,
        /// How many such fields there are.
        count: usize,
    },
    /// A score so large that nothing can be computed of it.
    #[error("{} has {value:e} where {row} meets {column}; scores are at most {LARGEST:e}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The row's name.
        row: String,
        /// The column's name.
        column: String,
        /// The score.
        value: f64,
    },
    /// The two halves differ.
    #[error("the matrix in {} is not symmetric: {row} – {column} is {one} and {column} – {row} is {other}; give --symmetrise to take the mean of the two", path.display())]
    NotSymmetric {
        /// The file.
        path: PathBuf,
        /// The row's name.
        row: String,
        /// The column's name.
        column: String,
        /// Above the diagonal.
        one: f64,
        /// Below it.
        other: f64,
    },
    /// Fewer than two networks.
    #[error("{} is of {count} network(s), and a comparison needs at least two", path.display())]
    TooFew {
        /// The file.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// A network that is to be left out is not there.
    #[error("{} has no network {name:?} to leave out; its names are in its first row", path.display())]
    NothingToLeaveOut {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

/// The matrix of a run folder or of a CSV file, without the networks of `without`: symmetric, complete, of at least two.
///
/// # Errors
/// [`MatrixError`].
pub fn open(path: &Path, asymmetry: Asymmetry, without: &[String]) -> Result<Matrix, MatrixError> {
    let file = file_of(path)?;
    let matrix = leave_out(square(&file)?, without, &file)?;
    checked(matrix, &file, asymmetry)
}

/// The same for the text of a file; `path` is what errors call it.
///
/// # Errors
/// [`MatrixError`].
pub fn parse(text: &str, path: &Path, asymmetry: Asymmetry) -> Result<Matrix, MatrixError> {
    checked(table(text, path)?, path, asymmetry)
}

/// The matrix of a CSV file as it is: scores may be missing, and its halves differ.
///
/// # Errors
/// [`MatrixError`].
pub fn square(path: &Path) -> Result<Matrix, MatrixError> {
    let text = read_text(path, MAX_TABLE).map_err(|source| MatrixError::Read { path: path.to_owned(), source })?;
    table(&text, path)
}

/// Where the matrix of a run lies, if the path is a folder, also that of a study with one run in it; else the file itself.
fn file_of(path: &Path) -> Result<PathBuf, MatrixError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let file = path.join("sat.csv");
    if file.is_file() {
        return Ok(file);
    }
    // A run that is unfinished has no other run in its folder, but a study keeps its own there.
    let mut runs: Vec<String> = path
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("sat.csv").is_file() && path.join("study.json").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    runs.sort();
    match runs.as_slice() {
        [] => Err(MatrixError::Unfinished { path: path.to_owned() }),
        [run] => Ok(path.join(run).join("sat.csv")),
        _ => Err(MatrixError::Several { path: path.to_owned(), runs }),
    }
}

/// The matrix without some networks.
///
/// # Errors
/// [`MatrixError::NothingToLeaveOut`].
pub fn leave_out(matrix: Matrix, without: &[String], path: &Path) -> Result<Matrix, MatrixError> {
    if let Some(name) = without.iter().find(|name| !matrix.names.contains(name)) {
        return Err(MatrixError::NothingToLeaveOut { path: path.to_owned(), name: name.clone() });
    }
    let kept: Vec<usize> = (0..matrix.names.len()).filter(|&index| !without.contains(&matrix.names[index])).collect();
    let names = kept.iter().map(|&index| matrix.names[index].clone()).collect();
    Ok(Matrix::new(names, |row, column| matrix.get(kept[row], kept[column])))
}

/// A symmetric matrix without the fewest networks, about, such that no score is missing, and who was left out.
pub fn complete(mut matrix: Matrix) -> (Matrix, Vec<String>) {
    let mut left_out = Vec::new();
    loop {
        let size = matrix.names.len();
        let missing = |row: usize| (0..size).filter(|&column| matrix.get(row, column).is_nan()).count();
        let worst = (0..size).max_by_key(|&row| (missing(row), std::cmp::Reverse(row))).filter(|&row| missing(row) > 0);
        let Some(worst) = worst else { return (matrix, left_out) };
        let kept: Vec<usize> = (0..size).filter(|&network| network != worst).collect();
        left_out.push(matrix.names[worst].clone());
        let names = kept.iter().map(|&network| matrix.names[network].clone()).collect();
        matrix = Matrix::new(names, |row, column| matrix.get(kept[row], kept[column]));
    }
}

/// A square table; scores that are not there are not numbers.
fn table(text: &str, path: &Path) -> Result<Matrix, MatrixError> {
    let malformed = |reason: String| MatrixError::Malformed { path: path.to_owned(), reason };
    // Files from spreadsheets begin with a mark of their encoding.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| malformed(error.to_string()))?;
    let names: Vec<String> = header.iter().skip(1).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(malformed("its first row has no names".into()));
    }
    let (mut values, mut rows) = (Vec::new(), Vec::new());
    for record in reader.records() {
        let record = record.map_err(|error| malformed(error.to_string()))?;
        let row = record.get(0).unwrap_or_default().to_owned();
        if record.len() != names.len() + 1 {
            let reason = format!("row {row:?} has {} scores, and there are {} columns", record.len() - 1, names.len());
            return Err(malformed(reason));
        }
        for (field, column) in record.iter().skip(1).zip(&names) {
            values.push(score(field).ok_or_else(|| MatrixError::NotANumber {
                path: path.to_owned(),
                text: field.to_owned(),
                row: row.clone(),
                column: column.clone(),
            })?);
        }
        rows.push(row);
    }
    if rows.len() != names.len() {
        return Err(MatrixError::NotSquare { path: path.to_owned(), rows: rows.len(), columns: names.len() });
    }
    if let Some(number) = (0..names.len()).find(|&index| rows[index] != names[index]) {
        let (row, column) = (rows.swap_remove(number), names[number].clone());
        return Err(MatrixError::OtherNames { path: path.to_owned(), number: number + 1, row, column });
    }
    let mut sorted = names.clone();
    sorted.sort();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(MatrixError::Twice { path: path.to_owned(), name: twice[0].clone() });
    }
    Ok(Matrix { names, values })
}

/// A field's score: not a number where the field is empty or says so, none where it holds something else.
fn score(field: &str) -> Option<f64> {
    if field.is_empty() {
        return Some(f64::NAN);
    }
    field.parse().ok().filter(|value: &f64| !value.is_infinite())
}

fn checked(matrix: Matrix, path: &Path, asymmetry: Asymmetry) -> Result<Matrix, MatrixError> {
    let (names, count) = (&matrix.names, matrix.names.len());
    if count < 2 {
        return Err(MatrixError::TooFew { path: path.to_owned(), count });
    }
    let missing = matrix.values.iter().filter(|value| value.is_nan()).count();
    if let Some(first) = matrix.values.iter().position(|value| value.is_nan()) {
        return Err(MatrixError::NoScore {
            path: path.to_owned(),
            row: names[first / count].clone(),
            column: names[first % count].clone(),
            count: missing,
        });
    }
    if let Some(first) = matrix.values.iter().position(|value| value.abs() > LARGEST) {
        let (row, column) = (names[first / count].clone(), names[first % count].clone());
        return Err(MatrixError::TooLarge { path: path.to_owned(), row, column, value: matrix.values[first] });
    }
    if asymmetry == Asymmetry::Refuse {
        for (row, column) in pairs(count) {
            let (one, other) = (matrix.get(row, column), matrix.get(column, row));
            if (one - other).abs() > ROUNDING * one.abs().max(other.abs()).max(1.0) {
                let (row, column) = (names[row].clone(), names[column].clone());
                return Err(MatrixError::NotSymmetric { path: path.to_owned(), row, column, one, other });
            }
        }
    }
    Ok(Matrix::new(names.clone(), |row, column| match row == column {
        true => matrix.get(row, column),
        false => 0.5 * (matrix.get(row, column) + matrix.get(column, row)),
    }))
}

/// All (row, column) above the diagonal of a matrix of that size, row by row.
pub fn pairs(size: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..size).flat_map(move |row| (row + 1..size).map(move |column| (row, column)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Matrix, MatrixError> {
        parse(text, "m.csv".as_ref(), Asymmetry::Refuse)
    }

    #[track_caller]
    fn refused(text: &str, parts: &[&str]) {
        let error = read(text).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let matrix = Matrix::new(vec!["a".into(), "b, c".into()], |row, column| (row + column) as f64 / 4.0);
        assert_eq!(read(&matrix.to_csv()).unwrap(), matrix);
        assert_eq!(read(&format!("\u{feff}{}", matrix.to_csv())).unwrap(), matrix);
    }

    #[test]
    fn the_only_run_of_a_study_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let matrix = |run: &str| {
            std::fs::create_dir(folder.path().join(run)).unwrap();
            std::fs::write(folder.path().join(run).join("sat.csv"), ",a,b\na,1,2\nb,2,1\n").unwrap();
        };
        matrix("sat-10-steps-24-images");
        let opened = || open(folder.path(), Asymmetry::Refuse, &[]);
        assert!(opened().unwrap_err().to_string().contains("its run is unfinished"), "no study");
        std::fs::write(folder.path().join("study.json"), "{}").unwrap();
        assert_eq!(opened().unwrap().names, ["a", "b"]);
        matrix("sat-40-steps-24-images");
        let said = opened().unwrap_err().to_string();
        let expected = "holds several runs (sat-10-steps-24-images, sat-40-steps-24-images); give one of them";
        assert!(said.ends_with(expected), "{said}");
    }

    #[test]
    fn bad_matrices_are_refused_with_a_sentence() {
        refused("", &["m.csv", "no names"]);
        refused(",a,b\na,1,2\n", &["m.csv", "not square", "1 rows and 2 columns"]);
        refused(",a,b\na,1,2\nb,1\n", &["m.csv", "\"b\" has 1 scores"]);
        refused(",a,b\na,1,2\nc,2,1\n", &["row 2", "\"c\"", "\"b\""]);
        refused(",a,a\na,1,2\na,2,1\n", &["\"a\" twice"]);
        refused(",a,b\na,1,x\nb,2,1\n", &["\"x\"", "a meets b"]);
        refused(",a,b\na,1,inf\nb,inf,1\n", &["\"inf\""]);
        refused(",a,b\na,1,1e308\nb,1e308,1\n", &["1e308 where a meets b"]);
        refused(",a,b\na,1,NaN\nb,,1\n", &["no score where a meets b", "2 in all", "--without"]);
        refused(",a,b\na,1,2\nb,3,1\n", &["not symmetric", "a – b is 2", "b – a is 3", "--symmetrise"]);
        refused(",a\na,1\n", &["1 network(s)"]);
    }

    #[test]
    fn the_mean_of_the_halves() {
        let matrix = parse(",a,b\na,1,2\nb,3,5\n", "m.csv".as_ref(), Asymmetry::Mean).unwrap();
        assert_eq!(matrix.values, [1.0, 2.5, 2.5, 5.0]);
    }

    #[test]
    fn the_fewest_networks_are_left_out() {
        let names = ["a", "b", "c", "d"].map(String::from).into();
        let matrix = Matrix::new(names, |row, column| if row.max(column) == 2 { f64::NAN } else { 1.0 });
        let (matrix, left_out) = complete(matrix);
        assert_eq!((matrix.names.join(""), left_out.join("")), ("abd".into(), "c".into()));
    }

    #[test]
    fn networks_are_left_out_before_scores_are_missed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sat.csv");
        std::fs::write(&file, ",a,b,c\na,1,2,\nb,2,1,\nc,,,1\n").unwrap();
        let open = |without: &[&str]| {
            let without: Vec<String> = without.iter().map(|name| name.to_string()).collect();
            super::open(folder.path(), Asymmetry::Refuse, &without)
        };
        assert_eq!(open(&["c"]).unwrap().values, [1.0, 2.0, 2.0, 1.0]);
        assert!(open(&["d"]).unwrap_err().to_string().contains("no network \"d\""));
        std::fs::remove_file(file).unwrap();
        assert!(open(&[]).unwrap_err().to_string().contains("unfinished"));
    }
}
