//! Opening: is this a store, may it become one, and what has every store?
//!
//! Owns the marker file and the furniture of a store. Invariant: a directory that is not a store, or not
//! one that this version knows, is not written to; and nothing is written to one before its marker is
//! durable.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::Root;
use crate::counters::Counters;
use crate::error::{Error, IoContext, Result};
use crate::layout::{self, CACHEDIR_TAG, GC_LOCK, MARKER, RESERVED_PREFIX, SPARE, TMP};
use crate::marker::{self, Format, MAX_BYTES, Marker, StoreKind};
use crate::options::StoreOptions;
use crate::sys::{self, Dir, Errno, Kind, host};
use crate::trust::{Trust, Witness};

const CACHEDIR_TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This file is a cache directory tag created by larder.\n\
    # For information about cache directory tags see https://bford.info/cachedir/\n";

impl Root {
    pub(crate) fn open(base: &Path, kind: StoreKind, options: &StoreOptions) -> Result<Self> {
        let path =
            std::path::absolute(base).reading("find the base directory", || base.to_path_buf())?;
        let found = match sys::stat_base(&path) {
            Ok(meta) if meta.kind != Kind::Dir => {
                return Err(Error::mismatch(&path, "it is not a directory"));
            }
            found => sys::absent_is_none(found).reading("open the store", || path.clone())?,
        };
        let created_below = match found {
            Some(_) => path.parent().unwrap_or(&path).to_path_buf(),
            None if options.create && !options.read_only => sys::make_base(&path, 0o777)
                .writing("create the store's base directory", || path.clone())
                .map_err(|err| err.while_creating(&path))?,
            None => {
                return Err(io::Error::from(io::ErrorKind::NotFound))
                    .reading("open the store", || path.clone());
            }
        };
        let dir = Dir::open(&path).reading("open the base directory", || path.clone())?;
        let file_system = dir
            .file_system()
            .reading("ask for the file system", || path.clone())?;
        let mut root = Root {
            witness: host::this()
                .boot()
                .zip(dir.mount())
                .filter(|_| !file_system.network)
                .map(|(boot, mount)| Witness::of(boot, mount)),
            dir,
            kind,
            options: options.clone(),
            file_system,
            format: match options.sealed {
                Some(true) => Format::Sealed,
                _ => Format::Raw,
            },
            trust: Trust::default(),
            counters: Counters::default(),
            share: options.share.unwrap_or_default(),
            path,
            lacks_spare: AtomicBool::new(false),
        };
        let marker = match root.read_marker()? {
            Some(marker) => Some(marker),
            None => match root.check_adoptable() {
                Ok(()) if options.read_only => None,
                Ok(()) => {
                    let settled = root.settle();
                    Some(settled.map_err(|err| err.while_creating(&root.path))?)
                }
                // What speaks against it may come from another process that is just making the
                // store; then the marker is there by now.
                Err(err) => Some(root.read_marker()?.ok_or(err)?),
            },
        };
        if let Some(marker) = marker {
            root.obey(&marker)?;
        }
        if !options.read_only {
            root.furnish(&created_below)?;
        }
        Ok(root)
    }

    pub(crate) fn read_marker(&self) -> Result<Option<Marker>> {
        let at = || self.absolute(MARKER);
        let no_marker = || {
            Err(Error::mismatch(
                &self.path,
                marker::garbage("is not a marker"),
            ))
        };
        let opened = match self.dir.open_read(MARKER) {
            // A symbolic link, or a socket.
            Err(err) if sys::is(&err, Errno::LOOP) || sys::is(&err, Errno::NXIO) => {
                return no_marker();
            }
            opened => sys::absent_is_none(opened),
        };
        let Some(file) = opened.reading("open the store's marker", at)? else {
            return Ok(None);
        };
        let meta = sys::fstat(&file).reading("read the store's marker", at)?;
        if meta.kind != Kind::File || meta.len > MAX_BYTES as u64 {
            return no_marker();
        }
        let bytes = sys::read_start(&file, MAX_BYTES).reading("read the store's marker", at)?;
        match Marker::parse(&bytes) {
            Ok(marker) => Ok(Some(marker)),
            Err(why) => Err(Error::mismatch(&self.path, why)),
        }
    }

    /// Checks that this store is what was asked for, and takes over what it says of itself.
    fn obey(&mut self, marker: &Marker) -> Result<()> {
        let refuse = |why: String| Err(Error::mismatch(&self.path, why));
        if let Some(feature) = marker.unknown_incompatible() {
            return refuse(format!(
                "it uses the feature {feature:?}, which this version does not know; use a newer one"
            ));
        }
        if marker.kind != self.kind {
            return refuse(format!("it is {}, not {}", marker.kind, self.kind));
        }
        if let Some(feature) = marker.unknown_read_only() {
            if !self.options.read_only {
                return refuse(format!(
                    "it uses the feature {feature:?}, which this version does not know; it can only \
                     be opened read-only"
                ));
            }
        }
        if self
            .options
            .share
            .is_some_and(|share| share != marker.share)
        {
            return refuse("it was created with another share; open it without saying one".into());
        }
        if self
            .options
            .sealed
            .is_some_and(|sealed| sealed != (marker.format == Format::Sealed))
        {
            return refuse(format!(
                "its values are {}, and that stays so; leave out whether they are to be sealed, or give \
                 a new directory",
                marker.format.name()
            ));
        }
        self.share = marker.share;
        self.format = marker.format;
        Ok(())
    }

    /// An unmarked directory may only become a store if nothing speaks against it.
    fn check_adoptable(&self) -> Result<()> {
        let names = self
            .dir
            .list(".")
            .reading("list the base directory", || self.path.clone())?;
        for found in &names {
            let name = found.name.as_bytes();
            if found.name == CACHEDIR_TAG || name.starts_with(RESERVED_PREFIX.as_bytes()) {
                return Err(Error::mismatch(
                    &self.path,
                    format!(
                        "it has {:?} but no marker, so it may be a store whose marker was lost; \
                         delete the whole directory if it is only a cache (a program gets its plain \
                         files or trees back if {0:?} is deleted and it says adopt(true))",
                        found.name.to_string_lossy()
                    ),
                ));
            }
        }
        if names.is_empty() && !self.options.create && !self.options.read_only {
            return Err(io::Error::from(io::ErrorKind::NotFound))
                .reading("open the store", || self.path.clone());
        }
        if self.format == Format::Sealed && names.iter().any(|found| found.name != TMP) {
            return Err(Error::mismatch(
                &self.path,
                "it is not empty and has no marker, and what is in it is not sealed; give an empty or \
                 a new directory",
            ));
        }
        if self.options.adopt {
            return Ok(());
        }
        for found in &names {
            let path = Path::new(&found.name);
            let levels = layout::levels_if_adoptable(&found.name);
            let stranger = match levels.filter(|_| self.is_dir(path, found)) {
                Some(levels) => self.find_stranger(path, levels)?,
                None => Some(path.to_path_buf()),
            };
            if let Some(stranger) = stranger {
                return Err(Error::mismatch(
                    &self.path,
                    format!(
                        "it is not empty and has no marker, and {:?} is not from a store; give an \
                         empty or a new directory (a program that says adopt(true) gets all of this one)",
                        stranger.to_string_lossy()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Something below `path` that is no directory of one character, on so many levels.
    fn find_stranger(&self, path: &Path, levels: usize) -> Result<Option<PathBuf>> {
        if levels == 0 {
            return Ok(None);
        }
        let names = self.dir.list(path);
        for found in names.reading("list the base directory", || self.absolute(path))? {
            let inside = path.join(&found.name);
            if !layout::is_shard(&found.name) || !self.is_dir(&inside, &found) {
                return Ok(Some(inside));
            }
            let stranger = self.find_stranger(&inside, levels - 1)?;
            if stranger.is_some() {
                return Ok(stranger);
            }
        }
        Ok(None)
    }

    fn is_dir(&self, path: &Path, found: &sys::Found) -> bool {
        let kind = match found.kind {
            Some(kind) => Some(kind),
            None => self.dir.stat(path).ok().map(|meta| meta.kind),
        };
        kind == Some(Kind::Dir)
    }

    /// Makes the directory a store: the marker appears whole, before anything else.
    fn settle(&self) -> Result<Marker> {
        let marker = Marker::new(self.kind, self.format, self.share);
        self.open_dir_to_group(Path::new("."))
            .writing("give the group access", || self.path.clone())?;
        self.make_own_dir(Path::new(TMP))?;
        if !self.make_own_file(MARKER, &marker.render(), sys::sync_all)? {
            // Another process was faster; what it wrote holds.
            return self
                .read_marker()?
                .ok_or_else(|| Error::mismatch(&self.path, "its marker comes and goes"));
        }
        Ok(marker)
    }

    /// What every store has besides its marker. Where it cannot be made the store still serves hits.
    fn furnish(&self, created_below: &Path) -> Result<()> {
        let made = self.make_own_dir(Path::new(TMP)).and_then(|()| {
            // The lock is made last, so that where it is, everything before it was done, by whoever
            // lived long enough.
            let missing = self.dir.look(GC_LOCK);
            if missing
                .writing("look for", || self.absolute(GC_LOCK))?
                .is_none()
            {
                self.sync_marker(created_below)?;
                // Seen empty after a power cut, and then empty for good: nothing makes it again.
                self.make_own_file(CACHEDIR_TAG, CACHEDIR_TAG_TEXT, sys::sync_all)?;
                self.keep_spare()?;
                self.make_own_file(GC_LOCK, "", |_| Ok(()))?;
            }
            Ok(())
        });
        match made {
            Err(err) if err.kind() == crate::ErrorKind::ReadOnly => Ok(()),
            made => made,
        }
    }

    /// Makes sure that there is a spare file. Nothing is written to it, so it needs no sync. `true`: there
    /// was none.
    pub(crate) fn keep_spare(&self) -> Result<bool> {
        let there = self.dir.look(SPARE);
        match there.writing("look for", || self.absolute(SPARE))? {
            Some(_) => Ok(false),
            None => self.make_own_file(SPARE, "", |_| Ok(())),
        }
    }

    /// Whether the marker says what it said when the store was opened.
    pub(crate) fn agrees_with(&self, marker: &Marker) -> bool {
        (marker.kind, marker.format, marker.share) == (self.kind, self.format, self.share)
    }

    /// Makes anew what every store has and this one lost, but for the marker. Says what that was.
    pub(crate) fn refurnish(&self) -> Result<Vec<&'static str>> {
        let mut made = Vec::new();
        if self.look_at_own(TMP)?.is_none() {
            self.make_own_dir(Path::new(TMP))?;
            made.push(TMP);
        }
        if self.has_cachedir_tag()? == Some(false) {
            let removed = sys::absent_is_none(self.dir.unlink(CACHEDIR_TAG));
            removed.writing("make the tag anew", || self.absolute(CACHEDIR_TAG))?;
        }
        for (name, text) in [(CACHEDIR_TAG, CACHEDIR_TAG_TEXT), (GC_LOCK, "")] {
            let is_missing = self.look_at_own(name)?.is_none();
            if is_missing && self.make_own_file(name, text, sys::sync_all)? {
                made.push(name);
            }
        }
        // On a full disk there may be room for it only after the sweep.
        if matches!(self.keep_spare(), Ok(true)) {
            made.push(SPARE);
        }
        Ok(made)
    }

    pub(crate) fn look_at_own(&self, name: &str) -> Result<Option<sys::Meta>> {
        let found = self.dir.look(name);
        found.reading("look for", || self.absolute(name))
    }

    /// Whether the file at the tag's place is a tag, whoever made it. `None`: it is no file.
    pub(crate) fn has_cachedir_tag(&self) -> Result<Option<bool>> {
        if self.look_at_own(CACHEDIR_TAG)?.map(|meta| meta.kind) != Some(Kind::File) {
            return Ok(None);
        }
        let signature = CACHEDIR_TAG_TEXT.lines().next().unwrap_or_default();
        let opened = sys::absent_is_none(self.dir.open_quietly(CACHEDIR_TAG));
        let start = opened.and_then(|file| {
            let read = file.map(|file| sys::read_start(&file, signature.len()));
            read.transpose()
        });
        let start = start.reading("read the tag", || self.absolute(CACHEDIR_TAG))?;
        Ok(start.map(|start| start == signature.as_bytes()))
    }

    /// Makes the marker's name durable, and those of the directories above it.
    fn sync_marker(&self, created_below: &Path) -> Result<()> {
        self.dir
            .sync()
            .writing("sync the base directory", || self.absolute(MARKER))?;
        let mut above = self.path.parent();
        while let Some(parent) = above {
            // Who may create a directory may not always open the one it is in.
            match Dir::open(parent).and_then(|dir| dir.sync()) {
                Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced.writing("sync the base directory", || parent.to_path_buf())?,
            }
            above = parent.parent().filter(|_| parent != created_below);
        }
        Ok(())
    }

    /// Makes a file of the store, which is whole as soon as it has its name. `false`: it is there.
    fn make_own_file(
        &self,
        name: &str,
        text: &str,
        sync: impl Fn(&File) -> io::Result<()>,
    ) -> Result<bool> {
        let at = || self.absolute(name);
        loop {
            let staged = self.unique_file("m-", |file| {
                sys::write_at(file, text.as_bytes(), 0).and_then(|()| sync(file))
            });
            let (staged, _file) = staged.writing("write a file of the store", at)?;
            let linked = self.dir.link(&staged, name);
            let unlinked = self.dir.unlink(&staged);
            match linked {
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                // A sweep took the staged name away.
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                linked => linked.writing("put a file of the store in place", at)?,
            }
            sys::absent_is_none(unlinked).writing("put a file of the store in place", at)?;
            return Ok(true);
        }
    }

    fn make_own_dir(&self, path: &Path) -> Result<()> {
        let at = || self.absolute(path);
        let was_there = match self.dir.mkdir(path, 0o777) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => true,
            made => {
                made.writing("create a directory of the store", at)?;
                false
            }
        };
        // Who made it may have died before this, or may be about to do it.
        match self.open_dir_to_group(path) {
            Err(err) if was_there && err.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            opened => opened.writing("give the group access", at),
        }
    }
}
