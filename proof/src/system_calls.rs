//! A whole process is killed, or one of its calls fails, at each system call of an operation.
//!
//! The library's own tests do the same from inside, at the calls that pass their fault seam. Here the
//! kernel's interface is what is counted: nothing that the library does can go past it, whichever
//! crate or part of `std` makes the call.

#![allow(clippy::disallowed_methods)] // clients may do what the library may not

mod case;
mod check;
mod checkpoints;
mod errors;
mod operation;
mod store;
mod trace;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::ensure;

use case::Case;
use operation::Operation;

/// What can be chosen.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only this operation; may be given several times
    #[arg(long)]
    operation: Vec<String>,
    /// Let the calls fail too, with each error that they can give
    #[arg(long)]
    errors: bool,
    /// Of the errors try only every so many (kills are all tried)
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    every: usize,
    /// Where the stores are made [default: TMPDIR, or memory]
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// How many processes at a time
    #[arg(long, default_value_t = 2, value_parser = parse_count)]
    jobs: usize,
    /// Show the calls of each operation
    #[arg(long)]
    show: bool,
}

/// How many points ended how.
#[derive(Clone, Debug, Default)]
struct Tally {
    killed: usize,
    worked: usize,
    failed: usize,
    /// The process did not come to the call this time: it depends on what threads do.
    unmet: usize,
    /// Calls at which no fault can be aimed.
    hidden: usize,
    /// Points by why they are not tried.
    excluded: BTreeMap<String, usize>,
}

impl Tally {
    fn points(&self) -> usize {
        self.killed + self.worked + self.failed + self.unmet
    }

    fn add(&mut self, other: &Tally) {
        self.killed += other.killed;
        self.worked += other.worked;
        self.failed += other.failed;
        self.unmet += other.unmet;
        self.hidden += other.hidden;
        for (why, count) in &other.excluded {
            *self.excluded.entry(why.clone()).or_default() += count;
        }
    }
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    if let Some(why) = trace::why_not() {
        println!("SKIPPED system-calls: {why}");
        return Ok(());
    }
    let operations = match options.operation.as_slice() {
        [] => Operation::all(),
        names => names
            .iter()
            .map(|name| Operation::named(name))
            .collect::<Result<_, _>>()?,
    };
    let dir = crate::scratch::directory(options.scratch.as_deref(), 0)?;
    let start = Instant::now();
    let mut total = Tally::default();
    for operation in &operations {
        for &setting in operation.settings {
            let case = Case {
                operation,
                setting,
                dir: dir.path(),
                jobs: options.jobs,
            };
            let tally = case.run(options.errors.then_some(options.every), options.show)?;
            let few = tally.unmet * 10 <= tally.points();
            ensure!(few, "{}: most of its calls were not met", operation.name);
            println!(
                "{}, {}: {} killed, {} worked, {} failed, {} did not come to it",
                operation.name,
                setting.name(),
                tally.killed,
                tally.worked,
                tally.failed,
                tally.unmet
            );
            total.add(&tally);
        }
    }
    tell(&total, operations.len(), start);
    Ok(())
}

fn tell(total: &Tally, operations: usize, start: Instant) {
    println!(
        "system-calls: {operations} operations, {} points in {} s: {} killed; with an error, {} worked \
         and {} said so; {} did not come to it",
        total.points(),
        start.elapsed().as_secs(),
        total.killed,
        total.worked,
        total.failed,
        total.unmet
    );
    for (why, count) in &total.excluded {
        println!("excluded: {count} calls to {why}");
    }
    if total.hidden > 0 {
        println!(
            "excluded: {} calls of threads, hidden by the program's start",
            total.hidden
        );
    }
}

/// A number of at least one.
fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(err) => Err(err.to_string()),
    }
}
