//! What each call does, in one process.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use larder::{ErrorKind, KVDirStore, KVFileStore, Outcome, Share, StoreOptions};

use rustix::fs::FlockOperation;

use crate::support::{
    Worker, chmod, empty_store, in_memory, listing, mode, tempdir, wait_until_blocked,
};
use crate::worker::{hear, say};

const OPEN: &str = "basics-open";

/// Plays a worker's role, if it is one of this module's.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        OPEN => open_at_once(args),
        _ => return false,
    }
    true
}

fn text(bytes: &[u8]) -> impl FnOnce(&mut larder::ValueWriter) -> anyhow::Result<()> + '_ {
    move |w| Ok(w.write_all(bytes)?)
}

#[test]
fn a_value_comes_back_until_it_is_removed() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    assert!(store.get("key").unwrap().is_none());
    assert!(!store.contains("key").unwrap());
    let value = store.get_or_set("key", text(b"one")).unwrap();
    assert_eq!((value.len(), value.outcome()), (3, Outcome::Computed));
    let value = store.get_or_set("key", |_| panic!("it is there")).unwrap();
    assert_eq!(value.outcome(), Outcome::Hit);
    assert_eq!(store.read("key").unwrap().unwrap(), b"one");
    assert!(store.contains("key").unwrap());
    store.set("key", text(b"two!")).unwrap();
    let mut buffer = b"what was there before".to_vec();
    assert_eq!(store.read_into("key", &mut buffer).unwrap(), Some(4));
    assert_eq!(buffer, b"two!");
    assert!(store.remove("key").unwrap());
    assert!(!store.remove("key").unwrap());
    assert_eq!(store.read_into("key", &mut buffer).unwrap(), None);
    assert!(buffer.is_empty());
    assert_eq!(listing(dir.path()), empty_store());
}

#[test]
fn a_reader_keeps_what_it_opened() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    let mut old = store.set("key", text(b"old")).unwrap();
    store.set("key", text(b"new")).unwrap();
    store.remove("key").unwrap();
    let mut read = String::new();
    old.read_to_string(&mut read).unwrap();
    assert_eq!(read, "old");
    old.seek(SeekFrom::Start(1)).unwrap();
    read.clear();
    old.read_to_string(&mut read).unwrap();
    assert_eq!(read, "ld");
}

#[test]
fn a_locked_key_is_read_written_and_removed() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    assert!(store.lock_if_exists("key").unwrap().is_none());
    assert_eq!(listing(dir.path()), empty_store());
    let lock = store.lock("key").unwrap();
    assert!(lock.reader().unwrap().is_none());
    assert!(store.try_lock("key").unwrap().is_none());
    let mut write = lock.begin().unwrap();
    write.write_all(b"Hallo").unwrap();
    write.seek(SeekFrom::Start(1)).unwrap();
    write.write_all(b"e").unwrap();
    assert_eq!(write.position(), 2);
    drop(lock.begin().unwrap()); // dropped, nothing happened
    let mut read = write.commit().unwrap();
    let mut hello = String::new();
    read.read_to_string(&mut hello).unwrap();
    assert_eq!(hello, "Hello");
    let mut value = read.detach_unlocked();
    assert!(lock.remove().unwrap());
    value.rewind().unwrap();
    hello.clear();
    value.read_to_string(&mut hello).unwrap();
    assert_eq!(hello, "Hello");
    assert_eq!(listing(dir.path()), empty_store());
}

#[test]
fn a_tree_comes_back_until_it_is_removed() {
    let dir = tempdir();
    let store = KVDirStore::new(dir.path()).unwrap();
    assert!(store.get("key").unwrap().is_none());
    let lease = store
        .get_or_set("key", |tree| Ok(std::fs::write(tree.join("text"), "one")?))
        .unwrap();
    assert_eq!(lease.outcome(), Outcome::Computed);
    assert!(lease.is_protected());
    assert_eq!(std::fs::read(lease.join("text")).unwrap(), b"one");
    assert_eq!(store.remove("key").unwrap_err().kind(), ErrorKind::InUse);
    let err = store.replace("key", |_| Ok(())).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InUse);
    drop(lease);
    let lease = store
        .replace("key", |tree| Ok(std::fs::write(tree.join("text"), "two")?))
        .unwrap();
    assert_eq!(std::fs::read(lease.join("text")).unwrap(), b"two");
    let path = lease.detach_unlocked();
    assert!(store.remove("key").unwrap());
    assert!(!path.exists());
    assert!(!store.remove("key").unwrap());
    assert_eq!(listing(dir.path()), empty_store());
}

#[test]
fn stores_values_and_guards_cross_threads() {
    fn sent<T: Send>() {}
    fn shared<T: Clone + Send + Sync>() {}
    fn guard<T: Send + Sync>() {}
    shared::<KVFileStore>();
    shared::<KVDirStore>();
    shared::<larder::CancelToken>();
    guard::<larder::KVFileLock>();
    guard::<larder::KVDirLock>();
    guard::<larder::Error>();
    sent::<larder::Value>();
    sent::<larder::LockedRead<'_>>();
    sent::<larder::LockedWrite<'_>>();
    sent::<larder::DirLease>();
    sent::<larder::StagedTree>();
    sent::<larder::Batch>();
    sent::<larder::Entries>();
}

#[test]
fn ten_thousand_values_leave_no_file_that_has_no_name_in_the_design() {
    let dir = tempdir();
    let options = larder::StoreOptions::new().durability(larder::Durability::None);
    let store = options.open_file_store(dir.path()).unwrap();
    for n in 0..10_000_u32 {
        store
            .get_or_set(&n.to_le_bytes(), text(&n.to_be_bytes()))
            .unwrap();
    }
    let own = empty_store();
    let mut values = 0;
    for name in listing(dir.path()) {
        let parts: Vec<&str> = name.trim_end_matches('/').split('/').collect();
        if own.contains(&name) {
            continue;
        }
        assert!(
            parts[..parts.len().min(3)]
                .iter()
                .all(|part| part.len() == 1),
            "{name}"
        );
        if !name.ends_with('/') {
            assert_eq!((parts.len(), parts[3].len()), (4, 40), "{name}");
            values += 1;
        }
    }
    assert_eq!(values, 10_000);
    let report = store.clear().unwrap();
    assert_eq!((report.examined, report.removed), (10_000, 10_000));
    assert_eq!(listing(dir.path()), own);
}

/// KIND DIR: says `ready`; for every number that it hears waits for the lock of `DIR/gate`, opens a store
/// of this kind at `DIR/NUMBER`, and says how that went; ends when it hears nothing.
fn open_at_once(args: &[&str]) {
    let dir = Path::new(args[1]);
    say("ready");
    loop {
        let number = hear();
        if number.is_empty() {
            break;
        }
        let base = dir.join(&number);
        let gate = File::open(dir.join("gate")).unwrap();
        say("waiting");
        rustix::fs::flock(&gate, FlockOperation::LockShared).unwrap();
        let opened = match args[0] {
            "files" => KVFileStore::new(base).map(drop),
            _ => KVDirStore::new(base).map(drop),
        };
        match opened {
            Ok(()) => say("opened"),
            Err(err) => say(&format!("{:?}: {err}", err.kind())),
        }
    }
}

/// What each of these says that opens a new store at the same moment, round by round.
fn all_open_at_once(kinds: &[&str], rounds: u32, mut check: impl FnMut(&Path, &[String])) {
    let dir = in_memory(); // where syncing is free
    let gate = File::create(dir.path().join("gate")).unwrap();
    let start = |kind: &&str| Worker::start(OPEN, &[kind, dir.path().to_str().unwrap()]);
    let mut workers: Vec<Worker> = kinds.iter().map(start).collect();
    workers
        .iter_mut()
        .for_each(|worker| drop(worker.expect("ready")));
    for round in 0..rounds {
        rustix::fs::flock(&gate, FlockOperation::LockExclusive).unwrap();
        for worker in &mut workers {
            worker.tell(&round.to_string());
            worker.expect("waiting");
        }
        workers
            .iter()
            .for_each(|worker| wait_until_blocked(worker.pid()));
        rustix::fs::flock(&gate, FlockOperation::Unlock).unwrap();
        let said: Vec<String> = workers.iter_mut().map(|worker| worker.expect("")).collect();
        check(&dir.path().join(round.to_string()), &said);
    }
    workers.iter_mut().for_each(Worker::finish);
}

/// A process that looked for the marker too early, and then met what another had made by then, took
/// it for a store that had lost its marker.
#[test]
fn eight_processes_open_one_new_store() {
    all_open_at_once(&["files"; 8], 25, |base, said| {
        assert!(said.iter().all(|said| said == "opened"), "{said:?}");
        assert_eq!(listing(base), empty_store());
    });
}

#[test]
fn of_two_kinds_at_once_one_becomes_the_stores() {
    let kinds = ["files", "trees"].repeat(4);
    all_open_at_once(&kinds, 25, |base, said| {
        let kind = match KVFileStore::new(base) {
            Ok(_) => "files",
            Err(_) => "trees",
        };
        for (asked, said) in kinds.iter().zip(said) {
            if *asked == kind {
                assert_eq!(said, "opened");
            } else {
                assert!(said.starts_with("FormatMismatch: "), "{said}");
                assert!(said.contains("not a store of"), "{said}");
            }
        }
        assert_eq!(listing(base), empty_store());
    });
}

/// The bits of a file that is somewhere else too are not the tree's to decide: a compiler's file that
/// was linked into a tree was suddenly read-only where it came from.
#[test]
fn a_file_that_is_linked_into_a_tree_keeps_its_bits() {
    for (options, bits) in [
        (StoreOptions::new().read_only_trees(true), 0o644),
        (StoreOptions::new().shared(Share::Group), 0o600),
    ] {
        let dir = tempdir();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "theirs").unwrap();
        chmod(&outside, bits);
        let store = options.open_dir_store(dir.path().join("store")).unwrap();
        for again in [false, true] {
            let make = |tree: &Path| {
                std::fs::hard_link(&outside, tree.join("linked"))?;
                std::fs::write(tree.join("one"), "ours")?;
                chmod(&tree.join("one"), bits);
                std::fs::create_dir(tree.join("below"))?;
                std::fs::hard_link(tree.join("one"), tree.join("below/two"))?;
                Ok(())
            };
            let lease = match again {
                false => store.get_or_set("key", make),
                true => store.replace("key", make),
            };
            let lease = lease.unwrap();
            assert_eq!(mode(&outside), bits);
            assert_eq!(mode(&lease.join("linked")), bits);
            // All the names of this one are in the tree.
            let ours = if bits == 0o644 { 0o444 } else { 0o660 };
            assert_eq!(mode(&lease.join("one")), ours);
            assert_eq!(mode(&lease.join("below/two")), ours);
        }
        assert!(store.remove("key").unwrap());
        assert_eq!(std::fs::read(&outside).unwrap(), b"theirs");
        assert_eq!(mode(&outside), bits);
        assert_eq!(listing(store.base()), empty_store());
    }
}
