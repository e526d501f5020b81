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
