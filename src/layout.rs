//! Where things are: a store's own names, and each key's paths.
//!
//! The only place that joins key paths. Does no I/O. Invariant: an [`EntryPath`] is made of normal
//! components and touches none of the store's own names, whatever a client's key returned.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Repr, Result};
use crate::key::{PathKey, is_known_algorithm};

/// Names a store uses for itself, at the top of its base directory.
pub(crate) const MARKER: &str = "larder-store";
pub(crate) const CACHEDIR_TAG: &str = "CACHEDIR.TAG";
pub(crate) const GC_LOCK: &str = "gc.lock";
pub(crate) const TMP: &str = "tmp";
/// An empty file that becomes a lock file where none can be made, because the disk is full.
pub(crate) const SPARE: &str = "larder-spare";
/// A file for each key that is pinned.
pub(crate) const PINS: &str = "larder-pins";
/// Everything that begins like this, there, is or will be the store's.
pub(crate) const RESERVED_PREFIX: &str = "larder-";

/// What is appended to a value's name for what stands beside it.
pub(crate) const LOCK_SUFFIX: &str = ".lock";
pub(crate) const SIDECAR_SUFFIX: &str = ".larder";

/// Room in a file name (255 bytes on every file system that counts) for those suffixes.
const MAX_COMPONENT: usize = 240;
const MAX_PATH: usize = 2048;

/// A key's checked path, relative to the base directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryPath(PathBuf);

impl EntryPath {
    /// The key's path, if it is one that a store can use.
    pub(crate) fn of<K: PathKey + ?Sized>(key: &K) -> Result<Self> {
        Self::checked(key.key())
    }

    pub(crate) fn checked(path: PathBuf) -> Result<Self> {
        match flaw(path.as_os_str().as_bytes()) {
            None => Ok(EntryPath(path)),
            Some(why) => Err(Error::from(Repr::InvalidKey { key: path, why })),
        }
    }

    pub(crate) fn value(&self) -> &Path {
        &self.0
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.suffixed(LOCK_SUFFIX)
    }

    pub(crate) fn sidecar(&self) -> PathBuf {
        self.suffixed(SIDECAR_SUFFIX)
    }

    fn suffixed(&self, suffix: &str) -> PathBuf {
        with_suffix(&self.0, suffix)
    }

    /// The directories between the base directory and the value, deepest first, without the base.
    pub(crate) fn directories(&self) -> impl DoubleEndedIterator<Item = &Path> {
        let mut above: Vec<&Path> = self.0.ancestors().skip(1).collect();
        above.pop();
        above.into_iter()
    }

    /// The entries that would be at those directories.
    pub(crate) fn entries_above(&self) -> impl Iterator<Item = EntryPath> {
        self.directories().map(|path| EntryPath(path.to_path_buf()))
    }
}

/// A path with something behind its last name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut suffixed = OsString::with_capacity(path.as_os_str().len() + suffix.len());
    suffixed.push(path);
    suffixed.push(suffix);
    suffixed.into()
}

/// Whether a key's path can lead through this directory.
pub(crate) fn can_hold_entries(directory: &Path) -> bool {
    directory.as_os_str().len() < MAX_PATH
}

/// Why these bytes cannot be a key's path, if they cannot.
fn flaw(path: &[u8]) -> Option<&'static str> {
    if path.is_empty() {
        return Some("it is empty");
    }
    if path[0] == b'/' {
        return Some("it is absolute; a key's path is relative to the store");
    }
    if path.len() > MAX_PATH {
        return Some("it is longer than 2,048 bytes");
    }
    for (depth, name) in path.split(|&b| b == b'/').enumerate() {
        if name.is_empty() {
            return Some("it has an empty component");
        }
        if name == b"." || name == b".." {
            return Some("it has a component '.' or '..'");
        }
        if name.len() > MAX_COMPONENT {
            return Some("it has a component of more than 240 bytes");
        }
        if name.contains(&0) {
            return Some("it contains a NUL byte");
        }
        if is_beside(name) {
            return Some("a component ends in '.lock' or '.larder', which are the store's own");
        }
        if depth == 0 && (is_reserved(name) || has_reserved_lock(name)) {
            return Some("its first component is a name that the store keeps for itself");
        }
    }
    None
}

/// Whether this file name is that of a lock or a sidecar.
pub(crate) fn is_beside(name: &[u8]) -> bool {
    name.ends_with(LOCK_SUFFIX.as_bytes()) || name.ends_with(SIDECAR_SUFFIX.as_bytes())
}

/// Whether this name, at the top of the base directory, is the store's own.
pub(crate) fn is_reserved(name: &[u8]) -> bool {
    [TMP, GC_LOCK, CACHEDIR_TAG]
        .iter()
        .any(|own| own.as_bytes() == name)
        || name.starts_with(RESERVED_PREFIX.as_bytes())
}

/// Whether the lock of an entry of this name, at the top of the base directory, would be a file of
/// the store's own: `gc` and `gc.lock`.
fn has_reserved_lock(name: &[u8]) -> bool {
    GC_LOCK.as_bytes().strip_suffix(LOCK_SUFFIX.as_bytes()) == Some(name)
}

/// On how many levels below a directory of this name, at the top of a directory without a marker,
/// there are only directories of one character, if it comes from a store of the shape that this crate
/// and posy's kvstore share. `None`: it does not.
pub(crate) fn levels_if_adoptable(name: &OsStr) -> Option<usize> {
    match name.to_str() {
        Some(TMP) => Some(0),
        Some(algorithm) if is_known_algorithm(algorithm) => Some(3),
        _ => is_shard(name).then_some(2),
    }
}

/// Whether this is one character of base64url.
pub(crate) fn is_shard(name: &OsStr) -> bool {
    match name.as_bytes() {
        [one] => one.is_ascii_alphanumeric() || *one == b'-' || *one == b'_',
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_beside_a_value() {
        let entry = EntryPath::of("hello").unwrap();
        assert_eq!(
            entry.lock().to_str().unwrap(),
            format!("{}.lock", entry.value().display())
        );
        assert_eq!(
            entry.sidecar().to_str().unwrap(),
            format!("{}.larder", entry.value().display())
        );
        let above: Vec<_> = entry.directories().collect();
        assert_eq!(
            above,
            [Path::new("L/P/J"), Path::new("L/P"), Path::new("L")]
        );
    }

    #[test]
    fn a_key_of_one_component_has_no_directories() {
        let entry = EntryPath::checked("plain".into()).unwrap();
        assert_eq!(entry.directories().count(), 0);
    }
}
