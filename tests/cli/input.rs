//! What cannot be: each is an error that says so, and nothing is made.

use std::process::Command;

use crate::support::{LARDER, Nobody, Store, set_mode, status, text};

#[test]
fn sizes_and_ages_that_are_none_are_told_what_is_accepted() {
    let store = Store::new();
    store.feed(&["set", "key"], b"v");
    for (args, accepted) in [
        (["ls", "--min-size", "10 parsecs"], "10GiB"),
        (["ls", "--min-size", "-1GiB"], "10GiB"),
        (["ls", "--min-size", "10Q"], "10GiB"),
        (["ls", "--unused-for", "30"], "30d"),
        (["ls", "--unused-for", "-30d"], "30d"),
        (["ls", "--unused-for", "30fortnights"], "30d"),
    ] {
        let output = store.run(args);
        assert_eq!(status(output.status), 2, "{output:?}");
        assert!(text(&output.stderr).contains(accepted), "{output:?}");
    }
    for bad in [
        &["get-or-set", "k", "--wait", "soon", "--", "true"][..],
        &["get-or-set", "k", "--wait", "-1s", "--", "true"],
        &["get-or-set", "k", "--wait", "1s", "--no-wait", "--", "true"],
        &["set", "k", "--sha256", "abc"],
        &["set", "k", "--meta", "novalue"],
        &["set", "k", "--durability", "eternal"],
    ] {
        assert_eq!(status(store.run(bad).status), 2, "{bad:?}");
    }
}

#[test]
fn a_store_that_is_not_there_is_not_made_by_looking() {
    let store = Store::new();
    for args in [
        &["get", "key"][..],
        &["contains", "key"],
        &["rm", "key"],
        &["ls"],
        &["locks"],
        &["sweep"],
        &["clear"],
        &["dir", "get", "key"],
        &["dir", "rm", "key"],
        &["dir", "exec", "key", "--", "true"],
    ] {
        let output = store.run(args);
        assert_eq!(status(output.status), 3, "{args:?}: {output:?}");
        assert!(
            text(&output.stderr).contains("there is no store"),
            "{output:?}"
        );
        assert!(!store.base().exists(), "{args:?}");
        // A directory that looks like an old store is not made one either.
        std::fs::create_dir_all(store.base().join("A/B/C")).unwrap();
        assert_eq!(status(store.run(args).status), 3, "{args:?}");
        assert!(!store.base().join("larder-store").exists(), "{args:?}");
        std::fs::remove_dir_all(store.base()).unwrap();
    }
    let nowhere = Command::new(LARDER)
        .args(["get", "key"])
        .env_remove("LARDER_STORE")
        .output()
        .unwrap();
    assert_eq!(status(nowhere.status), 2);
    assert!(text(&nowhere.stderr).contains("--store"));
}

#[test]
fn metadata_makes_no_store_that_could_not_keep_it() {
    let store = Store::new();
    let refused = store.feed(&["set", "--meta", "a=b", "key"], b"v");
    assert_eq!(status(refused.status), 2);
    assert!(text(&refused.stderr).contains("--sealed"), "{refused:?}");
    assert!(!store.base().exists());
    let raw = Store::new();
    raw.feed(&["set", "first"], b"v");
    let refused = raw.feed(&["set", "--meta", "a=b", "key"], b"v");
    assert_eq!(status(refused.status), 3);
    assert!(
        text(&refused.stderr).contains("keeps no metadata"),
        "{refused:?}"
    );
    store.feed(&["set", "--sealed", "first"], b"v");
    let set = store.feed(&["set", "--meta", "a=b", "key"], b"v");
    assert_eq!(status(set.status), 0);
    assert_eq!(store.ok(["get", "--meta", "key"]), b"a=b\n");
}

#[test]
fn a_store_of_the_other_kind_says_which_commands_it_has() {
    let (files, dirs) = (Store::new(), Store::new());
    files.feed(&["set", "key"], b"v");
    dirs.ok(["dir", "get-or-set", "key", "--", "true"]);
    for args in [
        &["dir", "get", "key"][..],
        &["dir", "get-or-set", "key", "--", "true"],
        &["dir", "exec", "key", "--", "true"],
    ] {
        let output = files.run(args);
        assert_eq!(status(output.status), 3);
        assert!(text(&output.stderr).contains("without `dir`"), "{output:?}");
    }
    for args in [&["get", "key"][..], &["set", "key"], &["rm", "key"]] {
        let output = dirs.run(args);
        assert_eq!(status(output.status), 3);
        assert!(text(&output.stderr).contains("`larder dir"), "{output:?}");
    }
    let sealed = files.feed(&["set", "--sealed", "key"], b"v");
    assert_eq!(status(sealed.status), 3);
    assert!(text(&sealed.stderr).contains("leave out"), "{sealed:?}");
}

#[test]
fn who_may_not_is_told() {
    let Some(nobody) = Nobody::new("who_may_not_is_told") else {
        return;
    };
    nobody.store.feed(&["set", "key"], b"v");
    set_mode(&nobody.store.base(), 0o700);
    for args in [
        &["get", "key"][..],
        &["ls"],
        &["get-or-set", "k", "--", "true"],
    ] {
        let output = nobody.run(args);
        assert_eq!(status(output.status), 3, "{output:?}");
        assert!(
            text(&output.stderr).contains("Permission denied"),
            "{output:?}"
        );
    }
}

/// Of a store that was still to be made it was said to have only what could be read.
#[test]
fn a_store_that_cannot_be_made_is_told_so() {
    let Some(nobody) = Nobody::new("a_store_that_cannot_be_made_is_told_so") else {
        return;
    };
    for is_there in [false, true] {
        if is_there {
            std::fs::create_dir(nobody.store.base()).unwrap();
        }
        let output = nobody.run(["get-or-set", "key", "--", "true"]);
        assert_eq!(status(output.status), 3);
        let why = text(&output.stderr);
        assert!(
            why.contains("there is no store at") && why.contains("Permission denied"),
            "{why}"
        );
    }
}

#[test]
fn a_marker_that_says_nothing_is_told_with_what_to_do() {
    for marker in ["", "hello\n", "larder-store 1\nkind=files\n"] {
        let store = Store::new();
        std::fs::create_dir(store.base()).unwrap();
        std::fs::write(store.base().join("larder-store"), marker).unwrap();
        let output = store.run(["get", "key"]);
        assert_eq!(status(output.status), 3);
        assert!(
            text(&output.stderr).contains("delete the whole directory"),
            "{output:?}"
        );
    }
}

#[test]
fn numbers_that_are_none_or_too_large_are_told_what_is_accepted() {
    let store = Store::new();
    store.feed(&["set", "key"], b"v");
    for (arg, accepted) in [
        ("--max-entries=-1", "whole number"),
        ("--max-size=99999999T", "10TiB"),
        ("--max-size=1000", "10GiB"),
        ("--stop-at-percent=101", "0 to 100"),
    ] {
        let output = store.run(["gc", arg]);
        assert_eq!(status(output.status), 2, "{output:?}");
        assert!(text(&output.stderr).contains(accepted), "{output:?}");
    }
    store.ok(["gc", "--max-age", "0", "--min-idle", "0"]);
    assert_eq!(status(store.run(["contains", "key"]).status), 1);
    assert_eq!(status(store.run(["check", "--dry-run"]).status), 2);
}
