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

/// The values of one size. Each has its key's number and its own at its beginning and at its end, so that
/// no two are the same and a torn one is seen; what lies between is the same in all.
#[derive(Debug)]
pub(crate) struct Content {
    bytes: Vec<u8>,
    /// Of the words between beginning and end.
    sum: u64,
}

const WORD: usize = 8;
const HEAD: usize = 2 * WORD;

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; WORD];
    word.copy_from_slice(&bytes[at..at + WORD]);
    u64::from_le_bytes(word)
}

fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(WORD).map(|bytes| word(bytes, 0));
    words.fold(0, u64::wrapping_add)
}

impl Content {
    pub(crate) fn new(size: &Size) -> Self {
        let mut random = Random(1);
        let words = (0..size.bytes / WORD).flat_map(|_| {
            let word = random.next() ^ (random.next() << 32);
            word.to_le_bytes()
        });
        let bytes: Vec<u8> = words.collect();
        let sum = sum(&bytes[HEAD..bytes.len() - WORD]);
        Content { bytes, sum }
    }

    /// The value of this number for a key.
    pub(crate) fn value(&mut self, key: usize, number: u64) -> &[u8] {
        let end = self.bytes.len() - WORD;
        self.bytes[..WORD].copy_from_slice(&(key as u64).to_le_bytes());
        self.bytes[WORD..HEAD].copy_from_slice(&number.to_le_bytes());
        self.bytes[end..].copy_from_slice(&(!number).to_le_bytes());
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
        let end = bytes.len() - WORD;
        let number = word(bytes, WORD);
        ensure!(word(bytes, 0) == key as u64, "another key's value was read");
        ensure!(word(bytes, end) == !number, "a torn value was read");
        let between = HEAD..end;
        let same = if thorough {
            bytes[between.clone()] == self.bytes[between]
        } else {
            sum(&bytes[between]) == self.sum
        };
        ensure!(same, "what was read is not what was written");
        Ok(())
    }
}
