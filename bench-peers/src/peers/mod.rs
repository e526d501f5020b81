//! The peers, each behind the same two calls, opened as its own documentation recommends.

mod cacache;
mod kismet;
mod larder;
mod lmdb;
mod sqlite;

use std::path::Path;

use anyhow::Result;

use crate::work::Size;

/// A store that one process has open.
pub(crate) trait Peer {
    /// Reads a value in the peer's best way and hands it, whole, to `see`, where it may stay the peer's
    /// own memory. `false`: there is none.
    fn read(&mut self, key: &str, see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool>;

    fn set(&mut self, key: &str, value: &[u8]) -> Result<()>;

    /// Takes back to its beginning what grows with each `set`; nobody else uses the store meanwhile.
    fn renew(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a `set` that returned survives of a power cut. Only equals are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It is there.
    Kept,
    /// The value before it or this one, whole, and the store can be used.
    Whole,
    /// It may be torn, or the whole store may be.
    Nothing,
}

impl Durability {
    pub(crate) const ALL: [Durability; 3] =
        [Durability::Kept, Durability::Whole, Durability::Nothing];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Durability::Kept => "kept",
            Durability::Whole => "whole or as before",
            Durability::Nothing => "none",
        }
    }
}

type Open = fn(&Path, &Size) -> Result<Box<dyn Peer>>;

/// A peer with one choice of durability.
pub(crate) struct Variant {
    /// The engine: of its variants only one is asked to read, since they all read alike.
    pub(crate) engine: &'static str,
    /// How it is set up.
    pub(crate) setting: &'static str,
    /// As on the command line.
    pub(crate) id: &'static str,
    pub(crate) durability: Durability,
    pub(crate) reads: bool,
    /// Whether `set` leaves behind what it replaced, so that the store has to be renewed.
    pub(crate) grows: bool,
    /// Opens a store, or makes it, for values of this size.
    pub(crate) open: Open,
}

impl Variant {
    const fn new(
        engine: &'static str,
        setting: &'static str,
        id: &'static str,
        durability: Durability,
        open: Open,
    ) -> Self {
        Variant {
            engine,
            setting,
            id,
            durability,
            reads: false,
            grows: false,
            open,
        }
    }

    const fn reads(mut self) -> Self {
        self.reads = true;
        self
    }

    const fn grows(mut self) -> Self {
        self.grows = true;
        self
    }

    pub(crate) fn is_larder(&self) -> bool {
        self.engine == "larder"
    }
}

use Durability::{Kept, Nothing, Whole};

pub(crate) static VARIANTS: [Variant; 11] = [
    Variant::new("larder", "`Full`", "larder-full", Kept, larder::full),
    Variant::new("SQLite", "`FULL`", "sqlite-full", Kept, sqlite::full).reads(),
    Variant::new("LMDB", "default", "lmdb-sync", Kept, lmdb::sync).reads(),
    Variant::new("larder", "`Data`", "larder-data", Whole, larder::data).reads(),
    Variant::new(
        "kismet-cache",
        "default",
        "kismet-sync",
        Whole,
        kismet::sync,
    )
    .reads(),
    Variant::new("SQLite", "`NORMAL`", "sqlite-normal", Whole, sqlite::normal),
    Variant::new(
        "LMDB",
        "`NOMETASYNC`",
        "lmdb-nometasync",
        Whole,
        lmdb::no_meta_sync,
    ),
    Variant::new("larder", "`None`", "larder-none", Nothing, larder::none),
    Variant::new(
        "kismet-cache",
        "no `auto_sync`",
        "kismet-nosync",
        Nothing,
        kismet::no_sync,
    ),
    Variant::new("cacache", "default", "cacache", Nothing, cacache::open)
        .reads()
        .grows(),
    Variant::new("LMDB", "`NOSYNC`", "lmdb-nosync", Nothing, lmdb::no_sync),
];
