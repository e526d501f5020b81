//! Half of a store is collected.

use std::fs::{File, FileTimes};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use larder::{GcPolicy, KVFileStore};

use crate::measure::{Figure, Way, in_turn};
use crate::raw;
use crate::rows::{keys, raw_base};

const ENTRIES: usize = 100_000;
const HALF: usize = ENTRIES / 2;

/// Each time anew: the older half is made again, nothing is left to be written, and it is collected.
pub(crate) fn half(dir: &Path, turns: usize) -> Vec<Figure> {
    let keys = keys(ENTRIES);
    let base = raw_base(dir);
    let store = KVFileStore::new(dir.join("larder")).unwrap();
    let raw_paths = raw::paths(&base, &keys);
    let paths = raw::paths(store.base(), &keys);
    let policy = GcPolicy::default()
        .max_entries(HALF as u64)
        .stop_at_percent(100)
        .min_idle(Duration::ZERO);
    for paths in [&raw_paths, &paths] {
        fill(&paths[HALF..], Duration::from_secs(3600));
    }
    let ways = &mut [
        ("raw", refilled(dir, &raw_paths, || raw_half(&base))),
        (
            "gc",
            refilled(dir, &paths, || {
                assert_eq!(store.gc(&policy).unwrap().removed, HALF as u64);
            }),
        ),
    ];
    in_turn(turns.min(7), 1, ways)
}

fn refilled<'a>(dir: &Path, paths: &'a [PathBuf], collect: impl Fn() + 'a) -> Way<'a> {
    let dir = File::open(dir).unwrap();
    Box::new(move |_| {
        fill(&paths[..HALF], Duration::from_secs(7200));
        rustix::fs::syncfs(&dir).unwrap();
        let began = Instant::now();
        collect();
        began.elapsed()
    })
}

/// Files at these paths, last used so long ago and each a little later.
fn fill(paths: &[PathBuf], ago: Duration) {
    let mut used = SystemTime::now() - ago;
    for path in paths {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = File::create(path).unwrap();
        file.write_all(b"a value").unwrap();
        used += Duration::from_millis(1);
        file.set_times(FileTimes::new().set_accessed(used)).unwrap();
    }
}

/// What `find` tells, in order; then of each of the older half the lock file made and locked, the value
/// and the lock file unlinked, and the directories removed that are empty then.
fn raw_half(base: &Path) {
    let mut find = Command::new("find");
    find.arg(base)
        .args(["-type", "f", "-printf", "%b %A@ %p\\n"]);
    let found = String::from_utf8(find.output().unwrap().stdout).unwrap();
    let mut files: Vec<(f64, &str)> = found
        .lines()
        .map(|line| {
            let mut words = line.splitn(3, ' ').skip(1);
            let used = words.next().unwrap().parse().unwrap();
            (used, words.next().unwrap())
        })
        .collect();
    assert_eq!(files.len(), ENTRIES);
    files.sort_by(|one, other| one.0.total_cmp(&other.0));
    for (_, path) in &files[..HALF] {
        raw::remove_locked(Path::new(path));
    }
}
