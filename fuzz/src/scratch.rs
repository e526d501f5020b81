//! A place for one store, and what is found in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory of its own, in memory where there is such a file system.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    descriptors: Option<usize>,
}

impl Scratch {
    #[must_use]
    pub fn new() -> Self {
        let descriptors = descriptors();
        let named = |builder: &mut tempfile::Builder<'_, '_>, below: &Path| {
            builder.prefix("larder-fuzz-").tempdir_in(below)
        };
        let dir = named(&mut tempfile::Builder::new(), Path::new("/dev/shm"))
            .or_else(|_| named(&mut tempfile::Builder::new(), &std::env::temp_dir()))
            .expect("no place for a scratch directory");
        Scratch { dir, descriptors }
    }

    /// Where the store is.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// A place that is none of the store's business.
    #[must_use]
    pub fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// To be called when everything that the store gave out was dropped.
    pub fn finish(self) {
        assert_eq!(
            descriptors(),
            self.descriptors,
            "descriptors were left open"
        );
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

fn descriptors() -> Option<usize> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count())
}

/// Something found in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    Dir,
    File(Vec<u8>),
    Link(PathBuf),
}

/// Everything below a directory, by its relative path, with its permission bits. Links are not
/// followed.
#[must_use]
pub fn listing(base: &Path) -> BTreeMap<PathBuf, (Thing, u32)> {
    let mut found = BTreeMap::new();
    let mut left = vec![base.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let thing = if meta.is_dir() {
                left.push(path.clone());
                Thing::Dir
            } else if meta.is_symlink() {
                Thing::Link(fs::read_link(&path).unwrap())
            } else {
                Thing::File(fs::read(&path).unwrap())
            };
            let mode = meta.permissions().mode() & 0o7777;
            let relative = path.strip_prefix(base).unwrap().to_path_buf();
            found.insert(relative, (thing, mode));
        }
    }
    found
}

/// The directories on the way to a relative path.
pub fn above(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors()
        .skip(1)
        .filter(|above| !above.as_os_str().is_empty())
}

/// What a closure fails, or panics, with.
#[derive(Debug)]
pub struct Deliberate;

impl std::fmt::Display for Deliberate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the closure was to fail")
    }
}

impl std::error::Error for Deliberate {}

impl Deliberate {
    /// Unwinds past the panic hook, which would end the fuzzer.
    pub fn unwind() -> ! {
        resume_unwind(Box::new(Deliberate))
    }
}

/// `None` if it unwound deliberately.
pub fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => Some(done),
        Err(panic) if panic.is::<Deliberate>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

/// Checks a busy lock's error: all locks here are this process's own.
pub fn check_busy(err: &larder::Error, key: crate::keys::Key) {
    use larder::PathKey;
    assert_eq!(err.kind(), larder::ErrorKind::Busy, "{err}");
    if let Some(holder) = err.holder() {
        assert_eq!(holder.pid, std::process::id());
        assert_eq!(holder.label.as_deref(), key.label().as_deref());
    }
}
