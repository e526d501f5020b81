//! Trees that are not what was published: found, told, and absent where a power cut may have torn
//! them.
//!
//! A power cut itself is played here by what it leaves; `proof/` has real ones. That a boot is another
//! one is played by changing what the sidecar says of it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use larder::{
    Durability, ErrorKind, Integrity, KVDirStore, PathKey, StoreOptions, TreeReport, Verify, Wait,
};
use tempfile::TempDir;

use crate::support::{Worker, chmod, empty_store, listing, mode, tempdir};
use crate::worker::{hear, say};

const REPLACE: &str = "damaged-trees-replace";
const LEASE_ANY: &str = "damaged-trees-lease-any";
const KEY: &str = "key";

/// Plays a worker's role, if it is one of this module's. Its arguments are the store and the durability.
pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        LEASE_ANY => {
            let never = StoreOptions::new().verify(Verify::Never);
            let never = never.open_dir_store(args[0]).unwrap();
            let _lease = never.get(KEY).unwrap().unwrap();
            say("leased");
            hear();
        }
        REPLACE => replace(args),
        _ => return false,
    }
    true
}

fn replace(args: &[&str]) {
    // Dies between the sidecar's rename and the tree's.
    let durability = match args[1] {
        "none" => Durability::None,
        _ => Durability::Data,
    };
    let options = StoreOptions::new()
        .durability(durability)
        .digest_trees(true);
    let store = options.open_dir_store(args[0]).unwrap();
    let put = |name: &str| drop(store.replace(KEY, |tree| Ok(fs::write(tree.join(name), "")?)));
    put("old");
    larder::__fault::arm(None);
    put("old");
    let calls = larder::__fault::disarm();
    let at = calls.iter().position(|call| *call == "exchange").unwrap();
    say("ready");
    larder::__fault::arm([(at, larder::__fault::Fault::Kill)]);
    put("new");
}

fn open(base: &Path, durability: Durability) -> KVDirStore {
    let options = StoreOptions::new().durability(durability);
    options.open_dir_store(base).unwrap()
}

/// A store with a tree that has some of everything.
fn with_tree(durability: Durability) -> (TempDir, KVDirStore) {
    let dir = tempdir();
    let store = open(dir.path(), durability);
    drop(store.get_or_set(KEY, fill).unwrap());
    (dir, store)
}

fn fill(tree: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(tree.join("bin/empty"))?;
    fs::write(tree.join("bin/tool"), "#!/bin/sh\n")?;
    fs::write(tree.join("a name with spaces, % and \u{e9}"), "text")?;
    fs::write(tree.join("nothing"), "")?;
    symlink("bin/tool", tree.join("link"))?;
    chmod(&tree.join("bin/tool"), 0o755);
    Ok(())
}

fn tree_of(store: &KVDirStore) -> PathBuf {
    store.base().join(KEY.key())
}

fn sidecar_of(store: &KVDirStore) -> PathBuf {
    tree_of(store).with_extension("larder")
}

/// Makes the tree one of before the last boot.
fn boot_again(store: &KVDirStore) {
    let path = sidecar_of(store);
    let text = fs::read_to_string(&path).unwrap();
    let at = text.find("=boot ").unwrap() + "=boot ".len();
    let mut bytes = text.into_bytes();
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    fs::write(&path, bytes).unwrap();
}

fn names(paths: &[PathBuf]) -> Vec<&str> {
    paths.iter().map(|path| path.to_str().unwrap()).collect()
}

#[test]
fn every_change_in_a_tree_is_told() {
    type Change = fn(&Path);
    let changes: [(Change, [&[&str]; 3]); 13] = [
        (
            |tree| fs::write(tree.join("bin/tool"), "#!/bin/zh\n").unwrap(),
            [&["bin/tool"], &[], &[]],
        ),
        (
            |tree| fs::write(tree.join("nothing"), "x").unwrap(),
            [&["nothing"], &[], &[]],
        ),
        (
            |tree| chmod(&tree.join("bin/tool"), 0o555),
            [&["bin/tool"], &[], &[]],
        ),
        (
            |tree| chmod(&tree.join("bin/empty"), 0o700),
            [&["bin/empty"], &[], &[]],
        ),
        (|tree| chmod(tree, 0o700), [&["."], &[], &[]]),
        (
            |tree| {
                fs::remove_file(tree.join("link")).unwrap();
                symlink("bin/other", tree.join("link")).unwrap();
            },
            [&["link"], &[], &[]],
        ),
        (
            |tree| fs::rename(tree.join("nothing"), tree.join("something")).unwrap(),
            [&[], &["nothing"], &["something"]],
        ),
        (
            |tree| fs::write(tree.join("bin/empty/extra"), "").unwrap(),
            [&[], &[], &["bin/empty/extra"]],
        ),
        (
            |tree| fs::create_dir(tree.join("bin/more")).unwrap(),
            [&[], &[], &["bin/more"]],
        ),
        (
            |tree| fs::remove_dir(tree.join("bin/empty")).unwrap(),
            [&[], &["bin/empty"], &[]],
        ),
        (
            |tree| fs::remove_file(tree.join("a name with spaces, % and \u{e9}")).unwrap(),
            [&[], &["a name with spaces, % and \u{e9}"], &[]],
        ),
        (
            |tree| {
                fs::remove_file(tree.join("nothing")).unwrap();
                fs::create_dir(tree.join("nothing")).unwrap();
            },
            [&["nothing"], &[], &[]],
        ),
        (
            |tree| {
                fs::remove_file(tree.join("nothing")).unwrap();
                let made = Command::new("mkfifo").arg(tree.join("nothing")).status();
                assert!(made.unwrap().success());
                assert!(
                    tree.join("nothing")
                        .metadata()
                        .unwrap()
                        .file_type()
                        .is_fifo()
                );
            },
            [&["nothing"], &[], &[]],
        ),
    ];
    for (change, told) in changes {
        let (_dir, store) = with_tree(Durability::None);
        let report = store.verify(KEY).unwrap().unwrap();
        assert_eq!(report.integrity, Integrity::Whole, "{report:?}");
        change(&tree_of(&store));
        let report = store.verify(KEY).unwrap().unwrap();
        assert_eq!(report.integrity, Integrity::Damaged);
        let TreeReport {
            changed,
            missing,
            added,
            ..
        } = &report;
        assert_eq!([names(changed), names(missing), names(added)], told);
        // It only told.
        assert!(store.get(KEY).unwrap().is_some());
    }
}

#[test]
fn what_has_no_digest_is_unknown_unless_one_was_asked_for() {
    let (_dir, store) = with_tree(Durability::Data);
    let integrity = |store: &KVDirStore| store.verify(KEY).unwrap().map(|told| told.integrity);
    assert_eq!(integrity(&store), Some(Integrity::Unknown));
    let asking = StoreOptions::new().digest_trees(true);
    let asking = asking.open_dir_store(store.base()).unwrap();
    drop(asking.replace(KEY, fill).unwrap());
    assert_eq!(integrity(&store), Some(Integrity::Whole));
    fs::write(tree_of(&store).join("nothing"), "x").unwrap();
    assert_eq!(integrity(&store), Some(Integrity::Damaged));
    assert!(store.remove(KEY).unwrap());
    assert_eq!(integrity(&store), None);
}

#[test]
fn a_tree_from_before_the_boot_is_checked_once() {
    let (_dir, store) = with_tree(Durability::None);
    boot_again(&store);
    let before = fs::read_to_string(sidecar_of(&store)).unwrap();
    assert!(store.get(KEY).unwrap().is_some());
    let marked = fs::read_to_string(sidecar_of(&store)).unwrap();
    assert_ne!(before, marked);
    assert_eq!(store.damaged_trees(), 0);
    // Nobody looks again in this boot, so nobody sees this.
    fs::write(tree_of(&store).join("nothing"), "x").unwrap();
    let another = open(store.base(), Durability::None);
    assert!(another.get(KEY).unwrap().is_some());
    boot_again(&store);
    assert!(another.get(KEY).unwrap().is_none());
}

#[test]
fn a_torn_tree_is_absent_and_made_anew() {
    for durability in [Durability::None, Durability::Data] {
        let (_dir, store) = with_tree(Durability::None);
        fs::write(tree_of(&store).join("bin/tool"), [0; 10]).unwrap();
        boot_again(&store);
        // What each handle publishes itself does not matter.
        let store = open(store.base(), durability);
        assert!(store.get(KEY).unwrap().is_none());
        assert_eq!(store.damaged_trees(), 1);
        assert_eq!(listing(store.base()), empty_store());
        drop(store.get_or_set(KEY, fill).unwrap());
        assert!(store.get(KEY).unwrap().is_some());
    }
    let (_dir, store) = with_tree(Durability::None);
    fs::remove_file(tree_of(&store).join("nothing")).unwrap();
    boot_again(&store);
    let mut made = false;
    drop(store.get_or_set(KEY, |tree| {
        made = true;
        fill(tree)
    }));
    assert!(made);
    assert_eq!(
        store.verify(KEY).unwrap().unwrap().integrity,
        Integrity::Whole
    );
}

#[test]
fn what_was_durable_or_is_of_this_boot_is_not_checked() {
    let (_dir, store) = with_tree(Durability::None);
    fs::write(tree_of(&store).join("nothing"), "x").unwrap();
    assert!(store.get(KEY).unwrap().is_some());
    let text = fs::read_to_string(sidecar_of(&store)).unwrap();
    let (begin, rest) = text.split_once("standing=").unwrap();
    let rest = rest.split_once('\n').unwrap().1;
    fs::write(
        sidecar_of(&store),
        format!("{begin}standing=durable\n{rest}"),
    )
    .unwrap();
    assert!(store.get(KEY).unwrap().is_some());
    let always = StoreOptions::new().verify(Verify::Always);
    let always = always.open_dir_store(store.base()).unwrap();
    assert!(always.get(KEY).unwrap().is_none());
    // There is nothing to check here.
    let (_dir, store) = with_tree(Durability::Data);
    let always = StoreOptions::new().verify(Verify::Always);
    let always = always.open_dir_store(store.base()).unwrap();
    assert!(always.get(KEY).unwrap().is_some());
}

#[test]
fn a_tree_without_a_digest_from_before_the_boot_is_absent() {
    let (_dir, store) = with_tree(Durability::None);
    boot_again(&store);
    let text = fs::read_to_string(sidecar_of(&store)).unwrap();
    let (begin, _) = text.split_once("manifest=").unwrap();
    fs::write(sidecar_of(&store), format!("{begin}end\n")).unwrap();
    assert!(store.get(KEY).unwrap().is_none());
}

#[test]
fn what_is_left_of_a_sidecar_vouches_for_nothing() {
    let (_dir, store) = with_tree(Durability::None);
    let whole = fs::read(sidecar_of(&store)).unwrap();
    let zeros = vec![0; whole.len()];
    for bytes in [
        &[][..],
        &zeros,
        &whole[..whole.len() - 1],
        &whole[..20],
        b"larder-tree ",
    ] {
        // Another handle, because one remembers which inode it has checked.
        let store = open(store.base(), Durability::None);
        drop(store.get_or_set(KEY, fill).unwrap());
        fs::write(sidecar_of(&store), bytes).unwrap();
        assert!(store.get(KEY).unwrap().is_none());
        assert_eq!(listing(store.base()), empty_store());
    }
    // Of a manifest only the digest counts, which is in the text.
    let store = open(store.base(), Durability::None);
    drop(store.get_or_set(KEY, fill).unwrap());
    let mut torn = fs::read(sidecar_of(&store)).unwrap();
    let end = torn.len();
    torn[end - 40..].fill(0);
    fs::write(sidecar_of(&store), torn).unwrap();
    let always = StoreOptions::new().verify(Verify::Always);
    let always = always.open_dir_store(store.base()).unwrap();
    assert!(always.get(KEY).unwrap().is_some());
    assert!(store.remove(KEY).unwrap());
    // A later version's says something, which this one does not know.
    drop(store.get_or_set(KEY, fill).unwrap());
    let before = listing(store.base());
    fs::write(sidecar_of(&store), "larder-tree 2\nwhatever").unwrap();
    let refused = store.get(KEY).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FormatMismatch, "{refused}");
    assert_eq!(listing(store.base()), before);
    assert!(store.remove(KEY).unwrap());
    assert_eq!(listing(store.base()), empty_store());
}

#[test]
fn who_does_not_ask_or_cannot_write_takes_nothing_away() {
    let (_dir, store) = with_tree(Durability::None);
    fs::write(tree_of(&store).join("nothing"), "x").unwrap();
    boot_again(&store);
    let before = listing(store.base());
    let reader = StoreOptions::new().read_only(true);
    let reader = reader.open_dir_store(store.base()).unwrap();
    assert!(reader.get(KEY).unwrap().is_none());
    assert_eq!(reader.damaged_trees(), 1);
    assert_eq!(listing(store.base()), before);

    let mut never = Worker::start(LEASE_ANY, &[store.base().to_str().unwrap()]);
    never.expect("leased");
    // Who does ask waits for that lease to make it anew, and does not turn in circles.
    assert!(store.get(KEY).unwrap().is_none());
    assert!(tree_of(&store).join("nothing").exists());
    let busy = store.with_wait(Wait::TryOnce).get_or_set(KEY, fill);
    assert_eq!(busy.unwrap_err().kind(), ErrorKind::Busy);
    never.tell("enough");
    never.finish();
    drop(store.get_or_set(KEY, fill).unwrap());
    assert_eq!(fs::read(tree_of(&store).join("nothing")).unwrap(), b"");
}

/// The sidecar comes before its tree, so it stands beside the old tree for a moment.
#[test]
fn a_replacement_that_died_half_way_leaves_the_old_tree() {
    let dir = tempdir();
    let base = dir.path().to_str().unwrap();
    let mut worker = Worker::start(REPLACE, &[base, "none"]);
    worker.expect("ready");
    assert!(worker.was_killed());
    let store = open(dir.path(), Durability::None);
    let lease = store.get(KEY).unwrap().unwrap();
    assert!(lease.join("old").exists());
    drop(lease);
    // After a boot nothing is known of it.
    boot_again(&store);
    let text = fs::read_to_string(sidecar_of(&store)).unwrap();
    let (begin, rest) = text.split_once("replaced-standing=boot ").unwrap();
    let text = format!(
        "{begin}replaced-standing=boot {}{}",
        "f".repeat(32),
        &rest[32..]
    );
    fs::write(sidecar_of(&store), text).unwrap();
    assert!(store.get(KEY).unwrap().is_none());
}

#[test]
fn a_durable_replacement_that_died_half_way_leaves_the_old_tree() {
    let dir = tempdir();
    let mut worker = Worker::start(REPLACE, &[dir.path().to_str().unwrap(), "data"]);
    worker.expect("ready");
    assert!(worker.was_killed());
    let always = StoreOptions::new().verify(Verify::Always);
    let always = always.open_dir_store(dir.path()).unwrap();
    assert!(always.get(KEY).unwrap().unwrap().join("old").exists());
    let report = always.verify(KEY).unwrap().unwrap();
    assert_eq!(report.integrity, Integrity::Unknown);
}

/// As a backup, or the cache of a CI service, restores it: with other inodes.
#[test]
fn a_store_that_was_moved_is_believed_as_far_as_its_digests_go() {
    for (durability, torn, believed) in [
        (Durability::Data, false, true),
        (Durability::None, false, true),
        (Durability::None, true, false),
    ] {
        let (_dir, store) = with_tree(durability);
        let elsewhere = tempdir();
        let copy = elsewhere.path().join("copy");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(store.base())
            .arg(&copy)
            .status();
        assert!(copied.unwrap().success());
        let copy = open(&copy, Durability::Data);
        assert_ne!(
            tree_of(&store).metadata().unwrap().ino(),
            tree_of(&copy).metadata().unwrap().ino()
        );
        if torn {
            fs::write(tree_of(&copy).join("nothing"), "x").unwrap();
        }
        assert_eq!(
            copy.get(KEY).unwrap().is_some(),
            believed,
            "{durability:?} {torn}"
        );
    }
}

#[test]
fn the_digest_is_of_what_is_published() {
    let dir = tempdir();
    let options = StoreOptions::new().digest_trees(true).read_only_trees(true);
    let store = options.open_dir_store(dir.path()).unwrap();
    drop(store.get_or_set(KEY, fill).unwrap());
    assert_eq!(mode(&tree_of(&store)) & 0o222, 0);
    assert_eq!(
        store.verify(KEY).unwrap().unwrap().integrity,
        Integrity::Whole
    );
}

#[test]
fn trees_are_not_sealed() {
    let dir = tempdir();
    let sealed = StoreOptions::new().sealed(true).open_dir_store(dir.path());
    assert_eq!(sealed.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(listing(dir.path()).len(), 0);
}

/// The lease is of a tree that is not believed any more, and the one who asks holds it: he would wait for
/// himself.
#[test]
fn who_leases_a_tree_that_is_damaged_since_is_told() {
    let (_dir, store) = with_tree(Durability::None);
    let always = StoreOptions::new().verify(Verify::Always);
    let always = always.open_dir_store(store.base()).unwrap();
    let lease = always.get(KEY).unwrap().unwrap();
    fs::write(lease.join("nothing"), "x").unwrap();
    let told = crate::support::in_time("an answer", {
        let always = always.clone();
        move || always.get_or_set(KEY, fill).map(drop)
    });
    assert_eq!(told.unwrap_err().kind(), ErrorKind::InUse);
    drop(lease);
    drop(always.get_or_set(KEY, fill).unwrap());
}

/// It was checked against what was known of the tree before it, and deleted.
#[test]
fn a_clients_own_tree_is_not_taken_for_the_one_before() {
    let (_dir, store) = with_tree(Durability::None);
    let lock = store.lock(KEY).unwrap();
    let own = lock.tempdir().unwrap().into_path();
    fs::write(own.join("own"), "").unwrap();
    fs::remove_dir_all(&*lock).unwrap();
    fs::rename(own, &*lock).unwrap();
    assert!(lock.exists());
    drop(lock);
    for _ in 0..2 {
        assert!(store.get(KEY).unwrap().unwrap().join("own").exists());
    }
    // A lock that changes nothing forgets nothing.
    drop(store.replace(KEY, fill).unwrap());
    drop(store.lock(KEY).unwrap());
    assert_eq!(
        store.verify(KEY).unwrap().unwrap().integrity,
        Integrity::Whole
    );
}

/// Its owner may not read all of it, and could not get rid of it.
#[test]
fn what_cannot_be_checked_can_be_removed() {
    let (_dir, store) = with_tree(Durability::None);
    boot_again(&store);
    // What reading it would fail at, for root too.
    let tool = tree_of(&store).join("bin/tool");
    fs::remove_file(&tool).unwrap();
    fs::create_dir_all(&tool).unwrap();
    let before = store.damaged_trees();
    assert!(store.remove(KEY).unwrap());
    assert_eq!(store.damaged_trees(), before, "it was checked");
    assert_eq!(listing(store.base()), empty_store());
}

/// Who is killed between a rename and the change of mode after it leaves the root's owner bits as a rename
/// needs them.
#[test]
fn the_roots_owner_bits_do_not_count() {
    let dir = tempdir();
    let options = StoreOptions::new()
        .durability(Durability::None)
        .read_only_trees(true);
    let store = options.open_dir_store(dir.path()).unwrap();
    drop(store.get_or_set(KEY, fill).unwrap());
    chmod(&tree_of(&store), mode(&tree_of(&store)) | 0o200);
    boot_again(&store);
    assert!(store.get(KEY).unwrap().is_some());
}
