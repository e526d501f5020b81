//! The file: what is known of it, brought up to date; and the one way in which it changes.
//!
//! Invariant: it is replaced only under its lock, by what came of the file that is there then.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use super::CheckpointOptions;
use super::key::CheckpointKey;
use super::known::{Basis, Known, Read};
use super::table::{Content, Record, Table};
use crate::durable;
use crate::error::{Error, ErrorKind, IoContext, Repr, Result};
use crate::layout::{LOCK_SUFFIX, with_suffix};
use crate::lock::{KeptLock, Place, Waiting};
use crate::options::Durability;
use crate::sys::{self, Dir, Errno, Kind, Meta, clock};

/// More is no file of small states, and reading it no small thing.
const MAX_BYTES: usize = 64 << 20;

/// What a file is being written as. Longer than what somebody else may have beside his.
const STAGED_SUFFIX: &str = ".larder-new";

#[derive(Debug)]
pub(super) struct CheckpointFile {
    dir: Dir,
    path: PathBuf,
    name: PathBuf,
    lock_name: PathBuf,
    staged_name: PathBuf,
    /// See [`Dir::look_afresh`].
    on_network: bool,
    options: CheckpointOptions,
    known: Mutex<Known>,
}

impl CheckpointFile {
    pub(super) fn open(path: &Path, options: CheckpointOptions) -> Result<Self> {
        let open = "open the checkpoints";
        let path = std::path::absolute(path).reading(open, || path.to_path_buf())?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(unusable(&path, ErrorKind::Corrupt, A_DIRECTORY.to_owned()));
        };
        let path = parent.join(name); // without a slash at its end
        let mut taken = [LOCK_SUFFIX, STAGED_SUFFIX].into_iter();
        if let Some(suffix) = taken.find(|suffix| name.as_bytes().ends_with(suffix.as_bytes())) {
            let why = format!("what ends in {suffix} belongs to another file of checkpoints");
            return Err(unusable(&path, ErrorKind::Unsupported, why));
        }
        let dir = match Dir::open(parent) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Err(err).reading(
                "open the checkpoints' directory, which has to be there,",
                || parent.to_path_buf(),
            )?,
            opened => opened.reading("open the checkpoints' directory", || parent.to_path_buf())?,
        };
        let file = CheckpointFile {
            name: PathBuf::from(name),
            lock_name: with_suffix(Path::new(name), LOCK_SUFFIX),
            staged_name: with_suffix(Path::new(name), STAGED_SUFFIX),
            on_network: dir.file_system().reading(open, || path.clone())?.network,
            dir,
            options,
            known: Mutex::default(),
            path: path.clone(),
        };
        match file.dir.look(&file.staged_name) {
            Err(err) if sys::is(&err, Errno::NAMETOOLONG) => {
                let why = format!(
                    "with {STAGED_SUFFIX} behind it the name is too long for this file system; choose a shorter one"
                );
                return Err(file.unusable(ErrorKind::Unsupported, why));
            }
            looked => looked.reading(open, || path.clone())?,
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
        let found = self.look();
        let found = found.reading("look at the checkpoints", || self.at())?;
        if !known.now.is_current(found.as_ref()) {
            let read = if found.is_some() { self.read()? } else { None };
            let (table, read) = read.unzip();
            known.replace(Basis::new(table.unwrap_or_default(), read));
        }
        Ok(known)
    }

    /// What is at the path.
    fn look(&self) -> io::Result<Option<Meta>> {
        match self.dir.look_afresh(&self.name, self.on_network) {
            Err(err) if sys::is(&err, Errno::LOOP) => self.dir.look(&self.name),
            looked => looked,
        }
    }

    fn read(&self) -> Result<Option<(Table, Read)>> {
        let read = "read the checkpoints";
        let corrupt = |why: &str| self.unusable(ErrorKind::Corrupt, why.to_owned());
        let file = match self.dir.open_read(&self.name) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) if sys::is(&err, Errno::LOOP) => {
                return Err(corrupt(
                    "there is a symbolic link; name the file that it leads to",
                ));
            }
            opened => opened.reading(read, || self.at())?,
        };
        let meta = sys::fstat(&file).reading(read, || self.at())?;
        match meta.kind {
            Kind::File => {}
            Kind::Dir => return Err(corrupt(A_DIRECTORY)),
            Kind::Link | Kind::Other => {
                return Err(corrupt("there is something that is no file; move it away"));
            }
        }
        if meta.len > MAX_BYTES as u64 {
            let why = format!(
                "{} bytes are there, and {MAX_BYTES} are the most; move it away",
                meta.len
            );
            return Err(self.unusable(ErrorKind::Corrupt, why));
        }
        let bytes = sys::read_range(&file, 0, meta.len).reading(read, || self.at())?;
        let table = Table::parse(&bytes);
        let table = table.map_err(|malformed| self.unusable(malformed.kind, malformed.why))?;
        Ok(Some((table, Read::new(file, &meta))))
    }

    /// Takes the file's lock, as the caller waits for it.
    pub(super) fn lock(&self, waiting: &Waiting) -> Result<Locked<'_>> {
        let lock = self.at_lock(|place| KeptLock::take(place, &mut waiting.start()))?;
        // What is done through a descriptor is done to the directory that was opened.
        let parent = self.path.parent().unwrap_or(&self.path);
        let named = sys::absent_is_none(sys::stat_base(parent)).and_then(|named| {
            let opened = self.dir.stat(".")?.id;
            Ok(named.map(|meta| meta.id) == Some(opened))
        });
        if !named.reading("look at the checkpoints' directory", || {
            parent.to_path_buf()
        })? {
            let why = "their directory was replaced since it was opened; open them again";
            return Err(self.unusable(ErrorKind::Corrupt, why.to_owned()));
        }
        Ok(Locked { file: self, lock })
    }

    fn at_lock<T>(&self, what: impl FnOnce(Place<'_>) -> T) -> T {
        what(Place {
            dir: &self.dir,
            name: &self.lock_name,
            doing: "lock the checkpoints",
            at: &|| self.path.with_file_name(&self.lock_name),
            of: &|| self.at(),
            on_network: self.on_network,
        })
    }

    pub(super) fn unusable(&self, kind: ErrorKind, why: String) -> Error {
        unusable(&self.path, kind, why)
    }

    /// Until when a key is remembered that is deleted now.
    pub(super) fn remember_until(&self) -> u64 {
        seconds_now().saturating_add(self.options.keep_deleted.as_secs())
    }

    pub(super) fn rolled_back(&self, known: &Known, key: &CheckpointKey, seen: u64) -> Error {
        Repr::RolledBack {
            path: self.at(),
            key: key.to_string(),
            seen,
            stored: known.record(key).map(|record| record.sequence),
            is_told: known.ahead_of(key).is_none(),
        }
        .into()
    }

    /// Fails if more was seen of a key than is there now.
    pub(super) fn check_not_behind(&self, known: &Known, key: &CheckpointKey) -> Result<()> {
        match known.ahead_of(key) {
            Some(seen) => Err(self.rolled_back(known, key, seen.sequence)),
            None => Ok(()),
        }
    }
}

const A_DIRECTORY: &str = "there is a directory; name a file in it";

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

    /// Runs what is to be told if it wants to change the file itself.
    pub(super) fn computing<T>(&self, run: impl FnOnce() -> T) -> T {
        self.lock.computing(run)
    }

    /// Replaces the file by one in which a key has this record, if it still is the one that this was decided on.
    pub(super) fn publish(&self, basis: &Basis, key: &CheckpointKey, record: Record) -> Result<()> {
        let file = self.file;
        let is_deletion = matches!(record.content, Content::Deleted(_));
        let mut table = basis.table.with(*key, record, seconds_now());
        let text = match is_deletion {
            // Who deletes makes room, so that it can always be done.
            true => table.render_within(MAX_BYTES, key),
            false => table.render(),
        };
        if text.len() > MAX_BYTES {
            let why = format!(
                "they would take {} bytes, and {MAX_BYTES} are the most; delete some",
                text.len()
            );
            return Err(file.unusable(ErrorKind::Unsupported, why));
        }
        let write = "write the checkpoints";
        let staged = self.stage(basis, text.as_bytes());
        let staged = staged.writing(write, || file.path.with_file_name(&file.staged_name))?;
        let renamed = self.check_alone(basis, &staged).and_then(|()| {
            let renamed = file.dir.rename(&file.staged_name, &file.name);
            renamed.writing(write, || file.at())
        });
        if let Err(err) = renamed {
            self.discard(&staged.file); // the first error is the one to tell
            return Err(err);
        }
        self.sync_name()?;
        let read = staged.into_read();
        read.note_that_it_lasts();
        let made = Basis::new(table, Some(read));
        file.known().apply(basis, key, made);
        Ok(())
    }

    /// Somebody may have deleted the lock file, so that another holds a lock as well. What he has written must not
    /// be written over.
    fn check_alone(&self, basis: &Basis, staged: &Staged) -> Result<()> {
        let file = self.file;
        let is_ours = || -> io::Result<bool> {
            let found = file.look()?;
            let new = file.dir.look(&file.staged_name)?.map(|meta| meta.id);
            Ok(basis.is_current(found.as_ref()) && new == Some(staged.meta.id))
        };
        let is_locked = file.at_lock(|place| self.lock.is_at(place))?;
        if is_locked && is_ours().reading("look at the checkpoints", || file.at())? {
            return Ok(());
        }
        let why =
            "somebody has deleted their lock file, or changed them without it; nothing was written";
        Err(file.unusable(ErrorKind::Corrupt, why.to_owned()))
    }

    /// Unless it is another's by now.
    fn discard(&self, staged: &File) {
        let dir = &self.file.dir;
        let name = &self.file.staged_name;
        let id = sys::fstat(staged).map(|meta| meta.id);
        if id.is_ok_and(|id| matches!(dir.look(name), Ok(Some(meta)) if meta.id == id)) {
            let _ = dir.unlink(name);
        }
    }

    /// Makes what is there last, for an answer that rests on it and changes nothing.
    pub(super) fn make_last(&self, basis: &Basis) -> Result<()> {
        if let Some(read) = basis.read.as_ref().filter(|read| !read.lasts()) {
            self.sync_name()?;
            read.note_that_it_lasts();
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

    /// Writes a new file beside the old one, durably, and for the same eyes. What a killed process left of one
    /// goes.
    fn stage(&self, basis: &Basis, bytes: &[u8]) -> io::Result<Staged> {
        let file = self.file;
        let old = basis.read.as_ref().map(|read| &read.file);
        sys::absent_is_none(file.dir.unlink(&file.staged_name))?;
        // Nobody may open it before it is known who may read the old one.
        let mode = if old.is_some() { 0o600 } else { 0o666 };
        let staged = file.dir.create_new(&file.staged_name, mode)?;
        let written = file.dir.open_read(&file.staged_name).and_then(|read| {
            old.map_or(Ok(()), |old| become_as(&staged, old))?;
            sys::write_at(&staged, bytes, 0)?;
            durable::data(&staged)?;
            Staged::new(&staged, read)
        });
        if written.is_err() {
            self.discard(&staged);
        }
        written
    }
}

/// A file that was written and is about to be renamed: by now open for reading only, as it stays.
#[derive(Debug)]
struct Staged {
    file: File,
    meta: Meta,
}

impl Staged {
    fn new(written: &File, file: File) -> io::Result<Self> {
        let meta = sys::fstat(&file)?;
        match meta.id == sys::fstat(written)?.id {
            true => Ok(Staged { file, meta }),
            false => Err(io::Error::other("somebody has put another in its place")),
        }
    }

    /// As what the file is known by once it is renamed, which the change time tells. If it was changed since it was
    /// written, or nobody can tell, it is known by what it was then, and so is read again.
    fn into_read(self) -> Read {
        let as_written = |now: &Meta| {
            (now.id, now.len, now.modified) == (self.meta.id, self.meta.len, self.meta.modified)
        };
        let now = sys::fstat(&self.file).ok().filter(as_written);
        Read::new(self.file, &now.unwrap_or(self.meta))
    }
}

/// Gives a new file the owner and the group, as far as this process may, the access list and the permission bits of the
/// one that it is to replace. If another has the group now, or the list cannot be given on (whose mask the group's bits
/// are), nobody has what they allow.
fn become_as(new: &File, old: &File) -> io::Result<()> {
    let meta = sys::fstat(old)?;
    let (user, group) = meta.owner;
    let now = sys::fstat(new)?.owner;
    // Who may not give a file away may still give it to a group of his.
    let is_the_groups = now == meta.owner
        || sys::fchown(new, Some(user), Some(group)).is_ok()
        || now.1 == group
        || sys::fchown(new, None, Some(group)).is_ok();
    let is_for_the_same = is_the_groups && sys::copy_access_list(old, new).is_ok();
    let lost = if is_for_the_same { 0 } else { 0o070 };
    sys::fchmod(new, meta.mode & !lost)
}

pub(super) fn seconds_now() -> u64 {
    let since = clock::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}
