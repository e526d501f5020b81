//! Collection: looks a store through, asks `evict` what has to go, and takes it away.
//!
//! May call everything below the stores. Invariant: an entry goes only under its key's exclusive lock,
//! taken without waiting, after it was seen there to be the one that was planned, not used since and not
//! pinned. What the limits still ask for after something was kept, they ask of others.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::collect::{self, Mode};
use crate::entries::{self, Entry, Item, Walk};
use crate::error::{IoContext, Result};
use crate::evict::{self, Candidate, Goal, Plan, State, StoreFacts, Verdict};
use crate::excuse;
use crate::layout::{EntryPath, GC_LOCK};
use crate::lock::{self, CollectorLock, Tried, Waiting};
use crate::pins::{self, Pinned};
use crate::policy::GcPolicy;
use crate::publish::Removal;
use crate::recency;
use crate::report::{GcProgress, GcReason, GcReport, KeptReason, Removed};
use crate::root::Root;
use crate::sys::clock;

pub(crate) mod sealed {
    use super::{Arc, Root, Waiting};

    /// What a collection needs of a store.
    #[derive(Clone, Copy, Debug)]
    pub struct Parts<'a> {
        pub(crate) root: &'a Arc<Root>,
        pub(crate) waiting: &'a Waiting,
    }

    /// Of this crate's stores only.
    pub trait Sealed {
        #[doc(hidden)]
        fn parts(&self) -> Parts<'_>;
    }
}

/// A store that [`gc_all`] can collect: [`KVFileStore`](crate::KVFileStore) and
/// [`KVDirStore`](crate::KVDirStore).
pub trait Collectable: sealed::Sealed {}

/// Collects several stores under one policy: its limits hold for all of them together, the least recently
/// used going first, whichever it is in. `min_free` is asked of each file system.
///
/// It takes the stores' collection locks as each of them waits, always in the same order.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use larder::{GcPolicy, KVDirStore, KVFileStore};
///
/// let archives = KVFileStore::new(dir.path().join("archives"))?;
/// let unpacked = KVDirStore::new(dir.path().join("unpacked"))?;
/// larder::gc_all(&[&archives, &unpacked], &GcPolicy::default().max_size(20 << 30))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`KVFileStore::gc`](crate::KVFileStore::gc).
pub fn gc_all(stores: &[&dyn Collectable], policy: &GcPolicy) -> Result<GcReport> {
    let mut parts = Vec::new();
    for store in stores {
        let sealed::Parts { root, waiting } = store.parts();
        let base = root.dir.stat(".");
        let id = base
            .reading("look at the store", || root.path().to_path_buf())?
            .id;
        parts.push((id, root, waiting));
    }
    // The same store twice would wait for itself, and two callers in another order for each other.
    parts.sort_by_key(|(id, ..)| *id);
    parts.dedup_by_key(|(id, ..)| *id);
    let roots: Vec<&Arc<Root>> = parts.iter().map(|(_, root, _)| *root).collect();
    let mut locks = Vec::new();
    if !policy.dry_run {
        for (_, root, waiting) in &parts {
            collect::check_writable(root, "collect the store")?;
            locks.push(lock::collector(root, &mut waiting.start())?);
        }
    }
    run(&roots, policy, None, &locks)
}

type Keeping<'a> = Box<dyn FnMut(&Entry) -> bool + 'a>;

/// Collects one store.
pub(crate) fn collect(
    root: &Arc<Root>,
    waiting: &Waiting,
    policy: &GcPolicy,
    keeping: Option<Keeping<'_>>,
) -> Result<GcReport> {
    let mut locks = Vec::new();
    if !policy.dry_run {
        collect::check_writable(root, "collect the store")?;
        locks.push(lock::collector(root, &mut waiting.start())?);
    }
    run(&[root], policy, keeping, &locks)
}

/// Collects one store, if nobody has for so long. `None`: somebody has, or is doing it.
pub(crate) fn collect_if_due(
    root: &Arc<Root>,
    policy: &GcPolicy,
    interval: Duration,
) -> Result<Option<GcReport>> {
    let at = || root.absolute(GC_LOCK);
    let is_due = |last| recency::is_stale(last, clock::now(), interval);
    let found = root.dir.look(GC_LOCK);
    let found = found.reading("look when the store was collected", at)?;
    if found.is_some_and(|meta| !is_due(meta.modified)) {
        return Ok(None);
    }
    if policy.dry_run {
        return run(&[root], policy, None, &[]).map(Some);
    }
    collect::check_writable(root, "collect the store")?;
    let Some(lock) = lock::try_collector(root)? else {
        return Ok(None);
    };
    // Another may have ended between the look and the lock.
    let last = lock.last();
    let last = last.reading("look when the store was collected", at)?;
    if found.is_some() && !is_due(last) {
        return Ok(None);
    }
    run(&[root], policy, None, &[lock]).map(Some)
}

/// What was found in the stores, compactly: there may be millions.
#[derive(Debug, Default)]
struct Scan {
    candidates: Vec<Candidate>,
    inodes: Vec<u64>,
    /// The keys' paths, one after the other, and where each ends.
    paths: Vec<u8>,
    ends: Vec<usize>,
    /// Directories with nothing in them, which somebody who died has left.
    empty: Vec<(usize, PathBuf)>,
}

impl Scan {
    fn path(&self, index: usize) -> &Path {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Path::new(OsStr::from_bytes(&self.paths[start..self.ends[index]]))
    }
}

/// One collection, while it goes on.
struct Collection<'a> {
    roots: &'a [&'a Arc<Root>],
    policy: &'a GcPolicy,
    mode: Mode,
    keeping: Option<Keeping<'a>>,
    scan: Scan,
    report: GcReport,
    planned: u64,
    /// What a dry run did not sweep in each store, and would be free else.
    unswept: Vec<u64>,
}

/// How many entries are looked at between two words about it.
const TELL_EVERY: u64 = 1024;

fn run<'a>(
    roots: &'a [&'a Arc<Root>],
    policy: &'a GcPolicy,
    keeping: Option<Keeping<'a>>,
    locks: &[CollectorLock],
) -> Result<GcReport> {
    let mut collection = Collection {
        roots,
        policy,
        mode: if policy.dry_run {
            Mode::DryRun
        } else {
            Mode::Really
        },
        keeping,
        scan: Scan::default(),
        report: GcReport::default(),
        planned: 0,
        unswept: Vec::new(),
    };
    for (number, root) in roots.iter().enumerate() {
        let before = collection.report.would_sweep_bytes;
        collect::sweep_staged(root, &mut collection.report, collection.mode)?;
        let unswept = collection.report.would_sweep_bytes - before;
        collection.unswept.push(unswept);
        collection.scan(number, root)?;
        if collection.mode == Mode::Really {
            // Only now, because there may have been no room for it before. Without it, what follows needs
            // a little room for lock files.
            let _ = root.keep_spare();
        }
    }
    collection.evict()?;
    collection.remove_empty_directories();
    for lock in locks {
        lock.note_end();
    }
    Ok(collection.report)
}

impl Collection<'_> {
    fn scan(&mut self, number: usize, root: &Arc<Root>) -> Result<()> {
        let pinned = Pinned::read(root)?;
        let mut walk = Walk::new(root);
        walk.start()?;
        loop {
            match walk.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Item::Entry(entry))) => {
                    match collect::look(root, &entry, self.policy.needs_sizes()) {
                        Ok(Some(looked)) => self.note(number, &entry, &looked, &pinned),
                        Ok(None) => {}
                        Err(err) => excuse::pass_over(err, &mut self.report)?,
                    }
                }
                Ok(Some(Item::Beside(entry, path))) => {
                    collect::sweep_beside(root, &entry, &path, &mut self.report, self.mode)?;
                }
                Ok(Some(Item::Directory(path, true))) => self.scan.empty.push((number, path)),
                Ok(Some(Item::Directory(_, false))) => {}
                Ok(Some(Item::Stranger(path))) => {
                    self.report.keep(root, path, KeptReason::Foreign);
                }
                Err(err) => excuse::pass_over(err, &mut self.report)?,
            }
        }
    }

    fn note(
        &mut self,
        number: usize,
        entry: &EntryPath,
        looked: &collect::Looked,
        pinned: &Pinned,
    ) {
        self.report.examined += 1;
        self.report.examined_bytes = self.report.examined_bytes.saturating_add(looked.bytes);
        self.scan.candidates.push(Candidate {
            used: evict::nanos(looked.used),
            bytes: looked.bytes,
            frees: looked.frees,
            store: u16::try_from(number).unwrap_or(u16::MAX),
            state: if pinned.has(entry) {
                State::Pinned
            } else {
                State::Loose
            },
        });
        self.scan.inodes.push(looked.id.inode());
        let path = entry.value().as_os_str().as_bytes();
        self.scan.paths.extend_from_slice(path);
        self.scan.ends.push(self.scan.paths.len());
        if self.report.examined % TELL_EVERY == 0 {
            self.tell(None);
        }
    }

    fn tell(&self, just_removed: Option<&Removed>) {
        self.policy.tell(&GcProgress {
            examined: self.report.examined,
            planned: self.planned.max(self.report.removed),
            removed: self.report.removed,
            freed_bytes: self.report.freed_bytes,
            just_removed,
        });
    }

    /// What each store is on, and what those have free.
    fn survey(&self) -> Result<(Vec<StoreFacts>, Vec<u64>)> {
        let (mut stores, mut devices, mut free) = (Vec::new(), Vec::new(), Vec::new());
        for (root, unswept) in self.roots.iter().zip(&self.unswept) {
            let at = || root.path().to_path_buf();
            let base = root.dir.stat(".").reading("look at the store", at)?;
            let device = base.id.device();
            let known = devices.iter().position(|known| *known == device);
            let volume = known.unwrap_or(devices.len());
            if known.is_none() {
                devices.push(device);
                let bytes = root.dir.free_bytes();
                free.push(bytes.reading("ask for the free space", at)?);
            }
            free[volume] = free[volume].saturating_add(*unswept);
            let min_idle = self.policy.min_idle;
            stores.push(StoreFacts {
                volume,
                min_idle: min_idle.unwrap_or(root.options.touch_after.saturating_mul(2)),
            });
        }
        Ok((stores, free))
    }

    /// How many bytes of free space are missing in the end.
    fn short(&self, goal: &Goal) -> Result<u64> {
        match (self.mode, self.policy.min_free_bytes) {
            (Mode::DryRun, _) | (_, None) => Ok(goal.short()),
            // What was removed is not free as long as somebody has it open, and others write meanwhile.
            (Mode::Really, Some(least)) => {
                let (_, free) = self.survey()?;
                let short = free.iter().map(|free| least.saturating_sub(*free));
                Ok(short.fold(0, u64::saturating_add))
            }
        }
    }

    /// Removes until the limits hold, or nothing is left that may go.
    fn evict(&mut self) -> Result<()> {
        let now = clock::now();
        let (stores, free) = self.survey()?;
        let beside = self.report.undeleted_bytes;
        let goal = Goal::new(self.policy, &self.scan.candidates, beside, &free);
        let mut plan = Plan::new(&self.scan.candidates, goal, now);
        self.planned = plan.removals(&self.scan.candidates, &stores);
        while let Some(step) = plan.next(&self.scan.candidates, &stores) {
            let index = step.index as usize;
            let Candidate { store, .. } = self.scan.candidates[index];
            let root = self.roots[usize::from(store)];
            let entry = EntryPath::checked(self.scan.path(index).to_path_buf())?;
            let fate = match step.verdict {
                Verdict::Remove(reason) => self.remove(root, &entry, index, reason),
                Verdict::Keep(reason) => Ok(Fate::Kept(reason)),
            };
            self.scan.candidates[index].state = match fate {
                Ok(Fate::Gone { left }) => {
                    plan.note_gone(&self.scan.candidates[index], &stores, left);
                    State::Gone
                }
                Ok(Fate::Kept(reason)) => {
                    if reason == KeptReason::Changed {
                        self.scan.candidates[index].used = evict::nanos(now); // not too old
                    }
                    self.report.keep(root, entry.value(), reason);
                    State::Settled
                }
                Err(err) => {
                    excuse::keep_if_excused(root, &entry, err, &mut self.report)?;
                    State::Settled
                }
            };
        }
        let short = self.short(plan.goal())?;
        let (scanned, beside) = (&self.scan.candidates, self.report.undeleted_bytes);
        self.report.exceeded = evict::exceeded(scanned, beside, short, self.policy, now);
        Ok(())
    }

    /// Removes one entry, or finds out that it would.
    fn remove(
        &mut self,
        root: &Arc<Root>,
        entry: &EntryPath,
        index: usize,
        reason: GcReason,
    ) -> Result<Fate> {
        // Without the lock, because the caller may ask the store about this very key.
        if let Some(keeping) = &mut self.keeping {
            match entries::describe(root, entry)? {
                None => return Ok(Fate::Gone { left: 0 }),
                Some(entry) if keeping(&entry) => return Ok(Fate::Kept(KeptReason::ByCaller)),
                Some(_) => {}
            }
        }
        let lock = if self.mode == Mode::DryRun {
            if lock::is_held(root, entry)? {
                return Ok(Fate::Kept(KeptReason::InUse));
            }
            None
        } else {
            match collect::lock_seen(root, entry) {
                Ok(Tried::Lock(lock)) => Some(lock),
                Ok(Tried::Absent) => return Ok(Fate::Gone { left: 0 }),
                Ok(Tried::Busy) => return Ok(Fate::Kept(KeptReason::InUse)),
                // Also where the disk is full, and somebody has the spare. Others have a lock file.
                Err(err) => return Err(err),
            }
        };
        let scanned = &self.scan.candidates[index];
        // What was not measured is measured now, for the report.
        let Some(looked) = collect::look(root, entry, !self.policy.needs_sizes())? else {
            return Ok(Fate::Gone { left: 0 });
        };
        if looked.id.inode() != self.scan.inodes[index] || evict::nanos(looked.used) != scanned.used
        {
            return Ok(Fate::Kept(KeptReason::Changed));
        }
        if pins::is_pinned(root, entry)? {
            return Ok(Fate::Kept(KeptReason::Pinned));
        }
        let mut freed_bytes = looked.frees.max(scanned.frees);
        let mut left = 0;
        if let Some(lock) = lock {
            match collect::remove_under(lock)? {
                Removal::Nothing => return Ok(Fate::Gone { left }),
                Removal::Removed { rest: Some(rest) } => {
                    left = collect::note_rest(root, &rest, &mut self.report);
                    freed_bytes = freed_bytes.saturating_sub(left);
                }
                Removal::Removed { rest: None } => {}
            }
        }
        let removed = Removed {
            path: root.absolute(entry.value()),
            reason,
            freed_bytes,
        };
        let len = looked.len.unwrap_or(0);
        self.report.removed_bytes = self.report.removed_bytes.saturating_add(len);
        self.report.note_removed(removed.clone());
        self.tell(Some(&removed));
        Ok(Fate::Gone { left })
    }

    /// And those above them that are empty then.
    fn remove_empty_directories(&mut self) {
        if self.mode == Mode::DryRun {
            return;
        }
        for (number, path) in std::mem::take(&mut self.scan.empty) {
            for path in path.ancestors().take_while(|path| *path != Path::new("")) {
                // What is not empty any more, or not ours to remove, stays.
                if collect::remove_if_empty(self.roots[number], path.to_path_buf()).is_err() {
                    break;
                }
            }
        }
    }
}

/// What became of an entry.
enum Fate {
    /// But for so many bytes, which could not be deleted.
    Gone {
        left: u64,
    },
    Kept(KeptReason),
}
