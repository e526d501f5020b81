//! What a closure writes a value through.
//!
//! Invariant: a write that failed, or a stated length that was not met, cannot be published, even if
//! the closure ignores it.

use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, IoContext, Repr, Result};
use crate::file_store::KVFileLock;
use crate::file_store::value::LockedRead;
use crate::key::PathKey;
use crate::layout::EntryPath;
use crate::publish;
use crate::root::Root;
use crate::staging::StagedFile;
use crate::sys;

/// Small writes are gathered up to this many bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// A staged file with its buffer, position and expectations.
#[derive(Debug)]
struct Sink {
    root: Arc<Root>,
    /// For messages: the value's absolute path.
    value: PathBuf,
    staged: StagedFile,
    buffer: Vec<u8>,
    /// Where the next byte goes, buffered ones included.
    position: u64,
    len: u64,
    expected: Option<u64>,
    failed: Option<Failed>,
}

/// Why nothing that was written can be published.
#[derive(Clone, Copy, Debug)]
enum Failed {
    /// With the system's number, where it is the system that said so.
    Io(io::ErrorKind, Option<i32>),
    TooLong {
        expected: u64,
        actual: u64,
    },
}

impl Sink {
    fn new(root: &Arc<Root>, entry: &EntryPath, staged: StagedFile) -> Self {
        Sink {
            root: Arc::clone(root),
            value: root.absolute(entry.value()),
            staged,
            buffer: Vec::new(),
            position: 0,
            len: 0,
            expected: None,
            failed: None,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed.is_some() {
            return Err(io::Error::other("an earlier write of this value failed"));
        }
        let end = self.position.saturating_add(bytes.len() as u64);
        if let Some(expected) = self.expected.filter(|&expected| end > expected) {
            let failed = Failed::TooLong {
                expected,
                actual: end,
            };
            self.failed = Some(failed);
            return Err(self.failure(failed).into());
        }
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        let written = if bytes.len() >= BUFFER_BYTES {
            let written = sys::write(self.staged.file(), bytes);
            self.note(written)?
        } else {
            self.buffer.extend_from_slice(bytes);
            bytes.len()
        };
        self.position += written as u64;
        self.len = self.len.max(self.position);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut done = 0;
        while done < self.buffer.len() {
            match self.note(sys::write(self.staged.file(), &self.buffer[done..]))? {
                0 => {
                    self.failed = Some(Failed::Io(io::ErrorKind::WriteZero, None));
                    return Err(io::ErrorKind::WriteZero.into());
                }
                more => done += more,
            }
        }
        self.buffer.clear();
        Ok(())
    }

    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.flush()?;
        let sought = self.staged.file().seek(to);
        self.position = sought?;
        Ok(self.position)
    }

    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(err) = &result {
            self.failed = Some(Failed::Io(err.kind(), err.raw_os_error()));
        }
        result
    }

    fn failure(&self, failed: Failed) -> Error {
        match failed {
            Failed::TooLong { expected, actual } => self.wrong_len(expected, actual, true),
            Failed::Io(kind, errno) => Repr::Write {
                path: self.value.clone(),
                kind,
                source: errno
                    .map_or_else(|| kind.into(), io::Error::from_raw_os_error)
                    .into(),
            }
            .into(),
        }
    }

    fn wrong_len(&self, expected: u64, actual: u64, at_least: bool) -> Error {
        Repr::SizeMismatch {
            path: self.value.clone(),
            expected,
            actual,
            at_least,
        }
        .into()
    }

    /// The error of a closure that failed: the writer's, if that is the reason.
    fn closure_failed(&self, label: Option<String>, source: anyhow::Error) -> Error {
        let path = self.value.clone();
        match self.failed {
            Some(failed @ Failed::TooLong { .. }) => self.failure(failed),
            Some(Failed::Io(kind, _)) => Repr::Write { path, kind, source }.into(),
            None => Repr::Compute {
                path,
                label,
                source,
            }
            .into(),
        }
    }

    /// Everything written, and as it was stated.
    fn finish(mut self) -> Result<StagedFile> {
        let flushed = self.flush();
        if let Some(failed) = self.failed {
            return Err(self.failure(failed));
        }
        flushed.writing("write the value", || self.value.clone())?;
        match self.expected {
            Some(expected) if expected != self.len => {
                Err(self.wrong_len(expected, self.len, false))
            }
            _ => Ok(self.staged),
        }
    }

    fn set_metadata(&self) -> Result<()> {
        Err(Repr::Unsupported {
            path: Some(self.root.path().to_path_buf()),
            what: "keep metadata with a value",
        }
        .into())
    }
}

/// Where a closure writes a value. What is written is visible to nobody until the closure has
/// returned `Ok`.
///
/// Writes are gathered in a small buffer. A write that fails stays with the writer: even if the
/// closure ignores the error, nothing is published.
#[derive(Debug)]
pub struct ValueWriter(Sink);

impl ValueWriter {
    /// Runs a closure over a staged file.
    pub(super) fn fill<K: PathKey + ?Sized>(
        root: &Arc<Root>,
        key: &K,
        entry: &EntryPath,
        staged: StagedFile,
        f: impl FnOnce(&mut ValueWriter) -> anyhow::Result<()>,
    ) -> Result<StagedFile> {
        let mut writer = ValueWriter(Sink::new(root, entry, staged));
        match f(&mut writer) {
            Ok(()) => writer.0.finish(),
            Err(err) => {
                let label = key.label().map(std::borrow::Cow::into_owned);
                Err(writer.0.closure_failed(label, err))
            }
        }
    }

    /// How many bytes were written.
    pub fn position(&self) -> u64 {
        self.0.position
    }

    /// States how long the value will be, for example from a `Content-Length`. The first byte too
    /// many fails, and a value that is too short is not published:
    /// [`SizeMismatch`](crate::ErrorKind::SizeMismatch).
    pub fn expect_len(&mut self, bytes: u64) {
        self.0.expected = Some(bytes);
    }

    /// Gives the value metadata, published with it.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported): a store of plain files has no room for any.
    pub fn set_metadata(&mut self, _metadata: &[u8]) -> Result<()> {
        self.0.set_metadata()
    }
}

impl Write for ValueWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A value being written under its key's lock; see [`KVFileLock::begin`].
///
/// Dropped without [`commit`](Self::commit), it leaves everything as it was.
#[derive(Debug)]
#[must_use = "nothing is published until it is committed"]
pub struct LockedWrite<'a> {
    sink: Sink,
    lock: &'a KVFileLock,
}

impl<'a> LockedWrite<'a> {
    pub(super) fn new(lock: &'a KVFileLock) -> Result<Self> {
        let root = lock.lock.root();
        Ok(LockedWrite {
            sink: Sink::new(root, lock.lock.entry(), StagedFile::for_value(root)?),
            lock,
        })
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.sink.position
    }

    /// As [`ValueWriter::expect_len`].
    pub fn expect_len(&mut self, bytes: u64) {
        self.sink.expected = Some(bytes);
    }

    /// As [`ValueWriter::set_metadata`].
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported): a store of plain files has no room for any.
    pub fn set_metadata(&mut self, _metadata: &[u8]) -> Result<()> {
        self.sink.set_metadata()
    }

    /// Publishes what was written, in place of what was there, and returns it to be read.
    ///
    /// # Errors
    ///
    /// If a write failed or the stated length was not met, or publishing fails; then what was there
    /// before is still there.
    pub fn commit(self) -> Result<LockedRead<'a>> {
        let staged = self.sink.finish()?;
        let lock = &self.lock.lock;
        publish::seal_file(lock.root(), &staged)?;
        publish::file(lock, staged)?;
        LockedRead::published(self.lock)
    }
}

impl Write for LockedWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl Seek for LockedWrite<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.sink.seek(to)
    }
}
