//! How a value came to its caller.

/// How a value, or a lease, came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was there.
    Hit,
    /// Somebody else was making it, and this call waited for that.
    Waited,
    /// This call made it.
    Computed,
}

/// Whether what is stored is what was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Integrity {
    /// Every byte is as it was.
    Whole,
    /// It is torn or altered, or belongs to another key.
    Damaged,
    /// There is no digest to compare it with.
    Unknown,
}
