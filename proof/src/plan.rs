//! What a writing process does, as a function of seed and number, so that who watches it knows it
//! from the number alone. Pure.

use crate::content::{HEADER, Key, Kind};

/// Keys of each writer in the store of files, and in that of trees.
const FILES: u8 = 8;
const TREES: u8 = 5;
pub(crate) const WRITERS: u8 = 2;

/// What is at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Absent,
    /// What the operation of this number wrote. An empty value bears no number, so that two of them
    /// are the same.
    Value {
        number: u64,
        len: usize,
    },
    Tree {
        number: u64,
    },
}

impl State {
    pub(crate) fn value(number: u64, len: usize) -> Self {
        let number = if len == 0 { 0 } else { number };
        State::Value { number, len }
    }
}

/// What an operation does to one key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect {
    Put(State),
    PutIfAbsent(State),
    Remove,
}

impl Effect {
    pub(crate) fn on(self, before: State) -> State {
        match self {
            Effect::Put(state) => state,
            Effect::PutIfAbsent(state) if before == State::Absent => state,
            Effect::PutIfAbsent(_) => before,
            Effect::Remove => State::Absent,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Set {
        len: usize,
    },
    GetOrSet {
        len: usize,
    },
    /// A write under a lock that was asked for.
    Locked {
        len: usize,
    },
    Remove,
    Batch(Vec<(Key, usize)>),
    ReplaceTree,
    GetOrSetTree,
    RemoveTree,
}

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) number: u64,
    pub(crate) key: Key,
    /// With the barrier that is one `syncfs`, not the default one.
    pub(crate) by_file_system: bool,
    pub(crate) action: Action,
}

impl Step {
    /// The step of this number. Of a hundred of them, `trees` are about trees.
    pub(crate) fn planned(seed: u64, writer: u8, trees: u8, number: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let kind = if rng.u8(..100) < trees {
            Kind::Tree
        } else {
            Kind::File
        };
        let key = |index| Key {
            kind,
            writer,
            index,
        };
        let by_file_system = rng.u8(..4) == 0;
        let (index, action) = match kind {
            Kind::File => {
                let index = rng.u8(..FILES);
                let len = length(&mut rng, index);
                let action = match rng.u8(..100) {
                    0..40 => Action::Set { len },
                    40..58 => Action::GetOrSet { len },
                    58..68 => Action::Locked { len },
                    68..82 => Action::Remove,
                    _ => {
                        let count = usize::from(rng.u8(2..=FILES));
                        let indices = rng.choose_multiple(0..FILES, count).into_iter();
                        let values = indices.map(|i| (key(i), length(&mut rng, i))).collect();
                        Action::Batch(values)
                    }
                };
                (index, action)
            }
            Kind::Tree => {
                let action = match rng.u8(..100) {
                    0..35 => Action::ReplaceTree,
                    35..72 => Action::GetOrSetTree,
                    _ => Action::RemoveTree,
                };
                (rng.u8(..TREES), action)
            }
        };
        Step {
            number,
            key: key(index),
            by_file_system,
            action,
        }
    }

    pub(crate) fn is_removal(&self) -> bool {
        matches!(self.action, Action::Remove | Action::RemoveTree)
    }

    pub(crate) fn effects(&self) -> Vec<(Key, Effect)> {
        let number = self.number;
        let effect = match &self.action {
            Action::Batch(values) => {
                let put = |&(key, len)| (key, Effect::Put(State::value(number, len)));
                return values.iter().map(put).collect();
            }
            &Action::Set { len } | &Action::Locked { len } => {
                Effect::Put(State::value(number, len))
            }
            &Action::GetOrSet { len } => Effect::PutIfAbsent(State::value(number, len)),
            Action::ReplaceTree => Effect::Put(State::Tree { number }),
            Action::GetOrSetTree => Effect::PutIfAbsent(State::Tree { number }),
            Action::Remove | Action::RemoveTree => Effect::Remove,
        };
        vec![(self.key, effect)]
    }
}

/// Empty values are those of one key only: an empty value elsewhere is a torn one.
fn length(rng: &mut fastrand::Rng, index: u8) -> usize {
    match rng.u8(..100) {
        0..25 if index == 0 => 0,
        0..35 => rng.usize(HEADER..300),
        35..80 => rng.usize(300..9_000),
        80..98 => rng.usize(9_000..200_000),
        _ => rng.usize(1_000_000..1_400_000),
    }
}

/// All keys of all writers.
pub(crate) fn keys() -> impl Iterator<Item = Key> {
    (0..WRITERS).flat_map(|writer| {
        let files = (0..FILES).map(move |index| (Kind::File, index));
        let trees = (0..TREES).map(move |index| (Kind::Tree, index));
        files.chain(trees).map(move |(kind, index)| Key {
            kind,
            writer,
            index,
        })
    })
}
