//! `ls`: what is stored.

use std::collections::HashSet;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use larder::{Entry, PathKey, Pin};
use serde_json::json;

use crate::args::Ls;
use crate::output;
use crate::proc::Locks;
use crate::stop::Stop;
use crate::store::{Any, Place, either};
use crate::units::{epoch, show_age, show_size, since};

/// Prints each entry as it is found, so that a store of a million takes no memory. What cannot be read
/// is told at the end, and the rest is listed all the same.
pub(crate) fn ls(place: &Place, args: &Ls) -> Result<(), Stop> {
    let store = place.any_read_only()?;
    let entries = either!(&store, store => store.entries());
    let state = State::of(&store)?;
    let mut failed = None;
    let mut listing = Listing::begin(args.list.json)?;
    for entry in entries {
        match entry {
            Ok(entry) if !is_wanted(&entry, args) => {}
            Ok(entry) => {
                listing.add(&entry, state.is_pinned(&entry), &state.lessees(&entry))?;
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

/// What keeps entries from being removed.
struct State {
    pinned: HashSet<PathBuf>,
    /// Nobody leases values, so this is asked for trees only.
    locks: Option<Locks>,
}

impl State {
    fn of(store: &Any) -> Result<Self, Stop> {
        let pins: Vec<Pin> = either!(store, store => store.pins()?);
        Ok(State {
            pinned: pins.iter().map(|pin| pin.path().to_path_buf()).collect(),
            locks: match store {
                Any::Files(_) => None,
                Any::Dirs(store) => Some(Locks::of(store.base())),
            },
        })
    }

    fn is_pinned(&self, entry: &Entry) -> bool {
        self.pinned.contains(entry.path())
    }

    /// Who leases a tree.
    fn lessees(&self, entry: &Entry) -> Vec<u32> {
        let Some(locks) = &self.locks else {
            return Vec::new();
        };
        let mut lock = entry.path().as_os_str().to_owned();
        lock.push(".lock");
        let held = locks.at(lock.as_ref());
        let leases = held.holders.iter().filter(|holder| !holder.exclusive);
        leases.map(|holder| holder.pid).collect()
    }
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
            output::line(&row("SIZE", "USED", "STATE", "PATH", Some("LABEL")))?;
        }
        Ok(Listing {
            json,
            is_empty: true,
        })
    }

    fn add(&mut self, entry: &Entry, pinned: bool, leased_by: &[u32]) -> Result<(), Stop> {
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
                "pinned": pinned,
                "leased_by": leased_by,
            });
            let separator = if is_first { "\n" } else { ",\n" };
            return output::write(format!("{separator}{object}").as_bytes());
        }
        let unknown = || "?".to_owned();
        let pinned = pinned.then(|| "pinned".to_owned());
        let leases = leased_by.iter().map(|pid| format!("leased:{pid}"));
        let mut state: Vec<String> = pinned.into_iter().chain(leases).collect();
        if state.is_empty() {
            state.push("-".to_owned());
        }
        output::line(&row(
            &entry.len().map_or_else(unknown, show_size),
            &entry
                .last_used()
                .map_or_else(unknown, |used| show_age(since(used))),
            &state.join(","),
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

fn row(size: &str, used: &str, state: &str, path: &str, label: Option<&str>) -> String {
    let label = label.map(output::printable).unwrap_or_default();
    let row = format!("{size:>10} {used:>5}  {state:<9}  {path}  {label}");
    row.trim_end().to_owned()
}
