//! The base directory of an open store, and what is created below it.
//!
//! Owns the directories on the way to entries, and the permission bits of what is created; `open`
//! finds, checks, creates and adopts. May call `sys`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::counters::Counters;
use crate::error::{Repr, Result};
use crate::layout::{EntryPath, SPARE, TMP};
use crate::marker::{Format, Share, StoreKind};
use crate::options::StoreOptions;
use crate::sys::{self, Dir, FileSystem, temp};
use crate::trust::{Standing, Trust, Witness};

mod open;

/// Group read, write and search; and its write bit alone.
const GROUP_DIR: u32 = 0o2070;
const GROUP_FILE: u32 = 0o060;
const WRITE_BITS: u32 = 0o222;
const GROUP_WRITE: u32 = 0o020;

/// An open store's base directory and how it is used.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) dir: Dir,
    pub(crate) kind: StoreKind,
    pub(crate) format: Format,
    /// Of what this process writes. `None` where the system does not tell.
    pub(crate) witness: Option<Witness>,
    pub(crate) trust: Trust,
    pub(crate) counters: Counters,
    pub(crate) options: StoreOptions,
    pub(crate) file_system: FileSystem,
    share: Share,
    path: PathBuf,
    /// The spare file was taken, and the next lock file that is done with takes its place.
    lacks_spare: AtomicBool,
}

impl Root {
    /// The base directory, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path of the store as people and other programs name it.
    pub(crate) fn absolute(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path.join(relative)
    }

    /// How what is published now is.
    pub(crate) fn standing(&self) -> Standing {
        Standing::now(self.options.durability, self.witness)
    }

    /// The write bits that a published value keeps.
    pub(crate) fn kept_write_bits(&self) -> u32 {
        self.sealed_mode(0) & WRITE_BITS
    }

    /// The write bits of a published value that it should not have.
    pub(crate) fn stray_write_bits(&self, mode: u32) -> u32 {
        mode & WRITE_BITS & !self.kept_write_bits()
    }

    pub(crate) fn is_group_shared(&self) -> bool {
        self.share == Share::Group
    }

    /// Refuses to write where the store was opened for reading only.
    pub(crate) fn check_writable(&self, doing: &'static str, entry: &EntryPath) -> Result<()> {
        self.check_writable_at(doing, || self.absolute(entry.value()))
    }

    pub(crate) fn check_writable_at(
        &self,
        doing: &'static str,
        path: impl FnOnce() -> PathBuf,
    ) -> Result<()> {
        if self.options.read_only {
            let path = path();
            return Err(Repr::ReadOnly {
                doing,
                path,
                source: None,
            }
            .into());
        }
        Ok(())
    }

    /// `create` gets a name in `tmp/` that nothing else has.
    pub(crate) fn unique<T>(
        &self,
        prefix: &str,
        create: impl FnMut(&Path) -> io::Result<T>,
    ) -> io::Result<(PathBuf, T)> {
        temp::unique(&self.path, TMP, prefix, create)
    }

    /// A file in `tmp/` that the group can use and that `complete` has completed, or none.
    pub(crate) fn unique_file(
        &self,
        prefix: &str,
        complete: impl Fn(&File) -> io::Result<()>,
    ) -> io::Result<(PathBuf, File)> {
        self.unique(prefix, |path| {
            let file = self.dir.create_new(path, 0o666)?;
            let completed = self.open_to_group(&file).and_then(|()| complete(&file));
            if completed.is_err() {
                let _ = self.dir.unlink(path); // the first error is the one to tell
            }
            completed.map(|()| file)
        })
    }

    /// In a shared store, lets the group read and write a file just created.
    pub(crate) fn open_to_group(&self, file: &File) -> io::Result<()> {
        if self.is_group_shared() {
            let mode = sys::fstat(file)?.mode;
            if mode & GROUP_FILE != GROUP_FILE {
                sys::fchmod(file, mode | GROUP_FILE)?;
            }
        }
        Ok(())
    }

    /// In a shared store, lets the group use a directory just created, and pass its group on.
    pub(crate) fn open_dir_to_group(&self, path: &Path) -> io::Result<()> {
        if self.is_group_shared() {
            let mode = self.dir.stat(path)?.mode;
            if mode & GROUP_DIR != GROUP_DIR {
                self.dir.chmod(path, mode | GROUP_DIR)?;
            }
        }
        Ok(())
    }

    /// The permission bits of a published file that had these while it was written.
    pub(crate) fn sealed_mode(&self, mode: u32) -> u32 {
        if self.is_group_shared() {
            (mode | GROUP_FILE) & !(WRITE_BITS & !GROUP_WRITE)
        } else {
            mode & !WRITE_BITS
        }
    }

    /// Makes the directories above an entry. Another process may take away what is empty at any
    /// time, so that the caller, who is about to put something there, tries again on `ENOENT`.
    pub(crate) fn make_directories(&self, entry: &EntryPath) -> io::Result<()> {
        let mut missing = Vec::new();
        for path in entry.directories() {
            match self.make_directory(path) {
                Ok(()) => break,
                Err(err) if err.kind() == io::ErrorKind::NotFound => missing.push(path),
                Err(err) => return Err(err),
            }
        }
        if missing.len() == entry.directories().count() && self.base_is_gone()? {
            return Err(io::ErrorKind::NotFound.into());
        }
        for path in missing.into_iter().rev() {
            match self.make_directory(path) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
                made => made?,
            }
        }
        Ok(())
    }

    /// Whether somebody removed the whole store under us.
    fn base_is_gone(&self) -> io::Result<bool> {
        Ok(self.dir.stat(".")?.links == 0)
    }

    pub(crate) fn make_directory(&self, path: &Path) -> io::Result<()> {
        if !self.is_group_shared() {
            return match self.dir.mkdir(path, 0o777) {
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made,
            };
        }
        // Another user must never meet it with the permission bits of this user's umask, so it is
        // made ready in `tmp/`. The rename replaces a directory that is there only if it is empty.
        if self.dir.look(path)?.is_some() {
            return Ok(());
        }
        let (staged, ()) = self.unique("d-", |staged| {
            self.dir.mkdir(staged, 0o777)?;
            let opened = self.open_dir_to_group(staged);
            if opened.is_err() {
                let _ = self.dir.rmdir(staged); // the first error is the one to tell
            }
            opened
        })?;
        let renamed = self.dir.rename(&staged, path);
        if renamed.is_err() {
            let _ = self.dir.rmdir(&staged); // a sweep takes it if this fails
        }
        match renamed {
            Err(err)
                if err.kind() == io::ErrorKind::AlreadyExists
                    || err.kind() == io::ErrorKind::DirectoryNotEmpty =>
            {
                Ok(())
            }
            renamed => renamed,
        }
    }

    /// Lets the spare file become the lock file of an entry that is there, where the disk has no room for
    /// a new one: without a lock nothing could be removed. `false`: this cannot be.
    pub(crate) fn spend_spare(&self, entry: &EntryPath) -> io::Result<bool> {
        let is_there = |path: &Path| Ok::<_, io::Error>(self.dir.look(path)?.is_some());
        if !is_there(entry.value())? && !is_there(&entry.sidecar())? {
            return Ok(false);
        }
        // Never over a lock file that somebody else has just made, and perhaps holds.
        match self.dir.rename_new(SPARE, entry.lock()) {
            Ok(()) => {
                self.lacks_spare.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            // Somebody else has it, or the file system has no such rename.
            Err(_) => Ok(false),
        }
    }

    /// Takes a lock file's name away, whoever waits for it: it becomes the spare file, if that is missing.
    pub(crate) fn retire_lock_file(&self, entry: &EntryPath) -> io::Result<()> {
        if self.lacks_spare.swap(false, Ordering::Relaxed) {
            return self.dir.rename(entry.lock(), SPARE);
        }
        self.dir.unlink(entry.lock())
    }

    /// Removes the directories above an entry, as far up as they are empty.
    pub(crate) fn prune_directories(&self, entry: &EntryPath) {
        for path in entry.directories() {
            match self.dir.rmdir(path) {
                Ok(()) => {}
                // Gone already, perhaps with one above it that could not be removed then.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                // Not empty, or not ours to remove.
                Err(_) => break,
            }
        }
    }

    /// Makes the names on the way to an entry durable, as far down as they exist.
    pub(crate) fn sync_directories(&self, entry: &EntryPath) -> io::Result<()> {
        for path in entry.directories() {
            match self.dir.open_dir(path) {
                Ok(dir) => dir.sync()?,
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(err),
            }
        }
        self.dir.sync()
    }
}
