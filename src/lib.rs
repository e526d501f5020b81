//! `larder` is a key-value cache on disk for any number of processes: the crate to put under a
//! package manager's downloads and unpacked archives, or a build tool's results.
//!
//! There is no daemon and no database: ordinary files, `flock`, and rename. [`KVFileStore`] maps keys
//! to files, [`KVDirStore`] to directory trees. Both are synchronous; an async program calls them on
//! its blocking threads.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let cache_dir = dir.path().join("cache");
//! use std::io::{Read, Write};
//! use larder::KVFileStore;
//!
//! let store = KVFileStore::new(cache_dir)?;
//! let mut value = store.get_or_set("https://example.org/serde-1.0.0.crate", |w| {
//!     // Only one process runs this; the others wait for it and get the same value.
//!     w.write_all(b"the bytes of the archive")?;
//!     Ok(())
//! })?;
//! let mut bytes = Vec::new();
//! value.read_to_end(&mut bytes)?;
//! # assert_eq!(bytes, b"the bytes of the archive");
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - **One computation per key.** Of all processes and threads that ask [`get_or_set`] for the same
//!   missing key, one runs the closure; the others wait and get its value. If it fails, panics or is
//!   killed, one of the others goes on.
//! - **A hit takes no lock.** Published values are complete and immutable, so a hit in a store of
//!   files is one `open`. (A hit in a store of directories is a lease, which is a shared lock.)
//! - **All or nothing.** A value is absent or whole: after an error, a panic, a `kill -9` at any
//!   system call, a full disk, and a power cut; but for a plain file with [`Durability::None`].
//! - **Nothing is taken away under a reader.** An open [`Value`] reads what it was opened on, whatever
//!   becomes of its key; a [`DirLease`] keeps its tree for as long as it lives.
//! - **Explainable waits.** Who waits can be told for whom ([`KVFileStore::with_on_wait`]), give up at
//!   a deadline ([`Wait`]), or be stopped from another thread ([`CancelToken`]).
//! - **No residue.** A process that ends in good order leaves values, and beside each tree its lock file
//!   and sidecar; what killed ones leave, [`KVFileStore::gc`] and [`KVFileStore::sweep`] take.
//! - **Bounded, when asked.** [`gc`](KVFileStore::gc) holds a store within a [`GcPolicy`], beside whatever
//!   other processes do. Nothing collects by itself.
//!
//! # What it does not do
//!
//! - A lease protects for as long as it, or a process that [inherited](DirLease::inherit) it, lives:
//!   a path written down somewhere protects nothing.
//! - Only a closure that asks on its own thread for its own key is told that this would deadlock.
//!   Cycles over several keys or processes wait for ever, unless a [`Wait::Timeout`] ends them.
//! - A failure is not shared: when a closure fails, each of those who waited runs its own, one after
//!   another. A [`Wait::Timeout`] bounds that.
//! - `flock` is not fair: readers whose leases overlap without end can keep a
//!   [`replace`](KVDirStore::replace) waiting without end.
//! - A process that forked without `exec` keeps its parent's locks and leases alive.
//! - Values are checked when they are written ([`Expect`]), on demand ([`KVFileStore::verify`]), and after a
//!   power cut where they were not durable and can be ([`Verify`]); else they are trusted as they are read.
//!   Who can write to the store's directory can change them.
//! - Network file systems are used with care (an exclusive lock needs a server that supports
//!   `flock`), and are not what this is tested on.
//! - Unix only, for now; developed and tested on Linux.
//!
//! # On disk
//!
//! ```text
//! BASE/
//!   CACHEDIR.TAG        tells backup tools that this is a cache
//!   larder-store        the marker: what kind of store this is
//!   gc.lock             for collections
//!   larder-spare        a lock file for when the disk is full
//!   larder-pins/        the keys that are pinned
//!   larder-partial/     the client's own: what is not a value yet
//!   tmp/                what is being written, and trees that are being deleted
//!   A/B/C/REST          a value: a file, or a directory
//!   A/B/C/REST.lock     its lock, while it is needed
//!   A/B/C/REST.larder   what the store knows of a tree
//! ```
//!
//! A key of bytes is at the SHA-256 of the key, in base64url; an [`ArtifactHash`] is at its own
//! digest, below a directory named after the algorithm. A directory that posy's kvstore wrote opens
//! as it is.
//!
//! # Errors
//!
//! Every call returns [`Error`], which has a [kind](Error::kind), the path and the cause. A closure
//! returns `anyhow::Result`, so `anyhow` 1 is part of this crate's interface; its error comes back in
//! one of kind [`Compute`](ErrorKind::Compute). A miss is `Ok(None)`, and nothing else is.
//!
//! [`get_or_set`]: KVFileStore::get_or_set

// In the order of dependency: each uses only those above it.
mod holder;
mod error;
mod key;
mod layout;
mod marker;
mod options;
mod outcome;
mod counters;
mod sys;
mod digest;
mod trust;
mod footer;
mod parallel;
mod root;
mod recency;
mod lock;
mod sidecar;
mod presence;
mod dispose;
mod durable;
mod staging;
mod tree;
mod manifest;
mod belief;
mod publish;
mod entries;
mod pins;
mod report;
mod policy;
mod evict;
mod excuse;
mod collect;
mod gc;
mod stats;
mod check;
mod file_store;
mod dir_store;
#[cfg(feature = "checkpoint")]
mod checkpoint;

pub use check::{
    CheckOptions, CheckReport, Finding, FindingKind, MendAction, Mended, RepairReport,
};
#[cfg(feature = "checkpoint")]
pub use checkpoint::{
    Checkpoint, CheckpointKey, CheckpointOptions, CheckpointStore, Deletion, Put,
};
pub use digest::Expect;
pub use dir_store::{DirLease, KVDirLock, KVDirStore, StagedTree};
pub use entries::{Entries, Entry};
pub use error::{Error, ErrorKind, Result};
pub use file_store::{Batch, KVFileLock, KVFileStore, LockedRead, LockedWrite, Value, ValueWriter};
pub use footer::MAX_METADATA_BYTES;
pub use gc::{Collectable, gc_all};
pub use holder::Holder;
pub use key::{ArtifactHash, Labelled, PathKey, nested_path};
pub use lock::{CancelToken, Wait, WaitInfo};
pub use manifest::TreeReport;
pub use marker::Share;
pub use options::{Barrier, Durability, StoreOptions, Verify};
pub use outcome::{Integrity, Outcome};
pub use pins::Pin;
pub use policy::GcPolicy;
pub use report::{Exceeded, GcProgress, GcReason, GcReport, Kept, KeptReason, Removed};
pub use stats::Stats;

/// For this crate's own tests and fuzz targets.
#[cfg(feature = "__fault")]
#[doc(hidden)]
pub mod __fault {
    pub use crate::sys::clock::set as set_clock;
    pub use crate::sys::fault::{Fault, arm, calls, disarm, go_on, pause_before};

    /// Reads a lock record, as a waiter does.
    pub fn parse_lock_record(bytes: &[u8]) -> Option<crate::Holder> {
        crate::lock::record::parse_for_fuzzing(bytes)
    }

    /// Reads a marker; the text that it would be written as.
    pub fn parse_marker(bytes: &[u8]) -> Result<String, String> {
        crate::marker::Marker::parse(bytes).map(|marker| marker.render())
    }

    /// Reads a sidecar; the text that it would be written as.
    pub fn parse_sidecar(bytes: &[u8]) -> Option<String> {
        crate::sidecar::Sidecar::parse(bytes, bytes.len() as u64)
            .map(|(sidecar, _)| sidecar.render())
    }

    /// Reads what follows the value in a sealed file of this key; the bytes that it would be written as.
    /// The error of what a later version wrote says why; that of what is damaged, nothing.
    pub fn parse_footer(key: &str, file: &[u8]) -> Result<Vec<u8>, Option<String>> {
        use crate::footer::{Footer, NoFooter, trailer_len};
        let entry = crate::layout::EntryPath::of(key).map_err(|_| None)?;
        let read = trailer_len(file).and_then(|len| {
            let start = file.len().checked_sub(len).ok_or(NoFooter::Damaged)?;
            Footer::parse(&entry, file.len() as u64, &file[start..])
        });
        match read {
            Ok(footer) => Ok(footer.render(&entry)),
            Err(NoFooter::Damaged) => Err(None),
            Err(NoFooter::FromTheFuture(why)) => Err(Some(why)),
        }
    }

    /// Reads a file of checkpoints; the text that it would be written as, if there is any in it.
    #[cfg(feature = "checkpoint")]
    pub fn parse_checkpoints(bytes: &[u8]) -> Option<String> {
        crate::checkpoint::parse_for_fuzzing(bytes)
    }

    /// Checks a key's path, as every call does first.
    pub fn check_key(path: std::path::PathBuf) -> crate::Result<std::path::PathBuf> {
        crate::layout::EntryPath::checked(path).map(|entry| entry.value().to_path_buf())
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
