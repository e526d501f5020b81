//! Who this process is, so that another can tell whether it still lives.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use data_encoding::HEXLOWER_PERMISSIVE;

/// Which boot of which machine, and which pid namespace, a pid belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) boot_id: Option<String>,
    pub(crate) pid_namespace: Option<String>,
}

impl Host {
    /// The boot's id, as the 16 bytes that it is.
    pub(crate) fn boot(&self) -> Option<[u8; 16]> {
        let digits: String = self.boot_id.as_ref()?.split('-').collect();
        HEXLOWER_PERMISSIVE
            .decode(digits.as_bytes())
            .ok()?
            .try_into()
            .ok()
    }
}

/// This machine and this process's pid namespace. Asked for once: a process keeps both.
pub(crate) fn this() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| Host {
        name: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        pid_namespace: std::fs::read_link("/proc/self/ns/pid")
            .ok()
            .map(|link| link.to_string_lossy().into_owned()),
    })
}

/// This process's id. A call each time, because it changes across `fork`.
pub(crate) fn pid() -> u32 {
    rustix::process::getpid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}

/// When this process was started; asked for once in each process.
pub(crate) fn own_start() -> Option<u64> {
    static KNOWN: Mutex<Option<(u32, Option<u64>)>> = Mutex::new(None);
    let pid = pid();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match *known {
        // Not what was known before a fork.
        Some((of, start)) if of == pid => start,
        _ => known.insert((pid, start_of(pid))).1,
    }
}

/// When a process was started, in clock ticks since boot; with its pid that names one process of
/// a boot for good. `None` if there is no such process, or no way to know.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses and may hold anything, spaces and
    // parentheses too. The start is the 22nd, so the 20th after it.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// The inodes of all files that somebody holds a `flock` on, as far as this process's pid namespace
/// shows them. `None` where the system has no such list.
pub(crate) fn flocked_inodes() -> Option<HashSet<u64>> {
    let lines = read("/proc/locks")?;
    let inode = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        // Whoever only waits has an arrow before it.
        (words.next()? == "FLOCK").then_some(())?;
        words.nth(3)?.rsplit(':').next()?.parse().ok()
    };
    Some(lines.lines().filter_map(inode).collect())
}

fn read(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}
