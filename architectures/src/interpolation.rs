//! Interpolation between evenly spaced places, as a matrix.

/// How values between places are made of those at them. As PyTorch does it with `align_corners=False`: a place is the middle
/// of a unit of length, and the units of both sides cover the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// Of the one before or at it (PyTorch: `mode="nearest"`).
    Nearest,
    /// The mean of those that its unit of length touches (PyTorch: `mode="area"`, `adaptive_avg_pool2d`).
    Area,
    /// Of the nearest two.
    Bilinear,
    /// Of the nearest four, by the cubic whose slope at its first zero is −0.75.
    Bicubic,
    /// By the cubic whose slope at its first zero is −0.5, widened where places become fewer.
    AntialiasedBicubic,
}

impl Interpolation {
    /// `[to, from]` in row-major order: its product with the values at `from` places gives those at `to` places.
    pub fn matrix(self, from: usize, to: usize) -> Vec<f64> {
        if matches!(self, Self::Nearest | Self::Area) {
            return self.means(from, to);
        }
        let step = from as f64 / to as f64;
        let width = if self == Self::AntialiasedBicubic { step.max(1.0) } else { 1.0 };
        let reach = 2.0 * width;
        let last = from as isize - 1;
        let mut matrix = vec![0.0; to * from];
        for (number, row) in matrix.chunks_exact_mut(from).enumerate() {
            let place = (number as f64 + 0.5) * step - 0.5;
            for source in (place - reach).ceil() as isize..=(place + reach).floor() as isize {
                let weight = self.weight((source as f64 - place).abs() / width);
                // Beyond the border lies what lies at it; or nothing, if antialiased.
                if self != Self::AntialiasedBicubic || (0..=last).contains(&source) {
                    row[source.clamp(0, last) as usize] += weight;
                }
            }
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|weight| *weight /= sum);
        }
        matrix
    }

    /// Where values are means of a range.
    fn means(self, from: usize, to: usize) -> Vec<f64> {
        let mut matrix = vec![0.0; to * from];
        for (number, row) in matrix.chunks_exact_mut(from).enumerate() {
            let start = number * from / to;
            let end = if self == Self::Nearest { start + 1 } else { ((number + 1) * from).div_ceil(to) };
            row[start..end].fill(1.0 / (end - start) as f64);
        }
        matrix
    }

    /// The weight of what lies at a distance.
    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Nearest | Self::Area => f64::from(x < 0.5),
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic => cubic(x, -0.75),
            Self::AntialiasedBicubic => cubic(x, -0.5),
        }
    }
}

/// The cubic convolution kernel of Keys (1981) with the slope `a` at 1.
fn cubic(x: f64, a: f64) -> f64 {
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        a * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the values 1, 10, 3, 7, 5.
    fn resampled(interpolation: Interpolation, to: usize) -> Vec<f64> {
        let values = [1.0, 10.0, 3.0, 7.0, 5.0];
        let products = |row: &[f64]| row.iter().zip(values).map(|(weight, value)| weight * value).sum();
        interpolation.matrix(5, to).chunks_exact(5).map(products).collect()
    }

    #[test]
    fn it_is_that_of_pytorch() {
        // torch.nn.functional.interpolate(torch.tensor([[[[1., 10, 3, 7, 5]]]]).double(), size=(1, to), mode=…, antialias=…)
        let cases: &[(Interpolation, &[f64])] = &[
            (Interpolation::Nearest, &[1.0, 10.0, 7.0]),
            (Interpolation::Nearest, &[1.0, 1.0, 10.0, 10.0, 3.0, 7.0, 7.0, 5.0]),
            (Interpolation::Area, &[5.5, 6.666666666666667, 6.0]),
            (Interpolation::Area, &[1.0, 5.5, 10.0, 6.5, 5.0, 7.0, 6.0, 5.0]),
            (Interpolation::Bilinear, &[4.000000000000001, 3.0, 5.666666666666666]),
            (Interpolation::Bilinear, &[1.0, 3.25, 7.75, 8.25, 4.75, 4.0, 6.0, 6.5, 5.5, 5.0]),
            (Interpolation::Bicubic, &[4.222222222222221, 3.0, 5.851851851851851]),
            (Interpolation::Bicubic, &[2.01220703125, 8.20263671875, 5.31689453125, 5.25]),
            (
                Interpolation::Bicubic,
                &[
                    0.16448974609375,
                    5.43353271484375,
                    10.01202392578125,
                    5.05657958984375,
                    3.49468994140625,
                    6.86444091796875,
                    6.1826171875,
                    4.8143310546875,
                ],
            ),
            (Interpolation::AntialiasedBicubic, &[5.269206214088104, 5.623324111513087]),
            (Interpolation::AntialiasedBicubic, &[4.830769230769231, 5.711627906976746, 5.7384615384615385]),
            (
                Interpolation::AntialiasedBicubic,
                &[
                    0.3523985239852399,
                    4.905582829090078,
                    9.9818115234375,
                    4.9122314453125,
                    3.6390380859375,
                    6.8946533203125,
                    5.990980705559996,
                    4.856088560885609,
                ],
            ),
        ];
        for (interpolation, expected) in cases {
            let found = resampled(*interpolation, expected.len());
            let close = found.iter().zip(*expected).all(|(a, b)| (a - b).abs() < 1e-12);
            assert!(close, "{interpolation:?}: {found:?} is not {expected:?}");
        }
    }
}
