//! Does what was seen of a key fit one after the other, in the order in which it happened?
//!
//! A key only ever comes to a later position, and who changes it says to which, so no order need be looked
//! for: whatever an operation finds must not be before what any other had found, or made, that ended before this
//! one began.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::path::Path;

use crate::checkpoints::Position;
use crate::history::event::{self, Raw};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// An operation begins that changes nothing.
    Looks,
    /// From now on an operation may bring the key to this position. Who made it of what was there under the
    /// lock knows which one that was.
    Changes {
        to: Position,
        from: Option<Position>,
    },
    /// It has done so.
    Changed,
    /// It ends, and has changed nothing: it found the state of this operation.
    Saw(u64),
    /// The same: it found this sequence, with a state or deleted. 0: nothing.
    Sequence(u64),
    /// The same: it found no state.
    NoState,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) time: u64,
    pub(super) operation: u64,
    pub(super) key: u8,
    pub(super) what: What,
}

impl Event {
    pub(super) fn encode(&self) -> Raw {
        let (tag, number) = match self.what {
            What::Looks => (0, 0),
            What::Changes { to, from: None } => (1, to.to_number()),
            What::Changes {
                to,
                from: Some(from),
            } => (2 + u8::from(from.is_deleted), to.to_number()),
            What::Changed => (4, 0),
            What::Saw(author) => (5, author),
            What::Sequence(sequence) => (6, sequence),
            What::NoState => (7, 0),
        };
        let what = u64::from_le_bytes([tag, self.key, 0, 0, 0, 0, 0, 0]);
        [self.time, self.operation, number, what]
    }

    fn decode([time, operation, number, what]: Raw) -> Option<Self> {
        let [tag, key, ..] = what.to_le_bytes();
        let to = Position::of_number(number);
        let before = |is_deleted| {
            Some(Position {
                sequence: to.sequence.checked_sub(1)?,
                is_deleted,
            })
        };
        let what = match tag {
            0 => What::Looks,
            1 => What::Changes { to, from: None },
            2 | 3 => What::Changes {
                to,
                from: Some(before(tag == 3)?),
            },
            4 => What::Changed,
            5 => What::Saw(number),
            6 => What::Sequence(number),
            7 => What::NoState,
            _ => return None,
        };
        Some(Event {
            time,
            operation,
            key,
            what,
        })
    }
}

/// What a process has written.
pub(super) fn recorded(path: &Path) -> io::Result<Vec<Event>> {
    let events = event::raws(path)?.into_iter().map(Event::decode);
    let events: Option<Vec<Event>> = events.collect();
    events.ok_or_else(|| io::Error::other(format!("{}: a record nobody wrote", path.display())))
}

/// In the order of time. What happened in the same nanosecond overlaps.
pub(super) fn sort(events: &mut [Event]) {
    let begins = |what| matches!(what, What::Looks | What::Changes { .. });
    events.sort_by_key(|event| (event.time, !begins(event.what)));
}

/// A change that was begun.
#[derive(Clone, Copy, Debug)]
struct Begun {
    to: Position,
    from: Option<Position>,
}

/// What is known of a key, up to some event.
#[derive(Debug, Default)]
struct Known {
    /// The latest position that an operation has ended with.
    floor: Position,
    /// What this was when operations began.
    floors: BTreeMap<u64, Position>,
    begun: BTreeMap<u64, Begun>,
    sequences: BTreeSet<u64>,
    last_deletion: Option<Position>,
    /// Whose the positions are that the key is known to have come to.
    made: BTreeMap<Position, u64>,
}

/// Checks the events of one key, in their order.
pub(super) fn check(events: &[Event]) -> Result<(), String> {
    let refused = refused(events);
    let mut known = Known::default();
    for (at, event) in events.iter().enumerate() {
        let checked = match event.what {
            What::Looks => {
                known.floors.insert(event.operation, known.floor);
                Ok(())
            }
            What::Changes { to, from } => {
                known.begin(event.operation, to, from, &refused);
                Ok(())
            }
            ended => known.end(event.operation, ended, &refused),
        };
        checked.map_err(|why| explain(events, at, &why))?;
    }
    known.check_updates()
}

/// The operations that were to change something, and changed nothing.
fn refused(events: &[Event]) -> BTreeSet<u64> {
    let ended =
        |event: &&Event| matches!(event.what, What::Saw(_) | What::Sequence(_) | What::NoState);
    events
        .iter()
        .filter(ended)
        .map(|event| event.operation)
        .collect()
}

impl Known {
    fn begin(
        &mut self,
        operation: u64,
        to: Position,
        from: Option<Position>,
        refused: &BTreeSet<u64>,
    ) {
        self.floors.insert(operation, self.floor);
        if refused.contains(&operation) {
            return;
        }
        self.begun.insert(operation, Begun { to, from });
        if to.is_deleted {
            self.last_deletion = self.last_deletion.max(Some(to));
        } else {
            self.sequences.insert(to.sequence);
        }
    }

    fn end(&mut self, operation: u64, what: What, refused: &BTreeSet<u64>) -> Result<(), String> {
        let floor = self.floors.remove(&operation).unwrap_or_default();
        let seen = match what {
            What::Changed => {
                let to = self.begun.get(&operation).ok_or("nobody began this")?.to;
                if to <= floor {
                    return Err(format!("it had been at {floor:?} before"));
                }
                self.make(to, operation)?;
                to
            }
            What::Saw(author) => {
                let Some(&Begun { to, .. }) = self.begun.get(&author) else {
                    let how = if refused.contains(&author) {
                        "which was refused"
                    } else {
                        "that nobody began"
                    };
                    return Err(format!("it is the state of {author:#x}, {how}"));
                };
                if to < floor {
                    return Err(format!("it had been at {floor:?} before, and is at {to:?}"));
                }
                self.make(to, author)?;
                to
            }
            What::Sequence(0) if floor == Position::NOTHING => floor,
            What::Sequence(sequence) => {
                if Position::deleted(sequence) < floor {
                    return Err(format!("it had been at {floor:?} before"));
                }
                if !self.sequences.contains(&sequence) {
                    return Err("nobody began this sequence".to_owned());
                }
                Position::state(sequence)
            }
            What::NoState => {
                let is_there = floor != Position::NOTHING && !floor.is_deleted;
                if is_there && self.last_deletion < Some(floor) {
                    return Err(format!(
                        "it was at {floor:?}, and nobody began to delete that"
                    ));
                }
                floor
            }
            What::Looks | What::Changes { .. } => return Ok(()),
        };
        self.floor = self.floor.max(seen);
        Ok(())
    }

    /// That the key came to this position by this operation.
    fn make(&mut self, position: Position, by: u64) -> Result<(), String> {
        match self.made.insert(position, by) {
            Some(other) if other != by => {
                Err(format!("{other:#x} and {by:#x} both made {position:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Nobody comes between what an update was given and what it makes of that.
    fn check_updates(&self) -> Result<(), String> {
        for (&to, by) in &self.made {
            let Some(from) = self.begun.get(by).and_then(|begun| begun.from) else {
                continue;
            };
            let between = (Bound::Excluded(from), Bound::Excluded(to));
            if let Some((position, other)) = self.made.range(between).next() {
                return Err(format!(
                    "{by:#x} made {to:?} of {from:?}, and {other:#x} made {position:?}"
                ));
            }
        }
        Ok(())
    }
}

/// The last events up to one, with why that one is not possible.
fn explain(events: &[Event], at: usize, why: &str) -> String {
    let mut text = format!("{why}; the last events, up to that one:");
    for event in &events[at.saturating_sub(20)..=at] {
        let Event {
            time,
            operation,
            what,
            ..
        } = event;
        text.push_str(&format!("\n  {time} {operation:#x} {what:?}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(whats: &[(u64, What)]) -> Result<(), String> {
        let events = whats
            .iter()
            .zip(1..)
            .map(|(&(operation, what), time)| Event {
                time,
                operation,
                key: 3,
                what,
            });
        let through_a_file = events.map(|event| Event::decode(event.encode()).unwrap());
        check(&through_a_file.collect::<Vec<_>>())
    }

    const fn put(sequence: u64) -> What {
        What::Changes {
            to: Position::state(sequence),
            from: None,
        }
    }

    const fn update(from: Position) -> What {
        What::Changes {
            to: Position::state(from.sequence + 1),
            from: Some(from),
        }
    }

    const fn delete(sequence: u64) -> What {
        What::Changes {
            to: Position::deleted(sequence),
            from: None,
        }
    }

    use What::{Changed, Looks, NoState, Saw, Sequence};

    #[test]
    fn what_is_in_order() {
        let history = [
            (1, Looks),
            (1, Sequence(0)),
            (2, put(3)),
            (3, Looks), // it may see it, or not
            (4, Looks),
            (3, NoState),
            (4, Saw(2)),
            (2, Changed),
            (5, put(3)),
            (5, Sequence(3)),
            (6, delete(3)), // its process dies
            (7, update(Position::deleted(3))),
            (8, Looks),
            (8, Saw(2)), // it looked before both
            (7, Changed),
            (9, Looks),
            (9, Sequence(4)),
        ];
        assert_eq!(checked(&history), Ok(()));
    }

    #[test]
    fn what_is_not() {
        let histories: [&[(u64, What)]; 11] = [
            // Lost.
            &[(1, put(1)), (1, Changed), (2, Looks), (2, NoState)],
            &[(1, put(1)), (1, Changed), (2, Looks), (2, Sequence(0))],
            &[(1, put(2)), (1, Changed), (2, put(1)), (2, Changed)],
            // Back, or backwards.
            &[
                (1, put(1)),
                (2, delete(1)),
                (2, Changed),
                (3, Looks),
                (3, Saw(1)),
            ],
            &[
                (1, put(1)),
                (2, put(2)),
                (3, Looks),
                (3, Saw(2)),
                (4, Looks),
                (4, Saw(1)),
            ],
            &[
                (1, put(1)),
                (2, put(2)),
                (3, Looks),
                (3, Saw(2)),
                (4, Looks),
                (4, Sequence(1)),
            ],
            // Two of one sequence.
            &[(1, put(1)), (2, put(1)), (1, Changed), (2, Changed)],
            &[
                (1, put(1)),
                (2, put(1)),
                (3, Looks),
                (1, Changed),
                (3, Saw(2)),
            ],
            // Of nobody, or of who was refused.
            &[(1, Looks), (1, Saw(9))],
            &[
                (1, put(2)),
                (2, put(2)),
                (2, Sequence(2)),
                (3, Looks),
                (3, Saw(2)),
            ],
            // In between.
            &[
                (1, put(1)),
                (1, Changed),
                (2, update(Position::state(1))),
                (3, delete(1)),
                (3, Changed),
                (2, Changed),
            ],
        ];
        for history in histories {
            assert!(checked(history).is_err(), "{history:?}");
        }
    }
}
