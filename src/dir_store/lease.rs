//! A lease: a tree that nobody takes away for as long as it is held.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::belief;
use crate::error::{ErrorKind, IoContext, Repr, Result};
use crate::layout::EntryPath;
use crate::lock::{self, KeyLock, NotedLease, Pacer, Tried};
use crate::outcome::Outcome;
use crate::presence::{self, Seen, look};
use crate::publish::{self, SealedTree};
use crate::recency;
use crate::root::Root;
use crate::sys::{Stamp, inherit};

/// A published tree, protected for as long as this lives: nobody removes or replaces it.
///
/// It derefs to the tree's absolute path. The protection is the key's lock, held shared, so it ends
/// with this process at the latest; any number of leases of one tree can be held, by any number of
/// processes. A process forked from this one without `exec` keeps the protection alive until it
/// ends.
#[derive(Debug)]
#[must_use = "the tree is protected only for as long as the lease lives"]
pub struct DirLease {
    path: PathBuf,
    outcome: Outcome,
    lock: Option<Held>,
}

/// The lock, counted among the leases of this process.
#[derive(Debug)]
struct Held {
    _noted: NotedLease,
    lock: KeyLock,
}

impl DirLease {
    fn held(lock: KeyLock, outcome: Outcome) -> Self {
        DirLease {
            path: lock.root().absolute(lock.entry().value()),
            outcome,
            lock: Some(Held {
                _noted: NotedLease::new(lock.id()),
                lock,
            }),
        }
    }

    /// In a store that cannot be written and has no lock file for this tree.
    fn unprotected(root: &Root, entry: &EntryPath) -> Self {
        DirLease {
            path: root.absolute(entry.value()),
            outcome: Outcome::Hit,
            lock: None,
        }
    }

    pub(super) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// How this lease came to be: the tree was there, was waited for, or was made by this call.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether the tree is really protected. `false` only in a store that this process cannot write
    /// and that has no lock file for the tree: there is nothing to hold, and only what may write the
    /// store can take the tree away.
    pub fn is_protected(&self) -> bool {
        self.lock.is_some()
    }

    /// The path alone, without any protection: the tree may be removed at any time.
    pub fn detach_unlocked(self) -> PathBuf {
        let DirLease { path, lock, .. } = self;
        drop(lock);
        path
    }

    /// Has the process that `command` starts hold the tree too, from before it begins to run until
    /// it ends, whatever becomes of this lease and this process. No other child has it.
    ///
    /// `command` itself holds the tree as well, in this process, so drop it when the child is
    /// started.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = larder::KVDirStore::new(dir.path())?;
    /// use std::process::Command;
    ///
    /// let lease = store.get_or_set("toolchain", |tree| Ok(std::fs::write(tree.join("cc"), "…")?))?;
    /// let mut command = Command::new("ls");
    /// command.arg(&*lease);
    /// lease.inherit(&mut command)?;
    /// let mut child = command.spawn()?;
    /// drop((command, lease)); // the child holds it now
    /// assert!(child.wait()?.success());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a lease that is not protected,
    /// [`Io`](crate::ErrorKind::Io) if no further descriptor can be had.
    pub fn inherit(&self, command: &mut Command) -> Result<()> {
        let Some(held) = &self.lock else {
            return Err(Repr::Unsupported {
                path: Some(self.path.clone()),
                what: "hand on a lease that protects nothing",
            }
            .into());
        };
        let (file, noted) = held.lock.another_shared()?;
        inherit::give(command, file, noted);
        Ok(())
    }
}

/// Leases the tree of an entry. `None`: there is none.
pub(super) fn take(
    root: &Arc<Root>,
    entry: &EntryPath,
    pacer: &mut Pacer<'_>,
) -> Result<Option<DirLease>> {
    // What is left of a tree reads as absent while it is being deleted, which only an overlay makes
    // happen where a tree stands. Elsewhere, what the sidecar says is read under the lock, and whether
    // it is there is all that counts before.
    if root.file_system.overlay && matches!(look(root, entry)?, Seen::Dead) {
        return Ok(None);
    }
    let has_tree = presence::directory_at(root, entry)?.is_some();
    let found = root.dir.look(entry.sidecar());
    let found = found.reading("look at the tree", || root.absolute(entry.value()));
    let has_sidecar = match (has_tree, found?.is_some()) {
        (false, false) => return Ok(None),
        // A sidecar without its tree: somebody is just publishing, replacing or removing.
        (false, true) => false,
        (true, false) if presence::is_inside(root, entry)? => return Ok(None),
        (true, has_sidecar) => has_sidecar,
    };
    let create = has_sidecar && !root.options.read_only;
    let lock = match lock::shared(root, entry, pacer, create) {
        // What makes a directory an entry is its lock file or its sidecar.
        Ok(None) if !has_sidecar => return Ok(None),
        Ok(Some(lock)) => lock,
        Ok(None) => return unprotected(root, entry),
        Err(err) if create && err.kind() == ErrorKind::ReadOnly => {
            return unprotected(root, entry);
        }
        Err(err) => return Err(err),
    };
    match under(lock)? {
        Ok(lease) => Ok(Some(lease)),
        Err(lock) => {
            drop(lock);
            if !root.options.read_only {
                // The lock file may be one that was created for nothing, here or by somebody who
                // found it busy just now because of this. The last to let it go takes it away. That
                // there is no tree is known whether this works or not, and a sweep does it too.
                if let Ok(Tried::Lock(lock)) = lock::try_exclusive(root, entry, false) {
                    let _ = publish::has_tree(&lock); // takes a damaged tree away
                }
            }
            Ok(None)
        }
    }
}

/// In a store that this process cannot write and that has no lock file for the tree, there is
/// nothing to hold. If there was one, it went with its tree.
fn unprotected(root: &Arc<Root>, entry: &EntryPath) -> Result<Option<DirLease>> {
    let mut seen = belief::look(root, entry)?;
    if matches!(seen, Seen::Damaged) {
        seen = belief::look(root, entry)?; // it may have been replaced between two looks
    }
    Ok(match seen {
        Seen::Tree { .. } => Some(DirLease::unprotected(root, entry)),
        Seen::Damaged => {
            root.trust.note_damaged();
            None
        }
        Seen::Nothing | Seen::Dead => None,
    })
}

/// Makes a lease of a shared lock, if there is a tree; otherwise gives the lock back.
pub(super) fn under(lock: KeyLock) -> Result<Result<DirLease, KeyLock>> {
    let root = lock.root();
    let beside = match belief::look_under(&lock)? {
        Seen::Tree { beside } => beside,
        Seen::Damaged => {
            root.trust.note_damaged();
            return Ok(Err(lock));
        }
        Seen::Nothing | Seen::Dead => return Ok(Err(lock)),
    };
    // A tree's last use is the modification time of its sidecar.
    if beside.is_some_and(|beside| recency::is_due(root, beside.used)) {
        // Not allowed everywhere; then the last use is not known, and that is all.
        let _ = root.dir.stamp(lock.entry().sidecar(), Stamp::Modified);
    }
    Ok(Ok(DirLease::held(lock, Outcome::Hit)))
}

/// Publishes a sealed tree and leases it.
pub(super) fn of_published(
    lock: KeyLock,
    sealed: SealedTree,
    pacer: &mut Pacer<'_>,
) -> Result<DirLease> {
    let (root, entry) = (Arc::clone(lock.root()), lock.entry().clone());
    if let Some(lock) = publish::tree(lock, sealed)? {
        return Ok(DirLease::held(lock, Outcome::Computed));
    }
    // It is published, but the lock could not be handed over: a full disk, or a sweep that was
    // faster. What remains is to lease it as anybody would.
    match take(&root, &entry, pacer)? {
        Some(lease) => Ok(lease.with_outcome(Outcome::Computed)),
        None => {
            let path = root.absolute(entry.value());
            Err(Repr::InUse { path, by_us: false }.into())
        }
    }
}

impl Deref for DirLease {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for DirLease {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}
