//! Checkpoints: one of a thousand put, and looked up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use larder::{CheckpointKey, CheckpointStore, Put};
use serde::{Deserialize, Serialize};

use crate::measure::{Figure, Way, in_turn, round_robin};

const COUNT: usize = 1000;

/// As a download has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    url: String,
    etag: String,
    done: u64,
}

/// What the file has.
#[derive(Serialize)]
struct Everything {
    larder_checkpoints: u64,
    key_version: u64,
    forgotten: u64,
    checkpoints: BTreeMap<String, Entry>,
}

#[derive(Serialize)]
struct Entry {
    sequence: u64,
    state: State,
}

fn state(n: usize, done: u64) -> State {
    State {
        url: format!("https://example.org/archives/{n}.tar.gz"),
        etag: format!("\"{n:032x}\""),
        done,
    }
}

fn key(n: usize) -> CheckpointKey {
    CheckpointKey::of_parts([("number", n.to_string())])
}

fn everything() -> Everything {
    let entry = |n| {
        (
            key(n).to_string(),
            Entry {
                sequence: 1,
                state: state(n, 0),
            },
        )
    };
    Everything {
        larder_checkpoints: 1,
        key_version: 1,
        forgotten: 0,
        checkpoints: (0..COUNT).map(entry).collect(),
    }
}

/// A file of a thousand, made at once.
fn filled(path: &Path) -> CheckpointStore<State> {
    fs::write(path, serde_json::to_vec(&everything()).unwrap()).unwrap();
    CheckpointStore::open(path).unwrap()
}

/// One after the other gets a new state, durably.
pub(crate) fn put(dir: &Path, turns: usize) -> Vec<Figure> {
    let store = filled(&dir.join("ours.json"));
    let keys: Vec<CheckpointKey> = (0..COUNT).map(key).collect();
    let mut all = everything();
    let (raw_path, raw_new) = (dir.join("raw.json"), dir.join("raw.json.new"));
    let mut sequence = 1;
    let raw: Way<'_> = round_robin(COUNT, |n| {
        let entry = all.checkpoints.get_mut(&keys[n].to_string()).unwrap();
        entry.sequence += 1;
        entry.state.done += 4096;
        let mut file = File::create(&raw_new).unwrap();
        file.write_all(&serde_json::to_vec(&all).unwrap()).unwrap();
        file.sync_data().unwrap();
        fs::rename(&raw_new, &raw_path).unwrap();
    });
    let ours: Way<'_> = round_robin(COUNT, |n| {
        sequence += 1;
        let put = store.put(&keys[n], sequence, &state(n, sequence * 4096));
        assert_eq!(put.unwrap(), Put::Stored);
    });
    in_turn(turns, 20, &mut [("raw", raw), ("put", ours)])
}

/// One after the other is looked up, while nothing changes.
pub(crate) fn get(dir: &Path, turns: usize) -> Vec<Figure> {
    let path = dir.join("ours.json");
    let store = filled(&path);
    let keys: Vec<CheckpointKey> = (0..COUNT).map(key).collect();
    let texts: Vec<String> = (0..COUNT)
        .map(|n| serde_json::to_string(&state(n, 0)).unwrap())
        .collect();
    let raw: Way<'_> = round_robin(COUNT, |n| {
        assert!(rustix::fs::stat(&path).unwrap().st_size > 0);
        let state: State = serde_json::from_str(&texts[n]).unwrap();
        assert_eq!(state.done, 0);
    });
    let ours: Way<'_> = round_robin(COUNT, |n| {
        let found = store.get(&keys[n]).unwrap().unwrap();
        assert_eq!(found.state.done, 0);
    });
    in_turn(turns, 2000, &mut [("raw", raw), ("get", ours)])
}
