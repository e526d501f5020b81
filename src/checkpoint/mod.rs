//! Small state that several processes share, in one file, and that never goes backwards.
//!
//! May call `lock::kept`, `durable` and `sys`, and nothing of the stores. Invariants: the file is replaced only
//! under its lock, by one whose sequences are all those of the file that is there then, or larger; and what
//! a handle has seen of a key's sequence is only ever exceeded.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::file::{CheckpointFile, Locked};
use self::table::{Content, Record, on_one_line};
use crate::error::{Repr, Result};
use crate::lock::{CancelToken, Wait, WaitInfo, Waiting};

mod file;
mod key;
mod known;
mod options;
mod outcome;
mod table;

/// The largest sequence that a caller can choose. `update` can go on above it, so that no choice stops it.
const MAX_SEQUENCE: u64 = i64::MAX as u64;

pub use key::CheckpointKey;
pub use options::CheckpointOptions;
pub use outcome::{Checkpoint, Deletion, Put};
#[cfg(feature = "__fault")]
pub(crate) use table::parse_for_fuzzing;

/// Small states of type `T` that several processes share: how far a download has come, which parts of an
/// upload are there, how much of a stream was read.
///
/// All of them are in one file, as JSON. Each has a *sequence*, a number that only grows: whoever comes with an
/// older state than the one that is there is told so, and changes nothing. Every change reads what is on the
/// disk *now*, under a lock that all processes take, and replaces the file as a whole, so that nobody sees half of
/// one, also after a `kill -9` or a power cut. States of other keys, of whatever type, stay as they are.
///
/// Handles are cheap to clone, and clones share what they have read and what they have seen: open a file once, and
/// clone. Reading takes no lock: when nothing has changed it is one `stat`.
///
/// Programs of several versions may share a file. Give defaults to what a state has gained (`#[serde(default)]`); and
/// whoever changes a state with `update` writes only what his type knows of it, unless it keeps the rest
/// (`#[serde(flatten)]` into a map).
///
/// The file is read and written as a whole. This is for hundreds of small states, not for data: values
/// belong into a store.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use larder::{CheckpointKey, CheckpointStore, Deletion, Put};
///
/// let checkpoints = CheckpointStore::<u64>::open(dir.path().join("downloads.json"))?;
/// let key = CheckpointKey::of_parts([("url", "https://example.org/serde-1.0.0.crate")]);
/// assert_eq!(checkpoints.put(&key, 1, &4096)?, Put::Stored);
/// // Another process that has fallen behind.
/// assert_eq!(checkpoints.put(&key, 1, &1024)?, Put::Stale { stored: 1 });
///
/// let more = checkpoints.update(&key, |done| Ok(done.unwrap_or(0) + 4096))?;
/// assert_eq!((more.sequence, more.state), (2, 8192));
/// assert_eq!(checkpoints.delete(&key, more.sequence)?, Deletion::Deleted);
/// assert!(checkpoints.get(&key)?.is_none());
/// # Ok(())
/// # }
/// ```
pub struct CheckpointStore<T> {
    file: Arc<CheckpointFile>,
    waiting: Waiting,
    state: PhantomData<fn(T) -> T>,
}

impl<T> CheckpointStore<T> {
    /// Opens the file at `path`, in a directory that is there. The file itself comes with the first state, and
    /// beside it a lock file, `PATH.lock`, which stays: many processes may wait for it, and one file is not
    /// worth what deleting it safely takes. `PATH.larder-new` is what is just being written, and what a killed
    /// process leaves of that is replaced by the next. A path that ends in one of these suffixes is refused, and one to
    /// which the file system cannot append them.
    ///
    /// The directory is held open. If another takes its place, changes fail, and what is read is what was
    /// opened. The file that was read last is held open, too, for reading.
    ///
    /// Whoever changes the file replaces it by one with the same owner and group, as far as he may give it to them,
    /// and the same permission bits and access list (POSIX). If another has the group then, or the list cannot be given
    /// on, the bits of the group are taken away.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if the directory is not there; and of a file that is there whatever
    /// [`get`](Self::get) would say.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        CheckpointOptions::new().open(path)
    }

    fn open_as(path: &Path, options: CheckpointOptions) -> Result<Self> {
        Ok(CheckpointStore {
            file: Arc::new(CheckpointFile::open(path, options)?),
            waiting: Waiting::default(),
            state: PhantomData,
        })
    }

    /// The file, absolute.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The keys that have a state, in their order.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), [`RolledBack`](crate::ErrorKind::RolledBack) for any of the keys.
    pub fn keys(&self) -> Result<Vec<CheckpointKey>> {
        let known = self.file.refreshed()?;
        if let Some((key, seen)) = known.any_ahead() {
            return Err(self.file.rolled_back(&known, key, seen.sequence));
        }
        let records = known.now.table.records.iter();
        let live = records.filter(|(_, record)| record.state().is_some());
        Ok(live.map(|(key, _)| *key).collect())
    }

    /// The sequence of a key, also of one whose state was deleted: a [`put`](Self::put) has to exceed it.
    /// `None`: anything may be put.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn sequence(&self, key: &CheckpointKey) -> Result<Option<u64>> {
        let known = self.file.refreshed()?;
        self.file.check_not_behind(&known, key)?;
        Ok(known.record(key).map(|record| record.sequence))
    }

    /// Deletes the state of a key that the caller has seen at this sequence. A newer one stays. The
    /// sequence is remembered (see [`CheckpointOptions::keep_deleted`]).
    ///
    /// It takes room on the disk for another file before it gives any back.
    ///
    /// A power cut can bring back what was deleted, unless it was with
    /// [`Durability::Full`](crate::Durability::Full). Where a state speaks of something else on the disk, that
    /// matters: what it speaks of may be gone, or another's.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put); and [`RolledBack`](crate::ErrorKind::RolledBack) where what is there is older than
    /// what the caller says to have seen.
    pub fn delete(&self, key: &CheckpointKey, seen: u64) -> Result<Deletion> {
        let lock = self.file.lock(&self.waiting)?;
        let known = self.file.refreshed()?;
        let record = known.record(key);
        let is_live = record.is_some_and(|record| record.state().is_some());
        let stored = record.map(|record| record.sequence);
        let answer = match stored {
            Some(stored) if stored > seen && is_live => Some(Deletion::Stale { stored }),
            Some(stored) if stored > seen => Some(Deletion::Absent),
            _ => {
                self.file.check_not_behind(&known, key)?;
                if stored.is_some_and(|stored| stored < seen) {
                    return Err(self.file.rolled_back(&known, key, seen));
                }
                (!is_live).then_some(Deletion::Absent)
            }
        };
        let basis = known.now.clone();
        drop(known);
        if let Some(answer) = answer {
            lock.make_last(&basis)?;
            return Ok(answer);
        }
        let content = Content::Deleted(self.file.remember_until());
        let sequence = seen; // which is what is stored
        lock.publish(&basis, key, Record { sequence, content })?;
        Ok(Deletion::Deleted)
    }

    /// Takes what is on the disk for what is to go on from, although this handle has seen newer states: after
    /// a backup was put back on purpose. It concerns this handle and its clones.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn accept_rollback(&self) -> Result<()> {
        self.file
            .refreshed()
            .map(|mut known| known.accept_rollback())
    }

    /// A view of this store whose calls wait like this for the file's lock.
    #[must_use = "the store itself waits as before"]
    pub fn with_wait(&self, wait: Wait) -> Self {
        let mut view = self.clone();
        view.waiting.wait = wait;
        view
    }

    /// A view of this store whose waits end when `token` is cancelled.
    #[must_use = "the store itself waits as before"]
    pub fn with_cancel(&self, token: &CancelToken) -> Self {
        let mut view = self.clone();
        view.waiting.cancel = Some(token.clone());
        view
    }

    /// A view of this store that calls `on_wait`, on the thread that waits, when a wait has begun and once a
    /// second while it goes on.
    #[must_use = "the store itself waits as before"]
    pub fn with_on_wait(&self, on_wait: impl Fn(&WaitInfo) + Send + Sync + 'static) -> Self {
        let mut view = self.clone();
        view.waiting.on_wait = Some(Arc::new(on_wait));
        view
    }
}

impl<T: Serialize + DeserializeOwned> CheckpointStore<T> {
    /// The state of a key, with what other processes have stored up to now. `None`: there is none.
    ///
    /// It takes no lock, and when nothing has changed it costs one `stat`.
    ///
    /// # Errors
    ///
    /// - [`Corrupt`](crate::ErrorKind::Corrupt): the file is not one of checkpoints, or damaged, or larger than
    ///   64 MiB, or the state is not of type `T`; the error says where. Nothing is repaired: the file is kept
    ///   as it is.
    /// - [`FormatMismatch`](crate::ErrorKind::FormatMismatch): another version wrote it.
    /// - [`RolledBack`](crate::ErrorKind::RolledBack): this handle, or a clone of it, has seen a larger sequence
    ///   of this key than is there now. What it knows must not be overwritten by what goes on from an older state; see
    ///   [`accept_rollback`](Self::accept_rollback).
    /// - [`Io`](crate::ErrorKind::Io).
    pub fn get(&self, key: &CheckpointKey) -> Result<Option<Checkpoint<T>>> {
        let known = self.file.refreshed()?;
        self.file.check_not_behind(&known, key)?;
        let Some(record) = known.record(key).cloned() else {
            return Ok(None);
        };
        drop(known);
        self.read(key, &record)
    }

    fn read(&self, key: &CheckpointKey, record: &Record) -> Result<Option<Checkpoint<T>>> {
        let Some(json) = record.state() else {
            return Ok(None);
        };
        let state = serde_json::from_str(json).map_err(|err| self.not_a_state(key, true, err))?;
        Ok(Some(Checkpoint {
            sequence: record.sequence,
            state,
        }))
    }

    /// Stores a state under a sequence that is above the stored one, whether that was deleted or not. Any
    /// number above it will do.
    ///
    /// What is there is not read: it can be of another type. To try again what was stored the first time is `Stale`,
    /// with that very sequence.
    ///
    /// It waits for whoever is changing the file. When it returns, other processes see the state, and it is as
    /// durable as the store promises.
    ///
    /// # Errors
    ///
    /// - As [`get`](Self::get); and nothing is changed. [`RolledBack`](crate::ErrorKind::RolledBack) only
    ///   where the sequence is not above the one that this handle has seen.
    /// - [`Busy`](crate::ErrorKind::Busy) and [`Cancelled`](crate::ErrorKind::Cancelled), as the store waits;
    ///   [`WouldDeadlock`](crate::ErrorKind::WouldDeadlock) in a closure of [`update`](Self::update) on the same
    ///   file.
    /// - [`Compute`](crate::ErrorKind::Compute): the state cannot be written as JSON, or what is written not be
    ///   read again as a `T` (a `NaN`, for example, is written as `null`, which an `f64` is not read from, and an
    ///   `Option<f64>` is).
    /// - [`Unsupported`](crate::ErrorKind::Unsupported): the file would be larger than 64 MiB; or the sequence
    ///   is above [`i64::MAX`].
    /// - [`Corrupt`](crate::ErrorKind::Corrupt): the directory was replaced since it was opened, or somebody has
    ///   deleted the lock file, or changed the file without it, meanwhile.
    /// - [`Io`](crate::ErrorKind::Io) and [`ReadOnly`](crate::ErrorKind::ReadOnly). A call that fails leaves
    ///   the file as it was, with one exception: if with [`Durability::Full`](crate::Durability::Full) the
    ///   directory cannot be synced after the file was replaced, what others see is the new one, and the error
    ///   says that it may not last. Who comes next makes it last, also by a call that finds nothing to change.
    pub fn put(&self, key: &CheckpointKey, sequence: u64, state: &T) -> Result<Put> {
        let json = self.write(key, state)?;
        if sequence > MAX_SEQUENCE {
            return Err(self.too_large(key));
        }
        let lock = self.file.lock(&self.waiting)?;
        let known = self.file.refreshed()?;
        let ahead = known.ahead_of(key).map(|seen| seen.sequence);
        if let Some(seen) = ahead.filter(|&seen| seen >= sequence) {
            return Err(self.file.rolled_back(&known, key, seen));
        }
        let stored = known.record(key).map(|record| record.sequence);
        let basis = known.now.clone();
        drop(known);
        if let Some(stored) = stored.filter(|&stored| stored >= sequence) {
            lock.make_last(&basis)?;
            return Ok(Put::Stale { stored });
        }
        let content = Content::State(json);
        lock.publish(&basis, key, Record { sequence, content })?;
        Ok(Put::Stored)
    }

    /// Replaces a state by what `f` makes of it, under the next sequence. Nobody else changes the file meanwhile.
    /// Where `f` returns what was there, nothing is written, and the sequence stays. (What was there is what has the
    /// same JSON. A hash map that was built anew may not have.)
    ///
    /// The first sequence of a key is any: above those of all keys that were deleted and forgotten. So a key that
    /// is changed with `update` should not be `put` under numbers of the caller's own.
    ///
    /// `f` gets `None` where there is no state. It may read this store, and not change it; nor may what reads, writes
    /// and drops a `T`. It gets what is there, not what the caller believes to be: what it returns should come of that,
    /// or a process that has fallen behind takes back what others have done.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put), [`RolledBack`](crate::ErrorKind::RolledBack) as [`get`](Self::get); and
    /// [`Compute`](crate::ErrorKind::Compute) with `f`'s own error, after which everything is as it was.
    pub fn update(
        &self,
        key: &CheckpointKey,
        f: impl FnOnce(Option<T>) -> anyhow::Result<T>,
    ) -> Result<Checkpoint<T>> {
        let mut lock = self.file.lock(&self.waiting)?;
        lock.announce();
        // Not only `f` is the caller's: a `T` is read, written and dropped under the lock.
        lock.computing(|| self.update_locked(&lock, key, f))
    }

    fn update_locked(
        &self,
        lock: &Locked<'_>,
        key: &CheckpointKey,
        f: impl FnOnce(Option<T>) -> anyhow::Result<T>,
    ) -> Result<Checkpoint<T>> {
        let known = self.file.refreshed()?;
        self.file.check_not_behind(&known, key)?;
        let record = known.record(key).cloned();
        let next = match &record {
            Some(record) => record.sequence.saturating_add(1),
            // Above whatever a forgotten key of this name had.
            None => known.now.table.forgotten.max(1),
        };
        // `f` may look, and what it sees is then known.
        let basis = known.now.clone();
        drop(known);
        let current = match &record {
            Some(record) => self.read(key, record)?.map(|checkpoint| checkpoint.state),
            None => None,
        };
        // The same in other words, as a hash map has them in each process.
        let before = current.as_ref().map(serde_json::to_string);
        let before = before.and_then(|before| before.ok());
        let state = f(current).map_err(|source| Repr::Compute {
            path: self.path().to_path_buf(),
            label: Some(format!("checkpoint {key}")),
            source,
        })?;
        let json = self.write(key, &state)?;
        let stored = record.as_ref().and_then(Record::state);
        if before.as_deref() == Some(&*json) || stored == Some(&json) {
            lock.make_last(&basis)?;
            let sequence = next - 1;
            return Ok(Checkpoint { sequence, state });
        }
        if next == u64::MAX {
            return Err(self.too_large(key));
        }
        let (sequence, content) = (next, Content::State(json));
        lock.publish(&basis, key, Record { sequence, content })?;
        Ok(Checkpoint { sequence, state })
    }

    fn too_large(&self, key: &CheckpointKey) -> crate::Error {
        let why =
            format!("the sequence of {key} would be above {MAX_SEQUENCE}, which is the largest");
        self.file.unusable(crate::ErrorKind::Unsupported, why)
    }

    /// A state as JSON on one line, if it can be read again.
    fn write(&self, key: &CheckpointKey, state: &T) -> Result<Arc<str>> {
        let written = serde_json::to_string(state).map(|json| on_one_line(&json));
        let written = written.and_then(|json| serde_json::from_str::<T>(&json).map(|_| json));
        written.map_err(|err| self.not_a_state(key, false, err))
    }

    fn not_a_state(
        &self,
        key: &CheckpointKey,
        reads: bool,
        err: serde_json::Error,
    ) -> crate::Error {
        Repr::State {
            path: self.path().to_path_buf(),
            key: key.to_string(),
            reads,
            source: err.into(),
        }
        .into()
    }
}

impl<T> Clone for CheckpointStore<T> {
    fn clone(&self) -> Self {
        CheckpointStore {
            file: Arc::clone(&self.file),
            waiting: self.waiting.clone(),
            state: PhantomData,
        }
    }
}

impl<T> fmt::Debug for CheckpointStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointStore")
            .field("path", &self.path())
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}
