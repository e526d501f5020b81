//! Replaying: the format of the log (that of the kernel's `dm-log-writes`), and images made from
//! its beginnings.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::image;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FORCED: u64 = 2;
const DISCARD: u64 = 4;

#[derive(Clone, Copy, Debug)]
struct Entry {
    flags: u64,
    /// Where its data is in the image and in the log, and how much, in bytes.
    to: u64,
    from: u64,
    len: u64,
}

/// A flush: what was written before it is on disk after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Entries up to and with it.
    pub(super) entries: u64,
    /// Entries before the next one.
    pub(super) next_flush: u64,
}

#[derive(Debug)]
pub(super) struct Replay {
    log: File,
    entries: Vec<Entry>,
    /// The image as it is after the first `applied` entries.
    prefix: PathBuf,
    applied: u64,
}

impl Replay {
    /// `base` is the image as it was before the first entry, and is written to.
    pub(super) fn open(log: &Path, base: &Path) -> anyhow::Result<Self> {
        let log = File::open(log)?;
        let [magic, version, count, sector] = fields(&log, 0)?;
        let sector = sector & 0xffff_ffff;
        ensure!(
            magic == MAGIC && version == 1 && sector == 512,
            "the log is not a log"
        );
        let mut entries = Vec::new();
        let mut at = sector;
        for _ in 0..count {
            let [to, sectors, flags, _] = fields(&log, at)?;
            // A discard has a length, and no data.
            let len = if flags & DISCARD == 0 {
                sectors * sector
            } else {
                0
            };
            let from = at + sector;
            entries.push(Entry {
                flags,
                to: to * sector,
                from,
                len,
            });
            at = from + len;
        }
        let length = log.metadata()?.len();
        ensure!(
            at <= length,
            "the log ends after {length} bytes, and not {at}"
        );
        Ok(Replay {
            log,
            entries,
            prefix: base.to_path_buf(),
            applied: 0,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn flushes(&self) -> Vec<Point> {
        let is_flush = |&(_, entry): &(u64, &Entry)| entry.flags & (FLUSH | FORCED) != 0;
        let mut ends: Vec<u64> = (0..)
            .zip(&self.entries)
            .filter(is_flush)
            .map(|(i, _)| i)
            .collect();
        ends.push(self.entries.len() as u64);
        let point = |pair: &[u64]| Point {
            entries: pair[0] + 1,
            next_flush: pair[1],
        };
        ends.windows(2).map(point).collect()
    }

    /// Makes an image as the first so many entries left it. Points come in their order.
    pub(super) fn prefix(&mut self, entries: u64, image: &Path) -> anyhow::Result<()> {
        ensure!(
            entries >= self.applied,
            "the record cannot be replayed backwards"
        );
        let to = OpenOptions::new().write(true).open(&self.prefix)?;
        for entry in &self.entries[self.applied as usize..entries as usize] {
            self.apply(entry, &to)?;
        }
        self.applied = entries;
        copy(&self.prefix, image)
    }

    /// Adds a random part of the writes after a flush to an image. Of writes to the same place the
    /// last one counts.
    pub(super) fn add_some(
        &self,
        point: Point,
        image: &Path,
        rng: &mut fastrand::Rng,
    ) -> anyhow::Result<()> {
        let to = OpenOptions::new().write(true).open(image)?;
        let after = &self.entries[point.entries as usize..point.next_flush as usize];
        let share = rng.f64();
        for entry in after {
            if rng.f64() < share {
                self.apply(entry, &to)?;
            }
        }
        Ok(())
    }

    fn apply(&self, entry: &Entry, to: &File) -> anyhow::Result<()> {
        let mut data = vec![0; entry.len as usize];
        self.log
            .read_exact_at(&mut data, entry.from)
            .context("read the log")?;
        to.write_all_at(&data, entry.to).context("write the image")
    }
}

/// Four numbers at a place of the log.
fn fields(log: &File, at: u64) -> anyhow::Result<[u64; 4]> {
    let mut fields = [0; 4];
    for (index, field) in (0..).zip(&mut fields) {
        let mut bytes = [0; 8];
        log.read_exact_at(&mut bytes, at + 8 * index)
            .context("read the log")?;
        *field = u64::from_le_bytes(bytes);
    }
    Ok(fields)
}

/// Copies an image without its holes.
pub(super) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let _ = std::fs::remove_file(to); // a copy over an old one keeps what the old one allocated
    let mut cp = Command::new("cp");
    image::run(
        cp.args(["--sparse=auto", "--reflink=auto"])
            .arg(from)
            .arg(to),
    )
}
