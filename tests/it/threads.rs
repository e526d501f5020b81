//! Many threads of one process on clones of one store, doing everything at once.
//!
//! What is checked here is little; that no two threads use the same memory without order is checked by
//! running these under a sanitizer, as `proof/thread-sanitizer` does.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use larder::{
    CancelToken, DirLease, Durability, ErrorKind, KVDirStore, KVFileStore, StoreOptions, Wait,
};

use crate::support::{Random, in_time, tempdir};

const KEYS: [&str; 2] = ["one", "two"];
const THREADS: u64 = 6;
const TURNS: u32 = 40;

/// Runs `turn` in all threads as often as each has turns.
fn in_threads(turn: impl Fn(&mut Random, usize) + Sync) {
    let at_once = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (turn, at_once) = (&turn, &at_once);
            scope.spawn(move || {
                let mut random = Random::new(thread + 1);
                at_once.wait();
                for _ in 0..TURNS {
                    let key = random.below(KEYS.len() as u64) as usize;
                    turn(&mut random, key);
                }
            });
        }
    });
}

/// Fails if another thread is in here at the same time, as far as these threads know.
fn alone<T>(taken: &AtomicBool, run: impl FnOnce() -> T) -> T {
    // Relaxed, so that this orders nothing that the store itself leaves without order.
    assert!(!taken.swap(true, Ordering::Relaxed), "two hold a key");
    let result = run();
    taken.store(false, Ordering::Relaxed);
    result
}

fn is_whole(mut value: larder::Value) {
    let mut text = String::new();
    value.read_to_string(&mut text).unwrap();
    let first = text.chars().next().unwrap();
    assert!(
        text.len() == 99 && text.chars().all(|c| c == first),
        "{text}"
    );
}

fn passing(result: larder::Result<()>, kinds: &[ErrorKind]) {
    if let Err(err) = result {
        assert!(kinds.contains(&err.kind()), "{err}");
    }
}

#[test]
fn threads_share_a_store_of_files() {
    in_time("for files", share_files);
}

fn share_files() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    let taken = [const { AtomicBool::new(false) }; 2];
    let heard = AtomicUsize::new(0);
    let patient = store.with_on_wait(move |info| {
        // Asking who holds the lock reads what the holder writes at this moment.
        let _ = info.holder.as_ref().map(|holder| holder.pid);
        heard.fetch_add(1, Ordering::Relaxed);
    });
    let token = CancelToken::new();
    let ended = store.with_cancel(&token);
    in_threads(|random, key| {
        let (name, taken) = (KEYS[key], &taken[key]);
        let text = "abcdefghij"[random.below(10) as usize..][..1].repeat(99);
        let write = |w: &mut larder::ValueWriter| Ok(w.write_all(text.as_bytes())?);
        match random.below(9) {
            0 | 1 => {
                let view = if random.below(2) == 0 {
                    &store
                } else {
                    &patient
                };
                is_whole(
                    view.get_or_set(name, |w| alone(taken, || write(w)))
                        .unwrap(),
                );
            }
            2 => is_whole(store.set(name, write).unwrap()),
            3 => drop(patient.remove(name).unwrap()),
            4 => {
                let mut batch = store.batch();
                for name in KEYS {
                    batch.set(name, write).unwrap();
                }
                assert_eq!(batch.commit().unwrap(), 2);
            }
            5 => drop(store.sweep().unwrap()),
            6 => {
                // Cancelled by whichever thread comes here first, while others wait.
                let result = ended
                    .lock(name)
                    .map(|lock| alone(taken, || drop(lock.reader())));
                passing(result, &[ErrorKind::Cancelled]);
                token.cancel();
            }
            7 => {
                let view = store.with_wait(Wait::Timeout(Duration::from_millis(5)));
                let result = view.lock(name).map(|lock| {
                    alone(taken, || ());
                    drop(lock.remove());
                });
                passing(result, &[ErrorKind::Busy]);
            }
            _ => drop(store.get(name).unwrap().map(is_whole)),
        }
    });
    assert!(token.is_cancelled());
}

#[test]
fn threads_share_a_store_of_trees_and_its_leases() {
    in_time("for trees", share_trees);
}

fn share_trees() {
    let dir = tempdir();
    let options = StoreOptions::new().durability(Durability::None);
    let store = options.open_dir_store(dir.path()).unwrap();
    let taken = [const { AtomicBool::new(false) }; 2];
    // Leases that one thread took and another gives up.
    let given: Mutex<Vec<DirLease>> = Mutex::default();
    let fill = |tree: &std::path::Path| Ok(std::fs::write(tree.join("text"), "made")?);
    let is_there = |lease: &DirLease| {
        assert_eq!(std::fs::read(lease.join("text")).unwrap(), b"made");
    };
    let give = |lease: DirLease| {
        is_there(&lease);
        let mut given = given.lock().unwrap();
        given.push(lease);
        if given.len() > 2 {
            given.drain(..);
        }
    };
    in_threads(|random, key| {
        let (name, taken) = (KEYS[key], &taken[key]);
        match random.below(8) {
            0 | 1 => give(
                store
                    .get_or_set(name, |tree| alone(taken, || fill(tree)))
                    .unwrap(),
            ),
            2 => drop(store.get(name).unwrap().map(give)),
            3 => {
                // Not for ever: what it waits for may have become a lease that waits to be given up.
                let view = store.with_wait(Wait::Timeout(Duration::from_millis(5)));
                let kinds = [ErrorKind::InUse, ErrorKind::Busy];
                passing(view.replace(name, fill).map(drop), &kinds);
            }
            4 => passing(store.remove(name).map(drop), &[ErrorKind::InUse]),
            5 => drop(store.sweep().unwrap()),
            6 => {
                let view = store.with_wait(Wait::Timeout(Duration::from_millis(5)));
                let result = view.lock(name).map(|lock| {
                    alone(taken, || ());
                    drop(lock);
                });
                passing(result, &[ErrorKind::Busy]);
            }
            _ => inherited(&store, name),
        }
    });
}

/// Hands a lease to a command that is never run, so that its copy ends here.
fn inherited(store: &KVDirStore, name: &str) {
    let Some(lease) = store.get(name).unwrap() else {
        return;
    };
    let mut command = std::process::Command::new("true");
    lease.inherit(&mut command).unwrap();
    drop(lease);
    drop(command);
}
