//! Running CMD: in a process group of its own, which ends when this process is asked to.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::args::Cmd;
use crate::output;
use crate::signals::Interrupt;
use crate::stop::{Stop, status_of_signal};

/// The directory to be filled, or that is leased.
const DIR_VARIABLE: &str = "LARDER_DIR";

/// The store, for the commands that CMD may run.
const STORE_VARIABLE: &str = "LARDER_STORE";

/// What a command may take to end when it is asked to; after that it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// Runs CMD and copies what it prints.
pub(crate) fn capture(
    cmd: &Cmd,
    store: &Path,
    into: &mut impl Write,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let mut command = prepare(cmd, store)?;
    command.stdout(Stdio::piped());
    let mut group = Group::start(command, interrupt)?;
    let copied = match group.child.stdout.take() {
        Some(stdout) => io::copy(&mut interrupt.reading(stdout), into),
        None => Ok(0),
    };
    if copied.is_err() {
        group.end();
        interrupt.check()?;
        copied?;
    }
    Ok(group.wait()?)
}

/// Runs CMD, which fills a directory. What it prints goes to standard error.
pub(crate) fn fill(
    cmd: &Cmd,
    store: &Path,
    dir: &Path,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let mut command = prepare(cmd, store)?;
    tell_of_tree(&mut command, store, dir);
    command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
    Ok(Group::start(command, interrupt)?.wait()?)
}

/// Becomes CMD. Returns only if that fails.
pub(crate) fn become_it(mut command: Command) -> Stop {
    let err = command.exec();
    cannot_run(command.get_program(), &err)
}

/// The command as it was typed.
pub(crate) fn plain(cmd: &Cmd) -> Result<Command, Stop> {
    let (program, args) = cmd
        .parts()
        .ok_or_else(|| Stop::Usage("which command? It goes behind a `--`".to_owned()))?;
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

/// Says where the store is, and the tree in it that CMD is about.
pub(crate) fn tell_of_tree(command: &mut Command, store: &Path, tree: &Path) {
    command.env(STORE_VARIABLE, store).env(DIR_VARIABLE, tree);
}

fn prepare(cmd: &Cmd, store: &Path) -> Result<Command, Stop> {
    let mut command = plain(cmd)?;
    command.env(STORE_VARIABLE, store);
    command.process_group(0);
    // Whoever reads from a terminal in a group of its own is stopped, for ever.
    if io::IsTerminal::is_terminal(&io::stdin()) {
        command.stdin(Stdio::null());
    }
    Ok(command)
}

/// As shells have it: 127 if there is no such command, 126 if it is none.
fn cannot_run(program: &OsStr, err: &io::Error) -> Stop {
    let status = if err.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    let program = output::printable(&program.to_string_lossy());
    Stop::Command(status, Some(format!("cannot run {}: {err}", program)))
}

/// A running command and its process group.
struct Group<'a> {
    child: Child,
    id: Option<Pid>,
    /// At its end when the command ended, or will not without the terminal.
    ended: UnixStream,
    wants_terminal: Arc<AtomicBool>,
    interrupt: &'a Interrupt,
}

impl<'a> Group<'a> {
    fn start(mut command: Command, interrupt: &'a Interrupt) -> Result<Self, Stop> {
        interrupt.check()?;
        let (ended, end) = UnixStream::pair().map_err(anyhow::Error::new)?;
        let child = command
            .spawn()
            .map_err(|err| cannot_run(command.get_program(), &err))?;
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let wants_terminal = Arc::new(AtomicBool::new(false));
        let wanted = Arc::clone(&wants_terminal);
        std::thread::spawn(move || {
            if let Some(id) = id.filter(|id| wait_until_it_wants_the_terminal(*id)) {
                wanted.store(true, Ordering::SeqCst);
                // Who reads what it prints would wait for it.
                let _ = kill_process_group(id, Signal::KILL);
            }
            drop(end);
        });
        Ok(Group {
            child,
            id,
            ended,
            wants_terminal,
            interrupt,
        })
    }

    /// Waits for the command to end, well or because this process is asked to.
    fn wait(mut self) -> Result<(), Stop> {
        let mut seen = [0];
        let mut ended = self
            .ended
            .try_clone()
            .map(|ended| self.interrupt.reading(ended));
        loop {
            match ended.as_mut().map(|ended| ended.read(&mut seen)) {
                Ok(Err(err)) if err.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        if let Err(stop) = self.interrupt.check() {
            self.end();
            return Err(stop);
        }
        if self.wants_terminal.load(Ordering::SeqCst) {
            self.end();
            return Err(anyhow::anyhow!(
                "the command asked the terminal for something, which it cannot have here; run it once by \
                 itself, or tell it not to ask"
            )
            .into());
        }
        let status = self.child.wait().map_err(anyhow::Error::new)?;
        judge(status)
    }

    /// Ends every process of the group: asks the command, gives it time, and kills what is left.
    fn end(&mut self) {
        let Some(id) = self.id else { return };
        let _ = kill_process_group(id, Signal::TERM);
        let _ = kill_process_group(id, Signal::CONT); // what is stopped cannot end
        let _ = self.ended.set_read_timeout(Some(GRACE));
        let _ = self.ended.read(&mut [0]);
        let _ = kill_process_group(id, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// `false`: the command ended. It stays to be waited for, so that its number is nobody else's.
fn wait_until_it_wants_the_terminal(id: Pid) -> bool {
    let events = WaitIdOptions::EXITED | WaitIdOptions::STOPPED;
    loop {
        match waitid(WaitId::Pid(id), events | WaitIdOptions::NOWAIT) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(Some(status)) if status.stopped() => {
                let by = status.stopping_signal();
                if by == Some(Signal::TTIN.as_raw()) || by == Some(Signal::TTOU.as_raw()) {
                    return true;
                }
                // Somebody has stopped it, and will have it go on.
                let _ = waitid(
                    WaitId::Pid(id),
                    WaitIdOptions::STOPPED | WaitIdOptions::NOHANG,
                );
            }
            _ => return false,
        }
    }
}

fn judge(status: ExitStatus) -> Result<(), Stop> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Stop::Command(u8::try_from(code).unwrap_or(u8::MAX), None)),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            let sentence = format!("the command was ended by signal {signal}");
            Err(Stop::Command(status_of_signal(signal), Some(sentence)))
        }
    }
}
