//! Collection: what goes, what stays, and what is left.

use std::collections::BTreeSet;
use std::fs::{File, FileTimes};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use larder::__fault::{Fault, arm, disarm, set_clock};
use larder::{
    Collectable, Entry, ErrorKind, GcPolicy, GcReason, GcReport, KVDirStore, KVFileStore,
    KeptReason, PathKey, StoreOptions, ValueWriter, Wait,
};

use crate::support::{Mount, Worker, empty_store, in_memory, is_root, listing, tempdir};
use crate::worker::say;

const COLLECT: &str = "collect";
const USE: &str = "use-while-collected";
const CLOCK: &str = "collect-by-another-clock";
const SEAM: &str = "collect-at-the-seam";
const UNSWEPT: &str = "collect-what-is-not-swept";
const UNSTAMPED: &str = "commit-without-stamps";

pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        COLLECT => collect_again_and_again(args),
        USE => use_while_collected(args),
        CLOCK => by_another_clock(args),
        UNSWEPT => plan_what_a_sweep_makes_free(Path::new(args[0])),
        SEAM => at_the_seam(args),
        UNSTAMPED => commit_without_stamps(args),
        _ => return false,
    }
    true
}

const HOUR: Duration = Duration::from_secs(3600);

/// The keys' values take 4 KiB each on every common file system.
const TEXT: &[u8] = &[7; 4000];

fn files(base: &Path) -> KVFileStore {
    KVFileStore::new(base).unwrap()
}

fn trees(base: &Path) -> KVDirStore {
    KVDirStore::new(base).unwrap()
}

fn put(store: &KVFileStore, key: &str) {
    store.set(key, |w| Ok(w.write_all(TEXT)?)).unwrap();
}

fn plant(store: &KVDirStore, key: &str) {
    let fill = |tree: &Path| {
        std::fs::create_dir(tree.join("sub"))?;
        std::fs::write(tree.join("sub/a"), TEXT)?;
        Ok(std::fs::hard_link(tree.join("sub/a"), tree.join("b"))?)
    };
    drop(store.get_or_set(key, fill).unwrap());
}

/// As if the last use had been so long ago.
fn age(path: &Path, by: Duration) {
    let then = SystemTime::now() - by;
    let file = File::open(path).unwrap();
    file.set_times(FileTimes::new().set_accessed(then).set_modified(then))
        .unwrap();
}

fn age_value(store: &KVFileStore, key: &str, by: Duration) {
    age(&store.base().join(key.key()), by);
}

fn age_tree(store: &KVDirStore, key: &str, by: Duration) {
    let path = store.base().join(key.key());
    age(&path.with_file_name(beside(&path, ".larder")), by);
}

fn beside(path: &Path, suffix: &str) -> String {
    format!("{}{suffix}", path.file_name().unwrap().to_str().unwrap())
}

/// Values `0` to `count - 1`, each used an hour later than the one before it, the last 10 hours ago.
fn aged_values(base: &Path, count: u32) -> KVFileStore {
    let store = files(base);
    for n in 0..count {
        put(&store, &n.to_string());
        age_value(&store, &n.to_string(), HOUR * (count - n + 9));
    }
    store
}

fn there(store: &KVFileStore, count: u32) -> Vec<u32> {
    let is_there = |n: &u32| store.contains(&n.to_string()).unwrap();
    (0..count).filter(is_there).collect()
}

fn kept(report: &GcReport) -> Vec<KeptReason> {
    report.kept.iter().map(|kept| kept.reason).collect()
}

#[test]
fn the_least_recently_used_go_first_for_each_of_the_limits() {
    let by_age = GcPolicy::default().max_age(HOUR * 15 - HOUR / 2);
    // Four fifths of nine values are eight.
    let further = || GcPolicy::default().stop_at_percent(80);
    let by_size = further().max_size(9 * 4096);
    let by_entries = further().max_entries(9);
    for (policy, reason, left) in [
        (by_age, GcReason::Age, 5..10),
        (by_size, GcReason::Size, 2..10),
        (by_entries, GcReason::Entries, 2..10),
    ] {
        let dir = tempdir();
        let store = aged_values(dir.path(), 10);
        let planned = store.gc(&policy.clone().dry_run(true)).unwrap();
        assert_eq!(there(&store, 10).len(), 10);
        let report = store.gc(&policy).unwrap();
        assert_eq!(there(&store, 10), left.clone().collect::<Vec<_>>());
        assert_eq!(report.examined, 10);
        assert_eq!(report.removed, u64::from(left.start));
        assert_eq!(report.freed_bytes, u64::from(left.start) * 4096);
        assert!(
            report
                .removed_entries
                .iter()
                .all(|one| one.reason == reason)
        );
        let first = store.base().join("0".key());
        assert_eq!(report.removed_entries[0].path, first);
        assert_eq!(planned.removed_entries, report.removed_entries);
        assert_eq!(planned.freed_bytes, report.freed_bytes);
        assert_eq!((kept(&report), report.exceeded), (vec![], vec![]));
        // Nothing is due now.
        assert_eq!(store.gc(&policy).unwrap().removed, 0);
    }
}

#[test]
fn a_hit_counts_as_a_use_and_being_looked_at_does_not() {
    let dir = tempdir();
    let store = aged_values(dir.path(), 3);
    assert!(store.get("0").unwrap().is_some());
    assert!(store.contains("1").unwrap());
    assert_eq!(store.entries().count(), 3);
    store.gc(&GcPolicy::default().max_entries(3)).unwrap();
    let two = GcPolicy::default().max_entries(2).stop_at_percent(100);
    store.gc(&two).unwrap();
    assert_eq!(there(&store, 3), [0, 2]);

    let dir = tempdir();
    let store = trees(dir.path());
    for (n, key) in ["a", "b", "c"].into_iter().enumerate() {
        plant(&store, key);
        age_tree(&store, key, HOUR * (20 - n as u32));
    }
    drop(store.get("a").unwrap().unwrap());
    store.gc(&GcPolicy::default().max_size(1 << 30)).unwrap();
    store.gc(&two).unwrap();
    let left = ["a", "b", "c"].map(|key| store.contains(key).unwrap());
    assert_eq!(left, [true, false, true]);
}

#[test]
fn what_was_just_used_stays_unless_less_is_asked_for() {
    let dir = tempdir();
    let store = files(dir.path());
    put(&store, "new");
    put(&store, "in the morning");
    age_value(&store, "in the morning", HOUR * 2);
    let none = GcPolicy::default().max_entries(0);
    let report = store.gc(&none).unwrap();
    assert_eq!(
        (report.removed, kept(&report)),
        (1, vec![KeptReason::TooRecent])
    );
    assert!(store.contains("new").unwrap());
    let report = store.gc(&none.min_idle(Duration::ZERO)).unwrap();
    assert_eq!((report.removed, kept(&report)), (1, vec![]));
    assert_eq!(listing(dir.path()), empty_store());
}

/// Otherwise a download that takes three hours could go in the moment in which it is published.
#[test]
fn what_took_long_to_write_was_used_when_it_was_published() {
    let dir = tempdir();
    let store = files(dir.path());
    let at_every_use = StoreOptions::new().touch_after(Duration::ZERO);
    let at_every_use = at_every_use.open_file_store(dir.path()).unwrap();
    let slowly = |w: &mut ValueWriter| {
        w.write_all(TEXT)?;
        for staged in std::fs::read_dir(dir.path().join("tmp"))? {
            age(&staged?.path(), HOUR * 3);
        }
        Ok(())
    };
    store.set("set", slowly).unwrap();
    store.get_or_set("get_or_set", slowly).unwrap();
    let lock = store.lock("lock").unwrap();
    let mut write = lock.begin().unwrap();
    write.write_all(TEXT).unwrap();
    for staged in std::fs::read_dir(dir.path().join("tmp")).unwrap() {
        age(&staged.unwrap().path(), HOUR * 3);
    }
    drop(write.commit().unwrap());
    drop(lock);
    let mut batch = at_every_use.batch();
    for key in ["one", "two"] {
        batch.set(key, |w| Ok(w.write_all(TEXT)?)).unwrap();
    }
    for dir in std::fs::read_dir(dir.path().join("tmp")).unwrap() {
        let Ok(staged) = std::fs::read_dir(dir.unwrap().path()) else {
            continue; // the lock beside it
        };
        staged.for_each(|staged| age(&staged.unwrap().path(), HOUR * 3));
    }
    assert_eq!(batch.commit().unwrap(), 2);
    let none = GcPolicy::default().max_entries(0);
    assert_eq!(store.gc(&none).unwrap().removed, 0);
}

/// BASE: commits a batch while no access time can be set, and says how many values that published.
fn commit_without_stamps(args: &[&str]) {
    let store = StoreOptions::new().touch_after(Duration::ZERO);
    let store = store.open_file_store(args[0]).unwrap();
    let batch = |text: &[u8]| {
        let mut batch = store.batch();
        batch.set("key", |w| Ok(w.write_all(text)?)).unwrap();
        batch
    };
    let first = batch(b"first");
    arm([]);
    first.commit().unwrap();
    let stamp = disarm().iter().position(|call| *call == "utime").unwrap();
    let second = batch(b"second");
    arm([(stamp, Fault::Fail(libc::EPERM))]);
    let published = second.commit().map_err(|err| err.kind());
    disarm();
    say(&format!("{published:?}"));
}

/// Where only the owner of a directory may set times, nothing was published.
#[test]
fn a_batch_needs_no_access_times() {
    let dir = tempdir();
    let mut worker = Worker::start(UNSTAMPED, &[dir.path().to_str().unwrap()]);
    worker.expect("Ok(1)");
    worker.finish();
    assert_eq!(files(dir.path()).read("key").unwrap().unwrap(), b"second");
}

/// What a dead process had staged comes back to the disk too, so that less has to go for it.
#[test]
fn a_dry_run_knows_what_a_sweep_makes_free() {
    if !is_root("a_dry_run_knows_what_a_sweep_makes_free") {
        return;
    }
    let mount = Mount::tmpfs("size=4m");
    Worker::start(UNSWEPT, &[mount.path().to_str().unwrap()]).finish();
}

/// MOUNT: alone in a process, because what another thread forks keeps open what is deleted meanwhile.
fn plan_what_a_sweep_makes_free(mount: &Path) {
    let store = aged_values(&mount.join("files"), 5);
    let forest = trees(&mount.join("trees"));
    let dead = forest.base().join("tmp/dead-0123456789");
    std::fs::create_dir(&dead).unwrap();
    for staged in [store.base().join("tmp/f-0123456789"), dead.join("file")] {
        std::fs::write(staged, [1; 1 << 20]).unwrap();
    }
    for (free, removed) in [(3 << 20, 0), (4 << 20, 5)] {
        let policy = GcPolicy::default().min_free(free).stop_at_percent(100);
        let stores: [&dyn Collectable; 2] = [&store, &forest];
        let planned = larder::gc_all(&stores, &policy.clone().dry_run(true)).unwrap();
        let report = larder::gc_all(&stores, &policy).unwrap();
        assert_eq!((planned.removed, report.removed), (removed, removed));
    }
}

/// The sum of two such lengths was a panic, or nearly nothing.
#[test]
fn lengths_that_cannot_be_true_are_summed_up_to_the_largest_number() {
    type Way = fn(&KVDirStore) -> GcReport;
    let gc: Way = |store| store.gc(&GcPolicy::default().max_entries(0)).unwrap();
    let clear: Way = |store| store.clear().unwrap();
    for way in [gc, clear] {
        let dir = in_memory();
        let store = trees(dir.path());
        for key in ["one", "two"] {
            plant(&store, key);
            let tree = store.base().join(key.key());
            let sidecar = tree.with_file_name(beside(&tree, ".larder"));
            let text = std::fs::read_to_string(&sidecar).unwrap();
            let line = text.lines().find(|line| line.starts_with("bytes="));
            let text = text.replace(line.unwrap(), &format!("bytes={}", u64::MAX));
            std::fs::write(&sidecar, text).unwrap();
            age_tree(&store, key, HOUR * 10);
        }
        let report = way(&store);
        assert_eq!((report.removed, report.removed_bytes), (2, u64::MAX));
    }
}

/// It was said to hold as soon as enough had been removed.
#[test]
fn space_that_somebody_still_has_open_is_told_to_be_missing() {
    if !is_root("space_that_somebody_still_has_open_is_told_to_be_missing") {
        return;
    }
    let mount = Mount::tmpfs("size=4m");
    let store = KVFileStore::new(mount.path().join("store")).unwrap();
    let value = store
        .set("key", |w| Ok(w.write_all(&[1; 2 << 20])?))
        .unwrap();
    let policy = GcPolicy::default().min_free(3 << 20);
    let policy = policy.min_idle(Duration::ZERO);
    let report = store.gc(&policy).unwrap();
    assert_eq!(report.removed, 1);
    let [exceeded] = &report.exceeded[..] else {
        panic!("{report:?}");
    };
    assert_eq!(exceeded.limit, GcReason::FreeSpace);
    assert!(exceeded.by > 1 << 20, "{exceeded:?}");
    drop(value);
    let report = store.gc(&policy).unwrap();
    assert_eq!(report.exceeded, []);
}

#[test]
fn what_is_in_use_stays_and_others_go_in_its_place() {
    let dir = tempdir();
    let store = aged_values(dir.path(), 4);
    let lock = store.lock("0").unwrap();
    let two = GcPolicy::default().max_entries(2).stop_at_percent(100);
    let planned = store.gc(&two.clone().dry_run(true)).unwrap();
    let report = store.gc(&two).unwrap();
    assert_eq!(planned.kept, report.kept);
    assert_eq!(planned.removed_entries, report.removed_entries);
    assert_eq!(kept(&report), [KeptReason::InUse]);
    assert_eq!(there(&store, 4), [0, 3]);
    drop(lock);

    let dir = tempdir();
    let store = trees(dir.path());
    for (n, key) in ["a", "b", "c"].into_iter().enumerate() {
        plant(&store, key);
        age_tree(&store, key, HOUR * (20 - n as u32));
    }
    let lease = store.get("a").unwrap().unwrap();
    age_tree(&store, "a", HOUR * 20);
    let report = store.gc(&two.max_entries(1)).unwrap();
    assert_eq!(
        (report.removed, kept(&report)),
        (2, vec![KeptReason::InUse])
    );
    assert!(lease.join("sub/a").exists());
    drop(lease);
    store.clear().unwrap();
    assert_eq!(listing(dir.path()), empty_store());
}

#[test]
fn the_caller_keeps_what_it_refers_to() {
    let dir = tempdir();
    let store = aged_values(dir.path(), 4);
    let one = GcPolicy::default().max_entries(1);
    // It may use the store about the very entry.
    let wanted = |entry: &Entry| store.touch(entry).unwrap() && entry.key() == "1".key();
    let report = store
        .gc_keeping(&one.clone().max_entries(0), wanted)
        .unwrap();
    assert_eq!(
        kept(&report)
            .iter()
            .filter(|why| **why == KeptReason::ByCaller)
            .count(),
        1
    );
    // What was touched was used after the scan.
    assert_eq!(there(&store, 4).len(), 4);
    let dir = tempdir();
    let store = aged_values(dir.path(), 4);
    let report = store
        .gc_keeping(&one, |entry| entry.key() == "1".key())
        .unwrap();
    assert_eq!(
        (report.removed, kept(&report)),
        (3, vec![KeptReason::ByCaller])
    );
    assert_eq!(there(&store, 4), [1]);
}

#[test]
fn a_tree_takes_all_that_is_in_it_and_a_file_of_two_names_once() {
    let dir = tempdir();
    let store = trees(&dir.path().join("store"));
    plant(&store, "tree");
    let tree = store.base().join("tree".key());
    let blocks = |path: PathBuf| path.symlink_metadata().unwrap().blocks() * 512;
    let all = blocks(tree.clone())
        + blocks(tree.join("sub"))
        + blocks(tree.join("b"))
        + blocks(tree.with_file_name(beside(&tree, ".larder")));
    age_tree(&store, "tree", HOUR * 10);
    let report = store.gc(&GcPolicy::default().max_size(all)).unwrap();
    assert_eq!((report.removed, report.examined_bytes), (0, all));
    // A name outside the tree keeps its blocks.
    std::fs::hard_link(tree.join("b"), dir.path().join("outside")).unwrap();
    let freed = all - blocks(tree.join("b"));
    let report = store.gc(&GcPolicy::default().max_size(all - 1)).unwrap();
    assert_eq!((report.removed, report.freed_bytes), (1, freed));
    assert_eq!(listing(store.base()), empty_store());
}

#[test]
fn pins_keep_survive_and_are_listed() {
    let dir = tempdir();
    let store = aged_values(dir.path(), 3);
    assert!(store.pin("0").unwrap());
    assert!(store.pin("0").unwrap());
    assert!(!store.pin("not there").unwrap());
    let again = files(dir.path());
    let keys: BTreeSet<PathBuf> = again.pins().unwrap().iter().map(PathKey::key).collect();
    assert_eq!(keys, BTreeSet::from(["0".key(), "not there".key()]));
    assert!(again.is_pinned("0").unwrap() && !again.is_pinned("1").unwrap());
    let none = GcPolicy::default().max_entries(0);
    let planned = again.gc(&none.clone().dry_run(true)).unwrap();
    let report = again.gc(&none).unwrap();
    assert_eq!(
        (report.removed, kept(&report)),
        (2, vec![KeptReason::Pinned])
    );
    assert_eq!(planned.kept, report.kept);
    let report = again.clear().unwrap();
    assert_eq!(
        (report.removed, kept(&report)),
        (0, vec![KeptReason::Pinned])
    );
    assert_eq!(there(&again, 3), [0]);
    for pin in again.pins().unwrap() {
        assert!(store.unpin(&pin).unwrap());
        assert!(!store.unpin(&pin).unwrap());
    }
    assert_eq!(store.pins().unwrap(), []);
    // Pinned after the collection had looked, in time all the same.
    let pins_it = |entry: &Entry| !store.pin(entry).unwrap();
    let report = again.gc_keeping(&none, pins_it).unwrap();
    assert_eq!(
        (report.removed, kept(&report)),
        (0, vec![KeptReason::Pinned])
    );
    assert!(store.unpin("0").unwrap());
    assert_eq!(store.gc(&none).unwrap().removed, 1);
    assert_eq!(listing(dir.path()), empty_store());
}

#[test]
fn what_the_dead_left_goes_too_and_a_dry_run_counts_it() {
    let dir = tempdir();
    let store = aged_values(dir.path(), 1);
    std::fs::create_dir_all(dir.path().join("X/Y/Z")).unwrap();
    std::fs::remove_file(dir.path().join("larder-spare")).unwrap();
    std::fs::write(dir.path().join("X/Y/stale.lock"), "").unwrap();
    std::fs::write(dir.path().join("tmp/f-0123456789"), "").unwrap();
    std::fs::create_dir(dir.path().join("tmp/dead-0123456789")).unwrap();
    let before = listing(dir.path());
    let planned = store.gc(&GcPolicy::default().dry_run(true)).unwrap();
    assert_eq!(listing(dir.path()), before);
    let report = store.gc(&GcPolicy::default()).unwrap();
    assert_eq!((planned.swept, report.swept), (3, 3));
    assert_eq!((report.examined, report.removed), (1, 0));
    store.remove("0").unwrap();
    assert_eq!(listing(dir.path()), empty_store());

    let store = trees(&dir.path().join("trees"));
    std::fs::create_dir_all(store.base().join("X/Y/Z")).unwrap();
    std::fs::create_dir(store.base().join("tmp/t-0123456789")).unwrap();
    std::fs::write(store.base().join("X/Y/Z/alone.larder"), "").unwrap();
    let planned = store.gc(&GcPolicy::default().dry_run(true)).unwrap();
    let report = store.gc(&GcPolicy::default()).unwrap();
    assert_eq!(planned.swept, report.swept);
    assert_eq!(listing(store.base()), empty_store());
}

#[test]
fn several_stores_are_under_one_cap() {
    let dir = tempdir();
    let store = aged_values(&dir.path().join("files"), 4); // 13 to 10 hours ago
    let forest = trees(&dir.path().join("trees")).with_wait(Wait::TryOnce);
    plant(&forest, "old");
    plant(&forest, "newer");
    age_tree(&forest, "old", HOUR * 12 + HOUR / 2);
    age_tree(&forest, "newer", HOUR * 11 + HOUR / 2);
    let three = GcPolicy::default().max_entries(3).stop_at_percent(100);
    let both: [&dyn larder::Collectable; 3] = [&forest, &store, &forest];
    let report = larder::gc_all(&both, &three).unwrap();
    assert_eq!((report.examined, report.removed), (6, 3));
    assert_eq!(there(&store, 4), [2, 3]);
    assert!(!forest.contains("old").unwrap() && forest.contains("newer").unwrap());
}

#[test]
fn progress_is_told() {
    let dir = tempdir();
    let store = aged_values(dir.path(), 5);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let policy = GcPolicy::default()
        .max_entries(0)
        .on_progress(move |progress| {
            let path = progress.just_removed.map(|removed| removed.path.clone());
            hears
                .lock()
                .unwrap()
                .push((progress.planned, progress.removed, path));
        });
    store.gc(&policy).unwrap();
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 5);
    let first = store.base().join("0".key());
    assert_eq!(heard[0], (5, 1, Some(first)));
    assert_eq!((heard[4].0, heard[4].1), (5, 5));
}

// --- one at a time ---

#[test]
fn one_process_collects_at_a_time() {
    let dir = tempdir();
    let store = aged_values(dir.path(), 2);
    let none = GcPolicy::default().max_entries(0);
    let inner = store.with_wait(Wait::TryOnce);
    let asked = Mutex::new(Vec::new());
    let report = store
        .gc_keeping(&none, |_| {
            let busy = inner.gc(&none).unwrap_err().kind();
            let due = inner.gc_if_due(&none, Duration::ZERO).unwrap();
            asked.lock().unwrap().push((busy, due.is_none()));
            // Only finding out is for everybody.
            inner.gc(&none.clone().dry_run(true)).unwrap().removed == 0
        })
        .unwrap();
    assert_eq!(report.removed, 2);
    assert_eq!(asked.into_inner().unwrap(), [(ErrorKind::Busy, true); 2]);
    store.with_wait(Wait::TryOnce).gc(&none).unwrap();
}

/// BASE: with clocks and the seam, which are a whole process's own: says what comes of `gc_if_due`.
fn by_another_clock(args: &[&str]) {
    let store = files(Path::new(args[0]));
    let none = GcPolicy::default().max_entries(0);
    arm([]);
    let early = store.gc_if_due(&none, HOUR).unwrap();
    say(&format!("early {} {:?}", early.is_none(), disarm()));
    let real = SystemTime::now();
    let removed = |clock| {
        set_clock(Some(clock));
        let report = store.gc_if_due(&none, HOUR).unwrap();
        report.map(|report| (report.removed, kept(&report)))
    };
    // A clock that went back a little leaves the last time in the future, and is waited out.
    say(&format!("back {:?}", removed(real - HOUR)));
    say(&format!("ahead {:?}", removed(real + HOUR + HOUR / 2)));
    // What seems to be used more than a day from now is the oldest, and not recent.
    say(&format!("far back {:?}", removed(real - HOUR * 48)));
}

#[test]
fn when_it_is_not_due_it_costs_one_stat_and_clocks_may_jump() {
    let dir = tempdir();
    let store = aged_values(dir.path(), 1);
    put(&store, "new");
    let mut worker = Worker::start(CLOCK, &[dir.path().to_str().unwrap()]);
    worker.expect("early true [\"stat\"]");
    worker.expect("back None");
    worker.expect("ahead Some((1, [TooRecent]))");
    worker.expect("far back Some((1, []))");
    worker.finish();
    assert_eq!(listing(dir.path()), empty_store());
}

#[test]
fn a_collection_is_due_when_none_has_ended_for_so_long() {
    let dir = tempdir();
    let store = files(dir.path());
    let policy = GcPolicy::default();
    let is_due = || store.gc_if_due(&policy, HOUR).unwrap().is_some();
    let much_later = || age(&dir.path().join("gc.lock"), HOUR);
    assert!(!is_due());
    much_later();
    assert!(is_due());
    assert!(!is_due());
    much_later();
    store.gc(&policy.clone().dry_run(true)).unwrap();
    assert!(is_due());
    much_later();
    store.gc(&policy).unwrap();
    assert!(!is_due());
}

// --- full disks ---

fn fill_inodes(mount: &Mount) {
    std::fs::create_dir(mount.path().join("hogs")).unwrap();
    for n in 0.. {
        if File::create(mount.path().join(format!("hogs/{n}"))).is_err() {
            return;
        }
    }
}

fn fill_bytes(mount: &Mount) {
    let mut hog = File::create(mount.path().join("hog")).unwrap();
    while hog.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
}

#[test]
fn a_full_disk_is_collected() {
    if !is_root("a_full_disk_is_collected") {
        return;
    }
    for fill in [fill_inodes, fill_bytes] {
        let mount = Mount::tmpfs("size=1m,nr_inodes=100");
        let store = aged_values(&mount.path().join("files"), 5);
        let forest = trees(&mount.path().join("trees"));
        plant(&forest, "old");
        age_tree(&forest, "old", HOUR * 10);
        fill(&mount);
        assert!(store.remove("4").unwrap());
        fill_again(&mount);
        let all_but_two = GcPolicy::default().max_entries(2).stop_at_percent(100);
        assert_eq!(store.gc(&all_but_two).unwrap().removed, 2);
        assert_eq!(there(&store, 5), [2, 3]);
        let space = GcPolicy::default().min_free(1 << 20);
        let report = larder::gc_all(&[&store, &forest], &space).unwrap();
        assert_eq!(report.removed, 3);
        assert!(
            report
                .removed_entries
                .iter()
                .all(|one| one.reason == GcReason::FreeSpace)
        );
        assert_eq!(listing(store.base()), empty_store());
        assert_eq!(listing(forest.base()), empty_store());
    }
}

/// What became free is taken at once, too.
fn fill_again(mount: &Mount) {
    for n in 0.. {
        let Ok(mut file) = File::create(mount.path().join(format!("again-{n}"))) else {
            return;
        };
        if file.write(&[0; 4096]).is_err() {
            return;
        }
    }
}

// --- kills ---

/// BASE KIND AT: collects all, and is killed before call AT; says `calls N` if it was not.
fn at_the_seam(args: &[&str]) {
    let none = GcPolicy::default().max_entries(0);
    let at = args[2].parse().unwrap();
    let collected = if args[1] == "files" {
        let store = files(Path::new(args[0]));
        arm([(at, Fault::Kill)]);
        store.gc(&none)
    } else {
        let store = trees(Path::new(args[0]));
        arm([(at, Fault::Kill)]);
        store.gc(&none)
    };
    let calls = disarm().len();
    assert_eq!(collected.unwrap().removed, 2);
    say(&format!("calls {calls}"));
}

fn killed_everywhere(kind: &str) {
    let dir = in_memory();
    let none = GcPolicy::default().max_entries(0);
    for at in 0.. {
        let base = dir.path().join(format!("{kind}-{at}"));
        let text = base.to_str().unwrap();
        if kind == "files" {
            aged_values(&base, 2);
        } else {
            let store = trees(&base);
            for key in ["0", "1"] {
                plant(&store, key);
                age_tree(&store, key, HOUR * 10);
            }
        }
        let mut worker = Worker::start(SEAM, &[text, kind, &at.to_string()]);
        if !worker.was_killed() {
            assert!(at > 30, "only {at} calls");
            return;
        }
        // Whole or absent; and the next one ends what was begun.
        if kind == "files" {
            let store = files(&base);
            for n in there(&store, 2) {
                assert_eq!(store.read(&n.to_string()).unwrap().unwrap(), TEXT);
                age_value(&store, &n.to_string(), HOUR * 10);
            }
            store.gc(&none).unwrap();
        } else {
            let store = trees(&base);
            for key in ["0", "1"] {
                let found = store.with_wait(Wait::TryOnce).get(key).unwrap();
                if let Some(lease) = found {
                    assert_eq!(std::fs::read(lease.join("sub/a")).unwrap(), TEXT);
                    drop(lease);
                    age_tree(&store, key, HOUR * 10);
                }
            }
            store.gc(&none).unwrap();
        }
        assert_eq!(listing(&base), empty_store(), "killed before call {at}");
        std::fs::remove_dir_all(&base).unwrap();
    }
}

#[test]
fn a_collector_of_files_is_killed_at_every_call() {
    killed_everywhere("files");
}

#[test]
fn a_collector_of_trees_is_killed_at_every_call() {
    killed_everywhere("trees");
}

// --- everybody at once ---

const KEYS: u32 = 24;
const WHILE: Duration = Duration::from_secs(3);

/// BASE: collects both stores down to a few entries until it is killed or the time is up.
fn collect_again_and_again(args: &[&str]) {
    let base = Path::new(args[0]);
    let (store, forest) = (quick_files(base), quick_trees(base));
    let few = GcPolicy::default().max_entries(8).min_idle(Duration::ZERO);
    let end = Instant::now() + WHILE;
    let mut removed = 0;
    while Instant::now() < end {
        removed += store.gc(&few).unwrap().removed;
        removed += forest.gc(&few).unwrap().removed;
        removed += larder::gc_all(&[&store, &forest], &few).unwrap().removed;
    }
    say(&format!("removed {removed}"));
}

fn quick_files(base: &Path) -> KVFileStore {
    StoreOptions::new()
        .durability(larder::Durability::None)
        .open_file_store(base.join("files"))
        .unwrap()
}

fn quick_trees(base: &Path) -> KVDirStore {
    StoreOptions::new()
        .durability(larder::Durability::None)
        .open_dir_store(base.join("trees"))
        .unwrap()
}

/// BASE SEED: reads, writes and removes values and trees, and looks at what it is given.
fn use_while_collected(args: &[&str]) {
    let base = Path::new(args[0]);
    let (store, forest) = (quick_files(base), quick_trees(base));
    let mut random = fastrand::Rng::with_seed(args[1].parse().unwrap());
    let end = Instant::now() + WHILE;
    let mut done = 0;
    while Instant::now() < end {
        let key = random.u32(..KEYS).to_string();
        match random.u8(..8) {
            0 => drop(store.remove(&key).unwrap()),
            1 => {
                if let Err(err) = forest.remove(&key) {
                    assert_eq!(err.kind(), ErrorKind::InUse);
                }
            }
            2 => drop(store.set(&key, |w| Ok(w.write_all(TEXT)?)).unwrap()),
            3..6 => {
                let mut value = store.get_or_set(&key, |w| Ok(w.write_all(TEXT)?)).unwrap();
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut value, &mut bytes).unwrap();
                assert_eq!(bytes, TEXT);
            }
            _ => {
                let fill = |tree: &Path| {
                    std::fs::write(tree.join("a"), TEXT)?;
                    Ok(std::fs::write(tree.join("b"), TEXT)?)
                };
                let lease = forest.get_or_set(&key, fill).unwrap();
                for _ in 0..20 {
                    for name in ["a", "b"] {
                        assert_eq!(std::fs::read(lease.join(name)).unwrap(), TEXT);
                    }
                }
            }
        }
        done += 1;
    }
    say(&format!("done {done}"));
}

#[test]
fn collectors_readers_writers_and_removers_are_at_it_at_once_and_are_killed() {
    let dir = in_memory();
    let base = dir.path().to_str().unwrap();
    let (store, forest) = (quick_files(dir.path()), quick_trees(dir.path()));
    let start = |n: usize| match n % 4 {
        0 => Worker::start(COLLECT, &[base]),
        _ => Worker::start(USE, &[base, &n.to_string()]),
    };
    let mut workers: Vec<Worker> = (0..9).map(start).collect();
    let end = Instant::now() + WHILE;
    let mut random = fastrand::Rng::with_seed(1);
    let mut killed = 0;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.u64(20..200)));
        let at = random.usize(..workers.len());
        workers[at] = start(at); // what it replaces is killed
        killed += 1;
    }
    for worker in &mut workers {
        assert!(worker.wait().success());
    }
    assert!(killed > 10, "{killed}");
    let few = GcPolicy::default().max_entries(8).min_idle(Duration::ZERO);
    let report = larder::gc_all(&[&store, &forest], &few).unwrap();
    assert_eq!(kept(&report), []);
    assert!(store.entries().count() + forest.entries().count() <= 8);
    let none = few.max_entries(0);
    larder::gc_all(&[&store, &forest], &none).unwrap();
    assert_eq!(listing(store.base()), empty_store());
    assert_eq!(listing(forest.base()), empty_store());
}

/// A lock file beside a directory makes a tree of it. Made for a tree that was gone, beside a directory
/// that had come in its place with other entries in it, it had the next collection take those, leases and
/// all.
#[test]
fn what_has_made_room_for_others_takes_nothing_with_it() {
    struct At(&'static str);
    impl PathKey for At {
        fn key(&self) -> PathBuf {
            self.0.into()
        }
    }
    let plant = |tree: &Path| Ok(std::fs::write(tree.join("file"), "")?);
    let dir = tempdir();
    let store = KVDirStore::new(dir.path()).unwrap();
    drop(store.get_or_set(&At("foo"), plant).unwrap());
    let everything = GcPolicy::default().max_entries(0).min_idle(Duration::ZERO);
    let mut lease = None;
    let report = store.gc_keeping(&everything, |_foo| {
        assert!(store.remove(&At("foo")).unwrap());
        lease = Some(store.get_or_set(&At("foo/bar"), plant).unwrap());
        false
    });
    assert_eq!(report.unwrap().removed, 0);
    let lease = lease.unwrap();
    assert!(!store.base().join("foo.lock").exists());
    for report in [store.gc(&everything), store.clear()] {
        assert_eq!(report.unwrap().removed, 0);
        assert!(lease.join("file").exists());
    }
    // It is told that there is none, and makes no tree of it either.
    assert!(!store.remove(&At("foo")).unwrap());
    drop(lease);
    assert_eq!(store.clear().unwrap().removed, 1);
    assert_eq!(listing(store.base()), empty_store());
}

/// It had read the pins once, when it began.
#[test]
fn clear_leaves_what_is_pinned_while_it_works() {
    const COUNT: u32 = 2000;
    let dir = in_memory();
    let store = quick_files(dir.path());
    let keys: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
    for key in &keys {
        put(&store, key);
    }
    let clears = std::thread::spawn({
        let store = store.clone();
        move || store.clear().unwrap()
    });
    let pinned = keys.iter().filter(|key| store.pin(*key).unwrap());
    let pinned: Vec<_> = pinned.collect();
    clears.join().unwrap();
    for key in pinned {
        assert!(store.contains(key).unwrap());
    }
}
