//! Endurance: after very many operations of every kind, a process has the descriptors, the memory and
//! the threads that it had after the first of them.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use larder::{Durability, ErrorKind, KVDirStore, KVFileStore, StoreOptions, Wait};

/// What can be chosen.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Ends after so many
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(20_000..))]
    operations: u64,
    /// To repeat the same choices
    #[arg(long)]
    seed: Option<u64>,
    /// Where the stores are made [default: TMPDIR, or memory]
    #[arg(long)]
    scratch: Option<PathBuf>,
}

/// So many keys in each store: after a tenth of the operations all of them were in use.
const KEYS: u64 = 200;

/// What the allocator may keep more of at the end than after a tenth of the way.
const SLACK_BYTES: u64 = 512 << 10;

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let scratch = crate::scratch::directory(options.scratch.as_deref(), 0)?;
    let began = Instant::now();
    let (files, trees) = (scratch.path().join("files"), scratch.path().join("trees"));
    // Who makes things durable opens what others do not.
    let [none, full] = [Durability::None, Durability::Full]
        .map(|durability| StoreOptions::new().durability(durability));
    let mut work = Work {
        files: [none.open_file_store(&files)?, full.open_file_store(&files)?],
        trees: [none.open_dir_store(&trees)?, full.open_dir_store(&trees)?],
        random: fastrand::Rng::with_seed(seed),
        refused: 0,
    };
    work.wait_in_vain()?;
    let warm = options.operations / 10;
    let mut early = Usage::now()?;
    for done in 0..options.operations {
        if done == warm {
            early = Usage::now()?;
        }
        work.step()
            .with_context(|| format!("seed {seed}, operation {done}"))?;
    }
    let late = Usage::now()?;
    ensure!(
        late.descriptors == early.descriptors && late.threads == early.threads,
        "seed {seed}: from {early:?} to {late:?}"
    );
    ensure!(
        late.resident_bytes <= early.resident_bytes + SLACK_BYTES,
        "seed {seed}: memory went up: from {early:?} to {late:?}"
    );
    println!(
        "endurance: seed {seed}: {} operations in {:.0} s, {} of them refused or failed on purpose; \
         after a tenth {early:?}, at the end {late:?}",
        options.operations,
        began.elapsed().as_secs_f64(),
        work.refused,
    );
    Ok(())
}

/// What this process has of what can leak.
#[derive(Debug)]
struct Usage {
    descriptors: usize,
    threads: usize,
    resident_bytes: u64,
}

impl Usage {
    fn now() -> anyhow::Result<Usage> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .context("no VmRSS in /proc/self/status")?;
        Ok(Usage {
            descriptors: std::fs::read_dir("/proc/self/fd")?.count(),
            threads: std::fs::read_dir("/proc/self/task")?.count(),
            resident_bytes: resident.trim().parse::<u64>()? << 10,
        })
    }
}

struct Work {
    files: [KVFileStore; 2],
    trees: [KVDirStore; 2],
    random: fastrand::Rng,
    refused: u64,
}

impl Work {
    /// What a process waits with stays open from its first wait on.
    fn wait_in_vain(&self) -> anyhow::Result<()> {
        let store = &self.files[0];
        let _held = store.lock("waited for")?;
        let bounded = store.with_wait(Wait::Timeout(Duration::from_millis(20)));
        ensure!(bounded.lock("waited for").is_err());
        Ok(())
    }

    fn step(&mut self) -> anyhow::Result<()> {
        let key = self.random.u64(0..KEYS).to_le_bytes();
        let bytes = vec![7; self.random.usize(0..5000)];
        let fill = |w: &mut larder::ValueWriter| Ok(w.write_all(&bytes)?);
        let plant = |tree: &Path| Ok(std::fs::write(tree.join("a"), &bytes)?);
        let which = self.random.usize(0..2);
        let (files, trees) = (&self.files[which], &self.trees[which]);
        match self.random.u32(0..1000) {
            0..240 => drop(files.get(&key)?),
            240..245 => drop((files.touch(&key)?, trees.touch(&key)?)),
            245..248 => drop((files.entries().count(), trees.entries().count())),
            248..250 => drop((files.sweep()?, trees.sweep()?)),
            250..350 => drop(files.read(&key)?),
            350..450 => drop(files.get_or_set(&key, fill)?),
            450..550 => drop(files.set(&key, fill)?),
            550..650 => drop(files.remove(&key)?),
            650..680 => {
                let lock = files.lock(&key)?;
                drop(lock.reader()?);
                let mut write = lock.begin()?;
                write.write_all(&bytes)?;
                if self.random.bool() {
                    write.commit()?;
                }
            }
            680..700 => {
                let mut batch = files.batch();
                batch.set(&key, fill)?;
                if self.random.bool() {
                    batch.set(b"of all batches", fill)?;
                }
                batch.commit()?;
            }
            700..760 => drop(trees.get(&key)?),
            760..800 => drop(trees.get_or_set(&key, plant)?),
            800..830 => drop(trees.replace(&key, plant)?),
            830..870 => drop(trees.remove(&key)?),
            870..1000 => self.fail(which, &key)?,
            _ => unreachable!("below a thousand"),
        }
        Ok(())
    }

    /// What is refused, fails or is given up may leave no more behind than what succeeds.
    fn fail(&mut self, which: usize, key: &[u8]) -> anyhow::Result<()> {
        self.refused += 1;
        let (files, trees) = (&self.files[which], &self.trees[which]);
        let kind = match self.random.u32(0..130) {
            0..40 => kind(files.set(key, |_w| bail!("on purpose")))?,
            40..60 => kind(trees.replace(key, |_tree| bail!("on purpose")))?,
            60..90 => {
                let _held = files.lock(key)?;
                kind(files.with_wait(Wait::TryOnce).lock(key))?
            }
            90..100 => {
                let _held = trees.lock(key)?;
                let wait = Wait::Timeout(Duration::from_micros(300));
                kind(trees.with_wait(wait).lock(key))?
            }
            100..110 => {
                let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
                    let panics = |_w: &mut _| std::panic::resume_unwind(Box::new("on purpose"));
                    files.set(key, panics)
                }));
                ensure!(caught.is_err(), "a closure's panic did not come through");
                return Ok(());
            }
            _ => {
                let _lease = trees.get_or_set(key, |_tree| Ok(()))?;
                kind(trees.remove(key))?
            }
        };
        let expected = [ErrorKind::Compute, ErrorKind::Busy, ErrorKind::InUse];
        ensure!(expected.contains(&kind), "{kind:?} was not to be expected");
        Ok(())
    }
}

fn kind<T>(result: larder::Result<T>) -> anyhow::Result<ErrorKind> {
    match result {
        Ok(_) => bail!("it was to fail, and did not"),
        Err(err) => Ok(err.kind()),
    }
}
