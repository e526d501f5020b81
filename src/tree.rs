//! The inside of a tree: measured, given its permission bits, made durable, deleted.
//!
//! May call `sys`. Follows no symbolic link. Invariant: nothing outside the directory it was given
//! is touched, except what a hard link in it shares with the outside, and of that only the
//! permission bits.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::options::Barrier;
use crate::root::Root;
use crate::sys::{self, Dir, Kind, Meta};

const OWNER_ALL: u32 = 0o700;
const OWNER_ENTER: u32 = 0o500;
const SET_GROUP_ID: u32 = 0o2000;

/// What is in a tree, by path below the base directory.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Regular files.
    pub(crate) files: Vec<PathBuf>,
    /// Directories, each before what is in it. The first is the tree's own root.
    pub(crate) dirs: Vec<PathBuf>,
    /// The sum of the lengths of the regular files.
    pub(crate) bytes: u64,
    /// The permission bits that the root is to have once it is in place.
    pub(crate) root_mode: u32,
}

/// From this many files on, one `syncfs` is cheaper than as many `fsync`.
const MANY_FILES: usize = 64;

/// Looks at everything in a staged tree and gives it the permission bits that it is published with.
///
/// The root gets its owner's write permission, without which it could not be renamed to another
/// directory; `root_mode` is what it should have after that.
pub(crate) fn finish(root: &Root, tree: &Path) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let mut left = vec![tree.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = root.dir.stat(&path)?;
        if meta.kind != Kind::Dir {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        // What its owner cannot enter could be neither counted nor synced nor leased.
        set_mode(root, &path, &meta, meta.mode | OWNER_ENTER)?;
        for found in root.dir.list(&path)? {
            let inside = path.join(&found.name);
            let kind = match found.kind {
                Some(kind @ (Kind::Dir | Kind::Link)) => kind,
                _ => {
                    let meta = root.dir.stat(&inside)?;
                    if meta.kind == Kind::File {
                        contents.bytes = contents.bytes.saturating_add(meta.len);
                        set_mode(root, &inside, &meta, file_mode(root, meta.mode))?;
                    }
                    meta.kind
                }
            };
            match kind {
                Kind::Dir => left.push(inside),
                Kind::File => contents.files.push(inside),
                Kind::Link | Kind::Other => {}
            }
        }
        contents.dirs.push(path);
    }
    // Only now, because nothing can be looked up in a directory without its bits.
    for path in contents.dirs.iter().rev() {
        let meta = root.dir.stat(path)?;
        let mut mode = dir_mode(root, meta.mode);
        if path == tree {
            contents.root_mode = mode;
            mode |= OWNER_ALL;
        }
        set_mode(root, path, &meta, mode)?;
    }
    Ok(contents)
}

fn file_mode(root: &Root, mode: u32) -> u32 {
    let mut mode = mode;
    if root.is_group_shared() {
        mode |= 0o060;
        if mode & 0o100 != 0 {
            mode |= 0o010;
        }
    }
    if root.options.read_only_trees {
        mode = root.sealed_mode(mode);
    }
    mode
}

fn dir_mode(root: &Root, mode: u32) -> u32 {
    let mut mode = mode;
    if root.is_group_shared() {
        mode |= 0o070 | SET_GROUP_ID;
    }
    if root.options.read_only_trees {
        mode = root.sealed_mode(mode);
    }
    mode
}

fn set_mode(root: &Root, path: &Path, meta: &Meta, mode: u32) -> io::Result<()> {
    if mode == meta.mode {
        return Ok(());
    }
    match root.dir.chmod(path, mode) {
        // A hard link to a file of somebody else, who has decided about its bits.
        Err(err)
            if err.kind() == io::ErrorKind::PermissionDenied
                && meta.kind == Kind::File
                && meta.links > 1 =>
        {
            Ok(())
        }
        changed => changed,
    }
}

/// Makes a staged tree durable, and the sidecar that is staged with it.
pub(crate) fn sync(root: &Root, contents: &Contents, sidecar: &Path) -> io::Result<()> {
    let few = contents.files.len() < MANY_FILES;
    let by_default = if few {
        Barrier::PerFile
    } else {
        Barrier::FileSystem
    };
    if durable::is_by_file_system(root.options.barrier.unwrap_or(by_default)) {
        return durable::file_system(&root.dir);
    }
    let mut files: Vec<&Path> = contents.files.iter().map(PathBuf::as_path).collect();
    files.push(sidecar);
    match durable::each(root, &files, sys::sync_all) {
        // A file that its own owner may not open; the file system may.
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            return durable::file_system(&root.dir);
        }
        synced => synced?,
    }
    for dir in contents.dirs.iter().rev() {
        root.dir.open_dir(dir)?.sync()?;
    }
    Ok(())
}

/// Deletes a tree, or whatever else is at the path. What is not there is deleted.
///
/// Everything that can be deleted is, and the first thing that could not is the error: another
/// user's directory, for example.
pub(crate) fn delete(dir: &Dir, path: &Path) -> io::Result<()> {
    match dir.unlink(path) {
        Ok(()) => return Ok(()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        // EISDIR here; POSIX allows EPERM for it too. Whatever it is, a look tells.
        Err(err) => {
            if sys::absent_is_none(dir.stat(path))?.is_none_or(|meta| meta.kind != Kind::Dir) {
                return Err(err);
            }
        }
    }
    delete_dir(dir, path)
}

fn delete_dir(parent: &Dir, name: &Path) -> io::Result<()> {
    let opened = match parent.open_dir(name) {
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            parent.chmod(name, OWNER_ALL)?;
            parent.open_dir(name)
        }
        opened => opened,
    };
    let dir = match opened {
        Ok(dir) => dir,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err),
    };
    let mode = dir.stat(".")?.mode;
    if mode & OWNER_ALL != OWNER_ALL {
        // If it is not ours to change, what follows says so.
        let _ = dir.chmod(".", mode | OWNER_ALL);
    }
    let mut failed = None;
    for found in dir.list(".")? {
        let name = Path::new(&found.name);
        debug_assert!(!name.as_os_str().as_bytes().contains(&b'/'));
        let deleted = match found.kind {
            Some(Kind::Dir) => delete_dir(&dir, name),
            _ => delete(&dir, name),
        };
        if let Err(err) = deleted {
            failed.get_or_insert(err);
        }
    }
    drop(dir);
    match (failed, parent.rmdir(name)) {
        (Some(err), _) => Err(err),
        (None, Err(err)) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        (None, removed) => removed,
    }
}
