//! How networks stand images that were attacked on another one: the test of networks that were trained to diverge.
//!
//! Zhen, Meng, Chakraborty & Singh (arXiv 2207.09684, ECCV 2022), "Independent features help robustness": accuracy on all images, not
//! only on those that a network classifies correctly, after a fast gradient step of ε and after PGD in 40 steps of 0.01, in L∞, on a
//! network of the same architecture that was trained separately. As CleverHans, with which the authors attack, has it, the attack leads
//! away from what the attacked network takes an image for. Unlike there, pixels are in [0, 1] and stay in it; the authors' ε is of
//! normalised pixels, whose unit is about a fifth of that.

use serde::Serialize;

use crate::attacks::{Attack, Bound, Iterative, Norm, Targets};
use crate::images::RgbImage;
use crate::model::{Model, to_f64};
use crate::similarity::features::loss::diverge_loss;

/// An attack of the paper's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// One step of length ε along the gradient's sign, from the image (Goodfellow et al., arXiv 1412.6572).
    Fgm,
    /// Forty steps of 0.01 from a random point of the ball (Madry et al., arXiv 1706.06083).
    Pgd,
}

impl Method {
    /// Both, in the table's order.
    pub const ALL: [Self; 2] = [Self::Fgm, Self::Pgd];

    /// As the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fgm => "FGM",
            Self::Pgd => "PGD",
        }
    }

    /// The attack with this ε, a change of pixels in [0, 1].
    pub fn attack(self, eps: f64) -> Iterative {
        let pgd = Iterative {
            name: "pgd".into(),
            bound: Bound { norm: Norm::Linf, eps },
            step_size: 0.01,
            steps: 40,
            random_start: true,
            ..Iterative::default()
        };
        match self {
            Self::Pgd => pgd,
            Self::Fgm => Iterative { name: "fgsm".into(), step_size: eps, steps: 1, random_start: false, ..pgd },
        }
    }
}

/// The values of ε in the paper's table.
pub const EPS: [f64; 3] = [0.03, 0.05, 0.10];

/// How many of the images each judge classifies correctly, as they are or (with an attack) attacked on `source`, `batch` at once. All
/// networks take images of the images' one size.
pub fn correct(
    source: &Model,
    judges: &[Model],
    images: &[(RgbImage, usize)],
    attack: Option<&Iterative>,
    batch: usize,
) -> Vec<usize> {
    let mut correct = vec![0; judges.len()];
    for (start, images) in images.chunks(batch).enumerate().map(|(index, images)| (index * batch, images)) {
        let mut pixels = source.pixels_of(images.iter().map(|(image, _)| image));
        if let Some(attack) = attack {
            let taken_for = source.predict(pixels.clone());
            let ids: Vec<String> = (start..start + images.len()).map(|index| index.to_string()).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            pixels = attack.perturb(source, &Targets::new(pixels, &taken_for, &ids)).pixels;
        }
        for (judge, correct) in judges.iter().zip(&mut correct) {
            let classes = judge.predict(pixels.clone());
            *correct += classes.iter().zip(images).filter(|(class, (_, label))| **class == *label).count();
        }
    }
    correct
}

/// How alike a network's pooled features are to those of others on clean images: the mean, over them and over whole batches, of the
/// correlation that diverge training makes smaller. Not a number without others, or without a whole batch.
pub fn correlation(network: &Model, others: &[&Model], images: &[(RgbImage, usize)], batch: usize) -> f64 {
    let mut values = Vec::new();
    for images in images.chunks_exact(batch) {
        let features = |model: &Model| model.forward(model.pixels_of(images.iter().map(|(image, _)| image))).features;
        let ours = features(network);
        values.extend(others.iter().map(|other| to_f64(diverge_loss(ours.clone(), features(other)))[0]));
    }
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use netkin_weights::{HubConfig, Precision, embedded};

    use super::*;
    use crate::images::idx;

    fn model(name: &str) -> Model {
        let (device, hub) = (Device::flex(), HubConfig::nowhere());
        let loaded = netkin_weights::load(&name.parse().unwrap(), Precision::F32, &device, &hub, &mut |_| {}).unwrap();
        Model::new(loaded, Precision::F32, device)
    }

    fn images(count: usize) -> Vec<(RgbImage, usize)> {
        let pixels = idx::parse(embedded::TEST_IMAGES, "images".as_ref()).unwrap().elements;
        let labels = idx::parse(embedded::TEST_LABELS, "labels".as_ref()).unwrap().elements;
        let image = |grey: &[u8]| RgbImage::new(28, 28, grey.iter().flat_map(|&level| [level; 3]).collect());
        pixels.chunks_exact(784).map(image).zip(labels.into_iter().map(usize::from)).take(count).collect()
    }

    #[test]
    fn what_was_attacked_on_a_network_fools_it_more_than_others() {
        let source = model("demo_mobilenetv2");
        let judges = [model("demo_mobilenetv2"), model("demo_seresnet")];
        let images = images(20);
        let clean = correct(&source, &judges, &images, None, 8);
        assert!(clean.iter().all(|&correct| correct >= 14), "{clean:?}");
        for method in Method::ALL {
            let attacked = correct(&source, &judges, &images, Some(&method.attack(0.05)), 8);
            assert!(attacked[0] < attacked[1] && attacked[0] < clean[0], "{method:?}: {attacked:?} of {clean:?}");
            // Images are attacked alike in any batch.
            assert_eq!(correct(&source, &judges, &images, Some(&method.attack(0.05)), 20), attacked);
        }
    }

    #[test]
    fn a_network_correlates_with_itself() {
        let (one, other) = (model("demo_resnet"), model("demo_vit_patch4"));
        let images = images(32);
        let itself = correlation(&one, &[&one], &images, 16);
        assert!((itself - 1.0).abs() < 1e-3, "{itself}");
        let with_other = correlation(&one, &[&other], &images, 16);
        assert!(with_other < itself && with_other > 0.0, "{with_other}");
        assert!(correlation(&one, &[], &images, 16).is_nan());
    }
}
