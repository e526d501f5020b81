//! Every `flock`, through fs2.
//!
//! The only module that names fs2: to replace it is to rewrite this file. Its methods are called
//! as `FileExt::…(&file)`, because since Rust 1.89 `File` has methods of some of these names.

use std::fs::File;
use std::io;

use fs2::FileExt;

use super::retried;

/// Waits for the lock, shared with others who want it so.
pub(crate) fn shared(file: &File) -> io::Result<()> {
    retried("flock-shared", || FileExt::lock_shared(file))
}

/// Waits for the lock, alone.
pub(crate) fn exclusive(file: &File) -> io::Result<()> {
    retried("flock-exclusive", || FileExt::lock_exclusive(file))
}

/// Takes the lock shared if that needs no waiting. `false`: it is busy.
pub(crate) fn try_shared(file: &File) -> io::Result<bool> {
    busy_is_false(retried("try-flock-shared", || {
        FileExt::try_lock_shared(file)
    }))
}

/// Takes the lock alone if that needs no waiting. `false`: it is busy.
pub(crate) fn try_exclusive(file: &File) -> io::Result<bool> {
    busy_is_false(retried("try-flock-exclusive", || {
        FileExt::try_lock_exclusive(file)
    }))
}

/// Gives the lock up for every descriptor that shares this open file description.
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    retried("flock-unlock", || FileExt::unlock(file))
}

fn busy_is_false(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(err) => Err(err),
    }
}
