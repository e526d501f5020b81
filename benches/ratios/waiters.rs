//! 64 processes that wait for one value: how long from its computation's end until the last of them has
//! it, and how much of a processor they take while they wait. What the others are compared with is posy's
//! chain, in which one hands the lock to the next.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use larder::{CancelToken, Durability, KVFileStore, StoreOptions, Wait};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};

use crate::measure::{Figure, Way, in_turn};
use crate::posy;

const WAITERS: usize = 64;
const VALUE: &[u8] = &[7; 4096];

/// What a waiting process is started with, before its way and its directory.
pub(crate) const ROLE: &str = "waiter";

/// From the end of a short computation.
pub(crate) fn wait(dir: &Path, turns: usize) -> Vec<Figure> {
    let hold = Duration::from_millis(100);
    let ways = ["posy", "blocked, shared", "plain", "seen, bounded"];
    measure(dir, turns, hold, &ways, |ready, had| {
        let last = had.iter().map(|had| had.at).max().unwrap();
        last - ready
    })
}

/// What all of them together take of the processors for a computation of five seconds.
pub(crate) fn burn(dir: &Path, turns: usize) -> Vec<Figure> {
    let hold = Duration::from_secs(5);
    let ways = ["blocked, shared", "plain", "seen, bounded"];
    measure(dir, turns.min(3), hold, &ways, |_, had| {
        had.iter().map(|had| had.burnt).sum()
    })
}

fn measure(
    dir: &Path,
    turns: usize,
    hold: Duration,
    ways: &[&'static str],
    of: fn(Duration, &[Had]) -> Duration,
) -> Vec<Figure> {
    let mut ways: Vec<(&'static str, Way<'_>)> = ways
        .iter()
        .map(|&way| {
            let base = dir.join(way);
            std::fs::create_dir(&base).unwrap();
            let start = || Waiter::start(way, &base);
            let mut waiters: Vec<Waiter> = std::iter::repeat_with(start).take(WAITERS).collect();
            let store = Store::open(way, &base);
            let mut turn = 0;
            let lead: Way<'_> = Box::new(move |_| {
                turn += 1;
                let (ready, had) = store.lead(&format!("value {turn}"), hold, &mut waiters);
                of(ready, &had)
            });
            (way, lead)
        })
        .collect();
    in_turn(turns, 1, &mut ways)
}

/// When a waiter had the value, and what it took of a processor from its question until then.
struct Had {
    at: Duration,
    burnt: Duration,
}

/// A key's value, computed by one and waited for by the others, in one of the ways.
enum Store {
    Posy(posy::Store),
    Larder(KVFileStore),
    /// Nothing but the lock: the wait for it shared, and an open.
    Flock(std::path::PathBuf),
}

impl Store {
    fn open(way: &str, base: &Path) -> Store {
        let larder = || {
            let options = StoreOptions::new().durability(Durability::None);
            options.open_file_store(base).unwrap()
        };
        match way {
            "posy" => Store::Posy(posy::Store::new(base)),
            "plain" => Store::Larder(larder()),
            "seen, bounded" => Store::Larder(
                larder()
                    .with_wait(Wait::Timeout(Duration::from_secs(60)))
                    .with_cancel(&CancelToken::new())
                    .with_on_wait(|_| ()),
            ),
            _ => Store::Flock(base.to_owned()),
        }
    }

    /// Computes the value for so long while all others wait for it. When it was done, and when they
    /// had it.
    fn lead(&self, key: &str, hold: Duration, waiters: &mut [Waiter]) -> (Duration, Vec<Had>) {
        let mut ready = Duration::ZERO;
        let mut compute = || {
            for waiter in &mut *waiters {
                waiter.tell(key);
            }
            // They say so right before they ask; after this they have.
            for waiter in &mut *waiters {
                waiter.hear();
            }
            std::thread::sleep(hold);
            ready = clock(ClockId::Monotonic);
        };
        match self {
            Store::Posy(store) => drop(store.get_or_set(key, || {
                compute();
                VALUE.to_vec()
            })),
            Store::Larder(store) => drop(store.get_or_set(key, |w| {
                compute();
                Ok(w.write_all(VALUE)?)
            })),
            Store::Flock(base) => {
                let lock = File::create(base.join(format!("{key}.lock"))).unwrap();
                flock(&lock, FlockOperation::LockExclusive).unwrap();
                compute();
                std::fs::write(base.join("staged"), VALUE).unwrap();
                std::fs::rename(base.join("staged"), base.join(key)).unwrap();
            }
        }
        let had = waiters.iter_mut().map(|waiter| {
            let told = waiter.hear();
            let (at, burnt) = told.split_once(' ').unwrap();
            let [at, burnt] = [at, burnt].map(|nanos| Duration::from_nanos(nanos.parse().unwrap()));
            Had { at, burnt }
        });
        (ready, had.collect())
    }

    /// Waits for the value and reads it.
    fn follow(&self, key: &str) {
        let mut bytes = Vec::new();
        let mut file: Box<dyn Read> = match self {
            Store::Posy(store) => Box::new(store.get_or_set(key, || unreachable!("computed"))),
            Store::Larder(store) => {
                let nobody = |_w: &mut _| unreachable!("computed twice");
                Box::new(store.get_or_set(key, nobody).unwrap())
            }
            Store::Flock(base) => {
                let lock = File::open(base.join(format!("{key}.lock"))).unwrap();
                flock(&lock, FlockOperation::LockShared).unwrap();
                Box::new(File::open(base.join(key)).unwrap())
            }
        };
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, VALUE);
    }
}

fn clock(clock: ClockId) -> Duration {
    Duration::try_from(clock_gettime(clock)).unwrap()
}

/// A process that waits.
struct Waiter {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Waiter {
    fn start(way: &str, base: &Path) -> Waiter {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([ROLE, way])
            .arg(base)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Waiter {
            to: child.stdin.take().unwrap(),
            from: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn tell(&mut self, key: &str) {
        writeln!(self.to, "{key}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process: waits for each key that it is told of.
pub(crate) fn play(way: &str, base: &Path) {
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let store = Store::open(way, base);
    for key in std::io::stdin().lines() {
        println!("asks");
        let before = clock(ClockId::ProcessCPUTime);
        store.follow(&key.unwrap());
        let burnt = clock(ClockId::ProcessCPUTime) - before;
        println!(
            "{} {}",
            clock(ClockId::Monotonic).as_nanos(),
            burnt.as_nanos()
        );
    }
}
