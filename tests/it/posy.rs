//! A directory that posy's kvstore wrote opens as it is.
//!
//! The paths here are written out, so that a mistake in how the crate makes them cannot hide.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use larder::{ArtifactHash, ErrorKind, KVDirStore, KVFileStore, Outcome, PathKey};

use crate::support::{empty_store, listing, tempdir};

const HELLO: &str = "L/P/J/Nul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

const ARTIFACT: &str = "sha256=326086a5d542fbb3f783c4d9182b3188caecd714d02d6c10cbdea982e2bfc409";
const ARTIFACT_PATH: &str = "sha256/M/m/C/GpdVC-7P3g8TZGCsxiMrs1xTQLWwQy96pguK_xAk";

fn put(base: &Path, path: &str, bytes: &[u8], mode: u32) {
    let path = base.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

/// What posy leaves: values as its temporary files are, a lock file beside each that stays.
fn posys_files(base: &Path) {
    std::fs::create_dir(base.join("tmp")).unwrap();
    for (path, bytes) in [
        (HELLO, &b"hello's value"[..]),
        (ARTIFACT_PATH, b"an artifact"),
    ] {
        put(base, path, bytes, 0o600);
        put(base, &format!("{path}.lock"), b"", 0o644);
    }
}

fn posys_trees(base: &Path) {
    std::fs::create_dir(base.join("tmp")).unwrap();
    for path in [HELLO, ARTIFACT_PATH] {
        put(base, &format!("{path}/bin/python"), b"#!", 0o755);
        put(base, &format!("{path}/RECORD"), b"bin/python", 0o644);
        put(base, &format!("{path}.lock"), b"", 0o644);
    }
}

#[test]
fn keys_are_where_posy_puts_them() {
    let long = "a".repeat(1000);
    let hashed: [(&[u8], &str); 6] = [
        (b"hello", HELLO),
        (b"", "4/7/D/EQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"),
        (b"larder", "w/g/-/7d5T05PixFDkatbip8Ss45pN_HeO7CsTg2OIkvXE"),
        (
            b"\x00\xff\x00",
            "L/I/0/HzZhvWOshC9gAEz1mRcc0DFmGU3fI6kMc68oLMRM",
        ),
        (
            b"https://files.pythonhosted.org/packages/simple/",
            "b/5/G/Da1aCkCTC-wKQ0VvitnM1F7mbZx5J6bv5GyXryF0",
        ),
        (
            long.as_bytes(),
            "Q/e/3/s5C1j6Nm_UVqbppMuHCDLyfWl0TRkWttdsblzfqM",
        ),
    ];
    for (key, path) in hashed {
        assert_eq!(key.key(), Path::new(path));
        assert_eq!(key.to_vec().key(), Path::new(path));
        if let Ok(text) = std::str::from_utf8(key) {
            assert_eq!(text.key(), Path::new(path));
            assert_eq!(text.to_owned().key(), Path::new(path));
        }
    }
    for (hash, path) in [
        (ARTIFACT, ARTIFACT_PATH),
        (
            "sha512=05de0cf40992f7b1dc648f2f017dd8ff0715d1a288daa03d2dd1644f2074749a\
             c67b4f49db92ea52ea14e4e394f468fad0e05cd8a71a85ab441bffeeb7971ff7",
            "sha512/B/d/4/M9AmS97HcZI8vAX3Y_wcV0aKI2qA9LdFkTyB0dJrGe09J25LqUuoU5OOU9Gj60OBc2Kcah\
             atEG__ut5cf9w",
        ),
        (
            "md5=edb2500f76d57ce002555df3c65e35aa",
            "md5/7/b/J/QD3bVfOACVV3zxl41qg",
        ),
    ] {
        let hash: ArtifactHash = hash.parse().unwrap();
        assert_eq!(hash.key(), Path::new(path));
    }
}

#[test]
fn posys_files_are_hits() {
    let dir = tempdir();
    posys_files(dir.path());
    let store = KVFileStore::new(dir.path()).unwrap();
    let artifact: ArtifactHash = ARTIFACT.parse().unwrap();
    assert_eq!(store.read("hello").unwrap().unwrap(), b"hello's value");
    assert_eq!(store.read(&artifact).unwrap().unwrap(), b"an artifact");
    let hit = store.get_or_set("hello", |_| anyhow::bail!("it is there"));
    assert_eq!(hit.unwrap().outcome(), Outcome::Hit);
    let mut paths: Vec<_> = store.entries().map(|entry| entry.unwrap().key()).collect();
    paths.sort();
    assert_eq!(paths, [Path::new(HELLO), Path::new(ARTIFACT_PATH)]);

    // What is new goes where posy would look for it.
    for (key, path) in [
        ("", "4/7/D/EQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"),
        ("larder", "w/g/-/7d5T05PixFDkatbip8Ss45pN_HeO7CsTg2OIkvXE"),
    ] {
        drop(store.get_or_set(key, |w| Ok(w.write_all(key.as_bytes())?)));
        assert_eq!(
            std::fs::read(dir.path().join(path)).unwrap(),
            key.as_bytes()
        );
    }

    // Its lock files are in nobody's way, and a sweep takes them.
    store.set("hello", |w| Ok(w.write_all(b"new")?)).unwrap();
    assert_eq!(std::fs::read(dir.path().join(HELLO)).unwrap(), b"new");
    assert!(store.try_lock(&artifact).unwrap().is_some());
    std::fs::write(dir.path().join(format!("{ARTIFACT_PATH}.lock")), "").unwrap();
    assert_eq!(store.sweep().unwrap().swept, 1);
    let locks = |name: &String| name.ends_with(".lock") && name != "gc.lock";
    assert!(!listing(dir.path()).iter().any(locks));
    assert_eq!(store.read(&artifact).unwrap().unwrap(), b"an artifact");

    for key in ["hello", "", "larder"] {
        assert!(store.remove(key).unwrap());
    }
    assert!(store.remove(&artifact).unwrap());
    assert_eq!(listing(dir.path()), empty_store());
}

#[test]
fn a_sweep_takes_all_of_posys_locks_and_none_of_its_values() {
    let dir = tempdir();
    posys_files(dir.path());
    let before = listing(dir.path());
    let store = KVFileStore::new(dir.path()).unwrap();
    let report = store.sweep().unwrap();
    assert_eq!((report.swept, report.removed), (2, 0));
    assert!(report.kept.is_empty(), "{:?}", report.kept);
    let mut expected = before;
    expected.retain(|name| !name.ends_with(".lock"));
    expected.extend(empty_store());
    assert_eq!(listing(dir.path()), expected);
}

#[test]
fn posys_trees_are_leased_replaced_and_removed() {
    let dir = tempdir();
    posys_trees(dir.path());
    let store = KVDirStore::new(dir.path()).unwrap();
    let artifact: ArtifactHash = ARTIFACT.parse().unwrap();
    let mut entries: Vec<_> = store.entries().map(Result::unwrap).collect();
    entries.sort_by_key(PathKey::key);
    let paths: Vec<_> = entries.iter().map(PathKey::key).collect();
    assert_eq!(paths, [Path::new(HELLO), Path::new(ARTIFACT_PATH)]);
    // Nothing is known of them but that they are there.
    assert_eq!((entries[0].len(), entries[0].last_used()), (None, None));

    assert!(store.contains("hello").unwrap());
    let lease = store.get("hello").unwrap().unwrap();
    assert!(lease.is_protected());
    assert_eq!(*lease, dir.path().join(HELLO));
    assert_eq!(std::fs::read(lease.join("bin/python")).unwrap(), b"#!");
    assert_eq!(store.remove("hello").unwrap_err().kind(), ErrorKind::InUse);
    let report = store.sweep().unwrap();
    assert_eq!((report.swept, report.kept.len()), (0, 0));
    drop(lease);
    let hit = store.get_or_set(&artifact, |_| anyhow::bail!("it is there"));
    assert_eq!(hit.unwrap().outcome(), Outcome::Hit);

    let lease = store.replace("hello", |tree| {
        Ok(std::fs::write(tree.join("new"), "tree")?)
    });
    assert_eq!(std::fs::read(lease.unwrap().join("new")).unwrap(), b"tree");
    assert!(!dir.path().join(HELLO).join("RECORD").exists());
    assert!(store.remove("hello").unwrap());
    assert!(store.remove(&artifact).unwrap());
    assert_eq!(listing(dir.path()), empty_store());
}

#[test]
fn posys_directory_with_something_else_in_it_is_left_alone() {
    let dir = tempdir();
    posys_files(dir.path());
    put(dir.path(), "README", b"mine", 0o644);
    let before = listing(dir.path());
    let err = KVFileStore::new(dir.path()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FormatMismatch);
    assert_eq!(listing(dir.path()), before);
    let options = larder::StoreOptions::new().adopt(true);
    let store = options.open_file_store(dir.path()).unwrap();
    assert_eq!(store.read("hello").unwrap().unwrap(), b"hello's value");
}
