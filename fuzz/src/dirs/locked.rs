//! What is done under a key's lock.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use larder::{ErrorKind, KVDirLock, Outcome, StagedTree};

use super::{Dirs, How, Leasing, Then};
use crate::body::Ending;
use crate::keys::Key;
use crate::plant::Plant;
use crate::scratch::{Thing, caught, check_busy, listing};

impl Dirs {
    pub(super) fn lock(&mut self, key: Key, how: How) -> Option<KVDirLock> {
        let lock = match how {
            How::Lock => self.store.lock(&key).map(Some),
            How::Try => self.store.try_lock(&key),
            How::IfExists => self.store.lock_if_exists(&key),
        };
        match lock {
            Ok(Some(lock)) => {
                assert!(!self.is_in_use(key));
                assert!(how != How::IfExists || self.is_there(key));
                assert_eq!(&*lock, self.path(key));
                assert_eq!(lock.exists(), self.is_there(key));
                // Who has the lock has taken away what is left of an earlier tree.
                self.stray.remove(&key);
                self.dead.remove(&key);
                Some(lock)
            }
            Ok(None) => {
                match how {
                    How::Lock => panic!("neither lock nor error"),
                    How::Try => assert!(self.is_in_use(key)),
                    How::IfExists => assert!(!self.is_there(key)),
                }
                None
            }
            Err(err) => {
                assert!(self.is_in_use(key) && how != How::Try, "{err:?}");
                assert!(how == How::Lock || self.is_there(key));
                if self.is_held(key) {
                    check_busy(&err, key);
                }
                assert_eq!(err.kind(), ErrorKind::Busy);
                None
            }
        }
    }

    /// `read_only` is what the handle that took the lock makes of trees.
    pub(super) fn under(&mut self, key: Key, lock: KVDirLock, read_only: bool, then: &Then) {
        match then {
            Then::Nothing => assert_eq!(lock.try_exists().unwrap(), self.is_there(key)),
            Then::Publish(plant, how) => self.publish(key, lock, read_only, plant, *how),
            Then::Rename(plant, after_deleting) => self.rename(key, lock, plant, *after_deleting),
            Then::TakeOut(plant) => {
                let Some(staged) = self.staged(&lock, plant) else {
                    return;
                };
                let path = staged.into_path();
                assert!(path.is_dir());
                drop(lock);
                assert!(!path.exists(), "what was taken out is still there");
            }
            Then::TakeOutLate(plant) => {
                let Some(staged) = self.staged(&lock, plant) else {
                    return;
                };
                drop(lock);
                assert!(!staged.into_path().exists(), "nobody would remove it");
            }
            Then::PublishAnothers(plant) => {
                let other = super::open(&self.scratch.base(), &super::options()).unwrap();
                let other = other.lock("a key of nobody else").unwrap();
                let Some(staged) = self.staged(&other, plant) else {
                    return;
                };
                let refused = lock.publish(staged).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Unsupported);
            }
            Then::Remove => {
                // What counts as absent is taken away all the same.
                let there = self.model.remove(&key).is_some();
                self.dead.remove(&key);
                self.stray.remove(&key);
                assert_eq!(lock.remove().unwrap(), there);
            }
        }
    }

    /// A tree that its maker has finished; `None` if he failed.
    fn staged(&self, lock: &KVDirLock, plant: &Plant) -> Option<StagedTree> {
        let outside = self.scratch.outside();
        let staged = caught(|| {
            let staged = lock.tempdir().unwrap();
            plant.fill(staged.path(), &outside).ok()?;
            Some(staged)
        });
        let is_done = matches!(plant.ending, Ending::Ok | Ending::IgnoringErrors);
        assert_eq!(staged.as_ref().is_some_and(Option::is_some), is_done);
        staged.flatten()
    }

    fn publish(&mut self, key: Key, lock: KVDirLock, read_only: bool, plant: &Plant, how: Leasing) {
        let another = lock.tempdir().unwrap();
        let taken_out = lock.tempdir().unwrap().into_path();
        let Some(staged) = self.staged(&lock, plant) else {
            return;
        };
        let lease = lock.publish(staged).unwrap();
        let tree = self.published(plant, read_only);
        self.note_published(key, tree, true);
        self.leased(key, lease, Outcome::Computed, how);
        assert!(!taken_out.exists());
        drop(another);
    }

    fn rename(&mut self, key: Key, lock: KVDirLock, plant: &Plant, after_deleting: bool) {
        let tree = plant.tree(&self.scratch.outside()).plain();
        let staged = lock.tempdir().unwrap();
        tree.make(staged.path()).unwrap();
        let path = staged.into_path();
        if after_deleting && lock.exists() {
            delete(&lock);
            self.model.remove(&key);
        }
        let old = self.model.get(&key).map(|entry| &entry.tree);
        let in_the_way = old
            .or(self.dead.get(&key))
            .is_some_and(|tree| !tree.nodes.is_empty());
        match fs::rename(&path, &*lock) {
            Ok(()) => {
                assert!(!in_the_way && lock.exists());
                self.note_published(key, tree, false);
            }
            Err(err) => {
                assert!(in_the_way, "{err}");
                drop(lock);
                assert!(!path.exists(), "what was taken out is still there");
            }
        }
    }
}

/// As a client deletes a tree by hand, which may be read-only.
fn delete(tree: &Path) {
    let owners = |path: &Path| fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
    owners(tree);
    for (path, (thing, _)) in listing(tree) {
        if thing == Thing::Dir {
            owners(&tree.join(path));
        }
    }
    fs::remove_dir_all(tree).unwrap();
}
