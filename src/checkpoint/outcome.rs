//! What comes of a call: plain data.

/// A state, and its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Checkpoint<T> {
    /// It grows with every change of the key's state.
    pub sequence: u64,
    /// The state.
    pub state: T,
}

/// What came of a [`put`](crate::CheckpointStore::put).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the state may not have been stored"]
pub enum Put {
    /// The state is stored, as durably as the store promises.
    Stored,
    /// There is one with this sequence, or there was before it was deleted, which is not below the one that
    /// was to be stored. Nothing was changed.
    Stale {
        /// The sequence of what is there.
        stored: u64,
    },
}

/// What came of a [`delete`](crate::CheckpointStore::delete).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the state may still be there"]
pub enum Deletion {
    /// There was a state, and there is none now.
    Deleted,
    /// There was none.
    Absent,
    /// There is one with this sequence, which is above the one that was to be deleted. Nothing was changed.
    Stale {
        /// The sequence of what is there.
        stored: u64,
    },
}
