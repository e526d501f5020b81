//! `ls`: what is stored.

use std::io::{self, IsTerminal};

use larder::{Entry, PathKey};
use serde_json::json;

use crate::args::Ls;
use crate::output;
use crate::proc::Locks;
use crate::stop::Stop;
use crate::store::{Any, Place};
use crate::units::{epoch, show_age, show_size, since};

/// Prints each entry as it is found, so that a store of a million takes no memory. What cannot be read
/// is told at the end, and the rest is listed all the same.
pub(crate) fn ls(place: &Place, args: &Ls) -> Result<(), Stop> {
    let store = place.any_read_only()?;
    let (entries, locks) = match &store {
        Any::Files(store) => (store.entries(), None),
        Any::Dirs(store) => (store.entries(), Some(Locks::of(store.base()))),
    };
    let mut failed = None;
    let mut listing = Listing::begin(args.list.json)?;
    for entry in entries {
        match entry {
            Ok(entry) if !is_wanted(&entry, args) => {}
            Ok(entry) => {
                let leased_by = locks.as_ref().map(|locks| lessees(locks, &entry));
                listing.add(&entry, &leased_by.unwrap_or_default())?;
            }
            Err(err) => failed = Some(err),
        }
    }
    listing.end()?;
    failed.map_or(Ok(()), |err| Err(err.into()))
}

/// What is not known counts as small, and as just used.
fn is_wanted(entry: &Entry, args: &Ls) -> bool {
    let unused = entry.last_used().map(since).unwrap_or_default();
    entry.len().unwrap_or(0) >= args.min_size && args.unused_for.is_none_or(|least| unused >= least)
}

/// Who leases a tree.
fn lessees(locks: &Locks, entry: &Entry) -> Vec<u32> {
    let mut lock = entry.path().as_os_str().to_owned();
    lock.push(".lock");
    let held = locks.at(lock.as_ref());
    let leases = held.holders.iter().filter(|holder| !holder.exclusive);
    leases.map(|holder| holder.pid).collect()
}

/// A listing on its way out.
struct Listing {
    json: bool,
    is_empty: bool,
}

impl Listing {
    fn begin(json: bool) -> Result<Self, Stop> {
        if json {
            output::write(b"[")?;
        } else if io::stdout().is_terminal() {
            output::line(&row("SIZE", "USED", "LEASED BY", "PATH", Some("LABEL")))?;
        }
        Ok(Listing {
            json,
            is_empty: true,
        })
    }

    fn add(&mut self, entry: &Entry, leased_by: &[u32]) -> Result<(), Stop> {
        let is_first = std::mem::replace(&mut self.is_empty, false);
        let label = entry.label();
        if self.json {
            let object = json!({
                "path": entry.path().to_string_lossy(),
                "label": label,
                "bytes": entry.len(),
                "allocated_bytes": entry.allocated_bytes(),
                "files": entry.file_count(),
                "modified": epoch(entry.modified()),
                "used": entry.last_used().map(epoch),
                "leased_by": leased_by,
            });
            let separator = if is_first { "\n" } else { ",\n" };
            return output::write(format!("{separator}{object}").as_bytes());
        }
        let unknown = || "?".to_owned();
        let pids: Vec<String> = leased_by.iter().map(u32::to_string).collect();
        let pids = if pids.is_empty() {
            "-".to_owned()
        } else {
            pids.join(",")
        };
        output::line(&row(
            &entry.len().map_or_else(unknown, show_size),
            &entry
                .last_used()
                .map_or_else(unknown, |used| show_age(since(used))),
            &pids,
            &output::printable(&entry.path().to_string_lossy()),
            label.as_deref(),
        ))
    }

    fn end(self) -> Result<(), Stop> {
        match (self.json, self.is_empty) {
            (true, true) => output::line("]"),
            (true, false) => output::line("\n]"),
            (false, _) => Ok(()),
        }
    }
}

fn row(size: &str, used: &str, leased_by: &str, path: &str, label: Option<&str>) -> String {
    let label = label.map(output::printable).unwrap_or_default();
    let row = format!("{size:>10} {used:>5}  {leased_by:<9}  {path}  {label}");
    row.trim_end().to_owned()
}
