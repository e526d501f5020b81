//! A directory held by a descriptor, and every call on a path below it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{Access, AtFlags, Mode, OFlags, RenameFlags};

use super::{Errno, FileSystem, Found, Kind, Meta, Stamp, absent_is_none, mode_bits, retried};

/// A directory, held by a descriptor. What its methods take is relative to it.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
}

impl Dir {
    /// Opens a directory by its path; a symbolic link to one is followed.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retried("open-base", || {
            rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty())
        })?;
        Ok(Dir { fd })
    }

    /// Opens a directory below this one.
    pub(crate) fn open_dir(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let fd = self.open_with(
            "open-dir",
            path.as_ref(),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
            0,
        )?;
        Ok(Dir { fd })
    }

    /// Opens a directory below this one, and nothing that is mounted on it or on the way to it: that is
    /// `EXDEV`, before anything is asked of what is mounted.
    pub(crate) fn open_dir_below(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let fd = self.open_below("open-dir", path.as_ref(), OFlags::empty())?;
        Ok(Dir { fd })
    }

    fn open_below(&self, call: &'static str, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | flags;
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::ResolveFlags;
            let flags = flags | OFlags::CLOEXEC;
            let opened = retried(call, || {
                let ways = ResolveFlags::NO_XDEV;
                rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), ways)
            });
            match opened {
                // Before Linux 5.6, or where a sandbox does not let this call pass.
                Err(err) if super::is(&err, Errno::NOSYS) => {}
                Err(err) if super::is(&err, Errno::PERM) && !flags.contains(OFlags::NOATIME) => {}
                // The kernel saw a rename or a mount on the way, and would have looked again.
                Err(err) if super::is(&err, Errno::AGAIN) => {}
                opened => return opened,
            }
        }
        self.open_looked_at(call, path, flags)
    }

    /// The same where the kernel cannot be asked for it in one call.
    fn open_looked_at(
        &self,
        call: &'static str,
        path: &Path,
        flags: OFlags,
    ) -> io::Result<OwnedFd> {
        if self.is_elsewhere(path)? {
            return Err(Errno::XDEV.into());
        }
        self.open_with(call, path, flags, 0)
    }

    /// Whether what is at a path is seen through another mount than this is. (The device's number alone
    /// does not tell: that of a bind mount is the same.)
    pub(crate) fn is_elsewhere(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        let path = path.as_ref();
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::StatxFlags;
            let mount_of = |path: &Path, how: AtFlags| {
                let stat = retried("statx-mount", || {
                    rustix::fs::statx(&self.fd, path, how, StatxFlags::MNT_ID)
                });
                let stat = stat.ok()?;
                let known = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
                known.then_some(stat.stx_mnt_id)
            };
            let here = mount_of(Path::new(""), AtFlags::EMPTY_PATH);
            let there = mount_of(path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT);
            if let (Some(here), Some(there)) = (here, there) {
                return Ok(here != there);
            }
        }
        Ok(self.stat(path)?.id.device() != self.stat(".")?.id.device())
    }

    fn open_with(
        &self,
        call: &'static str,
        path: &Path,
        flags: OFlags,
        mode: u32,
    ) -> io::Result<OwnedFd> {
        retried(call, || {
            rustix::fs::openat(&self.fd, path, flags | OFlags::CLOEXEC, mode_bits(mode))
        })
    }

    /// Opens what should be a regular file for reading. A symbolic link is `ELOOP`; a FIFO opens
    /// at once, so the caller looks at what it got.
    pub(crate) fn open_read(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(self.open_with("open-read", path.as_ref(), flags, 0)?.into())
    }

    /// As [`open_read`](Self::open_read), and reading does not count as a use, where this process may
    /// ask for that.
    pub(crate) fn open_quietly(&self, path: impl AsRef<Path>) -> io::Result<File> {
        #[cfg(target_os = "linux")]
        {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME;
            match self.open_with("open-quietly", path.as_ref(), flags, 0) {
                Err(err) if super::is(&err, Errno::PERM) => {}
                opened => return Ok(opened?.into()),
            }
        }
        self.open_read(path)
    }

    /// Opens an existing file for reading and writing.
    pub(crate) fn open_write(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(self
            .open_with("open-write", path.as_ref(), flags, 0)?
            .into())
    }

    /// Opens a file for reading and writing, and creates it if there is none.
    pub(crate) fn open_or_create(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(self
            .open_with("open-create", path.as_ref(), flags, mode)?
            .into())
    }

    /// Creates a file that was not there, open for reading and writing.
    pub(crate) fn create_new(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        Ok(self.open_with("create", path.as_ref(), flags, mode)?.into())
    }

    pub(crate) fn mkdir(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        retried("mkdir", || {
            rustix::fs::mkdirat(&self.fd, path.as_ref(), mode_bits(mode))
        })
    }

    pub(crate) fn unlink(&self, path: impl AsRef<Path>) -> io::Result<()> {
        retried("unlink", || {
            rustix::fs::unlinkat(&self.fd, path.as_ref(), AtFlags::empty())
        })
    }

    pub(crate) fn rmdir(&self, path: impl AsRef<Path>) -> io::Result<()> {
        retried("rmdir", || {
            rustix::fs::unlinkat(&self.fd, path.as_ref(), AtFlags::REMOVEDIR)
        })
    }

    pub(crate) fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        retried("rename", || {
            rustix::fs::renameat(&self.fd, from.as_ref(), &self.fd, to.as_ref())
        })
    }

    /// Renames, but never over another; `EINVAL` or `ENOSYS` where the file system cannot.
    pub(crate) fn rename_new(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> io::Result<()> {
        retried("rename-new", || {
            rustix::fs::renameat_with(
                &self.fd,
                from.as_ref(),
                &self.fd,
                to.as_ref(),
                RenameFlags::NOREPLACE,
            )
        })
    }

    /// Renames something to a path relative to another directory.
    pub(crate) fn rename_to(
        &self,
        from: impl AsRef<Path>,
        other: &Dir,
        to: impl AsRef<Path>,
    ) -> io::Result<()> {
        retried("rename", || {
            rustix::fs::renameat(&self.fd, from.as_ref(), &other.fd, to.as_ref())
        })
    }

    /// Swaps two names in one step. `EINVAL` or `ENOSYS` where the file system cannot.
    pub(crate) fn exchange(&self, a: impl AsRef<Path>, b: impl AsRef<Path>) -> io::Result<()> {
        retried("exchange", || {
            rustix::fs::renameat_with(
                &self.fd,
                a.as_ref(),
                &self.fd,
                b.as_ref(),
                RenameFlags::EXCHANGE,
            )
        })
    }

    /// Gives a file a second name; fails if that name is taken.
    pub(crate) fn link(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        retried("link", || {
            rustix::fs::linkat(
                &self.fd,
                from.as_ref(),
                &self.fd,
                to.as_ref(),
                AtFlags::empty(),
            )
        })
    }

    /// Looks a path up, without following a symbolic link at its end.
    pub(crate) fn stat(&self, path: impl AsRef<Path>) -> io::Result<Meta> {
        retried("stat", || {
            rustix::fs::statat(&self.fd, path.as_ref(), AtFlags::SYMLINK_NOFOLLOW)
        })
        .map(|stat| Meta::of(&stat))
    }

    /// What is at a path, or `None` if nothing is.
    pub(crate) fn look(&self, path: impl AsRef<Path>) -> io::Result<Option<Meta>> {
        absent_is_none(self.stat(path))
    }

    /// The same on a network file system, if it is one: there attributes are cached, so that only an open asks
    /// the server.
    pub(crate) fn look_afresh(
        &self,
        path: impl AsRef<Path>,
        on_network: bool,
    ) -> io::Result<Option<Meta>> {
        if !on_network {
            return self.look(path);
        }
        let opened = absent_is_none(self.open_read(path))?;
        opened.as_ref().map(super::fstat).transpose()
    }

    /// Which mount this is seen through: a number that the system gives once in a boot (Linux 6.8).
    #[cfg(target_os = "linux")]
    pub(crate) fn mount(&self) -> Option<u64> {
        use rustix::fs::StatxFlags;
        const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
        let stat = retried("statx-mount", || {
            rustix::fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, MNT_ID_UNIQUE)
        })
        .ok()?;
        let known = stat.stx_mask & MNT_ID_UNIQUE.bits() != 0;
        known.then_some(stat.stx_mnt_id)
    }

    /// Which mount this is seen through, where that can be known.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn mount(&self) -> Option<u64> {
        None
    }

    /// When the file was created, where that can be known.
    #[cfg(target_os = "linux")]
    pub(crate) fn born(&self, path: impl AsRef<Path>) -> Option<(i64, u32)> {
        use rustix::fs::StatxFlags;
        let stat = retried("statx", || {
            rustix::fs::statx(
                &self.fd,
                path.as_ref(),
                AtFlags::SYMLINK_NOFOLLOW,
                StatxFlags::BTIME,
            )
        })
        .ok()?;
        let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        known.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
    }

    /// When the file was created, where that can be known.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn born(&self, _path: impl AsRef<Path>) -> Option<(i64, u32)> {
        None
    }

    /// Where a symbolic link leads.
    pub(crate) fn read_link(&self, path: impl AsRef<Path>) -> io::Result<OsString> {
        let target = retried("readlink", || {
            rustix::fs::readlinkat(&self.fd, path.as_ref(), Vec::new())
        })?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Sets the permission bits of something that is no symbolic link.
    pub(crate) fn chmod(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        retried("chmod", || {
            rustix::fs::chmodat(&self.fd, path.as_ref(), mode_bits(mode), AtFlags::empty())
        })
    }

    /// Sets one time of a file to now, and leaves the other.
    pub(crate) fn stamp(&self, path: impl AsRef<Path>, stamp: Stamp) -> io::Result<()> {
        retried("utime", || {
            rustix::fs::utimensat(
                &self.fd,
                path.as_ref(),
                &stamp.now(),
                AtFlags::SYMLINK_NOFOLLOW,
            )
        })
    }

    /// All names in a directory below this one, or (`.`) in this one.
    pub(crate) fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<Found>> {
        self.list_with(path.as_ref(), OFlags::empty())
    }

    /// As [`list`](Self::list), and listing does not count as a use, where this process may ask for that.
    pub(crate) fn list_quietly(&self, path: impl AsRef<Path>) -> io::Result<Vec<Found>> {
        #[cfg(target_os = "linux")]
        match self.list_with(path.as_ref(), OFlags::NOATIME) {
            Err(err) if super::is(&err, Errno::PERM) => {}
            listed => return listed,
        }
        self.list(path)
    }

    fn list_with(&self, path: &Path, flags: OFlags) -> io::Result<Vec<Found>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | flags;
        list_in(self.open_with("open-list", path, flags, 0)?)
    }

    /// As [`list`](Self::list), but of nothing that is mounted below this directory: that is `EXDEV`.
    pub(crate) fn list_below(&self, path: impl AsRef<Path>) -> io::Result<Vec<Found>> {
        list_in(self.open_below("open-list", path.as_ref(), OFlags::empty())?)
    }

    /// The same, as [`list_quietly`](Self::list_quietly).
    pub(crate) fn list_below_quietly(&self, path: impl AsRef<Path>) -> io::Result<Vec<Found>> {
        #[cfg(target_os = "linux")]
        match self.open_below("open-list", path.as_ref(), OFlags::NOATIME) {
            Err(err) if super::is(&err, Errno::PERM) => {}
            opened => return list_in(opened?),
        }
        self.list_below(path)
    }

    /// How many bytes are free for this user on the file system.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let stat = retried("fstatvfs", || rustix::fs::fstatvfs(&self.fd))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Fails where the file system is mounted read-only, whoever asks.
    pub(crate) fn check_mount(&self) -> io::Result<()> {
        let writable = retried("access", || {
            rustix::fs::accessat(&self.fd, ".", Access::WRITE_OK, AtFlags::empty())
        });
        match writable {
            Err(err) if err.kind() == io::ErrorKind::ReadOnlyFilesystem => Err(err),
            _ => Ok(()),
        }
    }

    /// Makes the names in this directory durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        retried("fsync-dir", || rustix::fs::fsync(&self.fd))
    }

    /// Makes everything that is dirty on this file system durable, whoever wrote it.
    #[cfg(target_os = "linux")]
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        retried("syncfs", || rustix::fs::syncfs(&self.fd))
    }

    /// What kind of file system this is on.
    #[cfg(target_os = "linux")]
    pub(crate) fn file_system(&self) -> io::Result<FileSystem> {
        const OVERLAY: u32 = 0x794c_7630;
        const BTRFS: u32 = 0x9123_683e;
        // NFS, SMB (twice), CIFS, AFS, Ceph, 9P, Lustre, GPFS, FUSE (sshfs and its like).
        const NETWORK: [u32; 10] = [
            0x6969,
            0x517b,
            0xfe53_4d42,
            0xff53_4d42,
            0x5346_414f,
            0x00c3_6400,
            0x0102_1997,
            0x0bd0_0bd0,
            0x4750_4653,
            0x6573_5546,
        ];
        let stat = retried("fstatfs", || rustix::fs::fstatfs(&self.fd))?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let magic = stat.f_type as u32;
        Ok(FileSystem {
            overlay: magic == OVERLAY,
            network: NETWORK.contains(&magic),
            logs_single_files: magic == BTRFS,
        })
    }

    /// What kind of file system this is on.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn file_system(&self) -> io::Result<FileSystem> {
        Ok(FileSystem::default())
    }
}

fn list_in(dir: OwnedFd) -> io::Result<Vec<Found>> {
    let mut dir = rustix::fs::Dir::new(dir)?;
    retried("getdents", || names_in(&mut dir))
}

fn names_in(dir: &mut rustix::fs::Dir) -> Result<Vec<Found>, Errno> {
    let mut names = Vec::new();
    for entry in dir {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(Found {
                name: OsStr::from_bytes(name).to_owned(),
                kind: match entry.file_type() {
                    rustix::fs::FileType::Unknown => None,
                    kind => Some(Kind::of(kind.as_raw_mode())),
                },
            });
        }
    }
    Ok(names)
}

/// What is at a path; a symbolic link is followed.
pub(crate) fn stat_base(path: &Path) -> io::Result<Meta> {
    retried("stat-base", || rustix::fs::stat(path)).map(|stat| Meta::of(&stat))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Both ways to open a directory that is not on another mount: that of the kernel, and the other.
    #[test]
    fn what_is_mounted_below_is_not_opened() {
        let root = Dir::open(Path::new("/")).unwrap();
        if root.mount() == Dir::open(Path::new("/proc")).unwrap().mount() {
            return; // nothing is mounted there that this could be tried with
        }
        let ways: [fn(&Dir, &Path) -> io::Result<OwnedFd>; 2] = [
            |dir, path| dir.open_below("open-dir", path, OFlags::empty()),
            |dir, path| dir.open_looked_at("open-dir", path, OFlags::DIRECTORY),
        ];
        for open in ways {
            for path in ["proc", "proc/self"] {
                let err = open(&root, Path::new(path)).unwrap_err();
                assert!(super::super::is(&err, Errno::XDEV), "{path}: {err}");
            }
            assert!(open(&root, Path::new(".")).is_ok());
            let temp = tempfile::tempdir().unwrap();
            std::fs::create_dir(temp.path().join("sub")).unwrap();
            let here = Dir::open(temp.path()).unwrap();
            assert!(open(&here, Path::new("sub")).is_ok());
            let err = open(&here, Path::new("absent")).unwrap_err();
            assert_eq!(err.kind(), io::ErrorKind::NotFound);
        }
    }
}
