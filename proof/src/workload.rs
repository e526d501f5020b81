//! The process that the power cut takes: it does planned steps on the stores, and says before each
//! that it begins and after each that it is done.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use larder::{Barrier, PathKey, StoreOptions};
use rustix::fs::{Advice, fadvise};

use crate::checkpoints;
use crate::content::{self, Kind};
use crate::plan::{self, Action, Step};
use crate::stores::{self, Stores};
use crate::survives::Survives;

const PAGE_BYTES: u64 = 4096;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The directory of the stores
    #[arg(long)]
    pub(crate) caches: PathBuf,
    #[arg(long)]
    pub(crate) durability: Survives,
    #[arg(long)]
    pub(crate) seed: u64,
    /// Without it: write and sync a file of no store, so that the journal is written all the time
    #[arg(long)]
    pub(crate) writer: Option<u8>,
    /// The number of the first step
    #[arg(long, default_value_t = 0)]
    pub(crate) first: u64,
    /// Of a hundred steps, so many are about trees, or delete checkpoints
    #[arg(long, default_value_t = 50)]
    pub(crate) share: u8,
    /// Write to a file of checkpoints, and not to the stores
    #[arg(long)]
    pub(crate) checkpoints: bool,
    /// A block log; with each report goes how many entries it has
    #[arg(long)]
    pub(crate) log: Option<PathBuf>,
}

/// What a report says of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Begin,
    Done,
    /// It ended, and changed nothing, because another was faster.
    Refused,
}

/// A report as it goes through the pipe.
pub(crate) const REPORT_BYTES: usize = 17;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) moment: Moment,
    pub(crate) number: u64,
    /// When: before the step, or after it. In entries of the block log, or else in nanoseconds.
    pub(crate) at: u64,
}

impl Report {
    fn to_bytes(self) -> [u8; REPORT_BYTES] {
        let mut bytes = [0; REPORT_BYTES];
        bytes[0] = self.moment as u8;
        bytes[1..9].copy_from_slice(&self.number.to_le_bytes());
        bytes[9..].copy_from_slice(&self.at.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; REPORT_BYTES]) -> Self {
        let [moment, number @ .., _, _, _, _, _, _, _, _] = bytes;
        let [_, _, _, _, _, _, _, _, _, at @ ..] = bytes;
        Report {
            moment: match moment {
                0 => Moment::Begin,
                1 => Moment::Done,
                _ => Moment::Refused,
            },
            number: u64::from_le_bytes(number),
            at: u64::from_le_bytes(at),
        }
    }
}

/// How a writer tells what it does.
#[derive(Debug)]
pub(crate) struct Reporter {
    log: Option<File>,
}

impl Reporter {
    pub(crate) fn new(log: Option<&Path>) -> io::Result<Self> {
        let log = log.map(File::open).transpose()?;
        Ok(Reporter { log })
    }

    pub(crate) fn report(&mut self, moment: Moment, number: u64) -> anyhow::Result<()> {
        let at = match &self.log {
            Some(log) => crate::block_log::entries_so_far(log)?,
            None => crate::clock::now(),
        };
        let report = Report { moment, number, at };
        let mut stdout = io::stdout().lock();
        stdout.write_all(&report.to_bytes())?;
        Ok(stdout.flush()?)
    }
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    // Who waits for a lock would not notice that nobody listens any more, and keep what is mounted.
    crate::orphan::die_with_parent()?;
    match options.writer {
        Some(_) if options.checkpoints => checkpoints::writer::write(&options),
        Some(writer) => write(&options, writer),
        None => Ok(disturb(&options)?),
    }
}

/// Makes the journal commit what others renamed while their data is still in memory only, or the end of
/// it is on disk and the beginning is not. Ends when nobody listens any more.
fn disturb(options: &Options) -> io::Result<()> {
    let caches = &options.caches;
    let mut file = File::create(caches.with_file_name("neighbour"))?;
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let keys = plan::keys().filter(|key| key.kind != Kind::Tree);
    let values = keys.map(|key| caches.join(key.kind.store()).join(key.name().key()));
    let checkpoints = checkpoints::FILES.map(|name| caches.join(name));
    let files: Vec<PathBuf> = values.chain(checkpoints).collect();
    for round in 0_u64.. {
        for _ in 0..8 {
            let _ = write_end_first(&files[rng.usize(..files.len())]); // or it is not there
        }
        file.seek(SeekFrom::Start(round % 4096))?;
        file.write_all(&round.to_le_bytes())?;
        file.sync_all()?;
        io::stdout().write_all(b".")?;
        io::stdout().flush()?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Has the system write the last page of a file, as it may at any time, and no other.
fn write_end_first(value: &Path) -> io::Result<()> {
    let file = File::open(value)?;
    let last = file.metadata()?.len().saturating_sub(1) / PAGE_BYTES * PAGE_BYTES;
    let whole_page = NonZeroU64::new(PAGE_BYTES);
    Ok(fadvise(&file, last, whole_page, Advice::DontNeed)?)
}

fn write(options: &Options, writer: u8) -> anyhow::Result<()> {
    let default = StoreOptions::new().durability(options.durability.durability());
    let by_file_system = default.clone().barrier(Barrier::FileSystem);
    let stores = [
        Stores::open(&options.caches, &default)?,
        Stores::open(&options.caches, &by_file_system)?,
    ];
    let mut reporter = Reporter::new(options.log.as_deref())?;
    let mut rng = fastrand::Rng::with_seed(options.seed ^ options.first);
    for number in options.first.. {
        let step = Step::planned(options.seed, writer, options.share, number);
        reporter.report(Moment::Begin, number)?;
        let stores = &stores[usize::from(step.by_file_system)];
        take(stores, &step).with_context(|| format!("{step:?}"))?;
        reporter.report(Moment::Done, number)?;
        if options.durability == Survives::None {
            std::thread::sleep(Duration::from_micros(rng.u64(..1500)));
        }
    }
    Ok(())
}

fn take(stores: &Stores, step: &Step) -> anyhow::Result<()> {
    let &Step { number, key, .. } = step;
    let files = stores.files(key.kind);
    let trees = &stores.trees;
    let name = &key.name();
    let make = |at: &Path| Ok(content::write_tree(at, &content::tree(number, key))?);
    match &step.action {
        &Action::Set { len } => {
            files.set(name, |w| stores::write(w, number, key, len))?;
        }
        &Action::GetOrSet { len } => {
            files.get_or_set(name, |w| stores::write(w, number, key, len))?;
        }
        &Action::Locked { len } => {
            let lock = files.lock(name)?;
            let mut locked = lock.begin()?;
            locked.write_all(&content::bytes(number, key.place(0), len))?;
            if key.kind == Kind::Sealed {
                locked.set_metadata(&content::metadata(number, key))?;
            }
            locked.commit()?;
        }
        Action::Remove => {
            files.remove(name)?;
        }
        Action::Read => {
            files.read(name)?;
        }
        Action::Describe => {
            if let Some(lock) = files.lock_if_exists(name)? {
                lock.set_metadata(&content::metadata(number, key))?;
            }
        }
        Action::Batch(values) => {
            let mut batch = files.batch();
            for &(key, len) in values {
                batch.set(&key.name(), |w| stores::write(w, number, key, len))?;
            }
            batch.commit()?;
        }
        Action::ReplaceTree => drop(trees.replace(name, make)?),
        Action::GetOrSetTree => drop(trees.get_or_set(name, make)?),
        Action::ReadTree => drop(trees.get(name)?),
        Action::RemoveTree => {
            trees.remove(name)?;
        }
    }
    Ok(())
}
