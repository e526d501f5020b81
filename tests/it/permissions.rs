//! Who may read and write what was published: umasks, groups, other users, read-only stores.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::{
    DirLease, Error, ErrorKind, GcPolicy, GcReport, KVDirLock, KVDirStore, KVFileLock, KVFileStore,
    PathKey, Share, StoreOptions,
};
use rustix::fs::{Gid, Uid};
use rustix::mount::MountFlags;
use tempfile::TempDir;

use crate::support::{
    Mount, Start, Worker, chmod, is_root, listing, mode, reachable_exe, snapshot,
    snapshot_with_accesses, wait_until_blocked,
};
use crate::worker::{hear, say};

const ANN: u32 = 12345;
const BOB: u32 = 12346;
const GROUP: u32 = 23456;
const OTHER_GROUP: u32 = 23457;

/// Plays a worker's role, if it is one of this module's.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    let user: fn(&[&str]) = match role {
        "user-of-files" => user_of_files,
        "user-of-trees" => user_of_trees,
        _ => return false,
    };
    user(args);
    true
}

/// UMASK BASE OPTIONS: opens the store, says `open`, or `error KIND SENTENCE`; then does what it is
/// told, a line at a time, and says what came of it.
fn begin(args: &[&str]) -> (PathBuf, StoreOptions) {
    let umask = u32::from_str_radix(args[0], 8).unwrap();
    rustix::process::umask(umask.into());
    let mut options = StoreOptions::new();
    for option in args[2].split_whitespace() {
        options = match option {
            "group" => options.shared(Share::Group),
            "private" => options.shared(Share::Private),
            "read-only-trees" => options.read_only_trees(true),
            "read-only" => options.read_only(true),
            "touch" => options.touch_after(std::time::Duration::ZERO),
            _ => panic!("no option {option:?}"),
        };
    }
    (args[1].into(), options)
}

fn opened<T>(opened: larder::Result<T>) -> Option<T> {
    match opened {
        Ok(store) => {
            say("open");
            Some(store)
        }
        Err(err) => {
            say(&failed(&err));
            None
        }
    }
}

fn failed(err: &Error) -> String {
    format!("error {:?} {err}", err.kind())
}

fn done<T>(result: larder::Result<T>, describe: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(found) => describe(found),
        Err(err) => failed(&err),
    }
}

fn described(report: &GcReport) -> String {
    let mut kept: Vec<_> = report
        .kept
        .iter()
        .map(|kept| format!("{:?} {}", kept.reason, kept.path.display()))
        .collect();
    kept.sort();
    format!(
        "removed {} swept {} kept [{}]",
        report.removed,
        report.swept,
        kept.join(", ")
    )
}

fn user_of_files(args: &[&str]) {
    let (base, options) = begin(args);
    let Some(store) = opened(options.open_file_store(base)) else {
        return;
    };
    let mut held: Option<KVFileLock> = None;
    loop {
        let told = hear();
        let words: Vec<&str> = told.split(' ').collect();
        let ran = std::cell::Cell::new("");
        let text = |w: &mut larder::ValueWriter| {
            ran.set(" ran");
            Ok(w.write_all(words[2].as_bytes())?)
        };
        let answer = match words[0] {
            "" => return,
            "get" => done(store.get(words[1]), |found| match found {
                Some(mut value) => {
                    let mut text = String::new();
                    value.read_to_string(&mut text).unwrap();
                    format!("value {text}")
                }
                None => "none".into(),
            }),
            "set" => done(store.set(words[1], text), |_| "set".into()),
            "get-or-set" => done(store.get_or_set(words[1], text), |value| {
                format!("{:?}", value.outcome())
            }),
            "batch" => {
                let mut batch = store.batch();
                let staged = batch.set(words[1], text);
                done(staged.and_then(|()| batch.commit()), |n| {
                    format!("batch {n}")
                })
            }
            "lock" => done(store.lock(words[1]), |lock| {
                held = Some(lock);
                "locked".into()
            }),
            "write" => {
                let mut write = held.as_ref().unwrap().begin().unwrap();
                write.write_all(words[1].as_bytes()).unwrap();
                done(write.commit().map(drop), |()| "written".into())
            }
            "unlock" => {
                held = None;
                "unlocked".into()
            }
            "remove" => done(store.remove(words[1]), |was| format!("removed {was}")),
            "touch" => done(store.touch(words[1]), |was| format!("touched {was}")),
            "clear" => done(store.clear(), |report| described(&report)),
            "sweep" => done(store.sweep(), |report| described(&report)),
            "link" => {
                let value = store.get(words[1]).unwrap().unwrap();
                match std::fs::hard_link(value.raw_path().unwrap(), words[2]) {
                    Ok(()) => "linked".into(),
                    Err(err) => format!("error {err}"),
                }
            }
            "entries" => format!("entries {}", store.entries().flatten().count()),
            _ => panic!("told {told:?}"),
        };
        say(&(answer + ran.get()));
    }
}

fn user_of_trees(args: &[&str]) {
    let (base, options) = begin(args);
    let Some(store) = opened(options.open_dir_store(base)) else {
        return;
    };
    let mut leases: Vec<DirLease> = Vec::new();
    let mut locks: Vec<KVDirLock> = Vec::new();
    loop {
        let told = hear();
        let words: Vec<&str> = told.split(' ').collect();
        let ran = std::cell::Cell::new("");
        let fill = |tree: &Path| {
            ran.set(" ran");
            Ok(plant(tree, words[2])?)
        };
        let leased = |found: DirLease| {
            let text = std::fs::read_to_string(found.join("text")).unwrap();
            let protected = if found.is_protected() {
                ""
            } else {
                " unprotected"
            };
            format!("tree {text} {:?}{protected}", found.outcome())
        };
        let answer = match words[0] {
            "" => return,
            "get" => done(store.get(words[1]), |found| {
                found.map_or("none".into(), leased)
            }),
            "make" => done(store.get_or_set(words[1], fill), leased),
            "replace" => done(store.replace(words[1], fill), leased),
            "lease" => {
                leases.extend(store.get(words[1]).unwrap());
                "leased".into()
            }
            "release" => {
                leases.clear();
                "released".into()
            }
            "lock" => done(store.lock(words[1]), |lock| {
                locks.push(lock);
                "locked".into()
            }),
            "unlock" => {
                locks.clear();
                "unlocked".into()
            }
            "remove" => done(store.remove(words[1]), |was| format!("removed {was}")),
            "touch" => done(store.touch(words[1]), |was| format!("touched {was}")),
            "clear" => done(store.clear(), |report| described(&report)),
            "sweep" => done(store.sweep(), |report| described(&report)),
            "gc" => {
                let policy = GcPolicy::default().max_size(1 << 20);
                let policy = policy.min_idle(Duration::ZERO);
                done(store.gc(&policy), |report| {
                    freed(&report) + &format!(" exceeded {:?}", report.exceeded)
                })
            }
            "clear-freed" => done(store.clear(), |report| freed(&report)),
            _ => panic!("told {told:?}"),
        };
        say(&(answer + ran.get()));
    }
}

/// How much is said to have been freed, in MiB.
fn freed(report: &GcReport) -> String {
    format!("{} freed {}", described(report), report.freed_bytes >> 20)
}

/// A tree with a bit of everything. The text says what is special about it.
fn plant(tree: &Path, text: &str) -> std::io::Result<()> {
    std::fs::write(tree.join("text"), text)?;
    std::fs::write(tree.join("run"), "#!/bin/sh")?;
    let run_mode = mode(&tree.join("run"));
    chmod(&tree.join("run"), run_mode | 0o100);
    std::fs::create_dir_all(tree.join("deep/er"))?;
    std::fs::write(tree.join("deep/er/file"), text)?;
    if text == "closed" {
        std::fs::create_dir(tree.join("shut"))?;
        std::fs::write(tree.join("shut/in"), "in")?;
        std::fs::write(tree.join("secret"), "secret")?;
        chmod(&tree.join("secret"), 0o000);
        chmod(&tree.join("shut"), 0o000);
        chmod(&tree.join("deep"), 0o555);
        chmod(tree, 0o555);
    }
    Ok(())
}

impl Worker {
    /// Tells it something and returns what it says to that.
    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.next().unwrap()
    }

    fn answers(&mut self, line: &str, answer: &str) {
        assert_eq!(self.ask(line), answer, "{line}");
    }

    /// Tells it something that must fail with this kind; returns the sentence.
    fn fails(&mut self, line: &str, kind: ErrorKind) -> String {
        let said = self.ask(line);
        match said.strip_prefix(&format!("error {kind:?} ")) {
            Some(sentence) => sentence.to_owned(),
            None => panic!("{line} was to fail with {kind:?} and said {said:?}"),
        }
    }
}

/// A place that everybody can reach, and a copy of this binary in it.
struct Ground {
    dir: TempDir,
    exe: PathBuf,
}

impl Ground {
    fn new() -> Ground {
        let (dir, exe) = reachable_exe();
        Ground { dir, exe }
    }

    /// A directory of somebody's, in which its owner makes a store.
    fn of(&self, name: &str, uid: u32, gid: u32, mode: u32) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        give(&path, uid, gid);
        chmod(&path, mode);
        path
    }

    fn start(
        &self,
        uid: u32,
        gid: u32,
        role: &str,
        umask: &str,
        base: &Path,
        options: &str,
    ) -> Worker {
        let start = Start::as_user(uid, gid, &self.exe);
        start.worker(role, &[umask, base.to_str().unwrap(), options])
    }

    fn files(&self, uid: u32, umask: &str, base: &Path, options: &str) -> Worker {
        let mut worker = self.start(uid, GROUP, "user-of-files", umask, base, options);
        worker.expect("open");
        worker
    }

    fn trees(&self, uid: u32, umask: &str, base: &Path, options: &str) -> Worker {
        let mut worker = self.start(uid, GROUP, "user-of-trees", umask, base, options);
        worker.expect("open");
        worker
    }
}

fn give(path: &Path, uid: u32, gid: u32) {
    rustix::fs::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).unwrap();
}

fn owner(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().uid()
}

fn value_of(base: &Path, key: &str) -> PathBuf {
    base.join(key.key())
}

fn lock_of(base: &Path, key: &str) -> PathBuf {
    beside(base, key, ".lock")
}

fn beside(base: &Path, key: &str, suffix: &str) -> PathBuf {
    let mut path = value_of(base, key).into_os_string();
    path.push(suffix);
    path.into()
}

/// The directories between a store's base and a key's value.
fn shards(base: &Path, key: &str) -> Vec<PathBuf> {
    let value = value_of(base, key);
    value
        .ancestors()
        .skip(1)
        .take(3)
        .map(Path::to_owned)
        .collect()
}

/// The modes of everything in a tree, its own under the name of nothing.
fn modes(tree: &Path) -> Vec<(String, u32)> {
    listing(tree)
        .into_iter()
        .chain([String::new()])
        .map(|name| {
            let mode = mode(&tree.join(name.trim_end_matches('/')));
            (name, mode)
        })
        .collect()
}

// --- umasks ---

#[test]
fn values_are_published_with_the_callers_umask_and_without_write_bits() {
    if !is_root("values_are_published_with_the_callers_umask_and_without_write_bits") {
        return;
    }
    let ground = Ground::new();
    for (umask, value, file, dir) in [
        ("022", 0o444, 0o644, 0o755),
        ("077", 0o400, 0o600, 0o700),
        ("002", 0o444, 0o664, 0o775),
        ("027", 0o440, 0o640, 0o750),
    ] {
        let base = ground.of(umask, ANN, GROUP, 0o755).join("store");
        let mut ann = ground.files(ANN, umask, &base, "");
        ann.answers("set one text", "set ran");
        ann.answers("get-or-set two text", "Computed ran");
        ann.answers("batch three text", "batch 1 ran");
        ann.answers("lock four", "locked");
        assert_eq!(mode(&lock_of(&base, "four")), file);
        ann.answers("write text", "written");
        ann.answers("unlock", "unlocked");
        for key in ["one", "two", "three", "four"] {
            assert_eq!(mode(&value_of(&base, key)), value, "{umask} {key}");
            for shard in shards(&base, key) {
                assert_eq!(mode(&shard), dir, "{umask} {key}");
            }
        }
        for own in ["larder-store", "larder-spare", "gc.lock", "CACHEDIR.TAG"] {
            assert_eq!(mode(&base.join(own)), file, "{umask} {own}");
        }
        assert_eq!((mode(&base), mode(&base.join("tmp"))), (dir, dir));
        // Any later process of the same user can use all of it, under whatever umask.
        let mut later = ground.files(ANN, "077", &base, "");
        for key in ["one", "two", "three", "four"] {
            later.answers(&format!("get {key}"), "value text");
            later.answers(&format!("set {key} new"), "set ran");
            later.answers(&format!("remove {key}"), "removed true");
        }
    }
}

#[test]
fn trees_are_published_with_the_callers_umask() {
    if !is_root("trees_are_published_with_the_callers_umask") {
        return;
    }
    let ground = Ground::new();
    for (umask, file, run, dir) in [
        ("022", 0o644, 0o744, 0o755),
        ("077", 0o600, 0o700, 0o700),
        ("002", 0o664, 0o764, 0o775),
    ] {
        let base = ground.of(umask, ANN, GROUP, 0o755).join("store");
        let mut ann = ground.trees(ANN, umask, &base, "");
        ann.answers("make key text", "tree text Computed ran");
        let tree = value_of(&base, "key");
        let expected = [
            ("deep/", dir),
            ("deep/er/", dir),
            ("deep/er/file", file),
            ("run", run),
            ("text", file),
            ("", dir),
        ];
        assert_eq!(
            modes(&tree),
            expected.map(|(name, mode)| (name.to_owned(), mode))
        );
        assert_eq!(mode(&lock_of(&base, "key")), file);
        assert_eq!(mode(&beside(&base, "key", ".larder")), file);
        for shard in shards(&base, "key") {
            assert_eq!(mode(&shard), dir);
        }
        let mut later = ground.trees(ANN, "077", &base, "");
        later.answers("get key", "tree text Hit");
        later.answers("replace key new", "tree new Computed ran");
        later.answers("remove key", "removed true");
    }
}

#[test]
fn read_only_trees_have_no_write_bits_and_can_be_taken_away() {
    if !is_root("read_only_trees_have_no_write_bits_and_can_be_taken_away") {
        return;
    }
    let ground = Ground::new();
    for (umask, file, run, dir) in [("022", 0o444, 0o544, 0o555), ("077", 0o400, 0o500, 0o500)] {
        let base = ground.of(umask, ANN, GROUP, 0o755).join("store");
        let mut ann = ground.trees(ANN, umask, &base, "read-only-trees");
        let tree = value_of(&base, "key");
        let expected = [
            ("deep/", dir),
            ("deep/er/", dir),
            ("deep/er/file", file),
            ("run", run),
            ("text", file),
            ("", dir),
        ]
        .map(|(name, mode)| (name.to_owned(), mode));
        ann.answers("make key one", "tree one Computed ran");
        assert_eq!(modes(&tree), expected);
        ann.answers("replace key two", "tree two Computed ran");
        assert_eq!(modes(&tree), expected);
        ann.answers("get key", "tree two Hit");
        ann.answers("remove key", "removed true");
        ann.answers("make key three", "tree three Computed ran");
        ann.answers("make other four", "tree four Computed ran");
        ann.answers("clear", "removed 2 swept 0 kept []");
        assert_eq!(listing(&base), crate::support::empty_store());
    }
}

#[test]
fn other_trees_have_the_bits_that_the_closure_gave_them_and_can_be_taken_away() {
    if !is_root("other_trees_have_the_bits_that_the_closure_gave_them_and_can_be_taken_away") {
        return;
    }
    let ground = Ground::new();
    let base = ground.of("ann", ANN, GROUP, 0o755).join("store");
    let mut ann = ground.trees(ANN, "022", &base, "");
    let tree = value_of(&base, "key");
    let expected = [
        ("deep/", 0o555),
        ("deep/er/", 0o755),
        ("deep/er/file", 0o644),
        ("run", 0o744),
        ("secret", 0o000),
        ("shut/", 0o500), // what its owner cannot enter could not be counted
        ("shut/in", 0o644),
        ("text", 0o644),
        ("", 0o555),
    ]
    .map(|(name, mode)| (name.to_owned(), mode));
    ann.answers("make key closed", "tree closed Computed ran");
    assert_eq!(modes(&tree), expected);
    ann.answers("replace key closed", "tree closed Computed ran");
    assert_eq!(modes(&tree), expected);
    ann.answers("remove key", "removed true");
    // Also where somebody closed it after it was published.
    ann.answers("make key text", "tree text Computed ran");
    for path in ["deep/er", "deep", ""] {
        chmod(&tree.join(path), 0o000);
    }
    ann.answers("remove key", "removed true");
    assert_eq!(listing(&base), crate::support::empty_store());
}

// --- a group's store ---

/// Checks that the group can use everything, and that the group is the base directory's.
fn is_the_groups(base: &Path) {
    for name in listing(base).into_iter().chain([String::new()]) {
        let path = base.join(name.trim_end_matches('/'));
        let meta = path.symlink_metadata().unwrap();
        assert_eq!(meta.gid(), GROUP, "{name}");
        let needed = if meta.is_dir() { 0o2070 } else { 0o060 };
        assert_eq!(mode(&path) & needed, needed, "{name}: {:o}", mode(&path));
    }
}

/// Every pair of umasks for two users of a group's store. Their own group is another one, so that
/// what they make would not be the group's by itself.
fn in_pairs(role: &str, options: &str, check: fn(&Path, &mut Worker, &mut Worker)) {
    let ground = Ground::new();
    for umask in ["022", "077", "027"] {
        for other in ["022", "077", "027"] {
            let name = format!("{umask}-{other}");
            let base = ground.of(&name, ANN, GROUP, 0o755).join("store");
            let start = |uid, umask: &str, options: &str| {
                let mut worker = ground.start(uid, GROUP, role, umask, &base, options);
                worker.expect("open");
                worker
            };
            let mut ann = start(ANN, umask, &format!("group {options}"));
            let mut bob = start(BOB, other, options); // the marker says that it is a group's
            is_the_groups(&base);
            check(&base, &mut ann, &mut bob);
            check(&base, &mut bob, &mut ann);
            is_the_groups(&base);
            // And nothing is left of either.
            assert_eq!(listing(&base), crate::support::empty_store());
        }
    }
}

#[test]
fn two_users_share_a_groups_store_of_files() {
    if !is_root("two_users_share_a_groups_store_of_files") {
        return;
    }
    in_pairs("user-of-files", "", |base, ann, bob| {
        ann.answers("set key one", "set ran");
        ann.answers("get-or-set second one", "Computed ran");
        ann.answers("batch third one", "batch 1 ran");
        for key in ["key", "second", "third"] {
            let mode = mode(&value_of(base, key));
            assert_eq!(mode & 0o770, 0o460, "{mode:o}: the owner's write bit goes");
        }
        is_the_groups(base);
        bob.answers("get key", "value one");
        bob.answers("touch key", "touched true");
        bob.answers("get-or-set key two", "Hit");
        bob.answers("set key two", "set ran");
        ann.answers("get key", "value two");
        ann.answers("remove key", "removed true");
        bob.answers("remove second", "removed true");
        // Locks, and waiting for each other, in the directories that the other made.
        ann.answers("lock key", "locked");
        is_the_groups(base);
        bob.tell("lock key");
        wait_until_blocked(bob.pid());
        ann.answers("write three", "written");
        ann.answers("unlock", "unlocked");
        bob.expect("locked");
        bob.answers("get key", "value three");
        ann.tell("get-or-set other one");
        assert_eq!(ann.next().unwrap(), "Computed ran");
        ann.tell("remove key");
        wait_until_blocked(ann.pid());
        bob.answers("unlock", "unlocked");
        ann.expect("removed true");
        bob.answers("clear", "removed 2 swept 0 kept []");
    });
}

/// The second of two locks on a key has the lock file of the first, which was another user's.
#[test]
fn two_users_share_a_groups_store_of_trees() {
    if !is_root("two_users_share_a_groups_store_of_trees") {
        return;
    }
    for options in ["", "read-only-trees"] {
        in_pairs("user-of-trees", options, |base, ann, bob| {
            ann.answers("make key one", "tree one Computed ran");
            is_the_groups(base);
            assert_eq!(mode(&value_of(base, "key").join("run")) & 0o110, 0o110);
            bob.answers("get key", "tree one Hit");
            bob.answers("touch key", "touched true");
            bob.answers("replace key two", "tree two Computed ran");
            is_the_groups(base);
            ann.answers("replace key three", "tree three Computed ran");
            bob.answers("remove key", "removed true");
            ann.answers("make key one", "tree one Computed ran");
            ann.answers("lease key", "leased");
            bob.fails("remove key", ErrorKind::InUse);
            bob.tell("replace key two");
            wait_until_blocked(bob.pid());
            ann.answers("release", "released");
            assert_eq!(bob.next().unwrap(), "tree two Computed ran");
            ann.answers("lock key", "locked");
            bob.tell("get key");
            wait_until_blocked(bob.pid());
            ann.answers("unlock", "unlocked");
            bob.expect("tree two Hit");
            bob.answers("make other one", "tree one Computed ran");
            ann.answers("clear", "removed 2 swept 0 kept []");
        });
    }
}

#[test]
fn another_user_of_the_group_can_hard_link_a_value() {
    if !is_root("another_user_of_the_group_can_hard_link_a_value") {
        return;
    }
    let ground = Ground::new();
    let base = ground.of("ann", ANN, GROUP, 0o755).join("store");
    let private = ground.of("private", ANN, GROUP, 0o755).join("store");
    let home = ground.of("bob", BOB, GROUP, 0o700);
    let linked = home.join("linked");
    let link = format!("link key {}", linked.display());
    let mut ann = ground.files(ANN, "077", &base, "group");
    let mut bob = ground.files(BOB, "022", &base, "");
    ann.answers("set key text", "set ran");
    bob.answers(&link, "linked");
    assert_eq!(std::fs::read(&linked).unwrap(), b"text");
    ann.answers("set key new", "set ran");
    assert_eq!(std::fs::read(&linked).unwrap(), b"text");
    // The reason for the group's write bit: without it the kernel may refuse.
    let protected = std::fs::read_to_string("/proc/sys/fs/protected_hardlinks").unwrap();
    if protected.trim() == "1" {
        std::fs::remove_file(&linked).unwrap();
        ground
            .files(ANN, "022", &private, "")
            .answers("set key text", "set ran");
        let mut bob = ground.files(BOB, "022", &private, "");
        assert!(bob.ask(&link).contains("not permitted"));
    }
}

#[test]
fn a_groups_store_stays_one() {
    if !is_root("a_groups_store_stays_one") {
        return;
    }
    let ground = Ground::new();
    for (role, name) in [("user-of-files", "files"), ("user-of-trees", "trees")] {
        let base = ground.of(name, ANN, GROUP, 0o755).join("store");
        let start = |uid, options| ground.start(uid, GROUP, role, "077", &base, options);
        start(ANN, "group").expect("open");
        let before = snapshot(&base);
        for uid in [ANN, BOB, 0] {
            start(uid, "").expect("open");
            start(uid, "group").expect("open");
            let refused = start(uid, "private").next().unwrap();
            assert!(refused.starts_with("error FormatMismatch"), "{refused}");
            assert!(refused.contains("another share"), "{refused}");
        }
        assert_eq!(snapshot(&base), before);
        // Nor does a private one become a group's.
        let base = ground.of(&format!("{name}-private"), ANN, GROUP, 0o755);
        ground
            .start(ANN, GROUP, role, "022", &base, "")
            .expect("open");
        let refused = ground.start(ANN, GROUP, role, "022", &base, "group").next();
        assert!(refused.unwrap().starts_with("error FormatMismatch"));
    }
}

/// Root, whose own group is another one, makes the store in a directory of the group's.
#[test]
fn what_is_made_in_a_groups_store_is_the_groups() {
    if !is_root("what_is_made_in_a_groups_store_is_the_groups") {
        return;
    }
    let ground = Ground::new();
    let base = ground.of("store", 0, GROUP, 0o700);
    let mut root = ground.start(0, 0, "user-of-files", "077", &base, "group");
    root.expect("open");
    root.answers("set key text", "set ran");
    let mut ann = ground.files(ANN, "077", &base, "");
    ann.answers("get key", "value text");
    ann.answers("set key new", "set ran");
    ann.answers("set other new", "set ran");
    root.answers("batch third text", "batch 1 ran");
    is_the_groups(&base);
    // Who is of another group has no business here.
    let mut stranger = ground.start(BOB, OTHER_GROUP, "user-of-files", "022", &base, "");
    let refused = stranger.next().unwrap();
    assert!(refused.starts_with("error Io"), "{refused}");
    assert!(refused.contains("check who owns it"), "{refused}");
}

// --- somebody else's private store ---

#[test]
fn another_users_values_can_be_read_and_not_written() {
    if !is_root("another_users_values_can_be_read_and_not_written") {
        return;
    }
    let ground = Ground::new();
    let base = ground.of("ann", ANN, GROUP, 0o755).join("store");
    let mut ann = ground.files(ANN, "022", &base, "");
    ann.answers("set key text", "set ran");
    let before = snapshot(&base);
    // A hit that is to be noted, and is not allowed to be, is a hit.
    let mut bob = ground.files(BOB, "022", &base, "touch");
    bob.answers("get key", "value text");
    bob.answers("get-or-set key new", "Hit");
    bob.answers("touch key", "touched true");
    bob.answers("get absent", "none");
    bob.answers("remove absent", "removed false");
    for line in [
        "get-or-set absent new",
        "set key new",
        "set absent new",
        "batch key new",
        "lock key",
        "lock absent",
        "remove key",
    ] {
        let sentence = bob.fails(line, ErrorKind::ReadOnly);
        assert!(
            sentence.contains("the store is read-only here"),
            "{sentence}"
        );
        assert!(sentence.contains(base.to_str().unwrap()), "{sentence}");
    }
    let value = value_of(&base, "key");
    let kept = format!("kept [NotPermitted {}]", value.display());
    bob.answers("clear", &format!("removed 0 swept 0 {kept}"));
    bob.answers("sweep", "removed 0 swept 0 kept []");
    assert_eq!(snapshot(&base), before);
    // What cannot be opened is no miss.
    ground
        .files(ANN, "077", &base, "")
        .answers("set key secret", "set ran");
    let sentence = bob.fails("get key", ErrorKind::Io);
    assert!(sentence.contains("check who owns it"), "{sentence}");
    bob.fails("get-or-set key new", ErrorKind::Io);
}

#[test]
fn another_users_trees_can_be_leased_and_not_written() {
    if !is_root("another_users_trees_can_be_leased_and_not_written") {
        return;
    }
    let ground = Ground::new();
    let base = ground.of("ann", ANN, GROUP, 0o755).join("store");
    let mut ann = ground.trees(ANN, "022", &base, "");
    ann.answers("make key text", "tree text Computed ran");
    let before = snapshot(&base);
    let mut bob = ground.trees(BOB, "022", &base, "touch");
    bob.answers("get key", "tree text Hit");
    bob.answers("make key new", "tree text Hit");
    bob.answers("touch key", "touched true");
    bob.answers("get absent", "none");
    for line in [
        "make absent new",
        "replace key new",
        "replace absent new",
        "remove key",
        "lock absent",
    ] {
        let sentence = bob.fails(line, ErrorKind::ReadOnly);
        assert!(
            sentence.contains("the store is read-only here"),
            "{sentence}"
        );
    }
    let value = value_of(&base, "key");
    let kept = format!("kept [NotPermitted {}]", value.display());
    bob.answers("clear", &format!("removed 0 swept 0 {kept}"));
    bob.answers("sweep", "removed 0 swept 0 kept []");
    // The lock file is there to be held, so the lease is one.
    bob.answers("lease key", "leased");
    ann.fails("remove key", ErrorKind::InUse);
    bob.answers("release", "released");
    assert_eq!(snapshot(&base), before);
    // Without a lock file there is nothing to hold.
    std::fs::remove_file(lock_of(&base, "key")).unwrap();
    bob.answers("get key", "tree text Hit unprotected");
    ann.answers("get key", "tree text Hit");
    bob.answers("get key", "tree text Hit");
}

#[test]
fn a_store_whose_owner_may_not_write_it_serves_hits() {
    if !is_root("a_store_whose_owner_may_not_write_it_serves_hits") {
        return;
    }
    fn close(base: &Path) {
        for name in listing(base).into_iter().chain([String::new()]) {
            let path = base.join(name.trim_end_matches('/'));
            chmod(&path, mode(&path) & !0o222);
        }
    }
    let ground = Ground::new();
    let files = ground.of("files", ANN, GROUP, 0o755);
    let trees = ground.of("trees", ANN, GROUP, 0o755);
    ground
        .files(ANN, "022", &files, "")
        .answers("set key text", "set ran");
    ground
        .trees(ANN, "022", &trees, "")
        .answers("make key text", "tree text Computed ran");
    close(&files);
    close(&trees);
    let before = (modes(&files), modes(&trees));
    for options in ["", "read-only"] {
        let mut ann = ground.files(ANN, "022", &files, options);
        ann.answers("get key", "value text");
        ann.answers("get-or-set key new", "Hit");
        for line in [
            "get-or-set absent new",
            "set key new",
            "remove key",
            "lock key",
            "batch key new",
        ] {
            ann.fails(line, ErrorKind::ReadOnly);
        }
        let mut ann = ground.trees(ANN, "022", &trees, options);
        ann.answers("get key", "tree text Hit");
        ann.answers("make key new", "tree text Hit");
        for line in ["make absent new", "replace key new", "remove key"] {
            ann.fails(line, ErrorKind::ReadOnly);
        }
        assert_eq!((modes(&files), modes(&trees)), before);
    }
}

// --- read-only mounts, and stores opened for reading only ---

#[test]
fn a_read_only_mount_serves_hits() {
    if !is_root("a_read_only_mount_serves_hits") {
        return;
    }
    let ground = Ground::new();
    let files = ground.of("files", 0, 0, 0o755);
    let trees = ground.of("trees", 0, 0, 0o755);
    let store = KVFileStore::new(&files).unwrap();
    store.set("key", |w| Ok(w.write_all(b"text")?)).unwrap();
    let store = KVDirStore::new(&trees).unwrap();
    let fill = |tree: &Path| Ok(std::fs::write(tree.join("text"), "text")?);
    drop(store.get_or_set("key", fill).unwrap());
    drop(store.get_or_set("no lock file", fill).unwrap());
    std::fs::remove_file(lock_of(&trees, "no lock file")).unwrap();
    let (files, trees) = (
        Mount::view(&files, MountFlags::RDONLY),
        Mount::view(&trees, MountFlags::RDONLY),
    );
    fn refused<T>(what: &str, result: larder::Result<T>) {
        let err = result.map(|_| ()).expect_err(what);
        assert_eq!(err.kind(), ErrorKind::ReadOnly, "{what}: {err}");
        let sentence = err.to_string();
        assert!(
            sentence.contains("the store is read-only here"),
            "{sentence}"
        );
    }
    for read_only in [false, true] {
        let options = StoreOptions::new().read_only(read_only);
        let options = options.touch_after(std::time::Duration::ZERO);
        let store = options.open_file_store(files.path()).unwrap();
        fn never(_: &mut larder::ValueWriter) -> anyhow::Result<()> {
            panic!("it cannot be published")
        }
        assert_eq!(store.read("key").unwrap().unwrap(), b"text");
        assert!(store.touch("key").unwrap());
        assert_eq!(store.get_or_set("key", never).unwrap().len(), 4);
        assert!(store.get("absent").unwrap().is_none());
        assert!(!store.remove("absent").unwrap());
        assert!(store.lock_if_exists("absent").unwrap().is_none());
        refused("get_or_set", store.get_or_set("absent", never));
        refused("set", store.set("key", never));
        refused("batch", store.batch().set("key", never));
        refused("remove", store.remove("key"));
        refused("lock", store.lock("key"));
        refused("lock of nothing", store.lock("absent"));
        refused("try_lock", store.try_lock("key"));
        refused("lock_if_exists", store.lock_if_exists("key"));
        refused("clear", store.clear());
        refused("sweep", store.sweep());
        assert_eq!(store.entries().map(Result::unwrap).count(), 1);

        let store = options.open_dir_store(trees.path()).unwrap();
        fn never_tree(_: &Path) -> anyhow::Result<()> {
            panic!("it cannot be published")
        }
        let lease = store.get("key").unwrap().unwrap();
        assert!(lease.is_protected());
        assert_eq!(std::fs::read(lease.join("text")).unwrap(), b"text");
        drop(lease);
        let lease = store.get_or_set("no lock file", never_tree).unwrap();
        assert!(!lease.is_protected());
        assert_eq!(std::fs::read(lease.join("text")).unwrap(), b"text");
        let mut command = std::process::Command::new("true");
        let err = lease.inherit(&mut command).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported);
        assert!(store.get("absent").unwrap().is_none());
        assert!(store.touch("key").unwrap());
        refused("get_or_set", store.get_or_set("absent", never_tree));
        refused("replace", store.replace("key", never_tree));
        refused("remove", store.remove("no lock file"));
        refused("lock of nothing", store.lock("absent"));
        refused("try_lock of nothing", store.try_lock("absent"));
        refused("clear", store.clear());
        refused("sweep", store.sweep());
        drop(lease);
        refused("remove", store.remove("key"));
        assert_eq!(store.entries().map(Result::unwrap).count(), 2);
    }
    // What is no store yet cannot become one there.
    let empty = ground.of("empty", 0, 0, 0o755);
    let empty = Mount::view(&empty, MountFlags::RDONLY);
    let err = KVFileStore::new(empty.path()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ReadOnly, "{err}");
    assert!(err.to_string().contains("none can be made there"), "{err}");
}

#[test]
fn a_store_opened_for_reading_only_is_not_written_to_at_all() {
    if !is_root("a_store_opened_for_reading_only_is_not_written_to_at_all") {
        return;
    }
    let ground = Ground::new();
    let base = ground.of("base", 0, 0, 0o755);
    // Reading would change access times by itself, were it not for this.
    let mount = Mount::view(&base, MountFlags::NOATIME);
    let files = KVFileStore::new(mount.path().join("files")).unwrap();
    files.set("key", |w| Ok(w.write_all(b"text")?)).unwrap();
    let trees = KVDirStore::new(mount.path().join("trees")).unwrap();
    drop(trees.get_or_set("key", |_| Ok(())).unwrap());
    drop(trees.get_or_set("no lock file", |_| Ok(())).unwrap());
    std::fs::remove_file(lock_of(trees.base(), "no lock file")).unwrap();
    // What a dead process left, and what somebody took away by hand.
    std::fs::write(files.base().join("tmp/f-0123456789"), "dead").unwrap();
    std::fs::remove_file(files.base().join("gc.lock")).unwrap();
    std::fs::create_dir(mount.path().join("empty")).unwrap();
    let before = snapshot_with_accesses(mount.path());

    let options = StoreOptions::new()
        .read_only(true)
        .touch_after(std::time::Duration::ZERO);
    let files = options.open_file_store(files.base()).unwrap();
    assert_eq!(files.read("key").unwrap().unwrap(), b"text");
    assert!(files.touch("key").unwrap());
    assert!(files.contains("key").unwrap());
    assert!(files.get("absent").unwrap().is_none());
    assert_eq!(files.get_or_set("key", |_| panic!()).unwrap().len(), 4);
    assert!(files.get_or_set("absent", |_| panic!()).is_err());
    assert!(files.set("key", |_| panic!()).is_err());
    assert!(files.remove("key").is_err());
    assert!(files.lock("key").is_err());
    assert!(files.batch().set("key", |_| panic!()).is_err());
    assert!(files.clear().is_err());
    assert!(files.sweep().is_err());
    let none = GcPolicy::default().max_entries(0).min_idle(Duration::ZERO);
    assert!(files.gc(&none).is_err());
    assert!(files.gc_if_due(&none, Duration::ZERO).is_err());
    assert!(files.pin("key").is_err());
    assert_eq!(files.gc(&none.dry_run(true)).unwrap().removed, 1);
    assert_eq!(files.entries().map(Result::unwrap).count(), 1);
    let trees = options.open_dir_store(trees.base()).unwrap();
    assert!(trees.get("key").unwrap().unwrap().is_protected());
    assert!(!trees.get("no lock file").unwrap().unwrap().is_protected());
    assert!(trees.touch("key").unwrap());
    assert!(trees.get("absent").unwrap().is_none());
    assert!(trees.get_or_set("absent", |_| panic!()).is_err());
    assert!(trees.replace("key", |_| panic!()).is_err());
    assert!(trees.remove("key").is_err());
    assert!(trees.lock("key").is_err());
    assert!(trees.clear().is_err());
    assert!(trees.sweep().is_err());
    assert_eq!(trees.entries().map(Result::unwrap).count(), 2);
    let empty = options.open_file_store(mount.path().join("empty")).unwrap();
    assert!(empty.get("key").unwrap().is_none());
    assert!(empty.get_or_set("key", |_| panic!()).is_err());
    assert_eq!(snapshot_with_accesses(mount.path()), before);
}

// --- taking away what somebody else owns ---

#[test]
fn what_another_user_owns_is_kept_and_reported() {
    if !is_root("what_another_user_owns_is_kept_and_reported") {
        return;
    }
    let ground = Ground::new();
    // Anybody may make directories in it, and they are their makers'.
    let base = ground.of("base", ANN, GROUP, 0o755);
    let mut ann = ground.files(ANN, "022", &base, "");
    ann.answers("set ann text", "set ran");
    chmod(&base, 0o777);
    chmod(&base.join("tmp"), 0o777);
    let mut bob = ground.files(BOB, "077", &base, "");
    bob.answers("set bob text", "set ran");
    // What dead processes of both left.
    for (name, uid) in [("f-annannannn", ANN), ("f-bobbobbobb", BOB)] {
        std::fs::write(base.join("tmp").join(name), "dead").unwrap();
        give(&base.join("tmp").join(name), uid, GROUP);
        chmod(&base.join("tmp").join(name), 0o600);
    }
    let anns = value_of(&base, "ann");
    std::fs::write(lock_of(&base, "ann"), "").unwrap();
    give(&lock_of(&base, "ann"), ANN, GROUP);
    let kept = format!(
        "kept [NotPermitted {}, NotPermitted {}, NotPermitted {}]",
        anns.display(),
        lock_of(&base, "ann").display(),
        base.join("tmp/f-annannannn").display(),
    );
    bob.answers("clear", &format!("removed 1 swept 1 {kept}"));
    bob.answers("set bob text", "set ran");
    // Ann cannot even look into Bob's directories.
    let shard = shards(&base, "bob").pop().unwrap();
    let kept = format!("kept [NotPermitted {}]", shard.display());
    ann.answers("sweep", &format!("removed 0 swept 2 {kept}"));
    ann.answers("clear", &format!("removed 1 swept 0 {kept}"));
    assert!(value_of(&base, "bob").exists());
    let store = KVFileStore::new(&base).unwrap();
    assert_eq!(store.clear().unwrap().removed, 1);
    assert_eq!(listing(&base), crate::support::empty_store());
}

#[test]
fn a_tree_that_is_partly_anothers_goes_out_of_sight_and_waits() {
    if !is_root("a_tree_that_is_partly_anothers_goes_out_of_sight_and_waits") {
        return;
    }
    let ground = Ground::new();
    let base = ground.of("ann", ANN, GROUP, 0o755).join("store");
    let mut ann = ground.trees(ANN, "022", &base, "");
    for (end, answer) in [
        ("remove key", "removed true"),
        ("replace key new", "tree new Computed ran"),
        ("clear", "removed 1 swept 0 kept []"),
    ] {
        ann.answers("make key text", "tree text Computed ran");
        let tree = value_of(&base, "key");
        give(&tree.join("deep/er"), BOB, GROUP);
        if end == "clear" {
            // The sweep that ends a clearing meets what it has just set aside.
            let said = ann.ask(end);
            let kept = "removed 1 swept 0 kept [NotPermitted ";
            assert!(said.starts_with(kept), "{said}");
            assert!(said.contains("/tmp/dead-"), "{said}");
        } else {
            ann.answers(end, answer);
        }
        let dead: Vec<_> = listing(&base.join("tmp")).into_iter().collect();
        // What could be deleted is gone.
        assert!(
            dead[0].starts_with("dead-") && dead[0].len() == 16,
            "{dead:?}"
        );
        assert_eq!(
            dead[1..],
            ["deep/", "deep/er/", "deep/er/file"].map(|p| dead[0].clone() + p)
        );
        let waiting = base.join("tmp").join(dead[0].trim_end_matches('/'));
        let kept = format!("kept [NotPermitted {}]", waiting.display());
        ann.answers("sweep", &format!("removed 0 swept 0 {kept}"));
        assert!(waiting.join("deep/er/file").exists());
        assert_eq!(owner(&waiting.join("deep/er")), BOB);
        assert_eq!(KVDirStore::new(&base).unwrap().sweep().unwrap().swept, 1);
        assert!(!waiting.exists());
        if end.starts_with("replace") {
            ann.answers("remove key", "removed true");
        }
        assert_eq!(listing(&base), crate::support::empty_store());
    }
}

/// All that a tree took was said to be freed, and the limit to hold, while most of it stayed in `tmp/`.
#[test]
fn what_cannot_be_deleted_of_a_tree_is_not_said_to_be_freed() {
    if !is_root("what_cannot_be_deleted_of_a_tree_is_not_said_to_be_freed") {
        return;
    }
    let ground = Ground::new();
    let base = ground.of("ann", ANN, GROUP, 0o755).join("store");
    let mut ann = ground.trees(ANN, "022", &base, "");
    for (end, freed, exceeded) in [
        ("gc", 2, " exceeded [Exceeded { limit: Size, by: "),
        ("clear-freed", 2, ""),
    ] {
        ann.answers("make key text", "tree text Computed ran");
        let tree = value_of(&base, "key");
        std::fs::write(tree.join("text"), vec![1; 2 << 20]).unwrap();
        std::fs::write(tree.join("deep/er/file"), vec![1; 5 << 20]).unwrap();
        give(&tree.join("deep/er"), BOB, GROUP);
        let said = ann.ask(end);
        let dead: Vec<_> = listing(&base.join("tmp")).into_iter().collect();
        let waiting = base.join("tmp").join(dead[0].trim_end_matches('/'));
        let kept = format!("kept [NotPermitted {}]", waiting.display());
        let expected = format!("removed 1 swept 0 {kept} freed {freed}{exceeded}");
        assert!(said.starts_with(&expected), "{said}");
        let stats = KVDirStore::new(&base).unwrap().stats().unwrap();
        assert_eq!((stats.staging_dead, stats.staging_dead_bytes >> 20), (1, 5));
        if end == "gc" {
            // And the next one knows of it.
            let said = ann.ask(end);
            let expected = format!("removed 0 swept 0 {kept} freed 0{exceeded}");
            assert!(said.starts_with(&expected), "{said}");
        }
        assert_eq!(KVDirStore::new(&base).unwrap().sweep().unwrap().swept, 1);
    }
}

/// It was counted as swept, and that it was not went unsaid.
#[test]
fn a_staged_tree_that_is_partly_anothers_is_not_said_to_be_swept() {
    if !is_root("a_staged_tree_that_is_partly_anothers_is_not_said_to_be_swept") {
        return;
    }
    let ground = Ground::new();
    let base = ground.of("ann", ANN, GROUP, 0o755).join("store");
    let mut ann = ground.trees(ANN, "022", &base, "");
    let staged = base.join("tmp/t-0123456789");
    std::fs::create_dir_all(staged.join("bobs")).unwrap();
    std::fs::write(staged.join("bobs/file"), "dead").unwrap();
    give(&staged, ANN, GROUP);
    give(&staged.join("bobs"), BOB, GROUP);
    let kept = format!("kept [NotPermitted {}]", staged.display());
    ann.answers("sweep", &format!("removed 0 swept 0 {kept}"));
    assert_eq!(KVDirStore::new(&base).unwrap().sweep().unwrap().swept, 1);
    assert_eq!(listing(&base), crate::support::empty_store());
}
