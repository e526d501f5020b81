//! What is in a store: a walk over its directories.
//!
//! Reads only. Follows no symbolic link and touches no time that counts as a use. Invariant: it holds
//! one directory's names at a time for each level, not the whole store's.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::error::{IoContext, Result};
use crate::footer;
use crate::key::PathKey;
use crate::layout::{self, EntryPath, LOCK_SUFFIX, MARKER, SIDECAR_SUFFIX};
use crate::marker::{self, Format, StoreKind};
use crate::presence;
use crate::root::Root;
use crate::sidecar;
use crate::sys::{self, Found, Kind};

/// An entry of a store, as it was when it was listed.
///
/// It is a key: `store.remove(&entry)` removes it.
#[derive(Clone, Debug)]
pub struct Entry {
    key: PathBuf,
    path: PathBuf,
    len: Option<u64>,
    allocated: Option<u64>,
    files: Option<u64>,
    modified: SystemTime,
    used: Option<SystemTime>,
    label: Option<String>,
}

impl Entry {
    /// The absolute path of the value or tree.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes the value has; of a tree, the sum over its files when it was published. `None`
    /// for a tree of which the store knows nothing, and for a sealed value that is
    /// damaged or cannot be read.
    #[allow(clippy::len_without_is_empty)] // an entry is no collection
    pub fn len(&self) -> Option<u64> {
        self.len
    }

    /// How many bytes a value takes on disk. `None` for a tree.
    pub fn allocated_bytes(&self) -> Option<u64> {
        self.allocated
    }

    /// How many regular files a tree had when it was published. `None` for a value, and for a tree
    /// of which the store knows nothing.
    pub fn file_count(&self) -> Option<u64> {
        self.files
    }

    /// The modification time of the file, or of the tree's root.
    pub fn modified(&self) -> SystemTime {
        self.modified
    }

    /// When the entry was last used, as far as was noted. `None` for a tree of which the store knows
    /// nothing.
    pub fn last_used(&self) -> Option<SystemTime> {
        self.used
    }
}

impl PathKey for Entry {
    fn key(&self) -> PathBuf {
        self.key.clone()
    }

    fn label(&self) -> Option<Cow<'_, str>> {
        self.label.as_deref().map(Cow::Borrowed)
    }
}

/// Something that a walk found in a store's directories.
#[derive(Debug)]
pub(crate) enum Item {
    Entry(EntryPath),
    /// A lock file or sidecar, by the entry that it belongs to and by its own path.
    Beside(EntryPath, PathBuf),
    /// A directory that is no entry, before what is in it; and whether that is nothing.
    Directory(PathBuf, bool),
    /// Nothing that a store puts there.
    Stranger(PathBuf),
}

/// Walks over everything below the base directory but the store's own names at its top, and other stores.
#[derive(Debug)]
pub(crate) struct Walk {
    root: Arc<Root>,
    /// What is still to be given out, deepest last.
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    path: PathBuf,
    names: Vec<Found>,
}

impl Walk {
    pub(crate) fn new(root: &Arc<Root>) -> Self {
        Walk {
            root: Arc::clone(root),
            levels: Vec::new(),
        }
    }

    /// Begins. Separate from `new`, so that making an iterator cannot fail.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.descend(PathBuf::new()).map(drop)
    }

    /// `true`: there is nothing in it. What is in another store is that one's, so nothing of it is given
    /// out; the name of its marker is in the listing, so that no other directory costs a call for it.
    fn descend(&mut self, path: PathBuf) -> Result<bool> {
        let at_top = path.as_os_str().is_empty();
        let listed = self
            .root
            .dir
            .list(if at_top { Path::new(".") } else { &path });
        let listed = match listed {
            // Gone, or no directory any more: nothing to walk over.
            Err(err)
                if !at_top
                    && matches!(
                        err.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
            {
                return Ok(false);
            }
            listed => listed.reading("list a directory of the store", || {
                self.root.absolute(&path)
            })?,
        };
        let mut names = listed;
        if at_top {
            names.retain(|found| !layout::is_reserved(found.name.as_bytes()));
        } else if names.iter().any(|found| found.name == MARKER) && self.is_store(&path) {
            return Ok(false);
        }
        let is_empty = names.is_empty();
        self.levels.push(Level { path, names });
        Ok(is_empty)
    }

    /// Whether the file of a marker's name is one: a value may be called so, too. What cannot be read is
    /// taken for one, because it is not for this store to take away.
    fn is_store(&self, path: &Path) -> bool {
        let marker = path.join(MARKER);
        match self.root.dir.look(&marker) {
            Ok(Some(meta)) if meta.kind == Kind::File => {}
            Ok(_) => return false,
            Err(_) => return true,
        }
        let opened = self.root.dir.open_quietly(&marker);
        let start = opened.and_then(|file| sys::read_start(&file, marker::MAX_BYTES));
        start.map_or(true, |start| marker::is_any(&start))
    }

    /// Whether a directory is an entry although the listing had nothing beside it: a listing takes
    /// several calls, and the entry may have come between them. What makes it one came before it.
    fn is_marked(&self, path: &Path) -> Result<bool> {
        match EntryPath::checked(path.to_path_buf()) {
            Ok(entry) => presence::is_marked(&self.root, &entry),
            Err(_) => Ok(false),
        }
    }

    pub(crate) fn next(&mut self) -> Result<Option<Item>> {
        loop {
            let Some(level) = self.levels.last_mut() else {
                return Ok(None);
            };
            let Some(found) = level.names.pop() else {
                self.levels.pop();
                continue;
            };
            let path = level.path.join(&found.name);
            if let Some(name) = owner(&found.name) {
                return Ok(Some(match EntryPath::checked(level.path.join(name)) {
                    Ok(entry) => Item::Beside(entry, path),
                    Err(_) => Item::Stranger(path),
                }));
            }
            let kind = match found.kind {
                Some(kind) => kind,
                None => match self.root.dir.look(&path) {
                    Ok(Some(meta)) => meta.kind,
                    Ok(None) => continue,
                    Err(err) => {
                        return Err(err).reading("look at an entry", || self.root.absolute(&path));
                    }
                },
            };
            let is_entry = match (self.root.kind, kind) {
                (StoreKind::Files, Kind::File) => true,
                // What the listing had beside it may be long gone, and other entries be in it now.
                (StoreKind::Dirs, Kind::Dir) => self.is_marked(&path)?,
                _ => false,
            };
            if is_entry {
                if let Ok(entry) = EntryPath::checked(path.clone()) {
                    return Ok(Some(Item::Entry(entry)));
                }
            }
            // Somebody else's directories may be deeper than paths can be long.
            if kind != Kind::Dir || !layout::can_hold_entries(&path) {
                return Ok(Some(Item::Stranger(path)));
            }
            let is_empty = self.descend(path.clone())?;
            return Ok(Some(Item::Directory(path, is_empty)));
        }
    }
}

/// The entry's name, of a lock's or sidecar's.
pub(crate) fn owner(name: &OsStr) -> Option<OsString> {
    let name = name.as_bytes();
    let owner = name
        .strip_suffix(LOCK_SUFFIX.as_bytes())
        .or_else(|| name.strip_suffix(SIDECAR_SUFFIX.as_bytes()))?;
    Some(OsStr::from_bytes(owner).to_owned())
}

/// The entries of a store; see `entries` of the stores.
#[derive(Debug)]
#[must_use = "it finds nothing until it is asked"]
pub struct Entries {
    walk: Walk,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    New,
    Walking,
    Done,
}

impl Entries {
    pub(crate) fn new(root: &Arc<Root>) -> Self {
        Entries {
            walk: Walk::new(root),
            state: State::New,
        }
    }

    fn step(&mut self) -> Result<Option<Entry>> {
        if self.state == State::New {
            self.state = State::Walking;
            self.walk.start()?;
        }
        while let Some(item) = self.walk.next()? {
            if let Item::Entry(path) = item {
                if let Some(entry) = describe(&self.walk.root, &path)? {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    /// After an error it goes on with what is left.
    fn next(&mut self) -> Option<Result<Entry>> {
        if self.state == State::Done {
            return None;
        }
        let step = self.step().transpose();
        if step.is_none() {
            self.state = State::Done;
        }
        step
    }
}

/// What is known of an entry; `None` if it is gone.
pub(crate) fn describe(root: &Root, entry: &EntryPath) -> Result<Option<Entry>> {
    let at = || root.absolute(entry.value());
    let Some(meta) = root
        .dir
        .look(entry.value())
        .reading("look at an entry", at)?
    else {
        return Ok(None);
    };
    let mut described = Entry {
        key: entry.value().to_path_buf(),
        path: at(),
        len: Some(meta.len),
        allocated: Some(meta.allocated),
        files: None,
        modified: meta.modified,
        used: Some(meta.accessed),
        label: None,
    };
    if root.format == Format::Sealed && meta.kind == Kind::File {
        let opened = sys::absent_is_none(root.dir.open_quietly(entry.value()));
        let footer = opened.and_then(|file| match file {
            Some(file) => {
                footer::read(entry, &file, sys::fstat(&file)?.len).map(|found| found.ok())
            }
            None => Ok(None),
        });
        let footer = footer.unwrap_or_default(); // listed all the same, like a plain file
        described.len = footer.as_ref().map(|footer| footer.len);
        described.label = footer.and_then(|footer| footer.known.label);
    }
    if root.kind == StoreKind::Dirs {
        if presence::is_inside(root, entry)? {
            return Ok(None); // a tree took the place of the directory that it was found in
        }
        let beside = sidecar::beside(root, entry).reading("look at an entry", at)?;
        if beside.as_ref().is_some_and(|beside| beside.dead) {
            return Ok(None);
        }
        described.used = beside.as_ref().map(|beside| beside.used);
        described.allocated = None;
        let known = beside.and_then(|beside| beside.about(root, entry, &meta));
        described.len = known.as_ref().map(|known| known.bytes);
        described.files = known.as_ref().map(|known| known.files);
        described.label = known.and_then(|known| known.label);
    }
    Ok(Some(described))
}
