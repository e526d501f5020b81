//! The operating system: the only caller of open, rename, link, unlink, sync, chmod, setxattr and utime.
//!
//! [`Dir`] is a directory held by a descriptor; paths given to it are relative to it. Every call
//! retries `EINTR`, and passes the fault seam first. Errors leave as `io::Error`: what was being
//! done, and to which key, is known by who called. Invariant: nothing here decides anything.

#![allow(clippy::disallowed_methods)] // this is where those methods are allowed

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, Stat, Timespec, Timestamps};

pub(crate) mod clock;
mod dir;
pub(crate) mod fault;
pub(crate) mod flock;
pub(crate) mod host;
pub(crate) mod inherit;
pub(crate) mod notify;
pub(crate) mod temp;
mod writeback;

pub(crate) use dir::{Dir, stat_base};
pub(crate) use writeback::begin_to_write;

/// Runs one system call: past the seam, and again when a signal interrupts it.
fn retried<T, E: Into<io::Error>>(
    call: &'static str,
    mut run: impl FnMut() -> Result<T, E>,
) -> io::Result<T> {
    loop {
        match fault::before(call).and_then(|()| run().map_err(Into::into)) {
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Which file this is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId {
    dev: u64,
    ino: u64,
}

/// What kind of thing a path names. Symbolic links are never followed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Link,
    Other,
}

impl FileId {
    pub(crate) fn inode(self) -> u64 {
        self.ino
    }

    pub(crate) fn device(self) -> u64 {
        self.dev
    }
}

impl Kind {
    fn of(mode: rustix::fs::RawMode) -> Self {
        match rustix::fs::FileType::from_raw_mode(mode) {
            rustix::fs::FileType::RegularFile => Kind::File,
            rustix::fs::FileType::Directory => Kind::Dir,
            rustix::fs::FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        }
    }
}

/// What `stat` tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub(crate) id: FileId,
    pub(crate) kind: Kind,
    pub(crate) len: u64,
    /// Bytes allocated on disk, which is not the length.
    pub(crate) allocated: u64,
    /// The permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) links: u64,
    /// User and group.
    #[cfg(feature = "checkpoint")]
    pub(crate) owner: (u32, u32),
    pub(crate) accessed: SystemTime,
    pub(crate) modified: SystemTime,
    /// Of its content, or of anything else about it.
    #[cfg(feature = "checkpoint")]
    pub(crate) changed: SystemTime,
}

impl Meta {
    // The types of these fields differ between platforms.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    fn of(stat: &Stat) -> Self {
        Meta {
            id: FileId {
                dev: stat.st_dev as u64,
                ino: stat.st_ino as u64,
            },
            kind: Kind::of(stat.st_mode),
            len: stat.st_size as u64,
            allocated: stat.st_blocks as u64 * 512,
            mode: stat.st_mode as u32 & 0o7777,
            links: stat.st_nlink as u64,
            #[cfg(feature = "checkpoint")]
            owner: (stat.st_uid as u32, stat.st_gid as u32),
            accessed: time(stat.st_atime as i64, stat.st_atime_nsec as i64),
            modified: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            #[cfg(feature = "checkpoint")]
            changed: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

fn time(seconds: i64, nanos: i64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    let nanos = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    base.and_then(|t| t.checked_add(nanos))
        .unwrap_or(UNIX_EPOCH)
}

/// Facts of the file system that the stores treat differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// Setting a time would copy a whole file of the lower layer up.
    pub(crate) overlay: bool,
    /// Attributes are cached, so that a path is looked up by opening it; and what is in this system's
    /// memory may be lost by another.
    pub(crate) network: bool,
    /// A sync writes single files and their names ahead of everything else, so that after a power cut a
    /// later name can be there without an earlier one.
    pub(crate) logs_single_files: bool,
}

/// Which of the two times of a file is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    Accessed,
    Modified,
    Both,
}

impl Stamp {
    fn now(self) -> Timestamps {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW as _,
        };
        let omit = Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT as _,
        };
        match self {
            Stamp::Accessed => Timestamps {
                last_access: now,
                last_modification: omit,
            },
            Stamp::Both => Timestamps {
                last_access: now,
                last_modification: now,
            },
            Stamp::Modified => Timestamps {
                last_access: omit,
                last_modification: now,
            },
        }
    }
}

/// A name found in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) name: OsString,
    /// Where the file system tells it with the name.
    pub(crate) kind: Option<Kind>,
}

/// What an open file is.
pub(crate) fn fstat(file: &File) -> io::Result<Meta> {
    retried("fstat", || rustix::fs::fstat(file)).map(|stat| Meta::of(&stat))
}

pub(crate) fn fchmod(file: &File, mode: u32) -> io::Result<()> {
    retried("fchmod", || rustix::fs::fchmod(file, mode_bits(mode)))
}

/// Gives a file to a user and a group, which only some may.
#[cfg(feature = "checkpoint")]
pub(crate) fn fchown(file: &File, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    let (user, group) = (
        user.map(rustix::fs::Uid::from_raw),
        group.map(rustix::fs::Gid::from_raw),
    );
    retried("chown", || rustix::fs::fchown(file, user, group))
}

/// Gives a file the access list of another beside it, or takes away the one that it has from its directory.
#[cfg(all(feature = "checkpoint", target_os = "linux"))]
pub(crate) fn copy_access_list(from: &File, to: &File) -> io::Result<()> {
    const NAME: &str = "system.posix_acl_access";
    const MOST: usize = 64 << 10; // the largest attribute there is
    let mut list = Vec::with_capacity(MOST);
    let read = retried("fgetxattr", || {
        rustix::fs::fgetxattr(from, NAME, rustix::buffer::spare_capacity(&mut list))
    });
    match read {
        Ok(_) => retried("fsetxattr", || {
            rustix::fs::fsetxattr(to, NAME, &list, rustix::fs::XattrFlags::empty())
        }),
        Err(err) if is(&err, Errno::NODATA) => {
            match retried("fremovexattr", || rustix::fs::fremovexattr(to, NAME)) {
                Err(err) if is(&err, Errno::NODATA) => Ok(()),
                removed => removed,
            }
        }
        // There are none on this file system.
        Err(err) if is(&err, Errno::NOTSUP) || is(&err, Errno::NOSYS) => Ok(()),
        Err(err) => Err(err),
    }
}

/// Gives a file the access list of another beside it.
#[cfg(all(feature = "checkpoint", not(target_os = "linux")))]
pub(crate) fn copy_access_list(_from: &File, _to: &File) -> io::Result<()> {
    Ok(())
}

/// Sets times of an open file to now, and leaves the others.
pub(crate) fn fstamp(file: &File, stamp: Stamp) -> io::Result<()> {
    retried("futime", || rustix::fs::futimens(file, &stamp.now()))
}

/// Makes a file's bytes, and what is needed to read them, durable.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    retried("fdatasync", || file.sync_data())
}

/// Makes a file's bytes and all its attributes durable.
pub(crate) fn sync_all(file: &File) -> io::Result<()> {
    retried("fsync", || file.sync_all())
}

pub(crate) fn truncate(file: &File, len: u64) -> io::Result<()> {
    retried("ftruncate", || file.set_len(len))
}

/// Writes at the file's position; may write less than asked.
pub(crate) fn write(mut file: &File, bytes: &[u8]) -> io::Result<usize> {
    retried("write", || io::Write::write(&mut file, bytes))
}

/// Writes all of it at this offset.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    retried("pwrite", || file.write_all_at(bytes, offset))
}

/// Copies the first `len` bytes of a file into an empty one, and says how many there are; without
/// passing them through this process, or without copying them at all, where the file system can. Both
/// were only just opened.
pub(crate) fn copy(mut from: &File, mut to: &File, len: u64) -> io::Result<u64> {
    use std::io::{Read, Seek};
    retried("copy", || {
        let done = to.stream_position()?; // it may have been interrupted in the middle
        io::copy(
            &mut Read::take(&mut from, len.saturating_sub(done)),
            &mut to,
        )
    })?;
    to.stream_position()
}

/// Opens a file that is open for reading once more, for writing.
#[cfg(target_os = "linux")]
pub(crate) fn open_again_to_write(file: &File) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    let opened = retried("open-again", || {
        rustix::fs::openat(rustix::fs::CWD, &*path, flags, Mode::empty())
    });
    opened.map(Into::into)
}

/// Opens a file that is open for reading once more, for writing.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open_again_to_write(_file: &File) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Sets a file's modification time.
pub(crate) fn set_modified(file: &File, time: SystemTime) -> io::Result<()> {
    retried("futime", || file.set_modified(time))
}

/// Reads at this offset; may read less than there is room for, and nothing only at the end.
pub(crate) fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;
    retried("pread", || file.read_at(into, offset))
}

/// Reads at most `limit` bytes from the start of the file.
pub(crate) fn read_start(file: &File, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; limit];
    let mut filled = 0;
    while filled < limit {
        let more = read_at(file, &mut bytes[filled..], filled as u64)?;
        filled += more;
        // Of a regular file a call gives less than asked only at its end.
        if filled < limit {
            break;
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Reads `len` bytes from an offset on; fewer only at the end of the file.
pub(crate) fn read_range(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(len)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(len, 0);
    let mut filled = 0;
    while filled < len {
        match read_at(file, &mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Reads the next `len` bytes of the file onto the end of `into`; fewer only at the end of the file.
pub(crate) fn read_more(file: &File, len: u64, into: &mut Vec<u8>) -> io::Result<u64> {
    let room = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    into.try_reserve_exact(room)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut read = 0;
    while read < len {
        // `spare_capacity` may offer more room than was reserved, so a file that has grown could
        // give more than `len`; that is cut off.
        let got = retried("read", || {
            rustix::io::read(file, rustix::buffer::spare_capacity(into))
        })? as u64;
        if got == 0 {
            break;
        }
        read += got;
        if read > len {
            let surplus = usize::try_from(read - len).unwrap_or(0);
            into.truncate(into.len() - surplus);
            read = len;
        }
    }
    Ok(read)
}

/// `Ok(None)` where nothing is at the path.
pub(crate) fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Whether an error is this one of the system's.
pub(crate) fn is(err: &io::Error, errno: rustix::io::Errno) -> bool {
    err.raw_os_error() == Some(errno.raw_os_error())
}

/// Whether an error means only that something is another user's.
pub(crate) fn is_refused(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::PermissionDenied || is(err, Errno::PERM)
}

pub(crate) use rustix::io::Errno;

/// Makes a directory and those above it that are missing, by absolute path. Returns the deepest
/// directory that was there before.
pub(crate) fn make_base(path: &Path, mode: u32) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut there = path;
    loop {
        match stat_base(there) {
            Ok(_) => break,
            Err(err) if err.kind() == io::ErrorKind::NotFound => missing.push(there),
            Err(err) => return Err(err),
        }
        match there.parent() {
            Some(parent) => there = parent,
            None => break,
        }
    }
    for dir in missing.iter().rev() {
        let made = retried("mkdir-base", || {
            rustix::fs::mkdirat(rustix::fs::CWD, *dir, mode_bits(mode))
        });
        match made {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    Ok(there.to_path_buf())
}

#[allow(clippy::cast_possible_truncation)]
fn mode_bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode as rustix::fs::RawMode)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy of 10 bytes that was interrupted after 3 went on with 10 more, so that what follows a sealed
    /// value went into the value.
    #[test]
    fn a_copy_goes_on_where_it_was_interrupted() {
        let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        write_at(&from, b"0123456789 and more", 0).unwrap();
        io::copy(&mut io::Read::take(&mut from, 3), &mut to).unwrap();
        assert_eq!(copy(&from, &to, 10).unwrap(), 10);
        let mut copied = [0; 20];
        let read = read_at(&to, &mut copied, 0).unwrap();
        assert_eq!(&copied[..read], b"0123456789");
    }
}
