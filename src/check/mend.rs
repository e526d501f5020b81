//! Mending what a check finds.
//!
//! Invariant: an entry is removed only under its key's lock, taken without waiting, and after it was
//! seen damaged under it; everything else that goes is what a sweep takes.

use std::sync::Arc;

use super::confirm::{damaged_value, is_damaged};
use super::{CheckOptions, CheckReport, Finding, FindingKind, RepairReport, look};
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
    report.mended += root.refurnish()?;
    // What is mended in a round may uncover something, and others go on meanwhile.
    for _ in 0..MOST_ROUNDS {
        report.mended += collect::sweep(root)?.swept;
        let mut left = CheckReport::default();
        let mut mended = 0;
        left.examined = look::each(root, options, &mut |found| match mend(root, &found) {
            Ok(true) => mended += 1,
            // What may not be mended is left, and said to be.
            Ok(false) | Err(_) => left.note(found),
        })?;
        report.mended += mended;
        report.left = left;
        if mended == 0 {
            break;
        }
    }
    Ok(report)
}

/// A store in which something new is found again and again is one that somebody is damaging.
const MOST_ROUNDS: usize = 5;

/// Mends one thing. `false`: it is in use, or is not to be mended.
fn mend(root: &Arc<Root>, found: &Finding) -> Result<bool> {
    let Some(path) = found
        .path
        .strip_prefix(root.path())
        .ok()
        .filter(|_| found.mendable)
    else {
        return Ok(false);
    };
    match found.kind {
        FindingKind::Writable => take_write_bits(root, &EntryPath::checked(path.into())?),
        FindingKind::Damaged => remove_damaged(root, &EntryPath::checked(path.into())?),
        _ => Ok(false),
    }
}

fn take_write_bits(root: &Arc<Root>, entry: &EntryPath) -> Result<bool> {
    let at = || root.absolute(entry.value());
    let opened = sys::absent_is_none(root.dir.open_quietly(entry.value()));
    let Some(file) = opened.reading("open the value", at)? else {
        return Ok(true);
    };
    let meta = sys::fstat(&file).reading("look at the value", at)?;
    let stray = root.stray_write_bits(meta.mode);
    if meta.kind == Kind::File && stray != 0 {
        sys::fchmod(&file, meta.mode & !stray).writing("take its write bits", at)?;
    }
    Ok(true)
}

fn remove_damaged(root: &Arc<Root>, entry: &EntryPath) -> Result<bool> {
    let Tried::Lock(lock) = collect::lock_seen(root, entry)? else {
        return Ok(false);
    };
    match root.kind {
        StoreKind::Files => match damaged_value(root, entry, true)? {
            Some((id, FindingKind::Damaged)) => publish::remove_damaged(&lock, id).map(|_| true),
            _ => Ok(true), // somebody was faster
        },
        StoreKind::Dirs if is_damaged(root, entry, true)? => {
            publish::remove_tree(lock).map(|_| true)
        }
        StoreKind::Dirs => Ok(true),
    }
}
