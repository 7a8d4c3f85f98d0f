//! What the factors of matrix products are rounded to.

use std::cell::Cell;

use crate::bf16::Unit;

/// What the factors of the products in linear maps, convolutions and self-attention are rounded to. Their sums, and all that
/// lies between the products, are f32 in any case.
///
/// Convolutions of few channels in a group (depthwise ones among them) are not computed as matrix products, and round
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// Nothing: they are f32.
    #[default]
    F32,
    /// bf16, to the nearest (of two, to the even), where [`Self::unit`] tells of a unit for it.
    Bf16,
}

thread_local! {
    static CURRENT: Cell<Products> = const { Cell::new(Products::F32) };
}

impl Products {
    /// The result of `run`, in which the layers on this thread multiply in this way; and so will the backward passes of what
    /// they compute, whenever these run.
    pub fn within<T>(self, run: impl FnOnce() -> T) -> T {
        /// Whatever happens in `run`, afterwards all is as before.
        struct Before(Products);
        impl Drop for Before {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _before = Before(CURRENT.replace(self));
        run()
    }

    /// How layers on this thread multiply now: what a layer writes into its operation.
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// What this processor multiplies bf16 with, `AVX512-BF16` or `AMX-BF16`; `None` if it cannot.
    ///
    /// The environment variable `NETKIN_BF16` set to `avx512` keeps a processor with both from AMX, and set to `none` from
    /// both.
    pub fn bf16_unit() -> Option<&'static str> {
        Unit::find().map(Unit::name)
    }

    /// What multiplies, if it is not the usual arithmetic of f32.
    ///
    /// # Panics
    /// If the processor has no unit for it.
    pub(crate) fn unit(self) -> Option<Unit> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(Unit::find().expect("bf16 is only asked of processors that multiply it")),
        }
    }
}
