//! kismet-cache: sharded, with room for all keys, so that nothing is evicted. By default it syncs a value
//! before it has its name, and never a directory.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use kismet_cache::{Cache, CacheBuilder, Key};

use super::Peer;
use crate::work::Size;

/// Its documentation asks for shards of 10 to 100 files.
const SHARDS: usize = 100;
const CAPACITY: usize = 10_000;

struct Kismet {
    cache: Cache,
    staging: PathBuf,
    buffer: Vec<u8>,
}

fn key(name: &str) -> Key<'_> {
    let hash = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        (seed, name).hash(&mut hasher);
        hasher.finish()
    };
    Key::new(name, hash(0), hash(1))
}

impl Peer for Kismet {
    fn read(&mut self, name: &str, see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        let Some(mut file) = self.cache.get(key(name))? else {
            return Ok(false);
        };
        self.buffer.clear();
        file.read_to_end(&mut self.buffer)?;
        see(&self.buffer).map(|()| true)
    }

    fn set(&mut self, name: &str, value: &[u8]) -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.staging)?;
        file.write_all(value)?;
        self.cache.set_temp_file(key(name), file)?;
        Ok(())
    }
}

fn open(dir: &Path, sync: bool) -> Result<Box<dyn Peer>> {
    let staging = dir.join("staging");
    std::fs::create_dir_all(&staging)?;
    let cache = CacheBuilder::new()
        .sharded_writer(dir.join("cache"), SHARDS, CAPACITY)
        .auto_sync(sync)
        .take()
        .build();
    Ok(Box::new(Kismet {
        cache,
        staging,
        buffer: Vec::new(),
    }))
}

pub(super) fn sync(dir: &Path, _: &Size) -> Result<Box<dyn Peer>> {
    open(dir, true)
}

pub(super) fn no_sync(dir: &Path, _: &Size) -> Result<Box<dyn Peer>> {
    open(dir, false)
}
