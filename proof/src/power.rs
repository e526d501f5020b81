//! Power cuts by shutting a mounted file system down under load.
//!
//! A cut: processes write, they are killed, the file system is cut off from its device, unmounted,
//! mounted again (which recovers its journal), and looked at. The kill comes first, because on xfs
//! an `fsync` after the shutdown answers Ok, which would look like a promise that was broken.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::checkpoints::cut::Checkpoints;
use crate::image::{self, FileSystem, Mounted};
use crate::kernel;
use crate::look::Boot;
use crate::scratch;
use crate::stores::Stores;
use crate::subject::{Cut, Subject};
use crate::survives::Survives;
use crate::writers::{Load, STEPS, Writers};

const IMAGE_BYTES: u64 = 600 << 20;

/// What can be chosen.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    file_system: FileSystem,
    #[arg(long)]
    durability: Survives,
    /// Of a file of checkpoints, and not of the stores; at least with `data`
    #[arg(long)]
    checkpoints: bool,
    /// How many power cuts
    #[arg(long, default_value_t = 40)]
    cuts: u64,
    /// Drawn and printed if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Where the image is made [default: TMPDIR, or memory if there is room]
    #[arg(long)]
    scratch: Option<PathBuf>,
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    if options.file_system == FileSystem::Btrfs {
        bail!("btrfs cannot be shut down; try block-log");
    }
    if let Some(why) = image::why_not(options.file_system, &[]) {
        println!("SKIPPED power: {why}");
        return Ok(());
    }
    match options.checkpoints {
        true => cut_often::<Checkpoints>(&options),
        false => cut_often::<Stores>(&options),
    }
}

fn cut_often<S: Subject>(options: &Options) -> anyhow::Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let title = format!(
        "power: {}{}, durability {}, seed {seed}",
        S::NAME,
        options.file_system.name(),
        options.durability.name()
    );
    let dir = scratch::directory(options.scratch.as_deref(), image::ROOM_BYTES)?;
    let mut bench = Bench::<S>::new(options.file_system, options.durability, seed, dir.path())?;
    let started = Instant::now();
    for cut in 0..options.cuts {
        if let Err(err) = bench.cut(cut) {
            bench.mounted = None;
            let kept = dir.keep();
            return Err(err.context(format!(
                "{title}: cut {cut} of {}, image kept in {}",
                options.cuts,
                kept.display()
            )));
        }
    }
    println!(
        "{title}: {} cuts in {:.1} s, {} operations acknowledged:{}",
        options.cuts,
        started.elapsed().as_secs_f64(),
        bench.acknowledged,
        bench.tally
    );
    S::detects(&bench.tally, options.durability).context(title.clone())?;
    if bench.acknowledged == 0 {
        bail!("{title}: no operation came to its end, so nothing had to be there");
    }
    Ok(())
}

/// A file system under test, over all cuts of a run.
struct Bench<S: Subject> {
    file_system: FileSystem,
    survives: Survives,
    rng: fastrand::Rng,
    seed: u64,
    image: PathBuf,
    point: PathBuf,
    caches: PathBuf,
    mounted: Option<Mounted>,
    settled: S::Settled,
    tally: S::Tally,
    acknowledged: u64,
}

impl<S: Subject> Bench<S> {
    fn new(
        file_system: FileSystem,
        survives: Survives,
        seed: u64,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let (image, point) = (dir.join("image"), dir.join("mounted"));
        std::fs::create_dir(&point)?;
        file_system.make(&image, IMAGE_BYTES)?;
        Ok(Bench {
            mounted: Some(Mounted::new(file_system, &image, &point)?),
            caches: point.join("a/b"),
            file_system,
            survives,
            rng: fastrand::Rng::with_seed(seed),
            seed,
            image,
            point,
            settled: S::nothing(),
            tally: S::Tally::default(),
            acknowledged: 0,
        })
    }

    fn cut(&mut self, cut: u64) -> anyhow::Result<()> {
        // Creating a store is something that a power cut can hit, too.
        let is_new = cut.is_multiple_of(S::NEW_EVERY);
        if is_new {
            if cut > 0 {
                std::fs::remove_dir_all(self.point.join("a"))?;
            }
            self.settled = S::nothing();
            std::fs::create_dir_all(self.point.join("a"))?;
            S::prepare(&self.caches)?;
        }
        rustix::fs::syncfs(File::open(&self.point)?)?;
        if self.rng.bool() {
            // All is there, and none of what was not synced by the library is believed before it was
            // checked; then it is noted that it was, which the cut can hit.
            self.remount()?;
        }

        let first = (cut + 1) * 4 * STEPS;
        // Whoever else syncs also saves what a missing sync of the library would lose.
        let has_neighbour = self.survives == Survives::None || self.rng.bool();
        let load = Load {
            caches: &self.caches,
            survives: self.survives,
            seed: self.seed,
            first,
            shares: self.rng.choice(S::MIXES).unwrap_or(&S::MIXES[0]),
            has_neighbour,
            log: None,
        };
        let writers = load.start::<S>()?;
        self.wait(&writers, is_new)?;
        let records = writers.kill()?;
        kernel::shut_down(&self.point).context("shut the file system down")?;
        self.remount().context("mount after the power cut")?;

        let acknowledged = records.iter().filter(|record| record.done.is_some());
        self.acknowledged += acknowledged.count() as u64;
        let (tally, settled) = S::check(&Cut {
            caches: &self.caches,
            survives: self.survives,
            settled: &self.settled,
            records: &records,
            number: first + 3 * STEPS,
            seed: self.rng.u64(..),
            boot: Boot::by_turns(cut),
        })?;
        self.tally += tally;
        self.settled = settled;
        Ok(())
    }

    fn remount(&mut self) -> anyhow::Result<()> {
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount()?;
        }
        let mounted = Mounted::new(self.file_system, &self.image, &self.point)?;
        self.mounted = Some(mounted);
        Ok(())
    }

    /// Lets the writers work for a random time: mostly short, because most is different at the
    /// beginning, and at times long.
    fn wait(&mut self, writers: &Writers<S::Step>, is_new: bool) -> anyhow::Result<()> {
        let share = self.rng.f64();
        if is_new && self.rng.bool() {
            std::thread::sleep(S::BEGINNING.mul_f64(share));
            return Ok(());
        }
        writers.wait_for_step(|_| true)?;
        std::thread::sleep(Duration::from_secs_f64(0.002 + 0.25 * share.powi(3)));
        // Just after a call returned is when what it did not sync is not synced by others yet.
        match self.rng.u8(..4) {
            0 => writers.wait_for_step(|_| true),
            1 => writers.wait_for_step(S::is_removal),
            _ => Ok(()),
        }
    }
}
