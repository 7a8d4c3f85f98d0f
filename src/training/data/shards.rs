//! Tar files in webdataset's layout (<https://github.com/webdataset/webdataset>): the members of one sample stand one after the
//! other and have one name up to the first dot of its last part: `000123.jpg`, `000123.cls`.
//!
//! Each file is looked through once for where its images lie and for their labels; then images are read at random, by seeking.
//! A file is taken to be hostile: nothing is unpacked, names are for messages only, and what is read into memory at once is
//! bounded.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::names::Names;
use super::{DataError, Source, Split, classes_of, fingerprint_of_listing, read_part};
use crate::images::dataset::EXTENSIONS;
use crate::images::{DecodeError, MAX_FILE, RgbImage, decode};

/// The longest name of a member, and the longest extended header that may hold one, in bytes.
const MAX_HEADER: u64 = 1 << 20;
/// The largest `.cls` or `.json`, in bytes.
const MAX_LABEL: u64 = 1 << 20;
/// So much of a sample's name is kept, in characters.
const MAX_NAME: usize = 200;

/// The images in some tar files.
pub(super) struct Shards {
    shards: Vec<PathBuf>,
    /// The names of the samples.
    names: Names,
    places: Vec<Place>,
    labels: Vec<u32>,
    classes: usize,
}

/// Where an image's file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    offset: u64,
    /// In bytes; what is longer is as long as this, which is refused when it is read.
    length: u32,
    shard: u32,
}

/// The tar files in `folder`, sorted by name; of a split those whose names hold one of its words.
pub(super) fn list(folder: &Path, split: Option<Split>) -> Result<Vec<PathBuf>, DataError> {
    let failed = |source| DataError::Read { path: folder.to_owned(), source };
    let mut shards = Vec::new();
    for entry in folder.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".tar").filter(|stem| !stem.starts_with('.')) else {
            continue;
        };
        let mut words = stem.split(|character: char| !character.is_ascii_alphabetic());
        if split.is_none_or(|split| words.any(|word| split.names().contains(&word))) {
            shards.push(path);
        }
    }
    shards.sort();
    Ok(shards)
}

impl Shards {
    /// Looks through all files.
    pub fn open(shards: Vec<PathBuf>) -> Result<Self, DataError> {
        let contents: Vec<Content> = shards
            .par_iter()
            .enumerate()
            .map(|(shard, path)| look_through(path, shard as u32))
            .collect::<Result<_, _>>()?;
        let (mut names, mut places, mut labels) = (Names::default(), Vec::new(), Vec::new());
        for content in contents {
            names.extend(&content.names);
            places.extend(content.places);
            labels.extend(content.labels);
        }
        let classes = classes_of(&labels, |index| names.get(index).to_owned())?;
        Ok(Self { shards, names, places, labels, classes })
    }
}

impl Source for Shards {
    fn len(&self) -> usize {
        self.places.len()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn label(&self, index: usize) -> usize {
        self.labels[index] as usize
    }

    fn id(&self, index: usize) -> String {
        let shard = &self.shards[self.places[index].shard as usize];
        format!("{}/{}", shard.file_name().unwrap_or_default().to_string_lossy(), self.names.get(index))
    }

    fn read(&self, index: usize) -> Result<RgbImage, DecodeError> {
        let Place { offset, length, shard } = self.places[index];
        let bytes = if u64::from(length) > MAX_FILE {
            let reason = format!("it is larger than {MAX_FILE} bytes, which no image should be");
            Err(std::io::Error::new(std::io::ErrorKind::InvalidData, reason))
        } else {
            read_part(&self.shards[shard as usize], offset, length as usize)
        };
        match bytes {
            Ok(bytes) => decode(&bytes, &self.id(index)),
            Err(source) => Err(DecodeError::Read { name: self.id(index), source }),
        }
    }

    fn fingerprint(&self) -> String {
        fingerprint_of_listing(self, |index| self.places[index].length.into())
    }
}

/// What one file holds.
#[derive(Default)]
struct Content {
    names: Names,
    places: Vec<Place>,
    labels: Vec<u32>,
}

/// The members of one sample.
#[derive(Default)]
struct Sample {
    key: String,
    /// Offset and length.
    image: Option<(u64, u64)>,
    /// From `.cls`, which goes before `.json`.
    class: Option<usize>,
    label: Option<usize>,
}

fn look_through(path: &Path, shard: u32) -> Result<Content, DataError> {
    let failed = |source| DataError::Read { path: path.to_owned(), source };
    let wrong = |problem: String| DataError::Shard { path: path.to_owned(), problem };
    // Asked before it is opened: to open a pipe is to wait for whoever writes into it.
    let metadata = path.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(wrong("it is no regular file; remove it".to_owned()));
    }
    // What the library says of a damaged header holds the header's bytes; only what the system says is told.
    let damaged = |error: std::io::Error| match error.raw_os_error() {
        Some(_) => failed(error),
        None => wrong("it is no whole tar file; fetch it again".to_owned()),
    };
    let mut archive = tar::Archive::new(File::open(path).map_err(failed)?);
    // Raw, so that extended headers of any length are not read by the library.
    let entries = archive.entries_with_seek().map_err(damaged)?.raw(true);
    let mut content = Content::default();
    let mut sample = Sample::default();
    let mut extended = Extended::default();
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        let (offset, length) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(length).is_none_or(|end| end > metadata.len()) {
            return Err(wrong("it ends within one of its members; fetch it again".to_owned()));
        }
        if kind.is_gnu_longname() {
            extended.name = Some(read_small(&mut entry, MAX_HEADER).map_err(wrong)?);
            continue;
        }
        if kind.is_pax_local_extensions() {
            extended.read(&read_small(&mut entry, MAX_HEADER).map_err(wrong)?);
            continue;
        }
        if kind.is_pax_global_extensions() || kind.is_gnu_longlink() {
            continue;
        }
        let Extended { name, size } = std::mem::take(&mut extended);
        if size.is_some_and(|size| size != length) {
            return Err(wrong("it has a member of more than 8 GiB; write it without".to_owned()));
        }
        if !kind.is_file() && !kind.is_contiguous() {
            continue;
        }
        let name = name.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let Some((key, extension)) = parts_of(&name) else {
            continue;
        };
        if key != sample.key {
            content.add(std::mem::replace(&mut sample, Sample { key, ..Sample::default() }), shard).map_err(wrong)?;
        }
        let named = |problem: String| wrong(format!("its member {}.{extension} {problem}", readable(&sample.key)));
        match extension.as_str() {
            "cls" => {
                let text = read_small(&mut entry, MAX_LABEL).map_err(named)?;
                let class = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
                sample.class = Some(class.ok_or_else(|| named("is no whole number from 0; correct it".to_owned()))?);
            }
            "json" => {
                let text = read_small(&mut entry, MAX_LABEL).map_err(named)?;
                let json: serde_json::Value = serde_json::from_slice(&text)
                    .map_err(|error| named(format!("is no JSON ({error}); correct it")))?;
                sample.label = json["label"].as_u64().map(|label| usize::try_from(label).unwrap_or(usize::MAX));
            }
            image if EXTENSIONS.contains(&image) && sample.image.is_some() => {
                return Err(named("is the second image of its sample; remove one".to_owned()));
            }
            image if EXTENSIONS.contains(&image) => sample.image = Some((offset, length)),
            _ => {}
        }
    }
    content.add(sample, shard).map_err(wrong)?;
    Ok(content)
}

impl Content {
    /// What has no image is no sample.
    fn add(&mut self, sample: Sample, shard: u32) -> Result<(), String> {
        let Some((offset, length)) = sample.image else {
            return Ok(());
        };
        let name = readable(&sample.key);
        let Some(label) = sample.class.or(sample.label) else {
            return Err(format!(
                "the image {name} has no label: the class belongs into {name}.cls, or as \"label\" into {name}.json, right beside it"
            ));
        };
        self.names.push(&name);
        self.places.push(Place { offset, length: u32::try_from(length).unwrap_or(u32::MAX), shard });
        self.labels.push(u32::try_from(label).unwrap_or(u32::MAX));
        Ok(())
    }
}

/// What stands before a member because its header has no room for it.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extended {
    /// From the records of an extended header.
    fn read(&mut self, records: &[u8]) {
        for record in tar::PaxExtensions::new(records).flatten() {
            match record.key_bytes() {
                b"path" => self.name = Some(record.value_bytes().to_vec()),
                b"size" => self.size = record.value().ok().and_then(|size| size.parse().ok()),
                _ => {}
            }
        }
    }
}

/// A member's content, if it is no longer than that.
fn read_small(entry: &mut tar::Entry<'_, File>, longest: u64) -> Result<Vec<u8>, String> {
    if entry.size() > longest {
        return Err(format!("has {} bytes where at most {longest} make sense; correct it", entry.size()));
    }
    let mut bytes = Vec::new();
    match entry.take(longest).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("cannot be read ({error}); fetch the file again")),
    }
}

/// A member's key and its extension in small letters; `None` for what is hidden, as macOS's attributes are, or has none.
fn parts_of(name: &[u8]) -> Option<(String, String)> {
    // A long name ends with a zero.
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    let name = name.strip_prefix("./").unwrap_or(&name);
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.').filter(|&dot| dot > 0)?;
    Some((name[..dot].to_owned(), name[dot + 1..].to_ascii_lowercase()))
}

/// A name as it may stand in a message.
fn readable(name: &str) -> String {
    name.chars().take(MAX_NAME).map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::encode_png;
    use proptest::prelude::*;

    fn png(gray: u8) -> Vec<u8> {
        encode_png(&RgbImage::new(3, 2, vec![gray; 18]))
    }

    /// A tar file of these members.
    fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn open(bytes: &[u8]) -> Result<Vec<(String, usize)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let shards = Shards::open(vec![write(&folder, "a.tar", bytes)]).map_err(|error| error.to_string())?;
        Ok((0..shards.len()).map(|index| (shards.id(index), shards.label(index))).collect())
    }

    #[test]
    fn samples_of_all_shards_come_in_order_and_are_read_at_random() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("{}/7.png", "folder".repeat(40));
        let first = tar_of(&[
            ("./0.cls", b"3\n"),
            ("./0.png", &png(10)),
            ("some/1.tags.txt", b"no image's"),
            ("some/1.JPG", &png(11)),
            ("some/1.json", br#"{"label": 2, "width": 3}"#),
            ("README.md", b"not a sample"),
            ("some/._2.png", b"macOS"),
        ]);
        let label = long.replace(".png", ".cls");
        let second = tar_of(&[
            (&long, &png(12)),
            (&label, b"0"),
            ("8.json", br#"{"label": 9}"#),
            ("8.cls", b"1"),
            ("8.bmp", b"none"),
        ]);
        write(&folder, "set-train-0001.tar", &second);
        write(&folder, "set-train-0000.tar", &first);
        write(&folder, "set-val-0000.tar", b"not looked at");
        let shards = Shards::open(list(folder.path(), Some(Split::Train)).unwrap()).unwrap();
        assert_eq!((shards.len(), shards.classes()), (4, 4));
        assert_eq!((0..4).map(|index| shards.label(index)).collect::<Vec<_>>(), [3, 2, 0, 1]);
        assert_eq!(shards.id(1), "set-train-0000.tar/some/1");
        assert!(shards.id(2).starts_with("set-train-0001.tar/folderfolder") && shards.id(2).len() < 230);
        for (index, gray) in [(2, 12), (0, 10), (1, 11)] {
            assert_eq!(shards.read(index).unwrap(), RgbImage::new(3, 2, vec![gray; 18]));
        }
        let error = shards.read(3).unwrap_err().to_string();
        assert!(error.contains("`set-train-0001.tar/8`"), "{error}");
        assert_eq!(list(folder.path(), Some(Split::Test)).unwrap().len(), 1);
        assert_eq!(list(folder.path(), None).unwrap().len(), 3);
    }

    #[test]
    fn pythons_extended_headers_are_read() {
        let long = "a".repeat(150);
        let mut builder = tar::Builder::new(Vec::new());
        for (extension, bytes) in [("png", png(1)), ("cls", b"5".to_vec())] {
            let path = format!("{long}.{extension}");
            builder.append_pax_extensions([("mtime", b"1.5".as_slice()), ("path", path.as_bytes())]).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_path("short").unwrap();
            header.set_cksum();
            builder.append(&header, bytes.as_slice()).unwrap();
        }
        assert_eq!(open(&builder.into_inner().unwrap()).unwrap(), [(format!("a.tar/{long}"), 5)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let png = png(1);
        let message = |members: &[(&str, &[u8])]| open(&tar_of(members)).unwrap_err();
        assert!(message(&[("1.png", &png), ("2.cls", b"1")]).contains("the image 1 has no label"));
        assert!(message(&[("1.png", &png), ("1.cls", b"cat")]).contains("its member 1.cls is no whole number"));
        assert!(message(&[("1.png", &png), ("1.cls", b"-1")]).contains("no whole number"));
        assert!(message(&[("1.png", &png), ("1.json", b"{")]).contains("its member 1.json is no JSON"));
        assert!(message(&[("1.png", &png), ("1.json", b"[1]")]).contains("has no label"));
        assert!(message(&[("1.png", &png), ("1.jpg", &png)]).contains("second image"));
        assert!(message(&[("1.png", &png), ("1.cls", b"4000000000")]).contains("there are only 1048576 classes"));
        assert!(message(&[("1.png", &png), ("1.cls", &[b'1'; 2 << 20])]).contains("at most 1048576 make sense"));
        let whole = tar_of(&[("1.cls", b"1"), ("1.png", &png)]);
        assert!(open(&whole).is_ok());
        assert!(open(&whole[..1540]).unwrap_err().contains("ends within one of its members"));
        assert!(open(&whole[..300]).unwrap_err().contains("no whole tar file"));
        assert!(open(&[7; 2000]).unwrap_err().contains("no whole tar file"));
        // Of a header whose numbers are none, its name is told and no byte of it.
        let mut damaged = whole.clone();
        damaged[124..136].fill(0x1b);
        let mut header = tar::Header::from_byte_slice(&damaged[..512]).clone();
        header.set_cksum();
        damaged[..512].copy_from_slice(header.as_bytes());
        let said = open(&damaged).unwrap_err();
        assert!(said.contains("a.tar cannot be used: it is no whole tar file; fetch it again"), "{said:?}");
        assert!(open(&[]).unwrap().is_empty());
        // A member that says it is longer than any file.
        let mut header = tar::Header::new_gnu();
        header.set_path("1.png").unwrap();
        header.set_size(u64::MAX / 2);
        header.set_cksum();
        assert!(open(header.as_bytes()).unwrap_err().contains("ends within one of its members"));
    }

    #[test]
    fn names_are_harmless_in_messages() {
        assert_eq!(readable("a\u{1b}[31m\n"), "a\u{fffd}[31m\u{fffd}");
        assert_eq!(readable(&"x".repeat(1000)).len(), MAX_NAME);
        assert_eq!(parts_of(b"../../etc/1.PNG"), Some(("../../etc/1".to_owned(), "png".to_owned())));
        assert_eq!(parts_of(b"a.b/c.tar.gz\0rest"), Some(("a.b/c".to_owned(), "tar.gz".to_owned())));
        for none in [b"".as_slice(), b"a", b"a.b/c", b"a/.hidden", b"/"] {
            assert_eq!(parts_of(none), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn mutated_files_never_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            length in any::<prop::sample::Index>(),
        ) {
            let long = "n".repeat(120);
            let name = format!("{long}.png");
            let mut bytes = tar_of(&[("1.cls", b"1"), ("1.png", &png(1)), ("2.json", b"{\"label\": 1}"), (&name, b"x")]);
            for (position, value) in changes {
                let position = position.index(bytes.len());
                bytes[position] = value;
            }
            bytes.truncate(length.index(bytes.len()) + 1);
            let _ = open(&bytes);
        }
    }
}
