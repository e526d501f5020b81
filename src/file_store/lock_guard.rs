//! A key's exclusive lock in a store of files.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::file_store::value::LockedRead;
use crate::file_store::writer::{self, LockedWrite};
use crate::key::PathKey;
use crate::lock::KeyLock;
use crate::publish;

/// A key's exclusive lock in a store of files, held until it is dropped.
///
/// Dropping it deletes its lock file: a value needs none.
#[derive(Debug)]
#[must_use = "the key is locked only for as long as this lives"]
pub struct KVFileLock {
    pub(super) lock: KeyLock,
    path: PathBuf,
    pub(super) label: Option<String>,
}

impl KVFileLock {
    pub(super) fn new<K: PathKey + ?Sized>(mut lock: KeyLock, key: &K) -> Self {
        let label = key.label().map(Cow::into_owned);
        lock.announce(label.as_deref());
        let path = lock.root().absolute(lock.entry().value());
        KVFileLock { lock, path, label }
    }

    /// Opens the value. `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`KVFileStore::get`](crate::KVFileStore::get).
    pub fn reader(&self) -> Result<Option<LockedRead<'_>>> {
        LockedRead::open(self)
    }

    /// Begins to write a value, which [`LockedWrite::commit`] publishes.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn begin(&self) -> Result<LockedWrite<'_>> {
        LockedWrite::new(self)
    }

    /// Publishes new metadata with the value that is there, which is not passed through this process: an
    /// HTTP cache does so for the answer 304. `false` if there is no value.
    ///
    /// The file system shares or copies the value's bytes. Readers see the old metadata or the new, each
    /// with the whole value.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) in a store that is not sealed, and for more than
    /// 64 KiB; [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn set_metadata(&self, metadata: &[u8]) -> Result<bool> {
        writer::publish_metadata(self, metadata)
    }

    /// Removes the value, and gives the lock up. `false` if there was none.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) or [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn remove(self) -> Result<bool> {
        publish::remove_file(&self.lock)
    }

    /// The absolute path of the value, whether there is one or not.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
