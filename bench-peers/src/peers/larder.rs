//! larder itself: small and large values are read into a buffer that is used again.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use larder::{Durability, KVFileStore, StoreOptions};

use super::Peer;
use crate::work::Size;

struct Larder {
    store: KVFileStore,
    buffer: Vec<u8>,
}

impl Peer for Larder {
    fn read(&mut self, key: &str, see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        match self.store.read_into(key, &mut self.buffer)? {
            None => Ok(false),
            Some(_) => see(&self.buffer).map(|()| true),
        }
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.store.set(key, |w| Ok(w.write_all(value)?))?;
        Ok(())
    }
}

fn open(dir: &Path, durability: Durability) -> Result<Box<dyn Peer>> {
    let options = StoreOptions::new().durability(durability);
    Ok(Box::new(Larder {
        store: options.open_file_store(dir)?,
        buffer: Vec::new(),
    }))
}

pub(super) fn full(dir: &Path, _: &Size) -> Result<Box<dyn Peer>> {
    open(dir, Durability::Full)
}

pub(super) fn data(dir: &Path, _: &Size) -> Result<Box<dyn Peer>> {
    open(dir, Durability::Data)
}

pub(super) fn none(dir: &Path, _: &Size) -> Result<Box<dyn Peer>> {
    open(dir, Durability::None)
}
