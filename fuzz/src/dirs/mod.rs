//! Sequences of operations on a store of directories, against a map.
//!
//! All locks and leases are this thread's own, and no call waits: whoever finds a lock busy must say
//! so. So a sequence cannot hang, and the model knows how each call ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use arbitrary::Arbitrary;
use larder::{DirLease, Durability, KVDirLock, KVDirStore, PathKey, Share, StoreOptions, Wait};

use crate::keys::{self, Key, beside};
use crate::plant::{Plant, Tree};
use crate::scratch::{Scratch, Thing, above, listing};

mod care;
mod locked;
mod spoil;
mod unlocked;

const MOST_OPERATIONS: usize = 32;

/// What to do with a store.
#[derive(Arbitrary, Debug)]
pub struct Scenario {
    shared: bool,
    read_only_trees: bool,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Clone, Debug)]
enum Operation {
    Get(Key, Leasing),
    Contains(Key),
    Touch(Key),
    GetOrSet(Key, Plant, Leasing),
    Replace(Key, Plant, Leasing),
    Nested(Key, Inner),
    Remove(Key),
    /// Gives up a lease.
    Drop(u8),
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
    ReadOnly(Key, Plant),
    Spoil(Key, Spoiling),
    Litter(Litter),
}

/// What becomes of a lease.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
enum Leasing {
    Keep,
    Drop,
    Detach,
    /// A command gets it that is not started yet.
    Inherit,
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
    Publish(Plant, Leasing),
    /// The client's own rename to the lock's path, after it deleted what was there, or not.
    Rename(Plant, bool),
    /// A path that is taken out, and not renamed.
    TakeOut(Plant),
    /// A path that is taken out when the lock is gone already.
    TakeOutLate(Plant),
    PublishAnothers(Plant),
    Remove,
}

/// What a closure does with the store that it makes a tree for.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Inner {
    Get(Key),
    GetOrSet(Key),
    Replace(Key),
    Lock(Key),
    Sweep,
    Clear,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Reopening {
    Plain,
    ReadOnlyTrees,
    WithoutCreating,
    SameShare,
    OtherShare,
    OtherKind,
    AlwaysTouching,
}

/// What a kill, or somebody else, can do to an entry that nobody uses.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Spoiling {
    LoseLock,
    LoseSidecar,
    AnothersSidecar,
    /// It was to be deleted where it stands, and its remover was killed.
    Dead,
    /// A tree is not there, and its sidecar is.
    StraySidecar,
    StrayLock,
}

/// What processes that were killed can have left in `tmp/`.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Litter {
    Tree,
    TreeWithoutLock,
    LockWithoutTree,
    SidecarWithoutTree,
    File,
    Dead,
    Directories,
}

/// An entry of the model.
#[derive(Clone, Debug)]
struct Entry {
    tree: Tree,
    /// Whether its sidecar is whole and its own.
    known: bool,
}

struct Dirs {
    scratch: Scratch,
    share: Share,
    read_only_trees: bool,
    store: KVDirStore,
    /// What is in a store in which there is nothing.
    fresh: BTreeMap<PathBuf, (Thing, u32)>,
    model: BTreeMap<Key, Entry>,
    leases: Vec<(Key, DirLease, Tree)>,
    /// Leases handed on, of which the store does not know whose they are.
    inherited: Vec<(Key, Command)>,
    /// Locks, and whether trees published under them become read-only.
    held: BTreeMap<Key, (KVDirLock, bool)>,
    /// Trees that are there and count as absent.
    dead: BTreeMap<Key, Tree>,
    /// Sidecars without a tree.
    stray: BTreeSet<Key>,
    litter: BTreeSet<PathBuf>,
    /// Whether something was done that a process in good order does not do.
    spoiled: bool,
}

/// Runs a scenario. Panics where the store and the model differ.
pub fn run(scenario: &Scenario) {
    let mut dirs = Dirs::new(scenario);
    for operation in scenario.operations.iter().take(MOST_OPERATIONS) {
        dirs.apply(operation);
    }
    dirs.finish();
}

impl Dirs {
    fn new(scenario: &Scenario) -> Self {
        let scratch = Scratch::new();
        fs::create_dir(scratch.outside()).unwrap();
        fs::write(scratch.outside().join("file"), "not to be touched").unwrap();
        let share = match scenario.shared {
            true => Share::Group,
            false => Share::Private,
        };
        let read_only_trees = scenario.read_only_trees;
        let options = options().shared(share).read_only_trees(read_only_trees);
        let store = open(&scratch.base(), &options).unwrap();
        Dirs {
            fresh: listing(&scratch.base()),
            scratch,
            share,
            read_only_trees,
            store,
            model: BTreeMap::new(),
            leases: Vec::new(),
            inherited: Vec::new(),
            held: BTreeMap::new(),
            dead: BTreeMap::new(),
            stray: BTreeSet::new(),
            litter: BTreeSet::new(),
            spoiled: false,
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Get(key, leasing) => self.get(alone(*key), *leasing),
            Operation::Contains(key) => {
                let key = alone(*key);
                assert_eq!(self.store.contains(&key).unwrap(), self.is_there(key));
            }
            Operation::Touch(key) => {
                let key = alone(*key);
                assert_eq!(self.store.touch(&key).unwrap(), self.is_there(key));
            }
            Operation::GetOrSet(key, plant, leasing) => {
                self.get_or_set(alone(*key), plant, *leasing);
            }
            Operation::Replace(key, plant, leasing) => self.replace(alone(*key), plant, *leasing),
            Operation::Nested(key, inner) => self.nested(alone(*key), *inner),
            Operation::Remove(key) => self.remove(alone(*key)),
            Operation::Drop(number) => self.drop_lease(usize::from(*number)),
            Operation::Lock(key, how, then) => {
                let key = alone(*key);
                if let Some(lock) = self.lock(key, *how) {
                    self.under(key, lock, self.read_only_trees, then);
                }
            }
            Operation::Hold(key, how) => {
                let key = alone(*key);
                if let Some(lock) = self.lock(key, *how) {
                    self.held.insert(key, (lock, self.read_only_trees));
                }
            }
            Operation::Held(key, then) => {
                if let Some((lock, read_only)) = self.held.remove(&alone(*key)) {
                    self.under(alone(*key), lock, read_only, then);
                }
            }
            Operation::Release(key) => drop(self.held.remove(&alone(*key))),
            Operation::Entries => self.check_entries(),
            Operation::RemoveListed(number) => self.remove_listed(*number),
            Operation::Clear => self.clear(None),
            Operation::Sweep => self.sweep(None),
            Operation::Reopen(how) => self.reopen(*how),
            Operation::ReadOnly(key, plant) => self.read_only(alone(*key), plant),
            Operation::Spoil(key, how) => self.spoil(alone(*key), *how),
            Operation::Litter(litter) => self.litter(*litter),
        }
    }

    fn is_there(&self, key: Key) -> bool {
        self.model.contains_key(&key)
    }

    /// Whether the key's lock is held exclusively.
    fn is_held(&self, key: Key) -> bool {
        self.held.contains_key(&key)
    }

    fn is_leased(&self, key: Key) -> bool {
        self.leases.iter().any(|(leased, ..)| *leased == key)
    }

    fn is_inherited(&self, key: Key) -> bool {
        self.inherited.iter().any(|(leased, _)| *leased == key)
    }

    fn is_in_use(&self, key: Key) -> bool {
        self.is_held(key) || self.is_leased(key) || self.is_inherited(key)
    }

    fn path(&self, key: Key) -> PathBuf {
        self.scratch.base().join(key.key())
    }

    fn finish(mut self) {
        for (_, lease, tree) in &self.leases {
            tree.check(lease);
        }
        self.leases.clear();
        self.inherited.clear();
        self.held.clear();
        for key in keys::ALL.map(alone) {
            let lease = self.store.get(&key).unwrap();
            assert_eq!(lease.is_some(), self.is_there(key), "{key:?}");
            if let Some(lease) = lease {
                self.model[&key].tree.check(&lease);
            }
        }
        self.check_entries();
        if !self.spoiled {
            self.check_residue();
        }
        self.sweep(None);
        self.check_residue();
        self.clear(None);
        assert!(self.model.is_empty());
        assert_eq!(listing(&self.scratch.base()), self.fresh);
        let outside = listing(&self.scratch.outside());
        let file = &outside[Path::new("file")];
        assert_eq!(file.0, Thing::File(b"not to be touched".to_vec()));
        assert_eq!((outside.len(), file.1 & 0o600), (1, 0o600));
        drop(self.store);
        self.scratch.finish();
    }

    /// Nothing is there but the trees, what belongs to them, the directories on the way to them,
    /// and the furniture.
    fn check_residue(&self) {
        let mut found = listing(&self.scratch.base());
        for (key, entry) in &self.model {
            let path = key.key();
            assert!(found.contains_key(&path));
            found.retain(|found, _| !found.starts_with(&path));
            let lock = found.remove(&beside(&path, ".lock"));
            let sidecar = found.remove(&beside(&path, ".larder"));
            assert!(sidecar.is_some() || !entry.known);
            assert!(sidecar.is_some() || lock.is_some());
            if let Some((lock, _)) = lock {
                assert_eq!(lock, Thing::File(Vec::new()), "a record of nobody");
            }
        }
        for key in self.model.keys() {
            for dir in above(&key.key()) {
                let is_dir = |(thing, _): (Thing, u32)| thing == Thing::Dir;
                assert!(found.remove(dir).is_none_or(is_dir));
            }
        }
        assert_eq!(found, self.fresh);
    }
}

/// The model has no place for keys that are in each other's way.
fn alone(key: Key) -> Key {
    match key {
        Key::BelowPlain => Key::Plain,
        key => key,
    }
}

fn options() -> StoreOptions {
    StoreOptions::new().durability(Durability::None)
}

fn open(base: &Path, options: &StoreOptions) -> larder::Result<KVDirStore> {
    Ok(options.open_dir_store(base)?.with_wait(Wait::TryOnce))
}
