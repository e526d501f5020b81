//! How a store behaves as it grows: `cargo bench --bench scale -- --dir DIR [KEYS…]`.
//!
//! For each number of keys (1,000, 100,000 and 1,000,000 unless others are given) a store and the same
//! files without one are made, and a hit, a miss, a set, a walk over all entries, `stats` and `check` are timed
//! in turn, warm; then what the store takes on disk is told, in bytes and inodes for each entry.

#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used
)]

#[path = "ratios/measure.rs"]
#[allow(dead_code)] // not all of it is about many keys
mod measure;
#[path = "ratios/raw.rs"]
#[allow(dead_code)]
mod raw;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use larder::{Durability, KVFileStore, StoreOptions};
use measure::{in_turn, round_robin};

const VALUE: usize = 1024;
/// Looked at in a round: so many that each comes from another directory, and few enough to be warm.
const SAMPLE: usize = 10_000;

fn main() {
    let mut dir = std::env::temp_dir();
    let mut sizes = Vec::new();
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        match &*word {
            "--dir" => dir = PathBuf::from(words.next().expect("--dir DIR")),
            size => sizes.push(size.parse().expect("a number of keys")),
        }
    }
    if sizes.is_empty() {
        sizes = vec![1_000, 100_000, 1_000_000];
    }
    println!("| keys | work | raw, µs | larder, µs | ratio |\n| --- | --- | --- | --- | --- |");
    let mut space = Vec::new();
    for keys in sizes {
        let scratch = tempfile::tempdir_in(&dir).unwrap();
        space.push(measure_at(keys, scratch.path()));
    }
    println!(
        "\n| keys | bytes on disk for each entry | inodes for each entry |\n| --- | --- | --- |"
    );
    for line in space {
        println!("{line}");
    }
}

fn measure_at(count: usize, dir: &Path) -> String {
    let options = StoreOptions::new().durability(Durability::None);
    let store = options.open_file_store(dir.join("larder")).unwrap();
    let bytes = [7; VALUE];
    let before = used(dir);
    for n in 0..count {
        store.set(&key(n), |w| Ok(w.write_all(&bytes)?)).unwrap();
    }
    let after = used(dir);
    let base = dir.join("raw");
    std::fs::create_dir(&base).unwrap();
    let staged = base.join("staged");
    let path = |n: usize| base.join(larder::PathKey::key(&key(n)));
    for n in 0..count {
        raw::set_new(&staged, &path(n), &bytes, false);
    }
    rows(count, &store, &path, &staged);
    let each = |now: u64, then: u64| (now - then) as f64 / count as f64;
    format!(
        "| {count} | {:.0} (of which {VALUE} are the value's) | {:.2} |",
        each(after.0, before.0),
        each(after.1, before.1)
    )
}

fn rows(count: usize, store: &KVFileStore, path: &dyn Fn(usize) -> PathBuf, staged: &Path) {
    let bytes = [7; VALUE];
    let sample = SAMPLE.min(count);
    // Spread over all keys; the same in each way.
    let chosen: Vec<usize> = (0..sample).map(|n| n * (count / sample)).collect();
    let keys: Vec<String> = chosen.iter().map(|&n| key(n)).collect();
    let paths: Vec<PathBuf> = chosen.iter().map(|&n| path(n)).collect();
    let absent: Vec<String> = chosen.iter().map(|&n| key(n + count)).collect();
    let nowhere: Vec<PathBuf> = chosen.iter().map(|&n| path(n + count)).collect();
    let mut buffer = vec![0; VALUE];
    let mut into = Vec::new();
    let compare = |work, raw, larder| {
        let each = u32::try_from(sample).unwrap();
        let figures = in_turn(7, each, &mut [("raw", raw), ("larder", larder)]);
        println!(
            "| {count} | {work} | {:.1} | {:.1} | {:.2} |",
            figures[0].micros, figures[1].micros, figures[1].ratio
        );
    };
    compare(
        "hit",
        round_robin(sample, |n| {
            assert_eq!(raw::hit(&paths[n], &mut buffer), VALUE);
        }),
        round_robin(sample, |n| {
            assert_eq!(store.read_into(&keys[n], &mut into).unwrap(), Some(VALUE));
        }),
    );
    compare(
        "miss",
        round_robin(sample, |n| raw::miss(&nowhere[n])),
        round_robin(sample, |n| {
            assert!(store.get(&absent[n]).unwrap().is_none())
        }),
    );
    compare(
        "set, replaced",
        round_robin(sample, |n| raw::set(staged, &paths[n], &bytes, false)),
        round_robin(sample, |n| {
            store.set(&keys[n], |w| Ok(w.write_all(&bytes)?)).unwrap();
        }),
    );
    let began = Instant::now();
    assert_eq!(store.entries().count(), count);
    let walk = began.elapsed().as_secs_f64() * 1e6 / count as f64;
    println!("| {count} | listed, each | | {walk:.1} | |");
    let began = Instant::now();
    assert_eq!(store.stats().unwrap().entries, count as u64);
    let stats = began.elapsed().as_secs_f64() * 1e6 / count as f64;
    println!("| {count} | counted by `stats`, each | | {stats:.1} | |");
    let began = Instant::now();
    assert!(store.check().unwrap().is_clean());
    let check = began.elapsed().as_secs_f64() * 1e6 / count as f64;
    println!("| {count} | checked, each | | {check:.1} | |");
}

fn key(n: usize) -> String {
    format!("key number {n}")
}

/// Bytes and inodes in use on the file system.
fn used(dir: &Path) -> (u64, u64) {
    // What is still only in memory counts when it is on the disk.
    rustix::fs::syncfs(std::fs::File::open(dir).unwrap()).unwrap();
    let stat = rustix::fs::statvfs(dir).unwrap();
    (
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
        stat.f_files - stat.f_ffree,
    )
}
