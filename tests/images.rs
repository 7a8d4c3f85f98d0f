//! Decoding, resizing and cropping against Pillow, torchvision and timm.
//!
//! The reference values were made by `scripts/pillow_reference.py`. The photographs of `../shared/assets/nips17` are no part
//! of the project: where they are missing, their test says so and passes.

use std::fs;
use std::path::{Path, PathBuf};

use netkin::images::{
    CropMode, Dataset, Filter, LoaderOptions, RgbImage, Transform, decode, decode_file, encode_png, load, resize,
    resize_f32,
};
use proptest::prelude::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

/// The rows of a CSV fixture, without its header.
fn rows(name: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(fixtures().join(name)).unwrap();
    let rows: Vec<_> = text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect();
    assert!(!rows.is_empty());
    rows
}

fn number(text: &str) -> usize {
    text.parse().unwrap()
}

fn filter(name: &str) -> Filter {
    Filter::from_name(name).unwrap()
}

fn crc(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

/// The image that the script computes by the same formula.
fn formula_image(width: usize, height: usize) -> RgbImage {
    let mut data = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let value = x * 131 + y * 241 + channel * 59 + (x * y % 251) * ((x + 3 * y) % 17);
                data.push((value % 256) as u8);
            }
        }
    }
    RgbImage::new(width, height, data)
}

#[test]
fn resize_is_pillows_in_every_byte() {
    for row in rows("resize.csv") {
        let image = formula_image(number(&row[0]), number(&row[1]));
        let resized = resize(&image, (number(&row[2]), number(&row[3])), filter(&row[4]));
        assert_eq!(crc(resized.data()), row[5], "{row:?}");
    }
}

#[test]
fn float_resize_is_pillows_in_every_bit() {
    for row in rows("resize_f32.csv") {
        let (from, to) = ((number(&row[1]), number(&row[0])), (number(&row[3]), number(&row[2])));
        let pixels = formula_image(from.1, from.0).to_pixels();
        let resized = resize_f32(&pixels, from, to, filter(&row[4]));
        let bytes: Vec<u8> = resized.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(crc(&bytes), row[5], "{row:?}");
    }
}

#[test]
fn the_evaluation_transform_is_timms() {
    for row in rows("transform.csv") {
        let transform = Transform {
            input_size: (number(&row[2]), number(&row[3])),
            crop_pct: row[4].parse().unwrap(),
            interpolation: filter(&row[6]),
            crop_mode: match row[5].as_str() {
                "center" => CropMode::Center,
                "squash" => CropMode::Squash,
                "border" => CropMode::Border([128, 64, 191]),
                other => panic!("unknown crop mode {other}"),
            },
        };
        let image = transform.apply(&formula_image(number(&row[0]), number(&row[1])));
        assert_eq!((image.height(), image.width()), transform.input_size);
        assert_eq!(crc(image.data()), row[7], "{row:?}");
    }
}

/// The files of the fixtures with what Pillow decodes from them.
fn format_files() -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(fixtures().join("formats")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".rgb") {
            let pixels = fs::read(path.with_file_name(format!("{name}.rgb"))).unwrap();
            files.push((name, fs::read(&path).unwrap(), pixels));
        }
    }
    files.sort();
    assert!(files.len() > 20);
    files
}

#[test]
fn every_format_decodes_as_in_pillow() {
    let mut wrong = Vec::new();
    for (name, bytes, expected) in format_files() {
        let image = decode(&bytes, &name).unwrap();
        assert_eq!((image.width(), image.height()), (41, 30), "{name}");
        let distances = image.data().iter().zip(&expected).map(|(&ours, &theirs)| ours.abs_diff(theirs));
        let largest = distances.clone().max().unwrap();
        let equal = distances.filter(|&distance| distance == 0).count() as f64 / expected.len() as f64;
        println!("{name}: {:.1} % equal, at most {largest} apart", equal * 100.0);
        // The library reads CMYK, and JPEG inside of TIFF, and its inverse transform rounds in another way.
        let allowed = if ["cmyk.jpg", "jpeg.tiff"].contains(&name.as_str()) { 4 } else { 0 };
        if largest > allowed {
            wrong.push(format!("{name} is up to {largest} levels from Pillow"));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn what_ends_early_is_an_error_in_every_format() {
    let mut wrong = Vec::new();
    // Of an animation, the end of the later pictures may be missing.
    for (name, bytes, _) in format_files().into_iter().filter(|(name, ..)| name != "animated.gif") {
        for length in [bytes.len() / 4, bytes.len() / 2, bytes.len() * 3 / 4] {
            match decode(&bytes[..length], &name) {
                Ok(_) => wrong.push(format!("the first {length} bytes of {name} are decoded")),
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.starts_with(&format!("`{name}` is a ")), "{error}");
                    if !error.contains("ends too early") {
                        wrong.push(error);
                    }
                }
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

/// What would not be as in Pillow is refused, with the reason.
#[test]
fn what_is_read_otherwise_than_by_pillow_is_refused() {
    for (name, reason) in [("part_of_screen.gif", "part of the screen only"), ("palette.tiff", "RGBPalette")] {
        let bytes = fs::read(fixtures().join("refused").join(name)).unwrap();
        let error = decode(&bytes, name).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{name}` is a ")) && error.contains(reason), "{error}");
    }
}

#[test]
fn photographs_are_resized_as_by_pillow() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/assets/nips17/images");
    if !folder.is_dir() {
        println!("skipped: {} is not there", folder.display());
        return;
    }
    let rows = rows("photos.csv");
    assert_eq!(rows.len(), 128);
    for row in rows {
        let image = decode_file(&folder.join(&row[0])).unwrap();
        assert_eq!(crc(image.data()), row[1], "{}", row[0]);
        let sizes = [(224, 224), (331, 160)];
        let resized = [Filter::Bilinear, Filter::Bicubic]
            .into_iter()
            .flat_map(|filter| sizes.map(|size| (size, filter)))
            .map(|(size, filter)| crc(resize(&image, size, filter).data()));
        assert!(resized.eq(row[2..].iter().cloned()), "{row:?}");
    }
}

#[test]
fn a_folder_with_a_corrupt_image_loads_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let formats = fixtures().join("formats");
    fs::create_dir_all(folder.path().join("cat")).unwrap();
    fs::create_dir_all(folder.path().join("dog")).unwrap();
    fs::copy(formats.join("420.jpg"), folder.path().join("cat/1.jpg")).unwrap();
    fs::copy(formats.join("lossy.webp"), folder.path().join("cat/3.webp")).unwrap();
    // The extension lies: the content counts.
    fs::copy(formats.join("rgba.png"), folder.path().join("dog/1.jpeg")).unwrap();
    let whole = fs::read(formats.join("444.jpg")).unwrap();
    fs::write(folder.path().join("cat/2.jpg"), &whole[..whole.len() - 300]).unwrap();

    let dataset = Dataset::open(folder.path(), None).unwrap();
    let transform = Transform::center((24, 24), 0.875, Filter::Bicubic);
    let mut loader = load(&dataset.samples, transform, LoaderOptions::new(2));
    let batches: Vec<_> = loader.by_ref().map(Result::unwrap).collect();
    assert_eq!(batches[0].indices, [0, 2]);
    assert_eq!(batches[1].indices, [3]);
    assert_eq!(batches[1].labels, [1]);
    assert_eq!(batches[0].pixels().len(), 2 * 3 * 24 * 24);
    let expected = transform.apply(&decode_file(&dataset.samples[3].path).unwrap());
    assert_eq!(batches[1].image(0), expected);
    assert_eq!(batches[1].pixels(), expected.to_pixels());
    assert_eq!(loader.skipped().len(), 1);
    assert_eq!(loader.skipped()[0].id, "cat/2.jpg");
    assert!(loader.skipped()[0].reason.contains("ends too early"), "{}", loader.skipped()[0].reason);

    let strict = LoaderOptions { strict: true, ..LoaderOptions::new(2) };
    assert!(load(&dataset.samples, transform, strict).any(|batch| batch.is_err()));
}

fn any_filter() -> impl Strategy<Value = Filter> {
    prop_oneof![Just(Filter::Bilinear), Just(Filter::Bicubic)]
}

fn any_image() -> impl Strategy<Value = RgbImage> {
    (1..40usize, 1..40usize).prop_flat_map(|(width, height)| {
        prop::collection::vec(any::<u8>(), width * height * 3).prop_map(move |data| RgbImage::new(width, height, data))
    })
}

/// Found by the mutations below: the library decodes a picture without rows.
#[test]
fn a_picture_without_pixels_is_an_error() {
    // Where the height stands in the head of a BMP and of a GIF.
    for (end, height) in [(".bmp", 22..26), (".gif", 8..10)] {
        let (name, mut bytes, _) = format_files().into_iter().find(|(name, ..)| name.ends_with(end)).unwrap();
        bytes[height].fill(0);
        assert!(decode(&bytes, &name).is_err(), "{name}");
    }
    assert!(decode(b"P6 41 0 255\n", "flat.ppm").is_err());
    assert!(decode(b"P5\n0 7\n255\n", "flat.pgm").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_mutated_files_never_panics(
        file in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let (name, mut bytes, _) = file.get(&format_files()).clone();
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        // A decoder's panic is caught and becomes an error, which is for users; here it is a failure.
        if let Err(error) = decode(&bytes, &name) {
            prop_assert!(!error.to_string().contains("panicked"), "{}", error);
        }
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing(image in any_image(), filter in any_filter()) {
        let size = (image.width(), image.height());
        prop_assert_eq!(resize(&image, size, filter), image.clone());
        let pixels = image.to_pixels();
        prop_assert_eq!(resize_f32(&pixels, (size.1, size.0), (size.1, size.0), filter), pixels);
    }

    #[test]
    fn a_constant_image_stays_constant(
        colour in any::<[u8; 3]>(),
        from in (1..60usize, 1..60usize),
        to in (1..60usize, 1..60usize),
        filter in any_filter(),
    ) {
        let image = RgbImage::new(from.0, from.1, colour.repeat(from.0 * from.1));
        let resized = resize(&image, to, filter);
        prop_assert_eq!(resized.data(), colour.repeat(to.0 * to.1));
    }

    #[test]
    fn png_keeps_every_image(image in any_image()) {
        prop_assert_eq!(decode(&encode_png(&image), "memory").unwrap(), image);
    }
}
