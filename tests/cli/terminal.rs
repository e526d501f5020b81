//! What somebody at a terminal sees, and what his Ctrl-C does.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Store, line_of, runs, status, until};

const FOR_EVER: &str = "echo $$ > \"$BESIDE/child\"; exec sleep 1000";

#[test]
fn control_c_while_waiting_leaves_at_once() {
    let store = Store::new();
    let args = [
        "get-or-set",
        "--label",
        "a job",
        "key",
        "--",
        "sh",
        "-c",
        FOR_EVER,
    ];
    let mut holder = store.start(&args);
    let child: u32 = line_of(&store.beside("child")).parse().unwrap();
    let mut waiter = store.start_on_terminal(&["get-or-set", "key", "--", "true"]);
    waiter.until_shown(&format!("waiting for process {}", holder.pid()));
    waiter.until_shown("(a job)");
    let pressed = Instant::now();
    waiter.press_control_c();
    let output = waiter.running.output();
    assert_eq!(output.status.code(), Some(130));
    assert!(pressed.elapsed() < Duration::from_secs(5));
    assert!(!holder.has_ended() && runs(child));
    holder.signal(Signal::TERM);
    holder.output();
    assert!(!runs(child));
}

#[test]
fn control_c_while_computing_ends_the_command() {
    let store = Store::new();
    let asked = |script| ["get-or-set", "key", "--", "sh", "-c", script];
    let mut first = store.start_on_terminal(&asked(FOR_EVER));
    let child: u32 = line_of(&store.beside("child")).parse().unwrap();
    let second = store.start_on_terminal(&asked("echo from the command >&2; echo second"));
    second.until_shown("waiting for process");
    first.press_control_c();
    assert_eq!(first.running.output().status.code(), Some(130));
    until("the command is dead", || !runs(child));
    second.until_shown("from the command");
    let shown = second.shown();
    let output = second.running.output();
    assert!(output.status.success());
    // Nothing of what was shown went where the value goes.
    assert_eq!(output.stdout, b"second\n");
    assert!(shown.contains("waiting for process"));
}

#[test]
fn a_command_that_would_read_from_the_terminal_finds_its_end() {
    let store = Store::new();
    let reads = ["get-or-set", "key", "--", "sh", "-c", "cat; echo read"];
    let output = store.start_on_terminal(&reads).running.output();
    assert_eq!(status(output.status), 0);
    assert_eq!(output.stdout, b"read\n");
}

#[test]
fn progress_is_shown_beside_a_long_value() {
    let store = Store::new();
    store.feed(&["set", "key"], &vec![b'v'; 32 << 20]);
    let terminal = store.start_on_terminal(&["get", "key"]);
    // The pipe is full, so that it stands still somewhere in the middle.
    terminal.until_shown("of 32.00 MiB");
    drop(terminal);
}

#[test]
fn a_collection_tells_how_far_it_is() {
    let store = Store::new();
    store.feed(&["set", "key"], b"v");
    let args = ["gc", "--max-entries", "0", "--min-idle", "0s"];
    let terminal = store.start_on_terminal(&args);
    terminal.until_shown("removed 1 of 1");
    let output = terminal.running.output();
    assert!(output.status.success(), "{output:?}");
}

/// It went on until all of the value was hashed.
#[test]
fn control_c_while_hashing_leaves_at_once() {
    let store = Store::new();
    store.feed(&["set", "key"], b"v");
    let path = String::from_utf8(store.ok(["path", "key"])).unwrap();
    let path = std::path::Path::new(path.trim_end());
    crate::support::set_mode(path, 0o644);
    // Nothing but a hole, and more than can be hashed within the time that a test may take.
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(1 << 42).unwrap();
    let none = "0".repeat(64);
    let asked = ["get-or-set", "key", "--sha256", &none, "--", "true"];
    let mut hashing = store.start(&asked);
    let reads = format!("/proc/{}/io", hashing.pid());
    until("it hashes", || {
        let io = std::fs::read_to_string(&reads).unwrap_or_default();
        let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        read.is_some_and(|read| read.parse::<u64>().unwrap() > 1 << 20)
    });
    assert!(!hashing.has_ended());
    hashing.signal(Signal::INT);
    assert_eq!(hashing.output().status.code(), Some(130));
}

/// A name in the store, or what an error had to say of it, coloured the terminal or gave it a title.
#[test]
fn no_path_is_obeyed_by_the_terminal() {
    let store = Store::new();
    store.feed(&["set", "key"], b"v");
    let name = "\x1b[31mv\x07\nw";
    store.ok(["pin", "--path", name]);
    for args in [&["pins"][..], &["rm", "--dry-run", "--path", name]] {
        let terminal = store.start_all_on_terminal(args);
        terminal.until_shown("\\u{1b}[31mv\\u{7}\\nw");
        terminal.running.output();
    }
    // Where no terminal is, a path is what it is.
    assert!(store.ok(["pins"]).ends_with(format!("{name}\n").as_bytes()));
    std::fs::create_dir(store.base().join(name)).unwrap();
    let failed = store.start_on_terminal(&["get", "--path", name]);
    failed.until_shown("\\u{1b}[31mv\\u{7}\\nw");
    failed.running.output();
}

/// A password, say. The command is in a group of its own, so the terminal stopped it, and it was waited
/// for, for ever.
#[test]
fn a_command_that_wants_the_terminal_itself_is_ended_and_told() {
    let store = Store::new();
    let script = "read line </dev/tty; echo \"$line\"";
    let asking = store.start_on_terminal(&["get-or-set", "key", "--", "sh", "-c", script]);
    asking.until_shown("asked the terminal");
    assert_eq!(asking.running.output().status.code(), Some(3));
    assert_eq!(status(store.run(["get", "key"]).status), 1);
}
