//! Checking a store on disk, and mending it.
//!
//! `look` finds what may be wrong, `confirm` looks at it again, `mend` repairs. Invariant: checking
//! changes nothing, creates nothing and counts as no use; mending takes away only what a sweep or a
//! reader would.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Result;
use crate::root::Root;

mod confirm;
mod look;
mod mend;

pub(crate) use mend::repair;

/// How thoroughly a store is checked.
///
/// ```
/// # fn main() -> larder::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let store = larder::KVFileStore::new(dir.path())?;
/// use larder::CheckOptions;
///
/// let thorough = CheckOptions::new().digests(true);
/// store.check_each(&thorough, |finding| eprintln!("{finding}"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    digests: bool,
}

impl CheckOptions {
    /// Checks everything but the contents of values and trees.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to read everything that has a digest, and compare: sealed values, and trees that have
    /// a manifest.
    #[must_use = "this returns the options"]
    pub fn digests(mut self, read: bool) -> Self {
        self.digests = read;
        self
    }
}

/// What is wrong with something in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// The marker is missing, or is not what it was when the store was opened.
    Marker,
    /// `tmp/`, `gc.lock`, `CACHEDIR.TAG` or `larder-spare` is missing, or is something else.
    Furniture,
    /// Nothing that a store puts there: a link, a socket, a file of somebody's.
    Foreign,
    /// No key can have this name.
    ImpossibleName,
    /// A lock file that has no value and no holder.
    OrphanLock,
    /// A sidecar without a tree.
    OrphanSidecar,
    /// An empty directory on the way to no entry.
    EmptyDirectory,
    /// Something staged, or a tree half deleted, that a dead process left.
    Leftover,
    /// A published value that can be written to.
    Writable,
    /// A sealed value or a tree that is not what was published. Reads as absent where that is checked.
    Damaged,
    /// A later version wrote it.
    FromTheFuture,
    /// This process may not read it, or the disk cannot.
    Unreadable,
    /// What looks like a tree has other entries in it, which cannot be reached: a lock file stands
    /// beside one of the store's directories.
    Nested,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// Its absolute path.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: FindingKind,
    /// Whether `repair` mends it, if this process may.
    pub mendable: bool,
    /// What is wrong, as a sentence without its end.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// How many findings a report keeps.
const MOST_FINDINGS: usize = 10_000;

/// What a check found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CheckReport {
    /// Entries that were looked at.
    pub examined: u64,
    /// Those of them that were read and compared with a digest, where that was asked for. The others have
    /// none.
    pub digested: u64,
    /// How much was found, also beyond what is in `findings`.
    pub found: u64,
    /// The first 10,000. `check_each` gives all.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.found == 0
    }

    pub(crate) fn note(&mut self, finding: Finding) {
        self.found += 1;
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        }
    }
}

/// Looks at everything, and hands out what it finds.
pub(crate) fn each(
    root: &Arc<Root>,
    options: &CheckOptions,
    mut found: impl FnMut(Finding),
) -> Result<CheckReport> {
    let mut count = 0;
    let mut report = look::each(root, options, &mut |finding| {
        count += 1;
        found(finding);
    })?;
    report.found = count;
    Ok(report)
}

/// The same with the first findings in the report.
pub(crate) fn check(root: &Arc<Root>) -> Result<CheckReport> {
    let mut noted = CheckReport::default();
    let report = each(root, &CheckOptions::new(), |found| noted.note(found))?;
    Ok(CheckReport {
        findings: noted.findings,
        ..report
    })
}

/// What a repair did to something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mended {
    /// Its absolute path.
    pub path: PathBuf,
    /// What was done.
    pub action: MendAction,
}

/// How something is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MendAction {
    /// It was removed: what a dead process left, or what was damaged and read as absent.
    Removed,
    /// Its write permission bits were taken away.
    WriteBitsTaken,
    /// It was missing, and was made anew.
    MadeAnew,
}

impl fmt::Display for MendAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MendAction::Removed => "removed",
            MendAction::WriteBitsTaken => "write bits taken away",
            MendAction::MadeAnew => "made anew",
        })
    }
}

/// What a repair did, and what it left.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// How much was mended, empty directories not counted.
    pub mended: u64,
    /// What was done to it; the first 10,000.
    pub done: Vec<Mended>,
    /// What was not: what is foreign, and what this process may not change or somebody is using.
    pub left: CheckReport,
}

impl RepairReport {
    fn note(&mut self, path: PathBuf, action: MendAction) {
        self.mended += 1;
        if self.done.len() < MOST_FINDINGS {
            self.done.push(Mended { path, action });
        }
    }
}
