//! The parent: kills and starts workers, and judges what they leave on the disk and ask of the server.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use larder::{Expect, Integrity, KVFileStore};

use crate::download::{Downloads, INTERVAL, Left};
use crate::server::{Content, Exchange, NO_REST, REST, Server, WHOLE};
use crate::worker::{Event, Worker};

const MIB: u64 = 1 << 20;

/// Of what [`show`] prints.
const HEADING: &str =
    "               asked   answer     sent    twice      left:  arrived     kept";

pub(crate) fn run(kills: u64, seed: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let base = dir.path().join("cache");
    let store = KVFileStore::new(&base)?;
    let mut bench = Bench {
        server: Server::start()?,
        downloads: Downloads::open(store.clone())?,
        store,
        base,
        random: Rng::with_seed(seed),
        tally: Tally::default(),
    };
    say(format_args!("With --seed {seed}, in MiB:\n\n{HEADING}"))?;
    killed(&mut bench, kills)?;
    for (path, new_len, heeds_if_range) in CHANGES {
        changed(&mut bench, path, new_len, heeds_if_range)?;
    }
    shared(&mut bench)?;
    bench.is_tidy()?;
    let tally = bench.tally;
    say(format_args!(
        "\nKilled: {} workers. Published: {} MiB, with the right SHA-256. Fetched twice: {} MiB;\n\
         by one restart at most {} bytes, where an interval is {INTERVAL}. That agrees, in {:.1} s.",
        tally.killed,
        mib(tally.published).trim(),
        mib(tally.twice).trim(),
        tally.most_twice,
        began.elapsed().as_secs_f64()
    ))
}

/// Workers are killed at any moment of a download.
fn killed(bench: &mut Bench, kills: u64) -> anyhow::Result<()> {
    let mut trial = Trial::new(bench, "/large", 64 * MIB)?;
    for _ in 0..kills {
        let stop = trial.bench.random.u64(1..=24 * MIB);
        trial.attempt(stop, |event| event == Event::Sent)?;
    }
    // And when all of it is there, and is being published.
    let all = Event::Kept(0, trial.content.len());
    trial.attempt(u64::MAX, |event| event == all)?;
    trial.finish()
}

const OLD_LEN: u64 = 24 * MIB;

/// What changes: its path, its new length, and whether the server heeds `If-Range`. If it does not, it sends
/// the rest of what is new, if that has one.
const CHANGES: [(&str, u64, bool); 3] = [
    ("/changed", 7 * MIB + 1, true),
    ("/replaced", OLD_LEN, false),
    ("/shrunk", 7 * MIB + 1, false),
];

/// There is another version when a part of it has arrived.
fn changed(
    bench: &mut Bench,
    path: &'static str,
    new_len: u64,
    heeds_if_range: bool,
) -> anyhow::Result<()> {
    let mut trial = Trial::new(bench, path, OLD_LEN)?;
    trial.attempt_until_kept(12 * MIB..20 * MIB)?;
    trial.change(new_len, heeds_if_range)?;
    if heeds_if_range {
        trial.attempt_until_kept(5 * MIB..7 * MIB)?;
    }
    trial.finish()
}

/// Of several workers one downloads. It is killed, and another goes on.
fn shared(bench: &mut Bench) -> anyhow::Result<()> {
    let mut trial = Trial::new(bench, "/shared", 24 * MIB)?;
    let stop = trial.bench.random.u64(5 * MIB..20 * MIB);
    let (tell, told) = mpsc::channel();
    trial.stop_next(stop, &tell);
    let mut workers = Vec::new();
    for number in 0..4 {
        workers.push(trial.start(number, &tell)?);
    }
    let (mut waiting, mut leader) = (BTreeSet::new(), None);
    while leader.is_none() || waiting.len() + 1 < workers.len() {
        match hear(&told)? {
            Event::Waits(number) => drop(waiting.insert(number)),
            Event::Kept(number, kept) if is_last(kept, stop) => leader = Some((number, kept)),
            Event::Ended(number) => bail!("worker {number} ended before any was killed"),
            _ => {}
        }
    }
    let (number, kept) = leader.context("nobody downloads")?;
    workers.remove(number).kill()?;
    for worker in workers {
        worker.end()?;
    }
    let exchanges = trial.bench.server.take_exchanges();
    let (first, others) = exchanges.split_at(1);
    // Somebody went on at once: no more can have arrived than was sent.
    let left = Left {
        arrived: stop,
        kept,
    };
    trial.judge(first, left, true)?;
    trial.judge(others, trial.left_now()?, false)?;
    trial.finish()
}

fn hear(told: &Receiver<Event>) -> anyhow::Result<Event> {
    let event = told.recv_timeout(Duration::from_secs(60));
    event.context("a worker neither goes on nor ends")
}

/// Whether no further checkpoint can come where the server stops after so many bytes.
fn is_last(kept: u64, stop: u64) -> bool {
    kept + INTERVAL > stop
}

/// What all downloads have in common, and what came of them.
struct Bench {
    server: Server,
    base: PathBuf,
    store: KVFileStore,
    downloads: Downloads,
    random: Rng,
    tally: Tally,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    killed: usize,
    published: u64,
    twice: u64,
    most_twice: u64,
}

impl Bench {
    /// Whether nothing is left but what is published.
    fn is_tidy(&self) -> anyhow::Result<()> {
        let names = self.downloads.names()?;
        ensure!(
            names == ["downloads.json", "downloads.json.lock"],
            "this is left: {names:?}"
        );
        // What workers were killed over while they published.
        self.store.sweep()?;
        let report = self.store.check()?;
        ensure!(report.findings.is_empty(), "{:?}", report.findings);
        Ok(())
    }
}

/// A download, and how far it is.
struct Trial<'a> {
    bench: &'a mut Bench,
    path: &'static str,
    url: String,
    content: Arc<Content>,
    /// What the last worker left.
    left: Left,
    /// Whether the next worker finds it in the store.
    is_published: bool,
    /// What the next worker has to ask, and how it is answered, if that is not the usual.
    expected: Option<Vec<Exchanged>>,
}

/// The first byte that was asked for, and the status.
type Exchanged = (u64, &'static str);

impl<'a> Trial<'a> {
    fn new(bench: &'a mut Bench, path: &'static str, len: u64) -> anyhow::Result<Self> {
        let content = Content::random(len, &mut bench.random)?;
        bench.server.put(path, &content, true);
        Ok(Trial {
            url: bench.server.url(path),
            bench,
            path,
            content,
            left: Left::default(),
            is_published: false,
            expected: None,
        })
    }

    /// Serves another version from now on.
    fn change(&mut self, len: u64, heeds_if_range: bool) -> anyhow::Result<()> {
        self.content = Content::random(len, &mut self.bench.random)?;
        self.bench
            .server
            .put(self.path, &self.content, heeds_if_range);
        let kept = self.left.kept;
        self.expected = Some(match heeds_if_range {
            true => vec![(kept, WHOLE)],
            false if kept < len => vec![(kept, REST), (0, WHOLE)],
            false => vec![(kept, NO_REST), (0, WHOLE)],
        });
        // Of the other version.
        self.left = Left::default();
        Ok(())
    }

    fn stop_next(&self, stop: u64, tell: &Sender<Event>) {
        let tell = tell.clone();
        self.bench.server.stop_next(stop, move || {
            // If nobody listens, the worker has ended.
            let _ = tell.send(Event::Sent);
        });
    }

    fn start(&self, number: usize, tell: &Sender<Event>) -> anyhow::Result<Worker> {
        Worker::start(number, &self.bench.base, &self.url, tell.clone())
    }

    /// Has a worker download, which the server sends so much, and kills it when it is time.
    fn attempt(&mut self, stop: u64, is_time: impl Fn(Event) -> bool) -> anyhow::Result<()> {
        self.is_published = self.bench.store.contains(&self.url)?;
        if self.is_published {
            // What a killed worker left of the rest does not matter any more.
            self.left = Left::default();
        }
        let (tell, told) = mpsc::channel();
        self.stop_next(stop, &tell);
        let worker = self.start(0, &tell)?;
        let is_killed = loop {
            match hear(&told)? {
                Event::Ended(_) => break false,
                event if is_time(event) => break true,
                _ => {}
            }
        };
        match is_killed {
            true => worker.kill()?,
            false => worker.end()?,
        }
        let exchanges = self.bench.server.take_exchanges();
        self.judge(&exchanges, self.left_now()?, is_killed)
    }

    /// The same, and it is time when nothing moves any more.
    fn attempt_until_kept(&mut self, stops: Range<u64>) -> anyhow::Result<()> {
        let stop = self.bench.random.u64(stops);
        let is_time = |event| matches!(event, Event::Kept(_, kept) if is_last(kept, stop));
        self.attempt(stop, is_time)
    }

    /// Has a worker download all that is missing, and looks at what is published.
    fn finish(mut self) -> anyhow::Result<()> {
        self.attempt(u64::MAX, |_| false)?;
        let expect = Expect::new()
            .len(self.content.len())
            .digest(&self.content.sha256);
        let found = self.bench.store.verify_against(&self.url, &expect)?;
        ensure!(
            found == Some(Integrity::Whole),
            "{} was published as something else: {found:?}",
            self.path
        );
        self.bench.tally.published += self.content.len();
        Ok(())
    }

    fn left_now(&self) -> anyhow::Result<Left> {
        self.bench.downloads.left(&self.url)
    }

    /// Whether a worker asked for what was missing and nothing else; `left` is what it leaves itself.
    fn judge(&mut self, exchanges: &[Exchange], left: Left, is_killed: bool) -> anyhow::Result<()> {
        let Left { arrived, kept } = self.left;
        let usual = match kept {
            _ if self.is_published => vec![],
            0 => vec![(0, WHOLE)],
            kept if kept == self.content.len() => vec![],
            kept => vec![(kept, REST)],
        };
        let expected = self.expected.take().unwrap_or(usual);
        let found: Vec<Exchanged> = exchanges.iter().map(|e| (e.asked, e.status)).collect();
        ensure!(
            found == expected,
            "{}: {found:?} was asked and answered, and {expected:?} was expected",
            self.path
        );
        let is_published = self.bench.store.contains(&self.url)?;
        ensure!(
            left.kept <= left.arrived || is_published,
            "{}: the checkpoint says {}, and {} bytes are there",
            self.path,
            left.kept,
            left.arrived
        );
        ensure!(
            arrived - kept < INTERVAL,
            "{}: of {arrived} bytes {kept} were kept, and {INTERVAL} are an interval",
            self.path
        );
        let end = match is_published {
            _ if is_killed => "killed",
            true if self.is_published => "hit",
            true => "published",
            false => bail!("{}: a worker ended well and published nothing", self.path),
        };
        ensure!(
            is_killed || left == Left::default(),
            "{}: this is left of what was published: {left:?}",
            self.path
        );
        let sent = exchanges.iter().map(Exchange::sent).sum();
        let twice = (arrived - kept).min(sent);
        let tally = &mut self.bench.tally;
        tally.killed += usize::from(is_killed);
        tally.twice += twice;
        tally.most_twice = tally.most_twice.max(twice);
        show(self.path, exchanges, twice, left, end)?;
        self.left = left;
        Ok(())
    }
}

fn show(
    path: &str,
    exchanges: &[Exchange],
    twice: u64,
    left: Left,
    end: &str,
) -> anyhow::Result<()> {
    let row = |exchange: &Exchange| {
        let (asked, sent) = (mib(exchange.asked), mib(exchange.sent()));
        format!("{path:10}{asked}{:>8}{sent}", &exchange.status[..3])
    };
    let mut rows: Vec<_> = exchanges.iter().map(row).collect();
    if rows.is_empty() {
        rows.push(format!("{path:10}{:>26}", ""));
    }
    let (arrived, kept) = (mib(left.arrived), mib(left.kept));
    let rows = rows.join("\n");
    say(format_args!("{rows}{}{arrived}{kept}   {end}", mib(twice)))
}

fn mib(bytes: u64) -> String {
    format!("{:9.2}", bytes as f64 / MIB as f64)
}

fn say(text: impl Display) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}
