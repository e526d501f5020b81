//! Many ask for one missing key at one moment: one computes, all get its value.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;

use larder::{KVDirStore, KVFileStore};

use crate::support::{Worker, empty_store, listing, tempdir, wait_until_blocked};

const FILE: &str = "get-or-set-file";
const TREE: &str = "get-or-set-tree";

fn start(role: &str, base: &std::path::Path, count: usize) -> Vec<Worker> {
    let base = base.to_str().unwrap();
    let mut workers: Vec<_> = (0..count)
        .map(|_| Worker::start(role, &[base, "key"]))
        .collect();
    for worker in &mut workers {
        worker.expect("ready");
    }
    workers
}

/// Starts all of them; waits until one computes and the others wait for it. Returns who computes.
fn race(workers: &mut [Worker]) -> usize {
    for worker in &mut *workers {
        worker.tell("go");
    }
    let leader = leader_of(workers);
    for (n, worker) in workers.iter().enumerate() {
        if n != leader {
            wait_until_blocked(worker.pid());
        }
    }
    leader
}

fn leader_of(workers: &mut [Worker]) -> usize {
    let mut leader = None;
    crate::support::eventually("one to compute", || {
        leader = workers.iter_mut().position(|worker| !worker.is_silent());
        leader.is_some()
    });
    leader.unwrap()
}

fn all_get_one_value(role: &str, count: usize) {
    let dir = tempdir();
    let mut workers = start(role, dir.path(), count);
    let leader = race(&mut workers);
    workers[leader].tell("the-value");
    for (n, worker) in workers.iter_mut().enumerate() {
        let outcome = if n == leader { "Computed" } else { "Waited" };
        assert_eq!(worker.expect("value"), format!("the-value {outcome}"));
        worker.finish();
    }
}

#[test]
fn two_processes_compute_a_file_once() {
    all_get_one_value(FILE, 2);
}

#[test]
fn sixteen_processes_compute_a_file_once() {
    all_get_one_value(FILE, 16);
}

#[test]
fn sixty_four_processes_compute_a_file_once() {
    all_get_one_value(FILE, 64);
}

#[test]
fn two_processes_make_a_tree_once() {
    all_get_one_value(TREE, 2);
}

#[test]
fn sixteen_processes_make_a_tree_once() {
    all_get_one_value(TREE, 16);
}

#[test]
fn sixty_four_processes_make_a_tree_once() {
    all_get_one_value(TREE, 64);
}

/// The leader goes down in one of three ways; then one at a time takes over.
fn all_get_a_value_although_leaders_go(role: &str) {
    let dir = tempdir();
    let mut workers = start(role, dir.path(), 6);
    let first = race(&mut workers);
    workers[first].tell("fail");
    workers[first].expect("error Compute");
    workers[first].finish();
    workers.remove(first);

    let second = leader_of(&mut workers);
    workers[second].tell("panic");
    workers[second].expect("panicked");
    workers[second].finish();
    workers.remove(second);

    let third = leader_of(&mut workers);
    workers[third].kill();
    workers.remove(third);

    let last = leader_of(&mut workers);
    assert!(
        workers
            .iter_mut()
            .enumerate()
            .all(|(n, w)| n == last || w.is_silent()),
        "two compute at once"
    );
    workers[last].tell("at-last");
    for (n, worker) in workers.iter_mut().enumerate() {
        let outcome = if n == last { "Computed" } else { "Waited" };
        assert_eq!(worker.expect("value"), format!("at-last {outcome}"));
        worker.finish();
    }
}

#[test]
fn a_file_is_computed_although_leaders_fail_panic_and_die() {
    all_get_a_value_although_leaders_go(FILE);
}

#[test]
fn a_tree_is_made_although_leaders_fail_panic_and_die() {
    all_get_a_value_although_leaders_go(TREE);
}

#[test]
fn nothing_stays_when_the_only_one_fails() {
    let dir = tempdir();
    for role in [FILE, TREE] {
        let base = dir.path().join(role);
        let mut worker = start(role, &base, 1).remove(0);
        worker.tell("go");
        worker.expect("computing");
        worker.tell("fail");
        worker.expect("error Compute");
        worker.finish();
        assert_eq!(listing(&base), empty_store());
    }
}

#[test]
fn sixty_four_threads_compute_a_file_once() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    let (computed, at_once) = (AtomicUsize::new(0), Barrier::new(64));
    let (sender, values) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..64 {
            let (store, sender) = (store.clone(), sender.clone());
            let (computed, at_once) = (&computed, &at_once);
            scope.spawn(move || {
                at_once.wait();
                let value = store.get_or_set("key", |w| {
                    let n = computed.fetch_add(1, Ordering::SeqCst);
                    std::io::Write::write_all(w, format!("computation {n}").as_bytes())?;
                    Ok(())
                });
                let mut text = String::new();
                std::io::Read::read_to_string(&mut value.unwrap(), &mut text).unwrap();
                sender.send(text).unwrap();
            });
        }
    });
    drop(sender);
    assert_eq!(computed.load(Ordering::SeqCst), 1);
    let values: Vec<String> = values.iter().collect();
    assert_eq!(values, vec!["computation 0"; 64]);
}

#[test]
fn sixty_four_threads_make_a_tree_once() {
    let dir = tempdir();
    let store = KVDirStore::new(dir.path()).unwrap();
    let (made, at_once) = (AtomicUsize::new(0), Barrier::new(64));
    thread::scope(|scope| {
        for _ in 0..64 {
            let store = store.clone();
            let (made, at_once) = (&made, &at_once);
            scope.spawn(move || {
                at_once.wait();
                let lease = store.get_or_set("key", |tree| {
                    made.fetch_add(1, Ordering::SeqCst);
                    Ok(std::fs::write(tree.join("text"), "made")?)
                });
                let lease = lease.unwrap();
                assert_eq!(std::fs::read(lease.join("text")).unwrap(), b"made");
            });
        }
    });
    assert_eq!(made.load(Ordering::SeqCst), 1);
}
