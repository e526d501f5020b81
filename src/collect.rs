//! Taking away what is not wanted, and what dead processes left.
//!
//! May call everything below the stores. Invariant: an entry goes only under its key's exclusive
//! lock, taken without waiting, and a staged thing only under its own; so nothing that a live process
//! uses is taken.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::dispose;
use crate::entries::{self, Item, Walk, owner};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::excuse::{excuse, excuse_io, has_no_room, keep_if_excused, pass_over};
use crate::layout::{EntryPath, LOCK_SUFFIX, TMP, with_suffix};
use crate::lock::record::{self, can_be_in_a_lock_file};
use crate::lock::{self, KeyLock, Tried};
use crate::marker::{Format, StoreKind};
use crate::pins::{self, Pinned};
use crate::presence::{self, Seen};
use crate::publish::{self, Removal, Rest};
use crate::report::{GcReport, KeptReason};
use crate::root::Root;
use crate::sidecar;
use crate::staging;
use crate::sys::{self, FileId, Kind, Meta, flock, temp};
use crate::tree;

/// Fails where nothing at all can be removed. What only some users may not remove is reported.
pub(crate) fn check_writable(root: &Root, doing: &'static str) -> Result<()> {
    let at = || root.path().to_path_buf();
    root.check_writable_at(doing, at)?;
    root.dir.check_mount().writing(doing, at)
}

/// Whether things are done, or only found out about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Really,
    DryRun,
}

/// Removes every entry that nobody uses and that is not pinned, and sweeps.
pub(crate) fn clear(root: &Arc<Root>) -> Result<GcReport> {
    check_writable(root, "clear the store")?;
    let mut report = GcReport::default();
    // Before anything else, because on a full disk nothing can be locked without the spare file, and who
    // was killed with it has left it as a lock file. What is kept is told by the sweep at the end.
    let swept = sweep(root)?;
    (report.swept, report.swept_paths) = (swept.swept, swept.swept_paths);
    let pinned = Pinned::read(root)?;
    let mut walk = Walk::new(root);
    walk.start()?;
    let mut without_room = Vec::new();
    loop {
        match walk.next() {
            Ok(None) => break,
            Ok(Some(Item::Entry(entry))) if pinned.has(&entry) => {
                report.examined += 1;
                report.keep(root, entry.value(), KeptReason::Pinned);
            }
            Ok(Some(Item::Entry(entry))) => {
                let bytes = match entries::describe(root, &entry) {
                    Ok(Some(described)) => described.len(),
                    Ok(None) => continue,
                    // Then it can hardly be removed, which is seen below.
                    Err(err) if excuse(&err).is_some() => None,
                    Err(err) => return Err(err),
                };
                report.examined += 1;
                match remove_entry(root, &entry, bytes, &mut report) {
                    Err(err) if has_no_room(&err) => without_room.push((entry, bytes)),
                    Err(err) => keep_if_excused(root, &entry, err, &mut report)?,
                    Ok(()) => {}
                }
            }
            Ok(Some(_)) => {}
            Err(err) => pass_over(err, &mut report)?,
        }
    }
    // What went meanwhile may have made room for their lock files.
    for (entry, bytes) in without_room {
        if let Err(err) = remove_entry(root, &entry, bytes, &mut report) {
            keep_if_excused(root, &entry, err, &mut report)?;
        }
    }
    sweep_into(root, &mut report)?;
    Ok(report)
}

/// Takes the lock of an entry that was seen a while ago, without waiting. `Absent`: it is none any more.
///
/// A tree that is gone may have made room for a directory with other entries in it, of which a lock file
/// beside it would make a tree. So none is made but where a sidecar stands.
pub(crate) fn lock_seen(root: &Arc<Root>, entry: &EntryPath) -> Result<Tried> {
    if root.kind == StoreKind::Files {
        return lock::try_exclusive(root, entry, true);
    }
    let has_sidecar = || {
        let found = root.dir.look(entry.sidecar());
        let found = found.reading("look at an entry", || root.absolute(entry.value()));
        found.map(|found| found.is_some())
    };
    match lock::try_exclusive(root, entry, false)? {
        Tried::Absent if has_sidecar()? => {}
        tried => return Ok(tried),
    }
    match lock::try_exclusive(root, entry, true)? {
        Tried::Lock(lock) if !has_sidecar()? => {
            lock.retract();
            Ok(Tried::Absent)
        }
        tried => Ok(tried),
    }
}

fn remove_entry(
    root: &Arc<Root>,
    entry: &EntryPath,
    bytes: Option<u64>,
    report: &mut GcReport,
) -> Result<()> {
    match lock_seen(root, entry)? {
        // Perhaps only since this began.
        Tried::Lock(_) if pins::is_pinned(root, entry)? => {
            report.keep(root, entry.value(), KeptReason::Pinned);
        }
        Tried::Lock(lock) => {
            // What cannot be measured can hardly be removed, which says so.
            let frees = look(root, entry, true).map_or(0, |found| found.map_or(0, |it| it.frees));
            if let Removal::Removed { rest } = remove_under(lock)? {
                let left = rest.map_or(0, |rest| note_rest(root, &rest, report));
                report.removed += 1;
                report.removed_bytes = report.removed_bytes.saturating_add(bytes.unwrap_or(0));
                let freed = frees.saturating_sub(left);
                report.freed_bytes = report.freed_bytes.saturating_add(freed);
            }
        }
        Tried::Absent => {}
        Tried::Busy => report.keep(root, entry.value(), KeptReason::InUse),
    }
    Ok(())
}

/// An entry as a collection sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    pub(crate) id: FileId,
    pub(crate) used: SystemTime,
    /// Its length, where that is known without reading it.
    pub(crate) len: Option<u64>,
    /// Allocated bytes, and how many of them come back when it goes. Of a tree 0, unless asked for.
    pub(crate) bytes: u64,
    pub(crate) frees: u64,
}

/// Looks at an entry, which does not count as a use. `None`: there is none.
pub(crate) fn look(root: &Root, entry: &EntryPath, measure: bool) -> Result<Option<Looked>> {
    let at = || root.absolute(entry.value());
    let found = root.dir.look(entry.value());
    let Some(meta) = found.reading("look at an entry", at)? else {
        return Ok(None);
    };
    match (root.kind, meta.kind) {
        (StoreKind::Files, Kind::File) => Ok(Some(Looked {
            id: meta.id,
            used: meta.accessed,
            len: (root.format == Format::Raw).then_some(meta.len),
            bytes: meta.allocated,
            frees: if meta.links > 1 { 0 } else { meta.allocated },
        })),
        (StoreKind::Dirs, Kind::Dir) => look_at_tree(root, entry, &meta, measure),
        _ => Ok(None),
    }
}

fn look_at_tree(
    root: &Root,
    entry: &EntryPath,
    meta: &Meta,
    measure: bool,
) -> Result<Option<Looked>> {
    let at = || root.absolute(entry.value());
    if presence::is_inside(root, entry)? {
        return Ok(None); // a tree took the place of the directory that it was found in
    }
    let beside = sidecar::beside(root, entry).reading("look at an entry", at)?;
    if beside.as_ref().is_some_and(|beside| beside.dead) {
        return Ok(None);
    }
    let mut looked = Looked {
        id: meta.id,
        // Of a tree that a client put there, what the system notes is all there is.
        used: beside
            .as_ref()
            .map_or(meta.accessed.max(meta.modified), |beside| beside.used),
        len: None,
        bytes: 0,
        frees: 0,
    };
    looked.len = beside
        .and_then(|beside| beside.about(root, entry, meta))
        .map(|known| known.bytes);
    if measure {
        let usage = tree::disk_usage(root, entry.value()).reading("measure a tree", at)?;
        let sidecar = root.dir.look(entry.sidecar());
        let sidecar = sidecar
            .reading("look at an entry", at)?
            .map_or(0, |meta| meta.allocated);
        looked.bytes = usage.bytes.saturating_add(sidecar);
        looked.frees = usage.frees.saturating_add(sidecar);
    }
    Ok(Some(looked))
}

pub(crate) fn remove_under(lock: KeyLock) -> Result<Removal> {
    match lock.root().kind {
        StoreKind::Files => Ok(match publish::remove_file(&lock)? {
            true => Removal::Removed { rest: None },
            false => Removal::Nothing,
        }),
        StoreKind::Dirs => publish::remove_tree(lock),
    }
}

/// Reports what could not be deleted of a tree; how many bytes that takes.
pub(crate) fn note_rest(root: &Root, rest: &Rest, report: &mut GcReport) -> u64 {
    report.keep_rest(root, &rest.path, &rest.error);
    let left = staged_bytes(root, &rest.path);
    report.undeleted_bytes = report.undeleted_bytes.saturating_add(left);
    left
}

/// Removes what dead processes left behind.
pub(crate) fn sweep(root: &Arc<Root>) -> Result<GcReport> {
    check_writable(root, "sweep the store")?;
    let mut report = GcReport::default();
    sweep_into(root, &mut report)?;
    Ok(report)
}

fn sweep_into(root: &Arc<Root>, report: &mut GcReport) -> Result<()> {
    sweep_staged(root, report, Mode::Really)?;
    let mut walk = Walk::new(root);
    walk.start()?;
    let mut directories = Vec::new();
    loop {
        match walk.next() {
            Ok(None) => break,
            Ok(Some(Item::Beside(entry, path))) => {
                sweep_beside(root, &entry, &path, report, Mode::Really)?;
            }
            Ok(Some(Item::Directory(path, _))) => directories.push(path),
            Ok(Some(Item::Entry(_))) => {}
            Ok(Some(Item::Stranger(path))) => report.keep(root, path, KeptReason::Foreign),
            Err(err) => pass_over(err, report)?,
        }
    }
    // The deepest first. What is not empty stays, whoever filled it meanwhile.
    directories.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in directories {
        let _ = remove_if_empty(root, path); // what cannot be removed stays
    }
    // Only now, because there may have been no room for it before. Without it, what follows needs a little
    // room for lock files.
    let _ = root.keep_spare();
    Ok(())
}

/// Removes a directory that was on the way to entries when it was found. By now it may be gone, and a
/// tree in its place, which somebody leases and which may be empty too.
pub(crate) fn remove_if_empty(root: &Root, path: PathBuf) -> io::Result<()> {
    if root.kind == StoreKind::Dirs {
        // As long as a directory is open no other has its identity: one that is there before and
        // after these looks was there throughout, and a tree would have been marked.
        let dir = root.dir.open_dir(&path)?;
        let entry = EntryPath::checked(path.clone())?;
        let is_tree = presence::is_marked(root, &entry)? || presence::is_inside(root, &entry)?;
        if is_tree || root.dir.stat(&path)?.id != dir.stat(".")?.id {
            return Ok(());
        }
    }
    root.dir.rmdir(path)
}

pub(crate) fn sweep_beside(
    root: &Arc<Root>,
    entry: &EntryPath,
    path: &Path,
    report: &mut GcReport,
    mode: Mode,
) -> Result<()> {
    match take_beside(root, entry, mode) {
        Ok(true) => report.note_swept(root, path),
        Ok(false) => {}
        Err(err) => match excuse(&err) {
            Some(reason) => report.keep_at(&err, reason),
            None => return Err(err),
        },
    }
    Ok(())
}

/// Removes a lock file or a sidecar that nothing needs: of a tree or value that is not there, or, in
/// a store of files, of any.
fn take_beside(root: &Arc<Root>, entry: &EntryPath, mode: Mode) -> Result<bool> {
    let is_needed = || match presence::look(root, entry) {
        // The directory that it was found in may be gone by now, and a tree in its place.
        Ok(_) if presence::is_inside(root, entry)? => Ok(true),
        Ok(seen) => Ok(matches!(seen, Seen::Tree { .. })),
        // What is there instead is reported by itself. What is beside it stays until it is gone.
        Err(err) if err.kind() == ErrorKind::Corrupt => Ok(true),
        Err(err) => Err(err),
    };
    if root.kind == StoreKind::Dirs && is_needed()? {
        return Ok(false);
    }
    if root.kind == StoreKind::Dirs {
        sidecar::check_regular(root, entry)?;
    }
    let at = || root.absolute(entry.lock());
    // A directory that is no entry may be somebody's tree, with a `Cargo.lock` in it.
    // What cannot be opened is found out about when it is locked.
    let opened = root.dir.open_read(entry.lock());
    let content = opened.and_then(|file| sys::read_start(&file, record::MAX_BYTES + 1));
    if content.is_ok_and(|content| !can_be_in_a_lock_file(&content)) {
        return Err(Error::corrupt(at(), "there is a file that is no lock file"));
    }
    if mode == Mode::DryRun {
        return lock::is_held(root, entry).map(|held| !held);
    }
    // A sidecar may be alone. A lock file that is gone by now needs nobody to take it.
    let create = root.kind == StoreKind::Dirs;
    let Tried::Lock(lock) = lock::try_exclusive(root, entry, create)? else {
        return Ok(false);
    };
    let id = lock.id();
    if root.kind == StoreKind::Files {
        drop(lock);
    } else if is_needed()? {
        return Ok(false);
    } else {
        // Also ends what was begun to be deleted where it stands.
        publish::remove_tree(lock)?.was_there(root)?;
    }
    // Releasing a lock deletes its file, and does not say so if it may not.
    let left = root
        .dir
        .look(entry.lock())
        .reading("look at the lock file", at)?;
    if left.is_some_and(|left| left.id == id) {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied))
            .writing("remove the lock file", at);
    }
    Ok(true)
}

/// What is in `tmp/`. Names that are not ours are left alone.
pub(crate) fn sweep_staged(root: &Arc<Root>, report: &mut GcReport, mode: Mode) -> Result<()> {
    let at = || root.absolute(TMP);
    let names = match sys::absent_is_none(root.dir.list(TMP)) {
        Err(err) if sys::is_refused(&err) => {
            report.keep(root, TMP, KeptReason::NotPermitted);
            return Ok(());
        }
        names => names
            .reading("list what is staged", at)?
            .unwrap_or_default(),
    };
    let mut stems = HashSet::new();
    for found in names {
        let path = Path::new(TMP).join(&found.name);
        // The directory was perhaps adopted, so that the beginning of a name is not enough.
        let named = |name: &OsStr, prefixes: &[&str]| {
            let mut prefixes = prefixes.iter();
            prefixes.any(|prefix| temp::is_unique(name.as_bytes(), prefix))
        };
        // The directory, its lock and its sidecar are one staged thing.
        let stem = owner(&found.name).unwrap_or_else(|| found.name.clone());
        let is_dead = named(&found.name, &[dispose::DEAD_PREFIX]);
        let swept = if is_dead {
            match mode {
                Mode::Really => dispose::delete(root, &path).map(|()| true),
                Mode::DryRun => Ok(true),
            }
        } else if named(&found.name, &[staging::FILE_PREFIX, "m-", "l-"]) {
            sweep_file(root, &path, mode)
        } else if named(&found.name, &["d-"]) {
            match mode {
                Mode::Really => {
                    sys::absent_is_none(root.dir.rmdir(&path)).map(|removed| removed.is_some())
                }
                Mode::DryRun => Ok(true),
            }
        } else if named(&stem, &[staging::TREE_PREFIX, staging::BATCH_PREFIX]) {
            if !stems.insert(stem.clone()) {
                continue;
            }
            sweep_dir(root, &Path::new(TMP).join(&stem), mode)
        } else {
            report.keep(root, path, KeptReason::Foreign);
            continue;
        };
        match swept {
            Ok(swept) => {
                if swept {
                    report.note_swept(root, &path);
                }
                if swept && mode == Mode::DryRun {
                    let bytes = staged_bytes(root, &Path::new(TMP).join(&stem));
                    report.would_sweep_bytes = report.would_sweep_bytes.saturating_add(bytes);
                }
            }
            // No room for the lock file of a staged tree that has lost it: another time.
            Err(err) if err.kind() == io::ErrorKind::StorageFull => {}
            Err(err) if excuse_io(&err).is_none() => {
                return Err(err).writing("sweep what is staged", || root.absolute(&path));
            }
            Err(error) if is_dead => {
                note_rest(root, &Rest { path, error }, report);
            }
            Err(error) => report.keep_rest(root, &path, &error),
        }
    }
    Ok(())
}

/// What comes back to the disk when a staged thing goes, as far as this process may look.
pub(crate) fn staged_bytes(root: &Root, path: &Path) -> u64 {
    match root.dir.look(path) {
        Ok(Some(meta)) if meta.kind == Kind::Dir => {
            tree::disk_usage(root, path).map_or(0, |usage| usage.frees)
        }
        Ok(Some(meta)) if meta.links == 1 => meta.allocated,
        _ => 0,
    }
}

/// Takes the lock of something staged, if nobody has it and it still names what was locked.
fn lock_staged(root: &Root, path: &Path, create: bool) -> io::Result<Option<std::fs::File>> {
    let opened = if create {
        root.dir.open_or_create(path, 0o666)
    } else {
        root.dir.open_read(path)
    };
    let Some(file) = sys::absent_is_none(opened)? else {
        return Ok(None);
    };
    let meta = sys::fstat(&file)?;
    if meta.kind != Kind::File || !flock::try_exclusive(&file)? {
        return Ok(None);
    }
    let now = root.dir.look(path)?.map(|meta| meta.id);
    Ok((now == Some(meta.id)).then_some(file))
}

fn sweep_file(root: &Root, path: &Path, mode: Mode) -> io::Result<bool> {
    let Some(_locked) = lock_staged(root, path, false)? else {
        return Ok(false);
    };
    if mode == Mode::DryRun {
        return Ok(true);
    }
    sys::absent_is_none(root.dir.unlink(path)).map(|removed| removed.is_some())
}

fn sweep_dir(root: &Root, path: &Path, mode: Mode) -> io::Result<bool> {
    let lock_path = with_suffix(path, LOCK_SUFFIX);
    if mode == Mode::DryRun {
        let is_locked = || lock_staged(root, &lock_path, false).map(|taken| taken.is_some());
        return Ok(root.dir.look(&lock_path)?.is_none() || is_locked()?);
    }
    let Some(lock) = lock_staged(root, &lock_path, true)? else {
        return Ok(false);
    };
    // What is left of it is found by its own name the next time.
    let discarded = staging::discard(root, path);
    let removed = sys::absent_is_none(root.dir.unlink(&lock_path));
    flock::unlock(&lock)?;
    discarded?;
    removed.map(|removed| removed.is_some())
}
