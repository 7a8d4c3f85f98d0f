//! Numbers computed from a name and an index alone, for parameters and images that need no files.
//!
//! `scripts/timm_reference.py` computes the same bits.

/// The 64-bit FNV-1a hash.
pub fn fnv1a(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// For index 0, 1, …: 64 bits that look random, the SplitMix64 generator seeded with the name's hash.
pub fn bits(name: &str) -> impl Iterator<Item = u64> + use<> {
    let mut state = fnv1a(name.as_bytes());
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// Numbers in [−1, 1).
pub fn uniform(name: &str) -> impl Iterator<Item = f64> + use<> {
    let resolution = 2f64.powi(-53);
    bits(name).map(move |bits| 2.0 * ((bits >> 11) as f64 * resolution) - 1.0)
}

/// A network's numbers under a key: never constant, and such that a deep network neither fades nor explodes.
///
/// `gain` is a factor for matrices and convolutions.
pub fn parameter_values(key: &str, shape: &[usize], gain: f64) -> Vec<f64> {
    let last = key.rsplit('.').next().unwrap_or(key);
    let (offset, scale) = match last {
        "running_var" => (1.0, 0.3),
        // Scales of residual branches.
        "gamma" | "gamma1" | "gamma2" | "gamma3" | "gamma_1" | "gamma_2" | "ls1" | "ls2" | "skipinit_gain" => {
            (0.5, 0.2)
        }
        // Scales of normalisations.
        "alpha" | "gain" | "scale" | "temperature" | "v" => (1.0, 0.2),
        "weight" if shape.len() == 1 => (1.0, 0.2),
        "weight" => {
            let inputs: usize = shape[1..].iter().product();
            (0.0, gain * (3.0 / inputs as f64).sqrt())
        }
        _ => (0.0, 0.1),
    };
    uniform(key).map(|u| offset + scale * u).take(shape.iter().product()).collect()
}

/// So many values of pixels in [0, 1).
pub fn pixel_values(count: usize) -> Vec<f64> {
    uniform("pixels").map(|u| 0.5 * (u + 1.0)).take(count).collect()
}

/// So many labels below `classes`.
pub fn label_values(count: usize, classes: usize) -> Vec<i64> {
    bits("labels").map(|bits| (bits % classes as u64) as i64).take(count).collect()
}

/// Whether the bits are those of the script; a trial of its own.
pub fn bits_are_those_of_the_script() {
    // The published hash of "foobar", and what the script gives for that name.
    assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    let first: Vec<u64> = bits("foobar").take(2).collect();
    assert_eq!(first, [0x5df2_9541_3403_de4f, 0x1d77_2220_5b43_8a63]);
}
