//! What removes without being told a key.

use std::time::Duration;

use larder::{Exceeded, GcPolicy, GcProgress, GcReason, GcReport, KeptReason};
use serde_json::json;

use crate::args::{Clear, Gc, Told};
use crate::check;
use crate::output::{self, count};
use crate::stop::Stop;
use crate::store::{Place, WaitShown, either};
use crate::units::show_size;

pub(crate) fn gc(place: &Place, args: &Gc) -> Result<(), Stop> {
    let policy = policy(args)?;
    let store = place.any()?;
    let progress = output::spinner();
    let shown = progress.clone();
    let policy = policy.on_progress(move |at| shown.set_message(describe(at)));
    let waiting = WaitShown::default();
    let report = either!(store, store => match args.if_due {
        Some(interval) => store.gc_if_due(&policy, interval),
        None => {
            let view = store.with_wait(args.waiting.wait());
            view.with_on_wait(waiting.callback()).gc(&policy).map(Some)
        }
    });
    waiting.clear();
    progress.finish_and_clear();
    let Some(report) = report? else {
        return match args.told.list.json {
            true => output::json(&json!({ "due": false })),
            false => output::line("not due"),
        };
    };
    if args.told.list.json {
        let mut object = as_json(&report, args.dry_run);
        object["due"] = json!(true);
        object["within_limits"] = json!(is_within(&report, args));
        let exceeded = report.exceeded.iter();
        let exceeded = exceeded.map(|one| json!({ "limit": limit(one.limit), "by": one.by }));
        object["exceeded"] = exceeded.collect();
        output::json(&object)?;
    } else {
        print(&report, args.dry_run, &args.told)?;
        let exceeded: Vec<String> = report.exceeded.iter().map(describe_excess).collect();
        if !exceeded.is_empty() {
            output::line(&format!("not within the limits: {}", exceeded.join(", ")))?;
        }
    }
    // Within the limits nothing had to go, but what cannot be seen.
    if !report.exceeded.is_empty() || report.examined == 0 {
        check_permitted(&report)?;
    }
    match counts_what_is_there(args) {
        true => check::check_read(report.unreadable),
        false => Ok(()),
    }
}

/// Whether the limits hold. `None`: that cannot be known from what could be read.
fn is_within(report: &GcReport, args: &Gc) -> Option<bool> {
    let is_partial = report.unreadable > 0 && counts_what_is_there(args);
    match report.exceeded.is_empty() {
        true if is_partial => None,
        within => Some(within),
    }
}

/// Whether there is a limit that needs all of the store to be read: how much is free is known without.
fn counts_what_is_there(args: &Gc) -> bool {
    args.max_age.is_some() || args.max_size.is_some() || args.max_entries.is_some()
}

fn describe_excess(exceeded: &Exceeded) -> String {
    let by = exceeded.by;
    match exceeded.limit {
        GcReason::Age => format!("{} too old", count(by, "entry", "entries")),
        GcReason::Size => format!("{} over the size", show_size(by)),
        GcReason::Entries => format!("{} too many", count(by, "entry", "entries")),
        GcReason::FreeSpace => format!("{} of free space missing", show_size(by)),
        other => format!("{by} {}", limit(other)),
    }
}

/// That some of it is another user's is no error. That all of it is, is one.
fn check_permitted(report: &GcReport) -> Result<(), Stop> {
    let mut kept = report.kept.iter();
    let none = kept.all(|kept| kept.reason == KeptReason::NotPermitted);
    if none && report.kept_count > 0 && report.removed + report.swept == 0 {
        let why =
            "nothing of what was to go may be removed by this user; run this as the store's owner";
        return Err(anyhow::anyhow!(why).into());
    }
    Ok(())
}

fn policy(args: &Gc) -> Result<GcPolicy, Stop> {
    let mut policy = GcPolicy::default().dry_run(args.dry_run);
    let mut limits = 0;
    if let Some(age) = args.max_age {
        (policy, limits) = (policy.max_age(age), limits + 1);
    }
    if let Some(bytes) = args.max_size {
        (policy, limits) = (policy.max_size(bytes), limits + 1);
    }
    if let Some(entries) = args.max_entries {
        (policy, limits) = (policy.max_entries(entries), limits + 1);
    }
    if let Some(bytes) = args.min_free {
        (policy, limits) = (policy.min_free(bytes), limits + 1);
    }
    if let Some(idle) = args.min_idle {
        policy = policy.min_idle(idle);
    }
    if let Some(percent) = args.stop_at_percent {
        policy = policy.stop_at_percent(percent);
    }
    if limits == 0 {
        let why = "what is the limit? Say --max-age, --max-size, --max-entries or --min-free";
        return Err(Stop::Usage(why.to_owned()));
    }
    Ok(policy)
}

fn describe(at: &GcProgress<'_>) -> String {
    if at.planned == 0 {
        return format!("looked at {}", at.examined);
    }
    let freed = show_size(at.freed_bytes);
    format!("removed {} of {}, {freed} freed", at.removed, at.planned)
}

pub(crate) fn sweep(place: &Place, args: &Clear) -> Result<(), Stop> {
    let store = place.any()?;
    let nothing_else = GcPolicy::default().dry_run(true);
    let report = match args.dry_run {
        true => either!(store, store => store.gc(&nothing_else)?),
        false => either!(store, store => store.sweep()?),
    };
    if args.told.list.json {
        output::json(&as_json(&report, args.dry_run))?;
    } else {
        print_kept(&report, &args.told)?;
        let swept = if args.dry_run { "would sweep" } else { "swept" };
        output::line(&format!("{swept} {}", leftovers(&report)))?;
    }
    check_permitted(&report)
}

pub(crate) fn clear(place: &Place, args: &Clear) -> Result<(), Stop> {
    let store = place.any()?;
    let everything = GcPolicy::default().max_entries(0).min_idle(Duration::ZERO);
    let report = match args.dry_run {
        true => either!(store, store => store.gc(&everything.dry_run(true))?),
        false => either!(store, store => store.clear()?),
    };
    match args.told.list.json {
        true => output::json(&as_json(&report, args.dry_run))?,
        false => print(&report, args.dry_run, &args.told)?,
    }
    check_permitted(&report)
}

fn print(report: &GcReport, dry_run: bool, told: &Told) -> Result<(), Stop> {
    let (would, freed) = match dry_run {
        true => ("would remove", "free"),
        false => ("removed", "freed"),
    };
    for removed in &report.removed_entries {
        let path = output::printable(&removed.path.to_string_lossy());
        let (why, size) = (limit(removed.reason), show_size(removed.freed_bytes));
        output::line(&format!("{would} {path}: {why}, {size}"))?;
    }
    print_kept(report, told)?;
    output::line(&format!(
        "{would} {} of {}, {freed} {}; swept {}",
        report.removed,
        count(report.examined, "entry", "entries"),
        show_size(report.freed_bytes),
        leftovers(report),
    ))
}

/// A count for each reason: of what is just used there can be any number.
fn print_kept(report: &GcReport, told: &Told) -> Result<(), Stop> {
    let mut counts: Vec<(String, u64)> = Vec::new();
    for kept in &report.kept {
        let why = reason(kept.reason);
        if told.verbose {
            let path = output::printable(&kept.path.to_string_lossy());
            let advice = match kept.reason {
                KeptReason::Mounted => "; unmount it, then sweep",
                _ => "",
            };
            output::line(&format!("kept {path}: {why}{advice}"))?;
        }
        match counts.iter_mut().find(|(known, _)| *known == why) {
            Some((_, count)) => *count += 1,
            None => counts.push((why, 1)),
        }
    }
    // Beyond these, a report only counts.
    let listed = report.kept.len() as u64;
    if report.kept_count > listed {
        counts.push(("more".to_owned(), report.kept_count - listed));
    }
    if counts.is_empty() {
        return Ok(());
    }
    let counts = counts.iter().map(|(why, count)| format!("{count} {why}"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    output::line(&format!("kept {}: {counts}", report.kept_count))
}

fn leftovers(report: &GcReport) -> String {
    count(report.swept, "leftover", "leftovers")
}

fn as_json(report: &GcReport, dry_run: bool) -> serde_json::Value {
    let removed = report.removed_entries.iter().map(|removed| {
        json!({
            "path": removed.path.to_string_lossy(),
            "reason": limit(removed.reason),
            "freed_bytes": removed.freed_bytes,
        })
    });
    let kept = report
        .kept
        .iter()
        .map(|kept| json!({ "path": kept.path.to_string_lossy(), "reason": reason(kept.reason) }));
    json!({
        "dry_run": dry_run,
        "examined": report.examined,
        "examined_bytes": report.examined_bytes,
        "removed": report.removed,
        "removed_bytes": report.removed_bytes,
        "freed_bytes": report.freed_bytes,
        "removed_entries": removed.collect::<Vec<_>>(),
        "swept": report.swept,
        "unreadable": report.unreadable,
        "kept": kept.collect::<Vec<_>>(),
        "kept_count": report.kept_count,
    })
}

/// The limit for which an entry goes.
fn limit(reason: GcReason) -> &'static str {
    match reason {
        GcReason::Age => "too old",
        GcReason::Size => "over the size",
        GcReason::Entries => "too many entries",
        GcReason::FreeSpace => "too little free space",
        _ => "over a limit",
    }
}

fn reason(reason: KeptReason) -> String {
    let reason = match reason {
        KeptReason::InUse => "in use",
        KeptReason::NotPermitted => "not permitted",
        KeptReason::Foreign => "not of the store",
        KeptReason::TooRecent => "just used",
        KeptReason::Pinned => "pinned",
        KeptReason::Changed => "changed meanwhile",
        KeptReason::Failed(cause) => return cause.to_string(),
        KeptReason::Mounted => "mounted",
        _ => "kept",
    };
    reason.to_owned()
}
