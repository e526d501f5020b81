//! What a power cut may leave of a file of checkpoints.
//!
//! The file as a whole is one that was written, so where a change is in it, so is every change that had been
//! acknowledged before that one began. With `Full`, so is every one that was acknowledged at all.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::AddAssign;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use larder::CheckpointStore;

use super::{FILE, Position};
use crate::subject::{Cut, Origin, Subject};
use crate::survives::Survives;
use crate::writers::Record;

/// How many keys there are.
pub(crate) const KEYS: u8 = 4;

/// A file of checkpoints under load.
#[derive(Debug)]
pub(crate) enum Checkpoints {}

/// What a key is brought to, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    key: u8,
    position: Position,
    author: u64,
}

impl Change {
    /// As it is reported.
    pub(crate) fn number(key: u8, position: Position) -> u64 {
        position.to_number() << 8 | u64::from(key)
    }
}

/// Where a key is; and if it has a state, whose.
type Found = (Position, Option<u64>);

/// Of all cuts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    files: u64,
    absent: u64,
    /// What was just being written was there.
    staged: u64,
    /// Keys that are before where somebody was told that they are.
    lost: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.files += other.files;
        self.absent += other.absent;
        self.staged += other.staged;
        self.lost += other.lost;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            files,
            absent,
            staged,
            lost,
        } = self;
        write!(
            f,
            "\n  checkpoints: {files} files whole, {absent} absent, {staged} with a staged one; \
             {lost} keys lost what was acknowledged"
        )
    }
}

impl Subject for Checkpoints {
    type Step = Change;
    type Settled = Vec<Found>;
    type Tally = Tally;

    const NAME: &'static str = "checkpoints, ";
    const ARGUMENTS: &'static [&'static str] = &["--checkpoints"];
    const MIXES: &'static [&'static [u8]] = &[&[20, 20, 20], &[0, 50], &[20]];
    const NEW_EVERY: u64 = 4;
    const BEGINNING: Duration = Duration::from_millis(10);

    /// The directory is the user's, who makes it last.
    fn prepare(caches: &Path) -> io::Result<()> {
        fs::create_dir(caches)?;
        Ok(rustix::fs::syncfs(File::open(caches)?)?)
    }

    fn nothing() -> Vec<Found> {
        vec![(Position::NOTHING, None); usize::from(KEYS)]
    }

    fn step(origin: Origin, number: u64) -> Change {
        Change {
            key: number.to_le_bytes()[0],
            position: Position::of_number(number >> 8),
            author: origin.first,
        }
    }

    fn is_removal(step: &Change) -> bool {
        step.position.is_deleted
    }

    fn check(cut: &Cut<'_, Self>) -> anyhow::Result<(Tally, Vec<Found>)> {
        look(cut).context("VIOLATION")
    }

    /// There is no durability under which a file may be torn.
    fn detects(_: &Tally, _: Survives) -> anyhow::Result<()> {
        Ok(())
    }
}

fn look(cut: &Cut<'_, Checkpoints>) -> anyhow::Result<(Tally, Vec<Found>)> {
    // In a log of writes, there is a time before it.
    fs::create_dir_all(cut.caches)?;
    let is_staged = super::left_over(cut.caches)?;
    let is_there = cut.caches.join(FILE).exists();
    let store = CheckpointStore::open(cut.caches.join(FILE))?;
    let found: Vec<Found> = (0..KEYS)
        .map(|key| super::look(&store, key))
        .collect::<anyhow::Result<_>>()?;
    let lost = judge(cut.survives, cut.settled, cut.records, &found)?;
    let tally = Tally {
        files: u64::from(is_there),
        absent: u64::from(!is_there),
        staged: u64::from(is_staged),
        lost,
    };
    let settled = super::go_on(cut.caches, KEYS, cut.number)?;
    Ok((tally, settled))
}

/// Whether this may be what is left, and how many keys are before where somebody was told that they are.
fn judge(
    survives: Survives,
    settled: &[Found],
    records: &[Record<Change>],
    found: &[Found],
) -> anyhow::Result<u64> {
    // When the last of the changes began that are there.
    let mut last = 0;
    for (key, (&found, &settled)) in (0..).zip(found.iter().zip(settled)) {
        ensure!(
            found.0 >= settled.0,
            "key {key} was at {settled:?}, on the disk, and is at {found:?}"
        );
        if found != settled {
            let (position, author) = found;
            let is_it = |record: &&Record<Change>| {
                let Change {
                    key: of,
                    position: to,
                    author: by,
                } = record.step;
                (of, to) == (key, position) && author.is_none_or(|author| author == by)
            };
            let begun = records
                .iter()
                .filter(is_it)
                .map(|record| record.begun)
                .min();
            let begun = begun.with_context(|| format!("nobody brought key {key} to {found:?}"))?;
            last = last.max(begun);
        }
    }
    let mut made = BTreeSet::new();
    let mut lost = BTreeSet::new();
    for record in records {
        let (change, Some(done)) = (record.step, record.done) else {
            continue;
        };
        let Change { key, position, .. } = change;
        ensure!(
            made.insert((key, position.to_number())),
            "two were told that they brought key {key} to {position:?}"
        );
        let is_at = found[usize::from(key)].0;
        if is_at < position {
            ensure!(
                survives != Survives::Full && done >= last,
                "key {key} is at {is_at:?}, and {change:?} was acknowledged{}",
                if done < last {
                    " before what is there began"
                } else {
                    ""
                }
            );
            lost.insert(key);
        }
    }
    Ok(lost.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes of two keys, by one author each: what they are brought to, from when to when.
    const RECORDS: [(u8, Position, u64, Option<u64>); 4] = [
        (0, Position::state(4), 10, Some(20)),
        (1, Position::state(2), 30, Some(40)),
        (0, Position::deleted(4), 35, Some(50)),
        (1, Position::state(3), 60, None),
    ];

    fn judged(survives: Survives, found: [Position; 2]) -> Option<u64> {
        let records = RECORDS.map(|(key, position, begun, done)| Record {
            step: Change {
                key,
                position,
                author: u64::from(key),
            },
            begun,
            done,
        });
        let settled = [(Position::state(1), Some(9)), (Position::NOTHING, None)];
        let with_author = |(key, position)| match position {
            Position { sequence: 1, .. } => settled[0],
            Position {
                is_deleted: true, ..
            }
            | Position::NOTHING => (position, None),
            position => (position, Some(key)),
        };
        let found = [(0, found[0]), (1, found[1])].map(with_author);
        judge(survives, &settled, &records, &found).ok()
    }

    #[test]
    fn the_file_is_one_that_was_written() {
        const NOTHING: Position = Position::NOTHING;
        let [one, two, three, four] = [1, 2, 3, 4].map(Position::state);
        let gone = Position::deleted(4);
        let in_order = [
            (one, NOTHING, 2),
            (four, NOTHING, 2),
            (four, two, 1),
            (gone, NOTHING, 1),
            (gone, two, 0),
            (gone, three, 0),
        ];
        for (zero, one, lost) in in_order {
            assert_eq!(
                judged(Survives::Data, [zero, one]),
                Some(lost),
                "{zero:?} {one:?}"
            );
            let is_all = lost == 0;
            assert_eq!(
                judged(Survives::Full, [zero, one]).is_some(),
                is_all,
                "{zero:?} {one:?}"
            );
        }
        let not = [
            (one, two),
            (four, three),
            (one, three),
            (three, NOTHING),
            (NOTHING, NOTHING),
            (gone, four),
        ];
        for (zero, one) in not {
            assert_eq!(
                judged(Survives::Data, [zero, one]),
                None,
                "{zero:?} {one:?}"
            );
        }
    }
}
