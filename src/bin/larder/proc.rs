//! Who has which lock file open, and locked, as `/proc` tells.
//!
//! Reads only, and takes no lock, so that it disturbs nobody. Where there is no `/proc` nothing is known.
//! Other users' processes hide their files; of them `/proc/locks` tells the pid and the inode.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Who holds a lock file, and who waits for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) holders: Vec<Holder>,
    pub(crate) waiters: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) exclusive: bool,
}

/// The lock files of a store that somebody has open.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    known: BTreeMap<PathBuf, Held>,
    /// By inode: held, or waited for, by processes that hide their files.
    hidden: BTreeMap<u64, Held>,
}

impl Locks {
    pub(crate) fn of(base: &Path) -> Self {
        let mut locks = Locks::default();
        let base = fs::canonicalize(base).unwrap_or_else(|_| base.to_path_buf());
        let mut seen = BTreeSet::new();
        for process in list(Path::new("/proc")) {
            let pid = process
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok());
            let Some(pid) = pid else { continue };
            if let Ok(files) = fs::read_dir(process.join("fd")) {
                seen.insert(pid);
                for file in files.flatten() {
                    locks.note(&base, pid, &file.path());
                }
            }
        }
        locks.note_hidden(&base, &seen);
        locks
    }

    /// Those that are known by name; see [`has_hidden`](Self::has_hidden).
    pub(crate) fn known(&self) -> impl Iterator<Item = &Path> {
        self.known.keys().map(PathBuf::as_path)
    }

    /// Whether there may be more in the store than the known ones.
    pub(crate) fn has_hidden(&self) -> bool {
        !self.hidden.is_empty()
    }

    pub(crate) fn at(&self, lock: &Path) -> Held {
        let mut held = self.known.get(lock).cloned().unwrap_or_default();
        if self.has_hidden() {
            let inode = fs::symlink_metadata(lock).map(|meta| meta.ino());
            if let Some(hidden) = inode.ok().and_then(|inode| self.hidden.get(&inode)) {
                held.holders.extend(&hidden.holders);
                held.waiters.extend(&hidden.waiters);
            }
        }
        held
    }

    /// A process's open file. Most who wait do not sleep in the kernel's queue, which `/proc/locks`
    /// shows, but all have the file open.
    fn note(&mut self, base: &Path, pid: u32, file: &Path) {
        let Ok(path) = fs::read_link(file) else {
            return;
        };
        let is_lock = path.as_os_str().as_bytes().ends_with(b".lock");
        match path.strip_prefix(base) {
            Ok(inside) if is_lock && !inside.starts_with("tmp") => {}
            _ => return,
        }
        let number = file.file_name().unwrap_or_default();
        let info = Path::new("/proc").join(pid.to_string()).join("fdinfo");
        let info = fs::read_to_string(info.join(number)).unwrap_or_default();
        let lock = info
            .lines()
            .find_map(|line| Lock::parse(line.strip_prefix("lock:")?));
        let held = self.known.entry(path).or_default();
        match lock {
            Some(lock) => {
                let exclusive = lock.exclusive;
                let holder = Holder { pid, exclusive };
                // It may have the file open twice: a lease, and what a child is given of it.
                if !held.holders.contains(&holder) {
                    held.holders.push(holder);
                }
            }
            None => held.waiters.push(pid),
        }
    }

    fn note_hidden(&mut self, base: &Path, seen: &BTreeSet<u32>) {
        let text = fs::read_to_string("/proc/locks").unwrap_or_default();
        let device = device(base);
        let of_others = text.lines().filter_map(Lock::parse);
        for lock in of_others.filter(|lock| !seen.contains(&lock.pid)) {
            // Of a process of another pid namespace, or one that ended and whose child has it now.
            if lock.pid == 0 || device != Some(lock.device) || !is_alive(lock.pid) {
                continue;
            }
            let held = self.hidden.entry(lock.inode).or_default();
            if lock.waits {
                held.waiters.push(lock.pid);
            } else {
                held.holders.push(Holder {
                    pid: lock.pid,
                    exclusive: lock.exclusive,
                });
            }
        }
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(dir).into_iter().flatten().flatten();
    listed.map(|entry| entry.path()).collect()
}

/// A line of `/proc/locks`: `1: -> FLOCK  ADVISORY  WRITE 708 08:01:1234 0 EOF`.
#[derive(Debug, PartialEq, Eq)]
struct Lock {
    waits: bool,
    exclusive: bool,
    pid: u32,
    device: (u32, u32),
    inode: u64,
}

impl Lock {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1).peekable();
        let waits = words.next_if_eq(&"->").is_some();
        if words.next()? != "FLOCK" {
            return None;
        }
        let exclusive = words.nth(1)? == "WRITE";
        let pid = words.next()?.parse().ok()?;
        let mut place = words.next()?.split(':');
        let major = u32::from_str_radix(place.next()?, 16).ok()?;
        let minor = u32::from_str_radix(place.next()?, 16).ok()?;
        Some(Lock {
            waits,
            exclusive,
            pid,
            device: (major, minor),
            inode: place.next()?.parse().ok()?,
        })
    }
}

/// The number by which the kernel's listings know a file system. That of `stat` is another one on btrfs.
fn device(base: &Path) -> Option<(u32, u32)> {
    let dir = File::open(base).ok()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_raw_fd())).ok()?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts
        .lines()
        .find(|line| line.split(' ').next() == Some(mount.trim()))?;
    let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let held = Lock::parse("1: FLOCK  ADVISORY  WRITE 708 fd:1a:1234 0 EOF").unwrap();
        assert!(held.exclusive && !held.waits);
        assert_eq!(
            (held.pid, held.device, held.inode),
            (708, (0xfd, 0x1a), 1234)
        );
        let waits = Lock::parse("1: -> FLOCK  ADVISORY  READ 709 08:01:99 0 EOF").unwrap();
        assert!(waits.waits && !waits.exclusive);
        assert_eq!(
            Lock::parse("2: POSIX  ADVISORY  WRITE 9 08:01:99 0 EOF"),
            None
        );
        assert_eq!(Lock::parse("3: FLOCK  ADVISORY"), None);
    }
}
