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

use std::fs::File;
use std::sync::Arc;

use self::file::{
    Mode, at_lock, identity, open, open_or_create, read_holder, try_flock, wait_flock,
};
use self::process::refuse_deadlock;
use crate::error::{IoContext, Result};
use crate::layout::EntryPath;
use crate::marker::StoreKind;
use crate::root::Root;
use crate::sys;

mod collector;
mod file;
mod guard;
mod kept;
mod process;
pub(crate) mod record;
mod wait;

pub(crate) use collector::{CollectorLock, collector, try_collector};
pub(crate) use guard::KeyLock;
#[cfg(feature = "checkpoint")]
pub(crate) use kept::{KeptLock, Place};
pub(crate) use process::{NotedLease, computing, leased_here};
pub use wait::{CancelToken, Wait, WaitInfo};
pub(crate) use wait::{Pacer, Waiting};

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
            if let Some(lock) = KeyLock::confirm(root, entry, file, Mode::Shared)? {
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
            }
        } else if let Some(taken) = poll(root, entry, file, pacer, &mut look)? {
            return Ok(taken);
        }
        // The lock file has lost its name, most likely because the value is there.
        if let Some(made) = look(false)? {
            return Ok(Taken::Made(made, None));
        }
    }
}

/// The same for a wait that cannot sleep in the kernel, on a lock file that was found busy. `None`: it
/// has lost its name.
fn poll<T>(
    root: &Arc<Root>,
    entry: &EntryPath,
    mut file: File,
    pacer: &mut Pacer<'_>,
    look: &mut impl FnMut(bool) -> Result<Option<T>>,
) -> Result<Option<Taken<T>>> {
    loop {
        if let Some(made) = look(false)? {
            return Ok(Some(Taken::Made(made, None)));
        }
        // A file is whole when it is visible; a tree counts only under a lock.
        if root.kind == StoreKind::Dirs && try_flock(root, entry, &file, Mode::Shared)? {
            let Some(lock) = KeyLock::confirm(root, entry, file, Mode::Shared)? else {
                return Ok(None);
            };
            if let Some(made) = look(true)? {
                return Ok(Some(Taken::Made(made, Some(lock))));
            }
            // Others look for it too, at this moment; none of them is its maker.
            drop(lock);
            file = open_or_create(root, entry)?;
            pacer.disregard_events(); // one of which was the end of that lock
            if try_flock(root, entry, &file, Mode::Exclusive)? {
                let lock = KeyLock::confirm(root, entry, file, Mode::Exclusive)?;
                return Ok(lock.map(Taken::Lock));
            }
        }
        match try_later(root, entry, &file, Mode::Exclusive, pacer)? {
            Later::Busy => {}
            Later::Nameless => return Ok(None),
            Later::Locked => {
                let lock = KeyLock::confirm(root, entry, file, Mode::Exclusive)?;
                return Ok(lock.map(Taken::Lock));
            }
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

/// Whether somebody holds a key's lock, in whatever mode. Creates and deletes nothing; takes the lock for
/// a moment to find out.
pub(crate) fn is_held(root: &Root, entry: &EntryPath) -> Result<bool> {
    let opened = sys::absent_is_none(root.dir.open_read(entry.lock()));
    let Some(file) = opened.reading("look at the lock file", || at_lock(root, entry))? else {
        return Ok(false);
    };
    let free = try_flock(root, entry, &file, Mode::Exclusive)?;
    if free {
        let _ = sys::flock::unlock(&file); // closing it does too
    }
    Ok(!free)
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
        match try_later(root, entry, file, mode, pacer)? {
            Later::Busy => {}
            Later::Locked => return Ok(true),
            Later::Nameless => return Ok(false),
        }
    }
}

/// What came of one more try.
enum Later {
    Locked,
    Busy,
    /// Who deleted the file may have gone on to hold it: what counts is the new one.
    Nameless,
}

/// Tries to lock `file` after a pause.
fn try_later(
    root: &Root,
    entry: &EntryPath,
    file: &File,
    mode: Mode,
    pacer: &mut Pacer<'_>,
) -> Result<Later> {
    let meta = sys::fstat(file).reading("look at the lock file", || at_lock(root, entry))?;
    let at = root.absolute(entry.value());
    pacer.pause(&at, (file, meta.id), || read_holder(file))?;
    if try_flock(root, entry, file, mode)? {
        return Ok(Later::Locked);
    }
    Ok(match identity(root, entry)? {
        Some(id) if id == meta.id => Later::Busy,
        _ => Later::Nameless,
    })
}
