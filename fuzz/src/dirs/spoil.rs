//! What processes that were killed leave, and what is lost by other accidents.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Dirs, Litter, Spoiling};
use crate::keys::{Key, beside};

impl Dirs {
    pub(super) fn spoil(&mut self, key: Key, how: Spoiling) {
        if self.is_in_use(key) {
            return;
        }
        let value = self.path(key);
        let (lock, sidecar) = (beside(&value, ".lock"), beside(&value, ".larder"));
        let nothing_there = !self.is_there(key) && !self.dead.contains_key(&key);
        match how {
            Spoiling::StraySidecar if nothing_there => {
                fs::create_dir_all(value.parent().unwrap()).unwrap();
                fs::write(&sidecar, sidecar_of("live", 0)).unwrap();
                self.stray.insert(key);
            }
            Spoiling::StrayLock if nothing_there => {
                fs::create_dir_all(value.parent().unwrap()).unwrap();
                fs::write(&lock, "larder-lock 1\npid=1\nend\n").unwrap();
            }
            _ if !self.is_there(key) => return,
            Spoiling::StraySidecar | Spoiling::StrayLock => return,
            // One of the two makes the directory an entry.
            Spoiling::LoseLock if sidecar.exists() && lock.exists() => {
                fs::remove_file(lock).unwrap();
            }
            Spoiling::LoseSidecar if sidecar.exists() && lock.exists() => {
                fs::remove_file(sidecar).unwrap();
                self.forget(key);
            }
            Spoiling::LoseLock | Spoiling::LoseSidecar => return,
            Spoiling::AnothersSidecar => {
                // A torn one would make the tree absent, which is tried in `tests/it`.
                fs::write(sidecar, sidecar_of("live", 0)).unwrap();
                self.forget(key);
            }
            Spoiling::Dead => {
                let inode = fs::symlink_metadata(&value).unwrap().ino();
                fs::write(sidecar, sidecar_of("dead", inode)).unwrap();
                let entry = self.model.remove(&key).unwrap();
                self.dead.insert(key, entry.tree);
            }
        }
        self.spoiled = true;
    }

    fn forget(&mut self, key: Key) {
        if let Some(entry) = self.model.get_mut(&key) {
            entry.known = false;
        }
    }

    pub(super) fn litter(&mut self, litter: Litter) {
        let number = self.litter.len();
        let in_tmp = |prefix: &str| PathBuf::from(format!("tmp/{prefix}{number:010}"));
        let paths = match litter {
            Litter::Tree => vec![
                in_tmp("t-"),
                lock_of(in_tmp("t-")),
                sidecar_at(in_tmp("t-")),
            ],
            Litter::TreeWithoutLock => vec![in_tmp("t-")],
            Litter::LockWithoutTree => vec![lock_of(in_tmp("t-"))],
            Litter::SidecarWithoutTree => vec![sidecar_at(in_tmp("t-"))],
            Litter::File => vec![in_tmp("f-")],
            Litter::Dead => vec![in_tmp("dead-")],
            Litter::Directories => vec!["w/x/y".into()],
        };
        for path in paths {
            let absolute = self.scratch.base().join(&path);
            match litter {
                Litter::Directories => fs::create_dir_all(&absolute).unwrap(),
                Litter::Dead => make_closed_tree(&absolute),
                _ if path == in_tmp("t-") => make_closed_tree(&absolute),
                _ => fs::write(&absolute, "").unwrap(),
            }
            self.litter.insert(path);
        }
        self.spoiled = true;
    }
}

fn lock_of(path: PathBuf) -> PathBuf {
    beside(&path, ".lock")
}

fn sidecar_at(path: PathBuf) -> PathBuf {
    beside(&path, ".larder")
}

fn sidecar_of(state: &str, inode: u64) -> String {
    format!("larder-tree 1\nstate={state}\ntree={inode}\nfiles=1\nbytes=1\nstanding=durable\nend\n")
}

/// A tree that its owner has to open to delete it.
fn make_closed_tree(path: &Path) {
    if fs::create_dir(path).is_err() {
        return; // there is one already
    }
    fs::create_dir(path.join("d")).unwrap();
    fs::write(path.join("d/file"), "").unwrap();
    for dir in [path.join("d"), path.to_path_buf()] {
        fs::set_permissions(dir, PermissionsExt::from_mode(0o000)).unwrap();
    }
}
