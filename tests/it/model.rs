//! A store against a map, under random operations.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use larder::{
    ArtifactHash, DirLease, Durability, ErrorKind, KVDirStore, KVFileStore, Outcome, PathKey,
    StoreOptions,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{empty_store, in_memory, listing};

const KEYS: usize = 5;

/// One of a few keys, of different types.
fn key(number: usize) -> Box<dyn PathKey> {
    match number {
        0 => Box::new(""),
        1 => Box::new("key"),
        2 => Box::new(larder::Labelled::new(vec![0, 255, 10], "a label")),
        3 => Box::new(ArtifactHash::new("sha256", [7; 32]).unwrap()),
        _ => Box::new(Named("by/a client/itself")),
    }
}

struct Named(&'static str);

impl PathKey for Named {
    fn key(&self) -> PathBuf {
        self.0.into()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Set(usize, Vec<u8>),
    GetOrSet(usize, Vec<u8>),
    FailingSet(usize),
    FailingGetOrSet(usize),
    Remove(usize),
    /// Writes under a lock, and publishes it or not.
    Write(usize, Vec<u8>, bool),
    LockedRemove(usize),
    Batch(Vec<(usize, Vec<u8>)>, bool),
    /// Keeps a value open, or a tree leased.
    Hold(usize),
    Release,
    Touch(usize),
    Clear,
    Sweep,
    Reopen,
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..30),
        // Around the size of the writer's buffer.
        1 => (16_000..17_000_usize, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS;
    prop_oneof![
        3 => (key.clone(), bytes()).prop_map(|(key, bytes)| Op::Set(key, bytes)),
        3 => (key.clone(), bytes()).prop_map(|(key, bytes)| Op::GetOrSet(key, bytes)),
        1 => key.clone().prop_map(Op::FailingSet),
        1 => key.clone().prop_map(Op::FailingGetOrSet),
        3 => key.clone().prop_map(Op::Remove),
        3 => (key.clone(), bytes(), any::<bool>())
            .prop_map(|(key, bytes, commit)| Op::Write(key, bytes, commit)),
        1 => key.clone().prop_map(Op::LockedRemove),
        1 => (prop::collection::vec((key.clone(), bytes()), 0..4), any::<bool>())
            .prop_map(|(values, commit)| Op::Batch(values, commit)),
        2 => key.clone().prop_map(Op::Hold),
        1 => Just(Op::Release),
        1 => key.prop_map(Op::Touch),
        1 => Just(Op::Clear),
        1 => Just(Op::Sweep),
        1 => Just(Op::Reopen),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..40)
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn outcome(is_hit: bool) -> Outcome {
    if is_hit {
        Outcome::Hit
    } else {
        Outcome::Computed
    }
}

type Map = BTreeMap<usize, Vec<u8>>;

/// Every name below a store whose values are these; of each, what is at and beside its path.
fn names<'a>(map: &Map, at: impl Fn(&str) -> Vec<String> + 'a) -> BTreeSet<String> {
    let mut names = empty_store();
    for &number in map.keys() {
        let path = key(number).key();
        for above in path.ancestors().skip(1) {
            if above != Path::new("") {
                names.insert(format!("{}/", above.display()));
            }
        }
        names.extend(at(path.to_str().unwrap()));
    }
    names
}

struct Files {
    store: KVFileStore,
    map: Map,
    held: Vec<(larder::Value, Vec<u8>)>,
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        let dir = in_memory();
        Files {
            store: Self::open(dir.path()),
            map: Map::new(),
            held: Vec::new(),
            dir,
        }
    }

    fn open(base: &Path) -> KVFileStore {
        let options = StoreOptions::new().durability(Durability::None);
        options.open_file_store(base).unwrap()
    }

    fn apply(&mut self, op: Op) {
        let (store, map) = (&self.store, &mut self.map);
        match op {
            Op::Set(number, bytes) => {
                let value = store
                    .set(&key(number), |w| Ok(w.write_all(&bytes)?))
                    .unwrap();
                assert_eq!(value.len(), bytes.len() as u64);
                map.insert(number, bytes);
            }
            Op::GetOrSet(number, bytes) => {
                let value = store.get_or_set(&key(number), |w| Ok(w.write_all(&bytes)?));
                let value = value.unwrap();
                assert_eq!(value.outcome(), outcome(map.contains_key(&number)));
                let expected = map.entry(number).or_insert(bytes);
                assert_eq!(value.len(), expected.len() as u64);
            }
            Op::FailingSet(number) => {
                let failed = store.set(&key(number), |w| {
                    w.write_all(b"half of")?;
                    anyhow::bail!("on purpose")
                });
                assert_eq!(failed.unwrap_err().kind(), ErrorKind::Compute);
            }
            Op::FailingGetOrSet(number) => {
                let asked = store.get_or_set(&key(number), |w| {
                    w.write_all(b"half of")?;
                    anyhow::bail!("on purpose")
                });
                match asked {
                    Ok(value) => assert_eq!(value.len(), map[&number].len() as u64),
                    Err(err) => {
                        assert_eq!(err.kind(), ErrorKind::Compute);
                        assert!(!map.contains_key(&number));
                    }
                }
            }
            Op::Remove(number) => {
                let removed = store.remove(&key(number)).unwrap();
                assert_eq!(removed, map.remove(&number).is_some());
            }
            Op::Write(number, bytes, commit) => {
                let lock = store.lock(&key(number)).unwrap();
                assert_eq!(lock.reader().unwrap().is_some(), map.contains_key(&number));
                assert!(store.try_lock(&key(number)).unwrap().is_none());
                let mut write = lock.begin().unwrap();
                write.write_all(&bytes).unwrap();
                if commit {
                    assert_eq!(write.commit().unwrap().len(), bytes.len() as u64);
                    map.insert(number, bytes);
                }
            }
            Op::LockedRemove(number) => match store.lock_if_exists(&key(number)).unwrap() {
                Some(lock) => {
                    assert!(lock.remove().unwrap());
                    assert!(map.remove(&number).is_some());
                }
                None => assert!(!map.contains_key(&number)),
            },
            Op::Batch(values, commit) => {
                let mut batch = store.batch();
                let mut distinct = BTreeSet::new();
                for (number, bytes) in &values {
                    batch
                        .set(&key(*number), |w| Ok(w.write_all(bytes)?))
                        .unwrap();
                    distinct.insert(*number);
                }
                if commit {
                    assert_eq!(batch.commit().unwrap(), distinct.len());
                    map.extend(values);
                }
            }
            Op::Hold(number) => {
                let value = store.get(&key(number)).unwrap();
                self.held
                    .extend(value.map(|value| (value, map[&number].clone())));
            }
            Op::Release => {
                // Whatever has become of their keys, they read what they were opened on.
                for (mut value, bytes) in self.held.drain(..) {
                    let mut read = Vec::new();
                    std::io::Read::read_to_end(&mut value, &mut read).unwrap();
                    assert_eq!(read, bytes);
                }
            }
            Op::Touch(number) => {
                let touched = store.touch(&key(number)).unwrap();
                assert_eq!(touched, map.contains_key(&number));
            }
            Op::Clear => {
                let report = store.clear().unwrap();
                let bytes: usize = map.values().map(Vec::len).sum();
                assert_eq!(report.examined, map.len() as u64);
                assert_eq!(report.removed, map.len() as u64);
                assert_eq!(report.removed_bytes, bytes as u64);
                assert!(report.kept.is_empty());
                map.clear();
            }
            Op::Sweep => {
                let report = store.sweep().unwrap();
                assert_eq!((report.swept, report.kept.len()), (0, 0));
            }
            Op::Reopen => self.store = Self::open(self.dir.path()),
        }
    }

    fn check(&self) {
        for number in 0..KEYS {
            let expected = self.map.get(&number);
            assert_eq!(self.store.read(&key(number)).unwrap().as_ref(), expected);
            let there = self.store.contains(&key(number)).unwrap();
            assert_eq!(there, expected.is_some());
        }
        let found: BTreeMap<_, _> = self
            .store
            .entries()
            .map(|entry| entry.map(|entry| (entry.key(), entry.len())).unwrap())
            .collect();
        let expected = self
            .map
            .iter()
            .map(|(&number, bytes)| (key(number).key(), Some(bytes.len() as u64)))
            .collect();
        assert_eq!(found, expected);
        let expected = names(&self.map, |path| vec![path.to_owned()]);
        assert_eq!(listing(self.dir.path()), expected);
    }
}

struct Trees {
    store: KVDirStore,
    map: Map,
    held: Vec<(usize, DirLease)>,
    dir: TempDir,
}

impl Trees {
    fn new() -> Self {
        let dir = in_memory();
        Trees {
            store: Self::open(dir.path()),
            map: Map::new(),
            held: Vec::new(),
            dir,
        }
    }

    fn open(base: &Path) -> KVDirStore {
        let options = StoreOptions::new().durability(Durability::None);
        options.open_dir_store(base).unwrap()
    }

    fn is_held(&self, number: usize) -> bool {
        self.held.iter().any(|&(held, _)| held == number)
    }

    fn replace(&mut self, number: usize, bytes: Vec<u8>) {
        let replaced = self.store.replace(&key(number), |tree| {
            Ok(std::fs::write(tree.join("file"), &bytes)?)
        });
        match replaced {
            Ok(lease) => {
                assert!(!self.is_held(number));
                assert_eq!(lease.outcome(), Outcome::Computed);
                self.map.insert(number, bytes);
            }
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::InUse);
                assert!(self.is_held(number));
            }
        }
    }

    fn apply(&mut self, op: Op) {
        let (store, map) = (self.store.clone(), &mut self.map);
        match op {
            Op::Set(number, bytes) => self.replace(number, bytes),
            Op::GetOrSet(number, bytes) => {
                let lease = store.get_or_set(&key(number), |tree| {
                    Ok(std::fs::write(tree.join("file"), &bytes)?)
                });
                let lease = lease.unwrap();
                assert_eq!(lease.outcome(), outcome(map.contains_key(&number)));
                map.entry(number).or_insert(bytes);
            }
            Op::FailingSet(number) => {
                let failed = store.replace(&key(number), |tree| {
                    std::fs::write(tree.join("file"), "half of")?;
                    anyhow::bail!("on purpose")
                });
                assert_eq!(failed.unwrap_err().kind(), ErrorKind::Compute);
            }
            Op::FailingGetOrSet(number) => {
                let asked = store.get_or_set(&key(number), |tree| {
                    std::fs::write(tree.join("file"), "half of")?;
                    anyhow::bail!("on purpose")
                });
                match asked {
                    Ok(lease) => assert_eq!(lease.outcome(), Outcome::Hit),
                    Err(err) => {
                        assert_eq!(err.kind(), ErrorKind::Compute);
                        assert!(!map.contains_key(&number));
                    }
                }
            }
            Op::Remove(number) => match store.remove(&key(number)) {
                Ok(removed) => {
                    assert_eq!(removed, map.remove(&number).is_some());
                    assert!(!self.is_held(number));
                }
                Err(err) => {
                    assert_eq!(err.kind(), ErrorKind::InUse);
                    assert!(self.is_held(number));
                }
            },
            Op::Write(number, bytes, commit) => {
                let Some(lock) = store.try_lock(&key(number)).unwrap() else {
                    assert!(self.is_held(number));
                    return;
                };
                assert_eq!(lock.exists(), map.contains_key(&number));
                let staged = lock.tempdir().unwrap();
                std::fs::write(staged.path().join("file"), &bytes).unwrap();
                if commit {
                    let lease = lock.publish(staged).unwrap();
                    assert_eq!(std::fs::read(lease.join("file")).unwrap(), bytes);
                    map.insert(number, bytes);
                }
            }
            Op::LockedRemove(number) => {
                if self.is_held(number) {
                    return; // it would wait for this very thread
                }
                match store.lock_if_exists(&key(number)).unwrap() {
                    Some(lock) => {
                        assert!(lock.remove().unwrap());
                        assert!(self.map.remove(&number).is_some());
                    }
                    None => assert!(!self.map.contains_key(&number)),
                }
            }
            Op::Batch(values, _) => {
                for (number, bytes) in values {
                    self.replace(number, bytes);
                }
            }
            Op::Hold(number) => {
                let lease = store.get(&key(number)).unwrap();
                assert_eq!(lease.is_some(), map.contains_key(&number));
                self.held.extend(lease.map(|lease| (number, lease)));
            }
            Op::Release => {
                for (number, lease) in self.held.drain(..) {
                    assert_eq!(std::fs::read(lease.join("file")).unwrap(), map[&number]);
                }
            }
            Op::Touch(number) => {
                let touched = store.touch(&key(number)).unwrap();
                assert_eq!(touched, map.contains_key(&number));
            }
            Op::Clear => {
                let report = store.clear().unwrap();
                assert_eq!(report.examined, map.len() as u64);
                let held: BTreeSet<_> = self.held.iter().map(|&(number, _)| number).collect();
                assert_eq!(report.kept.len(), held.len());
                map.retain(|number, _| held.contains(number));
                assert_eq!(report.removed, report.examined - map.len() as u64);
            }
            Op::Sweep => {
                let report = store.sweep().unwrap();
                assert_eq!((report.swept, report.kept.len()), (0, 0));
            }
            Op::Reopen => self.store = Self::open(self.dir.path()),
        }
    }

    fn check(&self) {
        for number in 0..KEYS {
            let expected = self.map.get(&number);
            let there = self.store.contains(&key(number)).unwrap();
            assert_eq!(there, expected.is_some());
            let lease = self.store.get(&key(number)).unwrap();
            let read = lease.map(|lease| std::fs::read(lease.join("file")).unwrap());
            assert_eq!(read.as_ref(), expected);
        }
        let found: BTreeMap<_, _> = self
            .store
            .entries()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.key(), (entry.len(), entry.file_count()))
            })
            .collect();
        let expected = self
            .map
            .iter()
            .map(|(&number, bytes)| (key(number).key(), (Some(bytes.len() as u64), Some(1))))
            .collect();
        assert_eq!(found, expected);
        let expected = names(&self.map, |path| {
            ["/", "/file", ".lock", ".larder"]
                .map(|end| format!("{path}{end}"))
                .into()
        });
        assert_eq!(listing(self.dir.path()), expected);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_store_of_files_is_a_map(ops in ops()) {
        let mut files = Files::new();
        for op in ops {
            files.apply(op);
            files.check();
        }
        files.apply(Op::Release);
        files.apply(Op::Clear);
        files.check();
    }

    #[test]
    fn a_store_of_trees_is_a_map(ops in ops()) {
        let mut trees = Trees::new();
        for op in ops {
            trees.apply(op);
            trees.check();
        }
        trees.apply(Op::Release);
        trees.apply(Op::Clear);
        trees.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..config() })]

    #[test]
    fn a_bytes_key_is_at_its_sha_256(key: Vec<u8>) {
        let digest = ring::digest::digest(&ring::digest::SHA256, &key);
        let text = BASE64URL_NOPAD.encode(digest.as_ref());
        let expected = format!("{}/{}/{}/{}", &text[..1], &text[1..2], &text[2..3], &text[3..]);
        prop_assert_eq!(key.key(), PathBuf::from(&expected));
        prop_assert_eq!(key[..].key(), PathBuf::from(&expected));
        prop_assert_eq!(larder::nested_path(digest.as_ref()).unwrap(), PathBuf::from(expected));
    }

    #[test]
    fn distinct_keys_have_distinct_paths(a: Vec<u8>, b: Vec<u8>, at: prop::sample::Index) {
        prop_assert_eq!(a == b, a.key() == b.key());
        let mut near = a.clone();
        if a.is_empty() {
            near.push(0);
        } else {
            near[at.index(a.len())] ^= 1;
        }
        prop_assert_ne!(a.key(), near.key());
        near.truncate(near.len() - 1);
        prop_assert_eq!(a == near, a.key() == near.key());
    }

    #[test]
    fn an_artifact_hash_is_read_as_it_is_written((mode, digest) in hash()) {
        let of_the_store = mode == "tmp" || mode == "gc" || mode.starts_with("larder-");
        let fits = match known_len(&mode) {
            Some(len) => digest.len() == len,
            None => (4..=128).contains(&digest.len()),
        };
        let hash = ArtifactHash::new(&*mode, digest.clone());
        let text = format!("{mode}={}", data_encoding::HEXLOWER.encode(&digest));
        if of_the_store || !fits {
            prop_assert!(hash.is_err() && text.parse::<ArtifactHash>().is_err());
            return Ok(());
        }
        let hash = hash.unwrap();
        prop_assert_eq!((hash.mode(), hash.digest()), (&*mode, &*digest));
        prop_assert_eq!(hash.to_string(), &*text);
        prop_assert_eq!(&text.parse::<ArtifactHash>().unwrap(), &hash);
        let upper = format!("{mode}={}", data_encoding::HEXUPPER.encode(&digest));
        prop_assert_eq!(&upper.parse::<ArtifactHash>().unwrap(), &hash);
        let nested = larder::nested_path(&digest).unwrap();
        prop_assert_eq!(hash.key(), Path::new(&mode).join(nested));
    }
}

/// The algorithms whose digests' lengths are known.
const KNOWN: [(&str, usize); 7] = [
    ("md5", 16),
    ("sha1", 20),
    ("sha224", 28),
    ("sha256", 32),
    ("sha384", 48),
    ("sha512", 64),
    ("blake3", 32),
];

fn known_len(mode: &str) -> Option<usize> {
    KNOWN
        .iter()
        .find(|known| known.0 == mode)
        .map(|known| known.1)
}

/// Well-formed names of algorithms (any, those whose digests are known, and those that the store
/// keeps for itself) with digests of any length, and often of one that is just right or just wrong.
fn hash() -> impl Strategy<Value = (String, Vec<u8>)> {
    let mode = prop_oneof![
        4 => "[a-z][a-z0-9_-]{0,31}",
        2 => prop::sample::select(&KNOWN[..]).prop_map(|(mode, _)| mode.to_string()),
        1 => prop_oneof![Just("tmp".to_string()), Just("gc".to_string()), "larder-[a-z]{0,9}"],
    ];
    mode.prop_flat_map(|mode| {
        let near =
            known_len(&mode).map_or(vec![3, 4, 128, 129], |len| vec![len - 1, len, len, len + 1]);
        let len = prop_oneof![0..140_usize, prop::sample::select(near)];
        let digest = len.prop_flat_map(|len| prop::collection::vec(any::<u8>(), len));
        (Just(mode), digest)
    })
}
