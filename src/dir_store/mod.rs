//! The store of directories: orchestration of key, lock, staging, publication and leases.
//!
//! Invariant: a tree is handed out only under its key's lock, held shared, after it was seen under
//! that lock; and nothing here renames, syncs or locks by itself.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::belief;
use crate::collect;
use crate::error::{Error, Repr, Result};
use crate::gc;
use crate::key::PathKey;
use crate::layout::EntryPath;
use crate::lock::{self, CancelToken, Taken, Tried, Wait, WaitInfo, Waiting};
use crate::manifest::TreeReport;
use crate::marker::StoreKind;
use crate::options::StoreOptions;
use crate::presence::{self, Seen};
use crate::publish;
use crate::root::Root;
use crate::staging::{StagedDir, TREE_PREFIX};
use crate::sys::Stamp;

mod lease;
mod lock_guard;
mod upkeep;

pub use lease::DirLease;
pub use lock_guard::{KVDirLock, StagedTree};

/// A store of directories: a map from keys to immutable trees of files, shared by any number of
/// processes.
///
/// A tree cannot be held by a descriptor as a file can, so who uses one holds a [`DirLease`]:
/// nobody removes or replaces the tree meanwhile.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use larder::KVDirStore;
///
/// let store = KVDirStore::new(dir.path().join("unpacked"))?;
/// let tree = store.get_or_set("serde-1.0.0", |tree| {
///     // Runs in one process only, whoever else asks.
///     std::fs::write(tree.join("Cargo.toml"), "[package]")?;
///     Ok(())
/// })?;
/// assert!(tree.join("Cargo.toml").exists());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct KVDirStore {
    root: Arc<Root>,
    waiting: Waiting,
}

impl StoreOptions {
    /// Opens a store of directories.
    ///
    /// # Errors
    ///
    /// As [`KVDirStore::new`].
    pub fn open_dir_store(&self, base: impl AsRef<Path>) -> Result<KVDirStore> {
        if self.sealed == Some(true) {
            return Err(Repr::Unsupported {
                path: std::path::absolute(base).ok(),
                what: "be sealed, because it is one of directories; ask for digest_trees instead",
            }
            .into());
        }
        Ok(KVDirStore {
            root: Arc::new(Root::open(base.as_ref(), StoreKind::Dirs, self)?),
            waiting: Waiting::default(),
        })
    }
}

impl gc::sealed::Sealed for KVDirStore {
    fn parts(&self) -> gc::sealed::Parts<'_> {
        gc::sealed::Parts {
            root: &self.root,
            waiting: &self.waiting,
        }
    }
}

impl gc::Collectable for KVDirStore {}

impl KVDirStore {
    /// Opens the store in this directory, and creates it, with the directories above it, if it is
    /// missing or empty. The same as `StoreOptions::new().open_dir_store(base)`.
    ///
    /// # Errors
    ///
    /// [`FormatMismatch`](crate::ErrorKind::FormatMismatch) if the directory is no store of
    /// directories or not one that this version knows; then nothing in it was touched. Otherwise
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn new(base: impl AsRef<Path>) -> Result<Self> {
        StoreOptions::new().open_dir_store(base)
    }

    /// Leases a tree. `None` if there is none; then no lock was taken and nothing was created.
    ///
    /// It waits only while somebody holds the key of an existing tree exclusively: for the moment of
    /// a replacement or removal, or for a client's [`lock`](Self::lock).
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::ErrorKind::Busy) and [`Cancelled`](crate::ErrorKind::Cancelled) as this view
    /// waits; [`Corrupt`](crate::ErrorKind::Corrupt) if something else is at its path;
    /// [`Io`](crate::ErrorKind::Io): whatever keeps a tree that may be there from being leased is an
    /// error, not a miss.
    pub fn get<K: PathKey + ?Sized>(&self, key: &K) -> Result<Option<DirLease>> {
        let found = lease::take(&self.root, &EntryPath::of(key)?, &mut self.waiting.start())?;
        self.root.counters.looked_up(found.is_some());
        Ok(found)
    }

    /// Leases a tree; if there is none, makes it, once among all processes and threads that ask.
    ///
    /// The closure fills an empty directory; what it leaves there is the value, even if that is
    /// nothing. Others who ask for the key meanwhile wait and get the same tree. If the closure fails
    /// or panics, or its process is killed, nothing is published and one of those who wait goes on.
    /// The store's durability decides what the tree survives.
    ///
    /// # Errors
    ///
    /// [`Compute`](crate::ErrorKind::Compute) with the closure's error;
    /// [`Busy`](crate::ErrorKind::Busy) and [`Cancelled`](crate::ErrorKind::Cancelled) as this view
    /// waits; [`WouldDeadlock`](crate::ErrorKind::WouldDeadlock) if a closure asks on its own thread
    /// for the key that it is computing; [`ReadOnly`](crate::ErrorKind::ReadOnly) on a miss in a
    /// store that cannot be written; [`Corrupt`](crate::ErrorKind::Corrupt) if something else is at
    /// the tree's path; [`InUse`](crate::ErrorKind::InUse) if this very process holds a lease of a tree
    /// that was damaged since ([`Verify`](crate::Verify)). Two closures that ask for each other's keys wait for each other for ever:
    /// give such calls a [`Wait::Timeout`].
    pub fn get_or_set<K: PathKey + ?Sized>(
        &self,
        key: &K,
        f: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> Result<DirLease> {
        let lease = self.find_or_make(key, f)?;
        self.root.counters.got(lease.outcome());
        Ok(lease)
    }

    fn find_or_make<K: PathKey + ?Sized>(
        &self,
        key: &K,
        f: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> Result<DirLease> {
        let entry = EntryPath::of(key)?;
        let root = &self.root;
        let mut pacer = self.waiting.start();
        loop {
            if let Some(lease) = lease::take(root, &entry, &mut pacer)? {
                return Ok(lease.with_outcome(pacer.outcome()));
            }
            root.check_writable("make a tree", &entry)?;
            presence::refuse_strangers(root, &entry)?;
            // Of a tree that is not believed any more: this would wait for itself.
            // (One that has just been made, by another thread, is leased here too.)
            if lock::leased_here(root, &entry)?
                && matches!(belief::look(root, &entry)?, Seen::Damaged)
            {
                let path = root.absolute(entry.value());
                return Err(Repr::InUse { path, by_us: true }.into());
            }
            let look_under_lock = |held: bool| {
                let seen = if held {
                    belief::look(root, &entry)?
                } else {
                    Seen::Nothing
                };
                Ok(matches!(seen, Seen::Tree { .. }).then_some(()))
            };
            let mut lock = match lock::exclusive_or(root, &entry, &mut pacer, look_under_lock)? {
                Taken::Made((), Some(lock)) => match lease::under(lock)? {
                    Ok(lease) => return Ok(lease.with_outcome(pacer.outcome())),
                    Err(_lock) => continue,
                },
                Taken::Made((), None) => continue,
                Taken::Lock(lock) => lock,
            };
            if publish::has_tree(&lock)? {
                // Somebody was faster. An exclusive lock is no lease.
                drop(lock);
                continue;
            }
            let label = key.label();
            lock.announce(label.as_deref());
            let staged = StagedDir::new(root, TREE_PREFIX)?;
            let path = root.absolute(staged.path());
            let at = root.absolute(entry.value());
            lock::computing(&lock, || f(&path)).map_err(|err| closure_failed(key, &at, err))?;
            let sealed = publish::seal_tree(root, staged, label.as_deref())?;
            return lease::of_published(lock, sealed, &mut pacer);
        }
    }

    /// Makes a tree and publishes it, in place of one that may be there; the last one wins.
    ///
    /// The closure runs without the key's lock, which is taken only to publish, exclusively: so this
    /// waits for the leases of the old tree, as this view of the store waits. Where the file system
    /// can exchange two names (every common one on Linux, but not NFS; overlayfs, but not a tree of a
    /// lower layer), a path to the tree is never missing meanwhile. Elsewhere there is a moment without
    /// a tree; a kill in it loses the value.
    ///
    /// # Errors
    ///
    /// As [`get_or_set`](Self::get_or_set); and [`InUse`](crate::ErrorKind::InUse) at once if this
    /// very process holds a lease of the old tree.
    pub fn replace<K: PathKey + ?Sized>(
        &self,
        key: &K,
        f: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> Result<DirLease> {
        let entry = EntryPath::of(key)?;
        let root = &self.root;
        let at = root.absolute(entry.value());
        root.check_writable("replace the tree", &entry)?;
        presence::refuse_strangers(root, &entry)?;
        let staged = StagedDir::new(root, TREE_PREFIX)?;
        f(&root.absolute(staged.path())).map_err(|err| closure_failed(key, &at, err))?;
        let sealed = publish::seal_tree(root, staged, key.label().as_deref())?;
        let mut pacer = self.waiting.start();
        let lock = match lock::try_exclusive(root, &entry, true)? {
            Tried::Lock(lock) => lock,
            Tried::Busy | Tried::Absent => {
                if lock::leased_here(root, &entry)? {
                    return Err(Repr::InUse {
                        path: at,
                        by_us: true,
                    }
                    .into());
                }
                lock::exclusive(root, &entry, &mut pacer)?
            }
        };
        lease::of_published(lock, sealed, &mut pacer)
    }

    /// Whether there is a tree. Takes no lock, and does not count as a use. Whether the tree is whole is not
    /// looked at.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), without `Busy` and `Cancelled`.
    pub fn contains<K: PathKey + ?Sized>(&self, key: &K) -> Result<bool> {
        presence::is_entry(&self.root, &EntryPath::of(key)?)
    }

    /// Takes the key's lock, exclusively, and waits for it as this view of the store waits: for
    /// leases too.
    ///
    /// # Errors
    ///
    /// As [`get_or_set`](Self::get_or_set), without the closure's.
    pub fn lock<K: PathKey + ?Sized>(&self, key: &K) -> Result<KVDirLock> {
        let entry = EntryPath::of(key)?;
        self.root.check_writable("lock the key", &entry)?;
        presence::refuse_strangers(&self.root, &entry)?;
        let lock = lock::exclusive(&self.root, &entry, &mut self.waiting.start())?;
        KVDirLock::new(lock, key, &self.waiting)
    }

    /// Takes the key's lock if that needs no waiting. `None`: it is busy, or the tree is leased.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock), without `Busy` and `Cancelled`.
    pub fn try_lock<K: PathKey + ?Sized>(&self, key: &K) -> Result<Option<KVDirLock>> {
        let entry = EntryPath::of(key)?;
        self.root.check_writable("lock the key", &entry)?;
        presence::refuse_strangers(&self.root, &entry)?;
        match lock::try_exclusive(&self.root, &entry, true)? {
            Tried::Lock(lock) => KVDirLock::new(lock, key, &self.waiting).map(Some),
            Tried::Busy | Tried::Absent => Ok(None),
        }
    }

    /// Takes the key's lock if it has a tree. `None` if it has none; then nothing was created.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn lock_if_exists<K: PathKey + ?Sized>(&self, key: &K) -> Result<Option<KVDirLock>> {
        let entry = EntryPath::of(key)?;
        if !presence::is_entry(&self.root, &entry)? {
            return Ok(None);
        }
        let lock = self.lock(key)?;
        Ok(lock.try_exists()?.then_some(lock))
    }

    /// Removes a tree, and never waits. `false` if there was none.
    ///
    /// The tree goes out of sight in one step and is deleted after that. What cannot be deleted (a
    /// directory in it belongs to somebody else) waits in the store's `tmp/` for a
    /// [`sweep`](Self::sweep) by somebody who can.
    ///
    /// # Errors
    ///
    /// [`InUse`](crate::ErrorKind::InUse) while the tree is leased or its key locked, by any process.
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if something is mounted in the tree: that is left alone, and
    /// with it waits in `tmp/` what it is mounted on, until it is unmounted.
    pub fn remove<K: PathKey + ?Sized>(&self, key: &K) -> Result<bool> {
        let entry = EntryPath::of(key)?;
        if !presence::is_entry(&self.root, &entry)? {
            return Ok(false);
        }
        self.root.check_writable("remove the tree", &entry)?;
        match collect::lock_seen(&self.root, &entry)? {
            Tried::Lock(lock) => publish::remove_tree(lock)?.was_there(&self.root),
            Tried::Absent => Ok(false),
            Tried::Busy => Err(Repr::InUse {
                path: self.root.absolute(entry.value()),
                by_us: lock::leased_here(&self.root, &entry)?,
            }
            .into()),
        }
    }

    /// Reads a tree and compares it with the digest that it was published with: what changed, is
    /// missing, or is new. `None` if there is no tree.
    ///
    /// It holds a lease meanwhile where it can, does not count as a use, and removes nothing. It knows
    /// nothing of a tree that was published without a digest:
    /// [`digest_trees`](StoreOptions::digest_trees).
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn verify<K: PathKey + ?Sized>(&self, key: &K) -> Result<Option<TreeReport>> {
        let entry = EntryPath::of(key)?;
        if !presence::is_entry(&self.root, &entry)? {
            return Ok(None);
        }
        let _lease = lock::shared(&self.root, &entry, &mut self.waiting.start(), false)?;
        belief::examine(&self.root, &entry)
    }

    /// How many damaged trees this handle and its clones have found and treated as absent.
    pub fn damaged_trees(&self) -> u64 {
        self.root.trust.damaged()
    }

    /// Notes that a tree is used now, as a lease does where the last note is old. `false` if there
    /// is no tree.
    ///
    /// # Errors
    ///
    /// As [`contains`](Self::contains). Where the note is not allowed to be written that is no error.
    pub fn touch<K: PathKey + ?Sized>(&self, key: &K) -> Result<bool> {
        let entry = EntryPath::of(key)?;
        let there = presence::is_entry(&self.root, &entry)?;
        if there && !self.root.options.read_only && !self.root.file_system.overlay {
            let _ = self.root.dir.stamp(entry.sidecar(), Stamp::Modified);
        }
        Ok(there)
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

fn closure_failed<K: PathKey + ?Sized>(key: &K, at: &Path, source: anyhow::Error) -> Error {
    Repr::Compute {
        path: at.to_path_buf(),
        label: key.label().map(Cow::into_owned),
        source,
    }
    .into()
}
