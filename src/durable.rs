//! Barriers: when this returns, what was staged is on disk.
//!
//! May call `sys` and `parallel`. Invariant: an error of any file is an error of the whole, and no sync is ever
//! tried again after it failed (the kernel reports a lost write once).

use std::fs::File;
use std::io;
use std::path::Path;

use crate::options::Barrier;
use crate::parallel;
use crate::root::Root;
use crate::sys::{self, Dir};

/// Syncs in flight at once. More of them share the journal's commits; measured, 64 take a twentieth
/// of the time of one after the other, and more than that gain little.
const AT_ONCE: usize = 64;

/// Syncs each of these files, several at a time.
pub(crate) fn each(
    root: &Root,
    files: &[&Path],
    sync: fn(&File) -> io::Result<()>,
) -> io::Result<()> {
    let sync_one = |path: &&Path| sync(&root.dir.open_read(path)?);
    parallel::map(files, AT_ONCE, sync_one).map(drop)
}

/// Whether this barrier is one `syncfs`, which not every platform has.
pub(crate) fn is_by_file_system(barrier: Barrier) -> bool {
    barrier == Barrier::FileSystem && cfg!(target_os = "linux")
}

/// Syncs the file system that a directory is on. An error that the kernel noted since the directory
/// was opened is an error of this.
pub(crate) fn file_system(dir: &Dir) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return dir.sync_file_system();
    #[cfg(not(target_os = "linux"))]
    return dir.sync().and(Err(io::ErrorKind::Unsupported.into()));
}

/// Makes a file's data durable; for [`each`].
pub(crate) fn data(file: &File) -> io::Result<()> {
    sys::sync_data(file)
}
