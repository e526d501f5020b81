//! A key's lock: taken, held, given up, and its file deleted.
//!
//! Owns the lock files. May call `sys` and ask `root` for directories. Invariant: who holds a
//! [`KeyLock`] holds the `flock` of the file that the key's lock path named at some moment after the
//! `flock` was granted, and nobody but the exclusive holder of that file takes its name away.
//!
//! Lock files can be deleted, so taking a lock is: open (creating), `flock`, look the path up again;
//! if it no longer names the file that was locked, start over. Deleting one is: take it exclusively,
//! unlink, then unlock. The link count would not do for the check: with a hard link to the lock file
//! it stays above zero after the unlink.
//!
//! Waiters for a value need no chain of exclusive hand-overs. Who finds the lock busy waits for it
//! *shared*, so that all wake together when the value is there; only who then finds none queues for
//! it exclusively. A shared lock is never converted to an exclusive one, and nothing is ever computed
//! under it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, IoContext, Repr, Result};
use crate::holder::Holder;
use crate::layout::EntryPath;
use crate::marker::StoreKind;
use crate::root::Root;
use crate::sys::{self, Errno, FileId, Kind, flock, host};

pub(crate) mod record;
mod wait;

pub use wait::{CancelToken, Wait, WaitInfo};
pub(crate) use wait::{Pacer, Waiting};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Shared,
    Exclusive,
}

/// A key's lock, held until it is dropped, by the process that took it.
#[derive(Debug)]
#[must_use = "the key is locked only for as long as this lives"]
pub(crate) struct KeyLock {
    root: Arc<Root>,
    entry: EntryPath,
    file: File,
    id: FileId,
    mode: Mode,
    /// Who forks shares the open file; only this process may unlock it.
    pid: u32,
    recorded: bool,
    /// Another lock file has taken the place of this one, which leaves nothing to delete.
    superseded: bool,
    /// There is a value beside it, so that its directories are not empty.
    occupied: AtomicBool,
}

/// What came of asking for a key's lock, or for what somebody else is making.
#[derive(Debug)]
pub(crate) enum Taken<T> {
    /// The lock, exclusive.
    Lock(KeyLock),
    /// Somebody else made it; the lock under which it was seen, shared, if it was seen under one.
    Made(T, Option<KeyLock>),
}

/// What came of trying to take a key's lock without waiting.
#[derive(Debug)]
pub(crate) enum Tried {
    Lock(KeyLock),
    Busy,
    /// There is no lock file, and none was to be created.
    Absent,
}

/// Takes a key's lock exclusively, or stops waiting for it when `look` finds what was wanted.
///
/// `look` is asked while the lock is held shared (`true`) and when nothing is held (`false`), but
/// not before the lock was found busy.
pub(crate) fn exclusive_or<T>(
    root: &Arc<Root>,
    entry: &EntryPath,
    pacer: &mut Pacer<'_>,
    mut look: impl FnMut(bool) -> Result<Option<T>>,
) -> Result<Taken<T>> {
    loop {
        let file = open_or_create(root, entry)?;
        if try_flock(root, entry, &file, Mode::Exclusive)? {
            match KeyLock::confirm(root, entry, file, Mode::Exclusive)? {
                Some(lock) => return Ok(Taken::Lock(lock)),
                None => continue,
            }
        }
        refuse_deadlock(root, entry, &file)?;
        if pacer.may_block() {
            if !try_flock(root, entry, &file, Mode::Shared)? {
                pacer.note_wait();
                wait_flock(root, entry, &file, Mode::Shared)?;
            }
            let Some(lock) = KeyLock::confirm(root, entry, file, Mode::Shared)? else {
                if let Some(made) = look(false)? {
                    return Ok(Taken::Made(made, None));
                }
                continue;
            };
            if let Some(made) = look(true)? {
                return Ok(Taken::Made(made, Some(lock)));
            }
            // Its maker failed or died. A lock is never converted upwards.
            drop(lock);
            let file = open_or_create(root, entry)?;
            pacer.note_wait();
            wait_flock(root, entry, &file, Mode::Exclusive)?;
            if let Some(lock) = KeyLock::confirm(root, entry, file, Mode::Exclusive)? {
                return Ok(Taken::Lock(lock));
            }
            if let Some(made) = look(false)? {
                return Ok(Taken::Made(made, None));
            }
        } else {
            if let Some(made) = look(false)? {
                return Ok(Taken::Made(made, None));
            }
            // A file is whole when it is visible; a tree counts only under a lock.
            if root.kind == StoreKind::Dirs && try_flock(root, entry, &file, Mode::Shared)? {
                let Some(lock) = KeyLock::confirm(root, entry, file, Mode::Shared)? else {
                    continue;
                };
                if let Some(made) = look(true)? {
                    return Ok(Taken::Made(made, Some(lock)));
                }
                // Others look for it too, at this moment; none of them is its maker.
                drop(lock);
                pacer.pause(&root.absolute(entry.value()), || None)?;
                continue;
            }
            pacer.pause(&root.absolute(entry.value()), || read_holder(&file))?;
        }
    }
}

/// Takes a key's lock exclusively.
pub(crate) fn exclusive(
    root: &Arc<Root>,
    entry: &EntryPath,
    pacer: &mut Pacer<'_>,
) -> Result<KeyLock> {
    loop {
        let file = open_or_create(root, entry)?;
        if !try_flock(root, entry, &file, Mode::Exclusive)? {
            refuse_deadlock(root, entry, &file)?;
            if !wait(root, entry, &file, Mode::Exclusive, pacer)? {
                continue;
            }
        }
        if let Some(lock) = KeyLock::confirm(root, entry, file, Mode::Exclusive)? {
            return Ok(lock);
        }
    }
}

/// Takes a key's lock shared. `None` if there is no lock file and none was to be created.
pub(crate) fn shared(
    root: &Arc<Root>,
    entry: &EntryPath,
    pacer: &mut Pacer<'_>,
    create: bool,
) -> Result<Option<KeyLock>> {
    loop {
        let Some(file) = open(root, entry, create)? else {
            return Ok(None);
        };
        if !try_flock(root, entry, &file, Mode::Shared)? {
            refuse_deadlock(root, entry, &file)?;
            if !wait(root, entry, &file, Mode::Shared, pacer)? {
                continue;
            }
        }
        if let Some(lock) = KeyLock::confirm(root, entry, file, Mode::Shared)? {
            return Ok(Some(lock));
        }
    }
}

/// Takes a key's lock exclusively if that needs no waiting.
pub(crate) fn try_exclusive(root: &Arc<Root>, entry: &EntryPath, create: bool) -> Result<Tried> {
    loop {
        let Some(file) = open(root, entry, create)? else {
            return Ok(Tried::Absent);
        };
        if !try_flock(root, entry, &file, Mode::Exclusive)? {
            return Ok(Tried::Busy);
        }
        if let Some(lock) = KeyLock::confirm(root, entry, file, Mode::Exclusive)? {
            return Ok(Tried::Lock(lock));
        }
    }
}

/// Waits for `file`, which was found busy, as long as the caller wants to. `false`: it is not locked,
/// because it has lost its name; when it is locked it may have lost it too.
fn wait(
    root: &Root,
    entry: &EntryPath,
    file: &File,
    mode: Mode,
    pacer: &mut Pacer<'_>,
) -> Result<bool> {
    pacer.note_wait();
    if pacer.may_block() {
        return wait_flock(root, entry, file, mode).map(|()| true);
    }
    loop {
        pacer.pause(&root.absolute(entry.value()), || read_holder(file))?;
        if try_flock(root, entry, file, mode)? {
            return Ok(true);
        }
        // Who deleted this file may have gone on to hold it: what counts is the new one.
        let id = sys::fstat(file)
            .reading("look at the lock file", || at_lock(root, entry))?
            .id;
        if identity(root, entry)? != Some(id) {
            return Ok(false);
        }
    }
}

fn try_flock(root: &Root, entry: &EntryPath, file: &File, mode: Mode) -> Result<bool> {
    let tried = match mode {
        Mode::Shared => flock::try_shared(file),
        Mode::Exclusive => flock::try_exclusive(file),
    };
    locking(tried, root, entry)
}

fn wait_flock(root: &Root, entry: &EntryPath, file: &File, mode: Mode) -> Result<()> {
    let taken = match mode {
        Mode::Shared => flock::shared(file),
        Mode::Exclusive => flock::exclusive(file),
    };
    locking(taken, root, entry)
}

fn locking<T>(result: io::Result<T>, root: &Root, entry: &EntryPath) -> Result<T> {
    match result {
        // A network file system wants a writable descriptor for an exclusive lock, and this one
        // could only be opened for reading.
        Err(err) if sys::is(&err, Errno::BADF) => Err(Repr::ReadOnly {
            doing: "lock the key",
            path: at_lock(root, entry),
            source: Some(err),
        }
        .into()),
        result => result.reading("lock the key", || at_lock(root, entry)),
    }
}

fn at_lock(root: &Root, entry: &EntryPath) -> std::path::PathBuf {
    root.absolute(entry.lock())
}

/// Opens a key's lock file, and creates it, with the directories above it, if it is not there.
fn open_or_create(root: &Root, entry: &EntryPath) -> Result<File> {
    let at = || at_lock(root, entry);
    // Directories that are empty are removed by whoever emptied them, so creating is a race that
    // can be lost many times, but hardly this many.
    for _ in 0..10_000 {
        let opened = match open_or_create_once(root, entry) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                match root.make_directories(entry) {
                    Ok(()) => continue,
                    Err(err) => Err(err).writing("create the key's directories", at),
                }
            }
            opened => check_regular(opened, root, entry),
        };
        // Some directories may have been made, and the next one, or the file, not.
        return opened.inspect_err(|_| root.prune_directories(entry));
    }
    Err(io::Error::from(io::ErrorKind::NotFound)).reading("create the lock file", at)
}

fn open_or_create_once(root: &Root, entry: &EntryPath) -> io::Result<File> {
    let path = entry.lock();
    let opened = if root.options.read_only {
        root.dir.open_read(&path)
    } else if root.is_group_shared() {
        open_or_create_for_group(root, &path)
    } else {
        root.dir.open_or_create(&path, 0o666)
    };
    match opened {
        Err(err) if cannot_write(&err) => match root.dir.open_read(&path) {
            // There is none, and it cannot be made: the first error is the reason.
            Err(second) if second.kind() == io::ErrorKind::NotFound => Err(err),
            opened => opened,
        },
        opened => opened,
    }
}

/// Another user must never meet a lock file with the permission bits of this user's umask, so it is
/// made ready in `tmp/` and linked into place.
fn open_or_create_for_group(root: &Root, path: &std::path::Path) -> io::Result<File> {
    match root.dir.open_write(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let (staged, file) = root.unique_file("l-", |_file| Ok(()))?;
    let linked = root.dir.link(&staged, path);
    let _ = root.dir.unlink(&staged); // a sweep takes it if this fails
    match linked {
        Ok(()) => Ok(file),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => root.dir.open_write(path),
        Err(err) => Err(err),
    }
}

/// Opens a key's lock file; `None` if it is not there and not to be created.
fn open(root: &Root, entry: &EntryPath, create: bool) -> Result<Option<File>> {
    if create {
        return open_or_create(root, entry).map(Some);
    }
    let path = entry.lock();
    let opened = if root.options.read_only {
        root.dir.open_read(&path)
    } else {
        match root.dir.open_write(&path) {
            Err(err) if cannot_write(&err) => root.dir.open_read(&path),
            opened => opened,
        }
    };
    match opened {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => check_regular(opened, root, entry).map(Some),
    }
}

fn cannot_write(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn check_regular(opened: io::Result<File>, root: &Root, entry: &EntryPath) -> Result<File> {
    let at = || at_lock(root, entry);
    match opened {
        Err(err) if sys::is(&err, Errno::LOOP) => Err(Error::corrupt(
            at(),
            "there is a symbolic link where a lock file should be; move it away",
        )),
        Err(err) if sys::is(&err, Errno::ISDIR) => Err(Error::corrupt(
            at(),
            "there is a directory where a lock file should be; move it away",
        )),
        // A socket.
        Err(err) if sys::is(&err, Errno::NXIO) => Err(Error::corrupt(
            at(),
            "there is something else where a lock file should be; move it away",
        )),
        opened => opened.writing("create the lock file", at),
    }
}

/// Which file the lock path names now.
fn identity(root: &Root, entry: &EntryPath) -> Result<Option<FileId>> {
    let path = entry.lock();
    let found = if root.file_system.network {
        // Attributes are cached there: only an open asks the server.
        sys::absent_is_none(root.dir.open_read(&path))
            .and_then(|file| file.as_ref().map(sys::fstat).transpose())
    } else {
        root.dir.look(&path)
    };
    found
        .map(|meta| meta.map(|meta| meta.id))
        .reading("look at the lock file", || at_lock(root, entry))
}

/// Who holds the lock, by the record in its file.
fn read_holder(file: &File) -> Option<Holder> {
    record::live_holder(&sys::read_start(file, record::MAX_BYTES).ok()?)
}

impl KeyLock {
    /// Checks that the file that was locked is the one that the path names. `None`: it was deleted
    /// meanwhile, and the lock is given up.
    fn confirm(
        root: &Arc<Root>,
        entry: &EntryPath,
        file: File,
        mode: Mode,
    ) -> Result<Option<Self>> {
        let meta = sys::fstat(&file).reading("look at the lock file", || at_lock(root, entry));
        let found = meta.and_then(|meta| Ok((meta, identity(root, entry)?)));
        match found {
            Ok((meta, now)) if now == Some(meta.id) && meta.kind == Kind::File => {
                Ok(Some(KeyLock {
                    root: Arc::clone(root),
                    entry: entry.clone(),
                    file,
                    id: meta.id,
                    mode,
                    pid: host::pid(),
                    recorded: false,
                    superseded: false,
                    occupied: AtomicBool::new(false),
                }))
            }
            found => {
                // A child that is between fork and exec shares the open file, so that closing it
                // is not enough. If this fails, closing is all that is left.
                let _ = flock::unlock(&file);
                match found? {
                    (meta, _) if meta.kind == Kind::File => Ok(None),
                    _ => Err(Error::corrupt(
                        at_lock(root, entry),
                        "there is something else where a lock file should be; move it away",
                    )),
                }
            }
        }
    }

    pub(crate) fn root(&self) -> &Arc<Root> {
        &self.root
    }

    pub(crate) fn entry(&self) -> &EntryPath {
        &self.entry
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Notes whether there is a value now.
    pub(crate) fn note_occupied(&self, occupied: bool) {
        self.occupied.store(occupied, Ordering::Relaxed);
    }

    /// Tells those who wait who holds the lock. What cannot be written is not told: on a full disk
    /// it is the value that should fail, not this.
    pub(crate) fn announce(&mut self, label: Option<&str>) {
        self.recorded = true;
        let text = record::render(label);
        // A process that was killed may have left a longer one.
        let _ = sys::truncate(&self.file, 0)
            .and_then(|()| sys::write_at_start(&self.file, text.as_bytes()));
    }

    /// This lock, exclusive, becomes one on `file`, which is locked shared and has just taken its
    /// place at the lock path: a downgrade without a moment in between.
    pub(crate) fn replaced_by(mut self, file: File, id: FileId) -> KeyLock {
        let successor = KeyLock {
            root: Arc::clone(&self.root),
            entry: self.entry.clone(),
            file,
            id,
            mode: Mode::Shared,
            pid: self.pid,
            recorded: false,
            superseded: false,
            occupied: AtomicBool::new(false),
        };
        self.superseded = true;
        successor
    }

    /// Another descriptor of the same lock file, locked shared in its own right. It counts as a
    /// lease of this process for as long as it is open here.
    pub(crate) fn another_shared(&self) -> Result<(File, NotedLease)> {
        let at = || at_lock(&self.root, &self.entry);
        let path = self.entry.lock();
        let file = match self.root.dir.open_write(&path) {
            Err(err) if cannot_write(&err) => self.root.dir.open_read(&path),
            opened => opened,
        }
        .reading("open the lock file again", at)?;
        let same = sys::fstat(&file).reading("look at the lock file", at)?.id == self.id;
        if same && try_flock(&self.root, &self.entry, &file, Mode::Shared)? {
            return Ok((file, NotedLease::new(self.id)));
        }
        Err(Error::corrupt(
            at(),
            "somebody replaced the lock file of a leased tree; lease it again",
        ))
    }

    /// Whether the lock file has to stay: a tree that has no sidecar is an entry because of it.
    fn keeps_file(&self) -> bool {
        let has_tree = || match self.root.dir.look(self.entry.value()) {
            Ok(found) => found.is_some_and(|meta| meta.kind == Kind::Dir),
            Err(_) => true,
        };
        self.superseded || (self.root.kind == StoreKind::Dirs && has_tree())
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        if self.pid != host::pid() {
            return; // closes a forked process's copy, and leaves the lock to who took it
        }
        // Nothing that fails below can be reported, and nothing is lost by it: what stays behind is
        // a lock file that the next to take it, or a sweep, deletes.
        let mut deleted = false;
        if self.mode == Mode::Exclusive {
            if self.recorded {
                // Even of a file that is deleted: a hard link to it may live on.
                let _ = sys::truncate(&self.file, 0);
            }
            // If somebody else took the name away, what has it now is another's lock.
            let is_named =
                || matches!(identity(&self.root, &self.entry), Ok(Some(id)) if id == self.id);
            if !self.keeps_file() && is_named() {
                // First the name, then the lock: who opens it from now on makes a new file.
                deleted = self.root.dir.unlink(self.entry.lock()).is_ok();
            }
        }
        let _ = flock::unlock(&self.file);
        if deleted && !self.occupied.load(Ordering::Relaxed) {
            self.root.prune_directories(&self.entry);
        }
    }
}

thread_local! {
    /// The locks under which this thread is running closures, outermost first.
    static COMPUTING: RefCell<Vec<FileId>> = const { RefCell::new(Vec::new()) };
}

/// Runs a closure under a key's lock, so that it can be told when it asks for that key itself.
pub(crate) fn computing<T>(lock: &KeyLock, run: impl FnOnce() -> T) -> T {
    struct Popped;
    impl Drop for Popped {
        fn drop(&mut self) {
            COMPUTING.with_borrow_mut(Vec::pop);
        }
    }
    COMPUTING.with_borrow_mut(|locks| locks.push(lock.id));
    let _popped = Popped;
    run()
}

/// Fails if the holder of a busy lock is a closure that this very thread is running.
fn refuse_deadlock(root: &Root, entry: &EntryPath, file: &File) -> Result<()> {
    let mine = COMPUTING.with_borrow(|locks| {
        if locks.is_empty() {
            return Ok(false);
        }
        sys::fstat(file).map(|meta| locks.contains(&meta.id))
    });
    if mine.reading("look at the lock file", || at_lock(root, entry))? {
        return Err(Repr::WouldDeadlock {
            path: root.absolute(entry.value()),
        }
        .into());
    }
    Ok(())
}

/// The leases that this process holds, by the lock file that each is on.
static LEASES: Mutex<BTreeMap<FileId, usize>> = Mutex::new(BTreeMap::new());

/// Counts as a lease of this process until it is dropped.
#[derive(Debug)]
pub(crate) struct NotedLease {
    id: FileId,
    pid: u32,
}

impl NotedLease {
    pub(crate) fn new(id: FileId) -> Self {
        let mut leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
        *leases.entry(id).or_default() += 1;
        NotedLease {
            id,
            pid: host::pid(),
        }
    }
}

impl Drop for NotedLease {
    fn drop(&mut self) {
        if self.pid != host::pid() {
            return; // a forked process's copy
        }
        let mut leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = leases.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                leases.remove(&self.id);
            }
        }
    }
}

/// Whether this process holds a lease on a key, so that waiting for it alone would never end.
pub(crate) fn leased_here(root: &Root, entry: &EntryPath) -> Result<bool> {
    let id = identity(root, entry)?;
    let leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(id.is_some_and(|id| leases.contains_key(&id)))
}
