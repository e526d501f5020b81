//! What must hold, why it matters, and what the model must have seen so that it says something.

use stateright::Property;

use crate::protocol::{Kind, Protocol};
use crate::state::{At, Held, Op, Process, State, Value, Want, Wrong};

/// Two that hold a key at once compute twice, or publish over, or delete, what the other relies on.
pub const ONE_HOLDER: &str = "who holds a key exclusively holds it alone";
/// A lost wake-up or a deadlock is a build that hangs until somebody kills it.
pub const NOBODY_STUCK: &str = "nobody waits for ever";
/// What the store is there for: the download happens once. Excused are leaders that died or failed, and
/// values that were removed meanwhile; then nothing is there and nobody is computing.
pub const COMPUTED_ONCE: &str = "nobody computes what is there or is being computed";
/// Whoever was told that a value is published may use it at once.
pub const PUBLISHED: &str = "what is published is there";
/// A sweep runs beside live processes; what it took from them would be a failed build, or a lost value.
pub const SWEEPS_RESIDUE: &str = "a sweep takes only what dead processes left";
/// A cache that is used for years with kills in between must not fill up with what they left.
pub const NO_RESIDUE: &str = "after a sweep nothing is left but what is stored";
/// Nothing has to be repaired after a kill: the next call works as if nothing had happened.
pub const GOES_ON: &str = "whoever comes next gets the value";
/// Without kills nobody has to sweep.
pub const TIDY: &str = "who is not killed leaves nothing";
/// A lease is a path that a compiler reads from for minutes.
pub const LEASED_STAYS: &str = "a leased tree stays";
/// Who comes to take the tree away opens the lock file by its name: if the lease is on another file, it
/// protects nothing, even if nothing has gone yet.
pub const LEASE_NAMED: &str = "a lease is on the lock file that has the key's name";
/// A directory without one is nobody's: it would be refused, and never be removed.
pub const MARKED: &str = "a tree always has a mark";
/// Half a tree that looks like a whole one is a wrong build.
pub const WHOLE: &str = "what is leased is whole";
/// It would be an error that comes and goes with the timing.
pub const NO_STRANGER: &str = "an entry is never taken for a stranger";
/// The model's own: no process needs more names in `tmp/` than it has here.
pub const BOUND: &str = "the model has names enough";

pub fn of(protocol: &Protocol) -> Vec<Property<Protocol>> {
    let mut properties = always();
    if protocol.deaths == 0 {
        properties.push(Property::always(TIDY, |protocol: &Protocol, state| {
            !protocol.have_ended(state) || protocol.is_clean(state)
        }));
    }
    if protocol.kind == Kind::Trees {
        properties.extend(always_of_trees());
    }
    if protocol.tells_reached {
        properties.extend(sometimes());
        properties.extend(sometimes_of_trees());
    }
    properties
}

fn always() -> Vec<Property<Protocol>> {
    vec![
        Property::always(ONE_HOLDER, |_, state: &State| one_holder(state)),
        Property::always(NOBODY_STUCK, |protocol: &Protocol, state| {
            !protocol.is_stuck(state)
        }),
        Property::always(COMPUTED_ONCE, |_, state: &State| {
            state.wrong != Some(Wrong::ComputedTwice)
        }),
        Property::always(PUBLISHED, |_, state: &State| {
            state.wrong != Some(Wrong::LostWhatItPublished)
        }),
        Property::always(SWEEPS_RESIDUE, |_, state: &State| {
            !matches!(
                state.wrong,
                Some(Wrong::SweptAnEntry | Wrong::SweptWhatIsStaged)
            )
        }),
        Property::always(NO_RESIDUE, |protocol: &Protocol, state| {
            protocol.leaves_nothing(state)
        }),
        Property::always(GOES_ON, |protocol: &Protocol, state| {
            protocol.goes_on(state)
        }),
        Property::always(BOUND, |_, state: &State| {
            state.wrong != Some(Wrong::TooManyNames)
        }),
    ]
}

fn always_of_trees() -> Vec<Property<Protocol>> {
    vec![
        Property::always(LEASED_STAYS, |_, state: &State| leased_stays(state)),
        Property::always(LEASE_NAMED, |_, state: &State| leases_are_named(state)),
        Property::always(MARKED, |_, state: &State| {
            state.value.is_none() || state.lock.is_some() || state.sidecar.is_some()
        }),
        Property::always(WHOLE, |_, state: &State| {
            live(state).all(|process| process.lease.is_none_or(|tree| tree.is_whole))
        }),
        Property::always(NO_STRANGER, |_, state: &State| {
            state.wrong != Some(Wrong::RefusedAnEntry)
        }),
    ]
}

fn live(state: &State) -> impl Iterator<Item = &Process> {
    state.processes.iter().filter(|process| process.is_alive)
}

fn one_holder(state: &State) -> bool {
    let count = |held| {
        live(state)
            .filter(|process| process.believes == held)
            .count()
    };
    let exclusive = count(Held::Exclusive);
    exclusive == 0 || (exclusive == 1 && count(Held::Shared) == 0)
}

fn leased_stays(state: &State) -> bool {
    let same = |tree: Value| state.value.map(|value| value.id) == Some(tree.id);
    live(state).all(|process| process.lease.is_none_or(same))
}

fn leases_are_named(state: &State) -> bool {
    let mut leasing = live(state).filter(|process| process.lease.is_some());
    leasing.all(|process| {
        let mut open = [process.key, process.own].into_iter().flatten();
        open.any(|open| open.held == Held::Shared && state.lock == Some(open.inode))
    })
}

/// Where the model must have been, in one of a family of models, with what kind of store.
pub const REACHED_BY_ALL: &[&str] = &[
    "two wait shared for one leader",
    "two waiters wake up at once",
    "a waiter wakes up with a file that has lost its name",
    "a sweep is faster than who stages",
    "somebody removes what another has just published",
];
pub const REACHED_BY_DEATH: &[&str] = &[
    "a waiter takes over from a dead leader",
    "something staged outlives its process",
];
pub const REACHED_BY_TREES: &[&str] = &[
    "two lease at once",
    "a lease comes too late",
    "a removal finds the tree leased",
    "a lease is there before the old lock has gone",
    "a sweep is faster than who hands the lock over",
    "a reader waits between two renames",
];

fn sometimes() -> Vec<Property<Protocol>> {
    let [wait, wake, nameless, swept, removed] = REACHED_BY_ALL else {
        unreachable!("each has a condition")
    };
    let [takes_over, residue] = REACHED_BY_DEATH else {
        unreachable!("each has a condition")
    };
    vec![
        Property::sometimes(wait, |protocol: &Protocol, state: &State| {
            let waits = |p: &usize| {
                state.processes[*p].at == At::WaitShared && protocol.is_blocked(state, *p)
            };
            (0..state.processes.len()).filter(waits).count() > 1
        }),
        Property::sometimes(wake, |_, state: &State| count(state, At::CheckShared) > 1),
        Property::sometimes(nameless, |_, state: &State| {
            live(state).any(|process| {
                matches!(process.at, At::CheckShared | At::QueueCheck)
                    && process.key.map(|key| key.inode) != state.lock
            })
        }),
        Property::sometimes(swept, |_, state: &State| {
            live(state).any(|process| process.at == At::StageLook && !process.has_its_name())
        }),
        Property::sometimes(removed, |_, state: &State| {
            let removes = |process: &Process| {
                process.op() == Op::Remove && matches!(process.at, At::FileUnlink | At::RemoveAside)
            };
            live(state).any(removes) && state.value.is_some_and(|value| value.is_whole)
        }),
        Property::sometimes(takes_over, |_, state: &State| {
            let died = |process: &Process| !process.is_alive && process.computes;
            count(state, At::Compute) > 0 && state.processes.iter().any(died)
        }),
        Property::sometimes(residue, |_, state: &State| {
            let left = |process: &Process| process.names.iter().any(|name| !name.is_empty());
            state
                .processes
                .iter()
                .any(|process| !process.is_alive && left(process))
        }),
    ]
}

fn sometimes_of_trees() -> Vec<Property<Protocol>> {
    let [two, late, leased, before, not_handed, between] = REACHED_BY_TREES else {
        unreachable!("each has a condition")
    };
    vec![
        Property::sometimes(two, |_, state: &State| count(state, At::Leased) > 1),
        Property::sometimes(late, |_, state: &State| {
            count(state, At::TakeAgain) > 0 && state.value.is_none()
        }),
        Property::sometimes(leased, |_, state: &State| {
            let tries = |process: &Process| {
                process.op() == Op::Remove
                    && matches!(process.at, At::Flock(Want { waits: false, .. }))
            };
            live(state).any(tries) && count(state, At::Leased) > 0
        }),
        Property::sometimes(before, |_, state: &State| count(state, At::HandDropOld) > 0),
        Property::sometimes(not_handed, |_, state: &State| {
            live(state).any(|process| process.at == At::HandLook && !process.has_its_name())
        }),
        Property::sometimes(between, |protocol: &Protocol, state: &State| {
            count(state, At::ReplacePlace) > 0
                && (0..state.processes.len()).any(|p| {
                    matches!(
                        state.processes[p].at,
                        At::Flock(Want {
                            held: Held::Shared,
                            ..
                        })
                    ) && protocol.is_blocked(state, p)
                })
        }),
    ]
}

fn count(state: &State, at: At) -> usize {
    live(state).filter(|process| process.at == at).count()
}
