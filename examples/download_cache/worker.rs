//! One worker: the program that wants the packages, as one of several that know nothing of each other
//! but the stores' directory.

use std::io::{self, BufRead, Read, Seek, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use flate2::read::GzDecoder;
use larder::{ArtifactHash, Labelled, Value, ValueWriter};

use crate::digest::{Sha256, sha256};
use crate::event::{Event, Step};
use crate::package::Package;
use crate::stores::Stores;

/// How often the parent hears of a download that goes on.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// Gets the packages that standard input lists, in an order of this worker's own.
///
/// Like a package manager it gives up at the first one that cannot be had.
pub(crate) fn run(index: usize, store: &Path) -> anyhow::Result<ExitCode> {
    match get_all(index, store) {
        Ok(()) => {
            Event::Done.tell()?;
            Ok(ExitCode::SUCCESS)
        }
        Err(err) => {
            // The parent prints it, once for all workers that failed in the same way.
            Event::Failed(format!("{err:#}")).tell()?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn get_all(index: usize, store: &Path) -> anyhow::Result<()> {
    let mut packages = Vec::new();
    for line in io::stdin().lock().lines() {
        packages.push(Package::from_line(
            &line.context("cannot read what to fetch")?,
        )?);
    }
    let worker = Worker {
        stores: Stores::open(store)?,
        agent: agent(),
    };
    for number in order(index, packages.len()) {
        worker.get(number, &packages[number])?;
    }
    Ok(())
}

/// Each worker shuffles in its own way, so that they collide here and there and not at every step.
fn order(index: usize, len: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..len).collect();
    let mut random = index as u64 + 1;
    for last in (1..len).rev() {
        // Knuth's linear congruential generator; its high bits are the good ones.
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        order.swap(last, (random >> 33) as usize % (last + 1));
    }
    order
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .timeout_recv_body(Some(Duration::from_secs(600)))
        // What is served here is on loopback. A real one leaves this to the environment.
        .proxy(None)
        .build()
        .into()
}

struct Worker {
    stores: Stores,
    agent: ureq::Agent,
}

impl Worker {
    fn get(&self, number: usize, package: &Package) -> anyhow::Result<()> {
        let (archive, sha256) = self.archive(number, package)?;
        self.tree(number, package, &sha256, archive)
    }

    /// The archive, and its digest.
    fn archive(&self, number: usize, package: &Package) -> anyhow::Result<(Value, ArtifactHash)> {
        let key = Labelled::new(&package.key, &package.label);
        let began = Instant::now();
        let mut downloaded = None;
        let on_wait = move |info: &_| {
            // If nobody listens, the next event finds out.
            let _ = Event::waits(Step::Download, number, info).tell();
        };
        let archives = self.stores.archives.with_on_wait(on_wait);
        let mut archive = archives.get_or_set(&key, |w| {
            downloaded = Some(self.download(number, package, w)?);
            Ok(())
        })?;
        let took = began.elapsed();
        let sha256 = match downloaded {
            Some(sha256) => sha256,
            None => {
                // Values are trusted as they are read. Who cares for the digest looks himself.
                let found = sha256(&mut archive)?;
                archive.rewind()?;
                check(package, &found)
                    .context("the archive in the store was changed (--fresh empties it)")?;
                found
            }
        };
        Event::Has {
            step: Step::Download,
            package: number,
            outcome: archive.outcome(),
            took,
        }
        .tell()?;
        Ok((archive, sha256))
    }

    /// Writes the archive to the store's writer. Whatever fails in here, no process ever sees any of
    /// what was written.
    fn download(
        &self,
        number: usize,
        package: &Package,
        w: &mut ValueWriter,
    ) -> anyhow::Result<ArtifactHash> {
        Event::Makes {
            step: Step::Download,
            package: number,
        }
        .tell()?;
        let failed = || format!("cannot download {}", package.url);
        let response = self.agent.get(&package.url).call().with_context(failed)?;
        let of = response.body().content_length();
        if let Some(bytes) = of {
            w.expect_len(bytes);
        }
        let mut body = response.into_body().into_reader();
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        let mut told = Instant::now();
        loop {
            let read = body.read(&mut buffer).with_context(failed)?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            w.write_all(&buffer[..read])?;
            if told.elapsed() >= PROGRESS_INTERVAL {
                told = Instant::now();
                Event::Downloaded {
                    package: number,
                    bytes: w.position(),
                    of,
                }
                .tell()?;
            }
        }
        let sha256 = digest.finish()?;
        check(package, &sha256).with_context(failed)?;
        Ok(sha256)
    }

    /// Makes sure of the unpacked tree, and uses it.
    fn tree(
        &self,
        number: usize,
        package: &Package,
        sha256: &ArtifactHash,
        archive: Value,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        let on_wait = move |info: &_| {
            let _ = Event::waits(Step::Unpack, number, info).tell();
        };
        let trees = self.stores.trees.with_on_wait(on_wait);
        let lease = trees.get_or_set(&Labelled::new(sha256, &package.label), |tree| {
            Event::Makes {
                step: Step::Unpack,
                package: number,
            }
            .tell()?;
            unpack(archive, tree).with_context(|| format!("cannot unpack {}", package.url))
        })?;
        let took = began.elapsed();
        // Here a package manager would build what is in the tree, which nobody takes away meanwhile.
        lease
            .read_dir()
            .context("cannot look into the unpacked tree")?;
        Event::Has {
            step: Step::Unpack,
            package: number,
            outcome: lease.outcome(),
            took,
        }
        .tell()
    }
}

/// Unpacks a `.tar.gz` whole or not at all. `tar::Archive::unpack` would pass over what leads out of
/// the tree, and the rest would be published as if it were all.
fn unpack(archive: impl Read, tree: &Path) -> anyhow::Result<()> {
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let inside = entry.unpack_in(tree)?;
        ensure!(
            inside,
            "{} in it leads out of the tree",
            entry.path()?.display()
        );
    }
    Ok(())
}

fn check(package: &Package, found: &ArtifactHash) -> anyhow::Result<()> {
    if let Some(expected) = &package.sha256 {
        ensure!(
            found == expected,
            "{found} came where {expected} was expected"
        );
    }
    Ok(())
}
