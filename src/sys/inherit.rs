//! Handing an open file to one child process.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the process that `command` starts inherit `file`, under the number it has here.
///
/// The descriptor keeps its close-on-exec flag in this process, so that no other child gets it.
/// It stays open here for as long as `command` lives, and so does what comes with it.
pub(crate) fn give(command: &mut Command, file: File, with: impl Send + Sync + 'static) {
    let keep_open = move || {
        let _ = &with;
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).map_err(std::io::Error::from)
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called; this closure
    // makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(keep_open);
    }
}
