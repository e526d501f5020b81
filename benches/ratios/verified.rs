//! What it costs to know that a value or a tree is what was written.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use larder::{ArtifactHash, Durability, Integrity, KVFileStore, StoreOptions};
use ring::digest::{SHA256, digest};

use crate::measure::{Figure, Way, in_turn, round_robin};
use crate::raw;
use crate::rows::{keys, raw_base};

const SMALL: usize = 4096;
const LARGE: usize = 4 << 20;
const WRITTEN: usize = 64 << 20;

pub(crate) fn small_hit(dir: &Path, turns: usize) -> Vec<Figure> {
    hits(dir, turns, SMALL, 200, 2000)
}

pub(crate) fn large_hit(dir: &Path, turns: usize) -> Vec<Figure> {
    hits(dir, turns, LARGE, 8, 16)
}

/// Of a store whose files are the values, and of a sealed one, whose digests nobody compares.
fn hits(dir: &Path, turns: usize, len: usize, count: usize, each: u32) -> Vec<Figure> {
    let keys = keys(count);
    let bytes = vec![7; len];
    let open = |name: &str, sealed: bool| {
        let options = StoreOptions::new().durability(Durability::None);
        let store = options.sealed(sealed).open_file_store(dir.join(name));
        let store = store.unwrap();
        for key in &keys {
            store.set(key, |w| Ok(w.write_all(&bytes)?)).unwrap();
        }
        store
    };
    let (plain, sealed) = (open("plain", false), open("sealed", true));
    let into = |store: KVFileStore| {
        let mut buffer = Vec::new();
        let keys = &keys;
        round_robin(count, move |n| {
            assert_eq!(store.read_into(&keys[n], &mut buffer).unwrap(), Some(len));
        })
    };
    let through = |store: KVFileStore| {
        let mut buffer = Vec::new();
        let keys = &keys;
        round_robin(count, move |n| {
            buffer.clear();
            let mut value = store.get(&keys[n]).unwrap().unwrap();
            assert_eq!(value.read_to_end(&mut buffer).unwrap(), len);
        })
    };
    in_turn(
        turns,
        each,
        &mut [
            ("plain, read_into", into(plain.clone())),
            ("sealed, read_into", into(sealed.clone())),
            ("plain, get + read", through(plain)),
            ("sealed, get + read", through(sealed)),
        ],
    )
}

/// A value of 64 MiB whose digest is known, without durability.
pub(crate) fn write(dir: &Path, turns: usize) -> Vec<Figure> {
    let turns = turns.min(9);
    let bytes: Vec<u8> = (0..WRITTEN / 8)
        .flat_map(|n: usize| n.to_le_bytes())
        .collect();
    let hash = ArtifactHash::new("sha256", digest(&SHA256, &bytes).as_ref()).unwrap();
    let base = raw_base(dir);
    let open = |name: &str, sealed: bool| {
        let options = StoreOptions::new().durability(Durability::None);
        options
            .sealed(sealed)
            .open_file_store(dir.join(name))
            .unwrap()
    };
    let fetch = |store: KVFileStore| -> Way<'_> {
        let (bytes, hash) = (&bytes, &hash);
        // In pieces, as from a socket.
        Box::new(move |_| {
            store.remove(hash).unwrap();
            let began = Instant::now();
            let write = |w: &mut larder::ValueWriter| {
                bytes
                    .chunks(1 << 18)
                    .try_for_each(|piece| Ok(w.write_all(piece)?))
            };
            drop(store.get_or_fetch(hash, write).unwrap());
            began.elapsed()
        })
    };
    let mut ways: [(&'static str, Way<'_>); 3] = [
        (
            "hashed, then written",
            Box::new(|_| {
                let _ = std::fs::remove_file(base.join("value"));
                let began = Instant::now();
                assert_eq!(digest(&SHA256, &bytes).as_ref(), hash.digest());
                raw::set(&base.join("staged"), &base.join("value"), &bytes, false);
                began.elapsed()
            }),
        ),
        ("get_or_fetch", fetch(open("plain", false))),
        ("get_or_fetch, sealed", fetch(open("sealed", true))),
    ];
    in_turn(turns, 1, &mut ways)
}

/// What sealing makes superfluous: plain values made durable, beside sealed ones that are not.
pub(crate) fn set(dir: &Path, turns: usize) -> Vec<Figure> {
    const KEYS: usize = 200;
    let keys = keys(KEYS);
    let bytes = [7; SMALL];
    let set = |name: &str, sealed: bool, durability: Durability| {
        let options = StoreOptions::new().durability(durability);
        let store = options.sealed(sealed).open_file_store(dir.join(name));
        let store = store.unwrap();
        let keys = &keys;
        round_robin(KEYS, move |n| {
            store.set(&keys[n], |w| Ok(w.write_all(&bytes)?)).unwrap();
        })
    };
    let mut ways = [
        ("plain, Data", set("durable", false, Durability::Data)),
        ("plain, None", set("plain", false, Durability::None)),
        ("sealed, None", set("sealed", true, Durability::None)),
    ];
    in_turn(turns, 50, &mut ways)
}

/// A tree of 2,000 files of 64 KiB.
pub(crate) fn tree(dir: &Path, turns: usize) -> Vec<Figure> {
    let options = StoreOptions::new().durability(Durability::None);
    let store = options.open_dir_store(dir.join("larder")).unwrap();
    let bytes = vec![7; 64 << 10];
    let lease = store
        .get_or_set("tree", |tree| {
            raw::fill_tree(tree, 2000, &bytes);
            Ok(())
        })
        .unwrap();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut ways: [(&'static str, Way<'_>); 2] = [
        (
            "sha256sum, by cores",
            Box::new(|_| sha256sum(&lease) / u32::try_from(cores).unwrap()),
        ),
        (
            "verify",
            Box::new(|_| {
                let began = Instant::now();
                let report = store.verify("tree").unwrap().unwrap();
                assert_eq!(report.integrity, Integrity::Whole);
                began.elapsed()
            }),
        ),
    ];
    in_turn(turns.min(9), 1, &mut ways)
}

fn sha256sum(tree: &Path) -> Duration {
    let began = Instant::now();
    let summed = Command::new("find")
        .arg(tree)
        .args(["-type", "f", "-exec", "sha256sum", "{}", "+"])
        .stdout(Stdio::null())
        .status();
    assert!(summed.unwrap().success());
    began.elapsed()
}
