//! Processes that run at the same time, of which one after the other is killed and another started.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::event;
use super::process::{self, DEADLINE};
use crate::clock;

/// How many, and how long.
#[derive(Debug)]
pub(super) struct Crowd<'a> {
    pub(super) processes: usize,
    /// It ends after about so many.
    pub(super) operations: u64,
    /// One process is killed every so many milliseconds, on average.
    pub(super) kill_every_ms: u64,
    pub(super) seed: u64,
    /// Where they record.
    pub(super) dir: &'a Path,
    /// What a process is told, but for its number, its seed and where it records.
    pub(super) arguments: Vec<String>,
}

/// What is left of a process.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) record: PathBuf,
    /// It was seen to be gone.
    pub(super) at: u64,
}

impl Crowd<'_> {
    /// Lets them run, and kills one after the other, and in the end all. The second number says how many
    /// were killed before the end.
    pub(super) fn run(&self) -> anyhow::Result<(Vec<Dead>, usize)> {
        let run = self.run_all();
        run.with_context(|| format!("seed {}", self.seed))
    }

    fn run_all(&self) -> anyhow::Result<(Vec<Dead>, usize)> {
        ensure!((2..=16).contains(&self.processes), "2 to 16 processes");
        let mut random = fastrand::Rng::with_seed(self.seed);
        let mut next = 0;
        let mut start = || {
            next += 1;
            self.start(next)
        };
        let mut running = (0..self.processes)
            .map(|_| start())
            .collect::<anyhow::Result<Vec<Running>>>()?;
        let mut dead = Vec::new();
        let mut recorded = 0;
        let mut progress = Progress::new();
        loop {
            let pause = random.u64(0..=2 * self.kill_every_ms * 1000);
            std::thread::sleep(Duration::from_micros(pause));
            let going = running.iter().map(Running::recorded).sum::<u64>();
            let done = event::operations(recorded + going);
            progress.look(done)?;
            if done >= self.operations {
                break;
            }
            let victim = random.usize(0..running.len());
            dead.push(running[victim].kill()?);
            recorded += running[victim].recorded();
            running[victim] = start()?;
        }
        let kills = dead.len();
        go_on(&mut running)?;
        for one in &mut running {
            dead.push(one.kill()?);
        }
        Ok((dead, kills))
    }

    fn start(&self, process: u32) -> anyhow::Result<Running> {
        let record = self.dir.join(format!("record-{process}"));
        let mut command = Command::new(std::env::current_exe()?);
        let seed = self.seed.wrapping_add(u64::from(process));
        command
            .arg("process")
            .args(["--process", &process.to_string()])
            .args(["--seed", &seed.to_string()])
            .args(&self.arguments)
            .arg("--stores")
            .arg(self.dir)
            .arg("--record")
            .arg(&record)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().context("starting a process")?;
        Ok(Running { child, record })
    }
}

/// One that runs, and where it records.
#[derive(Debug)]
struct Running {
    child: Child,
    record: PathBuf,
}

impl Running {
    fn kill(&mut self) -> anyhow::Result<Dead> {
        self.child.kill()?;
        let status = self.child.wait()?;
        // It may have been killed while it was telling.
        match std::fs::read_to_string(process::violation(&self.record)) {
            Ok(violation) => bail!("VIOLATION: {violation}"),
            Err(_) => ensure!(
                status.signal() == Some(9),
                "a process ended by itself, {status}"
            ),
        }
        Ok(Dead {
            record: self.record.clone(),
            at: clock::now(),
        })
    }

    /// How much it has recorded, in bytes.
    fn recorded(&self) -> u64 {
        std::fs::metadata(&self.record).map_or(0, |meta| meta.len())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets each of them end something more before the last are killed. Until here, one that hangs was
/// killed soon, and looked like any other.
fn go_on(running: &mut [Running]) -> anyhow::Result<()> {
    let one_more = 2 * event::LEN as u64;
    let enough: Vec<u64> = running
        .iter()
        .map(|one| one.recorded() + one_more)
        .collect();
    let began = Instant::now();
    while !running
        .iter()
        .zip(&enough)
        .all(|(one, &enough)| one.recorded() >= enough)
    {
        if began.elapsed() > DEADLINE {
            for one in running {
                one.kill()?; // it may have ended, and says why
            }
            bail!("VIOLATION: a process has ended nothing for {:?}", DEADLINE);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether anything still goes on.
#[derive(Debug)]
struct Progress {
    done: u64,
    at: Instant,
}

impl Progress {
    fn new() -> Progress {
        let at = Instant::now();
        Progress { done: 0, at }
    }

    fn look(&mut self, done: u64) -> anyhow::Result<()> {
        if done > self.done {
            *self = Progress {
                done,
                ..Progress::new()
            };
        }
        let stuck = self.at.elapsed() > DEADLINE;
        ensure!(!stuck, "VIOLATION: nothing has ended for {:?}", DEADLINE);
        Ok(())
    }
}
