//! How alike networks are by what they make of the same images: features, or predictions.
//!
//! Zhen, Meng, Chakraborty & Singh, *On the Versatile Uses of Partial Distance Correlation in Deep Learning* (arXiv 2207.09684,
//! ECCV 2022), and the measures that are set beside it. Everything starts from [`Features`], a row of numbers for each image.
//!
//! | file | what |
//! |---|---|
//! | [`data`] | features in memory, moved and scaled as no measure sees |
//! | [`file`] | features from safetensors and `.npy` files |
//! | [`extract`] | features of a network: pooled, or any tap; all layers of networks in one pass over the images |
//! | [`products`] | the one engine: inner products of centred matrices of distances or kernels, block by block |
//! | `on_device` | its products of a mini-batch on a GPU |
//! | [`distance_correlation`], [`partial`], [`cka`] | ratios of those products |
//! | [`procrustes`] | the best rotation of one network's features onto the other's |
//! | [`outputs`] | disagreement of predictions, and Cohen's κ of errors |
//! | [`conditional`] | what one network's features share with a truth once another's are projected out, with intervals |
//! | [`fill`], [`kept`] | a measure of all pairs of networks; what a run keeps of that, and of layers |
//! | [`loss`] | distance correlations of tensors that are tracked, for training |

pub mod cka;
pub mod conditional;
pub mod data;
pub mod distance_correlation;
pub mod extract;
pub mod file;
pub mod fill;
pub mod kept;
pub mod loss;
mod on_device;
pub mod outputs;
pub mod partial;
pub mod procrustes;
pub mod products;

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::images::{DatasetError, DecodeError};

pub use data::{Features, Numbers, Values};
pub use products::{Centring, InnerProducts, Kernel};

/// A measure of likeness between the features or the predictions of two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Distance correlation, unbiased
    Dcor,
    /// Distance correlation, biased
    DcorBiased,
    /// Partial distance correlation: a third set of features projected out of both (Székely & Rizzo)
    Pdcor,
    /// A third set of features projected out of the first only (Zhen et al.)
    SemiPdcor,
    /// Linear CKA, unbiased
    CkaLinear,
    /// Linear CKA, biased
    CkaLinearBiased,
    /// CKA with a Gaussian kernel, unbiased
    CkaRbf,
    /// CKA with a Gaussian kernel, biased
    CkaRbfBiased,
    /// Orthogonal Procrustes distance
    Procrustes,
    /// Share of images with different predictions
    Disagreement,
    /// Cohen's κ of the images that each gets right
    Kappa,
}

/// What may be done to one network's features without any effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariance {
    /// The same vector added to every image's features.
    Translation,
    /// All features multiplied by one number other than 0.
    IsotropicScaling,
    /// Rotations and reflections; among them features in another order.
    Orthogonal,
    /// Anything that leaves the most probable class what it is.
    Argmax,
}

/// What a measure declares of itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Properties {
    /// Its name in tables and files.
    pub column: &'static str,
    /// Which statistic it is, and how it is estimated.
    pub estimator: &'static str,
    /// The lowest and the highest value that it can have.
    pub range: [f64; 2],
    /// Whether it is the same with the two networks exchanged.
    pub is_symmetric: bool,
    /// Whether more alike networks have higher values; a distance has lower ones.
    pub is_likeness: bool,
    /// What it does not see.
    pub invariances: &'static [Invariance],
    /// The least number of images.
    pub least_images: usize,
}

const GEOMETRY: &[Invariance] = &[Invariance::Translation, Invariance::IsotropicScaling, Invariance::Orthogonal];

impl Measure {
    /// What it declares of itself.
    pub const fn properties(self) -> Properties {
        let unbiased = Properties {
            column: "dcor",
            estimator: "squared distance correlation of U-centred distances (Székely & Rizzo 2014)",
            range: [-1.0, 1.0],
            is_symmetric: true,
            is_likeness: true,
            invariances: GEOMETRY,
            least_images: Centring::Unbiased.least_images(),
        };
        let biased = Properties { range: [0.0, 1.0], least_images: Centring::Double.least_images(), ..unbiased };
        match self {
            Self::Dcor => unbiased,
            Self::DcorBiased => Properties {
                column: "dcor_biased",
                estimator: "squared distance correlation of doubly centred distances (Székely, Rizzo & Bakirov 2007)",
                ..biased
            },
            Self::Pdcor => Properties {
                column: "pdcor",
                estimator: "partial distance correlation, the third projected out of both (Székely & Rizzo 2014)",
                ..unbiased
            },
            Self::SemiPdcor => Properties {
                column: "semi_pdcor",
                estimator: "semi-partial distance correlation, the third projected out of the first only (Zhen et al. 2022)",
                is_symmetric: false,
                ..unbiased
            },
            Self::CkaLinear => Properties {
                column: "cka_linear",
                estimator: "CKA of linear kernels from unbiased HSIC (Song et al. 2012; Nguyen et al. 2021)",
                ..unbiased
            },
            Self::CkaLinearBiased => Properties {
                column: "cka_linear_biased",
                estimator: "CKA of linear kernels from biased HSIC (Kornblith et al. 2019)",
                ..biased
            },
            Self::CkaRbf => Properties {
                column: "cka_rbf",
                estimator: "CKA of Gaussian kernels from unbiased HSIC (Song et al. 2012; Nguyen et al. 2021)",
                ..unbiased
            },
            Self::CkaRbfBiased => Properties {
                column: "cka_rbf_biased",
                estimator: "CKA of Gaussian kernels from biased HSIC (Kornblith et al. 2019)",
                ..biased
            },
            Self::Procrustes => Properties {
                column: "procrustes",
                estimator: "squared distance after the best rotation, features of norm 1 (Ding, Denain & Steinhardt 2021)",
                range: [0.0, 2.0],
                is_likeness: false,
                ..biased
            },
            Self::Disagreement => Properties {
                column: "disagreement",
                estimator: "share of images whose most probable classes differ",
                is_likeness: false,
                invariances: &[Invariance::Argmax],
                least_images: 1,
                ..biased
            },
            Self::Kappa => Properties {
                column: "kappa",
                estimator: "Cohen's κ of the images that each classifies correctly (Geirhos, Meding & Wichmann 2020)",
                range: [-1.0, 1.0],
                invariances: &[Invariance::Argmax],
                least_images: 1,
                ..biased
            },
        }
    }

    /// Its kernel and centring, where it is a ratio of [`products`].
    pub fn products(self, bandwidth: f64) -> Option<(Kernel, Centring)> {
        let gaussian = Kernel::Gaussian { bandwidth };
        match self {
            Self::Dcor | Self::Pdcor | Self::SemiPdcor => Some((Kernel::Distance, Centring::Unbiased)),
            Self::DcorBiased => Some((Kernel::Distance, Centring::Double)),
            Self::CkaLinear => Some((Kernel::Linear, Centring::Unbiased)),
            Self::CkaLinearBiased => Some((Kernel::Linear, Centring::Double)),
            Self::CkaRbf => Some((gaussian, Centring::Unbiased)),
            Self::CkaRbfBiased => Some((gaussian, Centring::Double)),
            Self::Procrustes | Self::Disagreement | Self::Kappa => None,
        }
    }

    /// Whether a third set of features is projected out.
    pub fn is_partial(self) -> bool {
        matches!(self, Self::Pdcor | Self::SemiPdcor)
    }

    /// Whether its kernel has a width.
    pub fn is_gaussian(self) -> bool {
        matches!(self, Self::CkaRbf | Self::CkaRbfBiased)
    }

    /// Whether it compares predictions, not features.
    pub fn is_of_outputs(self) -> bool {
        matches!(self, Self::Disagreement | Self::Kappa)
    }
}

/// Why features cannot be had or compared.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// Fewer images than the statistic is defined for.
    #[error("{name} has {}, and {what} needs at least {least}; give more images", counted(*images, "image"))]
    TooFew {
        /// Whose features.
        name: String,
        /// How many images.
        images: usize,
        /// The statistic.
        what: &'static str,
        /// How many it needs.
        least: usize,
    },
    /// A statistic that divides by how much the features vary.
    #[error(
        "{name} does not tell the images apart (its features are constant, or all images equally far from each other), so nothing correlates with it; give other images, or another layer"
    )]
    Constant {
        /// Whose features.
        name: String,
    },
    /// One image, or few, so far away from all others that these are the same from there.
    #[error(
        "{name} has images so far away from the others that rounding leaves fewer than six digits (four of 32-bit numbers) of how these \
         differ; leave the far ones out, or check what made them"
    )]
    Rounded {
        /// Whose features.
        name: String,
    },
    /// So little is left after a projection that rounding tells.
    #[error(
        "{name} is so nearly told by {given} that of the {left:.0e} of it that is left once {given} is projected out fewer than four \
         digits would be right; give another third set of features, or both in 64 bits"
    )]
    LittleLeft {
        /// Of which the projection is.
        name: String,
        /// What is projected out.
        given: String,
        /// The share that is left.
        left: f64,
    },
    /// Nothing is left after a projection.
    #[error("{} once {given} is projected out; give another third set of features", told_by(name, given))]
    NothingLeft {
        /// Of which the projection is.
        name: String,
        /// What is projected out.
        given: String,
    },
    /// A number that is none.
    #[error(
        "{name} holds {value} for image {image} (counted from 0), feature {feature}; leave that image out, or find out what made it"
    )]
    NotFinite {
        /// Whose features.
        name: String,
        /// The image's position.
        image: usize,
        /// The feature's position.
        feature: usize,
        /// What is there.
        value: f64,
    },
    /// A layer's numbers whose squares are beyond what can be computed with.
    #[error(
        "{name} holds numbers whose squares are too large to be computed with; scale its features, which changes no measure"
    )]
    TooLarge {
        /// Whose features.
        name: String,
    },
    /// No image, or no feature.
    #[error(
        "{name} has {} with {} each; there must be at least one of both",
        counted(*images, "image"),
        counted(*width, "feature")
    )]
    Empty {
        /// Whose features.
        name: String,
        /// How many images.
        images: usize,
        /// How many features.
        width: usize,
    },
    /// Rows that do not belong together.
    #[error(
        "{a} has features of {} and {b} of {images_b}; both must be of the same images in the same order",
        counted(*images_a, "image")
    )]
    OtherImages {
        /// One set of features.
        a: String,
        /// Its images.
        images_a: usize,
        /// The other one.
        b: String,
        /// Its images.
        images_b: usize,
    },
    /// Both networks are always right, or always wrong.
    #[error(
        "{a} and {b} are both always right or both always wrong ({} in all), so κ has no value; give other images",
        counted(*images, "image")
    )]
    NoErrors {
        /// One network.
        a: String,
        /// The other one.
        b: String,
        /// How many images.
        images: usize,
    },
    /// There is no intermediate result of that name.
    #[error(
        "{model} shows no layer {tap:?}; did you mean {similar}? --layer takes {} ({} in all), pooled and logits",
        listed(names),
        names.len()
    )]
    Tap {
        /// The network.
        model: String,
        /// What was asked for.
        tap: String,
        /// Those most like it.
        similar: String,
        /// All, in their order.
        names: Vec<String>,
    },
    /// More than fits into memory.
    #[error("{what} would take {:.1} GB, and {:.1} GB of memory are free; {advice}", *bytes as f64 / 1e9, *available as f64 / 1e9)]
    Memory {
        /// Of what there is too much.
        what: String,
        /// What it would take.
        bytes: u64,
        /// What there is.
        available: u64,
        /// What to do.
        advice: &'static str,
    },
    /// A file that is not there, or that cannot be read.
    #[error("cannot read features from {} ({source}); check the path", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that holds something else.
    #[error("{} holds no features that can be used: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Embeddings of other classes than the labels are of.
    #[error(
        "{name} has {}, and the number of classes is {classes}; give one row per class, in the order of the labels (a row per image is \
         for features from files, without --data and --labels)",
        counted(*rows, "row")
    )]
    NoEmbedding {
        /// The truth.
        name: String,
        /// Its rows.
        rows: usize,
        /// How many classes there are.
        classes: usize,
    },
    /// Not one image could be decoded.
    #[error("{} cannot be decoded, and there is nothing else; check the files", counted(*.0, "image"))]
    NoImages(usize),
    /// A data set that does not fit the network.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// An image that cannot be decoded, where none may be left out.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// A number with what it counts: `1 image`, `2 images`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Names in one sentence: all of some, of many the first and the last.
fn listed(names: &[String]) -> String {
    const SOME: usize = 24;
    match names {
        [first @ .., last] if names.len() > SOME => format!("{}, … and {last}", first[..SOME / 2].join(", ")),
        _ => names.join(", "),
    }
}

/// That a set of features follows from the one that is projected out, as far as rounding tells.
fn told_by(name: &str, given: &str) -> String {
    match name == given {
        true => format!("{name} is compared and projected out, so nothing is left of it"),
        false => {
            format!("{name} follows from {given}, or so nearly that too little is left of it to be told from rounding")
        }
    }
}

/// Refuses what takes more bytes of memory than are available, where the system tells how many are.
pub(crate) fn check_room(
    what: impl Into<String>,
    bytes: u64,
    available: Option<u64>,
    advice: &'static str,
) -> Result<(), FeatureError> {
    match available {
        Some(available) if bytes > available => {
            Err(FeatureError::Memory { what: what.into(), bytes, available, advice })
        }
        _ => Ok(()),
    }
}

/// Bytes of so many numbers of so many bytes for each of so many images; of more than can be counted, the most.
pub(crate) fn bytes_of(images: usize, numbers: usize, each: usize) -> u64 {
    (images as u64).saturating_mul(numbers as u64).saturating_mul(each as u64)
}

/// Refuses sets of features of different numbers of images, and too few images.
pub(crate) fn check_images(sets: &[&Features], what: &'static str, least: usize) -> Result<(), FeatureError> {
    let Some(first) = sets.first() else { return Ok(()) };
    if let Some(other) = sets.iter().find(|other| other.images() != first.images()) {
        return Err(FeatureError::OtherImages {
            a: first.name().to_owned(),
            images_a: first.images(),
            b: other.name().to_owned(),
            images_b: other.images(),
        });
    }
    if first.images() < least {
        let name = first.name().to_owned();
        return Err(FeatureError::TooFew { name, images: first.images(), what, least });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Numbers in [−0.5, 0.5) that scripts/features_reference.py draws, too: a linear congruential generator of 64 bits.
    pub fn drawn(seed: u64, count: usize) -> Vec<f64> {
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
        };
        // The first numbers of small seeds are alike.
        std::iter::repeat_with(&mut draw).skip(8).take(count).collect()
    }

    /// `[rows, inner] · [inner, columns]`.
    pub fn multiplied(left: &[f64], right: &[f64], inner: usize) -> Vec<f64> {
        let columns = right.len() / inner;
        let row = |row: &[f64]| -> Vec<f64> {
            (0..columns)
                .map(|column| row.iter().enumerate().map(|(k, value)| value * right[k * columns + column]).sum())
                .collect()
        };
        left.chunks_exact(inner).flat_map(row).collect()
    }

    /// Three sets of features that have something in common, as scripts/features_reference.py makes them.
    pub fn related(seed: u64, images: usize, [x, y, z]: [usize; 3]) -> [Vec<f64>; 3] {
        let of_x = drawn(seed, images * x);
        let mixed = |seed: u64, width: usize| -> Vec<f64> {
            let image = multiplied(&of_x, &drawn(seed, x * width), x);
            let scale = 1.0 / (x as f64).sqrt();
            image
                .iter()
                .zip(drawn(seed + 1, images * width))
                .map(|(mixed, noise)| mixed * scale + 0.3 * noise)
                .collect()
        };
        let (of_y, of_z) = (mixed(seed + 10, y), mixed(seed + 20, z));
        [of_x, of_y, of_z]
    }

    pub fn in_f64(name: &str, values: &[f64], images: usize) -> Features {
        Features::new(name, Values::F64(values.to_vec()), images).unwrap()
    }

    pub fn in_f32(name: &str, values: &[f64], images: usize) -> Features {
        let values = values.iter().map(|&value| value as f32).collect();
        Features::new(name, Values::F32(values), images).unwrap()
    }

    /// The reference values of scripts/features_reference.py.
    pub fn reference() -> serde_json::Value {
        serde_json::from_str(include_str!("../../../tests/fixtures/features/reference.json")).unwrap()
    }

    /// Calls `check` with each case's sets of features, in f64 and in f32, its reference values, and what compares a value with
    /// the one of that name.
    pub fn for_each_case(check: impl Fn(&[Features; 3], &dyn Fn(f64, &str))) {
        for case in reference()["cases"].as_array().unwrap() {
            let number = |name: &str| case[name].as_u64().unwrap();
            let (images, seed) = (number("images") as usize, number("seed"));
            let widths: [usize; 3] = serde_json::from_value(case["widths"].clone()).unwrap();
            let sets = related(seed, images, widths);
            let names = ["x", "y", "z"];
            for (tolerance, make) in [(1e-6, in_f64 as fn(&str, &[f64], usize) -> Features), (1e-4, in_f32)] {
                let features: [Features; 3] = std::array::from_fn(|set| make(names[set], &sets[set], images));
                check(&features, &|ours: f64, name: &str| {
                    let theirs = case["values"][name].as_f64().unwrap_or_else(|| panic!("no reference of {name}"));
                    assert!(
                        (ours - theirs).abs() <= tolerance * theirs.abs(),
                        "{images} images, {name}: {ours} beside {theirs}"
                    );
                });
            }
        }
    }

    #[test]
    fn what_is_larger_than_memory_is_refused() {
        let check = |bytes, available| check_room("the features of resnet50:layer1.0", bytes, available, "take fewer");
        assert!(check(100, Some(100)).is_ok() && check(100, None).is_ok());
        let text = check(160_000_000_000, Some(17_000_000_000)).unwrap_err().to_string();
        assert_eq!(
            text,
            "the features of resnet50:layer1.0 would take 160.0 GB, and 17.0 GB of memory are free; take fewer"
        );
        assert_eq!((bytes_of(3, 5, 8), bytes_of(usize::MAX, 2, 8)), (120, u64::MAX));
    }

    #[test]
    fn one_is_not_counted_as_many() {
        assert_eq!(FeatureError::NoImages(1).to_string().split(',').next(), Some("1 image cannot be decoded"));
        let few = |images| FeatureError::TooFew { name: "x".into(), images, what: "this", least: 4 }.to_string();
        assert_eq!(few(1), "x has 1 image, and this needs at least 4; give more images");
        assert!(few(2).starts_with("x has 2 images, "));
        let left = |given: &str| FeatureError::NothingLeft { name: "x".into(), given: given.into() }.to_string();
        assert!(left("y").contains("too little is left of it to be told from rounding once y is projected out"));
        assert!(left("x").starts_with("x is compared and projected out, so nothing is left of it once x is projected"));
    }

    #[test]
    fn columns_are_unique_and_what_is_declared_fits() {
        let all = Measure::value_variants();
        let mut columns: Vec<_> = all.iter().map(|measure| measure.properties().column).collect();
        columns.sort_unstable();
        columns.dedup();
        assert_eq!(columns.len(), all.len());
        for measure in all {
            let Properties { range: [low, high], least_images, .. } = measure.properties();
            assert!(low < high && least_images > 0);
            let products = measure.products(1.0);
            assert_eq!(products.is_none(), measure.is_of_outputs() || *measure == Measure::Procrustes);
            if let Some((_, centring)) = products {
                assert_eq!(least_images, centring.least_images());
            }
        }
    }

    /// What a measure of features declares is so: range, symmetry, invariances.
    #[test]
    fn declared_properties_hold() {
        let images = 40;
        let [x, y, z] = related(5, images, [6, 6, 3]);
        let value = |measure: Measure, x: &[f64], y: &[f64]| {
            let [x, y, z] = [("x", x), ("y", y), ("z", &z[..])].map(|(name, values)| in_f64(name, values, images));
            match measure.products(0.7) {
                Some((kernel, centring)) => {
                    let sets = if measure.is_partial() { vec![&x, &y, &z] } else { vec![&x, &y] };
                    InnerProducts::of(&sets, &kernel, centring).unwrap().measure(measure).unwrap()
                }
                None => procrustes::procrustes(&x, &y).unwrap(),
            }
        };
        // Reflections along a vector.
        let v = drawn(9, 6);
        let square: f64 = v.iter().map(|v| v * v).sum();
        let reflection: Vec<f64> =
            (0..36).map(|at| f64::from(u8::from(at / 6 == at % 6)) - 2.0 * v[at / 6] * v[at % 6] / square).collect();
        for &measure in Measure::value_variants().iter().filter(|measure| !measure.is_of_outputs()) {
            let Properties { range: [low, high], is_symmetric, invariances, .. } = measure.properties();
            let plain = value(measure, &x, &y);
            assert!((low..=high).contains(&plain), "{measure:?}: {plain}");
            let exchanged = value(measure, &y, &x);
            assert_eq!((plain - exchanged).abs() < 1e-9, is_symmetric, "{measure:?}: {plain}, {exchanged}");
            for invariance in invariances {
                let changed: Vec<f64> = match invariance {
                    Invariance::Translation => {
                        x.iter().enumerate().map(|(at, value)| value + (at % 6) as f64 - 2.5).collect()
                    }
                    Invariance::IsotropicScaling => x.iter().map(|value| -37.5 * value).collect(),
                    Invariance::Orthogonal => multiplied(&x, &reflection, 6),
                    Invariance::Argmax => unreachable!("predictions are not features"),
                };
                let changed = value(measure, &changed, &y);
                assert!((plain - changed).abs() < 1e-9, "{measure:?}, {invariance:?}: {plain}, {changed}");
            }
        }
    }
}
