//! What may be on disk in stores that nobody uses, to the last file.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use larder::PathKey;

use crate::content::{Key, Kind};

const OWN: [&str; 4] = ["CACHEDIR.TAG", "larder-store", "larder-spare", "gc.lock"];

/// Compares all that is below the stores' directories, but for what is in trees, with what should
/// be there when these keys have values.
pub(crate) fn compare(caches: &Path, present: &BTreeSet<Key>) -> anyhow::Result<()> {
    for kind in Kind::ALL {
        let store = kind.store();
        let mut wanted: BTreeSet<PathBuf> = OWN.iter().map(PathBuf::from).collect();
        wanted.insert("tmp".into());
        let mut trees = BTreeSet::new();
        for key in present.iter().filter(|key| key.kind == kind) {
            let path = key.name().key();
            wanted.extend(path.ancestors().map(Path::to_path_buf));
            if kind == Kind::Tree {
                wanted.extend(["lock", "larder"].map(|suffix| path.with_extension(suffix)));
                trees.insert(path);
            }
        }
        wanted.remove(Path::new(""));
        let found = walk(&caches.join(store), &trees)?;
        let left: Vec<_> = found.difference(&wanted).collect();
        let missing: Vec<_> = wanted.difference(&found).collect();
        ensure!(
            left.is_empty() && missing.is_empty(),
            "the store {store} has residue {left:?}, and lacks {missing:?}"
        );
    }
    Ok(())
}

/// The files that every store has are whole as soon as it is open.
pub(crate) fn own_files(caches: &Path) -> anyhow::Result<()> {
    for store in Kind::ALL.map(Kind::store) {
        let tag = fs::read(caches.join(store).join("CACHEDIR.TAG"))?;
        ensure!(
            tag.starts_with(b"Signature: 8a477f597d28d172789f06886806bc55\n"),
            "the store {store} has a CACHEDIR.TAG that is torn ({} bytes)",
            tag.len()
        );
    }
    Ok(())
}

fn walk(base: &Path, trees: &BTreeSet<PathBuf>) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut left = vec![PathBuf::new()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(base.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            if entry.file_type()?.is_dir() && !trees.contains(&path) {
                left.push(path.clone());
            }
            found.insert(path);
        }
    }
    Ok(found)
}

/// Bytes and regular files in a tree.
pub(crate) fn measure(tree: &Path) -> io::Result<(u64, u64)> {
    let mut sum = (0, 0);
    for entry in fs::read_dir(tree)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            let inside = measure(&entry.path())?;
            sum = (sum.0 + inside.0, sum.1 + inside.1);
        } else if meta.is_file() {
            sum = (sum.0 + meta.len(), sum.1 + 1);
        }
    }
    Ok(sum)
}
