//! What follows a convolution's sums in the same pass: the residual, the activation, and its slope for the backward pass.

use pulp::Simd;

use super::Geometry;
use crate::activation::{Activation, Kept};
use crate::array::{Array, Output, Pointer};
use crate::simd;

/// What a convolution's forward pass makes: its output, and the activation's slope, if that must be kept.
pub(crate) struct Outputs {
    y: Output,
    slope: Option<Output>,
}

impl Outputs {
    /// Memory for them; `keep` says whether there will be a backward pass.
    pub fn new(geometry: &Geometry, activation: Activation, keep: bool) -> Self {
        let new = || Output::new(&geometry.output_shape());
        Self { y: new(), slope: (keep && activation.kept() == Kept::Slope).then(new) }
    }

    /// How to come there from the sums.
    pub fn finish_with(&mut self, activation: Activation, residual: Option<&Array>) -> Finish {
        Finish {
            to: self.y.pointer(),
            residual: residual.map(|residual| Pointer::reading(residual.values())),
            activation,
            slope: self.slope.as_mut().map(Output::pointer),
        }
    }

    /// The arrays.
    ///
    /// # Safety
    /// Every value must have been written.
    pub unsafe fn into_arrays(self) -> (Array, Option<Array>) {
        // SAFETY: the caller's promise.
        unsafe { (self.y.finish(), self.slope.map(|slope| slope.finish())) }
    }
}

/// Where the sums go, and what is done to them on the way; all arrays have the output's shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish {
    pub to: Pointer,
    pub residual: Option<Pointer>,
    pub activation: Activation,
    /// Where the activation's slope goes, if it is wanted.
    pub slope: Option<Pointer>,
}

/// What is done to a sum as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direct {
    Plain,
    Relu,
    Relu6,
}

impl Finish {
    /// Only stores.
    pub fn plain(to: Pointer) -> Self {
        Self { to, residual: None, activation: Activation::Identity, slope: None }
    }

    /// What to do with a sum, if that is so little that it may as well be done at once.
    pub fn direct(&self) -> Option<Direct> {
        match (self.activation, self.residual, self.slope) {
            (Activation::Identity, None, None) => Some(Direct::Plain),
            (Activation::Relu, None, None) => Some(Direct::Relu),
            (Activation::Relu6, None, None) => Some(Direct::Relu6),
            _ => None,
        }
    }

    /// Finishes the `count` sums at `from`, or scale·sum + shift, for the outputs from `index` on. Of all `room` outputs
    /// from there, those behind the first `count` may be written as well: they will be overwritten.
    ///
    /// # Safety
    /// The outputs must exist, and belong to this thread; behind the sums a vector must be readable.
    #[inline(always)]
    pub unsafe fn row<S: Simd>(
        &self,
        simd: S,
        from: *const f32,
        index: usize,
        [count, room]: [usize; 2],
        affine: Option<[S::f32s; 2]>,
    ) {
        // The usual cases by themselves, so that nothing is asked for every vector.
        // SAFETY: the caller's promise.
        unsafe {
            match (self.activation, self.residual, self.slope) {
                (Activation::Identity, None, None) => {
                    self.row_of::<S, PLAIN>(simd, from, index, [count, room], affine);
                }
                (Activation::Relu, None, None) => {
                    self.row_of::<S, RELU>(simd, from, index, [count, room], affine);
                }
                _ => self.row_of::<S, ANY>(simd, from, index, [count, room], affine),
            }
        }
    }

    /// As [`Self::row`], for a row of whole vectors.
    ///
    /// # Safety
    /// The outputs must exist, and belong to this thread.
    #[inline(always)]
    pub unsafe fn whole<S: Simd, const V: usize>(
        &self,
        simd: S,
        sums: &[S::f32s; V],
        index: usize,
        affine: Option<[S::f32s; 2]>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.activation, self.residual, self.slope) {
                (Activation::Identity, None, None) => self.whole_of::<S, PLAIN, V>(simd, sums, index, affine),
                (Activation::Relu, None, None) => self.whole_of::<S, RELU, V>(simd, sums, index, affine),
                _ => self.whole_of::<S, ANY, V>(simd, sums, index, affine),
            }
        }
    }

    #[inline(always)]
    unsafe fn whole_of<S: Simd, const KIND: u8, const V: usize>(
        &self,
        simd: S,
        sums: &[S::f32s; V],
        index: usize,
        affine: Option<[S::f32s; 2]>,
    ) {
        for (vector, &sum) in sums.iter().enumerate() {
            let place = index + vector * S::F32_LANES;
            // SAFETY: the caller's promise.
            unsafe { self.vector::<S, KIND>(simd, sum, place, S::F32_LANES, affine) };
        }
    }

    #[inline(always)]
    unsafe fn row_of<S: Simd, const KIND: u8>(
        &self,
        simd: S,
        from: *const f32,
        index: usize,
        [count, room]: [usize; 2],
        affine: Option<[S::f32s; 2]>,
    ) {
        let lanes = S::F32_LANES;
        // SAFETY: the vectors are within the outputs that may be written.
        unsafe {
            if count < lanes {
                let valid = if room < lanes { count } else { lanes };
                self.vector::<S, KIND>(simd, simd::load(simd, from), index, valid, affine);
                return;
            }
            let mut done = 0;
            while done < count {
                // The last vector may write some values again.
                let place = done.min(count - lanes);
                self.vector::<S, KIND>(simd, simd::load(simd, from.add(place)), index + place, lanes, affine);
                done += lanes;
            }
        }
    }

    #[inline(always)]
    unsafe fn vector<S: Simd, const KIND: u8>(
        &self,
        simd: S,
        sum: S::f32s,
        place: usize,
        valid: usize,
        affine: Option<[S::f32s; 2]>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut value = sum;
            if let Some([scale, shift]) = affine {
                value = simd.mul_add_f32s(value, scale, shift);
            }
            if KIND == PLAIN {
                return simd::store_some(simd, self.to.at(place), valid, value);
            }
            if KIND == RELU {
                let value = Activation::Relu.value(simd, value);
                return simd::store_some(simd, self.to.at(place), valid, value);
            }
            if let Some(residual) = self.residual {
                let residual = simd::load_some(simd, residual.at(place), valid);
                value = simd.add_f32s(value, residual);
            }
            let value = match self.slope {
                None => self.activation.value(simd, value),
                Some(to) => {
                    let (value, slope) = self.activation.value_and_slope(simd, value);
                    simd::store_some(simd, to.at(place), valid, slope);
                    value
                }
            };
            simd::store_some(simd, self.to.at(place), valid, value);
        }
    }
}

/// What a row takes.
const PLAIN: u8 = 0;
const RELU: u8 = 1;
const ANY: u8 = 2;
