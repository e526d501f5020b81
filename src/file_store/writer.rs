//! What a closure writes a value through.
//!
//! Invariant: a write that failed, or a stated length or digest that was not met, cannot be published,
//! even if the closure ignores it.

use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::{Digests, Expect, Hashing, OURS};
use crate::error::{Error, IoContext, Repr, Result};
use crate::file_store::KVFileLock;
use crate::file_store::value::{Found, LockedRead};
use crate::footer::{Footer, Known, MAX_METADATA_BYTES};
use crate::key::{ArtifactHash, PathKey};
use crate::layout::EntryPath;
use crate::marker::Format;
use crate::options::Verify;
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
    entry: EntryPath,
    staged: StagedFile,
    buffer: Vec<u8>,
    /// Where the next byte goes, buffered ones included.
    position: u64,
    len: u64,
    /// What the store's caller expects, which who writes cannot weaken.
    expect: Expect,
    /// What was stated by who writes.
    stated: Expect,
    hashing: Hashing,
    /// What a sealed value gets besides its bytes.
    metadata: Vec<u8>,
    label: Option<String>,
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
    fn new(root: &Arc<Root>, entry: &EntryPath, label: Option<String>, staged: StagedFile) -> Self {
        let mut hashing = Hashing::default();
        if root.format == Format::Sealed {
            hashing.want(OURS);
        }
        Sink {
            root: Arc::clone(root),
            entry: entry.clone(),
            staged,
            buffer: Vec::new(),
            position: 0,
            len: 0,
            expect: Expect::new(),
            stated: Expect::new(),
            hashing,
            metadata: Vec::new(),
            label,
            failed: None,
        }
    }

    /// For messages: the value's absolute path.
    fn value(&self) -> PathBuf {
        self.root.absolute(self.entry.value())
    }

    fn expect(&mut self, expect: &Expect) -> Result<()> {
        self.hashing.want_for(expect)?;
        self.expect = expect.clone();
        Ok(())
    }

    fn expect_len(&mut self, bytes: u64) {
        self.stated = std::mem::take(&mut self.stated).len(bytes);
    }

    fn expect_digest(&mut self, digest: &ArtifactHash) -> Result<()> {
        let stated = self.stated.clone().digest(digest);
        self.hashing.want_for(&stated)?;
        self.stated = stated;
        Ok(())
    }

    fn expects(&self) -> [&Expect; 2] {
        [&self.expect, &self.stated]
    }

    /// An expected length that breaks a rule.
    fn expected_len(&self, is_broken: impl Fn(u64) -> bool) -> Option<u64> {
        let lens = self.expects().map(Expect::expected_len);
        lens.into_iter().flatten().find(|&len| is_broken(len))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed.is_some() {
            return Err(io::Error::other("an earlier write of this value failed"));
        }
        let end = self.position.saturating_add(bytes.len() as u64);
        if let Some(expected) = self.expected_len(|len| end > len) {
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
            let written = self.note(written)?;
            self.hashing.written(self.position, &bytes[..written]);
            written
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
        let offset = self.position - self.buffer.len() as u64;
        self.hashing.written(offset, &self.buffer);
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
                path: self.value(),
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
            path: self.value(),
            expected,
            actual,
            at_least,
        }
        .into()
    }

    /// The error of a closure that failed: the writer's, if that is the reason.
    fn closure_failed(&self, source: anyhow::Error) -> Error {
        let path = self.value();
        match self.failed {
            Some(failed @ Failed::TooLong { .. }) => self.failure(failed),
            Some(Failed::Io(kind, _)) => Repr::Write { path, kind, source }.into(),
            None => Repr::Compute {
                path,
                label: self.label.clone(),
                source,
            }
            .into(),
        }
    }

    /// Everything written, as it was stated, and sealed where values are.
    fn finish(mut self) -> Result<StagedFile> {
        let flushed = self.flush();
        if let Some(failed) = self.failed {
            return Err(self.failure(failed));
        }
        flushed.writing("write the value", || self.value())?;
        if let Some(expected) = self.expected_len(|len| len != self.len) {
            return Err(self.wrong_len(expected, self.len, false));
        }
        let hashing = std::mem::take(&mut self.hashing);
        let digests = hashing
            .finish(self.staged.file(), self.len)
            .writing("read the value back for its digest", || self.value())?;
        self.check(&digests)?;
        if let Some(digest) = digests
            .ours()
            .filter(|_| self.root.format == Format::Sealed)
        {
            self.seal(digest)
                .writing("write what is known of the value", || self.value())?;
        }
        Ok(self.staged)
    }

    fn check(&self, digests: &Digests) -> Result<()> {
        for expected in self.expects().map(Expect::expected_digests).concat() {
            if let Some(actual) = digests.other_than(&expected)? {
                return Err(Repr::DigestMismatch {
                    path: self.value(),
                    expected: expected.to_string(),
                    actual: actual.to_string(),
                }
                .into());
            }
        }
        Ok(())
    }

    fn seal(&mut self, digest: [u8; 32]) -> io::Result<()> {
        let footer = Footer {
            len: self.len,
            standing: self.root.standing(),
            known: Known {
                digest,
                metadata: std::mem::take(&mut self.metadata),
                label: self.label.take(),
            },
        };
        sys::write_at(self.staged.file(), &footer.render(&self.entry), self.len)
    }

    fn set_metadata(&mut self, metadata: &[u8]) -> Result<()> {
        check_metadata(&self.root, metadata)?;
        metadata.clone_into(&mut self.metadata);
        Ok(())
    }
}

/// Publishes other metadata with the value that is there.
pub(super) fn publish_metadata(lock: &KVFileLock, metadata: &[u8]) -> Result<bool> {
    let (root, entry) = (lock.lock.root(), lock.lock.entry());
    check_metadata(root, metadata)?;
    root.check_writable("write metadata", entry)?;
    // What comes out speaks for itself, so what goes in has to.
    let verify = match root.options.verify {
        Verify::Never => Verify::OncePerBoot,
        other => other,
    };
    let Some(Found {
        file,
        len,
        known: Some(known),
        ..
    }) = Found::open(root, entry, verify)?
    else {
        return Ok(false);
    };
    let footer = Footer {
        len,
        standing: root.standing(),
        known: Known {
            digest: known.digest,
            metadata: metadata.to_vec(),
            label: lock.label.clone().or(known.label),
        },
    };
    let staged = StagedFile::for_value(root)?;
    let copied = sys::copy(&file, staged.file(), len).and_then(|copied| {
        if copied < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sys::write_at(staged.file(), &footer.render(entry), len)
    });
    copied.writing("write the value with its metadata", || {
        root.absolute(entry.value())
    })?;
    publish::seal_file(root, &staged)?;
    publish::file(&lock.lock, staged)?;
    Ok(true)
}

/// Refuses metadata that there is no room for.
fn check_metadata(root: &Root, metadata: &[u8]) -> Result<()> {
    let what = match root.format {
        Format::Raw => "keep metadata with a value, because it was not created as a sealed one",
        Format::Sealed if metadata.len() > MAX_METADATA_BYTES => {
            "keep more than 64 KiB of metadata"
        }
        Format::Sealed => return Ok(()),
    };
    let path = Some(root.path().to_path_buf());
    Err(Repr::Unsupported { path, what }.into())
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
        expect: &Expect,
        f: impl FnOnce(&mut ValueWriter) -> anyhow::Result<()>,
    ) -> Result<StagedFile> {
        let label = key.label().map(std::borrow::Cow::into_owned);
        let mut writer = ValueWriter(Sink::new(root, entry, label, staged));
        writer.0.expect(expect)?;
        match f(&mut writer) {
            Ok(()) => writer.0.finish(),
            Err(err) => Err(writer.0.closure_failed(err)),
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
        self.0.expect_len(bytes);
    }

    /// States what digest the value will have, for example from a checksum file that comes with it. A
    /// value with another one is not published:
    /// [`DigestMismatch`](crate::ErrorKind::DigestMismatch). It is computed while the bytes are written
    /// if this is called before the first of them.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported): not SHA-256, SHA-384 or SHA-512.
    pub fn expect_digest(&mut self, digest: &ArtifactHash) -> Result<()> {
        self.0.expect_digest(digest)
    }

    /// Gives the value metadata, up to 64 KiB, published with it: an `ETag`, a content type, a policy.
    /// What was given before is replaced.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) in a store that is not sealed, which has no room
    /// for any, and for more than 64 KiB.
    pub fn set_metadata(&mut self, metadata: &[u8]) -> Result<()> {
        self.0.set_metadata(metadata)
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
            sink: Sink::new(
                root,
                lock.lock.entry(),
                lock.label.clone(),
                StagedFile::for_value(root)?,
            ),
            lock,
        })
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.sink.position
    }

    /// As [`ValueWriter::expect_len`].
    pub fn expect_len(&mut self, bytes: u64) {
        self.sink.expect_len(bytes);
    }

    /// As [`ValueWriter::expect_digest`]. A value that is not written from its first byte to its last
    /// is read back for it.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn expect_digest(&mut self, digest: &ArtifactHash) -> Result<()> {
        self.sink.expect_digest(digest)
    }

    /// As [`ValueWriter::set_metadata`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_metadata(&mut self, metadata: &[u8]) -> Result<()> {
        self.sink.set_metadata(metadata)
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
