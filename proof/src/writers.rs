//! The processes under load, from outside: started, listened to, killed.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;

use crate::plan::{Step, WRITERS};
use crate::survives::Survives;
use crate::workload::{Moment, REPORT_BYTES, Report};

/// A step that a writer began, and how many entries the block log had before and after it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) step: Step,
    pub(crate) begun: u64,
    pub(crate) done: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Load<'a> {
    pub(crate) caches: &'a Path,
    pub(crate) survives: Survives,
    pub(crate) seed: u64,
    /// The number of the first step; a writer's are below `first + (writer + 1) * STEPS`.
    pub(crate) first: u64,
    /// For each writer: of a hundred steps, so many are about trees.
    pub(crate) trees: &'a [u8],
    /// Whether another process syncs a file of its own all the time, so that names reach the disk
    /// before the data that they name.
    pub(crate) has_neighbour: bool,
    pub(crate) log: Option<&'a Path>,
}

/// More steps than a writer ever does.
pub(crate) const STEPS: u64 = 1 << 24;

/// Killed when dropped.
#[derive(Debug)]
pub(crate) struct Writers {
    processes: Vec<Child>,
    listeners: Vec<JoinHandle<anyhow::Result<Vec<Record>>>>,
    acknowledged: mpsc::Receiver<Step>,
}

impl Load<'_> {
    pub(crate) fn start(&self) -> anyhow::Result<Writers> {
        let (sender, acknowledged) = mpsc::channel();
        let mut writers = Writers {
            processes: Vec::new(),
            listeners: Vec::new(),
            acknowledged,
        };
        if self.has_neighbour {
            let mut neighbour = self.command().spawn().context("start the neighbour")?;
            let says = neighbour.stdout.take();
            writers.processes.push(neighbour);
            // Nobody wants to know, but its pipe is to end when this process does.
            std::thread::spawn(move || std::io::copy(&mut says?, &mut std::io::sink()).ok());
        }
        for (writer, &trees) in (0..WRITERS).zip(self.trees) {
            let mut command = self.command();
            command.arg(format!("--writer={writer}"));
            command.arg(format!("--trees={trees}"));
            command.arg(format!(
                "--first={}",
                self.first + u64::from(writer) * STEPS
            ));
            let mut process = command.spawn().context("start a writer")?;
            let stdout = process.stdout.take().context("listen to a writer")?;
            writers.processes.push(process);
            let sender = sender.clone();
            let seed = self.seed;
            let step = move |number| Step::planned(seed, writer, trees, number);
            let listener = std::thread::spawn(move || listen(stdout, step, &sender));
            writers.listeners.push(listener);
        }
        Ok(writers)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg("workload").arg("--caches").arg(self.caches);
        command.arg(format!("--durability={}", self.survives.name()));
        command.arg(format!("--seed={}", self.seed));
        if let Some(log) = self.log {
            command.arg("--log").arg(log);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }
}

/// Everything that a writer reports, until it ends.
fn listen(
    mut from: ChildStdout,
    step: impl Fn(u64) -> Step,
    acknowledged: &mpsc::Sender<Step>,
) -> anyhow::Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    let mut bytes = [0; REPORT_BYTES];
    while from.read_exact(&mut bytes).is_ok() {
        let report = Report::from_bytes(bytes);
        match (report.moment, records.last_mut()) {
            (Moment::Begin, _) => records.push(Record {
                step: step(report.number),
                begun: report.entries,
                done: None,
            }),
            (Moment::Done, Some(last)) if last.step.number == report.number => {
                last.done = Some(report.entries);
                let _ = acknowledged.send(last.step.clone()); // or nobody waits any more
            }
            (Moment::Done, _) => anyhow::bail!("step {} was done and not begun", report.number),
        }
    }
    Ok(records)
}

impl Writers {
    /// Waits until such a step is done, after those that are known to be.
    pub(crate) fn wait_for_step(&self, is_wanted: impl Fn(&Step) -> bool) -> anyhow::Result<()> {
        while self.acknowledged.try_recv().is_ok() {}
        loop {
            let next = self.acknowledged.recv_timeout(Duration::from_secs(60));
            if is_wanted(&next.context("the writers do nothing")?) {
                return Ok(());
            }
        }
    }

    /// Kills the processes, and says what they had begun and done: of each writer in its order.
    pub(crate) fn kill(mut self) -> anyhow::Result<Vec<Record>> {
        let mut ended = Vec::new();
        for process in &mut self.processes {
            ended.extend(process.try_wait().context("look after a process")?);
            process.kill().context("kill a process")?;
        }
        for process in &mut self.processes {
            process.wait().context("wait for a killed process")?;
        }
        self.processes.clear();
        let mut records = Vec::new();
        for listener in self.listeners.drain(..) {
            match listener.join() {
                Ok(heard) => records.extend(heard?),
                Err(_) => anyhow::bail!("a listener panicked"),
            }
        }
        match ended.first() {
            Some(status) => {
                anyhow::bail!("a process failed before it was killed ({status}), see above")
            }
            None => Ok(records),
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill(); // it may be dead
            let _ = process.wait();
        }
    }
}
