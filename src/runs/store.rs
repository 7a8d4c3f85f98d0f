//! The store of units: what was computed, under keys, in few files, each whole or not at all.
//!
//! Units lie on shelves. A shelf is a folder of what is asked for together, such as all that is known of one chunk of images,
//! so that a process looks at the shelves of its own share only. On it lie
//!
//! ```text
//! HASH.units      what one step of work left behind
//! HASH.pack       many of those in one file, once nothing more is expected soon
//! ```
//!
//! named by a hash of their content: two processes that did the same work write the same file. A pack is on the disk before
//! the files that it replaces are removed, and a reader who finds a file gone lists the shelf again, so that no locks are
//! needed. Each file begins with an index of its units, and each unit has a checksum of its own: of a damaged file, the
//! units that are whole still count.
//!
//! ```text
//! magic, 8 bytes | length of made-by, u32 | count of units, u32 | checksum of the index, 16 bytes
//! made-by: JSON, a list of what the units were made by
//! index: for each unit its key, 16 bytes | position in made-by, u16 | length, u32 | checksum, 8 bytes
//! the units' bytes
//! ```
//! Numbers are little-endian; units are in the order of their keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use netkin_weights::files::TEMPORARY;
use serde::{Deserialize, Serialize};

use super::atomic::{once_more, sync_folder, write_atomically};
use super::{Key, RunError};

const MAGIC: [u8; 8] = *b"netkinU2";
const HEADER: usize = 8 + 4 + 4 + 16;
const ENTRY: usize = Key::BYTES + 2 + 4 + 8;

/// Files of at least this many bytes are not copied into packs: there are few of them for what they hold.
const LARGE_FILE: u64 = 1 << 20;
/// A shelf of this many packs gets one for all of them.
const MANY_PACKS: usize = 8;
/// How often a shelf is listed again because files went while it was read.
const LISTINGS: usize = 5;

const UNITS: &str = "units";
const PACK: &str = "pack";

/// What units were made by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Provenance {
    /// The version of netkin.
    pub netkin: String,
    /// The device that computed.
    pub device: String,
}

/// Units that are kept together.
pub type Bundle = BTreeMap<Key, Vec<u8>>;

/// Units on shelves, in a folder.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    reading: Reading,
}

/// When the bytes of units are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// With the shelf: the units are small, and what is listed is known to be whole.
    WithShelf,
    /// One by one: the units are large, and one that is listed may turn out to be damaged.
    OnDemand,
}

/// What lies on one shelf.
#[derive(Debug)]
pub struct Shelf {
    files: Vec<UnitFile>,
    /// Sorted by key; the same key may be there several times.
    places: Vec<Place>,
    damaged: Vec<Damage>,
}

#[derive(Debug)]
struct UnitFile {
    path: PathBuf,
    /// Of the whole file, in bytes.
    length: u64,
    changed: Option<SystemTime>,
    made_by: Vec<Provenance>,
    /// The whole file, if it was read.
    bytes: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    key: Key,
    file: u32,
    made_by: u16,
    length: u32,
    checksum: [u8; 8],
    /// From the beginning of the file.
    offset: u64,
}

/// Units that cannot be used and are done again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// How many of its units are damaged, and how many there are; none if the index itself is.
    pub units: Option<(usize, usize)>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.units {
            Some((damaged, all)) => {
                write!(f, "{damaged} of the {all} units in {path} are damaged; they are done again")
            }
            None => write!(f, "{path} is damaged; the units in it are done again"),
        }
    }
}

impl Store {
    /// A store in a folder, which is made when something is kept.
    pub fn new(folder: PathBuf, reading: Reading) -> Self {
        Self { folder, reading }
    }

    /// When the bytes of its units are read.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// Where a shelf's files are.
    pub fn shelf_folder(&self, shelf: Key) -> PathBuf {
        self.folder.join(shelf.to_string())
    }

    /// What lies on a shelf now.
    ///
    /// # Errors
    /// If the folder, or a file in it, is there and cannot be read. A damaged file is no error.
    pub fn shelf(&self, shelf: Key) -> Result<Shelf, RunError> {
        let folder = self.shelf_folder(shelf);
        for _ in 1..LISTINGS {
            if let Some(shelf) = self.listed(&folder)? {
                return Ok(shelf);
            }
        }
        // Some other process keeps packing: what cannot be found now counts as not done, which costs time and nothing else.
        Ok(self.listed(&folder)?.unwrap_or(Shelf { files: Vec::new(), places: Vec::new(), damaged: Vec::new() }))
    }

    /// The shelf, or none if a file went while it was read.
    fn listed(&self, folder: &Path) -> Result<Option<Shelf>, RunError> {
        let mut shelf = Shelf { files: Vec::new(), places: Vec::new(), damaged: Vec::new() };
        for path in unit_files(folder)? {
            match once_more(|| read_file(&path, self.reading)) {
                Ok(contents) => shelf.add(path, contents),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(RunError::Read { path, source }),
            }
        }
        // Stable, so that of equal keys the one in the first file comes first, whoever reads.
        shelf.places.sort_by_key(|place| place.key);
        Ok(Some(shelf))
    }

    /// Keeps units. They are on the disk when this returns.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put(&self, shelf: Key, made_by: &Provenance, units: &Bundle) -> Result<(), RunError> {
        let units: Vec<_> = units.iter().map(|(&key, value)| (key, 0, value.as_slice())).collect();
        self.write(shelf, std::slice::from_ref(made_by), &units, UNITS)?;
        Ok(())
    }

    /// Written even if there is a file of that name: it may be damaged.
    fn write(
        &self,
        shelf: Key,
        made_by: &[Provenance],
        units: &[(Key, u16, &[u8])],
        extension: &str,
    ) -> Result<PathBuf, RunError> {
        let bytes = encode(made_by, units);
        let path = self.shelf_folder(shelf).join(format!("{}.{extension}", Key::of_bytes(&bytes)));
        write_atomically(&path, &bytes)?;
        Ok(path)
    }

    /// The bytes of a unit, if it is there and whole.
    ///
    /// # Errors
    /// If the shelf is there and cannot be read.
    pub fn get(&self, shelf: Key, key: Key) -> Result<Option<Vec<u8>>, RunError> {
        for _ in 0..LISTINGS {
            match self.shelf(shelf)?.read(key) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(RunError::Read { path: self.shelf_folder(shelf), source }),
                Ok(value) => return Ok(value),
            }
        }
        Ok(None)
    }

    /// Puts the small files of a shelf into one, and leaves what is damaged behind.
    ///
    /// # Errors
    /// If the shelf cannot be read, or the pack cannot be written; the small files are still there then.
    pub fn pack(&self, shelf: Key) -> Result<(), RunError> {
        remove_abandoned(&self.shelf_folder(shelf))?;
        let there = self.shelf(shelf)?;
        let damaged: BTreeSet<&Path> = there.damaged.iter().map(|damage| damage.path.as_path()).collect();
        let is_pack = |path: &Path| path.extension().is_some_and(|extension| extension == PACK);
        let is_small = |file: &&UnitFile| file.length < LARGE_FILE;
        let small_packs = there.files.iter().filter(is_small).filter(|file| is_pack(&file.path)).count();
        let all = !damaged.is_empty() || small_packs >= MANY_PACKS;
        let chosen = |file: &UnitFile| {
            damaged.contains(file.path.as_path()) || (file.length < LARGE_FILE && (all || !is_pack(&file.path)))
        };
        let replaced: Vec<usize> = (0..there.files.len()).filter(|&index| chosen(&there.files[index])).collect();
        if replaced.len() < 2 && damaged.is_empty() {
            return Ok(());
        }

        let mut values: Vec<(Key, &Provenance, Vec<u8>)> = Vec::new();
        for place in there.places.iter().filter(|place| replaced.contains(&(place.file as usize))) {
            if values.last().is_some_and(|(key, ..)| *key == place.key) {
                continue;
            }
            let file = &there.files[place.file as usize];
            match file.read(place) {
                Ok(Some(value)) => values.push((place.key, &file.made_by[usize::from(place.made_by)], value)),
                Ok(None) => {}
                // Another process packs this shelf.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(source) => return Err(RunError::Read { path: file.path.clone(), source }),
            }
        }
        let made_by: Vec<Provenance> =
            values.iter().map(|(_, made_by, _)| *made_by).collect::<BTreeSet<_>>().into_iter().cloned().collect();
        let units: Vec<(Key, u16, &[u8])> = values
            .iter()
            .map(|(key, by, value)| {
                let position = made_by.binary_search(by).expect("every unit's origin is in the list");
                (*key, position as u16, value.as_slice())
            })
            .collect();
        let pack = match units.is_empty() {
            true => None,
            false => Some(self.write(shelf, &made_by, &units, PACK)?),
        };
        sync_folder(&self.shelf_folder(shelf));
        let replaced = replaced.iter().map(|&index| there.files[index].path.as_path());
        for path in replaced.chain(damaged.iter().copied()).filter(|&path| Some(path) != pack.as_deref()) {
            // What cannot be removed, or is gone already, does no harm.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    /// The shelves that there are.
    ///
    /// # Errors
    /// If the folder is there and cannot be read.
    pub fn shelves(&self) -> Result<Vec<Key>, RunError> {
        let mut shelves: Vec<Key> = names_in(&self.folder)?.iter().filter_map(|name| name.parse().ok()).collect();
        shelves.sort();
        Ok(shelves)
    }
}

impl Shelf {
    fn add(&mut self, path: PathBuf, contents: Contents) {
        let Contents { length, changed, index, bytes } = contents;
        let Some(Index { made_by, entries }) = index else {
            self.damaged.push(Damage { path, units: None });
            return;
        };
        let file = self.files.len() as u32;
        let file_of = UnitFile { path, length, changed, made_by, bytes };
        let all = entries.len();
        let whole = entries.into_iter().map(|place| Place { file, ..place }).filter(|place| {
            place.offset + u64::from(place.length) <= length
                && file_of.in_memory(place).is_none_or(|value| place.is_of(value))
        });
        let before = self.places.len();
        self.places.extend(whole);
        let good = self.places.len() - before;
        if good < all {
            self.damaged.push(Damage { path: file_of.path.clone(), units: Some((all - good, all)) });
        }
        self.files.push(file_of);
    }

    fn places_of(&self, key: Key) -> impl Iterator<Item = &Place> {
        let start = self.places.partition_point(|place| place.key < key);
        self.places[start..].iter().take_while(move |place| place.key == key)
    }

    /// Whether a unit is there.
    pub fn has(&self, key: Key) -> bool {
        self.places_of(key).next().is_some()
    }

    /// What a unit was made by, if it is there.
    pub fn made_by(&self, key: Key) -> Option<&Provenance> {
        let place = self.places_of(key).next()?;
        Some(&self.files[place.file as usize].made_by[usize::from(place.made_by)])
    }

    /// The checksum of a unit, if it is there: two units under one key with the same checksum are the same.
    pub fn checksum(&self, key: Key) -> Option<[u8; 8]> {
        Some(self.places_of(key).next()?.checksum)
    }

    /// The bytes of a unit of a store that is read [`Reading::WithShelf`], if it is there.
    pub fn get(&self, key: Key) -> Option<&[u8]> {
        self.places_of(key).find_map(|place| self.files[place.file as usize].in_memory(place))
    }

    fn read(&self, key: Key) -> io::Result<Option<Vec<u8>>> {
        for place in self.places_of(key) {
            if let Some(value) = self.files[place.file as usize].read(place)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// All units that are there, each once, with what they were made by.
    pub fn units(&self) -> impl Iterator<Item = (Key, &Provenance)> {
        self.places.chunk_by(|a, b| a.key == b.key).map(|places| {
            let place = &places[0];
            (place.key, &self.files[place.file as usize].made_by[usize::from(place.made_by)])
        })
    }

    /// What was found damaged.
    pub fn damaged(&self) -> &[Damage] {
        &self.damaged
    }

    /// Whether several files wait to be [packed](Store::pack), or a damaged one to be left behind.
    pub fn is_untidy(&self) -> bool {
        let is_loose = |file: &&UnitFile| {
            file.length < LARGE_FILE && file.path.extension().is_some_and(|extension| extension == UNITS)
        };
        !self.damaged.is_empty() || self.files.iter().filter(is_loose).count() > 1
    }

    /// When the last file came.
    pub fn changed(&self) -> Option<SystemTime> {
        self.files.iter().filter_map(|file| file.changed).max()
    }
}

impl UnitFile {
    fn in_memory(&self, place: &Place) -> Option<&[u8]> {
        let start = usize::try_from(place.offset).ok()?;
        self.bytes.as_ref()?.get(start..start + place.length as usize)
    }

    /// None if it is damaged.
    fn read(&self, place: &Place) -> io::Result<Option<Vec<u8>>> {
        if let Some(value) = self.in_memory(place) {
            return Ok(Some(value.to_vec()));
        }
        let value = once_more(|| {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(place.offset))?;
            let mut value = vec![0; place.length as usize];
            file.read_exact(&mut value)?;
            Ok(value)
        });
        match value {
            Ok(value) => Ok(Some(value).filter(|value| place.is_of(value))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Place {
    fn is_of(&self, value: &[u8]) -> bool {
        checksum(self.key, value) == self.checksum
    }
}

/// Of a key and its value, so that a value under a wrong key is found, too.
fn checksum(key: Key, value: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.bytes());
    hasher.update(value);
    *hasher.finalize().as_bytes().first_chunk().expect("a hash is longer than a checksum")
}

fn encode(made_by: &[Provenance], units: &[(Key, u16, &[u8])]) -> Vec<u8> {
    let made_by = serde_json::to_vec(made_by).expect("a list of strings is JSON");
    let mut index = made_by.clone();
    for (key, by, value) in units {
        let length = u32::try_from(value.len()).expect("a unit is smaller than 4 GiB");
        index.extend_from_slice(key.bytes());
        index.extend_from_slice(&by.to_le_bytes());
        index.extend_from_slice(&length.to_le_bytes());
        index.extend_from_slice(&checksum(*key, value));
    }
    let mut bytes = Vec::with_capacity(HEADER + index.len() + units.iter().map(|unit| unit.2.len()).sum::<usize>());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(made_by.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(units.len() as u32).to_le_bytes());
    bytes.extend_from_slice(Key::of_bytes(&index).bytes());
    bytes.extend_from_slice(&index);
    for (_, _, value) in units {
        bytes.extend_from_slice(value);
    }
    bytes
}

/// What was read of a file.
struct Contents {
    length: u64,
    changed: Option<SystemTime>,
    /// None if it is damaged.
    index: Option<Index>,
    bytes: Option<Vec<u8>>,
}

struct Index {
    made_by: Vec<Provenance>,
    entries: Vec<Place>,
}

fn read_file(path: &Path, reading: Reading) -> io::Result<Contents> {
    // Asked by name first: to open a pipe is to wait for whoever writes into it.
    if !path.metadata()?.is_file() {
        return Ok(Contents { length: 0, changed: None, index: None, bytes: None });
    }
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let (length, changed) = (metadata.len(), metadata.modified().ok());
    if reading == Reading::WithShelf {
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        file.read_to_end(&mut bytes)?;
        let index = header(&bytes).and_then(|header| index(&header, bytes.get(HEADER..header.end())?));
        return Ok(Contents { length, changed, index, bytes: Some(bytes) });
    }
    let mut start = [0; HEADER];
    let index = match file.read_exact(&mut start) {
        Ok(()) => match header(&start).filter(|header| header.end() as u64 <= length) {
            Some(header) => {
                let mut bytes = vec![0; header.end() - HEADER];
                file.read_exact(&mut bytes)?;
                index(&header, &bytes)
            }
            None => None,
        },
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(error) => return Err(error),
    };
    Ok(Contents { length, changed, index, bytes: None })
}

struct Header {
    made_by: usize,
    count: usize,
    checksum: [u8; Key::BYTES],
}

impl Header {
    /// Where the units' bytes begin.
    fn end(&self) -> usize {
        // Both are less than 2^32, so that this cannot overflow.
        HEADER + self.made_by + self.count * ENTRY
    }
}

fn header(bytes: &[u8]) -> Option<Header> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (made_by, rest) = rest.split_first_chunk::<4>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (made_by, count) = (u32::from_le_bytes(*made_by) as usize, u32::from_le_bytes(*count) as usize);
    Some(Header { made_by, count, checksum: *rest.first_chunk()? })
}

/// From the bytes between the header and the units.
fn index(header: &Header, bytes: &[u8]) -> Option<Index> {
    if *Key::of_bytes(bytes).bytes() != header.checksum {
        return None;
    }
    let (made_by, entries) = bytes.split_at_checked(header.made_by)?;
    let made_by: Vec<Provenance> = serde_json::from_slice(made_by).ok()?;
    let mut offset = header.end() as u64;
    let entries: Option<Vec<Place>> = entries
        .chunks_exact(ENTRY)
        .map(|entry| {
            let (key, entry) = entry.split_first_chunk()?;
            let (by, entry) = entry.split_first_chunk()?;
            let (length, entry) = entry.split_first_chunk()?;
            let (by, length) = (u16::from_le_bytes(*by), u32::from_le_bytes(*length));
            let place = Place {
                key: Key::from_bytes(*key),
                file: 0,
                made_by: by,
                length,
                checksum: *entry.first_chunk()?,
                offset,
            };
            offset += u64::from(length);
            (usize::from(by) < made_by.len()).then_some(place)
        })
        .collect();
    Some(Index { made_by, entries: entries? })
}

/// The files of a shelf, sorted.
fn unit_files(folder: &Path) -> Result<Vec<PathBuf>, RunError> {
    let is_unit_file =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == UNITS || extension == PACK);
    let mut paths: Vec<PathBuf> = names_in(folder)?.iter().map(|name| folder.join(name)).filter(is_unit_file).collect();
    paths.sort();
    Ok(paths)
}

/// Removes what was never finished and is so old that nobody is writing it any more.
fn remove_abandoned(folder: &Path) -> Result<(), RunError> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let is_old = |path: &Path| {
        let changed = path.metadata().and_then(|metadata| metadata.modified()).ok();
        changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|age| age > DAY)
    };
    for name in names_in(folder)? {
        let path = folder.join(name);
        if path.extension().is_some_and(|extension| extension == TEMPORARY) && is_old(&path) {
            // What cannot be removed, or is gone already, does no harm.
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(())
}

/// What a folder holds; nothing if it is not there.
pub(super) fn names_in(folder: &Path) -> Result<Vec<String>, RunError> {
    let list = || match std::fs::read_dir(folder) {
        Ok(entries) => {
            let mut names = Vec::new();
            for entry in entries {
                // A name that is no Unicode is none of ours.
                names.extend(entry?.file_name().into_string().ok());
            }
            Ok(names)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    once_more(list).map_err(|source| RunError::Read { path: folder.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn provenance(device: &str) -> Provenance {
        Provenance { netkin: "1".into(), device: device.into() }
    }

    fn bundle(units: impl IntoIterator<Item = (u32, usize)>) -> Bundle {
        units.into_iter().map(|(key, length)| (Key::of(&key), vec![key as u8; length])).collect()
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        unit_files(folder).unwrap()
    }

    /// A store of three bundles on one shelf, of 10 units of 100 bytes each.
    fn three(folder: &Path, reading: Reading) -> (Store, Key) {
        let (store, shelf) = (Store::new(folder.to_owned(), reading), Key::of(&"shelf"));
        for part in 0..3 {
            let units = bundle((part * 10..part * 10 + 10).map(|key| (key, 100)));
            store.put(shelf, &provenance(["flex", "cuda:0"][part as usize % 2]), &units).unwrap();
        }
        (store, shelf)
    }

    #[test]
    fn units_come_back_loose_and_packed() {
        for reading in [Reading::WithShelf, Reading::OnDemand] {
            let folder = tempfile::tempdir().unwrap();
            let (store, shelf) = three(folder.path(), reading);
            let whole = |store: &Store| {
                let there = store.shelf(shelf).unwrap();
                assert_eq!(there.units().count(), 30);
                assert_eq!(there.made_by(Key::of(&15)), Some(&provenance("cuda:0")));
                assert!(there.damaged().is_empty() && !there.has(Key::of(&30)));
                for key in 0..30u32 {
                    assert_eq!(store.get(shelf, Key::of(&key)).unwrap(), Some(vec![key as u8; 100]));
                }
                there
            };
            assert!(whole(&store).is_untidy());
            store.pack(shelf).unwrap();
            assert!(!whole(&store).is_untidy());
            let packed = files(&store.shelf_folder(shelf));
            assert_eq!(packed.len(), 1);
            // The same work again, by another process: the same pack.
            three(folder.path(), reading);
            store.pack(shelf).unwrap();
            assert_eq!(files(&store.shelf_folder(shelf)), packed);
            assert_eq!(store.shelves().unwrap(), [shelf]);
        }
    }

    #[test]
    fn what_is_not_there_is_empty() {
        let store = Store::new("no/such/folder".into(), Reading::WithShelf);
        let shelf = store.shelf(Key::of(&1)).unwrap();
        assert_eq!((shelf.units().count(), shelf.is_untidy()), (0, false));
        assert_eq!(store.get(Key::of(&1), Key::of(&2)).unwrap(), None);
        store.pack(Key::of(&1)).unwrap();
    }

    #[test]
    fn a_pack_stays_as_it_is_when_more_comes_until_there_are_many() {
        let folder = tempfile::tempdir().unwrap();
        let (store, shelf) = three(folder.path(), Reading::WithShelf);
        store.pack(shelf).unwrap();
        let first = files(&store.shelf_folder(shelf));
        for round in 0..20 {
            for part in 0..2 {
                store.put(shelf, &provenance("flex"), &bundle([(100 + 2 * round + part, 5)])).unwrap();
            }
            store.pack(shelf).unwrap();
            let now = files(&store.shelf_folder(shelf));
            assert!(now.len() <= MANY_PACKS + 1, "{} files", now.len());
            assert!(round > 0 || now.contains(&first[0]));
        }
        assert_eq!(store.shelf(shelf).unwrap().units().count(), 70);
    }

    #[test]
    fn large_files_stay_by_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let (store, shelf) = three(folder.path(), Reading::OnDemand);
        store.put(shelf, &provenance("flex"), &bundle([(99, 2 << 20)])).unwrap();
        store.pack(shelf).unwrap();
        assert_eq!(files(&store.shelf_folder(shelf)).len(), 2);
        assert_eq!(store.get(shelf, Key::of(&99)).unwrap().map(|value| value.len()), Some(2 << 20));
    }

    /// Wherever a byte changes, the change is found, what is whole is kept, and what is done again heals the shelf.
    #[test]
    fn a_damaged_unit_is_found_wherever_it_is_and_done_again() {
        for reading in [Reading::WithShelf, Reading::OnDemand] {
            let folder = tempfile::tempdir().unwrap();
            let (store, shelf) = three(folder.path(), reading);
            store.pack(shelf).unwrap();
            let path = files(&store.shelf_folder(shelf)).remove(0);
            let good = std::fs::read(&path).unwrap();
            for position in (0..good.len()).step_by(7) {
                let mut bytes = good.clone();
                bytes[position] ^= 1;
                std::fs::write(&path, &bytes).unwrap();
                let lost: Vec<u32> = (0..30).filter(|key| store.get(shelf, Key::of(key)).unwrap().is_none()).collect();
                let in_values = position >= good.len() - 30 * 100;
                assert_eq!(lost.len(), if in_values { 1 } else { 30 }, "at {position}");
                if reading == Reading::WithShelf || !in_values {
                    assert_eq!(store.shelf(shelf).unwrap().damaged().len(), 1, "at {position}");
                }
                store.put(shelf, &provenance("flex"), &bundle(lost.iter().map(|&key| (key, 100)))).unwrap();
                store.pack(shelf).unwrap();
                for key in 0..30u32 {
                    assert_eq!(store.get(shelf, Key::of(&key)).unwrap(), Some(vec![key as u8; 100]), "at {position}");
                }
                for file in files(&store.shelf_folder(shelf)) {
                    std::fs::remove_file(file).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_file_that_ends_early_loses_its_end_only() {
        let folder = tempfile::tempdir().unwrap();
        let (store, shelf) = three(folder.path(), Reading::WithShelf);
        store.pack(shelf).unwrap();
        let path = files(&store.shelf_folder(shelf)).remove(0);
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, &good[..good.len() - 250]).unwrap();
        let there = store.shelf(shelf).unwrap();
        assert_eq!(there.units().count(), 27);
        assert_eq!(
            there.damaged()[0].to_string(),
            format!("3 of the 30 units in {} are damaged; they are done again", path.display())
        );
    }

    #[test]
    fn what_a_killed_process_left_goes_after_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let (store, shelf) = three(folder.path(), Reading::WithShelf);
        let left = ["old", "new"].map(|name| store.shelf_folder(shelf).join(format!("{name}.units.0123.partial")));
        let now = SystemTime::now();
        for (path, hours) in left.iter().zip([25, 23]) {
            File::create(path).unwrap().set_modified(now - Duration::from_secs(hours * 3600)).unwrap();
        }
        store.pack(shelf).unwrap();
        assert_eq!(left.map(|path| path.exists()), [false, true]);
        assert_eq!(store.shelf(shelf).unwrap().units().count(), 30);
    }

    /// Writers, packers and readers at once: a unit that was put is always found.
    #[test]
    fn processes_beside_each_other_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = &Store::new(folder.path().to_owned(), Reading::WithShelf);
        let shelf = Key::of(&"shelf");
        std::thread::scope(|scope| {
            for worker in 0..4 {
                scope.spawn(move || {
                    for step in 0..20 {
                        store.put(shelf, &provenance("flex"), &bundle([(worker * 100 + step, 50)])).unwrap();
                        if step % 3 == 0 {
                            store.pack(shelf).unwrap();
                        }
                    }
                });
            }
        });
        let there = store.shelf(shelf).unwrap();
        assert_eq!((there.units().count(), there.damaged().len()), (80, 0));
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), real in any::<bool>()) {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::new(folder.path().to_owned(), Reading::WithShelf);
            let path = folder.path().join(Key::of(&1).to_string());
            std::fs::create_dir_all(&path).unwrap();
            let bytes = if real { [MAGIC.as_slice(), &bytes].concat() } else { bytes };
            std::fs::write(path.join("0.units"), bytes).unwrap();
            for reading in [Reading::WithShelf, Reading::OnDemand] {
                let store = Store::new(folder.path().to_owned(), reading);
                prop_assert_eq!(store.shelf(Key::of(&1)).unwrap().units().count(), 0);
            }
            store.pack(Key::of(&1)).unwrap();
            prop_assert_eq!(files(&path).len(), 0);
        }
    }
}
