//! Floating point formats, and the way from one to another.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Device, TensorData};
use half::{bf16, f16};
use netkin_architectures::layers::Products;
use serde::{Deserialize, Serialize};

use crate::Error;

/// A floating point format, of the numbers in a file or of those that a network computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits, the usual one.
    #[default]
    F32,
    /// 64 bits, for comparing with other programs.
    F64,
    /// 16 bits, 5 of them for the exponent (IEEE 754): values up to 65504.
    F16,
    /// 16 bits, 8 of them for the exponent: the range of 32 bits, three decimal digits. On the CPU the factors of products are
    /// rounded to it, and nothing else is.
    BF16,
}

impl Precision {
    /// Burn's name for it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }

    /// What tensors hold on `device`, in autodiff or not, where networks compute in this precision: itself, but on the CPU f32 for
    /// bf16, which is there a matter of products alone (see [`Self::products_on`]).
    pub fn held_on(self, device: &Device) -> Self {
        match self {
            Self::BF16 if is_cpu(device) => Self::F32,
            other => other,
        }
    }

    /// How the layers multiply on `device`: forward passes belong into [`Products::within`].
    pub fn products_on(self, device: &Device) -> Products {
        match self {
            Self::BF16 if is_cpu(device) => Products::Bf16,
            _ => Products::F32,
        }
    }

    /// Whether networks can compute in this precision on `device`.
    ///
    /// # Errors
    /// [`Error::NoBf16`] where nothing in the processor multiplies bf16.
    pub fn check(self, device: &Device) -> Result<(), Error> {
        match self.products_on(device) {
            Products::Bf16 if Products::bf16_unit().is_none() => Err(Error::NoBf16),
            _ => Ok(()),
        }
    }

    /// That of Burn's floating point types; others have none.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F64 => Some(Self::F64),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::BF16),
            _ => None,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::F32, Self::F64, Self::F16, Self::BF16]
            .into_iter()
            .find(|precision| precision.to_string() == name)
            .ok_or_else(|| format!("{name:?} is no precision: choose f32, f64, f16 or bf16"))
    }
}

fn is_cpu(device: &Device) -> bool {
    device.clone().without_autodiff() == Device::flex()
}

/// Why numbers cannot be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// There is NaN or infinity among them.
    NotFinite,
    /// They are finite, but not in the new format.
    Overflow,
}

/// Reads little-endian numbers of one format as a tensor of another, each rounded once to the nearest.
///
/// # Panics
/// If there are not as many bytes as the shape asks for.
pub(crate) fn convert(bytes: &[u8], from: Precision, shape: &[usize], to: Precision) -> Result<TensorData, Flaw> {
    match to {
        Precision::F32 => Ok(TensorData::new(read::<f32>(bytes, from)?, shape)),
        Precision::F64 => Ok(TensorData::new(read::<f64>(bytes, from)?, shape)),
        Precision::F16 => Ok(TensorData::new(read::<f16>(bytes, from)?, shape)),
        Precision::BF16 => Ok(TensorData::new(read::<bf16>(bytes, from)?, shape)),
    }
}

fn read<T: Number>(bytes: &[u8], from: Precision) -> Result<Vec<T>, Flaw> {
    match from {
        Precision::F32 => read_from::<f32, T>(bytes),
        Precision::F64 => read_from::<f64, T>(bytes),
        Precision::F16 => read_from::<f16, T>(bytes),
        Precision::BF16 => read_from::<bf16, T>(bytes),
    }
}

/// By way of f64, which holds every value of the other formats exactly.
fn read_from<S: Number, T: Number>(bytes: &[u8]) -> Result<Vec<T>, Flaw> {
    let (mut finite, mut fits) = (true, true);
    let numbers = bytes
        .chunks_exact(size_of::<S>())
        .map(|bytes| {
            let number = S::from_bytes(bytes).to_f64();
            let converted = T::from_f64(number);
            finite &= number.is_finite();
            fits &= converted.to_f64().is_finite();
            converted
        })
        .collect();
    match (finite, fits) {
        (true, true) => Ok(numbers),
        (true, false) => Err(Flaw::Overflow),
        (false, _) => Err(Flaw::NotFinite),
    }
}

trait Number: Copy {
    fn from_bytes(bytes: &[u8]) -> Self;
    fn to_f64(self) -> f64;
    fn from_f64(number: f64) -> Self;
}

macro_rules! numbers {
    ($($number:ty: $to:expr, $from:expr;)*) => {$(
        impl Number for $number {
            fn from_bytes(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("chunks have the size of a number"))
            }
            fn to_f64(self) -> f64 {
                $to(self)
            }
            fn from_f64(number: f64) -> Self {
                $from(number)
            }
        }
    )*};
}

numbers! {
    f32: f64::from, |number| number as f32;
    f64: |number| number, |number| number;
    f16: f16::to_f64, |number| f16::from_f32(rounded_to_odd(number));
    bf16: bf16::to_f64, |number| bf16::from_f32(rounded_to_odd(number));
}

/// A step on the way to a format of fewer than 22 bits, after which rounding to the nearest gives what it would give at
/// once: an inexact result is the neighbour with an odd last bit, so that it never lies on the middle between two numbers
/// of the narrower format (Boldo & Melquiond 2008). half's own way from f64 rounds twice or drops bits.
fn rounded_to_odd(number: f64) -> f32 {
    let nearest = number as f32;
    let bits = nearest.to_bits();
    if f64::from(nearest) == number || nearest.is_nan() {
        nearest
    } else if f64::from(nearest).abs() > number.abs() {
        f32::from_bits((bits - 1) | 1)
    } else {
        f32::from_bits(bits | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_the_cpu_bf16_is_a_matter_of_products() {
        let device = Device::flex();
        assert_eq!(Precision::BF16.held_on(&device), Precision::F32);
        assert_eq!(Precision::BF16.products_on(&device.clone().autodiff()), Products::Bf16);
        for other in [Precision::F32, Precision::F64, Precision::F16] {
            assert_eq!((other.held_on(&device), other.products_on(&device)), (other, Products::F32));
            assert!(other.check(&device).is_ok());
        }
        assert_eq!(Precision::BF16.check(&device).is_ok(), Products::bf16_unit().is_some());
    }

    #[test]
    fn names_parse_back() {
        for name in ["f32", "f64", "f16", "bf16"] {
            assert_eq!(name.parse::<Precision>().unwrap().to_string(), name);
        }
        assert!("f8".parse::<Precision>().unwrap_err().contains("bf16"));
    }

    #[test]
    fn conversion_rounds_once() {
        // Just above the middle between the f16 neighbours 1 and 1 + 2⁻¹⁰; by way of f32 it would fall on the middle, and back to 1.
        let number = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        let data = convert(&number.to_le_bytes(), Precision::F64, &[1], Precision::F16).unwrap();
        assert_eq!(data.try_to_vec::<f16>().unwrap(), [f16::from_f64(1.0 + 2f64.powi(-10))]);
    }

    #[test]
    fn every_half_survives_the_way_through_f32() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|half| half.is_finite()).collect();
        let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        let wide = convert(&bytes, Precision::F16, &[halves.len()], Precision::F32).unwrap();
        let narrow = convert(wide.as_bytes(), Precision::F32, &[halves.len()], Precision::F16);
        assert_eq!(narrow.unwrap().as_bytes(), bytes);
    }

    #[test]
    fn what_cannot_be_computed_with_is_refused() {
        let convert = |number: f32, to| convert(&number.to_le_bytes(), Precision::F32, &[1], to);
        assert_eq!(convert(f32::NAN, Precision::F32), Err(Flaw::NotFinite));
        assert_eq!(convert(f32::INFINITY, Precision::F16), Err(Flaw::NotFinite));
        assert_eq!(convert(1e6, Precision::F16), Err(Flaw::Overflow));
        assert!(convert(1e6, Precision::BF16).is_ok());
    }
}
