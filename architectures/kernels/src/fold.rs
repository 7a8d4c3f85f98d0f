//! Batch normalisation by fixed statistics, and a bias before it, as one scale and one shift per channel.

use pulp::Simd;

use crate::array::Array;

/// y = scale·x + shift, per channel.
#[derive(Debug, Clone)]
pub(crate) struct Fold {
    /// `None`: all ones.
    pub scale: Option<Vec<f32>>,
    pub shift: Vec<f32>,
}

/// A batch normalisation in evaluation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub scale: &'a Array,
    pub shift: &'a Array,
    pub mean: &'a Array,
    pub variance: &'a Array,
    pub epsilon: f64,
}

impl Fold {
    pub(crate) fn new(channels: usize, bias: Option<&Array>, norm: Option<Norm>) -> Self {
        let bias = |channel| bias.map_or(0.0, |bias| f64::from(bias.values()[channel]));
        let Some(norm) = norm else {
            return Self { scale: None, shift: (0..channels).map(|channel| bias(channel) as f32).collect() };
        };
        let value = |array: &Array, channel: usize| f64::from(array.values()[channel]);
        let (scale, shift) = (0..channels)
            .map(|channel| {
                let deviation = (value(norm.variance, channel) + norm.epsilon).sqrt();
                let scale = value(norm.scale, channel) / deviation;
                let centred = bias(channel) - value(norm.mean, channel);
                (scale as f32, (scale * centred + value(norm.shift, channel)) as f32)
            })
            .unzip();
        Self { scale: Some(scale), shift }
    }

    /// scale·(x + bias).
    pub(crate) fn scaled(bias: Option<&Array>, scale: &Array) -> Self {
        let scale = scale.values().to_vec();
        let shift = match bias {
            Some(bias) => std::iter::zip(&scale, bias.values()).map(|(a, b)| a * b).collect(),
            None => vec![0.0; scale.len()],
        };
        Self { scale: Some(scale), shift }
    }

    /// The scale and shift of a channel for every lane.
    #[inline(always)]
    pub(crate) fn of<S: Simd>(&self, simd: S, channel: usize) -> [S::f32s; 2] {
        let scale = self.scale.as_ref().map_or(1.0, |scale| scale[channel]);
        [scale, self.shift[channel]].map(|value| simd.splat_f32s(value))
    }
}
