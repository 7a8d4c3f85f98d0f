//! Tensors in what `torch.save` writes since PyTorch 1.6: a ZIP archive, uncompressed, of a pickle that says which tensors there are, and
//! of a file of numbers for each storage.
//!
//! Burn's reader of checkpoints wants a dictionary of weights at the root and gives tensors as a whole; people save images as a
//! tensor alone, as a pair with labels, or as a dictionary with them, in files larger than memory. Of the pickle those
//! instructions are known that `torch.save` writes for such things; nothing in a file is ever run. What is neither a tensor nor
//! what holds one is passed over.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Seek, SeekFrom};

use flate2::CrcWriter;

use super::{Array, Found, extent};
use crate::npy::{MAX_AXES, Number};

/// The largest list of a ZIP archive's files that is read, in bytes.
const MAX_DIRECTORY: u64 = 64 << 20;
/// The largest pickle that is read, in bytes.
const MAX_PICKLE: u64 = 4 << 20;
/// So many tensors at most are looked for, so deep in lists and dictionaries.
const MAX_TENSORS: usize = 10_000;
const MAX_DEPTH: usize = 8;
/// So many things in lists and dictionaries at most are looked at; one whose name is long counts as several.
const MAX_SEEN: usize = 1_000_000;
/// A tensor has so many numbers at most for each that is kept of it: those of some views stand for several.
const MAX_REPEATS: u64 = 1000;
/// The longest text that counts as a name, in bytes: a pickle names a thing again by two bytes, and each time its name is copied.
const MAX_TEXT: usize = 255;

/// The tensors of an archive of that many bytes.
pub(super) fn arrays(file: &mut (impl Read + Seek), length: u64) -> Found {
    let entries = entries(file, length)?;
    let is_pickle = |entry: &&Entry| entry.name == "data.pkl" || entry.name.ends_with("/data.pkl");
    let pickle = entries.iter().find(is_pickle).ok_or("it is a ZIP archive, but none that torch.save wrote")?;
    let folder = &pickle.name[..pickle.name.len() - "data.pkl".len()];
    let find = |name: String| entries.iter().find(|entry| entry.name == name);
    if let Some(order) = find(format!("{folder}byteorder"))
        && contents(file, order, length, 16)? != b"little"
    {
        return Err("its numbers are big-endian; save it again on a usual processor".to_owned());
    }
    let instructions = contents(file, pickle, length, MAX_PICKLE)?;
    let mut arrays = Vec::new();
    let mut checked = HashSet::new();
    for (name, tensor) in tensors(&instructions)? {
        let Tensor { number, shape, strides, first, storage } = tensor;
        let entry = find(format!("{folder}data/{storage}")).ok_or_else(|| format!("it has no numbers of {name:?}"))?;
        let start = entry.start(file, length)?;
        let count = shape.iter().try_fold(1u64, |count, &axis| count.checked_mul(axis as u64));
        let extent = match &strides {
            None => count,
            Some(strides) => extent(&shape, strides),
        };
        let size = number.size() as u64;
        let before = first.checked_mul(size);
        let end = extent.and_then(|extent| extent.checked_mul(size)).zip(before).and_then(|(a, b)| a.checked_add(b));
        if end.is_none_or(|end| end > entry.size) {
            return Err(format!("the tensor {name:?} is larger than what is kept of it"));
        }
        if count.is_none_or(|count| count / MAX_REPEATS > entry.size / size) {
            return Err(format!(
                "the tensor {name:?} repeats its numbers more than {MAX_REPEATS} times; save x.contiguous()"
            ));
        }
        // Several tensors may be views of one storage.
        if checked.insert(entry.header) {
            entry.check(file, start)?;
        }
        arrays.push(Array { name, number, shape, start: start + before.unwrap_or(0), strides });
    }
    Ok(arrays)
}

/// A file of an archive.
struct Entry {
    name: String,
    /// Where its own header begins.
    header: u64,
    size: u64,
    /// Of its bytes; 0 where none was computed, as `torch.serialization.set_crc32_options(False)` asks for.
    crc: u32,
    is_plain: bool,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?).into())
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Bytes of the file, which must have them.
fn bytes_at(file: &mut (impl Read + Seek), at: u64, count: u64, length: u64) -> Result<Vec<u8>, String> {
    const DAMAGED: &str = "its ZIP archive is damaged; it may be half written";
    if at.checked_add(count).is_none_or(|end| end > length) {
        return Err(DAMAGED.to_owned());
    }
    file.seek(SeekFrom::Start(at)).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 == count { Ok(bytes) } else { Err(DAMAGED.to_owned()) }
}

/// The files of an archive. <https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>, sections 4.3.12 to 4.3.16.
fn entries(file: &mut (impl Read + Seek), length: u64) -> Result<Vec<Entry>, String> {
    let damaged = || "its ZIP archive is damaged; it may be half written".to_owned();
    // The end has 22 bytes and a remark of up to 65,535.
    let tail_length = length.min(22 + 65_535);
    let tail_start = length - tail_length;
    let tail = bytes_at(file, tail_start, tail_length, length)?;
    let end = tail.windows(4).rposition(|four| four == b"PK\x05\x06").ok_or_else(damaged)?;
    if tail.len() < end + 22 {
        return Err(damaged());
    }
    let (mut size, mut start) = u32_at(&tail, end + 12).zip(u32_at(&tail, end + 16)).ok_or_else(damaged)?;
    let locator = (tail_start + end as u64).checked_sub(20);
    if let Some(locator) = locator {
        let locator = bytes_at(file, locator, 20, length)?;
        if locator.starts_with(b"PK\x06\x07") {
            let large = bytes_at(file, u64_at(&locator, 8).ok_or_else(damaged)?, 56, length)?;
            (size, start) = u64_at(&large, 40).zip(u64_at(&large, 48)).ok_or_else(damaged)?;
            if !large.starts_with(b"PK\x06\x06") {
                return Err(damaged());
            }
        }
    }
    if size > MAX_DIRECTORY {
        return Err("its ZIP archive has more files than any that torch.save wrote".to_owned());
    }
    let directory = bytes_at(file, start, size, length)?;
    let mut entries = Vec::new();
    let mut rest = &directory[..];
    while rest.starts_with(b"PK\x01\x02") {
        let (entry, after) = Entry::parse(rest).ok_or_else(damaged)?;
        entries.push(entry);
        rest = after;
    }
    Ok(entries)
}

impl Entry {
    /// From the list of the archive's files; what comes behind it in the list.
    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (flags, method, crc) = (u16_at(bytes, 8)?, u16_at(bytes, 10)?, u32_at(bytes, 16)? as u32);
        let (mut packed, mut size, mut header) = (u32_at(bytes, 20)?, u32_at(bytes, 24)?, u32_at(bytes, 42)?);
        let [name, extra, remark] = [28, 30, 32].map(|at| u16_at(bytes, at).map(|length| length as usize));
        let (name, extra, remark) = (name?, extra?, remark?);
        let after = bytes.get(46 + name + extra + remark..)?;
        let mut fields = bytes.get(46 + name..46 + name + extra)?;
        let name = String::from_utf8_lossy(bytes.get(46..46 + name)?).into_owned();
        // What does not fit into 32 bits stands in a field of its own.
        while let (Some(kind), Some(field)) = (u16_at(fields, 0), u16_at(fields, 2)) {
            let field = field as usize;
            let mut values = fields.get(4..4 + field)?;
            for value in [&mut size, &mut packed, &mut header] {
                if kind == 1 && *value == u64::from(u32::MAX) {
                    *value = u64_at(values, 0)?;
                    values = &values[8..];
                }
            }
            fields = &fields[4 + field..];
        }
        let is_plain = method == 0 && flags & 1 == 0 && packed == size;
        Some((Self { name, header, size, crc, is_plain }, after))
    }

    /// Where its bytes begin in the file.
    fn start(&self, file: &mut (impl Read + Seek), length: u64) -> Result<u64, String> {
        if !self.is_plain {
            return Err("its ZIP archive is compressed; save it again by torch.save".to_owned());
        }
        let header = bytes_at(file, self.header, 30, length)?;
        let lengths = u16_at(&header, 26).zip(u16_at(&header, 28));
        let (name, extra) =
            lengths.filter(|_| header.starts_with(b"PK\x03\x04")).ok_or("its ZIP archive is damaged")?;
        let start = self.header + 30 + name + extra;
        match start.checked_add(self.size) {
            Some(end) if end <= length => Ok(start),
            _ => Err("its ZIP archive is damaged; it may be half written".to_owned()),
        }
    }

    /// An error if its bytes, which begin at `start`, are not those that were written.
    fn check(&self, file: &mut (impl Read + Seek), start: u64) -> Result<(), String> {
        if self.crc == 0 {
            return Ok(());
        }
        file.seek(SeekFrom::Start(start)).map_err(|error| error.to_string())?;
        let mut read = CrcWriter::new(io::sink());
        io::copy(&mut file.take(self.size), &mut read).map_err(|error| error.to_string())?;
        let crc = read.crc().sum();
        match self.crc == crc {
            true => Ok(()),
            false => Err(format!(
                "its {} is damaged (of its CRC-32, {:08x} was written and {crc:08x} is there); copy or save it again",
                self.name, self.crc
            )),
        }
    }
}

fn contents(file: &mut (impl Read + Seek), entry: &Entry, length: u64, most: u64) -> Result<Vec<u8>, String> {
    if entry.size > most {
        return Err(format!("its {} has more than {most} bytes; save tensors alone", entry.name));
    }
    let start = entry.start(file, length)?;
    entry.check(file, start)?;
    bytes_at(file, start, entry.size, length)
}

/// A tensor as the pickle describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tensor {
    number: Number,
    shape: Vec<usize>,
    /// How many numbers apart neighbours along each axis are, if not all lie one after another in order.
    strides: Option<Vec<usize>>,
    /// Its first number, counted from the beginning of the storage.
    first: u64,
    /// The name of its storage.
    storage: String,
}

/// What a pickle makes, each at a place of a list, so that whatever it makes of what is taken apart without recursion.
enum Thing {
    /// What nobody here asks for.
    Other,
    Whole(i64),
    Text(String),
    /// A class or function by its module and name.
    Global(String),
    /// A list or a tuple.
    List(Vec<usize>),
    Map(Vec<(usize, usize)>),
    Storage {
        number: Option<Number>,
        name: String,
    },
    Tensor(Tensor),
    /// One that cannot be read, and why.
    Flawed(String),
}

/// The pickle's machine: <https://github.com/python/cpython/blob/main/Lib/pickletools.py> tells what each instruction does.
#[derive(Default)]
struct Machine<'p> {
    rest: &'p [u8],
    things: Vec<Thing>,
    /// Places of things.
    stack: Vec<usize>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, usize>,
}

const SHORT: &str = "its pickle ends too early; it may be half written";
const WRONG: &str = "its pickle is damaged";

/// The names and tensors of a pickle.
fn tensors(pickle: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let mut machine = Machine { rest: pickle, ..Machine::default() };
    let root = machine.run()?;
    let mut found = Vec::new();
    let mut seen = 0;
    let mut open = vec![(String::new(), root, 0)];
    while let Some((name, place, depth)) = open.pop() {
        let items = match &machine.things[place] {
            Thing::List(items) => items.len(),
            Thing::Map(items) => items.len(),
            _ => 0,
        };
        seen += items * (1 + name.len() / 32);
        if seen > MAX_SEEN || found.len() > MAX_TENSORS {
            return Err("it holds more things than can be looked through; save the images alone".to_owned());
        }
        let inner = |key: String| if name.is_empty() { key } else { format!("{name}.{key}") };
        match &machine.things[place] {
            Thing::Tensor(tensor) => found.push((name, tensor.clone())),
            Thing::Flawed(reason) => {
                let name = if name.is_empty() { "its tensor".to_owned() } else { format!("its tensor {name:?}") };
                return Err(format!("{name} {reason}"));
            }
            // The last is taken first.
            Thing::List(items) if depth < MAX_DEPTH => {
                let items = items.iter().enumerate().rev();
                open.extend(items.map(|(index, &item)| (inner(index.to_string()), item, depth + 1)));
            }
            Thing::Map(items) if depth < MAX_DEPTH => {
                let items = items.iter().rev().filter_map(|&(key, value)| match &machine.things[key] {
                    Thing::Text(key) if is_short(key) => Some((inner(key.clone()), value, depth + 1)),
                    Thing::Whole(key) => Some((inner(key.to_string()), value, depth + 1)),
                    _ => None,
                });
                open.extend(items);
            }
            _ => {}
        }
    }
    Ok(found)
}

impl<'p> Machine<'p> {
    /// Follows the instructions up to the last; what is then on the stack.
    fn run(&mut self) -> Result<usize, String> {
        loop {
            let [instruction] = self.take::<1>()?;
            match instruction {
                b'.' => return self.pop(),
                // Which version of the protocol, and the length of a part.
                0x80 => {
                    self.take::<1>()?;
                }
                0x95 => {
                    self.take::<8>()?;
                }
                b'(' => self.marks.push(self.stack.len()),
                b'N' | 0x88 | 0x89 | 0x8f => self.push(Thing::Other),
                b'G' => {
                    self.take::<8>()?;
                    self.push(Thing::Other);
                }
                b'K' => {
                    let [value] = self.take()?;
                    self.push(Thing::Whole(value.into()));
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.take()?);
                    self.push(Thing::Whole(value.into()));
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.take()?);
                    self.push(Thing::Whole(value.into()));
                }
                0x8a => self.long()?,
                b'X' | 0x8c | 0x8d => {
                    let text = self.counted(instruction)?;
                    let text = String::from_utf8_lossy(text).into_owned();
                    self.push(Thing::Text(text));
                }
                b'B' | b'C' | 0x8e => {
                    self.counted(instruction)?;
                    self.push(Thing::Other);
                }
                b')' | b']' => self.push(Thing::List(Vec::new())),
                b'}' => self.push(Thing::Map(Vec::new())),
                b't' | b'l' => {
                    let items = self.since_mark()?;
                    self.push(Thing::List(items));
                }
                0x85..=0x87 => {
                    let count = usize::from(instruction - 0x84);
                    let start = self.stack.len().checked_sub(count).ok_or(WRONG)?;
                    let items = self.stack.split_off(start);
                    self.push(Thing::List(items));
                }
                b'd' => {
                    let items = self.since_mark()?;
                    self.push(Thing::Map(pairs(&items)?));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' | 0x90 => {
                    let items = self.since_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.insert(vec![(key, value)])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.insert(pairs(&items)?)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Thing::Global(format!("{module} {name}")));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Thing::Text(module), Thing::Text(name)) = (&self.things[module], &self.things[name]) else {
                        return Err(WRONG.to_owned());
                    };
                    let is_name = is_short(module) && is_short(name);
                    self.push(if is_name { Thing::Global(format!("{module} {name}")) } else { Thing::Other });
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
                b'h' => {
                    let [place] = self.take()?;
                    self.recall(place.into())?;
                }
                b'j' => {
                    let place = u32::from_le_bytes(self.take()?);
                    self.recall(place)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id);
                    self.push(storage);
                }
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    match self.called(function, arguments) {
                        Made::New(thing) => self.push(thing),
                        Made::There(place) => self.stack.push(place),
                    }
                }
                // An object's state, of which dictionaries and tensors have none that matters.
                b'b' | b'0' => {
                    self.pop()?;
                }
                b'2' => {
                    let last = *self.stack.last().ok_or(WRONG)?;
                    self.stack.push(last);
                }
                other => {
                    return Err(format!(
                        "its pickle has an instruction ({other:#04x}) that torch.save does not write for tensors; save tensors alone"
                    ));
                }
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn take_many(&mut self, count: u64) -> Result<&'p [u8], String> {
        let count = usize::try_from(count).map_err(|_| SHORT)?;
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Bytes behind their number, whose length the instruction tells.
    fn counted(&mut self, instruction: u8) -> Result<&'p [u8], String> {
        let count = match instruction {
            b'C' | 0x8c => u64::from(self.take::<1>()?[0]),
            b'B' | b'X' => u64::from(u32::from_le_bytes(self.take()?)),
            _ => u64::from_le_bytes(self.take()?),
        };
        self.take_many(count)
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or(SHORT)?;
        let line = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest = &self.rest[end + 1..];
        Ok(line)
    }

    /// A whole number of any length, of which those of up to 8 bytes are kept.
    fn long(&mut self) -> Result<(), String> {
        let [count] = self.take()?;
        let bytes = self.take_many(count.into())?;
        let thing = match bytes.len() {
            0..=8 => {
                let is_negative = bytes.last().is_some_and(|&last| last >= 0x80);
                let mut value = [if is_negative { 0xff } else { 0 }; 8];
                value[..bytes.len()].copy_from_slice(bytes);
                Thing::Whole(i64::from_le_bytes(value))
            }
            _ => Thing::Other,
        };
        self.push(thing);
        Ok(())
    }

    fn push(&mut self, thing: Thing) {
        self.stack.push(self.things.len());
        self.things.push(thing);
    }

    fn pop(&mut self) -> Result<usize, String> {
        // What is below a mark belongs to what comes later.
        let is_free = self.marks.last().is_none_or(|&mark| self.stack.len() > mark);
        self.stack.pop().filter(|_| is_free).ok_or_else(|| WRONG.to_owned())
    }

    fn since_mark(&mut self) -> Result<Vec<usize>, String> {
        let mark = self.marks.pop().ok_or(WRONG)?;
        if mark > self.stack.len() {
            return Err(WRONG.to_owned());
        }
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: &[usize]) -> Result<(), String> {
        let list = *self.stack.last().ok_or(WRONG)?;
        if let Thing::List(list) = &mut self.things[list] {
            list.extend(items);
        }
        Ok(())
    }

    fn insert(&mut self, items: Vec<(usize, usize)>) -> Result<(), String> {
        let map = *self.stack.last().ok_or(WRONG)?;
        if let Thing::Map(map) = &mut self.things[map] {
            map.extend(items);
        }
        Ok(())
    }

    fn remember(&mut self, place: u32) -> Result<(), String> {
        let last = *self.stack.last().ok_or(WRONG)?;
        self.memo.insert(place, last);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        let thing = *self.memo.get(&place).ok_or(WRONG)?;
        self.stack.push(thing);
        Ok(())
    }

    fn items(&self, place: usize) -> &[usize] {
        match &self.things[place] {
            Thing::List(items) => items,
            _ => &[],
        }
    }

    /// From ("storage", class, name, device, count).
    fn storage(&self, id: usize) -> Thing {
        let &[kind, class, name, ..] = self.items(id) else { return Thing::Other };
        match (&self.things[kind], &self.things[class], &self.things[name]) {
            (Thing::Text(kind), Thing::Global(class), Thing::Text(name)) if kind == "storage" && is_short(name) => {
                Thing::Storage { number: number_of(class), name: name.clone() }
            }
            _ => Thing::Other,
        }
    }

    /// What calling a function with these arguments makes.
    fn called(&self, function: usize, arguments: usize) -> Made {
        let Thing::Global(function) = &self.things[function] else { return Made::New(Thing::Other) };
        let arguments = self.items(arguments);
        match (function.as_str(), arguments) {
            ("collections OrderedDict", []) => Made::New(Thing::Map(Vec::new())),
            ("torch._utils _rebuild_parameter", [tensor, ..]) => Made::There(*tensor),
            (
                "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor",
                [storage, first, shape, stride, ..],
            ) => Made::New(self.tensor(*storage, *first, *shape, *stride)),
            (name, _) if name.starts_with("torch._utils _rebuild") => {
                Made::New(Thing::Flawed("is sparse, quantised or of another rare kind; save it dense".to_owned()))
            }
            _ => Made::New(Thing::Other),
        }
    }

    fn tensor(&self, storage: usize, first: usize, shape: usize, stride: usize) -> Thing {
        let whole = |place: &usize| match &self.things[*place] {
            Thing::Whole(value) => usize::try_from(*value).ok(),
            _ => None,
        };
        let all = |place: usize| -> Option<Vec<usize>> {
            let items = self.items(place);
            if items.len() <= MAX_AXES { items.iter().map(whole).collect() } else { None }
        };
        let (Some(first), Some(shape), Some(stride)) = (whole(&first), all(shape), all(stride)) else {
            return Thing::Flawed("has a shape that is none".to_owned());
        };
        let Thing::Storage { number, name } = &self.things[storage] else {
            return Thing::Flawed("has no storage that is known here; save it on the CPU".to_owned());
        };
        let Some(number) = *number else {
            return Thing::Flawed("is of numbers that are not read; save it as float32 or uint8".to_owned());
        };
        if shape.len() != stride.len() {
            return Thing::Flawed("has a shape that is none".to_owned());
        }
        let mut expected = 1usize;
        let mut is_in_order = true;
        for (&axis, &stride) in shape.iter().zip(&stride).rev() {
            // Along an axis of one nobody steps.
            is_in_order &= axis <= 1 || stride == expected;
            expected = expected.saturating_mul(axis);
        }
        let strides = (!is_in_order && !shape.contains(&0)).then_some(stride);
        Thing::Tensor(Tensor { number, shape, strides, first: first as u64, storage: name.clone() })
    }
}

/// What a call makes: something new, or one of its arguments.
enum Made {
    New(Thing),
    There(usize),
}

fn is_short(text: &str) -> bool {
    text.len() <= MAX_TEXT
}

/// Items as keys and values.
fn pairs(items: &[usize]) -> Result<Vec<(usize, usize)>, String> {
    let pairs = items.chunks_exact(2);
    match pairs.remainder() {
        [] => Ok(pairs.map(|pair| (pair[0], pair[1])).collect()),
        _ => Err(WRONG.to_owned()),
    }
}

/// The numbers of a storage's class.
fn number_of(class: &str) -> Option<Number> {
    Some(match class.strip_prefix("torch ")? {
        "FloatStorage" => Number::F32,
        "DoubleStorage" => Number::F64,
        "HalfStorage" => Number::F16,
        "BFloat16Storage" => Number::BF16,
        "ByteStorage" => Number::U8,
        "CharStorage" => Number::I8,
        "ShortStorage" => Number::I16,
        "IntStorage" => Number::I32,
        "LongStorage" => Number::I64,
        "BoolStorage" => Number::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// Files that scripts/array_fixtures.py wrote.
    macro_rules! fixture {
        ($name:literal) => {
            &include_bytes!(concat!("../../tests/fixtures/arrays/", $name))[..]
        };
    }

    fn found(bytes: &[u8]) -> Found {
        arrays(&mut Cursor::new(bytes), bytes.len() as u64)
    }

    fn described(bytes: &[u8]) -> Vec<(String, Number, Vec<usize>)> {
        found(bytes).unwrap().into_iter().map(|array| (array.name, array.number, array.shape)).collect()
    }

    #[test]
    fn tensors_alone_in_pairs_and_in_dictionaries() {
        let images = vec![3, 3, 4, 5];
        assert_eq!(described(fixture!("bare.pt")), [(String::new(), Number::F32, images.clone())]);
        let expected =
            [("adv_inputs".to_owned(), Number::U8, images.clone()), ("labels".to_owned(), Number::I64, vec![3])];
        assert_eq!(described(fixture!("torchattacks.pt")), expected);
        let expected = [("0".to_owned(), Number::F64, images.clone()), ("1".to_owned(), Number::I32, vec![3])];
        assert_eq!(described(fixture!("pair.pt")), expected);
        let expected = [
            ("x.adversarial".to_owned(), Number::F16, images.clone()),
            ("x.half".to_owned(), Number::F16, vec![1, 3, 4, 5]),
        ];
        assert_eq!(described(fixture!("nested.pt")), expected);
        let halves = found(fixture!("nested.pt")).unwrap();
        // A part of the same storage: the last image.
        assert_eq!(halves[1].start, halves[0].start + 2 * 2 * 60);
    }

    /// A file as if no CRC-32 had been computed for it, so that what is changed in it is looked at further on.
    fn without_checks(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let places: Vec<usize> =
            bytes.windows(4).enumerate().filter(|(_, four)| *four == b"PK\x01\x02").map(|(at, _)| at).collect();
        places.into_iter().for_each(|at| bytes[at + 16..at + 20].fill(0));
        bytes
    }

    /// Other numbers would be judged as if they were the images that were saved.
    #[test]
    fn numbers_and_pickles_that_were_changed_are_refused() {
        let whole = fixture!("torchattacks.pt");
        for array in found(whole).unwrap() {
            let mut bytes = whole.to_vec();
            bytes[array.start as usize + 1] ^= 4;
            let said = found(&bytes).unwrap_err();
            assert!(said.contains("torchattacks/data/") && said.contains("is damaged"), "{said}");
            assert!(found(&without_checks(&bytes)).is_ok(), "PyTorch can leave the sums out");
        }
        let mut bytes = whole.to_vec();
        let name = bytes.windows(10).position(|part| part == b"adv_inputs").expect("the pickle names it");
        bytes[name] = b'b';
        assert!(found(&bytes).unwrap_err().contains("data.pkl is damaged"));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        assert!(found(fixture!("complex.pt")).unwrap_err().contains("float32 or uint8"));
        let empty = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert!(found(empty).unwrap_err().contains("none that torch.save wrote"));
    }

    fn numbers(bytes: &[u8], array: &Array, first: usize, count: usize) -> Vec<f32> {
        array.number.floats(&array.read(&mut Cursor::new(bytes), first, count).unwrap())
    }

    /// Colours last in the file and first by strides, as one image, as all of them and across images.
    #[test]
    fn a_view_is_read_in_its_own_order() {
        let (plain, turned) = (fixture!("bare.pt"), fixture!("turned.pt"));
        let [expected, view] = [plain, turned].map(|bytes| found(bytes).unwrap().remove(0));
        assert!(expected.strides.is_none() && view.strides == Some(vec![60, 1, 15, 3]));
        assert_eq!(view.shape, expected.shape);
        for (first, count) in [(0, 180), (60, 60), (50, 75), (179, 1), (0, 0)] {
            assert_eq!(
                numbers(turned, &view, first, count),
                numbers(plain, &expected, first, count),
                "{first} {count}"
            );
        }
    }

    /// One number for all, a part of a storage, and numbers too far apart to be read at once.
    #[test]
    fn views_of_every_kind_stay_in_their_storage() {
        let bytes: Vec<u8> = (0..3_000_000u32).flat_map(|number| (number as f32).to_le_bytes()).collect();
        let view = |shape: &[usize], strides: &[usize], first: u64| Array {
            name: String::new(),
            number: Number::F32,
            shape: shape.to_vec(),
            start: 4 * first,
            strides: Some(strides.to_vec()),
        };
        assert_eq!(numbers(&bytes, &view(&[2, 3], &[0, 1], 7), 0, 6), [7.0, 8.0, 9.0, 7.0, 8.0, 9.0]);
        assert_eq!(numbers(&bytes, &view(&[2, 2], &[1, 2], 5), 1, 3), [7.0, 6.0, 8.0]);
        let far = view(&[2, 3], &[1, 1_400_000], 0);
        assert_eq!(numbers(&bytes, &far, 0, 5), [0.0, 1_400_000.0, 2_800_000.0, 1.0, 1_400_001.0]);
        assert_eq!((far.extent(), view(&[2, 0], &[1, 2], 0).extent()), (Some(2_800_002), Some(0)));
        assert_eq!(view(&[usize::MAX, 3], &[usize::MAX, 1], 0).extent(), None);
    }

    /// Strides that lead out of what is kept, and few numbers that stand for very many.
    #[test]
    fn strides_that_leave_the_storage_are_refused() {
        let whole = without_checks(fixture!("turned.pt"));
        // The tuple of strides: 60, 1, 15, 3.
        let strides = b"(K\x3cK\x01K\x0fK\x03t";
        let at = whole.windows(strides.len()).position(|part| part == strides).expect("the fixture has them");
        let with = |place: usize, stride: u8| {
            let mut bytes = whole.clone();
            bytes[at + 2 + 2 * place] = stride;
            found(&bytes)
        };
        assert!(with(0, 60).is_ok() && with(0, 0).is_ok());
        assert!(with(0, 61).unwrap_err().contains("larger than what is kept"));
        assert!(with(3, 200).unwrap_err().contains("larger than what is kept"));
    }

    /// Whatever is cut off or changed, there is an answer.
    #[test]
    fn damaged_files_are_no_panic() {
        let whole = fixture!("torchattacks.pt");
        for end in 0..whole.len() {
            assert!(found(&whole[..end]).is_err(), "{end}");
        }
        let whole = without_checks(whole);
        for at in 0..whole.len() {
            for change in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                for array in found(&bytes).unwrap_or_default() {
                    let end = array.start + array.extent().unwrap() * array.number.size() as u64;
                    assert!(end <= bytes.len() as u64);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_instructions_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = tensors(&bytes);
        }

        #[test]
        fn any_of_those_that_are_known_end(
            places in prop::collection::vec(prop::sample::select(b"(]}t)aesuRbQ02hqK\x85\x86\x87\x94\x93\x81.N".to_vec()), 0..200),
        ) {
            let _ = tensors(&places);
        }
    }

    /// A pickle's instruction that pushes a text.
    fn text(text: &str) -> Vec<u8> {
        [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A thing that costs two bytes each time would otherwise be copied with a name, a shape or a class as long as the file.
    #[test]
    fn few_bytes_are_no_flood() {
        // One thing fifty thousand times, below names of 1.8 MB in all, or of 240 bytes: 48 GB, or 11 MB.
        let below = |key: &str| {
            let keys = [b"}".as_slice(), &text(key)].concat().repeat(3);
            [b"Nq\x000".as_slice(), &keys, b"(", &b"h\0".repeat(50_000), b"lsss."].concat()
        };
        assert_eq!(tensors(&below(&"k".repeat(600_000))), Ok(Vec::new()));
        assert!(tensors(&below(&"k".repeat(240))).unwrap_err().contains("more things"));
        assert_eq!(tensors(&below(&"k".repeat(20))), Ok(Vec::new()));

        let tensor = |axes: usize, name: &str| {
            let ones = [b"(".as_slice(), &b"K\x01".repeat(axes), b"t"].concat();
            let (kind, name, place) = (text("storage"), text(name), text("cpu"));
            let id = [b"(".as_slice(), &kind, b"ctorch\nFloatStorage\n", &name, &place, b"K\x01tQ"].concat();
            [b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(), &id, b"K\0", &ones, &ones, b"tR."].concat()
        };
        assert_eq!(tensors(&tensor(64, "0")).unwrap()[0].1.shape.len(), 64);
        assert!(tensors(&tensor(65, "0")).unwrap_err().contains("shape"));
        assert!(tensors(&tensor(1, &"0".repeat(256))).unwrap_err().contains("storage"));

        let class = [text("torch"), text(&"x".repeat(256)), b"\x93.".to_vec()].concat();
        let mut machine = Machine { rest: &class, ..Machine::default() };
        let made = machine.run().unwrap();
        assert!(matches!(machine.things[made], Thing::Other));
    }

    /// A list that holds itself, and lists that hold lists twice, thirty deep.
    #[test]
    fn what_holds_itself_is_left() {
        assert_eq!(tensors(b"]q\0h\0a."), Ok(Vec::new()));
        let mut bytes = b"]q\0".to_vec();
        for _ in 0..30 {
            bytes.extend(b"h\0h\0\x86q\0");
        }
        bytes.push(b'.');
        assert_eq!(tensors(&bytes), Ok(Vec::new()));
    }
}
