//! A published value, open for reading.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::digest::Expect;
use crate::error::{IoContext, Repr, Result};
use crate::file_store::KVFileLock;
use crate::file_store::sealed::Opened;
use crate::footer::Known;
use crate::key::ArtifactHash;
use crate::layout::EntryPath;
use crate::marker::Format;
use crate::options::Verify;
use crate::outcome::Outcome;
use crate::publish::not_a_value;
use crate::recency;
use crate::root::Root;
use crate::sys::{self, Errno, Kind, Meta, Stamp};

/// A published value, open for reading, with a position of its own.
///
/// It is complete and never changes. If its key is replaced or removed, this still reads what it was
/// opened on.
#[derive(Debug)]
pub struct Value {
    file: File,
    len: u64,
    /// The file's position. Known here, so that nothing has to be asked for the end.
    position: u64,
    outcome: Outcome,
    /// What a sealed value has besides its bytes.
    known: Option<Known>,
    root: Arc<Root>,
    entry: EntryPath,
    path: OnceLock<PathBuf>,
}

impl Value {
    /// Opens a value, and notes its use. `None` if there is none.
    pub(super) fn open(root: &Arc<Root>, entry: &EntryPath) -> Result<Option<Self>> {
        let found = Found::open(root, entry, root.options.verify)?;
        Ok(found.map(|found| Value::of(root, entry.clone(), found)))
    }

    pub(super) fn of(root: &Arc<Root>, entry: EntryPath, found: Found) -> Self {
        Value {
            file: found.file,
            len: found.len,
            position: 0,
            outcome: Outcome::Hit,
            known: found.known,
            root: Arc::clone(root),
            entry,
            path: OnceLock::new(),
        }
    }

    /// Opens what this call has just published.
    pub(super) fn published(root: &Arc<Root>, entry: &EntryPath) -> Result<Self> {
        match Found::open(root, entry, Verify::Never)? {
            Some(found) => {
                Ok(Value::of(root, entry.clone(), found).with_outcome(Outcome::Computed))
            }
            None => Err(io::Error::from(io::ErrorKind::NotFound))
                .reading("open the value just published", || {
                    root.absolute(entry.value())
                }),
        }
    }

    pub(super) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// The value's length in bytes.
    #[allow(clippy::len_without_is_empty)] // a value is no collection
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The metadata that was published with the value. Empty if there was none, as in every store that
    /// is not sealed.
    pub fn metadata(&self) -> &[u8] {
        self.known
            .as_ref()
            .map_or(&[], |known| known.metadata.as_slice())
    }

    /// The label that the key had when the value was published, in a sealed store.
    pub fn label(&self) -> Option<&str> {
        self.known.as_ref()?.label.as_deref()
    }

    /// The SHA-256 of the value, in a sealed store, as it was when it was written.
    pub fn digest(&self) -> Option<ArtifactHash> {
        let known = self.known.as_ref()?;
        ArtifactHash::new("sha256", known.digest).ok()
    }

    /// How this value came to be: found, waited for, or computed by this call.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The absolute path of the file, to be linked, mapped, or given to another program. The path
    /// may name another value, or none, as soon as somebody replaces or removes the key.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) in a sealed store, whose files are not just the
    /// values' bytes.
    pub fn raw_path(&self) -> Result<&Path> {
        self.check_raw()?;
        Ok(self
            .path
            .get_or_init(|| self.root.absolute(self.entry.value())))
    }

    /// The open file, read-only.
    ///
    /// # Errors
    ///
    /// As [`raw_path`](Self::raw_path).
    pub fn into_file(self) -> Result<File> {
        self.check_raw()?;
        Ok(self.file)
    }

    fn check_raw(&self) -> Result<()> {
        if self.known.is_none() {
            return Ok(());
        }
        Err(Repr::Unsupported {
            path: Some(self.root.absolute(self.entry.value())),
            what: "give out a value as a plain file, because it is sealed; read the value",
        }
        .into())
    }
}

impl Value {
    /// How much is left to read.
    fn rest(&self) -> u64 {
        self.len.saturating_sub(self.position)
    }
}

/// A published value does not change, so one that ends early was damaged.
fn ended_early() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the value's file is shorter than it was when it was opened",
    )
}

impl Read for Value {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wanted = self.rest().min(buf.len() as u64);
        if wanted == 0 {
            return Ok(0);
        }
        #[allow(clippy::cast_possible_truncation)] // not more than a length
        let read = self.file.read(&mut buf[..wanted as usize])?;
        if read == 0 {
            return Err(ended_early());
        }
        self.position += read as u64;
        Ok(read)
    }

    fn read_to_end(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let before = buf.len();
        while self.rest() > 0 {
            let (wanted, had) = (self.rest(), buf.len());
            let read = sys::read_more(&self.file, wanted, buf);
            // What came before an error has been read.
            self.position += (buf.len() - had) as u64;
            if read? == 0 {
                return Err(ended_early());
            }
        }
        Ok(buf.len() - before)
    }
}

impl Seek for Value {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let sought = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            // Of the value, which may not be the file's.
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        let sought = sought.ok_or(io::ErrorKind::InvalidInput)?;
        self.position = self.file.seek(SeekFrom::Start(sought))?;
        Ok(self.position)
    }
}

/// What was found at a value's path: open, and believed.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: File,
    /// Bytes of the value, which are not all of the file's if it is sealed.
    pub(super) len: u64,
    /// What a sealed value has besides its bytes.
    pub(super) known: Option<Known>,
}

/// What a caller who expects something finds.
#[derive(Debug)]
pub(super) enum Sought {
    Absent,
    /// A value that cannot be what is expected.
    Other,
    Found(Found),
}

impl Found {
    /// Opens a value, checks it as `verify` says, and notes its use. `None` if there is none.
    pub(super) fn open(
        root: &Arc<Root>,
        entry: &EntryPath,
        verify: Verify,
    ) -> Result<Option<Self>> {
        match Self::seek(root, entry, verify, &Expect::new())? {
            Sought::Found(found) => Ok(Some(found)),
            Sought::Absent | Sought::Other => Ok(None),
        }
    }

    /// The same, if the value can be what is expected. One that cannot be is neither read nor used: who
    /// waits for another looks at it again and again.
    pub(super) fn seek(
        root: &Arc<Root>,
        entry: &EntryPath,
        verify: Verify,
        expect: &Expect,
    ) -> Result<Sought> {
        let opened = match expect.is_nothing() {
            true => root.dir.open_read(entry.value()),
            false => root.dir.open_quietly(entry.value()),
        };
        let Some((file, meta)) = self::opened(root, entry, opened)? else {
            return Ok(Sought::Absent);
        };
        let (len, known) = match root.format {
            Format::Raw if !expect.admits(meta.len, None) => return Ok(Sought::Other),
            Format::Raw => (meta.len, None),
            Format::Sealed => {
                let opened = Opened {
                    root,
                    entry,
                    file: &file,
                    meta: &meta,
                };
                let found = opened.read_footer()?;
                if let Ok(footer) = &found {
                    if !expect.admits(footer.len, Some(&footer.known.digest)) {
                        return Ok(Sought::Other);
                    }
                }
                let Some(footer) = opened.footer(verify, found)? else {
                    return Ok(Sought::Absent);
                };
                (footer.len, Some(footer.known))
            }
        };
        note_use(root, &file, &meta);
        Ok(Sought::Found(Found { file, len, known }))
    }
}

/// Opens what is at a value's path, checks that it is a value, and notes its use.
pub(super) fn open_file(root: &Root, entry: &EntryPath) -> Result<Option<(File, Meta)>> {
    let Some((file, meta)) = opened(root, entry, root.dir.open_read(entry.value()))? else {
        return Ok(None);
    };
    note_use(root, &file, &meta);
    Ok(Some((file, meta)))
}

fn note_use(root: &Root, file: &File, meta: &Meta) {
    if recency::is_due(root, meta.accessed) {
        // Not allowed everywhere; then the system's own access time is what remains.
        let _ = sys::fstamp(file, Stamp::Accessed);
    }
}

/// The same, and it does not count as a use.
pub(super) fn open_quietly(root: &Root, entry: &EntryPath) -> Result<Option<(File, Meta)>> {
    opened(root, entry, root.dir.open_quietly(entry.value()))
}

fn opened(
    root: &Root,
    entry: &EntryPath,
    opened: io::Result<File>,
) -> Result<Option<(File, Meta)>> {
    let at = || root.absolute(entry.value());
    let file = match opened {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) if sys::is(&err, Errno::LOOP) => return Err(not_a_value(Kind::Link, root, entry)),
        Err(err) if sys::is(&err, Errno::NXIO) => {
            return Err(not_a_value(Kind::Other, root, entry));
        }
        Err(err) => return Err(err).reading("open the value", at),
    };
    let meta = sys::fstat(&file).reading("look at the value", at)?;
    if meta.kind != Kind::File {
        return Err(not_a_value(meta.kind, root, entry));
    }
    Ok(Some((file, meta)))
}

/// A value, read while its key is locked; see [`KVFileLock::reader`].
#[derive(Debug)]
pub struct LockedRead<'a> {
    value: Value,
    _lock: PhantomData<&'a KVFileLock>,
}

impl<'a> LockedRead<'a> {
    pub(super) fn open(lock: &'a KVFileLock) -> Result<Option<Self>> {
        let found = Value::open(lock.lock.root(), lock.lock.entry())?;
        Ok(found.map(Self::of))
    }

    /// What was just committed.
    pub(super) fn published(lock: &'a KVFileLock) -> Result<Self> {
        Value::published(lock.lock.root(), lock.lock.entry()).map(Self::of)
    }

    fn of(value: Value) -> Self {
        LockedRead {
            value,
            _lock: PhantomData,
        }
    }

    /// The value's length in bytes.
    #[allow(clippy::len_without_is_empty)] // a value is no collection
    pub fn len(&self) -> u64 {
        self.value.len()
    }

    /// As [`Value::metadata`].
    pub fn metadata(&self) -> &[u8] {
        self.value.metadata()
    }

    /// The value without the lock: it can outlive the lock and still reads the same bytes.
    pub fn detach_unlocked(self) -> Value {
        self.value
    }
}

impl Read for LockedRead<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.value.read(buf)
    }

    fn read_to_end(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        self.value.read_to_end(buf)
    }
}

impl Seek for LockedRead<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.value.seek(to)
    }
}
