//! SQLite: one table, a write-ahead log, statements prepared once.
//!
//! A table with row ids, because SQLite's documentation advises against `WITHOUT ROWID` where a row is
//! larger than a twentieth of a page; pages of 8 KiB, because it names them for blobs; the database mapped
//! where values are larger than a page, which makes those faster to read, and smaller ones slower.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use rusqlite::{Connection, params};

use super::Peer;
use crate::work::Size;

const PAGE_BYTES: usize = 8192;

struct Sqlite(Connection);

impl Peer for Sqlite {
    fn read(&mut self, key: &str, see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        let mut select = self
            .0
            .prepare_cached("SELECT value FROM entries WHERE key = ?1")?;
        let mut rows = select.query(params![key.as_bytes()])?;
        match rows.next()? {
            None => Ok(false),
            Some(row) => see(row.get_ref(0)?.as_blob()?).map(|()| true),
        }
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let mut insert = self.0.prepare_cached(
            "INSERT INTO entries (key, value) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )?;
        insert.execute(params![key.as_bytes(), value])?;
        Ok(())
    }
}

/// `synchronous` belongs to a connection, so each sets it, and looks whether it holds.
fn open(dir: &Path, size: &Size, synchronous: &str, level: i64) -> Result<Box<dyn Peer>> {
    std::fs::create_dir_all(dir)?;
    let connection = Connection::open(dir.join("entries.sqlite"))?;
    connection.busy_timeout(Duration::from_secs(60))?;
    connection.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
    if size.bytes > PAGE_BYTES {
        connection.pragma_update(None, "mmap_size", 1_i64 << 30)?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    let text = |name| connection.pragma_query_value(None, name, |row| row.get::<_, String>(0));
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    ensure!(text("journal_mode")? == "wal", "no write-ahead log");
    ensure!(number("synchronous")? == level, "not {synchronous}");
    ensure!(number("page_size")? == PAGE_BYTES as i64, "other pages");
    connection.execute(
        "CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL)",
        [],
    )?;
    Ok(Box::new(Sqlite(connection)))
}

pub(super) fn full(dir: &Path, size: &Size) -> Result<Box<dyn Peer>> {
    open(dir, size, "FULL", 2)
}

pub(super) fn normal(dir: &Path, size: &Size) -> Result<Box<dyn Peer>> {
    open(dir, size, "NORMAL", 1)
}
