//! The inside of a staged tree: measured, given its permission bits, made durable.
//!
//! May call `sys`. Follows no symbolic link. Invariant: nothing outside the directory it was given
//! is touched.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::error::MountedAt;
use crate::options::Barrier;
use crate::root::Root;
use crate::staging::StagedDir;
use crate::sys::{self, Errno, FileId, Kind, Meta};

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
/// Something mounted in it is an error: it would be in the tree, and not in the store.
///
/// The root gets its owner's write permission, without which it could not be renamed to another
/// directory; `root_mode` is what it should have after that.
pub(crate) fn finish(root: &Root, tree: &Path) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let mut left = vec![tree.to_path_buf()];
    // Of files with several names: how many were found, and one of them.
    let mut linked: HashMap<FileId, (u64, Meta, PathBuf)> = HashMap::new();
    while let Some(path) = left.pop() {
        let meta = root.dir.stat(&path)?;
        if meta.kind != Kind::Dir {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let listed = match root.dir.list_below(&path) {
            // Not what is mounted there: that would have been told first.
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
                set_mode(root, &path, &meta, meta.mode | OWNER_ENTER)?;
                root.dir.list_below(&path)
            }
            listed => listed,
        };
        let listed = match listed {
            Err(err) if sys::is(&err, Errno::XDEV) => return Err(mounted_at(root, &path)),
            listed => listed?,
        };
        // What its owner cannot enter could be neither counted nor synced nor leased.
        set_mode(root, &path, &meta, meta.mode | OWNER_ENTER)?;
        for found in listed {
            let inside = path.join(&found.name);
            let kind = match found.kind {
                Some(kind @ (Kind::Dir | Kind::Link)) => kind,
                _ => {
                    let meta = root.dir.stat(&inside)?;
                    if meta.kind == Kind::File {
                        contents.bytes = contents.bytes.saturating_add(meta.len);
                        if meta.links == 1 {
                            set_mode(root, &inside, &meta, file_mode(root, meta.mode))?;
                        } else {
                            let names = linked.entry(meta.id).or_insert((0, meta, inside.clone()));
                            names.0 += 1;
                        }
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
    for (found, meta, path) in linked.into_values() {
        // If it has a name outside the tree, its bits are not the tree's to decide.
        if found == meta.links {
            set_mode(root, &path, &meta, file_mode(root, meta.mode))?;
        }
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

/// How much disk a tree takes, and how much comes back when it goes: not what has a name outside it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) frees: u64,
}

/// Looks at everything in a published tree, which does not count as a use. What this process may not look
/// into, what is mounted in it, or what goes meanwhile, is left out. `false`: it was not allowed to see all.
pub(crate) fn walk_quietly(
    root: &Root,
    tree: &Path,
    mut each: impl FnMut(&Meta),
) -> io::Result<bool> {
    fn left_out<T>(looked: io::Result<T>, was_refused: &mut bool) -> io::Result<Option<T>> {
        match looked {
            Err(err) if sys::is_refused(&err) || err.kind() == io::ErrorKind::NotADirectory => {
                *was_refused |= sys::is_refused(&err);
                Ok(None)
            }
            Err(err) if sys::is(&err, Errno::XDEV) => Ok(None),
            looked => sys::absent_is_none(looked),
        }
    }
    let mut was_refused = false;
    // By its descriptor: below the tree's path, which may be longer than that below which it was made,
    // the longest paths in it are none any more.
    let Some(tree) = left_out(root.dir.open_dir(tree), &mut was_refused)? else {
        return Ok(!was_refused);
    };
    let mut left = vec![PathBuf::from(".")];
    while let Some(path) = left.pop() {
        for found in left_out(tree.list_below_quietly(&path), &mut was_refused)?.unwrap_or_default()
        {
            let inside = path.join(&found.name);
            let Some(meta) = left_out(tree.stat(&inside), &mut was_refused)? else {
                continue;
            };
            each(&meta);
            if meta.kind == Kind::Dir {
                left.push(inside);
            }
        }
    }
    Ok(!was_refused)
}

/// Measures a published tree as [`walk_quietly`] sees it.
pub(crate) fn disk_usage(root: &Root, tree: &Path) -> io::Result<Usage> {
    let own = root.dir.look(tree)?.map_or(0, |meta| meta.allocated);
    let mut usage = Usage {
        bytes: own,
        frees: own,
    };
    let mut linked: HashMap<FileId, u64> = HashMap::new();
    walk_quietly(root, tree, |meta| {
        let mut seen = 1;
        if meta.kind != Kind::Dir && meta.links > 1 {
            let names = linked.entry(meta.id).or_insert(0);
            *names += 1;
            seen = *names;
        }
        // A file of several names counts once, and comes back if all of them are in here.
        if seen == 1 {
            usage.bytes = usage.bytes.saturating_add(meta.allocated);
        }
        if meta.kind == Kind::Dir || seen == meta.links {
            usage.frees = usage.frees.saturating_add(meta.allocated);
        }
    })?;
    Ok(usage)
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
    // A file can be mounted too. (Directories were asked about when they were listed.)
    if meta.kind == Kind::File && root.dir.is_elsewhere(path)? {
        return Err(mounted_at(root, path));
    }
    root.dir.chmod(path, mode)
}

fn mounted_at(root: &Root, path: &Path) -> io::Error {
    MountedAt(root.absolute(path)).into()
}

/// Makes a staged tree durable, and the sidecar that is staged with it.
pub(crate) fn sync(root: &Root, contents: &Contents, staged: &StagedDir) -> io::Result<()> {
    let few = contents.files.len() < MANY_FILES;
    let by_default = if few {
        Barrier::PerFile
    } else {
        Barrier::FileSystem
    };
    if durable::is_by_file_system(root.options.barrier.unwrap_or(by_default)) {
        return staged.sync_file_system();
    }
    let mut files: Vec<&Path> = contents.files.iter().map(PathBuf::as_path).collect();
    let sidecar = staged.sidecar_path();
    files.push(&sidecar);
    match durable::each(root, &files, sys::sync_all) {
        // A file that its own owner may not open; the file system may.
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            return staged.sync_file_system();
        }
        synced => synced?,
    }
    for dir in contents.dirs.iter().rev() {
        root.dir.open_dir(dir)?.sync()?;
    }
    Ok(())
}
