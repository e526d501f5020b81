//! The parent: prepares the stores, starts the workers, shows what they tell, and judges the result.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use larder::{KVFileLock, Labelled};

use crate::archives;
use crate::event::Event;
use crate::options::Options;
use crate::package::Package;
use crate::progress::{self, Progress, TICK};
use crate::server::Server;
use crate::stores::Stores;
use crate::tally::{Seen, Tally};

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let dir = match &options.store {
        Some(dir) => dir.clone(),
        None => default_store()?,
    };
    say(&format!("The cache is in {}.", dir.display()))?;
    let stores = Stores::open(&dir)?;
    let _alone = wait_for_other_runs(&stores)?;
    prepare(&stores, options.fresh)?;

    let server = match options.packages[..] {
        [] => Some(serve()?),
        _ => None,
    };
    let packages = match &server {
        Some(server) => server.packages(),
        None => options.packages.clone(),
    };
    let contains = |package: &Package| stores.archives.contains(&package.key);
    let missing: Result<Vec<_>, _> = packages.iter().map(|p| contains(p).map(|c| !c)).collect();
    let missing = missing.context("cannot look for the packages")?;
    let before = stores.count()?;
    say(&format!(
        "Workers: {}. Archives that all of them want: {}, of which missing: {}.",
        options.workers,
        packages.len(),
        missing.iter().filter(|missing| **missing).count()
    ))?;

    let began = Instant::now();
    let (tally, failures) = watch(options.workers, &dir, &packages)?;
    let took = began.elapsed().as_secs_f64();
    say(&format!("\n{tally}\nIn {took:.1} s."))?;
    if !failures.is_empty() {
        report(&failures);
        return Ok(ExitCode::FAILURE);
    }
    let seen = Seen {
        missing,
        stored: [before, stores.count()?],
        requests: server.as_ref().map(Server::requests),
    };
    let verdict = tally.agrees(&seen);
    say(&verdict.context("the numbers do not agree")?)?;
    Ok(ExitCode::SUCCESS)
}

/// Has the workers do their work, and shows and counts what they tell. Also returns which of them
/// failed, and why.
fn watch(
    workers: usize,
    store: &Path,
    packages: &[Package],
) -> anyhow::Result<(Tally, BTreeMap<usize, String>)> {
    let labels: Vec<_> = packages.iter().map(|p| p.label.clone()).collect();
    let mut progress = Progress::new(labels.clone());
    let mut tally = Tally::new(labels);
    let mut failures = BTreeMap::new();
    let mut fleet = Fleet::default();
    let told = fleet.start(workers, store, packages)?;
    for worker in &fleet.workers {
        progress.add(worker.id())?;
        tally.add(worker.id());
    }
    loop {
        match told.recv_timeout(TICK) {
            Ok((worker, event)) => {
                let event = event.unwrap_or_else(|err| Event::Failed(format!("{err:#}")));
                progress.show(worker, &event);
                tally.note(worker, &event);
                if let Event::Failed(why) = event {
                    failures.insert(worker, why);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // All of them have closed their standard output, and have ended or are about to.
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.tick();
    }
    fleet.wait(&mut failures)?;
    progress.finish();
    Ok((tally, failures))
}

/// In the system's temporary directory, where anybody can make a directory of any name: it must be
/// this user's own.
fn default_store() -> anyhow::Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!("larder-download-cache-{uid}"));
    let made = DirBuilder::new().mode(0o700).recursive(true).create(&dir);
    made.with_context(|| format!("cannot create {}", dir.display()))?;
    let meta = dir.symlink_metadata();
    let meta = meta.with_context(|| format!("cannot look at {}", dir.display()))?;
    ensure!(
        meta.is_dir() && meta.uid() == uid,
        "{} is not this user's own directory; choose one with --store",
        dir.display()
    );
    Ok(dir)
}

/// The store itself does not mind two runs at a time; but each counts what it did itself, and would
/// miss what the other one downloaded.
fn wait_for_other_runs(stores: &Stores) -> anyhow::Result<KVFileLock> {
    let archives = stores.archives.with_on_wait(|info| {
        let who = match &info.holder {
            Some(holder) => holder.to_string(),
            None => "somebody".to_owned(),
        };
        progress::line(&format!("Waiting for {who}."));
    });
    let key = Labelled::new("download_cache runs", "another run of this example");
    archives.lock(&key).context("cannot wait for other runs")
}

/// Empties the stores if that is asked for, and takes away what interrupted runs left.
fn prepare(stores: &Stores, fresh: bool) -> anyhow::Result<()> {
    if fresh {
        let archives = stores
            .archives
            .clear()
            .context("cannot clear the archives")?;
        let trees = stores.trees.clear().context("cannot clear the trees")?;
        let removed = [archives.removed, trees.removed];
        return say(&format!(
            "Cleared {} archives and {} trees.",
            removed[0], removed[1]
        ));
    }
    let archives = stores
        .archives
        .sweep()
        .context("cannot sweep the archives")?;
    let trees = stores.trees.sweep().context("cannot sweep the trees")?;
    match archives.swept + trees.swept {
        0 => Ok(()),
        swept => say(&format!("Swept what dead processes left: {swept}.")),
    }
}

fn serve() -> anyhow::Result<Server> {
    let (archives, source) = archives::choose()?;
    say(&format!(
        "Serving {} archives from {source}.",
        archives.len()
    ))?;
    Server::start(archives)
}

/// What became of the workers that failed; those that failed for one reason together.
fn report(failures: &BTreeMap<usize, String>) {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (worker, why) in failures {
        reasons.entry(why).or_default().push(worker.to_string());
    }
    for (why, workers) in reasons {
        progress::line(&format!("Failed: {why} (worker {})", workers.join(", ")));
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

/// What a worker told, or that it made no sense.
type Told = (usize, anyhow::Result<Event>);

/// The workers. They are killed if the parent gives up before they are done.
#[derive(Default)]
struct Fleet {
    workers: Vec<Child>,
}

impl Fleet {
    /// Starts them all; where to hear of them.
    fn start(
        &mut self,
        count: usize,
        store: &Path,
        packages: &[Package],
    ) -> anyhow::Result<mpsc::Receiver<Told>> {
        let program = std::env::current_exe().context("cannot find this program itself")?;
        let mut list = String::new();
        for package in packages {
            list.push_str(&package.to_line());
            list.push('\n');
        }
        let (teller, told) = mpsc::channel();
        for index in 0..count {
            let mut worker = Command::new(&program)
                .arg(format!("--as-worker={index}"))
                .arg("--store")
                .arg(store)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start worker {index}"))?;
            let (stdin, stdout) = (worker.stdin.take(), worker.stdout.take());
            self.workers.push(worker);
            let stdin = stdin.context("a worker has no standard input")?;
            // A worker that has died already is heard of when it is waited for.
            let _ = { stdin }.write_all(list.as_bytes());
            let stdout = stdout.context("a worker has no standard output")?;
            let teller = teller.clone();
            thread::Builder::new().spawn(move || listen(index, stdout, &teller))?;
        }
        Ok(told)
    }

    /// Waits until all have ended, and adds to `failures` those that could not tell themselves.
    fn wait(&mut self, failures: &mut BTreeMap<usize, String>) -> anyhow::Result<()> {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let status = worker.wait().context("cannot wait for a worker")?;
            if !status.success() {
                failures.entry(index).or_insert_with(|| status.to_string());
            }
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // An error says that it has ended by itself.
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

fn listen(worker: usize, stdout: impl io::Read, teller: &Sender<Told>) {
    for line in BufReader::new(stdout).lines() {
        let event = line
            .context("cannot listen to a worker")
            .and_then(|line| Event::from_line(&line));
        if teller.send((worker, event)).is_err() {
            return;
        }
    }
}
