//! What the tests share: worker processes, deadlines, looking at a store's files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use tempfile::TempDir;

/// Nothing that is waited for takes this long unless it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const ROLE: &str = "LARDER_IT_ROLE";
pub(crate) const ARGS: &str = "LARDER_IT_ARGS";
pub(crate) const SEPARATOR: char = '\u{1f}';

/// What a worker says begins with this; everything else on its output is the test runner's.
pub(crate) const SAYS: &str = "@ ";

pub(crate) fn tempdir() -> TempDir {
    tempfile::Builder::new()
        .prefix("larder-it-")
        .tempdir()
        .unwrap()
}

/// If this is set, nothing is made in memory: `proof/file-systems` tries the file system of `TMPDIR`.
const ALL_IN_TMPDIR: &str = "LARDER_IT_ALL_IN_TMPDIR";

/// The same in memory if possible, for what makes very many files.
pub(crate) fn in_memory() -> TempDir {
    if std::env::var_os(ALL_IN_TMPDIR).is_some() {
        return tempdir();
    }
    memory().unwrap_or_else(|_| tempdir())
}

fn memory() -> std::io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("larder-it-")
        .tempdir_in("/dev/shm")
}

/// The same for the layers of an overlay, which cannot themselves be on one.
pub(crate) fn below_an_overlay() -> TempDir {
    let dir = in_memory();
    if is_overlay(dir.path()) {
        memory().unwrap()
    } else {
        dir
    }
}

/// Whether a path is on btrfs.
pub(crate) fn is_btrfs(path: &Path) -> bool {
    file_system(path) == 0x9123_683e
}

/// Whether a path is on an overlay.
pub(crate) fn is_overlay(path: &Path) -> bool {
    file_system(path) == 0x794c_7630
}

fn file_system(path: &Path) -> u64 {
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)] // its type is the platform's
    let magic = rustix::fs::statfs(path).unwrap().f_type as u64;
    magic & 0xffff_ffff // which some platforms extend as a sign
}

/// A process of this binary in a role of `worker`. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    role: String,
}

/// How to start a worker.
#[derive(Debug, Default)]
pub(crate) struct Start {
    uid: Option<u32>,
    gid: Option<u32>,
    exe: Option<PathBuf>,
}

impl Start {
    /// As somebody else, without supplementary groups. Needs root, and a copy of this binary that
    /// others can reach: see [`reachable_exe`].
    pub(crate) fn as_user(uid: u32, gid: u32, exe: &Path) -> Self {
        Start {
            uid: Some(uid),
            gid: Some(gid),
            exe: Some(exe.to_path_buf()),
        }
    }

    pub(crate) fn worker(&self, role: &str, args: &[&str]) -> Worker {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(self.exe.as_ref().unwrap_or(&own));
        command
            .args([
                "worker::entry",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ROLE, role)
            .env(ARGS, args.join(&SEPARATOR.to_string()))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(gid) = self.gid {
            command.gid(gid);
        }
        if let Some(uid) = self.uid {
            command.uid(uid);
        }
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(said) = line.strip_prefix(SAYS) {
                    if sender.send(said.to_owned()).is_err() {
                        break;
                    }
                }
            }
        });
        Worker {
            stdin: child.stdin.take(),
            child,
            lines,
            role: role.to_owned(),
        }
    }
}

impl Worker {
    pub(crate) fn start(role: &str, args: &[&str]) -> Worker {
        Start::default().worker(role, args)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next thing it says. `None` when it has ended.
    pub(crate) fn next(&mut self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{} {} said nothing for {DEADLINE:?}", self.role, self.pid())
            }
        }
    }

    /// Waits until it says something that begins with `word`, which must be the next it says;
    /// returns what follows.
    pub(crate) fn expect(&mut self, word: &str) -> String {
        let said = self.next();
        match said.as_deref().and_then(|said| said.strip_prefix(word)) {
            Some(rest) => rest.trim_start().to_owned(),
            None => panic!("{} was to say {word:?} and said {said:?}", self.role),
        }
    }

    /// Whether it has said nothing up to now.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.lines.try_recv().is_err()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
        stdin.flush().unwrap();
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.stdin = None;
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "{} did not end", self.role);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until it has ended in good order.
    pub(crate) fn finish(&mut self) {
        let status = self.wait();
        assert!(status.success(), "{} ended with {status}", self.role);
    }

    /// Waits until it was killed by SIGKILL (`true`) or ended in good order (`false`).
    pub(crate) fn was_killed(&mut self) -> bool {
        let status = self.wait();
        match status.signal() {
            Some(9) => true,
            _ => {
                assert!(status.success(), "{} ended with {status}", self.role);
                false
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does it to each in a thread of its own; panics if it panics for any.
pub(crate) fn at_once<T: Send>(each: impl IntoIterator<Item = T>, act: impl Fn(T) + Sync) {
    let act = &act;
    std::thread::scope(|scope| {
        for item in each {
            scope.spawn(move || act(item));
        }
    });
}

/// Calls `check` until it is true.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !check() {
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs what might never end, and fails if it does not.
pub(crate) fn in_time<T: Send + 'static>(
    what: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, ended) = channel();
    let thread = std::thread::spawn(move || {
        let result = run();
        let _ = sender.send(()); // too late if nobody listens any more
        result
    });
    // A panic drops the sender, and is told by the join.
    if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(DEADLINE) {
        panic!("{what}: not done within {DEADLINE:?}");
    }
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Waits until a process sleeps in `flock`.
pub(crate) fn wait_until_blocked(pid: u32) {
    eventually("to be blocked in flock", || {
        // Every thread, because the test runner runs the role on one of its own.
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
            return false;
        };
        tasks.flatten().any(|task| {
            std::fs::read_to_string(task.path().join("syscall"))
                .is_ok_and(|text| text.split(' ').next() == Some(FLOCK_NUMBER))
        })
    });
}

#[cfg(target_arch = "x86_64")]
const FLOCK_NUMBER: &str = "73";
#[cfg(target_arch = "aarch64")]
const FLOCK_NUMBER: &str = "32";

/// Everything below a directory, by relative path, with a slash after directories.
pub(crate) fn listing(base: &Path) -> BTreeSet<String> {
    fn walk(base: &Path, dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(base)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if path.symlink_metadata().unwrap().is_dir() {
                found.insert(format!("{name}/"));
                walk(base, &path, found);
            } else {
                found.insert(name);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(base, base, &mut found);
    found
}

/// What `new` makes, and nothing else.
pub(crate) fn empty_store() -> BTreeSet<String> {
    [
        "CACHEDIR.TAG",
        "gc.lock",
        "larder-spare",
        "larder-store",
        "tmp/",
    ]
    .map(str::to_owned)
    .into()
}

/// This binary, or a copy of it, where other users can run it.
pub(crate) fn reachable_exe() -> (TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempdir();
    let readable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), readable.clone()).unwrap();
    let exe = dir.path().join("it");
    let own = std::env::current_exe().unwrap();
    if std::fs::hard_link(&own, &exe).is_err() {
        // By a child: a descriptor of this process that can write to it would be inherited by
        // workers that other tests are just starting, and keep the copy from being executed.
        let mut copy = Command::new("cp");
        assert!(copy.arg(&own).arg(&exe).status().unwrap().success());
    }
    std::fs::set_permissions(&exe, readable).unwrap();
    (dir, exe)
}

/// Whether this process is root. If not, prints why the test is skipped.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped(test, "needs root");
    }
    root
}

/// Prints why a test is skipped; the continuous integration counts these lines.
pub(crate) fn skipped(test: &str, why: &str) {
    // Past the test runner, which keeps to itself what a passing test prints.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// How many descriptors this process has open.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Numbers that look random and are the same for the same seed (xorshift).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 to `limit - 1`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }
}

/// What `stat` tells of something. The access time is left out unless it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    ino: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    accessed: Option<(i64, i64)>,
}

/// A directory and everything below it, by relative path: what stays equal when nothing is touched.
pub(crate) fn snapshot(base: &Path) -> BTreeMap<String, Facts> {
    facts(base, false)
}

/// The same with access times. On an ordinary mount looking at it changes them.
pub(crate) fn snapshot_with_accesses(base: &Path) -> BTreeMap<String, Facts> {
    facts(base, true)
}

fn facts(base: &Path, accessed: bool) -> BTreeMap<String, Facts> {
    use std::os::unix::fs::MetadataExt;
    let names = listing(base).into_iter().chain([String::new()]);
    names
        .map(|name| {
            let meta = base
                .join(name.trim_end_matches('/'))
                .symlink_metadata()
                .unwrap();
            let facts = Facts {
                ino: meta.ino(),
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                links: meta.nlink(),
                len: meta.len(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
                accessed: accessed.then(|| (meta.atime(), meta.atime_nsec())),
            };
            (name, facts)
        })
        .collect()
}

/// The permission bits of a path, with setgid and its like.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Something mounted for the time of a test, on a directory of its own. Needs root.
#[derive(Debug)]
pub(crate) struct Mount {
    point: TempDir,
}

impl Mount {
    /// An empty tmpfs, with options as in `size=1m,nr_inodes=50`.
    pub(crate) fn tmpfs(options: &str) -> Mount {
        let point = tempdir();
        let options = CString::new(options).unwrap();
        let flags = MountFlags::empty();
        mount("tmpfs", point.path(), "tmpfs", flags, &*options).unwrap();
        Mount { point }
    }

    /// A writable layer over a directory that is only read. Both directories of the layer are made in
    /// `beside`.
    pub(crate) fn overlay(lower: &Path, beside: &Path) -> Mount {
        let point = tempdir();
        let [upper, work] = ["upper", "work"].map(|name| beside.join(name));
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&work).unwrap();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        let options = CString::new(options).unwrap();
        let flags = MountFlags::empty();
        mount("overlay", point.path(), "overlay", flags, &*options).unwrap();
        Mount { point }
    }

    /// A second view of a directory, with flags of its own.
    pub(crate) fn view(of: &Path, flags: MountFlags) -> Mount {
        let point = tempdir();
        mount_bind(of, point.path()).unwrap();
        let mount = Mount { point }; // from here on it is unmounted whatever happens
        mount_remount(mount.path(), MountFlags::BIND | flags, "").unwrap();
        mount
    }

    pub(crate) fn path(&self) -> &Path {
        self.point.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What is still in use goes when that ends.
        if unmount(self.point.path(), UnmountFlags::DETACH).is_err() {
            // Better to leave a directory behind than to delete through it what is mounted there.
            self.point.disable_cleanup(true);
        }
    }
}
