//! LMDB by way of heed: one unnamed database, values read where they are mapped.

#![allow(unsafe_code)]

use std::path::Path;

use anyhow::{Context, Result};
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions};

use super::Peer;
use crate::work::Size;

/// Address space only. Large, because a value has to find free pages in a row.
const MAP_BYTES: usize = 4 << 30;

struct Lmdb {
    env: Env,
    entries: Database<Bytes, Bytes>,
}

impl Peer for Lmdb {
    fn read(&mut self, key: &str, see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        let reading = self.env.read_txn()?;
        match self.entries.get(&reading, key.as_bytes())? {
            None => Ok(false),
            Some(value) => see(value).map(|()| true),
        }
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let mut writing = self.env.write_txn()?;
        self.entries.put(&mut writing, key.as_bytes(), value)?;
        writing.commit()?;
        Ok(())
    }
}

fn open(dir: &Path, flags: EnvFlags) -> Result<Box<dyn Peer>> {
    std::fs::create_dir_all(dir)?;
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES);
    // SAFETY: nobody but LMDB writes to the directory, and what NOSYNC can lose is what is compared.
    let env = unsafe { options.flags(flags).open(dir)? };
    let reading = env.read_txn()?;
    let found = env.open_database(&reading, None)?;
    // What was opened in a transaction stays open only if that commits.
    reading.commit()?;
    let entries = match found {
        Some(entries) => entries,
        None => {
            let mut writing = env.write_txn()?;
            let made = env.create_database(&mut writing, None)?;
            writing.commit().context("create the database")?;
            made
        }
    };
    Ok(Box::new(Lmdb { env, entries }))
}

pub(super) fn sync(dir: &Path, _: &Size) -> Result<Box<dyn Peer>> {
    open(dir, EnvFlags::empty())
}

pub(super) fn no_meta_sync(dir: &Path, _: &Size) -> Result<Box<dyn Peer>> {
    open(dir, EnvFlags::NO_META_SYNC)
}

pub(super) fn no_sync(dir: &Path, _: &Size) -> Result<Box<dyn Peer>> {
    open(dir, EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP)
}
