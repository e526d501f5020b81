//! What came of a collection: plain data.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, MountedAt};
use crate::root::Root;
use crate::sys;

/// What a collection looked at, took and kept.
///
/// The counts are whole. The lists of what was removed and kept end at 10,000 each, so that a report of a
/// million entries fits into memory; [`GcPolicy::on_progress`](crate::GcPolicy::on_progress) hears of
/// everything that is removed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GcReport {
    /// Entries that were looked at.
    pub examined: u64,
    /// Bytes that those take on disk. Of trees only where the policy asks for sizes; 0 for
    /// [`clear`](crate::KVFileStore::clear).
    pub examined_bytes: u64,
    /// Entries that were removed.
    pub removed: u64,
    /// The sum of the lengths of the removed entries, as far as they were known.
    pub removed_bytes: u64,
    /// What their removal gave back to the disk: their allocated blocks, without those of files that have
    /// a name outside the store, and without what could not be deleted. What somebody still has open comes
    /// back when it is closed.
    pub freed_bytes: u64,
    /// Which entries were removed by a policy, and why; the first 10,000.
    pub removed_entries: Vec<Removed>,
    /// Things that dead processes had left and that were removed: staged values and trees, trees
    /// half deleted, lock files, what was known of trees that are gone.
    pub swept: u64,
    /// What should have gone and was kept; the first 10,000.
    pub kept: Vec<Kept>,
    /// How many there are of those, if they are more.
    pub kept_count: u64,
    /// Directories and entries that could not be looked at, for the reason that is in `kept`. What is in them
    /// counts as nothing, so the limits may not hold although they seem to; whoever owns those can tell.
    pub unreadable: u64,
    /// The limits that do not hold all the same, because of what was kept; in a dry run, that would not.
    /// Free space is asked for again in the end: what somebody still has open is not free.
    pub exceeded: Vec<Exceeded>,
    /// The first of those.
    pub(crate) swept_paths: Vec<PathBuf>,
    /// What a sweep would give back, of which a dry run has to know.
    pub(crate) would_sweep_bytes: u64,
    /// What is left on the disk of trees that are gone, because it could not be deleted.
    pub(crate) undeleted_bytes: u64,
    /// What a sweep may meet a second time.
    met: HashSet<Kept>,
}

/// An entry that a collection removed, or in a dry run would have removed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Its absolute path.
    pub path: PathBuf,
    /// Why.
    pub reason: GcReason,
    /// What it gave back to the disk.
    pub freed_bytes: u64,
}

/// The limit for which an entry was removed: the first that was exceeded, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum GcReason {
    /// [`GcPolicy::max_age`](crate::GcPolicy::max_age).
    Age,
    /// [`GcPolicy::max_size`](crate::GcPolicy::max_size).
    Size,
    /// [`GcPolicy::max_entries`](crate::GcPolicy::max_entries).
    Entries,
    /// [`GcPolicy::min_free`](crate::GcPolicy::min_free).
    FreeSpace,
}

/// A limit that does not hold after a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exceeded {
    /// Which.
    pub limit: GcReason,
    /// By how much: bytes for size and free space, entries for their number and age.
    pub by: u64,
}

/// Something that a collection kept although it was to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Kept {
    /// Its absolute path.
    pub path: PathBuf,
    /// Why.
    pub reason: KeptReason,
}

/// Why a collection kept something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeptReason {
    /// Somebody holds the key's lock, or leases the tree.
    InUse,
    /// It belongs to somebody else, and this process may not remove it.
    NotPermitted,
    /// It is not of the store.
    Foreign,
    /// It was used within [`GcPolicy::min_idle`](crate::GcPolicy::min_idle).
    TooRecent,
    /// It is pinned.
    Pinned,
    /// The caller of `gc_keeping` wants it.
    ByCaller,
    /// It was used or replaced after the collection had looked at it.
    Changed,
    /// The operating system refused, for a reason that concerns only this: somebody fills it while it is
    /// deleted, its paths are too long; or the disk is full, and there is no spare file to lock it with.
    Failed(io::ErrorKind),
    /// Something is mounted there, which is not the store's to delete: unmount it, then sweep.
    Mounted,
}

/// How far a collection is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GcProgress<'a> {
    /// Entries looked at so far.
    pub examined: u64,
    /// Entries that are to be removed, as far as that is known; 0 while the store is looked through.
    pub planned: u64,
    /// Entries removed so far.
    pub removed: u64,
    /// Bytes given back to the disk so far.
    pub freed_bytes: u64,
    /// What was removed just now.
    pub just_removed: Option<&'a Removed>,
}

/// How many are listed by name.
const MOST_LISTED: usize = 10_000;

impl GcReport {
    pub(crate) fn keep(&mut self, root: &Root, path: impl AsRef<Path>, reason: KeptReason) {
        self.keep_absolute(root.absolute(path), reason);
    }

    /// The same for what is left of something after its deletion failed.
    pub(crate) fn keep_rest(&mut self, root: &Root, path: impl AsRef<Path>, err: &io::Error) {
        match MountedAt::path_in(err) {
            Some(point) => {
                self.keep_absolute(point.to_path_buf(), KeptReason::Mounted);
            }
            None if sys::is_refused(err) => self.keep(root, path, KeptReason::NotPermitted),
            None => self.keep(root, path, KeptReason::Failed(err.kind())),
        }
    }

    /// The same for what an error is about.
    pub(crate) fn keep_at(&mut self, err: &Error, reason: KeptReason) {
        self.keep_absolute(err.path().unwrap_or(Path::new("")).to_path_buf(), reason);
    }

    /// What cannot even be looked at.
    pub(crate) fn note_unreadable(&mut self, err: &Error, reason: KeptReason) {
        let path = err.path().unwrap_or(Path::new("")).to_path_buf();
        let is_new = self.keep_absolute(path, reason);
        self.unreadable += u64::from(is_new);
    }

    /// `false`: that was told already.
    fn keep_absolute(&mut self, path: PathBuf, reason: KeptReason) -> bool {
        let kept = Kept { path, reason };
        // A sweep meets what was met before it again. That is never much, but what is too recent can be.
        let repeats = matches!(
            reason,
            KeptReason::Foreign
                | KeptReason::NotPermitted
                | KeptReason::InUse
                | KeptReason::Failed(_)
                | KeptReason::Mounted
        );
        if repeats && self.met.len() < MOST_LISTED && !self.met.insert(kept.clone()) {
            return false;
        }
        self.kept_count += 1;
        if self.kept.len() < MOST_LISTED {
            self.kept.push(kept);
        }
        true
    }

    pub(crate) fn note_swept(&mut self, root: &Root, path: impl AsRef<Path>) {
        self.swept += 1;
        if self.swept_paths.len() < MOST_LISTED {
            self.swept_paths.push(root.absolute(path));
        }
    }

    pub(crate) fn note_removed(&mut self, removed: Removed) {
        self.removed += 1;
        self.freed_bytes = self.freed_bytes.saturating_add(removed.freed_bytes);
        if self.removed_entries.len() < MOST_LISTED {
            self.removed_entries.push(removed);
        }
    }
}
