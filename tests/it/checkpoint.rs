//! Checkpoints: what is stored is what others see, and no sequence ever goes down.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::{
    CancelToken, CheckpointKey, CheckpointOptions, CheckpointStore, Deletion, Durability,
    ErrorKind, Put, Wait,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::support::{chmod, in_memory, mode, tempdir};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Download {
    done: u64,
    etag: Option<String>,
}

fn download(done: u64) -> Download {
    let etag = Some(format!("\"{done}\""));
    Download { done, etag }
}

fn key(n: u8) -> CheckpointKey {
    CheckpointKey::new([n; 32])
}

fn open(path: &Path) -> CheckpointStore<Download> {
    open_as(path)
}

fn open_as<T>(path: &Path) -> CheckpointStore<T> {
    CheckpointStore::open(path).unwrap()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

#[test]
fn what_one_handle_stores_every_other_sees() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let (one, other) = (open(&path), open(&path));
    assert_eq!(one.get(&key(1)).unwrap(), None);
    assert_eq!(one.put(&key(1), 5, &download(1)).unwrap(), Put::Stored);
    let seen = other.get(&key(1)).unwrap().unwrap();
    assert_eq!((seen.sequence, seen.state), (5, download(1)));
    for (sequence, stored) in [(4, 5), (5, 5)] {
        let put = other.put(&key(1), sequence, &download(9)).unwrap();
        assert_eq!(put, Put::Stale { stored });
    }
    let made = other.update(&key(1), |current| {
        assert_eq!(current, Some(download(1)));
        Ok(download(2))
    });
    assert_eq!(made.unwrap().sequence, 6);
    assert_eq!(one.get(&key(1)).unwrap().unwrap().state, download(2));
    assert_eq!(one.keys().unwrap(), [key(1)]);
    // Who has made it secret has it so.
    chmod(&path, 0o600);
    assert_eq!(one.put(&key(1), 7, &download(3)).unwrap(), Put::Stored);
    assert_eq!(mode(&path), 0o600);
    // And nothing keeps it open for writing.
    for open in fs::read_dir("/proc/self/fd").unwrap() {
        let open = open.unwrap();
        if fs::read_link(open.path()).is_ok_and(|link| link == path) {
            let info = Path::new("/proc/self/fdinfo").join(open.file_name());
            let info = fs::read_to_string(info).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
            assert_eq!(flags & 3, 0, "{info}");
        }
    }
}

/// Two commits within a tick of the clock: the second may get the number of the file that was there before the
/// first, and its length, and looks like it then.
#[test]
fn every_commit_is_seen_at_the_next_look() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let (reader, writer) = (open(&path), open(&path));
    for sequence in 1000..1400 {
        let put = writer.put(&key(1), sequence, &download(1)).unwrap();
        assert_eq!(put, Put::Stored);
        if sequence % 2 == 0 {
            assert_eq!(reader.get(&key(1)).unwrap().unwrap().sequence, sequence);
        }
    }
}

#[test]
fn who_deletes_says_what_he_has_seen() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = open(&path);
    assert_eq!(store.delete(&key(1), 1).unwrap(), Deletion::Absent);
    assert!(!path.exists());
    assert_eq!(store.put(&key(1), 3, &download(1)).unwrap(), Put::Stored);
    assert_eq!(
        store.delete(&key(1), 2).unwrap(),
        Deletion::Stale { stored: 3 }
    );
    let beyond = store.delete(&key(1), 4).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::RolledBack);
    assert_eq!(store.delete(&key(1), 3).unwrap(), Deletion::Deleted);
    assert_eq!(store.delete(&key(1), 3).unwrap(), Deletion::Absent);
    assert_eq!(
        store.delete(&key(1), 4).unwrap_err().kind(),
        ErrorKind::RolledBack
    );
    assert_eq!(store.get(&key(1)).unwrap(), None);
    assert!(store.keys().unwrap().is_empty());
    // Nobody brings back what was deleted.
    let back = open(&path).put(&key(1), 3, &download(1)).unwrap();
    assert_eq!(back, Put::Stale { stored: 3 });
    assert_eq!(store.sequence(&key(1)).unwrap(), Some(3));
    let anew = store.update(&key(1), |current| {
        assert_eq!(current, None);
        Ok(download(7))
    });
    assert_eq!(anew.unwrap().sequence, 4);
}

#[test]
fn what_others_store_stays_as_it_is() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let texts = CheckpointStore::<Vec<String>>::open(&path).unwrap();
    let text = vec!["\u{1f980} \"\\\n".to_owned()];
    assert_eq!(texts.put(&key(2), 9, &text).unwrap(), Put::Stored);
    let downloads = open(&path);
    assert_eq!(
        downloads.put(&key(1), 1, &download(1)).unwrap(),
        Put::Stored
    );
    assert_eq!(
        downloads.put(&key(3), 1, &download(1)).unwrap(),
        Put::Stored
    );
    assert_eq!(texts.get(&key(2)).unwrap().unwrap().state, text);
    let err = downloads.get(&key(2)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Corrupt);
    assert!(err.to_string().contains(&key(2).to_string()), "{err}");
    assert_eq!(downloads.keys().unwrap().len(), 3);
}

#[test]
fn nothing_is_written_when_nothing_changes() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = open(&path);
    assert_eq!(store.put(&key(1), 1, &download(1)).unwrap(), Put::Stored);
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
    let before = (inode(), fs::read(&path).unwrap());
    let same = store
        .update(&key(1), |current| Ok(current.unwrap()))
        .unwrap();
    assert_eq!(same.sequence, 1);
    let failed = store.update(&key(1), |_| anyhow::bail!("no"));
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Compute);
    assert_eq!(
        store.put(&key(1), 1, &download(2)).unwrap(),
        Put::Stale { stored: 1 }
    );
    assert_eq!(
        store.delete(&key(1), 0).unwrap(),
        Deletion::Stale { stored: 1 }
    );
    assert_eq!(before, (inode(), fs::read(&path).unwrap()));
    assert!(!beside(&path, ".larder-new").exists());
    // Nor by the order of a hash map, which is another in each process.
    let numbers = open_as::<HashMap<String, f64>>(&path);
    let many = (1..50).map(|n| (format!("{n}"), 5e-324 + 1.0 / f64::from(n)));
    assert_eq!(
        numbers.put(&key(2), 1, &many.collect()).unwrap(),
        Put::Stored
    );
    for _ in 0..10 {
        let same = numbers.update(&key(2), |current| Ok(current.unwrap()));
        assert_eq!(same.unwrap().sequence, 1);
    }
}

/// What is another state is written, however much it looks like the one before.
#[test]
fn every_change_is_written() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let large = open_as::<u128>(&path);
    let first = (1 << 64) + 9;
    assert_eq!(large.put(&key(1), 1, &first).unwrap(), Put::Stored);
    assert_eq!(
        large
            .update(&key(1), |n| Ok(n.unwrap() + 1000))
            .unwrap()
            .sequence,
        2
    );
    assert_eq!(large.get(&key(1)).unwrap().unwrap().state, first + 1000);
    let signed = open_as::<f64>(&path);
    assert_eq!(signed.put(&key(2), 1, &0.0).unwrap(), Put::Stored);
    assert_eq!(
        signed
            .update(&key(2), |n| Ok(-n.unwrap()))
            .unwrap()
            .sequence,
        2
    );
    assert!(
        signed
            .get(&key(2))
            .unwrap()
            .unwrap()
            .state
            .is_sign_negative()
    );
    let most = i64::MAX as u64;
    let err = large.put(&key(3), most + 1, &1).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    // The largest stops nobody who lets the file choose.
    assert_eq!(large.put(&key(3), most, &1).unwrap(), Put::Stored);
    assert_eq!(large.update(&key(3), |_| Ok(2)).unwrap().sequence, most + 1);
}

/// Between the lock and the rename somebody deletes the lock file, and others write.
#[test]
fn who_has_lost_his_lock_writes_nothing() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let (store, other) = (open(&path), open(&path));
    assert_eq!(store.put(&key(1), 1, &download(1)).unwrap(), Put::Stored);
    for others_write in [true, false] {
        let err = store.update(&key(1), |_| {
            fs::remove_file(beside(&path, ".lock")).unwrap();
            if others_write {
                assert_eq!(other.put(&key(1), 9, &download(9)).unwrap(), Put::Stored);
            }
            Ok(download(2))
        });
        let err = err.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{err}");
        assert_eq!(store.get(&key(1)).unwrap().unwrap().sequence, 9);
        assert!(!beside(&path, ".larder-new").exists());
    }
    assert_eq!(
        store.update(&key(1), |_| Ok(download(3))).unwrap().sequence,
        10
    );
}

/// And who waited for it takes the one that is there then.
#[test]
fn who_waited_for_a_lock_that_is_gone_takes_the_next() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = open(&path);
    std::thread::scope(|scope| {
        let (waits, is_waiting) = std::sync::mpsc::channel();
        let waiter = open(&path).with_wait(Wait::Timeout(Duration::from_secs(30)));
        let waiter = waiter.with_on_wait(move |_| waits.send(()).unwrap_or(()));
        let mut waiting = None;
        let lost = store.update(&key(1), |_| {
            let put = scope.spawn(move || waiter.put(&key(2), 1, &download(2)));
            is_waiting.recv().unwrap();
            fs::remove_file(beside(&path, ".lock")).unwrap();
            waiting = Some(put);
            Ok(download(1))
        });
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(waiting.unwrap().join().unwrap().unwrap(), Put::Stored);
    });
    assert_eq!(store.get(&key(2)).unwrap().unwrap().sequence, 1);
}

#[test]
fn names_that_belong_to_another_file_are_refused() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    for name in ["state.json.lock", "state.json.larder-new"] {
        let err = CheckpointStore::<u8>::open(dir.path().join(name)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported, "{err}");
    }
    // Somebody's own beside it: nothing is written into it.
    fs::write(beside(&path, ".lock"), "mine").unwrap();
    let store = open(&path);
    store.update(&key(1), |_| Ok(download(1))).unwrap();
    assert_eq!(fs::read(beside(&path, ".lock")).unwrap(), b"mine");
}

#[test]
fn a_directory_in_its_place_is_told() {
    let dir = tempdir();
    let (there, path) = (
        dir.path().join("there"),
        dir.path().join("there/state.json"),
    );
    fs::create_dir(&there).unwrap();
    let store = open(&path);
    assert_eq!(store.put(&key(1), 1, &download(1)).unwrap(), Put::Stored);
    fs::rename(&there, dir.path().join("moved")).unwrap();
    for _ in 0..2 {
        let err = store.put(&key(1), 2, &download(2)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt);
        assert!(err.to_string().contains("replaced"), "{err}");
        let _ = fs::create_dir(&there);
    }
    assert_eq!(
        open(&path).put(&key(1), 1, &download(1)).unwrap(),
        Put::Stored
    );
}

/// A handle that slept while a key was deleted, forgotten, and begun anew.
#[test]
fn what_was_forgotten_begins_anew() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let sleeper = open(&path);
    assert_eq!(
        sleeper.put(&key(1), 500, &download(1)).unwrap(),
        Put::Stored
    );
    assert_eq!(
        sleeper.put(&key(2), 300, &download(1)).unwrap(),
        Put::Stored
    );
    let before = fs::read(&path).unwrap();
    // Long ago.
    let forget = |n: u8| {
        let deleted = open(&path).delete(&key(n), if n == 1 { 500 } else { 301 });
        assert_eq!(deleted.unwrap(), Deletion::Deleted);
        let text = fs::read_to_string(&path).unwrap();
        let at = text.find("deleted_until\": ").unwrap() + "deleted_until\": ".len();
        let end = at + text[at..].find('}').unwrap();
        fs::write(&path, format!("{}1{}", &text[..at], &text[end..])).unwrap();
        assert_eq!(
            open(&path)
                .put(&key(9), u64::from(n), &download(9))
                .unwrap(),
            Put::Stored
        );
        assert_eq!(open(&path).sequence(&key(n)).unwrap(), None);
    };
    forget(1);
    assert_eq!(sleeper.get(&key(1)).unwrap(), None);
    // `update` goes on above all that was forgotten; who says which sequence he wants has it.
    assert_eq!(
        open(&path)
            .update(&key(1), |_| Ok(download(2)))
            .unwrap()
            .sequence,
        501
    );
    // An older file is one, too, where something with a larger sequence was forgotten before.
    let put_back = |bytes: &[u8]| {
        fs::write(dir.path().join("backup"), bytes).unwrap();
        fs::rename(dir.path().join("backup"), &path).unwrap();
    };
    let older = fs::read(&path).unwrap();
    assert_eq!(
        sleeper.put(&key(2), 301, &download(1)).unwrap(),
        Put::Stored
    );
    let newer = fs::read(&path).unwrap();
    put_back(&older);
    assert_eq!(
        sleeper.get(&key(2)).unwrap_err().kind(),
        ErrorKind::RolledBack
    );
    put_back(&newer);
    assert_eq!(sleeper.get(&key(2)).unwrap().unwrap().sequence, 301);
    forget(2);
    assert_eq!(
        open(&path).put(&key(2), 1, &download(3)).unwrap(),
        Put::Stored
    );
    assert_eq!(sleeper.get(&key(2)).unwrap().unwrap().sequence, 1);
    // A backup is one all the same.
    put_back(&before);
    assert_eq!(
        sleeper.get(&key(1)).unwrap_err().kind(),
        ErrorKind::RolledBack
    );
    assert_eq!(
        sleeper.get(&key(9)).unwrap_err().kind(),
        ErrorKind::RolledBack
    );
    assert_eq!(sleeper.keys().unwrap_err().kind(), ErrorKind::RolledBack);
}

#[test]
fn what_an_editor_changes_in_place_is_seen() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = open_as::<u8>(&path);
    assert_eq!(store.put(&key(1), 1, &1).unwrap(), Put::Stored);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let edited = text.replace("\"sequence\": 1", "\"sequence\": 7");
    // The change time has the tick of a clock.
    crate::support::eventually("the edit is seen", || {
        fs::write(&path, &edited).unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(modified)
            .unwrap();
        store.get(&key(1)).unwrap().unwrap().sequence == 7
    });
}

#[test]
fn an_older_file_takes_nothing_back() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = open(&path);
    for sequence in 1..=3 {
        assert_eq!(
            store.put(&key(1), sequence, &download(sequence)).unwrap(),
            Put::Stored
        );
        assert_eq!(
            store.put(&key(2), sequence, &download(sequence)).unwrap(),
            Put::Stored
        );
        fs::copy(&path, beside(&path, &format!(".{sequence}"))).unwrap();
    }
    fs::rename(beside(&path, ".2"), &path).unwrap();
    let rolled_back = |err: larder::Error| {
        assert_eq!(err.kind(), ErrorKind::RolledBack);
        assert!(err.to_string().contains("sequence 2") && err.to_string().contains("seen 3"));
    };
    let before = fs::read(&path).unwrap();
    rolled_back(store.get(&key(1)).unwrap_err());
    rolled_back(store.put(&key(1), 3, &download(9)).unwrap_err());
    rolled_back(store.update(&key(1), |_| Ok(download(9))).unwrap_err());
    rolled_back(store.delete(&key(1), 2).unwrap_err());
    assert_eq!(fs::read(&path).unwrap(), before);
    // What is above all that was seen takes nothing back.
    assert_eq!(store.put(&key(1), 4, &download(4)).unwrap(), Put::Stored);
    assert_eq!(store.get(&key(1)).unwrap().unwrap().sequence, 4);
    rolled_back(store.get(&key(2)).unwrap_err());
    // A new process knows nothing better.
    assert_eq!(open(&path).get(&key(2)).unwrap().unwrap().sequence, 2);

    fs::remove_file(&path).unwrap();
    assert_eq!(
        store.get(&key(1)).unwrap_err().kind(),
        ErrorKind::RolledBack
    );
    store.clone().accept_rollback().unwrap();
    assert_eq!(store.get(&key(1)).unwrap(), None);
    assert_eq!(store.put(&key(1), 1, &download(1)).unwrap(), Put::Stored);
}

#[test]
fn what_is_no_file_of_checkpoints_says_where_and_stays() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let k = key(1);
    let head = "{\"larder_checkpoints\": 1, \"key_version\": 1, \"checkpoints\": {";
    let record = format!("\"{k}\": {{\"sequence\": 1, \"state\": 1}}");
    let cases: &[(String, ErrorKind, &str)] = &[
        (String::new(), ErrorKind::Corrupt, "line 1"),
        ("{".to_owned(), ErrorKind::Corrupt, "line 1"),
        (format!("{head}\n}}\n}} x"), ErrorKind::Corrupt, "line 3"),
        (
            format!("{head}\n{record},\n{record}}}}}"),
            ErrorKind::Corrupt,
            "line 3",
        ),
        (
            format!("{head}\n\"abc\": {{}}}}}}"),
            ErrorKind::Corrupt,
            "64 lower-case",
        ),
        (
            format!("{head}\n\"{}\": {{}}}}}}", "A".repeat(64)),
            ErrorKind::Corrupt,
            "line 2",
        ),
        (
            format!("{head}\n\"{k}\": {{\"sequence\": -1, \"state\": 1}}}}}}"),
            ErrorKind::Corrupt,
            "line 2",
        ),
        (
            format!("{head}\n\"{k}\": {{\"sequence\": 1}}}}}}"),
            ErrorKind::Corrupt,
            "no state",
        ),
        (
            format!("{head}\n\"{k}\": {{\"state\": 1}}}}}}"),
            ErrorKind::Corrupt,
            "no sequence",
        ),
        (
            format!(
                "{head}\n\"{k}\": {{\"sequence\": {}, \"state\": 1}}}}}}",
                u64::MAX
            ),
            ErrorKind::Corrupt,
            "line 2",
        ),
        (
            format!("{head}{record}}}, \"more\": 1}}"),
            ErrorKind::Corrupt,
            "more",
        ),
        (
            format!("{head}{record}}}}}").replace("_checkpoints\": 1", "_checkpoints\": 2"),
            ErrorKind::FormatMismatch,
            "version is 2",
        ),
        (
            format!("{head}{record}}}, \"new in 2\": 0}}")
                .replace("key_version\": 1", "key_version\": 7"),
            ErrorKind::FormatMismatch,
            "keys is 7",
        ),
        ("[]".to_owned(), ErrorKind::Corrupt, "line 1"),
        ("{}".to_owned(), ErrorKind::Corrupt, "version"),
    ];
    let good = open(&path);
    assert_eq!(good.put(&k, 1, &download(1)).unwrap(), Put::Stored);
    for (text, kind, place) in cases {
        fs::write(&path, text).unwrap();
        for err in [
            CheckpointStore::<Download>::open(&path).unwrap_err(),
            good.get(&k).unwrap_err(),
            good.put(&k, 9, &download(9)).unwrap_err(),
            good.delete(&k, 1).unwrap_err(),
        ] {
            assert_eq!(err.kind(), *kind, "{text}: {err}");
            let sentence = err.to_string();
            assert!(sentence.contains(place), "{text}: {sentence}");
            assert!(sentence.contains(path.to_str().unwrap()), "{sentence}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), *text);
    }
    // However somebody's editor writes it.
    let spread = format!(
        "{{\"checkpoints\":\n{{\"{k}\":\n{{\"state\":\n{{\"done\":\n1,\n\"etag\":\nnull}},\n\"sequence\":4}}}},\"key_version\":1,\"larder_checkpoints\":1}}"
    );
    fs::write(&path, spread).unwrap();
    assert_eq!(good.get(&k).unwrap().unwrap().sequence, 4);
    assert_eq!(good.put(&key(2), 1, &download(1)).unwrap(), Put::Stored);
    assert_eq!(good.get(&k).unwrap().unwrap().state.done, 1);
}

#[test]
fn what_cannot_be_a_file_of_checkpoints_is_told() {
    let dir = tempdir();
    let nowhere = CheckpointStore::<u8>::open(dir.path().join("absent/state.json")).unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::Io);
    assert!(nowhere.to_string().contains("has to be there"), "{nowhere}");
    assert!(!dir.path().join("absent").exists());
    let slash = CheckpointStore::<u8>::open(dir.path().join("state.json/")).unwrap();
    assert_eq!(slash.path(), dir.path().join("state.json"));
    let here = CheckpointStore::<u8>::open(dir.path()).unwrap_err();
    assert_eq!(here.kind(), ErrorKind::Corrupt);
    let link = dir.path().join("link.json");
    std::os::unix::fs::symlink("elsewhere.json", &link).unwrap();
    let linked = CheckpointStore::<u8>::open(&link).unwrap_err();
    assert_eq!(linked.kind(), ErrorKind::Corrupt);
    let none = CheckpointOptions::new().durability(Durability::None);
    let none = none.open::<u8>(dir.path().join("none.json")).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Unsupported);
    let huge = dir.path().join("huge.json");
    fs::File::create(&huge)
        .unwrap()
        .set_len((64 << 20) + 1)
        .unwrap();
    let huge = CheckpointStore::<u8>::open(&huge).unwrap_err();
    assert_eq!(huge.kind(), ErrorKind::Corrupt);
    assert!(huge.to_string().contains("67108865"), "{huge}");
}

#[test]
fn a_state_that_cannot_come_back_is_not_stored() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = CheckpointStore::<f64>::open(&path).unwrap();
    let err = store.put(&key(1), 1, &f64::NAN).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Compute);
    assert!(!path.exists());
    let nothing = CheckpointStore::<Option<u8>>::open(&path).unwrap();
    assert_eq!(nothing.put(&key(1), 1, &None).unwrap(), Put::Stored);
    assert_eq!(nothing.get(&key(1)).unwrap().unwrap().state, None);
    let long = CheckpointStore::<String>::open(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let err = long.put(&key(2), 1, &"x".repeat(64 << 20)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(nothing.put(&key(1), 2, &Some(1)).unwrap(), Put::Stored);
}

#[test]
fn who_changes_what_he_is_changing_is_told() {
    let dir = tempdir();
    let store = open(&dir.path().join("state.json"));
    let busy = store.with_wait(Wait::TryOnce);
    let bounded = store.with_wait(Wait::Timeout(Duration::from_secs(10)));
    let made = store.update(&key(1), |_| {
        let nested = bounded.put(&key(2), 1, &download(1)).unwrap_err();
        assert_eq!(nested.kind(), ErrorKind::WouldDeadlock);
        assert_eq!(store.get(&key(1))?, None);
        let elsewhere = std::thread::scope(|scope| {
            scope
                .spawn(|| busy.put(&key(2), 1, &download(1)))
                .join()
                .unwrap()
        });
        let elsewhere = elsewhere.unwrap_err();
        assert_eq!(elsewhere.kind(), ErrorKind::Busy);
        assert_eq!(elsewhere.holder().unwrap().pid, std::process::id());
        Ok(download(1))
    });
    assert_eq!(made.unwrap().sequence, 1);
    assert_eq!(busy.put(&key(2), 1, &download(1)).unwrap(), Put::Stored);
}

#[test]
fn a_wait_is_seen_bounded_and_ended() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = open(&path);
    std::thread::scope(|scope| {
        // Dropped, too, if an assertion fails, so that nobody waits for ever.
        let (go_on, wait_for_it) = std::sync::mpsc::channel::<()>();
        let (began, has_begun) = std::sync::mpsc::channel();
        let holder = open(&path);
        scope.spawn(move || {
            let made = holder.update(&key(1), |_| {
                began.send(()).unwrap();
                wait_for_it.recv().unwrap();
                Ok(download(1))
            });
            made.unwrap();
        });
        has_begun.recv().unwrap();
        let bounded = store.with_wait(Wait::Timeout(Duration::from_millis(20)));
        let err = bounded.put(&key(2), 1, &download(2)).unwrap_err();
        assert_eq!((err.kind(), err.path()), (ErrorKind::Busy, Some(&*path)));
        let token = CancelToken::new();
        let cancelled = store.with_cancel(&token);
        let cancelled = cancelled.with_on_wait({
            let path = path.clone();
            move |info| {
                assert_eq!(info.path, path);
                assert_eq!(info.holder.as_ref().unwrap().pid, std::process::id());
                token.cancel();
            }
        });
        let err = cancelled.delete(&key(2), 1).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Cancelled);
        // Nobody waits to read.
        assert_eq!(bounded.get(&key(1)).unwrap(), None);
        go_on.send(()).unwrap();
        assert_eq!(store.put(&key(2), 1, &download(2)).unwrap(), Put::Stored);
    });
}

/// The sample in the documentation of the format is one.
#[test]
fn the_documented_file_is_read() {
    let text = include_str!("../../docs/format.md");
    let sample = text.split("```json\n").nth(1).unwrap();
    let sample = sample.split("```").next().unwrap();
    let dir = tempdir();
    let path = dir.path().join("state.json");
    fs::write(&path, sample).unwrap();
    let store = open_as::<serde_json::Value>(&path);
    let named = CheckpointKey::of_parts([("url", "https://example.org/a"), ("kind", "download")]);
    let found = store.get(&named).unwrap().unwrap();
    assert_eq!((found.sequence, &found.state["done"]), (3, &4096.into()));
    assert_eq!(store.keys().unwrap(), [named]);
    let deleted = "e7f6c011776e8db7cd330b54174fd76f7d0216b612387a5ffcfb81e6f0919683";
    let deleted: CheckpointKey = deleted.parse().unwrap();
    assert_eq!(store.sequence(&deleted).unwrap(), Some(9));
    // It is what is written, too, when the same is put again under another sequence.
    assert_eq!(store.put(&named, 4, &found.state).unwrap(), Put::Stored);
    let written = fs::read_to_string(&path).unwrap();
    let written = written.replace("{\"done\":4096}", "{\"done\": 4096}");
    let expected = sample.replace("\"sequence\": 3", "\"sequence\": 4");
    // A deletion of that time is long forgotten.
    assert!(!written.contains("deleted") && written.contains("\"forgotten\": 10"));
    assert_eq!(
        written.lines().nth(6),
        expected
            .lines()
            .nth(6)
            .map(|line| line.trim_end_matches(','))
    );
}

/// A deletion that is remembered takes more room than a small state did.
#[test]
fn a_state_can_be_deleted_from_a_file_that_is_full() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = open_as::<String>(&path);
    for n in [1, 2] {
        assert_eq!(store.put(&key(n), 1, &String::new()).unwrap(), Put::Stored);
    }
    let len = || fs::metadata(&path).unwrap().len();
    let room = usize::try_from((64 << 20) - len()).unwrap();
    let long = "x".repeat(room);
    assert_eq!(store.put(&key(2), 2, &long).unwrap(), Put::Stored);
    assert_eq!(len(), 64 << 20);
    assert_eq!(store.delete(&key(1), 1).unwrap(), Deletion::Deleted);
    assert!(len() <= 64 << 20, "{}", len());
    let another = open_as::<String>(&path);
    assert_eq!(another.keys().unwrap(), [key(2)]);
    assert_eq!(another.sequence(&key(1)).unwrap(), None);
    let anew = another.update(&key(1), |_| Ok(String::new()));
    assert_eq!(anew.unwrap().sequence, 2);
}

/// A look in the middle of a change does not make the change rest on what it sees.
#[test]
fn what_is_looked_at_during_a_change_is_not_written_over() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = open(&path);
    assert_eq!(store.put(&key(1), 5, &download(5)).unwrap(), Put::Stored);
    let (another, kept) = (dir.path().join("another"), dir.path().join("kept"));
    let farther = open(&another);
    assert_eq!(
        farther.put(&key(1), 100, &download(100)).unwrap(),
        Put::Stored
    );
    fs::copy(&another, &kept).unwrap();
    let made = store.update(&key(1), |current| {
        fs::rename(&another, &path)?;
        assert_eq!(store.get(&key(1))?.unwrap().sequence, 100);
        Ok(download(current.unwrap().done + 1))
    });
    assert_eq!(made.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(open(&path).get(&key(1)).unwrap().unwrap().sequence, 100);
    let made = store.update(&key(1), |_| Ok(download(101)));
    assert_eq!(made.unwrap().sequence, 101);

    // Also if it is gone again: what was seen stays seen.
    let path = dir.path().join("other.json");
    let store = open(&path);
    assert_eq!(store.put(&key(1), 5, &download(5)).unwrap(), Put::Stored);
    let made = store.update(&key(1), |_| {
        fs::rename(&path, dir.path().join("aside"))?;
        fs::rename(&kept, &path)?;
        assert_eq!(store.get(&key(1))?.unwrap().sequence, 100);
        fs::rename(dir.path().join("aside"), &path)?;
        Ok(download(6))
    });
    assert_eq!(made.unwrap_err().kind(), ErrorKind::Corrupt);
    let behind = store.get(&key(1)).unwrap_err();
    assert_eq!(behind.kind(), ErrorKind::RolledBack);
}

thread_local! {
    /// What a [`Meddling`] changes whenever it is read, written or dropped; and what came of it.
    static MEDDLES: RefCell<Option<CheckpointStore<u64>>> = const { RefCell::new(None) };
    static ANSWERS: RefCell<Vec<(&'static str, ErrorKind)>> = const { RefCell::new(Vec::new()) };
}

fn meddle(when: &'static str) {
    MEDDLES.with_borrow(|store| {
        if let Some(store) = store {
            let err = store.put(&key(9), 1, &1).unwrap_err();
            ANSWERS.with_borrow_mut(|answers| answers.push((when, err.kind())));
        }
    });
}

struct Meddling(u64);

impl Serialize for Meddling {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        meddle("write");
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Meddling {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        meddle("read");
        u64::deserialize(deserializer).map(Meddling)
    }
}

impl Drop for Meddling {
    fn drop(&mut self) {
        meddle("drop");
    }
}

#[test]
fn a_state_that_changes_the_file_it_is_written_to_is_told() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = open_as::<Meddling>(&path);
    assert_eq!(store.put(&key(1), 1, &Meddling(1)).unwrap(), Put::Stored);
    let bounded = open_as::<u64>(&path).with_wait(Wait::Timeout(Duration::from_millis(20)));
    MEDDLES.set(Some(bounded));
    let made = store.update(&key(1), |current| Ok(Meddling(current.unwrap().0 + 1)));
    MEDDLES.set(None);
    assert_eq!(made.unwrap().state.0, 2);
    let answers = ANSWERS.take();
    for when in ["read", "write", "drop"] {
        assert!(
            answers.contains(&(when, ErrorKind::WouldDeadlock)),
            "{answers:?}"
        );
    }
    let others = answers
        .iter()
        .find(|answer| answer.1 != ErrorKind::WouldDeadlock);
    assert_eq!(others, None, "{answers:?}");
}

#[test]
fn a_state_is_the_same_on_however_many_lines() {
    let dir = tempdir();
    let path = dir.path().join("state.json");
    let store = open_as::<Box<RawValue>>(&path);
    let spread = || RawValue::from_string("{\n \"a\":\r\n 1}".to_owned()).unwrap();
    for store in [store.clone(), store, open_as(&path)] {
        let same = store.update(&key(1), |_| Ok(spread())).unwrap();
        assert_eq!(same.sequence, 1);
    }
    let lines = fs::read_to_string(&path).unwrap().lines().count();
    assert_eq!(lines, 9, "not one for each key");
}

#[test]
fn a_name_that_leaves_no_room_for_what_is_beside_it_is_refused() {
    let dir = tempdir();
    for len in [244, 245, 250, 255] {
        let opened = CheckpointStore::<u8>::open(dir.path().join("n".repeat(len)));
        match opened {
            Ok(store) => {
                assert_eq!(len, 244);
                assert_eq!(store.put(&key(1), 1, &1).unwrap(), Put::Stored);
                fs::remove_file(beside(store.path(), ".lock")).unwrap();
                fs::remove_file(store.path()).unwrap();
            }
            Err(err) => {
                assert_eq!((len > 244, err.kind()), (true, ErrorKind::Unsupported));
                assert!(err.to_string().contains("shorter"), "{err}");
            }
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{len}");
    }
}

// --- against a map ---

#[derive(Clone, Debug)]
enum Op {
    Put(u8, u64, u64),
    Update(u8, u64),
    Delete(u8, u64),
    Get(u8),
    Keys,
    Reopen,
    /// Puts back the file as it was at an earlier step.
    RollBack(prop::sample::Index),
}

fn op() -> impl Strategy<Value = (bool, Op)> {
    let (key, sequence) = (0..3_u8, 0..6_u64);
    let state = 0..4_u64;
    let op = prop_oneof![
        4 => (key.clone(), sequence.clone(), state.clone()).prop_map(|(k, q, s)| Op::Put(k, q, s)),
        3 => (key.clone(), state).prop_map(|(k, s)| Op::Update(k, s)),
        3 => (key.clone(), sequence).prop_map(|(k, q)| Op::Delete(k, q)),
        4 => key.prop_map(Op::Get),
        1 => Just(Op::Keys),
        1 => Just(Op::Reopen),
        1 => any::<prop::sample::Index>().prop_map(Op::RollBack),
    ];
    (any::<bool>(), op)
}

/// A file: each key's sequence and, unless it was deleted, its state.
type Model = BTreeMap<u8, (u64, Option<u64>)>;

/// What a handle has seen of each key: its sequence, and whether it was deleted then.
type SeenBy = BTreeMap<u8, (u64, bool)>;

fn version(known: &(u64, Option<u64>)) -> (u64, bool) {
    (known.0, known.1.is_none())
}

fn look(seen: &mut SeenBy, model: &Model) {
    for (key, known) in model {
        let most = seen.entry(*key).or_default();
        *most = version(known).max(*most);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn checkpoints_do_as_a_map(ops in prop::collection::vec(op(), 1..40)) {
        let dir = in_memory();
        let path = dir.path().join("state.json");
        let open = || CheckpointStore::<u64>::open(&path).unwrap();
        let mut handles = [open(), open()];
        let mut seen = [SeenBy::new(), SeenBy::new()];
        let mut model = Model::new();
        let mut past: Vec<(Model, Option<Vec<u8>>)> = Vec::new();
        for (which, op) in ops {
            past.push((model.clone(), fs::read(&path).ok()));
            let (store, seen) = (&mut handles[usize::from(which)], &mut seen[usize::from(which)]);
            let is_asked = !matches!(op, Op::Reopen | Op::RollBack(_));
            if is_asked {
                look(seen, &model);
            }
            let stored = |k: u8, model: &Model| model.get(&k).map_or(0, |known| known.0);
            let state = |k: u8, model: &Model| model.get(&k).and_then(|known| known.1);
            let behind = |k: u8, model: &Model| {
                seen.get(&k).copied() > model.get(&k).map(version)
            };
            let rolled_back = |err: larder::Error| prop_assert_eq_kind(err.kind());
            match op {
                Op::Put(k, sequence, value) => {
                    let put = store.put(&key(k), sequence, &value);
                    let most = seen.get(&k).map(|seen| seen.0);
                    if behind(k, &model) && most >= Some(sequence) {
                        rolled_back(put.unwrap_err());
                    } else if model.contains_key(&k) && stored(k, &model) >= sequence {
                        prop_assert_eq!(put.unwrap(), Put::Stale { stored: stored(k, &model) });
                    } else {
                        prop_assert_eq!(put.unwrap(), Put::Stored);
                        model.insert(k, (sequence, Some(value)));
                    }
                }
                Op::Update(k, value) => {
                    let made = store.update(&key(k), |_| Ok(value));
                    if behind(k, &model) {
                        rolled_back(made.unwrap_err());
                    } else {
                        if state(k, &model) != Some(value) {
                            let next = stored(k, &model) + 1;
                            model.insert(k, (next, Some(value)));
                        }
                        prop_assert_eq!(made.unwrap().sequence, stored(k, &model));
                    }
                }
                Op::Delete(k, named) => {
                    let deleted = store.delete(&key(k), named);
                    let is_live = state(k, &model).is_some();
                    match model.get(&k).map(|known| known.0) {
                        Some(stored) if stored > named && is_live => {
                            prop_assert_eq!(deleted.unwrap(), Deletion::Stale { stored });
                        }
                        Some(stored) if stored > named => {
                            prop_assert_eq!(deleted.unwrap(), Deletion::Absent);
                        }
                        _ if behind(k, &model) => rolled_back(deleted.unwrap_err()),
                        Some(stored) if stored < named => rolled_back(deleted.unwrap_err()),
                        Some(stored) if is_live => {
                            prop_assert_eq!(deleted.unwrap(), Deletion::Deleted);
                            model.insert(k, (stored, None));
                        }
                        _ => prop_assert_eq!(deleted.unwrap(), Deletion::Absent),
                    }
                }
                Op::Get(k) => {
                    let found = store.get(&key(k));
                    if behind(k, &model) {
                        rolled_back(found.unwrap_err());
                    } else {
                        let found = found.unwrap().map(|found| (found.sequence, found.state));
                        let expected = state(k, &model).map(|state| (stored(k, &model), state));
                        prop_assert_eq!(found, expected);
                    }
                }
                Op::Keys => {
                    let keys = store.keys();
                    if seen.keys().any(|&k| behind(k, &model)) {
                        rolled_back(keys.unwrap_err());
                        continue;
                    }
                    let live = model.iter().filter(|(_, known)| known.1.is_some());
                    let live: Vec<_> = live.map(|(k, _)| key(*k)).collect();
                    prop_assert_eq!(keys.unwrap(), live);
                }
                Op::Reopen => {
                    *store = open();
                    seen.clear();
                    look(seen, &model);
                }
                Op::RollBack(step) => {
                    let (then, file) = step.get(&past).clone();
                    model = then;
                    match file {
                        // By another name, as a restored file comes.
                        Some(bytes) => {
                            fs::write(dir.path().join("restored"), bytes).unwrap();
                            fs::rename(dir.path().join("restored"), &path).unwrap();
                        }
                        None => drop(fs::remove_file(&path)),
                    }
                }
            }
            if is_asked {
                look(seen, &model);
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            prop_assert!(text.is_empty() == model.is_empty(), "{}", text);
        }
    }
}

#[track_caller]
fn prop_assert_eq_kind(kind: ErrorKind) {
    assert_eq!(kind, ErrorKind::RolledBack);
}
