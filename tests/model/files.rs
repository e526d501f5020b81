//! `src/file_store`, and what of `src/publish.rs` is about files.

use crate::Mutant;
use crate::state::{At, Came, Held, Op, Then, Value, Wrong};
use crate::step::{EXCLUSIVELY, Made, Step, trying};

impl Step<'_> {
    pub fn file(&mut self) -> Made {
        match self.me().at {
            At::FileGet => {
                if self.state.value.is_some() || self.me().op() == Op::Get {
                    return self.end();
                }
                self.call(At::TryOpen, Then::FileLocked)
            }
            // Under the lock: somebody may have been faster.
            At::FileGetLocked => {
                if self.state.value.is_some() {
                    return self.drop_key(Then::EndOfCall);
                }
                self.call(At::StageCreate, Then::Staged)
            }
            At::FileRename => {
                if self.staged().lock.take().is_none() {
                    self.wrong(Wrong::LostWhatItPublished);
                }
                let id = self.state.new_id();
                self.state.value = Some(Value { id, is_whole: true });
                let me = self.me();
                me.own = None; // `into_published` closes the writable descriptor
                me.is_staging = false;
                me.computes = false;
                self.go(At::FilePublished)
            }
            At::FilePublished => {
                if self.state.value.is_none() {
                    self.wrong(Wrong::LostWhatItPublished);
                }
                self.drop_key(Then::EndOfCall)
            }
            At::FileIsThere => {
                if self.state.value.is_none() {
                    return self.end();
                }
                let is_remove = self.me().op() == Op::Remove;
                let want = if is_remove { EXCLUSIVELY } else { trying(true) };
                self.take(want, Then::UnlinkLocked)
            }
            At::FileUnlink => {
                self.state.value = None;
                self.drop_key(Then::EndOfCall)
            }
            at => unreachable!("{at:?} is not of files"),
        }
    }

    pub fn file_then(&mut self, then: Then, came: Came) -> Made {
        match (then, came) {
            (Then::FileLocked, Came::Locked) if self.is(Mutant::ComputesWithoutLook) => {
                self.call(At::StageCreate, Then::Staged)
            }
            (Then::FileLocked, Came::Locked) => self.go(At::FileGetLocked),
            (Then::FileLocked, Came::MadeShared) => self.drop_key(Then::EndOfCall),
            (Then::FileLocked, Came::MadeFree) => self.end(),
            (Then::SetLocked, Came::Locked) => self.go(At::FileRename),
            (Then::UnlinkLocked, Came::Locked) => self.go(At::FileUnlink),
            (Then::UnlinkLocked, Came::Busy) => self.end(),
            came => unreachable!("{came:?}"),
        }
    }

    /// `publish::seal_file` changes nothing that others see.
    pub fn sealed_file(&mut self) -> Made {
        if self.me().believes == Held::Exclusive {
            return self.go(At::FileRename);
        }
        self.take(EXCLUSIVELY, Then::SetLocked)
    }
}
