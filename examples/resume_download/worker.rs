//! A worker: a program that wants a URL and may be killed at any time; and how the parent sees it.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, ensure};
use larder::KVFileStore;

use crate::download::Downloads;

/// Tells on standard output, in a line each, that it waits, and how much it has kept.
pub(crate) fn run(store: &Path, url: &str) -> anyhow::Result<()> {
    let store = KVFileStore::new(store)?.with_on_wait(|_| tell("waits"));
    Downloads::open(store)?.get(url, tell)?;
    Ok(())
}

fn tell(what: impl Display) {
    // If nobody listens, the parent is dead, and the server with it.
    let _ = writeln!(io::stdout(), "{what}");
}

/// What the parent hears of while workers, each with a number, download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The server has sent what it sends of a body.
    Sent,
    /// This worker waits for another one.
    Waits(usize),
    /// This worker has stored a checkpoint of so many bytes.
    Kept(usize, u64),
    /// This worker has ended, or is about to.
    Ended(usize),
}

/// A worker process. It is killed if the parent gives up before it is done.
pub(crate) struct Worker(Child);

impl Worker {
    pub(crate) fn start(
        number: usize,
        store: &Path,
        url: &str,
        hears: Sender<Event>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program itself")?;
        let mut child = Command::new(&program)
            .arg("--as-worker")
            .arg(store)
            .arg(url)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start worker {number}"))?;
        let told = child.stdout.take();
        let told = BufReader::new(told.context("a worker has no standard output")?).lines();
        thread::Builder::new().spawn(move || {
            for line in told.map_while(Result::ok) {
                let event = match line.parse() {
                    Ok(kept) => Event::Kept(number, kept),
                    Err(_) => Event::Waits(number),
                };
                // If nobody hears it, it does not matter any more.
                let _ = hears.send(event);
            }
            let _ = hears.send(Event::Ended(number));
        })?;
        Ok(Worker(child))
    }

    /// With SIGKILL.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.0.kill().context("cannot kill a worker")?;
        self.wait().map(drop)
    }

    /// It has to end by itself, and well.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let status = self.wait()?;
        ensure!(status.success(), "a worker ended with {status}");
        Ok(())
    }

    fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.0.wait().context("cannot wait for a worker")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An error says that it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
