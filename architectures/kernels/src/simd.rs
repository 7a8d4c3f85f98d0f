//! Vector arithmetic for every processor: the code is written once, and runs with AVX-512, AVX2 or neither, as found.

use std::sync::LazyLock;

use pulp::{Arch, MemMask, Simd, WithSimd};

/// The widest vectors that the processor has, or those that the environment variable `NETKIN_SIMD` names (`avx2` or
/// `scalar`), so that tests on a processor with wider ones reach these too.
static ARCH: LazyLock<Arch> = LazyLock::new(|| match std::env::var("NETKIN_SIMD").as_deref() {
    #[cfg(target_arch = "x86_64")]
    Ok("avx2") => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
    Ok("scalar") => Arch::Scalar,
    _ => Arch::new(),
});

/// Whether those are vectors of 512 bits.
pub fn are_512_bits() -> bool {
    #[cfg(target_arch = "x86_64")]
    return matches!(*ARCH, Arch::V4(_));
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Runs with the widest vectors that the processor has.
#[inline]
pub fn dispatch<T: WithSimd>(body: T) -> T::Output {
    ARCH.dispatch(body)
}

/// The values at `pointer`, one per lane.
///
/// # Safety
/// So many values must exist there.
#[inline(always)]
pub unsafe fn load<S: Simd>(_simd: S, pointer: *const f32) -> S::f32s {
    // SAFETY: a vector of f32 is any bit pattern; the caller promises that the values exist.
    unsafe { pointer.cast::<S::f32s>().read_unaligned() }
}

/// Writes one value per lane.
///
/// # Safety
/// The places must exist and be free to write.
#[inline(always)]
pub unsafe fn store<S: Simd>(_simd: S, pointer: *mut f32, values: S::f32s) {
    // SAFETY: as above.
    unsafe { pointer.cast::<S::f32s>().write_unaligned(values) }
}

/// The first `count` lanes from `pointer`, at most all, and zero in the others.
///
/// # Safety
/// `count` values must exist there.
#[inline(always)]
pub unsafe fn load_some<S: Simd>(simd: S, pointer: *const f32, count: usize) -> S::f32s {
    // SAFETY: the caller's promise; what is masked is not touched.
    unsafe {
        if count == S::F32_LANES { load(simd, pointer) } else { simd.mask_load_ptr_f32s(first(simd, count), pointer) }
    }
}

/// Writes the first `count` lanes, at most all.
///
/// # Safety
/// `count` places must exist and be free to write.
#[inline(always)]
pub unsafe fn store_some<S: Simd>(simd: S, pointer: *mut f32, count: usize, values: S::f32s) {
    // SAFETY: the caller's promise; what is masked is not touched.
    unsafe {
        // Masked AVX2 stores take many times as long on some processors.
        if count == S::F32_LANES {
            store(simd, pointer, values)
        } else {
            simd.mask_store_ptr_f32s(first(simd, count), pointer, values)
        }
    }
}

/// The first `count` lanes, for the processor's own masked instructions: pulp's way for partial vectors is a call on x86.
#[inline(always)]
fn first<S: Simd>(simd: S, count: usize) -> MemMask<S::m32s> {
    MemMask::new(simd.mask_between_m32s(0, count as u32).mask())
}

/// The first `count` lanes of `values`, and `rest` in the others.
#[inline(always)]
pub fn first_lanes<S: Simd>(simd: S, count: usize, values: S::f32s, rest: f32) -> S::f32s {
    let mask = simd.mask_between_m32s(0, count as u32).mask();
    simd.select_f32s(mask, values, simd.splat_f32s(rest))
}

/// The polynomial with these coefficients, the constant first.
#[inline(always)]
pub fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, coefficients: [f32; N]) -> S::f32s {
    let mut sum = simd.splat_f32s(coefficients[N - 1]);
    for &coefficient in coefficients[..N - 1].iter().rev() {
        sum = simd.mul_add_f32s(sum, x, simd.splat_f32s(coefficient));
    }
    sum
}

/// eˣ with a relative error below 2·10⁻⁷; 0 below −87.3, and no more than e^88.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // e^r on |r| ≤ ln 2 / 2: our own Chebyshev fit of the relative error.
    const POLYNOMIAL: [f32; 7] = [1.0, 1.0, 4.999_999e-1, 1.666_642_1e-1, 4.166_836e-2, 8.374_771e-3, 1.382_942_1e-3];
    // Adding it leaves the nearest whole number in the lowest bits.
    const ROUNDER: f32 = 12_582_912.0;
    // ln 2 in two parts, the first with few bits, so that its multiples are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let splat = |value| simd.splat_f32s(value);
    let clamped = simd.min_f32s(simd.max_f32s(x, splat(-87.3)), splat(88.0));
    let shifted = simd.mul_add_f32s(clamped, splat(std::f32::consts::LOG2_E), splat(ROUNDER));
    let whole = simd.sub_f32s(shifted, splat(ROUNDER));
    let rest = simd.mul_add_f32s(whole, splat(-LN_2_HIGH), clamped);
    let rest = simd.mul_add_f32s(whole, splat(-LN_2_LOW), rest);
    let value = polynomial(simd, rest, POLYNOMIAL);
    // Adding n to the exponent multiplies by 2ⁿ; the rounder's own bits are shifted out.
    let exponent = shift_to_exponent(simd, simd.transmute_u32s_f32s(shifted));
    let bits = simd.add_u32s(simd.transmute_u32s_f32s(value), exponent);
    let result = simd.transmute_f32s_u32s(bits);
    simd.select_f32s(simd.less_than_f32s(x, splat(-87.3)), splat(0.0), result)
}

#[inline(always)]
fn shift_to_exponent<S: Simd>(simd: S, bits: S::u32s) -> S::u32s {
    simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23))
}

/// Asks for `count` values that will be read soon; they need not exist.
#[inline(always)]
pub fn prefetch(pointer: *const f32, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..count).step_by(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(pointer.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (pointer, count);
}
