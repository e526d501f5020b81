//! The three stores that are under load: one of files as they are, one of sealed files, one of trees.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use larder::{KVDirStore, KVFileStore, StoreOptions, ValueWriter, Wait};

use crate::content::{self, Key, Kind};
use crate::plan::State;

#[derive(Debug)]
pub(crate) struct Stores {
    raw: KVFileStore,
    sealed: KVFileStore,
    pub(crate) trees: KVDirStore,
}

impl Stores {
    pub(crate) fn open(caches: &Path, options: &StoreOptions) -> anyhow::Result<Self> {
        let at = |kind: Kind| caches.join(kind.store());
        let files = |kind| {
            let options = options.clone().sealed(kind == Kind::Sealed);
            let store = options.open_file_store(at(kind));
            store.with_context(|| format!("open the store of {} files", kind.store()))
        };
        let trees = options.clone().open_dir_store(at(Kind::Tree));
        Ok(Stores {
            raw: files(Kind::Raw)?,
            sealed: files(Kind::Sealed)?,
            trees: trees.context("open the store of trees")?,
        })
    }

    /// The same, waiting for nobody.
    pub(crate) fn at_once(self) -> Self {
        Stores {
            raw: self.raw.with_wait(Wait::TryOnce),
            sealed: self.sealed.with_wait(Wait::TryOnce),
            trees: self.trees.with_wait(Wait::TryOnce),
        }
    }

    /// The store of files of this kind.
    pub(crate) fn files(&self, kind: Kind) -> &KVFileStore {
        match kind {
            Kind::Sealed => &self.sealed,
            Kind::Raw | Kind::Tree => &self.raw,
        }
    }

    pub(crate) fn set(&self, key: Key, number: u64) -> anyhow::Result<State> {
        let name = &key.name();
        match key.kind {
            Kind::Raw | Kind::Sealed => {
                let len = content::HEADER + 100;
                self.files(key.kind)
                    .set(name, |w| write(w, number, key, len))?;
                Ok(State::written(number, key, len))
            }
            Kind::Tree => {
                let nodes = content::tree(number, key);
                let make = |at: &Path| Ok(content::write_tree(at, &nodes)?);
                drop(self.trees.replace(name, make)?);
                Ok(State::Tree { number })
            }
        }
    }

    pub(crate) fn remove(&self, key: Key) -> larder::Result<bool> {
        match key.kind {
            Kind::Raw | Kind::Sealed => self.files(key.kind).remove(&key.name()),
            Kind::Tree => self.trees.remove(&key.name()),
        }
    }
}

/// Writes what the step of this number leaves at a key.
pub(crate) fn write(w: &mut ValueWriter, number: u64, key: Key, len: usize) -> anyhow::Result<()> {
    w.write_all(&content::bytes(number, key.place(0), len))?;
    if key.kind == Kind::Sealed {
        w.set_metadata(&content::metadata(number, key))?;
    }
    Ok(())
}
