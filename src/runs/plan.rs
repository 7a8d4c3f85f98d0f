//! The plan: which units of a run are missing.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rayon::prelude::*;

use super::{Damage, Key, Provenance, RunError, RunFolder, Shard};

/// What a run consists of: shelves, and on each of them rows of units that are made together. With SAT a shelf is a chunk
/// of images, and a row what is to be known of an attack on one network.
pub trait Layout: Sync {
    /// How many shelves there are.
    fn shelves(&self) -> usize;

    /// The name of a shelf.
    fn shelf(&self, index: usize) -> Key;

    /// How many rows each shelf has.
    fn rows(&self) -> usize;

    /// The units of a row in [`RunFolder::units`].
    fn units(&self, shelf: usize, row: usize) -> Vec<Key>;

    /// The units of a row in [`RunFolder::large`].
    fn large(&self, _shelf: usize, _row: usize) -> Vec<Key> {
        Vec::new()
    }
}

/// What is done and what is missing of a share of a run.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Its shelves, in their order.
    pub shelves: Vec<ShelfPlan>,
    /// How many rows a shelf has.
    pub rows: usize,
}

/// What is done and what is missing on one shelf.
#[derive(Debug, Clone)]
pub struct ShelfPlan {
    /// The shelf.
    pub index: usize,
    /// The rows of which a unit is missing, in their order.
    pub missing: Vec<usize>,
    /// What the wanted units that are there were made by, with their count.
    pub made_by: BTreeMap<Provenance, usize>,
    /// Units that are there and that no row wants.
    pub unwanted: usize,
    /// What was found damaged.
    pub damaged: Vec<Damage>,
    /// Whether the shelf should be [packed](super::Store::pack).
    pub is_untidy: bool,
    /// When its last file came, if there is one.
    pub changed: Option<SystemTime>,
}

impl Plan {
    /// Looks what the share `shard` of a run has, and finds the damaged units among it.
    ///
    /// # Errors
    /// If a shelf is there and cannot be read.
    pub fn of(run: &RunFolder, layout: &impl Layout, shard: Shard) -> Result<Self, RunError> {
        let indices: Vec<usize> = shard.of(layout.shelves()).collect();
        let shelves = indices.into_par_iter().map(|index| ShelfPlan::of(run, layout, index));
        Ok(Self { shelves: shelves.collect::<Result<_, _>>()?, rows: layout.rows() })
    }

    /// [Packs](super::Store::pack) what lies about on those shelves of which nothing is missing.
    ///
    /// # Errors
    /// If a shelf cannot be read, or a pack cannot be written.
    pub fn tidy(&self, run: &RunFolder, layout: &impl Layout) -> Result<(), RunError> {
        let done = self.shelves.iter().filter(|shelf| shelf.missing.is_empty() && shelf.is_untidy);
        done.into_iter().try_for_each(|shelf| run.tidy(layout.shelf(shelf.index)))
    }

    /// How many rows there are on all shelves.
    pub fn total(&self) -> usize {
        self.shelves.len() * self.rows
    }

    /// How many rows are not done.
    pub fn missing(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.missing.len()).sum()
    }

    /// How many units are there that no row wants: where the layout is made of everything that took part, those of something
    /// whose record is lost.
    pub fn unwanted(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.unwanted).sum()
    }

    /// Everything that was found damaged.
    pub fn damaged(&self) -> impl Iterator<Item = &Damage> {
        self.shelves.iter().flat_map(|shelf| &shelf.damaged)
    }

    /// How many wanted units each device has made.
    pub fn made_by(&self) -> BTreeMap<Provenance, usize> {
        let mut all = BTreeMap::new();
        for (provenance, count) in self.shelves.iter().flat_map(|shelf| &shelf.made_by) {
            *all.entry(provenance.clone()).or_default() += count;
        }
        all
    }
}

impl ShelfPlan {
    /// Looks at one shelf.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn of(run: &RunFolder, layout: &impl Layout, index: usize) -> Result<Self, RunError> {
        let name = layout.shelf(index);
        let (units, mut large) = (run.units().shelf(name)?, None);
        let (mut missing, mut made_by) = (Vec::new(), BTreeMap::<&Provenance, usize>::new());
        for row in 0..layout.rows() {
            let mut is_whole = true;
            for key in layout.units(index, row) {
                match units.made_by(key) {
                    Some(provenance) => *made_by.entry(provenance).or_default() += 1,
                    None => is_whole = false,
                }
            }
            let wanted = layout.large(index, row);
            if is_whole && !wanted.is_empty() {
                if large.is_none() {
                    large = Some(run.large().shelf(name)?);
                }
                is_whole = large.as_ref().is_some_and(|large| wanted.iter().all(|&key| large.has(key)));
            }
            if !is_whole {
                missing.push(row);
            }
        }
        let unwanted = units.units().count().saturating_sub(made_by.values().sum());
        let is_large_untidy = large.as_ref().is_some_and(|large| large.is_untidy());
        let damaged = units.damaged().iter().chain(large.iter().flat_map(|large| large.damaged()));
        Ok(Self {
            index,
            missing,
            made_by: made_by.into_iter().map(|(provenance, count)| (provenance.clone(), count)).collect(),
            unwanted,
            damaged: damaged.cloned().collect(),
            is_untidy: units.is_untidy() || is_large_untidy,
            changed: units.changed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Two units in each row; the second row wants a large one, too.
    struct Small;

    impl Layout for Small {
        fn shelves(&self) -> usize {
            5
        }
        fn shelf(&self, index: usize) -> Key {
            Key::of(&index)
        }
        fn rows(&self) -> usize {
            2
        }
        fn units(&self, shelf: usize, row: usize) -> Vec<Key> {
            vec![Key::of(&(shelf, row, "a")), Key::of(&(shelf, row, "b"))]
        }
        fn large(&self, shelf: usize, row: usize) -> Vec<Key> {
            if row == 1 { vec![Key::of(&(shelf, row, "large"))] } else { Vec::new() }
        }
    }

    #[test]
    fn a_row_is_done_when_all_of_its_units_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&folder.path().join("run"), &json!({})).unwrap();
        let made_by = Provenance { netkin: "1".into(), device: "flex".into() };
        let plan = |shard: &str| Plan::of(&run, &Small, shard.parse().unwrap()).unwrap();
        assert_eq!((plan("0/1").missing(), plan("0/1").total(), plan("1/2").total()), (10, 10, 4));

        let keep = |shelf: usize, row: usize| {
            let units = Small.units(shelf, row).into_iter().map(|key| (key, vec![1])).collect();
            run.units().put(Small.shelf(shelf), &made_by, &units).unwrap();
        };
        keep(0, 0);
        keep(3, 1);
        assert_eq!(plan("0/2").shelves[0].missing, [1]);
        assert_eq!(plan("1/2").shelves[1].missing, [0, 1], "the large unit of the second row is missing");
        let large = Small.large(3, 1).into_iter().map(|key| (key, vec![2])).collect();
        run.large().put(Small.shelf(3), &made_by, &large).unwrap();
        assert_eq!(plan("1/2").shelves[1].missing, [0]);
        assert_eq!(plan("0/1").made_by(), BTreeMap::from([(made_by.clone(), 4)]));
        assert_eq!(plan("0/1").unwanted(), 0);
        run.units().put(Small.shelf(3), &made_by, &[(Key::of(&"lost"), vec![1])].into()).unwrap();
        assert_eq!(plan("0/1").unwanted(), 1);
    }
}
