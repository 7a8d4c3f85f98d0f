//! Position tables of another image size.

use super::Checkpoint;
use crate::interpolation::Interpolation;

impl Checkpoint {
    /// Brings learnt positions, `[1, prefix + place, channel]` with the places of a square row by row, to another number of
    /// rows and columns, if they have not that many places already; those of the `prefix` tokens before them stay (timm's
    /// `resample_abs_pos_embed`).
    pub fn resample_positions(&mut self, name: &str, prefix: usize, [rows, columns]: [usize; 2]) {
        let Some(&[1, tokens, channels]) = self.shape(name) else {
            return;
        };
        let side = tokens.saturating_sub(prefix).isqrt();
        if prefix + side * side != tokens || prefix + rows * columns == tokens {
            return;
        }
        let matrix = |to| Interpolation::AntialiasedBicubic.matrix(side, to);
        let (down, across) = (matrix(rows), matrix(columns));
        self.compute(name, &[1, prefix + rows * columns, channels], move |values| {
            let (first, places) = values.split_at(prefix * channels);
            let places = along(&down, places, side * channels);
            let lines = places.chunks_exact(side * channels).flat_map(|line| along(&across, line, channels));
            first.iter().copied().chain(lines).collect()
        });
    }

    /// The same for positions that are kept as an image, `[1, channel, row, column]`.
    pub fn resample_position_planes(&mut self, name: &str, [rows, columns]: [usize; 2]) {
        let Some(&[1, channels, height, width]) = self.shape(name) else {
            return;
        };
        if [height, width] == [rows, columns] {
            return;
        }
        let matrix = |from, to| Interpolation::AntialiasedBicubic.matrix(from, to);
        let (down, across) = (matrix(height, rows), matrix(width, columns));
        self.compute(name, &[1, channels, rows, columns], move |values| {
            let planes = values.chunks_exact(height * width).flat_map(|plane| along(&down, plane, width));
            planes.collect::<Vec<_>>().chunks_exact(width).flat_map(|line| along(&across, line, 1)).collect()
        });
    }
}

/// A matrix `[to, from]` times `[from, inner]`, in row-major order.
fn along(matrix: &[f64], values: &[f64], inner: usize) -> Vec<f64> {
    let from = values.len() / inner;
    let row = |weights: &[f64]| {
        let mut sums = vec![0.0; inner];
        for (weight, values) in weights.iter().zip(values.chunks_exact(inner)) {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
        }
        sums
    };
    matrix.chunks_exact(from).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_resampled_as_by_timm() {
        let mut checkpoint = Checkpoint::new([("pos_embed".into(), vec![1, 10, 2])]);
        checkpoint.resample_positions("pos_embed", 1, [3, 3]);
        assert_eq!(checkpoint.unchanged("pos_embed"), Some("pos_embed"));
        checkpoint.resample_positions("pos_embed", 1, [2, 4]);
        assert_eq!(checkpoint.shape("pos_embed"), Some([1, 9, 2].as_slice()));
        let read = |_: &str| Ok::<_, ()>((0..20).map(|n| f64::from(n * n % 7)).collect());
        let found = checkpoint.values("pos_embed", read).unwrap();
        // resample_abs_pos_embed(torch.arange(20).pow(2).remainder(7).reshape(1, 10, 2).double(), [2, 4], [3, 3]), which
        // rounds to single precision on its way.
        let expected = [
            0.0,
            1.0,
            3.046297550201416,
            2.7951533794403076,
            2.3045976161956787,
            3.336458444595337,
            1.923112392425537,
            2.1877331733703613,
            2.141000509262085,
            0.06912841647863388,
            0.06912843137979507,
            2.141000509262085,
            2.1877331733703613,
            1.923112392425537,
            3.336458206176758,
            2.3045971393585205,
            2.7951533794403076,
            3.046297550201416,
        ];
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close && found.len() == expected.len(), "{found:?} is not {expected:?}");
    }

    #[test]
    fn planes_of_positions_are_resampled_as_by_pytorch() {
        let mut checkpoint = Checkpoint::new([("pos_embed".into(), vec![1, 2, 3, 3])]);
        checkpoint.resample_position_planes("pos_embed", [3, 3]);
        assert_eq!(checkpoint.unchanged("pos_embed"), Some("pos_embed"));
        checkpoint.resample_position_planes("pos_embed", [2, 4]);
        assert_eq!(checkpoint.shape("pos_embed"), Some([1, 2, 2, 4].as_slice()));
        let read = |_: &str| Ok::<_, ()>((0..18).map(|n| f64::from(n * n % 7)).collect());
        let found = checkpoint.values("pos_embed", read).unwrap();
        // torch.nn.functional.interpolate(torch.arange(18).pow(2).remainder(7).reshape(1, 2, 3, 3).double(), size=(2, 4),
        // mode="bicubic", antialias=True)
        let expected = [
            0.703912220598,
            0.983816500923,
            2.482710623481,
            4.260918521358,
            1.466232241681,
            0.905691852844,
            1.180417936086,
            2.118181164802,
            4.255719795884,
            2.518394503196,
            1.23230633631,
            1.203720562516,
            2.00481540931,
            2.707572370031,
            2.339610232632,
            1.131609209171,
        ];
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(close && found.len() == expected.len(), "{found:?} is not {expected:?}");
    }
}
