//! One operation in one setting: its calls are recorded, and then it is run again with a fault at each.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, bail, ensure};

use super::check::{self, Beside, First};
use super::operation::Operation;
use super::store::{BESIDE, KEYS, Kind, Setting};
use super::trace::{self, Call, Calls, End, Fault};
use super::{Tally, errors};

/// An operation in a setting, and where it is tried.
pub(super) struct Case<'a> {
    pub(super) operation: &'a Operation,
    pub(super) setting: Setting,
    pub(super) dir: &'a Path,
    pub(super) jobs: usize,
}

impl Case<'_> {
    /// Tries a kill at each call, and if there are to be errors, every so manyth of those.
    pub(super) fn run(&self, errors_every: Option<usize>, show: bool) -> anyhow::Result<Tally> {
        let what = || {
            format!(
                "VIOLATION: {}, {}, no fault",
                self.operation.name,
                self.setting.name()
            )
        };
        let calls = self.record().with_context(what)?;
        if show {
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
        if let Some(every) = errors_every {
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
            points.extend(failing.into_iter().step_by(every.max(1)));
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
        self.examine_names(&end.trace, &base)?;
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
        if operation.after[BESIDE].is_some() {
            ensure!(
                Beside::of(&base) == untouched,
                "what is beside it was touched"
            );
        }
        let left = check::staged(operation.kind, &base)?;
        if let (Fault::Error(errno), true) = (fault, end.met_fault()) {
            examine_said(operation, call, errno, &said, &base)?;
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
            if word == says {
                self.examine_names(&end.trace, &base)?;
            }
        }
        if operation.kind == Kind::Checkpoints && matches!(said, Said::Err { .. } | Said::Own) {
            ensure!(
                found == operation.before || self.is_last_sync(call),
                "it said that it had failed, and left {found:?}"
            );
        }
        if !end.was_killed() {
            self.examine_staged(call, &left)?;
        }
        Ok(())
    }

    /// Whether a call is the one thing that may fail when a change of checkpoints is seen already.
    fn is_last_sync(&self, call: &Call) -> bool {
        self.setting.is_full() && call.name == "fsync"
    }

    /// With `Full`, who said that it had worked has synced every directory on the way to what it
    /// changed. File systems that sync more than they are asked for would hide that it has not.
    fn examine_names(&self, trace: &str, base: &Path) -> anyhow::Result<()> {
        let Operation { before, after, .. } = self.operation;
        if !self.setting.is_full() {
            return Ok(());
        }
        for (n, key) in KEYS
            .iter()
            .enumerate()
            .filter(|(n, _)| before[*n] != after[*n])
        {
            let path = self.operation.path(key);
            let synced = trace::synced_since(trace, &path.to_string_lossy());
            let synced = synced.with_context(|| format!("no call is about {key:?}"))?;
            for dir in path.ancestors().skip(1).map(|dir| base.join(dir)) {
                ensure!(
                    synced.contains(&dir),
                    "{key:?} was changed ({:?} to {:?}), and after it {} was not synced",
                    before[n],
                    after[n],
                    dir.display()
                );
            }
        }
        Ok(())
    }

    /// What a process that ended in good order has left of what it did not publish: nothing.
    fn examine_staged(&self, call: &Call, left: &BTreeSet<String>) -> anyhow::Result<()> {
        let many_files =
            self.operation.kind == Kind::Trees || self.operation.name.ends_with("-batch");
        let may_leave = errors::may_put_in_order(call, many_files);
        if !self.operation.is_littered() && !may_leave {
            ensure!(
                left.is_empty(),
                "it ended in good order, and left {left:?}, which is not published"
            );
        }
        Ok(())
    }
}

/// After a call failed: the process says so if it matters, and where.
fn examine_said(
    operation: &Operation,
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
    let must_tell = operation.publishes() && !operation.is_tried_again();
    if errors::is_barrier(call) && errno != "EINTR" && must_tell {
        let told = !matches!(said, Said::Ok(_));
        ensure!(
            told,
            "it said that it had worked, and this was not made durable"
        );
    }
    Ok(())
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
