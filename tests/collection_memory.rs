//! A collection of very many entries stays in bounded memory: 200 MiB for a million.
//!
//! A binary of its own, because what counts is the peak of the whole process. `LARDER_ENTRIES=1000000`
//! tries it with a million; without it, with a tenth of that.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a failed unwrap is a failed test

use std::path::Path;
use std::time::Duration;

use larder::{GcPolicy, KVFileStore, PathKey};

/// What the process takes without any entries, and for each of them.
const PEAK: u64 = 20 << 20;
const PEAK_PER_ENTRY: u64 = 180;

/// The most that this process ever had in memory, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

#[test]
fn very_many_entries_need_little_memory() {
    let entries = std::env::var("LARDER_ENTRIES").map_or(100_000, |n| n.parse().unwrap());
    let memory = Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir());
    let dir = dir.unwrap();
    let store = KVFileStore::new(dir.path().join("store")).unwrap();
    for n in 0..entries {
        let path = store.base().join(format!("entry {n}").key());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let policy = GcPolicy::default().max_entries(0).min_idle(Duration::ZERO);
    let report = store.gc(&policy.dry_run(true)).unwrap();
    assert_eq!((report.examined, report.removed), (entries, entries));
    let peak = peak();
    println!("{entries} entries: {} MiB", peak >> 20);
    assert!(peak < PEAK + PEAK_PER_ENTRY * entries, "{peak} bytes");
}
