//! The protocol between processes, as a model in which every interleaving is tried.
//!
//! Three processes and one key. A step is one system call of the real code, so that everything that can
//! come between two calls does, and a process may be killed before each of them. `stateright` visits
//! every state that can be reached, and asks in each for the properties in `properties.rs`. What is
//! right about the protocol is in `docs/protocol.md`; this is where it is tried.
//!
//! Modelled:
//!
//! - the names at the key's path and beside it (value or tree, lock file, sidecar) and those of each
//!   process in `tmp/` (staged value or tree, its lock file, its sidecar, a dead tree), with the identity
//!   of what they name;
//! - `flock`, by open file description: shared, exclusive, tried or waited for, dropped by the kernel
//!   when a process dies, and changed from exclusive to shared in two steps, as the manual allows;
//! - `get_or_set` (and one whose closure fails), `set`, `get`, `replace` with and without an exchange of
//!   names, `remove`, `clear`, `sweep`, and leases, which are held for a while;
//! - one call or two for each process, in all combinations of three calls and some of more, from an empty
//!   store and from one with a value.
//!
//! | steps | of |
//! | --- | --- |
//! | `Open`, `Flock`, `Check` | `lock::exclusive`, `lock::shared`, `lock::try_exclusive` |
//! | `TryOpen` … `LookFree` | `lock::exclusive_or` |
//! | `Drop…` | `KeyLock::drop` |
//! | `Stage…`, `Unstage…` | `staging::create_locked`, `StagedDir::new`, both `drop`s, `staging::discard` |
//! | `File…` | `file_store`, `publish::file`, `publish::remove_file`, `collect::remove_entry` |
//! | `Take…`, `MadeLook` | `lease::take`, `lease::under` |
//! | `Stranger…` | `presence::refuse_strangers` |
//! | `Has…`, `Place…`, `Replace…`, `Exchange` | `publish::has_tree`, `place_tree`, `replace_tree` |
//! | `Hand…` | `StagedDir::hand_over_lock`, `KeyLock::replaced_by` |
//! | `Remove…` | `KVDirStore::remove`, `publish::remove_tree` |
//! | `Sweep…` | `collect::sweep_staged`, `sweep_file`, `sweep_dir`, `take_beside` |
//!
//! Not modelled: waits that can be ended (they try again and again, and hold no lock meanwhile but, for
//! trees, a shared one for a moment); errors other than those that the protocol makes itself; power
//! cuts; network file systems and overlays; directories on the way to a key; holders' records; threads
//! and forks, which share descriptors; batches, which are as many `set`s; a client that renames its own
//! tree into place; starvation, which `flock` allows. Two calls are one step where nobody else can tell:
//! a look and an unlink under the key's lock, an unlock and the close after a failed look at the path.
//!
//! The model is not made from the source but beside it: who changes the order of calls there changes it
//! here. That the properties can fail is shown by mutants, each of which is one thing left out.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub
)]

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use self::properties::{
    COMPUTED_ONCE, LEASE_NAMED, LEASED_STAYS, NO_STRANGER, ONE_HOLDER, PUBLISHED, REACHED_BY_ALL,
    REACHED_BY_DEATH, REACHED_BY_TREES, SWEEPS_RESIDUE, TIDY, WHOLE,
};
use self::protocol::{Kind, Mutant, Protocol};
use self::state::Op::{self, Clear, Fail, Get, GetOrSet, Idle, Remove, Replace, Set, Sweep};

mod calls;
mod files;
mod locking;
mod properties;
mod protocol;
mod state;
mod step;
mod sweeping;
mod trees;

type Programs = [[Op; 2]; 3];

/// A family of models, and what came of it.
struct Family {
    name: &'static str,
    began: Instant,
    models: usize,
    states: usize,
    reached: BTreeSet<&'static str>,
}

impl Family {
    fn new(name: &'static str) -> Self {
        Family {
            name,
            began: Instant::now(),
            models: 0,
            states: 0,
            reached: BTreeSet::new(),
        }
    }

    fn check(&mut self, protocol: Protocol) {
        let told = format!("{protocol:?}");
        let checker = protocol.checker().spawn_bfs().join();
        self.models += 1;
        self.states += checker.unique_state_count();
        for (name, path) in checker.discoveries() {
            if checker
                .model()
                .property(name)
                .expectation
                .discovery_is_failure()
            {
                panic!(
                    "it does not hold that {name}, in {told}: {:?}",
                    path.into_actions()
                );
            }
            self.reached.insert(name);
        }
    }

    /// All that three processes can do with a call each.
    fn check_all_of(&mut self, ops: &[Op], protocol: &Protocol) {
        for (i, a) in ops.iter().enumerate() {
            for (j, b) in ops[i..].iter().enumerate() {
                for c in &ops[i + j..] {
                    self.check(Protocol {
                        programs: [*a, *b, *c].map(|op| [op, Idle]),
                        ..protocol.clone()
                    });
                }
            }
        }
    }

    fn end(self, reached: &[&[&'static str]]) {
        for name in reached.iter().copied().flatten() {
            assert!(self.reached.contains(name), "never reached: {name}");
        }
        println!(
            "{}: {} models, {} states, {:.1} s",
            self.name,
            self.models,
            self.states,
            self.began.elapsed().as_secs_f64()
        );
    }
}

fn of(kind: Kind, deaths: u8) -> Protocol {
    Protocol {
        kind,
        programs: [[Idle; 2]; 3],
        deaths,
        exchange: true,
        mutant: None,
        tells_reached: false,
    }
}

const OF_FILES: &[Op] = &[GetOrSet, Fail, Set, Remove, Clear, Sweep];
/// Who fails does, of trees, little that who is killed does not.
const OF_TREES: &[Op] = &[GetOrSet, Get, Replace, Remove, Sweep];

#[test]
fn files() {
    let mut family = Family::new("files");
    family.check_all_of(OF_FILES, &of(Kind::Files, 0));
    family.end(&[]);
}

#[test]
fn files_with_two_deaths() {
    let mut family = Family::new("files, two deaths");
    family.check_all_of(OF_FILES, &of(Kind::Files, 2));
    family.end(&[]);
}

#[test]
fn trees_without_exchange() {
    let mut family = Family::new("trees, no exchange");
    let protocol = Protocol {
        exchange: false,
        ..of(Kind::Trees, 0)
    };
    family.check_all_of(OF_TREES, &protocol);
    family.end(&[]);
}

#[test]
fn trees_with_a_death() {
    let mut family = Family::new("trees, a death");
    family.check_all_of(OF_TREES, &of(Kind::Trees, 1));
    family.end(&[]);
}

/// What holds everywhere says nothing where the model never comes.
#[test]
fn the_model_comes_where_it_is_dangerous() {
    let mut family = Family::new("files, where they come");
    let reaching = |kind, deaths, ops: [Op; 3]| Protocol {
        programs: ops.map(|op| [op, Idle]),
        exchange: false,
        tells_reached: true,
        ..of(kind, deaths)
    };
    family.check(reaching(Kind::Files, 1, [GetOrSet, GetOrSet, GetOrSet]));
    family.check(reaching(Kind::Files, 0, [GetOrSet, Remove, Sweep]));
    family.end(&[REACHED_BY_ALL, REACHED_BY_DEATH]);

    let mut family = Family::new("trees, where they come");
    family.check(reaching(Kind::Trees, 1, [GetOrSet, GetOrSet, GetOrSet]));
    family.check(reaching(Kind::Trees, 0, [GetOrSet, Remove, Sweep]));
    family.check(reaching(Kind::Trees, 0, [Replace, Get, Idle]));
    family.end(&[REACHED_BY_ALL, REACHED_BY_DEATH, REACHED_BY_TREES]);
}

/// Two calls of a process, where the second may meet what others made of the first.
#[test]
fn more_calls() {
    let mut family = Family::new("more calls");
    let files: &[Programs] = &[
        [[GetOrSet, Remove], [GetOrSet, Remove], [GetOrSet, Idle]],
        [[Fail, GetOrSet], [Remove, GetOrSet], [Set, Sweep]],
        [[Set, Remove], [Sweep, GetOrSet], [Clear, GetOrSet]],
    ];
    for programs in files {
        family.check(Protocol {
            programs: *programs,
            ..of(Kind::Files, 1)
        });
    }
    let trees: &[Programs] = &[
        [[GetOrSet, Idle], [Sweep, Idle], [Sweep, Remove]],
        [[GetOrSet, Remove], [Replace, Idle], [Get, Remove]],
        [[Fail, GetOrSet], [GetOrSet, Idle], [Sweep, Idle]],
        [[Remove, GetOrSet], [Fail, Idle], [Remove, Idle]],
    ];
    for programs in trees {
        family.check(Protocol {
            programs: *programs,
            ..of(Kind::Trees, 0)
        });
    }
    family.end(&[]);
}

/// With one thing left out, one thing must no longer hold.
fn fails(mutant: Mutant, kind: Kind, programs: Programs, deaths: u8, property: &'static str) {
    let mutated = Protocol {
        programs,
        mutant: Some(mutant),
        ..of(kind, deaths)
    };
    // Not the mutant alone: the same processes do it right without it.
    let right = Protocol {
        mutant: None,
        ..mutated.clone()
    };
    Family::new("as it is").check(right);
    let checker = mutated
        .checker()
        .finish_when(HasDiscoveries::AllOf([property].into()))
        .spawn_bfs()
        .join();
    let Some(path) = checker.discovery(property) else {
        panic!("{mutant:?} was not found by: {property}");
    };
    println!(
        "{mutant:?}: {} states, {} calls until it does not hold that {property}",
        checker.unique_state_count(),
        path.into_actions().len()
    );
}

fn once(ops: [Op; 3]) -> Programs {
    ops.map(|op| [op, Idle])
}

#[test]
fn without_the_look_at_the_path_two_hold_a_key() {
    let ops = once([GetOrSet, GetOrSet, Set]);
    fails(Mutant::NoPathCheck, Kind::Files, ops, 0, ONE_HOLDER);
    let ops = once([GetOrSet, GetOrSet, Remove]);
    fails(Mutant::NoPathCheck, Kind::Trees, ops, 0, ONE_HOLDER);
}

#[test]
fn with_the_unlink_after_the_unlock_two_hold_a_key() {
    let ops = once([Set, Set, Set]);
    fails(Mutant::UnlinksAfterUnlock, Kind::Files, ops, 0, ONE_HOLDER);
    let ops = once([Fail, GetOrSet, Remove]);
    fails(Mutant::UnlinksAfterUnlock, Kind::Trees, ops, 0, LEASE_NAMED);
}

#[test]
fn with_a_lock_converted_upwards_two_hold_a_key() {
    let ops = once([GetOrSet, GetOrSet, GetOrSet]);
    fails(Mutant::ConvertsUpwards, Kind::Files, ops, 1, ONE_HOLDER);
}

#[test]
fn without_a_look_under_the_lock_a_value_is_computed_twice() {
    let ops = once([GetOrSet, GetOrSet, Idle]);
    fails(
        Mutant::ComputesWithoutLook,
        Kind::Files,
        ops,
        0,
        COMPUTED_ONCE,
    );
}

#[test]
fn without_a_look_at_the_staged_name_a_value_is_lost() {
    let ops = once([GetOrSet, Sweep, Idle]);
    fails(Mutant::StagesWithoutLook, Kind::Files, ops, 0, PUBLISHED);
    let ops = once([GetOrSet, Sweep, Sweep]);
    fails(
        Mutant::StagesWithoutLook,
        Kind::Trees,
        ops,
        0,
        SWEEPS_RESIDUE,
    );
}

#[test]
fn without_a_look_under_the_lock_a_lease_is_of_nothing() {
    let ops = once([Get, Remove, Idle]);
    fails(Mutant::LeasesWithoutLook, Kind::Trees, ops, 0, LEASED_STAYS);
}

#[test]
fn with_a_lock_converted_in_place_a_leased_tree_goes() {
    let ops = once([GetOrSet, Remove, Idle]);
    fails(Mutant::ConvertsInPlace, Kind::Trees, ops, 0, LEASED_STAYS);
}

/// Found by this model in the library: a lock file that two sweeps had to do with got the key's name.
#[test]
fn without_a_look_at_the_lock_that_is_handed_over_a_leased_tree_goes() {
    let ops = [[GetOrSet, Idle], [Sweep, Idle], [Sweep, Remove]];
    let mutant = Mutant::HandsOverWithoutLook;
    fails(mutant, Kind::Trees, ops, 0, LEASE_NAMED);
    fails(mutant, Kind::Trees, ops, 0, LEASED_STAYS);
}

/// Found by this model in the library.
#[test]
fn a_reader_that_leaves_its_lock_file_to_others_leaves_it_for_good() {
    let ops = once([GetOrSet, Remove, Sweep]);
    fails(Mutant::LeavesLockFile, Kind::Trees, ops, 0, TIDY);
}

#[test]
fn without_a_second_look_an_entry_is_refused() {
    let ops = [[Replace, Idle], [Remove, GetOrSet], [Idle, Idle]];
    fails(Mutant::RefusesAtOnce, Kind::Trees, ops, 0, NO_STRANGER);
}

#[test]
fn with_a_removal_in_place_half_a_tree_is_leased() {
    let ops = once([Get, Remove, Idle]);
    fails(Mutant::DeletesInPlace, Kind::Trees, ops, 1, WHOLE);
}

#[test]
fn without_a_look_under_the_lock_a_sweep_takes_an_entry() {
    let ops = once([Fail, GetOrSet, Sweep]);
    fails(
        Mutant::SweepsWithoutLook,
        Kind::Trees,
        ops,
        0,
        SWEEPS_RESIDUE,
    );
}

#[test]
fn without_the_lock_a_sweep_takes_what_is_staged() {
    let ops = once([Set, Sweep, Idle]);
    fails(
        Mutant::SweepsWithoutLock,
        Kind::Files,
        ops,
        0,
        SWEEPS_RESIDUE,
    );
    let ops = once([GetOrSet, Sweep, Idle]);
    fails(
        Mutant::SweepsWithoutLock,
        Kind::Trees,
        ops,
        0,
        SWEEPS_RESIDUE,
    );
}
