//! What was seen, counted over the power cuts of a run. Pure.

use std::fmt;
use std::ops::{AddAssign, Index, IndexMut};

use crate::content::Kind;
use crate::survives::Survives;

/// Of the keys of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) keys: u64,
    /// Empty, half or mixed.
    pub(crate) torn: u64,
    /// The same, but the store saw it, and gave nothing.
    pub(crate) refused: u64,
    /// An earlier state than the last that was acknowledged.
    pub(crate) lost: u64,
    /// Nothing, where something was acknowledged.
    pub(crate) absent: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally([Counts; Kind::ALL.len()]);

impl Tally {
    /// Without durability something must have been torn, of each kind, be it given out or not; otherwise
    /// nothing is known of what is whole.
    pub(crate) fn detects(&self, survives: Survives) -> anyhow::Result<()> {
        for kind in Kind::ALL {
            let Counts { torn, refused, .. } = self[kind];
            anyhow::ensure!(
                survives != Survives::None || torn + refused > 0,
                "of what is {}, nothing was torn, so nothing is known: this detects nothing",
                kind.store()
            );
        }
        Ok(())
    }
}

impl Index<Kind> for Tally {
    type Output = Counts;

    fn index(&self, kind: Kind) -> &Counts {
        &self.0[kind as usize]
    }
}

impl IndexMut<Kind> for Tally {
    fn index_mut(&mut self, kind: Kind) -> &mut Counts {
        &mut self.0[kind as usize]
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        for kind in Kind::ALL {
            let (sum, other) = (&mut self[kind], other[kind]);
            sum.keys += other.keys;
            sum.torn += other.torn;
            sum.refused += other.refused;
            sum.lost += other.lost;
            sum.absent += other.absent;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in Kind::ALL {
            let Counts {
                keys,
                torn,
                refused,
                lost,
                absent,
            } = self[kind];
            write!(
                f,
                "\n  {}: {keys} keys, {torn} torn, {refused} seen to be torn, {lost} lost, {absent} absent",
                kind.store()
            )?;
        }
        Ok(())
    }
}
