//! Checking stored values on demand.

use std::fs::File;

use crate::digest::{self, Expect};
use crate::error::{Error, IoContext, Result};
use crate::file_store::{KVFileStore, value};
use crate::footer::{self, NoFooter};
use crate::key::PathKey;
use crate::layout::EntryPath;
use crate::marker::Format;
use crate::outcome::Integrity;

impl KVFileStore {
    /// Reads a value and compares it with the digest that was published with it. `None` if there is no
    /// value; [`Integrity::Unknown`] in a store that is not sealed.
    ///
    /// Takes no lock, does not count as a use, and removes nothing: what to do with a damaged value is
    /// for the caller to say.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); also [`FormatMismatch`](crate::ErrorKind::FormatMismatch) for a value that
    /// a later version sealed.
    pub fn verify<K: PathKey + ?Sized>(&self, key: &K) -> Result<Option<Integrity>> {
        let examined = self.examine(&EntryPath::of(key)?)?;
        Ok(examined.map(|(integrity, ..)| integrity))
    }

    /// Reads a value and compares it with what the caller knows of it, in a store of any format. `None`
    /// if there is no value. Like [`verify`](Self::verify), it removes nothing.
    ///
    /// # Errors
    ///
    /// As [`verify`](Self::verify); [`Unsupported`](crate::ErrorKind::Unsupported) for a digest other
    /// than SHA-256, SHA-384 and SHA-512.
    pub fn verify_against<K: PathKey + ?Sized>(
        &self,
        key: &K,
        expect: &Expect,
    ) -> Result<Option<Integrity>> {
        expect.check_supported()?;
        let entry = EntryPath::of(key)?;
        let Some((integrity, file, len)) = self.examine(&entry)? else {
            return Ok(None);
        };
        let met = expect.is_met_by(&file, len);
        let met = met.reading("read the value to check it", || {
            self.root.absolute(entry.value())
        })?;
        Ok(Some(match (integrity, met) {
            (Integrity::Damaged, _) | (_, Some(false)) => Integrity::Damaged,
            (_, Some(true)) => Integrity::Whole,
            (integrity, None) => integrity,
        }))
    }

    /// How many damaged values this handle and its clones have found and treated as absent.
    pub fn damaged_values(&self) -> u64 {
        self.root.trust.damaged()
    }

    /// Whether a value is what was written, its file, and how long it is.
    fn examine(&self, entry: &EntryPath) -> Result<Option<(Integrity, File, u64)>> {
        let at = || self.root.absolute(entry.value());
        let Some((file, meta)) = value::open_quietly(&self.root, entry)? else {
            return Ok(None);
        };
        if self.root.format == Format::Raw {
            return Ok(Some((Integrity::Unknown, file, meta.len)));
        }
        let found = footer::read(entry, &file, meta.len);
        Ok(Some(
            match found.reading("read what is known of the value", at)? {
                Err(NoFooter::FromTheFuture(why)) => {
                    return Err(Error::from_the_future(at(), why));
                }
                Err(NoFooter::Damaged) => (Integrity::Damaged, file, meta.len),
                Ok(footer) => {
                    let whole = digest::is_of_file(&footer.known.digest, &file, footer.len);
                    let integrity = match whole.reading("read the value to check it", at)? {
                        true => Integrity::Whole,
                        false => Integrity::Damaged,
                    };
                    (integrity, file, footer.len)
                }
            },
        ))
    }
}
