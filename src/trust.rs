//! Whether what was published without a barrier can be believed.
//!
//! Pure but for a small memory. What a system has in its memory is whole, written to the disk or not;
//! after the next boot or mount only what reached the disk is there. Invariant: what no witness of this
//! boot and mount speaks for is not trusted before it was checked.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use data_encoding::HEXLOWER;

use crate::options::{Durability, Verify};
use crate::sys::FileId;

/// Bytes of a [`Witness`].
pub(crate) const WITNESS_LEN: usize = 24;

/// A boot of a machine and a mount in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Witness(pub(crate) [u8; WITNESS_LEN]);

impl Witness {
    pub(crate) fn of(boot: [u8; 16], mount: u64) -> Self {
        let mut bytes = [0; WITNESS_LEN];
        bytes[..16].copy_from_slice(&boot);
        bytes[16..].copy_from_slice(&mount.to_le_bytes());
        Witness(bytes)
    }
}

/// What is said of how something was published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// It was on the disk before it got its name.
    pub(crate) barrier: bool,
    /// Where it was written or checked, if it was not.
    pub(crate) witness: Witness,
}

impl Standing {
    pub(crate) const DURABLE: Standing = Standing {
        barrier: true,
        witness: Witness([0; WITNESS_LEN]),
    };

    /// Of what this process publishes now.
    pub(crate) fn now(durability: Durability, here: Option<Witness>) -> Self {
        match durability {
            Durability::None => Standing {
                barrier: false,
                witness: here.unwrap_or_default(),
            },
            Durability::Data | Durability::Full => Standing::DURABLE,
        }
    }

    /// As text: `durable`, or a boot and a mount.
    pub(crate) fn render(&self) -> String {
        if self.barrier {
            return "durable".into();
        }
        let (boot, mount) = self.witness.0.split_at(16);
        format!(
            "boot {} mount {}",
            HEXLOWER.encode(boot),
            HEXLOWER.encode(mount)
        )
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "durable" {
            return Some(Standing::DURABLE);
        }
        let (boot, mount) = text.strip_prefix("boot ")?.split_once(" mount ")?;
        let mut witness = Witness::default();
        let bytes = HEXLOWER.decode(format!("{boot}{mount}").as_bytes()).ok()?;
        witness.0 = bytes.try_into().ok()?;
        Some(Standing {
            barrier: false,
            witness,
        })
    }

    /// Whether nothing but a fault of the disk can have damaged it since.
    pub(crate) fn speaks_for_itself(&self, here: Option<Witness>) -> bool {
        self.barrier || here == Some(self.witness)
    }
}

/// What was published: a file or a tree's root, the digest that it is to have, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) id: FileId,
    pub(crate) digest: [u8; 32],
    pub(crate) standing: Standing,
}

/// What one handle of a store has checked, and what it found.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    checked: Mutex<HashSet<(FileId, [u8; 32])>>,
    damaged: AtomicU64,
}

impl Trust {
    /// Whether it has to be checked before it is given out.
    pub(crate) fn is_due(&self, verify: Verify, claim: &Claim, here: Option<Witness>) -> bool {
        match verify {
            Verify::Never => false,
            Verify::Always => true,
            Verify::OncePerBoot => {
                !claim.standing.speaks_for_itself(here) && !self.was_checked(claim)
            }
        }
    }

    fn was_checked(&self, claim: &Claim) -> bool {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.contains(&(claim.id, claim.digest))
    }

    /// It was checked, and is whole.
    pub(crate) fn note_whole(&self, verify: Verify, claim: &Claim) {
        if verify == Verify::Always {
            return; // nobody asks
        }
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.insert((claim.id, claim.digest));
    }

    pub(crate) fn note_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    /// How much was found damaged.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }
}
