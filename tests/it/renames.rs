//! Renames of a directory onto one that is not empty, which file systems refuse in two ways: with
//! `EEXIST` (xfs), or with `ENOTEMPTY` (all others).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use larder::{Durability, KVDirStore, KVFileStore, PathKey, Share, StoreOptions};

use crate::support::{empty_store, in_memory, listing, tempdir};

/// A name that was drawn before: by a process that forked, for instance.
#[test]
fn a_tree_goes_to_another_name_where_the_drawn_one_is_taken() {
    let dir = tempdir();
    let store = KVDirStore::new(dir.path()).unwrap();
    let tree = |tree: &std::path::Path| Ok(std::fs::write(tree.join("file"), "")?);
    drop(store.get_or_set("key", tree).unwrap());

    fastrand::seed(7);
    let lock = store.lock("other").unwrap();
    let staged = lock.tempdir().unwrap();
    let drawn = staged.path().file_name().unwrap().to_str().unwrap();
    let drawn = drawn.strip_prefix("t-").unwrap().to_owned();
    drop((staged, lock));
    let taken = dir.path().join("tmp").join(format!("dead-{drawn}"));
    std::fs::create_dir_all(taken.join("sub")).unwrap();

    fastrand::seed(7);
    assert!(store.remove("key").unwrap());
    // So it was drawn, and found taken.
    assert!(taken.join("sub").is_dir());
    assert_eq!(store.sweep().unwrap().swept, 1);
    assert_eq!(listing(dir.path()), empty_store());
}

struct InOneDirectory(usize);

impl PathKey for InOneDirectory {
    fn key(&self) -> PathBuf {
        PathBuf::from(format!("shard/{}", self.0))
    }
}

/// In a store that a group shares, directories are made ready elsewhere and then renamed.
#[test]
fn a_groups_directory_is_made_by_many_at_once() {
    let dir = in_memory();
    let options = StoreOptions::new()
        .shared(Share::Group)
        .durability(Durability::None);
    let open = || -> KVFileStore { options.open_file_store(dir.path()).unwrap() };
    open();
    let end = Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let store = open();
            scope.spawn(move || {
                let key = InOneDirectory(n);
                while Instant::now() < end {
                    store.set(&key, |_| Ok(())).unwrap();
                    assert!(store.remove(&key).unwrap());
                }
            });
        }
    });
    assert_eq!(listing(dir.path()), empty_store());
}

/// A directory that somebody puts at a value's path while the value is replaced is neither the store's
/// to delete nor to move to `tmp/`.
#[test]
fn a_directory_that_comes_in_between_stays_whose_it_is() {
    let dir = tempdir();
    let options = StoreOptions::new().durability(Durability::None);
    let store = options.open_file_store(dir.path()).unwrap();
    store.set("key", |_| Ok(())).unwrap();
    let (path, other) = (dir.path().join("key".key()), dir.path().join("other"));
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("precious"), "").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (cwd, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
            while !done.load(order) {
                let _ = rustix::fs::renameat_with(cwd, &path, cwd, &other, exchange);
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            let _ = store.set("key", |_| Ok(()));
        }
        done.store(true, order);
    });
    assert!(path.join("precious").exists() || other.join("precious").exists());
    assert_eq!(listing(&dir.path().join("tmp")), Default::default());
}
