//! What this process knows of its own locks: the closures it runs, and the leases it holds.
//!
//! Each is known by the identity of its lock file, which nothing else has while it is open.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::KeyLock;
use super::file::{at_lock, identity};
use crate::error::{IoContext, Repr, Result};
use crate::layout::EntryPath;
use crate::root::Root;
use crate::sys::{self, FileId, host};

thread_local! {
    /// The locks under which this thread is running closures, outermost first.
    static COMPUTING: RefCell<Vec<FileId>> = const { RefCell::new(Vec::new()) };
}

/// Runs a closure under a key's lock, so that it can be told when it asks for that key itself.
pub(crate) fn computing<T>(lock: &KeyLock, run: impl FnOnce() -> T) -> T {
    computing_on(lock.id(), run)
}

pub(super) fn computing_on<T>(lock: FileId, run: impl FnOnce() -> T) -> T {
    struct Popped;
    impl Drop for Popped {
        fn drop(&mut self) {
            COMPUTING.with_borrow_mut(Vec::pop);
        }
    }
    COMPUTING.with_borrow_mut(|locks| locks.push(lock));
    let _popped = Popped;
    run()
}

/// Fails if the holder of a busy lock is a closure that this very thread is running.
pub(super) fn refuse_deadlock(root: &Root, entry: &EntryPath, file: &File) -> Result<()> {
    if COMPUTING.with_borrow(Vec::is_empty) {
        return Ok(());
    }
    let meta = sys::fstat(file).reading("look at the lock file", || at_lock(root, entry))?;
    refuse_deadlock_on(meta.id, || root.absolute(entry.value()))
}

/// The same for a lock file that is known.
pub(super) fn refuse_deadlock_on(id: FileId, path: impl FnOnce() -> PathBuf) -> Result<()> {
    match COMPUTING.with_borrow(|locks| locks.contains(&id)) {
        true => Err(Repr::WouldDeadlock { path: path() }.into()),
        false => Ok(()),
    }
}

/// The leases that this process holds, by the lock file that each is on.
static LEASES: Mutex<BTreeMap<FileId, usize>> = Mutex::new(BTreeMap::new());

/// Counts as a lease of this process until it is dropped.
#[derive(Debug)]
pub(crate) struct NotedLease {
    id: FileId,
    pid: u32,
}

impl NotedLease {
    pub(crate) fn new(id: FileId) -> Self {
        let mut leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
        *leases.entry(id).or_default() += 1;
        NotedLease {
            id,
            pid: host::pid(),
        }
    }
}

impl Drop for NotedLease {
    fn drop(&mut self) {
        if self.pid != host::pid() {
            return; // a forked process's copy
        }
        let mut leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = leases.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                leases.remove(&self.id);
            }
        }
    }
}

/// Whether this process holds a lease on a key, so that waiting for it alone would never end.
pub(crate) fn leased_here(root: &Root, entry: &EntryPath) -> Result<bool> {
    let id = identity(root, entry)?;
    let leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(id.is_some_and(|id| leases.contains_key(&id)))
}
