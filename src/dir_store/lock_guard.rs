//! A key's exclusive lock in a store of directories, and the trees staged under it.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::dir_store::{DirLease, lease};
use crate::error::{Repr, Result};
use crate::key::PathKey;
use crate::layout::EntryPath;
use crate::lock::{KeyLock, Waiting};
use crate::publish;
use crate::root::Root;
use crate::sidecar::TreeId;
use crate::staging::{StagedDir, TREE_PREFIX};

/// A key's exclusive lock in a store of directories, held until it is dropped.
///
/// It derefs to the absolute path where the tree is or will be. While it is held nobody else leases,
/// makes, replaces or removes the tree. [`publish`](Self::publish) turns it into a lease. A client
/// may also take the path out of a [`StagedTree`] and rename it to the lock's path itself: that
/// publishes it too, without durability and without what a store knows of its trees.
#[derive(Debug)]
#[must_use = "the key is locked only for as long as this lives"]
pub struct KVDirLock {
    /// Trees whose paths were taken out. Dropped before the lock: what was not renamed by then is
    /// removed.
    taken_out: Arc<TakenOut>,
    stale: StaleSidecar,
    lock: KeyLock,
    label: Option<String>,
    path: PathBuf,
    waiting: Waiting,
}

type TakenOut = Mutex<Vec<StagedDir>>;

/// What is known of a tree that a client has put another in place of. Dropped before the lock.
#[derive(Debug)]
struct StaleSidecar {
    root: Arc<Root>,
    entry: EntryPath,
    /// The tree that was there when the key was locked.
    was: Option<TreeId>,
    armed: bool,
}

impl StaleSidecar {
    fn forget(&self) {
        let now = TreeId::at(&self.root, self.entry.value()).ok();
        let is_new = now.is_some_and(|now| self.was.is_none_or(|was| !was.is(&now)));
        if is_new {
            // If it stays, the client's tree is checked against what it is not, and made anew.
            let _ = publish::forget_another_tree(&self.root, &self.entry);
        }
    }
}

impl Drop for StaleSidecar {
    fn drop(&mut self) {
        if self.armed {
            self.forget();
        }
    }
}

impl KVDirLock {
    pub(super) fn new<K: PathKey + ?Sized>(
        mut lock: KeyLock,
        key: &K,
        waiting: &Waiting,
    ) -> Result<Self> {
        publish::clear_remains(&lock)?;
        let label = key.label().map(|label| label.into_owned());
        lock.announce(label.as_deref());
        Ok(KVDirLock {
            path: lock.root().absolute(lock.entry().value()),
            taken_out: Arc::default(),
            stale: StaleSidecar {
                root: Arc::clone(lock.root()),
                entry: lock.entry().clone(),
                was: TreeId::at(lock.root(), lock.entry().value()).ok(),
                armed: true,
            },
            lock,
            label,
            waiting: waiting.clone(),
        })
    }

    /// Whether there is a tree. `false` also where that cannot be told; see
    /// [`try_exists`](Self::try_exists).
    pub fn exists(&self) -> bool {
        self.try_exists().unwrap_or(false)
    }

    /// Whether there is a tree. One that a power cut tore is taken away.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io), or [`Corrupt`](crate::ErrorKind::Corrupt) if something else is
    /// at its path.
    pub fn try_exists(&self) -> Result<bool> {
        self.stale.forget();
        publish::has_tree(&self.lock)
    }

    /// An empty directory to build a tree in, on the store's file system, with the caller's umask.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn tempdir(&self) -> Result<StagedTree> {
        StagedTree::new(self.lock.root(), Arc::downgrade(&self.taken_out))
    }

    /// Publishes a staged tree, in place of one that may be there, and turns the lock into a lease of
    /// it without a moment in between.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly);
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a tree that was staged in another store.
    /// The staged tree is gone then.
    pub fn publish(self, tree: StagedTree) -> Result<DirLease> {
        let KVDirLock {
            taken_out,
            mut stale,
            lock,
            label,
            path,
            waiting,
        } = self;
        stale.armed = false;
        if !Arc::ptr_eq(&tree.root, lock.root()) {
            return Err(Repr::Unsupported {
                path: Some(path),
                what: "publish a tree that was staged in another store",
            }
            .into());
        }
        drop(taken_out);
        let sealed = publish::seal_tree(lock.root(), tree.staged, label.as_deref())?;
        lease::of_published(lock, sealed, &mut waiting.start())
    }

    /// Removes the tree, and gives the lock up. `false` if there was none.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly); as for
    /// [`KVDirStore::remove`](crate::KVDirStore::remove), [`Corrupt`](crate::ErrorKind::Corrupt) if
    /// something is mounted in it.
    pub fn remove(self) -> Result<bool> {
        let KVDirLock {
            taken_out,
            mut stale,
            lock,
            ..
        } = self;
        stale.armed = false;
        drop(taken_out);
        let root = Arc::clone(lock.root());
        publish::remove_tree(lock)?.was_there(&root)
    }
}

impl Deref for KVDirLock {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for KVDirLock {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// A directory to build a tree in; see [`KVDirLock::tempdir`]. Removed when it is dropped.
#[derive(Debug)]
pub struct StagedTree {
    staged: StagedDir,
    root: Arc<Root>,
    path: PathBuf,
    taken_out: Weak<TakenOut>,
}

impl StagedTree {
    fn new(root: &Arc<Root>, taken_out: Weak<TakenOut>) -> Result<Self> {
        let staged = StagedDir::new(root, TREE_PREFIX)?;
        Ok(StagedTree {
            path: root.absolute(staged.path()),
            staged,
            root: Arc::clone(root),
            taken_out,
        })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path alone, for a client that renames the tree to the lock's path itself, while it holds
    /// the lock. If it has not by the time the lock is dropped, the tree is removed then.
    pub fn into_path(self) -> PathBuf {
        let StagedTree {
            staged,
            path,
            taken_out,
            ..
        } = self;
        if let Some(taken_out) = taken_out.upgrade() {
            taken_out
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(staged);
        }
        path
    }
}

impl AsRef<Path> for StagedTree {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}
