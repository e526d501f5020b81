//! The lock of a store's collectors: one at a time.
//!
//! Invariant: its file's modification time changes only when a collection has ended, because that is how the
//! next one knows. So nobody writes into it who holds it.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::kept::{KeptLock, Place};
use super::wait::Pacer;
use crate::error::Result;
use crate::layout::GC_LOCK;
use crate::root::Root;
use crate::sys::{self, Stamp};

/// Held, no other process collects in this store.
#[derive(Debug)]
#[must_use = "others collect as soon as this is dropped"]
pub(crate) struct CollectorLock(KeptLock);

/// Takes the collectors' lock, and waits for it as the caller does.
pub(crate) fn collector(root: &Root, pacer: &mut Pacer<'_>) -> Result<CollectorLock> {
    at_its_place(root, |place| KeptLock::take(place, pacer)).map(CollectorLock)
}

/// Takes the collectors' lock if nobody has it.
pub(crate) fn try_collector(root: &Root) -> Result<Option<CollectorLock>> {
    at_its_place(root, KeptLock::try_take).map(|lock| lock.map(CollectorLock))
}

fn at_its_place<T>(root: &Root, take: impl FnOnce(Place<'_>) -> T) -> T {
    let at = || root.absolute(GC_LOCK);
    take(Place {
        dir: &root.dir,
        name: Path::new(GC_LOCK),
        doing: "lock the collection",
        at: &at,
        of: &at,
        on_network: root.file_system.network,
    })
}

impl CollectorLock {
    /// When a collection last ended.
    pub(crate) fn last(&self) -> io::Result<SystemTime> {
        sys::fstat(self.0.file()).map(|meta| meta.modified)
    }

    /// Notes that one has ended. Both times, which whoever may write can do, not only the owner. Who may not
    /// is not told: the next is due earlier.
    pub(crate) fn note_end(&self) {
        let _ = sys::fstamp(self.0.file(), Stamp::Both);
    }
}
