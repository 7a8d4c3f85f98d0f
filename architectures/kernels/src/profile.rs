//! Which operations take how long.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static RUNNING: AtomicBool = AtomicBool::new(false);
static RECORDS: Mutex<Option<HashMap<(String, Pass), Record>>> = Mutex::new(None);

/// The direction of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// From inputs to output.
    Forward,
    /// From the output's gradient to those of the inputs.
    Backward,
}

/// What was measured of all calls of one operation on one shape in one direction.
#[derive(Debug, Clone)]
pub struct Record {
    /// The operation and the shapes of its first two inputs.
    pub operation: String,
    /// The direction.
    pub pass: Pass,
    /// How often it ran.
    pub calls: usize,
    /// How long all calls took together.
    pub time: Duration,
    /// What all calls read and wrote at least: the arrays that they got, kept and gave, each once.
    pub bytes: u64,
    /// Whether it is a product: see [`Operation::multiplies`](crate::Operation::multiplies).
    pub multiplies: bool,
}

/// Forgets what was measured and begins to measure; for the whole process.
pub fn start() {
    *RECORDS.lock().expect("no panic while recording") = Some(HashMap::new());
    RUNNING.store(true, Ordering::Release);
}

/// Ends measuring and gives what was measured since [`start`], the longest first.
pub fn finish() -> Vec<Record> {
    RUNNING.store(false, Ordering::Release);
    let records = RECORDS.lock().expect("no panic while recording").take();
    let mut records: Vec<Record> = records.unwrap_or_default().into_values().collect();
    records.sort_by_key(|record| std::cmp::Reverse(record.time));
    records
}

/// Measures one call, if anybody wants to know.
pub(crate) struct Watch(Option<(String, Instant)>);

impl Watch {
    pub(crate) fn start(operation: impl FnOnce() -> String) -> Self {
        let running = RUNNING.load(Ordering::Acquire);
        Self(running.then(|| (operation(), Instant::now())))
    }

    pub(crate) fn is_running(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn stop(self, pass: Pass, multiplies: bool, bytes: impl FnOnce() -> u64) {
        let Some((operation, start)) = self.0 else {
            return;
        };
        let time = start.elapsed();
        if let Some(records) = &mut *RECORDS.lock().expect("no panic while recording") {
            let key = (operation.clone(), pass);
            let new = Record { operation, pass, calls: 0, time: Duration::ZERO, bytes: 0, multiplies };
            let record = records.entry(key).or_insert(new);
            record.calls += 1;
            record.time += time;
            record.bytes += bytes();
        }
    }
}
