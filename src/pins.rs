//! Pins: keys whose entries no collection takes.
//!
//! Owns the files below `larder-pins/`. Invariant: a pin is there under its name only when its content is
//! on the disk; the name alone decides, the content is for listing.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;

use crate::digest::{self, OURS_LEN};
use crate::error::{IoContext, Result};
use crate::key::PathKey;
use crate::layout::{EntryPath, PINS};
use crate::root::Root;
use crate::sys::{self, Found, Kind};

/// No key's path is longer.
const MAX_BYTES: usize = 2048;

/// A key that is pinned.
///
/// It is a key: `store.unpin(&pin)` unpins it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    key: PathBuf,
    path: PathBuf,
}

impl Pin {
    /// The absolute path of the value or tree, whether there is one or not.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl PathKey for Pin {
    fn key(&self) -> PathBuf {
        self.key.clone()
    }
}

/// The names of all pins, to be looked up in.
#[derive(Debug, Default)]
pub(crate) struct Pinned(HashSet<Vec<u8>>);

impl Pinned {
    pub(crate) fn read(root: &Root) -> Result<Self> {
        let names = names(root)?.into_iter().filter(may_be_one);
        Ok(Pinned(names.map(|found| found.name.into_vec()).collect()))
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn has(&self, entry: &EntryPath) -> bool {
        !self.0.is_empty() && self.0.contains(name(entry).as_bytes())
    }
}

/// All that is in the directory of pins.
pub(crate) fn names(root: &Root) -> Result<Vec<Found>> {
    let names = sys::absent_is_none(root.dir.list(PINS));
    let names = names.reading("list the pins", || root.absolute(PINS))?;
    Ok(names.unwrap_or_default())
}

/// Whether something has the name and the kind of a pin.
fn may_be_one(found: &Found) -> bool {
    let digest = BASE64URL_NOPAD.decode(found.name.as_bytes());
    let is_named = digest.is_ok_and(|digest| digest.len() == OURS_LEN);
    is_named && found.kind.is_none_or(|kind| kind == Kind::File)
}

/// What is in the directory of pins.
pub(crate) enum Seen {
    Gone,
    Stranger,
    /// Of this key.
    Pin(PathBuf),
}

pub(crate) fn look(root: &Root, found: &Found) -> Result<Seen> {
    if !may_be_one(found) {
        return Ok(Seen::Stranger);
    }
    let path = Path::new(PINS).join(&found.name);
    let at = || root.absolute(&path);
    let Some(meta) = root.dir.look(&path).reading("read a pin", at)? else {
        return Ok(Seen::Gone);
    };
    if meta.kind != Kind::File {
        return Ok(Seen::Stranger);
    }
    let opened = sys::absent_is_none(root.dir.open_read(&path));
    let Some(file) = opened.reading("read a pin", at)? else {
        return Ok(Seen::Gone);
    };
    let content = sys::read_start(&file, MAX_BYTES + 1).reading("read a pin", at)?;
    let key = EntryPath::checked(PathBuf::from(OsStr::from_bytes(&content))).ok();
    let key = key.filter(|key| found.name == *name(key));
    Ok(key.map_or(Seen::Stranger, |key| Seen::Pin(key.value().to_path_buf())))
}

fn name(entry: &EntryPath) -> String {
    name_of(entry.value().as_os_str().as_bytes())
}

fn name_of(path: &[u8]) -> String {
    BASE64URL_NOPAD.encode(&digest::of_parts(&[path]))
}

fn path(entry: &EntryPath) -> PathBuf {
    Path::new(PINS).join(name(entry))
}

pub(crate) fn is_pinned(root: &Root, entry: &EntryPath) -> Result<bool> {
    let found = root.dir.look(path(entry));
    let found = found.reading("look for a pin", || root.absolute(path(entry)))?;
    Ok(found.is_some())
}

/// Pins a key, for good: the pin is on the disk when this returns.
pub(crate) fn pin(root: &Root, entry: &EntryPath) -> Result<()> {
    let path = path(entry);
    let at = || root.absolute(&path);
    root.check_writable_at("pin the key", at)?;
    let content = entry.value().as_os_str().as_bytes();
    // The directory is removed by whoever takes the last pin, and the staged file by a sweep: both are
    // races that can be lost, but hardly this often.
    for _ in 0..10_000 {
        root.make_directory(Path::new(PINS))
            .writing("pin the key", at)?;
        let staged = root.unique_file("m-", |file| {
            sys::write_at(file, content, 0).and_then(|()| sys::sync_all(file))
        });
        let (staged, _file) = staged.writing("pin the key", at)?;
        let linked = root.dir.link(&staged, &path);
        let _ = root.dir.unlink(&staged); // a sweep takes it if this fails
        match linked {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            linked => linked.writing("pin the key", at)?,
        }
        let synced = sys::absent_is_none(root.dir.open_dir(PINS))
            .and_then(|dir| dir.map_or(Ok(()), |dir| dir.sync()))
            .and_then(|()| root.dir.sync());
        return synced.writing("pin the key", at);
    }
    Err(io::Error::from(io::ErrorKind::NotFound)).writing("pin the key", at)
}

/// Takes a pin away. `false`: there was none.
pub(crate) fn unpin(root: &Root, entry: &EntryPath) -> Result<bool> {
    let path = path(entry);
    let at = || root.absolute(&path);
    if !is_pinned(root, entry)? {
        return Ok(false);
    }
    root.check_writable_at("unpin the key", at)?;
    let removed = sys::absent_is_none(root.dir.unlink(&path)).writing("unpin the key", at)?;
    let _ = root.dir.rmdir(PINS); // unless it has others
    root.dir.sync().writing("unpin the key", at)?;
    Ok(removed.is_some())
}

/// All pins, in the order of their paths. What is none is left to `check` to tell.
pub(crate) fn list(root: &Root) -> Result<Vec<Pin>> {
    let mut pins = Vec::new();
    for found in names(root)? {
        if let Seen::Pin(key) = look(root, &found)? {
            pins.push(Pin {
                path: root.absolute(&key),
                key,
            });
        }
    }
    pins.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(pins)
}
