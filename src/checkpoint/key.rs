//! Keys of checkpoints: digests, and how they are made of named parts and written as text.
//!
//! Pure. Invariant: a key has one spelling.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use data_encoding::HEXLOWER;

use crate::digest;
use crate::error::{Error, Repr};

/// The version of [`CheckpointKey::of_parts`] that a file of checkpoints names.
pub(super) const KEY_VERSION: u64 = 1;

const DOMAIN: &[u8] = b"larder-checkpoint-key 1\n";

/// What a checkpoint is stored under: 32 bytes, a digest of whatever the state belongs to.
///
/// As text it is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointKey([u8; 32]);

impl CheckpointKey {
    /// The key of a digest that the caller has.
    pub const fn new(digest: [u8; 32]) -> Self {
        CheckpointKey(digest)
    }

    /// The key of everything that tells one state from another, by name; in whatever order. The SHA-256 of the
    /// parts, with their lengths, so that no two sets of parts give the same bytes; `docs/format.md` has them.
    ///
    /// ```
    /// use larder::CheckpointKey;
    ///
    /// let key = CheckpointKey::of_parts([("url", "https://example.org/a"), ("kind", "download")]);
    /// assert_eq!(key, CheckpointKey::of_parts([("kind", "download"), ("url", "https://example.org/a")]));
    /// assert_ne!(key, CheckpointKey::of_parts([("url", "https://example.org/b"), ("kind", "download")]));
    /// ```
    pub fn of_parts<N: AsRef<str>, V: AsRef<[u8]>>(
        parts: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let parts: Vec<(N, V)> = parts.into_iter().collect();
        let mut parts: Vec<(&[u8], &[u8])> = parts
            .iter()
            .map(|(name, value)| (name.as_ref().as_bytes(), value.as_ref()))
            .collect();
        parts.sort_unstable();
        let mut bytes = DOMAIN.to_vec();
        for (name, value) in parts {
            for piece in [name, value] {
                bytes.extend_from_slice(&(piece.len() as u64).to_le_bytes());
                bytes.extend_from_slice(piece);
            }
        }
        CheckpointKey(digest::of_parts(&[&bytes]))
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckpointKey({self})")
    }
}

impl FromStr for CheckpointKey {
    type Err = Error;

    /// Reads 64 lower-case hexadecimal digits; anything else is
    /// [`InvalidKey`](crate::ErrorKind::InvalidKey).
    fn from_str(text: &str) -> Result<Self, Error> {
        let digest = HEXLOWER.decode(text.as_bytes()).ok();
        let digest = digest.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        digest.map(CheckpointKey).ok_or_else(|| {
            let key = Path::new(text).to_path_buf();
            let why = NOT_A_KEY;
            Repr::InvalidKey { key, why }.into()
        })
    }
}

pub(super) const NOT_A_KEY: &str = "a checkpoint's key is 64 lower-case hexadecimal digits";
