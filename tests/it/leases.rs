//! A leased tree stays, in whichever process the lease is.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use larder::{
    CancelToken, DirLease, Durability, ErrorKind, KVDirStore, Outcome, StoreOptions, Wait,
};

use crate::support::{
    Random, Worker, empty_store, eventually, in_memory, in_time, listing, skipped, tempdir,
    wait_until_blocked,
};
use crate::worker::{hear, say};

const LEASE: &str = "lease";
const GET: &str = "get-tree";
const GET_READ_ONLY: &str = "leases-get-read-only";
const LOCK: &str = "lock-tree";
const REPLACE: &str = "replace";
const READ: &str = "read-trees";
const CHURN: &str = "churn-trees";
const ASK: &str = "ask-for-tree";
const REMOVE: &str = "remove-tree";
const HAND_ON: &str = "hand-on";
const FORK: &str = "fork";

const KEY: &str = "key";
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const LONGEST: Duration = Duration::from_millis(1500);

/// Plays a worker's role, if it is one of this module's. Its first argument is the store.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        LEASE => {
            // Says `leased`, hears anything, says `dropped`, hears anything.
            let lease = open(args[0]).get(KEY).unwrap().unwrap();
            say("leased");
            hear();
            drop(lease);
            say("dropped");
            hear();
        }
        GET => {
            // Says `ready`, hears `go`, says whether there was a tree.
            let store = open(args[0]);
            say("ready");
            hear();
            say(&format!("got {}", store.get(KEY).unwrap().is_some()));
        }
        GET_READ_ONLY => {
            // The same in a store opened for reading only, and whether the lease protects.
            let options = StoreOptions::new().read_only(true);
            let store = options.open_dir_store(args[0]).unwrap();
            say("ready");
            hear();
            let lease = store.get(KEY).unwrap();
            say(&format!(
                "got {:?}",
                lease.map(|lease| lease.is_protected())
            ));
        }
        LOCK => {
            // Says `locked`, hears anything, removes the tree, says `removed`.
            let lock = open(args[0]).lock(KEY).unwrap();
            say("locked");
            hear();
            say(&format!("removed {}", lock.remove().unwrap()));
        }
        REPLACE => {
            // TEXT: says `ready`, hears `go`, says `replaced`.
            let store = open(args[0]);
            say("ready");
            hear();
            drop(store.replace(KEY, |tree| Ok(fill(tree, args[1])?)).unwrap());
            say("replaced");
        }
        READ => read_trees(args),
        CHURN => churn(args),
        ASK => ask(args),
        REMOVE => remove(args),
        HAND_ON => hand_on(args),
        FORK => fork(args),
        _ => return false,
    }
    true
}

fn open(base: impl AsRef<Path>) -> KVDirStore {
    let options = StoreOptions::new().durability(Durability::None);
    options.open_dir_store(base).unwrap()
}

fn fill(tree: &Path, generation: &str) -> std::io::Result<()> {
    NAMES
        .iter()
        .try_for_each(|name| std::fs::write(tree.join(name), generation))
}

/// The generation of all the files of a tree, which must be one.
fn generation(tree: &Path) -> String {
    let read = |name| {
        std::fs::read_to_string(tree.join(name)).unwrap_or_else(|err| {
            say(&format!("VIOLATION {name} is gone: {err}"));
            panic!("{name} is gone")
        })
    };
    let first = read(NAMES[0]);
    for name in NAMES {
        let other = read(name);
        if other != first {
            say(&format!("VIOLATION {first} and {other} in one tree"));
            panic!("a mixed tree");
        }
    }
    first
}

/// A store whose `KEY` has a tree.
fn with_tree(base: &Path) -> KVDirStore {
    let store = open(base);
    let lease = store.get_or_set(KEY, |tree| Ok(fill(tree, "first")?));
    drop(lease.unwrap());
    store
}

fn leasing(store: &KVDirStore) -> Worker {
    let mut worker = Worker::start(LEASE, &[store.base().to_str().unwrap()]);
    worker.expect("leased");
    worker
}

fn kind<T>(result: larder::Result<T>) -> Option<ErrorKind> {
    result.err().map(|err| err.kind())
}

/// A removal, and replacements that will not wait for ever, while another process has a lease.
fn nobody_takes_it_away(store: &KVDirStore) {
    let err = store.remove(KEY).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InUse);
    assert!(
        !err.to_string().contains("this very process"),
        "it was not this process: {err}"
    );
    assert_eq!(err.path(), Some(&*store.get(KEY).unwrap().unwrap()));
    let replace = |store: &KVDirStore| store.replace(KEY, |tree| Ok(fill(tree, "other")?));

    let begun = Instant::now();
    assert_eq!(
        kind(replace(&store.with_wait(Wait::TryOnce))),
        Some(ErrorKind::Busy)
    );
    let limit = Duration::from_millis(60);
    assert_eq!(
        kind(replace(&store.with_wait(Wait::Timeout(limit)))),
        Some(ErrorKind::Busy)
    );
    assert!(begun.elapsed() >= limit);

    let token = CancelToken::new();
    let canceller = token.clone();
    let view = store
        .with_cancel(&token)
        .with_on_wait(move |_| canceller.cancel());
    assert_eq!(kind(replace(&view)), Some(ErrorKind::Cancelled));

    assert!(store.try_lock(KEY).unwrap().is_none());
    let report = store.clear().unwrap();
    assert_eq!((report.removed, report.kept.len()), (0, 1));
    assert_eq!(report.kept[0].reason, larder::KeptReason::InUse);
    assert_eq!(generation(&store.get(KEY).unwrap().unwrap()), "first");
}

#[test]
fn a_lease_of_another_process_holds_until_it_is_dropped_or_killed() {
    for is_killed in [false, true] {
        let dir = tempdir();
        let store = with_tree(dir.path());
        let mut lessee = leasing(&store);
        nobody_takes_it_away(&store);

        let mut replacer = Worker::start(REPLACE, &[dir.path().to_str().unwrap(), "second"]);
        replacer.expect("ready");
        replacer.tell("go");
        wait_until_blocked(replacer.pid());
        assert!(replacer.is_silent());
        assert_eq!(
            std::fs::read(dir.path().join(tree_path()).join("a")).unwrap(),
            b"first"
        );
        if is_killed {
            lessee.kill();
        } else {
            lessee.tell("drop");
            lessee.expect("dropped");
        }
        replacer.expect("replaced");
        replacer.finish();
        assert_eq!(generation(&store.get(KEY).unwrap().unwrap()), "second");

        let mut lessee = leasing(&store);
        assert_eq!(kind(store.remove(KEY)), Some(ErrorKind::InUse));
        if is_killed {
            lessee.kill();
        } else {
            lessee.tell("drop");
            lessee.expect("dropped");
        }
        assert!(store.remove(KEY).unwrap());
        assert_eq!(listing(dir.path()), empty_store());
    }
}

fn tree_path() -> PathBuf {
    larder::PathKey::key(KEY)
}

/// BASE: until told to end, leases and reads; says `done READS`.
fn read_trees(args: &[&str]) {
    let store = open(args[0]);
    say("ready");
    hear();
    let end = Instant::now() + LONGEST;
    let mut reads = 0;
    while Instant::now() < end {
        if let Some(lease) = store.get(KEY).unwrap() {
            let first = generation(&lease);
            thread::yield_now();
            assert_eq!(generation(&lease), first);
            reads += 1;
        }
    }
    say(&format!("done {reads}"));
}

/// BASE SEED: replaces, removes, makes; says `done CHANGES`.
fn churn(args: &[&str]) {
    let store = open(args[0]).with_wait(Wait::Timeout(Duration::from_millis(100)));
    let mut random = Random::new(args[1].parse().unwrap());
    say("ready");
    hear();
    let end = Instant::now() + LONGEST;
    let (mut changes, mut turn) = (0, 0);
    while Instant::now() < end {
        turn += 1;
        let text = format!("{}-{turn}", std::process::id());
        let lease = match random.below(3) {
            0 => store.replace(KEY, |tree| Ok(fill(tree, &text)?)),
            1 => match store.remove(KEY) {
                Ok(removed) => {
                    changes += u32::from(removed);
                    continue;
                }
                Err(err) => Err(err),
            },
            _ => store.get_or_set(KEY, |tree| Ok(fill(tree, &text)?)),
        };
        match lease {
            Ok(lease) => {
                changes += u32::from(lease.outcome() == Outcome::Computed);
                if lease.outcome() == Outcome::Computed {
                    assert_eq!(generation(&lease), text);
                } else {
                    generation(&lease);
                }
            }
            // Readers without end are stronger than who waits for them.
            Err(err) => assert!(
                matches!(err.kind(), ErrorKind::Busy | ErrorKind::InUse),
                "{err:?}"
            ),
        }
    }
    say(&format!("done {changes}"));
}

/// BASE: asks for the tree, and gives the others a chance to remove it; says `done COMPUTED`.
fn ask(args: &[&str]) {
    let patient = Wait::Timeout(Duration::from_secs(30));
    let stores = [open(args[0]), open(args[0]).with_wait(patient)];
    say("ready");
    hear();
    let end = Instant::now() + LONGEST;
    let (mut computed, mut turn) = (0, 0);
    while Instant::now() < end {
        turn += 1;
        let text = format!("{}-{turn}", std::process::id());
        let store = &stores[turn % 2];
        match store.get_or_set(KEY, |tree| Ok(fill(tree, &text)?)) {
            Ok(lease) if lease.outcome() == Outcome::Computed => {
                assert_eq!(generation(&lease), text);
                computed += 1;
            }
            Ok(lease) => drop(generation(&lease)),
            Err(err) => {
                say(&format!("VIOLATION get_or_set failed: {err:?}"));
                panic!("{err:?}");
            }
        }
        let tree = store.base().join(tree_path());
        for _ in 0..100 {
            if !tree.exists() {
                break;
            }
            thread::yield_now();
        }
    }
    say(&format!("done {computed}"));
}

/// BASE: removes the tree; says `done REMOVED`.
fn remove(args: &[&str]) {
    let store = open(args[0]);
    say("ready");
    hear();
    let end = Instant::now() + LONGEST;
    let mut removed = 0_u32;
    while Instant::now() < end {
        match store.remove(KEY) {
            Ok(there) => removed += u32::from(there),
            Err(err) => assert_eq!(err.kind(), ErrorKind::InUse, "{err:?}"),
        }
    }
    say(&format!("done {removed}"));
}

/// Runs workers until each has done something.
fn run(store: &KVDirStore, roles: &[&str]) {
    let base = store.base().to_str().unwrap();
    let mut workers: Vec<_> = roles
        .iter()
        .enumerate()
        .map(|(seed, role)| Worker::start(role, &[base, &(seed + 1).to_string()]))
        .collect();
    for worker in &mut workers {
        worker.expect("ready");
    }
    for worker in &mut workers {
        worker.tell("go");
    }
    let mut total = 0;
    for worker in &mut workers {
        let done: u32 = worker.expect("done").parse().unwrap();
        total += done;
        worker.finish();
    }
    assert!(total > 20, "only {total} turns did anything");
    store.remove(KEY).unwrap();
    assert_eq!(listing(store.base()), empty_store());
}

#[test]
fn readers_never_see_a_tree_vanish_or_change() {
    let dir = in_memory();
    run(&open(dir.path()), &[READ, READ, READ, CHURN, CHURN, CHURN]);
}

#[test]
fn who_asks_for_a_tree_that_others_remove_gets_one_all_the_same() {
    let dir = in_memory();
    run(&open(dir.path()), &[ASK, ASK, ASK, REMOVE, REMOVE]);
}

/// A pipe with a name. Who reads from it goes on as long as this is held.
struct Gate {
    path: PathBuf,
    _writer: File,
}

impl Gate {
    fn new(path: PathBuf) -> Self {
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let both_ways = File::options().read(true).write(true).open(&path);
        Gate {
            path,
            _writer: both_ways.unwrap(),
        }
    }

    /// A program that runs until this gate is dropped.
    fn waiter(path: &str) -> Command {
        let mut command = Command::new("cat");
        command
            .stdin(File::open(path).unwrap())
            .stdout(Stdio::null());
        command
    }
}

/// BASE GATE OTHER-GATE: leases; starts a child that inherits the lease and one that does not; drops
/// the lease; says `handed PID OTHER-PID`, hears anything.
fn hand_on(args: &[&str]) {
    let lease = open(args[0]).get(KEY).unwrap().unwrap();
    let mut command = Gate::waiter(args[1]);
    lease.inherit(&mut command).unwrap();
    // Started while both the lease and what the command holds are open here.
    let mut other: Child = Gate::waiter(args[2]).spawn().unwrap();
    let mut child = command.spawn().unwrap();
    drop((command, lease));
    say(&format!("handed {} {}", child.id(), other.id()));
    hear();
    child.wait().unwrap();
    say("child ended");
    assert!(other.try_wait().unwrap().is_none());
    say("other runs");
    hear();
    other.wait().unwrap();
}

#[test]
fn an_inherited_lease_outlives_its_parent_and_ends_with_the_child() {
    let dir = tempdir();
    let store = with_tree(&dir.path().join("store"));
    let gates = ["one", "two"].map(|name| Gate::new(dir.path().join(name)));
    let paths = gates.each_ref().map(|gate| gate.path.to_str().unwrap());
    let base = store.base().to_str().unwrap();
    let mut parent = Worker::start(HAND_ON, &[base, paths[0], paths[1]]);
    parent.expect("handed");
    nobody_takes_it_away(&store);
    parent.kill();
    nobody_takes_it_away(&store);
    let [gate, _other] = gates;
    drop(gate);
    // The other child, an orphan too, still runs.
    eventually("the lease to end with the child", || {
        store.remove(KEY).is_ok()
    });
    assert_eq!(listing(store.base()), empty_store());
}

/// BASE GATE: leases the tree and locks another key; starts a child that stays between `fork` and
/// `exec` as long as the gate is closed; gives both up; says `dropped`; hears anything.
#[allow(unsafe_code)]
fn fork(args: &[&str]) {
    use std::os::unix::process::CommandExt;
    let store = open(args[0]);
    let (lease, lock) = (store.get(KEY).unwrap(), store.lock("other").unwrap());
    let gate = File::open(args[1]).unwrap();
    let (forked, in_child) = rustix::pipe::pipe().unwrap();
    let wait = move || {
        rustix::io::write(&in_child, b"!")?;
        rustix::io::read(&gate, &mut [0; 1])?;
        Ok(())
    };
    let mut command = Command::new("true");
    // SAFETY: `wait` makes two system calls and allocates nothing.
    unsafe { command.pre_exec(wait) };
    let spawner = thread::spawn(move || command.spawn().unwrap().wait().unwrap());
    assert_eq!(rustix::io::read(&forked, &mut [0; 1]), Ok(1));
    drop((lease, lock));
    say("dropped");
    hear();
    assert!(spawner.join().unwrap().success());
}

#[test]
fn a_child_between_fork_and_exec_holds_nothing() {
    let dir = tempdir();
    let store = with_tree(&dir.path().join("store"));
    let gate = Gate::new(dir.path().join("gate"));
    let base = store.base().to_str().unwrap();
    let mut parent = Worker::start(FORK, &[base, gate.path.to_str().unwrap()]);
    parent.expect("dropped");
    assert!(store.try_lock("other").unwrap().is_some());
    assert!(store.remove(KEY).unwrap());
    assert_eq!(listing(store.base()), empty_store());
    drop(gate);
    parent.tell("end");
    parent.finish();
}

#[test]
fn an_inherited_lease_is_in_no_other_child() {
    let dir = tempdir();
    let store = with_tree(&dir.path().join("store"));
    let gates = ["one", "two"].map(|name| Gate::new(dir.path().join(name)));
    let paths = gates.each_ref().map(|gate| gate.path.to_str().unwrap());
    let base = store.base().to_str().unwrap();
    let mut parent = Worker::start(HAND_ON, &[base, paths[0], paths[1]]);
    parent.expect("handed");
    nobody_takes_it_away(&store);
    let [gate, other] = gates;
    drop(gate);
    parent.tell("wait");
    parent.expect("child ended");
    assert!(store.remove(KEY).unwrap());
    parent.expect("other runs");
    drop(other);
    parent.tell("end");
    parent.finish();
}

/// Who saw the tree, and then finds that its lock file went with it, has created another.
#[test]
fn a_lease_that_comes_too_late_leaves_nothing() {
    let dir = tempdir();
    let store = with_tree(dir.path());
    let base = dir.path().to_str().unwrap();
    let mut remover = Worker::start(LOCK, &[base]);
    remover.expect("locked");
    let mut readers: Vec<_> = (0..4).map(|_| Worker::start(GET, &[base])).collect();
    for reader in &mut readers {
        reader.expect("ready");
        reader.tell("go");
        wait_until_blocked(reader.pid());
    }
    remover.tell("go");
    remover.expect("removed true");
    for reader in &mut readers {
        reader.expect("got false");
        reader.finish();
    }
    assert_eq!(listing(store.base()), empty_store());
}

/// The lock of a staged tree becomes the lease by a change from exclusive to shared, and not every
/// kernel makes that in one step. Here that is played: between the two, one sweep has taken the lock
/// file's name, and another has opened a file of that name again. To give *that* the key's name would
/// leave the lease on a file that nobody finds.
#[test]
fn a_lease_is_on_the_lock_file_that_others_find() {
    let dir = tempdir();
    let store = open(dir.path());
    let lock = store.lock(KEY).unwrap();
    let staged = lock.tempdir().unwrap();
    fill(staged.path(), "1").unwrap();
    let lock_file = staged.path().with_extension("lock");
    std::fs::remove_file(&lock_file).unwrap();
    std::fs::File::create_new(&lock_file).unwrap();

    let lease = lock.publish(staged).unwrap();
    assert_eq!(kind(store.remove(KEY)), Some(ErrorKind::InUse));
    assert_eq!(generation(&lease), "1");
    drop(lease);
    assert!(store.remove(KEY).unwrap());
    assert_eq!(listing(store.base()), empty_store());
}

/// A reader that holds the lock shared for a moment keeps others from taking its file away, so it does
/// that itself, although it did not create it; and takes what was known of the tree with it.
#[test]
fn who_leases_nothing_takes_the_lock_file_away() {
    let dir = tempdir();
    let store = with_tree(dir.path());
    let tree = store.base().join(tree_path());
    std::fs::remove_dir_all(&tree).unwrap();
    std::fs::File::create(tree.with_extension("lock")).unwrap();
    assert!(store.get(KEY).unwrap().is_none());
    assert!(!tree.with_extension("lock").exists());
    assert_eq!(store.sweep().unwrap().swept, 0);
    assert_eq!(listing(store.base()), empty_store());
}

/// Whose store is read-only creates no lock file, and takes what it sees without one for a tree that
/// nobody can take away. It had seen the tree before it waited for who took it away.
#[test]
fn a_reader_that_waited_for_a_removal_leases_nothing() {
    let dir = tempdir();
    let store = with_tree(dir.path());
    let base = dir.path().to_str().unwrap();
    let mut remover = Worker::start(LOCK, &[base]);
    remover.expect("locked");
    let mut readers: Vec<_> = (0..4)
        .map(|_| Worker::start(GET_READ_ONLY, &[base]))
        .collect();
    for reader in &mut readers {
        reader.expect("ready");
        reader.tell("go");
        wait_until_blocked(reader.pid());
    }
    remover.tell("go");
    remover.expect("removed true");
    for reader in &mut readers {
        reader.expect("got None");
        reader.finish();
    }
    drop(
        store
            .get_or_set(KEY, |tree| Ok(fill(tree, "second")?))
            .unwrap(),
    );
    let mut reader = Worker::start(GET_READ_ONLY, &[base]);
    reader.expect("ready");
    reader.tell("go");
    reader.expect("got Some(true)");
    reader.finish();
    assert!(store.remove(KEY).unwrap());
    assert_eq!(listing(store.base()), empty_store());
}

/// What says that a tree is just being published stays behind where its publisher is killed. Then
/// every reader waited, for as long as the next one computed.
#[test]
fn nobody_waits_for_a_tree_that_a_killed_process_began_to_publish() {
    let dir = tempdir();
    let base = dir.path().to_str().unwrap();
    for locks in [false, true] {
        let store = with_tree(dir.path());
        // The last but one step of the publication: the sidecar is there, and the tree is not.
        std::fs::remove_dir_all(dir.path().join(tree_path())).unwrap();
        assert!(
            listing(dir.path())
                .iter()
                .any(|name| name.ends_with(".larder"))
        );
        let mut leader = if locks {
            let mut leader = Worker::start(LOCK, &[base]);
            leader.expect("locked");
            leader
        } else {
            let mut leader = Worker::start("get-or-set-tree", &[base, KEY]);
            leader.expect("ready");
            leader.tell("go");
            leader.expect("computing");
            leader
        };
        for wait in [Wait::TryOnce, Wait::Block] {
            let store = store.with_wait(wait);
            let found = in_time("a miss", move || store.get(KEY).unwrap());
            assert!(found.is_none());
        }
        assert!(!store.contains(KEY).unwrap());
        if locks {
            leader.tell("go");
            leader.expect("removed false");
        } else {
            leader.tell("made");
            leader.expect("value made Computed");
        }
        leader.finish();
        assert_eq!(store.remove(KEY).unwrap(), !locks);
        assert_eq!(listing(dir.path()), empty_store());
    }
}

/// A command that is to hand a lease on holds it in this process too, where nobody would ever let go
/// of it while a replacement waits.
#[test]
fn a_command_that_inherits_is_an_obstacle_as_a_lease_is() {
    in_time("to be refused", commands_are_obstacles);
}

fn commands_are_obstacles() {
    let dir = tempdir();
    let store = with_tree(dir.path());
    let mut command = Command::new("true");
    let lease = store.get(KEY).unwrap().unwrap();
    lease.inherit(&mut command).unwrap();
    drop(lease);
    for store in [&store, &open(dir.path())] {
        let err = store.replace(KEY, |tree| Ok(fill(tree, "other")?));
        let err = err.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InUse);
        assert!(err.to_string().contains("this very process"), "{err}");
        let err = store.remove(KEY).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InUse);
        assert!(err.to_string().contains("this very process"), "{err}");
    }
    assert!(command.status().unwrap().success());
    drop(command);
    let lease = store.replace(KEY, |tree| Ok(fill(tree, "other")?)).unwrap();
    assert_eq!(generation(&lease), "other");
}

#[test]
fn a_lease_of_this_process_is_named_as_the_obstacle() {
    in_time("to be refused", leases_of_this_process_are_obstacles);
}

fn leases_of_this_process_are_obstacles() {
    let dir = tempdir();
    let store = with_tree(dir.path());
    let lease = store.get(KEY).unwrap().unwrap();
    assert!(lease.is_protected());
    let refused = |err: larder::Error| {
        assert_eq!(err.kind(), ErrorKind::InUse);
        assert!(err.to_string().contains("this very process"), "{err}");
    };
    // Blocking would be for ever, so none of these may wait.
    let replace = |store: &KVDirStore| store.replace(KEY, |tree| Ok(fill(tree, "other")?));
    refused(replace(&store).unwrap_err());
    refused(replace(&open(dir.path())).unwrap_err());
    thread::scope(|scope| {
        scope.spawn(|| refused(replace(&store).unwrap_err()));
    });
    refused(store.remove(KEY).unwrap_err());
    drop(lease);
    drop(replace(&store).unwrap());
    assert!(store.remove(KEY).unwrap());
}

#[test]
fn each_of_two_leases_protects() {
    in_time("to be refused", two_leases_protect);
}

fn two_leases_protect() {
    let dir = tempdir();
    let store = with_tree(dir.path());
    let first = store.get(KEY).unwrap().unwrap();
    let second = open(dir.path()).get(KEY).unwrap().unwrap();
    drop(first);
    assert_eq!(kind(store.remove(KEY)), Some(ErrorKind::InUse));
    let err = store.replace(KEY, |_| Ok(())).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InUse);
    // What a child would inherit is one more, on a descriptor of its own.
    let mut command = Command::new("true");
    second.inherit(&mut command).unwrap();
    drop(second);
    assert_eq!(kind(store.remove(KEY)), Some(ErrorKind::InUse));
    drop(command);
    // Another test's child, between fork and exec, may share the descriptor for a moment.
    eventually("the last of them to go", || store.remove(KEY).is_ok());
}

#[test]
fn a_detached_path_protects_nothing() {
    let dir = tempdir();
    let store = with_tree(dir.path());
    let path = store.get(KEY).unwrap().unwrap().detach_unlocked();
    assert_eq!(path, dir.path().join(tree_path()));
    assert!(path.is_dir());
    assert!(store.remove(KEY).unwrap());
    assert!(!path.exists());
}

#[test]
fn a_lease_may_be_dropped_by_another_thread() {
    let dir = tempdir();
    let store = with_tree(dir.path());
    let lease = store.get(KEY).unwrap().unwrap();
    let dropped = thread::spawn(move || {
        assert_eq!(generation(&lease), "first");
        drop(lease);
    });
    dropped.join().unwrap();
    assert!(store.remove(KEY).unwrap());
    assert_eq!(listing(dir.path()), empty_store());
}

/// Whether the file system below can swap two names. Without that a replacement has a moment without
/// a tree.
fn can_exchange(dir: &Path) -> bool {
    let (a, b) = (dir.join("exchange-a"), dir.join("exchange-b"));
    std::fs::create_dir(&a).unwrap();
    std::fs::create_dir(&b).unwrap();
    let cwd = rustix::fs::CWD;
    let swapped =
        rustix::fs::renameat_with(cwd, &a, cwd, &b, rustix::fs::RenameFlags::EXCHANGE).is_ok();
    std::fs::remove_dir(&a).unwrap();
    std::fs::remove_dir(&b).unwrap();
    swapped
}

#[test]
fn a_path_is_never_missing_while_its_tree_is_replaced() {
    let dir = tempdir();
    if !can_exchange(dir.path()) {
        skipped(
            "a_path_is_never_missing_while_its_tree_is_replaced",
            "the file system cannot exchange two names",
        );
        return;
    }
    let store = with_tree(&dir.path().join("store"));
    let path = store.get(KEY).unwrap().unwrap().detach_unlocked();
    let replaced = Arc::new(AtomicBool::new(false));
    let watcher = {
        let replaced = Arc::clone(&replaced);
        thread::spawn(move || {
            let mut looks = 0_u64;
            while !replaced.load(Ordering::Relaxed) {
                let found = std::fs::symlink_metadata(&path);
                assert!(found.unwrap().is_dir());
                looks += 1;
            }
            looks
        })
    };
    for n in 0..300 {
        let lease = store.replace(KEY, |tree| Ok(fill(tree, &n.to_string())?));
        assert_eq!(generation(&lease.unwrap()), n.to_string());
    }
    replaced.store(true, Ordering::Relaxed);
    assert!(watcher.join().unwrap() > 300);
    assert!(store.remove(KEY).unwrap());
    assert_eq!(listing(store.base()), empty_store());
}

#[test]
fn a_client_that_renames_its_own_tree_into_place_has_published_it() {
    let dir = tempdir();
    let store = open(dir.path());
    let lock = store.lock(KEY).unwrap();
    assert!(!lock.exists());
    let staged = lock.tempdir().unwrap();
    fill(staged.path(), "mine").unwrap();
    std::fs::rename(staged.into_path(), &*lock).unwrap();
    assert!(lock.exists());
    drop(lock);
    let lease = store.get(KEY).unwrap().unwrap();
    assert_eq!(
        (generation(&lease), lease.is_protected()),
        ("mine".into(), true)
    );
    assert_eq!(kind(store.remove(KEY)), Some(ErrorKind::InUse));
    drop(lease);
    assert!(store.contains(KEY).unwrap());
    assert_eq!(store.entries().count(), 1);
    // A sweep leaves it alone, although nothing but its lock file says that it is an entry.
    store.sweep().unwrap();
    let hit = store
        .get_or_set(KEY, |_| anyhow::bail!("it is there"))
        .unwrap();
    assert_eq!(
        (generation(&hit), hit.outcome()),
        ("mine".into(), Outcome::Hit)
    );
    drop(hit);
    drop(store.replace(KEY, |tree| Ok(fill(tree, "next")?)).unwrap());
    assert_eq!(generation(&store.get(KEY).unwrap().unwrap()), "next");
    assert!(store.remove(KEY).unwrap());
    assert_eq!(listing(dir.path()), empty_store());
}

#[test]
fn what_is_staged_and_not_published_goes() {
    let dir = tempdir();
    let store = open(dir.path());
    let lock = store.lock(KEY).unwrap();
    let dropped = lock.tempdir().unwrap();
    let path = dropped.path().to_owned();
    fill(&path, "never seen").unwrap();
    drop(dropped);
    assert!(!path.exists());
    // A path that was taken out lasts as long as the lock, whatever sweeps meanwhile.
    let taken_out = lock.tempdir().unwrap().into_path();
    fill(&taken_out, "never seen").unwrap();
    store.sweep().unwrap();
    assert_eq!(generation(&taken_out), "never seen");
    let outlasts = lock.tempdir().unwrap();
    drop(lock);
    assert!(!taken_out.exists());
    assert!(outlasts.path().exists());
    // Without the lock there is nothing to rename it to.
    assert!(!outlasts.into_path().exists());
    assert!(store.get(KEY).unwrap().is_none());
    assert_eq!(listing(dir.path()), empty_store());
}

#[test]
fn a_lock_becomes_a_lease_of_what_it_publishes() {
    let dir = tempdir();
    let store = with_tree(dir.path());
    let lock = store.lock(KEY).unwrap();
    let staged = lock.tempdir().unwrap();
    fill(staged.path(), "second").unwrap();
    let lease: DirLease = lock.publish(staged).unwrap();
    assert_eq!(lease.outcome(), Outcome::Computed);
    assert_eq!(generation(&lease), "second");
    assert_eq!(kind(store.remove(KEY)), Some(ErrorKind::InUse));
    drop(lease);
    // One that was staged under another key's lock will do; one of another store will not.
    let (lock, other) = (store.lock(KEY).unwrap(), store.lock("other").unwrap());
    let staged = other.tempdir().unwrap();
    fill(staged.path(), "third").unwrap();
    assert_eq!(generation(&lock.publish(staged).unwrap()), "third");
    drop(other);
    let elsewhere = tempdir();
    let stranger = open(elsewhere.path());
    let staged = stranger.lock(KEY).unwrap().tempdir().unwrap();
    let refused = store.lock(KEY).unwrap().publish(staged);
    assert_eq!(kind(refused), Some(ErrorKind::Unsupported));
    assert_eq!(generation(&store.get(KEY).unwrap().unwrap()), "third");
    assert!(store.remove(KEY).unwrap());
    assert_eq!(listing(dir.path()), empty_store());
    assert_eq!(listing(elsewhere.path()), empty_store());
}

#[test]
fn a_read_only_tree_is_leased_replaced_and_removed() {
    let dir = tempdir();
    let options = StoreOptions::new().read_only_trees(true);
    let store = options.open_dir_store(dir.path()).unwrap();
    let make = |tree: &Path| {
        std::fs::create_dir(tree.join("below"))?;
        let mut file = File::create(tree.join("below/file"))?;
        Ok(file.write_all(b"text")?)
    };
    drop(store.get_or_set(KEY, make).unwrap());
    let lease = store.replace(KEY, make).unwrap();
    assert!(std::fs::metadata(&*lease).unwrap().permissions().readonly());
    assert_eq!(std::fs::read(lease.join("below/file")).unwrap(), b"text");
    drop(lease);
    assert!(store.remove(KEY).unwrap());
    assert_eq!(listing(dir.path()), empty_store());
}
