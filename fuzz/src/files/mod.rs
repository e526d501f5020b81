//! Sequences of operations on a store of files, against a map.
//!
//! All locks are this thread's own, and no call waits: whoever finds a lock busy must say so. So a
//! sequence cannot hang, and the model knows how each call ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use larder::{Durability, ErrorKind, KVFileLock, KVFileStore, PathKey, Share};
use larder::{Error, Integrity, StoreOptions, Value, Wait};

use crate::body::{Body, bytes_of};
use crate::keys::{self, Key};
use crate::scratch::{Scratch, Thing, above, listing};

mod care;
mod locked;
mod unlocked;

const MOST_OPERATIONS: usize = 32;

/// What follows a sealed value at least.
const FOOTER_LEN: usize = 128;

/// What to do with a store.
#[derive(Arbitrary, Debug)]
pub struct Scenario {
    shared: bool,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Clone, Debug)]
enum Operation {
    Read(Key, Reading),
    /// Opens the value, and reads it when everything else is done.
    Keep(Key),
    Set(Key, Body),
    GetOrSet(Key, Body),
    Nested(Key, Inner),
    Remove(Key),
    Batch(Vec<(Key, Body)>, bool),
    Lock(Key, How, Then),
    /// Takes a lock and keeps it.
    Hold(Key, How),
    Held(Key, Then),
    Release(Key),
    Entries,
    RemoveListed(u8),
    Clear,
    Sweep,
    Reopen(Reopening),
    ReadOnly(Key, Body),
    Litter(Litter),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Reading {
    Get,
    Read,
    ReadInto,
    Contains,
    Touch,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Lock,
    Try,
    IfExists,
}

/// What to do under a lock.
#[derive(Arbitrary, Clone, Debug)]
enum Then {
    Nothing,
    Read,
    Write(Body),
    Remove,
}

/// What a closure does with the store that it computes a value for.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Inner {
    GetOrSet(Key),
    Set(Key),
    Lock(Key),
    Sweep,
    Clear,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Reopening {
    Plain,
    WithoutCreating,
    SameShare,
    OtherShare,
    OtherKind,
    AlwaysTouching,
    OtherFormat,
}

/// What processes that were killed can have left.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Litter {
    StagedFile,
    Marker,
    StagedLock,
    StagedDir,
    Batch,
    Dead,
    Directories,
    Lock(Key),
}

/// Whether a key's path is in the way of another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    BelowAFile,
    Directory,
}

struct Files {
    scratch: Scratch,
    share: Share,
    sealed: bool,
    store: KVFileStore,
    /// What is in a store in which there is nothing.
    fresh: BTreeMap<PathBuf, (Thing, u32)>,
    model: BTreeMap<PathBuf, Vec<u8>>,
    held: BTreeMap<Key, KVFileLock>,
    kept: Vec<(Value, Vec<u8>)>,
    /// Left by dead processes, and not swept yet.
    litter: BTreeSet<PathBuf>,
    /// Whether there was any.
    littered: bool,
    buffer: Vec<u8>,
}

/// Runs a scenario on a raw store, and on a sealed one. Panics where a store and the model differ.
pub fn run(scenario: &Scenario) {
    for sealed in [false, true] {
        let mut files = Files::new(scenario.shared, sealed);
        for operation in scenario.operations.iter().take(MOST_OPERATIONS) {
            files.apply(operation);
        }
        files.finish();
    }
}

/// Whether this is what a value's file is to be.
fn is_file_of(written: &[u8], bytes: &[u8], sealed: bool) -> bool {
    match sealed {
        true => written.starts_with(bytes) && written.len() >= bytes.len() + FOOTER_LEN,
        false => written == bytes,
    }
}

impl Files {
    fn new(shared: bool, sealed: bool) -> Self {
        let scratch = Scratch::new();
        let share = if shared { Share::Group } else { Share::Private };
        let options = options().shared(share).sealed(sealed);
        let store = open(&scratch.base(), &options).unwrap();
        Files {
            fresh: listing(&scratch.base()),
            scratch,
            share,
            sealed,
            store,
            model: BTreeMap::new(),
            held: BTreeMap::new(),
            kept: Vec::new(),
            litter: BTreeSet::new(),
            littered: false,
            buffer: b"what was in the buffer before".to_vec(),
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Read(key, reading) => self.read(*key, *reading),
            Operation::Keep(key) => self.keep(*key),
            Operation::Set(key, body) => self.set(*key, body),
            Operation::GetOrSet(key, body) => self.get_or_set(*key, body),
            Operation::Nested(key, inner) => self.nested(*key, *inner),
            Operation::Remove(key) => self.remove(*key),
            Operation::Batch(writes, commit) => self.batch(writes, *commit),
            Operation::Lock(key, how, then) => {
                if let Some(lock) = self.lock(*key, *how) {
                    self.under(*key, lock, then);
                }
            }
            Operation::Hold(key, how) => {
                if let Some(lock) = self.lock(*key, *how) {
                    self.held.insert(*key, lock);
                }
            }
            Operation::Held(key, then) => {
                if let Some(lock) = self.held.remove(key)
                    && let Some(lock) = self.under(*key, lock, then)
                {
                    self.held.insert(*key, lock);
                }
            }
            Operation::Release(key) => drop(self.held.remove(key)),
            Operation::Entries => self.check_entries(),
            Operation::RemoveListed(number) => self.remove_listed(*number),
            Operation::Clear => self.clear(),
            Operation::Sweep => self.sweep(),
            Operation::Reopen(how) => self.reopen(*how),
            Operation::ReadOnly(key, body) => self.read_only(*key, body),
            Operation::Litter(litter) => self.litter(*litter),
        }
    }

    /// `computing` is a key whose value a closure is just making.
    fn place(&self, key: Key, computing: Option<Key>) -> Place {
        let path = key.key();
        let is_below = |path: &Path, other: &Path| path != other && path.starts_with(other);
        let locked = self.held.keys().copied().chain(computing);
        if self.model.keys().any(|other| is_below(&path, other)) {
            Place::BelowAFile
        } else if self.model.keys().any(|other| is_below(other, &path))
            || locked
                .into_iter()
                .any(|other| is_below(&other.key(), &path))
        {
            Place::Directory
        } else {
            Place::Free
        }
    }

    fn finish(mut self) {
        self.held.clear();
        assert_eq!(self.store.damaged_values(), 0);
        for (mut value, bytes) in std::mem::take(&mut self.kept) {
            assert_eq!(bytes_of(&mut value), bytes, "a reader's value changed");
        }
        for key in keys::ALL {
            if self.place(key, None) == Place::Free {
                let read = self.store.read(&key).unwrap();
                assert_eq!(read.as_ref(), self.model.get(&key.key()), "{key:?}");
                let known = if self.sealed {
                    Integrity::Whole
                } else {
                    Integrity::Unknown
                };
                let verified = self.store.verify(&key).unwrap();
                assert_eq!(verified, read.map(|_| known), "{key:?}");
            }
        }
        self.check_entries();
        if !self.littered {
            self.check_residue();
        }
        self.sweep();
        self.check_residue();
        self.clear();
        assert!(self.model.is_empty());
        assert_eq!(listing(&self.scratch.base()), self.fresh);
        drop(self.store);
        self.scratch.finish();
    }

    /// Nothing is there but the values, the directories on the way to them, and the furniture.
    fn check_residue(&self) {
        let mut found = listing(&self.scratch.base());
        for (path, bytes) in &self.model {
            let (thing, mode) = found.remove(path).expect("a value is not there");
            let is_whole = match &thing {
                Thing::File(written) => is_file_of(written, bytes, self.sealed),
                _ => false,
            };
            assert!(is_whole, "{path:?}: {thing:?}");
            let closed = match self.share {
                Share::Group => mode & 0o262 == 0o060,
                _ => mode & 0o222 == 0,
            };
            assert!(closed, "{path:?} has mode {mode:o}");
        }
        for path in self.model.keys() {
            for dir in above(path) {
                let is_dir = |(thing, _): (Thing, u32)| thing == Thing::Dir;
                assert!(found.remove(dir).is_none_or(is_dir));
            }
        }
        assert_eq!(found, self.fresh);
    }
}

fn options() -> StoreOptions {
    StoreOptions::new().durability(Durability::None)
}

fn open(base: &Path, options: &StoreOptions) -> larder::Result<KVFileStore> {
    Ok(options.open_file_store(base)?.with_wait(Wait::TryOnce))
}

/// Whether this is how a key whose path is in another's way is refused.
fn is_in_the_way(err: &Error) -> bool {
    matches!(err.kind(), ErrorKind::Corrupt | ErrorKind::Io)
}
