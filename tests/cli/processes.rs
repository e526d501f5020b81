//! Many processes at once, and signals to them.

use std::fs;
use std::io::Write;
use std::process::Command;

use rustix::process::Signal;

use crate::support::{Store, line_of, runs, signal_to, sleeps, status, text, until};

#[test]
fn of_eight_processes_one_runs_the_command() {
    let store = Store::new();
    let gate = store.beside("gate");
    assert!(
        Command::new("mkfifo")
            .arg(&gate)
            .status()
            .unwrap()
            .success()
    );
    let script = "echo run >> \"$BESIDE/runs\"; cat \"$BESIDE/gate\"";
    let args = ["get-or-set", "key", "--", "sh", "-c", script];
    let all: Vec<_> = (0..8).map(|_| store.start(&args)).collect();
    assert_eq!(line_of(&store.beside("runs")), "run");
    until("seven wait", || {
        let locks = store.json(["locks", "--json"]);
        let waiting = locks[0]["waiting"].as_array();
        waiting.is_some_and(|waiting| waiting.len() == 7)
            && locks[0]["holders"][0]["exclusive"] == true
    });
    fs::write(gate, "the value").unwrap();
    for process in all {
        let output = process.output();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, b"the value");
        // Who waits is shown on a terminal, and only there.
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    assert_eq!(fs::read_to_string(store.beside("runs")).unwrap(), "run\n");
}

/// Writes down the pid of a child that would outlive a mere request to end, and computes for ever.
const STUBBORN: &str = "(trap '' TERM; exec sleep 1000 >/dev/null 2>&1) & echo $! > \"$BESIDE/child\"; echo half; wait";

#[test]
fn a_signal_ends_the_group_and_the_next_goes_on() {
    for (signal, expected) in [
        (Signal::INT, 130),
        (Signal::TERM, 143),
        (Signal::HUP, 129),
        (Signal::QUIT, 131),
    ] {
        for dir in [false, true] {
            let store = Store::new();
            let group: &[&str] = if dir { &["dir"] } else { &[] };
            let asked = |script| [group, &["get-or-set", "key", "--", "sh", "-c", script]].concat();
            let first = store.start(&asked(STUBBORN));
            let child: u32 = line_of(&store.beside("child")).parse().unwrap();
            let second = store.start(&asked("echo second"));
            store.until_waiting(second.pid());
            first.signal(signal);
            let first = first.output();
            assert_eq!(status(first.status), expected, "{first:?}");
            assert!(first.stdout.is_empty(), "{first:?}");
            until("the group is dead", || !runs(child));
            let second = second.output();
            assert!(second.status.success(), "{second:?}");
            let said = if dir { &second.stderr } else { &second.stdout };
            assert_eq!(said, b"second\n");
            // Not even a staged file is left.
            let staged: Vec<_> = fs::read_dir(store.base().join("tmp")).unwrap().collect();
            assert!(staged.is_empty(), "{staged:?}");
        }
    }
}

/// What it has to say fills the pipe long before the last key.
#[test]
fn a_signal_ends_a_removal_of_many_keys() {
    let store = Store::new();
    let values = larder::KVFileStore::new(store.base()).unwrap();
    let keys: Vec<String> = (0..3000).map(|n| format!("key {n}")).collect();
    for key in &keys {
        values.set(key, |out| Ok(out.write_all(b"value")?)).unwrap();
    }
    let rm = [&["rm".to_owned(), "--dry-run".to_owned()], &keys[..]].concat();
    let child = store.command(rm).spawn().unwrap();
    until("the pipe is full", || sleeps(child.id()));
    signal_to(child.id(), Signal::INT);
    until("the signal is noted", || sleeps(child.id()));
    let output = child.wait_with_output().unwrap();
    assert_eq!(status(output.status), 130, "{}", text(&output.stderr));
    let told = text(&output.stdout).lines().count();
    assert!(told > 0 && told < keys.len(), "{told}");
}

#[test]
fn a_signal_that_nohup_has_it_ignore_ends_nothing() {
    let store = Store::new();
    let script = "trap '' HUP; exec \"$LARDER\" get-or-set key -- \
                  sh -c 'echo $$ >\"$BESIDE\"/child; read line <\"$BESIDE\"/fifo; echo \"$line\"'";
    let made = std::process::Command::new("mkfifo")
        .arg(store.beside("fifo"))
        .status();
    assert!(made.unwrap().success());
    let child = store.shell(script);
    line_of(&store.beside("child"));
    signal_to(child.id(), Signal::HUP);
    fs::write(store.beside("fifo"), "the value\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"the value\n");
}

#[test]
fn a_signal_while_standard_input_is_read_stores_nothing() {
    let store = Store::new();
    let mut command = store.command(["set", "key"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let _input = child.stdin.take(); // `wait` would close it
    until("it stages", || {
        let staged = fs::read_dir(store.base().join("tmp"));
        staged.is_ok_and(|staged| {
            staged
                .flatten()
                .any(|file| file.file_name().to_string_lossy().starts_with("f-"))
        })
    });
    signal_to(child.id(), Signal::TERM);
    assert_eq!(status(child.wait().unwrap()), 143);
    assert_eq!(status(store.run(["get", "key"]).status), 1);
    assert_eq!(fs::read_dir(store.base().join("tmp")).unwrap().count(), 0);
}

#[test]
fn who_does_not_wait_is_told_for_whom() {
    let store = Store::new();
    let args = [
        "get-or-set",
        "--label",
        "the long\n\u{1b}one %",
        "key",
        "--",
        "sh",
        "-c",
        STUBBORN,
    ];
    let holder = store.start(&args);
    line_of(&store.beside("child"));
    for waiting in [&["--no-wait"][..], &["--wait", "50ms"]] {
        let asked = [&["get-or-set", "key"], waiting, &["--", "true"]].concat();
        let output = store.start(&asked).output();
        assert_eq!(status(output.status), 3, "{output:?}");
        let why = text(&output.stderr);
        let whom = format!("process {}", holder.pid());
        assert!(
            why.contains(&whom) && why.contains("(the long\\n\\u{1b}one %)"),
            "{why}"
        );
    }
    let shown = text(&store.ok(["locks"]));
    let holds = format!("  process {} holds it for ", holder.pid());
    assert!(shown.contains(&holds), "{shown}");
    assert!(shown.ends_with("s (the long\\n\\u{1b}one %)\n"), "{shown}");
    holder.signal(Signal::TERM);
    holder.output();
}

#[test]
fn a_tree_stays_while_a_command_or_what_it_started_runs() {
    let store = Store::new();
    store.ok(["dir", "get-or-set", "key", "--", "true"]);
    // The pipes of this command are not those of the process that it leaves behind.
    let script = "sleep 1000 >/dev/null 2>&1 & echo $! > \"$BESIDE/child\"";
    store.ok(["dir", "exec", "key", "--", "sh", "-c", script]);
    let child: u32 = line_of(&store.beside("child")).parse().unwrap();
    for args in [
        &["dir", "rm", "key"][..],
        &["dir", "rm", "--dry-run", "key"],
    ] {
        let refused = store.run(args);
        assert_eq!(status(refused.status), 3);
        assert!(text(&refused.stderr).contains("use"), "{refused:?}");
    }
    let listed = store.json(["ls", "--json"]);
    assert_eq!(listed[0]["leased_by"], serde_json::json!([child]));
    // What the tree holds is no lock of the store.
    let tree = text(&store.ok(["dir", "get", "key"]));
    let inside = std::path::Path::new(tree.trim_end()).join("Cargo.lock");
    let _open = std::fs::File::create(inside).unwrap();
    let locks = store.json(["locks", "--json"]);
    assert_eq!(locks.as_array().unwrap().len(), 1, "{locks}");
    signal_to(child, Signal::KILL);
    until("the tree is free", || {
        store.run(["dir", "rm", "key"]).status.success()
    });
}
