//! What must hold in a store after a process died in it, or met an error.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};
use larder::PathKey;

use super::checkpoints;
use super::operation::Operation;
use super::store::{AGAIN, BESIDE, KEYS, Kind, Setting, State, Store, listing};
use crate::checkpoints::STAGED;

/// What is done first to a store of which nobody knows what a fault has left in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    Sweep,
    Set,
}

/// Which file or directory is at the path that nobody may touch, and when it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beside(Option<(u64, i64, i64)>);

impl Beside {
    pub(super) fn of(base: &Path) -> Self {
        let meta = base.join(KEYS[BESIDE].key()).symlink_metadata();
        Beside(
            meta.ok()
                .map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec())),
        )
    }
}

/// Each key has its old value or its new one, whole; the listing agrees; nobody waits for what is
/// gone; and a sweep leaves just the files that a store of these values has that never met a fault.
/// Returns the state that was found.
pub(super) fn examine(operation: &Operation, base: &Path, first: First) -> anyhow::Result<State> {
    let kind = operation.kind;
    if kind == Kind::Checkpoints {
        return checkpoints::examine(operation, base);
    }
    let store = Store::open(kind, Setting::None, base).context("open the store afterwards")?;
    let found = state_of(&store)?;
    for (n, key) in KEYS.iter().enumerate() {
        let (before, after) = (operation.before[n], operation.after[n]);
        ensure!(
            found[n] == before || found[n] == after,
            "{key:?} was {before:?}, was to be {after:?}, and is {:?}",
            found[n]
        );
    }
    examine_entries(&store, found)?;
    let mut state = found;
    if first == First::Set {
        set_all(&store, operation, &mut state)?;
    }
    let report = store.sweep().context("sweep")?;
    ensure!(report.kept.is_empty(), "the sweep kept {:?}", report.kept);
    let by_hand = operation.publishes_by_hand() && first == First::Sweep && state[0].is_some();
    let sidecar = format!("{}.larder", KEYS[0].key().display());
    let is_known = |name: &String| !by_hand || *name != sidecar;
    let files: BTreeSet<_> = listing(base)?.into_iter().filter(is_known).collect();
    let expected: BTreeSet<_> = listing_of(kind, state)?
        .into_iter()
        .filter(is_known)
        .collect();
    let [more, fewer] = [files.difference(&expected), expected.difference(&files)]
        .map(|names| names.cloned().collect::<Vec<_>>());
    ensure!(more.is_empty(), "after the sweep there is still {more:?}");
    ensure!(fewer.is_empty(), "after the sweep there is no {fewer:?}");
    ensure!(state_of(&store)? == state, "the sweep changed a value");
    for key in operation.keys() {
        store
            .lock(key)
            .with_context(|| format!("lock {key:?}, which nobody holds"))?;
    }
    if first == First::Sweep {
        set_all(&store, operation, &mut state)?;
    }
    examine_clear(&store, base, state)?;
    Ok(found)
}

/// What is there of what is not published: in `tmp/`, or beside a file of checkpoints.
pub(super) fn staged(kind: Kind, base: &Path) -> anyhow::Result<BTreeSet<String>> {
    if kind == Kind::Checkpoints {
        let mut names = listing(base)?;
        names.retain(|name| name == STAGED);
        return Ok(names);
    }
    let tmp = base.join("tmp");
    if tmp.is_dir() {
        listing(&tmp)
    } else {
        Ok(BTreeSet::new())
    }
}

fn state_of(store: &Store) -> anyhow::Result<State> {
    let mut state: State = [None; 5];
    for (word, key) in state.iter_mut().zip(KEYS) {
        *word = store.word(key).with_context(|| format!("get {key:?}"))?;
    }
    Ok(state)
}

fn examine_entries(store: &Store, state: State) -> anyhow::Result<()> {
    let there = |(key, word): (&&str, Option<_>)| word.map(|_| key.key());
    let expected: BTreeSet<_> = KEYS.iter().zip(state).filter_map(there).collect();
    let listed = store.entries().context("list the entries")?;
    ensure!(
        listed == expected,
        "listed is {listed:?}, and got is {expected:?}"
    );
    Ok(())
}

fn set_all(store: &Store, operation: &Operation, state: &mut State) -> anyhow::Result<()> {
    for (word, key) in state.iter_mut().zip(operation.keys()) {
        store
            .put(key, AGAIN)
            .with_context(|| format!("set {key:?} at once"))?;
        *word = Some(AGAIN);
    }
    ensure!(state_of(store)? == *state, "what was set is not there");
    Ok(())
}

fn examine_clear(store: &Store, base: &Path, state: State) -> anyhow::Result<()> {
    let report = store.clear().context("clear")?;
    let there = state.iter().flatten().count() as u64;
    ensure!(
        (report.removed, report.swept, report.kept.len()) == (there, 0, 0),
        "of {there} entries a clear made {report:?}"
    );
    let left = listing(base)?;
    let bare = [
        "CACHEDIR.TAG",
        "gc.lock",
        "larder-spare",
        "larder-store",
        "tmp/",
    ];
    ensure!(left.iter().eq(bare), "a cleared store has {left:?}");
    Ok(())
}

/// What there is in a store that has this state and never met a fault.
fn listing_of(kind: Kind, state: State) -> anyhow::Result<BTreeSet<String>> {
    type Known = BTreeMap<(Kind, State), BTreeSet<String>>;
    static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(files) = known.get(&(kind, state)) {
        return Ok(files.clone());
    }
    let dir = tempfile::tempdir()?;
    let store = Store::open(kind, Setting::None, dir.path())?;
    for (key, word) in KEYS.iter().zip(state) {
        if let Some(word) = word {
            store.put(key, word)?;
        }
    }
    let files = listing(dir.path())?;
    known.insert((kind, state), files.clone());
    Ok(files)
}
