//! What each command does, with which status, and what it prints.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use crate::support::{Store, status, text};

#[test]
fn a_value_goes_in_and_out_byte_for_byte() {
    let store = Store::new();
    let value: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let set = store.feed(&["set", "key"], &value);
    assert!(set.status.success() && set.stdout.is_empty() && set.stderr.is_empty());
    assert_eq!(store.ok(["get", "key"]), value);
    let script = r"printf 'a\0b\n\377\n\n'; echo noise >&2";
    let computed = store.run(["get-or-set", "other", "--", "sh", "-c", script]);
    assert_eq!(computed.stdout, b"a\0b\n\xff\n\n");
    assert_eq!(computed.stderr, b"noise\n");
    assert_eq!(store.ok(["get", "other"]), b"a\0b\n\xff\n\n");
}

#[test]
fn any_bytes_are_a_key() {
    let store = Store::new();
    // The first two are the same where they are made text.
    let keys: [&[u8]; 7] = [
        b"\xff\xfe",
        b"\xfe\xff",
        b"a\nb",
        b"",
        b" ",
        b"../..",
        b"-x",
    ];
    for key in keys {
        let key = OsStr::from_bytes(key);
        let args = ["get-or-set", "--"].map(OsStr::new);
        let echo = ["--", "sh", "-c", "printf %s \"$1\"", "sh"].map(OsStr::new);
        let set = store.ok(args.into_iter().chain([key]).chain(echo).chain([key]));
        assert_eq!(set, key.as_bytes());
        let get = store.ok([OsStr::new("get"), OsStr::new("--"), key]);
        assert_eq!(get, key.as_bytes());
    }
    let listed = store.json(["ls", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), keys.len());
}

#[test]
fn a_hit_runs_nothing() {
    let store = Store::new();
    store.feed(&["set", "key"], b"there");
    let hit = store.ok(["get-or-set", "key", "--", "no-such-command"]);
    assert_eq!(hit, b"there");
}

#[test]
fn each_end_has_its_status() {
    let store = Store::new();
    store.feed(&["set", "there"], b"v");
    let cases: &[(&[&str], i32)] = &[
        (&["contains", "there"], 0),
        (&["contains", "absent"], 1),
        (&["get", "absent"], 1),
        (&["rm", "absent"], 1),
        (&["rm", "--dry-run", "absent"], 1),
        (&["rm", "--dry-run", "there"], 0),
        (&["get", "there"], 0),
        (&["rm", "there"], 0),
        (&["get", "there"], 1),
        (&[], 2),
        (&["get"], 2),
        (&["fetch", "key"], 2),
        (&["get-or-set", "key"], 2),
        (&["get-or-set", "key", "--"], 2),
        (&["get-or-set", "key", "--", "sh", "-c", "exit 7"], 7),
        (
            &["get-or-set", "key", "--", "sh", "-c", "echo v; exit 255"],
            255,
        ),
        (&["get-or-set", "key", "--", "no-such-command"], 127),
        (&["get-or-set", "key", "--", "/etc/passwd"], 126),
        (&["get-or-set", "key", "--", "sh", "-c", "kill -9 $$"], 137),
        (&["get", "key"], 1),
        (&["set", "--meta", "k=v", "key"], 3),
        (&["dir", "get", "key"], 3),
        (&["--help"], 0),
        (&["completions", "zsh"], 0),
        (&["completions", "csh"], 2),
    ];
    for (args, expected) in cases {
        let output = store.run(*args);
        assert_eq!(status(output.status), *expected, "{args:?}: {output:?}");
        if *expected != 0 {
            assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
        }
    }
}

#[test]
fn each_listing_is_json() {
    for dir in [false, true] {
        let store = Store::new();
        let make: &[&str] = if dir {
            &[
                "dir",
                "get-or-set",
                "--label",
                "a\n\"b\"",
                "key",
                "--",
                "touch",
            ]
        } else {
            &[
                "get-or-set",
                "--sealed",
                "--label",
                "a\n\"b\"",
                "key",
                "--",
                "echo",
            ]
        };
        store.ok(make.iter().chain(&["/dev/null"]));
        let listed = store.json(["ls", "--json"]);
        assert_eq!(listed[0]["label"], "a\n\"b\"");
        let unused = ["ls", "--json", "--unused-for", "1d"];
        assert_eq!(store.json(unused), serde_json::json!([]));
        assert_eq!(store.json(["locks", "--json"]), serde_json::json!([]));
        assert_eq!(store.json(["sweep", "--json"])["removed"], 0);
        assert_eq!(store.json(["clear", "--json"])["removed"], 1);
        assert_eq!(store.json(["ls", "--json"]), serde_json::json!([]));
    }
}

#[test]
fn people_see_no_control_characters() {
    let store = Store::new();
    store.ok([
        "get-or-set",
        "--sealed",
        "--label",
        "a\x1b[2Jb",
        "key",
        "--",
        "echo",
        "v",
    ]);
    assert!(text(&store.ok(["ls"])).ends_with("  a\\u{1b}[2Jb\n"));
}

#[test]
fn what_was_stated_of_a_value_is_checked_and_kept() {
    let store = Store::new();
    let of_hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let stated = [
        "set", "--sealed", "--sha256", of_hello, "--meta", "etag=W/1", "--meta", "a=b=c",
    ];
    let args: Vec<&str> = stated.into_iter().chain(["key"]).collect();
    assert!(store.feed(&args, b"hello").status.success());
    assert_eq!(store.ok(["get", "--meta", "key"]), b"etag=W/1\na=b=c\n");
    let other = store.feed(&args, b"Hello");
    assert_eq!(status(other.status), 3);
    assert!(text(&other.stderr).contains(of_hello), "{other:?}");
    assert_eq!(store.ok(["get", "key"]), b"hello");
    let command = [
        "get-or-set",
        "new",
        "--sha256",
        of_hello,
        "--",
        "echo",
        "hello",
    ];
    assert_eq!(status(store.run(command).status), 3);
    assert_eq!(status(store.run(["get", "new"]).status), 1);
    for durability in ["none", "data", "full"] {
        let args = ["set", "--durability", durability, durability];
        assert!(store.feed(&args, b"v").status.success());
    }
}

/// A typo in the digest lost the value, or made it impossible to replace.
#[test]
fn what_has_another_digest_stays_until_it_is_replaced() {
    let of_hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    for sealed in [&[][..], &["--sealed"]] {
        let store = Store::new();
        let there = [&["set"][..], sealed, &["key"]].concat();
        assert!(store.feed(&there, b"good").status.success());
        let ask = |cmd: &[&str]| {
            let asked = ["get-or-set", "key", "--sha256", of_hello, "--"];
            store.run([&asked[..], cmd].concat())
        };
        for (cmd, expected) in [(&["false"][..], 1), (&["echo", "bad"], 3)] {
            let asked = ask(cmd);
            assert_eq!(status(asked.status), expected, "{asked:?}");
            assert!(asked.stdout.is_empty(), "{asked:?}");
            assert!(text(&asked.stderr).contains(" has "), "{asked:?}");
            assert_eq!(store.ok(["get", "key"]), b"good");
        }
        assert_eq!(ask(&["printf", "hello"]).stdout, b"hello");
        assert_eq!(ask(&["false"]).stdout, b"hello");
    }
}

/// What was hashed was what the key had a moment after the value that was printed.
#[test]
fn what_is_printed_is_what_was_hashed() {
    let of_hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let store = Store::new();
    store.feed(&["set", "key"], b"other");
    let path = text(&store.ok(["path", "key"]));
    let path = std::path::Path::new(path.trim_end());
    let values = ["other", "hello"].map(|value| {
        std::fs::write(store.beside(value), value).unwrap();
        store.beside(value)
    });
    // Whoever would compute it is told that it is busy.
    let files = larder::KVFileStore::new(store.base()).unwrap();
    let _lock = files.lock("key").unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let link = store.beside("link");
            for value in values.iter().cycle() {
                if is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                std::fs::hard_link(value, &link).unwrap();
                #[allow(clippy::disallowed_methods)] // as fast as can be
                std::fs::rename(&link, path).unwrap();
                // Where both are the same file, it does nothing.
                let _ = std::fs::remove_file(&link);
            }
        });
        let asked = ["get-or-set", "key", "--no-wait", "--sha256", of_hello];
        let command = ["--", "printf", "hello"];
        let outputs: Vec<_> = (0..100)
            .map(|_| store.run(asked.iter().chain(&command)))
            .collect();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        for output in outputs {
            let printed: &[u8] = if output.status.success() {
                b"hello"
            } else {
                b""
            };
            assert_eq!(output.stdout, printed, "{output:?}");
        }
    });
}

/// What was said of a value was lost where it took the place of one whose bytes had been altered.
#[test]
fn metadata_is_kept_with_what_replaces_altered_bytes() {
    let of_hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let store = Store::new();
    store.feed(&["set", "--sealed", "key"], b"hello");
    let path = text(&store.ok(["rm", "--dry-run", "key"]));
    let path = std::path::Path::new(path.trim_end());
    let mut bytes = std::fs::read(path).unwrap();
    bytes[0] = b'J';
    crate::support::set_mode(path, 0o644);
    std::fs::write(path, bytes).unwrap();
    let asked = ["get-or-set", "key", "--sha256", of_hello, "--meta", "a=b"];
    let command = ["--", "printf", "hello"];
    assert_eq!(store.ok(asked.iter().chain(&command)), b"hello");
    assert_eq!(store.ok(["get", "--meta", "key"]), b"a=b\n");
}

#[test]
fn who_reads_no_further_is_no_error() {
    let store = Store::new();
    store.feed(&["set", "key"], &vec![b'v'; 4 << 20]);
    for args in [&["get", "key"][..], &["get-or-set", "key", "--", "true"]] {
        let mut child = store.command(args).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(status(output.status), 128 + libc::SIGPIPE);
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = store.command(["get", "key"]).stdout(full).output().unwrap();
    assert_eq!(status(output.status), 3);
}

#[test]
fn a_tree_is_filled_by_the_command() {
    let store = Store::new();
    let script = "echo chatter; echo v > \"$LARDER_DIR/file\"";
    let made = store.run(["dir", "get-or-set", "key", "--", "sh", "-c", script]);
    assert_eq!(made.stderr, b"chatter\n");
    let tree = text(&made.stdout);
    let tree = std::path::Path::new(tree.trim_end());
    assert_eq!(std::fs::read(tree.join("file")).unwrap(), b"v\n");
    assert_eq!(store.ok(["dir", "get", "key"]), made.stdout);
    assert_eq!(store.ok(["dir", "rm", "--dry-run", "key"]), made.stdout);
    let seen = store.ok([
        "dir",
        "exec",
        "key",
        "--",
        "sh",
        "-c",
        "cat \"$LARDER_DIR/file\"",
    ]);
    assert_eq!(seen, b"v\n");
    for (args, expected) in [
        (&["dir", "exec", "key", "--", "sh", "-c", "exit 9"][..], 9),
        (&["dir", "exec", "key", "--", "no-such-command"], 127),
        (&["dir", "exec", "key", "--", "/etc/passwd"], 126),
        (
            &["dir", "exec", "key", "--", "sh", "-c", "kill -15 $$"],
            143,
        ),
        (&["dir", "exec", "absent", "--", "true"], 1),
        (&["dir", "get-or-set", "new", "--", "sh", "-c", "exit 8"], 8),
        (&["dir", "contains", "new"], 1),
        (&["dir", "rm", "key"], 0),
        (&["dir", "rm", "key"], 1),
        (&["dir", "get", "key"], 1),
    ] {
        let output = store.run(args);
        assert_eq!(status(output.status), expected, "{args:?}: {output:?}");
    }
}

/// What a listing prints was of no use to any other command.
#[test]
fn a_path_that_was_listed_is_a_key() {
    let store = Store::new();
    for key in ["one", "two", "three"] {
        store.feed(&["set", key], key.as_bytes());
    }
    let path = |key| text(&store.ok(["path", key])).trim_end().to_owned();
    let one = path("one");
    assert_eq!(std::fs::read(&one).unwrap(), b"one");
    assert_eq!(store.ok(["get", "--path", &one]), b"one");
    let base = format!("{}/", store.base().display());
    let inside = one.strip_prefix(&base).unwrap();
    store.ok(["contains", "--path", inside]);
    store.ok(["pin", "--path", inside]);
    assert_eq!(text(&store.ok(["pins"])), format!("{one}\n"));
    store.ok(["unpin", "--path", &one]);
    for (bad, expected) in [
        ("/etc/passwd", 2),
        ("../passwd", 2),
        ("tmp", 2),
        ("A/B/C/none", 1),
    ] {
        let output = store.run(["get", "--path", bad]);
        assert_eq!(status(output.status), expected, "{output:?}");
    }
    // All that there is goes, and what there is not is named.
    let paths = [one, path("two"), "A/B/C/none".to_owned(), path("three")];
    let removing: Vec<&str> = paths.iter().map(String::as_str).collect();
    let removed = store.run([&["rm", "--path"][..], &removing].concat());
    assert_eq!(status(removed.status), 1);
    assert_eq!(
        text(&removed.stderr),
        "larder: nothing is stored under A/B/C/none\n"
    );
    assert_eq!(store.json(["ls", "--json"]), serde_json::json!([]));

    let trees = Store::new();
    let tree = text(&trees.ok(["dir", "get-or-set", "key", "--", "true"]));
    let tree = tree.trim_end();
    assert_eq!(
        text(&trees.ok(["dir", "get", "--path", tree])).trim_end(),
        tree
    );
    trees.ok(["dir", "exec", "--path", tree, "--", "true"]);
    trees.ok(["dir", "rm", "--path", tree]);
    assert_eq!(status(trees.run(["dir", "contains", "key"]).status), 1);
    let sealed = Store::new();
    sealed.feed(&["set", "--sealed", "key"], b"v");
    assert_eq!(status(sealed.run(["path", "key"]).status), 3);
}

/// What was removed was outside.
#[test]
fn no_path_leads_through_a_link() {
    let (store, trees) = (Store::new(), Store::new());
    store.feed(&["set", "key"], b"v");
    trees.ok(["dir", "get-or-set", "key", "--", "true"]);
    for store in [&store, &trees] {
        std::fs::create_dir_all(store.beside("out/tree")).unwrap();
        std::fs::write(store.beside("out/file"), "precious").unwrap();
        std::fs::write(store.beside("out/tree.lock"), "").unwrap();
        std::os::unix::fs::symlink(store.beside("out"), store.base().join("link")).unwrap();
    }
    let absolute = text(
        store
            .base()
            .join("link/file")
            .as_os_str()
            .as_encoded_bytes(),
    );
    for (store, args) in [
        (&store, &["rm", "--path", "link/file"][..]),
        (&store, &["rm", "--path", &absolute]),
        (&store, &["get", "--path", "link/file"]),
        (&store, &["pin", "--path", "link/no/file"]),
        (&trees, &["dir", "rm", "--path", "link/tree"]),
    ] {
        let refused = store.run(args);
        assert_eq!(status(refused.status), 2, "{args:?}: {refused:?}");
        assert!(text(&refused.stderr).contains("link is a symbolic link"));
        assert!(store.beside("out/file").exists());
        assert!(store.beside("out/tree").exists());
    }
    // The store itself may be behind one.
    std::os::unix::fs::symlink(store.base(), store.beside("other")).unwrap();
    let path = text(&store.ok(["path", "key"]));
    let mut command = store.command(["rm", "--path", path.trim_end()]);
    let output = command.env("LARDER_STORE", store.beside("other")).output();
    assert_eq!(status(output.unwrap().status), 0);
}

/// What came after an error was not looked at, and what was not there before it was not told.
#[test]
fn one_that_cannot_be_removed_keeps_no_other() {
    let store = Store::new();
    for key in ["one", "two", "three"] {
        store.feed(&["set", key], b"v");
    }
    let path = |key| text(&store.ok(["path", key])).trim_end().to_owned();
    let (one, two, three) = (path("one"), path("two"), path("three"));
    // Nothing goes as long as one of them can be no key.
    let refused = store.run(["rm", "--path", &one, "gc.lock", &three]);
    assert_eq!(status(refused.status), 2, "{refused:?}");
    store.ok(["contains", "one"]);
    std::fs::remove_file(&two).unwrap();
    std::fs::create_dir(&two).unwrap();
    let removed = store.run(["rm", "absent", "one", "two", "three"]);
    assert_eq!(status(removed.status), 3, "{removed:?}");
    let told = text(&removed.stderr);
    assert!(
        told.contains("under absent\n") && told.contains(&two),
        "{told}"
    );
    assert_eq!(store.json(["ls", "--json"]), serde_json::json!([]));

    let trees = Store::new();
    for key in ["one", "two"] {
        trees.ok(["dir", "get-or-set", key, "--", "true"]);
    }
    let script = "echo held; exec sleep 1000";
    let holds = ["dir", "exec", "one", "--", "sh", "-c", script];
    let mut child = trees.command(holds).spawn().unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 5]).unwrap();
    let removed = trees.run(["dir", "rm", "absent", "one", "two"]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(status(removed.status), 3, "{removed:?}");
    assert!(text(&removed.stderr).contains("under absent\n"));
    assert_eq!(status(trees.run(["dir", "contains", "two"]).status), 1);
}

#[test]
fn a_tree_is_replaced_and_verified() {
    let store = Store::new();
    let fill = |command, word: &str| {
        let script = format!("echo {word} > \"$LARDER_DIR/file\"");
        text(&store.ok(["dir", command, "--digest", "key", "--", "sh", "-c", &script]))
    };
    let tree = fill("get-or-set", "first");
    assert_eq!(fill("replace", "second"), tree);
    let file = std::path::Path::new(tree.trim_end()).join("file");
    assert_eq!(std::fs::read(&file).unwrap(), b"second\n");
    assert_eq!(store.ok(["verify", "key"]), b"");
    std::fs::write(&file, "altered").unwrap();
    std::fs::write(file.with_file_name("more"), "").unwrap();
    let verified = store.run(["verify", "key"]);
    assert_eq!(status(verified.status), 3);
    let told = text(&verified.stdout);
    assert!(
        told.contains("changed file\n") && told.contains("new more\n"),
        "{told}"
    );
    assert_eq!(status(store.run(["verify", "absent"]).status), 1);
    let failed = store.run(["dir", "replace", "key", "--", "false"]);
    assert_eq!(status(failed.status), 1);
    assert!(file.exists());
    for (sealed, expected) in [(&[][..], 3), (&["--sealed"], 0)] {
        let store = Store::new();
        store.feed(&[&["set"][..], sealed, &["key"]].concat(), b"v");
        assert_eq!(status(store.run(["verify", "key"]).status), expected);
    }
}

/// A command that used the store itself had to be told again where it is.
#[test]
fn a_command_is_told_the_store() {
    let store = Store::new();
    let base = store.base();
    let script = "printf %s \"$LARDER_STORE\"";
    let mut command = std::process::Command::new(crate::support::LARDER);
    command
        .current_dir(base.parent().unwrap())
        .env_remove("LARDER_STORE");
    let store_of = [
        "--store",
        "store",
        "get-or-set",
        "key",
        "--",
        "sh",
        "-c",
        script,
    ];
    let output = command.args(store_of).output().unwrap();
    assert_eq!(output.stdout, base.as_os_str().as_bytes(), "{output:?}");
}
