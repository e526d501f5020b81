//! What a process did and saw, and when: the records that it leaves even when it is killed.
//!
//! A record is written by one `write` before an operation and by one after it, to a file that is not
//! in the store. A kill can cut off the last record, never one in the middle.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::clock::now;

/// What a key can hold: the number of the operation that wrote it. 0 is no value.
pub(crate) type Number = u64;

/// What an operation asks for. What it writes, if it writes, is its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Read,
    Contains,
    Set,
    GetOrSet,
    /// Read and write under one lock.
    Update,
    Remove,
    /// Everything that is not in use goes: this key's value may.
    Clear,
    /// Nothing that is stored goes, but the key may be locked for a moment.
    Sweep,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// Refused because somebody else was at it: nothing happened.
    Refused,
    /// What was read; for `Update`, what was there before.
    Saw(Number),
    Bool(bool),
}

const ASKED: [Asked; 8] = [
    Asked::Read,
    Asked::Contains,
    Asked::Set,
    Asked::GetOrSet,
    Asked::Update,
    Asked::Remove,
    Asked::Clear,
    Asked::Sweep,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Begins(Asked),
    Ends(Answer),
    /// The process was seen to be gone, so nothing happens after this that had not happened before.
    Died,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    /// Nanoseconds on the clock that all processes share.
    pub(crate) time: u64,
    pub(crate) operation: Number,
    pub(crate) key: u8,
    pub(crate) what: What,
}

/// A record as it is written, in little endian: when, which operation, and what.
pub(crate) type Raw = [u64; 4];

/// Of a record, in bytes.
pub(crate) const LEN: usize = size_of::<Raw>();

impl Event {
    fn encode(&self) -> Raw {
        let (tag, small, number) = match self.what {
            What::Begins(asked) => (0, asked as u8, 0),
            What::Ends(Answer::Done) => (1, 0, 0),
            What::Ends(Answer::Refused) => (2, 0, 0),
            What::Ends(Answer::Saw(number)) => (3, 0, number),
            What::Ends(Answer::Bool(truth)) => (4, u8::from(truth), 0),
            What::Died => unreachable!("the dead write nothing"),
        };
        let what = u64::from_le_bytes([tag, small, self.key, 0, 0, 0, 0, 0]);
        [self.time, self.operation, number, what]
    }

    fn decode([time, operation, number, what]: Raw) -> Option<Event> {
        let [tag, small, key, ..] = what.to_le_bytes();
        let what = match tag {
            0 => What::Begins(*ASKED.get(usize::from(small))?),
            1 => What::Ends(Answer::Done),
            2 => What::Ends(Answer::Refused),
            3 => What::Ends(Answer::Saw(number)),
            4 => What::Ends(Answer::Bool(small != 0)),
            _ => return None,
        };
        Some(Event {
            time,
            operation,
            key,
            what,
        })
    }
}

/// Where one process writes what it does.
#[derive(Debug)]
pub(crate) struct Recorder {
    file: File,
    process: u32,
    count: u32,
}

impl Recorder {
    pub(crate) fn create(path: &Path, process: u32) -> io::Result<Recorder> {
        Ok(Recorder {
            file: File::options().append(true).create_new(true).open(path)?,
            process,
            count: 0,
        })
    }

    /// A number that no other operation has.
    pub(crate) fn next(&mut self) -> Number {
        self.count += 1;
        u64::from(self.process) << 32 | u64::from(self.count)
    }

    pub(crate) fn begins(&mut self, operation: Number, key: u8, asked: Asked) -> io::Result<()> {
        self.write(operation, key, What::Begins(asked))
    }

    pub(crate) fn ends(&mut self, operation: Number, key: u8, answer: Answer) -> io::Result<()> {
        self.write(operation, key, What::Ends(answer))
    }

    fn write(&mut self, operation: Number, key: u8, what: What) -> io::Result<()> {
        let time = now();
        let event = Event {
            time,
            operation,
            key,
            what,
        };
        self.write_raw(event.encode())
    }

    pub(crate) fn write_raw(&mut self, raw: Raw) -> io::Result<()> {
        let bytes = raw.map(u64::to_le_bytes);
        self.file.write_all(bytes.as_flattened())
    }
}

/// What a process has written.
pub(crate) fn raws(path: &Path) -> io::Result<Vec<Raw>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        // Killed before it did anything.
        Err(err) if err.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(err) => return Err(err),
    };
    let words = bytes
        .as_chunks()
        .0
        .iter()
        .map(|&word| u64::from_le_bytes(word));
    let words: Vec<u64> = words.collect();
    Ok(words.as_chunks().0.to_vec())
}

/// What a process has written, and for what it did not end, that it died at `died`.
pub(crate) fn recorded(path: &Path, died: u64) -> anyhow::Result<Vec<Event>> {
    let raws = raws(path)?;
    let mut events = Vec::with_capacity(raws.len());
    let mut unfinished: Vec<(Number, u8)> = Vec::new();
    for raw in raws {
        let event = Event::decode(raw)
            .ok_or_else(|| anyhow::anyhow!("{}: a record nobody wrote", path.display()))?;
        let this = (event.operation, event.key);
        match event.what {
            What::Begins(_) => unfinished.push(this),
            What::Ends(_) | What::Died => unfinished.retain(|that| *that != this),
        }
        events.push(event);
    }
    events.extend(unfinished.into_iter().map(|(operation, key)| Event {
        time: died,
        operation,
        key,
        what: What::Died,
    }));
    Ok(events)
}

/// In the order of time. Of what happened in the same nanosecond, beginnings come first: then the two
/// overlap, and either order of them is allowed.
pub(crate) fn sort(events: &mut [Event]) {
    events.sort_by_key(|event| (event.time, !matches!(event.what, What::Begins(_))));
}

/// How many operations have about ended, from how many bytes there are of them.
pub(crate) fn operations(bytes: u64) -> u64 {
    bytes / (2 * LEN as u64)
}
