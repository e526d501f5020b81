//! `stats`, `verify` and `check`: what is in a store, and whether it is as it should be.

use std::path::PathBuf;

use anyhow::anyhow;
use larder::{CheckOptions, CheckReport, Finding, Integrity, Mended};
use serde_json::json;

use crate::args::{Check, List};
use crate::files::absent;
use crate::keys::Stored;
use crate::output::{self, count};
use crate::stop::Stop;
use crate::store::{Any, Place, either};
use crate::units::{epoch, show_age, show_size, since};

pub(crate) fn stats(place: &Place, args: &List) -> Result<(), Stop> {
    // What this process itself found and missed is nothing, so that is left out.
    let stats = either!(place.any_read_only()?, store => store.stats()?);
    if args.json {
        output::json(&json!({
            "entries": stats.entries,
            "bytes": stats.bytes,
            "allocated_bytes": stats.allocated,
            "unreadable": stats.unreadable,
            "pinned": stats.pinned,
            "pinned_absent": stats.pinned_absent,
            "leased": stats.leased,
            "locked": stats.locked,
            "staging": stats.staging,
            "staging_dead": stats.staging_dead,
            "staging_dead_bytes": stats.staging_dead_bytes,
            "oldest_use": stats.oldest_use.map(epoch),
            "newest_use": stats.newest_use.map(epoch),
        }))?;
        return check_read(stats.unreadable);
    }
    let ago = |time: Option<_>| match time {
        Some(time) => format!("{} ago", show_age(since(time))),
        None => "never".to_owned(),
    };
    let pinned = match stats.pinned_absent {
        0 => stats.pinned.to_string(),
        absent => format!("{}, and {absent} without a value", stats.pinned),
    };
    let left_behind = match stats.staging_dead {
        0 => "0".to_owned(),
        dead => format!("{dead}, {}", show_size(stats.staging_dead_bytes)),
    };
    for (name, value) in [
        ("entries", stats.entries.to_string()),
        ("size", show_size(stats.bytes)),
        ("on disk", show_size(stats.allocated)),
        ("pinned", pinned),
        ("leased", stats.leased.to_string()),
        ("locked", stats.locked.to_string()),
        ("being written", stats.staging.to_string()),
        ("left behind", left_behind),
        ("oldest use", ago(stats.oldest_use)),
        ("latest use", ago(stats.newest_use)),
    ] {
        output::line(&format!("{name:<14} {value}"))?;
    }
    check_read(stats.unreadable)
}

/// Numbers of what could be seen are not those of the store.
pub(crate) fn check_read(unreadable: u64) -> Result<(), Stop> {
    if unreadable == 0 {
        return Ok(());
    }
    let what = count(unreadable, "directory or entry", "directories or entries");
    Err(
        anyhow!("{what} could not be read, so there is more than that; check the permissions")
            .into(),
    )
}

/// What differs in a tree goes to standard output.
pub(crate) fn verify(place: &Place, key: &Stored) -> Result<(), Stop> {
    let store = place.any_read_only()?;
    let key = key.named(either!(&store, store => store.base()))?;
    let integrity = match store {
        Any::Files(store) => store.verify(&key)?,
        Any::Dirs(store) => {
            let report = store.verify(&key)?;
            if let Some(report) = &report {
                print_differences("changed", &report.changed)?;
                print_differences("missing", &report.missing)?;
                print_differences("new", &report.added)?;
            }
            report.map(|report| report.integrity)
        }
    };
    let why = match integrity {
        None => return Err(absent(&key)),
        Some(Integrity::Whole) => return Ok(()),
        Some(Integrity::Unknown) => "was stored without a digest that it could be compared with",
        Some(_) => "is not what was stored: it is torn or was altered",
    };
    Err(anyhow!("{} {why}", key.shown()).into())
}

fn print_differences(what: &str, paths: &[PathBuf]) -> Result<(), Stop> {
    paths.iter().try_for_each(|path| {
        let path = output::printable(&path.to_string_lossy());
        output::line(&format!("{what} {path}"))
    })
}

/// Prints each finding as it is found, so that any number of them takes no memory.
pub(crate) fn check(place: &Place, args: &Check) -> Result<(), Stop> {
    let options = CheckOptions::new().digests(args.digests);
    if args.repair && !args.dry_run {
        return repair(place, args, &options);
    }
    let store = place.any_read_only()?;
    let progress = output::spinner();
    progress.set_message("checking");
    let mut findings = Findings::begin(args, &[])?;
    let mut printed = Ok(());
    let looked = either!(store, store => store.check_each(&options, |finding| {
        if printed.is_ok() {
            printed = progress.suspend(|| findings.add(&finding));
        }
    }));
    progress.finish_and_clear();
    printed?;
    // What was found before an error is told too, and the JSON is whole.
    let ended = findings.end(looked.as_ref().ok(), None);
    looked?;
    ended
}

fn repair(place: &Place, args: &Check, options: &CheckOptions) -> Result<(), Stop> {
    let report = either!(place.any()?, store => store.repair_with(options)?);
    let mut findings = Findings::begin(args, &report.done)?;
    for finding in &report.left.findings {
        findings.add(finding)?;
    }
    findings.found = report.left.found;
    findings.end(Some(&report.left), Some(report.mended))
}

/// Findings on their way out.
struct Findings<'a> {
    args: &'a Check,
    found: u64,
    mendable: u64,
}

impl<'a> Findings<'a> {
    fn begin(args: &'a Check, done: &[Mended]) -> Result<Self, Stop> {
        if args.list.json {
            let done = done.iter().map(|mended| {
                let path = mended.path.to_string_lossy();
                json!({ "path": path, "action": mended.action.to_string() })
            });
            let done = json!(done.collect::<Vec<_>>());
            output::write(format!("{{\"done\": {done}, \"findings\": [").as_bytes())?;
        } else {
            for mended in done {
                let path = output::printable(&mended.path.to_string_lossy());
                output::line(&format!("{path}: {}", mended.action))?;
            }
        }
        Ok(Findings {
            args,
            found: 0,
            mendable: 0,
        })
    }

    fn add(&mut self, finding: &Finding) -> Result<(), Stop> {
        self.found += 1;
        self.mendable += u64::from(finding.mendable);
        if !self.args.list.json {
            let mendable = if finding.mendable { " (mendable)" } else { "" };
            let path = output::printable(&finding.path.to_string_lossy());
            let what = output::printable(&finding.what);
            return output::line(&format!("{path}: {what}{mendable}"));
        }
        let object = json!({
            "path": finding.path.to_string_lossy(),
            "kind": format!("{:?}", finding.kind),
            "mendable": finding.mendable,
            "what": finding.what,
        });
        let separator = if self.found == 1 { "\n" } else { ",\n" };
        output::write(format!("{separator}{object}").as_bytes())
    }

    /// Anything that is left is an error.
    fn end(self, looked: Option<&CheckReport>, mended: Option<u64>) -> Result<(), Stop> {
        let found = self.found;
        if self.args.list.json {
            let examined = json!(looked.map(|looked| looked.examined));
            let digested = looked.filter(|_| self.args.digests);
            let digested = json!(digested.map(|looked| looked.digested));
            let mended = json!(mended);
            output::line(&format!(
                "], \"examined\": {examined}, \"digested\": {digested}, \"found\": {found}, \
                 \"mended\": {mended}}}"
            ))?;
        } else if let Some(looked) = looked {
            output::line(&self.summary(looked, mended))?;
        }
        if found == 0 {
            return Ok(());
        }
        let mut why = count(found, "thing is", "things are") + " not as it should be";
        if mended.is_none() && self.mendable > 0 {
            let digests = if self.args.digests { " --digests" } else { "" };
            why += &format!(
                "; `larder check --repair{digests}` mends {} of them",
                self.mendable
            );
        }
        Err(anyhow!(why).into())
    }

    fn summary(&self, looked: &CheckReport, mended: Option<u64>) -> String {
        let mut summary = count(looked.examined, "entry", "entries") + " looked at";
        if self.args.digests {
            summary += &format!(", {} of them had a digest", looked.digested);
        }
        if let Some(mended) = mended {
            summary += &format!(", {mended} mended");
        }
        summary
    }
}
