//! Sealed stores: what is published with a value comes back with it, and the value reads as a file does.

use std::fs::{self, File, FileTimes};
use std::io::{ErrorKind as IoKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use larder::{
    ArtifactHash, Durability, ErrorKind, Expect, KVFileStore, Labelled, MAX_METADATA_BYTES,
    Outcome, PathKey, StoreOptions, Value, ValueWriter,
};
use proptest::prelude::*;

use crate::sealed_file::{SealedFile, WITNESS_LEN, here};
use crate::support::{Worker, in_memory, listing, snapshot, tempdir};
use crate::worker::say;

const READ: &str = "sealed-read";
const WATCH: &str = "sealed-watch";

/// Plays a worker's role, if it is one of this module's.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        READ => read(args),
        WATCH => watch(args),
        _ => return false,
    }
    true
}

/// BASE KEY: says `TEXT|METADATA|LABEL`, or `absent`.
fn read(args: &[&str]) {
    let store = KVFileStore::new(args[0]).unwrap();
    match store.get(args[1]).unwrap() {
        Some(value) => say(&described(value)),
        None => say("absent"),
    }
}

fn described(mut value: Value) -> String {
    let mut text = String::new();
    value.read_to_string(&mut text).unwrap();
    let metadata = String::from_utf8_lossy(value.metadata());
    format!("{text}|{metadata}|{}", value.label().unwrap_or_default())
}

/// BASE LAST: reads `key` again and again, until its metadata is LAST. They are numbers, and never go
/// back; the value is always the same. Says `reading` after the first time, and at the end `seen`.
fn watch(args: &[&str]) {
    let store = KVFileStore::new(args[0]).unwrap();
    let (last, mut seen) = (args[1].parse::<u32>().unwrap(), None);
    while seen != Some(last) {
        let mut value = store.get("key").unwrap().unwrap();
        let number = std::str::from_utf8(value.metadata()).unwrap();
        let number = number.trim_end().parse().unwrap();
        assert!(seen <= Some(number), "{seen:?}, then {number}");
        let mut bytes = Vec::new();
        value.read_to_end(&mut bytes).unwrap();
        assert!(bytes == body(), "another value with {number}");
        assert!(store.read("key").unwrap().unwrap() == body());
        if seen.replace(number).is_none() {
            say("reading");
        }
    }
    say("seen");
}

/// Of no round length, so that nothing after it is at the beginning of a block.
fn body() -> Vec<u8> {
    (0..100_003).map(|at| (at % 251) as u8).collect()
}

fn text(bytes: &[u8]) -> impl FnOnce(&mut ValueWriter) -> anyhow::Result<()> + '_ {
    move |w| Ok(w.write_all(bytes)?)
}

fn options() -> StoreOptions {
    StoreOptions::new().durability(Durability::None)
}

fn store_in(dir: &std::path::Path) -> KVFileStore {
    options().sealed(true).open_file_store(dir).unwrap()
}

type Key = Labelled<&'static str>;
type Writing = fn(&KVFileStore, &Key, &[u8]) -> larder::Result<()>;

/// The ways to publish `value` with metadata.
const WRITINGS: [(&str, Writing); 6] = [
    ("get_or_set", |store, key, metadata| {
        let value = store.get_or_set(key, |w| {
            w.set_metadata(metadata)?;
            Ok(w.write_all(b"value")?)
        });
        value.map(drop).map_err(inner)
    }),
    ("get_or_set_verified", |store, key, metadata| {
        let value = store.get_or_set_verified(key, &Expect::new().len(5), |w| {
            w.write_all(b"val")?;
            w.set_metadata(metadata)?;
            Ok(w.write_all(b"ue")?)
        });
        value.map(drop).map_err(inner)
    }),
    ("set", |store, key, metadata| {
        let value = store.set(key, |w| {
            w.write_all(b"value")?;
            w.set_metadata(b"replaced").unwrap_or_default();
            Ok(w.set_metadata(metadata)?)
        });
        value.map(drop).map_err(inner)
    }),
    ("batch", |store, key, metadata| {
        let mut batch = store.batch();
        let set = batch.set(key, |w| {
            w.set_metadata(metadata)?;
            Ok(w.write_all(b"value")?)
        });
        set.map_err(inner)?;
        batch.set("beside", text(b"beside"))?;
        assert_eq!(batch.commit()?, 2);
        assert!(store.remove("beside")?);
        Ok(())
    }),
    ("begin", |store, key, metadata| {
        let lock = store.lock(key)?;
        let mut write = lock.begin()?;
        write.seek(SeekFrom::Start(1)).unwrap();
        write.write_all(b"alue").unwrap();
        write.set_metadata(metadata)?;
        write.rewind().unwrap();
        write.write_all(b"v").unwrap();
        let read = write.commit()?;
        assert_eq!((read.metadata(), read.len()), (metadata, 5));
        Ok(())
    }),
    ("set_metadata", |store, key, metadata| {
        store.set(key, text(b"value"))?;
        let set = store.lock(key)?.set_metadata(metadata);
        if set.is_err() {
            store.remove(key)?;
        }
        set.map(|there| assert!(there))
    }),
];

/// The error that a closure passed on.
fn inner(err: larder::Error) -> larder::Error {
    assert_eq!(err.kind(), ErrorKind::Compute);
    let kind = err.downcast_ref::<larder::Error>().unwrap().kind();
    assert_eq!(kind, ErrorKind::Unsupported);
    err
}

#[test]
fn metadata_and_label_come_back_however_they_were_written() {
    let key = Labelled::new("key", "a label");
    for (name, write) in WRITINGS {
        let dir = in_memory();
        let store = store_in(dir.path());
        write(&store, &key, b"etag").unwrap();
        assert_eq!(store.read("key").unwrap().unwrap(), b"value", "{name}");
        let value = store.get("key").unwrap().unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, b"value");
        let digest = ArtifactHash::new("sha256", digest.as_ref()).unwrap();
        assert_eq!((value.len(), value.digest()), (5, Some(digest)), "{name}");
        assert_eq!(described(value), "value|etag|a label", "{name}");
        let lock = store.lock("key").unwrap();
        let mut read = lock.reader().unwrap().unwrap();
        assert_eq!(read.metadata(), b"etag", "{name}");
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"value", "{name}");
        drop(lock);

        let mut other = Worker::start(READ, &[dir.path().to_str().unwrap(), "key"]);
        other.expect("value|etag|a label");
        other.finish();
        let entries: Vec<_> = store.entries().map(Result::unwrap).collect();
        let [entry] = &entries[..] else {
            panic!("{name}: {entries:?}");
        };
        assert_eq!(
            (entry.len(), entry.label().as_deref()),
            (Some(5), Some("a label"))
        );
        let hit = store.get_or_set("key", |_| panic!("it is there")).unwrap();
        assert_eq!(hit.metadata(), b"etag");
    }
}

#[test]
fn metadata_have_a_limit() {
    let key = Labelled::new("key", "");
    let most = vec![b'm'; MAX_METADATA_BYTES];
    for (name, write) in WRITINGS {
        let dir = in_memory();
        let store = store_in(dir.path());
        // Around what is read of a file's end at first, too.
        for len in [
            0,
            1,
            895,
            896,
            897,
            1023,
            1024,
            1025,
            5000,
            MAX_METADATA_BYTES,
        ] {
            write(&store, &key, &most[..len]).unwrap();
            let value = store.get("key").unwrap().unwrap();
            assert!(value.metadata() == &most[..len], "{name} {len}");
            assert_eq!(value.label(), None);
            assert_eq!(described(value).find('|'), Some(5), "{name} {len}");
            assert_eq!(store.read("key").unwrap().unwrap(), b"value");
            assert!(store.remove("key").unwrap());
        }
        let before = snapshot(dir.path());
        let refused = write(&store, &key, &[&*most, b"m"].concat()).unwrap_err();
        let refused = refused.downcast_ref::<larder::Error>().unwrap_or(&refused);
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{name}");
        assert!(refused.to_string().contains("64 KiB"), "{refused}");
        assert_eq!(
            listing(dir.path()),
            before.into_keys().filter(|path| !path.is_empty()).collect()
        );
    }
}

#[test]
fn metadata_that_are_refused_leave_those_from_before() {
    let dir = in_memory();
    let store = store_in(dir.path());
    let too_much = vec![0; MAX_METADATA_BYTES + 1];
    let value = store.set("key", |w| {
        w.set_metadata(b"small")?;
        w.set_metadata(&too_much).unwrap_err();
        Ok(w.write_all(b"value")?)
    });
    assert_eq!(value.unwrap().metadata(), b"small");
    let lock = store.lock("key").unwrap();
    lock.set_metadata(&too_much).unwrap_err();
    assert_eq!(lock.reader().unwrap().unwrap().metadata(), b"small");
}

#[test]
fn a_raw_store_has_no_room_for_metadata() {
    let key = Labelled::new("key", "a label");
    for (name, write) in WRITINGS {
        let dir = in_memory();
        let store = options().open_file_store(dir.path()).unwrap();
        let refused = write(&store, &key, b"").unwrap_err();
        let refused = refused.downcast_ref::<larder::Error>().unwrap_or(&refused);
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{name}");
        store.set(&key, text(b"value")).unwrap();
        let value = store.get("key").unwrap().unwrap();
        assert_eq!((value.label(), value.digest()), (None, None));
        assert_eq!(described(value), "value||");
        assert_eq!(fs::read(dir.path().join("key".key())).unwrap(), b"value");
    }
}

/// The longest label that is kept ends where a character does.
#[test]
fn a_long_label_is_cut() {
    let dir = in_memory();
    let store = store_in(dir.path());
    let label = format!("x{}", "é".repeat(2000));
    store
        .set(&Labelled::new("key", &*label), text(b"value"))
        .unwrap();
    let value = store.get("key").unwrap().unwrap();
    assert_eq!(value.label(), Some(&label[..1023]));
    assert_eq!(described(value), format!("value||{}", &label[..1023]));
}

#[test]
fn a_sealed_value_is_no_plain_file() {
    let dir = in_memory();
    let store = store_in(dir.path());
    let value = store.set("key", text(b"value")).unwrap();
    assert_eq!(value.raw_path().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(
        value.into_file().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    // Its bytes come first, all the same, for whoever knows how many there are.
    assert!(
        fs::read(dir.path().join("key".key()))
            .unwrap()
            .starts_with(b"value")
    );
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Read(usize),
    ReadToEnd,
    Seek(SeekFrom),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let offset = || prop_oneof![-6000..6000_i64, -2..2_i64, Just(i64::MIN), Just(1 << 40)];
    let step = prop_oneof![
        (0..300_usize).prop_map(Step::Read),
        (0..9000_usize).prop_map(Step::Read),
        Just(Step::ReadToEnd),
        (0..6000_u64).prop_map(|to| Step::Seek(SeekFrom::Start(to))),
        offset().prop_map(|by| Step::Seek(SeekFrom::Current(by))),
        offset().prop_map(|by| Step::Seek(SeekFrom::End(by))),
    ];
    prop::collection::vec(step, 0..20)
}

/// Sizes around what has one in the format: nothing, the footer, and what is read at once.
fn sizes(most: usize) -> impl Strategy<Value = usize> {
    let edges = [0, 128, 896, 1024].map(|edge: usize| edge.saturating_sub(2)..edge + 3);
    let edges = edges.into_iter().flatten().collect::<Vec<_>>();
    prop_oneof![0..most, prop::sample::select(edges)]
}

/// The value and a file with the same bytes answer alike.
fn read_as_a_file(
    mut value: impl Read + Seek,
    mut file: impl Read + Seek,
    steps: &[Step],
) -> Result<(), TestCaseError> {
    for step in steps {
        match *step {
            Step::Read(len) => {
                let [mut ours, mut theirs] = [vec![1; len], vec![1; len]];
                let read = value.read(&mut ours).unwrap();
                prop_assert_eq!(read, file.read(&mut theirs).unwrap());
                prop_assert_eq!(ours, theirs);
            }
            Step::ReadToEnd => {
                let [mut ours, mut theirs] = [b"before".to_vec(), b"before".to_vec()];
                let read = value.read_to_end(&mut ours).unwrap();
                prop_assert_eq!(read, file.read_to_end(&mut theirs).unwrap());
                prop_assert_eq!(ours, theirs);
            }
            Step::Seek(to) => match (value.seek(to), file.seek(to)) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, theirs),
                (Err(err), Err(_)) => prop_assert_eq!(err.kind(), IoKind::InvalidInput),
                (ours, theirs) => prop_assert!(false, "{to:?}: {ours:?}, not {theirs:?}"),
            },
        }
        let position = value.stream_position().unwrap();
        prop_assert_eq!(
            position,
            file.stream_position().unwrap(),
            "after {:?}",
            step
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_sealed_value_reads_as_a_file_does(
        len in sizes(5000),
        metadata_len in sizes(3000),
        label in "[a-zé]{0,8}",
        steps in steps(),
    ) {
        let dir = in_memory();
        let base = dir.path().join("store");
        let store = store_in(&base);
        let (bytes, metadata) = (&body()[..len], vec![b'm'; metadata_len]);
        let key = Labelled::new("key", &*label);
        let written = store.set(&key, |w| {
            w.set_metadata(&metadata)?;
            Ok(w.write_all(bytes)?)
        }).unwrap();
        prop_assert_eq!(written.len(), len as u64);

        // What is on disk is what the format says.
        let file = SealedFile {
            value: bytes,
            metadata: &metadata,
            label: &label,
            witness: here(&base).unwrap_or_default(),
            ..SealedFile::default()
        };
        prop_assert_eq!(fs::read(base.join("key".key())).unwrap(), file.bytes("key"));

        prop_assert_eq!(store.read("key").unwrap().unwrap(), bytes);
        let mut buffer = b"from before".to_vec();
        prop_assert_eq!(store.read_into("key", &mut buffer).unwrap(), Some(len));
        prop_assert_eq!(&buffer, bytes);
        let value = store.get("key").unwrap().unwrap();
        prop_assert_eq!((value.len(), value.metadata()), (len as u64, &*metadata));
        prop_assert_eq!(value.label(), Some(&*label).filter(|label| !label.is_empty()));
        let plain = || File::open(dir.path().join("plain")).unwrap();
        fs::write(dir.path().join("plain"), bytes).unwrap();
        read_as_a_file(value, plain(), &steps)?;
        let lock = store.lock("key").unwrap();
        let locked = lock.reader().unwrap().unwrap();
        prop_assert_eq!((locked.len(), locked.metadata()), (len as u64, &*metadata));
        read_as_a_file(locked, plain(), &steps)?;
        read_as_a_file(written, plain(), &steps)?;
    }
}

#[test]
fn a_store_keeps_the_format_that_it_was_created_with() {
    for sealed in [false, true] {
        let dir = in_memory();
        drop(
            options()
                .sealed(sealed)
                .open_file_store(dir.path())
                .unwrap(),
        );
        let marker = fs::read_to_string(dir.path().join("larder-store")).unwrap();
        let line = if sealed {
            "\nformat=sealed\n"
        } else {
            "\nformat=raw\n"
        };
        assert!(marker.contains(line), "{marker}");
        let before = snapshot(dir.path());
        for options in [options(), options().adopt(true), options().read_only(true)] {
            let other = options.clone().sealed(!sealed).open_file_store(dir.path());
            let err = other.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::FormatMismatch, "{err}");
            assert_eq!(snapshot(dir.path()), before);
            options
                .clone()
                .sealed(sealed)
                .open_file_store(dir.path())
                .unwrap();
            let store = options.open_file_store(dir.path()).unwrap();
            assert_eq!(snapshot(dir.path()), before);
            drop(store);
        }
        let store = KVFileStore::new(dir.path()).unwrap();
        let value = store.set("key", text(b"value")).unwrap();
        assert_eq!(value.digest().is_some(), sealed);
        let mut other = Worker::start(READ, &[dir.path().to_str().unwrap(), "key"]);
        other.expect("value||");
        other.finish();
    }
}

#[test]
fn what_is_not_sealed_is_not_adopted_as_if_it_were() {
    let raw = "L/P/J/Nul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";
    for file in [raw, "L/P/J/.keep", "foreign", "sha256/a/b/c/d"] {
        let dir = in_memory();
        let file = dir.path().join(file);
        fs::create_dir(dir.path().join("tmp")).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "world").unwrap();
        let before = snapshot(dir.path());
        for options in [options(), options().adopt(true), options().read_only(true)] {
            let err = options
                .sealed(true)
                .open_file_store(dir.path())
                .unwrap_err();
            assert_eq!(err.kind(), ErrorKind::FormatMismatch, "{err}");
            assert!(err.to_string().contains("not sealed"), "{err}");
            assert_eq!(snapshot(dir.path()), before);
        }
    }
    // Where there is nothing yet, there is nothing in the way.
    let dir = in_memory();
    fs::create_dir(dir.path().join("tmp")).unwrap();
    let store = store_in(dir.path());
    assert_eq!(
        described(store.set("key", text(b"value")).unwrap()),
        "value||"
    );
}

#[test]
fn new_metadata_leave_the_value() {
    let dir = in_memory();
    let store = store_in(dir.path());
    assert!(
        !store
            .lock("key")
            .unwrap()
            .set_metadata(b"of nothing")
            .unwrap()
    );
    assert!(!store.contains("key").unwrap());
    let old = store.set(&Labelled::new("key", "a label"), |w| {
        w.set_metadata(b"old")?;
        Ok(w.write_all(&body())?)
    });
    let mut old = old.unwrap();
    let mut first = vec![0; 100];
    old.read_exact(&mut first).unwrap();

    // By who knows no label, and by who knows another.
    for (key, metadata, label) in [
        (Labelled::new("key", ""), &b"new"[..], "a label"),
        (
            Labelled::new("key", "renamed"),
            &[b'm'; MAX_METADATA_BYTES],
            "renamed",
        ),
        (Labelled::new("key", ""), b"", "renamed"),
    ] {
        let lock = match label == "a label" || metadata.is_empty() {
            true => store.lock("key").unwrap(),
            false => store.lock(&key).unwrap(),
        };
        assert!(lock.set_metadata(metadata).unwrap());
        assert_eq!(lock.reader().unwrap().unwrap().metadata(), metadata);
        drop(lock);
        let value = store.get("key").unwrap().unwrap();
        assert_eq!((value.digest(), value.len()), (old.digest(), old.len()));
        assert_eq!((value.metadata(), value.label()), (metadata, Some(label)));
        assert!(store.read("key").unwrap().unwrap() == body());
        assert_eq!(store.verify("key").unwrap(), Some(larder::Integrity::Whole));
    }

    // Who had it open has what he opened.
    assert_eq!(old.metadata(), b"old");
    let mut rest = Vec::new();
    old.read_to_end(&mut rest).unwrap();
    assert!([first, rest].concat() == body());
    let mode = crate::support::mode(&dir.path().join("key".key()));
    assert_eq!(mode & 0o222, 0);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

/// As for the answer 304, again and again, while others read.
#[test]
fn readers_see_old_or_new_metadata_with_the_whole_value() {
    const LAST: u32 = 200;
    let dir = in_memory();
    let store = store_in(dir.path());
    // Of different lengths, so that neither's end is the other's.
    let metadata = |number: u32| format!("{number}{}", " ".repeat(number as usize * 37 % 3000));
    let set = store.set("key", |w| {
        w.set_metadata(metadata(0).as_bytes())?;
        Ok(w.write_all(&body())?)
    });
    drop(set.unwrap());
    let args = [dir.path().to_str().unwrap(), &LAST.to_string()];
    let mut readers: Vec<_> = (0..3).map(|_| Worker::start(WATCH, &args)).collect();
    for reader in &mut readers {
        reader.expect("reading");
    }
    for number in 1..=LAST {
        let lock = store.lock("key").unwrap();
        assert!(lock.set_metadata(metadata(number).as_bytes()).unwrap());
    }
    for reader in &mut readers {
        reader.expect("seen");
        reader.finish();
    }
    assert_eq!(store.damaged_values(), 0);
}

#[test]
fn being_listed_or_verified_is_no_use() {
    let dir = tempdir();
    let store = store_in(dir.path());
    let key = Labelled::new("key", "a label");
    store.set(&key, text(b"value")).unwrap();
    let path = dir.path().join("key".key());
    // So old that the system's own rule would renew it at the next read.
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let times = FileTimes::new().set_accessed(long_ago);
    File::open(&path).unwrap().set_times(times).unwrap();
    let accessed = || path.metadata().unwrap().atime();
    for _ in 0..2 {
        let entry = store.entries().next().unwrap().unwrap();
        assert_eq!((entry.len(), entry.last_used()), (Some(5), Some(long_ago)));
        assert_eq!(PathKey::label(&entry).as_deref(), Some("a label"));
        store.verify("key").unwrap();
        store.verify_against("key", &Expect::new().len(5)).unwrap();
    }
    assert_eq!(accessed(), 1_000_000);
    assert_eq!(store.get("key").unwrap().unwrap().outcome(), Outcome::Hit);
    if !crate::support::is_overlay(dir.path()) {
        assert_ne!(accessed(), 1_000_000);
    }
}

/// The files that `docs/format.md` shows: in each line first the bytes, then what they are.
fn documented() -> Vec<Vec<u8>> {
    let text = include_str!("../../docs/format.md");
    let blocks = text
        .split("```")
        .filter(|block| block.contains("  SHA-256 of the value\n"));
    let bytes = |line: &str| HEXLOWER.decode(line.split(' ').next()?.as_bytes()).ok();
    blocks
        .map(|block| {
            block
                .lines()
                .skip(1)
                .map(|line| bytes(line).unwrap())
                .collect::<Vec<_>>()
        })
        .map(|lines| lines.concat())
        .collect()
}

#[test]
fn what_is_written_is_what_is_documented() {
    let [synced, other] = documented().try_into().unwrap();
    let dir = in_memory();
    let path = dir.path().join("hello".key());
    let store = StoreOptions::new()
        .sealed(true)
        .open_file_store(dir.path())
        .unwrap();
    store.set("hello", text(b"world")).unwrap();
    assert_eq!(
        HEXLOWER.encode(&fs::read(&path).unwrap()),
        HEXLOWER.encode(&synced)
    );

    let store = store_in(dir.path());
    let set = store.set(&Labelled::new("hello", "Grüße"), |w| {
        w.set_metadata(b"\"v1\"")?;
        Ok(w.write_all(b"world")?)
    });
    drop(set.unwrap());
    let written = fs::read(&path).unwrap();
    let witness = written.len() - WITNESS_LEN;
    assert_eq!(
        HEXLOWER.encode(&written[..witness]),
        HEXLOWER.encode(&other[..witness])
    );
    assert_eq!(written[witness..], here(dir.path()).unwrap_or_default());

    for (file, described_as) in [(synced, "world||"), (other, "world|\"v1\"|Grüße")] {
        crate::sealed_file::publish(&file, dir.path(), "hello");
        assert_eq!(
            described(store.get("hello").unwrap().unwrap()),
            described_as
        );
    }
    assert_eq!(store.damaged_values(), 0);
}
