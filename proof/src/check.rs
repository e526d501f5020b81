//! Looks at stores after a power cut: is each key what it may be, and do they work as before?

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use larder::{Durability, KVDirStore, KVFileStore, PathKey, StoreOptions, Wait};

use crate::content::{self, Key, Kind};
use crate::expect::{Expected, Settled};
use crate::plan::State;
use crate::residue;
use crate::survives::Survives;

/// What was seen, summed up over the power cuts of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) keys: u64,
    /// Empty, half or mixed.
    pub(crate) torn: u64,
    /// An earlier state than the last that was acknowledged.
    pub(crate) lost: u64,
    /// Nothing, where something was acknowledged.
    pub(crate) absent: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.keys += other.keys;
        self.torn += other.torn;
        self.lost += other.lost;
        self.absent += other.absent;
    }
}

/// What is at a key.
#[derive(Debug)]
enum Found {
    Whole(State),
    Torn(String),
}

#[derive(Debug)]
pub(crate) struct Check<'a> {
    pub(crate) caches: &'a Path,
    pub(crate) survives: Survives,
    pub(crate) expected: &'a BTreeMap<Key, Expected>,
    /// The number of what this writes itself.
    pub(crate) number: u64,
    pub(crate) seed: u64,
}

struct Stores {
    files: KVFileStore,
    trees: KVDirStore,
    survives: Survives,
}

impl Check<'_> {
    /// An error is a promise that was broken. Otherwise: what was seen, and what is left now.
    pub(crate) fn run(&self) -> anyhow::Result<(Tally, Settled)> {
        self.look().context("VIOLATION")
    }

    fn look(&self) -> anyhow::Result<(Tally, Settled)> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let stores = Stores {
            files: KVFileStore::new(self.caches.join("files"))
                .context("open the store of files")?,
            trees: KVDirStore::new(self.caches.join("trees")).context("open the store of trees")?,
            survives: self.survives,
        };
        let mut tally = Tally::default();
        let mut present = BTreeSet::new();
        for (&key, expected) in self.expected {
            let found = stores
                .find(key)
                .with_context(|| format!("look at {}", key.name()))?;
            if !matches!(found, Found::Whole(State::Absent)) {
                present.insert(key);
            }
            tally += self.judge(key, expected, found)?;
        }
        stores.compare_listing(&present, |key| self.vouched_for(key))?;
        residue::own_files(self.caches)?;
        if rng.bool() {
            // Whether a key can be set must not depend on a sweep before it.
            stores.sweep_all().context("sweep after the cut")?;
            residue::compare(self.caches, &present).context("after the first sweep")?;
        }
        let settled = self.set_all(&mut rng)?;
        stores.sweep_all().context("sweep at the end")?;
        let is_there = |key: &&Key| settled[*key] != State::Absent;
        let present = settled.keys().filter(is_there).copied().collect();
        residue::compare(self.caches, &present).context("after every key was set")?;
        Ok((tally, settled))
    }

    fn judge(&self, key: Key, expected: &Expected, found: Found) -> anyhow::Result<Tally> {
        let mut tally = Tally {
            keys: 1,
            ..Tally::default()
        };
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
                    true if state == State::Absent => tally.absent += 1,
                    is_lost => tally.lost += u64::from(is_lost),
                }
            }
            Found::Torn(how) => {
                if self.survives != Survives::None || expected.is_untouched {
                    bail!(violation(key, expected, &how));
                }
                tally.torn += 1;
            }
        }
        Ok(tally)
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
        let stores = Stores {
            files: options
                .open_file_store(self.caches.join("files"))?
                .with_wait(Wait::TryOnce),
            trees: options
                .open_dir_store(self.caches.join("trees"))?
                .with_wait(Wait::TryOnce),
            survives: self.survives,
        };
        let mut settled = Settled::new();
        for &key in self.expected.keys() {
            let state = stores
                .set(key, self.number)
                .with_context(|| format!("set {} at once, after the power cut", key.name()))?;
            match stores.find(key)? {
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

impl Stores {
    fn find(&self, key: Key) -> anyhow::Result<Found> {
        match key.kind {
            Kind::File => {
                let Some(value) = self.files.get(&key.name())? else {
                    return Ok(Found::Whole(State::Absent));
                };
                let mode = value.into_file()?.metadata()?.permissions().mode();
                ensure!(
                    mode & 0o222 == 0 || self.survives == Survives::None,
                    "{}: it can be written: {mode:o}",
                    key.name()
                );
                let bytes = self.files.read(&key.name())?;
                find_value(key, &bytes.context("it went while it was looked at")?)
            }
            Kind::Tree => {
                let Some(lease) = self.trees.get(&key.name())? else {
                    return Ok(Found::Whole(State::Absent));
                };
                Ok(match content::recognise_tree(&lease, key) {
                    Ok(number) => Found::Whole(State::Tree { number }),
                    Err(how) => Found::Torn(format!("a torn tree: {how}")),
                })
            }
        }
    }

    fn set(&self, key: Key, number: u64) -> anyhow::Result<State> {
        let name = &key.name();
        match key.kind {
            Kind::File => {
                let len = content::HEADER + 100;
                let bytes = content::bytes(number, key.place(0), len);
                self.files.set(name, |w| Ok(w.write_all(&bytes)?))?;
                Ok(State::value(number, len))
            }
            Kind::Tree => {
                let nodes = content::tree(number, key);
                drop(
                    self.trees
                        .replace(name, |at| Ok(content::write_tree(at, &nodes)?))?,
                );
                Ok(State::Tree { number })
            }
        }
    }

    fn remove(&self, key: Key) -> larder::Result<bool> {
        match key.kind {
            Kind::File => self.files.remove(&key.name()),
            Kind::Tree => self.trees.remove(&key.name()),
        }
    }

    fn sweep_all(&self) -> anyhow::Result<()> {
        for report in [self.files.sweep()?, self.trees.sweep()?] {
            ensure!(report.kept.is_empty(), "a sweep kept {:?}", report.kept);
        }
        Ok(())
    }

    /// The stores list what `get` finds, and nothing else.
    fn compare_listing(
        &self,
        present: &BTreeSet<Key>,
        is_vouched_for: impl Fn(Key) -> bool,
    ) -> anyhow::Result<()> {
        let mut missing: BTreeMap<(Kind, PathBuf), Key> = present
            .iter()
            .map(|&key| ((key.kind, key.name().key()), key))
            .collect();
        let files = self.files.entries().map(|entry| (Kind::File, entry));
        let trees = self.trees.entries().map(|entry| (Kind::Tree, entry));
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
}

/// An error is what no durability excuses: a value of another key.
fn find_value(key: Key, bytes: &[u8]) -> anyhow::Result<Found> {
    Ok(match content::recognise(bytes) {
        Some((number, place)) if place == key.place(0) => {
            Found::Whole(State::value(number, bytes.len()))
        }
        Some((number, place)) => bail!("it has what step {number} wrote to place {place:#x}"),
        None if bytes.is_empty() => Found::Whole(State::value(0, 0)),
        None => {
            let zeros = bytes.iter().filter(|&&byte| byte == 0).count();
            Found::Torn(format!(
                "a torn value of {} bytes, {zeros} of them 0",
                bytes.len()
            ))
        }
    })
}
