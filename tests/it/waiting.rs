//! Waits that end: by a timeout, at once, by cancellation; and what a waiter is told.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use larder::{
    CancelToken, DirLease, Durability, Error, ErrorKind, Holder, KVDirLock, KVDirStore, KVFileLock,
    KVFileStore, Labelled, Outcome, PathKey, StoreOptions, Value, Wait, WaitInfo,
};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::support::{
    DEADLINE, Worker, empty_store, eventually, in_time, listing, open_descriptors, tempdir,
    wait_until_blocked,
};
use crate::worker::{hear, say};

const HOLD: &str = "hold";
const LEAD: &str = "lead";
const CALL: &str = "call";
const GIVE_UP: &str = "give-up";
const LEAVE: &str = "leave-lock-file";
const COUNT: &str = "count-tries";
const UNTOLD: &str = "wait-untold";

const KEY: &str = "key";
const LABEL: &str = "what is\nlocked";
const FILES: &str = "files";
const TREES: &str = "trees";

/// Plays a worker's role, if it is one of this module's. Its first arguments are the kind of store
/// and its base.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    let Some(store) = args
        .get(1)
        .map(|base| Store::open(args[0], Path::new(base)))
    else {
        return false;
    };
    match role {
        HOLD => {
            // Says `held`, hears anything, says `released`, hears anything.
            let held = store.lock(&Labelled::new(KEY, LABEL)).unwrap();
            say("held");
            hear();
            drop(held);
            say("released");
            hear();
        }
        LEAD => {
            // Says `computing`, hears what to write, says `made`, keeps it until it hears anything.
            let made = store.try_get_or_set(&Labelled::new(KEY, LABEL), || {
                say("computing");
                Ok(hear())
            });
            say("made");
            hear();
            drop(made.unwrap());
        }
        CALL => {
            // NAME: says `ready`, hears `go`, calls, says `called`.
            say("ready");
            hear();
            store.call(args[2]).unwrap();
            say("called");
        }
        LEAVE => {
            // Says `left`, hears anything.
            larder::__fault::arm(None);
            drop(store.lock(KEY).unwrap());
            let calls = larder::__fault::disarm();
            let unlink = calls.iter().position(|&call| call == "unlink").unwrap();
            let refused = larder::__fault::Fault::Fail(Errno::ACCESS.raw_os_error());
            larder::__fault::arm(Some((unlink, refused)));
            drop(store.lock(KEY).unwrap());
            say("left");
            hear();
        }
        COUNT => {
            // Two threads ask for the key for half a second; says how many calls were made for it.
            larder::__fault::arm(None);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let view = store.waiting(Wait::Timeout(Duration::from_millis(500)));
                        let refused = view.try_get_or_set(KEY, || Ok("mine".into()));
                        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy);
                    });
                }
            });
            say(&format!("calls {}", larder::__fault::disarm().len()));
        }
        UNTOLD => wait_untold(&store),
        _ => give_up(&store),
    }
    true
}

/// A store of either kind, so that what holds for both is said once.
#[derive(Clone)]
enum Store {
    Files(KVFileStore),
    Trees(KVDirStore),
}

#[derive(Debug)]
#[allow(dead_code)] // held, not used
enum Held {
    File(KVFileLock),
    Tree(KVDirLock),
    Value(Value),
    Lease(DirLease),
}

impl Store {
    fn open(kind: &str, base: &Path) -> Self {
        let options = StoreOptions::new().durability(Durability::None);
        match kind {
            FILES => Store::Files(options.open_file_store(base).unwrap()),
            TREES => Store::Trees(options.open_dir_store(base).unwrap()),
            _ => panic!("no store of {kind}"),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Store::Files(_) => FILES,
            Store::Trees(_) => TREES,
        }
    }

    fn base(&self) -> &Path {
        match self {
            Store::Files(store) => store.base(),
            Store::Trees(store) => store.base(),
        }
    }

    fn waiting(&self, wait: Wait) -> Self {
        match self {
            Store::Files(store) => Store::Files(store.with_wait(wait)),
            Store::Trees(store) => Store::Trees(store.with_wait(wait)),
        }
    }

    fn cancelled_by(&self, token: &CancelToken) -> Self {
        match self {
            Store::Files(store) => Store::Files(store.with_cancel(token)),
            Store::Trees(store) => Store::Trees(store.with_cancel(token)),
        }
    }

    fn telling(&self, tell: impl Fn(&WaitInfo) + Send + Sync + 'static) -> Self {
        match self {
            Store::Files(store) => Store::Files(store.with_on_wait(tell)),
            Store::Trees(store) => Store::Trees(store.with_on_wait(tell)),
        }
    }

    fn lock<K: PathKey + ?Sized>(&self, key: &K) -> larder::Result<Held> {
        match self {
            Store::Files(store) => store.lock(key).map(Held::File),
            Store::Trees(store) => store.lock(key).map(Held::Tree),
        }
    }

    fn try_get_or_set<K: PathKey + ?Sized>(
        &self,
        key: &K,
        text: impl FnOnce() -> anyhow::Result<String>,
    ) -> larder::Result<(String, Outcome, Held)> {
        match self {
            Store::Files(store) => {
                let mut value = store.get_or_set(key, |w| Ok(w.write_all(text()?.as_bytes())?))?;
                let mut found = String::new();
                value.read_to_string(&mut found).unwrap();
                Ok((found, value.outcome(), Held::Value(value)))
            }
            Store::Trees(store) => {
                let lease = store
                    .get_or_set(key, |tree| Ok(std::fs::write(tree.join("text"), text()?)?))?;
                let found = std::fs::read_to_string(lease.join("text")).unwrap();
                Ok((found, lease.outcome(), Held::Lease(lease)))
            }
        }
    }

    fn get_or_set<K: PathKey + ?Sized>(
        &self,
        key: &K,
        text: impl FnOnce() -> String,
    ) -> (String, Outcome) {
        let (text, outcome, _held) = self.try_get_or_set(key, || Ok(text())).unwrap();
        (text, outcome)
    }

    /// Replaces the value: `set` or `replace`.
    fn set<K: PathKey + ?Sized>(&self, key: &K, text: &str) -> larder::Result<()> {
        match self {
            Store::Files(store) => store
                .set(key, |w| Ok(w.write_all(text.as_bytes())?))
                .map(drop),
            Store::Trees(store) => store
                .replace(key, |tree| Ok(std::fs::write(tree.join("text"), text)?))
                .map(drop),
        }
    }

    fn contains(&self) -> bool {
        match self {
            Store::Files(store) => store.contains(KEY),
            Store::Trees(store) => store.contains(KEY),
        }
        .unwrap()
    }

    fn remove<K: PathKey + ?Sized>(&self, key: &K) -> larder::Result<bool> {
        match self {
            Store::Files(store) => store.remove(key),
            Store::Trees(store) => store.remove(key),
        }
    }

    /// One of [`calls`](Self::calls), on `KEY`.
    fn call(&self, name: &str) -> larder::Result<()> {
        match (name, self) {
            ("lock", _) => self.lock(KEY).map(drop),
            ("get_or_set", _) => self.try_get_or_set(KEY, || Ok("mine".into())).map(drop),
            ("set", _) => self.set(KEY, "set"),
            ("remove", _) => self.remove(KEY).map(drop),
            ("batch", Store::Files(store)) => {
                let mut batch = store.batch();
                batch.set(KEY, |w| Ok(w.write_all(b"batch")?))?;
                batch.commit().map(drop)
            }
            ("get", Store::Trees(store)) => store.get(KEY).map(drop),
            (_, Store::Files(store)) => store.lock_if_exists(KEY).map(drop),
            (_, Store::Trees(store)) => store.lock_if_exists(KEY).map(drop),
        }
    }

    /// The calls that wait for a key that somebody else holds: where there is no value, and where
    /// there is one.
    fn calls(&self, there: bool) -> &'static [&'static str] {
        match (self, there) {
            (Store::Files(_), false) => &["lock", "get_or_set", "set", "batch"],
            (Store::Files(_), true) => &["lock", "set", "remove", "batch", "lock_if_exists"],
            (Store::Trees(_), false) => &["lock", "get_or_set", "set"],
            (Store::Trees(_), true) => &["lock", "get", "get_or_set", "set", "lock_if_exists"],
        }
    }

    fn value_path(&self) -> PathBuf {
        self.base().join(KEY.key())
    }

    fn lock_path(&self) -> PathBuf {
        let mut path = self.value_path().into_os_string();
        path.push(".lock");
        path.into()
    }

    fn worker(&self, role: &str) -> Worker {
        self.worker_with(role, &[])
    }

    fn worker_with(&self, role: &str, more: &[&str]) -> Worker {
        let mut args = vec![self.kind(), self.base().to_str().unwrap()];
        args.extend(more);
        Worker::start(role, &args)
    }

    /// A process that holds the key.
    fn holder(&self) -> Worker {
        let mut holder = self.worker(HOLD);
        holder.expect("held");
        holder
    }
}

/// Calls `check` with an empty store of each kind.
fn in_both(check: impl Fn(Store) + Send + 'static) {
    in_time("to be refused", move || {
        for kind in [FILES, TREES] {
            let dir = tempdir();
            check(Store::open(kind, dir.path()));
        }
    });
}

/// Calls `check` with a store of each kind, without and with a value, and the calls that wait.
fn in_all_four(check: impl Fn(&Store, &[&str]) + Send + 'static) {
    in_both(move |store| {
        check(&store, store.calls(false));
        store.set(KEY, "there").unwrap();
        check(&store, store.calls(true));
    });
}

fn release(mut holder: Worker) {
    holder.tell("release");
    holder.expect("released");
    holder.tell("end");
    holder.finish();
}

/// What this process would call the holder if `pid` were it.
fn is_named(holder: Option<&Holder>, pid: u32) {
    let holder = holder.expect("the holder wrote down who it is");
    assert_eq!(holder.pid, pid);
    let uname = rustix::system::uname();
    assert_eq!(holder.host.as_deref(), uname.nodename().to_str().ok());
    assert_eq!(holder.label.as_deref(), Some(LABEL));
    let since = holder.since.unwrap();
    assert!(since <= SystemTime::now());
    assert!(since.elapsed().unwrap() < 2 * DEADLINE);
}

fn is_busy_with(err: &Error, store: &Store, pid: u32) {
    assert_eq!(err.kind(), ErrorKind::Busy, "{err:?}");
    assert_eq!(err.path(), Some(&*store.value_path()));
    is_named(err.holder(), pid);
    assert!(err.to_string().contains(&format!("process {pid}")), "{err}");
}

#[test]
fn by_default_a_call_waits_until_the_key_is_free() {
    in_all_four(|store, calls| {
        let holder = store.holder();
        let mut waiters: Vec<_> = calls
            .iter()
            .map(|name| store.worker_with(CALL, &[name]))
            .collect();
        for waiter in &mut waiters {
            waiter.expect("ready");
            waiter.tell("go");
        }
        for waiter in &mut waiters {
            wait_until_blocked(waiter.pid());
            assert!(waiter.is_silent());
        }
        release(holder);
        for waiter in &mut waiters {
            waiter.expect("called");
            waiter.finish();
        }
    });
}

#[test]
fn a_timeout_names_the_holder() {
    in_all_four(|store, calls| {
        let holder = store.holder();
        for name in calls {
            let limit = Duration::from_millis(40);
            let begun = Instant::now();
            let err = store.waiting(Wait::Timeout(limit)).call(name).unwrap_err();
            let took = begun.elapsed();
            is_busy_with(&err, store, holder.pid());
            assert!(took >= limit, "{name} took {took:?}");
            assert!(
                took < limit + Duration::from_secs(10),
                "{name} took {took:?}"
            );
        }
        release(holder);
    });
}

#[test]
fn trying_once_names_the_holder_at_once() {
    in_all_four(|store, calls| {
        let holder = store.holder();
        for wait in [Wait::TryOnce, Wait::Timeout(Duration::ZERO)] {
            for name in calls {
                let begun = Instant::now();
                let err = store.waiting(wait).call(name).unwrap_err();
                is_busy_with(&err, store, holder.pid());
                assert!(begun.elapsed() < Duration::from_secs(5));
            }
        }
        release(holder);
        for name in calls {
            store.waiting(Wait::TryOnce).call(name).unwrap();
        }
    });
}

#[test]
fn a_wait_is_cancelled_from_another_thread() {
    in_all_four(|store, calls| {
        let mut holder = store.holder();
        for name in calls {
            let token = CancelToken::new();
            let (waiting, waits) = mpsc::channel();
            let view = store
                .cancelled_by(&token)
                .telling(move |_| waiting.send(()).unwrap());
            let err = thread::scope(|scope| {
                let waiter = scope.spawn(|| view.call(name).unwrap_err());
                waits.recv_timeout(DEADLINE).unwrap();
                token.cancel();
                waiter.join().unwrap()
            });
            assert_eq!(err.kind(), ErrorKind::Cancelled, "{name}");
            is_named(err.holder(), holder.pid());
            assert!(token.is_cancelled());
        }
        // Whom they waited for holds it still.
        assert!(holder.is_silent());
        let err = store.waiting(Wait::TryOnce).call("lock").unwrap_err();
        is_busy_with(&err, store, holder.pid());
        release(holder);
    });
}

#[test]
fn a_token_cancelled_before_stops_only_what_waits() {
    in_both(|store| {
        let token = CancelToken::new();
        token.cancel();
        let view = store.cancelled_by(&token);
        assert_eq!(
            view.get_or_set(KEY, || "made".into()),
            ("made".into(), Outcome::Computed)
        );
        assert_eq!(
            view.get_or_set(KEY, || panic!("a hit")),
            ("made".into(), Outcome::Hit)
        );
        drop(view.lock(KEY).unwrap());
        let holder = store.holder();
        let err = view.lock(KEY).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Cancelled);
        is_named(err.holder(), holder.pid());
        if let Store::Files(store) = &view {
            // A hit in a store of files waits for nobody.
            assert_eq!(store.read(KEY).unwrap().unwrap(), b"made");
        }
        release(holder);
    });
}

#[test]
fn a_waiter_is_told_for_whom_it_waits() {
    let both = [FILES, TREES].map(|kind| {
        thread::spawn(move || {
            let dir = tempdir();
            let store = Store::open(kind, dir.path());
            let holder = store.holder();
            let (sender, told) = mpsc::channel();
            let view = store.telling(move |info| sender.send(info.clone()).unwrap());
            let waiter = thread::spawn(move || drop(view.lock(KEY).unwrap()));
            let infos: Vec<WaitInfo> = (0..3)
                .map(|_| told.recv_timeout(DEADLINE).unwrap())
                .collect();
            let path = store.value_path();
            for info in &infos {
                is_named(info.holder.as_ref(), holder.pid());
                assert_eq!(info.path, path);
            }
            // The first report comes soon; then there is one a second.
            for pair in infos.windows(2) {
                let between = pair[1].waited - pair[0].waited;
                assert!(between >= Duration::from_millis(990), "{between:?}");
                assert!(between < Duration::from_secs(10), "{between:?}");
            }
            release(holder);
            waiter.join().unwrap();
            assert!(told.iter().count() <= 1);
        })
    });
    for kind in both {
        kind.join().unwrap();
    }
}

#[test]
fn who_need_not_wait_hears_nothing() {
    in_both(|store| {
        let told = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&told);
        let view = store.telling(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        view.get_or_set(KEY, || "text".into());
        view.get_or_set(KEY, || panic!("a hit"));
        view.set(KEY, "other").unwrap();
        drop(view.lock(KEY).unwrap());
        view.remove(KEY).unwrap();
        let holder = store.holder();
        let err = view.waiting(Wait::TryOnce).lock(KEY).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Busy);
        release(holder);
        assert_eq!(told.load(Ordering::SeqCst), 0);
    });
}

/// While the leader still has it open, or leases it.
#[test]
fn a_waiter_with_everything_set_gets_the_leaders_value() {
    in_both(|store| {
        let mut leader = store.worker(LEAD);
        leader.expect("computing");
        let (waiting, waits) = mpsc::channel();
        let token = CancelToken::new();
        let view = store
            .waiting(Wait::Timeout(DEADLINE))
            .cancelled_by(&token)
            .telling(move |info| waiting.send(info.clone()).unwrap());
        let waiter = thread::spawn(move || view.get_or_set(KEY, || panic!("there is a leader")));
        let mut plain = store.worker_with(CALL, &["get_or_set"]);
        plain.expect("ready");
        plain.tell("go");
        wait_until_blocked(plain.pid());
        let info: WaitInfo = waits.recv_timeout(DEADLINE).unwrap();
        is_named(info.holder.as_ref(), leader.pid());
        leader.tell("the leader's");
        leader.expect("made");
        assert_eq!(
            waiter.join().unwrap(),
            ("the leader's".into(), Outcome::Waited)
        );
        plain.expect("called");
        plain.finish();
        leader.tell("end");
        leader.finish();
        store.remove(KEY).unwrap();
        assert_eq!(listing(store.base()), empty_store());
    });
}

/// A patient waiter takes over from a leader that dies.
#[test]
fn a_waiter_with_everything_set_takes_over() {
    in_both(|store| {
        let mut leader = store.worker(LEAD);
        leader.expect("computing");
        let (waiting, waits) = mpsc::channel();
        let view = store
            .waiting(Wait::Timeout(DEADLINE))
            .cancelled_by(&CancelToken::new())
            .telling(move |_| waiting.send(()).unwrap());
        let waiter = thread::spawn(move || view.get_or_set(KEY, || "mine".into()));
        waits.recv_timeout(DEADLINE).unwrap();
        leader.kill();
        assert_eq!(waiter.join().unwrap(), ("mine".into(), Outcome::Computed));
    });
}

/// In a process of its own, where nothing else opens files or starts threads. Says `ready`; hears
/// `go`; gives up many waits; says `gave up`.
fn give_up(store: &Store) {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let give_up = || {
        let views = [
            store.waiting(Wait::TryOnce),
            store.waiting(Wait::Timeout(Duration::from_millis(2))),
            {
                let token = CancelToken::new();
                let canceller = token.clone();
                store
                    .cancelled_by(&token)
                    .telling(move |_| canceller.cancel())
            },
        ];
        for view in views {
            for name in store.calls(store.contains()) {
                view.call(name).unwrap_err();
            }
        }
    };
    say("ready");
    hear();
    give_up();
    let before = (open_descriptors(), threads());
    for _ in 0..5 {
        give_up();
    }
    assert_eq!((open_descriptors(), threads()), before);
    say("gave up");
    hear();
}

#[test]
fn a_wait_that_is_given_up_leaves_nothing() {
    in_all_four(|store, _calls| {
        let holder = store.holder();
        let mut waiter = store.worker(GIVE_UP);
        waiter.expect("ready");
        waiter.tell("go");
        waiter.expect("gave up");
        release(holder);
        // The waiter lives on, and stands in nobody's way.
        store.waiting(Wait::TryOnce).call("lock").unwrap();
        store.remove(KEY).unwrap();
        assert_eq!(listing(store.base()), empty_store());
        waiter.tell("end");
        waiter.finish();
    });
}

/// Every call that would wait for the key that this thread is computing.
fn all_would_deadlock(store: &Store, key: &str) {
    let kind = |result: larder::Result<()>| result.unwrap_err().kind();
    let get_or_set = store.try_get_or_set(key, || Ok("never".into()));
    assert_eq!(kind(get_or_set.map(drop)), ErrorKind::WouldDeadlock);
    assert_eq!(kind(store.lock(key).map(drop)), ErrorKind::WouldDeadlock);
    assert_eq!(kind(store.set(key, "never")), ErrorKind::WouldDeadlock);
    // There is no value yet, so there is nothing to remove, to lease or to lock.
    assert!(!store.remove(key).unwrap());
    match store {
        Store::Files(store) => {
            assert!(store.get(key).unwrap().is_none());
            assert!(store.try_lock(key).unwrap().is_none());
            assert!(store.lock_if_exists(key).unwrap().is_none());
            let mut batch = store.batch();
            batch.set(key, |w| Ok(w.write_all(b"never")?)).unwrap();
            assert_eq!(kind(batch.commit().map(drop)), ErrorKind::WouldDeadlock);
        }
        Store::Trees(store) => {
            assert!(store.get(key).unwrap().is_none());
            assert!(store.try_lock(key).unwrap().is_none());
            assert!(store.lock_if_exists(key).unwrap().is_none());
        }
    }
}

/// The ways to look at a store: as it is, through another handle, and with patience.
fn views(store: &Store) -> Vec<Store> {
    vec![
        store.clone(),
        Store::open(store.kind(), store.base()),
        store.waiting(Wait::Timeout(DEADLINE)),
        store.cancelled_by(&CancelToken::new()).telling(|_| ()),
    ]
}

#[test]
fn a_closure_that_asks_for_its_own_key_is_told() {
    in_both(|store| {
        for outer in views(&store) {
            let (text, _) = outer.get_or_set(KEY, || {
                for inner in views(&store) {
                    all_would_deadlock(&inner, KEY);
                }
                "made all the same".into()
            });
            assert_eq!(text, "made all the same");
            assert!(store.remove(KEY).unwrap());
        }
    });
}

/// However it ended. The lock file is kept by a second name, and put back, so that the next holder
/// holds the same file.
#[test]
fn a_closure_that_has_ended_is_computing_no_more() {
    in_both(|store| {
        let kept = store.base().join("tmp/kept");
        let keep = || std::fs::hard_link(store.lock_path(), &kept).unwrap();
        let check = || {
            store.remove(KEY).unwrap();
            // Its directories went with it.
            std::fs::create_dir_all(store.lock_path().parent().unwrap()).unwrap();
            std::fs::rename(&kept, store.lock_path()).unwrap();
            let silent = lock_in_silence(&store.lock_path());
            holder_in_the_way(&store);
            drop(silent);
            drop(store.lock(KEY).unwrap());
            assert_eq!(listing(store.base()), empty_store());
        };
        store.get_or_set(KEY, || {
            keep();
            "text".into()
        });
        check();
        let failed = store.try_get_or_set(KEY, || {
            keep();
            anyhow::bail!("on purpose")
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Compute);
        check();
        let panicking = std::panic::AssertUnwindSafe(|| {
            store.get_or_set(KEY, || {
                keep();
                panic!("on purpose")
            })
        });
        assert!(std::panic::catch_unwind(panicking).is_err());
        check();
    });
}

#[test]
fn a_closure_within_closures_that_asks_for_an_outer_key_is_told() {
    in_both(|store| {
        let (outer, _) = store.get_or_set("a", || {
            let (inner, _) = store.get_or_set("b", || {
                for view in views(&store) {
                    all_would_deadlock(&view, "a");
                    all_would_deadlock(&view, "b");
                }
                let (innermost, _) = store.get_or_set("c", || "c".into());
                innermost + "b"
            });
            // The inner one is done, so its key is free again.
            assert_eq!(store.get_or_set("b", || panic!("a hit")).0, inner);
            all_would_deadlock(&store, "a");
            inner + "a"
        });
        assert_eq!(outer, "cba");
        for key in ["a", "b", "c"] {
            assert!(store.remove(key).unwrap());
        }
        assert_eq!(listing(store.base()), empty_store());
    });
}

#[test]
fn a_closure_on_another_thread_just_waits() {
    in_both(|store| {
        let (waiting, waits) = mpsc::channel();
        let patient = store.telling(move |_| waiting.send(()).unwrap());
        thread::scope(|scope| {
            let mut waiter = None;
            let (text, _) = store.get_or_set(KEY, || {
                scope
                    .spawn(|| {
                        let limit = Wait::Timeout(Duration::from_millis(20));
                        for call in store.calls(false) {
                            let err = store.waiting(limit).call(call).unwrap_err();
                            assert_eq!(err.kind(), ErrorKind::Busy, "{call}");
                            assert_eq!(err.holder().unwrap().pid, std::process::id());
                        }
                    })
                    .join()
                    .unwrap();
                waiter = Some(scope.spawn(|| patient.get_or_set(KEY, || panic!("it is made"))));
                waits.recv_timeout(DEADLINE).unwrap();
                "text".into()
            });
            assert_eq!(text, "text");
            let waited = waiter.unwrap().join().unwrap();
            assert_eq!(waited, ("text".into(), Outcome::Waited));
        });
    });
}

#[test]
fn locks_of_different_keys_nest() {
    in_both(|store| {
        let locks: Vec<_> = ["a", "b", "c"].map(|key| store.lock(key).unwrap()).into();
        let (text, _) = store.get_or_set("d", || store.get_or_set("e", || "text".into()).0);
        assert_eq!(text, "text");
        let err = store.waiting(Wait::TryOnce).lock("b").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Busy);
        drop(locks);
        for key in ["d", "e"] {
            store.remove(key).unwrap();
        }
        assert_eq!(listing(store.base()), empty_store());
    });
}

/// Somebody who takes the lock and says nothing of himself.
fn lock_in_silence(path: &Path) -> File {
    let file = File::options().read(true).write(true).open(path).unwrap();
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    file
}

fn holder_in_the_way(store: &Store) -> Option<Holder> {
    let err = store.waiting(Wait::TryOnce).lock(KEY).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Busy);
    assert_eq!(
        err.to_string().contains("its holder is unknown"),
        err.holder().is_none()
    );
    err.holder().cloned()
}

#[test]
fn a_killed_holder_is_not_taken_for_the_next_one() {
    in_both(|store| {
        let mut holder = store.holder();
        assert_eq!(holder_in_the_way(&store).unwrap().pid, holder.pid());
        holder.kill();
        let record = std::fs::read(store.lock_path()).unwrap();
        assert!(!record.is_empty());
        let silent = lock_in_silence(&store.lock_path());
        assert_eq!(holder_in_the_way(&store), None);
        drop(silent);
        // The next one that does say who he is writes it in place of what was there.
        let next = store.lock(&Labelled::new(KEY, "x")).unwrap();
        assert_eq!(holder_in_the_way(&store).unwrap().pid, std::process::id());
        let text = std::fs::read_to_string(store.lock_path()).unwrap();
        assert!(text.ends_with("label=x\nend\n"), "{text}");
        assert_eq!(text.matches("end\n").count(), 1, "{text}");
        drop(next);
        assert_eq!(listing(store.base()), empty_store());
    });
}

#[test]
fn a_record_goes_with_the_lock() {
    in_both(|store| {
        store.set(KEY, "text").unwrap();
        drop(store.lock(&Labelled::new(KEY, LABEL)).unwrap());
        match store {
            Store::Files(_) => assert!(!store.lock_path().exists()),
            Store::Trees(_) => {
                // A tree's lock file stays, and is empty, so that this process, which lives on, is
                // not taken for whoever comes next.
                assert_eq!(std::fs::read(store.lock_path()).unwrap(), b"");
                let silent = lock_in_silence(&store.lock_path());
                assert_eq!(holder_in_the_way(&store), None);
                drop(silent);
            }
        }
        // A leader's, too, although it becomes a lease.
        store.remove(KEY).unwrap();
        let labelled = Labelled::new(KEY, LABEL);
        let (_, _, held) = store
            .try_get_or_set(&labelled, || Ok("text".into()))
            .unwrap();
        if let Store::Trees(_) = store {
            assert_eq!(std::fs::read(store.lock_path()).unwrap(), b"");
            assert_eq!(holder_in_the_way(&store), None);
        }
        drop(held);
    });
}

#[test]
fn a_record_goes_even_if_its_file_cannot_be_deleted() {
    in_both(|store| {
        let mut former = store.worker(LEAVE);
        former.expect("left");
        let silent = lock_in_silence(&store.lock_path());
        assert_eq!(holder_in_the_way(&store), None);
        drop(silent);
        former.tell("end");
        former.finish();
    });
}

#[test]
fn a_record_that_is_none_is_an_unknown_holder() {
    in_both(|store| {
        let holder = store.holder();
        let record = std::fs::read(store.lock_path()).unwrap();
        assert!(holder_in_the_way(&store).is_some());
        let cut = &record[..record.len() - 1];
        let mut long = vec![b'x'; 100_000];
        long.extend_from_slice(&record);
        let binary: Vec<u8> = (0..=255).cycle().take(700).collect();
        let no_pid = b"larder-lock 1\npid=0\nend\n";
        let garbage: [&[u8]; 7] = [b"", b"\0\0\0", b"\xff\nend\n", no_pid, cut, &long, &binary];
        for garbage in garbage {
            std::fs::write(store.lock_path(), garbage).unwrap();
            assert_eq!(holder_in_the_way(&store), None);
            let told = Arc::new(AtomicBool::new(false));
            let teller = Arc::clone(&told);
            let view = store
                .waiting(Wait::Timeout(Duration::from_millis(5)))
                .telling(move |info| {
                    assert_eq!(info.holder, None);
                    teller.store(true, Ordering::SeqCst);
                });
            assert_eq!(view.lock(KEY).unwrap_err().kind(), ErrorKind::Busy);
            assert!(told.load(Ordering::SeqCst));
        }
        release(holder);
        drop(store.lock(KEY).unwrap());
        assert_eq!(listing(store.base()), empty_store());
    });
}

/// A path that names now one, now another file, both of them locked: whoever says that he holds the
/// lock has to hold one of them.
#[test]
fn a_waiter_believes_no_lock_that_it_does_not_hold() {
    in_both(|store| {
        let holder = store.holder();
        let (path, other) = (store.lock_path(), store.base().join("tmp/other"));
        drop(File::create_new(&other).unwrap());
        let other_held = lock_in_silence(&other);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let cwd = rustix::fs::CWD;
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                let mut exchanges = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    // Where the file system has no exchange the paths just stay as they are.
                    let _ = rustix::fs::renameat_with(cwd, &path, cwd, &other, exchange);
                    exchanges += 1;
                }
                if exchanges % 2 == 1 {
                    let _ = rustix::fs::renameat_with(cwd, &path, cwd, &other, exchange);
                }
            });
            let waiters: Vec<_> = (0..8)
                .map(|_| {
                    let view = store.waiting(Wait::Timeout(Duration::from_millis(300)));
                    scope.spawn(move || view.lock(KEY).map(drop).unwrap_err().kind())
                })
                .collect();
            let kinds: Vec<_> = waiters.into_iter().map(|w| w.join()).collect();
            done.store(true, Ordering::Relaxed);
            for kind in kinds {
                assert_eq!(kind.unwrap(), ErrorKind::Busy);
            }
        });
        drop(other_held);
        std::fs::remove_file(&other).unwrap();
        release(holder);
        eventually("nothing to be left", || {
            listing(store.base()) == empty_store()
        });
    });
}

/// The time to wait is that of each key, not of the batch: with many keys it would run out although
/// nobody is in the way for long.
#[test]
fn a_batch_waits_for_each_key_as_long_as_its_view_says() {
    const LIMIT: Duration = Duration::from_millis(400);
    const HELD: Duration = Duration::from_millis(100);
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    let keys: Vec<String> = (0..5).map(|n| n.to_string()).collect();
    let locks: Vec<KVFileLock> = keys
        .iter()
        .map(|key| store.lock(key.as_bytes()).unwrap())
        .collect();
    let (waits, waiting) = mpsc::channel();
    let view = store
        .with_wait(Wait::Timeout(LIMIT))
        .with_on_wait(move |info| waits.send(info.path.clone()).unwrap());
    let releases = thread::spawn(move || {
        for lock in locks {
            // Each is given up when it has been waited for, for a part of what is allowed.
            let path = waiting.recv_timeout(DEADLINE).unwrap();
            assert!(path.starts_with(dir.path()));
            let since = Instant::now();
            eventually("its time to be up", || since.elapsed() >= HELD);
            drop(lock);
        }
        dir
    });
    let mut batch = view.batch();
    for key in &keys {
        let key = key.as_bytes();
        batch.set(key, |w| Ok(w.write_all(b"text")?)).unwrap();
    }
    let begun = Instant::now();
    assert_eq!(batch.commit().unwrap(), keys.len());
    assert!(begun.elapsed() > LIMIT, "nobody was in the way");
    drop(view);
    releases.join().unwrap();
}

/// Each try of a waiter for a tree ends with a close of the lock file, which all who watch it are told
/// of: two of them woke each other for ever.
#[test]
fn waiters_do_not_keep_each_other_awake() {
    in_both(|store| {
        drop(store.lock("other").unwrap());
        std::fs::create_dir_all(store.lock_path().parent().unwrap()).unwrap();
        let held = File::create_new(store.lock_path()).unwrap();
        // Somebody's, who reads what is not there.
        rustix::fs::flock(&held, FlockOperation::NonBlockingLockShared).unwrap();
        let mut waiters = store.worker(COUNT);
        let said = waiters.next().unwrap();
        waiters.finish();
        let calls: usize = said.strip_prefix("calls ").unwrap().parse().unwrap();
        assert!(calls < 4_000, "{calls} calls");
    });
}

/// Waits for a key that is held, as often as it is told: each time hears the number of the call that
/// fails and the error's, or nothing, and says what calls it made.
fn wait_untold(store: &Store) {
    let mut descriptors = None;
    loop {
        let planned = hear();
        if planned == "enough" {
            return;
        }
        larder::__fault::arm(planned.split_once(' ').map(|(at, errno)| {
            let fault = larder::__fault::Fault::Fail(errno.parse().unwrap());
            (at.parse().unwrap(), fault)
        }));
        let view = store.waiting(Wait::Timeout(Duration::from_millis(200)));
        let refused = view.lock(KEY).unwrap_err();
        let calls = larder::__fault::disarm();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused:?}");
        // What it watches with stays open, and serves the next wait.
        assert_eq!(
            *descriptors.get_or_insert_with(open_descriptors),
            open_descriptors()
        );
        // It looks again and again, and not often.
        let tries = calls.iter().filter(|call| call.starts_with("try-flock"));
        assert!((3..=40).contains(&tries.count()), "{calls:?}");
        say(&format!("made {}", calls.join(" ")));
    }
}

#[test]
fn waiters_that_are_told_nothing_try_again() {
    in_both(|store| {
        let holder = store.holder();
        let wait = |waiter: &mut Worker, planned: Option<(usize, Errno)>| -> Vec<String> {
            waiter.tell(&planned.map_or_else(String::new, |(at, errno)| {
                format!("{at} {}", errno.raw_os_error())
            }));
            let made = waiter.expect("made");
            made.split(' ').map(str::to_owned).collect()
        };
        let at = |calls: &[String], call| calls.iter().position(|made| made == call);

        let mut waiter = store.worker(UNTOLD);
        let first = wait(&mut waiter, None);
        let init = at(&first, "inotify-init").unwrap();
        let second = wait(&mut waiter, None);
        assert_eq!(at(&second, "inotify-init"), None);
        let add = at(&second, "inotify-add").unwrap();
        for errno in [Errno::NOSPC, Errno::NOENT] {
            wait(&mut waiter, Some((add, errno)));
        }
        waiter.tell("enough");
        waiter.finish();

        let mut waiter = store.worker(UNTOLD);
        let made = wait(&mut waiter, Some((init, Errno::MFILE)));
        assert_eq!(at(&made, "inotify-add"), None);
        waiter.tell("enough");
        waiter.finish();
        release(holder);
    });
}
