//! The processes under load, from outside: started, listened to, killed.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::subject::{Origin, Subject};
use crate::survives::Survives;
use crate::workload::{Moment, REPORT_BYTES, Report};

/// A step that a writer began, and when: by how many entries the block log had, if there is one.
#[derive(Clone, Debug)]
pub(crate) struct Record<Step> {
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
    /// For each writer its share.
    pub(crate) shares: &'a [u8],
    /// Whether another process syncs a file of its own all the time, so that names reach the disk
    /// before the data that they name.
    pub(crate) has_neighbour: bool,
    pub(crate) log: Option<&'a Path>,
}

/// More steps than a writer ever does.
pub(crate) const STEPS: u64 = 1 << 24;

/// Killed when dropped.
#[derive(Debug)]
pub(crate) struct Writers<Step> {
    processes: Vec<Child>,
    listeners: Vec<JoinHandle<anyhow::Result<Vec<Record<Step>>>>>,
    acknowledged: mpsc::Receiver<Step>,
}

impl Load<'_> {
    pub(crate) fn start<S: Subject>(&self) -> anyhow::Result<Writers<S::Step>> {
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
        for (writer, &share) in (0..).zip(self.shares) {
            let first = self.first + u64::from(writer) * STEPS;
            let mut command = self.command();
            command.args(S::ARGUMENTS);
            command.arg(format!("--writer={writer}"));
            command.arg(format!("--share={share}"));
            command.arg(format!("--first={first}"));
            let mut process = command.spawn().context("start a writer")?;
            let stdout = process.stdout.take().context("listen to a writer")?;
            writers.processes.push(process);
            let sender = sender.clone();
            let origin = Origin {
                seed: self.seed,
                writer,
                share,
                first,
            };
            let step = move |number| S::step(origin, number);
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
fn listen<Step: Clone>(
    mut from: ChildStdout,
    step: impl Fn(u64) -> Step,
    acknowledged: &mpsc::Sender<Step>,
) -> anyhow::Result<Vec<Record<Step>>> {
    let mut records: Vec<Record<Step>> = Vec::new();
    let mut going = None;
    let mut bytes = [0; REPORT_BYTES];
    while from.read_exact(&mut bytes).is_ok() {
        let report = Report::from_bytes(bytes);
        if report.moment == Moment::Begin {
            going = Some(report.number);
            records.push(Record {
                step: step(report.number),
                begun: report.at,
                done: None,
            });
            continue;
        }
        ensure!(
            going.take() == Some(report.number),
            "step {} has ended and not begun",
            report.number
        );
        match records.last_mut() {
            Some(last) if report.moment == Moment::Done => {
                last.done = Some(report.at);
                let _ = acknowledged.send(last.step.clone()); // or nobody waits any more
            }
            // It has changed nothing.
            _ => drop(records.pop()),
        }
    }
    Ok(records)
}

impl<Step> Writers<Step> {
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
    pub(crate) fn kill(mut self) -> anyhow::Result<Vec<Record<Step>>> {
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

impl<Step> Drop for Writers<Step> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill(); // it may be dead
            let _ = process.wait();
        }
    }
}
