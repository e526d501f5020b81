//! How often a handle of a store found, missed, computed and waited. Plain numbers; no I/O.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::outcome::Outcome;

/// Of one handle and its clones. They order nothing, so that counting is one addition.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    computed: AtomicU64,
    waited: AtomicU64,
}

/// The numbers of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) computed: u64,
    pub(crate) waited: u64,
}

impl Counters {
    /// Somebody asked for what may be there.
    pub(crate) fn looked_up(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody got what he asked for, made if it had to be.
    pub(crate) fn got(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Hit => &self.hits,
            Outcome::Waited => &self.waited,
            Outcome::Computed => &self.computed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> Counted {
        Counted {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            computed: self.computed.load(Ordering::Relaxed),
            waited: self.waited.load(Ordering::Relaxed),
        }
    }
}
