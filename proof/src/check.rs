//! Looks at stores after a power cut: is each key what it may be, and do they work as before?

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use larder::{Durability, PathKey, StoreOptions};

use crate::content::{Key, Kind};
use crate::expect::{self, Expected, Settled};
use crate::look::{self, Boot, Found};
use crate::plan::{State, Step};
use crate::residue;
use crate::stores::Stores;
use crate::subject::{Cut, Origin, Subject};
use crate::survives::Survives;
use crate::tally::{Counts, Tally};

impl Subject for Stores {
    type Step = Step;
    type Settled = Settled;
    type Tally = Tally;

    const NAME: &'static str = "";
    const ARGUMENTS: &'static [&'static str] = &[];
    const MIXES: &'static [&'static [u8]] = &[&[50, 50], &[0, 100], &[50]];
    const NEW_EVERY: u64 = 8;
    const BEGINNING: Duration = Duration::from_millis(40);

    /// To make stores is something that a power cut can hit, too.
    fn prepare(_: &Path) -> io::Result<()> {
        Ok(())
    }

    fn nothing() -> Settled {
        expect::all_absent()
    }

    fn step(origin: Origin, number: u64) -> Step {
        Step::planned(origin.seed, origin.writer, origin.share, number)
    }

    fn is_removal(step: &Step) -> bool {
        step.is_removal()
    }

    fn check(cut: &Cut<'_, Self>) -> anyhow::Result<(Tally, Settled)> {
        let check = Check {
            caches: cut.caches,
            survives: cut.survives,
            expected: &expect::expected(cut.survives, cut.settled, cut.records),
            number: cut.number,
            seed: cut.seed,
            boot: cut.boot,
        };
        check.look().context("VIOLATION")
    }

    fn detects(tally: &Tally, survives: Survives) -> anyhow::Result<()> {
        tally.detects(survives)
    }
}

#[derive(Debug)]
struct Check<'a> {
    caches: &'a Path,
    survives: Survives,
    expected: &'a BTreeMap<Key, Expected>,
    number: u64,
    seed: u64,
    boot: Boot,
}

impl Check<'_> {
    fn look(&self) -> anyhow::Result<(Tally, Settled)> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut found = look::look(self.caches, self.survives, self.boot, self.seed)?;
        let stores = Stores::open(self.caches, &StoreOptions::new())?;
        let mut tally = Tally::default();
        let mut present = BTreeSet::new();
        for (&key, expected) in self.expected {
            let found = found.remove(&key);
            let found = found.with_context(|| format!("nothing is known of {}", key.name()))?;
            if !matches!(found, Found::Whole(State::Absent) | Found::Refused) {
                present.insert(key);
            }
            self.judge(key, expected, found, &mut tally[key.kind])?;
        }
        compare_listing(&stores, &present, |key| self.vouched_for(key))?;
        residue::own_files(self.caches)?;
        if rng.bool() {
            // Whether a key can be set must not depend on a sweep before it.
            sweep_all(&stores).context("sweep after the cut")?;
            residue::compare(self.caches, &present).context("after the first sweep")?;
        }
        let settled = self.set_all(&mut rng)?;
        sweep_all(&stores).context("sweep at the end")?;
        let is_there = |key: &&Key| settled[*key] != State::Absent;
        let present = settled.keys().filter(is_there).copied().collect();
        residue::compare(self.caches, &present).context("after every key was set")?;
        Ok((tally, settled))
    }

    fn judge(
        &self,
        key: Key,
        expected: &Expected,
        found: Found,
        counts: &mut Counts,
    ) -> anyhow::Result<()> {
        counts.keys += 1;
        // Whether somebody wrote an empty value can only be known from the operations.
        let found = match found {
            Found::Whole(empty @ State::Value { len: 0, .. })
                if !expected.allowed.contains(&empty) =>
            {
                Found::Torn("an empty value".to_owned())
            }
            found => found,
        };
        match found {
            Found::Whole(state) => {
                let is_in_order = expected.allowed.contains(&state);
                // Without durability a value may also go that was there before.
                let may_be_gone = self.survives == Survives::None
                    && !expected.is_untouched
                    && state == State::Absent;
                if !is_in_order && !may_be_gone {
                    bail!(violation(key, expected, &format!("{state:?}, whole")));
                }
                match self.is_lost(expected, state) {
                    true if state == State::Absent => counts.absent += 1,
                    is_lost => counts.lost += u64::from(is_lost),
                }
            }
            Found::Torn(how) => {
                if !self.may_tear(expected) || key.kind != Kind::Raw {
                    bail!(violation(key, expected, &how));
                }
                counts.torn += 1;
            }
            Found::Refused => {
                if !self.may_tear(expected) && !may_be_forgotten(key, expected) {
                    bail!(violation(key, expected, "it was torn, and taken away"));
                }
                counts.refused += 1;
            }
        }
        Ok(())
    }

    /// Whether a power cut may leave a part of what is written to a key, be it seen or not.
    fn may_tear(&self, expected: &Expected) -> bool {
        self.survives == Survives::None && !expected.is_untouched
    }

    /// Whether this is from before the last acknowledged state.
    fn is_lost(&self, expected: &Expected, state: State) -> bool {
        let at = |wanted| {
            expected
                .allowed
                .iter()
                .rposition(|&allowed| allowed == wanted)
        };
        at(state) < at(expected.acknowledged)
    }

    /// Whether what the store knows of a tree must be there and whole.
    fn vouched_for(&self, key: Key) -> bool {
        let expected = &self.expected[&key];
        // A replacement that was cut off between its two renames leaves the old tree with what was
        // known of the new one.
        expected.is_untouched || (self.survives == Survives::Full && expected.allowed.len() == 1)
    }

    /// Sets every key, at once, and then removes some of them.
    fn set_all(&self, rng: &mut fastrand::Rng) -> anyhow::Result<Settled> {
        let options = StoreOptions::new().durability(Durability::None);
        let stores = Stores::open(self.caches, &options)?.at_once();
        let mut settled = Settled::new();
        for &key in self.expected.keys() {
            let state = stores
                .set(key, self.number)
                .with_context(|| format!("set {} at once, after the power cut", key.name()))?;
            match look::find(&stores, key, self.seed)? {
                Found::Whole(found) if found == state => {}
                found => bail!("{} was set to {state:?} and reads {found:?}", key.name()),
            }
            let state = if rng.bool() {
                ensure!(stores.remove(key)?, "{} cannot be removed", key.name());
                State::Absent
            } else {
                state
            };
            settled.insert(key, state);
        }
        Ok(settled)
    }
}

/// Whether this is an old tree that has the new one's sidecar, because its replacement was cut off between
/// its two renames. If it was published without a barrier, nothing speaks for it any more.
fn may_be_forgotten(key: Key, expected: &Expected) -> bool {
    let Expected {
        allowed, settled, ..
    } = expected;
    key.kind == Kind::Tree
        && *settled != State::Absent
        && allowed.contains(settled)
        && allowed.iter().any(|state| state != settled)
}

fn violation(key: Key, expected: &Expected, found: &str) -> String {
    let last = expected.allowed.len().saturating_sub(8);
    format!(
        "{}: expected one of {:?}{}, the last acknowledged being {:?}{}; found: {found}",
        key.name(),
        &expected.allowed[last..],
        if last > 0 { " (or earlier)" } else { "" },
        expected.acknowledged,
        if expected.is_untouched {
            " (nothing wrote this key)"
        } else {
            ""
        },
    )
}

fn sweep_all(stores: &Stores) -> anyhow::Result<()> {
    let (raw, sealed) = (stores.files(Kind::Raw), stores.files(Kind::Sealed));
    for report in [raw.sweep()?, sealed.sweep()?, stores.trees.sweep()?] {
        ensure!(report.kept.is_empty(), "a sweep kept {:?}", report.kept);
    }
    Ok(())
}

/// The stores list what `get` finds, and nothing else.
fn compare_listing(
    stores: &Stores,
    present: &BTreeSet<Key>,
    is_vouched_for: impl Fn(Key) -> bool,
) -> anyhow::Result<()> {
    let mut missing: BTreeMap<(Kind, PathBuf), Key> = present
        .iter()
        .map(|&key| ((key.kind, key.name().key()), key))
        .collect();
    let files = [Kind::Raw, Kind::Sealed].into_iter();
    let files = files.flat_map(|kind| {
        let entries = stores.files(kind).entries();
        entries.map(move |entry| (kind, entry))
    });
    let trees = stores.trees.entries().map(|entry| (Kind::Tree, entry));
    for (kind, entry) in files.chain(trees) {
        let entry = entry.context("list the entries")?;
        let Some(key) = missing.remove(&(kind, entry.key())) else {
            bail!(
                "{} is listed, and `get` does not find it",
                entry.path().display()
            );
        };
        if kind == Kind::Tree && is_vouched_for(key) {
            let known = (entry.len(), entry.file_count());
            let counted = residue::measure(entry.path())?;
            ensure!(
                known == (Some(counted.0), Some(counted.1)),
                "{}: {known:?} bytes and files are noted, {counted:?} are there",
                key.name()
            );
        }
    }
    ensure!(
        missing.is_empty(),
        "`get` finds what is not listed: {missing:?}"
    );
    Ok(())
}
