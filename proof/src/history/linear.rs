//! Is there an order of one key's operations that explains what each of them saw?
//!
//! A key is a register that may be empty. Each operation takes effect at one moment between its
//! beginning and its end; one whose process died, at one moment before the death, or never. The search
//! is the just-in-time linearization of Lowe (*Testing for linearizability*, 2017): it goes through the
//! history once, keeps every state that the register can be in together with which of the operations
//! that are going on have taken effect, and lets one take effect only when the history forces it.
//!
//! An operation that was refused has no effect, and somebody must have been at the key meanwhile:
//! otherwise a store that refuses everything would be right.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Answer, Asked, Event, Number, What};

/// What the register can hold, and which of the operations going on (by slot) have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Possibility {
    state: Number,
    done: u64,
}

#[derive(Clone, Copy, Debug)]
struct Going {
    operation: Number,
    asked: Asked,
    /// Where it is known already: at its end.
    answer: Option<Answer>,
}

impl Going {
    /// What the register can hold after this took effect on `state`, given what it answered.
    fn effects(&self, state: Number) -> impl Iterator<Item = Number> {
        let own = self.operation;
        let after = match (self.asked, self.answer) {
            // Looking changes nothing: before its end there is no use in letting it happen.
            (Asked::Read, Some(Answer::Saw(seen))) => [(seen == state).then_some(state), None],
            (Asked::Contains, Some(Answer::Bool(seen))) => {
                [(seen == (state != 0)).then_some(state), None]
            }
            (Asked::Read | Asked::Contains, _) => [None, None],
            (Asked::Set, _) => [Some(own), None],
            (Asked::GetOrSet, Some(Answer::Saw(seen))) if seen != own => {
                [(seen == state).then_some(state), None]
            }
            // Nobody has ended yet, or it computed: then there was nothing.
            (Asked::GetOrSet, answer) => [
                (state == 0).then_some(own),
                (state != 0 && answer.is_none()).then_some(state),
            ],
            (Asked::Update, Some(Answer::Saw(seen))) => [(seen == state).then_some(own), None],
            (Asked::Update, _) => [Some(own), None],
            (Asked::Remove, Some(Answer::Bool(was))) => [(was == (state != 0)).then_some(0), None],
            (Asked::Remove, _) => [Some(0), None],
            (Asked::Clear, _) => [Some(0), Some(state)],
            (Asked::Sweep, _) => unreachable!("a sweep has no effect, and no slot"),
        };
        after.into_iter().flatten()
    }
}

/// What one key can hold after its whole history, or why no order explains it.
pub(crate) fn check(events: &[Event]) -> Result<BTreeSet<Number>, String> {
    let answers: BTreeMap<Number, Answer> = events
        .iter()
        .filter_map(|event| match event.what {
            What::Ends(answer) => Some((event.operation, answer)),
            _ => None,
        })
        .collect();
    if let Some(at) = refused_by_nobody(events, &answers) {
        let why = "the operation marked with > was refused, and nobody else was at the key";
        return Err(explain(events, at, why));
    }
    let mut going: [Option<Going>; 64] = [None; 64];
    let mut possible = BTreeSet::from([Possibility { state: 0, done: 0 }]);
    for (at, event) in events.iter().enumerate() {
        if let What::Begins(asked) = event.what {
            let answer = answers.get(&event.operation).copied();
            if answer == Some(Answer::Refused) || asked == Asked::Sweep {
                continue;
            }
            let free = going.iter_mut().find(|slot| slot.is_none());
            let slot = free.ok_or("more than 64 operations at once")?;
            let operation = event.operation;
            *slot = Some(Going {
                operation,
                asked,
                answer,
            });
            continue;
        }
        let found = going
            .iter()
            .position(|slot| slot.is_some_and(|going| going.operation == event.operation));
        // What has no effect has no slot.
        let Some(slot) = found else { continue };
        let after = settle(&possible, &going, slot, event.what == What::Died);
        if after.is_empty() {
            let states: BTreeSet<String> = possible.iter().map(|one| name(one.state)).collect();
            let why = format!(
                "no order explains the event marked with >; before it the key held one of {states:?}"
            );
            return Err(explain(events, at, &why));
        }
        possible = after;
        going[slot] = None;
    }
    Ok(possible.into_iter().map(|one| one.state).collect())
}

/// Every possibility in which the operation in `slot`, which ends here, has taken effect; or need not
/// have, if it died.
fn settle(
    possible: &BTreeSet<Possibility>,
    going: &[Option<Going>; 64],
    slot: usize,
    died: bool,
) -> BTreeSet<Possibility> {
    let bit = 1 << slot;
    let mut settled = BTreeSet::new();
    let mut seen = possible.clone();
    let mut open: Vec<Possibility> = possible.iter().copied().collect();
    while let Some(one) = open.pop() {
        let done = one.done & bit != 0;
        if done || died {
            let done = one.done & !bit;
            settled.insert(Possibility { done, ..one });
        }
        if done {
            continue;
        }
        for (other, candidate) in going.iter().enumerate() {
            let Some(candidate) = candidate.filter(|_| one.done & (1 << other) == 0) else {
                continue;
            };
            for state in candidate.effects(one.state) {
                let done = one.done | 1 << other;
                let next = Possibility { state, done };
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
    }
    settled
}

/// The end of an operation that was refused though nothing that could hold the key's lock went on at
/// any time between its beginning and its end. Who is refused itself holds none.
fn refused_by_nobody(events: &[Event], answers: &BTreeMap<Number, Answer>) -> Option<usize> {
    let mut going = BTreeSet::new();
    // Refused ones that go on, and that nobody has been seen beside so far.
    let mut alone = BTreeSet::new();
    for (at, event) in events.iter().enumerate() {
        let operation = event.operation;
        let is_refused = answers.get(&operation) == Some(&Answer::Refused);
        match event.what {
            What::Begins(_) if is_refused => {
                if going.is_empty() {
                    alone.insert(operation);
                }
            }
            What::Begins(_) => {
                going.insert(operation);
                alone.clear();
            }
            What::Ends(_) | What::Died => {
                if alone.contains(&operation) {
                    return Some(at);
                }
                going.remove(&operation);
            }
        }
    }
    None
}

fn explain(events: &[Event], at: usize, why: &str) -> String {
    let mut text = format!("{why}\n");
    for (index, event) in events
        .iter()
        .enumerate()
        .take(at + 1)
        .skip(at.saturating_sub(40))
    {
        let mark = if index == at { '>' } else { ' ' };
        let what = match event.what {
            What::Ends(Answer::Saw(number)) => format!("Ends, saw {}", name(number)),
            ref what => format!("{what:?}"),
        };
        text += &format!(
            "{mark} {} {:>10} {what}\n",
            event.time,
            name(event.operation)
        );
    }
    text
}

/// The process and its operation, as in `17.4`.
fn name(number: Number) -> String {
    match number {
        0 => "nothing".to_owned(),
        number => format!("{}.{}", number >> 32, number & u64::from(u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(time, operation, what)` of one key.
    fn history(events: &[(u64, Number, What)]) -> Vec<Event> {
        let events = events.iter().map(|&(time, operation, what)| Event {
            time,
            operation,
            key: 0,
            what,
        });
        events.collect()
    }

    fn holds(events: &[(u64, Number, What)]) -> Option<Vec<Number>> {
        let states = check(&history(events)).ok()?;
        Some(states.into_iter().collect())
    }

    const SET: What = What::Begins(Asked::Set);
    const READ: What = What::Begins(Asked::Read);
    const DONE: What = What::Ends(Answer::Done);

    fn saw(number: Number) -> What {
        What::Ends(Answer::Saw(number))
    }

    #[test]
    fn one_after_the_other() {
        let good = [(1, 7, SET), (2, 7, DONE), (3, 8, READ), (4, 8, saw(7))];
        assert_eq!(holds(&good), Some(vec![7]));
        let stale = [(1, 7, SET), (2, 7, DONE), (3, 8, READ), (4, 8, saw(0))];
        assert_eq!(holds(&stale), None);
    }

    #[test]
    fn while_it_is_set_a_reader_may_see_either_but_not_go_back() {
        let begins = [(1, 7, SET), (2, 8, READ)];
        for seen in [0, 7] {
            let all = [&begins[..], &[(3, 8, saw(seen)), (4, 7, DONE)]].concat();
            assert_eq!(holds(&all), Some(vec![7]));
        }
        let back = [(3, 8, saw(7)), (4, 9, READ), (5, 9, saw(0)), (6, 7, DONE)];
        assert_eq!(holds(&[&begins[..], &back].concat()), None);
    }

    #[test]
    fn what_died_may_have_happened_but_not_later() {
        let died = [(1, 7, SET), (2, 7, What::Died)];
        assert_eq!(holds(&died), Some(vec![0, 7]));
        let late = [(3, 8, READ), (4, 8, saw(0)), (5, 9, READ), (6, 9, saw(7))];
        assert_eq!(holds(&[&died[..], &late].concat()), None);
    }

    #[test]
    fn two_cannot_both_have_computed() {
        let compute = What::Begins(Asked::GetOrSet);
        let begins = [(1, 7, compute), (2, 8, compute)];
        let both = [(3, 7, saw(7)), (4, 8, saw(8))];
        assert_eq!(holds(&[&begins[..], &both].concat()), None);
        let one = [(3, 7, saw(7)), (4, 8, saw(7))];
        assert_eq!(holds(&[&begins[..], &one].concat()), Some(vec![7]));
    }

    #[test]
    fn an_update_is_one_step() {
        let update = What::Begins(Asked::Update);
        let all = [(1, 7, SET), (2, 7, DONE), (3, 8, update), (4, 9, update)];
        let lost = [(5, 8, saw(7)), (6, 9, saw(7))];
        assert_eq!(holds(&[&all[..], &lost].concat()), None);
        let chain = [(5, 8, saw(9)), (6, 9, saw(7))];
        assert_eq!(holds(&[&all[..], &chain].concat()), Some(vec![8]));
    }

    #[test]
    fn removing_says_whether_there_was_something() {
        let remove = What::Begins(Asked::Remove);
        let was = |truth| What::Ends(Answer::Bool(truth));
        let twice = [(1, 7, SET), (2, 7, DONE), (3, 8, remove), (4, 9, remove)];
        let both = [(5, 8, was(true)), (6, 9, was(true))];
        assert_eq!(holds(&[&twice[..], &both].concat()), None);
        let one = [(5, 8, was(false)), (6, 9, was(true))];
        assert_eq!(holds(&[&twice[..], &one].concat()), Some(vec![0]));
        let refused = [(5, 8, What::Ends(Answer::Refused)), (6, 9, was(true))];
        assert_eq!(holds(&[&twice[..], &refused].concat()), Some(vec![0]));
    }

    #[test]
    fn nobody_is_refused_by_nobody() {
        let remove = What::Begins(Asked::Remove);
        let refused = What::Ends(Answer::Refused);
        let alone = [(1, 7, SET), (2, 7, DONE), (3, 8, remove), (4, 8, refused)];
        assert_eq!(holds(&alone), None);
        let among_refused = [(3, 8, remove), (4, 9, remove), (5, 8, refused)];
        let among_refused = [&among_refused[..], &[(6, 9, refused)]].concat();
        assert_eq!(holds(&among_refused), None);
        for asked in [Asked::Sweep, Asked::Read] {
            let beside = [(1, 7, What::Begins(asked)), (2, 8, remove), (3, 8, refused)];
            let ends = [(4, 7, What::Died)];
            assert_eq!(holds(&[&beside[..], &ends].concat()), Some(vec![0]));
        }
        let later = [(1, 8, remove), (2, 7, SET), (3, 8, refused), (4, 7, DONE)];
        assert_eq!(holds(&later), Some(vec![7]));
    }

    #[test]
    fn who_died_reading_for_itself_may_have_made_the_value() {
        let compute = What::Begins(Asked::GetOrSet);
        let died = [(1, 7, compute), (2, 7, What::Died)];
        assert_eq!(holds(&died), Some(vec![0, 7]));
        // Not over what was there.
        let over = [
            (1, 6, SET),
            (2, 6, DONE),
            (3, 7, compute),
            (4, 7, What::Died),
        ];
        assert_eq!(holds(&over), Some(vec![6]));
    }

    #[test]
    fn a_clear_takes_what_was_there_and_not_what_came_later() {
        let clear = What::Begins(Asked::Clear);
        let all = [(1, 7, SET), (2, 7, DONE), (3, 8, clear), (4, 8, DONE)];
        assert_eq!(holds(&all), Some(vec![0, 7]));
        let later = [(5, 9, SET), (6, 9, DONE), (7, 10, READ), (8, 10, saw(0))];
        assert_eq!(holds(&[&all[..], &later].concat()), None);
    }
}
