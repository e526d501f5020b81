//! What is under load when the power goes.

use std::fmt::Display;
use std::io;
use std::ops::AddAssign;
use std::path::Path;
use std::time::Duration;

use crate::look::Boot;
use crate::survives::Survives;
use crate::writers::Record;

/// The stores, or a file of checkpoints.
pub(crate) trait Subject {
    /// What a writer reports that it begins, and has done.
    type Step: Clone + Send + 'static;
    /// What is there, and on the disk, while nobody writes.
    type Settled;
    /// What was seen.
    type Tally: Default + AddAssign + Display;

    const NAME: &'static str;
    /// What a writer is told.
    const ARGUMENTS: &'static [&'static str];
    /// Several mixes of writers: for each writer its share (see [`Origin`]). The first is one of everything.
    const MIXES: &'static [&'static [u8]];

    /// One cut of so many begins with nothing,
    const NEW_EVERY: u64;
    /// and half of those cuts come within this time, in which it is made.
    const BEGINNING: Duration;

    /// Makes what the writers do not.
    fn prepare(caches: &Path) -> io::Result<()>;

    fn nothing() -> Self::Settled;

    /// The step that a report names.
    fn step(origin: Origin, number: u64) -> Self::Step;

    fn is_removal(step: &Self::Step) -> bool;

    /// Looks at what a cut has left. An error is a promise that was broken. Otherwise: what was seen, and
    /// what is left now.
    fn check(cut: &Cut<'_, Self>) -> anyhow::Result<(Self::Tally, Self::Settled)>;

    /// Fails if nothing is known after this.
    fn detects(tally: &Self::Tally, survives: Survives) -> anyhow::Result<()>;
}

/// From which writer a report is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) seed: u64,
    pub(crate) writer: u8,
    /// Of a hundred of its steps, so many are about trees, or delete checkpoints.
    pub(crate) share: u8,
    /// The number that it began with.
    pub(crate) first: u64,
}

/// What is left to look at, and what is known of it.
#[derive(Debug)]
pub(crate) struct Cut<'a, S: Subject + ?Sized> {
    pub(crate) caches: &'a Path,
    pub(crate) survives: Survives,
    pub(crate) settled: &'a S::Settled,
    /// What the writers had at least begun since, of each in its order.
    pub(crate) records: &'a [Record<S::Step>],
    /// The number of what the check writes itself.
    pub(crate) number: u64,
    pub(crate) seed: u64,
    pub(crate) boot: Boot,
}
