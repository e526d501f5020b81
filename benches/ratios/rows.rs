//! The rows of the table: each the same work by the raw system calls, by posy's algorithm and by
//! larder.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use larder::{Durability, KVFileStore, StoreOptions};

use crate::measure::{Figure, in_turn, round_robin, settled};
use crate::{batches, checkpoints, collecting, posy, raw, verified};

/// One row's name, what it is to reach, and what came out.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The ways that have a goal, and the goals.
    pub(crate) goals: &'static [(&'static str, f64)],
    pub(crate) figures: Vec<Figure>,
}

/// A kind of work: measured in a directory of its own.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    goals: &'static [(&'static str, f64)],
    measure: fn(&Path, usize) -> Vec<Figure>,
}

impl Kind {
    pub(crate) fn row(&self, dir: &Path, turns: usize) -> Row {
        Row {
            name: self.name,
            goals: self.goals,
            figures: (self.measure)(dir, turns),
        }
    }
}

pub(crate) const KINDS: [Kind; 19] = [
    Kind {
        name: "hit",
        goals: &[("read_into", 1.30), ("get + read", 1.45)],
        measure: hit,
    },
    Kind {
        name: "miss",
        goals: &[("get", 1.25)],
        measure: miss,
    },
    Kind {
        name: "set, durable",
        goals: &[("set", 1.10)],
        measure: set_durable,
    },
    Kind {
        name: "set, None, replaced",
        goals: &[("set", 1.40)],
        measure: set_replaced,
    },
    Kind {
        name: "set, None, new",
        goals: &[("set", 1.70)],
        measure: set_new,
    },
    Kind {
        name: "batch of 1,000",
        goals: &[("syncfs", 1.50)],
        measure: batches::beside_raw,
    },
    Kind {
        name: "1,000 one by one, and as a batch",
        goals: &[("syncfs", 0.05), ("default", 0.10)],
        measure: batches::beside_one_by_one,
    },
    Kind {
        name: "batch of 100, foreign data",
        goals: &[("default", 2.00)],
        measure: batches::beside_foreign_data,
    },
    Kind {
        name: "64 processes wait",
        goals: &[("plain", 1.00), ("seen, bounded", 2.00)],
        measure: crate::waiters::wait,
    },
    Kind {
        name: "64 wait for 5 s, CPU time",
        goals: &[],
        measure: crate::waiters::burn,
    },
    Kind {
        name: "tree of 10,000 files",
        goals: &[("get_or_set", 1.15)],
        measure: tree,
    },
    Kind {
        name: "hit, sealed, 4 KiB",
        goals: &[("sealed, read_into", 1.25)],
        measure: verified::small_hit,
    },
    Kind {
        name: "hit, sealed, 4 MiB",
        goals: &[("sealed, read_into", 1.05)],
        measure: verified::large_hit,
    },
    Kind {
        name: "set, sealed without durability",
        goals: &[],
        measure: verified::set,
    },
    Kind {
        name: "verified write, 64 MiB",
        goals: &[("get_or_fetch", 1.15), ("get_or_fetch, sealed", 1.15)],
        measure: verified::write,
    },
    Kind {
        name: "verified tree, 2,000 files",
        goals: &[("verify", 1.20)],
        measure: verified::tree,
    },
    Kind {
        name: "checkpoint put, of 1,000",
        goals: &[("put", 1.20)],
        measure: checkpoints::put,
    },
    Kind {
        name: "checkpoint looked up",
        goals: &[],
        measure: checkpoints::get,
    },
    Kind {
        name: "half of 100,000 collected",
        goals: &[("gc", 1.50)],
        measure: collecting::half,
    },
];

/// Bytes of a value.
const VALUE: usize = 4096;
const KEYS: usize = 200;

pub(crate) fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key number {n}")).collect()
}

fn store(dir: &Path, durability: Durability) -> KVFileStore {
    let options = StoreOptions::new().durability(durability);
    options.open_file_store(dir.join("larder")).unwrap()
}

pub(crate) fn raw_base(dir: &Path) -> PathBuf {
    let base = dir.join("raw");
    std::fs::create_dir(&base).unwrap();
    base
}

/// A value for each key, in each way.
fn fill(keys: &[String], larder: &KVFileStore, posy: &posy::Store, paths: &[PathBuf]) {
    let bytes = [7; VALUE];
    for (key, path) in keys.iter().zip(paths) {
        larder.set(key, |w| Ok(w.write_all(&bytes)?)).unwrap();
        posy.set(key, &bytes, false);
        raw::set_new(&path.with_extension("staged"), path, &bytes, false);
    }
}

fn hit(dir: &Path, turns: usize) -> Vec<Figure> {
    let keys = keys(KEYS);
    let larder = store(dir, Durability::None);
    let posy = posy::Store::new(&dir.join("posy"));
    let base = raw_base(dir);
    let paths = raw::paths(&base, &keys);
    fill(&keys, &larder, &posy, &paths);
    let mut buffer = vec![0; VALUE];
    let mut posys = Vec::new();
    let mut into = Vec::new();
    let mut through = Vec::new();
    in_turn(
        turns,
        2000,
        &mut [
            (
                "raw",
                round_robin(KEYS, |n| {
                    assert_eq!(raw::hit(&paths[n], &mut buffer), VALUE);
                }),
            ),
            (
                "posy",
                round_robin(KEYS, |n| {
                    assert_eq!(posy.read(&keys[n], &mut posys), VALUE);
                }),
            ),
            (
                "read_into",
                round_robin(KEYS, |n| {
                    assert_eq!(larder.read_into(&keys[n], &mut into).unwrap(), Some(VALUE));
                }),
            ),
            (
                "get + read",
                round_robin(KEYS, |n| {
                    through.clear();
                    let mut value = larder.get(&keys[n]).unwrap().unwrap();
                    assert_eq!(value.read_to_end(&mut through).unwrap(), VALUE);
                }),
            ),
        ],
    )
}

fn miss(dir: &Path, turns: usize) -> Vec<Figure> {
    // Half of the misses are in directories that are there, as in a store that is used.
    let there = keys(KEYS);
    let absent: Vec<String> = there.iter().map(|key| format!("{key}, absent")).collect();
    let larder = store(dir, Durability::None);
    let posy = posy::Store::new(&dir.join("posy"));
    let base = raw_base(dir);
    fill(&there, &larder, &posy, &raw::paths(&base, &there));
    let paths = raw::paths(&base, &absent);
    in_turn(
        turns,
        2000,
        &mut [
            ("raw", round_robin(KEYS, |n| raw::miss(&paths[n]))),
            (
                "posy",
                round_robin(KEYS, |n| assert!(posy.get(&absent[n]).is_none())),
            ),
            (
                "get",
                round_robin(KEYS, |n| {
                    assert!(larder.get(&absent[n]).unwrap().is_none());
                }),
            ),
        ],
    )
}

fn set_durable(dir: &Path, turns: usize) -> Vec<Figure> {
    replaced(dir, turns, 20, true)
}

fn set_replaced(dir: &Path, turns: usize) -> Vec<Figure> {
    replaced(dir, turns, 200, false)
}

/// Values over others, in directories that are there.
fn replaced(dir: &Path, turns: usize, each: u32, durable: bool) -> Vec<Figure> {
    let bytes = [7; VALUE];
    let keys = keys(KEYS);
    let durability = if durable {
        Durability::Data
    } else {
        Durability::None
    };
    let larder = store(dir, durability);
    let posy = posy::Store::new(&dir.join("posy"));
    let base = raw_base(dir);
    let paths = raw::paths(&base, &keys);
    let staged = base.join("staged");
    fill(&keys, &larder, &posy, &paths);
    in_turn(
        turns,
        each,
        &mut [
            (
                "raw",
                round_robin(KEYS, |n| raw::set(&staged, &paths[n], &bytes, durable)),
            ),
            (
                "posy",
                round_robin(KEYS, |n| drop(posy.set(&keys[n], &bytes, durable))),
            ),
            (
                "set",
                round_robin(KEYS, |n| {
                    larder.set(&keys[n], |w| Ok(w.write_all(&bytes)?)).unwrap();
                }),
            ),
        ],
    )
}

/// Values where there were none, in directories that mostly are not there.
fn set_new(dir: &Path, turns: usize) -> Vec<Figure> {
    const EACH: u32 = 200;
    let bytes = [7; VALUE];
    let keys = keys(EACH as usize * (turns + 1));
    let larder = store(dir, Durability::None);
    let posy = posy::Store::new(&dir.join("posy"));
    let base = raw_base(dir);
    let paths = raw::paths(&base, &keys);
    let staged = base.join("staged");
    in_turn(
        turns,
        EACH,
        &mut [
            (
                "raw",
                round_robin(keys.len(), |n| {
                    raw::set_new(&staged, &paths[n], &bytes, false);
                }),
            ),
            (
                "posy",
                round_robin(keys.len(), |n| drop(posy.set(&keys[n], &bytes, false))),
            ),
            (
                "set",
                round_robin(keys.len(), |n| {
                    larder.set(&keys[n], |w| Ok(w.write_all(&bytes)?)).unwrap();
                }),
            ),
        ],
    )
}

fn tree(dir: &Path, turns: usize) -> Vec<Figure> {
    const FILES: usize = 10_000;
    let bytes = [7; 1024];
    let turns = turns.min(7);
    let keys = keys(turns + 1);
    let base = raw_base(dir);
    let paths = raw::paths(&base, &keys);
    let larder = larder::KVDirStore::new(dir.join("larder")).unwrap();
    let posy = posy::Store::new(&dir.join("posy"));
    let fill = |tree: &Path| raw::fill_tree(tree, FILES, &bytes);
    let make = |tree: &Path| {
        fill(tree);
        Ok(())
    };
    let raw = round_robin(keys.len(), |n| {
        raw::tree(&base.join("staged"), &paths[n], FILES, &bytes);
    });
    let posy = round_robin(keys.len(), |n| posy.make_tree(&keys[n], fill));
    let get_or_set = round_robin(keys.len(), |n| {
        drop(larder.get_or_set(&keys[n], make).unwrap());
    });
    let ways = &mut [
        ("raw", settled(dir, raw)),
        ("posy", settled(dir, posy)),
        ("get_or_set", settled(dir, get_or_set)),
    ];
    in_turn(turns, 1, ways)
}
