//! Which part of a run a process does.

use std::fmt;
use std::str::FromStr;

/// One of several equal shares of a run: of `count` shares that of number `index`, from 0. Shelf s belongs to share
/// s mod `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

/// A share that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// Not `I/N` with I below N.
    #[error("{0:?} is no share; give I/N with I from 0 to N - 1, such as 0/4, or auto, or auto/N")]
    Wrong(String),
    /// `auto` outside of a job array.
    #[error(
        "there is nothing here that tells which share this is: no SLURM_ARRAY_TASK_ID, HQ_TASK_ID or JOB_COMPLETION_INDEX; give I/N"
    )]
    NoArray,
    /// `auto` where the number of tasks is not told.
    #[error("{variable} = {index} tells which task this is, but nothing tells how many there are; give auto/N")]
    NoCount {
        /// Where the task's number is from.
        variable: &'static str,
        /// The task's number.
        index: usize,
    },
    /// `auto` in an array of tasks whose numbers do not follow each other.
    #[error(
        "the tasks of this array are not numbered in equal steps (SLURM_ARRAY_TASK_ID = {id}), so that their shares cannot be told; give auto/N with the N of the whole array"
    )]
    Gaps {
        /// The task's number.
        id: usize,
    },
    /// A variable that is no number, or a task's number beyond the number of tasks.
    #[error("{variable} = {value:?} is no number of a task{}; give I/N", of(*.count))]
    Variable {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// How many tasks there are, where it is known.
        count: Option<usize>,
    },
}

fn of(count: Option<usize>) -> String {
    count.map_or(String::new(), |count| format!(" from 0 to {}", count.saturating_sub(1)))
}

impl Shard {
    /// All of a run.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// The share of that index; none if `index` is not below `count`.
    pub fn new(index: usize, count: usize) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    /// `I/N`; or `auto`, which takes both from the variables of a SLURM job array; or `auto/N`, which takes I from those of
    /// SLURM, HyperQueue (`HQ_TASK_ID`) or Kubernetes (`JOB_COMPLETION_INDEX`), whose tasks must be numbered from 0 to N − 1.
    /// `variable` is how the environment is asked.
    ///
    /// # Errors
    /// If the text is none of these, or the environment does not tell.
    pub fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ShardError> {
        let count = match text.strip_prefix("auto") {
            None => return text.parse(),
            Some("") => None,
            Some(count) => {
                let count = count.strip_prefix('/').and_then(|count| count.parse().ok()).filter(|&count| count > 0);
                Some(count.ok_or_else(|| ShardError::Wrong(text.to_owned()))?)
            }
        };
        let number = |name: &'static str| match variable(name) {
            None => Ok(None),
            Some(value) => {
                let wrong = || ShardError::Variable { variable: name, value: value.clone(), count: None };
                value.trim().parse::<usize>().map(Some).map_err(|_| wrong())
            }
        };
        for name in ["SLURM_ARRAY_TASK_ID", "HQ_TASK_ID", "JOB_COMPLETION_INDEX"] {
            let Some(id) = number(name)? else {
                continue;
            };
            return match count {
                Some(count) => Self::new(id, count).ok_or_else(|| ShardError::Variable {
                    variable: name,
                    value: id.to_string(),
                    count: Some(count),
                }),
                None if name == "SLURM_ARRAY_TASK_ID" => {
                    let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
                    let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
                    let count = number("SLURM_ARRAY_TASK_COUNT")?;
                    let count = count.ok_or(ShardError::NoCount { variable: name, index: id })?;
                    let last = number("SLURM_ARRAY_TASK_MAX")?.unwrap_or(id);
                    let is_even = |number: usize| number >= first && (number - first).is_multiple_of(step);
                    let is_even = is_even(id) && is_even(last) && (last - first) / step < count;
                    let shard = Self::new(id.saturating_sub(first) / step, count);
                    shard.filter(|_| is_even).ok_or(ShardError::Gaps { id })
                }
                None => Err(ShardError::NoCount { variable: name, index: id }),
            };
        }
        Err(ShardError::NoArray)
    }

    /// Whether it is all of a run.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }

    /// The shelves of this share, of `shelves` in all.
    pub fn of(self, shelves: usize) -> impl Iterator<Item = usize> {
        (self.index..shelves).step_by(self.count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let numbers = text.split_once('/').and_then(|(index, count)| index.parse().ok().zip(count.parse().ok()));
        let shard = numbers.and_then(|(index, count)| Self::new(index, count));
        shard.ok_or_else(|| ShardError::Wrong(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_a_run_and_do_not_overlap() {
        for (shelves, count) in [(0, 1), (7, 1), (7, 3), (2, 5)] {
            let mut all: Vec<usize> =
                (0..count).flat_map(|index| Shard::new(index, count).unwrap().of(shelves)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..shelves).collect::<Vec<_>>());
        }
    }

    #[test]
    fn shares_are_read_and_written() {
        let shard: Shard = "2/5".parse().unwrap();
        assert_eq!(shard.to_string(), "2/5");
        assert!(!shard.is_whole() && "0/1".parse::<Shard>().unwrap().is_whole());
        for wrong in ["", "5/5", "1", "-1/3", "0/0", "a/b", "1/2/3"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong:?}");
        }
    }

    /// What `text` means where these variables are set.
    fn parsed(text: &str, variables: &[(&str, &str)]) -> Result<String, ShardError> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Shard::parse(text, variable).map(|shard| shard.to_string())
    }

    #[test]
    fn slurm_says_which_share_and_of_how_many() {
        let slurm =
            |id: &'static str, first: &'static str, last: &'static str, step: &'static str, count: &'static str| {
                [
                    ("SLURM_ARRAY_TASK_ID", id),
                    ("SLURM_ARRAY_TASK_MIN", first),
                    ("SLURM_ARRAY_TASK_MAX", last),
                    ("SLURM_ARRAY_TASK_STEP", step),
                    ("SLURM_ARRAY_TASK_COUNT", count),
                ]
            };
        assert_eq!(parsed("auto", &slurm("2", "0", "3", "1", "4")).unwrap(), "2/4");
        assert_eq!(parsed("auto", &slurm("3", "1", "4", "1", "4")).unwrap(), "2/4");
        assert_eq!(parsed("auto", &slurm("9", "1", "13", "4", "4")).unwrap(), "2/4");
        // --array=0,2 and --array=2,5,7: shares of what would be a guess.
        assert_eq!(parsed("auto", &slurm("0", "0", "2", "1", "2")), Err(ShardError::Gaps { id: 0 }));
        assert_eq!(parsed("auto", &slurm("2", "2", "7", "1", "3")), Err(ShardError::Gaps { id: 2 }));
        assert_eq!(parsed("auto/8", &slurm("2", "2", "7", "1", "3")).unwrap(), "2/8");
        assert!(parsed("auto/7", &slurm("7", "2", "7", "1", "3")).unwrap_err().to_string().contains("from 0 to 6"));
        assert_eq!(parsed("1/3", &slurm("2", "0", "3", "1", "4")).unwrap(), "1/3");
    }

    #[test]
    fn others_say_which_share_only() {
        for name in ["HQ_TASK_ID", "JOB_COMPLETION_INDEX"] {
            assert_eq!(parsed("auto/4", &[(name, "3")]).unwrap(), "3/4");
            assert_eq!(parsed("auto", &[(name, "3")]), Err(ShardError::NoCount { variable: name, index: 3 }));
            assert!(parsed("auto/4", &[(name, "x")]).is_err());
        }
        assert_eq!(parsed("auto", &[]), Err(ShardError::NoArray));
        for wrong in ["auto/", "auto/0", "auto4", "automatic"] {
            assert!(parsed(wrong, &[("HQ_TASK_ID", "0")]).is_err(), "{wrong}");
        }
    }
}
