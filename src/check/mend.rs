//! Mending what a check finds.
//!
//! Invariant: an entry is removed only under its key's lock, taken without waiting, and after it was
//! seen damaged under it; everything else that goes is what a sweep takes.

use std::sync::Arc;

use super::confirm::{damaged_value, is_damaged};
use super::{CheckOptions, CheckReport, Finding, FindingKind, MendAction, RepairReport, look};
use crate::collect;
use crate::error::{Error, IoContext, Result};
use crate::layout::EntryPath;
use crate::lock::Tried;
use crate::marker::StoreKind;
use crate::publish;
use crate::root::Root;
use crate::sys::{self, Kind};

pub(crate) fn repair(root: &Arc<Root>, options: &CheckOptions) -> Result<RepairReport> {
    let at = || root.path().to_path_buf();
    root.check_writable_at("repair the store", at)?;
    root.dir.check_mount().writing("repair the store", at)?;
    let mut report = RepairReport::default();
    // Not in a directory that lost its marker: who knows whose it is now.
    match root.read_marker()? {
        Some(marker) if root.agrees_with(&marker) => {}
        _ => {
            let why = "its marker is gone or changed since it was opened; open it again";
            return Err(Error::mismatch(root.path(), why));
        }
    }
    for name in root.refurnish()? {
        report.note(root.absolute(name), MendAction::MadeAnew);
    }
    // What is mended in a round may uncover something, and others go on meanwhile.
    for _ in 0..MOST_ROUNDS {
        let swept = collect::sweep(root)?;
        report.mended += swept.swept - swept.swept_paths.len() as u64; // those that are not listed
        for path in swept.swept_paths {
            report.note(path, MendAction::Removed);
        }
        let mut left = CheckReport::default();
        let mut was_mended = false;
        let looked = look::each(root, options, &mut |found| match mend(root, &found) {
            Ok(Mending::Done(action)) => {
                was_mended = true;
                report.note(found.path, action);
            }
            Ok(Mending::NotNeeded) => was_mended = true,
            // What may not be mended is left, and said to be.
            Ok(Mending::Left) | Err(_) => left.note(found),
        })?;
        report.left = CheckReport {
            found: left.found,
            findings: left.findings,
            ..looked
        };
        if !was_mended {
            break;
        }
    }
    Ok(report)
}

/// A store in which something new is found again and again is one that somebody is damaging.
const MOST_ROUNDS: usize = 5;

/// What came of mending one thing.
enum Mending {
    Done(MendAction),
    /// Somebody else was faster.
    NotNeeded,
    /// It is in use, or is not to be mended.
    Left,
}

fn mend(root: &Arc<Root>, found: &Finding) -> Result<Mending> {
    let path = found.path.strip_prefix(root.path()).ok();
    let Some(path) = path.filter(|_| found.mendable) else {
        return Ok(Mending::Left);
    };
    match found.kind {
        FindingKind::Writable => take_write_bits(root, &EntryPath::checked(path.into())?),
        FindingKind::Damaged => remove_damaged(root, &EntryPath::checked(path.into())?),
        _ => Ok(Mending::Left),
    }
}

fn take_write_bits(root: &Arc<Root>, entry: &EntryPath) -> Result<Mending> {
    let at = || root.absolute(entry.value());
    let opened = sys::absent_is_none(root.dir.open_quietly(entry.value()));
    let Some(file) = opened.reading("open the value", at)? else {
        return Ok(Mending::NotNeeded);
    };
    let meta = sys::fstat(&file).reading("look at the value", at)?;
    let stray = root.stray_write_bits(meta.mode);
    if meta.kind != Kind::File || stray == 0 {
        return Ok(Mending::NotNeeded);
    }
    sys::fchmod(&file, meta.mode & !stray).writing("take its write bits", at)?;
    Ok(Mending::Done(MendAction::WriteBitsTaken))
}

fn remove_damaged(root: &Arc<Root>, entry: &EntryPath) -> Result<Mending> {
    let Tried::Lock(lock) = collect::lock_seen(root, entry)? else {
        return Ok(Mending::Left);
    };
    let removed = match root.kind {
        StoreKind::Files => match damaged_value(root, entry, true)? {
            Some((id, FindingKind::Damaged)) => publish::remove_damaged(&lock, id)?,
            _ => false,
        },
        StoreKind::Dirs => {
            is_damaged(root, entry, true)? && publish::remove_tree(lock)?.was_there(root)?
        }
    };
    Ok(match removed {
        true => Mending::Done(MendAction::Removed),
        false => Mending::NotNeeded,
    })
}
