//! `src/dir_store`, `src/presence.rs`, and what of `src/publish.rs` and `src/staging.rs` is about trees.

use crate::Mutant;
use crate::state::{At, Came, Held, Op, Open, Then, Value, Want, Wrong};
use crate::step::{EXCLUSIVELY, Made, Step, trying};

impl Step<'_> {
    pub fn tree(&mut self) -> Made {
        match self.me().at {
            At::TakeLook | At::TakeSidecar | At::TakeAgain | At::Leased | At::MadeLook => {
                self.leasing()
            }
            At::StrangerLook
            | At::StrangerLock { .. }
            | At::StrangerSidecar { .. }
            | At::StrangerOpen
            | At::StrangerSame => self.strangers(),
            At::HasTree => {
                if self.state.value.is_some() {
                    return self.returns(Came::Yes);
                }
                self.go(At::HasSidecar)
            }
            // The look and the unlink: nobody else changes it meanwhile.
            At::HasSidecar => {
                self.state.sidecar = None;
                self.returns(Came::No)
            }
            At::PlaceSidecar
            | At::PlaceTree
            | At::ReplaceSidecar
            | At::Exchange
            | At::ReplaceAside
            | At::ReplacePlace => self.publishing(),
            At::RemoveLook
            | At::RemoveAside
            | At::RemoveRest
            | At::RemoveSidecar
            | At::RemoveDelete => self.removing(),
            At::ConvertUnlock | At::ConvertShared => self.converting(),
            _ => self.handing_over(),
        }
    }

    /// `lease::take`, `lease::under`
    fn leasing(&mut self) -> Made {
        match self.me().at {
            At::TakeLook => {
                let seen = self.state.value;
                self.me().opened = seen.map(|tree| tree.id);
                self.go(At::TakeSidecar)
            }
            At::TakeSidecar => {
                let saw_tree = self.me().opened.is_some();
                if !self.is(Mutant::LeasesWithoutLook) {
                    self.me().opened = None;
                }
                let has_sidecar = self.state.sidecar.is_some();
                if !saw_tree && !has_sidecar {
                    return self.returns(Came::Absent);
                }
                let creates = saw_tree && has_sidecar;
                let want = Want {
                    held: Held::Shared,
                    waits: true,
                    creates,
                };
                self.take(want, Then::TakeLocked)
            }
            At::TakeAgain => {
                if self.leases() {
                    return self.returns(Came::Leased);
                }
                self.drop_key(Then::TakeDropped)
            }
            At::MadeLook => {
                if self.leases() {
                    return self.go(At::Leased);
                }
                self.drop_key(Then::SetAgain)
            }
            // The first thing that whoever holds it does is to give it up.
            At::Leased => self.drop_key(Then::EndOfCall) && self.run(),
            at => unreachable!("{at:?} is not of a lease"),
        }
    }

    fn leases(&mut self) -> bool {
        let seen = self.state.value;
        self.me().lease = seen;
        seen.is_some()
    }

    /// `presence::refuse_strangers`
    fn strangers(&mut self) -> Made {
        match self.me().at {
            At::StrangerLook => {
                if self.state.value.is_none() {
                    return self.no_stranger();
                }
                self.go(At::StrangerLock { again: false })
            }
            At::StrangerLock { again } => {
                if self.state.lock.is_some() {
                    return self.no_stranger();
                }
                self.go(At::StrangerSidecar { again })
            }
            At::StrangerSidecar { again } => {
                if self.state.sidecar.is_some() {
                    return self.no_stranger();
                }
                if self.is(Mutant::RefusesAtOnce) {
                    self.wrong(Wrong::RefusedAnEntry);
                }
                self.go(if again {
                    At::StrangerSame
                } else {
                    At::StrangerOpen
                })
            }
            At::StrangerOpen => {
                let Some(tree) = self.state.value else {
                    return self.no_stranger();
                };
                self.me().opened = Some(tree.id);
                self.go(At::StrangerLock { again: true })
            }
            At::StrangerSame => {
                if self.state.value.map(|tree| tree.id) == self.me().opened {
                    self.wrong(Wrong::RefusedAnEntry);
                }
                self.no_stranger()
            }
            at => unreachable!("{at:?} is not of refuse_strangers"),
        }
    }

    fn no_stranger(&mut self) -> Made {
        self.me().opened = None;
        match self.me().op() {
            Op::Replace => self.call(At::StageCreate, Then::Staged),
            _ => self.call(At::TryOpen, Then::TreeLocked),
        }
    }

    pub fn sealed_tree(&mut self) -> Made {
        match self.me().op() {
            Op::Replace => self.take(trying(true), Then::ReplaceTried),
            _ => self.call(At::HasTree, Then::PublishHasTree),
        }
    }

    /// `publish::place_tree`, `publish::replace_tree`
    fn publishing(&mut self) -> Made {
        let at = self.me().at;
        match at {
            At::PlaceSidecar | At::ReplaceSidecar => {
                let sidecar = self.staged().sidecar.take();
                if sidecar.is_none() {
                    self.wrong(Wrong::LostWhatItPublished);
                }
                self.state.sidecar = sidecar;
                self.go(match (at, self.protocol.exchange) {
                    (At::PlaceSidecar, _) => At::PlaceTree,
                    (_, true) => At::Exchange,
                    (_, false) => At::ReplaceAside,
                })
            }
            At::ReplaceAside => {
                self.state.value = None;
                self.me().dead = true;
                self.go(At::ReplacePlace)
            }
            At::PlaceTree | At::ReplacePlace | At::Exchange => {
                let old = self.state.value;
                let staged = self.staged().tree.take();
                if staged.is_none() {
                    self.wrong(Wrong::LostWhatItPublished);
                }
                self.state.value = staged;
                self.staged().tree = old;
                let in_place = self.is(Mutant::ConvertsInPlace);
                let me = self.me();
                me.computes = false;
                me.is_staging = false;
                if in_place {
                    me.opened = staged.map(|tree| tree.id);
                    return self.go(At::ConvertUnlock);
                }
                self.go(At::HandUnlock)
            }
            at => unreachable!("{at:?} is not of publish"),
        }
    }

    /// `StagedDir::hand_over_lock`, `KeyLock::replaced_by`
    fn handing_over(&mut self) -> Made {
        match self.me().at {
            // The kernel turns an exclusive lock into a shared one in two steps, and the second may
            // have to wait.
            At::HandUnlock => {
                let own = self.me().own;
                self.me().own = own.map(|own| Open {
                    held: Held::No,
                    ..own
                });
                self.go(At::HandShared)
            }
            At::HandShared => self.flock_own(Held::Shared) && self.go(At::HandLook),
            At::HandLook => {
                if self.me().has_its_name() || self.is(Mutant::HandsOverWithoutLook) {
                    return self.go(At::HandRename);
                }
                self.published()
            }
            At::HandRename => {
                let Some(renamed) = self.staged().lock.take() else {
                    return self.published();
                };
                self.state.lock = Some(renamed);
                let leased = self.state.value;
                let me = self.me();
                me.lease = leased;
                me.believes = Held::Shared;
                self.go(At::HandDropOld)
            }
            At::HandDropOld => {
                self.me().key = self.me().own.take();
                self.published()
            }
            At::DeleteDead => {
                self.me().dead = false;
                self.published()
            }
            at => unreachable!("{at:?} is not of trees"),
        }
    }

    /// The mutant: the key's own lock, exclusive, becomes a shared one by `flock`.
    fn converting(&mut self) -> Made {
        match self.me().at {
            At::ConvertUnlock => {
                let key = self.me().key;
                let me = self.me();
                me.key = key.map(|key| Open {
                    held: Held::No,
                    ..key
                });
                me.believes = Held::No;
                self.go(At::ConvertShared)
            }
            At::ConvertShared => {
                let p = self.p;
                let Some(key) = self.me().key else {
                    unreachable!("the lock file is not open")
                };
                if !self.state.is_free(key.inode, Held::Shared, (p, false)) {
                    return false;
                }
                let me = self.me();
                me.key = Some(Open {
                    held: Held::Shared,
                    ..key
                });
                me.believes = Held::Shared;
                // What it published, whether it is still there or not.
                me.lease = me.opened.take().map(|id| Value { id, is_whole: true });
                self.published()
            }
            at => unreachable!("{at:?} is not of a conversion"),
        }
    }

    /// What was taken out of the way is deleted, and what is left of the staged tree.
    fn published(&mut self) -> Made {
        if self.me().dead {
            return self.go(At::DeleteDead);
        }
        let leases = self.me().lease.is_some();
        let then = if leases {
            Then::HandedOver
        } else {
            Then::NotHandedOver
        };
        self.call(At::UnstageAside, then)
    }

    /// `KVDirStore::remove`, `publish::remove_tree`
    fn removing(&mut self) -> Made {
        match self.me().at {
            At::RemoveLook => {
                if self.state.value.is_none() {
                    return self.end();
                }
                self.take(trying(true), Then::RemoveLocked)
            }
            At::RemoveAside => {
                if self.me().op() == Op::Sweep {
                    self.wrong(Wrong::SweptAnEntry);
                }
                if self.is(Mutant::DeletesInPlace) {
                    if let Some(tree) = &mut self.state.value {
                        tree.is_whole = false;
                    }
                    return self.go(At::RemoveRest);
                }
                self.state.value = None;
                self.me().dead = true;
                self.go(At::RemoveSidecar)
            }
            At::RemoveRest => {
                self.state.value = None;
                self.go(At::RemoveSidecar)
            }
            At::RemoveSidecar => {
                self.state.sidecar = None;
                self.drop_key(Then::RemoveDropped)
            }
            At::RemoveDelete => {
                self.me().dead = false;
                self.end()
            }
            at => unreachable!("{at:?} is not of remove"),
        }
    }

    pub fn tree_then(&mut self, then: Then, came: Came) -> Made {
        match (then, came) {
            (Then::TakeLocked, Came::Absent) => self.returns(Came::Absent),
            (Then::TakeLocked, Came::Locked) if self.is(Mutant::LeasesWithoutLook) => {
                let me = self.me();
                let Some(id) = me.opened.take() else {
                    return self.go(At::TakeAgain);
                };
                me.lease = Some(Value { id, is_whole: true });
                self.returns(Came::Leased)
            }
            (Then::TakeLocked, Came::Locked) => self.go(At::TakeAgain),
            (Then::TakeDropped, _) if self.is(Mutant::LeavesLockFile) => self.returns(Came::Absent),
            // The lock file may be one that was created for nothing.
            (Then::TakeDropped, _) => self.take(trying(false), Then::TakeTidied),
            (Then::TakeTidied, Came::Locked) => self.drop_key(Then::TakeAbsent),
            (Then::TakeTidied | Then::TakeAbsent, _) => self.returns(Came::Absent),

            (Then::GetTaken | Then::SetTaken | Then::PublishTaken, Came::Leased) => {
                self.go(At::Leased)
            }
            (Then::GetTaken | Then::PublishTaken, _) => self.end(),
            (Then::SetTaken, _) => self.go(At::StrangerLook),
            (Then::SetAgain, _) => self.call(At::TakeLook, Then::SetTaken),
            (Then::TreeLocked, Came::MadeShared) => self.go(At::MadeLook),
            (Then::TreeLocked, _) => self.call(At::HasTree, Then::SetHasTree),
            (Then::SetHasTree, Came::Yes) => self.drop_key(Then::SetAgain),
            (Then::SetHasTree, _) => self.call(At::StageCreate, Then::Staged),

            (Then::ReplaceTried, Came::Busy) => self.take(EXCLUSIVELY, Then::ReplaceLocked),
            (Then::ReplaceTried | Then::ReplaceLocked, _) => {
                self.call(At::HasTree, Then::PublishHasTree)
            }
            (Then::PublishHasTree, Came::Yes) => self.go(At::ReplaceSidecar),
            (Then::PublishHasTree, _) => self.go(At::PlaceSidecar),
            (Then::HandedOver, _) => self.go(At::Leased),
            // The staged tree goes before the key's lock, in the order of `drop`.
            (Then::NotHandedOver, _) => self.drop_key(Then::Published),
            (Then::Published, _) => self.call(At::TakeLook, Then::PublishTaken),

            (Then::RemoveLocked, Came::Busy) => self.end(),
            (Then::RemoveLocked, _) => self.call(At::HasTree, Then::RemoveHasTree),
            (Then::RemoveHasTree, Came::Yes) => self.go(At::RemoveAside),
            (Then::RemoveHasTree, _) => self.drop_key(Then::EndOfCall),
            (Then::RemoveDropped, _) if self.me().dead => self.go(At::RemoveDelete),
            (Then::RemoveDropped, _) => self.end(),
            came => unreachable!("{came:?}"),
        }
    }
}
