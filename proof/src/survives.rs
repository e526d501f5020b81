//! What stores are to survive.

use larder::Durability;

/// The durability of the stores, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Survives {
    None,
    Data,
    Full,
}

impl Survives {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Survives::None => "none",
            Survives::Data => "data",
            Survives::Full => "full",
        }
    }

    pub(crate) fn durability(self) -> Durability {
        match self {
            Survives::None => Durability::None,
            Survives::Data => Durability::Data,
            Survives::Full => Durability::Full,
        }
    }

    /// Checkpoints are never without durability.
    pub(crate) fn of_checkpoints(self) -> Durability {
        match self {
            Survives::None | Survives::Data => Durability::Data,
            Survives::Full => Durability::Full,
        }
    }
}
