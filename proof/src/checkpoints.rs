//! A file of checkpoints whose states tell whose they are, for which key, and under which sequence.

pub(crate) mod cut;
pub(crate) mod writer;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use larder::{CheckpointKey, CheckpointStore, Deletion, Put, Wait};

pub(crate) const FILE: &str = "checkpoints.json";

const LOCK: &str = "checkpoints.json.lock";
pub(crate) const STAGED: &str = "checkpoints.json.larder-new";

/// All that may be there, the last where a change was cut off.
pub(crate) const FILES: [&str; 3] = [FILE, LOCK, STAGED];

/// Of few lengths, so that files are often as long as the one before; and together more than a page, so that
/// they are not written at once.
const PADDING: [usize; 4] = [0, 1000, 2000, 3000];

pub(crate) fn key(n: u8) -> CheckpointKey {
    CheckpointKey::of_parts([("key", [n])])
}

/// How far a key has come: nothing is there, and then for each sequence its state, and perhaps after that
/// nothing again. In their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) sequence: u64,
    pub(crate) is_deleted: bool,
}

impl Position {
    pub(crate) const NOTHING: Position = Position::state(0);

    pub(crate) const fn state(sequence: u64) -> Self {
        Position {
            sequence,
            is_deleted: false,
        }
    }

    pub(crate) const fn deleted(sequence: u64) -> Self {
        Position {
            sequence,
            is_deleted: true,
        }
    }

    pub(crate) fn to_number(self) -> u64 {
        self.sequence << 1 | u64::from(self.is_deleted)
    }

    pub(crate) fn of_number(number: u64) -> Self {
        Position {
            sequence: number >> 1,
            is_deleted: number & 1 == 1,
        }
    }
}

/// The state that an author gives a key under a sequence.
pub(crate) fn state(author: u64, key: u8, sequence: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(author ^ sequence.rotate_left(32) ^ u64::from(key));
    let padding = (0..PADDING[rng.usize(..PADDING.len())]).map(|_| rng.alphanumeric());
    format!("{author} {key} {sequence} {}", padding.collect::<String>())
}

/// Whose state it is. An error: nobody wrote this for this key under this sequence.
pub(crate) fn author(found: &str, key: u8, sequence: u64) -> anyhow::Result<u64> {
    let author = found.split(' ').next().and_then(|word| word.parse().ok());
    author
        .filter(|&author| state(author, key, sequence) == found)
        .with_context(|| {
            let some: String = found.chars().take(40).collect();
            format!(
                "key {key} has sequence {sequence} and the state {some:?}…, which is not one of it"
            )
        })
}

/// What is there of a key in a file that nobody changes now, and if that is a state, whose.
pub(crate) fn look(
    store: &CheckpointStore<String>,
    n: u8,
) -> anyhow::Result<(Position, Option<u64>)> {
    let sequence = store.sequence(&key(n))?;
    let found = store.get(&key(n))?;
    let is_listed = store.keys()?.contains(&key(n));
    ensure!(found.is_some() == is_listed, "key {n} is listed wrongly");
    Ok(match (found, sequence) {
        (Some(found), Some(sequence)) => {
            ensure!(found.sequence == sequence, "key {n} has two sequences");
            let author = author(&found.state, n, sequence)?;
            (Position::state(sequence), Some(author))
        }
        (None, Some(sequence)) => (Position::deleted(sequence), None),
        (None, None) => (Position::NOTHING, None),
        (Some(_), None) => anyhow::bail!("key {n} has a state and no sequence"),
    })
}

/// Whoever comes next can go on at once, whatever others have left: puts a state of each key, of which no
/// second is accepted, and deletes some; after which nothing is left over. Returns where each key is then.
pub(crate) fn go_on(
    dir: &Path,
    keys: u8,
    own: u64,
) -> anyhow::Result<Vec<(Position, Option<u64>)>> {
    let store = CheckpointStore::open(dir.join(FILE))?.with_wait(Wait::TryOnce);
    let mut settled = Vec::new();
    for n in 0..keys {
        let sequence = store.sequence(&key(n))?.unwrap_or(0) + 1;
        let stored = sequence;
        let put = store.put(&key(n), sequence, &state(own, n, sequence))?;
        ensure!(put == Put::Stored, "a put after all others is {put:?}");
        let again = store.put(&key(n), sequence, &state(own + 1, n, sequence))?;
        ensure!(again == Put::Stale { stored }, "a second put is {again:?}");
        let is_deleted = n % 2 == 1;
        if is_deleted {
            let deletion = store.delete(&key(n), sequence)?;
            ensure!(deletion == Deletion::Deleted, "a deletion is {deletion:?}");
        }
        let position = Position {
            sequence,
            is_deleted,
        };
        settled.push((position, (!is_deleted).then_some(own)));
    }
    for (n, &settled) in (0..keys).zip(&settled) {
        let found = look(&store, n)?;
        ensure!(
            found == settled,
            "key {n} was brought to {settled:?} and is at {found:?}"
        );
    }
    let left = names(dir)?;
    ensure!(
        left.iter().eq([FILE, LOCK]),
        "after a put there are {left:?}"
    );
    Ok(settled)
}

/// There is nothing but the file, its lock, and what a change that was cut off leaves. Returns whether there
/// is that.
pub(crate) fn left_over(dir: &Path) -> anyhow::Result<bool> {
    let found = names(dir)?;
    let is_known = |name: &String| FILES.contains(&name.as_str());
    ensure!(found.iter().all(is_known), "there are {found:?}");
    Ok(found.contains(STAGED))
}

fn names(dir: &Path) -> anyhow::Result<BTreeSet<String>> {
    let names = fs::read_dir(dir)?.map(|entry| {
        let name = entry?.file_name();
        Ok(name.to_string_lossy().into_owned())
    });
    names.collect()
}
