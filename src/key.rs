//! What a value is stored under: [`PathKey`], hashed keys, [`ArtifactHash`].
//!
//! Turns keys into relative paths. Does no I/O and does not check what a client's own key
//! returns: that is `layout`'s. Invariant: equal keys give equal paths, in every version.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use auto_impl::auto_impl;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::digest;

use crate::error::{Error, Repr, Result};

/// Levels of single-character directories above each entry.
const NEST_DEPTH: usize = 3;

/// Something a value can be stored under.
///
/// Byte strings and strings are keys by themselves: their SHA-256, in base64url, is the path, so
/// they can be of any length and content, and a string is the same key as its bytes. An
/// [`ArtifactHash`] is placed by its own digest. A type of your own can say where its values go;
/// [`nested_path`] makes a path of the usual shape from a digest.
///
/// ```
/// use std::path::PathBuf;
/// use larder::PathKey;
///
/// struct Wheel { name: String, version: String }
///
/// impl PathKey for Wheel {
///     fn key(&self) -> PathBuf {
///         // Names of packages and versions have no slash in them, and are not empty.
///         PathBuf::from(format!("wheels/{}/{}", self.name, self.version))
///     }
/// }
/// ```
///
/// Different keys must give different paths. Where the parts come from users, hash them: `a/1` and `2`
/// would otherwise be at the same path as `a` and `1/2`.
///
/// The store checks the path before it uses it for anything: it must be relative and made of normal
/// components (no `..`, no `.`, no doubled or trailing slash, no NUL), each of at most 240 bytes and
/// none ending in `.lock` or `.larder`; together at most 2,048 bytes; and the first must not be one
/// of the store's own names (`tmp`, `gc`, `gc.lock`, `CACHEDIR.TAG`, anything that begins with
/// `larder-`). Anything else is [`ErrorKind::InvalidKey`](crate::ErrorKind::InvalidKey), and no file
/// is touched. One key's path must not be a directory on the way to another's.
#[auto_impl(&, Box, Rc, Arc)]
pub trait PathKey {
    /// The value's path, relative to the store's base directory.
    fn key(&self) -> PathBuf;

    /// What to call this key when talking to people: in the lock's record, which waiters see, in
    /// errors, and in the listings of stores of directories and of sealed stores, which keep it with the
    /// value. `None` by default. It is never made from the key by itself, because a key may be a secret. It
    /// is no part of the key's identity.
    fn label(&self) -> Option<Cow<'_, str>> {
        None
    }
}

impl PathKey for [u8] {
    fn key(&self) -> PathBuf {
        nest(digest::digest(&digest::SHA256, self).as_ref(), "")
    }
}

/// Keys that are hashed by the bytes they consist of.
macro_rules! hashed_by_bytes {
    ($($(#[$params:meta])* [$($generics:tt)*] $type:ty;)*) => {$(
        impl<$($generics)*> PathKey for $type {
            fn key(&self) -> PathBuf {
                let bytes: &[u8] = self.as_ref();
                bytes.key()
            }
        }
    )*};
}

hashed_by_bytes! {
    [const N: usize] [u8; N];
    [] Vec<u8>;
    [] str;
    [] String;
    [] Cow<'_, [u8]>;
}

impl PathKey for Cow<'_, str> {
    fn key(&self) -> PathBuf {
        self.as_bytes().key()
    }
}

/// Any key, with a label for people.
///
/// ```
/// use larder::{Labelled, PathKey};
///
/// let url = "https://user:secret@example.org/serde-1.0.0.crate";
/// let key = Labelled::new(url, "serde 1.0.0");
/// assert_eq!(key.key(), url.key());
/// assert_eq!(key.label().as_deref(), Some("serde 1.0.0"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labelled<K> {
    key: K,
    label: String,
}

impl<K: PathKey> Labelled<K> {
    /// Gives `key` a label. Control characters are escaped where it is written down.
    pub fn new(key: K, label: impl Into<String>) -> Self {
        Labelled {
            key,
            label: label.into(),
        }
    }
}

impl<K: PathKey> PathKey for Labelled<K> {
    fn key(&self) -> PathBuf {
        self.key.key()
    }

    fn label(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.label))
    }
}

/// The digest of an artifact, with the name of its algorithm: `sha256=<hex>`.
///
/// As a key it is placed by the digest itself, below a directory named after the algorithm. It only says
/// where a value goes: that the bytes have this digest is for the closure to check.
///
/// ```
/// use larder::{ArtifactHash, PathKey};
///
/// let text = "sha256=2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// let hash: ArtifactHash = text.parse()?;
/// assert_eq!(hash.to_string(), text);
/// assert!(hash.key().starts_with("sha256/L/P/J"));
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArtifactHash {
    mode: String,
    digest: Vec<u8>,
}

impl ArtifactHash {
    /// A hash from an algorithm's name and a raw digest.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`](crate::ErrorKind::InvalidKey) unless the name is 1 to 32 lower-case ASCII
    /// letters, digits, `-` or `_`, begins with a letter, is not one of the store's own names, and
    /// the digest has 4 to 128 bytes, or exactly as many as the algorithm gives where it is known
    /// (`md5`, `sha1`, `sha224`, `sha256`, `sha384`, `sha512`, `blake3`).
    pub fn new(mode: impl Into<String>, digest: impl Into<Vec<u8>>) -> Result<Self> {
        let (mode, digest) = (mode.into(), digest.into());
        let named = (1..=32).contains(&mode.len())
            && mode.starts_with(|c: char| c.is_ascii_lowercase())
            && mode
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        if !named || mode == "tmp" || mode == "gc" || mode.starts_with("larder-") {
            return Err(invalid_hash(format!(
                "{mode:?} is no name of a hash algorithm"
            )));
        }
        match digest_len(&mode) {
            Some(len) if digest.len() != len => Err(invalid_hash(format!(
                "a {mode} digest has {len} bytes, not {}",
                digest.len()
            ))),
            None if !(4..=128).contains(&digest.len()) => Err(invalid_hash(format!(
                "a digest has 4 to 128 bytes, not {}",
                digest.len()
            ))),
            _ => Ok(ArtifactHash { mode, digest }),
        }
    }

    /// The algorithm's name, as given: `sha256`.
    pub fn mode(&self) -> &str {
        &self.mode
    }

    /// The raw digest.
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }
}

/// Bytes in a digest of the algorithms that are known by name.
fn digest_len(mode: &str) -> Option<usize> {
    Some(match mode {
        "md5" => 16,
        "sha1" => 20,
        "sha224" => 28,
        "sha256" | "blake3" => 32,
        "sha384" => 48,
        "sha512" => 64,
        _ => return None,
    })
}

/// Whether a directory of this name at the top of an unmarked store can be one of ours.
pub(crate) fn is_known_algorithm(name: &str) -> bool {
    digest_len(name).is_some()
}

impl fmt::Display for ArtifactHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.mode, HEXLOWER.encode(&self.digest))
    }
}

impl FromStr for ArtifactHash {
    type Err = Error;

    /// Reads `<algorithm>=<hex digits>`; the digits may be of either case.
    fn from_str(text: &str) -> Result<Self> {
        let (mode, hex) = text
            .split_once('=')
            .ok_or_else(|| invalid_hash(format!("{text:?} is not like sha256=HEX")))?;
        let digest = HEXLOWER_PERMISSIVE
            .decode(hex.as_bytes())
            .map_err(|err| invalid_hash(format!("{text:?} is not in hexadecimal: {err}")))?;
        ArtifactHash::new(mode, digest)
    }
}

impl PathKey for ArtifactHash {
    fn key(&self) -> PathBuf {
        nest(&self.digest, &self.mode)
    }
}

/// The usual path for a digest, `A/B/C/REST` in base64url, for keys of a client's own type.
///
/// ```
/// let path = larder::nested_path(&[0, 1, 2, 3, 4, 5])?;
/// assert_eq!(path, std::path::Path::new("A/A/E/CAwQF"));
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Errors
///
/// [`InvalidKey`](crate::ErrorKind::InvalidKey) if the digest is shorter than 4 bytes or longer
/// than 128.
pub fn nested_path(digest: &[u8]) -> Result<PathBuf> {
    if !(4..=128).contains(&digest.len()) {
        return Err(invalid_hash(format!(
            "a digest has 4 to 128 bytes, not {}",
            digest.len()
        )));
    }
    Ok(nest(digest, ""))
}

/// `PREFIX/A/B/C/REST`. The digest has at least 3 bytes, so its encoding at least 4 characters.
fn nest(digest: &[u8], prefix: &str) -> PathBuf {
    let len = BASE64URL_NOPAD.encode_len(digest.len());
    let mut path = String::with_capacity(prefix.len() + 1 + len + NEST_DEPTH);
    if !prefix.is_empty() {
        path.push_str(prefix);
        path.push('/');
    }
    let start = path.len();
    BASE64URL_NOPAD.encode_append(digest, &mut path);
    for level in 0..NEST_DEPTH {
        path.insert(start + 2 * level + 1, '/');
    }
    PathBuf::from(path)
}

fn invalid_hash(why: String) -> Error {
    Repr::InvalidHash { why }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashed_keys_are_where_posy_put_them() {
        let expected = PathBuf::from("L/P/J/Nul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ");
        assert_eq!(b"hello".key(), expected);
        assert_eq!("hello".key(), expected);
        let empty = PathBuf::from("4/7/D/EQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
        assert_eq!(Vec::new().key(), empty);
        assert!(expected.starts_with("L/P/J"));
    }

    #[test]
    fn hashes_are_checked() {
        for bad in [
            "",
            "sha256",
            "sha256=",
            "sha256=00",
            "SHA256=00112233",
            "tmp=00112233",
            "=00112233",
            "a/b=00112233",
            "..=00112233",
            "larder-x=00112233",
            "crc=00zz",
            "crc=000",
        ] {
            assert!(bad.parse::<ArtifactHash>().is_err(), "{bad}");
        }
        assert!("crc=00112233".parse::<ArtifactHash>().is_ok());
        assert!(nested_path(&[1, 2, 3]).is_err());
    }
}
