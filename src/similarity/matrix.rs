//! A square matrix of scores with a name per row.

/// Scores between networks, in the order of `names`.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// What each row and each column is of.
    pub names: Vec<String>,
    /// Row by row; not a number where there is no score.
    pub values: Vec<f64>,
}

impl Matrix {
    /// Asks `score` for every (row, column).
    pub fn new(names: Vec<String>, score: impl Fn(usize, usize) -> f64) -> Self {
        let size = names.len();
        let values = (0..size * size).map(|index| score(index / size, index % size)).collect();
        Self { names, values }
    }

    /// The score at (row, column).
    pub fn get(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.names.len() + column]
    }

    /// A header of names behind an empty field, then a row per network, with nine decimals and empty fields where there is
    /// no score: the layout of the matrix that the SAT paper's authors published.
    pub fn to_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let header = std::iter::once("").chain(self.names.iter().map(String::as_str));
        writer.write_record(header).expect("memory takes every record");
        for (row, name) in self.names.iter().enumerate() {
            let scores = (0..self.names.len()).map(|column| match self.get(row, column) {
                score if score.is_nan() => String::new(),
                score => format!("{score:.9}"),
            });
            writer.write_record(std::iter::once(name.clone()).chain(scores)).expect("memory takes every record");
        }
        let bytes = writer.into_inner().expect("memory takes every record");
        String::from_utf8(bytes).expect("records are made of strings")
    }

    /// A table for people: one row per network with its score to three decimals, columns numbered as the rows are.
    pub fn to_table(&self) -> String {
        let size = self.names.len();
        let width = self.names.iter().map(String::len).max().unwrap_or(0);
        let number = size.to_string().len();
        let mut table = format!("{:number$}  {:width$}", "", "");
        for column in 1..=size {
            table += &format!("  {column:>6}");
        }
        table.push('\n');
        for (row, name) in self.names.iter().enumerate() {
            table += &format!("{:>number$}  {name:width$}", row + 1);
            for column in 0..size {
                table += &match self.get(row, column) {
                    score if score.is_nan() => format!("  {:>6}", "–"),
                    score => format!("  {score:>6.3}"),
                };
            }
            table.push('\n');
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_and_table() {
        let names = vec!["a".to_owned(), "bb".to_owned()];
        let matrix = Matrix::new(names, |row, column| match (row, column) {
            (0, 1) => f64::NAN,
            _ => (row + column) as f64 / 2.0,
        });
        assert_eq!(matrix.to_csv(), ",a,bb\na,0.000000000,\nbb,0.500000000,1.000000000\n");
        assert_eq!(matrix.to_table(), "            1       2\n1  a    0.000       –\n2  bb   0.500   1.000\n");
    }
}
