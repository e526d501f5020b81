//! The lock of a store's collectors: one at a time.
//!
//! Invariant: its file is never deleted, so that a plain `flock` is enough; and its modification time
//! changes only when a collection has ended, because that is how the next one knows.

use std::fs::File;
use std::io;
use std::time::SystemTime;

use super::file::{cannot_write, read_holder};
use super::wait::Pacer;
use crate::error::{IoContext, Result};
use crate::layout::GC_LOCK;
use crate::root::Root;
use crate::sys::{self, Stamp, flock, host};

/// Held, no other process collects in this store.
#[derive(Debug)]
#[must_use = "others collect as soon as this is dropped"]
pub(crate) struct CollectorLock {
    file: File,
    pid: u32,
}

/// Takes the collectors' lock, and waits for it as the caller does.
pub(crate) fn collector(root: &Root, pacer: &mut Pacer<'_>) -> Result<CollectorLock> {
    let at = || root.absolute(GC_LOCK);
    let file = open(root)?;
    if !flock::try_exclusive(&file).writing("lock the collection", at)? {
        pacer.note_wait();
        if pacer.may_block() {
            flock::exclusive(&file).writing("lock the collection", at)?;
        } else {
            let id = sys::fstat(&file).writing("lock the collection", at)?.id;
            loop {
                pacer.pause(&at(), (&file, id), || read_holder(&file))?;
                if flock::try_exclusive(&file).writing("lock the collection", at)? {
                    break;
                }
            }
        }
    }
    Ok(CollectorLock::of(file))
}

/// Takes the collectors' lock if nobody has it.
pub(crate) fn try_collector(root: &Root) -> Result<Option<CollectorLock>> {
    let file = open(root)?;
    let locked = flock::try_exclusive(&file);
    let locked = locked.writing("lock the collection", || root.absolute(GC_LOCK))?;
    Ok(locked.then(|| CollectorLock::of(file)))
}

fn open(root: &Root) -> Result<File> {
    let opened = match root.dir.open_write(GC_LOCK) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            root.dir.open_or_create(GC_LOCK, 0o666)
        }
        Err(err) if cannot_write(&err) => root.dir.open_read(GC_LOCK),
        opened => opened,
    };
    opened.writing("open the lock of the collection", || root.absolute(GC_LOCK))
}

impl CollectorLock {
    fn of(file: File) -> Self {
        CollectorLock {
            file,
            pid: host::pid(),
        }
    }

    /// When a collection last ended.
    pub(crate) fn last(&self) -> io::Result<SystemTime> {
        sys::fstat(&self.file).map(|meta| meta.modified)
    }

    /// Notes that one has ended. Both times, which whoever may write can do, not only the owner. Who may not
    /// is not told: the next is due earlier.
    pub(crate) fn note_end(&self) {
        let _ = sys::fstamp(&self.file, Stamp::Both);
    }
}

impl Drop for CollectorLock {
    fn drop(&mut self) {
        if self.pid == host::pid() {
            let _ = flock::unlock(&self.file); // closing it does too, unless a child has it
        }
    }
}
