//! Running the command on a store of its own, in pipes or on a terminal.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value as Json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag::register_conditional_default;
use tempfile::TempDir;

/// Nothing that is waited for takes this long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const LARDER: &str = env!("CARGO_BIN_EXE_larder");

/// A store that goes with its directory.
pub(crate) struct Store {
    dir: TempDir,
}

impl Store {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("larder-cli-").tempdir();
        Store { dir: dir.unwrap() }
    }

    /// A path beside the store.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.beside("store")
    }

    /// A command on the store. What it says goes to pipes.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(LARDER);
        command.args(args);
        self.equip(&mut command);
        command
    }

    /// A script that runs `$LARDER` on the store.
    pub(crate) fn shell(&self, script: &str) -> std::process::Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        self.equip(&mut command);
        command.spawn().unwrap()
    }

    fn equip(&self, command: &mut Command) {
        heed_signals();
        command.env("LARDER_STORE", self.base());
        command.env("BESIDE", self.dir.path()).env("LARDER", LARDER);
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).output().unwrap()
    }

    /// The same, which must succeed; what it printed.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Vec<u8> {
        let output = self.run(args);
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    pub(crate) fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Json {
        serde_json::from_slice(&self.ok(args)).unwrap()
    }

    /// Runs with something on standard input.
    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // A command that fails may do so before it reads.
        let fed = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        assert!(fed.is_ok() || !output.status.success(), "{fed:?}");
        output
    }

    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let child = self.command(args).spawn().unwrap();
        Running(Some(child))
    }

    /// Starts it as the leader of a session, on a terminal of its own for everything but its output.
    pub(crate) fn start_on_terminal(&self, args: &[&str]) -> Terminal {
        self.on_terminal(args, false)
    }

    /// The same, and its output goes there too.
    pub(crate) fn start_all_on_terminal(&self, args: &[&str]) -> Terminal {
        self.on_terminal(args, true)
    }

    fn on_terminal(&self, args: &[&str], with_output: bool) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let mut command = Command::new("setsid");
        command.args(["--ctty", LARDER]).args(args);
        self.equip(&mut command);
        command.env("TERM", "xterm");
        if with_output {
            command.stdout(slave.try_clone().unwrap());
        }
        command.stdin(slave.try_clone().unwrap()).stderr(slave);
        let running = Running(Some(command.spawn().unwrap()));
        Terminal {
            running,
            shown: record(master.try_clone().unwrap()),
            keys: File::from(master),
        }
    }

    /// Waits until this process is seen to wait for somebody's lock.
    pub(crate) fn until_waiting(&self, pid: u32) {
        until("it waits", || {
            let locks = self.json(["locks", "--json"]);
            let locks = locks.as_array().unwrap().clone();
            let mut waiting = locks
                .iter()
                .flat_map(|lock| lock["waiting"].as_array().unwrap());
            waiting.any(|waits| *waits == pid)
        });
    }
}

/// Whoever started the tests may have them ignore signals, as a shell does in the background, and the
/// commands would inherit that. A signal that is handled is not ignored, and a new program's is the default.
fn heed_signals() {
    static HEEDED: Once = Once::new();
    HEEDED.call_once(|| {
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            let always = Arc::new(AtomicBool::new(true));
            register_conditional_default(signal, always).unwrap();
        }
    });
}

/// Another user, with a store that is not his, where he can reach it.
pub(crate) struct Nobody {
    pub(crate) store: Store,
    binary: PathBuf,
}

impl Nobody {
    /// `None` where this user cannot become another; then the test says that it was skipped.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED {test}: needs root");
            return None;
        }
        let store = Store::new();
        let binary = store.beside("larder");
        // Another process copies it: whatever this one starts meanwhile would hold it open for writing,
        // and it could not be run.
        let copied = Command::new("cp").arg(LARDER).arg(&binary).status();
        assert!(copied.unwrap().success());
        set_mode(store.dir.path(), 0o755);
        Some(Nobody { store, binary })
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        let mut command = Command::new(&self.binary);
        command.args(args).uid(65534).gid(65534);
        self.store.equip(&mut command);
        command.output().unwrap()
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// What a terminal shows, as it comes.
fn record(master: OwnedFd) -> Arc<Mutex<String>> {
    let shown = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&shown);
    std::thread::spawn(move || {
        let (mut master, mut buffer) = (File::from(master), [0; 4096]);
        // The end of a terminal whose last user went is an error.
        while let Ok(read @ 1..) = master.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            into.lock().unwrap().push_str(&text);
        }
    });
    shown
}

/// A started command; killed if the test ends before it.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    pub(crate) fn output(mut self) -> Output {
        until("it ends", || self.has_ended());
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) struct Terminal {
    pub(crate) running: Running,
    shown: Arc<Mutex<String>>,
    keys: File,
}

impl Terminal {
    pub(crate) fn until_shown(&self, text: &str) {
        until(text, || self.shown.lock().unwrap().contains(text));
    }

    pub(crate) fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    pub(crate) fn press_control_c(&mut self) {
        self.keys.write_all(b"\x03").unwrap();
    }
}

/// The status that a shell would see.
pub(crate) fn status(status: ExitStatus) -> i32 {
    let of_signal = || status.signal().map(|signal| 128 + signal);
    status.code().or_else(of_signal).unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a file has a whole line, and returns it.
pub(crate) fn line_of(path: &Path) -> String {
    let read = || std::fs::read_to_string(path).unwrap_or_default();
    until("a line is written", || read().ends_with('\n'));
    read().trim_end().to_owned()
}

pub(crate) fn signal_to(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Whether a process runs: one that is only still to be waited for does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// Whether all threads of a process sleep, and no signal is on its way to it.
pub(crate) fn sleeps(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.into_iter().all(|thread| {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let of = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
                .trim()
        };
        let none = |mask: &str| mask.bytes().all(|digit| digit == b'0');
        of("State:").starts_with('S') && none(of("SigPnd:")) && none(of("ShdPnd:"))
    })
}
