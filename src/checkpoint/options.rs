//! How a file of checkpoints is opened.

use std::path::Path;
use std::time::Duration;

use super::CheckpointStore;
use crate::error::{Repr, Result};
use crate::options::Durability;

/// How a file of checkpoints is opened.
#[derive(Clone, Copy, Debug)]
#[must_use = "options open nothing by themselves"]
pub struct CheckpointOptions {
    pub(super) durability: Durability,
    pub(super) keep_deleted: Duration,
}

impl Default for CheckpointOptions {
    fn default() -> Self {
        CheckpointOptions {
            durability: Durability::Data,
            keep_deleted: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

impl CheckpointOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// What survives a power cut. With [`Durability::Data`], the default, the file is then whole, and may be
    /// an older one; with [`Durability::Full`] it has whatever was stored. [`Durability::None`] is refused: a
    /// torn file would take every state with it.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long the sequence of a state that is deleted through this handle is remembered, so that who still has
    /// an older one cannot bring it back; 30 days by default. It takes about 110 bytes of the file, of which at
    /// most the last 1,000 are kept, and fewer where a deletion would make the file larger than 64 MiB.
    pub fn keep_deleted(mut self, time: Duration) -> Self {
        self.keep_deleted = time;
        self
    }

    /// Opens a file of checkpoints; see [`CheckpointStore::open`].
    ///
    /// # Errors
    ///
    /// As there; and [`Unsupported`](crate::ErrorKind::Unsupported) for [`Durability::None`].
    pub fn open<T>(self, path: impl AsRef<Path>) -> Result<CheckpointStore<T>> {
        if self.durability == Durability::None {
            return Err(Repr::Unsupported {
                path: Some(path.as_ref().to_path_buf()),
                what: "keep checkpoints without durability; choose `Data` or `Full`",
            }
            .into());
        }
        CheckpointStore::open_as(path.as_ref(), self)
    }
}
