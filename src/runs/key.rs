//! Names that are hashes of all that they stand for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// 128 bits of BLAKE3, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; Self::BYTES]);

impl Key {
    /// How many bytes a key has.
    pub const BYTES: usize = 16;

    /// The key of what `depends_on` prints as JSON.
    ///
    /// # Panics
    /// If it holds what JSON has no words for, such as a map whose keys are no strings.
    pub fn of(depends_on: &impl Serialize) -> Self {
        let text = serde_json::to_vec(depends_on).expect("keys are made of strings and numbers");
        Self::of_bytes(&text)
    }

    /// The key of bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let hash = blake3::hash(bytes);
        Self(*hash.as_bytes().first_chunk().expect("a hash is longer than a key"))
    }

    /// The key of `what` that depends on other keys, in their order: much cheaper than [`Self::of`].
    pub fn combined(what: &'static str, parts: &[Self]) -> Self {
        let mut hasher = blake3::Hasher::new();
        // Its length first, so that no two lists give the same bytes.
        hasher.update(&(what.len() as u64).to_le_bytes());
        hasher.update(what.as_bytes());
        for part in parts {
            hasher.update(&part.0);
        }
        Self(*hasher.finalize().as_bytes().first_chunk().expect("a hash is longer than a key"))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// A key of those bytes.
    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a key; a key has 32 hexadecimal digits")]
pub struct NotAKey(String);

impl FromStr for Key {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let wrong = || NotAKey(text.to_owned());
        if text.len() != 2 * Self::BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_and_read() {
        let key = Key::of(&("resnet50", 3));
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(serde_json::from_str::<Key>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
        for wrong in ["", "0", "+0000000000000000000000000000000", "zz000000000000000000000000000000"] {
            assert!(wrong.parse::<Key>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn keys_follow_what_they_are_of_and_its_order() {
        let (a, b) = (Key::of(&1), Key::of(&2));
        let all = [a, b, Key::combined("x", &[a, b]), Key::combined("x", &[b, a]), Key::combined("y", &[a, b])];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
