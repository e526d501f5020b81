//! Operations on a file of checkpoints, and what must hold of it after each.

use std::path::Path;

use anyhow::{Context, ensure};
use larder::{CheckpointKey, CheckpointStore, Deletion, Put};

use super::operation::{Act, BARE, NOTHING, ONE_NEW, ONE_OLD, Operation, done};
use super::store::{AGAIN, KEYS, Kind, NEW, OLD, Setting, State, Store, text_of, word_of_bytes};
use crate::checkpoints::{self, STAGED};

const LASTING: &[Setting] = &[Setting::Data, Setting::Full];
const ONLY_NEW: State = [Some(NEW), None, None, None, None];

pub(super) fn all() -> Vec<Operation> {
    vec![
        checkpoint("checkpoint-open", ONE_OLD, ONE_OLD, get).opening(),
        checkpoint("checkpoint-put-new", BARE, ONLY_NEW, put).under(LASTING),
        checkpoint("checkpoint-put", ONE_OLD, ONE_NEW, put).under(LASTING),
        checkpoint("checkpoint-put-littered", ONE_OLD, ONE_NEW, put)
            .under(LASTING)
            .littered(),
        checkpoint("checkpoint-update", ONE_OLD, ONE_NEW, update).under(LASTING),
        checkpoint("checkpoint-update-again", ONE_OLD, ONE_NEW, update_again).under(LASTING),
        checkpoint("checkpoint-update-same", ONE_OLD, ONE_OLD, update_same).under(LASTING),
        checkpoint("checkpoint-delete", ONE_OLD, NOTHING, delete).under(LASTING),
        checkpoint("checkpoint-get", ONE_OLD, ONE_OLD, get).says(OLD),
    ]
}

fn checkpoint(name: &'static str, before: State, after: State, act: Act) -> Operation {
    Operation::new(Kind::Checkpoints, name, before, after, act)
}

pub(super) fn key(name: &str) -> CheckpointKey {
    CheckpointKey::of_parts([("key", name)])
}

fn put(store: &Store) -> anyhow::Result<String> {
    let store = store.checkpoints()?;
    let sequence = store.sequence(&key(KEYS[0]))?.unwrap_or(0) + 1;
    Ok(match store.put(&key(KEYS[0]), sequence, &text_of(NEW))? {
        Put::Stored => done(),
        Put::Stale { .. } => "stale".to_owned(),
    })
}

fn update(store: &Store) -> anyhow::Result<String> {
    let made = store
        .checkpoints()?
        .update(&key(KEYS[0]), |_| Ok(text_of(NEW)))?;
    ensure!(made.sequence == 2, "its sequence is {}", made.sequence);
    Ok(done())
}

/// By who does not give up.
fn update_again(store: &Store) -> anyhow::Result<String> {
    update(store).or_else(|_| update(store))
}

fn update_same(store: &Store) -> anyhow::Result<String> {
    let same = store
        .checkpoints()?
        .update(&key(KEYS[0]), |old| old.context("a miss"))?;
    ensure!(same.sequence == 1, "its sequence is {}", same.sequence);
    Ok(done())
}

fn delete(store: &Store) -> anyhow::Result<String> {
    Ok(match store.checkpoints()?.delete(&key(KEYS[0]), 1)? {
        Deletion::Deleted => done(),
        other => format!("{other:?}"),
    })
}

/// By who has read nothing before.
fn get(store: &Store) -> anyhow::Result<String> {
    let store = CheckpointStore::<String>::open(store.checkpoints()?.path())?;
    let found = store.get(&key(KEYS[0]))?.context("a miss")?;
    Ok(word_of_bytes(found.state.as_bytes())?.to_owned())
}

/// What a dead process was just writing.
pub(super) fn litter(base: &Path) -> std::io::Result<()> {
    std::fs::write(base.join(STAGED), "{\n\"larder_ch")
}

/// The file is whole, and the old one or the new one; what is beside it hinders nobody who goes on, and goes.
/// Returns the state that was found.
pub(super) fn examine(operation: &Operation, base: &Path) -> anyhow::Result<State> {
    checkpoints::left_over(base)?;
    let store = Store::open(Kind::Checkpoints, Setting::None, base)?;
    let found = state_of(&store)?;
    ensure!(
        found == operation.before || found == operation.after,
        "it was {:?}, was to be {:?}, and is {found:?}",
        operation.before,
        operation.after
    );
    let store = store.checkpoints()?;
    let states = KEYS.iter().zip(found).filter(|(_, word)| word.is_some());
    let mut keys: Vec<_> = states.map(|(name, _)| key(name)).collect();
    keys.sort_unstable();
    ensure!(
        store.keys()? == keys,
        "the keys are not those of the states"
    );
    for (n, name) in KEYS.iter().enumerate() {
        let expected = match found[n] {
            Some(NEW) if operation.before[n].is_some() => Some(2),
            Some(_) => Some(1),
            None => operation.before[n].map(|_| 1),
        };
        let sequence = store.sequence(&key(name))?;
        ensure!(
            sequence == expected,
            "{name:?} is {:?} under {sequence:?}, and not {expected:?}",
            found[n]
        );
    }
    checkpoints::go_on(base, 2, 7)?;
    let store = Store::open(Kind::Checkpoints, Setting::None, base)?;
    ensure!(state_of(&store)? == found, "a put changed another key");
    store.put(KEYS[0], AGAIN).context("put again")?;
    ensure!(store.word(KEYS[0])? == Some(AGAIN), "it was put in vain");
    Ok(found)
}

fn state_of(store: &Store) -> anyhow::Result<State> {
    let mut state: State = [None; 5];
    for (word, key) in state.iter_mut().zip(KEYS) {
        *word = store.word(key).with_context(|| format!("get {key:?}"))?;
    }
    Ok(state)
}
