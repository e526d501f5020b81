//! One of the processes that do the work: it is told line by line what to do.

use std::fmt::Write as _;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::peers::{Peer, VARIANTS};
use crate::work::{Content, Random, Size, Work};

/// The first word on the command line of a worker.
pub(crate) const ROLE: &str = "--worker";

/// Nanoseconds of the clock that all processes share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A turn of one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) work: Work,
    pub(crate) operations: u64,
    /// The number of its first operation among those of all processes.
    pub(crate) first: u64,
    /// When it begins, and when it ends even if operations are left.
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) thorough: bool,
}

impl Turn {
    pub(crate) fn line(&self) -> String {
        format!(
            "{} {} {} {} {} {}",
            self.work.name(),
            self.operations,
            self.first,
            self.begin,
            self.end,
            u64::from(self.thorough)
        )
    }

    fn parse(line: &str) -> Option<Self> {
        let (work, numbers) = line.split_once(' ')?;
        let mut numbers = numbers.split(' ').map(|number| number.parse().ok());
        Some(Turn {
            work: Work::parse(work)?,
            operations: numbers.next()??,
            first: numbers.next()??,
            begin: numbers.next()??,
            end: numbers.next()??,
            thorough: numbers.next()?? == 1,
        })
    }
}

struct Worker {
    peer: Box<dyn Peer>,
    size: &'static Size,
    /// What it writes is numbered, and what it reads looked at, by means of these.
    content: Content,
    written: u64,
    random: Random,
    key: String,
}

/// The words of a worker's command line after its role.
pub(crate) fn play(words: &[String]) -> Result<()> {
    let [variant, dir, size, number] = words else {
        anyhow::bail!("a worker needs a variant, a directory, a size and a number");
    };
    let variant = VARIANTS.iter().find(|own| own.id == variant);
    let number: u64 = number.parse()?;
    let size = Size::parse(size).context("no such size")?;
    let mut worker = Worker {
        peer: (variant.context("no such variant")?.open)(Path::new(dir), size)?,
        size,
        content: Content::new(size),
        written: number << 32,
        random: Random(number + 1),
        key: String::new(),
    };
    let mut answers = std::io::stdout().lock();
    writeln!(answers, "ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line == "fill" {
            worker.fill()?;
            writeln!(answers, "full")?;
        } else {
            let turn = Turn::parse(&line).context("not understood")?;
            let (done, ended) = worker.run(&turn)?;
            writeln!(answers, "{done} {ended}")?;
        }
        answers.flush()?;
    }
    Ok(())
}

impl Worker {
    fn fill(&mut self) -> Result<()> {
        self.peer.renew()?;
        (0..self.size.keys).try_for_each(|key| self.set(key))
    }

    fn run(&mut self, turn: &Turn) -> Result<(u64, u64)> {
        let early = turn.begin.saturating_sub(now());
        std::thread::sleep(Duration::from_nanos(early));
        for done in 0..turn.operations {
            let key = self.random.next() as usize % self.size.keys;
            if turn.work.sets(turn.first + done) {
                self.set(key)?;
            } else {
                self.read(key, turn.work == Work::Miss, turn.thorough)?;
            }
            // The clock is asked only where the time counts.
            if turn.end != u64::MAX && now() >= turn.end {
                return Ok((done + 1, now()));
            }
        }
        Ok((turn.operations, now()))
    }

    fn set(&mut self, key: usize) -> Result<()> {
        self.name(key, false);
        self.written += 1;
        let value = self.content.value(key, self.written);
        self.peer.set(&self.key, value)
    }

    fn read(&mut self, key: usize, absent: bool, thorough: bool) -> Result<()> {
        self.name(key, absent);
        let content = &self.content;
        let mut look = |value: &[u8]| content.check(key, value, thorough);
        let found = self.peer.read(&self.key, &mut look)?;
        ensure!(found != absent, "found: {found}, absent: {absent}");
        Ok(())
    }

    fn name(&mut self, key: usize, absent: bool) {
        self.key.clear();
        let kind = if absent { "absent" } else { "present" };
        let _ = write!(self.key, "{kind}-key-number-{key}");
    }
}
