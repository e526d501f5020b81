//! What is done: the kinds of work, the sizes of values, and contents that tell whether what is read is
//! what somebody wrote.

use anyhow::{Result, ensure};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Hit,
    Miss,
    Mixed,
    Set,
}

impl Work {
    /// In the order in which they are measured: what leaves nothing behind comes first.
    pub(crate) const ALL: [Work; 4] = [Work::Hit, Work::Miss, Work::Mixed, Work::Set];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Work::Hit => "hit",
            Work::Miss => "miss",
            Work::Mixed => "mixed",
            Work::Set => "set",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|work| work.name() == name)
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Work::Mixed | Work::Set)
    }

    /// Whether the operation of this number, counted through all processes, is a `set`.
    pub(crate) fn sets(self, operation: u64) -> bool {
        match self {
            Work::Hit | Work::Miss => false,
            Work::Mixed => operation % MIXED == MIXED / 2,
            Work::Set => true,
        }
    }
}

/// In mixed work one operation of so many is a `set`.
pub(crate) const MIXED: u64 = 20;

#[derive(Debug)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    /// As on the command line.
    pub(crate) id: &'static str,
    pub(crate) bytes: usize,
    /// Few enough for all values to stay in memory.
    pub(crate) keys: usize,
}

pub(crate) static SIZES: [Size; 3] = [
    Size {
        name: "1 KiB",
        id: "1k",
        bytes: 1 << 10,
        keys: 200,
    },
    Size {
        name: "64 KiB",
        id: "64k",
        bytes: 64 << 10,
        keys: 64,
    },
    Size {
        name: "4 MiB",
        id: "4m",
        bytes: 4 << 20,
        keys: 8,
    },
];

impl Size {
    pub(crate) fn parse(id: &str) -> Option<&'static Self> {
        SIZES.iter().find(|size| size.id == id)
    }
}

/// A linear congruential generator is random enough to choose keys by.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }
}

/// The values of one size. Each has a number of its own in each of its blocks, so that no two are the
/// same, a torn one is seen, and no store can do with writing a part of it (SQLite writes only those pages
/// of a blob that an update changes). What lies between the numbers is the same in all.
#[derive(Debug)]
pub(crate) struct Content {
    bytes: Vec<u8>,
    /// Of the words between.
    sum: u64,
}

const WORD: usize = 8;
/// No larger than a page of any store.
const BLOCK: usize = 512;

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; WORD];
    word.copy_from_slice(&bytes[..WORD]);
    u64::from_le_bytes(word)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks_exact(WORD)
        .map(word)
        .fold(0, u64::wrapping_add)
}

impl Content {
    pub(crate) fn new(size: &Size) -> Self {
        let mut random = Random(1);
        let words = (0..size.bytes / WORD).flat_map(|_| {
            let word = random.next() ^ (random.next() << 32);
            word.to_le_bytes()
        });
        let mut content = Content {
            bytes: words.collect(),
            sum: 0,
        };
        content.sum = sum(content.value(0, 0));
        content
    }

    /// The value of this number for a key: in each block the number, and after the first one the key.
    pub(crate) fn value(&mut self, key: usize, number: u64) -> &[u8] {
        for block in self.bytes.chunks_exact_mut(BLOCK) {
            block[..WORD].copy_from_slice(&number.to_le_bytes());
        }
        self.bytes[WORD..2 * WORD].copy_from_slice(&(key as u64).to_le_bytes());
        &self.bytes
    }

    /// Looks at every word of a value: whether it is this key's, and whole. `thorough` compares them one
    /// by one; otherwise it is their sum.
    pub(crate) fn check(&self, key: usize, bytes: &[u8], thorough: bool) -> Result<()> {
        ensure!(
            bytes.len() == self.bytes.len(),
            "{} bytes read, not {}",
            bytes.len(),
            self.bytes.len()
        );
        let number = word(bytes);
        let key = key as u64;
        ensure!(word(&bytes[WORD..]) == key, "another key's value was read");
        let same = if thorough {
            let own = self.bytes.chunks_exact(BLOCK);
            let mut blocks = bytes.chunks_exact(BLOCK).zip(own);
            let first = blocks.next();
            first.is_some_and(|(read, own)| read[2 * WORD..] == own[2 * WORD..])
                && blocks.all(|(read, own)| word(read) == number && read[WORD..] == own[WORD..])
        } else {
            let blocks = (bytes.len() / BLOCK) as u64;
            let sum_of_it = self.sum.wrapping_add(number.wrapping_mul(blocks));
            sum(bytes) == sum_of_it.wrapping_add(key)
        };
        ensure!(same, "what was read is torn, or not what was written");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_written_is_seen() {
        for size in &SIZES {
            let mut content = Content::new(size);
            let whole = content.value(3, 70).to_vec();
            let other = content.value(3, 71).to_vec();
            let mut torn = other;
            torn[..size.bytes / 2].copy_from_slice(&whole[..size.bytes / 2]);
            let mut changed = whole.clone();
            changed[size.bytes - 1] ^= 1;
            for thorough in [false, true] {
                content.check(3, &whole, thorough).unwrap();
                content.check(4, &whole, thorough).unwrap_err();
                content.check(3, &whole[512..], thorough).unwrap_err();
                content.check(3, &torn, thorough).unwrap_err();
                content.check(3, &changed, thorough).unwrap_err();
            }
        }
    }
}
