//! A sealed value that is torn, altered or another key's is never given out; what a later version wrote
//! is neither that nor readable.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use larder::{
    Durability, ErrorKind, Expect, Integrity, KVFileStore, Outcome, PathKey, StoreOptions,
    ValueWriter, Verify,
};
use rustix::fs::{Gid, Uid};

use crate::sealed_file::{CHECK_LEN, SealedFile, WITNESS_LEN, Witness, here, publish};
use crate::support::{
    Start, Worker, chmod, eventually, in_memory, is_root, listing, mode, reachable_exe, skipped,
    snapshot,
};
use crate::worker::{hear, say};

const HOLD: &str = "damage-hold";
const USE: &str = "damage-use";
const LIST: &str = "damage-list";

const ANOTHER_BOOT: Witness = [9; WITNESS_LEN];
const BARRIER: u8 = 1;

/// Plays a worker's role, if it is one of this module's.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        HOLD => hold(args),
        USE => use_value(args),
        LIST => {
            // BASE: says how long each entry is.
            let store = KVFileStore::new(args[0]).unwrap();
            let lens = store.entries().map(|entry| entry.unwrap().len());
            say(&format!("{:?}", lens.collect::<Vec<_>>()));
        }
        _ => return false,
    }
    true
}

/// BASE: locks `key`, says `held`, and holds it until it is told something.
fn hold(args: &[&str]) {
    let store = KVFileStore::new(args[0]).unwrap();
    let lock = store.lock("key").unwrap();
    say("held");
    hear();
    drop(lock);
    say("released");
}

/// BASE: says what `key` is, or `absent`. BASE TEXT: writes it first, without a barrier.
fn use_value(args: &[&str]) {
    let options = StoreOptions::new().durability(Durability::None);
    let store = options.open_file_store(args[0]).unwrap();
    if let Some(value) = args.get(1) {
        store.set("key", text(value.as_bytes())).unwrap();
    }
    let read = store.read("key").unwrap();
    say(&read.map_or("absent".into(), |read| String::from_utf8(read).unwrap()));
}

fn text(bytes: &[u8]) -> impl FnOnce(&mut ValueWriter) -> anyhow::Result<()> + '_ {
    move |w| Ok(w.write_all(bytes)?)
}

fn never(_: &mut ValueWriter) -> anyhow::Result<()> {
    panic!("the closure ran")
}

fn options(verify: Verify) -> StoreOptions {
    let options = StoreOptions::new().durability(Durability::None);
    options.verify(verify)
}

/// A sealed store that checks what it gives out as often as it is told.
fn store_in(dir: &Path, verify: Verify) -> KVFileStore {
    let options = options(verify).sealed(true);
    options.open_file_store(dir).unwrap()
}

fn value_of(store: &KVFileStore) -> PathBuf {
    store.base().join("key".key())
}

type Reading = fn(&KVFileStore) -> larder::Result<Option<Vec<u8>>>;

/// The ways to read `key`.
const READINGS: [(&str, Reading); 4] = [
    ("get", |store| {
        let Some(mut value) = store.get("key")? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        value.read_to_end(&mut bytes).unwrap();
        Ok(Some(bytes))
    }),
    ("read", |store| store.read("key")),
    ("read_into", |store| {
        let mut bytes = b"from before".to_vec();
        let len = store.read_into("key", &mut bytes)?;
        assert_eq!(
            len.unwrap_or(0),
            bytes.len(),
            "something is left in the buffer"
        );
        Ok(len.map(|_| bytes))
    }),
    ("get_or_set", |store| {
        let mut computed = false;
        let mut value = store.get_or_set("key", |w| {
            computed = true;
            Ok(w.write_all(b"computed")?)
        })?;
        let mut bytes = Vec::new();
        value.read_to_end(&mut bytes).unwrap();
        if computed {
            assert!(store.remove("key")?);
        }
        Ok((!computed).then_some(bytes))
    }),
];

fn hello() -> SealedFile<'static> {
    SealedFile {
        value: b"hello",
        metadata: b"etag",
        label: "a label",
        ..SealedFile::default()
    }
}

/// In every way of reading it is absent, counted, and taken away.
fn is_damaged(store: &KVFileStore, bytes: &[u8], what: &str) {
    publish(bytes, store.base(), "key");
    let verified = store.verify("key").unwrap();
    assert_eq!(verified, Some(Integrity::Damaged), "{what}");
    for (name, read) in READINGS {
        publish(bytes, store.base(), "key");
        let before = store.damaged_values();
        assert_eq!(read(store).unwrap(), None, "{name} {what}");
        assert!(store.damaged_values() > before, "{name} {what}");
        assert!(!value_of(store).exists(), "{name} {what}");
    }
}

#[test]
fn every_flipped_bit_is_seen() {
    let dir = in_memory();
    let store = store_in(dir.path(), Verify::Always);
    let whole = hello().bytes("key");
    for bit in 0..8 * whole.len() {
        let mut altered = whole.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        if bit / 8 < whole.len() - WITNESS_LEN {
            is_damaged(&store, &altered, &format!("bit {bit}"));
            continue;
        }
        // A witness says only whether to check.
        for (name, read) in READINGS {
            publish(&altered, store.base(), "key");
            assert_eq!(
                read(&store).unwrap().as_deref(),
                Some(&b"hello"[..]),
                "{name}"
            );
        }
    }
}

#[test]
fn every_cut_is_seen() {
    let dir = in_memory();
    let store = store_in(dir.path(), Verify::Always);
    let whole = hello().bytes("key");
    for cut in 1..=whole.len() {
        is_damaged(
            &store,
            &whole[..whole.len() - cut],
            &format!("without the last {cut}"),
        );
        is_damaged(&store, &whole[cut..], &format!("without the first {cut}"));
    }
    for more in [&b"\0"[..], b"x", &whole] {
        is_damaged(&store, &[&whole, more].concat(), "longer");
        is_damaged(&store, &[more, &whole].concat(), "longer at the front");
    }
    // A hole, as a power cut leaves it where the length was on the disk and a block was not.
    for (start, end) in [(0, 1), (0, 5), (5, 9), (100, whole.len() - WITNESS_LEN)] {
        let mut torn = whole.clone();
        torn[start..end].fill(0);
        is_damaged(&store, &torn, &format!("zeros from {start} to {end}"));
    }
}

#[test]
fn what_was_never_sealed_is_no_value() {
    let dir = in_memory();
    let store = store_in(dir.path(), Verify::OncePerBoot);
    for len in [0, 1, 127, 128, 129, 1024, 5000] {
        is_damaged(&store, &vec![0; len], &format!("{len} zeros"));
        is_damaged(&store, &vec![b'x'; len], &format!("{len} times x"));
    }
}

#[test]
fn a_value_of_another_key_is_absent() {
    let dir = in_memory();
    let store = store_in(dir.path(), Verify::Never);
    let other = store.base().join("other".key());
    let put: [fn(&Path, &Path); 3] = [
        |from, to| assert!(fs::copy(from, to).unwrap() > 0),
        |from, to| fs::hard_link(from, to).unwrap(),
        |from, to| fs::rename(from, to).unwrap(),
    ];
    for (put, stays) in put.into_iter().zip([true, true, false]) {
        store.set("other", text(b"other's")).unwrap();
        store.set("key", text(b"to be replaced")).unwrap();
        fs::remove_file(value_of(&store)).unwrap();
        put(&other, &value_of(&store));
        assert_eq!(store.verify("key").unwrap(), Some(Integrity::Damaged));
        assert!(store.get("key").unwrap().is_none());
        assert!(!value_of(&store).exists());
        assert_eq!(store.read("other").unwrap().is_some(), stays);
    }
}

#[test]
fn what_is_damaged_stays_where_it_may_not_be_taken_away() {
    let dir = in_memory();
    let store = store_in(dir.path(), Verify::Always);
    let mut altered = hello().bytes("key");
    altered[0] ^= 1;
    let read_only = options(Verify::Always).read_only(true);
    let read_only = read_only.open_file_store(dir.path()).unwrap();
    publish(&altered, store.base(), "key");
    // As a process leaves it that was killed: who only reads could lock it.
    fs::write(format!("{}.lock", value_of(&store).display()), "").unwrap();
    let before = snapshot(store.base());
    for (n, (name, read)) in (1..).zip(&READINGS[..3]) {
        assert_eq!(read(&read_only).unwrap(), None, "{name}");
        assert_eq!(read_only.damaged_values(), n, "{name}");
    }
    let refused = read_only.get_or_set("key", never).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    assert_eq!(snapshot(store.base()), before);

    let mut holder = Worker::start(HOLD, &[store.base().to_str().unwrap()]);
    holder.expect("held");
    for (n, (name, read)) in (1..).zip(&READINGS[..3]) {
        assert_eq!(read(&store).unwrap(), None, "{name}");
        assert_eq!(store.damaged_values(), n, "{name}");
        assert_eq!(fs::read(value_of(&store)).unwrap(), altered, "{name}");
    }
    holder.tell("release");
    holder.expect("released");
    assert!(store.get("key").unwrap().is_none());
    assert!(!value_of(&store).exists());
}

/// Who has found a damaged value takes away that one, and not what has replaced it meanwhile.
#[test]
fn what_replaces_a_damaged_value_stays() {
    const LEN: usize = 64 * 1024 * 1024; // so long that there is time to replace it while it is checked
    let dir = in_memory();
    let store = store_in(dir.path(), Verify::Never);
    let mut value = vec![0; LEN];
    value[0] = 1;
    let file = SealedFile {
        value: &value,
        witness: ANOTHER_BOOT,
        ..SealedFile::default()
    };
    let whole = file.bytes("key");
    publish(b"", dir.path(), "key");
    let path = value_of(&store);
    chmod(&path, 0o644);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&whole[LEN..], LEN as u64).unwrap(); // and zeros before it
    drop(file);

    let mut reader = Worker::start(USE, &[dir.path().to_str().unwrap()]);
    let open = format!("/proc/{}/fd", reader.pid());
    let is_open = || {
        let mut files = fs::read_dir(&open).ok()?.flatten();
        files.find(|file| fs::read_link(file.path()).is_ok_and(|file| file == path))
    };
    // If it is gone, the reader was faster than this test, which then shows nothing.
    eventually("to have the value open", || {
        is_open().is_some() || !path.exists()
    });
    store.set("key", text(b"new")).unwrap();
    reader.expect("absent");
    reader.finish();
    assert_eq!(store.read("key").unwrap().unwrap(), b"new");
}

#[test]
fn who_holds_the_lock_replaces_what_is_damaged() {
    let dir = in_memory();
    let store = store_in(dir.path(), Verify::Always);
    let mut altered = hello().bytes("key");
    altered[0] ^= 1;
    publish(&altered, store.base(), "key");
    let lock = store.lock("key").unwrap();
    assert!(lock.reader().unwrap().is_none());
    assert!(!lock.set_metadata(b"of nothing").unwrap());
    let mut write = lock.begin().unwrap();
    write.write_all(b"new").unwrap();
    drop(write.commit().unwrap());
    drop(lock);
    assert_eq!(store.read("key").unwrap().unwrap(), b"new");

    publish(&altered, store.base(), "key");
    let failed = store.get_or_set("key", |_| anyhow::bail!("no"));
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Compute);
    assert!(!store.contains("key").unwrap());
    let value = store.get_or_set("key", text(b"computed")).unwrap();
    assert_eq!(value.outcome(), Outcome::Computed);
}

#[test]
fn what_a_later_version_sealed_is_an_error_and_stays() {
    let dir = in_memory();
    let store = store_in(dir.path(), Verify::Always);
    let later = [
        SealedFile {
            version: 2,
            ..hello()
        },
        SealedFile {
            version: 0,
            ..hello()
        },
        // With fields of its own, and a witness, a label and metadata that it may understand otherwise.
        SealedFile {
            version: u32::MAX,
            more: &[1; 5000],
            ..hello()
        },
        SealedFile {
            incompatible: 1,
            ..hello()
        },
        SealedFile {
            incompatible: 1 << 31,
            more: b"header",
            ..hello()
        },
        SealedFile {
            algorithm: 2,
            ..hello()
        },
        SealedFile {
            algorithm: 0,
            ..hello()
        },
    ];
    for file in later {
        file.publish(store.base(), "key");
        let before = snapshot(store.base());
        let expect = Expect::new().len(5);
        let lock = store.lock("key").unwrap();
        let errors = [
            store.get("key").unwrap_err(),
            store.read("key").unwrap_err(),
            store.read_into("key", &mut Vec::new()).unwrap_err(),
            store.verify("key").unwrap_err(),
            store.verify_against("key", &expect).unwrap_err(),
            store.get_or_set("key", never).unwrap_err(),
            store
                .get_or_set_verified("key", &expect, never)
                .unwrap_err(),
            lock.reader().unwrap_err(),
            lock.set_metadata(b"").unwrap_err(),
        ];
        drop(lock);
        for err in errors {
            assert_eq!(err.kind(), ErrorKind::FormatMismatch, "{err}");
            assert!(err.to_string().contains("use a newer version"), "{err}");
            assert_eq!(err.path(), Some(&*value_of(&store)));
        }
        assert_eq!(fs::read(value_of(&store)).unwrap(), file.bytes("key"));
        assert_eq!(snapshot(store.base()).len(), before.len());
        let listed = store.entries().next().unwrap().unwrap();
        assert_eq!(listed.len(), None);
        // A damaged one is only that, whatever it says.
        let mut altered = file.bytes("key");
        let check = altered.len() - WITNESS_LEN - CHECK_LEN;
        altered[check] ^= 1;
        is_damaged(&store, &altered, "a later version's");
    }
    let before = store.damaged_values();
    // What may be ignored is.
    for file in [
        SealedFile {
            compatible: u32::MAX,
            ..hello()
        },
        SealedFile {
            flags: 0xfe,
            ..hello()
        },
    ] {
        file.publish(store.base(), "key");
        assert_eq!(store.read("key").unwrap().unwrap(), b"hello");
    }
    assert_eq!(store.damaged_values(), before);
    // And whoever knows better than what is there can replace it.
    let later = SealedFile {
        version: 2,
        ..hello()
    };
    later.publish(store.base(), "key");
    store.set("key", text(b"new")).unwrap();
    assert_eq!(store.read("key").unwrap().unwrap(), b"new");
}

/// Whether a value is read is decided by how it was published, and by who reads it.
#[test]
fn what_is_not_vouched_for_is_checked_at_its_first_use() {
    const TEST: &str = "what_is_not_vouched_for_is_checked_at_its_first_use";
    let dir = in_memory();
    let Some(here) = here(dir.path()) else {
        return skipped(TEST, "needs unique mount ids");
    };
    drop(store_in(dir.path(), Verify::Never)); // makes it
    let mut mixed = here;
    mixed[WITNESS_LEN - 8..].copy_from_slice(&ANOTHER_BOOT[..8]); // this boot, another mount
    for flags in [0, BARRIER] {
        for witness in [here, [0; WITNESS_LEN], ANOTHER_BOOT, mixed] {
            let file = SealedFile {
                flags,
                witness,
                ..hello()
            };
            let mut torn = file.bytes("key");
            torn[0] = b'j';
            for verify in [Verify::Never, Verify::OncePerBoot, Verify::Always] {
                let is_checked = match verify {
                    Verify::Never => false,
                    Verify::Always => true,
                    _ => flags != BARRIER && witness != here,
                };
                for (name, read) in READINGS {
                    // Each time by a handle that knows nothing yet.
                    let store = options(verify).open_file_store(dir.path()).unwrap();
                    let what = format!("{name} {verify:?} {flags} {witness:?}");
                    file.publish(dir.path(), "key");
                    let whole = read(&store).unwrap();
                    assert_eq!(whole.as_deref(), Some(&b"hello"[..]), "{what}");
                    assert_eq!(store.damaged_values(), 0, "{what}");
                    publish(&torn, dir.path(), "key");
                    let read = read(&store).unwrap();
                    let expected = (!is_checked).then_some(&b"jello"[..]);
                    assert_eq!(read.as_deref(), expected, "{what}");
                    assert_eq!(store.damaged_values() > 0, is_checked, "{what}");
                }
            }
        }
    }
}

/// What of a file must not change when it is marked.
fn identity(path: &Path) -> (u64, u32, i64, i64, u64) {
    let meta = path.metadata().unwrap();
    (
        meta.ino(),
        meta.mode(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.len(),
    )
}

/// Alters a byte of the value in place, as a fault of the disk does: it is only seen by who checks.
fn alter_in_place(path: &Path) {
    let bits = mode(path);
    chmod(path, 0o644);
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(b"j", 0).unwrap();
    chmod(path, bits);
}

#[test]
fn what_was_checked_is_marked_for_other_processes() {
    const TEST: &str = "what_was_checked_is_marked_for_other_processes";
    let dir = in_memory();
    let Some(here) = here(dir.path()) else {
        return skipped(TEST, "needs unique mount ids");
    };
    drop(store_in(dir.path(), Verify::Never));
    let file = SealedFile {
        witness: ANOTHER_BOOT,
        ..hello()
    };
    let marked = SealedFile {
        witness: here,
        ..hello()
    }
    .bytes("key");
    let path = dir.path().join("key".key());
    for (name, read) in READINGS {
        for verify in [Verify::OncePerBoot, Verify::Always] {
            file.publish(dir.path(), "key");
            let long_ago =
                std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000, 7);
            File::open(&path).unwrap().set_modified(long_ago).unwrap();
            let before = identity(&path);
            let store = options(verify).open_file_store(dir.path()).unwrap();
            assert!(read(&store).unwrap().is_some());
            assert_eq!(fs::read(&path).unwrap(), marked, "{name}");
            assert_eq!(identity(&path), before, "{name}");
        }
        // Nobody checks it again, so nobody sees this.
        alter_in_place(&path);
        let mut other = Worker::start(USE, &[dir.path().to_str().unwrap()]);
        other.expect("jello");
        other.finish();
    }
    // Who does not check, or may not write, or need not check, leaves no mark.
    let with_barrier = SealedFile {
        flags: BARRIER,
        ..file.clone()
    };
    for (file, options) in [
        (&file, options(Verify::Never)),
        (&file, options(Verify::OncePerBoot).read_only(true)),
        (&with_barrier, options(Verify::OncePerBoot)),
        (&with_barrier, options(Verify::Always)),
    ] {
        file.publish(dir.path(), "key");
        let store = options.open_file_store(dir.path()).unwrap();
        for (_, read) in READINGS {
            assert!(read(&store).unwrap().is_some());
            assert_eq!(fs::read(&path).unwrap(), file.bytes("key"), "{options:?}");
        }
    }
}

/// Without a mark each handle checks for itself, and once.
#[test]
fn what_cannot_be_marked_is_checked_once_by_each_handle() {
    let dir = in_memory();
    drop(store_in(dir.path(), Verify::Never));
    let open = || {
        let options = options(Verify::OncePerBoot).read_only(true);
        options.open_file_store(dir.path()).unwrap()
    };
    let file = SealedFile {
        witness: ANOTHER_BOOT,
        ..hello()
    };
    file.publish(dir.path(), "key");
    let (first, second) = (open(), open());
    assert_eq!(first.read("key").unwrap().unwrap(), b"hello");
    alter_in_place(&dir.path().join("key".key()));
    assert_eq!(first.read("key").unwrap().unwrap(), b"jello");
    assert_eq!(second.read("key").unwrap(), None);
    // Another file is another matter.
    let mut torn = file.bytes("key");
    torn[0] = b'j';
    publish(&torn, dir.path(), "key");
    assert_eq!(first.read("key").unwrap(), None);
}

/// New metadata gives the value a standing that it has to deserve.
#[test]
fn new_metadata_does_not_vouch_for_a_torn_value() {
    let dir = in_memory();
    for verify in [Verify::Never, Verify::OncePerBoot, Verify::Always] {
        let store = store_in(dir.path(), verify);
        let file = SealedFile {
            witness: ANOTHER_BOOT,
            ..hello()
        };
        let mut torn = file.bytes("key");
        torn[0] = b'j';
        publish(&torn, dir.path(), "key");
        let lock = store.lock("key").unwrap();
        assert!(!lock.set_metadata(b"new").unwrap(), "{verify:?}");
        assert_eq!(fs::read(value_of(&store)).unwrap(), torn, "{verify:?}");
        file.publish(dir.path(), "key");
        assert!(lock.set_metadata(b"new").unwrap(), "{verify:?}");
        drop(lock);
        let written = SealedFile {
            metadata: b"new",
            witness: here(dir.path()).unwrap_or_default(),
            ..hello()
        };
        assert_eq!(fs::read(value_of(&store)).unwrap(), written.bytes("key"));
    }
}

#[test]
fn its_owner_marks_a_value_and_others_check_for_themselves() {
    const TEST: &str = "its_owner_marks_a_value_and_others_check_for_themselves";
    const ANN: u32 = 12345;
    const BOB: u32 = 12346;
    if !is_root(TEST) {
        return;
    }
    let (ground, exe) = reachable_exe();
    let base = ground.path().join("store");
    let Some(here) = here(ground.path()) else {
        return skipped(TEST, "needs unique mount ids");
    };
    fs::create_dir(&base).unwrap();
    rustix::fs::chown(&base, Some(Uid::from_raw(ANN)), Some(Gid::from_raw(ANN))).unwrap();
    drop(
        options(Verify::Never)
            .sealed(true)
            .open_file_store(&base)
            .unwrap(),
    );
    for name in listing(&base).into_iter().chain([String::new()]) {
        let path = base.join(name.trim_end_matches('/'));
        rustix::fs::chown(path, Some(Uid::from_raw(ANN)), Some(Gid::from_raw(ANN))).unwrap();
    }
    let base_text = base.to_str().unwrap();
    let said_to = |uid, args: &[&str]| {
        let mut worker = Start::as_user(uid, uid, &exe).worker(USE, args);
        let said = worker.next().unwrap();
        worker.finish();
        said
    };
    assert_eq!(said_to(ANN, &[base_text, "hello"]), "hello");

    let path = base.join("key".key());
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole[whole.len() - WITNESS_LEN..], here);
    let at = (whole.len() - WITNESS_LEN) as u64;
    let file = File::options().write(true).open(&path).unwrap(); // root may
    file.write_all_at(&ANOTHER_BOOT, at).unwrap();
    let before = identity(&path);
    assert_eq!(before.1 & 0o222, 0);

    assert_eq!(said_to(BOB, &[base_text]), "hello");
    assert_eq!(fs::read(&path).unwrap()[at as usize..], ANOTHER_BOOT);
    assert_eq!(said_to(ANN, &[base_text]), "hello");
    assert_eq!(fs::read(&path).unwrap(), whole);
    assert_eq!(identity(&path), before);

    // Who may not read it is told that it is there, and no more.
    chmod(&path, 0o400);
    let mut worker = Start::as_user(BOB, BOB, &exe).worker(LIST, &[base_text]);
    worker.expect("[None]");
    worker.finish();
    chmod(&path, before.1);

    // And of what is torn, both see nothing; only who may write takes it away.
    file.write_all_at(&ANOTHER_BOOT, at).unwrap();
    file.write_all_at(b"j", 0).unwrap();
    assert_eq!(said_to(BOB, &[base_text]), "absent");
    assert!(path.exists());
    assert_eq!(said_to(ANN, &[base_text]), "absent");
    assert!(!path.exists());
}
