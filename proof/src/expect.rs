//! What may be at each key after a power cut. Pure.
//!
//! One process writes a key, so its operations have an order, and what may be left is one of the
//! states between them: with `Full` none before the last that was acknowledged.

use std::collections::BTreeMap;

use crate::content::Key;
use crate::plan::{self, State, Step};
use crate::survives::Survives;
use crate::writers::Record;

/// What is known to be on disk when the writers begin.
pub(crate) type Settled = BTreeMap<Key, State>;

#[derive(Debug)]
pub(crate) struct Expected {
    /// Any of these, in their order.
    pub(crate) allowed: Vec<State>,
    /// After the last call that returned `Ok`.
    pub(crate) acknowledged: State,
    /// What was there when the writers began. It was published without a barrier, and is on disk.
    pub(crate) settled: State,
    /// Nothing began to write the key, so there is nothing that could be torn.
    pub(crate) is_untouched: bool,
}

pub(crate) fn all_absent() -> Settled {
    plan::keys().map(|key| (key, State::Absent)).collect()
}

/// The records of each writer are in their order.
pub(crate) fn expected(
    survives: Survives,
    settled: &Settled,
    records: &[Record<Step>],
) -> BTreeMap<Key, Expected> {
    let mut last = settled.clone();
    let mut all: BTreeMap<Key, Expected> = settled
        .iter()
        .map(|(&key, &state)| {
            let expected = Expected {
                allowed: vec![state],
                acknowledged: state,
                settled: state,
                is_untouched: true,
            };
            (key, expected)
        })
        .collect();
    for record in records {
        for (key, effect) in record.step.effects() {
            let (Some(state), Some(expected)) = (last.get_mut(&key), all.get_mut(&key)) else {
                continue;
            };
            *state = effect.on(*state);
            expected.is_untouched = false;
            if record.done.is_some() {
                expected.acknowledged = *state;
                if survives == Survives::Full {
                    expected.allowed.clear();
                }
            }
            expected.allowed.push(*state);
        }
    }
    all
}
