//! What a handle knows of the file, and has ever seen of it.
//!
//! Does no I/O. Invariant: what is known is what was read of one file, or written as one, and that file is kept
//! open, so that none that comes later has its identity; and what was seen of a key is only ever exceeded.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::SystemTime;

use super::key::CheckpointKey;
use super::table::{Record, Table, Version};
use crate::sys::{FileId, Meta};

/// What a handle and its clones know of the file.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) table: Table,
    /// The file that this is known of. `None`: there was none.
    pub(super) read: Option<Read>,
    /// The newest that was seen of the file, and of each key where what the file has is older.
    revision: u64,
    ahead: BTreeMap<CheckpointKey, Version>,
}

/// A file that was read. It is kept open: as long as it is, no other has its number.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) file: File,
    stamp: Stamp,
    /// This process has synced its name. Who wrote it may have failed, or died, before that.
    pub(super) lasts: bool,
}

impl Read {
    pub(super) fn new(file: File, meta: &Meta) -> Self {
        Read {
            file,
            stamp: stamp(meta),
            lasts: false,
        }
    }
}

/// What tells one state of the file from another. All but its identity is for who edits it in place.
type Stamp = (FileId, u64, SystemTime, SystemTime);

fn stamp(meta: &Meta) -> Stamp {
    (meta.id, meta.len, meta.modified, meta.changed)
}

impl Known {
    pub(super) fn is_current(&self, found: Option<&Meta>) -> bool {
        self.read.as_ref().map(|read| read.stamp) == found.map(stamp)
    }

    /// Puts in its place what is there now.
    pub(super) fn replace(&mut self, table: Table, read: Option<Read>) {
        let old = std::mem::replace(&mut self.table, table);
        let seen = old.records.into_iter();
        let seen = seen.map(|(key, record)| (key, record.version()));
        let ahead = std::mem::take(&mut self.ahead);
        for (key, seen) in seen.chain(ahead) {
            let now = self.table.records.get(&key).map(Record::version);
            if now >= Some(seen) {
                continue;
            }
            // In a file that came later, a key may have begun anew when its deletion was forgotten.
            let is_anew =
                self.table.revision > self.revision && self.table.forgotten > seen.sequence;
            if !is_anew {
                let most = self.ahead.entry(key).or_insert(seen);
                *most = seen.max(*most);
            }
        }
        self.revision = self.revision.max(self.table.revision);
        self.read = read;
    }

    /// Notes a change that was made of what is known.
    pub(super) fn apply(&mut self, key: &CheckpointKey, table: Table, read: Read) {
        let now = table.records.get(key).map(Record::version);
        if self.ahead.get(key).copied() <= now {
            self.ahead.remove(key);
        }
        self.revision = self.revision.max(table.revision);
        self.table = table;
        self.read = Some(read);
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
        self.revision = self.table.revision;
    }
}
