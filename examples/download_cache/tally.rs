//! What the workers did, counted: the table at the end, and whether the numbers agree. No I/O.

use std::fmt;
use std::time::Duration;

use anyhow::{bail, ensure};
use larder::Outcome;

use crate::event::{Event, Step};

/// How often something came to a worker in each way.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    hits: usize,
    waits: usize,
    made: usize,
}

#[derive(Clone, Debug, Default)]
struct Line {
    pid: u32,
    /// Archives and trees.
    counts: [Count; 2],
    /// In all waits together.
    waited: Duration,
}

#[derive(Debug)]
pub(crate) struct Tally {
    workers: Vec<Line>,
    labels: Vec<String>,
    /// How often each package was downloaded, by all workers together.
    downloads: Vec<usize>,
}

/// What is known from elsewhere of the same run.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Whether each package was missing before.
    pub(crate) missing: Vec<bool>,
    /// How many archives and trees the stores had before and have now.
    pub(crate) stored: [[usize; 2]; 2],
    /// How often the server was asked for each package, if it is ours.
    pub(crate) requests: Option<Vec<usize>>,
}

impl Tally {
    /// `labels` are the packages', in the order of their numbers.
    pub(crate) fn new(labels: Vec<String>) -> Self {
        Tally {
            workers: Vec::new(),
            downloads: vec![0; labels.len()],
            labels,
        }
    }

    /// Counts for the next worker.
    pub(crate) fn add(&mut self, pid: u32) {
        self.workers.push(Line {
            pid,
            ..Line::default()
        });
    }

    pub(crate) fn note(&mut self, worker: usize, event: &Event) {
        let Event::Has {
            step,
            package,
            outcome,
            took,
        } = event
        else {
            return;
        };
        let line = &mut self.workers[worker];
        let count = &mut line.counts[*step as usize];
        match outcome {
            Outcome::Computed => count.made += 1,
            Outcome::Waited => {
                count.waits += 1;
                line.waited += *took;
            }
            _ => count.hits += 1,
        }
        if (*step, *outcome) == (Step::Download, Outcome::Computed) {
            if let Some(downloads) = self.downloads.get_mut(*package) {
                *downloads += 1;
            }
        }
    }

    fn made(&self, step: Step) -> usize {
        let counts = self.workers.iter().map(|line| line.counts[step as usize]);
        counts.map(|count| count.made).sum()
    }

    /// Checks what the workers told against what is known from elsewhere, after a run in which no
    /// worker failed; says in a sentence what it found.
    pub(crate) fn agrees(&self, seen: &Seen) -> anyhow::Result<String> {
        for (package, label) in self.labels.iter().enumerate() {
            let (downloads, missing) = (self.downloads[package], seen.missing[package]);
            ensure!(
                downloads == usize::from(missing),
                "{label} was {} before, and the workers downloaded it {downloads} times",
                if missing { "missing" } else { "there" }
            );
            if let Some(requests) = &seen.requests {
                let requests = requests[package];
                ensure!(
                    requests == downloads,
                    "the workers downloaded {label} {downloads} times, and the server was asked for \
                     it {requests} times"
                );
            }
        }
        let downloads = self.made(Step::Download);
        let [before, now] = seen.stored;
        for (step, what) in [(Step::Download, "archives"), (Step::Unpack, "trees")] {
            let (before, now, made) = (before[step as usize], now[step as usize], self.made(step));
            if before + made != now {
                bail!("there were {before} {what}, {made} were made, and now there are {now}");
            }
        }
        let missing = seen.missing.iter().filter(|missing| **missing).count();
        let asked = match &seen.requests {
            Some(requests) => {
                let requests: usize = requests.iter().sum();
                format!(" Requests that the server counted: {requests}.")
            }
            None => String::new(),
        };
        Ok(format!(
            "Distinct URLs: {}. Missing before: {missing}. Downloads: {downloads}.{asked} That agrees.",
            self.downloads.len()
        ))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "                    archives                   trees")?;
        writeln!(
            f,
            "worker  process     hit  waited  downloaded    hit  waited  unpacked   time in waits"
        )?;
        let mut total = Line::default();
        for (worker, line) in self.workers.iter().enumerate() {
            total.waited += line.waited;
            for (total, count) in total.counts.iter_mut().zip(line.counts) {
                total.hits += count.hits;
                total.waits += count.waits;
                total.made += count.made;
            }
            write!(f, "{worker:>6} {:>8}", line.pid)?;
            row(f, line)?;
        }
        write!(f, "{:>6} {:>8}", "all", "")?;
        row(f, &total)
    }
}

fn row(f: &mut fmt::Formatter<'_>, line: &Line) -> fmt::Result {
    let [archives, trees] = line.counts;
    writeln!(
        f,
        "  {:>6}  {:>6}  {:>10}  {:>5}  {:>6}  {:>8}  {:>12.1} s",
        archives.hits,
        archives.waits,
        archives.made,
        trees.hits,
        trees.waits,
        trees.made,
        line.waited.as_secs_f64()
    )
}
