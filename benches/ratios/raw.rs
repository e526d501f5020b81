//! The raw system calls: what each operation cannot do without, and nothing else.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat, renameat, syncfs};

/// The paths of keys below `base`, in directories three levels deep as the store has them.
pub(crate) fn paths(base: &Path, keys: &[String]) -> Vec<PathBuf> {
    use larder::PathKey;
    keys.iter().map(|key| base.join(key.key())).collect()
}

/// An open, reads until the buffer has it all, a close.
pub(crate) fn hit(path: &Path, into: &mut [u8]) -> usize {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = openat(CWD, path, flags, Mode::empty()).unwrap();
    let file = File::from(fd);
    (&file).read(into).unwrap()
}

pub(crate) fn miss(path: &Path) {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    assert!(openat(CWD, path, flags, Mode::empty()).is_err());
}

/// Creates a staged file, writes, syncs if asked, renames. The directory must be there.
pub(crate) fn set(staged: &Path, path: &Path, bytes: &[u8], durable: bool) {
    let mut file = File::create_new(staged).unwrap();
    file.write_all(bytes).unwrap();
    if durable {
        file.sync_data().unwrap();
    }
    drop(file);
    renameat(CWD, staged, CWD, path).unwrap();
}

/// The same after the directories were made, one by one from the top as `mkdir -p` does.
pub(crate) fn set_new(staged: &Path, path: &Path, bytes: &[u8], durable: bool) {
    make_directories(path);
    set(staged, path, bytes, durable);
}

fn make_directories(path: &Path) {
    let above: Vec<&Path> = path.ancestors().skip(1).take(3).collect();
    for dir in above.iter().rev() {
        match fs::create_dir(dir) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.unwrap(),
        }
    }
}

/// All staged, one barrier over the file system, all renamed. Makes the directories and the lock files
/// too, as whoever wants one computation per key must.
pub(crate) fn batch(tmp: &Path, paths: &[PathBuf], bytes: &[u8]) {
    let dir = File::open(tmp).unwrap();
    let staged: Vec<PathBuf> = (0..paths.len()).map(|n| tmp.join(n.to_string())).collect();
    for staged in &staged {
        let mut file = File::create_new(staged).unwrap();
        file.write_all(bytes).unwrap();
    }
    syncfs(&dir).unwrap();
    for (staged, path) in staged.iter().zip(paths) {
        make_directories(path);
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        File::create(&lock).unwrap();
        renameat(CWD, staged, CWD, path).unwrap();
        fs::remove_file(&lock).unwrap();
    }
}

/// A tree of `files` small files in 100 directories.
pub(crate) fn fill_tree(tree: &Path, files: usize, bytes: &[u8]) {
    for dir in 0..100 {
        let dir = tree.join(format!("d{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..files / 100 {
            fs::write(dir.join(format!("f{file}")), bytes).unwrap();
        }
    }
}

/// The tree, one barrier, a rename.
pub(crate) fn tree(staged: &Path, path: &Path, files: usize, bytes: &[u8]) {
    let parent = File::open(staged.parent().unwrap()).unwrap();
    fs::create_dir(staged).unwrap();
    fill_tree(staged, files, bytes);
    syncfs(&parent).unwrap();
    make_directories(path);
    renameat(CWD, staged, CWD, path).unwrap();
}

/// Makes and locks a lock file, unlinks the value and the lock file, and removes the directories that are
/// empty then.
pub(crate) fn remove_locked(path: &Path) {
    let lock = path.with_extension("lock");
    let file = File::create(&lock).unwrap();
    fs2::FileExt::try_lock_exclusive(&file).unwrap();
    fs::remove_file(path).unwrap();
    fs::remove_file(&lock).unwrap();
    for dir in path.ancestors().skip(1).take(3) {
        if fs::remove_dir(dir).is_err() {
            break;
        }
    }
}
