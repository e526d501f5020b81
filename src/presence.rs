//! What is at the path of a tree: nothing, a tree, what is left of one, or something of nobody's.
//!
//! Reads only, through `sys` and `sidecar`. Invariant: a directory is an entry only if a lock file or
//! a sidecar stands beside it and none stands beside a directory above it.

use std::path::PathBuf;

use crate::error::{Error, IoContext, Result};
use crate::layout::EntryPath;
use crate::root::Root;
use crate::sidecar::{self, Beside};
use crate::sys::{self, Kind, Meta};

/// What is at an entry's path.
#[derive(Debug)]
pub(crate) enum Seen {
    Nothing,
    /// A tree that is being deleted where it stands.
    Dead,
    /// A tree that is not what was published. Only `belief` says so.
    Damaged,
    Tree {
        beside: Option<Box<Beside>>,
    },
}

/// Looks at an entry's path, and beside it.
pub(crate) fn look(root: &Root, entry: &EntryPath) -> Result<Seen> {
    if directory_at(root, entry)?.is_none() {
        return Ok(Seen::Nothing);
    }
    let beside = sidecar::beside(root, entry)
        .reading("look at the tree", || root.absolute(entry.value()))?;
    Ok(match beside {
        Some(beside) if beside.dead => Seen::Dead,
        beside => Seen::Tree {
            beside: beside.map(Box::new),
        },
    })
}

/// The directory at an entry's path; an error if something else is there.
pub(crate) fn directory_at(root: &Root, entry: &EntryPath) -> Result<Option<Meta>> {
    let at = || root.absolute(entry.value());
    let found = root.dir.look(entry.value());
    let Some(meta) = found.reading("look at the tree", at)? else {
        return Ok(None);
    };
    let why = match meta.kind {
        Kind::Dir => return Ok(Some(meta)),
        Kind::Link => "there is a symbolic link where a tree should be; move it away",
        Kind::File | Kind::Other => "there is a file where a tree should be; move it away",
    };
    Err(Error::corrupt(at(), why))
}

/// Whether there is an entry at this path.
pub(crate) fn is_entry(root: &Root, entry: &EntryPath) -> Result<bool> {
    match look(root, entry)? {
        Seen::Nothing | Seen::Dead | Seen::Damaged => Ok(false),
        Seen::Tree { beside: Some(_) } => Ok(true),
        Seen::Tree { beside: None } => Ok(is_marked(root, entry)? && !is_inside(root, entry)?),
    }
}

/// Whether a lock file or a sidecar is at an entry's path, which makes an entry of a directory.
pub(crate) fn is_marked(root: &Root, entry: &EntryPath) -> Result<bool> {
    let there = |path: PathBuf| -> Result<bool> {
        let found = root.dir.look(path);
        let found = found.reading("look at the tree", || root.absolute(entry.value()))?;
        Ok(found.is_some())
    };
    Ok(there(entry.lock())? || there(entry.sidecar())?)
}

/// Whether a key's path leads into a tree: what is in there is not the store's, even if it is called
/// like a lock file.
pub(crate) fn is_inside(root: &Root, entry: &EntryPath) -> Result<bool> {
    for above in entry.entries_above() {
        if is_marked(root, &above)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses a key at whose path there is a directory that is no entry, such as one that holds other
/// entries: a lock file beside it would make it look like one. Or anything else that is no tree; and
/// a key that leads into a tree.
pub(crate) fn refuse_strangers(root: &Root, entry: &EntryPath) -> Result<()> {
    let at = || root.absolute(entry.value());
    let refuse = |why| Err(Error::corrupt(at(), why));
    if is_inside(root, entry)? {
        return refuse("it is inside the tree of another key; use another key");
    }
    if directory_at(root, entry)?.is_none() || is_marked(root, entry)? {
        return Ok(());
    }
    // An entry may have gone, and another have come, between these looks. As long as a directory is
    // open no other has its identity: one that is there before and after was there throughout, and
    // if it is an entry, its lock file was too.
    let opened = sys::absent_is_none(root.dir.open_dir(entry.value()));
    let Some(dir) = opened.reading("look at the tree", at)? else {
        return Ok(());
    };
    let before = dir.stat(".").reading("look at the tree", at)?.id;
    let is_alone = !is_marked(root, entry)?;
    if is_alone && directory_at(root, entry)?.is_some_and(|now| now.id == before) {
        return refuse(
            "there is a directory that is no entry; if it holds other entries, use another key, \
             else move it away",
        );
    }
    Ok(())
}
