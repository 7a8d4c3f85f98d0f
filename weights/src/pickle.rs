//! What a checkpoint takes to read, found out before it is read.
//!
//! Burn's reader copies what a pickle names again, which the pickle does by two bytes, and bounds neither names of classes, nor
//! shapes, nor paths through dictionaries; a compressed archive may hold a pickle a thousand times its own length. So a file
//! of a few kilobytes can ask for terabytes. Here the same instructions are followed with sums in place of things.

use std::collections::HashMap;
use std::io::{Cursor, Read};

use burn_store::pytorch_reader::MAX_PICKLE_SIZE;
use zip::ZipArchive;

/// A file may take so many bytes, and so many times its own length besides: far more than any that `torch.save` wrote.
const LARGEST: u64 = 256 << 20;
const TIMES: u64 = 64;

/// Names of an archive that are no UTF-8, each of which the reader looks for among all.
const MOST_FOREIGN: usize = 2000;

/// What each thing takes besides its text: a place on the stack, and a copy under which it is remembered.
const EACH: u64 = 100;

const TOO_MUCH: &str = "to read it would take far more memory than a file of its length should";

/// Whether a checkpoint's tensors may take so many bytes.
///
/// # Errors
/// In a sentence's part, if not.
pub(crate) fn check_tensors(bytes: u64, file: usize) -> Result<(), String> {
    if bytes <= allowed(file) { Ok(()) } else { Err(TOO_MUCH.to_owned()) }
}

/// Whether a checkpoint's pickles can be read in reasonable memory. What is no pickle is left to the reader.
///
/// # Errors
/// In a sentence's part, if they cannot.
pub(crate) fn check(file: &[u8]) -> Result<(), String> {
    let allowed = allowed(file.len());
    let archived;
    let mut rest = file;
    if file.starts_with(b"PK") {
        let Some(pickle) = in_archive(file)? else { return Ok(()) };
        archived = pickle;
        rest = &archived;
    }
    // Before PyTorch 1.6, five of them are at the beginning.
    for _ in 0..5 {
        let mut machine = Machine { rest, ..Machine::default() };
        let whole = machine.run(allowed);
        if machine.taken > allowed {
            return Err(TOO_MUCH.to_owned());
        }
        if whole.is_none() {
            break;
        }
        rest = machine.rest;
    }
    Ok(())
}

fn allowed(file: usize) -> u64 {
    LARGEST + TIMES * file as u64
}

/// The pickle of a ZIP archive, as the reader finds it; none if the reader will not find one, either.
fn in_archive(file: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let Ok(mut archive) = ZipArchive::new(Cursor::new(file)) else { return Ok(None) };
    let is_foreign = |name: &&[u8]| std::str::from_utf8(name).is_err();
    if archive.file_names_raw().filter(is_foreign).count() > MOST_FOREIGN {
        return Err("the names in its archive are no text".to_owned());
    }
    let names = archive.file_names().flatten();
    let pickles =
        names.filter(|name| name.strip_suffix("data.pkl").is_some_and(|root| root.is_empty() || root.ends_with('/')));
    let Some(name) = pickles.min_by_key(|name| name.len()).map(|name| name.into_owned()) else { return Ok(None) };
    let Some(index) = archive.index_for_name(&name) else { return Ok(None) };
    let Ok(entry) = archive.by_index(index) else { return Ok(None) };
    let mut pickle = Vec::new();
    // What is damaged further on is followed up to there. The reader refuses longer ones.
    let _ = entry.take(MAX_PICKLE_SIZE).read_to_end(&mut pickle);
    Ok(Some(pickle))
}

/// What a thing takes with all that is in it: it is counted as if nothing were ever left out.
#[derive(Debug, Clone, Copy, Default)]
struct Thing {
    bytes: u64,
    tensors: u64,
    /// Of the paths that lead from the thing to its tensors.
    paths: u64,
    /// Of a list or a tuple, how many are in it.
    items: u64,
    /// Under which it is remembered.
    memo: Option<u32>,
}

impl Thing {
    fn of(text: u64) -> Self {
        Self { bytes: EACH.saturating_add(text), ..Self::default() }
    }

    /// With another one in it, whose tensors are reached by a name of so many bytes.
    fn with(self, other: Self, name: u64) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            tensors: self.tensors.saturating_add(other.tensors),
            paths: self.paths.saturating_add(other.paths).saturating_add(other.tensors.saturating_mul(name)),
            items: self.items + 1,
            memo: self.memo,
        }
    }
}

/// A place in a list has a name of so many digits and a dot at most.
const PLACE: u64 = 10;

/// The pickle's machine: <https://github.com/python/cpython/blob/main/Lib/pickletools.py> tells what each instruction does.
#[derive(Default)]
struct Machine<'p> {
    rest: &'p [u8],
    stack: Vec<Thing>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Thing>,
    /// Bytes of all that was made or copied.
    taken: u64,
}

impl<'p> Machine<'p> {
    /// Follows the instructions up to the last, or until more than `most` is taken; none if one is damaged or unknown.
    fn run(&mut self, most: u64) -> Option<()> {
        while self.taken <= most {
            let [instruction] = self.take()?;
            match instruction {
                b'.' => {
                    // A path is kept twice, as the tensor's name and as its key.
                    let root = self.pop()?;
                    self.taken = self.taken.saturating_add(root.paths.saturating_mul(2));
                    return Some(());
                }
                0x80 => self.skip(1)?,
                0x95 => self.skip(8)?,
                b'N' | 0x88 | 0x89 | b')' | b']' | b'}' | 0x8f => self.push(0),
                b'K' => self.literal(1)?,
                b'M' => self.literal(2)?,
                b'J' => self.literal(4)?,
                b'G' => self.literal(8)?,
                0x8a | 0x8c | b'U' | b'C' => {
                    let [length] = self.take()?;
                    self.literal(length.into())?;
                }
                0x8b | b'X' | b'T' | b'B' => {
                    let length = u32::from_le_bytes(self.take()?);
                    self.literal(length.into())?;
                }
                0x8d | 0x8e | 0x96 => {
                    let length = u64::from_le_bytes(self.take()?);
                    self.literal(length)?;
                }
                b'I' | b'L' | b'F' | b'V' | b'P' => {
                    let line = self.line()?;
                    self.push(line.len() as u64);
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push((module.len() + name.len()) as u64);
                }
                b'(' => self.marks.push(self.stack.len()),
                b't' | b'l' | 0x91 => {
                    let items = self.since_mark()?;
                    self.push(0);
                    self.add(&items)?;
                }
                0x85..=0x87 => {
                    let items = self.last(usize::from(instruction - 0x84))?;
                    self.push(0);
                    self.add(&items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.add(&[item])?;
                }
                b'e' | 0x90 => {
                    let items = self.since_mark()?;
                    self.add(&items)?;
                }
                b'd' => {
                    let items = self.since_mark()?;
                    self.push(0);
                    self.insert(&items)?;
                }
                b's' => {
                    let items = self.last(2)?;
                    self.insert(&items)?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.insert(&items)?;
                }
                b'0' if self.marks.last() == Some(&self.stack.len()) => {
                    self.marks.pop();
                }
                b'0' => {
                    self.pop()?;
                }
                b'1' => {
                    self.since_mark()?;
                }
                b'2' => {
                    let top = *self.stack.last()?;
                    self.copy(top);
                    self.stack.push(top);
                }
                b'g' => {
                    let place = std::str::from_utf8(self.line()?).ok()?.parse().ok()?;
                    self.recall(place)?;
                }
                b'h' => {
                    let [place] = self.take()?;
                    self.recall(place.into())?;
                }
                b'j' => {
                    let place = u32::from_le_bytes(self.take()?);
                    self.recall(place)?;
                }
                b'p' => {
                    let place = std::str::from_utf8(self.line()?).ok()?.parse().ok()?;
                    self.remember(place)?;
                }
                b'q' => {
                    let [place] = self.take()?;
                    self.remember(place.into())?;
                }
                b'r' => {
                    let place = u32::from_le_bytes(self.take()?);
                    self.remember(place)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                // A storage has the texts of its description.
                b'Q' => {
                    let items = self.last(1)?;
                    self.made_of(&items);
                }
                0x93 => {
                    let items = self.last(2)?;
                    self.made_of(&items);
                }
                // What a call gives is a tensor, or holds no more than its arguments.
                b'R' | 0x81 => {
                    let items = self.last(2)?;
                    self.made_of(&items);
                    self.stack.last_mut()?.tensors += 1;
                }
                0x92 => {
                    let items = self.last(3)?;
                    self.made_of(&items);
                }
                // An object's state: attributes, of which those of a module hold its tensors.
                b'b' => {
                    let items = self.last(2)?;
                    let memo = items[0].memo;
                    self.made_of(&items);
                    if let Some(place) = memo {
                        self.remember(place)?;
                    }
                }
                _ => return None,
            }
        }
        None
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn line(&mut self) -> Option<&'p [u8]> {
        let end = self.rest.iter().position(|&byte| byte == b'\n')?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// A thing of so many bytes, which follow.
    fn literal(&mut self, length: u64) -> Option<()> {
        self.skip(length)?;
        self.push(length);
        Some(())
    }

    fn push(&mut self, text: u64) {
        let thing = Thing::of(text);
        self.copy(thing);
        self.stack.push(thing);
    }

    fn copy(&mut self, thing: Thing) {
        self.taken = self.taken.saturating_add(thing.bytes);
    }

    fn pop(&mut self) -> Option<Thing> {
        let is_free = self.marks.last().is_none_or(|&mark| self.stack.len() > mark);
        self.stack.pop().filter(|_| is_free)
    }

    fn last(&mut self, count: usize) -> Option<Vec<Thing>> {
        Some(self.stack.split_off(self.stack.len().checked_sub(count)?))
    }

    fn since_mark(&mut self) -> Option<Vec<Thing>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len())?;
        Some(self.stack.split_off(mark))
    }

    /// Something new that holds all of these under its own name.
    fn made_of(&mut self, items: &[Thing]) {
        let made = items.iter().fold(Thing::default(), |made, &item| made.with(item, 0));
        self.stack.push(made);
    }

    /// Puts items into the list on the stack.
    fn add(&mut self, items: &[Thing]) -> Option<()> {
        let list = self.stack.last_mut()?;
        // A pair may become a key and its value.
        let name = |list: Thing| if list.items == 1 { list.bytes } else { PLACE };
        *list = items.iter().fold(*list, |list, &item| list.with(item, name(list)));
        Some(())
    }

    /// Puts keys and values into the dictionary on the stack.
    fn insert(&mut self, items: &[Thing]) -> Option<()> {
        let map = self.stack.last_mut()?;
        *map = items.chunks(2).fold(*map, |map, pair| match *pair {
            [key, value] => map.with(key, 0).with(value, key.bytes),
            _ => map,
        });
        Some(())
    }

    fn remember(&mut self, place: u32) -> Option<()> {
        let top = self.stack.last_mut()?;
        top.memo = Some(place);
        let top = *top;
        self.copy(top);
        self.memo.insert(place, top);
        Some(())
    }

    fn recall(&mut self, place: u32) -> Option<()> {
        let thing = *self.memo.get(&place)?;
        self.copy(thing);
        self.stack.push(thing);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::Error;
    use crate::file::WeightsFile;

    fn text(text: &str) -> Vec<u8> {
        [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
    }

    #[track_caller]
    fn refused(file: &[u8]) {
        assert_eq!(check(file), Err(TOO_MUCH.to_owned()), "{} bytes", file.len());
    }

    /// A tensor's description.
    fn tensor(shape: &[u8], stride: &[u8]) -> Vec<u8> {
        let (kind, name, place) = (text("storage"), text("0"), text("cpu"));
        let id = [b"(".as_slice(), &kind, b"ctorch\nFloatStorage\n", &name, &place, b"K\x01tQ"].concat();
        [b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(), &id, b"K\0", shape, stride, b"\x89N", b"tR"].concat()
    }

    /// That of a tensor of one number.
    fn one() -> Vec<u8> {
        tensor(b"K\x01\x85", b"K\x01\x85")
    }

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    #[test]
    fn what_torch_wrote_is_read() {
        for file in [
            &include_bytes!("../tests/fixtures/resnet10t.pth")[..],
            include_bytes!("../tests/fixtures/resnet10t_training.pth"),
            include_bytes!("../tests/fixtures/resnet10t_before_1.6.pth"),
        ] {
            assert_eq!(check(file), Ok(()));
            for end in (0..file.len()).step_by(97) {
                assert_eq!(check(&file[..end]), Ok(()), "{end}");
            }
        }
    }

    #[test]
    fn few_bytes_that_ask_for_much_are_refused() {
        let often = |thing: &[u8]| [b"\x80\x02".as_slice(), thing, b"q\0", &b"h\0".repeat(20_000), b"."].concat();
        // The name of a class, and a shape, of 100 kB and twenty thousand times.
        refused(&often(format!("c{}\nx\n", "x".repeat(100_000)).as_bytes()));
        let axes = [b"(".as_slice(), &b"K\x01".repeat(100_000), b"t"].concat();
        refused(&often(&tensor(&axes, &axes)));
        refused(&often(&[text("x"), text(&"x".repeat(100_000)), b"\x93".to_vec()].concat()));
        assert_eq!(check(&often(&one())), Ok(()));
        // Tensors whose paths are that long.
        let paths = |key: &str| {
            let tensors = b"K\0h\0".repeat(20_000);
            [b"\x80\x02}".as_slice(), &text(key), b"}(K\0", &one(), b"q\0", &tensors, b"us."].concat()
        };
        refused(&paths(&"x".repeat(100_000)));
        assert_eq!(check(&paths("x")), Ok(()));
        // The same by way of OrderedDict([(key, tensors)]).
        let ordered = |key: &str| {
            let tensors = [b"}(K\0".as_slice(), &one(), b"q\0", &b"K\0h\0".repeat(20_000), b"u"].concat();
            [b"ccollections\nOrderedDict\n]".as_slice(), &text(key), &tensors, b"\x86a\x85R."].concat()
        };
        refused(&ordered(&"x".repeat(100_000)));
        assert_eq!(check(&ordered("x")), Ok(()));
        // In the last of the five pickles that a file of before PyTorch 1.6 begins with.
        let fifth = [b"\x80\x02N.".repeat(4), often(format!("c{}\nx\n", "x".repeat(100_000)).as_bytes())].concat();
        refused(&fifth);
    }

    #[test]
    fn pickles_that_were_compressed_count_as_long_as_they_are() {
        let long = archive(&[("x/data.pkl", &b"N".repeat(50_000_000))]);
        assert!(long.len() < 1 << 20);
        refused(&long);
        assert_eq!(check(&archive(&[("x/data.pkl", &b"N".repeat(10_000))])), Ok(()));
    }

    /// A view of one number as 30,000 × 30,000.
    #[test]
    fn tensors_of_numbers_that_are_not_there_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pth");
        let open = |side: i32| {
            let side = [b"J".as_slice(), &side.to_le_bytes()].concat();
            let view = tensor(&[&side[..], &side, b"\x86"].concat(), b"K\0K\0\x86");
            let pickle = [b"\x80\x02}".as_slice(), &text("x"), &view, b"s."].concat();
            std::fs::write(&path, archive(&[("x/data.pkl", &pickle), ("x/data/0", &1f32.to_le_bytes())])).unwrap();
            WeightsFile::open(&path).map(|file| file.tensors["x"].shape.clone())
        };
        assert_eq!(open(300).unwrap(), [300, 300]);
        assert!(matches!(open(30_000), Err(Error::Unreadable { reason, .. }) if reason == TOO_MUCH));
    }
}
