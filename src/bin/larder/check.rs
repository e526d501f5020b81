//! `stats` and `check`: what is in a store, and whether it is as it should be.

use anyhow::anyhow;
use larder::{CheckOptions, Finding};
use serde_json::json;

use crate::args::{Check, List};
use crate::output;
use crate::stop::Stop;
use crate::store::{Place, either};
use crate::units::{epoch, show_age, show_size, since};

pub(crate) fn stats(place: &Place, args: &List) -> Result<(), Stop> {
    // What this process itself found and missed is nothing, so that is left out.
    let stats = either!(place.any_read_only()?, store => store.stats()?);
    if args.json {
        return output::json(&json!({
            "entries": stats.entries,
            "bytes": stats.bytes,
            "allocated_bytes": stats.allocated,
            "pinned": stats.pinned,
            "leased": stats.leased,
            "locked": stats.locked,
            "staging": stats.staging,
            "staging_dead": stats.staging_dead,
            "oldest_use": stats.oldest_use.map(epoch),
            "newest_use": stats.newest_use.map(epoch),
        }));
    }
    let ago = |time: Option<_>| match time {
        Some(time) => format!("{} ago", show_age(since(time))),
        None => "never".to_owned(),
    };
    for (name, value) in [
        ("entries", stats.entries.to_string()),
        ("size", show_size(stats.bytes)),
        ("on disk", show_size(stats.allocated)),
        ("pinned", stats.pinned.to_string()),
        ("leased", stats.leased.to_string()),
        ("locked", stats.locked.to_string()),
        ("being written", stats.staging.to_string()),
        ("left behind", stats.staging_dead.to_string()),
        ("oldest use", ago(stats.oldest_use)),
        ("latest use", ago(stats.newest_use)),
    ] {
        output::line(&format!("{name:<14} {value}"))?;
    }
    Ok(())
}

/// Prints each finding as it is found, so that any number of them takes no memory.
pub(crate) fn check(place: &Place, args: &Check) -> Result<(), Stop> {
    let options = CheckOptions::new().digests(args.digests);
    if args.repair && !args.dry_run {
        return repair(place, &options, args.list.json);
    }
    let store = place.any_read_only()?;
    let progress = output::spinner();
    progress.set_message("checking");
    let mut findings = Findings::begin(args.list.json)?;
    let mut printed = Ok(());
    let examined = either!(store, store => store.check_each(&options, |finding| {
        if printed.is_ok() {
            printed = progress.suspend(|| findings.add(&finding));
        }
    }));
    progress.finish_and_clear();
    printed?;
    // What was found before an error is told too, and the JSON is whole.
    let ended = findings.end(examined.as_ref().ok().copied());
    examined?;
    ended
}

fn repair(place: &Place, options: &CheckOptions, json: bool) -> Result<(), Stop> {
    let report = either!(place.any()?, store => store.repair_with(options)?);
    let mut findings = Findings::begin(json)?;
    findings.mended = Some(report.mended);
    for finding in &report.left.findings {
        findings.add(finding)?;
    }
    findings.found = report.left.found;
    findings.end(Some(report.left.examined))
}

/// Findings on their way out.
struct Findings {
    json: bool,
    found: u64,
    mended: Option<u64>,
}

impl Findings {
    fn begin(json: bool) -> Result<Self, Stop> {
        if json {
            output::write(b"{\"findings\": [")?;
        }
        Ok(Findings {
            json,
            found: 0,
            mended: None,
        })
    }

    fn add(&mut self, finding: &Finding) -> Result<(), Stop> {
        self.found += 1;
        if !self.json {
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
    fn end(self, examined: Option<u64>) -> Result<(), Stop> {
        let (found, mended) = (self.found, self.mended);
        if self.json {
            let (examined, mended) = (json!(examined), json!(mended));
            let rest =
                format!("\"examined\": {examined}, \"found\": {found}, \"mended\": {mended}");
            output::line(&format!("], {rest}}}"))?;
        } else if let Some(examined) = examined {
            let mended = mended.map(|mended| format!(", {mended} mended"));
            let mended = mended.unwrap_or_default();
            output::line(&format!("{examined} entries looked at{mended}"))?;
        }
        match found {
            0 => Ok(()),
            _ => Err(anyhow!("{found} things are not as they should be").into()),
        }
    }
}
