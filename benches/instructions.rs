//! Instructions for each hit and miss: `cargo bench --bench instructions`, which needs valgrind.
//!
//! They repeat, where times do not. Each way runs in a process of its own under callgrind, for so many
//! operations and for twice as many: the difference is theirs alone. What the kernel does in a system
//! call is not among them. The processor that valgrind shows has no instruction for SHA-256, so the path
//! of a key takes more here than it does elsewhere.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used
)]

#[path = "ratios/raw.rs"]
#[allow(dead_code)] // more than is read
mod raw;

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use larder::{Durability, KVFileStore, PathKey, StoreOptions};

const VALUE: usize = 4096;
const KEY: &str = "a key";
const TIMES: usize = 1000;
const WAYS: [&str; 6] = [
    "raw hit",
    "read_into",
    "get + read",
    "raw miss",
    "get, a miss",
    "the path of a key",
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [way, times, dir] = &words[..] {
        return play(way, times.parse().unwrap(), Path::new(dir));
    }
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    println!("| work | instructions |\n| --- | ---: |");
    for way in WAYS {
        let counted = |times| count(way, times, dir.path());
        let each = (counted(2 * TIMES) - counted(TIMES)) / TIMES;
        println!("| {way} | {each} |");
    }
}

/// Instructions of a whole process.
fn count(way: &str, times: usize, dir: &Path) -> usize {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args([way, &times.to_string()])
        .arg(dir)
        .output()
        .expect("valgrind");
    let told = String::from_utf8(output.stderr).unwrap();
    let counted = told
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    counted.expect(&told).1.trim().parse().unwrap()
}

fn open(dir: &Path) -> KVFileStore {
    let options = StoreOptions::new().durability(Durability::None);
    options.open_file_store(dir.join("larder")).unwrap()
}

fn fill(dir: &Path) {
    let bytes = [7; VALUE];
    open(dir).set(KEY, |w| Ok(w.write_all(&bytes)?)).unwrap();
    raw::set_new(&dir.join("staged"), &dir.join(KEY.key()), &bytes, false);
}

fn play(way: &str, times: usize, dir: &Path) {
    let store = open(dir);
    let (hit, miss) = (dir.join(KEY.key()), dir.join("absent".key()));
    let mut buffer = vec![0; VALUE];
    for _ in 0..times {
        match way {
            "raw hit" => assert_eq!(raw::hit(&hit, &mut buffer), VALUE),
            "read_into" => assert_eq!(store.read_into(KEY, &mut buffer).unwrap(), Some(VALUE)),
            "get + read" => {
                buffer.clear();
                let mut value = store.get(KEY).unwrap().unwrap();
                assert_eq!(value.read_to_end(&mut buffer).unwrap(), VALUE);
            }
            "raw miss" => raw::miss(&miss),
            "get, a miss" => assert!(store.get("absent").unwrap().is_none()),
            _ => drop(std::hint::black_box(KEY.key())),
        }
    }
}
