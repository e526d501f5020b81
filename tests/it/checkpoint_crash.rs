//! Checkpoints under kills and failures, and many processes at once on few of them.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder::__fault::{Fault, arm, calls, disarm, go_on, pause_before};
use larder::{
    CheckpointKey, CheckpointOptions, CheckpointStore, Deletion, Durability, ErrorKind, Put,
};
use rustix::io::Errno;

use crate::support::{Worker, eventually, in_memory, listing};
use crate::worker::say;

const SEAM: &str = "checkpoint-at-the-seam";
const FAIL: &str = "checkpoint-fails";
const RENAMED_OVER: &str = "checkpoint-renamed-over";
const CHANGE: &str = "change-checkpoints";

pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        SEAM => at_the_seam(args),
        FAIL => fail_everywhere(Path::new(args[0])),
        RENAMED_OVER => renamed_over(args),
        CHANGE => change_until_killed(args),
        _ => return false,
    }
    true
}

fn key(n: u64) -> CheckpointKey {
    CheckpointKey::new([u8::try_from(n).unwrap(); 32])
}

fn open(dir: &Path, durability: Durability) -> CheckpointStore<String> {
    let options = CheckpointOptions::new().durability(durability);
    options.open(dir.join("state.json")).unwrap()
}

// --- at the seam ---

/// What is done to a file with one state, or to none.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    PutFirst,
    Put,
    Update,
    Delete,
    Get,
}

const STEPS: [Step; 5] = [
    Step::PutFirst,
    Step::Put,
    Step::Update,
    Step::Delete,
    Step::Get,
];

impl Step {
    fn of(name: &str) -> Self {
        STEPS[name.parse::<usize>().unwrap()]
    }

    /// What there was: a state `old` under sequence 1, and of another key, for nobody else's eyes.
    fn prepare(self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        if self != Step::PutFirst {
            let store = open(dir, Durability::Data);
            assert_eq!(store.put(&key(1), 1, &"old".into()).unwrap(), Put::Stored);
            assert_eq!(store.put(&key(2), 7, &"other".into()).unwrap(), Put::Stored);
            fs::set_permissions(dir.join("state.json"), Permissions::from_mode(0o600)).unwrap();
        }
    }

    fn run(self, store: &CheckpointStore<String>) -> larder::Result<()> {
        match self {
            Step::PutFirst | Step::Put => {
                assert_eq!(store.put(&key(1), 2, &"new".into())?, Put::Stored);
            }
            Step::Update => {
                assert_eq!(store.update(&key(1), |_| Ok("new".into()))?.sequence, 2);
            }
            Step::Delete => assert_eq!(store.delete(&key(1), 1)?, Deletion::Deleted),
            Step::Get => drop(store.get(&key(1))?),
        }
        Ok(())
    }

    /// The sequence and the state before and after.
    fn before(self) -> Option<(u64, &'static str)> {
        (self != Step::PutFirst).then_some((1, "old"))
    }

    fn after(self) -> Option<(u64, &'static str)> {
        match self {
            Step::PutFirst | Step::Put | Step::Update => Some((2, "new")),
            Step::Delete => None,
            Step::Get => self.before(),
        }
    }
}

fn state(store: &CheckpointStore<String>) -> Option<(u64, String)> {
    let found = store.get(&key(1)).unwrap();
    found.map(|checkpoint| (checkpoint.sequence, checkpoint.state))
}

fn owned(state: Option<(u64, &str)>) -> Option<(u64, String)> {
    state.map(|(sequence, state)| (sequence, state.to_owned()))
}

/// After whatever happened: nobody else may read what was secret, nor what was to replace it; old or new,
/// nothing of others' lost, and the next goes on.
fn examine(step: Step, dir: &Path, context: &str) {
    for name in listing(dir) {
        let mode = fs::metadata(dir.join(&name)).unwrap().mode() & 0o777;
        let secret = step != Step::PutFirst && !name.ends_with(".lock");
        assert!(!secret || mode == 0o600, "{context}: {name} is {mode:o}");
    }
    let store = open(dir, Durability::Data);
    let found = state(&store);
    assert!(
        found == owned(step.before()) || found == owned(step.after()),
        "{context}: {found:?}"
    );
    if step != Step::PutFirst {
        assert_eq!(store.get(&key(2)).unwrap().unwrap().state, "other");
    }
    assert_eq!(store.put(&key(1), 3, &"next".into()).unwrap(), Put::Stored);
    let files: Vec<String> = listing(dir).into_iter().collect();
    assert_eq!(files, ["state.json", "state.json.lock"], "{context}");
}

/// DIR STEP FULL AT: does it, and is killed before call AT; says `calls N` if it was not.
fn at_the_seam(args: &[&str]) {
    let durability = match args[2] {
        "full" => Durability::Full,
        _ => Durability::Data,
    };
    let store = open(Path::new(args[0]), durability);
    arm([(args[3].parse().unwrap(), Fault::Kill)]);
    let done = Step::of(args[1]).run(&store);
    let calls = disarm().len();
    done.unwrap();
    say(&format!("calls {calls}"));
}

#[test]
fn a_writer_is_killed_at_every_call() {
    let dir = in_memory();
    for (number, step) in STEPS.into_iter().enumerate() {
        for durability in ["data", "full"] {
            for at in 0.. {
                let base = dir.path().join(format!("{number}-{durability}-{at}"));
                step.prepare(&base);
                let text = base.to_str().unwrap();
                let args = [text, &number.to_string(), durability, &at.to_string()];
                let was_killed = Worker::start(SEAM, &args).was_killed();
                examine(
                    step,
                    &base,
                    &format!("{step:?}, {durability}, killed before call {at}"),
                );
                fs::remove_dir_all(&base).unwrap();
                if !was_killed {
                    assert!(step == Step::Get || at > 10, "only {at} calls");
                    break;
                }
            }
        }
    }
}

#[test]
fn every_call_fails() {
    let dir = in_memory();
    Worker::start(FAIL, &[dir.path().to_str().unwrap()]).finish();
}

/// DIR: all of them in one process, which has the seam for itself. What it knows has to stay as it was as well.
fn fail_everywhere(dir: &Path) {
    let done = |step: Step, base: &Path, fault: Option<(usize, Errno)>| {
        step.prepare(base);
        let store = open(base, Durability::Full);
        let before = fs::read(base.join("state.json")).ok();
        arm(fault.map(|(at, errno)| (at, Fault::Fail(errno.raw_os_error()))));
        let done = step.run(&store);
        let calls = disarm();
        let context = format!("{step:?}: {fault:?} of {calls:?}");
        if let Err(err) = &done {
            let (at, errno) = fault.unwrap();
            assert_ne!(errno, Errno::INTR, "{context}");
            let expected = match errno {
                Errno::ACCESS if !matches!(err.kind(), ErrorKind::Io) => ErrorKind::ReadOnly,
                _ => ErrorKind::Io,
            };
            assert_eq!(err.kind(), expected, "{context}");
            assert!(err.path().unwrap().starts_with(base), "{context}");
            if calls[at] != "unlink" {
                assert!(!base.join("state.json.larder-new").exists(), "{context}");
            }
            let after_the_rename = calls[..at].contains(&"rename");
            if !after_the_rename {
                assert_eq!(fs::read(base.join("state.json")).ok(), before, "{context}");
                assert_eq!(state(&store), owned(step.before()), "{context}");
            }
        } else {
            assert_eq!(state(&store), owned(step.after()), "{context}");
        }
        // What this handle knows is what is there.
        assert_eq!(
            state(&store),
            state(&open(base, Durability::Data)),
            "{context}"
        );
        examine(step, base, &context);
        let done = done.is_ok();
        fs::remove_dir_all(base).unwrap();
        (done, calls.len())
    };
    for step in STEPS {
        let base = dir.join(format!("{step:?}"));
        let (_, calls) = done(step, &base, None);
        in_order(step, &base);
        let mut failed = 0;
        for at in 0..calls {
            for errno in [Errno::IO, Errno::NOSPC, Errno::INTR, Errno::ACCESS] {
                failed += usize::from(!done(step, &base, Some((at, errno))).0);
            }
        }
        assert!(failed > 0, "{step:?} ignores every error of {calls} calls");
    }
    answers_last(&dir.join("answers"));
    // When nothing has changed, a `get` is one look.
    Step::Put.prepare(dir);
    let store = open(dir, Durability::Data);
    arm([]);
    let found = store.get(&key(1)).unwrap();
    assert_eq!((disarm(), found.unwrap().sequence), (vec!["stat"], 1));
}

/// What is renamed is on the disk before, and its name after.
fn in_order(step: Step, dir: &Path) {
    step.prepare(dir);
    let store = open(dir, Durability::Full);
    arm([]);
    step.run(&store).unwrap();
    let calls = disarm();
    fs::remove_dir_all(dir).unwrap();
    let all = ["fdatasync", "rename", "fsync-dir"];
    let order: Vec<&str> = calls
        .into_iter()
        .filter(|call| all.contains(call))
        .collect();
    let expected = if step == Step::Get { &[][..] } else { &all };
    assert_eq!(order, expected, "{step:?}");
}

/// With `Full`, who finds nothing to change makes last what is there, once: who put it there may have failed in
/// that, and may be asking again.
fn answers_last(dir: &Path) {
    let answers: [fn(&CheckpointStore<String>); 4] = [
        |store| {
            let same = store.update(&key(1), |old| Ok(old.unwrap())).unwrap();
            assert_eq!(same.sequence, 1);
        },
        |store| {
            let put = store.put(&key(1), 1, &"new".into()).unwrap();
            assert_eq!(put, Put::Stale { stored: 1 });
        },
        |store| assert_eq!(store.delete(&key(3), 1).unwrap(), Deletion::Absent),
        |store| {
            let deletion = store.delete(&key(2), 6).unwrap();
            assert_eq!(deletion, Deletion::Stale { stored: 7 });
        },
    ];
    Step::Put.prepare(dir);
    for answer in answers {
        for (durability, first) in [(Durability::Data, 0), (Durability::Full, 1)] {
            let store = open(dir, durability);
            for expected in [first, 0] {
                arm([]);
                answer(&store);
                let calls = disarm();
                let syncs = calls.iter().filter(|&&call| call == "fsync-dir").count();
                assert_eq!(syncs, expected, "{calls:?}");
            }
        }
    }
}

// --- renamed over ---

/// What somebody puts in the place of a file that was just written is not taken for that file.
#[test]
fn what_comes_right_after_a_change_is_seen() {
    for comes in ["older", "newer"] {
        let dir = in_memory();
        let text = dir.path().to_str().unwrap();
        Worker::start(RENAMED_OVER, &[text, comes]).finish();
    }
}

/// DIR COMES: has its file replaced between its rename and whatever it does next.
fn renamed_over(args: &[&str]) {
    let (dir, comes) = (Path::new(args[0]), args[1]);
    let store = open(dir, Durability::Data);
    let put = |sequence| {
        assert_eq!(
            store.put(&key(1), sequence, &"".into()).unwrap(),
            Put::Stored
        )
    };
    put(5);
    fs::copy(dir.join("state.json"), dir.join("older")).unwrap();
    fs::create_dir(dir.join("beside")).unwrap();
    let farther = open(&dir.join("beside"), Durability::Data);
    assert_eq!(farther.put(&key(1), 50, &"".into()).unwrap(), Put::Stored);
    fs::rename(dir.join("beside/state.json"), dir.join("newer")).unwrap();
    arm([]);
    put(6);
    let renamed = disarm().iter().position(|&call| call == "rename").unwrap();

    arm([]);
    pause_before(renamed + 1);
    std::thread::scope(|scope| {
        scope.spawn(|| put(7));
        eventually("it has renamed", || calls() > renamed + 1);
        fs::rename(dir.join(comes), dir.join("state.json")).unwrap();
        go_on();
    });
    disarm();
    let next = store.update(&key(1), |_| Ok("next".into()));
    match comes {
        "older" => assert_eq!(next.unwrap_err().kind(), ErrorKind::RolledBack),
        _ => assert_eq!(next.unwrap().sequence, 51),
    }
}

// --- everybody at once ---

const KEYS: u64 = 3;
const WHILE: Duration = Duration::from_secs(3);

/// The clock that all processes of a machine share.
fn now() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u128 * 1_000_000_000 + now.tv_nsec as u128
}

/// DIR LOG SEED: puts, updates, deletes and reads, and writes down what came of it: when it began and ended,
/// what it did, the key, the sequence, the state.
fn change_until_killed(args: &[&str]) {
    let mut log = File::options()
        .append(true)
        .create(true)
        .open(args[1])
        .unwrap();
    let mut random = fastrand::Rng::with_seed(args[2].parse().unwrap());
    let store = open(Path::new(args[0]), Durability::Data);
    let end = Instant::now() + WHILE;
    let mut count = 0;
    while Instant::now() < end {
        let n = random.u64(..KEYS);
        let key = key(n);
        count += 1;
        let mine = format!("{}-{count}", std::process::id());
        let began = now();
        let known = store.sequence(&key).unwrap().unwrap_or(0);
        let seen = ("saw", known, "-".to_owned());
        let came = match random.u8(..8) {
            0 => match store.delete(&key, known).unwrap() {
                Deletion::Deleted => ("deleted", known, "-".to_owned()),
                Deletion::Absent | Deletion::Stale { .. } => seen,
            },
            1..3 => {
                let made = store.update(&key, |_| Ok(mine.clone())).unwrap();
                ("wrote", made.sequence, mine)
            }
            3..5 => {
                let sequence = (known + random.u64(..3)).max(1);
                match store.put(&key, sequence, &mine).unwrap() {
                    Put::Stored => ("wrote", sequence, mine),
                    Put::Stale { stored } => {
                        assert!(stored >= sequence);
                        ("saw", stored, "-".to_owned())
                    }
                }
            }
            _ => match store.get(&key).unwrap() {
                Some(found) => ("read", found.sequence, found.state),
                None => seen,
            },
        };
        let (what, sequence, state) = came;
        let ended = now();
        let line = format!("{began} {ended} {what} {n} {sequence} {state}\n");
        log.write_all(line.as_bytes()).unwrap();
    }
}

struct Event {
    began: u128,
    ended: u128,
    what: String,
    key: u64,
    sequence: u64,
    state: String,
}

fn events(log: &Path) -> Vec<Event> {
    let text = fs::read_to_string(log).unwrap();
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let event = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        Event {
            began: words[0].parse().unwrap(),
            ended: words[1].parse().unwrap(),
            what: words[2].to_owned(),
            key: words[3].parse().unwrap(),
            sequence: words[4].parse().unwrap(),
            state: words[5].to_owned(),
        }
    };
    whole.lines().map(event).collect()
}

/// Panics if anybody saw less than somebody had seen before he began, or another state under a sequence.
fn examine_history(events: &mut [Event]) {
    let mut states: HashMap<(u64, u64), &str> = HashMap::new();
    let with_state = |event: &&Event| matches!(&*event.what, "wrote" | "read");
    for event in events.iter().filter(with_state) {
        let known = states
            .entry((event.key, event.sequence))
            .or_insert(&event.state);
        assert_eq!(
            *known, event.state,
            "two states of key {} at {}",
            event.key, event.sequence
        );
    }
    events.sort_by_key(|event| event.ended);
    // For each moment at which something ended, the most that was seen by then, and deleted.
    for key in 0..KEYS {
        let of_key: Vec<&Event> = events.iter().filter(|event| event.key == key).collect();
        let (mut most, mut deleted) = (Vec::new(), Vec::new());
        for event in &of_key {
            let before = most.last().map_or(0, |&(_, most): &(u128, u64)| most);
            most.push((event.ended, before.max(event.sequence)));
            let before = deleted.last().map_or(0, |&(_, most): &(u128, u64)| most);
            let now = if event.what == "deleted" {
                event.sequence
            } else {
                0
            };
            deleted.push((event.ended, before.max(now)));
        }
        let by = |history: &[(u128, u64)], moment: u128| {
            let ended = history.partition_point(|&(ended, _)| ended < moment);
            ended.checked_sub(1).map_or(0, |last| history[last].1)
        };
        for event in &of_key {
            let seen = by(&most, event.began);
            assert!(
                event.sequence >= seen,
                "{} of {} after {seen}",
                event.what,
                event.sequence
            );
            if event.what == "read" {
                let deleted = by(&deleted, event.began);
                assert!(event.sequence > deleted, "{deleted} came back");
            }
        }
    }
}

#[test]
fn no_sequence_goes_down_whoever_is_killed() {
    let dir = in_memory();
    let logs = in_memory();
    let start = |n: usize| {
        let log: PathBuf = logs.path().join(n.to_string());
        let (dir, log) = (dir.path().to_str().unwrap(), log.to_str().unwrap());
        Worker::start(CHANGE, &[dir, log, &n.to_string()])
    };
    let mut workers: Vec<Worker> = (0..8).map(start).collect();
    let mut random = fastrand::Rng::with_seed(3);
    let mut started = workers.len();
    let end = Instant::now() + WHILE;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.u64(5..60)));
        let at = random.usize(..workers.len());
        workers[at].kill();
        workers[at].was_killed(); // or it had ended well by itself
        workers[at] = start(started);
        started += 1;
    }
    for worker in &mut workers {
        worker.finish();
    }
    let mut all: Vec<Event> = (0..started)
        .map(|n| logs.path().join(n.to_string()))
        .filter(|log| log.exists())
        .flat_map(|log| events(&log))
        .collect();
    examine_history(&mut all);
    let written = all.iter().filter(|event| event.what == "wrote").count();
    let deleted = all.iter().filter(|event| event.what == "deleted").count();
    assert!(
        written > 500 && deleted > 50,
        "{written} written, {deleted} deleted"
    );
    // Nothing acknowledged is lost, and nothing but the file and its lock is left.
    let store = open(dir.path(), Durability::Data);
    for n in 0..KEYS {
        let most = all
            .iter()
            .filter(|event| event.key == n)
            .map(|event| event.sequence);
        assert!(store.sequence(&key(n)).unwrap() >= most.max());
    }
    assert_eq!(store.put(&key(9), 1, &String::new()).unwrap(), Put::Stored);
    let files: Vec<String> = listing(dir.path()).into_iter().collect();
    assert_eq!(files, ["state.json", "state.json.lock"]);
}
