//! What a matrix product of a convolution reads.

use pulp::{Scalar, Simd};

use crate::activation::Activation;
use crate::simd;

/// Values, or a gradient that is multiplied by the slope of an activation while it is read: a pass over memory less.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    values: &'a [f32],
    /// What the activation kept of its forward pass, as many values.
    behind: Option<(Activation, &'a [f32])>,
}

impl<'a> Source<'a> {
    /// The values themselves.
    pub fn plain(values: &'a [f32]) -> Self {
        Self { values, behind: None }
    }

    /// The gradient before `activation`, from that behind it and what it kept.
    pub fn before(activation: Activation, gradient: &'a [f32], kept: &'a [f32]) -> Self {
        assert_eq!(gradient.len(), kept.len());
        Self { values: gradient, behind: Some((activation, kept)) }
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Says that `count` values from `index` on will be read soon; they need not exist.
    #[inline(always)]
    pub fn prefetch(&self, index: isize, count: usize) {
        simd::prefetch(self.values.as_ptr().wrapping_offset(index), count);
        if let Some((_, kept)) = self.behind {
            simd::prefetch(kept.as_ptr().wrapping_offset(index), count);
        }
    }

    /// Copies `len` values from `index` on, each `step` behind the one before.
    ///
    /// # Safety
    /// There must be so many values, and places.
    #[inline(always)]
    pub unsafe fn gather(&self, index: usize, step: usize, to: *mut f32, len: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let values = self.values.as_ptr().add(index);
            match (self.behind, step) {
                // With a known step the compiler finds vectors.
                (None, 2) => (0..len).for_each(|at| *to.add(at) = *values.add(2 * at)),
                (None, _) => (0..len).for_each(|at| *to.add(at) = *values.add(step * at)),
                (Some((activation, kept)), _) => {
                    let kept = kept.as_ptr().add(index);
                    for at in 0..len {
                        let [value, kept] = [values, kept].map(|from| *from.add(step * at));
                        *to.add(at) = activation.times_slope(Scalar::new(), value, kept);
                    }
                }
            }
        }
    }

    /// Copies `len` values from `index` on. Whole vectors are read, and written as long as there is `room` for them.
    ///
    /// # Safety
    /// There must be `len` values, rounded up to whole vectors, and `len` places.
    #[inline(always)]
    pub unsafe fn copy<S: Simd>(&self, simd: S, index: usize, to: *mut f32, len: usize, room: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let values = self.values.as_ptr().add(index);
            match self.behind {
                None => copy(simd, to, len, room, |at| simd::load(simd, values.add(at))),
                Some((activation, kept)) => {
                    let kept = kept.as_ptr().add(index);
                    copy(simd, to, len, room, |at| {
                        let [value, kept] = [values, kept].map(|from| simd::load(simd, from.add(at)));
                        activation.times_slope(simd, value, kept)
                    });
                }
            }
        }
    }

    /// Copies exactly `len` values from `index` on.
    ///
    /// # Safety
    /// There must be so many values, and places.
    #[inline(always)]
    pub unsafe fn copy_exactly<S: Simd>(&self, simd: S, index: usize, to: *mut f32, len: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let values = self.values.as_ptr().add(index);
            let Some((activation, kept)) = self.behind else {
                values.copy_to_nonoverlapping(to, len);
                return;
            };
            let kept = kept.as_ptr().add(index);
            for at in (0..len).step_by(S::F32_LANES) {
                let count = S::F32_LANES.min(len - at);
                let value = simd::load_some(simd, values.add(at), count);
                let kept = simd::load_some(simd, kept.add(at), count);
                let value = activation.times_slope(simd, value, kept);
                simd::store_some(simd, to.add(at), count, value);
            }
        }
    }
}

/// Writes the vectors that `from` gives, whole as long as there is room.
#[inline(always)]
unsafe fn copy<S: Simd>(simd: S, to: *mut f32, len: usize, room: usize, from: impl Fn(usize) -> S::f32s) {
    for index in (0..len).step_by(S::F32_LANES) {
        let values = from(index);
        // SAFETY: the caller's promise.
        unsafe {
            if index + S::F32_LANES <= room {
                simd::store(simd, to.add(index), values);
            } else {
                simd::store_some(simd, to.add(index), len - index, values);
            }
        }
    }
}
