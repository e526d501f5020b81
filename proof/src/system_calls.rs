//! A whole process is killed, or one of its calls fails, at each system call of an operation.
//!
//! The library's own tests do the same from inside, at the calls that pass their fault seam. Here the
//! kernel's interface is what is counted: nothing that the library does can go past it, whichever
//! crate or part of `std` makes the call.

mod check;
mod errors;
mod operation;
mod store;
mod trace;
pub(crate) mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use check::{Beside, First};
use operation::Operation;
use store::{Kind, Setting};
use trace::{Call, Calls, End, Fault};

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
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Where the stores are made [default: in memory if possible]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How many processes at a time
    #[arg(long, default_value_t = 2)]
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

/// An operation in a setting, and where it is tried.
struct Case<'a> {
    operation: &'a Operation,
    setting: Setting,
    dir: &'a Path,
    jobs: usize,
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
    let dir = scratch(options.dir.as_deref())?;
    let start = Instant::now();
    let mut total = Tally::default();
    for operation in &operations {
        for &setting in operation.settings {
            let case = Case {
                operation,
                setting,
                dir: dir.path(),
                jobs: options.jobs.max(1),
            };
            let tally = case.run(&options)?;
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

fn scratch(dir: Option<&Path>) -> anyhow::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let temp = std::env::temp_dir();
    let dir = dir.unwrap_or(if memory.is_dir() { memory } else { &temp });
    let made = tempfile::Builder::new()
        .prefix("larder-proof-")
        .tempdir_in(dir);
    made.with_context(|| format!("make a directory in {}", dir.display()))
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

impl Case<'_> {
    fn run(&self, options: &Options) -> anyhow::Result<Tally> {
        let what = || format!("{}, {}, no fault", self.operation.name, self.setting.name());
        let calls = self.record().with_context(what)?;
        if options.show {
            calls
                .of_operation
                .iter()
                .for_each(|call| println!("  {}", call.line));
        }
        let mut tally = Tally {
            hidden: calls.hidden,
            ..Tally::default()
        };
        let mut points: Vec<_> = calls
            .of_operation
            .iter()
            .map(|call| (call, Fault::Kill))
            .collect();
        if options.errors {
            let mut failing = Vec::new();
            for call in &calls.of_operation {
                match errors::errors_of(call) {
                    Ok(errors) => failing.extend(errors.iter().map(|&e| (call, Fault::Error(e)))),
                    Err(why) => {
                        let why = format!("{}: {why}", call.name);
                        *tally.excluded.entry(why).or_default() += 1;
                    }
                }
            }
            points.extend(failing.into_iter().step_by(options.every.max(1)));
        }
        tally.add(&self.try_all(&points)?);
        Ok(tally)
    }

    /// The calls of the operation when nothing goes wrong, and that nothing does.
    fn record(&self) -> anyhow::Result<Calls> {
        let (base, log) = self.places(0);
        self.operation.prepare(&base)?;
        let end = trace::run(self.operation, self.setting, &base, &log, None)?;
        ensure!(
            end.status.success(),
            "it ended with {}: {}",
            end.status,
            end.complaint
        );
        let says = self.operation.says;
        ensure!(
            end.said == format!("OK\t{says}\n"),
            "it said {:?}",
            end.said
        );
        let found = check::examine(self.operation, &base, First::Sweep)?;
        ensure!(found == self.operation.after, "it has left {found:?}");
        trace::calls(&end.trace)
    }

    /// A store, and a trace, for one of the threads.
    fn places(&self, job: usize) -> (PathBuf, PathBuf) {
        let dir = self.dir.join(job.to_string());
        let log = self.dir.join(format!("{job}.trace"));
        let _ = std::fs::remove_dir_all(&dir); // of the point before
        (dir.join("above/store"), log)
    }

    fn try_all(&self, points: &[(&Call, Fault)]) -> anyhow::Result<Tally> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (next, failed) = (&next, &failed);
        std::thread::scope(|scope| {
            let start = |job| scope.spawn(move || self.try_some(job, points, next, failed));
            let jobs: Vec<_> = (0..self.jobs).map(start).collect();
            let mut total = Tally::default();
            for job in jobs {
                let tally = job.join();
                total.add(&tally.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(total)
        })
    }

    fn try_some(
        &self,
        job: usize,
        points: &[(&Call, Fault)],
        next: &AtomicUsize,
        failed: &AtomicBool,
    ) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        while !failed.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(&(call, fault)) = points.get(n) else {
                break;
            };
            let first = [First::Sweep, First::Set][n % 2];
            if let Err(err) = self.try_one(job, call, fault, first, &mut tally) {
                failed.store(true, Ordering::Relaxed);
                return Err(err.context(self.about(call, fault, first)));
            }
        }
        Ok(tally)
    }

    fn about(&self, call: &Call, fault: Fault, first: First) -> String {
        let fault = match fault {
            Fault::Kill => "killed before",
            Fault::Error(errno) => errno,
        };
        format!(
            "VIOLATION: {}, {}: {fault} {} number {}, then {first:?} first\n  the call: {}",
            self.operation.name,
            self.setting.name(),
            call.name,
            call.nth,
            call.line
        )
    }

    fn try_one(
        &self,
        job: usize,
        call: &Call,
        fault: Fault,
        first: First,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        let operation = self.operation;
        let (base, log) = self.places(job);
        operation.prepare(&base)?;
        let untouched = Beside::of(&base);
        let end = trace::run(operation, self.setting, &base, &log, Some((call, fault)))?;
        let said = Said::of(&end, fault)?;
        if operation.after[store::BESIDE].is_some() {
            ensure!(
                Beside::of(&base) == untouched,
                "what is beside it was touched"
            );
        }
        if let (Fault::Error(errno), true) = (fault, end.met_fault()) {
            self.examine_end(call, errno, &said, &base)?;
        }
        let found = check::examine(operation, &base, first)
            .with_context(|| format!("it said {:?}", end.said.trim_end()))?;
        match (&said, fault) {
            (Said::Nothing, _) => tally.killed += 1,
            _ if !end.met_fault() => tally.unmet += 1,
            (Said::Ok(_), _) => tally.worked += 1,
            _ => tally.failed += 1,
        }
        if let Said::Ok(word) = &said {
            let says = operation.says;
            ensure!(
                word == says || word == "kept",
                "it said {word:?}, and not {says:?}"
            );
            ensure!(
                found == operation.after || word == "kept",
                "it said that it had worked, and left {found:?}"
            );
        }
        Ok(())
    }

    /// After a call failed: the process says so if it matters, and where.
    fn examine_end(
        &self,
        call: &Call,
        errno: &str,
        said: &Said,
        base: &Path,
    ) -> anyhow::Result<()> {
        if let Said::Err { path } = said {
            let at = Path::new(path);
            let is_about = at.starts_with(base) || base.starts_with(at);
            ensure!(
                is_about,
                "its error is about {path:?}, which is not in the store"
            );
        }
        if errors::is_barrier(call) && errno != "EINTR" {
            let told = !matches!(said, Said::Ok(_));
            ensure!(
                told,
                "it said that it had worked, and this was not made durable"
            );
        }
        let many_files = self.operation.kind == Kind::Trees || self.operation.name == "file-batch";
        if !self.operation.name.ends_with("sweep") && !errors::may_put_in_order(call, many_files) {
            check::examine_staged(base)?;
        }
        Ok(())
    }
}

/// What a process has to say about its operation.
#[derive(Debug)]
enum Said {
    /// It was killed.
    Nothing,
    Ok(String),
    Err {
        path: String,
    },
    /// What failed is not of the library.
    Own,
}

impl Said {
    fn of(end: &End, fault: Fault) -> anyhow::Result<Self> {
        if fault == Fault::Kill && end.was_killed() {
            return Ok(Said::Nothing);
        }
        ensure!(
            end.status.success(),
            "it was to end in good order, and ended with {}: {}",
            end.status,
            end.complaint
        );
        let fields: Vec<_> = end.said.trim_end().splitn(4, '\t').collect();
        Ok(match fields.as_slice() {
            ["OK", word] => Said::Ok((*word).to_owned()),
            ["ERR", _kind, path, _] => Said::Err {
                path: (*path).to_owned(),
            },
            ["OWN", _] => Said::Own,
            _ => bail!("it said {:?}", end.said),
        })
    }
}
