//! `src/lock`: a key's lock, taken, waited for, and given up.

use crate::Mutant;
use crate::state::{At, Came, Held, Open, Then, Want};
use crate::step::{Made, Step};

impl Step<'_> {
    /// `file::open_or_create`; `file::open`
    fn open_key(&mut self, creates: bool) -> bool {
        let inode = match self.state.lock {
            Some(inode) => inode,
            None if creates => {
                let inode = self.state.new_inode();
                self.state.lock = Some(inode);
                inode
            }
            None => return false,
        };
        self.me().key = Some(Open {
            inode,
            held: Held::No,
        });
        true
    }

    fn flock_key(&mut self, held: Held) -> bool {
        let p = self.p;
        let Some(key) = self.me().key else {
            unreachable!("the lock file is not open")
        };
        let free = self.state.is_free(key.inode, held, (p, false));
        if free {
            self.me().key = Some(Open { held, ..key });
        }
        free
    }

    /// `KeyLock::confirm`. Where it fails, the unlock and the close are in the same step: who waits
    /// for a file without a name hears of it a moment later, and that is all.
    fn confirm(&mut self) -> bool {
        let is_confirmed = self.is_named() || self.is(Mutant::NoPathCheck);
        let me = self.me();
        let held = me.key.map_or(Held::No, |key| key.held);
        if is_confirmed {
            me.believes = held;
            return true;
        }
        me.key = None;
        false
    }

    /// `lock::exclusive`, `lock::shared`, `lock::try_exclusive`. That a waiting one tries before it
    /// waits changes nothing that anybody can see.
    pub fn lock(&mut self) -> Made {
        match self.me().at {
            At::Open(want) => {
                if !self.open_key(want.creates) {
                    return self.returns(Came::Absent);
                }
                self.go(At::Flock(want))
            }
            At::Flock(want) => {
                if self.flock_key(want.held) {
                    return self.go(At::Check(want));
                }
                if want.waits {
                    return false;
                }
                self.me().key = None;
                self.returns(Came::Busy)
            }
            At::Check(want) => {
                if self.confirm() {
                    return self.returns(Came::Locked);
                }
                self.go(At::Open(want))
            }
            at => unreachable!("{at:?} is not of a lock"),
        }
    }

    /// `file::identity`: whether the lock file that is open is the one at the key's lock path.
    fn is_named(&mut self) -> bool {
        let named = self.state.lock;
        named.is_some() && named == self.me().key.map(|key| key.inode)
    }

    /// What `get_or_set` looks for while it waits for a key.
    fn look(&mut self, held: bool) -> bool {
        (held || self.files()) && self.state.value.is_some()
    }

    pub fn exclusive_or(&mut self) -> Made {
        match self.me().at {
            At::TryOpen => {
                self.open_key(true);
                self.go(At::TryFlock)
            }
            At::TryFlock => {
                let free = self.flock_key(Held::Exclusive);
                self.go(if free { At::TryCheck } else { At::WaitShared })
            }
            At::TryCheck => {
                if self.confirm() {
                    return self.returns(Came::Locked);
                }
                self.go(At::TryOpen)
            }
            At::WaitShared => self.flock_key(Held::Shared) && self.go(At::CheckShared),
            At::CheckShared => {
                if self.confirm() {
                    return self.go(At::LookShared);
                }
                // A tree is not looked at without a lock, and that is no call.
                self.go(if self.files() {
                    At::LookFree
                } else {
                    At::TryOpen
                })
            }
            At::LookShared => {
                if self.look(true) {
                    return self.returns(Came::MadeShared);
                }
                if self.is(Mutant::ConvertsUpwards) {
                    self.me().believes = Held::Exclusive;
                    return self.returns(Came::Locked);
                }
                self.go(At::UnlockShared)
            }
            At::UnlockShared => {
                self.me().key = None;
                self.me().believes = Held::No;
                self.go(At::QueueOpen)
            }
            At::QueueOpen => {
                self.open_key(true);
                self.go(At::QueueFlock)
            }
            At::QueueFlock => self.flock_key(Held::Exclusive) && self.go(At::QueueCheck),
            At::QueueCheck => {
                if self.confirm() {
                    return self.returns(Came::Locked);
                }
                self.go(if self.files() {
                    At::LookFree
                } else {
                    At::TryOpen
                })
            }
            At::LookFree => {
                if self.look(false) {
                    return self.returns(Came::MadeFree);
                }
                self.go(At::TryOpen)
            }
            at => unreachable!("{at:?} is not of exclusive_or"),
        }
    }

    /// Drops the key's lock, and then returns.
    pub fn drop_key(&mut self, then: Then) -> Made {
        let is_exclusive = self.me().believes == Held::Exclusive;
        let at = match (is_exclusive, self.files()) {
            (false, _) => At::DropUnlock,
            (true, true) => At::DropName,
            (true, false) => At::DropLook,
        };
        self.call(at, then)
    }

    /// `KeyLock::drop`
    pub fn dropping(&mut self) -> Made {
        match self.me().at {
            At::DropLook => {
                let keeps = self.state.value.is_some();
                self.go(if keeps { At::DropUnlock } else { At::DropName })
            }
            At::DropName => {
                let is_named = self.is_named();
                let first = if self.is(Mutant::UnlinksAfterUnlock) {
                    At::DropUnlock
                } else {
                    At::DropUnlink
                };
                self.go(if is_named { first } else { At::DropUnlock })
            }
            At::DropUnlink => {
                self.state.lock = None;
                self.me().believes = Held::No;
                self.go(At::DropUnlock)
            }
            At::DropUnlock => {
                let was_named = self.is_named();
                let exclusive = self.me().believes == Held::Exclusive;
                self.me().key = None;
                self.me().believes = Held::No;
                self.me().lease = None;
                if self.is(Mutant::UnlinksAfterUnlock)
                    && exclusive
                    && was_named
                    && (self.files() || self.state.value.is_none())
                {
                    return self.go(At::DropUnlinkLate);
                }
                self.returns(Came::Done)
            }
            At::DropUnlinkLate => {
                self.state.lock = None;
                self.returns(Came::Done)
            }
            at => unreachable!("{at:?} is not of drop"),
        }
    }

    pub fn take(&mut self, want: Want, then: Then) -> Made {
        self.call(At::Open(want), then)
    }
}
