//! File systems in image files: made, mounted, unmounted.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::kernel;

/// For the images of a run, and its log.
pub(crate) const ROOM_BYTES: u64 = 3 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    pub(crate) fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
        }
    }

    /// Makes an image file with an empty file system.
    pub(crate) fn make(self, image: &Path, bytes: u64) -> anyhow::Result<()> {
        File::create(image)?.set_len(bytes)?;
        let mut mkfs = Command::new(format!("mkfs.{}", self.name()));
        // A small journal: it is copied with each image.
        mkfs.args(match self {
            FileSystem::Ext4 => &["-q", "-F", "-J", "size=8"][..],
            FileSystem::Xfs | FileSystem::Btrfs => &["-q", "-f"],
        });
        run(mkfs.arg(image))
    }

    /// A mount must write nothing that the test did not.
    fn options(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "loop,noatime",
            FileSystem::Xfs => "loop,noatime,nouuid",
            FileSystem::Btrfs => "loop,noatime,nodiscard",
        }
    }
}

/// Gives this process mounts of its own, or says why it can mount nothing, or lacks a program.
pub(crate) fn why_not(file_system: FileSystem, programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there =
        |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let mkfs = format!("mkfs.{}", file_system.name());
    let mut needed = programs.iter().copied().chain(["mount", &mkfs]);
    if let Some(missing) = needed.find(|program| !is_there(program)) {
        return Some(format!("there is no {missing}"));
    }
    let refused = kernel::own_mounts().err()?;
    Some(format!("a mount table of its own is refused: {refused}"))
}

/// Runs a command to its end. What it says is in the error if it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed: {}", said.trim());
    }
    Ok(())
}

/// A mounted image; unmounted when it is dropped.
#[derive(Debug)]
pub(crate) struct Mounted {
    point: PathBuf,
}

impl Mounted {
    pub(crate) fn new(file_system: FileSystem, image: &Path, point: &Path) -> anyhow::Result<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", file_system.name(), "-o", file_system.options()]);
        run(mount.arg(image).arg(point))?;
        Ok(Mounted {
            point: point.to_path_buf(),
        })
    }

    pub(crate) fn unmount(self) -> anyhow::Result<()> {
        for _ in 0..50 {
            // The kernel may still be closing the files of processes that are gone.
            if rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::empty()).is_ok() {
                std::mem::forget(self);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} cannot be unmounted", self.point.display())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Detached: a process that still uses it keeps it for itself only.
        let _ = rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::DETACH);
    }
}
