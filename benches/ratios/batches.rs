//! Many new values at the cost of one barrier: beside the raw calls, beside one `set` after the other,
//! and beside somebody else's data that is not on the disk yet.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use larder::{Barrier, StoreOptions};
use rustix::fs::syncfs;

use crate::measure::{Figure, Way, in_turn, round_robin, settled};
use crate::raw;
use crate::rows::{keys, raw_base};

const VALUE: [u8; 1024] = [7; 1024];

pub(crate) fn beside_raw(dir: &Path, turns: usize) -> Vec<Figure> {
    let groups = groups(1000, turns);
    let paths = raw_paths(dir, &groups);
    in_turn(turns, 1, &mut each_barrier(dir, &groups, &paths))
}

pub(crate) fn beside_one_by_one(dir: &Path, turns: usize) -> Vec<Figure> {
    let groups = groups(1000, turns);
    let paths = raw_paths(dir, &groups);
    let options = StoreOptions::new();
    let store = options.open_file_store(dir.join("one by one")).unwrap();
    let one_by_one = round_robin(groups.len(), |n| {
        for key in &groups[n] {
            store.set(key, |w| Ok(w.write_all(&VALUE)?)).unwrap();
        }
    });
    let mut ways = each_barrier(dir, &groups, &paths);
    ways.insert(0, ("one by one", settled(dir, one_by_one)));
    in_turn(turns, 1, &mut ways)
}

/// Nothing where the kernel writes the foreign data before a batch could be beside it.
pub(crate) fn beside_foreign_data(dir: &Path, turns: usize) -> Vec<Figure> {
    let turns = turns.min(5);
    let groups = groups(100, turns);
    let foreign = Foreign(dir.join("foreign"));
    let dirty = foreign.write();
    foreign.remove();
    if !dirty {
        return Vec::new();
    }
    let way = |name, barrier| batches(dir.join(name), barrier, &groups);
    let ways = &mut [
        ("default, alone", way("default, alone", Barrier::PerFile)),
        ("default", foreign.beside(way("default", Barrier::PerFile))),
        ("syncfs, alone", way("syncfs, alone", Barrier::FileSystem)),
        ("syncfs", foreign.beside(way("syncfs", Barrier::FileSystem))),
    ];
    in_turn(turns, 1, ways)
}

/// The keys of each turn's batch.
fn groups(size: usize, turns: usize) -> Vec<Vec<String>> {
    let keys = keys(size * (turns + 1));
    keys.chunks(size).map(<[_]>::to_vec).collect()
}

fn batches(base: PathBuf, barrier: Barrier, groups: &[Vec<String>]) -> Way<'_> {
    let options = StoreOptions::new().barrier(barrier);
    let store = options.open_file_store(base).unwrap();
    round_robin(groups.len(), move |n| {
        let mut batch = store.batch();
        for key in &groups[n] {
            batch.set(key, |w| Ok(w.write_all(&VALUE)?)).unwrap();
        }
        assert_eq!(batch.commit().unwrap(), groups[n].len());
    })
}

/// Each key's path without a store.
fn raw_paths(dir: &Path, groups: &[Vec<String>]) -> Vec<Vec<PathBuf>> {
    let base = raw_base(dir);
    groups.iter().map(|keys| raw::paths(&base, keys)).collect()
}

/// The same batches by the raw calls, and with each barrier.
fn each_barrier<'a>(
    dir: &Path,
    groups: &'a [Vec<String>],
    paths: &'a [Vec<PathBuf>],
) -> Vec<(&'static str, Way<'a>)> {
    let tmp = dir.join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let raw = round_robin(paths.len(), move |n| raw::batch(&tmp, &paths[n], &VALUE));
    let syncfs = batches(dir.join("syncfs"), Barrier::FileSystem, groups);
    let default = batches(dir.join("default"), Barrier::PerFile, groups);
    [("raw", raw), ("syncfs", syncfs), ("default", default)]
        .map(|(name, way)| (name, settled(dir, way)))
        .into()
}

/// A file of somebody else's.
struct Foreign(PathBuf);

impl Foreign {
    /// Does the work while 1.5 GB are not on the disk yet, written right before.
    fn beside<'a>(&'a self, mut way: Way<'a>) -> Way<'a> {
        Box::new(move |times| {
            assert!(self.write(), "the kernel did not keep the foreign data");
            let took = way(times);
            self.remove();
            took
        })
    }

    /// Whether most of it is only in memory afterwards.
    fn write(&self) -> bool {
        let mut file = File::create(&self.0).unwrap();
        let block = vec![7; 16 << 20];
        for _ in 0..96 {
            file.write_all(&block).unwrap();
        }
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
        let mut lines = memory.lines();
        let dirty = lines.find_map(|line| line.strip_prefix("Dirty:")?.strip_suffix("kB"));
        dirty.unwrap().trim().parse::<u64>().unwrap() > 1 << 20
    }

    /// Nothing of it is left to be written, nor of the batch beside it.
    fn remove(&self) {
        std::fs::remove_file(&self.0).unwrap();
        let dir = File::open(self.0.parent().unwrap()).unwrap();
        syncfs(dir).unwrap();
    }
}
