//! The process that the power cut takes: it changes states, and says before each change that it begins, and
//! after it whether it was made.

use anyhow::{Context, bail};
use larder::{CheckpointOptions, CheckpointStore, Deletion, Put};

use super::cut::{Change, KEYS};
use super::{FILE, Position, key, state};
use crate::workload::{Moment, Options, Reporter};

pub(crate) fn write(options: &Options) -> anyhow::Result<()> {
    let durability = options.durability.of_checkpoints();
    let store = CheckpointOptions::new()
        .durability(durability)
        .open(options.caches.join(FILE))?;
    let mut writer = Writer {
        store,
        reporter: Reporter::new(options.log.as_deref())?,
        author: options.first,
    };
    let mut rng = fastrand::Rng::with_seed(options.seed ^ options.first);
    loop {
        let key = rng.u8(..KEYS);
        let done = match rng.u8(..100) {
            share if share < options.share => writer.delete(key),
            _ if rng.bool() => writer.put(key, rng.u64(1..=3)),
            _ => writer.update(key),
        };
        done.with_context(|| format!("key {key}"))?;
    }
}

struct Writer {
    store: CheckpointStore<String>,
    reporter: Reporter,
    author: u64,
}

impl Writer {
    fn put(&mut self, n: u8, step: u64) -> anyhow::Result<()> {
        let sequence = self.store.sequence(&key(n))?.unwrap_or(0) + step;
        let state = state(self.author, n, sequence);
        let number = Change::number(n, Position::state(sequence));
        self.reporter.report(Moment::Begin, number)?;
        let moment = match self.store.put(&key(n), sequence, &state)? {
            Put::Stored => Moment::Done,
            Put::Stale { .. } => Moment::Refused,
        };
        self.reporter.report(moment, number)
    }

    fn update(&mut self, n: u8) -> anyhow::Result<()> {
        let mut number = None;
        let (store, reporter) = (&self.store, &mut self.reporter);
        store.update(&key(n), |current| {
            let last = store.sequence(&key(n))?.unwrap_or(0);
            if let Some(current) = current {
                super::author(&current, n, last)?;
            }
            let next = last + 1;
            let changes = Change::number(n, Position::state(next));
            number = Some(changes);
            reporter.report(Moment::Begin, changes)?;
            Ok(state(self.author, n, next))
        })?;
        match number {
            Some(number) => self.reporter.report(Moment::Done, number),
            None => bail!("the closure was not called"),
        }
    }

    fn delete(&mut self, n: u8) -> anyhow::Result<()> {
        let Some(found) = self.store.get(&key(n))? else {
            return Ok(());
        };
        let number = Change::number(n, Position::deleted(found.sequence));
        self.reporter.report(Moment::Begin, number)?;
        let moment = match self.store.delete(&key(n), found.sequence)? {
            Deletion::Deleted => Moment::Done,
            Deletion::Absent | Deletion::Stale { .. } => Moment::Refused,
        };
        self.reporter.report(moment, number)
    }
}
