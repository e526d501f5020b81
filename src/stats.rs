//! What is in a store, in numbers.
//!
//! Reads only, as it walks, and keeps no more than a directory's names and the locks that are held.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::collect::staged_bytes;
use crate::entries::{Item, Walk, describe, owner};
use crate::error::{IoContext, Result};
use crate::excuse::excuse;
use crate::layout::{EntryPath, LOCK_SUFFIX, TMP};
use crate::marker::StoreKind;
use crate::pins::Pinned;
use crate::root::Root;
use crate::sys::{self, Kind, Meta, flock, host};
use crate::tree;

/// What is in a store, and what this handle of it has found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Values, or trees.
    pub entries: u64,
    /// The lengths of all values; of trees, of all files in them.
    pub bytes: u64,
    /// What the values, or all that is in the trees, take on the disk.
    pub allocated: u64,
    /// Directories and entries that this user may not read. What is in them is not counted.
    pub unreadable: u64,
    /// Entries that are pinned.
    pub pinned: u64,
    /// Keys that are pinned and have no entry, or none that can be read.
    pub pinned_absent: u64,
    /// Trees that somebody leases.
    pub leased: u64,
    /// Keys that somebody holds exclusively: to compute, replace or remove.
    pub locked: u64,
    /// Values and trees that somebody is staging.
    pub staging: u64,
    /// Things in `tmp/` that nobody holds: what dead processes left, and trees that are being deleted.
    pub staging_dead: u64,
    /// What those give back to the disk when they are swept, as far as this user may look.
    pub staging_dead_bytes: u64,
    /// The use that is longest ago, as far as uses are noted.
    pub oldest_use: Option<SystemTime>,
    /// The latest use.
    pub newest_use: Option<SystemTime>,
    /// How often this handle and its clones found what they asked for.
    pub hits: u64,
    /// How often there was nothing, in calls that do not compute.
    pub misses: u64,
    /// How often they computed what was not there.
    pub computed: u64,
    /// How often they waited for somebody who computed it.
    pub waited: u64,
    /// How much they found damaged, and treated as absent.
    pub damaged: u64,
}

pub(crate) fn of(root: &Arc<Root>) -> Result<Stats> {
    let counted = root.counters.now();
    let mut stats = Stats {
        hits: counted.hits,
        misses: counted.misses,
        computed: counted.computed,
        waited: counted.waited,
        damaged: root.trust.damaged(),
        ..Stats::default()
    };
    let held = host::flocked_inodes();
    let pinned = Pinned::read(root)?;
    count_staged(root, held.as_ref(), &mut stats)?;
    let mut walk = Walk::new(root);
    walk.start()?;
    loop {
        match walk.next() {
            Ok(None) => {
                stats.pinned_absent = pinned.count().saturating_sub(stats.pinned);
                return Ok(stats);
            }
            Ok(Some(Item::Entry(entry))) => match count_entry(root, &entry, &pinned, &mut stats) {
                Err(err) if excuse(&err).is_some() => stats.unreadable += 1,
                counted => counted?,
            },
            Ok(Some(Item::Beside(_, path))) => {
                if path
                    .extension()
                    .is_some_and(|suffix| suffix == &LOCK_SUFFIX[1..])
                {
                    match holding(root, &path, held.as_ref())? {
                        Holding::Nobody => {}
                        Holding::Shared if root.kind == StoreKind::Dirs => stats.leased += 1,
                        Holding::Shared => {} // a waiter
                        Holding::Exclusive => stats.locked += 1,
                    }
                }
            }
            Ok(Some(Item::Directory(..) | Item::Stranger(_))) => {}
            Err(err) if excuse(&err).is_some() => stats.unreadable += 1,
            Err(err) => return Err(err),
        }
    }
}

fn count_entry(root: &Root, entry: &EntryPath, pinned: &Pinned, stats: &mut Stats) -> Result<()> {
    let Some(described) = describe(root, entry)? else {
        return Ok(());
    };
    stats.entries += 1;
    stats.pinned += u64::from(pinned.has(entry));
    match root.kind {
        StoreKind::Files => {
            let (len, allocated) = (described.len(), described.allocated_bytes());
            stats.bytes = stats.bytes.saturating_add(len.unwrap_or(0));
            stats.allocated = stats.allocated.saturating_add(allocated.unwrap_or(0));
        }
        StoreKind::Dirs => count_tree(root, entry.value(), stats)
            .reading("measure the tree", || root.absolute(entry.value()))?,
    }
    if let Some(used) = described.last_used() {
        stats.oldest_use = Some(stats.oldest_use.map_or(used, |oldest| oldest.min(used)));
        stats.newest_use = Some(stats.newest_use.map_or(used, |newest| newest.max(used)));
    }
    Ok(())
}

/// The lengths of all files in a tree, and what all that is in it takes. What somebody is removing
/// meanwhile is left out.
fn count_tree(root: &Root, tree: &Path, stats: &mut Stats) -> io::Result<()> {
    let own = root.dir.look(tree)?.map_or(0, |meta| meta.allocated);
    stats.allocated = stats.allocated.saturating_add(own);
    let is_all = tree::walk_quietly(root, tree, |meta| {
        stats.allocated = stats.allocated.saturating_add(meta.allocated);
        if meta.kind == Kind::File {
            stats.bytes = stats.bytes.saturating_add(meta.len);
        }
    })?;
    stats.unreadable += u64::from(!is_all);
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holding {
    Nobody,
    Shared,
    Exclusive,
}

/// Whether somebody holds the lock on a file: as the system lists it, and where it does not, by trying.
fn holding(root: &Root, path: &Path, held: Option<&HashSet<u64>>) -> Result<Holding> {
    let at = || root.absolute(path);
    let Some(meta) = root.dir.look(path).reading("look at the lock file", at)? else {
        return Ok(Holding::Nobody);
    };
    if !may_be_held(&meta, held) {
        return Ok(Holding::Nobody);
    }
    let file = match sys::absent_is_none(root.dir.open_quietly(path)) {
        Err(err) if sys::is_refused(&err) => return Ok(Holding::Nobody),
        file => file.reading("open the lock file", at)?,
    };
    let Some(file) = file else {
        return Ok(Holding::Nobody);
    };
    // Trying what is held takes nothing. It is given back at once where the list named a file of
    // another file system.
    let tried = |tried: io::Result<bool>| match tried {
        Ok(true) => flock::unlock(&file).map(|()| true),
        // A network file system, on which only a writable descriptor can be locked exclusively.
        Err(err) if sys::is(&err, sys::Errno::BADF) => Ok(true),
        tried => tried,
    };
    let is_free = tried(flock::try_exclusive(&file)).reading("try the lock", at)?;
    if is_free {
        return Ok(Holding::Nobody);
    }
    let is_shared = tried(flock::try_shared(&file)).reading("try the lock", at)?;
    Ok(if is_shared {
        Holding::Shared
    } else {
        Holding::Exclusive
    })
}

fn may_be_held(meta: &Meta, held: Option<&HashSet<u64>>) -> bool {
    meta.kind == Kind::File && held.is_none_or(|held| held.contains(&meta.id.inode()))
}

/// A staged tree is counted by its lock file, not by itself and its sidecar; a staged file by itself.
fn count_staged(root: &Root, held: Option<&HashSet<u64>>, stats: &mut Stats) -> Result<()> {
    let names = match sys::absent_is_none(root.dir.list(TMP)) {
        Err(err) if sys::is_refused(&err) => {
            stats.unreadable += 1;
            None
        }
        names => names.reading("list what is staged", || root.absolute(TMP))?,
    };
    let names = names.unwrap_or_default();
    let is_named = |name: &OsStr, suffix: &str| name.as_bytes().ends_with(suffix.as_bytes());
    let locked: HashSet<OsString> = names
        .iter()
        .filter(|found| is_named(&found.name, LOCK_SUFFIX))
        .filter_map(|found| owner(&found.name))
        .collect();
    let named = |stem: &OsStr| locked.contains(stem);
    for found in &names {
        let is_lock = is_named(&found.name, LOCK_SUFFIX);
        let stem = owner(&found.name).filter(|_| !is_lock);
        if named(&found.name) || stem.is_some_and(|stem| named(&stem)) {
            continue;
        }
        let held = holding(root, &Path::new(TMP).join(&found.name), held)?;
        match held {
            Holding::Nobody => {
                stats.staging_dead += 1;
                // Of a staged tree, the tree and not only the lock file that it is counted by.
                let name = owner(&found.name).filter(|_| is_lock);
                let name = name.as_ref().unwrap_or(&found.name);
                let bytes = staged_bytes(root, &Path::new(TMP).join(name));
                stats.staging_dead_bytes = stats.staging_dead_bytes.saturating_add(bytes);
            }
            Holding::Shared | Holding::Exclusive => stats.staging += 1,
        }
    }
    Ok(())
}
