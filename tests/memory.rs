//! A value of 2 GiB goes in and comes out through a process that stays small.
//!
//! A binary of its own, because what counts is the peak of the whole process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::{Read, Write};
use std::path::Path;

use larder::{Durability, StoreOptions};

const VALUE: u64 = 2 << 30;
const PEAK: u64 = 16 << 20;

/// The most that this process ever had in memory, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

/// In memory, if there is room for it twice, so that no disk is worn out by it.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    if room > 2 * VALUE {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

#[test]
fn a_large_value_needs_no_memory() {
    let dir = scratch();
    let options = StoreOptions::new().durability(Durability::None);
    let store = options.open_file_store(dir.path().join("store")).unwrap();
    let block = vec![7; 1 << 20];
    let mut value = store
        .get_or_set("large", |w| {
            for _ in 0..VALUE / block.len() as u64 {
                w.write_all(&block)?;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(value.len(), VALUE);
    let mut into = vec![0; 1 << 20];
    let mut seen = 0;
    loop {
        let read = value.read(&mut into).unwrap();
        if read == 0 {
            break;
        }
        assert!(into[..read] == block[..read]);
        seen += read as u64;
    }
    assert_eq!(seen, VALUE);
    let peak = peak();
    assert!(peak < PEAK, "{peak} bytes");
}
