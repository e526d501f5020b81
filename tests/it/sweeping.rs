//! What sweeping and deleting may touch: nothing that is leased or locked, and nothing that is not
//! the store's.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use larder::__fault::{Fault, arm, disarm};
use larder::{
    DirLease, Durability, ErrorKind, GcPolicy, KVDirStore, KVFileStore, KeptReason, PathKey,
    StoreOptions,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::support::{Random, Worker, empty_store, in_memory, is_root, listing, tempdir};
use crate::worker::{hear, say};

const SWEEP: &str = "sweeping-sweep";
const DEEP: &str = "sweeping-deep";
const FILLED: &str = "sweeping-filled";

/// A key whose tree is at the top of the base directory.
struct Flat<'a>(&'a str);

impl PathKey for Flat<'_> {
    fn key(&self) -> PathBuf {
        self.0.into()
    }
}

fn open(base: impl AsRef<Path>) -> KVDirStore {
    let options = StoreOptions::new().durability(Durability::None);
    options.open_dir_store(base).unwrap()
}

fn text(tree: &Path) -> anyhow::Result<()> {
    Ok(std::fs::write(tree.join("text"), "text")?)
}

/// Plays a worker's role, if it is one of this module's. Its first argument is the store.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        SWEEP => sweep_and_clear(args),
        DEEP => go_deep(args),
        FILLED => collect_what_is_filled(args),
        _ => return false,
    }
    true
}

// --- leased trees ---

/// How long the sweepers and the publisher are at each other.
const LONGEST: Duration = Duration::from_millis(2500);

/// How many trees are leased at a time.
const LEASED: usize = 8;

/// What is in a tree may be called like what the store has beside its trees.
fn looks_like_a_store(tree: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(tree.join("target/debug"))?;
    std::fs::write(
        tree.join("Cargo.lock"),
        "# Made by a program.\nversion = 4\n",
    )?;
    std::fs::write(tree.join("target.lock"), "")?;
    std::fs::write(tree.join("empty.lock"), "")?;
    Ok(std::fs::write(tree.join("gone.larder"), "")?)
}

fn is_whole(lease: &DirLease, is_empty: bool) {
    let expected: BTreeSet<String> = if is_empty {
        BTreeSet::new()
    } else {
        "Cargo.lock empty.lock gone.larder target.lock target/ target/debug/"
            .split(' ')
            .map(str::to_owned)
            .collect()
    };
    assert!(lease.is_dir(), "{} is gone", lease.display());
    assert_eq!(listing(lease), expected, "in {}", lease.display());
}

/// BASE: says `ready`, hears `go`, sweeps and clears, says `done SWEEPS`.
fn sweep_and_clear(args: &[&str]) {
    let store = open(args[0]);
    say("ready");
    hear();
    let end = Instant::now() + LONGEST;
    let mut sweeps = 0;
    while Instant::now() < end {
        sweeps += 1;
        let report = match sweeps % 8 {
            0 => store.clear(),
            _ => store.sweep(),
        };
        report.unwrap();
    }
    say(&format!("done {sweeps}"));
}

/// A listing takes several calls, so that it may have a tree and not the lock file or the sidecar that
/// came before the tree. Taken for a directory on the way to entries, a leased tree lost every lock
/// file in it and every empty directory, or went itself if it was empty.
#[test]
fn nothing_in_a_leased_tree_is_swept_while_trees_come_and_go() {
    let dir = tempdir();
    let store = open(dir.path());
    for n in 0..40 {
        // So that the listing takes many calls.
        std::fs::write(dir.path().join(format!("{n:0200}")), "").unwrap();
    }
    let names: Vec<String> = (0..60).map(|n| format!("tree-{n}")).collect();
    let base = dir.path().to_str().unwrap();
    let mut sweeper = Worker::start(SWEEP, &[base]);
    sweeper.expect("ready");
    sweeper.tell("go");
    let ended = AtomicBool::new(false);
    let published = thread::scope(|scope| {
        let lister = scope.spawn(|| {
            let store = open(dir.path());
            while !ended.load(Ordering::Relaxed) {
                for entry in store.entries() {
                    let key = entry.unwrap().key();
                    let known = names.iter().any(|name| key == Path::new(name));
                    assert!(known, "{} is listed", key.display());
                }
            }
        });
        let _ended = SetOnDrop(&ended);
        let mut random = Random::new(1);
        let mut leased: VecDeque<(&str, bool, DirLease)> = VecDeque::new();
        let mut published = 0;
        while !lister.is_finished() && sweeper.is_silent() {
            if leased.len() == LEASED {
                let (name, is_empty, lease) = leased.pop_front().unwrap();
                is_whole(&lease, is_empty);
                drop(lease);
                // The clear may have been faster, or may be at it.
                match store.remove(&Flat(name)) {
                    Ok(_) => {}
                    Err(err) => assert_eq!(err.kind(), ErrorKind::InUse, "{err}"),
                }
            }
            let name = &*names[random.below(names.len() as u64) as usize];
            if leased.iter().any(|(leased, ..)| *leased == name) {
                continue;
            }
            let is_empty = name.ends_with(['0', '3', '6', '9']);
            let fill = |tree: &Path| match is_empty {
                true => Ok(()),
                false => looks_like_a_store(tree),
            };
            let lease = store.get_or_set(&Flat(name), fill).unwrap();
            leased.push_back((name, is_empty, lease));
            published += 1;
        }
        for (_, is_empty, lease) in leased {
            is_whole(&lease, is_empty);
        }
        published
    });
    sweeper.wait();
    assert!(published > 20, "only {published} trees");
    assert_eq!(store.clear().unwrap().kept.len(), 40);
}

/// A sweep notes the directories that are no entries, and removes at its end those that are empty. By
/// then there may be a leased tree instead, which may be empty, or have an empty directory.
#[test]
fn what_was_no_entry_may_be_a_leased_tree_when_it_is_swept() {
    let dir = tempdir();
    let store = open(dir.path());
    for n in 0..100 {
        // So that there is some time between the beginning and the end of a sweep.
        std::fs::create_dir_all(dir.path().join(format!("{n}/busy"))).unwrap();
        std::fs::write(dir.path().join(format!("{n}/busy/text")), "").unwrap();
    }
    let base = dir.path().to_str().unwrap();
    let mut sweeper = Worker::start(SWEEP, &[base]);
    sweeper.expect("ready");
    sweeper.tell("go");
    let mut leased: VecDeque<(bool, DirLease)> = VecDeque::new();
    let mut published = 0;
    for n in (0..2 * LEASED).cycle() {
        if !sweeper.is_silent() {
            break;
        }
        if leased.len() == LEASED {
            let (is_empty, lease) = leased.pop_front().unwrap();
            is_whole(&lease, is_empty);
        }
        let (name, is_empty) = (format!("tree-{n}"), n % 2 == 0);
        if let Err(err) = store.remove(&Flat(&name)) {
            assert_eq!(err.kind(), ErrorKind::InUse, "{err}"); // it is being cleared
            continue;
        }
        // The sweep may be faster with each of them.
        let below = dir.path().join(&name).join("target/debug");
        let _ = std::fs::create_dir_all(&below);
        thread::yield_now();
        for path in below.ancestors().take(3) {
            let _ = std::fs::remove_dir(path);
        }
        let lease = store.get_or_set(&Flat(&name), |tree| match is_empty {
            true => Ok(()),
            false => looks_like_a_store(tree),
        });
        leased.push_back((is_empty, lease.unwrap()));
        published += 1;
    }
    for (is_empty, lease) in leased {
        is_whole(&lease, is_empty);
    }
    sweeper.wait();
    assert!(published > 20, "only {published} trees");
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_lock_file_that_is_none_of_the_stores_is_reported_and_stays() {
    let dir = tempdir();
    let store = open(dir.path());
    let theirs = dir.path().join("theirs");
    std::fs::create_dir(&theirs).unwrap();
    std::fs::write(
        theirs.join("Cargo.lock"),
        "# This file is automatically generated.",
    )
    .unwrap();
    std::fs::write(theirs.join("x.lock"), "").unwrap();
    std::fs::write(dir.path().join("top.lock"), "12345\n").unwrap();
    for _ in 0..2 {
        let report = store.sweep().unwrap();
        let kept: BTreeSet<_> = report
            .kept
            .iter()
            .map(|kept| (kept.path.clone(), kept.reason == KeptReason::Foreign))
            .collect();
        let expected = ["theirs/Cargo.lock", "top.lock"];
        assert_eq!(
            kept,
            expected
                .map(|name| (dir.path().join(name), true))
                .into_iter()
                .collect()
        );
        let mut left = empty_store();
        left.extend(["theirs/", "theirs/Cargo.lock", "top.lock"].map(str::to_owned));
        assert_eq!(listing(dir.path()), left);
    }
    assert_eq!(store.entries().count(), 0);
}

/// The same in a store of files, where every lock file but a held one is superfluous.
#[test]
fn a_lock_file_that_is_none_of_the_stores_stays_in_a_store_of_files() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    std::fs::write(dir.path().join("Cargo.lock"), "version = 4\n").unwrap();
    std::fs::write(dir.path().join("x.lock"), "").unwrap();
    let report = store.sweep().unwrap();
    assert_eq!((report.swept, report.kept.len()), (1, 1));
    assert_eq!(report.kept[0].reason, KeptReason::Foreign);
    assert!(dir.path().join("Cargo.lock").exists());
    assert!(!dir.path().join("x.lock").exists());
}

// --- two who delete the same ---

/// What one of them finds gone is gone: that was an error of the sweep, and of the removal.
#[test]
fn a_sweep_and_a_removal_may_delete_the_same_tree() {
    const TREES: usize = 2000;
    let dir = in_memory();
    let store = open(dir.path());
    let names: Vec<String> = (0..TREES).map(|n| n.to_string()).collect();
    for name in &names {
        let made = store.get_or_set(name.as_bytes(), |tree| {
            std::fs::create_dir_all(tree.join("a/b"))?;
            text(&tree.join("a"))?;
            text(&tree.join("a/b"))
        });
        drop(made.unwrap());
    }
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let store = open(dir.path());
                while !ended.load(Ordering::Relaxed) {
                    let report = store.sweep().unwrap();
                    assert_eq!(report.kept, []);
                }
            });
        }
        let _ended = SetOnDrop(&ended);
        for name in &names {
            match store.remove(name.as_bytes()) {
                Ok(removed) => assert!(removed),
                // A sweep looks at what is beside it.
                Err(err) => assert_eq!(err.kind(), ErrorKind::InUse, "{err}"),
            }
        }
    });
    store.clear().unwrap();
    assert_eq!(listing(dir.path()), empty_store());
}

// --- deep trees ---

const LEVELS: usize = 1000;

/// Makes directories in each other. By descriptors, because the path may be too long to be one.
fn nest(tree: &Path, name: &str) -> io::Result<()> {
    let mut dir: OwnedFd = std::fs::File::open(tree)?.into();
    for _ in 0..LEVELS {
        rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o777))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        dir = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
    }
    Ok(())
}

/// BASE NAME HOW: with few descriptors, makes a deep tree of directories called NAME and has it
/// removed, cleared, or replaced; says `published` or the error.
fn go_deep(args: &[&str]) {
    let limit = Rlimit {
        current: Some(200),
        maximum: Some(200),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let store = open(args[0]);
    let nothing_staged = || assert_eq!(listing(&store.base().join("tmp")), BTreeSet::new());
    let lease = match store.get_or_set("deep", |tree| Ok(nest(tree, args[1])?)) {
        Ok(lease) => lease,
        Err(err) => {
            nothing_staged();
            say(&format!("refused {err}"));
            return;
        }
    };
    drop(lease);
    match args[2] {
        "remove" => assert!(store.remove("deep").unwrap()),
        "clear" => assert_eq!(store.clear().unwrap().removed, 1),
        _ => drop(store.replace("deep", text).unwrap()),
    }
    nothing_staged();
    let report = store.sweep().unwrap();
    assert_eq!((report.swept, report.kept), (0, vec![]));
    say("published");
}

#[test]
fn a_deep_tree_is_deleted_with_few_descriptors() {
    for how in ["remove", "clear", "replace"] {
        let dir = in_memory();
        let base = dir.path().to_str().unwrap();
        let mut worker = Worker::start(DEEP, &[base, "d", how]);
        worker.expect("published");
        worker.finish();
        let store = open(base);
        store.clear().unwrap();
        assert_eq!(listing(dir.path()), empty_store());
    }
}

#[test]
fn a_tree_too_deep_for_paths_is_refused_and_leaves_nothing() {
    let dir = in_memory();
    let base = dir.path().to_str().unwrap();
    let name = "a-long-name";
    let mut worker = Worker::start(DEEP, &[base, name, "remove"]);
    let refused = worker.expect("refused");
    worker.finish();
    assert!(refused.contains(base), "{refused}");
    assert_eq!(listing(dir.path()), empty_store());
}

// --- lock files that others deleted ---

fn delete_lock_files(base: &Path) {
    let mut find = Command::new("find");
    find.arg(base)
        .args(["-mindepth", "2", "-name", "*.lock", "-delete"]);
    assert!(find.status().unwrap().success());
}

/// Whoever deletes the lock files takes what they protect upon himself; but the locks that are taken
/// after that hold.
#[test]
fn a_holder_whose_lock_file_was_deleted_does_not_delete_the_next_ones() {
    let dir = tempdir();
    let files = KVFileStore::new(dir.path().join("files")).unwrap();
    let first = files.lock("key").unwrap();
    delete_lock_files(files.base());
    let second = files.try_lock("key").unwrap().unwrap();
    drop(first);
    assert!(files.try_lock("key").unwrap().is_none());
    drop(second);
    assert_eq!(listing(files.base()), empty_store());

    let trees = open(dir.path().join("trees"));
    let first = trees.lock("key").unwrap();
    delete_lock_files(trees.base());
    let second = trees.try_lock("key").unwrap().unwrap();
    drop(first);
    assert!(trees.try_lock("key").unwrap().is_none());
    drop(second);
    assert_eq!(listing(trees.base()), empty_store());
}

// --- odd things ---

/// Two trees, the second of which something odd is done to.
fn with_odd(base: &Path, make: impl Fn(&Path, &Path)) -> KVDirStore {
    let store = open(base);
    drop(store.get_or_set(&Flat("good"), text).unwrap());
    drop(store.get_or_set(&Flat("odd"), text).unwrap());
    make(base, &base.join("odd"));
    store
}

fn replace_sidecar(tree: &Path, with: impl Fn(&Path)) {
    let sidecar = tree.with_extension("larder");
    std::fs::remove_file(&sidecar).unwrap();
    with(&sidecar);
}

fn mount_tmpfs(on: &Path) {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", on, "tmpfs", flags, c"size=1m").unwrap();
}

/// Each of these ended every collection with an error, so that nothing was ever collected.
#[test]
fn one_odd_thing_is_kept_and_told_and_the_rest_goes() {
    type Make = fn(&Path, &Path);
    let foreign = KeptReason::Foreign;
    let mut odd: Vec<(&str, Make, &str, KeptReason)> = vec![
        (
            "an orphan sidecar that is a directory",
            |base, _| std::fs::create_dir_all(base.join("A/B/C/x.larder")).unwrap(),
            "A/B/C/x.larder",
            foreign,
        ),
        (
            "a sidecar that is a directory",
            |_, tree| replace_sidecar(tree, |at| std::fs::create_dir(at).unwrap()),
            "odd.larder",
            foreign,
        ),
        (
            "a sidecar that is a link",
            |_, tree| replace_sidecar(tree, |at| symlink("nowhere", at).unwrap()),
            "odd.larder",
            foreign,
        ),
        (
            "a sidecar that is a socket",
            |_, tree| replace_sidecar(tree, |at| drop(UnixListener::bind(at).unwrap())),
            "odd.larder",
            foreign,
        ),
        (
            "a foreign directory that is too deep for paths",
            |base, _| {
                std::fs::create_dir(base.join("deep")).unwrap();
                nest(&base.join("deep"), "a-long-name").unwrap();
            },
            "deep/",
            foreign,
        ),
    ];
    if is_root("one_odd_thing_is_kept_and_told_and_the_rest_goes, with mounts") {
        odd.push((
            "a mount on a tree",
            |_, tree| mount_tmpfs(tree),
            "odd",
            KeptReason::Mounted,
        ));
        odd.push((
            "a mount in what is dead",
            |base, _| {
                let point = base.join("tmp/dead-0123456789/point");
                std::fs::create_dir_all(&point).unwrap();
                mount_tmpfs(&point);
            },
            "tmp/dead-0123456789/point",
            KeptReason::Mounted,
        ));
    }
    let all = GcPolicy::default().max_entries(0).min_idle(Duration::ZERO);
    for (what, make, path, reason) in odd {
        for how in ["gc", "clear", "sweep"] {
            let dir = in_memory();
            let store = with_odd(dir.path(), make);
            store.stats().unwrap();
            let report = match how {
                "gc" => store.gc(&all),
                "clear" => store.clear(),
                _ => store.sweep(),
            };
            let left: Vec<_> = ["odd/point", "odd", "tmp/dead-0123456789/point"]
                .map(|mounted| dir.path().join(mounted))
                .into_iter()
                .filter(|mounted| unmount(mounted, UnmountFlags::DETACH).is_ok())
                .collect();
            println!("{what}, {how}: {left:?}");
            let report = report.unwrap();
            let is_told = report.kept.iter().any(|kept| {
                let name = kept.path.strip_prefix(dir.path()).unwrap();
                let name = name.to_str().unwrap();
                let is_it = name == path || path.ends_with('/') && name.starts_with(path);
                is_it && kept.reason == reason
            });
            // A sweep takes no trees, so it has nothing to say of what is theirs.
            assert!(
                is_told || how == "sweep" && path.starts_with("odd"),
                "{:?}",
                report.kept
            );
            if how != "sweep" {
                assert!(!store.contains(&Flat("good")).unwrap());
            }
            assert!(store.check().is_ok());
            assert!(store.repair().is_ok());
            let _ = std::fs::remove_dir_all(dir.path()); // which is deep
        }
    }
}

/// BASE AT: collects all, and the call of this number finds its directory filled; says the first that is
/// an `rmdir`, and what was removed and kept.
fn collect_what_is_filled(args: &[&str]) {
    let store = open(args[0]);
    let at: Option<usize> = args[1].parse().ok();
    arm(at.map(|at| (at, Fault::Fail(Errno::NOTEMPTY.raw_os_error()))));
    let report = store.gc(&GcPolicy::default().max_entries(0).min_idle(Duration::ZERO));
    let calls = disarm();
    let rmdir = calls.iter().position(|call| *call == "rmdir").unwrap();
    let report = report.unwrap();
    say(&format!("{rmdir} {} {:?}", report.removed, report.kept));
}

/// Somebody is in a tree that was removed, and fills it again and again.
#[test]
fn what_is_filled_while_it_is_deleted_is_kept_and_the_rest_goes() {
    let collect = |at: &str| {
        let dir = in_memory();
        with_odd(dir.path(), |_, _| {});
        std::fs::create_dir_all(dir.path().join("tmp/dead-0123456789")).unwrap();
        let mut worker = Worker::start(FILLED, &[dir.path().to_str().unwrap(), at]);
        let said = worker.expect("");
        worker.finish();
        said
    };
    let said = collect("never");
    assert!(said.ends_with(" 2 []"), "{said}");
    let said = collect(said.split(' ').next().unwrap());
    let is_kept = said.contains("tmp/dead-0123456789") && said.contains("DirectoryNotEmpty");
    assert!(said.contains(" 2 [Kept {") && is_kept, "{said}");
}

/// Below `tmp/`, where it was made, its paths fit; below its key's path they did not.
#[test]
fn a_tree_whose_paths_only_just_fit_is_measured_and_collected() {
    const MOST: usize = 4095;
    struct Long;
    impl PathKey for Long {
        fn key(&self) -> PathBuf {
            ["k".repeat(200), "e".repeat(200), "y".repeat(200)]
                .iter()
                .collect()
        }
    }
    let dir = in_memory();
    let store = open(dir.path());
    let lease = store.get_or_set(&Long, |tree| {
        let mut at: OwnedFd = std::fs::File::open(tree)?.into();
        let room = MOST - "tmp/t-0123456789".len();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for _ in 0..room / 100 {
            let name = "d".repeat(99);
            rustix::fs::mkdirat(&at, &*name, Mode::from_raw_mode(0o777))?;
            at = rustix::fs::openat(&at, &*name, flags, Mode::empty())?;
        }
        Ok(())
    });
    drop(lease.unwrap());
    assert_eq!(store.stats().unwrap().unreadable, 0);
    let all = GcPolicy::default().max_size(0).min_idle(Duration::ZERO);
    let report = store.gc(&all).unwrap();
    assert_eq!((report.removed, report.kept), (1, vec![]));
    assert_eq!(listing(dir.path()), empty_store());
}

// --- a store in a store ---

/// `cache/` and `cache/unpacked/`: clearing the outer one took the inner one's marker and spare file for
/// values, what it was just staging too, and its `gc.lock` for a lock file without a value.
#[test]
fn a_store_inside_a_store_is_left_alone() {
    let all = GcPolicy::default().max_entries(0).min_idle(Duration::ZERO);
    for outer_has_trees in [false, true] {
        for inner_has_trees in [false, true] {
            let dir = in_memory();
            // Wherever it is in the walk.
            let bases = ["unpacked", "A/B/unpacked"].map(|inner| dir.path().join(inner));
            let options = StoreOptions::new().durability(Durability::None);
            let files = |base: &Path| options.open_file_store(base).unwrap();
            let write = |w: &mut larder::ValueWriter| Ok(w.write_all(b"text")?);
            let (outer_files, outer_trees) = match outer_has_trees {
                true => (None, Some(open(dir.path()))),
                false => (Some(files(dir.path())), None),
            };
            for base in &bases {
                if inner_has_trees {
                    drop(open(base).get_or_set("key", text).unwrap());
                } else {
                    files(base).set("key", write).unwrap();
                    files(base).set(&Flat("flat"), write).unwrap();
                }
                std::fs::write(base.join("tmp/f-0123456789"), "staged").unwrap();
                std::fs::create_dir(base.join("empty")).unwrap();
            }
            let before = listing(dir.path());
            macro_rules! with_outer {
                ($store:ident => $do:expr) => {
                    match (&outer_files, &outer_trees) {
                        (Some($store), _) => $do,
                        (_, Some($store)) => $do,
                        _ => unreachable!(),
                    }
                };
            }
            assert_eq!(with_outer!(store => store.stats()).unwrap().entries, 0);
            assert_eq!(with_outer!(store => store.entries()).count(), 0);
            let found = with_outer!(store => store.check()).unwrap();
            assert_eq!(found.findings, []);
            let left = with_outer!(store => store.repair()).unwrap();
            assert_eq!((left.mended, left.left.found), (0, 0));
            for report in [
                with_outer!(store => store.gc(&all)),
                with_outer!(store => store.sweep()),
                with_outer!(store => store.clear()),
            ] {
                let report = report.unwrap();
                assert_eq!((report.examined, report.swept, report.kept), (0, 0, vec![]));
            }
            assert_eq!(listing(dir.path()), before);
        }
    }
}

#[test]
fn a_value_that_is_called_like_a_marker_hides_nothing() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    for name in ["dir/larder-store", "dir/beside", "dir/below/it"] {
        store
            .set(&Flat(name), |w| Ok(w.write_all(b"text")?))
            .unwrap();
    }
    assert_eq!(store.entries().count(), 3);
    assert_eq!(store.clear().unwrap().removed, 3);
    assert_eq!(listing(dir.path()), empty_store());
}
