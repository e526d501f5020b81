//! What a writing process does, as a function of seed and number, so that who watches it knows it
//! from the number alone. Pure.

use crate::content::{HEADER, Key, Kind};

/// Keys of each writer in each of the two stores of files, and in that of trees.
const FILES: u8 = 8;
const TREES: u8 = 5;
pub(crate) const WRITERS: u8 = 2;

/// What is at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Absent,
    /// What the operation of this number wrote, and of that one its metadata, if it is sealed. An empty
    /// value bears no number, so that two of them are the same.
    Value {
        number: u64,
        len: usize,
        metadata: u64,
    },
    Tree {
        number: u64,
    },
}

impl State {
    pub(crate) fn written(number: u64, key: Key, len: usize) -> Self {
        State::Value {
            number: if len == 0 { 0 } else { number },
            len,
            metadata: match key.kind {
                Kind::Sealed => number,
                Kind::Raw | Kind::Tree => 0,
            },
        }
    }
}

/// What an operation does to one key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect {
    Put(State),
    PutIfAbsent(State),
    /// Gives what is there the metadata of this operation.
    Describe(u64),
    Remove,
}

impl Effect {
    pub(crate) fn on(self, before: State) -> State {
        match self {
            Effect::Put(state) => state,
            Effect::PutIfAbsent(state) if before == State::Absent => state,
            Effect::PutIfAbsent(_) => before,
            Effect::Describe(metadata) => match before {
                State::Value { number, len, .. } => State::Value {
                    number,
                    len,
                    metadata,
                },
                absent => absent,
            },
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
    /// A look, which may note in a sealed value that it was found whole.
    Read,
    /// Other metadata for the sealed value that is there.
    Describe,
    Batch(Vec<(Key, usize)>),
    ReplaceTree,
    GetOrSetTree,
    /// A lease, which may note beside the tree that it was found whole.
    ReadTree,
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
        let kind = match rng.u8(..100) {
            share if share < trees => Kind::Tree,
            _ if rng.bool() => Kind::Sealed,
            _ => Kind::Raw,
        };
        let key = |index| Key {
            kind,
            writer,
            index,
        };
        let by_file_system = rng.u8(..4) == 0;
        let (index, action) = match kind {
            Kind::Raw | Kind::Sealed => {
                let index = rng.u8(..FILES);
                let len = length(&mut rng, index);
                let action = match rng.u8(..100) {
                    0..36 => Action::Set { len },
                    36..54 => Action::GetOrSet { len },
                    54..62 => Action::Locked { len },
                    62..74 => Action::Remove,
                    74..78 => Action::Read,
                    78..84 if kind == Kind::Sealed => Action::Describe,
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
                    35..68 => Action::GetOrSetTree,
                    68..74 => Action::ReadTree,
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
                let put = |&(key, len)| (key, Effect::Put(State::written(number, key, len)));
                return values.iter().map(put).collect();
            }
            &Action::Set { len } | &Action::Locked { len } => {
                Effect::Put(State::written(number, self.key, len))
            }
            &Action::GetOrSet { len } => Effect::PutIfAbsent(State::written(number, self.key, len)),
            Action::Describe => Effect::Describe(number),
            Action::Read | Action::ReadTree => return Vec::new(),
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
        let raw = (0..FILES).map(move |index| (Kind::Raw, index));
        let sealed = (0..FILES).map(move |index| (Kind::Sealed, index));
        let trees = (0..TREES).map(move |index| (Kind::Tree, index));
        raw.chain(sealed)
            .chain(trees)
            .map(move |(kind, index)| Key {
                kind,
                writer,
                index,
            })
    })
}
