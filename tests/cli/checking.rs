//! `stats` and `check`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Store, status, text};

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
    let mended = store.json(["check", "--repair", "--json"]);
    assert_eq!(mended["mended"], 2, "{mended}");
    assert!(store.run(["check"]).status.success());
}

#[test]
fn what_is_not_there_is_not_checked() {
    let store = Store::new();
    for args in [&["check"][..], &["check", "--repair"], &["stats"]] {
        assert_eq!(status(store.run(args).status), 3, "{args:?}");
        assert!(!store.base().exists());
    }
}
