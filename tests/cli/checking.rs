//! `stats` and `check`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Nobody, Store, set_mode, status, text};

#[test]
fn a_sound_store_is_counted_and_found_sound() {
    for dir in [false, true] {
        let store = Store::new();
        let group: &[&str] = if dir { &["dir"] } else { &[] };
        let make = ["get-or-set", "key", "--", "echo", "v"];
        store.run([group, &make].concat());
        let stats = store.json(["stats", "--json"]);
        assert_eq!(stats["entries"], 1, "{stats}");
        assert!(text(&store.ok(["stats"])).contains("entries "));
        let checked = store.json(["check", "--digests", "--json"]);
        assert_eq!(checked["examined"], 1, "{checked}");
        assert_eq!(checked["findings"], serde_json::json!([]));
        assert!(store.run(["check", "--repair"]).status.success());
    }
}

#[test]
fn what_is_wrong_is_told_and_mended() {
    let store = Store::new();
    for key in ["one", "two"] {
        store.feed(&["set", key], b"v");
        let path = text(&store.ok(["rm", "--dry-run", key]));
        let writable = fs::Permissions::from_mode(0o644);
        fs::set_permissions(path.trim_end(), writable).unwrap();
    }
    for args in [
        &["check", "--json"][..],
        &["check", "--repair", "--dry-run", "--json"],
    ] {
        let output = store.run(args);
        assert_eq!(status(output.status), 3);
        let checked: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(checked["found"], 2, "{checked}");
        assert_eq!(checked["findings"][1]["kind"], "Writable", "{checked}");
    }
    let told = store.run(["check"]);
    assert!(text(&told.stdout).contains("(mendable)"), "{told:?}");
    assert!(
        text(&told.stderr).contains("`larder check --repair` mends 2 of them"),
        "{told:?}"
    );
    let mended = store.json(["check", "--repair", "--json"]);
    assert_eq!(mended["mended"], 2, "{mended}");
    assert_eq!(
        mended["done"][1]["action"], "write bits taken away",
        "{mended}"
    );
    assert!(store.run(["check"]).status.success());
}

/// A repair only said how much it had mended.
#[test]
fn what_a_repair_did_is_told_of_each() {
    let store = Store::new();
    store.feed(&["set", "--sealed", "key"], b"a value");
    let value = text(&store.ok(["rm", "--dry-run", "key"]));
    let value = std::path::Path::new(value.trim_end());
    fs::write(value, "torn").unwrap();
    set_mode(value, 0o444);
    let left = store.base().join("tmp/f-0123456789");
    fs::write(&left, "left by somebody").unwrap();
    fs::remove_file(store.base().join("CACHEDIR.TAG")).unwrap();
    let told = text(&store.ok(["check", "--repair"]));
    for (path, action) in [
        (value, "removed"),
        (&left, "removed"),
        (&store.base().join("CACHEDIR.TAG"), "made anew"),
    ] {
        assert!(
            told.contains(&format!("{}: {action}\n", path.display())),
            "{told}"
        );
    }
    assert!(told.ends_with(" looked at, 3 mended\n"), "{told}");
}

/// `check --digests` was silent of how little it had compared.
#[test]
fn how_much_has_a_digest_is_told() {
    let store = Store::new();
    for (key, more) in [
        ("plain", &[][..]),
        ("digested", &["--digest"]),
        ("fast", &["--durability", "none"]),
    ] {
        let make = [&["dir", "get-or-set", key][..], more, &["--", "true"]].concat();
        store.ok(make);
    }
    let told = text(&store.ok(["check", "--digests"]));
    assert_eq!(told, "3 entries looked at, 2 of them had a digest\n");
    assert_eq!(store.json(["check", "--digests", "--json"])["digested"], 2);
    let files = Store::new();
    files.feed(&["set", "--sealed", "key"], b"v");
    let told = text(&files.ok(["check", "--digests"]));
    assert_eq!(told, "1 entry looked at, 1 of them had a digest\n");
}

/// Of a store that it could not read, it said that it was empty.
#[test]
fn what_cannot_be_read_is_counted() {
    let Some(nobody) = Nobody::new("what_cannot_be_read_is_counted") else {
        return;
    };
    let store = &nobody.store;
    for key in ["one", "two"] {
        store.feed(&["set", key], b"v");
    }
    let path = text(&store.ok(["rm", "--dry-run", "one"]));
    let shard = std::path::Path::new(path.trim_end()).parent().unwrap();
    set_mode(shard, 0o700);
    let counted = nobody.run(["stats"]);
    assert_eq!(status(counted.status), 3, "{counted:?}");
    assert!(
        text(&counted.stdout).contains("entries        1\n"),
        "{counted:?}"
    );
    assert!(
        text(&counted.stderr).contains("1 directory or entry could not"),
        "{counted:?}"
    );
    let counted = nobody.run(["stats", "--json"]);
    assert_eq!(status(counted.status), 3);
    assert!(
        text(&counted.stdout).contains("\"unreadable\":1"),
        "{counted:?}"
    );
}

#[test]
fn a_pin_without_a_value_is_counted_apart() {
    let store = Store::new();
    store.feed(&["set", "key"], b"v");
    for key in ["key", "to come", "also to come"] {
        store.ok(["pin", key]);
    }
    let stats = store.json(["stats", "--json"]);
    assert_eq!(
        (&stats["pinned"], &stats["pinned_absent"]),
        (&1.into(), &2.into())
    );
    assert!(text(&store.ok(["stats"])).contains("1, and 2 without a value"));
}

#[test]
fn what_is_not_there_is_not_checked() {
    let store = Store::new();
    for args in [&["check"][..], &["check", "--repair"], &["stats"]] {
        assert_eq!(status(store.run(args).status), 3, "{args:?}");
        assert!(!store.base().exists());
    }
}
