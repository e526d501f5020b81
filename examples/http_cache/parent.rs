//! The parent: starts the workers, moves the clock, and judges what they and the server tell.

use std::io::{self, BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use larder::{KVFileStore, PathKey};

use crate::server::Server;
use crate::site::{BODY_BYTES, LANGUAGES, Run, SECONDS_PER_ROUND, SORTS, Sort, sha256};

/// When the first round is: some time in 2025.
const FIRST_ROUND: u64 = 1_750_000_000;

/// As the workers name them.
const SOURCES: [&str; 6] = ["Store", "Wait", "Revalidated", "Stale", "Server", "Passed"];

/// How many answers came from each of them.
type Sources = [usize; SOURCES.len()];

pub(crate) fn run(run: Run) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let store = dir.path().join("cache");
    let server = Server::start(run)?;
    let mut workers = Vec::new();
    for index in 0..run.workers {
        workers.push(Worker::start(index, &store)?);
    }
    let began = Instant::now();
    let mut sources = [Sources::default(); SORTS.len()];
    for round in 0..run.rounds {
        server.begin(round);
        let now = FIRST_ROUND + round as u64 * SECONDS_PER_ROUND;
        let urls: Vec<_> = SORTS.iter().map(|sort| server.url(*sort)).collect();
        for worker in &mut workers {
            worker.begin(now, &urls)?;
        }
        for worker in &mut workers {
            for (sort, sources) in SORTS.into_iter().zip(&mut sources) {
                let source = worker.answer(sort, run, round);
                let source = source.with_context(|| {
                    format!("worker {} in round {round}, {}", worker.index, sort.path())
                })?;
                sources[source] += 1;
            }
        }
    }
    for worker in workers {
        worker.end()?;
    }
    show(&server, &sources)?;
    judge(run, &server, &sources, &store)?;
    let read = run.workers * run.rounds * SORTS.len();
    let sent: usize = server.requests().iter().map(|sort| sort.whole).sum();
    let kib = |bodies: usize| bodies * BODY_BYTES / 1024;
    writeln!(
        io::stdout(),
        "Read: {read} responses. Sent by the server: {sent} bodies, {} KiB. That agrees, in {:.1} s.",
        kib(sent),
        began.elapsed().as_secs_f64()
    )?;
    Ok(())
}

fn show(server: &Server, sources: &[Sources]) -> anyhow::Result<()> {
    let mut table = format!("{:10}", "");
    for name in SOURCES {
        table.push_str(&format!("{name:>12}"));
    }
    table.push_str("     200   304   503   Cache-Control\n");
    for ((sort, sources), requests) in SORTS.iter().zip(sources).zip(server.requests()) {
        table.push_str(&format!("{:10}", sort.path()));
        for count in sources {
            table.push_str(&format!("{count:>12}"));
        }
        table.push_str(&format!(
            "{:>8}{:>6}{:>6}   {}\n",
            requests.whole,
            requests.unchanged,
            requests.failed,
            sort.cache_control()
        ));
    }
    writeln!(io::stdout(), "{table}").context("cannot write to standard output")
}

/// Whether the server was asked for nothing but what it had to be, and the store has what it should.
fn judge(run: Run, server: &Server, sources: &[Sources], store: &Path) -> anyhow::Result<()> {
    let mut labels = Vec::new();
    for entry in KVFileStore::new(store)?.entries() {
        labels.push(entry?.label().unwrap_or_default().into_owned());
    }
    for ((sort, sources), requests) in SORTS.iter().zip(sources).zip(server.requests()) {
        let expected = sort.expected(run);
        ensure!(
            requests == expected,
            "{} had to be asked for like this: {expected:?}; it was like this: {requests:?}",
            sort.path()
        );
        let [_, _, revalidated, stale, sent, passed] = *sources;
        ensure!(
            revalidated == requests.unchanged
                && stale + sent + passed == requests.whole + requests.failed
                && stale
                    == if *sort == Sort::Failing {
                        requests.failed
                    } else {
                        0
                    },
            "{}: the workers tell another story than the server",
            sort.path()
        );
        let url = server.url(*sort);
        let is_of = |label: &&String| label.split(' ').nth(1) == Some(&url);
        let (stored, expected) = (labels.iter().filter(is_of).count(), sort.stored(run));
        ensure!(
            stored == expected,
            "{expected} values of {} should be stored, and {stored} are",
            sort.path()
        );
    }
    Ok(())
}

/// A worker process. It is killed if the parent gives up before it is done.
struct Worker {
    index: usize,
    child: Child,
    /// `None` when there is nothing more to tell it.
    tell: Option<ChildStdin>,
    told: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn start(index: usize, store: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program itself")?;
        let mut child = Command::new(&program)
            .args(["--as-worker", language(index)])
            .arg(store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start worker {index}"))?;
        let (tell, told) = (child.stdin.take(), child.stdout.take());
        Ok(Worker {
            index,
            child,
            tell,
            told: BufReader::new(told.context("a worker has no standard output")?).lines(),
        })
    }

    /// Has it get all of these at this time.
    fn begin(&mut self, now: u64, urls: &[String]) -> anyhow::Result<()> {
        let tell = self
            .tell
            .as_mut()
            .context("a worker has no standard input")?;
        writeln!(tell, "{now} {}", urls.join(" ")).context("a worker has ended")
    }

    /// Where it had its next answer from, which has to be the right one.
    fn answer(&mut self, sort: Sort, run: Run, round: usize) -> anyhow::Result<usize> {
        let line = self.told.next().context("it has ended")??;
        let words: Vec<_> = line.split(' ').collect();
        let [source, status, digest, tag] = words[..] else {
            anyhow::bail!("it says {line:?}");
        };
        if sort == Sort::Strict && sort.fails(run, round) {
            ensure!(status == "503", "{status} came of a failure, from {source}");
        } else {
            let expected = sha256(&sort.body(language(self.index), run, round));
            ensure!(status == "200", "{status} came from {source}");
            ensure!(digest == expected, "another body came from {source}");
            let tagged = tag.trim_matches('"') == expected;
            ensure!(
                tagged || sort == Sort::Dated,
                "the headers of another body came from {source}"
            );
        }
        let source = SOURCES.iter().position(|name| *name == source);
        source.with_context(|| format!("it says {line:?}"))
    }

    /// There is no further round.
    fn end(mut self) -> anyhow::Result<()> {
        drop(self.tell.take());
        let status = self.child.wait().context("cannot wait for a worker")?;
        ensure!(
            status.success(),
            "worker {} ended with {status}",
            self.index
        );
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An error says that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn language(worker: usize) -> &'static str {
    LANGUAGES[worker % LANGUAGES.len()]
}
