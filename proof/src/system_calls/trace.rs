//! Running a process under `strace`: once to see its calls, and then with a fault at one of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::operation::Operation;
use super::store::Setting;
use super::worker::{BEGIN, END};

/// No operation takes this long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(30);

/// The calls that show whether what got or lost a name was made durable; not every system has each.
const DURABLE_NAMES: &str = "fsync,?rename,renameat,renameat2,?unlink,unlinkat";

/// A call that a process made. `strace` counts the calls of each name in each thread.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) nth: usize,
    /// As the trace shows it.
    pub(super) line: String,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies before it.
    Kill,
    /// It is not made, and fails so.
    Error(&'static str),
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub(super) struct End {
    pub(super) status: ExitStatus,
    pub(super) said: String,
    /// What it had to complain about.
    pub(super) complaint: String,
    pub(super) trace: String,
}

impl End {
    pub(super) fn was_killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    /// Whether the call was there at all. It may have been one of a child's.
    pub(super) fn met_fault(&self) -> bool {
        ["(INJECTED)", "killed by SIGKILL"]
            .iter()
            .any(|sign| self.trace.contains(sign))
    }
}

/// The calls of an operation that can be told from those before it, and how many cannot.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) of_operation: Vec<Call>,
    pub(super) hidden: usize,
}

/// Why no process can be traced here.
pub(super) fn why_not() -> Option<String> {
    let tried = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "true"])
        .stdin(Stdio::null())
        .output();
    match tried {
        Err(err) => Some(format!("strace cannot be run: {err}")),
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Runs an operation in a process of its own, with a fault at one of its calls or without. The trace
/// and the complaints are kept in files beside `log`.
pub(super) fn run(
    operation: &Operation,
    setting: Setting,
    base: &Path,
    log: &Path,
    fault: Option<(&Call, Fault)>,
) -> anyhow::Result<End> {
    let [said, complaint] = ["said", "complaint"].map(|suffix| log.with_extension(suffix));
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-y", "-s", "200", "-o"])
        .arg(log);
    if let Some((call, fault)) = fault {
        let what = match fault {
            Fault::Kill => "signal=KILL".to_owned(),
            Fault::Error(errno) => format!("error={errno}"),
        };
        let (name, nth) = (&call.name, call.nth);
        command.args(["-e", &format!("trace={name},{DURABLE_NAMES}")]);
        command.args(["-e", &format!("inject={name}:{what}:when={nth}")]);
    }
    command
        .arg(std::env::current_exe()?)
        .args(["system-calls-worker", operation.name, setting.name()])
        .arg(base)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&said)?)
        .stderr(std::fs::File::create(&complaint)?);
    let status = ended_in_time(&mut command)?;
    let read =
        |path: &PathBuf| std::fs::read(path).map(|text| String::from_utf8_lossy(&text).into());
    Ok(End {
        status,
        said: read(&said)?,
        complaint: read(&complaint)?,
        trace: read(&log.to_path_buf())?,
    })
}

fn ended_in_time(command: &mut Command) -> anyhow::Result<ExitStatus> {
    let mut child = command.spawn().context("run strace")?;
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > end {
            child.kill()?; // and the process with it, which asked for that
            child.wait()?;
            bail!("it hangs: not ended within {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The calls that a whole trace shows of an operation.
///
/// Those of another thread that had as many calls of its name as the first thread had before the
/// operation cannot be met: the fault would come earlier, in the first thread.
pub(super) fn calls(trace: &str) -> anyhow::Result<Calls> {
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    let mut before: HashMap<&str, usize> = HashMap::new();
    let mut seen = HashSet::new();
    let mut calls = Calls::default();
    let (mut first, mut begun, mut ended) = (None, false, false);
    for line in trace.lines() {
        let Some((thread, name)) = parse(line) else {
            continue;
        };
        let is_first = *first.get_or_insert(thread) == thread;
        let nth = counts.entry((thread, name)).or_default();
        *nth += 1;
        let is_mark = |mark| is_first && line.contains(&format!("\"{mark}\""));
        if is_mark(BEGIN) {
            begun = true;
        } else if is_mark(END) {
            ended = true;
            break;
        } else if !begun {
            before.insert(name, *nth);
        } else if !is_first && *nth <= before.get(name).copied().unwrap_or(0) {
            calls.hidden += 1;
        } else if seen.insert((name, *nth)) {
            calls.of_operation.push(Call {
                name: name.to_owned(),
                nth: *nth,
                line: line.to_owned(),
            });
        }
    }
    if !(begun && ended) {
        bail!("the operation cannot be found in the trace:\n{trace}");
    }
    Ok(calls)
}

/// The directories that were synced after the last time that a name was given or taken away. `None`: it
/// never was.
pub(super) fn synced_since(trace: &str, name: &str) -> Option<BTreeSet<PathBuf>> {
    let quoted = format!("\"{name}\"");
    let worked: Vec<(&str, &str)> = trace
        .lines()
        .filter(|line| !line.contains(" = -1 "))
        .filter_map(|line| Some((parse(line)?.1, line)))
        .collect();
    let changes = |&(call, line): &(&str, &str)| {
        (call.starts_with("rename") || call.starts_with("unlink")) && line.contains(&quoted)
    };
    let last = worked.iter().rposition(changes)?;
    let synced = worked[last..].iter().filter(|(call, _)| *call == "fsync");
    let path_of = |(_, line): &(&str, &str)| {
        let (path, _) = line.split_once('<')?.1.split_once('>')?;
        Some(PathBuf::from(path))
    };
    Some(synced.filter_map(path_of).collect())
}

/// The thread and the name of a call that begins in this line: not of one that is resumed, nor of a
/// signal.
fn parse(line: &str) -> Option<(&str, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (name, _) = rest.trim_start().split_once('(')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(is_name)).then_some((thread, name))
}

#[cfg(test)]
mod tests {
    #[test]
    fn calls_are_counted_by_thread_and_name() {
        let trace = "7 openat(AT_FDCWD, \"/lib\") = 3\n\
                     7 access(\"/larder-proof/begin\", F_OK) = -1 ENOENT\n\
                     7 openat(3, \"a\") = 4\n\
                     8 openat(3, \"b\" <unfinished ...>\n\
                     7 close(4) = 0\n\
                     8 <... openat resumed>) = 4\n\
                     8 openat(3, \"c\") = 4\n\
                     8 openat(3, \"d\") = 4\n\
                     8 --- SIGCHLD {si_signo=SIGCHLD} ---\n\
                     7 access(\"/larder-proof/end\", F_OK) = -1 ENOENT\n\
                     7 close(3) = 0\n";
        let calls = super::calls(trace).unwrap();
        let found: Vec<_> = calls
            .of_operation
            .iter()
            .map(|call| (&*call.name, call.nth))
            .collect();
        assert_eq!(found, [("openat", 2), ("close", 1), ("openat", 3)]);
        assert_eq!(calls.hidden, 1);
    }

    #[test]
    fn a_sync_counts_after_the_name_and_if_it_worked() {
        let trace = "7 fsync(4</s/a>) = 0\n\
                     7 renameat(3</s>, \"tmp/f-1\", 3</s>, \"a/b\") = 0\n\
                     7 fsync(4</s/c>) = -1 EIO (Input/output error) (INJECTED)\n\
                     7 fsync(4</s> <unfinished ...>\n";
        let synced = super::synced_since(trace, "a/b").unwrap();
        assert!(synced.iter().eq([std::path::Path::new("/s")]));
        assert_eq!(super::synced_since(trace, "b"), None);
    }
}
