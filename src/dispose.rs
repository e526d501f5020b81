//! Taking trees out of sight, and deleting them.
//!
//! May call `sys` and ask `root` for names in `tmp/`. Follows no symbolic link, and enters nothing that is
//! mounted in a tree: that is somebody else's, and stays. Invariant: what is
//! deleted was renamed to `tmp/dead-…` before, so that nothing half deleted is ever at a key's path;
//! but for what cannot be renamed, which `publish` declares dead first.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::MountedAt;
use crate::root::Root;
use crate::sys::{self, Dir, Errno, Kind, Meta};

/// What the name of a tree in `tmp/` that only waits to be deleted begins with.
pub(crate) const DEAD_PREFIX: &str = "dead-";

const OWNER_ALL: u32 = 0o700;

/// Renames a tree to a name in `tmp/` under which it only waits to be deleted. `None`: there is
/// none.
pub(crate) fn set_aside(root: &Root, path: &Path) -> io::Result<Option<PathBuf>> {
    let Some(meta) = root.dir.look(path)? else {
        return Ok(None);
    };
    let renamed = made_movable(&root.dir, path, &meta, || {
        root.unique(DEAD_PREFIX, |dead| {
            // A rename replaces an empty directory, and that is all the same for what is dead. A
            // process that forked may draw the names that its parent drew.
            match root.dir.rename(path, dead) {
                Err(err) if err.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    Err(io::ErrorKind::AlreadyExists.into())
                }
                renamed => renamed,
            }
        })
    });
    let renamed = renamed.map_err(|err| match sys::is(&err, Errno::BUSY) {
        true if root.dir.is_elsewhere(path).unwrap_or(false) => {
            MountedAt(root.absolute(path)).into()
        }
        _ => err,
    });
    sys::absent_is_none(renamed).map(|renamed| renamed.map(|(dead, ())| dead))
}

/// Runs a rename of a directory that gets another parent by it: for that, who is not root needs its
/// write permission. If it stays where it was, it gets back the bits that it had.
pub(crate) fn made_movable<T>(
    dir: &Dir,
    path: &Path,
    meta: &Meta,
    rename: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    if meta.kind != Kind::Dir || meta.mode & 0o200 != 0 {
        return rename();
    }
    // The bits would be those of what is mounted there. It cannot be renamed either.
    if dir.is_elsewhere(path)? {
        return Err(Errno::BUSY.into());
    }
    // If it is not ours to give, the rename says so.
    let changed = dir.chmod(path, meta.mode | 0o200).is_ok();
    let renamed = rename();
    if renamed.is_err() && changed {
        let _ = dir.chmod(path, meta.mode); // the first error is the one to tell
    }
    renamed
}

/// Deletes a tree, or whatever else is at a path. What is not there is deleted.
///
/// Everything that can be deleted is, and the first thing that could not is the error: another
/// user's directory, for example, or what something is mounted on ([`MountedAt`]).
pub(crate) fn delete(root: &Root, path: &Path) -> io::Result<()> {
    let mut deletion = Deletion {
        root,
        left: vec![path.to_path_buf()],
        inside: PathBuf::new(),
    };
    let mut failed = Ok(());
    while let Some(path) = deletion.left.pop() {
        failed = failed.and(deletion.delete(&root.dir, &path, 0));
    }
    failed
}

/// Deeper than this, a directory is not entered but moved to the top, and deleted from there: each
/// level takes a descriptor.
const DEEPEST: usize = 64;

struct Deletion<'a> {
    root: &'a Root,
    /// Relative to the base directory.
    left: Vec<PathBuf>,
    /// The directory in which it is just now, likewise.
    inside: PathBuf,
}

impl Deletion<'_> {
    fn delete(&mut self, dir: &Dir, name: &Path, depth: usize) -> io::Result<()> {
        match dir.unlink(name) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            // EISDIR here; POSIX allows EPERM for it too. Whatever it is, a look tells.
            Err(err) => match dir.look(name)? {
                // Somebody else deletes it too.
                None => Ok(()),
                Some(meta) if meta.kind == Kind::Dir => self.delete_dir(dir, name, depth),
                Some(_) => Err(self.explained(dir, name, err)),
            },
            Ok(()) => Ok(()),
        }
    }

    fn delete_dir(&mut self, parent: &Dir, name: &Path, depth: usize) -> io::Result<()> {
        if depth >= DEEPEST && self.moved_to_the_top(parent, name) {
            return Ok(());
        }
        let opened = match parent.open_dir_below(name) {
            // Not what is mounted there: that would have been told first.
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => parent
                .chmod(name, OWNER_ALL)
                .and_then(|()| parent.open_dir_below(name)),
            opened => opened,
        };
        let opened = opened.map_err(|err| self.explained(parent, name, err));
        let Some(dir) = sys::absent_is_none(opened)? else {
            return Ok(());
        };
        self.inside.push(name);
        let emptied = self.empty(&dir, depth);
        for _ in name.components() {
            self.inside.pop();
        }
        drop(dir);
        emptied?;
        let removed = parent.rmdir(name);
        let removed = removed.map_err(|err| self.explained(parent, name, err));
        sys::absent_is_none(removed).map(|_| ())
    }

    fn empty(&mut self, dir: &Dir, depth: usize) -> io::Result<()> {
        let mode = dir.stat(".")?.mode;
        if mode & OWNER_ALL != OWNER_ALL {
            // If it is not ours to change, what follows says so.
            let _ = dir.chmod(".", mode | OWNER_ALL);
        }
        let mut failed = Ok(());
        for found in dir.list(".")? {
            let name = Path::new(&found.name);
            failed = failed.and(match found.kind {
                Some(Kind::Dir) => self.delete_dir(dir, name, depth + 1),
                _ => self.delete(dir, name, depth + 1),
            });
        }
        failed
    }

    /// Says of what could not be deleted that something is mounted there, if that is why.
    fn explained(&self, dir: &Dir, name: &Path, err: io::Error) -> io::Error {
        let is_mount = sys::is(&err, Errno::XDEV)
            || sys::is(&err, Errno::BUSY) && dir.is_elsewhere(name).unwrap_or(false);
        match is_mount {
            true => MountedAt(self.root.absolute(self.inside.join(name))).into(),
            false => err,
        }
    }

    /// Where that is refused, it is deleted where it is, as long as the descriptors last.
    fn moved_to_the_top(&mut self, parent: &Dir, name: &Path) -> bool {
        let root = self.root;
        let moved = parent.stat(name).and_then(|meta| {
            made_movable(parent, name, &meta, || {
                root.unique(DEAD_PREFIX, |dead| parent.rename_to(name, &root.dir, dead))
            })
        });
        moved.map(|(dead, ())| self.left.push(dead)).is_ok()
    }
}
