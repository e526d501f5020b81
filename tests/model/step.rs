//! One step of one process: calls, returns, and what all calls have in common.

use crate::state::{
    At, Came, Held, NAMES, Op, Open, Process, Staged, State, Then, Value, Want, Wrong,
};
use crate::{Kind, Mutant, Protocol};

/// One process about to make its next system call.
pub struct Step<'a> {
    pub protocol: &'a Protocol,
    pub state: &'a mut State,
    pub p: usize,
}

/// Whether the call was made; `false`: it blocks.
pub type Made = bool;

pub const EXCLUSIVELY: Want = Want {
    held: Held::Exclusive,
    waits: true,
    creates: true,
};

/// `lock::try_exclusive`
pub fn trying(creates: bool) -> Want {
    Want {
        held: Held::Exclusive,
        waits: false,
        creates,
    }
}

impl Step<'_> {
    pub fn me(&mut self) -> &mut Process {
        &mut self.state.processes[self.p]
    }

    /// The names in `tmp/` of what this process stages.
    pub fn staged(&mut self) -> &mut Staged {
        let me = self.me();
        &mut me.names[usize::from(me.name)]
    }

    pub fn is(&self, mutant: Mutant) -> bool {
        self.protocol.mutant == Some(mutant)
    }

    pub fn files(&self) -> bool {
        self.protocol.kind == Kind::Files
    }

    pub fn go(&mut self, at: At) -> Made {
        self.me().at = at;
        true
    }

    pub fn call(&mut self, at: At, then: Then) -> Made {
        let me = self.me();
        me.stack[usize::from(me.depth)] = then;
        me.depth += 1;
        self.go(at)
    }

    pub fn returns(&mut self, came: Came) -> Made {
        let me = self.me();
        me.depth -= 1;
        let depth = usize::from(me.depth);
        let then = std::mem::replace(&mut me.stack[depth], Then::Nothing);
        match then {
            Then::Nothing => unreachable!("a return from nowhere"),
            Then::EndOfCall => self.end(),
            Then::FileLocked | Then::SetLocked | Then::UnlinkLocked => self.file_then(then, came),
            Then::SweepLocked => self.sweep_then(came),
            Then::Staged => self.go(At::Compute),
            // The staged value goes before the key's lock, in the order of `drop`.
            Then::UnstagedFailed => self.drop_key(Then::EndOfCall),
            then => self.tree_then(then, came),
        }
    }

    pub fn wrong(&mut self, wrong: Wrong) {
        self.state.wrong.get_or_insert(wrong);
    }

    /// The call of the store has returned, and what it gave was dropped.
    pub fn end(&mut self) -> Made {
        let me = self.me();
        let (ops, next) = (me.ops, me.op + 1);
        let (names, dead) = (me.names, me.dead);
        *me = Process {
            op: next,
            names,
            dead,
            ..Process::new(ops)
        };
        if me.op() == Op::Idle {
            // Who has ended is the same whatever it did.
            me.ops = [Op::Idle; 2];
            me.op = 0;
            me.at = At::Done;
        }
        true
    }

    /// Makes the next system call, if it does not block.
    pub fn run(&mut self) -> Made {
        match self.me().at {
            At::Done => false,
            At::Begin => self.begin(),
            At::Open(_) | At::Flock(_) | At::Check(_) => self.lock(),
            At::TryOpen
            | At::TryFlock
            | At::TryCheck
            | At::WaitShared
            | At::CheckShared
            | At::LookShared
            | At::UnlockShared
            | At::QueueOpen
            | At::QueueFlock
            | At::QueueCheck
            | At::LookFree => self.exclusive_or(),
            At::DropLook | At::DropName | At::DropUnlink | At::DropUnlock | At::DropUnlinkLate => {
                self.dropping()
            }
            At::StageCreate
            | At::StageFlock
            | At::StageLook
            | At::StageMkdir
            | At::Compute
            | At::SealSidecar => self.staging(),
            At::UnstageAside
            | At::UnstageDelete
            | At::UnstageSidecar
            | At::UnstageLock
            | At::UnstageUnlock => self.unstaging(),
            At::FileGet
            | At::FileGetLocked
            | At::FileRename
            | At::FilePublished
            | At::FileIsThere
            | At::FileUnlink => self.file(),
            At::SweepList
            | At::SweepOpen
            | At::SweepFlock
            | At::SweepCheck
            | At::SweepAside
            | At::SweepDelete
            | At::SweepSidecar
            | At::SweepUnlink
            | At::SweepUnlock
            | At::SweepWalk
            | At::SweepNeeded
            | At::SweepNeededLocked => self.sweep(),
            _ => self.tree(),
        }
    }

    /// Goes on in the same step: nothing is shared at the beginning of a call.
    fn begin(&mut self) -> Made {
        let files = self.files();
        let op = self.me().op();
        self.me().at = match (op, files) {
            (Op::Idle, _) => return self.end(),
            (Op::Sweep, _) => At::SweepList,
            (Op::GetOrSet | Op::Fail | Op::Get, true) => At::FileGet,
            (Op::Set | Op::Replace, true) => {
                return self.call(At::StageCreate, Then::Staged) && self.run();
            }
            (Op::Remove | Op::Clear, true) => At::FileIsThere,
            (Op::GetOrSet | Op::Fail | Op::Set, false) => {
                return self.call(At::TakeLook, Then::SetTaken) && self.run();
            }
            (Op::Get, false) => return self.call(At::TakeLook, Then::GetTaken) && self.run(),
            (Op::Replace, false) => At::StrangerLook,
            (Op::Remove | Op::Clear, false) => At::RemoveLook,
        };
        self.run()
    }

    /// `staging::create_locked`, and what follows it.
    fn staging(&mut self) -> Made {
        match self.me().at {
            At::StageCreate => {
                let inode = self.state.new_inode();
                let me = self.me();
                let Some(name) = (0..NAMES).find(|name| me.names[*name].is_empty()) else {
                    self.wrong(Wrong::TooManyNames);
                    return self.end();
                };
                me.name = name as u8;
                me.names[name].lock = Some(inode);
                me.own = Some(Open {
                    inode,
                    held: Held::No,
                });
                self.go(At::StageFlock)
            }
            At::StageFlock => {
                if !self.flock_own(Held::Exclusive) {
                    self.me().own = None; // a sweep was faster; another one
                    return self.go(At::StageCreate);
                }
                if self.is(Mutant::StagesWithoutLook) {
                    return self.staged_is_mine();
                }
                self.go(At::StageLook)
            }
            At::StageLook => {
                if !self.me().has_its_name() {
                    self.me().own = None;
                    return self.go(At::StageCreate);
                }
                self.staged_is_mine()
            }
            At::StageMkdir => {
                let id = self.state.new_id();
                self.staged().tree = Some(Value { id, is_whole: true });
                self.returns(Came::Done)
            }
            At::Compute => self.compute(),
            At::SealSidecar => {
                let id = self.staged().tree.map(|tree| tree.id);
                self.staged().sidecar = id;
                self.sealed_tree()
            }
            at => unreachable!("{at:?} is not of staging"),
        }
    }

    /// `StagedFile::drop`, `StagedDir::drop`
    fn unstaging(&mut self) -> Made {
        match self.me().at {
            At::UnstageAside => match self.staged().tree.take() {
                Some(_) => {
                    self.me().dead = true;
                    self.go(At::UnstageDelete)
                }
                None => self.go(At::UnstageSidecar) && self.run(),
            },
            At::UnstageDelete => {
                self.me().dead = false;
                self.go(At::UnstageSidecar)
            }
            At::UnstageSidecar => {
                self.staged().sidecar = None;
                if self.me().own.is_none() {
                    return self.returns(Came::Done);
                }
                self.go(At::UnstageLock)
            }
            At::UnstageLock => {
                self.staged().lock = None;
                self.me().is_staging = false;
                self.go(At::UnstageUnlock)
            }
            At::UnstageUnlock => {
                self.me().own = None;
                self.returns(Came::Done)
            }
            at => unreachable!("{at:?} is not of a drop of what is staged"),
        }
    }

    fn staged_is_mine(&mut self) -> Made {
        self.me().is_staging = true;
        if self.files() {
            return self.returns(Came::Done);
        }
        self.go(At::StageMkdir)
    }

    /// Tries the lock on `own`; what it was held as before is given up, as the kernel does.
    pub fn flock_own(&mut self, held: Held) -> bool {
        let p = self.p;
        let Some(own) = self.me().own else {
            unreachable!("nothing staged is open")
        };
        let free = self.state.is_free(own.inode, held, (p, true));
        if free {
            self.me().own = Some(Open { held, ..own });
        }
        free
    }

    fn compute(&mut self) -> Made {
        let op = self.me().op();
        if matches!(op, Op::GetOrSet | Op::Fail) {
            let p = self.p;
            let others = self.state.processes.iter().enumerate();
            let twice = others
                .filter(|(q, other)| *q != p && other.is_alive && other.computes)
                .count();
            if twice > 0 || self.state.value.is_some() {
                self.wrong(Wrong::ComputedTwice);
            }
            self.me().computes = true;
        }
        match op {
            Op::Fail => {
                self.me().computes = false;
                let at = if self.files() {
                    At::UnstageLock
                } else {
                    At::UnstageAside
                };
                self.call(at, Then::UnstagedFailed)
            }
            _ if self.files() => self.sealed_file(),
            _ => self.go(At::SealSidecar),
        }
    }
}
