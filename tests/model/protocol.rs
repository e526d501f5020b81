//! The model itself: who takes part, and what can happen next.

use stateright::{Model, Property};

use crate::properties;
use crate::state::{At, NAMES, Op, PROCESSES, Process, State, Value};
use crate::step::Step;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Files,
    Trees,
}

/// One thing done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// After `flock`, the path is not looked up again.
    NoPathCheck,
    /// A lock is released before its file is deleted.
    UnlinksAfterUnlock,
    /// A waiter that woke up shared and found nothing goes on as if it held the lock alone.
    ConvertsUpwards,
    /// A waiter that got the lock at last does not look whether somebody else made the value.
    ComputesWithoutLook,
    /// Who stages does not look whether a sweep took the name before the lock was there.
    StagesWithoutLook,
    /// A reader leases the tree that it saw before it had the lock.
    LeasesWithoutLook,
    /// The key's lock, exclusive, becomes the lease by `flock` on the same file.
    ConvertsInPlace,
    /// The staged lock file is renamed over the key's without a look whether it has its name still.
    HandsOverWithoutLook,
    /// A reader that held the lock shared and leased nothing leaves its file to others.
    LeavesLockFile,
    /// A directory without a mark is refused at the first look.
    RefusesAtOnce,
    /// A removal deletes the tree where it stands.
    DeletesInPlace,
    /// A sweep does not look again, under the lock, whether what it found is needed by now.
    SweepsWithoutLook,
    /// A sweep takes what is staged without its lock.
    SweepsWithoutLock,
}

/// Which processes do what.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub kind: Kind,
    pub programs: [[Op; 2]; PROCESSES],
    /// How many processes may die.
    pub deaths: u8,
    /// Whether the file system can exchange two names.
    pub exchange: bool,
    pub mutant: Option<Mutant>,
    /// Whether it is looked for where the model comes, too, which takes time.
    pub tells_reached: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process makes its next system call.
    Call(usize, At),
    /// A process is killed.
    Death(usize),
}

impl Model for Protocol {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        let empty = State {
            value: None,
            sidecar: None,
            lock: None,
            processes: self.programs.map(Process::new),
            deaths: 0,
            wrong: None,
        };
        let is_tree = self.kind == Kind::Trees;
        let stored = State {
            value: Some(Value {
                id: 0,
                is_whole: true,
            }),
            sidecar: is_tree.then_some(0),
            lock: is_tree.then_some(0),
            ..empty
        };
        vec![empty, stored]
    }

    fn actions(&self, state: &State, events: &mut Vec<Event>) {
        for (p, process) in state.processes.iter().enumerate() {
            if process.has_ended() {
                continue;
            }
            events.push(Event::Call(p, process.at));
            if state.deaths < self.deaths && process.at != At::Begin {
                events.push(Event::Death(p));
            }
        }
    }

    fn next_state(&self, last: &State, event: Event) -> Option<State> {
        let mut state = *last;
        match event {
            Event::Call(p, _) => {
                let made = Step {
                    protocol: self,
                    state: &mut state,
                    p,
                }
                .run();
                if !made {
                    return None;
                }
            }
            Event::Death(p) => {
                state.processes[p].die();
                state.deaths += 1;
            }
        }
        state.renumber();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}

impl Protocol {
    /// Every live process waits for a lock that no live process will give up.
    pub fn is_stuck(&self, state: &State) -> bool {
        let mut waiting = state
            .processes
            .iter()
            .enumerate()
            .filter(|(_, process)| !process.has_ended())
            .peekable();
        waiting.peek().is_some() && waiting.all(|(p, _)| self.is_blocked(state, p))
    }

    pub fn is_blocked(&self, state: &State, p: usize) -> bool {
        let process = &state.processes[p];
        matches!(
            process.at,
            At::Flock(_) | At::WaitShared | At::QueueFlock | At::HandShared | At::ConvertShared
        ) && self.next_state(state, Event::Call(p, process.at)).is_none()
    }

    /// What remains when one more process, alone, makes a call after all have ended.
    fn alone(&self, state: &State, op: Op) -> Option<State> {
        let mut state = *state;
        let has_a_name = |process: &Process| (0..NAMES).any(|n| process.names[n].is_empty());
        let p = state.processes.iter().position(has_a_name)?;
        let left = state.processes[p];
        state.processes[p] = Process {
            names: left.names,
            dead: left.dead,
            ..Process::new([op, Op::Idle])
        };
        for _ in 0..1000 {
            if state.processes[p].has_ended() {
                return Some(state);
            }
            state = self.next_state(&state, Event::Call(p, At::Begin))?;
        }
        None
    }

    pub fn have_ended(&self, state: &State) -> bool {
        state.processes.iter().all(Process::has_ended)
    }

    pub fn leaves_nothing(&self, state: &State) -> bool {
        !self.have_ended(state)
            || self
                .alone(state, Op::Sweep)
                .is_some_and(|swept| self.is_clean(&swept) && swept.value == state.value)
    }

    pub fn goes_on(&self, state: &State) -> bool {
        !self.have_ended(state)
            || self
                .alone(state, Op::GetOrSet)
                .is_some_and(|after| after.value.is_some() && after.wrong == state.wrong)
    }

    /// Nothing but the value is there, and, of a tree, its lock file and its sidecar.
    pub fn is_clean(&self, state: &State) -> bool {
        let beside = state.lock.is_some() || state.sidecar.is_some();
        let staged =
            |process: &Process| process.dead || process.names.iter().any(|n| !n.is_empty());
        let beside_tree = self.kind == Kind::Trees && state.value.is_some();
        (!beside || beside_tree) && !state.processes.iter().any(staged)
    }
}
