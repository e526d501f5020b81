//! The operations: what each finds, what it leaves, and how it is called.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use larder::PathKey;

use super::checkpoints;
use super::store::{
    BESIDE, DESCRIBED, KEYS, Kind, NEW, OLD, Setting, State, Store, fill, word_in, word_of,
    word_of_bytes, write_pieces, write_value,
};
use crate::checkpoints::FILE;

pub(super) type Act = fn(&Store) -> anyhow::Result<String>;

/// Something that a process does to a store, once.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) before: State,
    pub(super) after: State,
    pub(super) settings: &'static [Setting],
    /// What it says when it has worked.
    pub(super) says: &'static str,
    /// `None`: it opens the store, and that is all.
    act: Option<Act>,
    /// Whether dead processes have left something in the store.
    littered: bool,
    /// Whether what is at the first key was published without a barrier, and before the last boot.
    unchecked: bool,
}

pub(super) const BARE: State = [None; 5];
pub(super) const NOTHING: State = one(None);
pub(super) const ONE_OLD: State = one(Some(OLD));
pub(super) const ONE_NEW: State = one(Some(NEW));
const ONE_DESCRIBED: State = one(Some(DESCRIBED));

const fn one(word: Option<&'static str>) -> State {
    [word, None, None, None, Some(OLD)]
}

use Setting::{Data, Full, FullSyncfs};
const EACH: &[Setting] = &[Setting::None, Data, Full];
const ENDS: &[Setting] = &[Setting::None, Full];
const BATCHES: &[Setting] = &[Setting::None, Full, FullSyncfs];
/// For what publishes nothing.
const ANY: &[Setting] = &[Data];

fn files(name: &'static str, before: State, after: State, act: Act) -> Operation {
    Operation::new(Kind::Files, name, before, after, act)
}

fn trees(name: &'static str, before: State, after: State, act: Act) -> Operation {
    Operation::new(Kind::Trees, name, before, after, act)
}

fn sealed(name: &'static str, before: State, after: State, act: Act) -> Operation {
    Operation::new(Kind::Sealed, name, before, after, act)
}

impl Operation {
    pub(super) fn new(
        kind: Kind,
        name: &'static str,
        before: State,
        after: State,
        act: Act,
    ) -> Self {
        Operation {
            name,
            kind,
            before,
            after,
            settings: ANY,
            says: "done",
            act: Some(act),
            littered: false,
            unchecked: false,
        }
    }

    pub(super) fn under(self, settings: &'static [Setting]) -> Self {
        Operation { settings, ..self }
    }

    pub(super) fn says(self, says: &'static str) -> Self {
        Operation { says, ..self }
    }

    pub(super) fn littered(self) -> Self {
        Operation {
            littered: true,
            ..self
        }
    }

    fn unchecked(self) -> Self {
        Operation {
            unchecked: true,
            ..self
        }
    }

    pub(super) fn opening(self) -> Self {
        Operation { act: None, ..self }
    }

    /// All of them.
    pub(super) fn all() -> Vec<Operation> {
        let mut all = all_of_files();
        all.extend(all_of_sealed());
        all.extend(all_of_trees());
        all.extend(checkpoints::all());
        all
    }

    pub(super) fn named(name: &str) -> anyhow::Result<Operation> {
        Operation::all()
            .into_iter()
            .find(|operation| operation.name == name)
            .with_context(|| {
                let names: Vec<_> = Operation::all().iter().map(|one| one.name).collect();
                format!(
                    "there is no operation {name}; there are {}",
                    names.join(", ")
                )
            })
    }

    /// Where a key's value is.
    pub(super) fn path(&self, key: &str) -> PathBuf {
        match self.kind {
            Kind::Files | Kind::Sealed | Kind::Trees => key.key(),
            Kind::Checkpoints => FILE.into(),
        }
    }

    /// Whether the store's very directory is to be made.
    pub(super) fn makes_the_store(&self) -> bool {
        self.act.is_none() && self.before == BARE
    }

    /// Whether the tree that it publishes has no sidecar.
    pub(super) fn publishes_by_hand(&self) -> bool {
        self.name == "tree-rename-by-hand"
    }

    /// Whether it is tried again where it fails.
    pub(super) fn is_tried_again(&self) -> bool {
        self.name == "checkpoint-update-again"
    }

    /// Whether something is to be there, or to be gone, that was not. (What is noted of a value that was
    /// there need not be durable.)
    pub(super) fn publishes(&self) -> bool {
        self.makes_the_store() || self.before != self.after
    }

    /// Whether it finds what dead processes have left.
    pub(super) fn is_littered(&self) -> bool {
        self.littered
    }

    /// The keys that it is about, and at least one.
    pub(super) fn keys(&self) -> &'static [&'static str] {
        let last = (0..BESIDE).rfind(|&n| self.before[n].or(self.after[n]).is_some());
        &KEYS[..=last.unwrap_or(0)]
    }

    /// Makes a store as it finds it.
    pub(super) fn prepare(&self, base: &Path) -> anyhow::Result<()> {
        if self.makes_the_store() {
            return Ok(());
        }
        if self.kind == Kind::Checkpoints {
            std::fs::create_dir_all(base)?;
        }
        let store = Store::open(self.kind, Setting::None, base)?;
        for (key, word) in KEYS.iter().zip(self.before) {
            if let Some(word) = word {
                store.put(key, word)?;
            }
        }
        if self.littered {
            litter(self.kind, base)?;
        }
        if self.unchecked {
            reboot(self.kind, base)?;
        }
        Ok(())
    }

    /// The store that is acted on; `None` for what is about to open it.
    pub(super) fn store(&self, setting: Setting, base: &Path) -> anyhow::Result<Option<Store>> {
        Ok(match self.act {
            Some(_) => Some(Store::open(self.kind, setting, base)?),
            None => None,
        })
    }

    pub(super) fn act(
        &self,
        setting: Setting,
        base: &Path,
        store: Option<&Store>,
    ) -> anyhow::Result<String> {
        match (self.act, store) {
            (Some(act), Some(store)) => act(store),
            _ => {
                Store::open(self.kind, setting, base)?;
                Ok(done())
            }
        }
    }
}

fn all_of_files() -> Vec<Operation> {
    let open = files("file-open-new", BARE, BARE, entries).opening();
    vec![
        open,
        files("file-open", ONE_OLD, ONE_OLD, entries).opening(),
        files("file-set", NOTHING, ONE_NEW, set_file)
            .under(EACH)
            .says(NEW),
        files("file-set-again", ONE_OLD, ONE_NEW, set_file)
            .under(EACH)
            .says(NEW),
        files("file-get-or-set", NOTHING, ONE_NEW, get_or_set_file)
            .under(ENDS)
            .says(NEW),
        files("file-get-or-set-hit", ONE_OLD, ONE_OLD, get_or_set_file).says(OLD),
        files("file-get", ONE_OLD, ONE_OLD, get_file).says(OLD),
        files("file-read", ONE_OLD, ONE_OLD, read_file).says(OLD),
        files("file-lock-begin-commit", ONE_OLD, ONE_NEW, commit_file)
            .under(ENDS)
            .says(NEW),
        files("file-remove", ONE_OLD, NOTHING, remove).under(ENDS),
        files(
            "file-batch",
            [None, Some(OLD), None, None, Some(OLD)],
            [Some(NEW), Some(NEW), Some(NEW), Some(NEW), Some(OLD)],
            set_batch,
        )
        .under(BATCHES),
        files(
            "file-clear",
            [Some(OLD), Some(OLD), None, None, None],
            BARE,
            clear,
        )
        .under(ENDS),
        files("file-sweep", ONE_OLD, ONE_OLD, sweep).littered(),
        files("file-entries", ONE_OLD, ONE_OLD, entries).says("2"),
    ]
}

fn all_of_sealed() -> Vec<Operation> {
    let open = sealed("sealed-open-new", BARE, BARE, entries).opening();
    let batch = [None, Some(OLD), None, None, Some(OLD)];
    let all_new = [Some(NEW), Some(NEW), Some(NEW), Some(NEW), Some(OLD)];
    vec![
        open,
        sealed("sealed-set", ONE_OLD, ONE_NEW, set_file)
            .under(ENDS)
            .says(NEW),
        sealed("sealed-get-or-set", NOTHING, ONE_NEW, get_or_set_file)
            .under(ENDS)
            .says(NEW),
        sealed("sealed-batch", batch, all_new, set_batch).under(ENDS),
        sealed("sealed-set-metadata", ONE_OLD, ONE_DESCRIBED, describe_file)
            .under(ENDS)
            .unchecked(),
        sealed("sealed-get-unchecked", ONE_OLD, ONE_OLD, get_file)
            .says(OLD)
            .unchecked(),
        sealed("sealed-read-unchecked", ONE_OLD, ONE_OLD, read_file)
            .says(OLD)
            .unchecked(),
    ]
}

fn all_of_trees() -> Vec<Operation> {
    let open = trees("tree-open-new", BARE, BARE, entries).opening();
    vec![
        open,
        trees("tree-get-or-set", NOTHING, ONE_NEW, get_or_set_tree)
            .under(ENDS)
            .says(NEW),
        trees("tree-get", ONE_OLD, ONE_OLD, get_tree).says(OLD),
        trees("tree-get-unchecked", ONE_OLD, ONE_OLD, get_tree)
            .says(OLD)
            .unchecked(),
        trees("tree-replace", ONE_OLD, ONE_NEW, replace_tree)
            .under(ENDS)
            .says(NEW),
        trees("tree-remove", ONE_OLD, NOTHING, remove).under(ENDS),
        trees("tree-publish", ONE_OLD, ONE_NEW, publish_tree)
            .under(ENDS)
            .says(NEW),
        trees("tree-rename-by-hand", NOTHING, ONE_NEW, rename_tree),
        trees("tree-inherit", ONE_OLD, ONE_OLD, inherit_tree).says(OLD),
        trees(
            "tree-clear",
            [Some(OLD), Some(OLD), None, None, None],
            BARE,
            clear,
        )
        .under(ENDS),
        trees("tree-sweep", ONE_OLD, ONE_OLD, sweep).littered(),
        trees("tree-entries", ONE_OLD, ONE_OLD, entries).says("2"),
    ]
}

pub(super) fn done() -> String {
    "done".to_owned()
}

fn set_file(store: &Store) -> anyhow::Result<String> {
    let value = store.files()?.set(KEYS[0], |w| write_value(w, NEW))?;
    Ok(word_of(value)?.to_owned())
}

fn get_or_set_file(store: &Store) -> anyhow::Result<String> {
    let value = store
        .files()?
        .get_or_set(KEYS[0], |w| write_value(w, NEW))?;
    Ok(word_of(value)?.to_owned())
}

fn get_file(store: &Store) -> anyhow::Result<String> {
    let found = store.files()?.get(KEYS[0])?;
    Ok(found.map_or(Ok("a miss"), word_of)?.to_owned())
}

fn read_file(store: &Store) -> anyhow::Result<String> {
    let found = store.files()?.read(KEYS[0])?;
    Ok(found
        .map_or(Ok("a miss"), |bytes| word_of_bytes(&bytes))?
        .to_owned())
}

fn commit_file(store: &Store) -> anyhow::Result<String> {
    let lock = store.files()?.lock(KEYS[0])?;
    let mut write = lock.begin()?;
    // An error of a write stays with the writer, and comes back with its path.
    let _ = write_pieces(&mut write, NEW);
    Ok(word_of(write.commit()?.detach_unlocked())?.to_owned())
}

fn describe_file(store: &Store) -> anyhow::Result<String> {
    let lock = store.files()?.lock(KEYS[0])?;
    Ok(match lock.set_metadata(DESCRIBED.as_bytes())? {
        true => done(),
        false => "a miss".to_owned(),
    })
}

fn remove(store: &Store) -> anyhow::Result<String> {
    let removed = match store {
        Store::Files(store) => store.remove(KEYS[0])?,
        other => other.trees()?.remove(KEYS[0])?,
    };
    Ok(if removed {
        done()
    } else {
        "nothing removed".to_owned()
    })
}

fn set_batch(store: &Store) -> anyhow::Result<String> {
    let mut batch = store.files()?.batch();
    for key in &KEYS[..BESIDE] {
        batch.set(*key, |w| write_value(w, NEW))?;
    }
    batch.commit()?;
    Ok(done())
}

/// What is kept it says, and that is no success.
fn clear(store: &Store) -> anyhow::Result<String> {
    Ok(said_of(&store.clear()?))
}

fn sweep(store: &Store) -> anyhow::Result<String> {
    Ok(said_of(&store.sweep()?))
}

fn said_of(report: &larder::GcReport) -> String {
    if report.kept.is_empty() {
        done()
    } else {
        "kept".to_owned()
    }
}

fn entries(store: &Store) -> anyhow::Result<String> {
    Ok(store.entries()?.len().to_string())
}

fn get_or_set_tree(store: &Store) -> anyhow::Result<String> {
    let lease = store.trees()?.get_or_set(KEYS[0], |tree| fill(tree, NEW))?;
    Ok(word_in(&lease)?.to_owned())
}

fn get_tree(store: &Store) -> anyhow::Result<String> {
    let found = store.trees()?.get(KEYS[0])?;
    Ok(found
        .map_or(Ok("a miss"), |lease| word_in(&lease))?
        .to_owned())
}

fn replace_tree(store: &Store) -> anyhow::Result<String> {
    let lease = store.trees()?.replace(KEYS[0], |tree| fill(tree, NEW))?;
    Ok(word_in(&lease)?.to_owned())
}

fn publish_tree(store: &Store) -> anyhow::Result<String> {
    let lock = store.trees()?.lock(KEYS[0])?;
    let staged = lock.tempdir()?;
    fill(staged.path(), NEW)?;
    Ok(word_in(&lock.publish(staged)?)?.to_owned())
}

fn rename_tree(store: &Store) -> anyhow::Result<String> {
    let lock = store.trees()?.lock(KEYS[0])?;
    let staged = lock.tempdir()?.into_path();
    fill(&staged, NEW)?;
    std::fs::rename(&staged, &*lock)?;
    Ok(done())
}

fn inherit_tree(store: &Store) -> anyhow::Result<String> {
    let lease = store.trees()?.get(KEYS[0])?.context("a miss")?;
    let mut command = Command::new("true");
    lease.inherit(&mut command)?;
    let mut child = command.spawn()?;
    drop((command, lease));
    child.wait()?;
    let found = store.trees()?.get(KEYS[0])?;
    Ok(found
        .map_or(Ok("a miss"), |lease| word_in(&lease))?
        .to_owned())
}

/// What processes that died at various points leave: staged things of each kind, a lock file and a
/// sidecar without a value, empty directories.
fn litter(kind: Kind, base: &Path) -> anyhow::Result<()> {
    if kind == Kind::Checkpoints {
        return Ok(checkpoints::litter(base)?);
    }
    let tmp = base.join("tmp");
    std::fs::write(tmp.join("f-0123456789"), "half a val")?;
    std::fs::write(tmp.join("m-0123456789"), "")?;
    std::fs::create_dir_all(tmp.join("dead-0123456789/sub"))?;
    std::fs::write(tmp.join("dead-0123456789/sub/file"), "of a tree")?;
    std::fs::write(tmp.join("b-0123456789.lock"), "")?;
    std::fs::create_dir(tmp.join("b-0123456789"))?;
    std::fs::write(tmp.join("b-0123456789/0"), "half a val")?;
    let stale = base.join("killed".key());
    std::fs::create_dir_all(stale.parent().unwrap_or(base))?;
    let beside = |suffix: &str| {
        let mut path = stale.clone().into_os_string();
        path.push(suffix);
        path
    };
    std::fs::write(beside(".lock"), "")?;
    if kind == Kind::Trees {
        std::fs::write(beside(".larder"), "")?;
        std::fs::write(tmp.join("t-0123456789.lock"), "")?;
        fill(&tmp.join("t-0123456789"), NEW)?;
    }
    std::fs::create_dir_all(base.join("-/-/-"))?;
    Ok(())
}

/// Has what is at the first key look as if it was published before the last boot: who was there to
/// speak for it is not known here.
fn reboot(kind: Kind, base: &Path) -> anyhow::Result<()> {
    let value = base.join(KEYS[0].key());
    if kind == Kind::Trees {
        let sidecar = value.with_extension("larder");
        let text = std::fs::read_to_string(&sidecar)?;
        let (before, rest) = text.split_once("standing=boot ").context("a standing")?;
        let after = rest.get(32..).context("a boot id")?;
        let text = format!("{before}standing=boot {}{after}", "0".repeat(32));
        return Ok(std::fs::write(sidecar, text)?);
    }
    let file = std::fs::OpenOptions::new().write(true).open(value)?;
    let witness = file.metadata()?.len() - 24;
    Ok(file.write_all_at(&[0; 24], witness)?)
}
