//! Rows in another order.

use std::ops::Range;
use std::sync::Arc;

use pulp::Simd;

use crate::array::{Array, Output, Pointer};
use crate::operation::{Operation, Saved};
use crate::vectors::{Body, clear, over, parts};

/// An order of rows: which row of the source each row of the result is. No source is taken twice; a result may have none and
/// is zero then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOrder {
    sources: Vec<Option<usize>>,
    results: Vec<Option<usize>>,
}

impl RowOrder {
    /// From the sources of all results, out of so many rows.
    ///
    /// # Panics
    /// If a source is taken twice or does not exist.
    pub fn new(rows: usize, sources: Vec<Option<usize>>) -> Self {
        let mut results = vec![None; rows];
        for (result, &source) in sources.iter().enumerate() {
            if let Some(source) = source {
                assert!(results[source].is_none(), "row {source} is taken twice");
                results[source] = Some(result);
            }
        }
        Self { sources, results }
    }

    /// The way back: what has no place in the result of this order is zero.
    pub fn inverse(&self) -> Self {
        Self { sources: self.results.clone(), results: self.sources.clone() }
    }

    /// The source of each result.
    pub fn sources(&self) -> &[Option<usize>] {
        &self.sources
    }
}

/// `[batch, row, column]` → `[batch, row', column]` by an order of the rows.
#[derive(Debug, Clone)]
pub struct GatherRows(pub Arc<RowOrder>);

impl Operation for GatherRows {
    fn name(&self) -> &'static str {
        "gather rows"
    }

    fn forward(&self, inputs: Vec<Array>, _keep: bool) -> (Array, Saved) {
        let [_, rows, _] = inputs[0].dims();
        assert_eq!(rows, self.0.results.len(), "rows that the order was made for");
        (gathered(&inputs[0], &self.0.sources), vec![])
    }

    fn backward(&self, gradient: Array, _saved: Saved, _wanted: &[bool]) -> Vec<Option<Array>> {
        vec![Some(gathered(&gradient, &self.0.results))]
    }
}

fn gathered(x: &Array, sources: &[Option<usize>]) -> Array {
    let [batch, rows, columns] = x.dims();
    let mut output = Output::new(&[batch, sources.len(), columns]);
    let body = Gathered { sources, rows, columns, from: Pointer::reading(x.values()), to: output.pointer() };
    // SAFETY: every task writes to its own rows, and all are written.
    unsafe {
        over(batch * sources.len(), columns, &body);
        output.finish()
    }
}

struct Gathered<'a> {
    sources: &'a [Option<usize>],
    rows: usize,
    columns: usize,
    from: Pointer,
    to: Pointer,
}

impl Body for Gathered<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, simd: S, range: Range<usize>) {
        for row in range {
            let (image, place) = (row / self.sources.len(), row % self.sources.len());
            // SAFETY: both rows are within the arrays, and the result's belongs to this task.
            unsafe {
                let to = self.to.at(row * self.columns);
                match self.sources[place] {
                    None => clear(to, self.columns),
                    Some(source) => {
                        let from = self.from.at((image * self.rows + source) * self.columns);
                        parts(
                            simd,
                            self.columns,
                            #[inline(always)]
                            |part| part.store(simd, to, part.load(simd, from)),
                        );
                    }
                }
            }
        }
    }
}
