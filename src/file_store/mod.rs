//! The store of files: orchestration of key, lock, staging and publication.
//!
//! Invariant: a hit takes no lock, and nothing here renames, syncs or locks by itself.

use std::path::Path;
use std::sync::Arc;

use crate::digest::Expect;
use crate::error::{IoContext, Result};
use crate::gc;
use crate::key::{ArtifactHash, PathKey};
use crate::layout::EntryPath;
use crate::lock::{self, CancelToken, Taken, Tried, Wait, WaitInfo, Waiting};
use crate::marker::{Format, StoreKind};
use crate::options::StoreOptions;
use crate::publish;
use crate::root::Root;
use crate::staging::StagedFile;
use crate::sys;

mod batch;
mod integrity;
mod lock_guard;
mod sealed;
mod upkeep;
mod value;
mod writer;

use sealed::Opened;
use value::{Found, Sought};

pub use batch::Batch;
pub use lock_guard::KVFileLock;
pub use value::{LockedRead, Value};
pub use writer::{LockedWrite, ValueWriter};

/// A store of files: a map from keys to immutable byte strings, shared by any number of processes.
///
/// Handles are cheap to clone and can be used from any number of threads; [`with_wait`],
/// [`with_cancel`] and [`with_on_wait`] give views of the same store that wait differently.
///
/// [`with_wait`]: Self::with_wait
/// [`with_cancel`]: Self::with_cancel
/// [`with_on_wait`]: Self::with_on_wait
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use std::io::{Read, Write};
/// use larder::KVFileStore;
///
/// let store = KVFileStore::new(dir.path().join("cache"))?;
/// let mut value = store.get_or_set("the key", |w| {
///     // Runs in one process only, whoever else asks.
///     w.write_all(b"computed once")?;
///     Ok(())
/// })?;
/// let mut text = String::new();
/// value.read_to_string(&mut text)?;
/// assert_eq!(text, "computed once");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct KVFileStore {
    root: Arc<Root>,
    waiting: Waiting,
}

impl StoreOptions {
    /// Opens a store of files.
    ///
    /// # Errors
    ///
    /// As [`KVFileStore::new`].
    pub fn open_file_store(&self, base: impl AsRef<Path>) -> Result<KVFileStore> {
        Ok(KVFileStore {
            root: Arc::new(Root::open(base.as_ref(), StoreKind::Files, self)?),
            waiting: Waiting::default(),
        })
    }
}

impl gc::sealed::Sealed for KVFileStore {
    fn parts(&self) -> gc::sealed::Parts<'_> {
        gc::sealed::Parts {
            root: &self.root,
            waiting: &self.waiting,
        }
    }
}

impl gc::Collectable for KVFileStore {}

impl KVFileStore {
    /// Opens the store in this directory, and creates it, with the directories above it, if it is
    /// missing or empty. The same as `StoreOptions::new().open_file_store(base)`.
    ///
    /// # Errors
    ///
    /// [`FormatMismatch`](crate::ErrorKind::FormatMismatch) if the directory is no store of files or
    /// not one that this version knows; then nothing in it was touched. Otherwise
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn new(base: impl AsRef<Path>) -> Result<Self> {
        StoreOptions::new().open_file_store(base)
    }

    /// Opens a value. Takes no lock and waits for nobody. `None` if there is none, or, in a sealed store,
    /// none that is whole: a damaged one is removed if nobody holds its key's lock. What was published
    /// without durability before the last boot is read as a whole for that, once ([`Verify`](crate::Verify)).
    ///
    /// # Errors
    ///
    /// Whatever keeps a value that may be there from being opened is an error, not a miss.
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if something else is at its path,
    /// [`FormatMismatch`](crate::ErrorKind::FormatMismatch) for a value that a later version sealed.
    pub fn get<K: PathKey + ?Sized>(&self, key: &K) -> Result<Option<Value>> {
        let entry = EntryPath::of(key)?;
        let found = Found::open(&self.root, &entry, self.root.options.verify)?;
        self.root.counters.looked_up(found.is_some());
        Ok(found.map(|found| Value::of(&self.root, entry, found)))
    }

    /// Reads a value. `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn read<K: PathKey + ?Sized>(&self, key: &K) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let read = self.read_into(key, &mut bytes)?;
        Ok(read.map(|_| bytes))
    }

    /// Reads a value in place of what is in `into`, and returns its length. `None`, with `into`
    /// empty, if there is none. With a buffer that is used again this is the fastest way to a small
    /// value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); also [`Corrupt`](crate::ErrorKind::Corrupt) if the file is shorter
    /// than it was when it was opened.
    pub fn read_into<K: PathKey + ?Sized>(
        &self,
        key: &K,
        into: &mut Vec<u8>,
    ) -> Result<Option<usize>> {
        into.clear();
        let read = self.read_entry(&EntryPath::of(key)?, into)?;
        self.root.counters.looked_up(read.is_some());
        Ok(read)
    }

    fn read_entry(&self, entry: &EntryPath, into: &mut Vec<u8>) -> Result<Option<usize>> {
        let Some((file, meta)) = value::open_file(&self.root, entry)? else {
            return Ok(None);
        };
        let at = || self.root.absolute(entry.value());
        let read = sys::read_more(&file, meta.len, into).reading("read the value", at)?;
        if read < meta.len {
            return Err(crate::Error::corrupt(
                at(),
                "somebody cut the value off while it was read",
            ));
        }
        if self.root.format == Format::Sealed {
            let opened = Opened {
                root: &self.root,
                entry,
                file: &file,
                meta: &meta,
            };
            let footer = opened.footer_in(self.root.options.verify, into)?;
            return Ok(footer.map(|_footer| into.len()));
        }
        Ok(Some(into.len()))
    }

    /// Whether there is a value. Takes no lock, and does not count as a use. Whether the value is whole is
    /// not looked at.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn contains<K: PathKey + ?Sized>(&self, key: &K) -> Result<bool> {
        publish::is_there(&self.root, &EntryPath::of(key)?)
    }

    /// Opens a value; if there is none, computes it, once among all processes and threads that ask.
    ///
    /// Others who ask for the key meanwhile wait and get the same value. If the closure fails or
    /// panics, or its process is killed, nothing is published and one of those who wait goes on.
    /// The store's durability decides what the value survives. The writer appends; to seek, use
    /// [`lock`](Self::lock) and [`KVFileLock::begin`].
    ///
    /// # Errors
    ///
    /// [`Compute`](crate::ErrorKind::Compute) with the closure's error;
    /// [`Busy`](crate::ErrorKind::Busy) and [`Cancelled`](crate::ErrorKind::Cancelled) as this view
    /// waits; [`WouldDeadlock`](crate::ErrorKind::WouldDeadlock) if a closure asks on its own thread
    /// for the key that it is computing; [`ReadOnly`](crate::ErrorKind::ReadOnly) on a miss in a
    /// store that cannot be written. Two closures that ask for each other's keys wait for each other
    /// for ever: give such calls a [`Wait::Timeout`].
    pub fn get_or_set<K: PathKey + ?Sized>(
        &self,
        key: &K,
        f: impl FnOnce(&mut ValueWriter) -> anyhow::Result<()>,
    ) -> Result<Value> {
        self.get_or_set_verified(key, &Expect::new(), f)
    }

    /// The same for a value of which the length, the digest or both are known: what the closure writes
    /// is published only if it is that.
    ///
    /// A value that is there already and has another length, or, in a sealed store, another SHA-256, is
    /// computed again, and stays until that one is published in its place. Other digests of a value that is
    /// there are not computed: [`verify_against`](Self::verify_against) does.
    ///
    /// # Errors
    ///
    /// As [`get_or_set`](Self::get_or_set), and [`SizeMismatch`](crate::ErrorKind::SizeMismatch) (at the
    /// first byte too many), [`DigestMismatch`](crate::ErrorKind::DigestMismatch), and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an algorithm other than SHA-256, SHA-384 and
    /// SHA-512, before the closure runs.
    pub fn get_or_set_verified<K: PathKey + ?Sized>(
        &self,
        key: &K,
        expect: &Expect,
        f: impl FnOnce(&mut ValueWriter) -> anyhow::Result<()>,
    ) -> Result<Value> {
        expect.check_supported()?;
        let value = self.find_or_compute(key, expect, f)?;
        self.root.counters.got(value.outcome());
        Ok(value)
    }

    fn find_or_compute<K: PathKey + ?Sized>(
        &self,
        key: &K,
        expect: &Expect,
        f: impl FnOnce(&mut ValueWriter) -> anyhow::Result<()>,
    ) -> Result<Value> {
        let entry = EntryPath::of(key)?;
        let root = &self.root;
        if let Some(found) = self.find(&entry, expect)? {
            return Ok(Value::of(root, entry, found));
        }
        root.check_writable("compute a value", &entry)?;
        let mut pacer = self.waiting.start();
        let look = |_held: bool| self.find(&entry, expect);
        let mut lock = match lock::exclusive_or(root, &entry, &mut pacer, look)? {
            Taken::Made(found, _lock) => {
                return Ok(Value::of(root, entry, found).with_outcome(pacer.outcome()));
            }
            Taken::Lock(lock) => lock,
        };
        match Found::seek(root, &entry, root.options.verify, expect)? {
            Sought::Found(found) => {
                lock.note_occupied(true);
                return Ok(Value::of(root, entry, found).with_outcome(pacer.outcome()));
            }
            // It stays until there is another in its place: the expectation may be what is wrong.
            Sought::Other => lock.note_occupied(true),
            Sought::Absent => {}
        }
        lock.announce(key.label().as_deref());
        let staged = StagedFile::for_value(root)?;
        let staged = lock::computing(&lock, || {
            ValueWriter::fill(root, key, &entry, staged, expect, f)
        })?;
        publish::seal_file(root, &staged)?;
        publish::file(&lock, staged)?;
        Value::published(root, &entry)
    }

    /// Opens the value of which the key is the digest; if there is none, has `f` write it, and publishes it
    /// only if it has that digest. A value that is there was checked when it was written, if it was written
    /// by this; [`verify_against`](Self::verify_against) reads it again.
    ///
    /// # Errors
    ///
    /// As [`get_or_set_verified`](Self::get_or_set_verified).
    pub fn get_or_fetch(
        &self,
        hash: &ArtifactHash,
        f: impl FnOnce(&mut ValueWriter) -> anyhow::Result<()>,
    ) -> Result<Value> {
        self.get_or_set_verified(hash, &Expect::new().digest(hash), f)
    }

    /// Opens a value. One that cannot be what is expected is absent.
    fn find(&self, entry: &EntryPath, expect: &Expect) -> Result<Option<Found>> {
        match Found::seek(&self.root, entry, self.root.options.verify, expect)? {
            Sought::Found(found) => Ok(Some(found)),
            Sought::Absent | Sought::Other => Ok(None),
        }
    }

    /// Computes a value and publishes it, in place of one that may be there; the last one wins.
    ///
    /// The closure runs without the key's lock, which is taken only to publish. Readers see the old
    /// value or the new one.
    ///
    /// # Errors
    ///
    /// As [`get_or_set`](Self::get_or_set).
    pub fn set<K: PathKey + ?Sized>(
        &self,
        key: &K,
        f: impl FnOnce(&mut ValueWriter) -> anyhow::Result<()>,
    ) -> Result<Value> {
        let entry = EntryPath::of(key)?;
        let root = &self.root;
        root.check_writable("write a value", &entry)?;
        publish::is_there(root, &entry)?; // so that the closure does not run for nothing
        let staged = StagedFile::for_value(root)?;
        let staged = ValueWriter::fill(root, key, &entry, staged, &Expect::new(), f)?;
        publish::seal_file(root, &staged)?;
        let lock = lock::exclusive(root, &entry, &mut self.waiting.start())?;
        publish::file(&lock, staged)?;
        Value::published(root, &entry)
    }

    /// Takes the key's lock, exclusively, and waits for it as this view of the store waits. While it
    /// is held nobody else computes, replaces or removes the value; readers are not hindered.
    ///
    /// Who holds it already, on whichever thread, waits for himself: only a closure that asks for its
    /// own key is told [`WouldDeadlock`](crate::ErrorKind::WouldDeadlock).
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy), [`Cancelled`](crate::ErrorKind::Cancelled),
    /// [`WouldDeadlock`](crate::ErrorKind::WouldDeadlock),
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly), [`Io`](crate::ErrorKind::Io).
    pub fn lock<K: PathKey + ?Sized>(&self, key: &K) -> Result<KVFileLock> {
        let entry = EntryPath::of(key)?;
        self.root.check_writable("lock the key", &entry)?;
        publish::is_there(&self.root, &entry)?;
        let lock = lock::exclusive(&self.root, &entry, &mut self.waiting.start())?;
        Ok(KVFileLock::new(lock, key))
    }

    /// Takes the key's lock if that needs no waiting. `None`: it is busy.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock), without `Busy` and `Cancelled`.
    pub fn try_lock<K: PathKey + ?Sized>(&self, key: &K) -> Result<Option<KVFileLock>> {
        let entry = EntryPath::of(key)?;
        self.root.check_writable("lock the key", &entry)?;
        publish::is_there(&self.root, &entry)?;
        match lock::try_exclusive(&self.root, &entry, true)? {
            Tried::Lock(lock) => Ok(Some(KVFileLock::new(lock, key))),
            Tried::Busy | Tried::Absent => Ok(None),
        }
    }

    /// Takes the key's lock if it has a value. `None` if it has none; then nothing was created.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn lock_if_exists<K: PathKey + ?Sized>(&self, key: &K) -> Result<Option<KVFileLock>> {
        let entry = EntryPath::of(key)?;
        if !publish::is_there(&self.root, &entry)? {
            return Ok(None);
        }
        let lock = self.lock(key)?;
        // Removed while we waited for the lock: dropping the lock removes what it created.
        Ok(publish::is_there(&self.root, &entry)?.then_some(lock))
    }

    /// Removes a value. `false` if there was none. Readers that have it open keep it.
    ///
    /// It waits for the key's lock as this view of the store waits; who removes many does not want to
    /// wait behind a download, and uses [`Wait::TryOnce`]. The key's value of the moment is removed, even
    /// if it is newer than what the caller has seen.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn remove<K: PathKey + ?Sized>(&self, key: &K) -> Result<bool> {
        let entry = EntryPath::of(key)?;
        if !publish::is_there(&self.root, &entry)? {
            return Ok(false);
        }
        self.root.check_writable("remove the value", &entry)?;
        let lock = lock::exclusive(&self.root, &entry, &mut self.waiting.start())?;
        publish::remove_file(&lock)
    }

    /// Notes that a value is used now, as a hit does where the last note is old. `false` if there is
    /// no value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get). Where the note is not allowed to be written that is no error.
    pub fn touch<K: PathKey + ?Sized>(&self, key: &K) -> Result<bool> {
        let entry = EntryPath::of(key)?;
        let there = publish::is_there(&self.root, &entry)?;
        if there && !self.root.options.read_only && !self.root.file_system.overlay {
            let _ = self.root.dir.stamp(entry.value(), sys::Stamp::Accessed);
        }
        Ok(there)
    }

    /// An empty batch, to publish many small values at the cost of one barrier. Its locks are waited
    /// for as this view of the store waits.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = larder::KVFileStore::new(dir.path())?;
    /// use std::io::Write;
    ///
    /// let mut batch = store.batch();
    /// for n in 0..100 {
    ///     batch.set(&format!("object {n}"), |w| Ok(write!(w, "{n}")?))?;
    /// }
    /// assert_eq!(batch.commit()?, 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch(&self) -> Batch {
        Batch::new(&self.root, &self.waiting)
    }

    /// The store's base directory, absolute.
    pub fn base(&self) -> &Path {
        self.root.path()
    }

    /// A view of this store whose calls wait like this for locks.
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

    /// A view of this store that calls `on_wait`, on the thread that waits, when a wait has begun
    /// and once a second while it goes on.
    #[must_use = "the store itself waits as before"]
    pub fn with_on_wait(&self, on_wait: impl Fn(&WaitInfo) + Send + Sync + 'static) -> Self {
        let mut view = self.clone();
        view.waiting.on_wait = Some(Arc::new(on_wait));
        view
    }
}
