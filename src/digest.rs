//! Digests: which there are, what a caller expects of a value, and hashing what streams into a file.
//!
//! Pure but for reading back a file that was not written in order. Invariant: a digest that is told is
//! that of all bytes from the first to the last.

use std::fmt;
use std::fs::File;
use std::io;

use ring::digest;

use crate::error::{Repr, Result};
use crate::key::ArtifactHash;
use crate::sys;

/// What everything that is sealed here is hashed with.
pub(crate) const OURS: Algorithm = Algorithm::Sha256;

/// Bytes of a digest of [`OURS`].
pub(crate) const OURS_LEN: usize = 32;

/// How much of a file is hashed at a time.
const BLOCK_BYTES: usize = 128 * 1024;

/// The algorithms that can be computed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    const ALL: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];

    /// As an [`ArtifactHash`] calls it.
    fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn of(hash: &ArtifactHash) -> Result<Self> {
        let found = Algorithm::ALL
            .into_iter()
            .find(|known| known.name() == hash.mode());
        found.ok_or_else(|| {
            let mode = hash.mode().to_owned();
            Repr::UnknownAlgorithm { mode }.into()
        })
    }

    fn context(self) -> digest::Context {
        digest::Context::new(match self {
            Algorithm::Sha256 => &digest::SHA256,
            Algorithm::Sha384 => &digest::SHA384,
            Algorithm::Sha512 => &digest::SHA512,
        })
    }
}

/// What is known of a value before it is there: its length, its digest, or both.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let store = larder::KVFileStore::new(dir.path())?;
/// use std::io::Write;
/// use larder::{ErrorKind, Expect};
///
/// let sum = "sha256=2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// let expect = Expect::new().len(5).digest(&sum.parse()?);
/// let url = "https://example.org/hello";
/// let err = store.get_or_set_verified(url, &expect, |w| Ok(w.write_all(b"jello")?)).unwrap_err();
/// assert_eq!(err.kind(), ErrorKind::DigestMismatch);
/// store.get_or_set_verified(url, &expect, |w| Ok(w.write_all(b"hello")?))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    len: Option<u64>,
    digests: Vec<ArtifactHash>,
}

impl Expect {
    /// Expects nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Expects this many bytes.
    #[must_use = "this returns the expectation"]
    pub fn len(mut self, bytes: u64) -> Self {
        self.len = Some(bytes);
        self
    }

    /// Expects this digest, and those that were said before: SHA-256, SHA-384 or SHA-512. Another
    /// algorithm is [`Unsupported`](crate::ErrorKind::Unsupported) where it would have to be computed.
    #[must_use = "this returns the expectation"]
    pub fn digest(mut self, digest: &ArtifactHash) -> Self {
        self.digests.push(digest.clone());
        self
    }

    /// Refuses what could not be checked.
    pub(crate) fn check_supported(&self) -> Result<()> {
        self.digests
            .iter()
            .try_for_each(|digest| Algorithm::of(digest).map(drop))
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.len.is_none() && self.digests.is_empty()
    }

    pub(crate) fn expected_len(&self) -> Option<u64> {
        self.len
    }

    pub(crate) fn expected_digests(&self) -> &[ArtifactHash] {
        &self.digests
    }

    /// Whether a file of this length is what is expected. `None` where no digest is, and so little is
    /// known of it.
    pub(crate) fn is_met_by(&self, file: &File, len: u64) -> io::Result<Option<bool>> {
        if self.len.is_some_and(|expected| expected != len) {
            return Ok(Some(false));
        }
        if self.digests.is_empty() {
            return Ok(None);
        }
        let mut hashing = Hashing::default();
        hashing.want_for(self).map_err(io::Error::from)?;
        let digests = hashing.finish(file, len)?;
        for expected in &self.digests {
            let other = digests.other_than(expected).map_err(io::Error::from)?;
            if other.is_some() {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }

    /// Whether a value of this length, and of this digest of [`OURS`] if that is known, can be meant.
    pub(crate) fn admits(&self, len: u64, ours: Option<&[u8; OURS_LEN]>) -> bool {
        let can_be = |expected: &ArtifactHash| {
            ours.filter(|_| Algorithm::of(expected).is_ok_and(|algorithm| algorithm == OURS))
                .is_none_or(|ours| ours == expected.digest())
        };
        self.len.is_none_or(|expected| expected == len) && self.digests.iter().all(can_be)
    }
}

/// Several digests of one stream.
#[derive(Default)]
pub(crate) struct Hashing {
    contexts: Vec<(Algorithm, digest::Context)>,
    /// How many bytes from the first on were hashed.
    hashed: u64,
    /// What was hashed is not what is in the file: it was not written in order, or an algorithm was
    /// asked for when there were bytes already.
    stale: bool,
}

impl Hashing {
    /// Asks for a digest.
    pub(crate) fn want(&mut self, algorithm: Algorithm) {
        if self.contexts.iter().all(|(known, _)| *known != algorithm) {
            self.contexts.push((algorithm, algorithm.context()));
            self.stale |= self.hashed > 0;
        }
    }

    /// Asks for what an expectation needs.
    pub(crate) fn want_for(&mut self, expect: &Expect) -> Result<()> {
        for digest in &expect.digests {
            self.want(Algorithm::of(digest)?);
        }
        Ok(())
    }

    /// These bytes were written at this offset.
    pub(crate) fn written(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.contexts.is_empty() {
            self.hashed = self.hashed.max(offset + bytes.len() as u64);
            return;
        }
        self.stale |= offset != self.hashed;
        if self.stale {
            return;
        }
        for (_, context) in &mut self.contexts {
            context.update(bytes);
        }
        self.hashed += bytes.len() as u64;
    }

    /// The digests of a file of `len` bytes, all of which were told or are read now.
    pub(crate) fn finish(mut self, file: &File, len: u64) -> io::Result<Digests> {
        if !self.contexts.is_empty() && (self.stale || self.hashed != len) {
            for (algorithm, context) in &mut self.contexts {
                *context = algorithm.context();
            }
            read_all(file, len, |bytes| {
                for (_, context) in &mut self.contexts {
                    context.update(bytes);
                }
            })?;
        }
        let digests = self.contexts.into_iter();
        Ok(Digests(
            digests
                .map(|(algorithm, context)| (algorithm, context.finish()))
                .collect(),
        ))
    }
}

impl fmt::Debug for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = self.contexts.iter().map(|(algorithm, _)| algorithm);
        f.debug_list().entries(wanted).finish()
    }
}

/// What came out.
#[derive(Debug)]
pub(crate) struct Digests(Vec<(Algorithm, digest::Digest)>);

impl Digests {
    fn of(&self, algorithm: Algorithm) -> Option<&[u8]> {
        let mut digests = self.0.iter();
        let found = digests.find(|(known, _)| *known == algorithm);
        found.map(|(_, digest)| digest.as_ref())
    }

    /// The digest that was asked for with [`OURS`].
    pub(crate) fn ours(&self) -> Option<[u8; OURS_LEN]> {
        self.of(OURS)?.try_into().ok()
    }

    /// The digest that is there instead of the expected one.
    pub(crate) fn other_than(&self, expected: &ArtifactHash) -> Result<Option<ArtifactHash>> {
        let actual = self.of(Algorithm::of(expected)?).unwrap_or_default();
        if actual == expected.digest() {
            return Ok(None);
        }
        ArtifactHash::new(expected.mode(), actual).map(Some)
    }
}

/// The digest of the first `len` bytes of a file. `UnexpectedEof` where it has fewer.
pub(crate) fn of_file(file: &File, len: u64) -> io::Result<[u8; OURS_LEN]> {
    let mut context = OURS.context();
    read_all(file, len, |bytes| context.update(bytes))?;
    Ok(array(&context.finish()))
}

/// Whether this is the digest of the first `len` bytes of a file. Not of one that is shorter.
pub(crate) fn is_of_file(digest: &[u8; OURS_LEN], file: &File, len: u64) -> io::Result<bool> {
    match of_file(file, len) {
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        actual => actual.map(|actual| actual == *digest),
    }
}

/// The digest of these bytes, one after the other.
pub(crate) fn of_parts(parts: &[&[u8]]) -> [u8; OURS_LEN] {
    let mut context = OURS.context();
    for part in parts {
        context.update(part);
    }
    array(&context.finish())
}

fn array(digest: &digest::Digest) -> [u8; OURS_LEN] {
    let mut array = [0; OURS_LEN];
    array.copy_from_slice(digest.as_ref());
    array
}

fn read_all(file: &File, len: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut done = 0;
    while done < len {
        let wanted = usize::try_from(len - done).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
        let read = sys::read_at(file, &mut block[..wanted], done)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        each(&block[..read]);
        done += read as u64;
    }
    Ok(())
}
