//! What becomes of an image in training, exactly as timm 1.0 and torchvision define it.
//!
//! | part | what it does | defined by |
//! |---|---|---|
//! | `crop` | which part of the image is seen | timm's `RandomResizedCropAndInterpolation`, torchvision's `RandomCrop` |
//! | `operations` | pixel operations, in every byte as Pillow's | Pillow 13 |
//! | `rand_augment` | RandAugment (Cubuk et al., arXiv 1909.13719) | timm's `rand_augment_transform` |
//! | `color_jitter` | brightness, contrast, saturation | torchvision's `ColorJitter` |
//! | `erasing` | random erasing (Zhong et al., arXiv 1708.04896) | timm's `RandomErasing` |
//! | `mixup` | mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899) | timm's `Mixup` |
//! | `draws` | where decisions come from | |
//!
//! The order is that of timm and DeiT: crop, mirror, RandAugment or colour jitter (never both), erase, and when the batch is
//! together, mix. Python's random numbers are not ours, so two runs see other images; but the same numbers lead to the same
//! decisions, and the same decisions to the same bytes, which the tests hold against timm.

mod color_jitter;
mod crop;
mod draws;
mod erasing;
mod mixup;
mod operations;
mod rand_augment;
#[cfg(test)]
mod testing;

use serde::{Deserialize, Serialize};

use super::TrainingError;
use crate::images::{Filter, RgbImage, Transform, resize};

pub(crate) use mixup::{Mix, Mixing, mix, targets};

use draws::Draws;
use erasing::Erasing;
use rand_augment::RandAugment;

const MAX_PADDING: usize = 4096;

/// What becomes of the images of a training set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Which part of an image is seen.
    pub crop: Crop,
    /// The least and largest share of the image's area that a random-resized crop takes; above 0 and at most 1.
    pub scale: [f64; 2],
    /// The least and largest ratio of width to height of a random-resized crop, before it is resized; above 0.
    pub ratio: [f64; 2],
    /// How many black pixels are put around the image for the crop "pad"; at most 4096.
    pub padding: usize,
    /// How pixels are interpolated: when a crop is resized, and by RandAugment.
    pub interpolation: Interpolation,
    /// How probable it is that left and right are exchanged; 0 to 1.
    pub horizontal_flip: f64,
    /// How probable it is that top and bottom are exchanged; 0 to 1.
    pub vertical_flip: f64,
    /// How far from 1 the factors of brightness, contrast and saturation may be; 0 leaves the colours alone. As in timm it
    /// acts only without RandAugment.
    pub color_jitter: f64,
    /// RandAugment as timm writes it, such as `rand-m9-mstd0.5-inc1`; empty for none.
    pub rand_augment: String,
    /// How probable it is that rectangles of the image are erased; 0 to 1.
    pub erase: f64,
    /// What erased pixels become.
    pub erase_mode: EraseMode,
    /// At most so many rectangles, which share the erased area; at least 1.
    pub erase_count: usize,
    /// The parameter of mixup's symmetric beta distribution; 0 for no mixup.
    pub mixup: f64,
    /// The parameter of CutMix's symmetric beta distribution; 0 for no CutMix.
    pub cutmix: f64,
    /// How probable it is that a batch (a pair, an image; see `mix_mode`) is mixed at all; 0 to 1.
    pub mix_probability: f64,
    /// How probable CutMix is where both are possible; 0 to 1.
    pub mix_switch: f64,
    /// What one draw of mixup and CutMix is for.
    pub mix_mode: MixMode,
    /// Repeated augmentation (Hoffer et al., arXiv 1901.09335; DeiT has 3): each image that an epoch takes comes so many times in
    /// succession, and the epoch takes as many fewer. At least 1.
    pub repeats: usize,
}

/// Which part of an image is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Crop {
    /// A window of random area and shape, resized.
    RandomResized,
    /// The image resized so that its short side fits, its centre; then black pixels around it, and a window of the size of
    /// the image at a random place.
    Pad,
    /// The image resized so that its short side fits, its centre.
    Center,
}

/// How pixels are interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// Linear in both directions.
    Bilinear,
    /// Cubic in both directions.
    Bicubic,
    /// One of the two each time. Where nothing else is random, for the crops "pad" and "center", bilinear, as in timm.
    Random,
}

/// What erased pixels become. Normal numbers are meant after normalisation: mean 0 there is the mean colour here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EraseMode {
    /// A normal number for each pixel and channel.
    Pixel,
    /// A normal number for each channel.
    Random,
    /// The mean colour.
    Constant,
}

/// What one draw of mixup and CutMix is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MixMode {
    /// The whole batch.
    Batch,
    /// An image and its partner, the one as far from the batch's end as this is from its beginning.
    Pair,
    /// An image, into which its partner is mixed.
    Elem,
}

impl Default for Augmentation {
    /// What timm does when it is asked for nothing: no RandAugment, no erasing, no mixing, no repeats.
    fn default() -> Self {
        Self {
            crop: Crop::RandomResized,
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            padding: 4,
            interpolation: Interpolation::Random,
            horizontal_flip: 0.5,
            vertical_flip: 0.0,
            color_jitter: 0.4,
            rand_augment: String::new(),
            erase: 0.0,
            erase_mode: EraseMode::Pixel,
            erase_count: 1,
            mixup: 0.0,
            cutmix: 0.0,
            mix_probability: 1.0,
            mix_switch: 0.5,
            mix_mode: MixMode::Batch,
            repeats: 1,
        }
    }
}

impl Augmentation {
    /// Nothing random: the image's centre.
    pub fn none() -> Self {
        Self {
            crop: Crop::Center,
            interpolation: Interpolation::Bicubic,
            horizontal_flip: 0.0,
            color_jitter: 0.0,
            ..Self::default()
        }
    }

    /// Whether every option is in its range.
    ///
    /// # Errors
    /// [`TrainingError::Option`] with the first option that is not.
    pub fn check(&self) -> Result<(), TrainingError> {
        const SHARE: &str = "from 0 to 1";
        const NOT_NEGATIVE: &str = "0 or above";
        let share = |value: f64| (value.to_string(), (0.0..=1.0).contains(&value), SHARE);
        let not_negative = |value: f64| (value.to_string(), value >= 0.0 && value.is_finite(), NOT_NEGATIVE);
        let count = |value: usize| (value.to_string(), value > 0, "at least 1");
        let pair = |[least, largest]: [f64; 2], highest: f64, range| {
            (format!("{:?}", [least, largest]), least > 0.0 && least <= largest && largest <= highest, range)
        };
        let checks = [
            (
                "augmentation.scale",
                pair(self.scale, 1.0, "the least and the largest share of the area, above 0 up to 1"),
            ),
            ("augmentation.ratio", pair(self.ratio, f64::MAX, "the least and the largest ratio, above 0")),
            ("augmentation.padding", (self.padding.to_string(), self.padding <= MAX_PADDING, "at most 4096")),
            ("augmentation.horizontal_flip", share(self.horizontal_flip)),
            ("augmentation.vertical_flip", share(self.vertical_flip)),
            ("augmentation.color_jitter", not_negative(self.color_jitter)),
            ("augmentation.erase", share(self.erase)),
            ("augmentation.erase_count", count(self.erase_count)),
            ("augmentation.mixup", not_negative(self.mixup)),
            ("augmentation.cutmix", not_negative(self.cutmix)),
            ("augmentation.mix_probability", share(self.mix_probability)),
            ("augmentation.mix_switch", share(self.mix_switch)),
            ("augmentation.repeats", count(self.repeats)),
        ];
        match checks.into_iter().find(|(_, (_, holds, _))| !holds) {
            Some((option, (value, _, range))) => Err(TrainingError::Option { option, value, range }),
            None => self.rand_augment().map(|_| ()),
        }
    }

    /// RandAugment, if there is one.
    fn rand_augment(&self) -> Result<Option<RandAugment>, TrainingError> {
        let text = &self.rand_augment;
        let refused = |range| TrainingError::Option { option: "augmentation.rand_augment", value: text.clone(), range };
        if text.is_empty() { Ok(None) } else { RandAugment::parse(text).map(Some).map_err(refused) }
    }
}

impl Interpolation {
    fn draw(self, draws: &mut impl Draws) -> Filter {
        match self {
            Self::Bilinear => Filter::Bilinear,
            Self::Bicubic => Filter::Bicubic,
            Self::Random => [Filter::Bilinear, Filter::Bicubic][draws.below(2)],
        }
    }

    fn without_chance(self) -> Filter {
        match self {
            Self::Bilinear | Self::Random => Filter::Bilinear,
            Self::Bicubic => Filter::Bicubic,
        }
    }
}

/// An [`Augmentation`] made ready for a network: everything that happens to one image alone.
pub(crate) struct Augmenter {
    augmentation: Augmentation,
    rand_augment: Option<RandAugment>,
    erasing: Erasing,
    /// Height and width.
    size: [usize; 2],
}

impl Augmenter {
    /// For images of `size` (height, width) that are normalised by `mean` and `std`.
    pub fn new(
        augmentation: &Augmentation,
        size: [usize; 2],
        mean: [f64; 3],
        std: [f64; 3],
    ) -> Result<Self, TrainingError> {
        augmentation.check()?;
        let rand_augment =
            augmentation.rand_augment()?.map(|augment| augment.on(augmentation.interpolation, mean_colour(mean)));
        Ok(Self {
            rand_augment,
            erasing: Erasing::new(augmentation, mean, std),
            size,
            augmentation: augmentation.clone(),
        })
    }

    /// What the network sees of an image of any size, `[3, height, width]` in [0, 1], but for what is erased.
    pub fn pixels(&self, image: &RgbImage, draws: &mut impl Draws) -> Vec<f32> {
        let mut pixels = self.image(image, draws).to_pixels();
        self.erasing.erase(&mut pixels, self.size, draws);
        pixels
    }

    /// The part that is made of bytes.
    fn image(&self, image: &RgbImage, draws: &mut impl Draws) -> RgbImage {
        let Augmentation { scale, ratio, padding, interpolation, .. } = self.augmentation;
        let [height, width] = self.size;
        let centre = || Transform::center((height, width), 1.0, interpolation.without_chance()).apply(image);
        let mut image = match self.augmentation.crop {
            Crop::RandomResized => {
                let window = crop::random_resized(image.width(), image.height(), scale, ratio, draws);
                let filter = interpolation.draw(draws);
                resize(&operations::cut(image, window), (width, height), filter)
            }
            Crop::Pad => crop::padded(&centre(), padding, draws),
            Crop::Center => centre(),
        };
        if self.augmentation.horizontal_flip > 0.0 && draws.unit() < self.augmentation.horizontal_flip {
            image = operations::mirror(image);
        }
        if self.augmentation.vertical_flip > 0.0 && draws.unit() < self.augmentation.vertical_flip {
            image = operations::flip(image);
        }
        match &self.rand_augment {
            Some(rand_augment) => rand_augment.apply(image, draws),
            None => color_jitter::apply(image, self.augmentation.color_jitter, draws),
        }
    }
}

/// The colour that timm fills with where an operation brings nothing in.
fn mean_colour(mean: [f64; 3]) -> [u8; 3] {
    // `as` saturates.
    mean.map(|mean| (255.0 * mean).round_ties_even() as u8)
}

#[cfg(test)]
mod tests {
    use super::testing::{Recorded, crc, fixture, image, text};
    use super::*;
    use crate::random::Random;

    /// timm's `transforms_imagenet_train` with the numbers that it drew.
    #[test]
    fn the_whole_is_timms_in_every_byte() {
        let cases = fixture("whole");
        assert!(cases.len() >= 20);
        for case in cases {
            let interpolation = match text(&case, "interpolation") {
                "bilinear" => Interpolation::Bilinear,
                "bicubic" => Interpolation::Bicubic,
                _ => Interpolation::Random,
            };
            let augmentation = Augmentation {
                interpolation,
                rand_augment: text(&case, "rand_augment").to_owned(),
                vertical_flip: 0.25,
                color_jitter: 0.0,
                ..Augmentation::default()
            };
            let size = serde_json::from_value(case["size"].clone()).unwrap();
            let augmenter = Augmenter::new(&augmentation, size, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).unwrap();
            let mut draws = Recorded::new(&case);
            let seen = augmenter.image(&image(&case), &mut draws);
            draws.end();
            assert_eq!(crc(seen.data()), text(&case, "crc"), "{case}");
        }
    }

    #[test]
    fn without_augmentation_the_centre_is_seen() {
        let image = RgbImage::new(6, 4, (0..72).collect());
        let augmenter = Augmenter::new(&Augmentation::none(), [4, 4], [0.5; 3], [0.5; 3]).unwrap();
        let pixels = augmenter.pixels(&image, &mut Random::of(&[1]));
        let centre = RgbImage::new(4, 4, (0..4).flat_map(|y| y * 18 + 3..y * 18 + 15).collect());
        assert_eq!(pixels, centre.to_pixels());
    }

    #[test]
    fn colours_are_jittered_only_without_rand_augment() {
        let image = RgbImage::new(8, 8, (0..192).collect());
        let changes = |rand_augment: &str| {
            let augmentation =
                Augmentation { color_jitter: 0.9, rand_augment: rand_augment.to_owned(), ..Augmentation::none() };
            let augmenter = Augmenter::new(&augmentation, [8, 8], [0.5; 3], [0.5; 3]).unwrap();
            augmenter.image(&image, &mut Random::of(&[2])) != image
        };
        assert!(changes("") && !changes("rand-p0"));
    }

    #[test]
    fn flips_come_as_often_as_asked() {
        let image = RgbImage::new(2, 2, (0..12).collect());
        let augmentation = Augmentation { horizontal_flip: 0.3, vertical_flip: 0.8, ..Augmentation::none() };
        let augmenter = Augmenter::new(&augmentation, [2, 2], [0.5; 3], [0.5; 3]).unwrap();
        let (mut mirrored, mut flipped) = (0, 0);
        for part in 0..4000 {
            let first = augmenter.image(&image, &mut Random::of(&[3, part])).data()[0];
            mirrored += usize::from([3, 9].contains(&first));
            flipped += usize::from([6, 9].contains(&first));
        }
        // Four standard deviations.
        assert!((1084..1316).contains(&mirrored) && (3099..3301).contains(&flipped), "{mirrored}, {flipped}");
    }

    #[test]
    fn fill_colours_are_those_of_timm() {
        assert_eq!(mean_colour([0.485, 0.456, 0.406]), [124, 116, 104]);
        assert_eq!(mean_colour([0.5, 0.0, 1.5]), [128, 0, 255]);
    }

    #[test]
    fn a_recipes_table_is_read_and_what_is_wrong_in_it_is_named() {
        let read = |table: &str| toml::from_str::<Augmentation>(table);
        let augmentation = read("crop = \"pad\"\nmix_mode = \"elem\"\nerase_mode = \"constant\"\nrepeats = 3").unwrap();
        let expected = Augmentation {
            crop: Crop::Pad,
            mix_mode: MixMode::Elem,
            erase_mode: EraseMode::Constant,
            repeats: 3,
            ..Augmentation::default()
        };
        assert_eq!(augmentation, expected);
        assert!(read("mixups = 0.8").is_err());
        assert!(Augmentation::default().check().is_ok() && Augmentation::none().check().is_ok());
        let refused = |table: &str| read(table).unwrap().check().unwrap_err().to_string();
        for (table, said) in [
            ("scale = [0.5, 0.2]", "augmentation.scale is [0.5, 0.2]"),
            ("ratio = [0.0, 1.0]", "augmentation.ratio"),
            ("erase = 1.5", "augmentation.erase is 1.5, but must be from 0 to 1"),
            ("mixup = -1.0", "augmentation.mixup"),
            ("repeats = 0", "augmentation.repeats is 0, but must be at least 1"),
            ("rand_augment = \"rand-x9\"", "augmentation.rand_augment is rand-x9"),
        ] {
            assert!(refused(table).contains(said), "{}", refused(table));
        }
    }
}
