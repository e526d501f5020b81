//! The guard: a key's lock while it is held.
//!
//! Invariant: only its exclusive holder, in the process that took it, takes a lock file's name away.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::file::{Mode, at_lock, cannot_write, identity, try_flock};
use super::process::NotedLease;
use super::record;
use crate::error::{Error, IoContext, Result};
use crate::layout::EntryPath;
use crate::marker::StoreKind;
use crate::root::Root;
use crate::sys::{self, FileId, Kind, flock, host};

/// A key's lock, held until it is dropped, by the process that took it.
#[derive(Debug)]
#[must_use = "the key is locked only for as long as this lives"]
pub(crate) struct KeyLock {
    root: Arc<Root>,
    entry: EntryPath,
    file: File,
    id: FileId,
    mode: Mode,
    /// Who forks shares the open file; only this process may unlock it.
    pid: u32,
    recorded: bool,
    /// Another lock file has taken the place of this one, which leaves nothing to delete.
    superseded: bool,
    /// It was made for nothing, and would make an entry of what is no entry.
    retracted: bool,
    /// There is a value beside it, so that its directories are not empty.
    occupied: AtomicBool,
}

impl KeyLock {
    /// Checks that the file that was locked is the one that the path names. `None`: it was deleted
    /// meanwhile, and the lock is given up.
    pub(super) fn confirm(
        root: &Arc<Root>,
        entry: &EntryPath,
        file: File,
        mode: Mode,
    ) -> Result<Option<Self>> {
        let meta = sys::fstat(&file).reading("look at the lock file", || at_lock(root, entry));
        let found = meta.and_then(|meta| Ok((meta, identity(root, entry)?)));
        match found {
            Ok((meta, now)) if now == Some(meta.id) && meta.kind == Kind::File => {
                Ok(Some(KeyLock {
                    root: Arc::clone(root),
                    entry: entry.clone(),
                    file,
                    id: meta.id,
                    mode,
                    pid: host::pid(),
                    recorded: false,
                    superseded: false,
                    retracted: false,
                    occupied: AtomicBool::new(false),
                }))
            }
            found => {
                // A child that is between fork and exec shares the open file, so that closing it
                // is not enough. If this fails, closing is all that is left.
                let _ = flock::unlock(&file);
                match found? {
                    (meta, _) if meta.kind == Kind::File => Ok(None),
                    _ => Err(Error::corrupt(
                        at_lock(root, entry),
                        "there is something else where a lock file should be; move it away",
                    )),
                }
            }
        }
    }

    pub(crate) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    pub(crate) fn entry(&self) -> &EntryPath {
        &self.entry
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Notes whether there is a value now.
    pub(crate) fn note_occupied(&self, occupied: bool) {
        self.occupied.store(occupied, Ordering::Relaxed);
    }

    /// Tells those who wait who holds the lock. What cannot be written is not told: on a full disk
    /// it is the value that should fail, not this.
    pub(crate) fn announce(&mut self, label: Option<&str>) {
        self.recorded = true;
        let _ = record::announce(&self.file, label);
    }

    /// This lock, exclusive, becomes one on `file`, which is locked shared and has just taken its
    /// place at the lock path: a downgrade without a moment in between.
    pub(crate) fn replaced_by(mut self, file: File, id: FileId) -> KeyLock {
        let successor = KeyLock {
            root: Arc::clone(&self.root),
            entry: self.entry.clone(),
            file,
            id,
            mode: Mode::Shared,
            pid: self.pid,
            recorded: false,
            superseded: false,
            retracted: false,
            occupied: AtomicBool::new(false),
        };
        self.superseded = true;
        successor
    }

    /// Another descriptor of the same lock file, locked shared in its own right. It counts as a
    /// lease of this process for as long as it is open here.
    pub(crate) fn another_shared(&self) -> Result<(File, NotedLease)> {
        let at = || at_lock(&self.root, &self.entry);
        let path = self.entry.lock();
        let file = match self.root.dir.open_write(&path) {
            Err(err) if cannot_write(&err) => self.root.dir.open_read(&path),
            opened => opened,
        }
        .reading("open the lock file again", at)?;
        let same = sys::fstat(&file).reading("look at the lock file", at)?.id == self.id;
        if same && try_flock(&self.root, &self.entry, &file, Mode::Shared)? {
            return Ok((file, NotedLease::new(self.id)));
        }
        Err(Error::corrupt(
            at(),
            "somebody replaced the lock file of a leased tree; lease it again",
        ))
    }

    /// Whether the lock file has to stay: a tree that has no sidecar is an entry because of it.
    fn keeps_file(&self) -> bool {
        let has_tree = || match self.root.dir.look(self.entry.value()) {
            Ok(found) => found.is_some_and(|meta| meta.kind == Kind::Dir),
            Err(_) => true,
        };
        let may_be_a_tree = self.root.kind == StoreKind::Dirs && !self.retracted;
        self.superseded || (may_be_a_tree && has_tree())
    }

    /// Gives a lock up whose file this call has made beside something that is no entry.
    pub(crate) fn retract(mut self) {
        self.retracted = true;
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        if self.pid != host::pid() {
            return; // closes a forked process's copy, and leaves the lock to who took it
        }
        // Nothing that fails below can be reported, and nothing is lost by it: what stays behind is
        // a lock file that the next to take it, or a sweep, deletes.
        let mut deleted = false;
        if self.mode == Mode::Exclusive {
            if self.recorded {
                // Even of a file that is deleted: a hard link to it may live on.
                let _ = sys::truncate(&self.file, 0);
            }
            // If somebody else took the name away, what has it now is another's lock.
            let is_named =
                || matches!(identity(&self.root, &self.entry), Ok(Some(id)) if id == self.id);
            if !self.keeps_file() && is_named() {
                // First the name, then the lock: who opens it from now on makes a new file.
                deleted = self.root.retire_lock_file(&self.entry).is_ok();
            }
        }
        let _ = flock::unlock(&self.file);
        if deleted && !self.occupied.load(Ordering::Relaxed) {
            self.root.prune_directories(&self.entry);
        }
    }
}
