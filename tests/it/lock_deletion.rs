//! Processes that lock, write and remove the same keys as fast as they can.
//!
//! Whoever holds a key exclusively proves it with a marker outside the store: a file that must not be
//! there when it is created. A wake-up that is lost shows as a worker that says nothing any more.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use larder::{
    CancelToken, DirLease, Durability, ErrorKind, KVDirStore, KVFileStore, PathKey, StoreOptions,
    Wait,
};

use crate::support::{Random, Worker, empty_store, in_memory, listing};
use crate::worker::{hear, say};

const KEYS: [&str; 3] = ["one", "two", "three"];
const WORKERS: u64 = 7;

/// What each worker does at most, and for how long at most.
const MOST_TURNS: u32 = 20_000;
const LONGEST: Duration = Duration::from_secs(2);

const FILES: &str = "hammer-files";
const TREES: &str = "hammer-trees";

/// Plays a worker's role, if it is one of this module's.
///
/// BASE MARKERS SEED: says `ready`, hears `go`, says `done TURNS` or dies of a violation.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    let hammer = |turn: &mut dyn FnMut(&Marked<'_>, &mut Random, u32)| {
        let seed = args[2].parse().unwrap();
        let mut random = Random::new(seed);
        say("ready");
        hear();
        let end = Instant::now() + LONGEST;
        let mut turns = 0;
        while turns < MOST_TURNS && Instant::now() < end {
            let key = KEYS[random.below(KEYS.len() as u64) as usize];
            let marked = Marked {
                key,
                marker: Path::new(args[1]).join(key),
            };
            turn(&marked, &mut random, turns);
            turns += 1;
        }
        say(&format!("done {turns}"));
    };
    match role {
        FILES => {
            let store = open_files(Path::new(args[0]));
            hammer(&mut |marked, random, turn| turn_of_files(&store, marked, random, turn));
        }
        TREES => {
            let store = open_trees(Path::new(args[0]));
            hammer(&mut |marked, random, turn| turn_of_trees(&store, marked, random, turn));
        }
        _ => return false,
    }
    true
}

fn open_files(base: &Path) -> KVFileStore {
    let options = StoreOptions::new().durability(Durability::None);
    options.open_file_store(base).unwrap()
}

fn open_trees(base: &Path) -> KVDirStore {
    let options = StoreOptions::new().durability(Durability::None);
    options.open_dir_store(base).unwrap()
}

/// A key with its marker.
struct Marked<'a> {
    key: &'a str,
    marker: PathBuf,
}

impl Marked<'_> {
    /// What is done while the key is held exclusively.
    fn alone<T>(&self, run: impl FnOnce() -> T) -> T {
        if let Err(err) = std::fs::File::create_new(&self.marker) {
            say(&format!("VIOLATION two hold {:?}: {err}", self.key));
            panic!("two hold {:?}", self.key);
        }
        // Whoever else could come in gets the chance.
        std::thread::yield_now();
        let result = run();
        std::fs::remove_file(&self.marker).unwrap();
        result
    }

    /// What is done while it is leased: others may too, but nobody alone.
    fn leased(&self, lease: &DirLease) {
        let generations: Vec<_> = NAMES
            .iter()
            .map(|name| std::fs::read_to_string(lease.join(name)))
            .collect();
        let whole = generations
            .iter()
            .all(|text| text.as_ref().ok() == generations[0].as_ref().ok() && text.is_ok());
        if !whole || self.marker.exists() {
            say(&format!(
                "VIOLATION a lease of {:?}, held alone: {}, of {generations:?}",
                self.key,
                self.marker.exists()
            ));
            panic!("a lease protects nothing");
        }
    }
}

fn patient<T>(with: impl Fn(Wait) -> T, cancel: impl Fn(T, &CancelToken) -> T) -> T {
    let view = with(Wait::Timeout(Duration::from_secs(30)));
    cancel(view, &CancelToken::new())
}

fn turn_of_files(store: &KVFileStore, marked: &Marked<'_>, random: &mut Random, turn: u32) {
    let key = marked.key;
    let text = format!("{}-{turn};", std::process::id()).repeat(9);
    let view = match random.below(3) {
        0 => patient(
            |wait| store.with_wait(wait),
            |s, token| s.with_cancel(token),
        ),
        _ => store.clone(),
    };
    match random.below(8) {
        0 => {
            let lock = view.lock(key).unwrap();
            marked.alone(|| ());
            drop(lock);
        }
        1 => {
            let lock = view.lock(key).unwrap();
            marked.alone(|| {
                let mut write = lock.begin().unwrap();
                write.write_all(text.as_bytes()).unwrap();
                write.commit().unwrap();
            });
        }
        2 => {
            let lock = view.lock(key).unwrap();
            marked.alone(|| ());
            lock.remove().unwrap();
        }
        3 => {
            let value = view.get_or_set(key, |w| {
                marked.alone(|| {
                    assert!(!view.contains(key).unwrap(), "computed again");
                    w.write_all(text.as_bytes())
                })?;
                Ok(())
            });
            check_whole(value.unwrap());
        }
        4 => check_whole(
            view.set(key, |w| Ok(w.write_all(text.as_bytes())?))
                .unwrap(),
        ),
        5 => {
            view.remove(key).unwrap();
        }
        6 => {
            if let Some(lock) = view.try_lock(key).unwrap() {
                marked.alone(|| ());
                drop(lock);
            }
        }
        _ => {
            if let Some(lock) = view.lock_if_exists(key).unwrap() {
                marked.alone(|| check_whole(lock.reader().unwrap().unwrap().detach_unlocked()));
            }
        }
    }
}

fn check_whole(mut value: larder::Value) {
    let mut text = String::new();
    value.read_to_string(&mut text).unwrap();
    let (first, _) = text.split_once(';').unwrap();
    assert_eq!(text, format!("{first};").repeat(9));
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn fill(tree: &Path, turn: u32) -> std::io::Result<()> {
    let generation = format!("{}-{turn}", std::process::id());
    NAMES
        .iter()
        .try_for_each(|name| std::fs::write(tree.join(name), &generation))
}

fn turn_of_trees(store: &KVDirStore, marked: &Marked<'_>, random: &mut Random, turn: u32) {
    let key = marked.key;
    let view = match random.below(3) {
        0 => patient(
            |wait| store.with_wait(wait),
            |s, token| s.with_cancel(token),
        ),
        _ => store.clone(),
    };
    match random.below(8) {
        0 => {
            let lock = view.lock(key).unwrap();
            marked.alone(|| ());
            drop(lock);
        }
        1 => {
            let lock = view.lock(key).unwrap();
            let staged = marked.alone(|| {
                let staged = lock.tempdir().unwrap();
                fill(staged.path(), turn).unwrap();
                staged
            });
            marked.leased(&lock.publish(staged).unwrap());
        }
        2 => {
            let lock = view.lock(key).unwrap();
            marked.alone(|| ());
            lock.remove().unwrap();
        }
        3 => {
            let lease = view.get_or_set(key, |tree| {
                marked.alone(|| {
                    assert!(!view.contains(key).unwrap(), "made again");
                    fill(tree, turn)
                })?;
                Ok(())
            });
            marked.leased(&lease.unwrap());
        }
        4 => {
            let lease = view.replace(key, |tree| Ok(fill(tree, turn)?));
            marked.leased(&lease.unwrap());
        }
        5 => match view.remove(key) {
            Ok(_) => {}
            Err(err) => assert_eq!(err.kind(), ErrorKind::InUse, "{err:?}"),
        },
        6 => {
            if let Some(lock) = view.try_lock(key).unwrap() {
                marked.alone(|| ());
                drop(lock);
            }
        }
        _ => {
            if let Some(lease) = view.get(key).unwrap() {
                marked.leased(&lease);
            }
        }
    }
}

/// Runs the workers, with `meanwhile` beside them. Each has to finish, with some turns done.
fn hammer(role: &str, base: &Path, meanwhile: impl FnOnce(&mut dyn FnMut() -> bool)) {
    let markers = in_memory();
    let base = base.to_str().unwrap();
    let mut workers: Vec<_> = (1..=WORKERS)
        .map(|seed| {
            let args = [base, markers.path().to_str().unwrap(), &seed.to_string()];
            Worker::start(role, &args)
        })
        .collect();
    for worker in &mut workers {
        worker.expect("ready");
    }
    for worker in &mut workers {
        worker.tell("go");
    }
    let end = Instant::now() + LONGEST;
    meanwhile(&mut || Instant::now() < end);
    let mut total = 0;
    for worker in &mut workers {
        let turns: u32 = worker.expect("done").parse().unwrap();
        assert!(turns > 0, "one worker had no turn");
        total += turns;
        worker.finish();
    }
    assert!(total > 100, "only {total} turns");
}

/// Nothing but values is there, and without them nothing but what a new store has.
fn only_values_are_left(store: &KVFileStore) {
    let base = store.base().to_owned();
    let locks = |name: &String| name.ends_with(".lock") && name != "gc.lock";
    assert!(!listing(&base).iter().any(locks), "{:?}", listing(&base));
    for key in KEYS {
        store.remove(key).unwrap();
    }
    assert_eq!(listing(&base), empty_store());
}

fn only_trees_are_left(store: &KVDirStore) {
    for key in KEYS {
        store.remove(key).unwrap();
    }
    assert_eq!(listing(store.base()), empty_store());
}

/// Copies a store as `cp -al` does, whose lock files are then those of the store. What goes away
/// meanwhile is not in the copy, and `cp` complains.
fn copy_by_links(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("-al").arg(from).arg(to);
    copy.stderr(Stdio::null()).status().unwrap();
}

/// Where a tree went and came back between two steps of `cp`, the copy has it without its lock file and
/// its sidecar (seen on xfs, which lists those first). Then it is nobody's, and no store takes it away.
fn forget_unmarked(copy: &Path) {
    for tree in KEYS.map(|key| copy.join(key.key())) {
        let is_marked = |suffix| {
            let mut mark = tree.clone().into_os_string();
            mark.push(suffix);
            Path::new(&mark).exists()
        };
        if tree.is_dir() && !is_marked(".lock") && !is_marked(".larder") {
            std::fs::remove_dir_all(&tree).unwrap();
            // As a clear would have done.
            for above in tree.ancestors().skip(1).take(3) {
                let _ = std::fs::remove_dir(above);
            }
        }
    }
}

#[test]
fn no_two_hold_a_file_and_nothing_is_left() {
    let dir = in_memory();
    let store = open_files(dir.path());
    hammer(FILES, dir.path(), |_| {});
    only_values_are_left(&store);
}

#[test]
fn no_two_hold_a_tree_and_nothing_is_left() {
    let dir = in_memory();
    let store = open_trees(dir.path());
    hammer(TREES, dir.path(), |_| {});
    only_trees_are_left(&store);
}

/// With the lock files' link counts above zero, which tell nothing then.
#[test]
fn no_two_hold_a_file_while_the_store_is_copied_by_links() {
    let dir = in_memory();
    let base = dir.path().join("store");
    let store = open_files(&base);
    let mut copies = Vec::new();
    hammer(FILES, &base, |go_on| {
        while go_on() && copies.len() < 200 {
            let copy = dir.path().join(copies.len().to_string());
            copy_by_links(&base, &copy);
            copies.push(copy);
        }
    });
    only_values_are_left(&store);
    let mut linked_locks = 0;
    for copy in copies {
        linked_locks += listing(&copy)
            .iter()
            .filter(|name| name.ends_with(".lock"))
            .count()
            - 1;
        let store = open_files(&copy);
        store.sweep().unwrap();
        only_values_are_left(&store);
    }
    assert!(linked_locks > 0, "no copy caught a lock file");
}

#[test]
fn no_two_hold_a_tree_while_the_store_is_copied_by_links() {
    let dir = in_memory();
    let base = dir.path().join("store");
    let store = open_trees(&base);
    let mut copies = Vec::new();
    hammer(TREES, &base, |go_on| {
        while go_on() && copies.len() < 200 {
            let copy = dir.path().join(copies.len().to_string());
            copy_by_links(&base, &copy);
            copies.push(copy);
        }
    });
    only_trees_are_left(&store);
    for copy in copies {
        forget_unmarked(&copy);
        let store = open_trees(&copy);
        store.clear().unwrap();
        assert_eq!(listing(&copy), empty_store());
    }
}

/// A sweep takes locks too, and deletes their files.
#[test]
fn no_two_hold_a_key_while_the_store_is_swept() {
    let dir = in_memory();
    for role in [FILES, TREES] {
        let base = dir.path().join(role);
        let sweep: Box<dyn Fn()> = if role == FILES {
            let store = open_files(&base);
            Box::new(move || drop(store.sweep().unwrap()))
        } else {
            let store = open_trees(&base);
            Box::new(move || drop(store.sweep().unwrap()))
        };
        hammer(role, &base, |go_on| {
            while go_on() {
                sweep();
            }
        });
        if role == FILES {
            only_values_are_left(&open_files(&base));
        } else {
            only_trees_are_left(&open_trees(&base));
        }
    }
}

/// What is being deleted is a dead process's to a sweep, and both are at it.
#[test]
fn sweeps_and_removals_delete_the_same_trees() {
    let dir = in_memory();
    let store = open_trees(dir.path());
    let end = Instant::now() + LONGEST;
    std::thread::scope(|scope| {
        for key in KEYS {
            let store = &store;
            scope.spawn(move || {
                while Instant::now() < end {
                    // An empty tree is the fastest to go between two calls of a sweep.
                    drop(store.get_or_set(key, |_tree| Ok(())).unwrap());
                    if let Err(err) = store.remove(key) {
                        // A sweep has its lock, to see whether it is still needed.
                        assert_eq!(err.kind(), ErrorKind::InUse, "{err:?}");
                    }
                }
            });
            scope.spawn(move || {
                while Instant::now() < end {
                    store.sweep().unwrap();
                }
            });
        }
    });
    only_trees_are_left(&store);
}
