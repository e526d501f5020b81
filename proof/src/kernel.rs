//! What the kernel does for a power cut, and has no safe call for.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::ioctl::{self, Setter};
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

/// `EXT4_IOC_SHUTDOWN`, which is `XFS_IOC_GOINGDOWN`.
const SHUTDOWN: ioctl::Opcode = 0x8004_587d;
/// What is in the journal's memory is not written out first.
const WITHOUT_LOG_FLUSH: u32 = 2;

/// Cuts a mounted file system off from its device: from now on nothing reaches it.
pub(crate) fn shut_down(mount_point: &Path) -> io::Result<()> {
    let dir = File::open(mount_point)?;
    // SAFETY: this request reads one u32 through the pointer, which `Setter` points at its input.
    let request = unsafe { Setter::<SHUTDOWN, u32>::new(WITHOUT_LOG_FLUSH) };
    // SAFETY: as above; other file systems do not know this number, and refuse it.
    Ok(unsafe { ioctl::ioctl(&dir, request) }?)
}

/// Gives this process a mount table of its own, so that what it mounts goes when it ends, however it
/// ends.
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: without `FILES` and `FS` no descriptor and no path means something else than before.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}
