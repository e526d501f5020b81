//! The second look, at what a process at work could have explained at the first.
//!
//! A finding is what did not change in between and whose lock nobody holds. A lock is tried, never
//! waited for, and given back at once: never through a `KeyLock`, which deletes its file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::look::{damage_of, finding};
use super::{Finding, FindingKind};
use crate::belief;
use crate::error::{IoContext, Result};
use crate::layout::{CACHEDIR_TAG, EntryPath};
use crate::lock::record::{self, can_be_in_a_lock_file};
use crate::marker::StoreKind;
use crate::outcome::Integrity;
use crate::presence;
use crate::root::Root;
use crate::sidecar::{self, Said};
use crate::sys::{self, Errno, FileId, Kind, flock};

/// What something is suspected of.
#[derive(Debug)]
pub(super) enum Suspicion {
    Furniture(&'static str),
    /// Something in `tmp/`, and what its writer locks.
    Staged {
        path: PathBuf,
        lock: PathBuf,
    },
    /// What waits to be deleted, unless somebody is deleting it.
    Dead(PathBuf),
    Lock(EntryPath),
    Sidecar(EntryPath),
    Empty(PathBuf),
    Writable(EntryPath),
    Value(EntryPath, FileId, (FindingKind, String)),
    /// With its digests, or only what its sidecar says.
    Tree(EntryPath, bool),
}

/// See [`Suspect::is_young`].
const YOUNG: Duration = Duration::from_secs(60);

/// What changes if somebody is at work: which file it is, when it was written, how much there is.
#[derive(Debug, PartialEq, Eq)]
struct Trace(Option<(FileId, SystemTime, u64)>);

#[derive(Debug)]
pub(super) struct Suspect {
    suspicion: Suspicion,
    trace: Trace,
}

impl Suspicion {
    fn trace(&self, root: &Root) -> Result<Trace> {
        let path = match self {
            Suspicion::Furniture(name) => Path::new(name).to_path_buf(),
            Suspicion::Staged { path, .. } | Suspicion::Dead(path) | Suspicion::Empty(path) => {
                path.clone()
            }
            Suspicion::Lock(entry) => entry.lock(),
            Suspicion::Sidecar(entry) => entry.sidecar(),
            Suspicion::Writable(entry)
            | Suspicion::Value(entry, ..)
            | Suspicion::Tree(entry, _) => entry.value().to_path_buf(),
        };
        let at = || root.absolute(&path);
        let Some(meta) = root.dir.look(&path).reading("look at", at)? else {
            return Ok(Trace(None));
        };
        let size = match self {
            Suspicion::Dead(path) => count(root, path)?,
            _ => meta.len,
        };
        Ok(Trace(Some((meta.id, meta.modified, size))))
    }
}

/// How many things are in a tree that somebody may be deleting.
fn count(root: &Root, path: &Path) -> Result<u64> {
    let mut left = vec![path.to_path_buf()];
    let mut things = 0;
    while let Some(dir) = left.pop() {
        let names = match root.dir.list_quietly(&dir) {
            Err(err) if sys::is_refused(&err) => continue,
            Err(err) if err.kind() == std::io::ErrorKind::NotADirectory => continue,
            names => sys::absent_is_none(names).reading("look at", || root.absolute(&dir))?,
        };
        for found in names.unwrap_or_default() {
            things += 1;
            if found.kind != Some(Kind::File) {
                left.push(dir.join(found.name));
            }
        }
    }
    Ok(things)
}

impl Suspect {
    /// `None`: it is gone already.
    pub(super) fn new(root: &Root, suspicion: Suspicion) -> Result<Option<Self>> {
        let trace = suspicion.trace(root)?;
        let is_gone = trace.0.is_none() && !matches!(suspicion, Suspicion::Furniture(_));
        Ok((!is_gone).then_some(Suspect { suspicion, trace }))
    }

    /// Whether it came so lately that a process which got no time to run may be about to lock it.
    pub(super) fn is_young(&self) -> bool {
        let is_made_first = matches!(
            self.suspicion,
            Suspicion::Staged { .. }
                | Suspicion::Lock(_)
                | Suspicion::Sidecar(_)
                | Suspicion::Empty(_)
        );
        let age = self.trace.0.map(|(_, modified, _)| modified.elapsed());
        is_made_first && !matches!(age, Some(Ok(age)) if age > YOUNG)
    }

    /// What is wrong, if something still is.
    pub(super) fn confirm(&self, root: &Arc<Root>) -> Result<Option<Finding>> {
        if self.suspicion.trace(root)? != self.trace {
            return Ok(None);
        }
        let tell = |path: &Path, kind, what: &str| Ok(Some(finding(root, path, kind, what)));
        match &self.suspicion {
            Suspicion::Furniture(name) => confirm_furniture(root, name),
            Suspicion::Staged { path, lock } => match is_held(root, lock)? {
                true => Ok(None),
                false => tell(path, FindingKind::Leftover, "a dead process left it"),
            },
            Suspicion::Dead(path) => tell(
                path,
                FindingKind::Leftover,
                "nobody is deleting it any more",
            ),
            Suspicion::Lock(entry) => confirm_lock(root, entry),
            Suspicion::Sidecar(entry) => {
                if is_held(root, &entry.lock())? || has_tree(root, entry)? {
                    return Ok(None);
                }
                let what = "a sidecar without its tree";
                tell(&entry.sidecar(), FindingKind::OrphanSidecar, what)
            }
            Suspicion::Empty(path) => {
                let names = sys::absent_is_none(root.dir.list(path));
                let names = names.reading("look at", || root.absolute(path))?;
                let is_empty = names.is_some_and(|names| names.is_empty());
                if !is_empty || is_tree(root, path)? {
                    return Ok(None);
                }
                let what = "an empty directory that is no entry";
                tell(path, FindingKind::EmptyDirectory, what)
            }
            Suspicion::Writable(entry) => {
                let meta = root.dir.look(entry.value());
                let meta = meta.reading("look at the value", || root.absolute(entry.value()))?;
                match meta {
                    Some(meta) if root.stray_write_bits(meta.mode) != 0 => {
                        let what = "it can be written to, and a published value never changes";
                        tell(entry.value(), FindingKind::Writable, what)
                    }
                    _ => Ok(None),
                }
            }
            Suspicion::Value(entry, id, (kind, what)) => {
                match damaged_value(root, entry, *kind == FindingKind::Damaged)? {
                    Some(now) if now == (*id, *kind) => tell(entry.value(), *kind, what),
                    _ => Ok(None),
                }
            }
            Suspicion::Tree(entry, digests) => confirm_tree(root, entry, *digests),
        }
    }
}

fn confirm_furniture(root: &Root, name: &'static str) -> Result<Option<Finding>> {
    let what = match root.look_at_own(name)? {
        None => "it is missing",
        Some(_) if name == CACHEDIR_TAG && root.has_cachedir_tag()? == Some(false) => {
            "it is not the tag that backup tools look for"
        }
        Some(_) => return Ok(None),
    };
    let found = finding(root, name, FindingKind::Furniture, what);
    Ok(Some(Finding {
        mendable: true,
        ..found
    }))
}

fn confirm_lock(root: &Root, entry: &EntryPath) -> Result<Option<Finding>> {
    let path = entry.lock();
    let at = || root.absolute(&path);
    if is_held(root, &path)? || has_tree(root, entry)? {
        return Ok(None);
    }
    let opened = sys::absent_is_none(root.dir.open_quietly(&path));
    let Some(file) = opened.reading("open the lock file", at)? else {
        return Ok(None);
    };
    let content =
        sys::read_start(&file, record::MAX_BYTES + 1).reading("read the lock file", at)?;
    Ok(Some(if can_be_in_a_lock_file(&content) {
        let what = "a lock file that nobody holds and nothing needs";
        finding(root, &path, FindingKind::OrphanLock, what)
    } else {
        let what = "it has the name of a lock file and is none; move it away";
        finding(root, &path, FindingKind::Foreign, what)
    }))
}

fn confirm_tree(root: &Arc<Root>, entry: &EntryPath, digests: bool) -> Result<Option<Finding>> {
    // Who holds it exclusively may be replacing it; a lease hinders nobody who looks.
    let path = entry.lock();
    let probe = Probe::open(root, &path)?;
    let is_ours = match &probe {
        Some(probe) => probe.tried(flock::try_shared, root, &path)?,
        None => true,
    };
    if !is_ours || !is_damaged(root, entry, digests)? {
        return Ok(None);
    }
    // Without a lock file there was nothing to hold; if there is one now, somebody came.
    if probe.is_none() && Probe::open(root, &path)?.is_some() {
        return Ok(None);
    }
    let what = "it is torn or altered, or half deleted";
    Ok(Some(finding(
        root,
        entry.value(),
        FindingKind::Damaged,
        what,
    )))
}

/// Whether a tree is not what was published, or what says so cannot be believed.
pub(super) fn is_damaged(root: &Arc<Root>, entry: &EntryPath, digests: bool) -> Result<bool> {
    let at = || root.absolute(entry.value());
    let beside = sidecar::beside(root, entry).reading("look at the tree", at)?;
    let by_sidecar = match beside.map(|beside| beside.said) {
        Some(Said::Torn) => true,
        Some(Said::Whole { sidecar, .. }) => sidecar.dead,
        Some(Said::Foreign | Said::FromTheFuture(_)) | None => false,
    };
    if by_sidecar || !digests {
        return Ok(by_sidecar && has_tree(root, entry)?);
    }
    let report = belief::examine(root, entry)?;
    Ok(report.is_some_and(|report| report.integrity == Integrity::Damaged))
}

/// Which file is at a value's path, and what is wrong with it, if something is.
pub(super) fn damaged_value(
    root: &Root,
    entry: &EntryPath,
    digests: bool,
) -> Result<Option<(FileId, FindingKind)>> {
    let at = || root.absolute(entry.value());
    let opened = sys::absent_is_none(root.dir.open_quietly(entry.value()));
    let Some(file) = opened.reading("open the value", at)? else {
        return Ok(None);
    };
    let meta = sys::fstat(&file).reading("look at the value", at)?;
    let damage = damage_of(root, entry, &file, &meta, digests)?;
    Ok(damage.map(|(kind, _)| (meta.id, kind)))
}

fn has_tree(root: &Root, entry: &EntryPath) -> Result<bool> {
    if root.kind == StoreKind::Files {
        return Ok(false);
    }
    let found = root.dir.look(entry.value());
    let found = found.reading("look at the tree", || root.absolute(entry.value()))?;
    Ok(found.is_some_and(|meta| meta.kind == Kind::Dir) || presence::is_inside(root, entry)?)
}

/// Whether a directory became a tree, or came to be in one.
fn is_tree(root: &Root, path: &Path) -> Result<bool> {
    if root.kind == StoreKind::Files {
        return Ok(false);
    }
    match EntryPath::checked(path.to_path_buf()) {
        Ok(entry) => Ok(presence::is_marked(root, &entry)? || presence::is_inside(root, &entry)?),
        Err(_) => Ok(false),
    }
}

/// Whether somebody holds the lock of this file, in any way, or has just taken its name away.
pub(super) fn is_held(root: &Root, path: &Path) -> Result<bool> {
    match Probe::open(root, path)? {
        None => Ok(false),
        Some(probe) => Ok(!probe.tried(flock::try_exclusive, root, path)?),
    }
}

/// A lock that is held only to see that nobody else holds it.
struct Probe {
    file: File,
}

impl Probe {
    /// `None`: there is nothing that could be locked.
    fn open(root: &Root, path: &Path) -> Result<Option<Self>> {
        let at = || root.absolute(path);
        if root
            .dir
            .look(path)
            .reading("look at", at)?
            .map(|meta| meta.kind)
            != Some(Kind::File)
        {
            return Ok(None);
        }
        let opened = sys::absent_is_none(root.dir.open_quietly(path));
        let file = opened.reading("open the lock file", at)?;
        Ok(file.map(|file| Probe { file }))
    }

    /// Whether it is locked now, and is still the file that the path names.
    fn tried(
        &self,
        lock: impl Fn(&File) -> std::io::Result<bool>,
        root: &Root,
        path: &Path,
    ) -> Result<bool> {
        match lock(&self.file) {
            // A network file system, which wants a writable descriptor: whether it is held cannot be
            // known, and so nothing is said.
            Err(err) if sys::is(&err, Errno::BADF) => Ok(false),
            Ok(true) => {
                let now = root.dir.look(path).and_then(|now| {
                    let ours = sys::fstat(&self.file)?.id;
                    Ok(now.is_some_and(|now| now.id == ours))
                });
                now.reading("look at the lock file", || root.absolute(path))
            }
            tried => tried.reading("try the lock", || root.absolute(path)),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // A child that is between fork and exec shares the open file, so that closing is not enough.
        let _ = flock::unlock(&self.file);
    }
}
