//! `locks`: who holds which key, and who waits.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::args::List;
use crate::output;
use crate::proc::{Held, Locks};
use crate::stop::Stop;
use crate::store::{Place, either};
use crate::units::{epoch, show_age, since};

pub(crate) fn locks(place: &Place, args: &List) -> Result<(), Stop> {
    let store = place.any_read_only()?;
    let base = either!(&store, store => store.base());
    // As the system names open files.
    let base = &fs::canonicalize(base).unwrap_or_else(|_| base.to_path_buf());
    let locks = Locks::of(base);
    let mut paths: Vec<PathBuf> = locks.known().map(Path::to_path_buf).collect();
    if locks.has_hidden() {
        find_locks(base, &mut paths);
        paths.sort();
        paths.dedup();
    }
    // What a tree holds is not ours, be it called `Cargo.lock`.
    paths.retain(|path| !is_in_a_tree(base, path));
    let mut objects = Vec::new();
    for path in &paths {
        let held = locks.at(path);
        if held.holders.is_empty() && held.waiters.is_empty() {
            continue;
        }
        let record = Record::read(path);
        if args.json {
            objects.push(describe(path, &held, &record));
        } else {
            show(path, &held, &record)?;
        }
    }
    match args.json {
        true => output::json(&objects.into()),
        false => Ok(()),
    }
}

fn describe(lock: &Path, held: &Held, record: &Record) -> serde_json::Value {
    let holders = held.holders.iter().map(|holder| {
        let record = record.of(holder.pid);
        json!({
            "pid": holder.pid,
            "exclusive": holder.exclusive,
            "since": record.and_then(|record| record.since).map(epoch),
            "label": record.and_then(|record| record.label.as_ref()),
        })
    });
    json!({
        "path": locked(lock).to_string_lossy(),
        "holders": holders.collect::<Vec<_>>(),
        "waiting": held.waiters,
    })
}

fn show(lock: &Path, held: &Held, record: &Record) -> Result<(), Stop> {
    output::line(&output::printable(&locked(lock).to_string_lossy()))?;
    for holder in &held.holders {
        let doing = if holder.exclusive {
            "holds it"
        } else {
            "leases it"
        };
        let record = record.of(holder.pid);
        let since = record.and_then(|record| record.since).map(since);
        let since = since.map(|held| format!(" for {}", show_age(held)));
        let label = record.and_then(|record| record.label.as_deref());
        let label = label.map(|label| format!(" ({})", output::printable(label)));
        let (since, label) = (since.unwrap_or_default(), label.unwrap_or_default());
        output::line(&format!("  process {} {doing}{since}{label}", holder.pid))?;
    }
    for pid in &held.waiters {
        output::line(&format!("  process {pid} waits"))?;
    }
    Ok(())
}

/// What the lock file is for.
fn locked(lock: &Path) -> PathBuf {
    lock.with_extension("")
}

/// What a holder wrote into the lock file, see `docs/format.md`. Anything else there says nothing.
#[derive(Default)]
struct Record {
    pid: Option<u32>,
    since: Option<SystemTime>,
    label: Option<String>,
}

impl Record {
    fn read(lock: &Path) -> Self {
        let mut bytes = Vec::new();
        if let Ok(file) = fs::File::open(lock) {
            let _ = file.take(4096).read_to_end(&mut bytes);
        }
        Self::parse(&String::from_utf8_lossy(&bytes)).unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Self> {
        let (record, _) = text.split_once("\nend\n")?;
        let mut known = Record::default();
        for (name, value) in record.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "pid" => known.pid = value.parse().ok(),
                "start" => known.since = value.parse().ok().and_then(after_epoch),
                "label" => known.label = Some(unescape(value)),
                _ => {}
            }
        }
        Some(known)
    }

    /// The record, if it is this process's.
    fn of(&self, pid: u32) -> Option<&Self> {
        (self.pid == Some(pid)).then_some(self)
    }
}

/// A `%XX` is a byte; what is none stands for itself.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        let byte = (*first == b'%').then(|| Some(16 * digit(0)? + digit(1)?));
        let byte = byte.flatten().and_then(|byte| u8::try_from(byte).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = byte.map_or(after, |_| &after[2..]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn after_epoch(seconds: f64) -> Option<SystemTime> {
    let after = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(after)
}

/// Whether a directory of the store is an entry, beside which a lock file or a sidecar stands, and not on the
/// way to some.
fn is_a_tree(dir: &Path) -> bool {
    [".lock", ".larder"].iter().any(|suffix| {
        let mut beside = dir.as_os_str().to_owned();
        beside.push(suffix);
        fs::symlink_metadata(&beside).is_ok()
    })
}

fn is_in_a_tree(base: &Path, path: &Path) -> bool {
    let above = path.ancestors().skip(1);
    above.take_while(|dir| *dir != base).any(is_a_tree)
}

/// Every lock file of the store.
fn find_locks(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type();
        if kind.as_ref().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name() != "tmp" && !is_a_tree(&path) {
                find_locks(&path, found);
            }
        } else if path
            .extension()
            .is_some_and(|extension| extension == "lock")
        {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_its_writers() {
        let text = "larder-lock 1\npid=7\nstart=12.500000000\nlabel=zlib%0A1.3 %\nend\nrest";
        let record = Record::parse(text).unwrap();
        assert!(record.of(8).is_none());
        let record = record.of(7).unwrap();
        assert_eq!(record.label.as_deref(), Some("zlib\n1.3 %"));
        assert_eq!(record.since, after_epoch(12.5));
        assert!(Record::parse("larder-lock 1\npid=7\n").is_none());
    }
}
