//! Bad input gets an error that says so, and nothing else happens.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use larder::{
    ArtifactHash, CancelToken, Error, ErrorKind, KVDirStore, KVFileStore, KeptReason, Outcome,
    PathKey, Share, StoreOptions, ValueWriter, Wait,
};

use crate::support::{empty_store, in_time, listing, snapshot, tempdir};

/// A key that says where its value goes.
#[derive(Clone, Debug)]
struct At(PathBuf);

impl PathKey for At {
    fn key(&self) -> PathBuf {
        self.0.clone()
    }
}

fn at(path: impl AsRef<OsStr>) -> At {
    At(PathBuf::from(path.as_ref()))
}

fn never(_: &mut ValueWriter) -> anyhow::Result<()> {
    panic!("the closure ran")
}

fn never_tree(_: &Path) -> anyhow::Result<()> {
    panic!("the closure ran")
}

fn text(w: &mut ValueWriter) -> anyhow::Result<()> {
    Ok(w.write_all(b"text")?)
}

fn text_tree(tree: &Path) -> anyhow::Result<()> {
    Ok(std::fs::write(tree.join("text"), "text")?)
}

type FileCall = (&'static str, fn(&KVFileStore, &At) -> larder::Result<()>);
type DirCall = (&'static str, fn(&KVDirStore, &At) -> larder::Result<()>);

/// Every call of a store of files that takes a key.
const FILE_CALLS: [FileCall; 12] = [
    ("get", |s, k| s.get(k).map(drop)),
    ("read", |s, k| s.read(k).map(drop)),
    ("read_into", |s, k| s.read_into(k, &mut vec![1]).map(drop)),
    ("contains", |s, k| s.contains(k).map(drop)),
    ("get_or_set", |s, k| s.get_or_set(k, never).map(drop)),
    ("set", |s, k| s.set(k, never).map(drop)),
    ("lock", |s, k| s.lock(k).map(drop)),
    ("try_lock", |s, k| s.try_lock(k).map(drop)),
    ("lock_if_exists", |s, k| s.lock_if_exists(k).map(drop)),
    ("remove", |s, k| s.remove(k).map(drop)),
    ("touch", |s, k| s.touch(k).map(drop)),
    ("batch.set", |s, k| s.batch().set(k, never)),
];

/// Every call of a store of directories that takes a key.
const DIR_CALLS: [DirCall; 9] = [
    ("get", |s, k| s.get(k).map(drop)),
    ("contains", |s, k| s.contains(k).map(drop)),
    ("get_or_set", |s, k| s.get_or_set(k, never_tree).map(drop)),
    ("replace", |s, k| s.replace(k, never_tree).map(drop)),
    ("lock", |s, k| s.lock(k).map(drop)),
    ("try_lock", |s, k| s.try_lock(k).map(drop)),
    ("lock_if_exists", |s, k| s.lock_if_exists(k).map(drop)),
    ("remove", |s, k| s.remove(k).map(drop)),
    ("touch", |s, k| s.touch(k).map(drop)),
];

/// Has every call on this key fail with this kind, at once, and touch nothing. Returns what they
/// said.
fn every_call_fails(
    files: &KVFileStore,
    dirs: &KVDirStore,
    key: &At,
    kind: ErrorKind,
) -> Vec<String> {
    let mut said = every_file_call_fails(files, key, kind);
    said.extend(every_dir_call_fails(dirs, key, kind));
    said
}

fn every_file_call_fails(store: &KVFileStore, key: &At, kind: ErrorKind) -> Vec<String> {
    let call = |&(name, call): &FileCall| {
        let before = snapshot(store.base());
        let (in_thread, with) = (store.clone(), key.clone());
        let what = format!("files.{name}({key:?})");
        let err = in_time(&what, move || call(&in_thread, &with)).expect_err(&what);
        assert_eq!(err.kind(), kind, "{what}: {err}");
        assert_eq!(snapshot(store.base()), before, "{what} touched something");
        err.to_string()
    };
    FILE_CALLS.iter().map(call).collect()
}

fn every_dir_call_fails(store: &KVDirStore, key: &At, kind: ErrorKind) -> Vec<String> {
    let call = |&(name, call): &DirCall| {
        let before = snapshot(store.base());
        let (in_thread, with) = (store.clone(), key.clone());
        let what = format!("dirs.{name}({key:?})");
        let err = in_time(&what, move || call(&in_thread, &with)).expect_err(&what);
        assert_eq!(err.kind(), kind, "{what}: {err}");
        assert_eq!(snapshot(store.base()), before, "{what} touched something");
        err.to_string()
    };
    DIR_CALLS.iter().map(call).collect()
}

fn stores(dir: &Path) -> (KVFileStore, KVDirStore) {
    let files = KVFileStore::new(dir.join("files")).unwrap();
    let dirs = KVDirStore::new(dir.join("dirs")).unwrap();
    (files, dirs)
}

fn refuses_keys(keys: &[&[u8]]) {
    refuses_keys_because(keys, "");
}

fn refuses_keys_because(keys: &[&[u8]], why: &str) {
    let dir = tempdir();
    let (files, dirs) = stores(dir.path());
    for key in keys {
        let key = at(OsStr::from_bytes(key));
        for sentence in every_call_fails(&files, &dirs, &key, ErrorKind::InvalidKey) {
            let said = sentence.split_once(" cannot be used: ");
            assert!(said.is_some_and(|said| said.1.contains(why)), "{sentence}");
        }
    }
    assert_eq!(listing(files.base()), empty_store());
    assert_eq!(listing(dirs.base()), empty_store());
}

#[test]
fn an_absolute_key_is_refused() {
    let outside = tempdir();
    let path = outside.path().join("value");
    let keys: [&[u8]; 4] = [b"/", b"/etc/passwd", b"//x", path.as_os_str().as_bytes()];
    refuses_keys_because(&keys, "it is absolute");
    assert_eq!(listing(outside.path()), BTreeSet::new());
}

#[test]
fn a_key_with_two_dots_is_refused() {
    refuses_keys(&[b"..", b"../x", b"a/../../x", b"a/..", b"a/../b"]);
}

#[test]
fn a_key_with_one_dot_is_refused() {
    refuses_keys(&[b".", b"./x", b"a/./b", b"a/."]);
}

#[test]
fn an_empty_key_path_is_refused() {
    refuses_keys(&[b""]);
}

#[test]
fn a_key_with_a_doubled_or_trailing_slash_is_refused() {
    refuses_keys(&[b"a//b", b"a/", b"a/b//"]);
}

#[test]
fn a_key_with_a_nul_is_refused() {
    refuses_keys(&[b"\0", b"a\0b", b"a/b\0", b"a\0/b"]);
}

#[test]
fn a_key_that_begins_with_a_reserved_name_is_refused() {
    for reserved in [
        "tmp",
        "gc.lock",
        "CACHEDIR.TAG",
        "larder-store",
        "larder-x",
        "larder-",
    ] {
        refuses_keys(&[
            reserved.as_bytes(),
            format!("{reserved}/x").as_bytes(),
            format!("{reserved}/A/B/C").as_bytes(),
        ]);
    }
}

/// The lock file of a key `gc` would be `gc.lock`, which is the store's own: releasing the key
/// deleted it, and in a store of directories it made an entry of everything below `gc/`.
#[test]
fn a_key_whose_lock_would_be_the_stores_own_is_refused() {
    refuses_keys(&[b"gc", b"gc/x"]);
    assert!(ArtifactHash::new("gc", [0; 8]).is_err());
}

#[test]
fn reserved_names_are_free_further_down() {
    let dir = tempdir();
    let (files, dirs) = stores(dir.path());
    for name in ["tmp", "gc", "CACHEDIR.TAG", "larder-x"] {
        let key = at(format!("a/{name}"));
        files.set(&key, text).unwrap();
        assert_eq!(files.read(&key).unwrap().unwrap(), b"text");
        assert!(files.remove(&key).unwrap());
        drop(dirs.get_or_set(&key, text_tree).unwrap());
        assert!(dirs.remove(&key).unwrap());
    }
    for name in ["tmpx", "gcx", "larder", "Tmp"] {
        files.set(&at(name), text).unwrap();
        drop(dirs.get_or_set(&at(name), text_tree).unwrap());
    }
    assert_eq!(files.clear().unwrap().removed, 4);
    assert_eq!(dirs.clear().unwrap().removed, 4);
    assert_eq!(listing(files.base()), empty_store());
    assert_eq!(listing(dirs.base()), empty_store());
}

#[test]
fn a_component_that_ends_like_a_lock_or_a_sidecar_is_refused() {
    refuses_keys(&[
        b".lock",
        b"x.lock",
        b"a/x.lock",
        b"x.lock/a",
        b".larder",
        b"x.larder",
        b"a/x.larder/b",
    ]);
}

#[test]
fn a_component_of_241_bytes_is_refused_and_one_of_240_works() {
    refuses_keys(&[&[b'x'; 241], format!("a/{}/b", "x".repeat(241)).as_bytes()]);
    let dir = tempdir();
    let (files, dirs) = stores(dir.path());
    for key in [at("x".repeat(240)), at(format!("a/{}", "ä".repeat(120)))] {
        files.set(&key, text).unwrap();
        assert_eq!(files.read(&key).unwrap().unwrap(), b"text");
        assert!(files.lock(&key).unwrap().remove().unwrap());
        let lease = dirs.get_or_set(&key, text_tree).unwrap();
        assert!(lease.join("text").exists() && lease.is_protected());
        drop(lease);
        assert!(dirs.remove(&key).unwrap());
    }
    assert_eq!(listing(files.base()), empty_store());
    assert_eq!(listing(dirs.base()), empty_store());
}

#[test]
fn a_key_path_of_2049_bytes_is_refused_and_one_of_2048_works() {
    let long = "x".repeat(127) + "/";
    let longest = long.repeat(16);
    let longest = longest.trim_end_matches('/').to_owned() + "y";
    assert_eq!(longest.len(), 2048);
    refuses_keys(&[
        (longest.clone() + "z").as_bytes(),
        long.repeat(1000).as_bytes(),
    ]);
    let dir = tempdir();
    let (files, dirs) = stores(dir.path());
    files.set(&at(&longest), text).unwrap();
    drop(dirs.get_or_set(&at(&longest), text_tree).unwrap());
    assert!(files.remove(&at(&longest)).unwrap());
    assert!(dirs.remove(&at(&longest)).unwrap());
    assert_eq!(listing(files.base()), empty_store());
    assert_eq!(listing(dirs.base()), empty_store());
}

// --- base directories ---

/// Opens `base` as either kind with these options; both must be refused with this kind, at once,
/// and touch nothing below `around`.
fn refuses_base(around: &Path, base: &Path, options: &StoreOptions, kind: ErrorKind) -> Error {
    let before = snapshot(around);
    let (options, base) = (options.clone(), base.to_path_buf());
    let (files, dirs) = in_time("opening the store", move || {
        (
            options.open_file_store(&base).unwrap_err(),
            options.open_dir_store(&base).unwrap_err(),
        )
    });
    assert_eq!(files.kind(), kind, "{files}");
    assert_eq!(dirs.kind(), kind, "{dirs}");
    assert_eq!(snapshot(around), before, "something was touched");
    files
}

fn refuses(base: &Path) -> Error {
    refuses_base(base, base, &StoreOptions::new(), ErrorKind::FormatMismatch)
}

fn refuses_even_to_adopt(base: &Path) {
    refuses(base);
    for options in [
        StoreOptions::new().adopt(true),
        StoreOptions::new().adopt(true).read_only(true),
        StoreOptions::new().adopt(true).shared(Share::Group),
    ] {
        refuses_base(base, base, &options, ErrorKind::FormatMismatch);
    }
}

#[test]
fn a_base_that_is_a_file_is_refused() {
    let dir = tempdir();
    let base = dir.path().join("file");
    std::fs::write(&base, "mine").unwrap();
    for options in [StoreOptions::new(), StoreOptions::new().adopt(true)] {
        let err = refuses_base(dir.path(), &base, &options, ErrorKind::FormatMismatch);
        assert!(err.to_string().contains("not a directory"), "{err}");
    }
    // And one below a file.
    let below = base.join("store");
    refuses_base(dir.path(), &below, &StoreOptions::new(), ErrorKind::Io);
    assert_eq!(std::fs::read(&base).unwrap(), b"mine");
}

#[test]
fn a_home_directory_is_refused_and_not_touched() {
    let dir = tempdir();
    let home = dir.path();
    for path in [".ssh", "tmp/work", "Documents", "a", "sha256"] {
        std::fs::create_dir_all(home.join(path)).unwrap();
    }
    for path in [
        ".profile",
        ".ssh/id",
        "tmp/f-draft",
        "tmp/work/x",
        "notes.txt",
    ] {
        std::fs::write(home.join(path), path).unwrap();
    }
    let err = refuses(home);
    assert!(err.to_string().contains("adopt(true)"), "{err}");
    let read_only = StoreOptions::new().read_only(true);
    refuses_base(home, home, &read_only, ErrorKind::FormatMismatch);
}

/// Such a directory may be a store that was never written to, so it is adopted; but what is in
/// `tmp/` and is not of a store's making stays, whatever it is called.
#[test]
fn what_is_in_the_tmp_of_an_adopted_directory_stays() {
    let foreign = [
        "tmp/letter",
        "tmp/f-draft",
        "tmp/f-0123456789.txt",
        "tmp/m-12345",
        "tmp/l-ate",
        "tmp/dead-letters/one",
        "tmp/t-shirts/blue",
        "tmp/t-shirts.lock",
        "tmp/b-sides/two",
    ];
    let dir = tempdir();
    let base = dir.path();
    for path in foreign {
        std::fs::create_dir_all(base.join(path).parent().unwrap()).unwrap();
        std::fs::write(base.join(path), path).unwrap();
    }
    std::fs::create_dir(base.join("tmp/d-empty")).unwrap();
    let store = KVFileStore::new(base).unwrap();
    store.set("key", text).unwrap();
    let report = store.sweep().unwrap();
    let report_again = store.clear().unwrap();
    for path in foreign {
        assert_eq!(std::fs::read(base.join(path)).unwrap(), path.as_bytes());
    }
    assert!(base.join("tmp/d-empty").exists());
    for report in [report, report_again] {
        assert_eq!(report.swept, 0);
        assert_eq!(report.kept.len(), foreign.len() + 1, "{:?}", report.kept);
        assert!(report.kept.iter().all(|k| k.reason == KeptReason::Foreign));
    }
}

#[test]
fn a_directory_of_posys_shape_is_adopted() {
    let dir = tempdir();
    let base = dir.path().join("cache");
    for path in ["A/B/C", "-/_/0", "_", "9", "sha256/A", "sha512", "tmp"] {
        std::fs::create_dir_all(base.join(path)).unwrap();
    }
    std::fs::write(base.join("A/B/C/rest"), "posy's").unwrap();
    let store = KVFileStore::new(&base).unwrap();
    assert_eq!(store.read(&at("A/B/C/rest")).unwrap().unwrap(), b"posy's");
    assert!(base.join("larder-store").exists());
}

#[test]
fn an_empty_or_half_empty_store_of_posys_is_adopted() {
    for paths in [
        &["A/B/C", "tmp"][..],
        &["A/B", "_/-"],
        &["sha256/A/B/C"],
        &["sha256/A/B", "sha512", "Z"],
        &["tmp"],
    ] {
        let dir = tempdir();
        for path in paths {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let before = listing(dir.path());
        let store = StoreOptions::new().create(false).open_dir_store(dir.path());
        let store = store.unwrap();
        assert!(listing(dir.path()).is_superset(&before));
        drop(store.get_or_set("key", text_tree).unwrap());
        assert!(store.contains("key").unwrap());
    }
    let dir = tempdir();
    std::fs::create_dir_all(dir.path().join("sha256/A/B/C")).unwrap();
    std::fs::write(dir.path().join("sha256/A/B/C/rest"), "posy's").unwrap();
    let store = KVFileStore::new(dir.path()).unwrap();
    let value = store.read(&at("sha256/A/B/C/rest")).unwrap();
    assert_eq!(value.unwrap(), b"posy's");
}

/// A directory for each letter is what people make too.
#[test]
fn a_library_sorted_by_letters_is_refused_and_not_touched() {
    for files in [
        &["A/ABBA/Waterloo.mp3", "B/Beatles/x.mp3"][..],
        &["A/B/C.mp3"],
        &["A/x.mp3"],
        &["A/B/Cc/x"],
        &["sha256/SUMS"],
        &["sha256/A/B/Cc"],
        &["A/B/C/fine", "A/B/D/fine", "A/strange/x"],
    ] {
        let dir = tempdir();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "music").unwrap();
        }
        let err = refuses(dir.path());
        assert!(err.to_string().contains("adopt(true)"), "{err}");
        refuses_base(
            dir.path(),
            dir.path(),
            &StoreOptions::new().read_only(true),
            ErrorKind::FormatMismatch,
        );
    }
}

#[test]
fn a_directory_of_almost_posys_shape_is_refused_unless_the_caller_insists() {
    for (name, is_dir) in [
        ("A", false),
        ("tmp", false),
        ("AB", true),
        ("+", true),
        ("ä", true),
        (".hidden", true),
        ("sha257", true),
        ("A.lock", false),
        ("sha256", false),
    ] {
        let dir = tempdir();
        let path = dir.path().join(name);
        if is_dir {
            std::fs::create_dir(&path).unwrap();
        } else {
            std::fs::write(&path, "mine").unwrap();
        }
        let err = refuses(dir.path());
        assert!(err.to_string().contains(name), "{name}: {err}");
        if name == "tmp" {
            continue; // nothing can be staged there
        }
        let store = StoreOptions::new().adopt(true).open_file_store(dir.path());
        let store = store.unwrap();
        store.set("key", text).unwrap();
        assert!(path.exists());
        assert!(
            KVFileStore::new(dir.path())
                .unwrap()
                .contains("key")
                .unwrap()
        );
    }
}

#[test]
fn a_symbolic_link_with_a_shards_name_is_refused() {
    let dir = tempdir();
    let outside = tempdir();
    symlink(outside.path(), dir.path().join("A")).unwrap();
    refuses(dir.path());
    assert_eq!(listing(outside.path()), BTreeSet::new());
}

#[test]
fn a_cachedir_tag_without_a_marker_is_refused() {
    let dir = tempdir();
    std::fs::write(dir.path().join("CACHEDIR.TAG"), "Signature: …").unwrap();
    refuses_even_to_adopt(dir.path());
}

#[test]
fn a_name_of_the_stores_own_without_a_marker_is_refused() {
    for name in ["larder-pins", "larder-", "larder-store.old"] {
        let dir = tempdir();
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::create_dir(dir.path().join("A")).unwrap();
        refuses_even_to_adopt(dir.path());
    }
}

/// A directory with a valid marker, and the marker's path and text.
fn marked() -> (tempfile::TempDir, PathBuf, String) {
    let dir = tempdir();
    KVFileStore::new(dir.path()).unwrap();
    let marker = dir.path().join("larder-store");
    let text = std::fs::read_to_string(&marker).unwrap();
    (dir, marker, text)
}

#[test]
fn an_empty_marker_is_refused() {
    let (dir, marker, _) = marked();
    std::fs::write(&marker, "").unwrap();
    refuses_even_to_adopt(dir.path());
    let err = refuses(dir.path());
    assert!(err.to_string().contains("is empty"), "{err}");
}

#[test]
fn a_marker_that_was_cut_off_is_refused() {
    let (dir, marker, text) = marked();
    for len in [1, 5, text.len() / 2, text.len() - 5, text.len() - 2] {
        std::fs::write(&marker, &text[..len]).unwrap();
        refuses_even_to_adopt(dir.path());
    }
    std::fs::write(&marker, &text).unwrap();
    KVFileStore::new(dir.path()).unwrap();
}

#[test]
fn a_store_of_the_other_kind_is_refused() {
    let dir = tempdir();
    let (files, dirs) = stores(dir.path());
    let before = snapshot(dir.path());
    for options in [
        StoreOptions::new(),
        StoreOptions::new().adopt(true),
        StoreOptions::new().read_only(true),
    ] {
        let err = options.open_dir_store(files.base()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FormatMismatch);
        assert!(err.to_string().contains("a store of files, not"), "{err}");
        let err = options.open_file_store(dirs.base()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FormatMismatch);
        assert!(err.to_string().contains("store of directories"), "{err}");
    }
    assert_eq!(snapshot(dir.path()), before);
}

#[test]
fn a_store_with_an_unknown_incompatible_feature_is_refused() {
    let (dir, marker, text) = marked();
    std::fs::write(
        &marker,
        text.replace("\nincompatible=", "\nincompatible=zip"),
    )
    .unwrap();
    refuses_even_to_adopt(dir.path());
    let err = refuses(dir.path());
    assert!(err.to_string().contains("\"zip\""), "{err}");
}

#[test]
fn a_store_with_an_unknown_read_only_feature_can_only_be_read() {
    let (dir, marker, text) = marked();
    let store = KVFileStore::new(dir.path()).unwrap();
    store.set("key", |w| Ok(w.write_all(b"value")?)).unwrap();
    let with_feature = text.replace("read-only-compatible=", "read-only-compatible=index");
    std::fs::write(&marker, with_feature).unwrap();
    let before = snapshot(dir.path());
    let err = KVFileStore::new(dir.path()).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FormatMismatch);
    assert!(err.to_string().contains("\"index\""), "{err}");
    let options = StoreOptions::new().read_only(true);
    let store = options.open_file_store(dir.path()).unwrap();
    assert_eq!(store.read("key").unwrap().unwrap(), b"value");
    let err = store.set("key", never).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ReadOnly);
    assert_eq!(snapshot(dir.path()), before);
    // What may be ignored is.
    std::fs::write(&marker, text.replace("\ncompatible=", "\ncompatible=hints")).unwrap();
    KVFileStore::new(dir.path()).unwrap();
}

#[test]
fn a_marker_that_is_no_regular_file_is_refused_at_once() {
    let outside = tempdir();
    let real = outside.path().join("larder-store");
    std::fs::write(&real, marked().2).unwrap();
    type Make<'a> = &'a dyn Fn(&Path);
    let makes: [(&str, Make<'_>); 6] = [
        ("a directory", &|path| std::fs::create_dir(path).unwrap()),
        ("a FIFO", &fifo),
        ("a socket", &socket),
        ("a symbolic link", &|path| symlink(&real, path).unwrap()),
        ("a dangling link", &|path| symlink("nowhere", path).unwrap()),
        ("1 MiB long", &|path| {
            std::fs::write(path, vec![b'\n'; 1024 * 1024]).unwrap();
        }),
    ];
    for (what, make) in makes {
        let (dir, marker, _) = marked();
        std::fs::remove_file(&marker).unwrap();
        make(&marker);
        println!("a marker that is {what}");
        refuses_even_to_adopt(dir.path());
    }
}

#[test]
fn a_dangling_symbolic_link_as_base_is_refused_and_not_followed() {
    let dir = tempdir();
    let base = dir.path().join("store");
    symlink(dir.path().join("nowhere"), &base).unwrap();
    let err = refuses_base(dir.path(), &base, &StoreOptions::new(), ErrorKind::Io);
    assert_eq!(err.io_kind(), Some(std::io::ErrorKind::NotFound));
    // One that leads somewhere is as good as the directory.
    std::fs::create_dir(dir.path().join("nowhere")).unwrap();
    KVFileStore::new(&base).unwrap().set("key", text).unwrap();
}

#[test]
fn an_absent_base_is_not_created_if_it_is_not_to_be() {
    let dir = tempdir();
    let base = dir.path().join("cache/store");
    for options in [
        StoreOptions::new().create(false),
        StoreOptions::new().create(false).adopt(true),
        StoreOptions::new().read_only(true),
    ] {
        let err = refuses_base(dir.path(), &base, &options, ErrorKind::Io);
        assert_eq!(err.io_kind(), Some(std::io::ErrorKind::NotFound));
        assert_eq!(err.path(), Some(&*base));
    }
    assert_eq!(listing(dir.path()), BTreeSet::new());
}

#[test]
fn an_empty_base_becomes_no_store_if_none_is_to_be_created() {
    let dir = tempdir();
    for options in [
        StoreOptions::new().create(false),
        StoreOptions::new().create(false).adopt(true),
        StoreOptions::new().create(false).shared(Share::Group),
    ] {
        let err = refuses_base(dir.path(), dir.path(), &options, ErrorKind::Io);
        assert_eq!(err.io_kind(), Some(std::io::ErrorKind::NotFound));
        assert_eq!(err.path(), Some(dir.path()));
    }
    assert_eq!(listing(dir.path()), BTreeSet::new());
    KVFileStore::new(dir.path()).unwrap();
    let again = StoreOptions::new()
        .create(false)
        .open_file_store(dir.path());
    again.unwrap().set("key", text).unwrap();
}

// --- strange things at the paths of values and locks ---

fn fifo(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o666.into()).unwrap();
}

fn socket(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    File,
    Dir,
    DanglingLink,
    LinkToFile,
    LinkToDir,
    Fifo,
    Socket,
}

impl Thing {
    /// Puts one at `path`. `outside` is a directory with something in it that a link can lead to.
    fn make(self, path: &Path, outside: &Path) {
        match self {
            Thing::File => std::fs::write(path, "foreign").unwrap(),
            Thing::Dir => std::fs::create_dir(path).unwrap(),
            Thing::DanglingLink => symlink(outside.join("nowhere"), path).unwrap(),
            Thing::LinkToFile => symlink(outside.join("file"), path).unwrap(),
            Thing::LinkToDir => symlink(outside, path).unwrap(),
            Thing::Fifo => fifo(path),
            Thing::Socket => socket(path),
        }
    }

    fn is_at(self, path: &Path) -> bool {
        let Ok(meta) = path.symlink_metadata() else {
            return false;
        };
        match self {
            Thing::File => meta.is_file(),
            Thing::Dir => meta.is_dir(),
            Thing::DanglingLink | Thing::LinkToFile | Thing::LinkToDir => meta.is_symlink(),
            Thing::Fifo => meta.file_type().is_fifo(),
            Thing::Socket => meta.file_type().is_socket(),
        }
    }
}

const NO_VALUES: [Thing; 6] = [
    Thing::Dir,
    Thing::DanglingLink,
    Thing::LinkToFile,
    Thing::LinkToDir,
    Thing::Fifo,
    Thing::Socket,
];

const NO_TREES: [Thing; 6] = [
    Thing::File,
    Thing::DanglingLink,
    Thing::LinkToFile,
    Thing::LinkToDir,
    Thing::Fifo,
    Thing::Socket,
];

const NO_LOCKS: [Thing; 6] = NO_VALUES;

fn outside() -> tempfile::TempDir {
    let dir = tempdir();
    std::fs::write(dir.path().join("file"), "outside").unwrap();
    dir
}

#[test]
fn a_strange_thing_at_a_values_path_is_an_error_and_stays() {
    for thing in NO_VALUES {
        let (dir, outside) = (tempdir(), outside());
        let store = KVFileStore::new(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let path = dir.path().join("a/v");
        thing.make(&path, outside.path());
        let there = snapshot(outside.path());
        for sentence in every_file_call_fails(&store, &at("a/v"), ErrorKind::Corrupt) {
            assert!(sentence.contains(path.to_str().unwrap()), "{sentence}");
        }
        assert!(thing.is_at(&path), "{thing:?}");
        assert_eq!(snapshot(outside.path()), there, "{thing:?}");
        // The others are not disturbed, and whoever clears is told.
        store.set(&at("a/other"), text).unwrap();
        assert_eq!(store.entries().map(Result::unwrap).count(), 1);
        let report = store.clear().unwrap();
        assert_eq!(report.removed, 1, "{thing:?}");
        assert!(thing == Thing::Dir || report.kept[0].path == path);
    }
}

#[test]
fn a_strange_thing_that_comes_while_a_value_is_written_stays() {
    for thing in NO_VALUES {
        let (dir, outside) = (tempdir(), outside());
        let store = KVFileStore::new(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let path = dir.path().join("a/v");
        let come = |w: &mut ValueWriter| {
            thing.make(&path, outside.path());
            text(w)
        };
        let gone = || {
            assert!(thing.is_at(&path), "{thing:?}");
            match thing {
                Thing::Dir => std::fs::remove_dir(&path).unwrap(),
                _ => std::fs::remove_file(&path).unwrap(),
            }
        };
        let err = store.get_or_set(&at("a/v"), come).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{thing:?}: {err}");
        gone();
        let err = store.set(&at("a/v"), come).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{thing:?}: {err}");
        gone();
        let mut batch = store.batch();
        batch.set(&at("a/v"), come).unwrap();
        let err = batch.commit().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{thing:?}: {err}");
        gone();
        let lock = store.lock(&at("a/v")).unwrap();
        thing.make(&path, outside.path());
        assert_eq!(lock.reader().unwrap_err().kind(), ErrorKind::Corrupt);
        let mut write = lock.begin().unwrap();
        write.write_all(b"text").unwrap();
        assert_eq!(write.commit().unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(thing.is_at(&path), "{thing:?}");
        let err = lock.remove().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{thing:?}: {err}");
        gone();
        std::fs::remove_dir(dir.path().join("a")).unwrap();
        assert_eq!(listing(dir.path()), empty_store());
        assert_eq!(
            std::fs::read(outside.path().join("file")).unwrap(),
            b"outside"
        );
    }
}

#[test]
fn a_strange_thing_at_a_trees_path_is_an_error_and_stays() {
    for thing in NO_TREES {
        for beside in ["", ".lock", ".larder"] {
            let (dir, outside) = (tempdir(), outside());
            let store = KVDirStore::new(dir.path()).unwrap();
            std::fs::create_dir(dir.path().join("a")).unwrap();
            let path = dir.path().join("a/v");
            thing.make(&path, outside.path());
            if !beside.is_empty() {
                std::fs::write(dir.path().join(format!("a/v{beside}")), "").unwrap();
            }
            let there = snapshot(outside.path());
            for sentence in every_dir_call_fails(&store, &at("a/v"), ErrorKind::Corrupt) {
                assert!(sentence.contains(path.to_str().unwrap()), "{sentence}");
                assert!(!sentence.contains("directory that is no"), "{sentence}");
            }
            drop(store.get_or_set(&at("a/other"), text_tree).unwrap());
            assert_eq!(store.entries().map(Result::unwrap).count(), 1);
            let report = store.clear().unwrap();
            assert_eq!(report.removed, 1, "{thing:?}");
            assert_eq!(report.kept[0].path, path, "{thing:?}{beside}");
            assert_eq!(report.kept[0].reason, KeptReason::Foreign);
            assert!(thing.is_at(&path), "{thing:?}{beside}");
            assert_eq!(snapshot(outside.path()), there, "{thing:?}");
        }
    }
}

#[test]
fn a_strange_thing_that_comes_while_a_tree_is_made_stays() {
    for thing in NO_TREES {
        let (dir, outside) = (tempdir(), outside());
        let store = KVDirStore::new(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let path = dir.path().join("a/v");
        let come = |_: &Path| {
            thing.make(&path, outside.path());
            Ok(())
        };
        let gone = || {
            assert!(thing.is_at(&path), "{thing:?}");
            std::fs::remove_file(&path).unwrap();
            for beside in ["a/v.larder", "a/v.lock"] {
                assert!(!dir.path().join(beside).exists(), "{thing:?} {beside}");
            }
        };
        let err = store.get_or_set(&at("a/v"), come).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{thing:?}: {err}");
        gone();
        let err = store.replace(&at("a/v"), come).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{thing:?}: {err}");
        gone();
        let lock = store.lock(&at("a/v")).unwrap();
        thing.make(&path, outside.path());
        assert!(!lock.exists());
        assert_eq!(lock.try_exists().unwrap_err().kind(), ErrorKind::Corrupt);
        let err = lock.remove().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{thing:?}: {err}");
        gone();
        let lock = store.lock(&at("a/v")).unwrap();
        let tree = lock.tempdir().unwrap();
        thing.make(&path, outside.path());
        let err = lock.publish(tree).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Corrupt, "{thing:?}: {err}");
        gone();
        let _ = std::fs::remove_dir(dir.path().join("a"));
        assert_eq!(listing(dir.path()), empty_store());
        assert_eq!(
            std::fs::read(outside.path().join("file")).unwrap(),
            b"outside"
        );
    }
}

/// The calls that take a key's lock whether there is a value or not.
const LOCKING_FILE_CALLS: [FileCall; 5] = [
    ("get_or_set", |s, k| s.get_or_set(k, never).map(drop)),
    ("set", |s, k| s.set(k, text).map(drop)),
    ("lock", |s, k| s.lock(k).map(drop)),
    ("try_lock", |s, k| s.try_lock(k).map(drop)),
    ("batch", |s, k| {
        let mut batch = s.batch();
        batch.set(k, text)?;
        batch.commit().map(drop)
    }),
];

#[test]
fn a_strange_thing_at_a_locks_path_is_an_error_and_stays() {
    for thing in NO_LOCKS {
        let (dir, outside) = (tempdir(), outside());
        let store = KVFileStore::new(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let path = dir.path().join("a/v.lock");
        thing.make(&path, outside.path());
        let (before, there) = (listing(dir.path()), snapshot(outside.path()));
        let fails = |calls: &[FileCall]| {
            for (name, call) in calls {
                let (in_thread, call) = (store.clone(), *call);
                let done = in_time(name, move || call(&in_thread, &at("a/v")));
                let err = done.expect_err(name);
                assert_eq!(err.kind(), ErrorKind::Corrupt, "{thing:?} {name}: {err}");
                assert!(err.to_string().contains(path.to_str().unwrap()), "{err}");
                assert!(thing.is_at(&path), "{thing:?} {name}");
            }
        };
        fails(&LOCKING_FILE_CALLS);
        assert_eq!(listing(dir.path()), before, "{thing:?}");
        // With a value: a hit needs no lock.
        std::fs::write(dir.path().join("a/v"), "value").unwrap();
        assert_eq!(store.read(&at("a/v")).unwrap().unwrap(), b"value");
        fails(&[
            ("set", |s, k| s.set(k, text).map(drop)),
            ("lock_if_exists", |s, k| s.lock_if_exists(k).map(drop)),
            ("remove", |s, k| s.remove(k).map(drop)),
        ]);
        assert_eq!(store.read(&at("a/v")).unwrap().unwrap(), b"value");
        // Nor does it keep others from being cleared.
        store.set(&at("a/other"), text).unwrap();
        let report = store.clear().unwrap();
        assert_eq!(report.removed, 1, "{thing:?}");
        let is_foreign = |path: PathBuf| {
            report
                .kept
                .iter()
                .any(|k| k.path == path && k.reason == KeptReason::Foreign)
        };
        assert!(is_foreign(path.clone()), "{thing:?}: {:?}", report.kept);
        assert_eq!(snapshot(outside.path()), there, "{thing:?}");
    }
}

#[test]
fn a_strange_thing_at_a_trees_locks_path_is_an_error_and_stays() {
    for thing in NO_LOCKS {
        let (dir, outside) = (tempdir(), outside());
        let store = KVDirStore::new(dir.path()).unwrap();
        let key = at("a/v");
        let path = dir.path().join("a/v.lock");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        thing.make(&path, outside.path());
        let (before, there) = (listing(dir.path()), snapshot(outside.path()));
        let fails = |calls: &[DirCall]| {
            for (name, call) in calls {
                let (in_thread, call) = (store.clone(), *call);
                let done = in_time(name, move || call(&in_thread, &at("a/v")));
                let err = done.expect_err(name);
                assert_eq!(err.kind(), ErrorKind::Corrupt, "{thing:?} {name}: {err}");
                assert!(thing.is_at(&path), "{thing:?} {name}");
            }
        };
        fails(&[
            ("get_or_set", |s, k| s.get_or_set(k, never_tree).map(drop)),
            ("replace", |s, k| s.replace(k, text_tree).map(drop)),
            ("lock", |s, k| s.lock(k).map(drop)),
            ("try_lock", |s, k| s.try_lock(k).map(drop)),
        ]);
        assert_eq!(listing(dir.path()), before, "{thing:?}");
        match thing {
            Thing::Dir => std::fs::remove_dir(&path).unwrap(),
            _ => std::fs::remove_file(&path).unwrap(),
        }
        drop(store.get_or_set(&key, text_tree).unwrap());
        std::fs::remove_file(&path).unwrap();
        thing.make(&path, outside.path());
        fails(&[
            ("get", |s, k| s.get(k).map(drop)),
            ("get_or_set", |s, k| s.get_or_set(k, never_tree).map(drop)),
            ("replace", |s, k| s.replace(k, text_tree).map(drop)),
            ("lock", |s, k| s.lock(k).map(drop)),
            ("try_lock", |s, k| s.try_lock(k).map(drop)),
            ("lock_if_exists", |s, k| s.lock_if_exists(k).map(drop)),
            ("remove", |s, k| s.remove(k).map(drop)),
        ]);
        assert!(dir.path().join("a/v/text").exists());
        drop(store.get_or_set(&at("a/other"), text_tree).unwrap());
        let report = store.clear().unwrap();
        assert_eq!(report.removed, 1, "{thing:?}");
        assert!(dir.path().join("a/v/text").exists());
        assert_eq!(snapshot(outside.path()), there, "{thing:?}");
    }
}

// --- closures ---

#[derive(Debug)]
struct Mine(u32);

impl std::fmt::Display for Mine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "my error {}", self.0)
    }
}

impl std::error::Error for Mine {}

#[test]
fn a_closures_own_error_comes_back() {
    let dir = tempdir();
    let (files, dirs) = stores(dir.path());
    let fail = |w: &mut ValueWriter| {
        text(w)?;
        Err(anyhow::Error::from(Mine(7)).context("while downloading"))
    };
    let fail_tree = |tree: &Path| {
        text_tree(tree)?;
        Err(Mine(7).into())
    };
    let mut batch = files.batch();
    let errors = [
        files.get_or_set("key", fail).unwrap_err(),
        files.set("key", fail).unwrap_err(),
        batch.set("key", fail).unwrap_err(),
        dirs.get_or_set("key", fail_tree).unwrap_err(),
        dirs.replace("key", fail_tree).unwrap_err(),
    ];
    assert_eq!(batch.commit().unwrap(), 0);
    for err in errors {
        assert_eq!(err.kind(), ErrorKind::Compute);
        assert_eq!(err.downcast_ref::<Mine>().unwrap().0, 7);
        assert!(err.downcast_ref::<std::fmt::Error>().is_none());
        assert!(!err.to_string().contains("my error"), "{err}");
        assert!(format!("{:#}", anyhow::Error::from(err)).contains("my error 7"));
    }
    assert_eq!(listing(files.base()), empty_store());
    assert_eq!(listing(dirs.base()), empty_store());
}

#[test]
fn a_closures_panic_goes_through_and_nothing_stays() {
    let dir = tempdir();
    let (files, dirs) = stores(dir.path());
    let panicking = |w: &mut ValueWriter| {
        text(w)?;
        std::panic::panic_any(7_u32)
    };
    let panicking_tree = |tree: &Path| {
        text_tree(tree)?;
        std::panic::panic_any(7_u32)
    };
    let calls: [&dyn Fn(); 5] = [
        &|| drop(files.get_or_set("key", panicking)),
        &|| drop(files.set("key", panicking)),
        &|| drop(files.batch().set("key", panicking)),
        &|| drop(dirs.get_or_set("key", panicking_tree)),
        &|| drop(dirs.replace("key", panicking_tree)),
    ];
    for call in calls {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&7_u32));
        assert_eq!(listing(files.base()), empty_store());
        assert_eq!(listing(dirs.base()), empty_store());
    }
    files.set("key", text).unwrap();
    drop(dirs.get_or_set("key", text_tree).unwrap());
}

/// `expect_len` makes a write fail without any help of a file system.
#[test]
fn a_write_that_failed_cannot_be_published_by_ignoring_it() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    store.set("key", text).unwrap();
    let before = listing(dir.path());
    let ignore = |w: &mut ValueWriter| {
        w.expect_len(3);
        assert!(w.write_all(b"four").is_err());
        assert!(w.write_all(b"abc").is_err(), "the writer has failed");
        Ok(())
    };
    let give_up = |w: &mut ValueWriter| {
        w.expect_len(3);
        Ok(w.write_all(b"four")?)
    };
    for err in [
        store.set("key", ignore).unwrap_err(),
        store.set("key", give_up).unwrap_err(),
        store.get_or_set("new", ignore).unwrap_err(),
        store.batch().set("key", ignore).unwrap_err(),
    ] {
        assert_eq!(err.kind(), ErrorKind::SizeMismatch);
        let sentence = err.to_string();
        assert!(
            sentence.contains("3 bytes long and is at least 4"),
            "{sentence}"
        );
    }
    let lock = store.lock("key").unwrap();
    let mut write = lock.begin().unwrap();
    write.expect_len(3);
    assert!(write.write_all(b"four").is_err());
    assert_eq!(write.commit().unwrap_err().kind(), ErrorKind::SizeMismatch);
    drop(lock);
    assert_eq!(listing(dir.path()), before);
    assert_eq!(store.read("key").unwrap().unwrap(), b"text");
}

#[test]
fn a_value_shorter_than_was_stated_is_not_published() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    let short = |w: &mut ValueWriter| {
        w.expect_len(5);
        text(w)
    };
    for err in [
        store.get_or_set("key", short).unwrap_err(),
        store.set("key", short).unwrap_err(),
        store.batch().set("key", short).unwrap_err(),
    ] {
        assert_eq!(err.kind(), ErrorKind::SizeMismatch);
        let sentence = err.to_string();
        assert!(sentence.contains("5 bytes long and is 4;"), "{sentence}");
    }
    let lock = store.lock("key").unwrap();
    let mut write = lock.begin().unwrap();
    write.write_all(b"text").unwrap();
    write.expect_len(2); // stated too late to stop the write
    assert_eq!(write.commit().unwrap_err().kind(), ErrorKind::SizeMismatch);
    drop(lock);
    assert_eq!(listing(dir.path()), empty_store());
    let exact = |w: &mut ValueWriter| {
        w.expect_len(4);
        text(w)
    };
    assert_eq!(store.get_or_set("key", exact).unwrap().len(), 4);
}

#[test]
fn an_empty_tree_is_a_value() {
    let dir = tempdir();
    let store = KVDirStore::new(dir.path()).unwrap();
    let lease = store.get_or_set("key", |_| Ok(())).unwrap();
    assert_eq!(std::fs::read_dir(&*lease).unwrap().count(), 0);
    drop(lease);
    assert!(store.contains("key").unwrap());
    let lease = store.get_or_set("key", never_tree).unwrap();
    assert_eq!(lease.outcome(), Outcome::Hit);
    drop(lease);
    let entries: Vec<_> = store.entries().map(Result::unwrap).collect();
    assert_eq!((entries.len(), entries[0].file_count()), (1, Some(0)));
    drop(store.replace("key", text_tree).unwrap());
    drop(store.replace("key", |_| Ok(())).unwrap());
    let lease = store.get("key").unwrap().unwrap();
    assert_eq!(std::fs::read_dir(&*lease).unwrap().count(), 0);
    drop(lease);
    // Sweeping takes empty directories, but not this one.
    store.sweep().unwrap();
    assert!(store.contains("key").unwrap());
    assert!(store.remove("key").unwrap());
    assert_eq!(listing(dir.path()), empty_store());
}

// --- keys on the way to other keys ---

#[test]
fn a_key_whose_path_is_a_directory_of_values_is_an_error() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    store.set(&at("a/b/c"), text).unwrap();
    for key in ["a", "a/b"] {
        every_file_call_fails(&store, &at(key), ErrorKind::Corrupt);
    }
    assert_eq!(store.read(&at("a/b/c")).unwrap().unwrap(), b"text");
}

#[test]
fn a_key_below_a_value_is_an_error() {
    let dir = tempdir();
    let store = KVFileStore::new(dir.path()).unwrap();
    store.set(&at("a"), text).unwrap();
    for key in ["a/b", "a/b/c"] {
        every_file_call_fails(&store, &at(key), ErrorKind::Io);
    }
    assert_eq!(store.read(&at("a")).unwrap().unwrap(), b"text");
}

#[test]
fn a_key_whose_path_is_a_directory_of_trees_is_absent_and_cannot_be_made() {
    let dir = tempdir();
    let store = KVDirStore::new(dir.path()).unwrap();
    let hash: ArtifactHash = format!("sha256={}", "17".repeat(32)).parse().unwrap();
    drop(store.get_or_set(&hash, text_tree).unwrap());
    drop(store.get_or_set("hashed", text_tree).unwrap());
    let shard = "hashed".key();
    let shard = shard.parent().unwrap();
    let before = snapshot(dir.path());
    for key in [at("sha256"), at(hash.key().parent().unwrap()), at(shard)] {
        assert!(store.get(&key).unwrap().is_none());
        assert!(!store.contains(&key).unwrap());
        assert!(!store.remove(&key).unwrap());
        assert!(!store.touch(&key).unwrap());
        assert!(store.lock_if_exists(&key).unwrap().is_none());
        for err in [
            store.get_or_set(&key, never_tree).unwrap_err(),
            store.replace(&key, never_tree).unwrap_err(),
            store.lock(&key).unwrap_err(),
            store.try_lock(&key).unwrap_err(),
        ] {
            assert_eq!(err.kind(), ErrorKind::Corrupt);
            assert!(err.to_string().contains("other entries"), "{err}");
        }
        assert_eq!(snapshot(dir.path()), before);
    }
    assert!(store.get(&hash).unwrap().unwrap().join("text").exists());
}

/// What is in a tree is not the store's: no key reaches into it.
#[test]
fn a_key_below_a_tree_is_absent_and_cannot_be_made() {
    let dir = tempdir();
    let store = KVDirStore::new(dir.path()).unwrap();
    let plant = |tree: &Path| {
        for path in ["sub", "Cargo"] {
            std::fs::create_dir(tree.join(path))?;
        }
        Ok(std::fs::write(
            tree.join("Cargo.lock"),
            "not a lock of ours",
        )?)
    };
    drop(store.get_or_set(&at("a/tree"), plant).unwrap());
    let before = snapshot(dir.path());
    for key in ["a/tree/sub", "a/tree/Cargo", "a/tree/new", "a/tree/sub/new"] {
        let key = at(key);
        assert!(store.get(&key).unwrap().is_none());
        assert!(!store.contains(&key).unwrap());
        assert!(!store.remove(&key).unwrap());
        assert!(!store.touch(&key).unwrap());
        assert!(store.lock_if_exists(&key).unwrap().is_none());
        for err in [
            store.get_or_set(&key, never_tree).unwrap_err(),
            store.replace(&key, never_tree).unwrap_err(),
            store.lock(&key).unwrap_err(),
            store.try_lock(&key).unwrap_err(),
        ] {
            assert_eq!(err.kind(), ErrorKind::Corrupt, "{err}");
        }
        assert_eq!(snapshot(dir.path()), before, "{key:?}");
    }
}

// --- errors ---

/// Every error names its path, does not repeat its cause, and has it in the chain.
#[test]
fn errors_of_every_kind_read_well() {
    let dir = tempdir();
    let (files, dirs) = stores(dir.path());
    files.set(&at("a"), text).unwrap();
    std::fs::create_dir(files.base().join("d")).unwrap();
    let lease = dirs.get_or_set("leased", text_tree).unwrap();
    let held = files.lock("held").unwrap();
    let try_once = files.with_wait(Wait::TryOnce);
    let cancel = CancelToken::new();
    cancel.cancel();
    let read_only = StoreOptions::new().read_only(true);
    let read_only = read_only.open_file_store(files.base()).unwrap();
    let deadlocked = || {
        let mut found = None;
        let _ = files.get_or_set("self", |_| {
            found = files.get_or_set("self", never).err();
            anyhow::bail!("enough")
        });
        found.unwrap()
    };
    let too_long = |w: &mut ValueWriter| {
        w.expect_len(1);
        text(w)
    };
    let errors = [
        (ErrorKind::Io, files.get(&at("a/b")).unwrap_err()),
        (ErrorKind::InvalidKey, files.get(&at("../x")).unwrap_err()),
        (ErrorKind::Busy, try_once.lock("held").unwrap_err()),
        (
            ErrorKind::Cancelled,
            files.with_cancel(&cancel).lock("held").unwrap_err(),
        ),
        (ErrorKind::WouldDeadlock, deadlocked()),
        (ErrorKind::InUse, dirs.remove("leased").unwrap_err()),
        (
            ErrorKind::FormatMismatch,
            KVDirStore::new(files.base()).unwrap_err(),
        ),
        (
            ErrorKind::Compute,
            files.set("k", |_| Err(Mine(1).into())).unwrap_err(),
        ),
        (
            ErrorKind::SizeMismatch,
            files.set("k", too_long).unwrap_err(),
        ),
        (ErrorKind::Corrupt, files.get(&at("d")).unwrap_err()),
        (
            ErrorKind::Unsupported,
            held.begin().unwrap().set_metadata(b"m").unwrap_err(),
        ),
        (ErrorKind::ReadOnly, read_only.set("k", never).unwrap_err()),
    ];
    for (kind, err) in &errors {
        assert_eq!(err.kind(), *kind, "{err}");
        let sentence = err.to_string();
        let path = err.path().unwrap_or_else(|| panic!("{kind:?} has no path"));
        assert!(sentence.contains(path.to_str().unwrap()), "{sentence}");
        assert!(path.is_absolute() || *kind == ErrorKind::InvalidKey);
        assert!(
            !sentence.ends_with('.') && !sentence.contains('\n'),
            "{sentence}"
        );
        assert!(!err.operation().is_empty());
        let mut cause = err.source();
        while let Some(found) = cause {
            assert!(!sentence.contains(&found.to_string()), "{sentence}");
            cause = found.source();
        }
        assert!(!format!("{err:?}").is_empty());
    }
    let source = |n: usize| errors[n].1.source().map(ToString::to_string);
    assert!(source(0).unwrap().contains("Not a directory"));
    assert_eq!(source(7).unwrap(), "my error 1");
    let holder = errors[2].1.holder().unwrap();
    assert_eq!(holder.pid, std::process::id());
    let sentence = errors[2].1.to_string();
    assert!(
        sentence.contains(&format!("process {}", holder.pid)),
        "{sentence}"
    );
    let converted = errors.map(|(_, err)| std::io::Error::from(err).kind());
    assert_eq!(converted[0], std::io::ErrorKind::NotADirectory);
    assert_eq!(converted[1], std::io::ErrorKind::InvalidInput);
    assert_eq!(converted[2], std::io::ErrorKind::WouldBlock);
    drop((lease, held));
}

#[test]
fn bad_artifact_hashes_are_refused() {
    let (good, other) = ("17".repeat(32), "g7".repeat(32));
    for bad in [
        String::new(),
        "=".into(),
        "sha256".into(),
        "sha256=".into(),
        "sha256:17".into(),
        good.clone(),
        format!("={good}"),
        format!("sha256={good}17"),
        format!("sha256={}", &good[2..]),
        format!("sha256={}", &good[1..]),
        format!("sha256={other}"),
        format!("sha256={good} "),
        format!(" sha256={good}"),
        format!("sha256= {good}"),
        format!("sha256={good}\n"),
        format!("sha256=={good}"),
        format!("SHA256={good}"),
        format!("sha512={good}"),
        format!("../x={good}"),
        format!("a/b={good}"),
        format!("a.lock={good}"),
        format!("tmp={good}"),
        format!("larder-x={good}"),
        format!("0x={good}"),
        format!("{}={good}", "a".repeat(33)),
        format!("shä={good}"),
        format!("a\0b={good}"),
    ] {
        let err = bad.parse::<ArtifactHash>().expect_err(&bad);
        assert_eq!(err.kind(), ErrorKind::InvalidKey, "{bad:?}");
        assert!(err.to_string().starts_with("the artifact hash"), "{err}");
    }
    for (mode, len) in [("crc", 3), ("crc", 129), ("md5", 15), ("blake3", 31)] {
        assert!(
            ArtifactHash::new(mode, vec![0; len]).is_err(),
            "{mode} {len}"
        );
    }
    let upper: ArtifactHash = format!("sha256={}", "AB".repeat(32)).parse().unwrap();
    assert_eq!(upper.to_string(), format!("sha256={}", "ab".repeat(32)));
}
