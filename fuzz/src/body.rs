//! A value as it is written: steps whose lengths matter to the writer, and a model of the writer.

use std::io::{self, Read, Seek, SeekFrom, Write};

use arbitrary::{Arbitrary, Result, Unstructured};
use larder::{ErrorKind, LockedWrite, ValueWriter};

use crate::scratch::Deliberate;

/// The size of the writer's buffer.
const BUFFER: i64 = 16 * 1024;

/// What a closure does with its writer.
#[derive(Arbitrary, Clone, Debug)]
pub struct Body {
    seed: u8,
    steps: Vec<Step>,
    stated: Option<Stated>,
    ending: Ending,
}

#[derive(Arbitrary, Clone, Debug)]
enum Step {
    Write(Length),
    Flush,
    /// Nothing where the writer cannot.
    Seek(To),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Length {
    Few(u8),
    NearHalf(i8),
    NearBuffer(i8),
    NearTwice(i8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum To {
    Start(u16),
    Current(i16),
    End(i16),
}

/// A length that is stated before some step.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Stated {
    before: u8,
    off: Option<i8>,
}

/// How a closure ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the first error of its writer, if there was one.
    Ok,
    IgnoringErrors,
    Error,
    Panic,
}

impl<'a> Arbitrary<'a> for Ending {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u8::arbitrary(input)? % 16 {
            1 | 2 => Ending::IgnoringErrors,
            3 | 4 => Ending::Error,
            5 => Ending::Panic,
            _ => Ending::Ok,
        })
    }

    fn size_hint(_depth: usize) -> (usize, Option<usize>) {
        (1, Some(1))
    }
}

/// What is to come of a closure that is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Published(Vec<u8>),
    Fails(ErrorKind),
    Panics,
}

/// Something a body can be written to.
pub trait Target: Write {
    /// Only asked where `SEEKS`.
    fn seek_to(&mut self, to: SeekFrom) -> io::Result<u64>;
    fn state_len(&mut self, bytes: u64);
    fn position_now(&self) -> u64;
    const SEEKS: bool;
}

impl Target for ValueWriter {
    fn seek_to(&mut self, _to: SeekFrom) -> io::Result<u64> {
        unreachable!("it cannot seek")
    }

    fn state_len(&mut self, bytes: u64) {
        self.expect_len(bytes);
    }

    fn position_now(&self) -> u64 {
        self.position()
    }

    const SEEKS: bool = false;
}

impl Target for LockedWrite<'_> {
    fn seek_to(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.seek(to)
    }

    fn state_len(&mut self, bytes: u64) {
        self.expect_len(bytes);
    }

    fn position_now(&self) -> u64 {
        self.position()
    }

    const SEEKS: bool = true;
}

/// The model of a writer.
#[derive(Debug, Default)]
struct Draft {
    bytes: Vec<u8>,
    position: u64,
    stated: Option<u64>,
    /// A byte too many was written.
    too_long: bool,
}

impl Draft {
    fn write(&mut self, bytes: &[u8]) -> bool {
        let end = self.position + bytes.len() as u64;
        if !bytes.is_empty() && self.stated.is_some_and(|stated| end > stated) {
            self.too_long = true;
        }
        if self.too_long {
            return false;
        }
        if !bytes.is_empty() {
            let (start, end) = (self.position as usize, end as usize);
            self.bytes.resize(self.bytes.len().max(end), 0);
            self.bytes[start..end].copy_from_slice(bytes);
        }
        self.position = end;
        true
    }

    /// Whether a write of no bytes is just that. Past the end of the value, or past the length that
    /// was stated, the library's writer takes it for a write up to there.
    fn takes_nothing_for_nothing(&self) -> bool {
        let len = self.bytes.len() as u64;
        self.position <= self.stated.map_or(len, |stated| stated.min(len))
    }

    fn seek(&mut self, to: SeekFrom) -> bool {
        let from = |start: u64, by: i64| start.checked_add_signed(by);
        let sought = match to {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::Current(by) => from(self.position, by),
            SeekFrom::End(by) => from(self.bytes.len() as u64, by),
        };
        self.position = sought.unwrap_or(self.position);
        sought.is_some()
    }

    fn verdict(self) -> Expected {
        let len = self.bytes.len() as u64;
        if self.too_long || self.stated.is_some_and(|stated| stated != len) {
            Expected::Fails(ErrorKind::SizeMismatch)
        } else {
            Expected::Published(self.bytes)
        }
    }
}

impl Length {
    fn bytes(self) -> usize {
        let near = |length: i64, off: i8| usize::try_from(length + i64::from(off)).unwrap();
        match self {
            Length::Few(length) => length.into(),
            Length::NearHalf(off) => near(BUFFER / 2, off),
            Length::NearBuffer(off) => near(BUFFER, off),
            Length::NearTwice(off) => near(2 * BUFFER, off),
        }
    }
}

impl To {
    fn whence(self) -> SeekFrom {
        match self {
            To::Start(to) => SeekFrom::Start(to.into()),
            To::Current(by) => SeekFrom::Current(by.into()),
            To::End(by) => SeekFrom::End(by.into()),
        }
    }
}

impl Body {
    /// A short one, that differs from another in its seed only.
    #[must_use]
    pub fn short(seed: u8) -> Self {
        Body {
            seed,
            steps: vec![Step::Write(Length::Few(9))],
            stated: None,
            ending: Ending::Ok,
        }
    }

    #[must_use]
    pub fn ending(&self) -> Ending {
        self.ending
    }

    fn steps(&self, seeks: bool) -> impl Iterator<Item = &Step> {
        let usable = move |step: &&Step| seeks || !matches!(step, Step::Seek(_));
        self.steps.iter().filter(usable).take(6)
    }

    /// The bytes of one write: no two look alike.
    fn piece(&self, number: usize, length: Length) -> Vec<u8> {
        let start = usize::from(self.seed) * 7 + number * 101;
        (start..start + length.bytes())
            .map(|n| (n.wrapping_mul(31) ^ (n >> 8)) as u8)
            .collect()
    }

    fn stated_len(&self, seeks: bool) -> Option<u64> {
        let stated = self.stated?;
        let mut draft = Draft::default();
        self.apply(seeks, None, &mut draft, &mut None::<&mut ValueWriter>);
        let len = draft.bytes.len() as i64 + i64::from(stated.off.unwrap_or(0));
        Some(len.max(0) as u64)
    }

    /// Writes to the model, and to a real writer, which must do the same. The writer's first error.
    fn apply(
        &self,
        seeks: bool,
        stated_len: Option<u64>,
        draft: &mut Draft,
        writer: &mut Option<&mut impl Target>,
    ) -> Option<io::Error> {
        let mut failed = None;
        let before = self
            .stated
            .map_or(0, |stated| usize::from(stated.before) % 4);
        for (number, step) in self.steps(seeks).enumerate() {
            if let Some(len) = stated_len.filter(|_| number == before) {
                draft.stated = Some(len);
                if let Some(writer) = writer {
                    writer.state_len(len);
                }
            }
            let (fine, real) = match step {
                Step::Write(length) => {
                    let piece = self.piece(number, *length);
                    if piece.is_empty() && !draft.takes_nothing_for_nothing() {
                        continue;
                    }
                    let real = writer.as_mut().map(|writer| write(*writer, &piece));
                    (draft.write(&piece), real)
                }
                Step::Flush => (true, writer.as_mut().map(|writer| writer.flush())),
                Step::Seek(to) => {
                    let seek = |writer: &mut &mut _| Target::seek_to(*writer, to.whence());
                    let real = writer.as_mut().map(seek);
                    (draft.seek(to.whence()), real.map(|sought| sought.map(drop)))
                }
            };
            if let (Some(real), Some(writer)) = (real, &writer) {
                assert_eq!(real.is_ok(), fine, "{step:?}: {real:?}");
                assert_eq!(writer.position_now(), draft.position, "after {step:?}");
                failed = failed.or(real.err());
            }
        }
        failed
    }

    fn drafted<T: Target>(&self) -> Draft {
        let mut draft = Draft::default();
        let stated_len = self.stated_len(T::SEEKS);
        self.apply(T::SEEKS, stated_len, &mut draft, &mut None::<&mut T>);
        draft
    }

    /// What comes of it in a closure.
    #[must_use]
    pub fn expected(&self) -> Expected {
        let draft = self.drafted::<ValueWriter>();
        match self.ending {
            Ending::Panic => Expected::Panics,
            Ending::Error if !draft.too_long => Expected::Fails(ErrorKind::Compute),
            _ => draft.verdict(),
        }
    }

    /// What comes of it if it is committed under a lock.
    #[must_use]
    pub fn expected_of_commit(&self) -> Expected {
        self.drafted::<LockedWrite<'_>>().verdict()
    }

    /// Writes it, and compares the writer with its model at each step.
    pub fn write_to<T: Target>(&self, writer: &mut T) -> io::Result<()> {
        let stated_len = self.stated_len(T::SEEKS);
        let mut draft = Draft::default();
        self.apply(T::SEEKS, stated_len, &mut draft, &mut Some(writer))
            .map_or(Ok(()), Err)
    }

    /// The closure.
    pub fn run(&self, writer: &mut ValueWriter) -> anyhow::Result<()> {
        let written = self.write_to(writer);
        match self.ending {
            Ending::Ok => Ok(written?),
            Ending::IgnoringErrors => Ok(()),
            Ending::Error => Err(Deliberate.into()),
            Ending::Panic => Deliberate::unwind(),
        }
    }
}

/// All of it, also when it is nothing.
fn write(writer: &mut impl Target, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return writer.write(bytes).map(|written| assert_eq!(written, 0));
    }
    writer.write_all(bytes)
}

/// All of a value, from its start.
pub fn bytes_of(value: &mut (impl Read + Seek)) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.rewind().unwrap();
    value.read_to_end(&mut bytes).unwrap();
    bytes
}
