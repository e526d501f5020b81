//! `gc` and pins.

use crate::support::{Nobody, Store, set_mode, status, text};

/// Three values of 1 MiB, the first two of them not used for long.
fn filled() -> Store {
    let store = Store::new();
    for key in ["old", "older", "new"] {
        store.feed(&["set", key], &vec![b'v'; 1 << 20]);
    }
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(40 * 86_400);
    for key in ["old", "older"] {
        let path = text(&store.ok(["rm", "--dry-run", key]));
        let file = std::fs::File::open(path.trim_end()).unwrap();
        file.set_times(std::fs::FileTimes::new().set_accessed(long_ago))
            .unwrap();
    }
    store
}

#[test]
fn what_a_dry_run_says_is_what_goes() {
    let store = filled();
    assert!(text(&store.ok(["ls", "--unused-for", "30d"])).contains(" 40d "));
    let args = ["gc", "--max-age", "30d", "--max-size", "10GiB", "--json"];
    let planned = store.json(args.iter().chain(&["--dry-run"]));
    assert_eq!(planned["removed"], 2, "{planned}");
    assert!(store.run(["contains", "old"]).status.success());
    let done = store.json(args);
    assert_eq!(done["removed_entries"], planned["removed_entries"]);
    assert_eq!(done["freed_bytes"].as_u64().unwrap(), 2 << 20);
    assert_eq!(status(store.run(["contains", "old"]).status), 1);
    assert!(store.run(["contains", "new"]).status.success());
    let not_due = store.json(["gc", "--max-entries", "1", "--if-due", "1h", "--json"]);
    assert_eq!(not_due, serde_json::json!({ "due": false }));
    let told = text(&store.ok(["gc", "--max-entries", "0"]));
    assert!(
        told.contains("kept 1: 1 just used") && told.contains("removed 0 of 1 entry"),
        "{told}"
    );
    let told = text(&store.ok(["gc", "--max-size", "0", "--min-idle", "0s"]));
    assert!(told.contains("over the size, 1.0MiB"), "{told}");
}

/// It said nothing of a limit that did not hold, and named everything that had just been used.
#[test]
fn a_limit_that_does_not_hold_is_told() {
    let store = filled();
    for key in ["pinned", "also pinned"] {
        store.feed(&["set", key], b"v");
        store.ok(["pin", key]);
    }
    let gc = ["gc", "--max-entries", "1", "--max-size", "10GiB"];
    let told = text(&store.ok(gc));
    assert!(told.contains("kept 3: 1 just used, 2 pinned\n"), "{told}");
    assert!(
        told.ends_with("not within the limits: 2 entries too many\n"),
        "{told}"
    );
    let verbose = text(&store.ok(gc.iter().chain(&["-v"])));
    assert_eq!(verbose.matches(": pinned\n").count(), 2, "{verbose}");
    let report = store.json(gc.iter().chain(&["--json"]));
    assert_eq!(report["due"], true);
    assert_eq!(report["within_limits"], false);
    assert_eq!(report["exceeded"][0]["by"], 2, "{report}");
    let within = store.json(["gc", "--max-entries", "9", "--json"]);
    assert_eq!(within["within_limits"], true, "{within}");
}

/// Of two values of nearly the whole limit, none was left, nor of ten under a limit of one.
#[test]
fn what_fits_under_a_limit_stays() {
    let store = Store::new();
    for n in 0..10 {
        store.feed(&["set", &n.to_string()], &vec![b'v'; 900 << 10]);
    }
    let gc = |more: &[&str]| {
        let report = store.json([&["gc", "--min-idle", "0", "--json"], more].concat());
        report["examined"].as_u64().unwrap() - report["removed"].as_u64().unwrap()
    };
    assert_eq!(gc(&["--max-size", "5MiB", "--stop-at-percent", "50"]), 3);
    assert_eq!(gc(&["--max-size", "1000KiB", "--dry-run"]), 1);
    assert_eq!(gc(&["--max-entries", "1"]), 1);
}

/// What of it a user may not remove is passed over, but not all of it in silence.
#[test]
fn who_may_remove_nothing_is_told() {
    let Some(nobody) = Nobody::new("who_may_remove_nothing_is_told") else {
        return;
    };
    let store = &nobody.store;
    for key in ["key", "hidden"] {
        store.feed(&["set", key], b"v");
    }
    let hidden = text(&store.ok(["rm", "--dry-run", "hidden"]));
    let shard = std::path::Path::new(hidden.trim_end()).parent().unwrap();
    set_mode(shard, 0o700);
    let free = nobody.run(["gc", "--min-free", "0"]);
    assert_eq!(status(free.status), 0, "{free:?}");
    // The limits were said to hold, whatever there was in what could not be read.
    let within = nobody.run(["gc", "--max-entries", "9", "--json"]);
    assert_eq!(status(within.status), 3, "{within:?}");
    assert!(text(&within.stderr).contains("could not be read"));
    let report: serde_json::Value = serde_json::from_slice(&within.stdout).unwrap();
    assert_eq!(report["within_limits"], serde_json::Value::Null);
    assert_eq!(report["unreadable"], 1, "{report}");
    for args in [
        &["gc", "--max-entries", "0", "--min-idle", "0"][..],
        &["clear"],
    ] {
        let output = nobody.run(args);
        assert_eq!(status(output.status), 3, "{output:?}");
        assert!(
            text(&output.stderr).contains("may be removed"),
            "{output:?}"
        );
    }
}

#[test]
fn a_dry_run_of_clearing_and_sweeping_takes_nothing() {
    let store = filled();
    store.ok(["pin", "new"]);
    let left = store.base().join("tmp/f-0123456789");
    std::fs::write(&left, "half a value").unwrap();
    let would = store.json(["clear", "--dry-run", "--json"]);
    assert_eq!(would["removed"], 2, "{would}");
    let would = text(&store.ok(["sweep", "--dry-run"]));
    let really = text(&store.ok(["sweep"]));
    assert_eq!(would.replace("would sweep", "swept"), really);
    let cleared = store.json(["clear", "--json"]);
    assert_eq!(cleared["removed"], 2, "{cleared}");
}

#[test]
fn what_is_pinned_stays() {
    let store = filled();
    store.ok(["pin", "old"]);
    store.ok(["pin", "to come"]);
    assert_eq!(store.json(["pins", "--json"]).as_array().unwrap().len(), 2);
    let path = store.ok(["rm", "--dry-run", "old"]);
    assert!(text(&store.ok(["pins"])).contains(&text(&path)));
    let listed = store.json(["ls", "--json"]);
    let pinned = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["pinned"] == true);
    assert_eq!(pinned.count(), 1);
    assert!(text(&store.ok(["ls"])).contains("  pinned  "));
    let told = text(&store.ok(["gc", "--max-age", "30d"]));
    assert!(
        told.contains("kept 1: 1 pinned\n") && told.contains("removed 1 of 3"),
        "{told}"
    );
    store.ok(["clear"]);
    assert!(store.run(["contains", "old"]).status.success());
    store.ok(["unpin", "old"]);
    let again = store.run(["unpin", "old"]);
    assert_eq!(status(again.status), 1);
    assert_eq!(text(&again.stderr), "larder: old is not pinned\n");
    store.ok(["clear"]);
    assert_eq!(status(store.run(["contains", "old"]).status), 1);
}

#[test]
fn a_collection_needs_a_limit_and_a_store() {
    let store = filled();
    for bad in [
        &["gc"][..],
        &["gc", "--dry-run"],
        &["gc", "--max-size", "10 parsecs"],
        &["gc", "--max-size", "-10GiB"],
        &["gc", "--max-age", "30"],
        &["gc", "--max-age", "-30d"],
        &["gc", "--max-entries", "-1"],
    ] {
        let output = store.run(bad);
        assert_eq!(status(output.status), 2, "{bad:?}: {output:?}");
    }
    let nothing = Store::new();
    for args in [
        &["gc", "--max-age", "1d"][..],
        &["pins"],
        &["pin", "key"],
        &["unpin", "key"],
    ] {
        assert_eq!(status(nothing.run(args).status), 3);
        assert!(!nothing.base().exists());
    }
}
