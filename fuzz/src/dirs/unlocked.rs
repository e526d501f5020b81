//! What needs no lock of the caller's.

use std::path::Path;
use std::process::Command;

use larder::{DirLease, ErrorKind, KVDirStore, Outcome, Result, Share};

use super::{Dirs, Entry, Inner, Leasing};
use crate::body::Ending;
use crate::keys::Key;
use crate::plant::{Plant, Tree};
use crate::scratch::{Deliberate, caught, check_busy};

impl Dirs {
    /// Checks a lease and keeps it, or not.
    pub(super) fn leased(&mut self, key: Key, lease: DirLease, outcome: Outcome, how: Leasing) {
        assert_eq!(&*lease, self.path(key));
        assert_eq!(lease.outcome(), outcome);
        assert!(lease.is_protected());
        let tree = self.model[&key].tree.clone();
        tree.check(&lease);
        match how {
            Leasing::Keep => self.leases.push((key, lease, tree)),
            Leasing::Drop => drop(lease),
            Leasing::Detach => assert_eq!(lease.detach_unlocked(), self.path(key)),
            Leasing::Inherit => {
                let mut command = Command::new("true");
                lease.inherit(&mut command).unwrap();
                self.inherited.push((key, command));
            }
        }
    }

    pub(super) fn drop_lease(&mut self, number: usize) {
        let count = self.leases.len() + self.inherited.len();
        if count == 0 {
            return;
        }
        let number = number % count;
        if number < self.leases.len() {
            let (_, lease, tree) = self.leases.swap_remove(number);
            tree.check(&lease);
        } else {
            self.inherited.swap_remove(number - self.leases.len());
        }
    }

    pub(super) fn get(&mut self, key: Key, how: Leasing) {
        match self.store.get(&key) {
            Ok(Some(lease)) => {
                assert!(self.is_there(key) && !self.is_held(key));
                self.leased(key, lease, Outcome::Hit, how);
            }
            Ok(None) => {
                assert!(!self.is_there(key));
                assert!(!(self.stray.contains(&key) && self.is_held(key)));
            }
            Err(err) => {
                // A sidecar without a tree is what a replacement looks like.
                assert!(self.is_held(key));
                assert!(self.is_there(key) || self.stray.contains(&key));
                check_busy(&err, key);
            }
        }
    }

    fn is_group_shared(&self) -> bool {
        self.share == Share::Group
    }

    /// The model of what a store publishes of a plant.
    pub(super) fn published(&self, plant: &Plant, read_only: bool) -> Tree {
        let tree = plant.tree(&self.scratch.outside());
        tree.published(self.is_group_shared(), read_only)
    }

    pub(super) fn note_published(&mut self, key: Key, tree: Tree, known: bool) {
        self.model.insert(key, Entry { tree, known });
        self.dead.remove(&key);
        self.stray.remove(&key);
    }

    pub(super) fn get_or_set(&mut self, key: Key, plant: &Plant, how: Leasing) {
        let outside = self.scratch.outside();
        let mut ran = false;
        let got = caught(|| {
            self.store.get_or_set(&key, |dir| {
                ran = true;
                plant.fill(dir, &outside)
            })
        });
        assert_eq!(ran, !self.is_there(key) && !self.is_held(key));
        if self.is_held(key) {
            check_busy(&got.unwrap().unwrap_err(), key);
        } else if !ran {
            self.leased(key, got.unwrap().unwrap(), Outcome::Hit, how);
        } else if let Some(lease) = closure_done(plant, got) {
            let tree = self.published(plant, self.read_only_trees);
            self.note_published(key, tree, true);
            self.leased(key, lease.unwrap(), Outcome::Computed, how);
        }
    }

    pub(super) fn replace(&mut self, key: Key, plant: &Plant, how: Leasing) {
        let outside = self.scratch.outside();
        let replaced = caught(|| self.store.replace(&key, |dir| plant.fill(dir, &outside)));
        let Some(replaced) = closure_done(plant, replaced) else {
            return;
        };
        match replaced {
            Ok(lease) => {
                assert!(!self.is_in_use(key));
                let tree = self.published(plant, self.read_only_trees);
                self.note_published(key, tree, true);
                self.leased(key, lease, Outcome::Computed, how);
            }
            Err(err) if self.is_leased(key) || self.is_inherited(key) => {
                assert_eq!(err.kind(), ErrorKind::InUse);
            }
            Err(err) => {
                assert!(self.is_held(key));
                assert_eq!(err.kind(), ErrorKind::Busy);
            }
        }
    }

    /// A closure that uses the store itself.
    pub(super) fn nested(&mut self, outer: Key, inner: Inner) {
        if self.is_there(outer) || self.is_held(outer) {
            return;
        }
        let store = self.store.clone();
        let lease = store.get_or_set(&outer, |dir| {
            self.inside(outer, inner);
            Tree::short("outer").make(dir)
        });
        let tree = Tree::short("outer").published(self.is_group_shared(), self.read_only_trees);
        self.note_published(outer, tree, true);
        self.leased(outer, lease.unwrap(), Outcome::Computed, Leasing::Drop);
    }

    fn inside(&mut self, outer: Key, inner: Inner) {
        let fill = |dir: &Path| Tree::short("inner").make(dir);
        let (key, lease) = match inner {
            Inner::Sweep => return self.sweep(Some(outer)),
            Inner::Clear => return self.clear(Some(outer)),
            Inner::Get(key) if super::alone(key) == outer => {
                return self.get_while_making(outer);
            }
            Inner::Get(key) => return self.get(super::alone(key), Leasing::Drop),
            Inner::Lock(key) => {
                let key = super::alone(key);
                match self.store.lock(&key) {
                    Ok(_lock) => return assert!(!self.is_in_use(key) && key != outer),
                    Err(err) => (key, Err(err)),
                }
            }
            Inner::GetOrSet(key) => {
                let key = super::alone(key);
                let got = self.store.get_or_set(&key, fill);
                if self.is_there(key) && !self.is_held(key) {
                    return self.leased(key, got.unwrap(), Outcome::Hit, Leasing::Drop);
                }
                (key, got)
            }
            Inner::Replace(key) => {
                let key = super::alone(key);
                (key, self.store.replace(&key, fill))
            }
        };
        match lease {
            Ok(lease) => {
                assert!(key != outer && !self.is_in_use(key));
                let tree = Tree::short("inner");
                let tree = tree.published(self.is_group_shared(), self.read_only_trees);
                self.note_published(key, tree, true);
                self.leased(key, lease, Outcome::Computed, Leasing::Drop);
            }
            Err(err) if key == outer => assert_eq!(err.kind(), ErrorKind::WouldDeadlock),
            Err(err) => {
                assert!(self.is_in_use(key), "{err:?}");
                let kind = err.kind();
                let is_ours = self.is_leased(key) || self.is_inherited(key);
                let in_use = matches!(inner, Inner::Replace(_)) && is_ours;
                let expected = if in_use {
                    ErrorKind::InUse
                } else {
                    ErrorKind::Busy
                };
                assert_eq!(kind, expected, "{err:?}");
            }
        }
    }

    /// What is not made yet is not there.
    fn get_while_making(&self, outer: Key) {
        // Not even if a sidecar was there before: who makes the tree has taken it away.
        assert!(self.store.get(&outer).unwrap().is_none());
    }

    pub(super) fn remove(&mut self, key: Key) {
        let removed = self.store.remove(&key);
        if self.is_there(key) && self.is_in_use(key) {
            assert_eq!(removed.unwrap_err().kind(), ErrorKind::InUse);
        } else {
            assert_eq!(removed.unwrap(), self.model.remove(&key).is_some());
        }
    }

    /// Who may only read gets the hits and nothing else.
    pub(super) fn read_only(&mut self, key: Key, plant: &Plant) {
        let base = self.scratch.base();
        let outside = self.scratch.outside();
        let store = super::open(&base, &super::options().read_only(true)).unwrap();
        let there = self.is_there(key);
        let is_refused = |err: larder::Error| assert_eq!(err.kind(), ErrorKind::ReadOnly);
        assert_eq!(store.contains(&key).unwrap(), there);
        assert_eq!(store.touch(&key).unwrap(), there);
        if !self.is_held(key) {
            self.read_only_get(&store, key);
        }
        match (store.remove(&key), store.lock_if_exists(&key)) {
            (Err(removed), Err(locked)) if there => {
                is_refused(removed);
                is_refused(locked);
            }
            (removed, locked) => assert!(!removed.unwrap() && locked.unwrap().is_none()),
        }
        is_refused(
            store
                .replace(&key, |dir| plant.fill(dir, &outside))
                .unwrap_err(),
        );
        is_refused(store.lock(&key).unwrap_err());
        is_refused(store.try_lock(&key).unwrap_err());
        is_refused(store.clear().unwrap_err());
        is_refused(store.sweep().unwrap_err());
        assert_eq!(store.entries().count(), self.model.len());
    }

    fn read_only_get(&self, store: &KVDirStore, key: Key) {
        let lease = store.get(&key).unwrap();
        let got = store.get_or_set(&key, |_| panic!("nothing can be made"));
        match (&lease, got, self.model.get(&key)) {
            (Some(lease), Ok(_), Some(entry)) => {
                entry.tree.check(lease);
                let lock = crate::keys::beside(lease, ".lock");
                assert_eq!(lease.is_protected(), lock.exists());
            }
            (None, Err(err), None) => assert_eq!(err.kind(), ErrorKind::ReadOnly),
            (lease, got, _) => panic!("{lease:?} {got:?}"),
        }
    }
}

/// What came of a call whose closure was run: `None` if that failed or panicked, as it was to.
fn closure_done(plant: &Plant, done: Option<Result<DirLease>>) -> Option<Result<DirLease>> {
    match (plant.ending, done) {
        (Ending::Panic, None) => None,
        (Ending::Error, Some(Err(err))) => {
            assert_eq!(err.kind(), ErrorKind::Compute);
            assert!(err.downcast_ref::<Deliberate>().is_some());
            None
        }
        (Ending::Ok | Ending::IgnoringErrors, Some(done)) => Some(done),
        (ending, done) => panic!("expected {ending:?}, got {done:?}"),
    }
}
