//! What is wrong in a store is found and mended; what is foreign is only told; and what other processes
//! are just doing is no finding.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder::__fault::{Fault, arm, disarm};
use larder::{
    CheckOptions, CheckReport, Durability, ErrorKind, Finding, FindingKind, GcPolicy, GcReport,
    KVDirStore, KVFileStore, PathKey, RepairReport, Share, Stats, StoreOptions, Wait,
};

use crate::support::{
    Random, Start, Worker, at_once, chmod, empty_store, in_memory, is_root, listing, mode,
    reachable_exe, snapshot,
};
use crate::worker::{hear, say};

const BUSY: &str = "check-busy";
const REPAIR: &str = "check-repair";
const CHECK: &str = "check-check";
const HOLD: &str = "check-hold";

/// Plays a worker's role, if it is one of this module's.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        BUSY => be_busy(args),
        REPAIR => repair_and_meet(args),
        CHECK => {
            let report = Store::open(args[0], Path::new(args[1])).check();
            say(&format!("{:?}", kinds(&report.findings)));
        }
        HOLD => hold(args),
        _ => return false,
    }
    true
}

/// What there is to check: raw, sealed, or of trees.
const STORES: [&str; 3] = ["raw", "sealed", "trees"];

enum Store {
    Files(KVFileStore),
    Trees(KVDirStore),
}

impl Store {
    fn open(which: &str, base: &Path) -> Store {
        Store::open_with(which, base, StoreOptions::new())
    }

    fn open_with(which: &str, base: &Path, options: StoreOptions) -> Store {
        let options = options.durability(Durability::None).digest_trees(true);
        match which {
            "raw" => Store::Files(options.open_file_store(base).unwrap()),
            "sealed" => Store::Files(options.sealed(true).open_file_store(base).unwrap()),
            _ => Store::Trees(options.open_dir_store(base).unwrap()),
        }
    }

    /// One that has some entries.
    fn filled(which: &str, base: &Path) -> Store {
        let store = Store::open(which, base);
        for n in 0..5 {
            store.set(&format!("key {n}"));
        }
        store
    }

    fn set(&self, key: &str) {
        match self {
            Store::Files(store) => {
                store
                    .set(key, |w| Ok(w.write_all(key.as_bytes())?))
                    .unwrap();
            }
            Store::Trees(store) => {
                drop(store.replace(key, |tree| fill(tree, key)).unwrap());
            }
        }
    }

    fn base(&self) -> &Path {
        match self {
            Store::Files(store) => store.base(),
            Store::Trees(store) => store.base(),
        }
    }

    fn check(&self) -> CheckReport {
        match self {
            Store::Files(store) => store.check().unwrap(),
            Store::Trees(store) => store.check().unwrap(),
        }
    }

    /// With digests.
    fn check_all(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let options = CheckOptions::new().digests(true);
        match self {
            Store::Files(store) => store.check_each(&options, |found| findings.push(found)),
            Store::Trees(store) => store.check_each(&options, |found| findings.push(found)),
        }
        .unwrap();
        findings
    }

    fn repair(&self) -> larder::Result<RepairReport> {
        let options = CheckOptions::new().digests(true);
        match self {
            Store::Files(store) => store.repair_with(&options),
            Store::Trees(store) => store.repair_with(&options),
        }
    }

    fn stats(&self) -> Stats {
        match self {
            Store::Files(store) => store.stats().unwrap(),
            Store::Trees(store) => store.stats().unwrap(),
        }
    }

    fn gc(&self, policy: &GcPolicy) -> GcReport {
        match self {
            Store::Files(store) => store.gc(policy).unwrap(),
            Store::Trees(store) => store.gc(policy).unwrap(),
        }
    }

    fn clear(&self) {
        match self {
            Store::Files(store) => store.clear().unwrap(),
            Store::Trees(store) => store.clear().unwrap(),
        };
    }
}

fn fill(tree: &Path, text: &str) -> anyhow::Result<()> {
    fs::create_dir(tree.join("sub"))?;
    symlink("nowhere", tree.join("sub/link"))?;
    fs::write(tree.join("sub/text"), text)?;
    // A tree may have what looks like a store's.
    fs::write(tree.join("Cargo.lock"), text)?;
    Ok(())
}

fn kinds(findings: &[Finding]) -> Vec<FindingKind> {
    findings.iter().map(|found| found.kind).collect()
}

/// Where `key 0` is.
fn entry(base: &Path) -> PathBuf {
    base.join("key 0".key())
}

fn beside(entry: &Path, suffix: &str) -> PathBuf {
    let mut path = entry.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Something that is wrong: its name, in which stores it can be, how it comes about, what is found, and
/// whether that can be mended.
type Damage = (
    &'static str,
    &'static [&'static str],
    fn(&Path),
    FindingKind,
    bool,
);

const FILES: &[&str] = &["raw", "sealed"];
const TREES: &[&str] = &["trees"];
const SEALED: &[&str] = &["sealed"];

const DAMAGES: &[Damage] = &[
    (
        "no tmp",
        &STORES,
        |base| fs::remove_dir(base.join("tmp")).unwrap(),
        FindingKind::Furniture,
        true,
    ),
    (
        "no gc.lock",
        &STORES,
        |base| fs::remove_file(base.join("gc.lock")).unwrap(),
        FindingKind::Furniture,
        true,
    ),
    (
        "no tag",
        &STORES,
        |base| fs::remove_file(base.join("CACHEDIR.TAG")).unwrap(),
        FindingKind::Furniture,
        true,
    ),
    (
        "an empty tag",
        &STORES,
        |base| fs::write(base.join("CACHEDIR.TAG"), "").unwrap(),
        FindingKind::Furniture,
        true,
    ),
    (
        "a directory as gc.lock",
        &STORES,
        |base| {
            fs::remove_file(base.join("gc.lock")).unwrap();
            fs::create_dir(base.join("gc.lock")).unwrap();
        },
        FindingKind::Furniture,
        false,
    ),
    (
        "a stray in tmp",
        &STORES,
        |base| fs::write(base.join("tmp/notes"), "").unwrap(),
        FindingKind::Foreign,
        false,
    ),
    (
        "a link",
        &STORES,
        |base| symlink("/etc", base.join("x")).unwrap(),
        FindingKind::Foreign,
        false,
    ),
    (
        "a link as lock",
        &STORES,
        |base| symlink("/etc", base.join("x.lock")).unwrap(),
        FindingKind::Foreign,
        false,
    ),
    (
        "a pipe",
        &STORES,
        |base| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                base.join("pipe"),
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            )
            .unwrap();
        },
        FindingKind::Foreign,
        false,
    ),
    (
        "a socket",
        &STORES,
        |base| drop(UnixListener::bind(base.join("socket")).unwrap()),
        FindingKind::Foreign,
        false,
    ),
    (
        "a name too long",
        FILES,
        |base| fs::write(base.join("n".repeat(250)), "").unwrap(),
        FindingKind::ImpossibleName,
        false,
    ),
    (
        "a file among trees",
        TREES,
        |base| fs::write(base.join("file"), "").unwrap(),
        FindingKind::Foreign,
        false,
    ),
    (
        "a directory among trees",
        TREES,
        |base| {
            fs::create_dir(base.join("mine")).unwrap();
            fs::write(base.join("mine/file"), "").unwrap();
        },
        FindingKind::Foreign,
        false,
    ),
    (
        "somebody's lock file",
        &STORES,
        |base| {
            fs::write(base.join("Cargo.lock"), "version = 4").unwrap();
        },
        FindingKind::Foreign,
        false,
    ),
    (
        "a lock of nobody",
        &STORES,
        |base| {
            fs::create_dir(base.join("Z")).unwrap();
            fs::write(base.join("Z/key.lock"), "larder-lock 1\npid=1").unwrap();
        },
        FindingKind::OrphanLock,
        true,
    ),
    (
        "a lock beside a value",
        FILES,
        |base| fs::write(beside(&entry(base), ".lock"), "").unwrap(),
        FindingKind::OrphanLock,
        true,
    ),
    (
        "a sidecar without a tree",
        TREES,
        |base| {
            fs::remove_dir_all(entry(base)).unwrap();
            fs::remove_file(beside(&entry(base), ".lock")).unwrap();
        },
        FindingKind::OrphanSidecar,
        true,
    ),
    (
        "a sidecar of a value",
        FILES,
        |base| fs::write(beside(&entry(base), ".larder"), "").unwrap(),
        FindingKind::Foreign,
        false,
    ),
    (
        "empty directories",
        &STORES,
        |base| fs::create_dir_all(base.join("Z/Z/Z")).unwrap(),
        FindingKind::EmptyDirectory,
        true,
    ),
    (
        "a staged file",
        &STORES,
        |base| fs::write(base.join("tmp/f-0123456789"), "half").unwrap(),
        FindingKind::Leftover,
        true,
    ),
    (
        "a staged tree",
        &STORES,
        |base| {
            fs::create_dir(base.join("tmp/t-0123456789")).unwrap();
            fs::write(base.join("tmp/t-0123456789/file"), "half").unwrap();
            fs::write(base.join("tmp/t-0123456789.lock"), "").unwrap();
        },
        FindingKind::Leftover,
        true,
    ),
    (
        "a dead tree",
        &STORES,
        |base| {
            fs::create_dir_all(base.join("tmp/dead-0123456789/sub")).unwrap();
        },
        FindingKind::Leftover,
        true,
    ),
    (
        "write bits",
        FILES,
        |base| chmod(&entry(base), 0o664),
        FindingKind::Writable,
        true,
    ),
    (
        "a torn value",
        SEALED,
        |base| cut(&entry(base), 3),
        FindingKind::Damaged,
        true,
    ),
    (
        "an altered value",
        SEALED,
        |base| {
            chmod(&entry(base), 0o644);
            let file = fs::OpenOptions::new()
                .write(true)
                .open(entry(base))
                .unwrap();
            file.write_all_at(b"X", 1).unwrap();
            chmod(&entry(base), 0o444);
        },
        FindingKind::Damaged,
        true,
    ),
    (
        "an altered tree",
        TREES,
        |base| fs::write(entry(base).join("sub/text"), "other").unwrap(),
        FindingKind::Damaged,
        true,
    ),
    (
        "a torn sidecar",
        TREES,
        |base| cut(&beside(&entry(base), ".larder"), 5),
        FindingKind::Damaged,
        true,
    ),
    (
        "a sidecar of a later version",
        TREES,
        |base| {
            fs::write(beside(&entry(base), ".larder"), "larder-tree 2\n").unwrap();
        },
        FindingKind::FromTheFuture,
        false,
    ),
    (
        "a shard that is marked as a tree",
        TREES,
        |base| {
            let key = "key 0".key();
            let shard = key.components().next().unwrap();
            fs::write(beside(&base.join(shard), ".lock"), "").unwrap();
        },
        FindingKind::Nested,
        false,
    ),
];

fn cut(path: &Path, bytes: u64) {
    chmod(path, 0o644);
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes)
        .unwrap();
    chmod(path, 0o444);
}

/// Each kind of damage alone: nothing is found before it and just it after it, looking changes nothing,
/// repairing leaves what is foreign and nothing else, and repairing again does nothing.
#[test]
fn every_damage_is_found_and_mended() {
    // Each look waits for what others may be doing, so all wait together.
    let each = DAMAGES
        .iter()
        .flat_map(|damage| damage.1.iter().map(move |which| (damage, *which)));
    at_once(each, |(&(what, _, plant, kind, mendable), which)| {
        let dir = in_memory();
        let base = &dir.path().join("store");
        let store = Store::filled(which, base);
        plant(base);
        let before = snapshot(base);
        let found = store.check_all();
        assert_eq!(kinds(&found), [kind], "{which}, {what}: {found:?}");
        assert_eq!(found[0].mendable, mendable, "{which}, {what}");
        assert!(snapshot(base) == before, "{which}, {what}: checked");
        let report = store.repair().unwrap();
        if mendable {
            assert_eq!(kinds(&report.left.findings), [], "{which}, {what}");
            assert_eq!(store.check_all(), [], "{which}, {what}");
            let is_all_gone = kind == FindingKind::EmptyDirectory;
            assert_eq!(report.mended > 0, !is_all_gone, "{which}, {what}");
        } else {
            assert_eq!(report.left.findings, found, "{which}, {what}");
            assert!(
                report.mended == 0 && snapshot(base) == before,
                "{which}, {what}"
            );
        }
        let mended = snapshot(base);
        assert_eq!(store.repair().unwrap().mended, 0, "{which}, {what}");
        assert!(snapshot(base) == mended, "{which}, {what}: repaired twice");
    });
}

/// Names need not be text.
#[test]
fn names_that_are_no_text_are_found() {
    at_once(STORES, |which| {
        let dir = in_memory();
        let store = Store::filled(which, &dir.path().join("store"));
        let named = |name: &[u8]| store.base().join(OsStr::from_bytes(name));
        let (lock, link) = (named(b"\xff.lock"), named(b"\xfe"));
        fs::write(&lock, "").unwrap();
        symlink("/", &link).unwrap();
        let found = store.check_all().into_iter();
        let found: BTreeSet<_> = found.map(|found| found.path).collect();
        assert_eq!(found, [lock.clone(), link.clone()].into(), "{which}");
        store.repair().unwrap();
        let left = store.check_all();
        assert_eq!(kinds(&left), [FindingKind::Foreign], "{which}");
        assert_eq!(left[0].path, link, "{which}");
    });
}

/// All damage that can be mended, planted at once.
fn plant_all(which: &str, base: &Path) {
    for (what, stores, plant, _, mendable) in DAMAGES {
        // Each of these would undo another, or needs what another takes.
        let excluded = [
            "no tmp",
            "no tag",
            "an altered value",
            "an altered tree",
            "a torn sidecar",
        ];
        if *mendable && stores.contains(&which) && !excluded.contains(what) {
            plant(base);
        }
    }
}

/// An entry that is neither damaged nor lost stays.
#[test]
fn what_is_whole_survives_a_repair() {
    for which in STORES {
        let dir = in_memory();
        let base = &dir.path().join("store");
        let store = Store::filled(which, base);
        let whole: Vec<_> = (1..5)
            .map(|n| base.join(format!("key {n}").as_str().key()))
            .collect();
        let facts = |paths: &[PathBuf]| -> Vec<_> {
            paths
                .iter()
                .map(|path| path.metadata().unwrap().ino())
                .collect()
        };
        let before = facts(&whole);
        plant_all(which, base);
        store.repair().unwrap();
        assert_eq!(facts(&whole), before, "{which}");
        store.clear();
        assert_eq!(listing(base), empty_store(), "{which}");
        assert_eq!(store.check_all(), [], "{which}");
    }
}

/// A check of a store in order counts as no use, and says how much it looked at.
#[test]
fn checking_is_no_use() {
    for which in STORES {
        let dir = in_memory();
        let store = Store::filled(which, &dir.path().join("store"));
        let values = (0..5).map(|n| store.base().join(format!("key {n}").as_str().key()));
        let used = |path: PathBuf| path.metadata().unwrap().accessed().unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let values: Vec<PathBuf> = values.filter(|path| path.is_file()).collect();
        for path in &values {
            let file = fs::File::open(path).unwrap();
            file.set_times(fs::FileTimes::new().set_accessed(old))
                .unwrap();
        }
        assert_eq!(store.check().examined, 5, "{which}");
        assert_eq!(store.check_all(), [], "{which}");
        let stats = store.stats();
        assert_eq!(stats.entries, 5, "{which}");
        for path in values {
            assert_eq!(used(path), old, "{which}");
        }
    }
}

/// What a group may write to is not writable by mistake.
#[test]
fn a_shared_store_is_in_order() {
    for which in STORES {
        let dir = in_memory();
        let base = &dir.path().join("store");
        drop(Store::open_with(
            which,
            base,
            StoreOptions::new().shared(Share::Group),
        ));
        let store = Store::filled(which, base);
        assert_eq!(store.check_all(), [], "{which}");
        if which != "trees" {
            chmod(&entry(base), 0o662);
            let found = store.check_all();
            assert_eq!(kinds(&found), [FindingKind::Writable], "{which}");
            store.repair().unwrap();
            assert_eq!(mode(&entry(base)), 0o460, "{which}");
        }
    }
}

/// Downloads that are to go on later, and checkpoints of them: no call takes them for its own.
#[test]
fn what_a_client_has_in_its_own_directory_is_left_alone() {
    for which in STORES {
        let dir = in_memory();
        let base = &dir.path().join("store");
        let store = Store::filled(which, base);
        let partial = base.join("larder-partial");
        fs::create_dir_all(partial.join("A/B/C")).unwrap();
        fs::create_dir(partial.join("Z")).unwrap();
        symlink("nowhere", partial.join("link")).unwrap();
        for name in ["state.json", "state.json.lock", "f-0123456789"] {
            fs::write(partial.join(name), "a part").unwrap();
        }
        for name in ["value", "value.lock", "value.larder"] {
            fs::write(partial.join("A/B/C").join(name), "a part").unwrap();
        }
        let before = snapshot(&partial);
        assert_eq!(store.check_all(), [], "{which}");
        assert_eq!(store.repair().unwrap().mended, 0, "{which}");
        assert_eq!(store.stats().entries, 5, "{which}");
        let policy = GcPolicy::default().max_entries(0).min_idle(Duration::ZERO);
        assert_eq!(store.gc(&policy).removed, 5, "{which}");
        store.set("one more");
        store.clear();
        assert_eq!(snapshot(&partial), before, "{which}");
        fs::remove_dir_all(&partial).unwrap();
        assert_eq!(listing(base), empty_store(), "{which}");
    }
}

/// A store that lost its marker is nobody's to repair.
#[test]
fn without_its_marker_nothing_is_repaired() {
    for which in STORES {
        let dir = in_memory();
        let base = &dir.path().join("store");
        let store = Store::filled(which, base);
        plant_all(which, base);
        let marker = base.join("larder-store");
        let text = fs::read_to_string(&marker).unwrap();
        chmod(&marker, 0o644);
        for other in [
            Some(text.replace("share=private", "share=group")),
            Some("torn".into()),
            None,
        ] {
            match other {
                Some(other) => fs::write(&marker, other).unwrap(),
                None => fs::remove_file(&marker).unwrap(),
            }
            let before = snapshot(base);
            assert_eq!(kinds(&store.check_all()), [FindingKind::Marker], "{which}");
            assert_eq!(
                store.repair().unwrap_err().kind(),
                ErrorKind::FormatMismatch,
                "{which}"
            );
            assert!(snapshot(base) == before, "{which}");
        }
    }
}

/// Who may only read finds the same, and repairs nothing.
#[test]
fn a_read_only_store_is_checked_and_not_repaired() {
    at_once(STORES, |which| {
        let dir = in_memory();
        let base = &dir.path().join("store");
        let store = Store::filled(which, base);
        plant_all(which, base);
        let found = |store: &Store| -> BTreeSet<String> {
            store.check_all().iter().map(Finding::to_string).collect()
        };
        let reader = Store::open_with(which, base, StoreOptions::new().read_only(true));
        let before = snapshot(base);
        assert!(!found(&reader).is_empty(), "{which}");
        assert_eq!(found(&reader), found(&store), "{which}");
        assert_eq!(
            reader.repair().unwrap_err().kind(),
            ErrorKind::ReadOnly,
            "{which}"
        );
        assert!(snapshot(base) == before, "{which}");
    });
}

/// What another user may not read is a finding of its own for him, not an error and not damage.
#[test]
fn what_is_another_users_is_told() {
    if !is_root("what_is_another_users_is_told") {
        return;
    }
    let (_kept, exe) = reachable_exe();
    for which in STORES {
        let dir = in_memory();
        chmod(dir.path(), 0o755);
        let base = &dir.path().join("store");
        Store::filled(which, base);
        let hidden = if which == "trees" {
            beside(&entry(base), ".larder")
        } else {
            entry(base)
        };
        chmod(&hidden, 0);
        let mut worker =
            Start::as_user(4321, 4321, &exe).worker(CHECK, &[which, base.to_str().unwrap()]);
        let said = worker.next().unwrap();
        assert_eq!(said, format!("{:?}", [FindingKind::Unreadable]), "{which}");
        worker.finish();
    }
}

/// WHICH BASE: holds a lock (files) or a lease and a lock (trees), says `held`, holds until told.
fn hold(args: &[&str]) {
    match Store::open(args[0], Path::new(args[1])) {
        Store::Files(store) => {
            let lock = store.lock("other").unwrap();
            let write = lock.begin().unwrap();
            say("held");
            hear();
            drop(write);
        }
        Store::Trees(store) => {
            let lease = store.get("key 0").unwrap();
            let lock = store.lock("other").unwrap();
            let staged = lock.tempdir().unwrap();
            say("held");
            hear();
            drop((lease, staged));
        }
    }
}

/// What a live process holds is in the numbers, and is no finding; when it was killed, it is one.
#[test]
fn what_is_held_is_counted() {
    at_once(STORES, |which| {
        let dir = in_memory();
        let base = &dir.path().join("store");
        let store = Store::filled(which, base);
        let mut worker = Worker::start(HOLD, &[which, base.to_str().unwrap()]);
        worker.expect("held");
        let stats = store.stats();
        let leased = u64::from(which == "trees");
        let counted = (
            stats.leased,
            stats.locked,
            stats.staging,
            stats.staging_dead,
        );
        assert_eq!(counted, (leased, 1, 1, 0), "{which}");
        assert_eq!(store.check_all(), [], "{which}");
        worker.kill();
        let stats = store.stats();
        let counted = (
            stats.leased,
            stats.locked,
            stats.staging,
            stats.staging_dead,
        );
        assert_eq!(counted, (0, 0, 0, 1), "{which}");
        let found: BTreeSet<_> = store
            .check_all()
            .iter()
            .map(|found| format!("{:?}", found.kind))
            .collect();
        assert_eq!(
            found,
            ["Leftover", "OrphanLock"].map(String::from).into(),
            "{which}"
        );
        store.repair().unwrap();
        assert_eq!(store.check_all(), [], "{which}");
    });
}

#[test]
fn the_numbers_add_up() {
    for which in STORES {
        let dir = in_memory();
        let store = Store::filled(which, &dir.path().join("store"));
        let each = "key 0".len() as u64 * if which == "trees" { 2 } else { 1 };
        let stats = store.stats();
        assert_eq!((stats.entries, stats.bytes), (5, 5 * each), "{which}");
        assert!(stats.allocated >= 5 * 512, "{which}: {stats:?}");
        assert!(
            stats.oldest_use <= stats.newest_use && stats.oldest_use.is_some(),
            "{which}"
        );
        match &store {
            Store::Files(store) => {
                drop(store.get("key 0").unwrap());
                store.read("key 0").unwrap();
                store.read("absent").unwrap();
                store
                    .get_or_set("key 1", |_| panic!("it is there"))
                    .unwrap();
                store.get_or_set("new", |_| Ok(())).unwrap();
            }
            Store::Trees(store) => {
                drop(store.get("key 0").unwrap());
                drop(store.get("key 0").unwrap());
                drop(store.get("absent").unwrap());
                drop(
                    store
                        .get_or_set("key 1", |_| panic!("it is there"))
                        .unwrap(),
                );
                drop(store.get_or_set("new", |_| Ok(())).unwrap());
            }
        }
        let stats = store.stats();
        assert_eq!(stats.pinned, 0, "{which}");
        match &store {
            Store::Files(store) => assert!(store.pin("key 0").unwrap()),
            Store::Trees(store) => assert!(store.pin("key 0").unwrap()),
        }
        assert_eq!(store.stats().pinned, 1, "{which}");
        let counted = (
            stats.hits,
            stats.misses,
            stats.computed,
            stats.waited,
            stats.damaged,
        );
        assert_eq!(counted, (3, 1, 1, 0, 0), "{which}");
    }
}

/// WHICH BASE SEED: uses the store in every way until it is killed.
fn be_busy(args: &[&str]) {
    let store = Store::open(args[0], Path::new(args[1]));
    let mut random = Random::new(args[2].parse().unwrap());
    say("ready");
    loop {
        let key = format!("key {}", random.below(12));
        let done = match &store {
            Store::Files(store) => {
                let store = store.with_wait(Wait::Timeout(Duration::from_millis(20)));
                let write = |w: &mut larder::ValueWriter| Ok(w.write_all(key.as_bytes())?);
                match random.below(6) {
                    0 => store.set(&key, write).map(drop),
                    1 => store.remove(&key).map(drop),
                    2 => store.get(&key).map(drop),
                    3 => store.lock(&key).map(drop),
                    4 if random.below(20) == 0 => store.sweep().map(drop),
                    _ => store.get_or_set(&key, write).map(drop),
                }
            }
            Store::Trees(store) => {
                let store = store.with_wait(Wait::Timeout(Duration::from_millis(20)));
                match random.below(6) {
                    0 => store.replace(&key, |tree| fill(tree, &key)).map(drop),
                    1 => store.remove(&key).map(drop),
                    2 => store.get(&key).map(drop),
                    3 => store.lock(&key).map(drop),
                    4 if random.below(20) == 0 => store.sweep().map(drop),
                    _ => store.get_or_set(&key, |tree| fill(tree, &key)).map(drop),
                }
            }
        };
        if let Err(err) = done {
            let expected = [ErrorKind::Busy, ErrorKind::InUse];
            assert!(expected.contains(&err.kind()), "{err}");
        }
    }
}

/// What one who was killed may leave.
const OF_THE_DEAD: [FindingKind; 4] = [
    FindingKind::Leftover,
    FindingKind::OrphanLock,
    FindingKind::OrphanSidecar,
    FindingKind::EmptyDirectory,
];

/// As long as all live, nothing is found; when some are killed, only what the dead leave; and when all
/// are gone, a repair leaves nothing to find.
#[test]
fn a_store_in_use_has_no_false_findings() {
    for which in STORES {
        let dir = in_memory();
        let base = &dir.path().join("store");
        let store = Store::filled(which, base);
        let seed = std::process::id();
        println!("{which}: seed {seed}");
        let mut random = Random::new(seed.into());
        let start = |n: u64| {
            let seed = (u64::from(seed) + n).to_string();
            let mut worker = Worker::start(BUSY, &[which, base.to_str().unwrap(), &seed]);
            worker.expect("ready");
            worker
        };
        let mut workers: Vec<Worker> = (0..8).map(start).collect();
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            let found = store.check_all();
            assert_eq!(found, [], "{which}: nobody was killed");
        }
        let end = Instant::now() + Duration::from_secs(2);
        let mut n = 8;
        while Instant::now() < end {
            for _ in 0..5 {
                let at = random.below(8) as usize;
                workers[at].kill();
                workers[at] = start(n);
                n += 1;
            }
            let found = store.check_all();
            assert!(
                kinds(&found).iter().all(|kind| OF_THE_DEAD.contains(kind)),
                "{which}: {found:?}"
            );
            assert_eq!(
                kinds(&store.repair().unwrap().left.findings)
                    .iter()
                    .find(|kind| !OF_THE_DEAD.contains(kind)),
                None
            );
        }
        for worker in &mut workers {
            worker.kill();
        }
        assert_eq!(store.repair().unwrap().left.findings, [], "{which}");
        assert_eq!(store.check_all(), [], "{which}");
        store.clear();
        assert_eq!(listing(base), empty_store(), "{which}");
    }
}

/// WHICH BASE N: repairs, and is killed before call N. Says how many calls there were.
fn repair_and_meet(args: &[&str]) {
    let store = Store::open(args[0], Path::new(args[1]));
    arm([(args[2].parse().unwrap(), Fault::Kill)]);
    store.repair().unwrap();
    say(&format!("calls {}", disarm().len()));
}

/// Killed before any call, it leaves what a second repair mends; what was whole stays.
#[test]
fn a_repair_is_killed_everywhere() {
    at_once(STORES, |which| {
        let mut n = 0;
        loop {
            let dir = in_memory();
            let base = &dir.path().join("store");
            let store = Store::filled(which, base);
            plant_all(which, base);
            let mut worker =
                Worker::start(REPAIR, &[which, base.to_str().unwrap(), &n.to_string()]);
            let was_killed = worker.was_killed();
            store.repair().unwrap();
            assert_eq!(store.check_all(), [], "{which}: killed before call {n}");
            let keys = store.stats().entries;
            assert_eq!(
                keys,
                if which == "raw" { 5 } else { 4 },
                "{which}: killed before call {n}"
            );
            if !was_killed {
                break;
            }
            // Not every call every time: the same ones come again and again.
            n += 1 + n / 8;
        }
        println!("{which}: up to call {n}");
        assert!(n > 100, "{which}");
    });
}

// --- pins ---

/// A file of somebody's made `pins` fail, no check found it, and `stats` counted it.
#[test]
fn what_is_no_pin_is_told_and_hinders_no_pin() {
    let dir = in_memory();
    let store = Store::open("raw", dir.path());
    let Store::Files(files) = &store else {
        unreachable!()
    };
    let pins = dir.path().join("larder-pins");
    files.pin("pinned").unwrap();
    let pinned = fs::read_dir(&pins).unwrap().next().unwrap().unwrap();
    // Two names as pins have them, of something else.
    let like = |end: &str| {
        let name = pinned.file_name().into_string().unwrap();
        format!("{}{end}", &name[..name.len() - 2])
    };
    fs::write(pins.join("notes.txt"), "mine").unwrap();
    fs::write(pins.join(like("AA")), "what").unwrap();
    symlink("nowhere", pins.join("link")).unwrap();
    symlink("nowhere", pins.join(like("AE"))).unwrap();
    fs::create_dir(pins.join("dir")).unwrap();
    drop(UnixListener::bind(pins.join("socket")).unwrap());
    let foreign: BTreeSet<PathBuf> = [
        "notes.txt",
        &like("AA"),
        "link",
        &like("AE"),
        "dir",
        "socket",
    ]
    .iter()
    .map(|name| pins.join(name))
    .collect();
    let keys = || -> Vec<PathBuf> { files.pins().unwrap().iter().map(PathKey::key).collect() };
    assert_eq!(keys(), ["pinned".key()]);
    let told = || {
        let findings = store.check().findings;
        assert!(findings.iter().all(|found| !found.mendable));
        assert_eq!(kinds(&findings), vec![FindingKind::Foreign; 6]);
        findings.into_iter().map(|found| found.path).collect()
    };
    assert_eq!(foreign, told());
    // Whether a key is pinned, the name alone says.
    assert_eq!(files.stats().unwrap().pinned_absent, 2);
    assert!(files.unpin("pinned").unwrap());
    assert_eq!(keys(), [] as [PathBuf; 0]);
    assert_eq!(files.stats().unwrap().pinned_absent, 1);
    assert_eq!(store.repair().unwrap().left.found, 6);
    assert_eq!(foreign, told());
    fs::remove_dir_all(&pins).unwrap();
    fs::write(&pins, "").unwrap();
    let findings = store.check().findings;
    assert_eq!(kinds(&findings), [FindingKind::Foreign]);
    assert_eq!(findings[0].path, pins);
}
