//! What there is: names, lock files with their `flock`s, and processes.

pub use crate::calls::{At, Came, Op, Then, Want};

/// A lock file's identity, and that of a value or tree. Renumbered after each step, so that two states
/// that differ only in numbers are one.
pub type Inode = u8;
pub type Id = u8;

pub const PROCESSES: usize = 3;

/// Names that one process can have in `tmp/` at once: others where sweeps were faster.
pub const NAMES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    No,
    Shared,
    Exclusive,
}

/// An open file description of a lock file. It is in the table of its process, and goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Open {
    pub inode: Inode,
    pub held: Held,
}

/// A value, or a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    pub id: Id,
    pub is_whole: bool,
}

/// What has a name in `tmp/`: a staged file, which is its own lock file, or a staged tree with what
/// stands beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Staged {
    pub lock: Option<Inode>,
    pub tree: Option<Value>,
    pub sidecar: Option<Id>,
}

impl Staged {
    pub fn is_empty(&self) -> bool {
        *self == Staged::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub is_alive: bool,
    pub ops: [Op; 2],
    pub op: u8,
    pub at: At,
    pub stack: [Then; 4],
    pub depth: u8,
    /// The key's lock file, open; and the lock file of something staged.
    pub key: Option<Open>,
    pub own: Option<Open>,
    /// How this process believes that it holds the key.
    pub believes: Held,
    pub lease: Option<Value>,
    /// It runs a closure of `get_or_set`, or has run it and has not published yet.
    pub computes: bool,
    /// Which of its names it stages at, and whether it knows that it holds that.
    pub name: u8,
    pub is_staging: bool,
    /// Which directory it has opened.
    pub opened: Option<Id>,
    /// The names in `tmp/` that a sweep has listed and not looked at yet, a bit for each.
    pub listed: u16,
    /// Its names in `tmp/`. They outlive it.
    pub names: [Staged; NAMES],
    /// Whether it has a `tmp/dead-…`.
    pub dead: bool,
}

impl Process {
    pub fn new(ops: [Op; 2]) -> Self {
        Process {
            is_alive: true,
            ops,
            op: 0,
            at: At::Begin,
            stack: [Then::Nothing; 4],
            depth: 0,
            key: None,
            own: None,
            believes: Held::No,
            lease: None,
            computes: false,
            name: 0,
            is_staging: false,
            opened: None,
            listed: 0,
            names: [Staged::default(); NAMES],
            dead: false,
        }
    }

    pub fn op(&self) -> Op {
        self.ops
            .get(usize::from(self.op))
            .copied()
            .unwrap_or(Op::Idle)
    }

    /// Whether the lock file of what it stages has its name still.
    pub fn has_its_name(&self) -> bool {
        let own = self.own.map(|own| own.inode);
        own.is_some() && self.names[usize::from(self.name)].lock == own
    }

    pub fn has_ended(&self) -> bool {
        !self.is_alive || self.at == At::Done
    }

    /// The kernel closes its descriptors, and with them its locks go. The names that it made stay.
    pub fn die(&mut self) {
        let computes = self.computes;
        *self = Process {
            is_alive: false,
            at: At::Done,
            names: self.names,
            dead: self.dead,
            ..Process::new([Op::Idle; 2])
        };
        // Remembered only to see that it was reached.
        self.computes = computes;
    }
}

/// What must never be done; the first time that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    ComputedTwice,
    RefusedAnEntry,
    SweptAnEntry,
    SweptWhatIsStaged,
    LostWhatItPublished,
    TooManyNames,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// At the key's path, and beside it.
    pub value: Option<Value>,
    pub sidecar: Option<Id>,
    pub lock: Option<Inode>,
    pub processes: [Process; PROCESSES],
    pub deaths: u8,
    pub wrong: Option<Wrong>,
}

impl State {
    /// Whether the kernel would grant this lock now to an open file description other than those
    /// that hold it.
    pub fn is_free(&self, inode: Inode, wanted: Held, but: (usize, bool)) -> bool {
        for (p, process) in self.processes.iter().enumerate() {
            for (open, who) in [(process.key, (p, false)), (process.own, (p, true))] {
                let Some(open) = open else { continue };
                let conflicts = open.held == Held::Exclusive
                    || (open.held == Held::Shared && wanted == Held::Exclusive);
                if who != but && open.inode == inode && conflicts {
                    return false;
                }
            }
        }
        true
    }

    /// Visits every number of a lock file that somebody knows. Plain loops: a step takes most of its
    /// time for this.
    fn each_inode(&mut self, visit: &mut impl FnMut(&mut Inode)) {
        if let Some(inode) = &mut self.lock {
            visit(inode);
        }
        for process in &mut self.processes {
            if let Some(open) = &mut process.key {
                visit(&mut open.inode);
            }
            if let Some(open) = &mut process.own {
                visit(&mut open.inode);
            }
            for name in &mut process.names {
                if let Some(inode) = &mut name.lock {
                    visit(inode);
                }
            }
        }
    }

    /// The same for values and trees.
    fn each_id(&mut self, visit: &mut impl FnMut(&mut Id)) {
        if let Some(value) = &mut self.value {
            visit(&mut value.id);
        }
        if let Some(id) = &mut self.sidecar {
            visit(id);
        }
        for process in &mut self.processes {
            for name in &mut process.names {
                if let Some(tree) = &mut name.tree {
                    visit(&mut tree.id);
                }
                if let Some(id) = &mut name.sidecar {
                    visit(id);
                }
            }
            if let Some(tree) = &mut process.lease {
                visit(&mut tree.id);
            }
            if let Some(id) = &mut process.opened {
                visit(id);
            }
        }
    }

    /// A number that no lock file has.
    pub fn new_inode(&mut self) -> Inode {
        let mut new = 0;
        self.each_inode(&mut |inode| new = new.max(*inode + 1));
        new
    }

    /// A number that no value has, and no tree.
    pub fn new_id(&mut self) -> Id {
        let mut new = 0;
        self.each_id(&mut |id| new = new.max(*id + 1));
        new
    }

    /// Numbers what is left from 0, in the order in which it is met.
    pub fn renumber(&mut self) {
        let mut inodes = Numbers::default();
        self.each_inode(&mut |inode| *inode = inodes.of(*inode));
        let mut ids = Numbers::default();
        self.each_id(&mut |id| *id = ids.of(*id));
    }
}

/// New numbers for old ones.
#[derive(Default)]
struct Numbers {
    new: [Option<u8>; 32],
    count: u8,
}

impl Numbers {
    fn of(&mut self, old: u8) -> u8 {
        let new = &mut self.new[usize::from(old)];
        if new.is_none() {
            *new = Some(self.count);
            self.count += 1;
        }
        new.unwrap_or_default()
    }
}
