//! Having the system begin to write what it has in memory.

#![allow(unsafe_code)]

use std::fs::File;

/// Has the system begin to write a file's bytes to the disk, and waits for nothing. Makes nothing
/// durable, and takes no error away from the sync that does.
#[cfg(target_os = "linux")]
pub(crate) fn begin_to_write(file: &File) {
    use std::io;
    use std::os::fd::AsRawFd;
    let begun = super::retried("sync-range", || {
        // SAFETY: a descriptor that is open for as long as `file` is, and numbers.
        let result =
            unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    });
    drop(begun); // the sync that follows says what is wrong
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn begin_to_write(_file: &File) {}
