//! `src/collect.rs`: what a sweep does to the names in `tmp/`, and beside the key's path.

use crate::Mutant;
use crate::state::{At, Came, Held, NAMES, Open, PROCESSES, Staged, Then, Wrong};
use crate::step::{Made, Step, trying};

impl Step<'_> {
    pub fn sweep(&mut self) -> Made {
        match self.me().at {
            At::SweepList => {
                let mut listed = 0;
                for (p, process) in self.state.processes.iter_mut().enumerate() {
                    // Who takes a tree away deletes it too, and does not mind that it is gone.
                    process.dead = false;
                    for name in 0..NAMES {
                        listed |= u16::from(!process.names[name].is_empty()) << (p * NAMES + name);
                    }
                }
                self.me().listed = listed;
                self.next_listed()
            }
            At::SweepOpen | At::SweepFlock | At::SweepCheck => self.sweep_lock(),
            At::SweepAside => {
                self.takes_no_live_one();
                if self.swept().tree.take().is_none() {
                    return self.go(At::SweepSidecar) && self.run();
                }
                self.me().dead = true;
                self.go(At::SweepDelete)
            }
            At::SweepDelete => {
                self.me().dead = false;
                self.go(At::SweepSidecar)
            }
            At::SweepSidecar => {
                self.takes_no_live_one();
                self.swept().sidecar = None;
                self.go(At::SweepUnlink)
            }
            At::SweepUnlink => {
                self.takes_no_live_one();
                self.swept().lock = None;
                self.go(At::SweepUnlock)
            }
            At::SweepUnlock => self.swept_one(),
            At::SweepWalk => {
                let beside = self.state.lock.is_some() || self.state.sidecar.is_some();
                if !beside {
                    return self.end();
                }
                if self.files() {
                    return self.take(trying(false), Then::SweepLocked);
                }
                self.go(At::SweepNeeded)
            }
            At::SweepNeeded => {
                if self.state.value.is_some() {
                    return self.end();
                }
                self.take(trying(true), Then::SweepLocked)
            }
            At::SweepNeededLocked => {
                if self.state.value.is_some() {
                    return self.drop_key(Then::EndOfCall);
                }
                self.call(At::HasTree, Then::RemoveHasTree)
            }
            at => unreachable!("{at:?} is not of sweep"),
        }
    }

    pub fn sweep_then(&mut self, came: Came) -> Made {
        if came != Came::Locked {
            return self.end();
        }
        if self.files() {
            return self.drop_key(Then::EndOfCall);
        }
        if self.is(Mutant::SweepsWithoutLook) {
            return self.call(At::HasTree, Then::RemoveHasTree);
        }
        self.go(At::SweepNeededLocked)
    }

    /// `collect::lock_staged`
    fn sweep_lock(&mut self) -> Made {
        match self.me().at {
            At::SweepOpen => {
                let creates = !self.files();
                let inode = match self.swept().lock {
                    Some(inode) => inode,
                    None if creates => {
                        let inode = self.state.new_inode();
                        self.swept().lock = Some(inode);
                        inode
                    }
                    None => return self.swept_one(),
                };
                self.me().own = Some(Open {
                    inode,
                    held: Held::No,
                });
                self.go(At::SweepFlock)
            }
            At::SweepFlock => {
                if self.is(Mutant::SweepsWithoutLock) {
                    return self.go(At::SweepCheck);
                }
                if !self.flock_own(Held::Exclusive) {
                    return self.swept_one();
                }
                self.go(At::SweepCheck)
            }
            _ => {
                let own = self.me().own.map(|own| own.inode);
                if self.swept().lock != own {
                    return self.swept_one();
                }
                self.go(if self.files() {
                    At::SweepUnlink
                } else {
                    At::SweepAside
                })
            }
        }
    }

    /// The names that it is at.
    fn swept(&mut self) -> &mut Staged {
        let (q, name) = self.swept_at();
        &mut self.state.processes[q].names[name]
    }

    fn swept_at(&mut self) -> (usize, usize) {
        let bit = self.me().listed.trailing_zeros() as usize;
        assert!(bit < PROCESSES * NAMES, "nothing is listed");
        (bit / NAMES, bit % NAMES)
    }

    fn takes_no_live_one(&mut self) {
        let (q, name) = self.swept_at();
        let owner = &self.state.processes[q];
        if owner.is_alive && owner.is_staging && usize::from(owner.name) == name {
            self.wrong(Wrong::SweptWhatIsStaged);
        }
    }

    fn swept_one(&mut self) -> Made {
        self.me().own = None;
        self.me().listed &= self.me().listed - 1;
        self.next_listed()
    }

    fn next_listed(&mut self) -> Made {
        let more = self.me().listed != 0;
        self.go(if more { At::SweepOpen } else { At::SweepWalk })
    }
}
