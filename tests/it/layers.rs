//! Stores where the system can do less than elsewhere: on overlayfs, whose lower layers are only
//! copied from, and without `statx`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use larder::__fault::{Fault, arm, disarm};
use larder::{Durability, KVDirStore, KVFileStore, Outcome, StoreOptions, ValueWriter, Wait};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::support::{Mount, Worker, below_an_overlay, empty_store, is_root, listing, tempdir};
use crate::worker::say;

const REMOVE: &str = "layers-remove";
const REPLACE: &str = "layers-replace";
const CLEAR: &str = "layers-clear";
const FILES: &str = "layers-files";
const SET: &str = "layers-set";
const NO_STATX: &str = "layers-no-statx";

const KEY: &str = "key";

fn options() -> StoreOptions {
    StoreOptions::new()
        .durability(Durability::None)
        // So that each hit would note its use.
        .touch_after(Duration::ZERO)
}

fn trees(base: &Path) -> KVDirStore {
    let store = options().open_dir_store(base).unwrap();
    store.with_wait(Wait::TryOnce)
}

fn files(base: &Path) -> KVFileStore {
    options().open_file_store(base).unwrap()
}

fn text(text: &str) -> impl FnOnce(&mut ValueWriter) -> anyhow::Result<()> + '_ {
    move |w| Ok(w.write_all(text.as_bytes())?)
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn fill(tree: &Path, word: &str) -> anyhow::Result<()> {
    Ok(NAMES
        .iter()
        .try_for_each(|name| std::fs::write(tree.join(name), word))?)
}

/// What is in all the files of a tree, which must be there and have the same in them.
fn word_in(tree: &Path) -> String {
    assert_eq!(listing(tree), NAMES.map(str::to_owned).into());
    let words = NAMES.map(|name| std::fs::read_to_string(tree.join(name)).unwrap());
    assert!(words.iter().all(|word| *word == words[0]), "{words:?}");
    words[0].clone()
}

fn word(store: &KVDirStore) -> Option<String> {
    store.get(KEY).unwrap().map(|lease| {
        assert!(lease.is_protected());
        word_in(&lease)
    })
}

/// Plays a worker's role, if it is one of this module's. Its first argument is the store.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        REMOVE | REPLACE | CLEAR => die_at(role, args),
        FILES => die_among_files(args),
        SET => {
            let store = files(Path::new(args[0]));
            arm([]);
            store.set(KEY, text("above")).unwrap();
            say(&disarm().join(" "));
        }
        NO_STATX => without_statx(args),
        _ => return false,
    }
    true
}

// --- overlayfs ---

/// What a container has of an image: a store below, and a layer over it.
struct Layers {
    mount: Mount,
    beside: TempDir,
}

impl Layers {
    fn over(lower: &Path) -> Self {
        let beside = below_an_overlay();
        Layers {
            mount: Mount::overlay(lower, beside.path()),
            beside,
        }
    }

    /// What is in the upper layer.
    fn copied(&self) -> BTreeSet<String> {
        listing(&self.beside.path().join("upper"))
    }
}

#[test]
fn values_of_a_lower_layer_are_read_replaced_and_removed() {
    if !is_root("values_of_a_lower_layer_are_read_replaced_and_removed") {
        return;
    }
    let lower = below_an_overlay();
    let keys = ["one", "two", "three"];
    for key in keys {
        files(lower.path()).set(key, text("below")).unwrap();
    }
    let layers = Layers::over(lower.path());
    let store = files(layers.mount.path());
    for key in keys {
        assert_eq!(store.read(key).unwrap().unwrap(), b"below");
        assert!(store.contains(key).unwrap());
        let value = store.get_or_set(key, |_| panic!("it is there")).unwrap();
        assert_eq!(value.outcome(), Outcome::Hit);
        assert!(store.touch(key).unwrap());
    }
    // To note a use would copy the whole value.
    assert_eq!(layers.copied(), BTreeSet::new());

    store.set("one", text("above")).unwrap();
    assert_eq!(store.read("one").unwrap().unwrap(), b"above");
    assert!(store.remove("two").unwrap());
    assert!(!store.contains("two").unwrap());
    store.get_or_set("two", text("again")).unwrap();
    assert_eq!(store.read("two").unwrap().unwrap(), b"again");
    let lock = store.lock("three").unwrap();
    let mut below = Vec::new();
    let mut reader = lock.reader().unwrap().unwrap();
    reader.read_to_end(&mut below).unwrap();
    assert_eq!(below, b"below");
    let mut write = lock.begin().unwrap();
    write.write_all(b"locked").unwrap();
    drop(write.commit().unwrap());
    drop(reader);
    drop(lock);
    assert_eq!(store.read("three").unwrap().unwrap(), b"locked");
    let mut batch = store.batch();
    for key in keys {
        batch.set(key, text("batch")).unwrap();
    }
    assert_eq!(batch.commit().unwrap(), 3);
    for key in keys {
        assert_eq!(store.read(key).unwrap().unwrap(), b"batch");
    }
    let listed = store.entries().map(|entry| entry.unwrap().len());
    assert!(listed.eq([Some(5); 3]));
    assert_eq!(store.sweep().unwrap().swept, 0);
    let report = store.clear().unwrap();
    assert_eq!((report.removed, report.kept), (3, vec![]));
    assert_eq!(listing(layers.mount.path()), empty_store());
    assert_eq!(files(lower.path()).entries().count(), 3);
}

#[test]
fn trees_of_a_lower_layer_are_leased_replaced_and_removed() {
    if !is_root("trees_of_a_lower_layer_are_leased_replaced_and_removed") {
        return;
    }
    let lower = below_an_overlay();
    drop(trees(lower.path()).replace(KEY, |tree| fill(tree, "below")));
    let whole = listing(lower.path());
    let layers = Layers::over(lower.path());
    let store = trees(layers.mount.path());
    assert_eq!(word(&store).as_deref(), Some("below"));
    assert!(store.touch(KEY).unwrap());
    // The lock file had to be opened for writing, and it is written down that the tree was checked,
    // which was published without a barrier on another mount; nothing is copied.
    let copied = layers.copied();
    let files = copied.iter().filter(|name| !name.ends_with('/'));
    assert!(
        files
            .clone()
            .all(|name| name.ends_with(".lock") || name.ends_with(".larder")),
        "{copied:?}"
    );

    let lease = store.get(KEY).unwrap().unwrap();
    let refused = store.remove(KEY).unwrap_err();
    assert_eq!(refused.kind(), larder::ErrorKind::InUse);
    drop(lease);

    drop(store.replace(KEY, |tree| fill(tree, "above!")).unwrap());
    assert_eq!(word(&store).as_deref(), Some("above!"));
    let entry = store.entries().next().unwrap().unwrap();
    assert_eq!((entry.file_count(), entry.len()), (Some(3), Some(3 * 6)));
    assert_eq!(listing(layers.mount.path()), whole);
    drop(store.replace(KEY, |tree| fill(tree, "again")).unwrap());
    assert!(store.remove(KEY).unwrap());
    assert!(!store.remove(KEY).unwrap());
    assert_eq!(listing(layers.mount.path()), empty_store());

    for clears in [false, true] {
        let layers = Layers::over(lower.path());
        let store = trees(layers.mount.path());
        if clears {
            assert_eq!(store.clear().unwrap().removed, 1);
        } else {
            assert!(store.remove(KEY).unwrap());
        }
        assert_eq!(listing(layers.mount.path()), empty_store());
    }
    assert_eq!(listing(lower.path()), whole);
}

/// To exchange the names of a value of a lower layer and of a new one is to copy the old one, all of
/// it, only to delete it.
#[test]
fn a_value_of_a_lower_layer_is_not_copied_to_be_replaced() {
    if !is_root("a_value_of_a_lower_layer_is_not_copied_to_be_replaced") {
        return;
    }
    let lower = below_an_overlay();
    files(lower.path()).set(KEY, text("below")).unwrap();
    let layers = Layers::over(lower.path());
    let mut worker = Worker::start(SET, &[layers.mount.path().to_str().unwrap()]);
    let calls = worker.next().unwrap();
    worker.finish();
    assert!(!calls.contains("exchange"), "{calls}");
    assert_eq!(
        files(layers.mount.path()).read(KEY).unwrap().unwrap(),
        b"above"
    );
}

/// Who looks for a tree that is being deleted where it stands need not wait until that is done.
#[test]
fn a_dead_tree_is_absent_while_its_key_is_locked() {
    if !is_root("a_dead_tree_is_absent_while_its_key_is_locked") {
        return;
    }
    let lower = below_an_overlay();
    drop(trees(lower.path()).replace(KEY, |tree| fill(tree, "below")));
    let died = (0..60).find_map(|n: usize| {
        let layers = Layers::over(lower.path());
        let base = layers.mount.path().to_path_buf();
        let args = [base.to_str().unwrap(), &n.to_string()];
        Worker::start(REMOVE, &args).wait();
        let is_dead = |name: &String| {
            let text = std::fs::read_to_string(base.join(name)).unwrap_or_default();
            !name.starts_with("tmp/") && text.contains("dead")
        };
        listing(&base).iter().any(is_dead).then_some(layers)
    });
    let layers = died.unwrap();
    let store = trees(layers.mount.path());
    let path = layers.mount.path().join(larder::PathKey::key(KEY));
    assert!(path.is_dir());
    let lock = path.with_file_name(format!(
        "{}.lock",
        path.file_name().unwrap().to_str().unwrap()
    ));
    let lock = std::fs::File::options().write(true).open(lock).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(store.get(KEY).unwrap().is_none());
}

/// A store whose image was made while processes died in it: what they left is in the lower layer,
/// where a directory cannot be renamed. A sweep took the lock of a staged tree or batch away, said that
/// it had swept it, and left the directory.
#[test]
fn a_sweep_takes_what_dead_processes_left_in_a_lower_layer() {
    if !is_root("a_sweep_takes_what_dead_processes_left_in_a_lower_layer") {
        return;
    }
    for of_trees in [false, true] {
        let lower = below_an_overlay();
        if of_trees {
            drop(trees(lower.path()).replace(KEY, |tree| fill(tree, "below")));
        } else {
            files(lower.path()).set(KEY, text("below")).unwrap();
        }
        let whole = listing(lower.path());
        let tmp = lower.path().join("tmp");
        for name in ["t-0123456789", "b-0123456789", "dead-0123456789"] {
            std::fs::create_dir_all(tmp.join(name).join("sub/empty")).unwrap();
            std::fs::write(tmp.join(name).join("sub/file"), "left").unwrap();
        }
        for name in ["t-0123456789.lock", "b-0123456789.lock", "f-0123456789"] {
            std::fs::write(tmp.join(name), "").unwrap();
        }
        let shards = lower.path().join("-/-/-");
        std::fs::create_dir_all(&shards).unwrap();
        std::fs::write(shards.join("rest.lock"), "").unwrap();

        let layers = Layers::over(lower.path());
        let base = layers.mount.path();
        let report = if of_trees {
            trees(base).sweep().unwrap()
        } else {
            files(base).sweep().unwrap()
        };
        assert_eq!((report.swept, report.kept), (5, vec![]));
        assert_eq!(listing(base), whole);
    }
}

/// BASE CALL: does what the role says and is killed before that call; if it makes fewer, says `done`
/// and how many.
fn die_at(role: &str, args: &[&str]) {
    let store = trees(Path::new(args[0]));
    arm([(args[1].parse().unwrap(), Fault::Kill)]);
    match role {
        REMOVE => assert!(store.remove(KEY).unwrap()),
        CLEAR => assert_eq!(store.clear().unwrap().removed, 1),
        _ => drop(store.replace(KEY, |tree| fill(tree, "new")).unwrap()),
    }
    say(&format!("done {}", disarm().len()));
}

/// A tree of a lower layer cannot be renamed, so it is deleted where it stands. A kill in the middle
/// left a part of it, which was then taken for the tree.
fn killed_everywhere(test: &str, role: &str, after: Option<&str>) {
    if !is_root(test) {
        return;
    }
    let lower = below_an_overlay();
    drop(trees(lower.path()).replace(KEY, |tree| fill(tree, "old")));
    let whole = listing(lower.path());
    let calls: usize = {
        let layers = Layers::over(lower.path());
        let base = layers.mount.path().to_str().unwrap();
        let mut worker = Worker::start(role, &[base, &usize::MAX.to_string()]);
        let calls = worker.expect("done").parse().unwrap();
        worker.finish();
        assert_eq!(word(&trees(layers.mount.path())).as_deref(), after);
        calls
    };
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let call = next.fetch_add(1, Ordering::Relaxed);
                    if call >= calls {
                        break;
                    }
                    let layers = Layers::over(lower.path());
                    let base = layers.mount.path();
                    let args = [base.to_str().unwrap(), &call.to_string()];
                    let mut worker = Worker::start(role, &args);
                    assert!(worker.was_killed());
                    println!("{role}: killed before {call} of {calls}");
                    examine(base, &whole, call % 2 == 0);
                }
            });
        }
    });
}

fn examine(base: &Path, whole: &BTreeSet<String>, sweeps_first: bool) {
    let store = trees(base);
    let found = word(&store);
    assert!(
        matches!(found.as_deref(), None | Some("old" | "new")),
        "{found:?}"
    );
    assert_eq!(store.contains(KEY).unwrap(), found.is_some());
    assert_eq!(store.entries().count(), usize::from(found.is_some()));
    let mut expected = match found {
        Some(_) => whole.clone(),
        None => empty_store(),
    };
    if sweeps_first {
        assert_eq!(store.sweep().unwrap().kept, []);
        assert_eq!(listing(base), expected);
        assert_eq!(word(&store), found);
    }
    let lease = store.get_or_set(KEY, |tree| fill(tree, "made")).unwrap();
    assert_eq!(word_in(&lease), found.as_deref().unwrap_or("made"));
    drop(lease);
    drop(store.replace(KEY, |tree| fill(tree, "last")).unwrap());
    assert_eq!(word(&store).as_deref(), Some("last"));
    let entry = store.entries().next().unwrap().unwrap();
    assert_eq!((entry.file_count(), entry.len()), (Some(3), Some(3 * 4)));
    assert_eq!(store.sweep().unwrap().kept, []);
    expected.clone_from(whole);
    assert_eq!(listing(base), expected);
    assert_eq!(store.clear().unwrap().removed, 1);
    assert_eq!(listing(base), empty_store());
}

#[test]
fn a_removal_of_a_lower_tree_is_killed_at_every_call() {
    killed_everywhere(
        "a_removal_of_a_lower_tree_is_killed_at_every_call",
        REMOVE,
        None,
    );
}

#[test]
fn a_clear_of_a_lower_tree_is_killed_at_every_call() {
    killed_everywhere(
        "a_clear_of_a_lower_tree_is_killed_at_every_call",
        CLEAR,
        None,
    );
}

#[test]
fn a_replacement_of_a_lower_tree_is_killed_at_every_call() {
    killed_everywhere(
        "a_replacement_of_a_lower_tree_is_killed_at_every_call",
        REPLACE,
        Some("new"),
    );
}

/// BASE CALL: replaces, adds and removes values, and is killed before that call; if it makes fewer,
/// says `done` and how many.
fn die_among_files(args: &[&str]) {
    let store = files(Path::new(args[0]));
    arm([(args[1].parse().unwrap(), Fault::Kill)]);
    store.set("one", text("above")).unwrap();
    assert!(store.remove("two").unwrap());
    let mut batch = store.batch();
    for key in ["three", "four"] {
        batch.set(key, text("above")).unwrap();
    }
    assert_eq!(batch.commit().unwrap(), 2);
    say(&format!("done {}", disarm().len()));
}

#[test]
fn writers_over_values_of_a_lower_layer_are_killed_at_every_call() {
    if !is_root("writers_over_values_of_a_lower_layer_are_killed_at_every_call") {
        return;
    }
    let lower = below_an_overlay();
    for key in ["one", "two", "three"] {
        files(lower.path()).set(key, text("below")).unwrap();
    }
    // Each key's value before, and what it is to have.
    let keys = [
        ("one", Some("below"), Some("above")),
        ("two", Some("below"), None),
        ("three", Some("below"), Some("above")),
        ("four", None, Some("above")),
    ];
    for call in 0.. {
        let layers = Layers::over(lower.path());
        let base = layers.mount.path();
        let args = [base.to_str().unwrap(), &call.to_string()];
        let killed = Worker::start(FILES, &args).was_killed();
        let store = files(base).with_wait(Wait::TryOnce);
        let mut there = 0;
        for (key, before, after) in keys {
            let found = store.read(key).unwrap();
            let is = |word: Option<&str>| found.as_deref() == word.map(str::as_bytes);
            assert!(is(after) || (killed && is(before)), "{call}: {found:?}");
            there += u64::from(found.is_some());
        }
        assert_eq!(store.entries().count() as u64, there);
        let report = store.sweep().unwrap();
        assert!(report.kept.is_empty() && (killed || report.swept == 0));
        for (key, ..) in keys {
            store.set(key, text("again")).unwrap();
        }
        assert_eq!(store.clear().unwrap().removed, 4);
        assert_eq!(listing(base), empty_store());
        if !killed {
            println!("{FILES}: killed before each of {call}");
            break;
        }
    }
}

// --- no statx ---

/// BASE: makes, leases, replaces and removes a tree where the kernel (or a filter around it) knows no
/// `statx`; says `done` and how many calls of it were made.
fn without_statx(args: &[&str]) {
    let store = trees(Path::new(args[0]));
    let mut refused: Vec<(usize, Fault)> = Vec::new();
    // Which calls those are is found out one by one.
    loop {
        arm(refused.iter().copied());
        let lease = store.get_or_set(KEY, |tree| fill(tree, "one")).unwrap();
        assert_eq!(word_in(&lease), "one");
        drop(lease);
        drop(store.replace(KEY, |tree| fill(tree, "two")).unwrap());
        assert_eq!(word(&store).as_deref(), Some("two"));
        let entry = store.entries().next().unwrap().unwrap();
        assert_eq!((entry.file_count(), entry.len()), (Some(3), Some(3 * 3)));
        assert!(store.remove(KEY).unwrap());
        let calls = disarm();
        let next = (0..calls.len())
            .filter(|at| calls[*at] == "statx")
            .nth(refused.len());
        match next {
            Some(at) => refused.push((at, Fault::Fail(Errno::NOSYS.raw_os_error()))),
            None => break,
        }
    }
    assert_eq!(listing(store.base()), empty_store());
    say(&format!("done {}", refused.len()));
}

#[test]
fn trees_are_made_where_there_is_no_statx() {
    let dir = tempdir();
    let mut worker = Worker::start(NO_STATX, &[dir.path().to_str().unwrap()]);
    let refused: usize = worker.expect("done").parse().unwrap();
    worker.finish();
    assert!(refused >= 3, "{refused}");
}
