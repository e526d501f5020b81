//! Values in flight: files and directories in `tmp/` that are removed unless they are published.
//!
//! May call `sys` and `dispose`. Invariant: as long as somebody writes what is staged, its lock is held
//! (a `flock` on the staged file itself, or on `NAME.lock` beside a staged directory), so that a
//! sweep, which takes that lock first, removes only what a dead process left. No age is asked.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dispose;
use crate::durable;
use crate::error::{IoContext, Result};
use crate::layout::{LOCK_SUFFIX, SIDECAR_SUFFIX, TMP, with_suffix};
use crate::options::Durability;
use crate::root::Root;
use crate::sys::{self, Dir, Errno, FileId, flock, host};

/// What staged names begin with: a file, a tree, a batch's directory.
/// (`m-`, `l-` and `d-` are the marker, locks and directories of a shared store, made ready there.)
pub(crate) const FILE_PREFIX: &str = "f-";
pub(crate) const TREE_PREFIX: &str = "t-";
pub(crate) const BATCH_PREFIX: &str = "b-";

/// A file in `tmp/`, open for writing; unlinked when it is dropped, unless it was published.
#[derive(Debug)]
pub(crate) struct StagedFile {
    root: Arc<Root>,
    path: PathBuf,
    file: File,
    pid: u32,
}

impl StagedFile {
    pub(crate) fn new(root: &Arc<Root>) -> io::Result<Self> {
        let (path, file) = create_locked(root, FILE_PREFIX, "")?;
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

    /// The same, for a value.
    pub(crate) fn for_value(root: &Arc<Root>) -> Result<Self> {
        StagedFile::new(root).writing("stage a value", || root.absolute(TMP))
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

/// A directory in `tmp/`, with a lock file beside it; both are removed when it is dropped. If it was
/// renamed away meanwhile, by `publish` or by a client, only the lock file is.
#[derive(Debug)]
pub(crate) struct StagedDir {
    root: Arc<Root>,
    path: PathBuf,
    lock: Option<File>,
    /// For a `syncfs`. Opened before anything was staged, and used by nobody else, so that it
    /// reports every error since then, and only here. Absent where nothing is made durable.
    file_system: Option<Dir>,
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
                file_system: match root.options.durability {
                    Durability::None => None,
                    Durability::Data | Durability::Full => Some(root.dir.open_dir(".")?),
                },
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

    /// Makes everything on the file system durable, what is staged here too.
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        match &self.file_system {
            Some(dir) => durable::file_system(dir),
            None => Ok(()),
        }
    }

    /// Moves the staged directory's lock file to another path, over what is there, and makes the
    /// lock on it a shared one. The directory itself must have been renamed away before: from now on
    /// a sweep may look for it, and if it finds it first, this is `NotFound`.
    pub(crate) fn hand_over_lock(&mut self, to: &Path) -> io::Result<(File, FileId)> {
        let lock = self
            .lock
            .take()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let moved = flock::shared(&lock)
            .and_then(|()| sys::fstat(&lock))
            .and_then(|meta| {
                // One lock may have gone before the other came: one sweep may have taken the file's
                // name in between, and another made a file of that name, which nobody here holds.
                if self.root.dir.look(self.lock_path())?.map(|now| now.id) != Some(meta.id) {
                    return Err(io::ErrorKind::NotFound.into());
                }
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
        let _ = discard(&self.root, &self.path);
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
pub(crate) fn discard(root: &Root, path: &Path) -> io::Result<()> {
    let discarded = match dispose::set_aside(root, path) {
        Ok(Some(dead)) => dispose::delete(root, &dead),
        Ok(None) => Ok(()),
        // In a lower overlay layer, where nobody can rename it: no client can publish it either.
        Err(err) if sys::is(&err, Errno::XDEV) => dispose::delete(root, path),
        Err(err) => Err(err),
    };
    let forgotten = sys::absent_is_none(root.dir.unlink(with_suffix(path, SIDECAR_SUFFIX)));
    discarded.and(forgotten.map(drop))
}
