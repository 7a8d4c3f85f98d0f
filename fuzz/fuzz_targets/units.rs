//! Files of units in a run folder: as they are, and with their checksums made right, which no change by chance does.
#![no_main]

use std::path::Path;

use netkin::runs::{Key, Reading, Store};

const INDEX: usize = 32;
const ENTRY: usize = Key::BYTES + 2 + 4 + 8;

/// The bytes with the magic and the checksums that they should have.
fn mended(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    bytes.get_mut(..8)?.copy_from_slice(b"netkinU2");
    let number = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let (made_by, count) = (number(&bytes, 8)?, number(&bytes, 12)?);
    let start = INDEX.checked_add(made_by)?;
    let values = start.checked_add(count.checked_mul(ENTRY)?).filter(|&values| values <= bytes.len())?;
    let mut value = values;
    for entry in (start..values).step_by(ENTRY) {
        let length = number(&bytes, entry + Key::BYTES + 2)?;
        let Some(content) = bytes.get(value..value.checked_add(length)?) else { break };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes[entry..entry + Key::BYTES]);
        hasher.update(content);
        let checksum = hasher.finalize();
        bytes[entry + ENTRY - 8..entry + ENTRY].copy_from_slice(&checksum.as_bytes()[..8]);
        value += length;
    }
    let checksum = *Key::of_bytes(&bytes[INDEX..values]).bytes();
    bytes[16..INDEX].copy_from_slice(&checksum);
    Some(bytes)
}

fn read(folder: &Path, shelf: Key, bytes: &[u8]) {
    let place = format!("units/{shelf}/0.units");
    for reading in [Reading::WithShelf, Reading::OnDemand] {
        let _ = std::fs::remove_dir_all(folder.join("units"));
        netkin_fuzz::file(&place, bytes);
        let store = Store::new(folder.join("units"), reading);
        let there = store.shelf(shelf).expect("a damaged file is no error");
        let values = |keys: &[Key]| -> Vec<_> {
            keys.iter().map(|&key| store.get(shelf, key).expect("the file is there")).collect()
        };
        let keys: Vec<Key> = there.units().map(|(key, _)| key).collect();
        let before = values(&keys);
        store.pack(shelf).expect("there is room");
        assert_eq!(values(&keys), before);
    }
}

netkin_fuzz::target!(|bytes| {
    let (folder, shelf) = (netkin_fuzz::folder(), Key::of(&"shelf"));
    read(&folder, shelf, bytes);
    if let Some(bytes) = mended(bytes) {
        read(&folder, shelf, &bytes);
    }
});
