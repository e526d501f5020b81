//! What a handle knows of the file, and has ever seen of it.
//!
//! Does no I/O. Invariant: what is known is what was read of one file, or written as one, and that file is kept
//! open, so that none that comes later has its identity; and what was seen of a key is only ever exceeded.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::key::CheckpointKey;
use super::table::{Record, Table, Version};
use crate::sys::{FileId, Meta};

/// What a handle and its clones know of the file.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) now: Basis,
    /// The newest that was seen of the file, and of each key where what the file has is older.
    revision: u64,
    ahead: BTreeMap<CheckpointKey, Version>,
}

/// What was in a file, for a decision to rest on, whatever is read after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Basis {
    pub(super) table: Arc<Table>,
    /// The file that this is known of. `None`: there was none.
    pub(super) read: Option<Arc<Read>>,
}

impl Basis {
    pub(super) fn new(table: Table, read: Option<Read>) -> Self {
        Basis {
            table: Arc::new(table),
            read: read.map(Arc::new),
        }
    }

    /// Whether what is at the path is what this is known of.
    pub(super) fn is_current(&self, found: Option<&Meta>) -> bool {
        self.read.as_ref().map(|read| read.stamp) == found.map(stamp)
    }
}

/// A file that was read. It is kept open: as long as it is, no other has its number.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) file: File,
    stamp: Stamp,
    /// This process has synced its name. Who wrote it may have failed, or died, before that.
    lasts: AtomicBool,
}

impl Read {
    pub(super) fn new(file: File, meta: &Meta) -> Self {
        Read {
            file,
            stamp: stamp(meta),
            lasts: AtomicBool::new(false),
        }
    }

    pub(super) fn lasts(&self) -> bool {
        self.lasts.load(Ordering::Relaxed)
    }

    pub(super) fn note_that_it_lasts(&self) {
        self.lasts.store(true, Ordering::Relaxed);
    }
}

/// What tells one state of the file from another. All but its identity is for who edits it in place.
type Stamp = (FileId, u64, SystemTime, SystemTime);

fn stamp(meta: &Meta) -> Stamp {
    (meta.id, meta.len, meta.modified, meta.changed)
}

impl Known {
    pub(super) fn record(&self, key: &CheckpointKey) -> Option<&Record> {
        self.now.table.records.get(key)
    }

    /// Puts in its place what is there now.
    pub(super) fn replace(&mut self, now: Basis) {
        let old = std::mem::replace(&mut self.now, now);
        let table = &self.now.table;
        let seen = old.table.records.iter();
        let seen = seen.map(|(key, record)| (*key, record.version()));
        let ahead = std::mem::take(&mut self.ahead);
        for (key, seen) in seen.chain(ahead) {
            let now = table.records.get(&key).map(Record::version);
            if now >= Some(seen) {
                continue;
            }
            // In a file that came later, a key may have begun anew when its deletion was forgotten.
            let is_anew = table.revision > self.revision && table.forgotten > seen.sequence;
            if !is_anew {
                let most = self.ahead.entry(key).or_insert(seen);
                *most = seen.max(*most);
            }
        }
        self.revision = self.revision.max(table.revision);
    }

    /// Notes a change of one key that was made of this.
    pub(super) fn apply(&mut self, basis: &Basis, key: &CheckpointKey, made: Basis) {
        if !Arc::ptr_eq(&self.now.table, &basis.table) {
            // Meanwhile another was read.
            return self.replace(made);
        }
        let now = made.table.records.get(key).map(Record::version);
        if self.ahead.get(key).copied() <= now {
            self.ahead.remove(key);
        }
        self.revision = self.revision.max(made.table.revision);
        self.now = made;
    }

    /// What was seen of a key, if what is there now is older.
    pub(super) fn ahead_of(&self, key: &CheckpointKey) -> Option<Version> {
        self.ahead.get(key).copied()
    }

    /// A key of which more was seen than is there now.
    pub(super) fn any_ahead(&self) -> Option<(&CheckpointKey, &Version)> {
        self.ahead.first_key_value()
    }

    pub(super) fn accept_rollback(&mut self) {
        self.ahead.clear();
        self.revision = self.now.table.revision;
    }
}
