//! Full disks, and sizes at both ends.

use std::collections::BTreeSet;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::{
    Durability, Error, ErrorKind, GcPolicy, KVDirStore, KVFileStore, KeptReason, StoreOptions,
    ValueWriter,
};

use crate::support::{Mount, empty_store, eventually, is_root, listing, tempdir};

const MIB: usize = 1024 * 1024;

/// More than there is room for.
fn too_much(w: &mut ValueWriter) -> anyhow::Result<()> {
    for _ in 0..64 {
        w.write_all(&[7; MIB / 16])?;
    }
    Ok(())
}

/// The same by a closure that takes no notice of errors.
fn too_much_ignored(w: &mut ValueWriter) -> anyhow::Result<()> {
    for _ in 0..64 {
        let _ = w.write_all(&[7; MIB / 16]);
    }
    let _ = w.flush();
    Ok(())
}

/// And by one that has freed the space by the end, so that its last writes could be done.
fn too_much_for_a_while(hog: &Path) -> impl Fn(&mut ValueWriter) -> anyhow::Result<()> + '_ {
    move |w| {
        let _ = too_much(w);
        std::fs::remove_file(hog)?;
        assert!(w.write_all(b"the end").is_err(), "the writer has failed");
        Ok(())
    }
}

fn is_full(err: &Error) {
    assert_eq!(err.kind(), ErrorKind::Io, "{err}");
    assert_eq!(err.io_kind(), Some(io::ErrorKind::StorageFull), "{err}");
    let sentence = err.to_string();
    assert!(sentence.contains("free some space"), "{sentence}");
    assert!(!sentence.contains("No space"), "{sentence}");
}

/// Bytes and inodes that are free.
fn free(mount: &Mount) -> (u64, u64) {
    let stat = rustix::fs::statvfs(mount.path()).unwrap();
    (stat.f_bavail * stat.f_bsize, stat.f_ffree)
}

/// Everything that was taken is given back. A process that another test is just starting has for a moment
/// what is open here, and what is deleted takes room until that is over.
fn is_free_again(mount: &Mount, space: (u64, u64), what: &str) {
    eventually(what, || {
        let now = free(mount);
        now.0 >= space.0 && now.1 >= space.1
    });
}

/// Makes empty files until only this many inodes are left. Returns the last of them.
fn leave_inodes(mount: &Mount, left: u64) -> PathBuf {
    let dir = mount.path().join("hogs");
    std::fs::create_dir_all(&dir).unwrap();
    let mut n = std::fs::read_dir(&dir).unwrap().count();
    loop {
        let now = free(mount).1;
        assert!(now >= left, "{now} left");
        if now == left {
            return dir.join((n - 1).to_string());
        }
        std::fs::write(dir.join(n.to_string()), "").unwrap();
        n += 1;
    }
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    if !is_root("a_full_disk_leaves_everything_as_it_was") {
        return;
    }
    let mount = Mount::tmpfs("size=2m");
    let store = KVFileStore::new(mount.path().join("store")).unwrap();
    store
        .set("old", |w| Ok(w.write_all(b"old value")?))
        .unwrap();
    store
        .set("other", |w| Ok(w.write_all(&[1; 100_000])?))
        .unwrap();
    let hog = mount.path().join("hog");
    let (names, space) = (listing(store.base()), free(&mount));
    let fill_disk = || std::fs::write(&hog, vec![0; MIB / 2]).unwrap();
    type Write<'a> = &'a dyn Fn() -> larder::Result<()>;
    let for_a_while = too_much_for_a_while(&hog);
    let writes: [(&str, Write<'_>); 11] = [
        ("set", &|| store.set("old", too_much).map(drop)),
        ("set, ignoring", &|| {
            store.set("old", too_much_ignored).map(drop)
        }),
        ("set, ignoring, freed", &|| {
            store.set("old", &for_a_while).map(drop)
        }),
        ("get_or_set", &|| {
            store.get_or_set("new", too_much).map(drop)
        }),
        ("get_or_set, ignoring", &|| {
            store.get_or_set("new", too_much_ignored).map(drop)
        }),
        ("get_or_set, ignoring, freed", &|| {
            store.get_or_set("new", &for_a_while).map(drop)
        }),
        ("batch", &|| store.batch().set("old", too_much)),
        ("batch, ignoring", &|| {
            store.batch().set("old", too_much_ignored)
        }),
        ("lock", &|| {
            let lock = store.lock("old")?;
            let mut write = lock.begin()?;
            while write.write_all(&[7; 1000]).is_ok() {}
            write.commit().map(drop)
        }),
        ("lock, in large pieces", &|| {
            let lock = store.lock("old")?;
            let mut write = lock.begin()?;
            while write.write_all(&[7; 100_000]).is_ok() {}
            write.commit().map(drop)
        }),
        ("lock, and sought back", &|| {
            let lock = store.lock("new")?;
            let mut write = lock.begin()?;
            while write.write_all(&[7; 1000]).is_ok() {}
            let _ = write.rewind();
            let _ = write.write_all(b"again");
            write.commit().map(drop)
        }),
    ];
    for (what, write) in writes {
        fill_disk();
        println!("{what}");
        is_full(&write().expect_err(what));
        assert_eq!(listing(store.base()), names, "{what}");
        assert_eq!(store.read("old").unwrap().unwrap(), b"old value");
        assert_eq!(store.read("other").unwrap().unwrap(), [1; 100_000]);
        let _ = std::fs::remove_file(&hog);
        is_free_again(&mount, space, what);
        // With room again it works again.
        store
            .set("new", |w| Ok(w.write_all(&[2; 100_000])?))
            .unwrap();
        assert!(store.remove("new").unwrap());
    }
    // A closure's own error because of the writer's is there to be looked at.
    let err = store.set("old", too_much).unwrap_err();
    let inner = err.downcast_ref::<io::Error>().unwrap();
    assert_eq!(inner.kind(), io::ErrorKind::StorageFull);
    // Entries can be removed on a disk that has not a byte left.
    let _ = std::fs::write(&hog, vec![0; 2 * MIB]);
    assert_eq!(free(&mount).0, 0);
    assert!(store.remove("other").unwrap());
    assert_eq!(store.clear().unwrap().removed, 1);
    assert_eq!(listing(store.base()), empty_store());
}

/// The kernel writes what there is room for, and says so: a value must not end there.
#[test]
fn a_write_that_was_cut_short_by_a_full_disk_is_not_the_end_of_the_value() {
    if !is_root("a_write_that_was_cut_short_by_a_full_disk_is_not_the_end_of_the_value") {
        return;
    }
    let mount = Mount::tmpfs("size=300k");
    let options = StoreOptions::new().durability(Durability::None);
    let store = options.open_file_store(mount.path()).unwrap();
    let room = usize::try_from(free(&mount).0).unwrap();
    for piece in [1000, 20_000] {
        let mut outcomes = BTreeSet::new();
        for len in (room - 20_000..room + 20_000).step_by(1000) {
            let write = |w: &mut ValueWriter| {
                for piece in vec![5; len].chunks(piece) {
                    w.write_all(piece)?;
                }
                Ok(())
            };
            let set = store.set("key", write);
            outcomes.insert(set.is_ok());
            match set {
                Ok(value) => assert_eq!(value.len(), len as u64),
                Err(err) => is_full(&err),
            }
            store.remove("key").unwrap();
        }
        assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    }
}

#[test]
fn a_batch_on_a_full_disk_publishes_nothing() {
    if !is_root("a_batch_on_a_full_disk_publishes_nothing") {
        return;
    }
    let mount = Mount::tmpfs("size=2m");
    let store = KVFileStore::new(mount.path().join("store")).unwrap();
    store.set("3", |w| Ok(w.write_all(b"old value")?)).unwrap();
    let (names, space) = (listing(store.base()), free(&mount));
    let mut batch = store.batch();
    let mut staged = 0;
    let err = loop {
        let set = batch.set(&staged.to_string(), |w| Ok(w.write_all(&[3; 100_000])?));
        match set {
            Ok(()) => staged += 1,
            Err(err) => break err,
        }
    };
    assert!(staged > 10);
    is_full(&err);
    assert_eq!(store.read("3").unwrap().unwrap(), b"old value");
    assert_eq!(store.entries().count(), 1);
    drop(batch);
    assert_eq!(listing(store.base()), names);
    is_free_again(&mount, space, "the batch");
}

#[test]
fn a_tree_that_does_not_fit_is_not_published() {
    if !is_root("a_tree_that_does_not_fit_is_not_published") {
        return;
    }
    let mount = Mount::tmpfs("size=2m");
    let store = KVDirStore::new(mount.path().join("store")).unwrap();
    let fill = |tree: &Path| Ok(std::fs::write(tree.join("text"), "old tree")?);
    drop(store.get_or_set("old", fill).unwrap());
    let (names, space) = (listing(store.base()), free(&mount));
    let too_much = |tree: &Path| {
        std::fs::create_dir(tree.join("sub"))?;
        std::fs::write(tree.join("sub/some"), vec![1; MIB / 2])?;
        Ok(std::fs::write(tree.join("sub/rest"), vec![1; 4 * MIB])?)
    };
    for err in [
        store.replace("old", too_much).unwrap_err(),
        store.get_or_set("new", too_much).unwrap_err(),
    ] {
        // The closure wrote by itself, so it is the closure that failed.
        assert_eq!(err.kind(), ErrorKind::Compute);
        let inner = err.downcast_ref::<io::Error>().unwrap();
        assert_eq!(inner.kind(), io::ErrorKind::StorageFull);
        assert_eq!(listing(store.base()), names);
        is_free_again(&mount, space, "the tree");
    }
    let lease = store.get("old").unwrap().unwrap();
    assert_eq!(std::fs::read(lease.join("text")).unwrap(), b"old tree");
    drop(lease);
    drop(store.replace("old", fill).unwrap());
    drop(store.get_or_set("new", fill).unwrap());
    // One that fits, and leaves no byte for what the store writes itself.
    let all = |tree: &Path| {
        let _ = std::fs::write(tree.join("all"), vec![1; 4 * MIB]);
        Ok(())
    };
    let names = listing(store.base());
    is_full(&store.replace("old", all).unwrap_err());
    is_full(&store.get_or_set("third", all).unwrap_err());
    assert_eq!(listing(store.base()), names);
    assert!(store.remove("old").unwrap());
}

/// Whichever file or directory it is that cannot be made any more, nothing is left of the others.
#[test]
fn a_disk_without_inodes_leaves_everything_as_it_was() {
    if !is_root("a_disk_without_inodes_leaves_everything_as_it_was") {
        return;
    }
    let mount = Mount::tmpfs("size=2m,nr_inodes=100");
    let text = |w: &mut ValueWriter| Ok(w.write_all(b"new value")?);
    let plant = |tree: &Path| Ok(std::fs::write(tree.join("text"), "new tree")?);
    let files = KVFileStore::new(mount.path().join("files")).unwrap();
    let trees = KVDirStore::new(mount.path().join("trees")).unwrap();
    files
        .set("old", |w| Ok(w.write_all(b"old value")?))
        .unwrap();
    drop(trees.get_or_set("old", |_| Ok(())).unwrap());
    type Write<'a> = &'a dyn Fn() -> larder::Result<()>;
    let writes: [(&str, Write<'_>); 7] = [
        ("get_or_set", &|| files.get_or_set("new", text).map(drop)),
        ("set", &|| files.set("new", text).map(drop)),
        ("set again", &|| files.set("old", text).map(drop)),
        ("batch", &|| {
            let mut batch = files.batch();
            batch.set("new", text)?;
            batch.commit().map(drop)
        }),
        ("lock", &|| files.lock("new").map(drop)),
        ("tree", &|| trees.get_or_set("new", plant).map(drop)),
        ("tree again", &|| trees.replace("old", plant).map(drop)),
    ];
    for (what, write) in writes {
        for spare in 0.. {
            let names = (listing(files.base()), listing(trees.base()));
            leave_inodes(&mount, spare);
            let written = write();
            std::fs::remove_dir_all(mount.path().join("hogs")).unwrap();
            let Err(err) = written else {
                assert!(spare > 0, "{what}");
                break;
            };
            println!("{what} with {spare} inodes to spare: {err}");
            if err.kind() == ErrorKind::Compute {
                let inner = err.downcast_ref::<io::Error>().unwrap();
                assert_eq!(inner.kind(), io::ErrorKind::StorageFull);
            } else {
                is_full(&err);
            }
            let now = (listing(files.base()), listing(trees.base()));
            assert_eq!(now, names, "{what} with {spare} inodes to spare");
            assert!(spare < 20, "{what} never works");
        }
        let _ = (files.remove("new").unwrap(), trees.remove("new").unwrap());
    }
    // Hits need no inode, and one is enough to remove a value.
    let hog = leave_inodes(&mount, 0);
    assert_eq!(files.read("old").unwrap().unwrap(), b"new value");
    drop(trees.get("old").unwrap().unwrap());
    std::fs::remove_file(hog).unwrap();
    assert!(files.remove("old").unwrap());
    assert!(trees.remove("old").unwrap());
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Who was killed with the spare file has left it as a lock file. `clear` swept only in the end, so that
/// it failed, and everything stayed.
#[test]
fn a_full_disk_is_cleared_though_the_spare_was_lost() {
    if !is_root("a_full_disk_is_cleared_though_the_spare_was_lost") {
        return;
    }
    for of_trees in [false, true] {
        for nth in 0..3 {
            let mount = Mount::tmpfs("size=2m,nr_inodes=100");
            let base = mount.path().join("store");
            let clear = || match of_trees {
                true => KVDirStore::new(&base)?.clear(),
                false => KVFileStore::new(&base)?.clear(),
            };
            for key in ["0", "1", "2"] {
                if of_trees {
                    let store = KVDirStore::new(&base).unwrap();
                    drop(store.get_or_set(key, |_| Ok(())).unwrap());
                } else {
                    let store = KVFileStore::new(&base).unwrap();
                    store.set(key, |w| Ok(w.write_all(b"text")?)).unwrap();
                }
            }
            leave_inodes(&mount, 0);
            let entries = match of_trees {
                true => KVDirStore::new(&base).unwrap().entries(),
                false => KVFileStore::new(&base).unwrap().entries(),
            };
            let paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path().into()).collect();
            let lock = beside(&paths[nth], ".lock");
            std::fs::rename(base.join("larder-spare"), lock).unwrap();
            let report = clear().unwrap();
            assert_eq!(
                (report.removed, report.kept),
                (3, vec![]),
                "{of_trees} {nth}"
            );
            assert_eq!(report.examined, 3);
            assert_eq!(listing(&base), empty_store());
        }
    }
}

#[test]
fn what_a_full_disk_keeps_is_not_told_to_be_in_use() {
    if !is_root("what_a_full_disk_keeps_is_not_told_to_be_in_use") {
        return;
    }
    let mount = Mount::tmpfs("size=2m,nr_inodes=100");
    let store = KVFileStore::new(mount.path().join("store")).unwrap();
    store.set("key", |w| Ok(w.write_all(b"text")?)).unwrap();
    leave_inodes(&mount, 0);
    // Somebody has it just now.
    let (spare, away) = (store.base().join("larder-spare"), mount.path().join("away"));
    std::fs::rename(&spare, &away).unwrap();
    let all = GcPolicy::default().max_entries(0).min_idle(Duration::ZERO);
    for report in [store.gc(&all), store.clear()] {
        let report = report.unwrap();
        assert_eq!((report.removed, report.kept.len()), (0, 1));
        let full = KeptReason::Failed(io::ErrorKind::StorageFull);
        assert_eq!(report.kept[0].reason, full);
    }
    std::fs::rename(&away, &spare).unwrap();
    assert_eq!(store.clear().unwrap().removed, 1);
}

#[test]
fn a_lost_spare_file_is_found_missing_and_made_anew() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    let spare = dir.path().join("larder-spare");
    type Make<'a> = &'a dyn Fn();
    let makers: [(&str, Make<'_>); 4] = [
        ("sweep", &|| drop(store.sweep().unwrap())),
        ("clear", &|| drop(store.clear().unwrap())),
        ("gc", &|| drop(store.gc(&GcPolicy::default()).unwrap())),
        ("repair", &|| {
            let report = store.check().unwrap();
            let found: Vec<_> = report.findings.iter().map(|found| &found.path).collect();
            assert_eq!(found, [&spare]);
            assert!(report.findings[0].mendable);
            let report = store.repair().unwrap();
            let done: Vec<_> = report.done.iter().map(|done| &done.path).collect();
            assert_eq!(done, [&spare]);
            assert!(report.left.is_clean());
        }),
    ];
    for (who, make) in makers {
        std::fs::remove_file(&spare).unwrap();
        make();
        assert!(spare.exists(), "{who}");
    }
    assert!(store.check().unwrap().is_clean());
}

#[test]
fn a_value_of_no_bytes_is_a_value() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    assert_eq!(store.get_or_set("a", |_| Ok(())).unwrap().len(), 0);
    store.set("b", |w| Ok(w.flush()?)).unwrap();
    let mut batch = store.batch();
    batch.set("c", |w| Ok(w.write_all(b"")?)).unwrap();
    assert_eq!(batch.commit().unwrap(), 1);
    let lock = store.lock("d").unwrap();
    let mut read = lock.begin().unwrap().commit().unwrap();
    assert_eq!((read.len(), read.read(&mut [0]).unwrap()), (0, 0));
    drop(read);
    drop(lock);
    let expecting_none = |w: &mut ValueWriter| {
        w.expect_len(0);
        Ok(())
    };
    store.set("e", expecting_none).unwrap();
    for key in ["a", "b", "c", "d", "e"] {
        assert_eq!(store.read(key).unwrap(), Some(Vec::new()));
        assert!(store.contains(key).unwrap());
        let mut value = store.get_or_set(key, |_| panic!("it is there")).unwrap();
        let mut text = String::new();
        assert_eq!(value.read_to_string(&mut text).unwrap(), 0);
    }
    let entries: BTreeSet<_> = store.entries().map(|entry| entry.unwrap().len()).collect();
    assert_eq!(entries, BTreeSet::from([Some(0)]));
    assert_eq!(store.clear().unwrap().removed, 5);
}

#[test]
fn a_value_of_five_gibibytes_is_read_at_its_end() {
    const LEN: u64 = 5 * 1024 * 1024 * 1024;
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    let lock = store.lock("key").unwrap();
    let mut write = lock.begin().unwrap();
    write.write_all(b"head").unwrap();
    assert_eq!(write.seek(SeekFrom::Start(LEN - 4)).unwrap(), LEN - 4);
    write.write_all(b"tail").unwrap();
    assert_eq!(write.position(), LEN);
    write.expect_len(LEN);
    let mut read = write.commit().unwrap();
    assert_eq!(read.len(), LEN);
    assert_eq!(read.seek(SeekFrom::End(-4)).unwrap(), LEN - 4);
    let mut tail = String::new();
    read.read_to_string(&mut tail).unwrap();
    assert_eq!(tail, "tail");
    drop(read);
    drop(lock);
    let mut value = store.get("key").unwrap().unwrap();
    assert_eq!(value.len(), LEN);
    let mut head = [1; 5];
    value.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"head\0");
    value.seek(SeekFrom::Start(u64::from(u32::MAX))).unwrap();
    value.read_exact(&mut head).unwrap();
    assert_eq!(head, [0; 5]);
    value.seek(SeekFrom::End(-2)).unwrap();
    assert_eq!(value.read(&mut head).unwrap(), 2);
    let meta = value.raw_path().unwrap().metadata().unwrap();
    assert!(meta.blocks() * 512 < 1024 * 1024, "the hole was filled");
    let entry = store.entries().next().unwrap().unwrap();
    assert_eq!(entry.len(), Some(LEN));
    assert!(entry.allocated_bytes().unwrap() < 1024 * 1024);
}

/// Around the size of the writer's buffer, and in pieces that are smaller and larger than it.
#[test]
fn values_around_the_size_of_the_writers_buffer_come_back() {
    const BUFFER: usize = 16 * 1024;
    let dir = tempdir();
    let options = StoreOptions::new().durability(Durability::None);
    let store = options.open_file_store(dir.path()).unwrap();
    let bytes: Vec<u8> = (0..250_000_u32).map(|n| (n % 251) as u8).collect();
    let mut read = Vec::new();
    for around in [1, BUFFER, 2 * BUFFER, 100 * 1024] {
        for len in [around - 1, around, around + 1] {
            for piece in [1, 1000, BUFFER - 1, BUFFER, BUFFER + 1, 100 * 1024] {
                let write = |w: &mut ValueWriter| {
                    w.expect_len(len as u64);
                    for piece in bytes[..len].chunks(piece) {
                        w.write_all(piece)?;
                    }
                    assert_eq!(w.position(), len as u64);
                    Ok(())
                };
                assert_eq!(store.set("key", write).unwrap().len(), len as u64);
                assert_eq!(store.read_into("key", &mut read).unwrap(), Some(len));
                assert!(read == bytes[..len], "{len} bytes in pieces of {piece}");
            }
            // Small and large pieces by turns, and a flush between them.
            let mix = |w: &mut ValueWriter| {
                let (start, rest) = bytes[..len].split_at(len / 3);
                let (middle, end) = rest.split_at(rest.len() / 2);
                for byte in start {
                    w.write_all(&[*byte])?;
                }
                w.write_all(middle)?;
                w.flush()?;
                Ok(w.write_all(end)?)
            };
            store.set("key", mix).unwrap();
            assert!(store.read("key").unwrap().unwrap() == bytes[..len]);
            // Written over in the middle by who can seek.
            let lock = store.lock("key").unwrap();
            let mut write = lock.begin().unwrap();
            write.write_all(&vec![0; len]).unwrap();
            write.seek(SeekFrom::Start(len as u64 / 2)).unwrap();
            write.write_all(&bytes[len / 2..len]).unwrap();
            write.rewind().unwrap();
            for byte in &bytes[..len / 2] {
                write.write_all(&[*byte]).unwrap();
            }
            drop(write.commit().unwrap());
            drop(lock);
            assert!(store.read("key").unwrap().unwrap() == bytes[..len]);
        }
    }
}
