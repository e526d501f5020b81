//! What is known of a value before it is there is checked before it is published, in stores of every
//! format and however it is written.

use std::cell::Cell;
use std::io::{Read, Seek, SeekFrom, Write};

use larder::{
    ArtifactHash, Durability, Error, ErrorKind, Expect, Integrity, KVFileStore, LockedWrite,
    Outcome, PathKey, StoreOptions, ValueWriter,
};
use ring::digest::{SHA256, SHA384, SHA512};

use crate::support::{Worker, chmod, eventually, listing, snapshot, tempdir, wait_until_blocked};
use crate::worker::{compute, hear, say};

const GET_OR_SET: &str = "verified-get-or-set";
const HOLD: &str = "verified-hold";

const MODES: [&str; 3] = ["sha256", "sha384", "sha512"];
const UNKNOWN_MODES: [&str; 4] = ["md5", "sha1", "sha224", "blake3"];

/// Around nothing, and around what a writer gathers before it writes.
const LENS: [usize; 6] = [0, 1, 5, 16 * 1024 - 1, 16 * 1024, 100_000];

/// Plays a worker's role, if it is one of this module's.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        GET_OR_SET => get_or_set(args),
        HOLD => hold(args),
        _ => return false,
    }
    true
}

/// BASE: locks `key`, says `held`, and holds it until it is killed.
fn hold(args: &[&str]) {
    let store = KVFileStore::new(args[0]).unwrap();
    let _lock = store.lock("key").unwrap();
    say("held");
    hear();
}

/// BASE LEN: says `ready`, hears `go`, asks for `key` and expects that length; if it computes says
/// `computing` and hears what to write, or `fail`; says `value TEXT OUTCOME` or `error KIND`.
fn get_or_set(args: &[&str]) {
    let store = KVFileStore::new(args[0]).unwrap();
    let expect = Expect::new().len(args[1].parse().unwrap());
    say("ready");
    hear();
    let asked = store.get_or_set_verified("key", &expect, |w| {
        let text = compute()?;
        Ok(w.write_all(text.as_bytes())?)
    });
    match asked {
        Ok(mut value) => {
            let mut text = String::new();
            value.read_to_string(&mut text).unwrap();
            say(&format!("value {text} {:?}", value.outcome()));
        }
        Err(err) => say(&format!("error {:?}", err.kind())),
    }
}

/// Runs a test on a new store of each format.
fn in_each_format(test: impl Fn(&KVFileStore)) {
    for sealed in [false, true] {
        let dir = tempdir();
        let options = StoreOptions::new().durability(Durability::None); // it is not about power cuts
        let options = options.sealed(sealed);
        test(&options.open_file_store(dir.path()).unwrap());
    }
}

fn hash(mode: &str, bytes: &[u8]) -> ArtifactHash {
    let algorithm = match mode {
        "sha256" => &SHA256,
        "sha384" => &SHA384,
        "sha512" => &SHA512,
        _ => return ArtifactHash::new(mode, unknown_digest(mode)).unwrap(),
    };
    ArtifactHash::new(mode, ring::digest::digest(algorithm, bytes).as_ref()).unwrap()
}

/// Of the right length for an algorithm that larder has names for, and no digests.
fn unknown_digest(mode: &str) -> Vec<u8> {
    let len = match mode {
        "md5" => 16,
        "sha1" => 20,
        "sha224" => 28,
        _ => 32,
    };
    vec![7; len]
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn text(bytes: &[u8]) -> impl FnOnce(&mut ValueWriter) -> anyhow::Result<()> + '_ {
    move |w| Ok(w.write_all(bytes)?)
}

/// The ways to write a value of which something is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The caller of the store knows it.
    Verified,
    /// The closure learns it.
    GetOrSet,
    Set,
    Batch,
    Locked,
}

impl Way {
    const ALL: [Way; 5] = [
        Way::Verified,
        Way::GetOrSet,
        Way::Set,
        Way::Batch,
        Way::Locked,
    ];

    /// Whether it replaces a value that is there.
    fn replaces(self) -> bool {
        !matches!(self, Way::Verified | Way::GetOrSet)
    }

    /// Writes `key`'s value, in pieces, and does not care what becomes of a write.
    fn write(
        self,
        store: &KVFileStore,
        len: Option<usize>,
        digest: Option<&ArtifactHash>,
        bytes: &[u8],
    ) -> larder::Result<()> {
        let pieces = || bytes.chunks(1000);
        let told = |w: &mut ValueWriter| {
            if let Some(len) = len {
                w.expect_len(len as u64);
            }
            digest.map_or(Ok(()), |digest| w.expect_digest(digest))?;
            pieces().for_each(|piece| drop(w.write_all(piece)));
            Ok(())
        };
        match self {
            Way::Verified => {
                let mut expect = Expect::new();
                if let Some(len) = len {
                    expect = expect.len(len as u64);
                }
                if let Some(digest) = digest {
                    expect = expect.digest(digest);
                }
                let written = store.get_or_set_verified("key", &expect, |w| {
                    pieces().for_each(|piece| drop(w.write_all(piece)));
                    Ok(())
                });
                written.map(drop)
            }
            Way::GetOrSet => store.get_or_set("key", told).map(drop),
            Way::Set => store.set("key", told).map(drop),
            Way::Batch => {
                let mut batch = store.batch();
                let set = batch.set("key", told);
                // Who goes on without it publishes the others.
                batch.set("beside", text(b"beside")).unwrap();
                assert_eq!(batch.commit().unwrap(), 1 + usize::from(set.is_ok()));
                assert!(store.remove("beside").unwrap());
                set
            }
            Way::Locked => {
                let lock = store.lock("key").unwrap();
                let mut write = lock.begin().unwrap();
                if let Some(len) = len {
                    write.expect_len(len as u64);
                }
                if let Some(digest) = digest {
                    write.expect_digest(digest)?;
                }
                pieces().for_each(|piece| drop(write.write_all(piece)));
                write.commit().map(drop)
            }
        }
    }

    /// The same where it cannot succeed. Nothing changes: the value from before is still there, and
    /// nothing else is.
    fn fail(
        self,
        store: &KVFileStore,
        len: Option<usize>,
        digest: Option<&ArtifactHash>,
        bytes: &[u8],
    ) -> Error {
        if self.replaces() {
            store.set("key", text(b"before")).unwrap();
        }
        let before = listing(store.base());
        let err = self.write(store, len, digest, bytes).unwrap_err();
        assert_eq!(listing(store.base()), before, "{self:?}");
        let read = store.read("key").unwrap();
        let expected = self.replaces().then_some(&b"before"[..]);
        assert_eq!(read.as_deref(), expected, "{self:?}");
        if err.kind() != ErrorKind::Unsupported {
            assert_eq!(err.path(), Some(&*store.base().join("key".key())));
        }
        err
    }
}

#[test]
fn what_was_expected_is_published() {
    in_each_format(|store| {
        for (way, len) in Way::ALL
            .into_iter()
            .flat_map(|way| LENS.map(|len| (way, len)))
        {
            let bytes = bytes(len);
            for mode in MODES {
                way.write(store, Some(len), Some(&hash(mode, &bytes)), &bytes)
                    .unwrap();
                assert_eq!(store.read("key").unwrap().unwrap(), bytes, "{way:?} {mode}");
                assert!(store.remove("key").unwrap());
            }
        }
    });
}

#[test]
fn another_digest_than_expected_is_told_with_both() {
    in_each_format(|store| {
        for (way, len) in Way::ALL
            .into_iter()
            .flat_map(|way| LENS.map(|len| (way, len)))
        {
            for mode in MODES {
                let (bytes, other) = (bytes(len), hash(mode, b"other"));
                let err = way.fail(store, None, Some(&other), &bytes);
                assert_eq!(err.kind(), ErrorKind::DigestMismatch, "{err}");
                for hash in [other, hash(mode, &bytes)] {
                    assert!(err.to_string().contains(&hash.to_string()), "{err}");
                }
            }
        }
    });
}

#[test]
fn too_few_bytes_are_told_at_the_end() {
    in_each_format(|store| {
        for (way, len) in Way::ALL
            .into_iter()
            .flat_map(|way| LENS.map(|len| (way, len)))
        {
            let err = way.fail(store, Some(len + 1), None, &bytes(len));
            assert_eq!(err.kind(), ErrorKind::SizeMismatch, "{err}");
            let told = format!("to be {} bytes long and is {len};", len + 1);
            assert!(err.to_string().contains(&told), "{err}");
        }
    });
}

/// Whoever ignores the errors of writes gets the same one.
#[test]
fn too_many_bytes_cannot_be_published() {
    in_each_format(|store| {
        for (way, len) in Way::ALL
            .into_iter()
            .flat_map(|way| LENS.map(|len| (way, len)))
        {
            let right = bytes(len);
            let err = way.fail(
                store,
                Some(len),
                Some(&hash("sha256", &right)),
                &bytes(len + 1),
            );
            assert_eq!(err.kind(), ErrorKind::SizeMismatch, "{err}");
            let told = format!("to be {len} bytes long and is at least {}", len + 1);
            assert!(err.to_string().contains(&told), "{err}");
        }
    });
}

#[test]
fn the_first_byte_too_many_fails() {
    const LEN: u64 = 5;
    fn check(mut write: impl FnMut(&[u8]) -> (std::io::Result<usize>, u64)) {
        for position in 1..=LEN {
            let (written, now) = write(b"x");
            assert_eq!((written.unwrap(), now), (1, position));
        }
        let (refused, now) = write(b"x");
        let refused = Error::downcast_from(refused.unwrap_err());
        assert_eq!((refused.kind(), now), (ErrorKind::SizeMismatch, LEN));
        let (again, _) = write(b"");
        assert!(again.is_err(), "it goes on after a failure");
    }
    in_each_format(|store| {
        let expect = Expect::new().len(LEN);
        let verified = store.get_or_set_verified("key", &expect, |w| {
            check(|bytes| (w.write(bytes), w.position()));
            Ok(())
        });
        let set = store.set("key", |w| {
            w.expect_len(LEN);
            check(|bytes| (w.write(bytes), w.position()));
            anyhow::bail!("an error of the closure's own does not hide it")
        });
        let lock = store.lock("key").unwrap();
        let mut write = lock.begin().unwrap();
        write.expect_len(LEN);
        check(|bytes| (write.write(bytes), write.position()));
        let committed = write.commit().map(drop);
        drop(lock);
        for result in [verified.map(drop), set.map(drop), committed] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::SizeMismatch);
        }
        assert!(!store.contains("key").unwrap());
    });
}

/// The library's own error inside one of the system's.
trait Downcast {
    fn downcast_from(err: std::io::Error) -> Error;
}

impl Downcast for Error {
    fn downcast_from(err: std::io::Error) -> Error {
        *err.into_inner().unwrap().downcast::<Error>().unwrap()
    }
}

#[test]
fn what_is_stated_late_counts_for_what_was_written_before() {
    in_each_format(|store| {
        for len in [1, 1000, 100_000] {
            let bytes = bytes(len);
            let (first, rest) = bytes.split_at(len / 2);
            for (mode, other) in MODES
                .into_iter()
                .flat_map(|mode| [(mode, false), (mode, true)])
            {
                let expected = hash(mode, if other { b"other" } else { &bytes });
                let set = store.set("key", |w| {
                    w.write_all(first)?;
                    w.expect_digest(&expected)?;
                    Ok(w.write_all(rest)?)
                });
                match set {
                    Ok(_) => assert!(!other, "{mode} {len}"),
                    Err(err) => assert!(other && err.kind() == ErrorKind::DigestMismatch, "{err}"),
                }
            }
            let set = store.set("key", |w| {
                w.write_all(&bytes)?;
                w.expect_len(len as u64 - 1);
                Ok(())
            });
            assert_eq!(set.unwrap_err().kind(), ErrorKind::SizeMismatch);
        }
    });
}

#[test]
fn a_value_written_out_of_order_is_checked_as_it_is_in_the_end() {
    type Writes = fn(&mut LockedWrite<'_>) -> std::io::Result<()>;
    let orders: [(Writes, &[u8]); 5] = [
        (
            |w| {
                w.seek(SeekFrom::Start(5))?;
                w.write_all(b" world")?;
                w.rewind()?;
                w.write_all(b"hello")
            },
            b"hello world",
        ),
        (
            |w| {
                w.write_all(b"hallo")?;
                w.seek(SeekFrom::Current(-4))?;
                w.write_all(b"e")
            },
            b"hello",
        ),
        (
            |w| {
                w.write_all(b"a")?;
                w.seek(SeekFrom::Current(3))?;
                w.write_all(b"b")
            },
            b"a\0\0\0b",
        ),
        (
            |w| {
                w.write_all(b"what is")?;
                w.seek(SeekFrom::End(-2))?;
                w.write_all(b"was")
            },
            b"what was",
        ),
        (
            |w| {
                w.write_all(b"whole")?;
                w.seek(SeekFrom::End(100)).map(drop) // and nothing there
            },
            b"whole",
        ),
    ];
    in_each_format(|store| {
        for (mode, (write, bytes)) in MODES.into_iter().flat_map(|mode| orders.map(|o| (mode, o))) {
            for (expected, late) in [
                (bytes, false),
                (bytes, true),
                (b"other", false),
                (b"other", true),
            ] {
                let lock = store.lock("key").unwrap();
                let mut value = lock.begin().unwrap();
                value.expect_len(bytes.len() as u64);
                let digest = hash(mode, expected);
                if !late {
                    value.expect_digest(&digest).unwrap();
                }
                write(&mut value).unwrap();
                if late {
                    value.expect_digest(&digest).unwrap();
                }
                match value.commit() {
                    Ok(read) => {
                        assert_eq!((expected, read.len()), (bytes, bytes.len() as u64));
                        let read = read.detach_unlocked().digest();
                        assert!(read.is_none_or(|read| read == hash("sha256", bytes)));
                    }
                    Err(err) => {
                        assert_eq!(err.kind(), ErrorKind::DigestMismatch);
                        assert_ne!(expected, bytes, "{err}");
                    }
                }
                drop(lock);
                assert_eq!(store.read("key").unwrap().as_deref(), Some(bytes));
            }
        }
    });
}

#[test]
fn an_unknown_algorithm_is_refused_before_anything_happens() {
    in_each_format(|store| {
        for mode in UNKNOWN_MODES {
            let unknown = hash(mode, b"");
            let expect = Expect::new().digest(&unknown);
            let before = snapshot(store.base());
            let ran = Cell::new(false);
            let run = |_w: &mut ValueWriter| {
                ran.set(true);
                Ok(())
            };
            let errors = [
                store.get_or_set_verified("key", &expect, run).unwrap_err(),
                store.get_or_fetch(&unknown, run).unwrap_err(),
                store.verify_against("key", &expect).unwrap_err(),
            ];
            for err in errors {
                assert_eq!(err.kind(), ErrorKind::Unsupported);
                assert!(err.to_string().contains(mode), "{err}");
            }
            assert!(!ran.get(), "{mode}");
            assert_eq!(snapshot(store.base()), before, "{mode}");

            let stated = store.set("key", |w| {
                let refused = w.expect_digest(&unknown).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Unsupported);
                Ok(w.write_all(b"without")?) // who can do without it may go on
            });
            drop(stated.unwrap());
            let lock = store.lock("key").unwrap();
            let refused = lock.begin().unwrap().expect_digest(&unknown).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported);
            drop(lock);
            assert!(store.remove("key").unwrap());
        }
    });
}

/// A server's `Content-Length`, or a checksum that came with the download, must not replace what the
/// caller knows.
#[test]
fn a_closure_cannot_weaken_what_its_caller_expects() {
    in_each_format(|store| {
        let expected = hash("sha256", b"right");
        let fetched = store.get_or_fetch(&expected, |w| {
            w.expect_digest(&hash("sha256", b"wrong"))?;
            Ok(w.write_all(b"wrong")?)
        });
        assert_eq!(fetched.unwrap_err().kind(), ErrorKind::DigestMismatch);
        for text in ["more than that", "less"] {
            let set = store.get_or_set_verified("key", &Expect::new().len(5), |w| {
                w.expect_len(text.len() as u64);
                Ok(w.write_all(text.as_bytes())?)
            });
            assert_eq!(set.unwrap_err().kind(), ErrorKind::SizeMismatch);
        }
        // What both say holds: this is what one of them says.
        let both = store.get_or_set_verified("key", &Expect::new().len(5), |w| {
            w.expect_digest(&expected)?;
            Ok(w.write_all(b"other")?)
        });
        assert_eq!(both.unwrap_err().kind(), ErrorKind::DigestMismatch);
        assert_eq!(store.entries().count(), 0);
    });
}

#[test]
fn a_digest_is_its_own_expectation() {
    in_each_format(|store| {
        for mode in MODES {
            let key = hash(mode, b"hello");
            let wrong = store.get_or_fetch(&key, text(b"jello")).unwrap_err();
            assert_eq!(wrong.kind(), ErrorKind::DigestMismatch);
            assert!(!store.contains(&key).unwrap());
            let fetched = store.get_or_fetch(&key, text(b"hello")).unwrap();
            assert_eq!(fetched.outcome(), Outcome::Computed);
            let hit = store.get_or_fetch(&key, |_| panic!("it is there")).unwrap();
            assert_eq!(hit.outcome(), Outcome::Hit);
            assert_eq!(store.read(&key).unwrap().unwrap(), b"hello");
        }
    });
}

#[test]
fn a_hit_of_another_length_is_computed_again() {
    in_each_format(|store| {
        let expect = Expect::new().len(5);
        store.set("key", text(b"too long")).unwrap();
        let value = store.get_or_set_verified("key", &expect, text(b"right"));
        assert_eq!(value.unwrap().outcome(), Outcome::Computed);
        let hit = store.get_or_set_verified("key", &expect, |_| panic!("it is there"));
        assert_eq!(hit.unwrap().outcome(), Outcome::Hit);
        assert_eq!(store.read("key").unwrap().unwrap(), b"right");

        assert_eq!(store.damaged_values(), 0, "it is not damaged, only another");
    });
}

/// A typo in a digest took a good value away before there was another, and none came.
#[test]
fn what_was_expected_wrongly_costs_no_value() {
    in_each_format(|store| {
        let value = store.set("key", text(b"good")).unwrap();
        let of_another = Expect::new().digest(&hash("sha256", b"typo"));
        let wrong = match value.digest() {
            Some(_) => vec![of_another, Expect::new().len(5)],
            None => vec![Expect::new().len(5)],
        };
        for expect in wrong {
            let failed = store.get_or_set_verified("key", &expect, |_w| {
                assert_eq!(store.read("key").unwrap().unwrap(), b"good");
                anyhow::bail!("the server said 404")
            });
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::Compute);
            let other = store.get_or_set_verified("key", &expect, text(b"other one"));
            assert!(other.is_err(), "{other:?}");
            assert_eq!(store.read("key").unwrap().unwrap(), b"good");
        }
    });
}

#[test]
fn a_hit_of_another_digest_is_computed_again_where_it_is_known() {
    in_each_format(|store| {
        let is_sealed = store.set("key", text(b"other")).unwrap().digest().is_some();
        for mode in MODES {
            store.set("key", text(b"other")).unwrap();
            let expect = Expect::new().len(5).digest(&hash(mode, b"right"));
            let value = store.get_or_set_verified("key", &expect, text(b"right"));
            let expected = match is_sealed && mode == "sha256" {
                true => Outcome::Computed,
                false => Outcome::Hit, // which `verify_against` is for
            };
            assert_eq!(value.unwrap().outcome(), expected, "{mode}");
        }
    });
}

/// While another process writes, what is there is wrong, and what comes may be wrong too.
/// Who waited beside a value that was not the one that he expected read all of it at each look, under
/// `Verify::Always`, and each look was a use.
#[test]
fn a_value_that_is_not_meant_is_neither_read_nor_used() {
    let dir = tempdir();
    let options = StoreOptions::new().sealed(true);
    let options = options.verify(larder::Verify::Always);
    let store = options.open_file_store(dir.path()).unwrap();
    store.set("key", text(b"value")).unwrap();
    let lock = store.lock("key").unwrap();
    // Who reads it sees that it is damaged.
    let mut bytes = std::fs::read(lock.path()).unwrap();
    bytes[0] = b'V';
    chmod(lock.path(), 0o644);
    std::fs::write(lock.path(), bytes).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    let times = std::fs::FileTimes::new().set_accessed(long_ago);
    let file = std::fs::File::open(lock.path()).unwrap();
    file.set_times(times).unwrap();
    let view = store.with_wait(larder::Wait::Timeout(std::time::Duration::from_millis(20)));
    for expect in [
        Expect::new().len(6),
        Expect::new().digest(&hash("sha256", b"other")),
    ] {
        let asked = view.get_or_set_verified("key", &expect, |_| unreachable!());
        assert_eq!(asked.unwrap_err().kind(), ErrorKind::Busy);
        let accessed = file.metadata().unwrap().accessed().unwrap();
        assert_eq!((store.damaged_values(), accessed), (0, long_ago));
    }
    let meant = Expect::new().len(5);
    let asked = view.get_or_set_verified("key", &meant, |_| unreachable!());
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::Busy);
    assert!(store.damaged_values() > 0);
}

#[test]
fn a_waiter_is_not_content_with_another_length() {
    in_each_format(|store| {
        for (published, answer) in [
            ("right", "right"),
            ("wrong length", "fixed"),
            ("wrong length", "fail"),
        ] {
            store.set("key", text(b"too long")).unwrap();
            let lock = store.lock("key").unwrap();
            let mut waiter = Worker::start(GET_OR_SET, &[store.base().to_str().unwrap(), "5"]);
            waiter.expect("ready");
            waiter.tell("go");
            wait_until_blocked(waiter.pid());
            let mut write = lock.begin().unwrap();
            write.write_all(published.as_bytes()).unwrap();
            drop(write.commit().unwrap());
            drop(lock);
            if published == "right" {
                waiter.expect("value right Waited");
            } else {
                waiter.expect("computing");
                assert_eq!(store.read("key").unwrap().unwrap(), published.as_bytes());
                waiter.tell(answer);
                match answer {
                    "fail" => waiter.expect("error Compute"),
                    _ => waiter.expect("value fixed Computed"),
                };
            }
            waiter.finish();
            let left = match answer {
                "fail" => published,
                answer => answer,
            };
            assert_eq!(store.read("key").unwrap().unwrap(), left.as_bytes());
        }
    });
}

/// The lock file of one who was killed stays, and who then waits for it has it shared with others first.
#[test]
fn a_waiter_for_one_who_was_killed_is_not_content_either() {
    in_each_format(|store| {
        store.set("key", text(b"too long")).unwrap();
        let base = store.base().to_str().unwrap();
        let mut holder = Worker::start(HOLD, &[base]);
        holder.expect("held");
        let mut waiter = Worker::start(GET_OR_SET, &[base, "5"]);
        waiter.expect("ready");
        waiter.tell("go");
        wait_until_blocked(waiter.pid());
        holder.kill();
        waiter.expect("computing");
        waiter.tell("fail");
        waiter.expect("error Compute");
        waiter.finish();
        assert_eq!(store.read("key").unwrap().unwrap(), b"too long");
    });
}

#[test]
fn one_of_many_processes_replaces_what_is_wrong() {
    in_each_format(|store| {
        store.set("key", text(b"too long")).unwrap();
        let base = store.base().to_str().unwrap();
        let mut asking: Vec<_> = (0..4)
            .map(|_| Worker::start(GET_OR_SET, &[base, "5"]))
            .collect();
        asking
            .iter_mut()
            .for_each(|worker| drop(worker.expect("ready")));
        asking.iter_mut().for_each(|worker| worker.tell("go"));
        let mut computed = 0;
        // Whoever computes says so before it can say anything else; the others cannot get past it.
        let mut leader = None;
        eventually("somebody to compute", || {
            leader = asking.iter_mut().position(|worker| !worker.is_silent());
            leader.is_some()
        });
        asking[leader.unwrap()].tell("right");
        for worker in &mut asking {
            let outcome = loop {
                let said = worker.next().unwrap();
                if let Some(rest) = said.strip_prefix("value right ") {
                    break rest.to_owned();
                }
            };
            computed += usize::from(outcome == "Computed");
            worker.finish();
        }
        assert_eq!(computed, 1);
    });
}

#[test]
fn a_stored_value_is_compared_with_what_is_known_of_it() {
    in_each_format(|store| {
        let nothing = Expect::new();
        assert_eq!(store.verify("key").unwrap(), None);
        assert_eq!(store.verify_against("key", &nothing).unwrap(), None);
        let value = store.set("key", text(b"hello")).unwrap();
        let is_sealed = value.digest().is_some();
        let known = if is_sealed {
            Integrity::Whole
        } else {
            Integrity::Unknown
        };
        assert_eq!(store.verify("key").unwrap(), Some(known));
        let against = |expect: &Expect| store.verify_against("key", expect).unwrap().unwrap();
        assert_eq!(against(&nothing), known);
        assert_eq!(against(&nothing.clone().len(5)), known);
        assert_eq!(against(&nothing.clone().len(4)), Integrity::Damaged);
        for mode in MODES {
            let [right, wrong] = [&b"hello"[..], b"other"].map(|bytes| hash(mode, bytes));
            assert_eq!(against(&nothing.clone().digest(&right)), Integrity::Whole);
            assert_eq!(against(&nothing.clone().digest(&wrong)), Integrity::Damaged);
            let longer = nothing.clone().digest(&right).len(6);
            assert_eq!(against(&longer), Integrity::Damaged);
        }

        // Altered on disk, and not removed by who only asks.
        let path = store.base().join("key".key());
        let mut altered = std::fs::read(&path).unwrap();
        altered[0] ^= 1;
        chmod(&path, 0o644);
        std::fs::write(&path, altered).unwrap();
        let before = listing(store.base());
        let found = if is_sealed {
            Integrity::Damaged
        } else {
            Integrity::Unknown
        };
        assert_eq!(store.verify("key").unwrap(), Some(found));
        let right = nothing.digest(&hash("sha512", b"hello"));
        assert_eq!(against(&right), Integrity::Damaged);
        assert_eq!(listing(store.base()), before);
    });
}

/// The second replaced the first, which was never looked at.
#[test]
fn of_several_digests_all_count() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    let hash = |mode: &str, algorithm, bytes: &[u8]| {
        ArtifactHash::new(mode, ring::digest::digest(algorithm, bytes).as_ref()).unwrap()
    };
    let right = [
        hash("sha256", &SHA256, b"right"),
        hash("sha512", &SHA512, b"right"),
    ];
    let wrong = [
        hash("sha256", &SHA256, b"wrong"),
        hash("sha512", &SHA512, b"wrong"),
    ];
    for digests in [
        [&wrong[0], &right[1]],
        [&right[1], &wrong[0]],
        [&right[0], &wrong[1]],
    ] {
        let stated = store.set("key", |w| {
            digests
                .iter()
                .try_for_each(|digest| w.expect_digest(digest))?;
            Ok(w.write_all(b"right")?)
        });
        assert_eq!(stated.unwrap_err().kind(), ErrorKind::DigestMismatch);
        let expect = Expect::new().digest(digests[0]).digest(digests[1]);
        let asked = store.get_or_set_verified("key", &expect, |w| Ok(w.write_all(b"right")?));
        assert_eq!(asked.unwrap_err().kind(), ErrorKind::DigestMismatch);
    }
    let expect = Expect::new().digest(&right[0]).digest(&right[1]);
    let value = store.get_or_set_verified("key", &expect, |w| Ok(w.write_all(b"right")?));
    assert_eq!(value.unwrap().len(), 5);
    let known = |expect: &Expect| store.verify_against("key", expect).unwrap();
    assert_eq!(known(&expect), Some(Integrity::Whole));
    assert_eq!(known(&expect.digest(&wrong[0])), Some(Integrity::Damaged));
    // That it is as long says nothing about its bytes.
    assert_eq!(known(&Expect::new().len(5)), Some(Integrity::Unknown));
    assert_eq!(known(&Expect::new().len(6)), Some(Integrity::Damaged));
}
