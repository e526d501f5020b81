//! What an error says: one sentence, and what to do.
//!
//! Invariant: it never repeats what `source()` returns.

use std::fmt;
use std::io;

use super::{Error, Repr};
use crate::holder::{Holder, Printable};

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held_by = |f: &mut fmt::Formatter<'_>, holder: &Option<Holder>| match holder {
            Some(holder) => write!(f, "it is held by {holder}"),
            None => f.write_str("its holder is unknown"),
        };
        match &*self.0 {
            Repr::Io {
                doing,
                path,
                source,
            } => {
                write!(f, "cannot {doing} at {}", path.display())?;
                advise(f, source.kind())
            }
            Repr::Write { path, kind, .. } => {
                write!(f, "cannot write the value at {}", path.display())?;
                advise(f, *kind)
            }
            Repr::InvalidKey { key, why } => {
                write!(f, "the key path {:?} cannot be used: {why}", key.display())
            }
            Repr::InvalidHash { why } => write!(f, "the artifact hash cannot be used: {why}"),
            Repr::Busy {
                path,
                waited,
                holder,
            } => {
                write!(f, "the lock of {} is busy", path.display())?;
                if !waited.is_zero() {
                    write!(f, " after a wait of {:.1} s", waited.as_secs_f64())?;
                }
                f.write_str("; ")?;
                held_by(f, holder)
            }
            Repr::Cancelled {
                path,
                waited,
                holder,
            } => {
                write!(
                    f,
                    "the wait for the lock of {} was cancelled after {:.1} s; ",
                    path.display(),
                    waited.as_secs_f64()
                )?;
                held_by(f, holder)
            }
            Repr::WouldDeadlock { path } => write!(
                f,
                "a closure asked for {}, which it is itself making or changing; use what it has of it, or \
                 ask when it has ended",
                path.display()
            ),
            Repr::InUse { path, by_us: true } => write!(
                f,
                "the tree {} is leased by this very process; drop its lease first",
                path.display()
            ),
            Repr::InUse { path, by_us: false } => write!(
                f,
                "the tree {} is in use; try again when its readers are done",
                path.display()
            ),
            Repr::FormatMismatch { path, why } => {
                write!(f, "{} cannot be opened as a store: {why}", path.display())
            }
            Repr::Compute {
                path,
                label: Some(label),
                ..
            } => write!(
                f,
                "the value of {} at {} could not be computed",
                Printable(label),
                path.display()
            ),
            Repr::Compute { path, .. } => {
                write!(f, "the value at {} could not be computed", path.display())
            }
            Repr::SizeMismatch {
                path,
                expected,
                actual,
                at_least,
            } => write!(
                f,
                "the value at {} was to be {expected} bytes long and is {}{actual}; nothing was \
                 published",
                path.display(),
                if *at_least { "at least " } else { "" }
            ),
            Repr::DigestMismatch {
                path,
                expected,
                actual,
            } => write!(
                f,
                "the value at {} was to have the digest {expected} and has {actual}; nothing was \
                 published",
                path.display()
            ),
            Repr::FromTheFuture { path, why } => write!(
                f,
                "{} cannot be used: {why}; use a newer version",
                path.display()
            ),
            Repr::UnknownAlgorithm { mode } => write!(
                f,
                "a digest of the algorithm {mode:?} cannot be checked, only sha256, sha384 and sha512"
            ),
            Repr::Corrupt { path, why } => write!(f, "{}: {why}", path.display()),
            Repr::Mounted { doing, path } => write!(
                f,
                "cannot {doing}: something is mounted at {}; unmount it, then sweep the store",
                path.display()
            ),
            Repr::Checkpoints { path, why, .. } => write!(
                f,
                "{} cannot be used for checkpoints: {why}",
                path.display()
            ),
            Repr::State {
                path,
                key,
                reads: true,
                ..
            } => write!(
                f,
                "the state of {key} in {} is not of the type that this program has for it; use a program \
                 that knows it, give defaults to what it lacks, or delete it",
                path.display()
            ),
            Repr::State { path, key, .. } => write!(
                f,
                "the state of {key} cannot be written to {} as JSON and read again",
                path.display()
            ),
            Repr::RolledBack {
                path,
                key,
                seen,
                stored,
                is_told,
            } => {
                write!(f, "the checkpoint of {key} in {} is ", path.display())?;
                match stored {
                    Some(stored) => write!(f, "at sequence {stored}")?,
                    None => f.write_str("not there")?,
                }
                if *is_told {
                    return write!(
                        f,
                        ", and {seen} was said to be; ask for its sequence, and decide again"
                    );
                }
                write!(
                    f,
                    ", and this handle has seen {seen}: an older file was put back; put the newer one in \
                     its place, or go on from what is there with accept_rollback"
                )
            }
            Repr::Unsupported {
                path: Some(path),
                what,
            } => write!(f, "{}: this store cannot {what}", path.display()),
            Repr::Unsupported { path: None, what } => {
                write!(f, "this store cannot {what}")
            }
            Repr::ReadOnly { doing, path, .. } => write!(
                f,
                "cannot {doing} at {}: the store is read-only here; open it where it can be \
                 written (check who owns it and its permission bits), or ask only for what it has",
                path.display()
            ),
            Repr::CannotCreate { path, .. } => write!(
                f,
                "there is no store at {} yet, and none can be made there; name another directory, or \
                 make this one writable",
                path.display()
            ),
        }
    }
}

/// What a person can do about the more common causes.
fn advise(f: &mut fmt::Formatter<'_>, kind: io::ErrorKind) -> fmt::Result {
    f.write_str(match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space on its file system"
        }
        io::ErrorKind::PermissionDenied => "; check who owns it and its permission bits",
        _ => "",
    })
}
