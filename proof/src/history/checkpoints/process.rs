//! One of the processes: changes and reads a few states, until it is killed.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use larder::{CheckpointStore, Deletion, ErrorKind, Put, Wait};

use super::positions::{Event, What};
use crate::checkpoints::{self, FILE, Position};
use crate::clock;
use crate::history::event::Recorder;
use crate::history::process::{DEADLINE, Options, Pause, until_violation};

/// Where the file is, given where the records are.
pub(super) fn directory(stores: &Path) -> PathBuf {
    stores.join("checkpoints")
}

struct Process<'a> {
    options: &'a Options,
    store: CheckpointStore<String>,
    record: Record,
    random: fastrand::Rng,
}

/// Where it tells what it does to a key.
struct Record {
    recorder: Recorder,
    operation: u64,
    key: u8,
}

impl Record {
    fn write(&mut self, what: What) -> std::io::Result<()> {
        let event = Event {
            time: clock::now(),
            operation: self.operation,
            key: self.key,
            what,
        };
        self.recorder.write_raw(event.encode())
    }
}

/// Ends only by being killed, or with what must not have happened.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(options.seed);
    let recorder = Recorder::create(&options.record, options.process)?;
    let mut process = Process {
        store: open(options, &mut random)?,
        record: Record {
            recorder,
            operation: 0,
            key: 0,
        },
        options,
        random,
    };
    until_violation(options, || process.step())
}

fn open(options: &Options, random: &mut fastrand::Rng) -> larder::Result<CheckpointStore<String>> {
    let path = directory(&options.stores).join(FILE);
    let store = options.mode.checkpoint_options().open(path)?;
    Ok(match random.bool() {
        true => store,
        // The other way to wait: seen, and bounded.
        false => store
            .with_wait(Wait::Timeout(DEADLINE))
            .with_on_wait(|_| ()),
    })
}

impl Process<'_> {
    fn step(&mut self) -> anyhow::Result<()> {
        self.record.key = self.random.u8(0..self.options.keys);
        self.record.operation = self.record.recorder.next();
        let kind = self.random.u8(0..100);
        let done = match kind {
            0..25 => self.get(),
            25..35 => self.sequence(),
            35..65 => self.put(),
            65..85 => self.update(),
            85..97 => self.delete(),
            _ => {
                // Who comes anew has seen nothing.
                self.store = open(self.options, &mut self.random)?;
                Ok(())
            }
        };
        let (operation, key) = (self.record.operation, self.record.key);
        done.with_context(|| format!("operation {operation:#x} on key {key}, of kind {kind}"))
    }

    fn get(&mut self) -> anyhow::Result<()> {
        let n = self.record.key;
        self.record.write(What::Looks)?;
        let found = self.store.get(&checkpoints::key(n))?;
        let seen = match found {
            None => What::NoState,
            Some(found) => What::Saw(checkpoints::author(&found.state, n, found.sequence)?),
        };
        Ok(self.record.write(seen)?)
    }

    fn sequence(&mut self) -> anyhow::Result<()> {
        let key = checkpoints::key(self.record.key);
        self.record.write(What::Looks)?;
        let sequence = self.store.sequence(&key)?;
        Ok(self.record.write(What::Sequence(sequence.unwrap_or(0)))?)
    }

    fn put(&mut self) -> anyhow::Result<()> {
        let n = self.record.key;
        let key = checkpoints::key(n);
        let last = self.store.sequence(&key)?.unwrap_or(0);
        let sequence = last + self.random.u64(1..=3);
        self.pause().take();
        self.record.write(What::Changes {
            to: Position::state(sequence),
            from: None,
        })?;
        let state = checkpoints::state(self.record.operation, n, sequence);
        let ended = match self.store.put(&key, sequence, &state)? {
            Put::Stored => What::Changed,
            Put::Stale { stored } => {
                ensure!(stored >= sequence, "{sequence} was refused for {stored}");
                What::Sequence(stored)
            }
        };
        Ok(self.record.write(ended)?)
    }

    fn update(&mut self) -> anyhow::Result<()> {
        let n = self.record.key;
        let key = checkpoints::key(n);
        let pause = self.pause();
        // Some leave what is there, and some fail.
        let (keeps, fails) = (self.random.u8(..8) == 0, self.random.u8(..8) == 0);
        let mut ended = None;
        let mut sequence = 0;
        let (store, record) = (&self.store, &mut self.record);
        let updated = store.update(&key, |current| {
            let last = store.sequence(&key)?.unwrap_or(0);
            sequence = last;
            pause.take();
            if fails {
                record.write(What::Looks)?;
                ended = Some(What::Sequence(last));
                anyhow::bail!("on purpose");
            }
            let author = current
                .as_ref()
                .map(|state| checkpoints::author(state, n, last));
            let author = author.transpose()?;
            if let (true, Some(current), Some(author)) = (keeps, &current, author) {
                record.write(What::Looks)?;
                ended = Some(What::Saw(author));
                return Ok(current.clone());
            }
            sequence += 1;
            record.write(What::Changes {
                to: Position::state(sequence),
                from: Some(Position {
                    sequence: last,
                    is_deleted: current.is_none() && last > 0,
                }),
            })?;
            ended = Some(What::Changed);
            Ok(checkpoints::state(record.operation, n, sequence))
        });
        match updated {
            Err(err) if fails && err.kind() == ErrorKind::Compute => {}
            updated => {
                let made = updated?.sequence;
                ensure!(made == sequence, "{sequence} was made {made}");
            }
        }
        let ended = ended.context("the closure was not called")?;
        Ok(self.record.write(ended)?)
    }

    fn delete(&mut self) -> anyhow::Result<()> {
        let key = checkpoints::key(self.record.key);
        let Some(found) = self.store.get(&key)? else {
            return Ok(());
        };
        self.pause().take();
        self.record.write(What::Changes {
            to: Position::deleted(found.sequence),
            from: None,
        })?;
        let ended = match self.store.delete(&key, found.sequence)? {
            Deletion::Deleted => What::Changed,
            Deletion::Absent => What::NoState,
            Deletion::Stale { stored } => {
                ensure!(stored > found.sequence, "{stored} was not to be deleted");
                What::Sequence(stored)
            }
        };
        Ok(self.record.write(ended)?)
    }

    fn pause(&mut self) -> Pause {
        Pause::draw(&mut self.random)
    }
}
