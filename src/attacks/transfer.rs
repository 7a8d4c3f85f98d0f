//! The setting and the published results of the field's largest table of transfer attacks.
//!
//! TransferAttack (Wang et al., *Devling into Adversarial Transferability on Image Classification: Review, Benchmark, and
//! Evaluation*, arXiv 2602.23117; github.com/Trustworthy-AI-Group/TransferAttack, README, "Untargeted Attack"): 1,000 images of ImageNet
//! stretched to 224 × 224, ε = 16/255, ten steps of 1.6/255, surrogate torchvision's ResNet-50 (`resnet50.tv2_in1k`); images saved
//! as 8-bit; success is the share of all images that are misclassified.

/// ε of the table.
pub const EPS: f64 = 16.0 / 255.0;
/// Height and width in pixels of its images.
pub const SIZE: usize = 224;

/// The names of the attacks that the table has.
pub fn attacks() -> impl Iterator<Item = &'static str> {
    include_str!("transferattack.csv").lines().skip(1).filter_map(|line| line.split(',').next())
}

/// The published success of an attack on an architecture, in percent, if the table has it. The surrogate's own is a white box.
pub fn published(attack: &str, architecture: &str) -> Option<f64> {
    let mut lines = include_str!("transferattack.csv").lines();
    // After the attack's name.
    let column = lines.next()?.split(',').skip(1).position(|name| name == architecture)?;
    lines.map(|line| line.split(',')).find_map(|mut cells| {
        let is_row = cells.next() == Some(attack);
        is_row.then(|| cells.nth(column)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_by_row_and_column() {
        assert_eq!(published("mi-fgsm", "resnet50"), Some(99.9));
        assert_eq!(published("bsr", "swin_tiny_patch4_window7_224"), Some(84.7));
        assert_eq!(published("pgd", "resnet50"), None);
        assert_eq!(published("bsr", "attack"), None);
    }

    #[test]
    fn every_row_is_an_attack_and_every_column_a_network() {
        let mut lines = include_str!("transferattack.csv").lines();
        let columns = lines.next().unwrap().split(',').skip(1);
        assert!(columns.into_iter().all(|name| netkin_architectures::find(name).is_ok()));
        assert_eq!(lines.count(), attacks().count());
        for name in attacks() {
            assert!(super::super::named::NAMES.iter().any(|(other, _)| *other == name), "{name}");
        }
    }
}
