//! The two stores that all processes share.

use std::path::Path;

use anyhow::Context;
use larder::{KVDirStore, KVFileStore, StoreOptions};

#[derive(Clone, Debug)]
pub(crate) struct Stores {
    /// URL to archive.
    pub(crate) archives: KVFileStore,
    /// SHA-256 of an archive to the tree that was in it.
    pub(crate) trees: KVDirStore,
}

impl Stores {
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let archives =
            KVFileStore::new(dir.join("archives")).context("cannot open the store of archives")?;
        // Several projects use one unpacked tree, and none of them is to write to it by mistake.
        let trees = StoreOptions::new()
            .read_only_trees(true)
            .open_dir_store(dir.join("trees"))
            .context("cannot open the store of unpacked trees")?;
        Ok(Stores { archives, trees })
    }

    /// How many archives and how many trees there are.
    pub(crate) fn count(&self) -> anyhow::Result<[usize; 2]> {
        let count = |mut entries: larder::Entries| {
            entries.try_fold(0, |count, entry| entry.map(|_| count + 1))
        };
        let archives = count(self.archives.entries()).context("cannot list the archives")?;
        let trees = count(self.trees.entries()).context("cannot list the trees")?;
        Ok([archives, trees])
    }
}
