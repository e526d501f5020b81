//! Lock files: opened, created, and told apart.
//!
//! May call `sys`, and ask `root` for directories. Invariant: what is returned open is at a key's lock
//! path, or was a moment ago; nothing is known of its lock yet.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::record;
use crate::error::{Error, IoContext, Repr, Result};
use crate::holder::Holder;
use crate::layout::EntryPath;
use crate::root::Root;
use crate::sys::{self, Errno, FileId, flock};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Shared,
    Exclusive,
}

pub(super) fn try_flock(root: &Root, entry: &EntryPath, file: &File, mode: Mode) -> Result<bool> {
    let tried = match mode {
        Mode::Shared => flock::try_shared(file),
        Mode::Exclusive => flock::try_exclusive(file),
    };
    locking(tried, root, entry)
}

pub(super) fn wait_flock(root: &Root, entry: &EntryPath, file: &File, mode: Mode) -> Result<()> {
    let taken = match mode {
        Mode::Shared => flock::shared(file),
        Mode::Exclusive => flock::exclusive(file),
    };
    locking(taken, root, entry)
}

fn locking<T>(result: io::Result<T>, root: &Root, entry: &EntryPath) -> Result<T> {
    match result {
        // A network file system wants a writable descriptor for an exclusive lock, and this one
        // could only be opened for reading.
        Err(err) if sys::is(&err, Errno::BADF) => Err(Repr::ReadOnly {
            doing: "lock the key",
            path: at_lock(root, entry),
            source: Some(err),
        }
        .into()),
        result => result.reading("lock the key", || at_lock(root, entry)),
    }
}

pub(super) fn at_lock(root: &Root, entry: &EntryPath) -> PathBuf {
    root.absolute(entry.lock())
}

/// Opens a key's lock file, and creates it, with the directories above it, if it is not there.
pub(super) fn open_or_create(root: &Root, entry: &EntryPath) -> Result<File> {
    let at = || at_lock(root, entry);
    // Directories that are empty are removed by whoever emptied them, so creating is a race that
    // can be lost many times, but hardly this many.
    for _ in 0..10_000 {
        let opened = match open_or_create_once(root, entry) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                match root.make_directories(entry) {
                    Ok(()) => continue,
                    Err(err) => Err(err).writing("create the key's directories", at),
                }
            }
            Err(err) if is_full(&err) => match root.spend_spare(entry) {
                Ok(true) => continue,
                _ => Err(err).writing("create the lock file", at),
            },
            opened => check_regular(opened, root, entry),
        };
        // Some directories may have been made, and the next one, or the file, not.
        return opened.inspect_err(|_| root.prune_directories(entry));
    }
    Err(io::Error::from(io::ErrorKind::NotFound)).reading("create the lock file", at)
}

fn is_full(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn open_or_create_once(root: &Root, entry: &EntryPath) -> io::Result<File> {
    let path = entry.lock();
    let opened = if root.options.read_only {
        root.dir.open_read(&path)
    } else if root.is_group_shared() {
        open_or_create_for_group(root, &path)
    } else {
        root.dir.open_or_create(&path, 0o666)
    };
    match opened {
        Err(err) if cannot_write(&err) => match root.dir.open_read(&path) {
            // There is none, and it cannot be made: the first error is the reason.
            Err(second) if second.kind() == io::ErrorKind::NotFound => Err(err),
            opened => opened,
        },
        opened => opened,
    }
}

/// Another user must never meet a lock file with the permission bits of this user's umask, so it is
/// made ready in `tmp/` and linked into place.
fn open_or_create_for_group(root: &Root, path: &Path) -> io::Result<File> {
    match root.dir.open_write(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let (staged, file) = root.unique_file("l-", |_file| Ok(()))?;
    let linked = root.dir.link(&staged, path);
    let _ = root.dir.unlink(&staged); // a sweep takes it if this fails
    match linked {
        Ok(()) => Ok(file),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => root.dir.open_write(path),
        Err(err) => Err(err),
    }
}

/// Opens a key's lock file; `None` if it is not there and not to be created.
pub(super) fn open(root: &Root, entry: &EntryPath, create: bool) -> Result<Option<File>> {
    if create {
        return open_or_create(root, entry).map(Some);
    }
    let path = entry.lock();
    let opened = if root.options.read_only {
        root.dir.open_read(&path)
    } else {
        match root.dir.open_write(&path) {
            Err(err) if cannot_write(&err) => root.dir.open_read(&path),
            opened => opened,
        }
    };
    match opened {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => check_regular(opened, root, entry).map(Some),
    }
}

pub(super) fn cannot_write(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn check_regular(opened: io::Result<File>, root: &Root, entry: &EntryPath) -> Result<File> {
    let at = || at_lock(root, entry);
    match opened {
        Err(err) if sys::is(&err, Errno::LOOP) => Err(Error::corrupt(
            at(),
            "there is a symbolic link where a lock file should be; move it away",
        )),
        Err(err) if sys::is(&err, Errno::ISDIR) => Err(Error::corrupt(
            at(),
            "there is a directory where a lock file should be; move it away",
        )),
        // A socket.
        Err(err) if sys::is(&err, Errno::NXIO) => Err(Error::corrupt(
            at(),
            "there is something else where a lock file should be; move it away",
        )),
        opened => opened.writing("create the lock file", at),
    }
}

/// Which file the lock path names now.
pub(super) fn identity(root: &Root, entry: &EntryPath) -> Result<Option<FileId>> {
    let path = entry.lock();
    let found = root.dir.look_afresh(&path, root.file_system.network);
    found
        .map(|meta| meta.map(|meta| meta.id))
        .reading("look at the lock file", || at_lock(root, entry))
}

/// Who holds the lock, by the record in its file.
pub(super) fn read_holder(file: &File) -> Option<Holder> {
    record::live_holder(&sys::read_start(file, record::MAX_BYTES).ok()?)
}
