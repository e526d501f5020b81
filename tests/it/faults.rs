//! A process is killed, or a call fails, at every system call that an operation makes.
//!
//! Each operation is one function below: what it finds, what it leaves, and how it is called. After
//! every fault the same must hold, which is what [`examine`] says: each key has its old value or its
//! new one, whole; the listing agrees; nobody waits for what is gone; and a sweep leaves just the
//! files that a store of these values has that never met a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::__fault::{Fault, arm, disarm};
use larder::{
    Barrier, DirLease, Durability, ErrorKind, GcReport, KVDirStore, KVFileStore, PathKey, Share,
    StoreOptions, Value, ValueWriter, Wait,
};
use rustix::fs::Mode;
use rustix::io::Errno;

use crate::support::{
    Worker, empty_store, eventually, in_memory, is_btrfs, listing, open_descriptors,
};
use crate::worker::say;

const OLD: &str = "old";
const NEW: &str = "new";
const AGAIN: &str = "again";

const KEYS: [&str; 4] = ["one", "two", "three", "four"];

/// What each of the keys has.
type State = [Option<&'static str>; 4];

const NOTHING: State = [None; 4];
const ONE_OLD: State = [Some(OLD), None, None, None];
const ONE_NEW: State = [Some(NEW), None, None, None];
const TWO_OLD: State = [Some(OLD), Some(OLD), None, None];

/// The settings: how a store is opened, or what its file system refuses.
///
/// `data`, the default, has runs of its own only where nothing is published: elsewhere all that it
/// calls `full` calls too, in the same order.
const OF_FILES: &[&str] = &["none", "full", "group"];
const OF_TREES: &[&str] = &["none", "full", "group", "read-only"];

/// Something that is done to a store.
struct Operation {
    is_of_trees: bool,
    before: State,
    after: State,
    settings: Vec<&'static str>,
    act: Act,
}

impl Operation {
    fn only(mut self, settings: &[&'static str]) -> Self {
        self.settings = settings.to_vec();
        self
    }

    fn and(mut self, setting: &'static str) -> Self {
        self.settings.push(setting);
        self
    }
}

enum Act {
    Open,
    /// `false`: it says that it has left something undone.
    Do(fn(&Store) -> larder::Result<bool>),
}

fn on_files(before: State, after: State, act: fn(&Store) -> larder::Result<bool>) -> Operation {
    Operation {
        is_of_trees: false,
        before,
        after,
        settings: OF_FILES.to_vec(),
        act: Act::Do(act),
    }
}

fn on_trees(before: State, after: State, act: fn(&Store) -> larder::Result<bool>) -> Operation {
    Operation {
        is_of_trees: true,
        before,
        after,
        settings: OF_TREES.to_vec(),
        act: Act::Do(act),
    }
}

fn opening(is_of_trees: bool, state: State) -> Operation {
    Operation {
        is_of_trees,
        before: state,
        after: state,
        settings: Vec::new(),
        act: Act::Open,
    }
}

/// Each operation, twice a test: `killed::NAME` and `failing::NAME`.
macro_rules! operations {
    ($($name:ident => $operation:expr;)*) => {
        fn operation(name: &str) -> Operation {
            match name {
                $(stringify!($name) => $operation,)*
                _ => panic!("no operation {name}"),
            }
        }

        mod killed {
            $(#[test] fn $name() { super::kill_everywhere(stringify!($name)); })*
        }

        mod failing {
            $(#[test] fn $name() { super::fail_everywhere(stringify!($name)); })*
        }
    };
}

operations! {
    opening_a_new_store_of_files => opening(false, NOTHING).only(&["data", "group"]);
    opening_a_new_store_of_trees => opening(true, NOTHING).only(&["data"]);
    opening_a_store_of_files => opening(false, ONE_OLD).only(&["data", "group"]);
    opening_a_store_of_trees => opening(true, ONE_OLD).only(&["data"]);

    file_get => on_files(ONE_OLD, ONE_OLD, get_file).only(&["data"]);
    file_get_or_set => on_files(NOTHING, ONE_NEW, get_or_set_file);
    file_set => on_files(NOTHING, ONE_NEW, set_file).only(&["none"]);
    file_set_again => on_files(ONE_OLD, ONE_NEW, set_file).only(&["full"]);
    file_remove => on_files(ONE_OLD, NOTHING, |store| store.files().remove(KEYS[0]))
        .only(&["none", "full"]);
    file_lock_begin_commit => on_files(NOTHING, ONE_NEW, write_locked_file).only(&["none"]);
    file_lock_begin_commit_again => on_files(ONE_OLD, ONE_NEW, write_locked_file).only(&["full"]);
    file_batch => on_files([None, Some(OLD), None, None], [Some(NEW); 4], set_batch)
        .only(&["full", "syncfs"]);
    file_clear => on_files(TWO_OLD, NOTHING, clear).only(&["full"]);

    tree_get => on_trees(ONE_OLD, ONE_OLD, get_tree).only(&["data"]);
    tree_get_or_set => on_trees(NOTHING, ONE_NEW, get_or_set_tree).and("syncfs");
    tree_replace => on_trees(ONE_OLD, ONE_NEW, replace_tree)
        .only(&["none", "full", "read-only", "no-exchange"]);
    tree_replace_nothing => on_trees(NOTHING, ONE_NEW, replace_tree).only(&["none"]);
    tree_remove => on_trees(ONE_OLD, NOTHING, |store| store.trees().remove(KEYS[0]))
        .only(&["none", "full", "no-rename"]);
    tree_lock_publish => on_trees(NOTHING, ONE_NEW, publish_tree).only(&["full"]);
    tree_lock_publish_again => on_trees(ONE_OLD, ONE_NEW, publish_tree).only(&["full"]);
    tree_clear => on_trees(TWO_OLD, NOTHING, clear).only(&["full", "read-only"]);
}

fn get_file(store: &Store) -> larder::Result<bool> {
    let found = store.files().get(KEYS[0])?;
    assert_eq!(found.map(word_of), Some(OLD), "a miss");
    Ok(true)
}

fn get_or_set_file(store: &Store) -> larder::Result<bool> {
    let value = store.files().get_or_set(KEYS[0], |w| write_value(w, NEW))?;
    assert_eq!(word_of(value), NEW);
    Ok(true)
}

fn set_file(store: &Store) -> larder::Result<bool> {
    let value = store.files().set(KEYS[0], |w| write_value(w, NEW))?;
    assert_eq!(word_of(value), NEW);
    Ok(true)
}

fn write_locked_file(store: &Store) -> larder::Result<bool> {
    let lock = store.files().lock(KEYS[0])?;
    let mut write = lock.begin()?;
    for piece in pieces(NEW) {
        if let Err(err) = write.write_all(&piece) {
            // Such an error stays with the writer, and comes back with its path.
            let stays = write.commit().unwrap_err();
            assert_eq!(stays.io_kind(), Some(err.kind()));
            return Err(stays);
        }
    }
    assert_eq!(word_of(write.commit()?.detach_unlocked()), NEW);
    Ok(true)
}

fn set_batch(store: &Store) -> larder::Result<bool> {
    let mut batch = store.files().batch();
    for key in KEYS {
        batch.set(key, |w| write_value(w, NEW))?;
    }
    assert_eq!(batch.commit()?, KEYS.len());
    Ok(true)
}

fn clear(store: &Store) -> larder::Result<bool> {
    Ok(store.clear()?.kept.is_empty())
}

fn get_tree(store: &Store) -> larder::Result<bool> {
    let found = store.trees().get(KEYS[0])?;
    assert_eq!(found.map(|lease| word_in(&lease)), Some(OLD), "a miss");
    Ok(true)
}

fn get_or_set_tree(store: &Store) -> larder::Result<bool> {
    made(store.trees().get_or_set(KEYS[0], |tree| fill(tree, NEW))?)
}

fn replace_tree(store: &Store) -> larder::Result<bool> {
    made(store.trees().replace(KEYS[0], |tree| fill(tree, NEW))?)
}

fn publish_tree(store: &Store) -> larder::Result<bool> {
    let lock = store.trees().lock(KEYS[0])?;
    let staged = lock.tempdir()?;
    fill(staged.path(), NEW).unwrap();
    made(lock.publish(staged)?)
}

#[allow(clippy::unnecessary_wraps)] // as the operations return it
fn made(lease: DirLease) -> larder::Result<bool> {
    assert!(lease.is_protected());
    assert_eq!(word_in(&lease), NEW);
    Ok(true)
}

/// A value is long enough for several writes, so that a torn one would be seen.
fn pieces(word: &str) -> [Vec<u8>; 3] {
    [10_000, 20_000, 100].map(|len| vec![word.as_bytes()[0]; len])
}

fn write_value(w: &mut ValueWriter, word: &str) -> anyhow::Result<()> {
    for piece in pieces(word) {
        w.write_all(&piece)?;
    }
    Ok(())
}

fn word_of(value: Value) -> &'static str {
    let mut bytes = Vec::new();
    // Past the seam: what is asked for is the value, not whether reading it can fail.
    std::io::Read::read_to_end(&mut value.into_file().unwrap(), &mut bytes).unwrap();
    let whole = |word: &&&str| pieces(word).concat() == bytes;
    let found = [OLD, NEW, AGAIN].iter().find(whole).copied();
    found.unwrap_or_else(|| panic!("a torn value of {} bytes", bytes.len()))
}

/// A tree has files, directories, one of them empty, and a link.
fn contents(word: &str) -> [(&'static str, String); 2] {
    [("a", word.repeat(3000)), ("sub/b", format!("{word} too"))]
}

fn fill(tree: &Path, word: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(tree.join("sub/empty"))?;
    std::os::unix::fs::symlink("../a", tree.join("sub/link"))?;
    for (name, text) in contents(word) {
        std::fs::write(tree.join(name), text)?;
    }
    Ok(())
}

fn word_in(tree: &Path) -> &'static str {
    let names: BTreeSet<String> = "a sub/ sub/b sub/empty/ sub/link"
        .split(' ')
        .map(str::to_owned)
        .collect();
    assert_eq!(listing(tree), names);
    let whole = |word: &&&str| {
        contents(word)
            .iter()
            .all(|(name, text)| std::fs::read_to_string(tree.join(name)).unwrap() == *text)
    };
    let found = [OLD, NEW, AGAIN].iter().find(whole).copied();
    found.unwrap_or_else(|| panic!("a mixture in {}", tree.display()))
}

/// A store of either kind.
enum Store {
    Files(KVFileStore),
    Trees(KVDirStore),
}

impl Store {
    /// As the case says.
    fn open(case: &Case, base: &Path) -> larder::Result<Store> {
        let durability = match case.setting {
            "none" => Durability::None,
            "full" => Durability::Full,
            _ => Durability::Data,
        };
        Store::open_with(case, durability, base)
    }

    /// In the same way but faster, for what is no part of the operation.
    fn open_beside(case: &Case, base: &Path) -> Store {
        Store::open_with(case, Durability::None, base).unwrap()
    }

    fn open_with(case: &Case, durability: Durability, base: &Path) -> larder::Result<Store> {
        let mut options = StoreOptions::new()
            .durability(durability)
            .read_only_trees(case.setting == "read-only")
            // So that each hit notes its use.
            .touch_after(Duration::ZERO);
        options = match case.setting {
            "group" => options.shared(Share::Group),
            "syncfs" => options.barrier(Barrier::FileSystem),
            _ => options,
        };
        Ok(if case.operation.is_of_trees {
            Store::Trees(options.open_dir_store(base)?.with_wait(Wait::TryOnce))
        } else {
            Store::Files(options.open_file_store(base)?.with_wait(Wait::TryOnce))
        })
    }

    fn files(&self) -> &KVFileStore {
        match self {
            Store::Files(store) => store,
            Store::Trees(_) => panic!("a store of trees"),
        }
    }

    fn trees(&self) -> &KVDirStore {
        match self {
            Store::Trees(store) => store,
            Store::Files(_) => panic!("a store of files"),
        }
    }

    fn word(&self, key: &str) -> Option<&'static str> {
        match self {
            Store::Files(store) => store.get(key).unwrap().map(word_of),
            Store::Trees(store) => store.get(key).unwrap().map(|lease| word_in(&lease)),
        }
    }

    fn state(&self) -> State {
        KEYS.map(|key| self.word(key))
    }

    fn put(&self, key: &str, word: &str) -> larder::Result<()> {
        match self {
            Store::Files(store) => drop(store.set(key, |w| write_value(w, word))?),
            Store::Trees(store) => drop(store.replace(key, |tree| fill(tree, word))?),
        }
        Ok(())
    }

    fn put_all(&self, state: State) {
        for (key, word) in KEYS.iter().zip(state) {
            if let Some(word) = word {
                self.put(key, word).unwrap();
            }
        }
    }

    fn sweep(&self) -> GcReport {
        match self {
            Store::Files(store) => store.sweep(),
            Store::Trees(store) => store.sweep(),
        }
        .unwrap()
    }

    fn clear(&self) -> larder::Result<GcReport> {
        match self {
            Store::Files(store) => store.clear(),
            Store::Trees(store) => store.clear(),
        }
    }

    /// The entries' paths, and whether the store knows all of each.
    fn entries(&self) -> BTreeMap<PathBuf, bool> {
        let entries = match self {
            Store::Files(store) => store.entries(),
            Store::Trees(store) => store.entries(),
        };
        entries
            .map(Result::unwrap)
            .map(|entry| {
                (
                    entry.key(),
                    entry.len().is_some() && entry.last_used().is_some(),
                )
            })
            .collect()
    }
}

/// An operation in a setting.
struct Case {
    name: String,
    operation: Operation,
    setting: &'static str,
}

impl Case {
    fn new(name: &str, setting: &str) -> Case {
        let operation = operation(name);
        let known = |known: &&&str| **known == setting;
        let setting = operation.settings.iter().find(known).copied().unwrap();
        Case {
            name: name.to_owned(),
            operation,
            setting,
        }
    }

    fn of(name: &str) -> Vec<Case> {
        let settings = operation(name).settings;
        settings
            .iter()
            .map(|setting| Case::new(name, setting))
            .collect()
    }

    fn opens(&self) -> bool {
        matches!(self.operation.act, Act::Open)
    }

    /// The keys that it is about, and at least one.
    fn keys(&self) -> &'static [&'static str] {
        let Operation { before, after, .. } = self.operation;
        let last = (0..KEYS.len()).rfind(|&n| before[n].or(after[n]).is_some());
        &KEYS[..=last.unwrap_or(0)]
    }

    /// All of those keys with this word.
    fn all(&self, word: &'static str) -> State {
        let mut state = NOTHING;
        state[..self.keys().len()].fill(Some(word));
        state
    }

    /// Whether the store's very directory is to be made.
    fn is_of_new_store(&self) -> bool {
        self.opens() && self.operation.before == NOTHING
    }

    /// The base directory for attempt `n` in `dir`.
    fn base(&self, dir: &Path, n: usize) -> PathBuf {
        if self.is_of_new_store() {
            dir.join(format!("{n}/above/store"))
        } else {
            dir.join("store")
        }
    }

    fn prepare(&self, base: &Path) {
        if !self.is_of_new_store() {
            Store::open_beside(self, base).put_all(self.operation.before);
        }
    }

    /// The store that is acted on; `None` for what is about to open it.
    fn store(&self, base: &Path) -> Option<Store> {
        (!self.opens()).then(|| Store::open(self, base).unwrap())
    }

    fn act(&self, base: &Path, store: Option<&Store>) -> larder::Result<bool> {
        match (&self.operation.act, store) {
            (Act::Do(act), Some(store)) => act(store),
            _ => Store::open(self, base).map(|_| true),
        }
    }

    /// What the file system of this setting refuses, whatever else happens: which call of those
    /// that the operation makes, and how.
    fn refused(&self, calls: &[impl AsRef<str>]) -> Vec<(usize, Fault)> {
        let (refused, errno) = match self.setting {
            "no-exchange" => ("exchange", Errno::INVAL),
            "no-rename" => ("rename", Errno::XDEV),
            _ => return Vec::new(),
        };
        let at = calls.iter().position(|call| call.as_ref() == refused);
        vec![(at.unwrap(), Fault::Fail(errno.raw_os_error()))]
    }

    /// What a process's own umask forbids, a shared store gives all the same.
    fn take_umask(&self) {
        if self.setting == "group" {
            rustix::process::umask(Mode::from_raw_mode(0o077));
        }
    }

    /// Without exchange there is a moment without the tree.
    fn may_lose(&self) -> bool {
        self.setting == "no-exchange"
    }
}

/// What is done to a store of which nobody knows what a fault has left in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Sweep,
    Set,
}

/// What may be left that only a sweep takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Left {
    /// Nothing: there was no fault.
    Nothing,
    /// Nothing in `tmp/`: there was a fault, and then time to put things in order.
    NothingStaged,
    Anything,
}

/// What must hold in a store after an operation on it met a fault.
fn examine(case: &Case, base: &Path, own: Option<&Store>, left: Left, first: First) -> State {
    let Operation { before, after, .. } = case.operation;
    let store = Store::open_beside(case, base);
    let mut state = store.state();
    let found = state;
    for n in 0..KEYS.len() {
        assert!(
            state[n] == before[n]
                || state[n] == after[n]
                || (case.may_lose() && state[n].is_none()),
            "{:?} is {:?}",
            KEYS[n],
            state[n]
        );
    }
    examine_entries(case, &store, state);
    examine_closed(case, base, &store);
    if left <= Left::NothingStaged {
        assert_eq!(listing(&base.join("tmp")), BTreeSet::new());
    }
    if left == Left::Nothing {
        // Then nothing else has to be put in order either.
        assert_eq!(listing(base), listing_of(case, state));
        store.clear().unwrap();
        return found;
    }
    let own = own.unwrap_or(&store);
    let again = case.all(AGAIN);
    if first == First::Set {
        own.put_all(again);
        state = again;
        assert_eq!(store.state(), state);
    }
    // A process that another test is just starting has for a moment what is open and locked here, and what
    // is locked stays for the next sweep.
    let in_order = listing_of(case, state);
    eventually("a sweep puts everything in order", || {
        assert_eq!(store.sweep().kept, []);
        listing(base) == in_order
    });
    let files = listing(base);
    if case.setting == "group" {
        examine_group(base, &files);
    }
    let tag = std::fs::read_to_string(base.join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
    assert_eq!(store.state(), state);
    case.keys()
        .iter()
        .for_each(|key| examine_lock(own, &store, key));
    assert_eq!(listing(base), files);
    if first == First::Sweep {
        own.put_all(again);
        store.put_all(again);
        assert_eq!(store.state(), again);
    }
    let report = store.clear().unwrap();
    let removed = case.keys().len() as u64;
    assert_eq!(
        (report.removed, report.swept, report.kept),
        (removed, 0, vec![])
    );
    assert_eq!(listing(base), empty_store());
    found
}

/// What was published is closed to writing.
fn examine_closed(case: &Case, base: &Path, store: &Store) {
    for path in store.entries().into_keys().map(|key| base.join(key)) {
        let files = if path.is_dir() {
            // The root is closed last.
            let inside = listing(&path);
            inside.iter().map(|name| path.join(name)).collect()
        } else {
            vec![path]
        };
        for file in files {
            let meta = file.symlink_metadata().unwrap();
            let open = match (case.operation.is_of_trees, case.setting) {
                (true, "read-only") | (false, "none" | "data" | "full" | "syncfs") => 0o222,
                (false, "group") => 0o202,
                _ => 0,
            };
            let mode = meta.permissions().mode();
            assert!(
                meta.is_symlink() || mode & open == 0,
                "{mode:o}: {}",
                file.display()
            );
        }
    }
}

/// What is durable is so before it has its name; with full durability the name is so after that.
fn examine_order(case: &Case, calls: &[String]) {
    let position = |from_end: bool, names: &[&str]| {
        let is = |call: &String| names.contains(&call.as_str());
        if from_end {
            calls.iter().rposition(is)
        } else {
            calls.iter().position(is)
        }
    };
    let synced = position(true, &["fdatasync", "fsync", "syncfs"]);
    let named = position(false, &["rename", "exchange"]);
    let names_synced = position(true, &["fsync-dir"]);
    // Who unlocks a lock file that still has its name may unlink one that is another's by then.
    let unlinked = position(true, &["unlink"]);
    let unlocked = position(true, &["flock-unlock"]);
    let locks_last = !case.operation.is_of_trees && case.name != "file_batch";
    assert!(
        !locks_last || unlocked.is_none() || unlinked < unlocked,
        "{calls:?}"
    );
    match case.setting {
        // There the sidecar has to be on the disk before its tree.
        "none" if case.operation.is_of_trees && is_btrfs(in_memory().path()) => {
            assert_eq!(names_synced, None);
            assert!(synced.is_none() || synced < named, "{calls:?}");
        }
        "none" => assert_eq!((synced, names_synced), (None, None)),
        _ if case.opens() || case.operation.before == case.operation.after => {}
        "full" | "syncfs" if case.operation.after == NOTHING => {
            assert!(case.setting != "full" || names_synced > named, "{calls:?}");
        }
        "full" | "syncfs" => {
            assert!(synced.is_some() && synced < named, "{calls:?}");
            assert!(case.setting != "full" || names_synced > named, "{calls:?}");
        }
        _ => {}
    }
}

fn examine_entries(case: &Case, store: &Store, state: State) {
    let mut expected = BTreeMap::new();
    for (n, key) in KEYS.iter().enumerate() {
        if let Some(word) = state[n] {
            // What is known of a tree is replaced before the tree is.
            let is_known = word == NEW || case.operation.before == case.operation.after;
            expected.insert(key.key(), is_known);
        }
    }
    for (path, is_known) in store.entries() {
        let expected = expected.remove(&path);
        assert!(expected.is_some(), "{} is listed", path.display());
        assert!(
            is_known >= expected.unwrap(),
            "{} is not known",
            path.display()
        );
    }
    assert!(expected.is_empty(), "not listed: {expected:?}");
}

/// Nobody has the lock of a key, and nobody in this process thinks that it leases its tree.
fn examine_lock(own: &Store, other: &Store, key: &str) {
    let refused = match other {
        Store::Files(store) => {
            let _lock = store.lock(key).unwrap();
            own.put(key, NEW)
        }
        Store::Trees(store) => {
            let _lock = store.lock(key).unwrap();
            own.put(key, NEW)
        }
    };
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy);
}

/// Everything in a shared store is the group's too, whatever the umask of who met the fault.
fn examine_group(base: &Path, files: &BTreeSet<String>) {
    for name in files.iter().map(String::as_str).chain(["./"]) {
        let meta = base.join(name).symlink_metadata().unwrap();
        let mode = meta.permissions().mode() & 0o7777;
        let needed = if meta.is_dir() { 0o2070 } else { 0o060 };
        assert!(
            meta.is_symlink() || mode & needed == needed,
            "{name} is {mode:o}"
        );
    }
}

/// What there is in a store that has this state and never met a fault.
fn listing_of(case: &Case, state: State) -> BTreeSet<String> {
    static KNOWN: Mutex<BTreeMap<(bool, State), BTreeSet<String>>> = Mutex::new(BTreeMap::new());
    let is_of_trees = case.operation.is_of_trees;
    let known = KNOWN.lock().unwrap().get(&(is_of_trees, state)).cloned();
    known.unwrap_or_else(|| {
        let dir = in_memory();
        let options = StoreOptions::new();
        let store = if is_of_trees {
            Store::Trees(options.open_dir_store(dir.path()).unwrap())
        } else {
            Store::Files(options.open_file_store(dir.path()).unwrap())
        };
        store.put_all(state);
        let files = listing(dir.path());
        KNOWN
            .lock()
            .unwrap()
            .insert((is_of_trees, state), files.clone());
        files
    })
}

const ERRORS: [Errno; 4] = [Errno::IO, Errno::NOSPC, Errno::INTR, Errno::ACCESS];

/// How many processes are at work at a time.
const AT_ONCE: usize = 4;

fn kill_everywhere(name: &str) {
    for case in Case::of(name) {
        let dir = in_memory();
        let refused = case.refused(&calls_of(&case, &[]));
        let calls = calls_of(&case, &refused);
        examine_order(&case, &calls);
        let calls = calls.len();
        let from = refused.first().map_or(0, |(at, _)| at + 1);
        let next = AtomicUsize::new(from);
        std::thread::scope(|scope| {
            for worker in 0..AT_ONCE {
                let (case, refused, next) = (&case, &refused, &next);
                let dir = dir.path().join(worker.to_string());
                scope.spawn(move || {
                    std::fs::create_dir(&dir).unwrap();
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n > calls {
                            break;
                        }
                        kill_at(case, &case.base(&dir, n), refused, n, calls);
                    }
                });
            }
        });
        println!("{name}, {}: {} kills", case.setting, calls - from);
    }
}

/// The calls that an operation makes.
fn calls_of(case: &Case, plan: &[(usize, Fault)]) -> Vec<String> {
    let dir = in_memory();
    let base = case.base(dir.path(), 0);
    case.prepare(&base);
    let mut worker = start(case, &base, plan);
    let calls = worker.expect("done");
    worker.finish();
    calls.split(' ').map(str::to_owned).collect()
}

fn start(case: &Case, base: &Path, plan: &[(usize, Fault)]) -> Worker {
    let plan: Vec<String> = plan
        .iter()
        .map(|(at, fault)| match fault {
            Fault::Kill => at.to_string(),
            Fault::Fail(errno) => format!("{at}={errno}"),
        })
        .collect();
    let base = base.to_str().unwrap();
    Worker::start("fault", &[&case.name, case.setting, base, &plan.join(" ")])
}

fn kill_at(case: &Case, base: &Path, refused: &[(usize, Fault)], n: usize, calls: usize) {
    let _told = Told(format!(
        "{}, {}: killed before {n} of {calls}",
        case.name, case.setting
    ));
    case.prepare(base);
    let mut worker = start(case, base, &[refused, &[(n, Fault::Kill)]].concat());
    assert_eq!(worker.was_killed(), n < calls);
    if case.is_of_new_store() && !base.join("gc.lock").exists() {
        // What was killed may not have synced the marker: a power cut could take it from a store
        // that has values by then.
        let mut next = start(case, base, &[]);
        let calls = next.expect("done");
        next.finish();
        assert!(calls.contains("fsync-dir"), "{calls}");
    }
    // Without barriers the calls are the same but for those, so each order is tried at each.
    let first = if case.setting == "none" {
        First::Set
    } else {
        First::Sweep
    };
    let left = if n == calls {
        Left::Nothing
    } else {
        Left::Anything
    };
    let state = examine(case, base, None, left, first);
    if n == calls {
        assert_eq!(state, case.operation.after);
    }
}

/// Where it was, if an assertion fails.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Not the standard output, where a worker talks to its test.
            let _ = writeln!(std::io::stderr(), "{}", self.0);
        }
    }
}

fn fail_everywhere(name: &str) {
    let cases = Case::of(name);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let dir = in_memory();
                    let args = [name, case.setting, dir.path().to_str().unwrap()];
                    let mut worker = Worker::start("faults", &args);
                    for _ in ERRORS {
                        worker.expect("failed with");
                    }
                    println!("{name}, {}: {}", case.setting, worker.expect("done"));
                    worker.finish();
                }
            });
        }
    });
}

/// Plays a worker's role, if it is one of this module's.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        "fault" => meet_one(args),
        "faults" => meet_all(args),
        "short-read" => read_in_two(args),
        _ => return false,
    }
    true
}

/// NAME SETTING BASE PLAN: does the operation and says `done` and the calls that it made.
fn meet_one(args: &[&str]) {
    let case = Case::new(args[0], args[1]);
    let base = Path::new(args[2]);
    let plan = args[3]
        .split_whitespace()
        .map(|fault| match fault.split_once('=') {
            Some((at, errno)) => (at.parse().unwrap(), Fault::Fail(errno.parse().unwrap())),
            None => (fault.parse().unwrap(), Fault::Kill),
        });
    case.take_umask();
    let store = case.store(base);
    arm(plan);
    let done = case.act(base, store.as_ref()).unwrap();
    let calls = disarm();
    assert!(done);
    say(&format!("done {}", calls.join(" ")));
}

/// NAME SETTING DIR: does the operation again and again, and lets each of its calls fail with each
/// error.
fn meet_all(args: &[&str]) {
    let case = Case::new(args[0], args[1]);
    let dir = Path::new(args[2]);
    case.take_umask();
    let mut attempts = (0..).map(|n| case.base(dir, n));
    let mut attempt = |plan: &[(usize, Fault)], first| {
        let base = attempts.next().unwrap();
        case.prepare(&base);
        attempt(&case, &base, plan, first)
    };
    let refused = case.refused(&attempt(&[], First::Sweep).calls);
    let calls = attempt(&refused, First::Set).calls;
    let from = refused.first().map_or(0, |(at, _)| at + 1);
    let (mut points, mut failed) = (0, 0);
    for (turn, errno) in ERRORS.into_iter().enumerate() {
        for n in from..calls.len() {
            if errno == Errno::NOSPC && only_looks(calls[n]) {
                continue;
            }
            let _told = Told(format!(
                "{}, {}: call {n}, {errno:?}",
                case.name, case.setting
            ));
            let plan = [&*refused, &[(n, Fault::Fail(errno.raw_os_error()))]].concat();
            let first = [First::Sweep, First::Set][(n + turn) % 2];
            failed += usize::from(attempt(&plan, first).failed);
            points += 1;
        }
        // Said in between, because all of it may take longer than a worker may be silent.
        say(&format!("failed with {errno:?}"));
    }
    say(&format!(
        "done {points} failures, {failed} of them of the operation"
    ));
}

/// How an operation went.
struct End {
    calls: Vec<&'static str>,
    failed: bool,
}

fn attempt(case: &Case, base: &Path, plan: &[(usize, Fault)], first: First) -> End {
    let store = case.store(base);
    let descriptors = open_descriptors();
    arm(plan.iter().copied());
    let result = case.act(base, store.as_ref());
    let calls = disarm();
    assert_eq!(open_descriptors(), descriptors, "{calls:?}");
    let fault = match plan.last() {
        Some(&(at, Fault::Fail(errno))) if at < calls.len() => Some((calls[at], errno)),
        _ => None,
    };
    let _told = Told(format!("after {result:?}, having called {calls:?}"));
    if let Err(err) = &result {
        let (call, errno) = fault.unwrap();
        examine_error(err, base, call, Errno::from_raw_os_error(errno));
    }
    let interrupted = matches!(fault, Some((_, errno)) if errno == Errno::INTR.raw_os_error());
    let left = match fault {
        None => Left::Nothing,
        // Done once more, as if nothing had been.
        Some(_) if interrupted => Left::Nothing,
        Some((call, _)) if cleans_up(case, call) => Left::Anything,
        Some(_) => Left::NothingStaged,
    };
    let state = examine(case, base, store.as_ref(), left, first);
    if let Ok(true) = result {
        assert_eq!(state, case.operation.after);
    }
    if case.is_of_new_store() {
        std::fs::remove_dir_all(base).unwrap();
    }
    End {
        calls,
        failed: result.is_err(),
    }
}

/// Whether a call changes nothing, and so can find no disk full.
fn only_looks(call: &str) -> bool {
    "open-base open-dir open-read open-write open-list getdents pread stat stat-base fstat statx \
     fstatfs try-flock-shared try-flock-exclusive flock-shared flock-unlock"
        .split(' ')
        .any(|name| call == name)
}

/// Whether a call may be one of those that put things in order.
fn cleans_up(case: &Case, call: &str) -> bool {
    match call {
        "unlink" | "rmdir" => true,
        "rename" | "stat" | "open-dir" | "open-list" | "getdents" => {
            case.operation.is_of_trees || case.name == "file_batch"
        }
        _ => false,
    }
}

/// An error says what was being done, where, and why.
fn examine_error(err: &larder::Error, base: &Path, call: &str, errno: Errno) {
    assert_ne!(errno, Errno::INTR);
    let path = err.path().unwrap();
    assert!(
        path.starts_with(base) || base.starts_with(path),
        "{}",
        path.display()
    );
    assert!(err.to_string().contains(path.to_str().unwrap()), "{err}");
    let cause = std::io::Error::from(errno);
    assert_eq!(err.io_kind(), Some(cause.kind()));
    let mut source = err.source();
    let told = std::iter::from_fn(|| {
        let this = source?;
        source = this.source();
        Some(this)
    });
    assert!(
        told.into_iter()
            .any(|source| source.to_string() == cause.to_string()),
        "the cause is lost: {err:?}"
    );
    let kind = match errno {
        // That something may not be looked at does not say that the store is read-only.
        Errno::ACCESS if only_looks(call) => return,
        Errno::ACCESS => ErrorKind::ReadOnly,
        _ => ErrorKind::Io,
    };
    assert_eq!(err.kind(), kind);
}

/// BASE: the file of a value of eight bytes has four of them for as long as the first read takes, and
/// the second fails.
fn read_in_two(args: &[&str]) {
    let base = Path::new(args[0]);
    let options = StoreOptions::new().durability(Durability::None);
    let store = options.open_file_store(base).unwrap();
    store.set("key", |w| Ok(w.write_all(b"12345678")?)).unwrap();
    let mut value = store.get("key").unwrap().unwrap();
    let path = value.raw_path().unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(4).unwrap();
    arm([(1, Fault::Fail(Errno::IO.raw_os_error()))]);
    let mut bytes = Vec::new();
    let failed = std::io::Read::read_to_end(&mut value, &mut bytes).unwrap_err();
    disarm();
    assert_eq!(failed.raw_os_error(), Some(Errno::IO.raw_os_error()));
    assert_eq!(bytes, b"1234");
    std::os::unix::fs::FileExt::write_all_at(&file, b"5678", 4).unwrap();
    let rest = std::io::Read::read_to_end(&mut value, &mut bytes).unwrap();
    assert_eq!((rest, &*bytes), (4, &b"12345678"[..]));
    say("read");
}

#[test]
fn a_value_is_read_on_after_an_error() {
    let dir = in_memory();
    let mut worker = Worker::start("short-read", &[dir.path().to_str().unwrap()]);
    worker.expect("read");
    worker.finish();
}
