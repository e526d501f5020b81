//! What can go wrong: a kind to match on, the operation, the path, and the cause.
//!
//! Owns the one public error type; what it says is in `sentence`. Calls nothing of the crate but the plain data
//! of [`Holder`].

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::holder::Holder;

mod sentence;

/// A result whose error is [`larder::Error`](Error).
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of every fallible call of this crate.
///
/// It displays as one sentence that names the path and, where there is something to do, says what.
/// The cause is in [`source`](StdError::source) and is not repeated in the sentence: print the
/// whole chain, as `anyhow` does with `{:#}`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use larder::{ErrorKind, KVFileStore};
///
/// let store = KVFileStore::new(dir.path().join("cache"))?;
/// let err = store.get_or_set("key", |_| anyhow::bail!("the server said 503")).unwrap_err();
/// assert_eq!(err.kind(), ErrorKind::Compute);
/// # Ok(())
/// # }
/// ```
pub struct Error(Box<Repr>);

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused something; the cause is the [`io::Error`].
    Io,
    /// A key's path is not one that a store can use. Nothing was touched.
    InvalidKey,
    /// The key's lock was held by somebody else for longer than the caller would wait.
    Busy,
    /// The wait was cancelled through its [`CancelToken`](crate::CancelToken).
    Cancelled,
    /// A closure asked for the very key that it is computing, or to change the checkpoints that it is changing.
    WouldDeadlock,
    /// The tree is leased, so it can be neither removed nor (by its own lessee) replaced.
    InUse,
    /// The directory is not a store that this program may use as asked, or a value in it is in a format
    /// that this version does not know. Nothing was touched.
    FormatMismatch,
    /// The caller's closure failed; its error is the cause, and [`Error::downcast_ref`] reaches it.
    ///
    /// That can be an error of this crate, when the closure used a store itself:
    /// `err.downcast_ref::<larder::Error>()` then tells, for example, that a wait in it was cancelled.
    Compute,
    /// A value has another length than was stated. Nothing was published.
    SizeMismatch,
    /// A value has another digest than was stated. Nothing was published.
    DigestMismatch,
    /// What is on disk at the key's path is not what the store put there: something foreign, or what
    /// belongs to another key, where one key's path is a directory on the way to another's.
    Corrupt,
    /// This store, or this platform, cannot do what was asked.
    Unsupported,
    /// The store can be read but not written.
    ReadOnly,
    /// A checkpoint on disk is older than this handle of it has seen it: somebody has put back the file, or an
    /// earlier one, or has deleted it. Nothing was written.
    RolledBack,
}

/// One variant for each way to fail. `doing` completes the sentence "cannot …".
#[derive(Debug)]
pub(crate) enum Repr {
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The closure failed because writing to its writer failed.
    Write {
        path: PathBuf,
        kind: io::ErrorKind,
        source: anyhow::Error,
    },
    InvalidKey {
        key: PathBuf,
        why: &'static str,
    },
    InvalidHash {
        why: String,
    },
    Busy {
        path: PathBuf,
        waited: Duration,
        holder: Option<Holder>,
    },
    Cancelled {
        path: PathBuf,
        waited: Duration,
        holder: Option<Holder>,
    },
    WouldDeadlock {
        path: PathBuf,
    },
    InUse {
        path: PathBuf,
        by_us: bool,
    },
    FormatMismatch {
        path: PathBuf,
        why: String,
    },
    Compute {
        path: PathBuf,
        label: Option<String>,
        source: anyhow::Error,
    },
    SizeMismatch {
        path: PathBuf,
        expected: u64,
        actual: u64,
        at_least: bool,
    },
    DigestMismatch {
        path: PathBuf,
        expected: String,
        actual: String,
    },
    /// A value that a later version wrote.
    FromTheFuture {
        path: PathBuf,
        why: String,
    },
    Corrupt {
        path: PathBuf,
        why: &'static str,
    },
    /// Something that is not the store's is mounted in what is to be published or deleted.
    Mounted {
        doing: &'static str,
        path: PathBuf,
    },
    UnknownAlgorithm {
        mode: String,
    },
    /// A file of checkpoints that is none, or too much of one.
    #[cfg_attr(not(feature = "checkpoint"), allow(dead_code))]
    Checkpoints {
        path: PathBuf,
        kind: ErrorKind,
        why: String,
    },
    /// A state that its type does not read, or cannot be written as.
    #[cfg_attr(not(feature = "checkpoint"), allow(dead_code))]
    State {
        path: PathBuf,
        key: String,
        reads: bool,
        source: anyhow::Error,
    },
    #[cfg_attr(not(feature = "checkpoint"), allow(dead_code))]
    RolledBack {
        path: PathBuf,
        key: String,
        seen: u64,
        stored: Option<u64>,
        /// It is the caller who says that he has.
        is_told: bool,
    },
    Unsupported {
        path: Option<PathBuf>,
        what: &'static str,
    },
    ReadOnly {
        doing: &'static str,
        path: PathBuf,
        source: Option<io::Error>,
    },
    /// There is no store yet, and this user cannot make one.
    CannotCreate {
        path: PathBuf,
        source: Option<io::Error>,
    },
}

impl Error {
    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match &*self.0 {
            Repr::Write { kind, .. } if means_read_only(*kind) => ErrorKind::ReadOnly,
            Repr::Io { .. } | Repr::Write { .. } => ErrorKind::Io,
            Repr::InvalidKey { .. } | Repr::InvalidHash { .. } => ErrorKind::InvalidKey,
            Repr::Busy { .. } => ErrorKind::Busy,
            Repr::Cancelled { .. } => ErrorKind::Cancelled,
            Repr::WouldDeadlock { .. } => ErrorKind::WouldDeadlock,
            Repr::InUse { .. } => ErrorKind::InUse,
            Repr::FormatMismatch { .. } | Repr::FromTheFuture { .. } => ErrorKind::FormatMismatch,
            Repr::Compute { .. } => ErrorKind::Compute,
            Repr::SizeMismatch { .. } => ErrorKind::SizeMismatch,
            Repr::DigestMismatch { .. } => ErrorKind::DigestMismatch,
            Repr::Corrupt { .. } | Repr::Mounted { .. } => ErrorKind::Corrupt,
            Repr::Unsupported { .. } | Repr::UnknownAlgorithm { .. } => ErrorKind::Unsupported,
            Repr::ReadOnly { .. } | Repr::CannotCreate { .. } => ErrorKind::ReadOnly,
            Repr::Checkpoints { kind, .. } => *kind,
            Repr::State { reads: true, .. } => ErrorKind::Corrupt,
            Repr::State { reads: false, .. } => ErrorKind::Compute,
            Repr::RolledBack { .. } => ErrorKind::RolledBack,
        }
    }

    /// What was being done, as the end of the sentence "cannot …".
    pub fn operation(&self) -> &'static str {
        match &*self.0 {
            Repr::Io { doing, .. } | Repr::ReadOnly { doing, .. } => doing,
            Repr::Write { .. } | Repr::SizeMismatch { .. } | Repr::DigestMismatch { .. } => {
                "write the value"
            }
            Repr::UnknownAlgorithm { .. } => "check the digest",
            Repr::InvalidKey { .. } => "use the key",
            Repr::InvalidHash { .. } => "use the hash",
            Repr::Busy { .. } | Repr::Cancelled { .. } | Repr::WouldDeadlock { .. } => {
                "lock the key"
            }
            Repr::InUse { .. } => "take the tree away",
            Repr::FormatMismatch { .. } => "open the store",
            Repr::CannotCreate { .. } => "create the store",
            Repr::Compute { .. } => "compute the value",
            Repr::Corrupt { .. } | Repr::FromTheFuture { .. } => "use what is stored",
            Repr::Mounted { doing, .. } => doing,
            Repr::Unsupported { what, .. } => what,
            Repr::Checkpoints { .. } | Repr::RolledBack { .. } => "use the checkpoints",
            Repr::State { reads: true, .. } => "read the state",
            Repr::State { reads: false, .. } => "write the state",
        }
    }

    /// The path concerned: as a rule that of the value, absolute; for an invalid key, the key's own
    /// relative path.
    pub fn path(&self) -> Option<&Path> {
        match &*self.0 {
            Repr::Io { path, .. }
            | Repr::Write { path, .. }
            | Repr::Busy { path, .. }
            | Repr::Cancelled { path, .. }
            | Repr::WouldDeadlock { path }
            | Repr::InUse { path, .. }
            | Repr::FormatMismatch { path, .. }
            | Repr::Compute { path, .. }
            | Repr::SizeMismatch { path, .. }
            | Repr::DigestMismatch { path, .. }
            | Repr::FromTheFuture { path, .. }
            | Repr::Corrupt { path, .. }
            | Repr::Mounted { path, .. }
            | Repr::Checkpoints { path, .. }
            | Repr::State { path, .. }
            | Repr::RolledBack { path, .. }
            | Repr::ReadOnly { path, .. }
            | Repr::CannotCreate { path, .. } => Some(path),
            Repr::InvalidKey { key, .. } => Some(key),
            Repr::Unsupported { path, .. } => path.as_deref(),
            Repr::InvalidHash { .. } | Repr::UnknownAlgorithm { .. } => None,
        }
    }

    /// Who held the lock when a wait was given up ([`Busy`](ErrorKind::Busy),
    /// [`Cancelled`](ErrorKind::Cancelled)), as far as is known.
    pub fn holder(&self) -> Option<&Holder> {
        match &*self.0 {
            Repr::Busy { holder, .. } | Repr::Cancelled { holder, .. } => holder.as_ref(),
            _ => None,
        }
    }

    /// The closure's own error, if it failed and its error is an `E` (or has one in its context,
    /// as [`anyhow::Error::downcast_ref`] looks for it).
    pub fn downcast_ref<E: fmt::Display + fmt::Debug + Send + Sync + 'static>(&self) -> Option<&E> {
        match &*self.0 {
            Repr::Compute { source, .. }
            | Repr::Write { source, .. }
            | Repr::State { source, .. } => source.downcast_ref(),
            _ => None,
        }
    }

    /// The kind of the operating system's error, where that is the cause.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match &*self.0 {
            Repr::Io { source, .. } => Some(source.kind()),
            Repr::ReadOnly { source, .. } | Repr::CannotCreate { source, .. } => {
                source.as_ref().map(io::Error::kind)
            }
            Repr::Write { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    pub(crate) fn corrupt(path: PathBuf, why: &'static str) -> Self {
        Repr::Corrupt { path, why }.into()
    }

    /// Whether it says that this could not be done.
    pub(crate) fn is_in(&self, action: &str) -> bool {
        matches!(&*self.0, Repr::Io { doing, .. } if *doing == action)
    }

    /// Whether the path is one at which something is mounted.
    pub(crate) fn is_mount(&self) -> bool {
        matches!(&*self.0, Repr::Mounted { .. })
    }

    pub(crate) fn from_the_future(path: PathBuf, why: String) -> Self {
        Repr::FromTheFuture { path, why }.into()
    }

    /// Where it happened while a new store was made.
    pub(crate) fn while_creating(self, store: &Path) -> Self {
        match *self.0 {
            Repr::ReadOnly { source, .. } => Repr::CannotCreate {
                path: store.to_path_buf(),
                source,
            }
            .into(),
            other => other.into(),
        }
    }

    pub(crate) fn mismatch(path: &Path, why: impl Into<String>) -> Self {
        Repr::FormatMismatch {
            path: path.to_path_buf(),
            why: why.into(),
        }
        .into()
    }
}

impl From<Repr> for Error {
    fn from(repr: Repr) -> Self {
        Error(Box::new(repr))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &*self.0 {
            Repr::Io { source, .. } => Some(source),
            Repr::ReadOnly { source, .. } | Repr::CannotCreate { source, .. } => {
                source.as_ref().map(|e| e as _)
            }
            Repr::Compute { source, .. }
            | Repr::Write { source, .. }
            | Repr::State { source, .. } => Some(&**source),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    /// Keeps the kind of the operating system's error where there is one.
    fn from(error: Error) -> Self {
        let kind = error.io_kind().unwrap_or(match error.kind() {
            ErrorKind::InvalidKey => io::ErrorKind::InvalidInput,
            ErrorKind::Busy => io::ErrorKind::WouldBlock,
            ErrorKind::InUse => io::ErrorKind::ResourceBusy,
            ErrorKind::WouldDeadlock => io::ErrorKind::Deadlock,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::FormatMismatch
            | ErrorKind::SizeMismatch
            | ErrorKind::DigestMismatch
            | ErrorKind::Corrupt
            | ErrorKind::RolledBack => io::ErrorKind::InvalidData,
            ErrorKind::Io | ErrorKind::Compute | ErrorKind::Cancelled => io::ErrorKind::Other,
        });
        io::Error::new(kind, error)
    }
}

/// What somebody who may not write here is told when he does.
fn means_read_only(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// What goes through an [`io::Error`] to say that something is mounted at a path, by its absolute path.
#[derive(Debug)]
pub(crate) struct MountedAt(pub(crate) PathBuf);

impl MountedAt {
    /// Where, if this error is such a one.
    pub(crate) fn path_in(err: &io::Error) -> Option<&Path> {
        let mounted = err.get_ref()?.downcast_ref::<MountedAt>()?;
        Some(&mounted.0)
    }
}

impl fmt::Display for MountedAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "something is mounted at {}", self.0.display())
    }
}

impl StdError for MountedAt {}

impl From<MountedAt> for io::Error {
    fn from(mounted: MountedAt) -> Self {
        io::Error::new(io::ErrorKind::ResourceBusy, mounted)
    }
}

/// Gives an [`io::Error`] its operation and path.
pub(crate) trait IoContext<T> {
    /// For what only reads.
    fn reading(self, doing: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T>;
    /// For what writes: to have no permission for that means that the store is read-only here.
    fn writing(self, doing: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn reading(self, doing: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T> {
        self.map_err(|source| because(doing, path, source))
    }

    fn writing(self, doing: &'static str, path: impl FnOnce() -> PathBuf) -> Result<T> {
        self.map_err(|source| {
            if means_read_only(source.kind()) {
                Repr::ReadOnly {
                    doing,
                    path: path(),
                    source: Some(source),
                }
                .into()
            } else {
                because(doing, path, source)
            }
        })
    }
}

fn because(doing: &'static str, path: impl FnOnce() -> PathBuf, source: io::Error) -> Error {
    match MountedAt::path_in(&source) {
        Some(point) => Repr::Mounted {
            doing,
            path: point.to_path_buf(),
        },
        None => Repr::Io {
            doing,
            path: path(),
            source,
        },
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_does_not_repeat_its_source() {
        let err: Error = Repr::Io {
            doing: "open the value",
            path: "/x".into(),
            source: io::Error::from_raw_os_error(28),
        }
        .into();
        let sentence = err.to_string();
        let source = StdError::source(&err)
            .map(ToString::to_string)
            .unwrap_or_default();
        assert!(source.contains("No space"), "{source}");
        assert!(!sentence.contains("No space"), "{sentence}");
        assert!(sentence.contains("free some space"), "{sentence}");
        assert_eq!(io::Error::from(err).kind(), io::ErrorKind::StorageFull);
    }
}
