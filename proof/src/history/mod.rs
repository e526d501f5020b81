//! Histories: what processes did and saw at the same time, while any of them was killed at any moment,
//! must be what one after the other could have done and seen.

mod checkpoints;
mod content;
mod crowd;
mod event;
mod linear;
pub(crate) mod process;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};

use crate::clock;
use crowd::Crowd;
use event::{Answer, Asked, Event, What};

/// What can be chosen.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Ends after so many operations
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    operations: u64,
    /// How many processes run at a time
    #[arg(long, default_value_t = 6)]
    processes: usize,
    /// How many keys each store has
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..100))]
    keys: u8,
    /// One process is killed every so many milliseconds, on average
    #[arg(long, default_value_t = 3)]
    kill_every_ms: u64,
    #[command(flatten)]
    mode: process::Mode,
    /// To repeat the same choices; the kills fall elsewhere all the same
    #[arg(long)]
    seed: Option<u64>,
    /// Where the stores are made [default: TMPDIR, or memory]
    #[arg(long)]
    scratch: Option<PathBuf>,
}

impl Options {
    fn crowd<'a>(&self, seed: u64, dir: &'a Path) -> Crowd<'a> {
        let keys = format!("--keys={}", self.keys);
        Crowd {
            processes: self.processes,
            operations: self.operations,
            kill_every_ms: self.kill_every_ms,
            seed,
            dir,
            arguments: [keys].into_iter().chain(self.mode.arguments()).collect(),
        }
    }
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    if options.mode.checkpoints {
        return checkpoints::run(&options, seed);
    }
    let scratch = crate::scratch::directory(options.scratch.as_deref(), 0)?;
    let began = Instant::now();
    // Made before anybody is killed: what a killed opening leaves is tried elsewhere.
    options.mode.files(scratch.path())?;
    options.mode.trees(scratch.path())?;
    let (dead, kills) = options.crowd(seed, scratch.path()).run()?;
    let recorded = began.elapsed();
    let mut events = Vec::new();
    for one in dead {
        events.append(&mut event::recorded(&one.record, one.at)?);
    }
    let last = look(&options, scratch.path(), &mut events)
        .with_context(|| format!("VIOLATION: seed {seed}, after the end"))?;
    event::sort(&mut events);
    for key in 0..2 * options.keys {
        let of_key: Vec<Event> = events.iter().filter(|e| e.key == key).copied().collect();
        if let Err(violation) = linear::check(&of_key) {
            let kept = scratch.keep();
            bail!(
                "VIOLATION: seed {seed}: key {key}: {violation}\nthe stores are kept in {}",
                kept.display()
            );
        }
    }
    let ended = count(&events, |what| matches!(what, What::Ends(_)));
    println!(
        "history: seed {seed}: {ended} operations of {} processes on {} keys in {:.1} s, {kills} of \
         them killed, {} in the middle of an operation; {} computed once, {} refused; every key's \
         history has an order that explains it ({:.1} s); {last} keys hold a value at the end",
        options.processes + kills,
        2 * options.keys,
        recorded.as_secs_f64(),
        count(&events, |what| what == What::Died),
        computed(&events),
        count(&events, |what| what == What::Ends(Answer::Refused)),
        (began.elapsed() - recorded).as_secs_f64(),
    );
    Ok(())
}

fn count(events: &[Event], which: impl Fn(What) -> bool) -> usize {
    events.iter().filter(|event| which(event.what)).count()
}

/// How often somebody asked for a value and had to make it.
fn computed(events: &[Event]) -> usize {
    let made = events
        .iter()
        .filter(|event| event.what == What::Ends(Answer::Saw(event.operation)));
    made.count()
}

/// After everybody is gone: each key is read once more, as a part of its history; nothing is left over,
/// and the listing is what the reads say. Returns how many keys have a value.
fn look(options: &Options, dir: &Path, events: &mut Vec<Event>) -> anyhow::Result<usize> {
    let files = options.mode.files(dir)?;
    let trees = options.mode.trees(dir)?;
    for report in [files.sweep()?, trees.sweep()?] {
        ensure!(report.kept.is_empty(), "a sweep kept {:?}", report.kept);
    }
    let mut present = [0, 0];
    for key in 0..2 * options.keys {
        let name = process::name(key % options.keys);
        let began = clock::now();
        let seen = if key < options.keys {
            let bytes = files.read(&name)?;
            bytes.map(|bytes| content::number(&bytes)).transpose()?
        } else {
            let lease = trees.get(&name)?;
            lease.map(|tree| content::tree_number(&tree)).transpose()?
        };
        present[usize::from(key >= options.keys)] += usize::from(seen.is_some());
        let operation = u64::from(u32::MAX) << 32 | u64::from(key);
        let answer = What::Ends(Answer::Saw(seen.unwrap_or(0)));
        for (time, what) in [(began, What::Begins(Asked::Read)), (clock::now(), answer)] {
            events.push(Event {
                time,
                operation,
                key,
                what,
            });
        }
    }
    let listed = [files.entries().count(), trees.entries().count()];
    ensure!(
        listed == present,
        "listed {listed:?}, read {present:?} (files, trees)"
    );
    for (store, values) in ["files", "trees"].iter().zip(present) {
        left_over(&dir.join(store), values)?;
    }
    Ok(present.iter().sum())
}

/// After a sweep there is for each file a name, and for each tree three.
fn left_over(base: &Path, values: usize) -> anyhow::Result<()> {
    let in_tmp = std::fs::read_dir(base.join("tmp"))?.count();
    ensure!(
        in_tmp == 0,
        "{in_tmp} names left in {}",
        base.join("tmp").display()
    );
    let names = if base.ends_with("trees") { 3 } else { 1 };
    let mut found = 0;
    for shard in shards(base, 3)? {
        found += std::fs::read_dir(shard)?.count();
    }
    ensure!(
        found == values * names,
        "{}: {found} names for {values} values",
        base.display()
    );
    Ok(())
}

/// The directories of one-character names, so deep.
fn shards(dir: &Path, depth: usize) -> anyhow::Result<Vec<PathBuf>> {
    if depth == 0 {
        return Ok(vec![dir.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().len() == 1 {
            found.append(&mut shards(&entry.path(), depth - 1)?);
        }
    }
    Ok(found)
}
