//! Several run folders into one.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Bundle, Key, Provenance, Reading, RunError, RunFolder, Store, create_atomically, store};
use crate::files::read_regular;

/// What became of the units of a merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// Units that were copied.
    pub copied: usize,
    /// Units that were there already.
    pub there: usize,
    /// Units that were there with another content; what was there stayed.
    pub conflicts: Vec<Conflict>,
    /// Units that were damaged where they came from, and not copied.
    pub damaged: usize,
}

/// A unit that two folders have with different contents, as different devices may make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The shelf.
    pub shelf: Key,
    /// The unit.
    pub key: Key,
    /// What made the one that stayed.
    pub kept: Provenance,
    /// What made the one that was left.
    pub left: Provenance,
}

/// Copies all units and records of the folders `from` to `into`, which is made if need be; the list of images, too. Run
/// folders of other settings are refused before anything is made. What is merged already is not copied again.
///
/// # Errors
/// If there is no folder to copy from or to, a folder is no run folder or of other settings, or something cannot be read or
/// written.
pub fn merge(from: &[RunFolder], into: &Path) -> Result<(RunFolder, Merged), RunError> {
    let target = match from.first() {
        Some(first) => {
            for folder in from {
                // The same comparison as when a run goes on.
                RunFolder::open(folder.path(), first.settings())?;
            }
            RunFolder::open(into, first.settings())?
        }
        None => RunFolder::existing(into)?,
    };
    let mut merged = Merged::default();
    for folder in from.iter().filter(|folder| !is_same(folder.path(), into)) {
        copy_files(folder.path(), target.path())?;
        for (source, target) in [(folder.large(), target.large()), (folder.units(), target.units())] {
            for shelf in source.shelves()? {
                merge_shelf(&source, &target, shelf, &mut merged)?;
            }
        }
    }
    Ok((target, merged))
}

fn is_same(a: &Path, b: &Path) -> bool {
    a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

fn merge_shelf(source: &Store, target: &Store, shelf: Key, merged: &mut Merged) -> Result<(), RunError> {
    let (there, new) = (target.shelf(shelf)?, source.shelf(shelf)?);
    let mut bundles: BTreeMap<Provenance, Bundle> = BTreeMap::new();
    merged.damaged += new.damaged().iter().map(|damage| damage.units.map_or(1, |(damaged, _)| damaged)).sum::<usize>();
    for (key, made_by) in new.units() {
        if let Some(kept) = there.made_by(key) {
            if there.checksum(key) == new.checksum(key) {
                merged.there += 1;
            } else {
                merged.conflicts.push(Conflict { shelf, key, kept: kept.clone(), left: made_by.clone() });
            }
            continue;
        }
        let Some(value) = source.get(shelf, key)? else {
            merged.damaged += 1;
            continue;
        };
        merged.copied += 1;
        if source.reading() == Reading::OnDemand {
            // All of a shelf's large units may not fit into memory.
            target.put(shelf, made_by, &Bundle::from([(key, value)]))?;
        } else {
            bundles.entry(made_by.clone()).or_default().insert(key, value);
        }
    }
    for (made_by, units) in bundles {
        target.put(shelf, &made_by, &units)?;
    }
    target.pack(shelf)
}

/// Copies the list of images and the records, which are named by what they hold; what is there stays.
fn copy_files(from: &Path, into: &Path) -> Result<(), RunError> {
    let mut files = vec![super::manifest::FILE.to_owned()];
    for folder in store::names_in(from)?.iter().filter(|name| !["units", "large"].contains(&name.as_str())) {
        if from.join(folder).is_dir() {
            let records = store::names_in(&from.join(folder))?.into_iter().filter(|name| name.ends_with(".json"));
            files.extend(records.map(|name| format!("{folder}/{name}")));
        }
    }
    for file in files {
        let (source, target) = (from.join(&file), into.join(&file));
        if !source.exists() || target.exists() {
            continue;
        }
        let bytes =
            read_regular(&source, u64::MAX - 1).map_err(|error| RunError::Read { path: source, source: error })?;
        create_atomically(&target, &bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn folder(path: &Path, steps: usize) -> RunFolder {
        RunFolder::open(path, &json!({"steps": steps})).unwrap()
    }

    fn keep(run: &RunFolder, device: &str, units: &[(u32, u8)]) {
        let made_by = Provenance { netkin: "1".into(), device: device.into() };
        let units = units.iter().map(|&(key, value)| (Key::of(&key), vec![value; 10])).collect();
        run.units().put(Key::of(&"shelf"), &made_by, &units).unwrap();
        run.large().put(Key::of(&"shelf"), &made_by, &units).unwrap();
        run.keep_record("models", device, Key::of(&device), &device).unwrap();
    }

    #[test]
    fn units_of_several_folders_come_together() {
        let scratch = tempfile::tempdir().unwrap();
        let (a, b) = (folder(&scratch.path().join("a"), 1), folder(&scratch.path().join("b"), 1));
        keep(&a, "flex", &[(1, 1), (2, 2)]);
        keep(&b, "cuda:0", &[(2, 2), (3, 3), (4, 4)]);
        let into = scratch.path().join("into");
        let (target, merged) = merge(&[a.clone(), b.clone()], &into).unwrap();
        assert_eq!((merged.copied, merged.there, merged.conflicts.len()), (8, 2, 0));
        let shelf = target.units().shelf(Key::of(&"shelf")).unwrap();
        assert_eq!(shelf.units().count(), 4);
        assert_eq!(shelf.made_by(Key::of(&2)).unwrap().device, "flex");
        assert_eq!(target.records::<String>("models").unwrap(), ["cuda:0", "flex"]);
        // Once more, into itself too: nothing to do.
        let (_, merged) = merge(&[a.clone(), target.clone(), b.clone()], &into).unwrap();
        assert_eq!((merged.copied, merged.there), (0, 10));

        keep(&b, "other", &[(5, 5)]);
        keep(&folder(&scratch.path().join("c"), 1), "vulkan:0", &[(1, 9), (6, 6)]);
        let (_, merged) = merge(&[folder(&scratch.path().join("c"), 1)], &into).unwrap();
        assert_eq!((merged.copied, merged.conflicts.len()), (2, 2));
        let Conflict { key, kept, left, .. } = &merged.conflicts[0];
        assert_eq!((*key, kept.device.as_str(), left.device.as_str()), (Key::of(&1), "flex", "vulkan:0"));
        let shelf = target.units().shelf(Key::of(&"shelf")).unwrap();
        assert_eq!(shelf.get(Key::of(&1)), Some([1; 10].as_slice()), "what was there stays");
    }

    #[test]
    fn other_settings_are_refused_before_anything_is_copied() {
        let scratch = tempfile::tempdir().unwrap();
        let (a, b) = (folder(&scratch.path().join("a"), 1), folder(&scratch.path().join("b"), 2));
        keep(&a, "flex", &[(1, 1)]);
        let into = scratch.path().join("into");
        let error = merge(&[a, b], &into).unwrap_err();
        assert!(error.to_string().contains("steps = 2, and now it is 1"), "{error}");
        assert!(!into.exists());
        assert!(matches!(merge(&[], &scratch.path().join("none")), Err(RunError::NoRun { .. })));
    }
}
