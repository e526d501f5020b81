//! Power cuts by recording every write of a file system under load, and replaying each beginning of
//! the record that ends with a flush.
//!
//! A disk may also keep any part of what was written after its last flush, in any order. So at each
//! point a second image has, beyond the flush, a random part of the writes before the next one.

mod recording;
mod replay;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::checkpoints::cut::Checkpoints;
use crate::image::{self, FileSystem, Mounted};
use crate::look::Boot;
use crate::scratch;
use crate::stores::Stores;
use crate::subject::{Cut, Subject};
use crate::survives::Survives;
use crate::writers::{Load, Record, STEPS};
use recording::Recorder;
use replay::Replay;

pub(crate) use recording::entries_so_far;

const IMAGE_BYTES: u64 = 400 << 20;

/// With `none`, fewer points than this may well all be whole.
const ENOUGH_POINTS: usize = 40;

/// What can be chosen.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    file_system: FileSystem,
    #[arg(long, default_value = "full")]
    durability: Survives,
    /// Of a file of checkpoints, and not of the stores; at least with `data`
    #[arg(long)]
    checkpoints: bool,
    /// How long the processes write
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// At most so many flushes are looked at, spread over the whole record; all if it is not given
    #[arg(long)]
    points: Option<usize>,
    /// Drawn and printed if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Where the images are made [default: TMPDIR, or memory if there is room]
    #[arg(long)]
    scratch: Option<PathBuf>,
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    if let Some(why) = image::why_not(options.file_system, &["qemu-storage-daemon", "setpriv"]) {
        println!("SKIPPED block-log: {why}");
        return Ok(());
    }
    match options.checkpoints {
        true => record_and_look::<Checkpoints>(&options),
        false => record_and_look::<Stores>(&options),
    }
}

fn record_and_look<S: Subject>(options: &Options) -> anyhow::Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let title = format!(
        "block-log: {}{}, durability {}, seed {seed}",
        S::NAME,
        options.file_system.name(),
        options.durability.name()
    );
    let dir = scratch::directory(options.scratch.as_deref(), image::ROOM_BYTES)?;
    let tried = Bench {
        file_system: options.file_system,
        survives: options.durability,
        seed,
        dir: dir.path(),
    }
    .run::<S>(Duration::from_secs(options.seconds), options.points);
    match tried {
        Ok(summary) => {
            println!("{title}: {summary}");
            Ok(())
        }
        Err(err) => {
            let kept = dir.keep();
            Err(err.context(format!(
                "{title}: record and images kept in {}",
                kept.display()
            )))
        }
    }
}

struct Bench<'a> {
    file_system: FileSystem,
    survives: Survives,
    seed: u64,
    dir: &'a Path,
}

impl Bench<'_> {
    fn run<S: Subject>(&self, time: Duration, points: Option<usize>) -> anyhow::Result<String> {
        let started = Instant::now();
        let base = self.dir.join("base");
        self.file_system.make(&base, IMAGE_BYTES)?;
        let records = self.record::<S>(&base, time)?;
        let recorded = started.elapsed();
        let mut replay = Replay::open(&self.dir.join("log"), &base)?;
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let flushes = replay.flushes();
        let chosen = spread(&flushes, points.unwrap_or(flushes.len()), &mut rng);
        ensure!(
            !chosen.is_empty(),
            "no flush was recorded, or none was to be looked at"
        );
        let mut tally = S::Tally::default();
        for &point in &chosen {
            let ends = [point.entries, point.next_flush];
            for (may_be_there, is_reordered) in ends.into_iter().zip([false, true]) {
                let image = self.dir.join("image");
                replay.prefix(point.entries, &image)?;
                if is_reordered {
                    replay.add_some(point, &image, &mut rng)?;
                }
                let looked =
                    self.look::<S>(&image, &records, point.entries, may_be_there, rng.u64(..));
                tally += looked.with_context(|| {
                    let some = if is_reordered {
                        " and a part of what follows"
                    } else {
                        ""
                    };
                    format!("after {} entries of the record{some}", point.entries)
                })?;
            }
        }
        if chosen.len() >= ENOUGH_POINTS {
            S::detects(&tally, self.survives)?;
        }
        Ok(format!(
            "{} entries and {} flushes in {:.1} s, {} operations acknowledged; {} points in {:.1} s, \
             each also with a part of what follows:{tally}",
            replay.len(),
            flushes.len(),
            recorded.as_secs_f64(),
            records
                .iter()
                .filter(|record| record.done.is_some())
                .count(),
            chosen.len(),
            (started.elapsed() - recorded).as_secs_f64(),
        ))
    }

    /// Has the processes write for a time. The image is left as it was; what was written is in the
    /// record.
    fn record<S: Subject>(
        &self,
        base: &Path,
        time: Duration,
    ) -> anyhow::Result<Vec<Record<S::Step>>> {
        let written = self.dir.join("written");
        replay::copy(base, &written)?;
        let log = self.dir.join("log");
        let recorder = Recorder::start(&written, &log, &self.dir.join("export"))?;
        let point = self.dir.join("mounted");
        std::fs::create_dir(&point)?;
        let mounted = Mounted::new(self.file_system, recorder.export(), &point)?;
        std::fs::create_dir(point.join("a"))?;
        let caches = point.join("a/b");
        S::prepare(&caches)?;
        let load = Load {
            caches: &caches,
            survives: self.survives,
            seed: self.seed,
            first: 0,
            shares: S::MIXES[0],
            // Whoever else syncs also saves what a missing sync of the library would lose.
            has_neighbour: self.survives != Survives::Full || self.seed.is_multiple_of(2),
            log: Some(&log),
        };
        let writers = load.start::<S>()?;
        writers.wait_for_step(|_| true)?;
        std::thread::sleep(time);
        let records = writers.kill()?;
        mounted.unmount()?;
        recorder.stop()?;
        std::fs::remove_file(written)?;
        Ok(records)
    }

    /// Looks at an image on which all is that was acknowledged by so many entries, and on which
    /// nothing can be that was begun later than so many.
    fn look<S: Subject>(
        &self,
        image: &Path,
        records: &[Record<S::Step>],
        is_there: u64,
        may_be_there: u64,
        seed: u64,
    ) -> anyhow::Result<S::Tally> {
        let records: Vec<Record<S::Step>> = records
            .iter()
            .filter(|record| record.begun < may_be_there)
            .map(|record| Record {
                step: record.step.clone(),
                begun: record.begun,
                done: record.done.filter(|&done| done <= is_there),
            })
            .collect();
        let point = self.dir.join("mounted");
        let mounted = Mounted::new(self.file_system, image, &point).context("mount the image")?;
        let (tally, _) = S::check(&Cut {
            caches: &point.join("a/b"),
            survives: self.survives,
            settled: &S::nothing(),
            records: &records,
            number: 3 * STEPS,
            seed,
            boot: Boot::by_turns(seed),
        })?;
        mounted.unmount()?;
        Ok(tally)
    }
}

/// So many of them, spread over all.
fn spread<T: Copy>(all: &[T], count: usize, rng: &mut fastrand::Rng) -> Vec<T> {
    let count = count.min(all.len());
    (0..count)
        .map(|index| {
            let (from, to) = (index * all.len() / count, (index + 1) * all.len() / count);
            all[rng.usize(from..to)]
        })
        .collect()
}
