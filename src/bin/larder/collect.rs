//! What removes without being told a key.

use larder::{GcPolicy, GcProgress, GcReason, GcReport, KeptReason};
use serde_json::json;

use crate::args::{Gc, List};
use crate::output;
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
    match report? {
        Some(report) => print(&report, args.dry_run, args.list.json),
        None if args.list.json => output::json(&json!({ "due": false })),
        None => output::line("not due"),
    }
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

pub(crate) fn sweep(place: &Place, args: &List) -> Result<(), Stop> {
    let report = either!(place.any()?, store => store.sweep()?);
    print(&report, false, args.json)
}

pub(crate) fn clear(place: &Place, args: &List) -> Result<(), Stop> {
    let report = either!(place.any()?, store => store.clear()?);
    print(&report, false, args.json)
}

fn print(report: &GcReport, dry_run: bool, json: bool) -> Result<(), Stop> {
    if json {
        return output::json(&as_json(report, dry_run));
    }
    let (would, freed) = match dry_run {
        true => ("would remove", "free"),
        false => ("removed", "freed"),
    };
    for removed in &report.removed_entries {
        let path = output::printable(&removed.path.to_string_lossy());
        let size = show_size(removed.freed_bytes);
        output::line(&format!(
            "{would} {path}: {}, {size}",
            limit(removed.reason)
        ))?;
    }
    for kept in &report.kept {
        let path = output::printable(&kept.path.to_string_lossy());
        output::line(&format!("kept {path}: {}", reason(kept.reason)))?;
    }
    output::line(&format!(
        "{would} {} of {} entries, {freed} {}; swept {} leftovers",
        report.removed,
        report.examined,
        show_size(report.freed_bytes),
        report.swept,
    ))
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

fn reason(reason: KeptReason) -> &'static str {
    match reason {
        KeptReason::InUse => "in use",
        KeptReason::NotPermitted => "not permitted",
        KeptReason::Foreign => "not of the store",
        KeptReason::TooRecent => "just used",
        KeptReason::Pinned => "pinned",
        KeptReason::Changed => "changed meanwhile",
        _ => "kept",
    }
}
