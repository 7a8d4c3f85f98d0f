//! The header of NumPy's `.npy` files: what numbers a file holds, in which order, and where they begin.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>: a magic string, two bytes of version, the length of the
//! header in two bytes (version 1) or four, and a literal of Python with keys in any order:
//! `{'descr': '<f4', 'fortran_order': False, 'shape': (500, 64), }`.

use std::io::{self, Read};

use safetensors::tensor::Dtype;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// The length of each axis; none of a single number.
    pub shape: Vec<usize>,
    /// What each number is.
    pub number: Number,
    /// Whether the first axis varies fastest, instead of the last.
    pub is_fortran: bool,
    /// The first byte of the numbers in the file.
    pub start: u64,
}

/// A format of numbers, all of them little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    /// Which NumPy has not, but safetensors has.
    BF16,
    F32,
    F64,
}

impl Number {
    /// The same in safetensors; `None` for what no array is kept as.
    pub(crate) fn of_safetensors(dtype: Dtype) -> Option<Self> {
        Some(match dtype {
            Dtype::BOOL => Self::Bool,
            Dtype::U8 => Self::U8,
            Dtype::I8 => Self::I8,
            Dtype::U16 => Self::U16,
            Dtype::I16 => Self::I16,
            Dtype::U32 => Self::U32,
            Dtype::I32 => Self::I32,
            Dtype::U64 => Self::U64,
            Dtype::I64 => Self::I64,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
            Dtype::F32 => Self::F32,
            Dtype::F64 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of each.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// Why a file cannot be read; each goes on behind the file's name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// Another kind of file.
    #[error("it is no .npy file of version 1, 2 or 3; save it by numpy.save")]
    OtherFile,
    /// Nothing more comes.
    #[error("it ends before its header does")]
    Short,
    /// Longer than NumPy reads, too.
    #[error("its header is longer than any such file's; check what kind of file it is")]
    Long,
    /// No number format, order or shape.
    #[error("its header does not say what is in it; save it by numpy.save")]
    Unclear,
    /// The first byte of each number is its largest part.
    #[error("its numbers are big-endian ({0}); save x.astype(x.dtype.newbyteorder(\"<\"))")]
    BigEndian(String),
    /// Not among [`Number`].
    #[error("its numbers are {0}; save them as float32, float64 or integers")]
    OtherNumbers(String),
    /// What the system says.
    #[error("it cannot be read ({0})")]
    Failed(io::Error),
}

/// The longest header that is read, in bytes.
const MAX_HEADER: u64 = 1 << 20;

/// The most axes that an array has, in NumPy and in PyTorch.
pub(crate) const MAX_AXES: usize = 64;

/// Reads a file from its first byte up to its numbers.
pub(crate) fn header(file: &mut impl Read) -> Result<Header, HeaderError> {
    let magic: [u8; 8] = bytes(file)?;
    let (before, length) = match (&magic[..6], magic[6]) {
        (b"\x93NUMPY", 1) => (10, u64::from(u16::from_le_bytes(bytes(file)?))),
        (b"\x93NUMPY", 2 | 3) => (12, u64::from(u32::from_le_bytes(bytes(file)?))),
        _ => return Err(HeaderError::OtherFile),
    };
    if length > MAX_HEADER {
        return Err(HeaderError::Long);
    }
    let mut text = Vec::new();
    if file.take(length).read_to_end(&mut text).map_err(HeaderError::Failed)? as u64 != length {
        return Err(HeaderError::Short);
    }
    let text = String::from_utf8_lossy(&text);
    let after = |key: &str| {
        let rest = &text[text.find(&format!("'{key}'"))? + key.len() + 2..];
        rest.trim_start().strip_prefix(':').map(str::trim_start)
    };
    let number = number(after("descr").ok_or(HeaderError::Unclear)?)?;
    let is_fortran = match after("fortran_order") {
        Some(rest) if rest.starts_with("True") => true,
        Some(rest) if rest.starts_with("False") => false,
        _ => return Err(HeaderError::Unclear),
    };
    let shape = after("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next());
    let axes = shape.ok_or(HeaderError::Unclear)?.split(',').map(str::trim).filter(|axis| !axis.is_empty());
    let shape: Vec<usize> = axes.map(str::parse).collect::<Result<_, _>>().map_err(|_| HeaderError::Unclear)?;
    if shape.len() > MAX_AXES {
        return Err(HeaderError::Unclear);
    }
    Ok(Header { shape, number, is_fortran, start: before + length })
}

fn bytes<const N: usize>(file: &mut impl Read) -> Result<[u8; N], HeaderError> {
    let mut bytes = [0; N];
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(HeaderError::Short),
        Err(error) => Err(HeaderError::Failed(error)),
    }
}

/// From what comes behind `'descr':`, such as `'<f4', …`.
fn number(text: &str) -> Result<Number, HeaderError> {
    let quoted = text.strip_prefix(['\'', '"']).and_then(|rest| rest.split(['\'', '"']).next());
    // What is not quoted is a list of fields.
    let kind = quoted.ok_or_else(|| HeaderError::OtherNumbers("records of several fields".to_owned()))?;
    Ok(match kind.trim_start_matches(['<', '|']) {
        "b1" => Number::Bool,
        "u1" => Number::U8,
        "i1" => Number::I8,
        "u2" => Number::U16,
        "i2" => Number::I16,
        "u4" => Number::U32,
        "i4" => Number::I32,
        "u8" => Number::U64,
        "i8" => Number::I64,
        "f2" => Number::F16,
        "f4" => Number::F32,
        "f8" => Number::F64,
        _ if kind.starts_with('>') => return Err(HeaderError::BigEndian(kind.to_owned())),
        // What ml_dtypes writes of bfloat16.
        "V2" => return Err(HeaderError::OtherNumbers(format!("of 16 bits that NumPy does not know ({kind})"))),
        _ => return Err(HeaderError::OtherNumbers(kind.to_owned())),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The bytes of a file with that header.
    pub(crate) fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn of(bytes: &[u8]) -> Result<Header, HeaderError> {
        header(&mut &bytes[..])
    }

    #[test]
    fn headers_of_every_version() {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n";
        for version in [1, 2, 3] {
            let start = if version == 1 { 10 } else { 12 } + text.len() as u64;
            let expected = Header { shape: vec![2, 3], number: Number::F32, is_fortran: false, start };
            assert_eq!(of(&npy(version, text, &[0; 24])).unwrap(), expected);
        }
        let other = of(&npy(1, "{'shape': (7,), 'fortran_order': True, 'descr': '|u1'}\n", &[])).unwrap();
        assert_eq!((other.shape, other.number, other.is_fortran), (vec![7], Number::U8, true));
        let one = of(&npy(1, "{'descr': '<i8', 'fortran_order': False, 'shape': (), }", &[])).unwrap();
        assert!(one.number == Number::I64 && one.shape.is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let refused = |bytes: &[u8], part: &str| {
            let text = of(bytes).unwrap_err().to_string();
            assert!(text.contains(part), "{part:?} is not in: {text}");
        };
        let with = |kind: &str, order: &str, shape: &str| {
            npy(1, &format!("{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}\n"), &[])
        };
        refused(&with("'>f4'", "False", "(2, 3)"), "big-endian (>f4)");
        refused(&with("'<c8'", "False", "(2, 3)"), "numbers are <c8");
        refused(&with("'|V2'", "False", "(2, 3)"), "16 bits");
        refused(&with("[('a', '<f4')]", "False", "(2, 3)"), "several fields");
        refused(&with("'<f4'", "Maybe", "(2, 3)"), "numpy.save");
        refused(&with("'<f4'", "False", "(-1, 4)"), "numpy.save");
        refused(&with("'<f4'", "False", "2, 4"), "numpy.save");
        // Of so many axes the place of each number would take hours to find.
        refused(&with("'<f4'", "True", &format!("({})", "1,".repeat(65))), "numpy.save");
        assert_eq!(of(&with("'<f4'", "True", &format!("({})", "1,".repeat(64)))).unwrap().shape, [1; 64]);
        refused(&npy(1, "{}", &[]), "numpy.save");
        refused(b"PK\x03\x04 and so on", "numpy.save");
        refused(b"\x93NU", "ends before");
        refused(&npy(2, "{}", &[])[..13], "ends before");
        refused(b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "longer than any");
    }
}
