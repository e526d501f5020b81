//! A lock file that is never deleted: one for a store's collections, one beside each checkpoint file.
//!
//! There is one of it, where keys have one each: to delete it would save one inode, and make every release as
//! careful as that of a key's lock. Invariant: who holds a [`KeptLock`] holds the `flock` of the file that the
//! path still named after it was granted, in case somebody deletes it all the same.

// Collections use less of it than checkpoints, which can be left out.
#![cfg_attr(not(feature = "checkpoint"), allow(dead_code))]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{cannot_write, read_holder};
use super::process;
use super::record;
use super::wait::Pacer;
use crate::error::{Error, IoContext, Result};
use crate::sys::{self, Dir, FileId, Kind, flock, host};

/// Where a lock file is, and for what it is taken.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) dir: &'a Dir,
    pub(crate) name: &'a Path,
    /// The end of the sentence "cannot …".
    pub(crate) doing: &'static str,
    /// Its absolute path.
    pub(crate) at: &'a dyn Fn() -> PathBuf,
    /// The absolute path of what it is the lock of.
    pub(crate) of: &'a dyn Fn() -> PathBuf,
    /// See [`Dir::look_afresh`].
    pub(crate) on_network: bool,
}

/// Held until it is dropped, by the process that took it.
#[derive(Debug)]
#[must_use = "others go on as soon as this is dropped"]
pub(crate) struct KeptLock {
    file: File,
    id: FileId,
    pid: u32,
    announced: bool,
}

impl KeptLock {
    /// Takes the lock, and waits for it as the caller does.
    pub(crate) fn take(place: Place<'_>, pacer: &mut Pacer<'_>) -> Result<Self> {
        loop {
            let (file, id) = open(place)?;
            if !flock::try_exclusive(&file).writing(place.doing, place.at)? {
                process::refuse_deadlock_on(id, place.of)?;
                wait(place, &file, id, pacer)?;
            }
            if let Some(lock) = Self::confirm(place, file, id)? {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock if nobody has it.
    pub(crate) fn try_take(place: Place<'_>) -> Result<Option<Self>> {
        loop {
            let (file, id) = open(place)?;
            if !flock::try_exclusive(&file).writing(place.doing, place.at)? {
                return Ok(None);
            }
            if let Some(lock) = Self::confirm(place, file, id)? {
                return Ok(Some(lock));
            }
        }
    }

    /// `None`: somebody deleted the file meanwhile.
    fn confirm(place: Place<'_>, file: File, id: FileId) -> Result<Option<Self>> {
        let lock = KeptLock {
            file,
            id,
            pid: host::pid(),
            announced: false,
        };
        Ok(lock.is_at(place)?.then_some(lock))
    }

    /// Whether the path still names the file that is locked. Where it does not, somebody else may hold a lock, too.
    pub(crate) fn is_at(&self, place: Place<'_>) -> Result<bool> {
        let now = place.dir.look_afresh(place.name, place.on_network);
        let now = now.reading(place.doing, place.at)?;
        Ok(now.map(|meta| meta.id) == Some(self.id))
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Tells those who wait who holds the lock. What cannot be written is not told, and nothing is written over
    /// what is no record: whoever named this file may have named one of his own.
    pub(crate) fn announce(&mut self) {
        let content = sys::read_start(&self.file, record::MAX_BYTES + 1);
        if content.is_ok_and(|content| record::can_be_in_a_lock_file(&content)) {
            self.announced = true;
            let _ = record::announce(&self.file, None);
        }
    }

    /// Runs a closure under the lock, so that it can be told when it asks for the same lock itself.
    pub(crate) fn computing<T>(&self, run: impl FnOnce() -> T) -> T {
        process::computing_on(self.id, run)
    }
}

fn open(place: Place<'_>) -> Result<(File, FileId)> {
    let opened = match place.dir.open_write(place.name) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            place.dir.open_or_create(place.name, 0o666)
        }
        Err(err) if cannot_write(&err) => place.dir.open_read(place.name),
        opened => opened,
    };
    let file = opened.writing(place.doing, place.at)?;
    let meta = sys::fstat(&file).reading(place.doing, place.at)?;
    if meta.kind != Kind::File {
        let why = "there is something else where a lock file should be; move it away";
        return Err(Error::corrupt((place.at)(), why));
    }
    Ok((file, meta.id))
}

/// Waits until a file that was found locked is locked by this process.
fn wait(place: Place<'_>, file: &File, id: FileId, pacer: &mut Pacer<'_>) -> Result<()> {
    pacer.note_wait();
    if pacer.may_block() {
        return flock::exclusive(file).writing(place.doing, place.at);
    }
    loop {
        pacer.pause(&(place.of)(), (file, id), || read_holder(file))?;
        if flock::try_exclusive(file).writing(place.doing, place.at)? {
            return Ok(());
        }
    }
}

impl Drop for KeptLock {
    fn drop(&mut self) {
        if self.pid != host::pid() {
            return; // closes a forked process's copy, and leaves the lock to who took it
        }
        if self.announced {
            let _ = sys::truncate(&self.file, 0);
        }
        let _ = flock::unlock(&self.file); // closing it does too, unless a child has it
    }
}
