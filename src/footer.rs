//! The format of a sealed value: what follows its bytes in the file.
//!
//! Pure but for reading a file's end; `docs/format.md` has the diagram. Invariant: what is not a whole footer of this value at this
//! key is told apart from one, and from one that a later version wrote.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use crate::digest::{self, OURS_LEN};
use crate::layout::EntryPath;
use crate::sys;
use crate::trust::{Standing, WITNESS_LEN, Witness};

/// Bytes of a footer. Its end is the witness, which alone can change. Before it are the label and the metadata, and before those the value.
pub(crate) const FOOTER_LEN: usize = 128;
/// How much metadata a sealed value can have.
pub const MAX_METADATA_BYTES: usize = 64 * 1024;
const MAX_LABEL: usize = 1024;
/// What a later version may at most put after a value.
const MAX_TRAILER: usize = 1024 * 1024;

/// So much is read of a file's end at once; more only where there is more metadata.
const END_BYTES: usize = 2048;

const MAGIC: [u8; 8] = *b"larder\xf0\x0d";
const VERSION: u32 = 1;
const SHA256: u8 = 1;
const BARRIER: u8 = 1;
/// Goes before everything that the check covers, so that no other use of the hash can give the same.
const DOMAIN: &[u8] = b"larder sealed value\n";

/// What the store knows of a value, and how the value was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Bytes of the value.
    pub(crate) len: u64,
    pub(crate) standing: Standing,
    pub(crate) known: Known,
}

/// What the store knows of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) digest: [u8; OURS_LEN],
    pub(crate) metadata: Vec<u8>,
    pub(crate) label: Option<String>,
}

/// Why there is no footer to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoFooter {
    /// Torn, altered, or of another key.
    Damaged,
    /// Whole, and this version does not understand it.
    FromTheFuture(String),
}

/// The fields, in the order in which they are in the file.
struct Fields<'a>(&'a [u8; FIELDS_LEN]);

const FIELDS_LEN: usize = FOOTER_LEN - OURS_LEN - WITNESS_LEN;

impl Fields<'_> {
    fn number(&self, at: usize, bytes: usize) -> u64 {
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(&self.0[at..at + bytes]);
        u64::from_le_bytes(number)
    }

    fn digest(&self) -> [u8; OURS_LEN] {
        let mut digest = [0; OURS_LEN];
        digest.copy_from_slice(&self.0[..OURS_LEN]);
        digest
    }

    fn len(&self) -> u64 {
        self.number(32, 8)
    }

    fn metadata_len(&self) -> usize {
        self.number(40, 4) as usize
    }

    fn label_len(&self) -> usize {
        self.number(44, 2) as usize
    }

    fn algorithm(&self) -> u8 {
        self.0[46]
    }

    fn flags(&self) -> u8 {
        self.0[47]
    }

    /// Who does not know one of these cannot read the value. (The four bytes after them, which who
    /// does not know them may ignore, have no use yet.)
    fn incompatible(&self) -> u64 {
        self.number(48, 4)
    }

    /// Everything after the value.
    fn trailer_len(&self) -> usize {
        self.number(56, 4) as usize
    }

    fn version(&self) -> u64 {
        self.number(60, 4)
    }

    fn magic(&self) -> &[u8] {
        &self.0[64..]
    }
}

/// Reads what follows the value in a file of this length.
pub(crate) fn read(
    entry: &EntryPath,
    file: &File,
    file_len: u64,
) -> io::Result<Result<Footer, NoFooter>> {
    let mut end = [0; END_BYTES];
    let wanted = usize::try_from(file_len).map_or(END_BYTES, |len| len.min(END_BYTES));
    let end = &mut end[..wanted];
    read_end(file, file_len, end)?;
    let len = match trailer_len(end) {
        Ok(len) if len as u64 > file_len => return Ok(Err(NoFooter::Damaged)),
        Ok(len) => len,
        Err(none) => return Ok(Err(none)),
    };
    if let Some(start) = end.len().checked_sub(len) {
        return Ok(Footer::parse(entry, file_len, &end[start..]));
    }
    let mut trailer = vec![0; len];
    read_end(file, file_len, &mut trailer)?;
    Ok(Footer::parse(entry, file_len, &trailer))
}

/// Fills it with the end of the file, or less of it where the file has become shorter.
fn read_end(file: &File, file_len: u64, into: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    let start = file_len - into.len() as u64;
    while done < into.len() {
        match sys::read_at(file, &mut into[done..], start + done as u64)? {
            0 => break,
            more => done += more,
        }
    }
    Ok(())
}

/// How much of a file's end has to be read, if these bytes are its end.
pub(crate) fn trailer_len(end: &[u8]) -> Result<usize, NoFooter> {
    let fields = fields_of(end)?;
    let len = fields.trailer_len();
    if fields.magic() == MAGIC && (FOOTER_LEN..=MAX_TRAILER).contains(&len) {
        Ok(len)
    } else {
        Err(NoFooter::Damaged)
    }
}

fn fields_of(end: &[u8]) -> Result<Fields<'_>, NoFooter> {
    let footer = end.last_chunk::<FOOTER_LEN>().ok_or(NoFooter::Damaged)?;
    let fields = footer.first_chunk().ok_or(NoFooter::Damaged)?;
    Ok(Fields(fields))
}

impl Footer {
    /// Reads what follows a value in a file of this length: so many bytes as [`trailer_len`] said.
    pub(crate) fn parse(
        entry: &EntryPath,
        file_len: u64,
        trailer: &[u8],
    ) -> Result<Self, NoFooter> {
        let fields = fields_of(trailer)?;
        let end = trailer.len() - OURS_LEN - WITNESS_LEN;
        let (covered, end) = trailer.split_at(end);
        let (checked, witness) = end.split_at(OURS_LEN);
        if trailer_len(trailer)? != trailer.len() || check(entry, covered) != checked {
            return Err(NoFooter::Damaged);
        }
        // From here on it is what somebody wrote.
        if fields.version() != u64::from(VERSION) {
            let version = fields.version();
            let why = format!("it is sealed in format {version}, and this version knows {VERSION}");
            return Err(NoFooter::FromTheFuture(why));
        }
        if fields.incompatible() != 0 || fields.algorithm() != SHA256 {
            let why = format!(
                "it is sealed with features {:#x} and digest {}, which this version does not know",
                fields.incompatible(),
                fields.algorithm()
            );
            return Err(NoFooter::FromTheFuture(why));
        }
        let (metadata, label) = (fields.metadata_len(), fields.label_len());
        let lens = metadata.checked_add(label);
        if lens.and_then(|lens| lens.checked_add(FOOTER_LEN)) != Some(trailer.len())
            || fields.len().checked_add(trailer.len() as u64) != Some(file_len)
        {
            return Err(NoFooter::Damaged);
        }
        let (metadata, rest) = trailer.split_at(metadata);
        let label = String::from_utf8_lossy(&rest[..label]);
        let mut footer = Footer {
            len: fields.len(),
            standing: Standing {
                barrier: fields.flags() & BARRIER != 0,
                witness: Witness::default(),
            },
            known: Known {
                digest: fields.digest(),
                metadata: metadata.to_vec(),
                label: (!label.is_empty()).then(|| label.into_owned()),
            },
        };
        footer.standing.witness.0.copy_from_slice(witness);
        Ok(footer)
    }

    /// What is written after the value.
    pub(crate) fn render(&self, entry: &EntryPath) -> Vec<u8> {
        let label = self.known.label.as_deref().unwrap_or_default();
        let label = cut(label, MAX_LABEL);
        let trailer_len = self.known.metadata.len() + label.len() + FOOTER_LEN;
        let mut trailer = Vec::with_capacity(trailer_len);
        trailer.extend_from_slice(&self.known.metadata);
        trailer.extend_from_slice(label.as_bytes());
        trailer.extend_from_slice(&self.known.digest);
        trailer.extend_from_slice(&self.len.to_le_bytes());
        trailer.extend_from_slice(&(self.known.metadata.len() as u32).to_le_bytes());
        trailer.extend_from_slice(&(label.len() as u16).to_le_bytes());
        trailer.push(SHA256);
        trailer.push(if self.standing.barrier { BARRIER } else { 0 });
        trailer.extend_from_slice(&[0; 8]); // features
        trailer.extend_from_slice(&(trailer_len as u32).to_le_bytes());
        trailer.extend_from_slice(&VERSION.to_le_bytes());
        trailer.extend_from_slice(&MAGIC);
        let check = check(entry, &trailer);
        trailer.extend_from_slice(&check);
        trailer.extend_from_slice(&self.standing.witness.0);
        trailer
    }
}

/// As much of a text as fits.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Binds what is covered by it to the key.
fn check(entry: &EntryPath, covered: &[u8]) -> [u8; OURS_LEN] {
    let path = entry.value().as_os_str().as_bytes();
    digest::of_parts(&[DOMAIN, &(path.len() as u32).to_le_bytes(), path, covered])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> EntryPath {
        EntryPath::of("hello").unwrap()
    }

    fn footer() -> Footer {
        Footer {
            len: 5,
            standing: Standing {
                barrier: false,
                witness: Witness([9; WITNESS_LEN]),
            },
            known: Known {
                digest: digest::of_parts(&[b"hello"]),
                metadata: b"etag".to_vec(),
                label: Some("a label".into()),
            },
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = footer().render(&entry());
        assert_eq!(trailer_len(&bytes), Ok(bytes.len()));
        let file_len = 5 + bytes.len() as u64;
        assert_eq!(Footer::parse(&entry(), file_len, &bytes), Ok(footer()));
        for wrong in [file_len - 1, file_len + 1] {
            let read = Footer::parse(&entry(), wrong, &bytes);
            assert_eq!(read, Err(NoFooter::Damaged));
        }
        let other = EntryPath::of("other").unwrap();
        let read = Footer::parse(&other, file_len, &bytes);
        assert_eq!(read, Err(NoFooter::Damaged));
    }

    #[test]
    fn every_bit_but_the_witness_counts() {
        let bytes = footer().render(&entry());
        let file_len = 5 + bytes.len() as u64;
        for bit in 0..8 * (bytes.len() - WITNESS_LEN) {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let read = Footer::parse(&entry(), file_len, &altered);
            assert_eq!(read, Err(NoFooter::Damaged), "{bit}");
        }
    }

    #[test]
    fn what_a_later_version_writes_is_told_from_damage() {
        for at in [48, 60, 46] {
            let mut bytes = footer().render(&entry());
            let fields = bytes.len() - FOOTER_LEN;
            bytes[fields + at] += 2;
            let end = fields + FIELDS_LEN;
            let check = check(&entry(), &bytes[..end]);
            bytes[end..end + OURS_LEN].copy_from_slice(&check);
            let read = Footer::parse(&entry(), 5 + bytes.len() as u64, &bytes);
            assert!(matches!(read, Err(NoFooter::FromTheFuture(_))), "{read:?}");
        }
    }
}
