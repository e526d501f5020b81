//! Checkpoints of several users: whoever replaces them, nobody loses the right to read them but who is named below,
//! and nobody gets it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use larder::__fault::{Fault, arm, disarm};
use larder::{CheckpointKey, CheckpointStore, Put};
use rustix::fs::{Gid, Uid, XattrFlags};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::support::{Worker, chmod, in_memory, is_root, mode, skipped, tempdir};
use crate::worker::say;

const ANN: u32 = 12345;
const BOB: u32 = 12346;
const GROUP: u32 = 23456;
const BOBS_GROUP: u32 = 23457;

const PUT: &str = "put-as-bob";
const UNLISTED: &str = "put-unlisted";

pub(crate) fn play(role: &str, args: &[&str]) -> bool {
    match role {
        PUT => put_as_bob(args),
        UNLISTED => put_unlisted(args),
        _ => return false,
    }
    true
}

fn key() -> CheckpointKey {
    CheckpointKey::new([1; 32])
}

fn put(dir: &Path, sequence: u64) -> larder::Result<Put> {
    let store = CheckpointStore::<u64>::open(dir.join("state.json"))?;
    store.put(&key(), sequence, &sequence)
}

/// Makes this thread somebody's. The system knows of threads, only the C library of processes.
fn become_user(uid: u32, gid: u32, also: &[u32]) {
    let also: Vec<Gid> = also.iter().map(|&gid| Gid::from_raw(gid)).collect();
    rustix::thread::set_thread_groups(&also).unwrap();
    rustix::thread::set_thread_gid(Gid::from_raw(gid)).unwrap();
    rustix::thread::set_thread_uid(Uid::from_raw(uid)).unwrap();
}

/// DIR MEMBER AT: puts a state, as one who is a member of Ann's group or not, and is killed before call AT; says
/// `calls N` if he was not.
fn put_as_bob(args: &[&str]) {
    let also: &[u32] = if args[1] == "member" { &[GROUP] } else { &[] };
    become_user(BOB, BOBS_GROUP, also);
    arm([(args[2].parse().unwrap(), Fault::Kill)]);
    let done = put(Path::new(args[0]), 2);
    let calls = disarm().len();
    assert_eq!(done.unwrap(), Put::Stored);
    say(&format!("calls {calls}"));
}

/// A directory where everybody may write, with a file of Ann's and her group's.
fn anns(mode: u32) -> (TempDir, PathBuf) {
    let base = tempdir();
    chmod(base.path(), 0o755);
    let dir = base.path().join("shared");
    fs::create_dir(&dir).unwrap();
    chmod(&dir, 0o777);
    assert_eq!(put(&dir, 1).unwrap(), Put::Stored);
    let path = dir.join("state.json");
    let (ann, group) = (Uid::from_raw(ANN), Gid::from_raw(GROUP));
    rustix::fs::chown(&path, Some(ann), Some(group)).unwrap();
    chmod(&path, mode);
    (base, dir)
}

/// Has Bob put a state, and be killed before each call in turn, until he is not. What he left of a new file, no
/// other group may read.
fn killed_everywhere(bits: u32, member: &str) -> (TempDir, PathBuf) {
    for at in 0.. {
        let (base, dir) = anns(bits);
        let args = [dir.to_str().unwrap(), member, &at.to_string()];
        let was_killed = Worker::start(PUT, &args).was_killed();
        if let Ok(staged) = fs::metadata(dir.join("state.json.larder-new")) {
            let group = staged.mode() & 0o070;
            assert!(
                group == 0 || staged.gid() == GROUP,
                "before call {at}: {group:o}"
            );
        }
        if !was_killed {
            assert!(at > 10, "only {at} calls");
            return (base, dir);
        }
    }
    unreachable!()
}

#[test]
fn what_a_member_of_a_group_writes_stays_the_groups() {
    if !is_root("what_a_member_of_a_group_writes_stays_the_groups") {
        return;
    }
    let (_base, dir) = killed_everywhere(0o660, "member");
    let path = dir.join("state.json");
    let now = fs::metadata(&path).unwrap();
    assert_eq!((now.uid(), now.gid(), mode(&path)), (BOB, GROUP, 0o660));
    let anns = std::thread::spawn(move || {
        become_user(ANN, GROUP, &[]);
        put(&dir, 3).unwrap()
    });
    assert_eq!(anns.join().unwrap(), Put::Stored);
    let now = fs::metadata(&path).unwrap();
    assert_eq!((now.uid(), now.gid(), mode(&path)), (ANN, GROUP, 0o660));
}

#[test]
fn what_a_group_may_read_another_does_not_get() {
    if !is_root("what_a_group_may_read_another_does_not_get") {
        return;
    }
    let (_base, dir) = killed_everywhere(0o664, "stranger");
    let path = dir.join("state.json");
    let now = fs::metadata(&path).unwrap();
    assert_eq!(
        (now.uid(), now.gid(), mode(&path)),
        (BOB, BOBS_GROUP, 0o604)
    );
}

// --- access lists ---

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The owner may read and write, one whom the list names read, the group nothing, others nothing.
fn list_of(named: u32) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, NOBODY),
        (2, 4, named),
        (4, 0, NOBODY),
        (0x10, 4, NOBODY),
        (0x20, 0, NOBODY),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(may.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn list(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1024];
    let len = rustix::fs::getxattr(path, ACCESS, &mut bytes[..]).ok()?;
    bytes.truncate(len);
    Some(bytes)
}

/// If the file system has such lists.
fn set_list(path: &Path, which: &str, named: u32) -> bool {
    match rustix::fs::setxattr(path, which, &list_of(named), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => false,
        set => set.map(|()| true).unwrap(),
    }
}

#[test]
fn whom_an_access_list_names_stays_named() {
    for dir in [tempdir(), in_memory()] {
        let path = dir.path().join("state.json");
        assert_eq!(put(dir.path(), 1).unwrap(), Put::Stored);
        if !set_list(&path, ACCESS, ANN) {
            let why = "the file system has no access lists";
            skipped("whom_an_access_list_names_stays_named", why);
            continue;
        }
        let before = (list(&path), mode(&path));
        assert_eq!(put(dir.path(), 2).unwrap(), Put::Stored);
        assert_eq!((list(&path), mode(&path)), before);
        // Where it cannot be given on, its mask is not made the group's right.
        Worker::start(UNLISTED, &[dir.path().to_str().unwrap()]).finish();
        assert_eq!((list(&path), mode(&path)), (None, 0o600));
        // And what a directory has in store for new files is not for those that replace others.
        chmod(&path, 0o640);
        assert!(set_list(dir.path(), DEFAULT, BOB));
        assert_eq!(put(dir.path(), 4).unwrap(), Put::Stored);
        assert_eq!((list(&path), mode(&path)), (None, 0o640));
    }
}

/// DIR: puts a state where no access list can be set.
fn put_unlisted(args: &[&str]) {
    let dir = Path::new(args[0]);
    let scratch = dir.join("scratch");
    fs::create_dir(&scratch).unwrap();
    assert_eq!(put(&scratch, 1).unwrap(), Put::Stored);
    assert!(set_list(&scratch.join("state.json"), ACCESS, ANN));
    arm([]);
    assert_eq!(put(&scratch, 2).unwrap(), Put::Stored);
    let at = disarm()
        .iter()
        .position(|&call| call == "fsetxattr")
        .unwrap();
    arm([(at, Fault::Fail(Errno::NOSPC.raw_os_error()))]);
    assert_eq!(put(dir, 3).unwrap(), Put::Stored);
    disarm();
    fs::remove_dir_all(&scratch).unwrap();
}
