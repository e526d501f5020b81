//! Values in flight: files and directories in `tmp/` that are removed unless they are published.
//!
//! May call `sys` and `tree`. Invariant: as long as somebody writes what is staged, its lock is held
//! (a `flock` on the staged file itself, or on `NAME.lock` beside a staged directory), so that a
//! sweep, which takes that lock first, removes only what a dead process left. No age is asked.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{IoContext, Result};
use crate::layout::{LOCK_SUFFIX, SIDECAR_SUFFIX, TMP};
use crate::root::Root;
use crate::sys::{self, Dir, FileId, Kind, Meta, flock, host};
use crate::tree;

/// What staged names begin with: a file, a tree, a batch's directory, a tree that is being deleted.
/// (`m-`, `l-` and `d-` are the marker, locks and directories of a shared store, made ready there.)
pub(crate) const FILE_PREFIX: &str = "f-";
pub(crate) const TREE_PREFIX: &str = "t-";
pub(crate) const BATCH_PREFIX: &str = "b-";
pub(crate) const DEAD_PREFIX: &str = "dead-";

/// A file in `tmp/`, open for writing; unlinked when it is dropped, unless it was published.
#[derive(Debug)]
pub(crate) struct StagedFile {
    root: Arc<Root>,
    path: PathBuf,
    file: File,
    pid: u32,
}

impl StagedFile {
    pub(crate) fn new(root: &Arc<Root>) -> Result<Self> {
        let (path, file) =
            create_locked(root, FILE_PREFIX, "").writing("stage a value", || root.absolute(TMP))?;
        Ok(StagedFile {
            root: Arc::clone(root),
            path,
            file,
            pid: host::pid(),
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in a staged directory, whose lock covers it.
    pub(crate) fn inside(dir: &StagedDir, name: &str) -> Result<Self> {
        let root = Arc::clone(&dir.root);
        let path = dir.path.join(name);
        let file = root
            .dir
            .create_new(&path, 0o666)
            .and_then(|file| root.open_to_group(&file).map(|()| file))
            .writing("stage a value", || root.absolute(&path))?;
        Ok(StagedFile {
            root,
            path,
            file,
            pid: host::pid(),
        })
    }

    /// It was renamed, or somebody else will remove it. Closes the writable descriptor.
    pub(crate) fn into_published(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if self.pid == host::pid() && !self.path.as_os_str().is_empty() {
            let _ = self.root.dir.unlink(&self.path); // a sweep takes it if this fails
        }
    }
}

/// Creates a file in `tmp/` that is locked from the moment a sweep can see that it is not. Where a
/// sweep was faster, another is made. The name is `PREFIX-RANDOM` and `suffix`.
fn create_locked(root: &Root, prefix: &str, suffix: &str) -> io::Result<(PathBuf, File)> {
    loop {
        let (path, file) = root.unique(prefix, |path| {
            root.dir.create_new(with_suffix(path, suffix), 0o666)
        })?;
        let path = with_suffix(&path, suffix);
        let locked = root.open_to_group(&file).and_then(|()| {
            Ok(flock::try_exclusive(&file)?
                && root.dir.look(&path)?.map(|meta| meta.id) == Some(sys::fstat(&file)?.id))
        });
        match locked {
            Ok(true) => return Ok((path, file)),
            Ok(false) => {}
            Err(err) => {
                let _ = root.dir.unlink(&path); // the first error is the one to tell
                return Err(err);
            }
        }
    }
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// A directory in `tmp/`, with a lock file beside it; both are removed when it is dropped. If it was
/// renamed away meanwhile, by `publish` or by a client, only the lock file is.
#[derive(Debug)]
pub(crate) struct StagedDir {
    root: Arc<Root>,
    path: PathBuf,
    lock: Option<File>,
    pid: u32,
}

impl StagedDir {
    pub(crate) fn new(root: &Arc<Root>, prefix: &str) -> Result<Self> {
        let staged = create_locked(root, prefix, LOCK_SUFFIX).and_then(|(lock_path, lock)| {
            let name = lock_path.file_stem().unwrap_or_default();
            let staged = StagedDir {
                root: Arc::clone(root),
                path: Path::new(TMP).join(name),
                lock: Some(lock),
                pid: host::pid(),
            };
            root.dir.mkdir(&staged.path, 0o777)?;
            root.open_dir_to_group(&staged.path)?;
            Ok(staged)
        });
        staged.writing("stage a directory", || root.absolute(TMP))
    }

    /// Relative to the base directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn lock_path(&self) -> PathBuf {
        with_suffix(&self.path, LOCK_SUFFIX)
    }

    pub(crate) fn sidecar_path(&self) -> PathBuf {
        with_suffix(&self.path, SIDECAR_SUFFIX)
    }

    /// Moves the staged directory's lock file to another path, over what is there, and makes the
    /// lock on it a shared one. The directory itself must have been renamed away before: from now on
    /// a sweep may look for it.
    pub(crate) fn hand_over_lock(&mut self, to: &Path) -> io::Result<(File, FileId)> {
        let lock = self
            .lock
            .take()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let moved = flock::shared(&lock)
            .and_then(|()| sys::fstat(&lock))
            .and_then(|meta| {
                self.root.dir.rename(self.lock_path(), to)?;
                Ok(meta.id)
            });
        match moved {
            Ok(id) => Ok((lock, id)),
            Err(err) => {
                self.lock = Some(lock);
                Err(err)
            }
        }
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        if self.pid != host::pid() {
            return;
        }
        // A sweep takes whatever cannot be removed here.
        discard(&self.root, &self.path);
        if let Some(lock) = self.lock.take() {
            let _ = self.root.dir.unlink(self.lock_path());
            let _ = flock::unlock(&lock);
        }
    }
}

/// Removes a staged directory and its sidecar, by whoever holds its lock.
///
/// It is renamed aside first: if a client published it at this very moment, one of the two renames
/// finds nothing, and nothing is deleted through a path that may have been published.
pub(crate) fn discard(root: &Root, path: &Path) {
    if let Ok(Some(dead)) = set_aside(root, path) {
        let _ = tree::delete(&root.dir, &dead);
    }
    let _ = root.dir.unlink(with_suffix(path, SIDECAR_SUFFIX));
}

/// Renames a tree to a name in `tmp/` under which it only waits to be deleted. `None`: there is
/// none.
pub(crate) fn set_aside(root: &Root, path: &Path) -> io::Result<Option<PathBuf>> {
    let Some(meta) = root.dir.look(path)? else {
        return Ok(None);
    };
    let renamed = made_movable(&root.dir, path, &meta, || {
        root.unique(DEAD_PREFIX, |dead| {
            // A rename would replace an empty directory of that name, which is 10 random characters.
            root.dir.rename(path, dead)
        })
    });
    sys::absent_is_none(renamed).map(|renamed| renamed.map(|(dead, ())| dead))
}

/// Runs a rename of a directory that gets another parent by it: for that, who is not root needs its
/// write permission. If it stays where it was, it gets back the bits that it had.
pub(crate) fn made_movable<T>(
    dir: &Dir,
    path: &Path,
    meta: &Meta,
    rename: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    if meta.kind != Kind::Dir || meta.mode & 0o200 != 0 {
        return rename();
    }
    // If it is not ours to give, the rename says so.
    let changed = dir.chmod(path, meta.mode | 0o200).is_ok();
    let renamed = rename();
    if renamed.is_err() && changed {
        let _ = dir.chmod(path, meta.mode); // the first error is the one to tell
    }
    renamed
}
