//! What removes without being told a key.

use larder::{GcReport, KeptReason};
use serde_json::json;

use crate::args::List;
use crate::output;
use crate::stop::Stop;
use crate::store::{Any, Place};
use crate::units::show_size;

pub(crate) fn sweep(place: &Place, args: &List) -> Result<(), Stop> {
    let report = match place.any()? {
        Any::Files(store) => store.sweep()?,
        Any::Dirs(store) => store.sweep()?,
    };
    print(&report, args.json)
}

pub(crate) fn clear(place: &Place, args: &List) -> Result<(), Stop> {
    let report = match place.any()? {
        Any::Files(store) => store.clear()?,
        Any::Dirs(store) => store.clear()?,
    };
    print(&report, args.json)
}

fn print(report: &GcReport, json: bool) -> Result<(), Stop> {
    if json {
        let kept = report.kept.iter().map(
            |kept| json!({ "path": kept.path.to_string_lossy(), "reason": reason(kept.reason) }),
        );
        return output::json(&json!({
            "examined": report.examined,
            "removed": report.removed,
            "removed_bytes": report.removed_bytes,
            "swept": report.swept,
            "kept": kept.collect::<Vec<_>>(),
        }));
    }
    output::line(&format!(
        "removed {} of {} entries, {}; swept {} leftovers",
        report.removed,
        report.examined,
        show_size(report.removed_bytes),
        report.swept,
    ))?;
    for kept in &report.kept {
        let path = output::printable(&kept.path.to_string_lossy());
        output::line(&format!("kept {path}: {}", reason(kept.reason)))?;
    }
    Ok(())
}

fn reason(reason: KeptReason) -> &'static str {
    match reason {
        KeptReason::InUse => "in use",
        KeptReason::NotPermitted => "not permitted",
        KeptReason::Foreign => "not of the store",
        _ => "kept",
    }
}
