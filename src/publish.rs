//! Publication: the one way in which an entry becomes visible, and the one in which it goes.
//!
//! May call what is above it in `lib.rs`. Invariant: a name appears at a
//! key's path only by a rename under that key's exclusive lock, of something that is complete, as
//! durable as the store promises, and closed to writing.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::belief;
use crate::dispose;
use crate::durable;
use crate::error::{Error, IoContext, MountedAt, Result};
use crate::layout::EntryPath;
use crate::lock::KeyLock;
use crate::options::Durability;
use crate::presence::{self, Seen};
use crate::root::Root;
use crate::sidecar::{self, ManifestId, Said, Sidecar, TreeId};
use crate::staging::{StagedDir, StagedFile};
use crate::sys::{self, Errno, FileId, Kind, Meta};
use crate::tree;

/// Completes a staged file: durable as the store promises, and without write permission. After this
/// nothing but the rename is missing.
pub(crate) fn seal_file(root: &Root, staged: &StagedFile) -> Result<()> {
    let at = || root.absolute(staged.path());
    // Before the barrier, which on btrfs is all that is known of the file after a power cut.
    close_file(root, staged.file()).writing("take the value's write permission", at)?;
    if root.options.durability != Durability::None {
        durable::data(staged.file()).writing("make the value durable", at)?;
    }
    Ok(())
}

/// Takes the write permission off a file that is complete.
pub(crate) fn close_file(root: &Root, file: &File) -> io::Result<()> {
    let mode = sys::fstat(file)?.mode;
    sys::fchmod(file, root.sealed_mode(mode))
}

/// Whether there is a value, without opening it.
pub(crate) fn is_there(root: &Root, entry: &EntryPath) -> Result<bool> {
    let found = root
        .dir
        .look(entry.value())
        .reading("look at the value", || root.absolute(entry.value()))?;
    match found {
        None => Ok(false),
        Some(meta) if meta.kind == Kind::File => Ok(true),
        Some(meta) => Err(not_a_value(meta.kind, root, entry)),
    }
}

/// The error for what is at a value's path and is none.
pub(crate) fn not_a_value(kind: Kind, root: &Root, entry: &EntryPath) -> Error {
    let why = match kind {
        Kind::Dir => {
            "there is a directory where a value should be; if it holds other values, use another key, \
             else move it away"
        }
        Kind::Link => "there is a symbolic link where a value should be; move it away",
        Kind::File | Kind::Other => "there is something else where a value should be; move it away",
    };
    Error::corrupt(root.absolute(entry.value()), why)
}

/// Publishes a sealed file.
pub(crate) fn file(lock: &KeyLock, staged: StagedFile) -> Result<()> {
    let (root, entry) = (lock.root(), lock.entry());
    rename_file(lock, staged.path())?;
    staged.into_published();
    sync_names(root, entry)
}

/// Gives a staged, sealed file its name. Does not make the name durable.
pub(crate) fn rename_file(lock: &KeyLock, staged: &Path) -> Result<()> {
    let (root, entry) = (lock.root(), lock.entry());
    // The rename would replace a symbolic link or a FIFO, which is not ours to take away.
    let replaces = is_there(root, entry)?;
    match put_in_place(root, entry, staged, replaces) {
        Err(err) if sys::is(&err, Errno::ISDIR) => Err(not_a_value(Kind::Dir, root, entry)),
        renamed => {
            renamed.writing("put the value in place", || root.absolute(entry.value()))?;
            lock.note_occupied(true);
            Ok(())
        }
    }
}

/// A file system that gives a new file the name of another may write its bytes to the disk first
/// (ext4 does), which who asked for no durability need not wait for: where there is an old value, the
/// names are exchanged, and the old value is unlinked at the staged one. Not on an overlay, which would
/// copy an old value of a lower layer first.
fn put_in_place(root: &Root, entry: &EntryPath, staged: &Path, replaces: bool) -> io::Result<()> {
    let overlay = root.file_system.overlay;
    if !replaces || overlay || root.options.durability != Durability::None {
        return root.dir.rename(staged, entry.value());
    }
    match root.dir.exchange(staged, entry.value()) {
        Ok(()) => match root.dir.unlink(staged) {
            // Somebody put a directory there after the look. It is not ours to take away.
            Err(err) if sys::is(&err, Errno::ISDIR) => {
                root.dir.exchange(staged, entry.value())?;
                Err(err)
            }
            _ => Ok(()), // a sweep takes the old value if it could not be unlinked
        },
        // `EPERM`: where a sandbox does not let this call pass. The rename says so if it is not that.
        Err(err)
            if cannot_exchange(&err)
                || sys::is(&err, Errno::PERM)
                || err.kind() == io::ErrorKind::NotFound =>
        {
            root.dir.rename(staged, entry.value())
        }
        Err(err) => Err(err),
    }
}

/// What an error of [`sync_names`] says could not be done.
pub(crate) const SYNC_NAMES: &str = "sync the key's directories";

/// With full durability, makes the names on the way to an entry durable.
pub(crate) fn sync_names(root: &Root, entry: &EntryPath) -> Result<()> {
    if root.options.durability < Durability::Full {
        return Ok(());
    }
    root.sync_directories(entry)
        .writing(SYNC_NAMES, || root.absolute(entry.value()))
}

/// Takes a value away. `false`: there was none.
pub(crate) fn remove_file(lock: &KeyLock) -> Result<bool> {
    let (root, entry) = (lock.root(), lock.entry());
    if !is_there(root, entry)? {
        return Ok(false);
    }
    match root.dir.unlink(entry.value()) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(err) if sys::is(&err, Errno::ISDIR) => return Err(not_a_value(Kind::Dir, root, entry)),
        removed => removed.writing("remove the value", || root.absolute(entry.value()))?,
    }
    lock.note_occupied(false);
    sync_names(root, entry)?;
    Ok(true)
}

/// Takes away what was found damaged, if it is still there. `false`: it is not.
pub(crate) fn remove_damaged(lock: &KeyLock, damaged: FileId) -> Result<bool> {
    let found = lock.root().dir.look(lock.entry().value());
    let found = found.reading("look at the value", || {
        lock.root().absolute(lock.entry().value())
    })?;
    if found.is_none_or(|meta| meta.id != damaged) {
        return Ok(false);
    }
    remove_file(lock)
}

/// A staged tree that is complete, durable as the store promises, and has its sidecar.
#[derive(Debug)]
pub(crate) struct SealedTree {
    staged: StagedDir,
    sidecar: Sidecar,
    manifest: Option<String>,
    root_mode: u32,
}

/// Completes a staged tree: counted, its permission bits set, its sidecar written, durable.
pub(crate) fn seal_tree(
    root: &Arc<Root>,
    staged: StagedDir,
    label: Option<&str>,
) -> Result<SealedTree> {
    let at = || root.absolute(staged.path());
    let contents = tree::finish(root, staged.path()).writing("finish the tree", at)?;
    let manifest = belief::manifest_of_staged(root, staged.path(), contents.root_mode)
        .writing("read the tree for its digest", at)?;
    let sidecar = Sidecar {
        tree: TreeId::at(root, staged.path()).writing("finish the tree", at)?,
        files: contents.files.len() as u64,
        bytes: contents.bytes,
        standing: root.standing(),
        label: label.map(str::to_owned),
        manifest: manifest.as_deref().map(ManifestId::of),
        ..Sidecar::default()
    };
    write_sidecar(root, &staged.sidecar_path(), &sidecar, manifest.as_deref())
        .and_then(|file| keep_before_its_tree(root, &file))
        .writing("write what is known of the tree", at)?;
    if root.options.durability != Durability::None {
        tree::sync(root, &contents, &staged).writing("make the tree durable", at)?;
    }
    Ok(SealedTree {
        root_mode: contents.root_mode,
        sidecar,
        manifest,
        staged,
    })
}

fn write_sidecar(
    root: &Root,
    path: &Path,
    sidecar: &Sidecar,
    manifest: Option<&str>,
) -> io::Result<File> {
    let file = root.dir.create_new(path, 0o666)?;
    root.open_to_group(&file)?;
    belief::write(&file, sidecar, manifest)?;
    Ok(file)
}

/// After a power cut a tree must not be there without its sidecar, which is renamed before it. Where the
/// file system does not keep that order by itself, the sidecar goes to the disk first.
fn keep_before_its_tree(root: &Root, sidecar: &File) -> io::Result<()> {
    let durable_anyway = root.options.durability != Durability::None;
    if root.file_system.logs_single_files && !durable_anyway {
        sys::sync_all(sidecar)?;
    }
    Ok(())
}

/// Under a key's exclusive lock: whether it has a tree that can be believed. If not, what is there is
/// taken away.
pub(crate) fn has_tree(lock: &KeyLock) -> Result<bool> {
    match belief::look_under(lock)? {
        Seen::Tree { .. } => Ok(true),
        Seen::Damaged => {
            let (root, entry) = (lock.root(), lock.entry());
            let dead = take_away(root, entry)
                .writing("remove a damaged tree", || root.absolute(entry.value()))?;
            drop(dead);
            clear_remains(lock)
        }
        Seen::Nothing | Seen::Dead => clear_remains(lock),
    }
}

/// Under a key's exclusive lock: whether it has a tree. If not, what an earlier attempt left is taken
/// away: the rest of a tree that was being deleted where it stands, or a sidecar without a tree, for
/// which every reader would wait.
pub(crate) fn clear_remains(lock: &KeyLock) -> Result<bool> {
    let (root, entry) = (lock.root(), lock.entry());
    let at = || root.absolute(entry.value());
    match presence::look(root, entry)? {
        Seen::Tree {
            beside: Some(beside),
        } if matches!(beside.said, Said::Foreign) => {
            return Err(sidecar::irregular(root, entry));
        }
        Seen::Tree { .. } | Seen::Damaged => return Ok(true),
        Seen::Dead => {
            dispose::delete(root, entry.value()).writing("delete what is left of a tree", at)?
        }
        Seen::Nothing => {}
    }
    // Looked for first, because a store that cannot be written would refuse to remove even nothing.
    if sidecar::check_regular(root, entry)? {
        sys::absent_is_none(root.dir.unlink(entry.sidecar()))
            .writing("remove what was known of a tree", at)?;
    }
    Ok(false)
}

/// Under a key's exclusive lock, before it is given up: a client may have put a tree of his own in place,
/// of which the sidecar says nothing.
pub(crate) fn forget_another_tree(root: &Root, entry: &EntryPath) -> io::Result<()> {
    let Some(beside) = sidecar::beside(root, entry)? else {
        return Ok(());
    };
    let Some(meta) = root.dir.look(entry.value())? else {
        return Ok(());
    };
    if belief::is_about_another(&TreeId::of(root, entry.value(), &meta), &beside) {
        sys::absent_is_none(root.dir.unlink(entry.sidecar()))?;
    }
    Ok(())
}

/// Publishes a sealed tree, in place of one that may be there, and turns the exclusive lock into a
/// lease of it.
///
/// `None`: it was published, but somebody took it away before it could be leased.
pub(crate) fn tree(lock: KeyLock, sealed: SealedTree) -> Result<Option<KeyLock>> {
    let root = Arc::clone(lock.root());
    let entry = lock.entry().clone();
    let at = || root.absolute(entry.value());
    let placed = if clear_remains(&lock)? {
        replace_tree(&root, &entry, &sealed)
    } else {
        place_tree(&root, &entry, &sealed.staged).map(|()| None)
    };
    let SealedTree {
        mut staged,
        root_mode,
        ..
    } = sealed;
    if placed.is_err() && matches!(root.dir.look(entry.value()), Ok(None)) {
        let _ = root.dir.unlink(entry.sidecar()); // a sweep takes it if this fails
    }
    let dead = placed.writing("put the tree in place", at)?;
    let closed = root.dir.stat(entry.value()).and_then(|meta| {
        if meta.mode == root_mode {
            return Ok(());
        }
        root.dir.chmod(entry.value(), root_mode)
    });
    closed.writing("take the tree's write permission", at)?;
    sync_names(&root, &entry)?;
    // Turning an exclusive lock into a shared one is not atomic in the kernel: somebody else can get
    // in between and take the tree away. So the lock file is replaced by another one, on which this
    // process holds a shared lock already: there is no moment in between.
    let lease = match staged.hand_over_lock(&entry.lock()) {
        Ok((file, id)) => Ok(Some(lock.replaced_by(file, id))),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err).writing("turn the lock into a lease", at),
    };
    drop(dead); // only now, because it takes time
    lease
}

/// Gives a staged tree its name, where there is none. The sidecar comes first, so that a tree of ours
/// is never without.
fn place_tree(root: &Root, entry: &EntryPath, staged: &StagedDir) -> io::Result<()> {
    root.dir.rename(staged.sidecar_path(), entry.sidecar())?;
    root.dir.rename(staged.path(), entry.value())
}

/// Gives a staged tree the name of another, which goes to `tmp/`.
fn replace_tree(
    root: &Arc<Root>,
    entry: &EntryPath,
    sealed: &SealedTree,
) -> io::Result<Option<DeadTree>> {
    let staged = &sealed.staged;
    let old = root.dir.stat(entry.value())?;
    note_replaced(root, entry, &old, sealed)?;
    // Until the tree follows, this says nothing of the old one but whether it can be believed.
    root.dir.rename(staged.sidecar_path(), entry.sidecar())?;
    let exchanged = dispose::made_movable(&root.dir, entry.value(), &old, || {
        root.dir.exchange(staged.path(), entry.value())
    });
    match exchanged {
        // The old tree is now the staged one, which is removed when it is dropped.
        Ok(()) => Ok(None),
        // There is a moment without a tree. Readers who find a sidecar and no tree wait for the
        // lock; a kill here loses the value.
        Err(err) if cannot_exchange(&err) => {
            let dead = take_away(root, entry)?;
            if dead.is_none() {
                // It was deleted where it stood, and declared dead for that.
                stage_sidecar_anew(root, sealed, &sealed.sidecar)?;
                root.dir.rename(staged.sidecar_path(), entry.sidecar())?;
            }
            root.dir.rename(staged.path(), entry.value())?;
            Ok(dead)
        }
        Err(err) => Err(err),
    }
}

/// Writes into the staged sidecar how the old tree was published, where that is not what it says of the
/// new one: who is killed before the exchange leaves the old tree with the new sidecar.
fn note_replaced(
    root: &Root,
    entry: &EntryPath,
    old: &Meta,
    sealed: &SealedTree,
) -> io::Result<()> {
    let beside = sidecar::beside(root, entry)?;
    let old = TreeId::of(root, entry.value(), old);
    let standing = belief::standing_of(&old, beside.as_ref());
    let new = &sealed.sidecar;
    if standing.barrier && new.standing.barrier && new.manifest.is_none() {
        return Ok(());
    }
    let sidecar = Sidecar {
        replaces: Some((old, standing)),
        ..sealed.sidecar.clone()
    };
    root.dir.unlink(sealed.staged.sidecar_path())?;
    stage_sidecar_anew(root, sealed, &sidecar)
}

/// Stages a sidecar in place of the one that was made durable with its tree.
fn stage_sidecar_anew(root: &Root, sealed: &SealedTree, sidecar: &Sidecar) -> io::Result<()> {
    let path = sealed.staged.sidecar_path();
    let file = write_sidecar(root, &path, sidecar, sealed.manifest.as_deref())?;
    if sidecar.standing.barrier {
        return sys::sync_all(&file);
    }
    keep_before_its_tree(root, &file)
}

/// The file system has no exchange, or (a lower layer of an overlay) not for this tree.
fn cannot_exchange(err: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::XDEV]
        .into_iter()
        .any(|errno| sys::is(err, errno))
}

/// A tree that was taken away, deleted when this is dropped. What cannot be deleted (another user's,
/// perhaps) is out of the way, and a sweep tries again.
#[derive(Debug)]
struct DeadTree {
    root: Arc<Root>,
    /// Empty once it was deleted.
    path: PathBuf,
}

impl DeadTree {
    /// Deletes it, and says what could not be.
    fn delete(mut self) -> Option<Rest> {
        let path = std::mem::take(&mut self.path);
        let error = dispose::delete(&self.root, &path).err()?;
        // A sweep that did the same may have been faster with the rest.
        let is_there = !matches!(self.root.dir.look(&path), Ok(None));
        is_there.then_some(Rest { path, error })
    }
}

impl Drop for DeadTree {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = dispose::delete(&self.root, &self.path);
        }
    }
}

/// What could not be deleted of a tree that is out of the way, and why.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) path: PathBuf,
    pub(crate) error: io::Error,
}

/// What came of taking an entry away.
#[derive(Debug)]
pub(crate) enum Removal {
    /// There was none.
    Nothing,
    Removed {
        rest: Option<Rest>,
    },
}

impl Removal {
    /// For who wants to know whether there was an entry. That the rest of it is another user's is told by
    /// the next sweep; what is mounted in it, somebody has to unmount.
    pub(crate) fn was_there(self, root: &Root) -> Result<bool> {
        match self {
            Removal::Nothing => Ok(false),
            Removal::Removed { rest: Some(rest) } if MountedAt::path_in(&rest.error).is_some() => {
                Err(rest.error).writing("delete all of the tree", || root.absolute(&rest.path))
            }
            Removal::Removed { .. } => Ok(true),
        }
    }
}

/// Takes a tree from its key's path, and leaves a sidecar. `None`: it is deleted already, or there
/// was none.
fn take_away(root: &Arc<Root>, entry: &EntryPath) -> io::Result<Option<DeadTree>> {
    match dispose::set_aside(root, entry.value()) {
        // A directory of a lower overlay layer cannot be renamed. So that nobody takes what is left
        // of it for a tree, it is declared dead before the first file goes.
        Err(err) if sys::is(&err, Errno::XDEV) => {
            declare_dead(root, entry)?;
            dispose::delete(root, entry.value())?;
            Ok(None)
        }
        set_aside => Ok(set_aside?.map(|path| DeadTree {
            root: Arc::clone(root),
            path,
        })),
    }
}

/// Durable at once: after a power cut, a part of a tree must not look like a whole one.
fn declare_dead(root: &Arc<Root>, entry: &EntryPath) -> io::Result<()> {
    let sidecar = Sidecar {
        dead: true,
        tree: TreeId::at(root, entry.value())?,
        ..Sidecar::default()
    };
    let staged = StagedFile::new(root)?;
    belief::write(staged.file(), &sidecar, None)?;
    sys::sync_all(staged.file())?;
    root.dir.rename(staged.path(), entry.sidecar())?;
    staged.into_published();
    match entry.directories().next() {
        Some(dir) => root.dir.open_dir(dir)?.sync(),
        None => root.dir.sync(),
    }
}

/// Takes a tree away, gives its lock up, and then deletes it.
pub(crate) fn remove_tree(lock: KeyLock) -> Result<Removal> {
    // Whether it can be believed does not matter any more.
    if !clear_remains(&lock)? {
        return Ok(Removal::Nothing);
    }
    let root = Arc::clone(lock.root());
    let entry = lock.entry().clone();
    let at = || root.absolute(entry.value());
    let dead = take_away(&root, &entry).writing("remove the tree", at)?;
    let forgotten = sys::absent_is_none(root.dir.unlink(entry.sidecar()))
        .writing("remove what is known of the tree", at)
        .and_then(|_| sync_names(&root, &entry));
    drop(lock);
    let rest = dead.and_then(DeadTree::delete); // only now, because it takes time
    forgotten.map(|()| Removal::Removed { rest })
}
