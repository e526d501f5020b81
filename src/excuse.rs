//! Which errors end a collection, and why something is kept for the others.
//!
//! Does no I/O. Invariant: what is wrong with one thing ends nothing, and what the next thing would meet as
//! well is never excused.

use std::io;

use crate::error::{Error, ErrorKind, Result};
use crate::layout::EntryPath;
use crate::publish;
use crate::report::{GcReport, KeptReason};
use crate::root::Root;
use crate::sys::{self, Errno};

/// What an error at one thing means for a collection: why that is kept, or (`None`) that nothing goes on.
///
/// This is the one rule. What is wrong with one thing must not keep the others from going, or a single odd
/// object would let a store grow without end. So everything is excused and told, whatever the system calls it,
/// but for what the next thing would meet as well: a disk or a mount that fails (`ends_all`), a base directory
/// that is gone, a store that cannot be written at all, and what the caller did.
/// The base directory, `tmp/` and the pins are of the whole store, so whoever lists those asks for no excuse.
pub(crate) fn excuse(err: &Error) -> Option<KeptReason> {
    match err.kind() {
        _ if err.is_mount() => Some(KeptReason::Mounted),
        // It is gone, but it may come back with a power cut, and nobody may be told otherwise.
        _ if err.is_in(publish::SYNC_NAMES) => None,
        // Something else is where a value, a lock file or a sidecar should be.
        ErrorKind::Corrupt => Some(KeptReason::Foreign),
        ErrorKind::Io | ErrorKind::ReadOnly => {
            let source = std::error::Error::source(err)?;
            excuse_io(source.downcast_ref()?)
        }
        _ => None,
    }
}

pub(crate) fn excuse_io(err: &io::Error) -> Option<KeptReason> {
    if sys::is_refused(err) {
        return Some(KeptReason::NotPermitted);
    }
    (!ends_all(err)).then_some(KeptReason::Failed(err.kind()))
}

fn ends_all(err: &io::Error) -> bool {
    const ENDS_ALL: [Errno; 10] = [
        Errno::IO,
        Errno::NOMEM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOLCK,
        Errno::ROFS,
        Errno::NODEV,
        Errno::NOTCONN,
        Errno::SHUTDOWN,
        // Who expects that something may be gone does not get here.
        Errno::NOENT,
    ];
    ENDS_ALL.iter().any(|errno| sys::is(err, *errno)) || err.kind() == io::ErrorKind::NotFound
}

/// Reports what kept an entry from being removed, where others can be removed all the same.
pub(crate) fn keep_if_excused(
    root: &Root,
    entry: &EntryPath,
    err: Error,
    report: &mut GcReport,
) -> Result<()> {
    match excuse(&err) {
        Some(reason @ (KeptReason::Foreign | KeptReason::Mounted)) => report.keep_at(&err, reason),
        Some(reason) => report.keep(root, entry.value(), reason),
        None => return Err(err),
    }
    Ok(())
}

/// Reports what could not be looked at, where the rest can be all the same.
pub(crate) fn pass_over(err: Error, report: &mut GcReport) -> Result<()> {
    match excuse(&err) {
        Some(reason @ (KeptReason::Foreign | KeptReason::Mounted)) => report.keep_at(&err, reason),
        Some(reason) => report.note_unreadable(&err, reason),
        None => return Err(err),
    }
    Ok(())
}

/// Whether there is no room for the lock file of one thing, and other things that go may make some.
pub(crate) fn has_no_room(err: &Error) -> bool {
    let kind = err.io_kind();
    excuse(err).is_some()
        && matches!(
            kind,
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::error::IoContext;

    #[test]
    fn only_what_the_next_thing_would_meet_too_ends_a_collection() {
        let excused = |errno: Errno| {
            let err = io::Error::from(errno);
            let of_the_system = excuse_io(&err);
            let wrapped = Err::<(), _>(err).writing("remove", PathBuf::new);
            assert_eq!(wrapped.map_err(|err| excuse(&err)), Err(of_the_system));
            of_the_system
        };
        for errno in [Errno::IO, Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert_eq!(excused(errno), None, "{errno:?}");
        }
        for errno in [Errno::ROFS, Errno::NODEV, Errno::NOENT] {
            assert_eq!(excused(errno), None, "{errno:?}");
        }
        for errno in [Errno::ACCESS, Errno::PERM] {
            assert_eq!(excused(errno), Some(KeptReason::NotPermitted), "{errno:?}");
        }
        for errno in [
            Errno::ISDIR,
            Errno::NOTDIR,
            Errno::NOTEMPTY,
            Errno::BUSY,
            Errno::NAMETOOLONG,
            Errno::NXIO,
            Errno::LOOP,
            Errno::XDEV,
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::STALE,
        ] {
            let kind = io::Error::from(errno).kind();
            assert_eq!(excused(errno), Some(KeptReason::Failed(kind)), "{errno:?}");
        }
        // Who is told that something is removed is told that it lasts, where that was promised.
        let unsynced = Err::<(), _>(Errno::NOSPC.into()).writing(publish::SYNC_NAMES, PathBuf::new);
        assert!(unsynced.is_err_and(|err| excuse(&err).is_none() && !has_no_room(&err)));
        let odd = Error::corrupt(PathBuf::new(), "it is odd");
        assert_eq!(excuse(&odd), Some(KeptReason::Foreign));
    }
}
