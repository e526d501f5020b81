//! The roles that worker processes play. One talks to its test over its standard input and output,
//! a line at a time.

use std::io::{BufRead, Read, Write};
use std::path::Path;

use larder::{KVDirStore, KVFileStore};

use crate::support::{ARGS, ROLE, SAYS, SEPARATOR, Worker};

/// The entry point of every worker, and otherwise a test of the workers themselves.
#[test]
fn entry() {
    let Ok(role) = std::env::var(ROLE) else {
        let mut worker = Worker::start("echo", &["one", "two words"]);
        worker.expect("one|two words");
        worker.tell("three");
        worker.expect("three");
        worker.finish();
        return;
    };
    let args = std::env::var(ARGS).unwrap();
    let args: Vec<&str> = args.split(SEPARATOR).collect();
    play(&role, &args);
    std::process::exit(0); // past the test runner, whose words are not ours
}

fn play(role: &str, args: &[&str]) {
    match role {
        "echo" => {
            say(&args.join("|"));
            say(&hear());
        }
        "get-or-set-file" => get_or_set_file(args),
        "get-or-set-tree" => get_or_set_tree(args),
        _ => assert!(
            crate::check::play(role, args)
                || crate::checkpoint_crash::play(role, args)
                || crate::checkpoint_owners::play(role, args)
                || crate::damaged_trees::play(role, args)
                || crate::faults::play(role, args)
                || crate::damage::play(role, args)
                || crate::lock_deletion::play(role, args)
                || crate::leases::play(role, args)
                || crate::permissions::play(role, args)
                || crate::basics::play(role, args)
                || crate::collecting::play(role, args)
                || crate::layers::play(role, args)
                || crate::sealed::play(role, args)
                || crate::sweeping::play(role, args)
                || crate::verified::play(role, args)
                || crate::waiting::play(role, args),
            "no role {role:?}"
        ),
    }
}

/// Tells the test something.
pub(crate) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // The test runner may have begun a line of its own.
    write!(stdout, "\n{SAYS}{line}\n").unwrap();
    stdout.flush().unwrap();
}

/// Waits for what the test tells.
pub(crate) fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// BASE KEY: says `ready`, hears `go`, asks; if it computes says `computing`, hears what to write,
/// or `fail`, or `panic`; says `value TEXT OUTCOME` or `error KIND`.
fn get_or_set_file(args: &[&str]) {
    let store = KVFileStore::new(args[0]).unwrap();
    say("ready");
    hear();
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.get_or_set(args[1], |w| {
            let text = compute()?;
            w.write_all(text.as_bytes())?;
            Ok(())
        })
    }));
    match asked {
        Ok(Ok(mut value)) => {
            let mut text = String::new();
            value.read_to_string(&mut text).unwrap();
            say(&format!("value {text} {:?}", value.outcome()));
        }
        Ok(Err(err)) => say(&format!("error {:?}", err.kind())),
        Err(_panic) => say("panicked"),
    }
}

/// As `get_or_set_file`, for a tree with one file `text`.
fn get_or_set_tree(args: &[&str]) {
    let store = KVDirStore::new(args[0]).unwrap();
    say("ready");
    hear();
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.get_or_set(args[1], |tree: &Path| {
            std::fs::write(tree.join("text"), compute()?)?;
            Ok(())
        })
    }));
    match asked {
        Ok(Ok(lease)) => {
            let text = std::fs::read_to_string(lease.join("text")).unwrap();
            say(&format!("value {text} {:?}", lease.outcome()));
        }
        Ok(Err(err)) => say(&format!("error {:?}", err.kind())),
        Err(_panic) => say("panicked"),
    }
}

/// Says `computing`, hears what to write, or how to fail.
pub(crate) fn compute() -> anyhow::Result<String> {
    say("computing");
    match hear().as_str() {
        "fail" => anyhow::bail!("told to fail"),
        "panic" => panic!("told to panic"),
        text => Ok(text.to_owned()),
    }
}
