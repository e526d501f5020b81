//! The file: what this process knows of it, brought up to date; and the one way in which it changes.
//!
//! Invariant: what is known of it is what was read of one file, or written as one, and that file is kept open,
//! so that none that comes later has its identity.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::CheckpointOptions;
use super::key::CheckpointKey;
use super::table::{Change, Record, Table};
use crate::durable;
use crate::error::{Error, ErrorKind, IoContext, Repr, Result};
use crate::lock::{KeptLock, Place, Waiting};
use crate::options::Durability;
use crate::sys::{self, Dir, Errno, FileId, Kind, Meta, clock};

/// More is no file of small states, and reading it no small thing.
const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct CheckpointFile {
    dir: Dir,
    path: PathBuf,
    name: PathBuf,
    lock_name: PathBuf,
    staged_name: PathBuf,
    options: CheckpointOptions,
    known: Mutex<Known>,
}

/// What this process knows of the file.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) table: Table,
    /// The file that this is known of. `None`: there was none.
    read: Option<Read>,
    /// The largest sequence seen of each key, where the file's is below it.
    ahead: BTreeMap<CheckpointKey, u64>,
}

/// A file that was read. It is kept open: as long as it is, no other has its number.
#[derive(Debug)]
struct Read {
    file: File,
    stamp: Stamp,
    /// This process has synced its name. Who wrote it may have failed, or died, before that.
    lasts: bool,
}

impl Read {
    fn new(file: File, meta: &Meta) -> Self {
        Read {
            file,
            stamp: stamp(meta),
            lasts: false,
        }
    }
}

/// What tells one state of the file from another. Its length and time change if somebody edits it in place.
type Stamp = (FileId, u64, SystemTime);

fn stamp(meta: &Meta) -> Stamp {
    (meta.id, meta.len, meta.modified)
}

impl Known {
    fn is_current(&self, found: Option<&Meta>) -> bool {
        self.read.as_ref().map(|read| read.stamp) == found.map(stamp)
    }

    /// Puts in its place what is there now.
    fn replace(&mut self, table: Table, read: Option<Read>) {
        let old = std::mem::replace(&mut self.table, table);
        let seen = old.records.iter().map(|(key, old)| (*key, old.sequence));
        let ahead = std::mem::take(&mut self.ahead);
        for (key, seen) in seen.chain(ahead) {
            let is_behind = match self.table.records.get(&key) {
                Some(record) => record.sequence < seen,
                None => self.table.forgotten < seen,
            };
            if is_behind {
                let most = self.ahead.entry(key).or_default();
                *most = seen.max(*most);
            }
        }
        self.read = read;
    }

    /// Notes a change that was made of what is known, if nothing newer is.
    fn apply(&mut self, change: Change, read: Option<Read>) {
        if self.ahead_of(&change.key) <= Some(change.record.sequence) {
            self.ahead.remove(&change.key);
        }
        self.table.apply(change);
        self.read = read;
    }

    /// The largest sequence of a key that this process has seen, if what is there now is below it.
    pub(super) fn ahead_of(&self, key: &CheckpointKey) -> Option<u64> {
        self.ahead.get(key).copied()
    }

    pub(super) fn accept_rollback(&mut self) {
        self.ahead.clear();
    }
}

impl CheckpointFile {
    pub(super) fn open(path: &Path, options: CheckpointOptions) -> Result<Self> {
        let open = "open the checkpoints";
        let path = std::path::absolute(path).reading(open, || path.to_path_buf())?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(unusable(&path, ErrorKind::Corrupt, A_DIRECTORY.to_owned()));
        };
        let beside = |suffix: &str| {
            let mut beside = name.to_owned();
            beside.push(suffix);
            PathBuf::from(beside)
        };
        let dir = match Dir::open(parent) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Err(err).reading(
                "open the checkpoints' directory, which has to be there,",
                || parent.to_path_buf(),
            )?,
            opened => opened.reading("open the checkpoints' directory", || parent.to_path_buf())?,
        };
        let file = CheckpointFile {
            name: PathBuf::from(name),
            lock_name: beside(".lock"),
            staged_name: beside(".new"),
            dir,
            options,
            known: Mutex::default(),
            path: path.clone(),
        };
        drop(file.refreshed()?);
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn at(&self) -> PathBuf {
        self.path.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, after a look whether there is more to know. If what is there cannot be read, what is known
    /// stays.
    pub(super) fn refreshed(&self) -> Result<MutexGuard<'_, Known>> {
        let mut known = self.known();
        let found = self.dir.look(&self.name);
        let found = found.reading("look at the checkpoints", || self.at())?;
        if known.is_current(found.as_ref()) {
            return Ok(known);
        }
        match found {
            None => known.replace(Table::default(), None),
            Some(_) => {
                let (table, read) = self.read()?.unzip();
                known.replace(table.unwrap_or_default(), read);
            }
        }
        Ok(known)
    }

    fn read(&self) -> Result<Option<(Table, Read)>> {
        let read = "read the checkpoints";
        let corrupt = |why: &str| self.unusable(ErrorKind::Corrupt, why.to_owned());
        let file = match self.dir.open_read(&self.name) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) if sys::is(&err, Errno::LOOP) => {
                return Err(corrupt("there is a symbolic link; name what it leads to"));
            }
            opened => opened.reading(read, || self.at())?,
        };
        let meta = sys::fstat(&file).reading(read, || self.at())?;
        match meta.kind {
            Kind::File => {}
            Kind::Dir => return Err(corrupt(A_DIRECTORY)),
            Kind::Link | Kind::Other => return Err(corrupt("there is something that is no file")),
        }
        if meta.len > MAX_BYTES {
            let why = format!("{} bytes are there, and {MAX_BYTES} are the most", meta.len);
            return Err(self.unusable(ErrorKind::Corrupt, why));
        }
        let bytes = sys::read_range(&file, 0, meta.len).reading(read, || self.at())?;
        let table = Table::parse(&bytes);
        let table = table.map_err(|malformed| self.unusable(malformed.kind, malformed.why))?;
        Ok(Some((table, Read::new(file, &meta))))
    }

    /// Takes the file's lock, as the caller waits for it.
    pub(super) fn lock(&self, waiting: &Waiting) -> Result<Locked<'_>> {
        let at = || {
            let mut path = self.path.clone().into_os_string();
            path.push(".lock");
            PathBuf::from(path)
        };
        let place = Place {
            dir: &self.dir,
            name: &self.lock_name,
            doing: "lock the checkpoints",
            at: &at,
            of: &|| self.at(),
        };
        let lock = KeptLock::take(place, &mut waiting.start())?;
        Ok(Locked { file: self, lock })
    }

    pub(super) fn unusable(&self, kind: ErrorKind, why: String) -> Error {
        unusable(&self.path, kind, why)
    }

    pub(super) fn rolled_back(&self, known: &Known, key: &CheckpointKey, seen: u64) -> Error {
        Repr::RolledBack {
            path: self.at(),
            key: key.to_string(),
            seen,
            stored: known.table.records.get(key).map(|record| record.sequence),
        }
        .into()
    }

    /// Fails if this process has seen more of a key than is there now.
    pub(super) fn check_not_behind(&self, known: &Known, key: &CheckpointKey) -> Result<()> {
        match known.ahead_of(key) {
            Some(seen) => Err(self.rolled_back(known, key, seen)),
            None => Ok(()),
        }
    }
}

const A_DIRECTORY: &str = "there is a directory";

fn unusable(path: &Path, kind: ErrorKind, why: String) -> Error {
    let path = path.to_path_buf();
    Repr::Checkpoints { path, kind, why }.into()
}

/// The file while nobody else changes it.
#[derive(Debug)]
#[must_use = "others change the file as soon as this is dropped"]
pub(super) struct Locked<'a> {
    file: &'a CheckpointFile,
    lock: KeptLock,
}

impl Locked<'_> {
    /// Tells those who wait who holds the lock.
    pub(super) fn announce(&mut self) {
        self.lock.announce();
    }

    /// Runs a closure that is to be told if it wants to change the file itself.
    pub(super) fn computing<T>(&self, run: impl FnOnce() -> T) -> T {
        self.lock.computing(run)
    }

    /// Replaces the file by one in which a key has this record. What is known has to be up to date.
    pub(super) fn publish(&self, key: &CheckpointKey, record: Record) -> Result<()> {
        let file = self.file;
        let kept = file.options.keep_deleted.as_secs();
        let change = Change {
            key: *key,
            record,
            forget_before: seconds_now().saturating_sub(kept),
        };
        let (text, replaced) = {
            let known = file.known();
            let replaced = known.read.as_ref().map(|read| sys::fstat(&read.file));
            (known.table.render(&change), replaced)
        };
        let replaced = replaced.transpose();
        let replaced = replaced.reading("look at the checkpoints", || file.at())?;
        if text.len() as u64 > MAX_BYTES {
            let why = format!(
                "they would take {} bytes, and {MAX_BYTES} are the most; delete some",
                text.len()
            );
            return Err(file.unusable(ErrorKind::Unsupported, why));
        }
        let staged = self.stage(text.as_bytes(), replaced.map(|meta| meta.mode));
        let renamed = staged.and_then(|staged| {
            file.dir.rename(&file.staged_name, &file.name)?;
            Ok(staged)
        });
        let write = "write the checkpoints";
        let written = match renamed {
            Ok(written) => written,
            Err(err) => {
                let _ = file.dir.unlink(&file.staged_name); // the first error is the one to tell
                return Err(err).writing(write, || file.at());
            }
        };
        self.sync_name()?;
        // Otherwise it is read again.
        if let Ok(meta) = sys::fstat(&written) {
            let read = Read {
                lasts: true,
                ..Read::new(written, &meta)
            };
            file.known().apply(change, Some(read));
        }
        Ok(())
    }

    /// Makes what is known last, for an answer that rests on it and changes nothing.
    pub(super) fn make_last(&self) -> Result<()> {
        let lasts = |known: &Known| known.read.as_ref().is_none_or(|read| read.lasts);
        if !lasts(&self.file.known()) {
            self.sync_name()?;
            if let Some(read) = &mut self.file.known().read {
                read.lasts = true;
            }
        }
        Ok(())
    }

    fn sync_name(&self) -> Result<()> {
        let file = self.file;
        if file.options.durability < Durability::Full {
            return Ok(());
        }
        let make_last = "make the new checkpoints last, which others see already,";
        file.dir.sync().writing(make_last, || file.at())
    }

    /// Writes a new file beside the old one, durably. What a killed process left of one goes.
    fn stage(&self, bytes: &[u8], mode: Option<u32>) -> io::Result<File> {
        let file = self.file;
        sys::absent_is_none(file.dir.unlink(&file.staged_name))?;
        let staged = file.dir.create_new(&file.staged_name, 0o666)?;
        if let Some(mode) = mode {
            sys::fchmod(&staged, mode)?;
        }
        sys::write_at(&staged, bytes, 0)?;
        durable::data(&staged)?;
        Ok(staged)
    }
}

pub(super) fn seconds_now() -> u64 {
    let since = clock::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}
