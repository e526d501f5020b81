//! Opening a sealed value: what is known of it, whether that is believed, and what becomes of a
//! damaged one.
//!
//! May call `publish` to take a damaged value away. Invariant: a value that is torn, altered or another
//! key's is absent; one that a later version wrote, or that cannot be read, is an error and stays.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::digest;
use crate::error::{Error, IoContext, Result};
use crate::footer::{self, Footer, NoFooter};
use crate::layout::EntryPath;
use crate::lock::{self, Tried};
use crate::options::Verify;
use crate::publish;
use crate::root::Root;
use crate::sys::{self, FileId, Meta};
use crate::trust::{Claim, WITNESS_LEN};

/// A key's value that is open.
#[derive(Clone, Copy)]
pub(super) struct Opened<'a> {
    pub(super) root: &'a Arc<Root>,
    pub(super) entry: &'a EntryPath,
    pub(super) file: &'a File,
    pub(super) meta: &'a Meta,
}

impl Opened<'_> {
    /// What was found to be known of the value, once it is believed. `None`: it is damaged, and so it is
    /// absent.
    pub(super) fn footer(
        self,
        verify: Verify,
        found: Result<Footer, NoFooter>,
    ) -> Result<Option<Footer>> {
        self.believe(verify, found, |footer| {
            digest::is_of_file(&footer.known.digest, self.file, footer.len)
        })
    }

    /// The same of a file all of whose bytes are in memory. They become the value's alone.
    pub(super) fn footer_in(self, verify: Verify, bytes: &mut Vec<u8>) -> Result<Option<Footer>> {
        let found = footer::trailer_len(bytes).and_then(|len| {
            let start = bytes.len().checked_sub(len).ok_or(NoFooter::Damaged)?;
            let footer = Footer::parse(self.entry, self.meta.len, &bytes[start..])?;
            bytes.truncate(start);
            Ok(footer)
        });
        let is_whole = |footer: &Footer| Ok(digest::of_parts(&[bytes]) == footer.known.digest);
        let believed = self.believe(verify, found, is_whole);
        if !matches!(believed, Ok(Some(_))) {
            bytes.clear();
        }
        believed
    }

    /// What the file says of itself.
    pub(super) fn read_footer(self) -> Result<Result<Footer, NoFooter>> {
        footer::read(self.entry, self.file, self.meta.len)
            .reading("read what is known of the value", || {
                self.root.absolute(self.entry.value())
            })
    }

    fn believe(
        self,
        verify: Verify,
        found: Result<Footer, NoFooter>,
        is_whole: impl FnOnce(&Footer) -> io::Result<bool>,
    ) -> Result<Option<Footer>> {
        let at = || self.root.absolute(self.entry.value());
        let footer = match found {
            Ok(footer) => footer,
            Err(NoFooter::Damaged) => return Ok(self.take_away()),
            Err(NoFooter::FromTheFuture(why)) => return Err(Error::from_the_future(at(), why)),
        };
        let claim = self.claim(&footer);
        if !self.root.trust.is_due(verify, &claim, self.root.witness) {
            return Ok(Some(footer));
        }
        if !is_whole(&footer).reading("read the value to check it", at)? {
            return Ok(self.take_away());
        }
        // This process need not check it again; nor, until the next boot, need others.
        self.root.trust.note_whole(verify, &claim);
        if !footer.standing.speaks_for_itself(self.root.witness) {
            self.mark();
        }
        Ok(Some(footer))
    }

    fn claim(self, footer: &Footer) -> Claim {
        Claim {
            id: self.meta.id,
            digest: footer.known.digest,
            standing: footer.standing,
        }
    }

    /// Takes a damaged value away, so that it is absent for everybody. Where that is not possible (the
    /// key is locked, the store cannot be written) it is absent for who has looked.
    fn take_away<T>(self) -> Option<T> {
        self.root.trust.note_damaged();
        remove(self.root, self.entry, self.meta.id);
        None
    }

    /// Writes down in the file that it was whole in this boot. In place, because the value itself is not
    /// written again for it: who reads half of it believes neither half, and checks for himself.
    fn mark(self) -> Option<()> {
        let witness = self.root.witness?;
        if self.root.options.read_only || self.root.file_system.overlay {
            return None; // on an overlay, it would copy the value to the upper layer
        }
        let sealed = self.root.sealed_mode(self.meta.mode);
        let open = || sys::open_again_to_write(self.file);
        let file = match open() {
            Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
                sys::fchmod(self.file, self.meta.mode | 0o200).ok()?;
                let file = open();
                sys::fchmod(self.file, sealed).ok()?;
                file.ok()?
            }
            opened => opened.ok()?,
        };
        // Who was killed above has left it so.
        if self.meta.mode != sealed {
            let _ = sys::fchmod(self.file, sealed);
        }
        // Only its owner can keep the modification time, so only he writes.
        sys::set_modified(&file, self.meta.modified).ok()?;
        let written = sys::write_at(&file, &witness.0, self.meta.len - WITNESS_LEN as u64);
        let _ = sys::set_modified(&file, self.meta.modified);
        written.ok()
    }
}

/// Takes this file away from its key, if it is still there and nobody holds the key's lock.
fn remove(root: &Arc<Root>, entry: &EntryPath, damaged: FileId) {
    if root.options.read_only {
        return;
    }
    if let Ok(Tried::Lock(lock)) = lock::try_exclusive(root, entry, true) {
        let _ = publish::remove_damaged(&lock, damaged);
    }
}
