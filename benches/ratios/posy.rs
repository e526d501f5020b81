//! The algorithm of posy's kvstore, written anew as a baseline: a lock file per key, which stays; every
//! look at a value, a hit too, takes that lock exclusively; values are synced, trees are not.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use larder::PathKey;
use rustix::fs::{FlockOperation, flock};

#[derive(Clone, Debug)]
pub(crate) struct Store {
    base: PathBuf,
}

impl Store {
    pub(crate) fn new(base: &Path) -> Store {
        fs::create_dir_all(base.join("tmp")).unwrap();
        let base = base.to_owned();
        Store { base }
    }

    fn lock(&self, path: &Path, create: bool) -> Option<File> {
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        if create {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        let opened = File::options().write(true).create(create).open(lock);
        let file = opened.ok()?;
        flock(&file, FlockOperation::LockExclusive).unwrap();
        Some(file)
    }

    pub(crate) fn get(&self, key: &str) -> Option<File> {
        let path = self.base.join(key.key());
        let _lock = self.lock(&path, false)?;
        File::open(path).ok()
    }

    pub(crate) fn read(&self, key: &str, into: &mut Vec<u8>) -> usize {
        into.clear();
        self.get(key).unwrap().read_to_end(into).unwrap()
    }

    pub(crate) fn get_or_set(&self, key: &str, compute: impl FnOnce() -> Vec<u8>) -> File {
        let path = self.base.join(key.key());
        let _lock = self.lock(&path, true);
        match File::open(&path) {
            Ok(file) => file,
            Err(_) => self.publish(&path, &compute(), true),
        }
    }

    pub(crate) fn set(&self, key: &str, bytes: &[u8], durable: bool) -> File {
        let path = self.base.join(key.key());
        let _lock = self.lock(&path, true);
        self.publish(&path, bytes, durable)
    }

    fn publish(&self, path: &Path, bytes: &[u8], durable: bool) -> File {
        let mut staged = tempfile::NamedTempFile::new_in(self.base.join("tmp")).unwrap();
        staged.write_all(bytes).unwrap();
        if durable {
            staged.as_file().sync_data().unwrap();
        }
        staged.persist(path).unwrap()
    }

    pub(crate) fn make_tree(&self, key: &str, fill: impl FnOnce(&Path)) {
        let path = self.base.join(key.key());
        let _lock = self.lock(&path, true);
        let staged = tempfile::tempdir_in(self.base.join("tmp")).unwrap();
        fill(staged.path());
        fs::rename(staged.keep(), path).unwrap();
    }
}
