//! What a hit allocates: the key's path, what the caller gets, and nothing else.
//!
//! A binary of its own, because what counts is the allocator of the whole process.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::io::{Read, Write};

use allocation_counter::{AllocationInfo, measure};
use larder::{Durability, KVFileStore, PathKey, StoreOptions};

fn store() -> (tempfile::TempDir, KVFileStore) {
    store_with(false)
}

fn store_with(sealed: bool) -> (tempfile::TempDir, KVFileStore) {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions::new()
        .durability(Durability::None)
        .sealed(sealed);
    let store = options.open_file_store(dir.path().join("store")).unwrap();
    store.set("key", |w| Ok(w.write_all(&[7; 4096])?)).unwrap();
    (dir, store)
}

/// Counts, after once that may set up what is set up once.
fn count(mut run: impl FnMut()) -> AllocationInfo {
    run();
    measure(run)
}

#[test]
fn a_hit_allocates_the_path() {
    let (_dir, store) = store();
    // The measure itself: a path is one allocation.
    let path = count(|| drop("key".key()));
    assert_eq!(path.count_total, 1);

    let get = count(|| drop(store.get("key").unwrap().unwrap()));
    assert_eq!(
        (get.count_total, get.bytes_total),
        (path.count_total, path.bytes_total)
    );
    let closure = count(|| drop(store.get_or_set("key", |_w| unreachable!()).unwrap()));
    assert_eq!(closure.count_total, 1);
    let contains = count(|| assert!(store.contains("key").unwrap()));
    assert_eq!(contains.count_total, 1);
    let miss = count(|| assert!(store.get("another").unwrap().is_none()));
    assert_eq!(miss.count_total, 1);
}

#[test]
fn reading_allocates_what_is_read_into() {
    let (_dir, store) = store();
    let mut buffer = Vec::with_capacity(4096);
    let again = count(|| {
        assert_eq!(store.read_into("key", &mut buffer).unwrap(), Some(4096));
    });
    assert_eq!(again.count_total, 1);
    let read = count(|| drop(store.read("key").unwrap().unwrap()));
    assert_eq!(read.count_total, 2);
    let through = count(|| {
        let mut value = store.get("key").unwrap().unwrap();
        let mut bytes = Vec::new();
        value.read_to_end(&mut bytes).unwrap();
    });
    assert_eq!(through.count_total, 2);
    assert!(through.bytes_total < 4096 + 200, "{through:?}");
}

/// What is known of a value is read without an allocation where there is no metadata and no label.
#[test]
fn a_sealed_hit_allocates_no_more() {
    let (_dir, store) = store_with(true);
    let get = count(|| drop(store.get("key").unwrap().unwrap()));
    assert_eq!(get.count_total, 1);
    let closure = count(|| drop(store.get_or_set("key", |_w| unreachable!()).unwrap()));
    assert_eq!(closure.count_total, 1);
    let mut buffer = Vec::with_capacity(4096 + 128);
    let again = count(|| {
        assert_eq!(store.read_into("key", &mut buffer).unwrap(), Some(4096));
    });
    assert_eq!(again.count_total, 1);
    let read = count(|| drop(store.read("key").unwrap().unwrap()));
    assert_eq!(read.count_total, 2);
}
