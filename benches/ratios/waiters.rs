//! 64 processes that wait for one value: how long from its computation's end until the last of them has
//! it. What the others are compared with is posy's chain, in which one hands the lock to the next.

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

pub(crate) fn wait(dir: &Path, turns: usize) -> Vec<Figure> {
    let mut ways: Vec<(&'static str, Way<'_>)> = Vec::new();
    for way in ["posy", "blocked, shared", "plain", "seen, bounded"] {
        let base = dir.join(way);
        std::fs::create_dir(&base).unwrap();
        let mut waiters: Vec<Waiter> = (0..WAITERS).map(|_| Waiter::start(way, &base)).collect();
        let store = Store::open(way, &base);
        let mut turn = 0;
        ways.push((
            way,
            Box::new(move |_| {
                turn += 1;
                store.lead(&format!("value {turn}"), &mut waiters)
            }),
        ));
    }
    in_turn(turns, 1, &mut ways)
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

    /// Computes the value when all others wait for it; how long the last of them took from there.
    fn lead(&self, key: &str, waiters: &mut [Waiter]) -> Duration {
        let mut ready = 0;
        let mut compute = || {
            for waiter in &mut *waiters {
                waiter.tell(key);
            }
            // They say so right before they ask; after this they have.
            for waiter in &mut *waiters {
                waiter.hear();
            }
            std::thread::sleep(Duration::from_millis(100));
            ready = now();
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
        let had = waiters.iter_mut().map(|waiter| waiter.hear());
        let last = had.map(|at| at.parse::<u64>().unwrap()).max().unwrap();
        Duration::from_nanos(last - ready)
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

/// Nanoseconds on the clock that all processes share.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap()
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
        store.follow(&key.unwrap());
        println!("{}", now());
    }
}
