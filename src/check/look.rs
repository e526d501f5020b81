//! The first look at everything in a store.
//!
//! What a process at work could explain is only suspected, and `confirm` looks at it once more, some
//! time later. Holds one directory's names and a bounded number of suspects in memory.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::confirm::{Suspect, Suspicion, is_damaged};
use super::{CheckOptions, CheckReport, Finding, FindingKind};
use crate::dispose;
use crate::entries::{Item, Walk, owner};
use crate::error::{Error, IoContext, Result};
use crate::footer::{self, NoFooter};
use crate::layout::{
    CACHEDIR_TAG, EntryPath, GC_LOCK, LOCK_SUFFIX, MARKER, PINS, SIDECAR_SUFFIX, SPARE, TMP,
    with_suffix,
};
use crate::marker::{Format, StoreKind};
use crate::pins;
use crate::root::Root;
use crate::sidecar::{self, Said};
use crate::staging;
use crate::sys::{self, Kind, temp};

/// Between the two looks. A process that is about to lock what it created has done so by then.
const GRACE: Duration = Duration::from_millis(250);
/// Before a third look at what is less than a minute old: on a busy machine it takes longer.
const LONG_GRACE: Duration = Duration::from_secs(2);
/// So many suspects wait together.
const SUSPECTS: usize = 4096;
/// How deep in a tree without a sidecar other trees' sidecars are looked for: a key's three levels
/// below the name of an algorithm, and one more.
const DEEPEST_NESTED: usize = 5;

/// Checks the store. Returns what was looked at.
pub(crate) fn each(
    root: &Arc<Root>,
    options: &CheckOptions,
    found: &mut dyn FnMut(Finding),
) -> Result<CheckReport> {
    let mut looking = Looking {
        root,
        options,
        found,
        suspects: Vec::new(),
        report: CheckReport::default(),
    };
    // What is in a directory that is no store is nobody's business here.
    if !looking.marker()? {
        return Ok(looking.report);
    }
    looking.furniture()?;
    looking.staged()?;
    looking.pins()?;
    looking.walk()?;
    looking.confirm_suspects()?;
    Ok(looking.report)
}

pub(super) fn finding(
    root: &Root,
    path: impl AsRef<Path>,
    kind: FindingKind,
    what: impl Into<String>,
) -> Finding {
    Finding {
        path: root.absolute(path),
        kind,
        mendable: matches!(
            kind,
            FindingKind::OrphanLock
                | FindingKind::OrphanSidecar
                | FindingKind::EmptyDirectory
                | FindingKind::Leftover
                | FindingKind::Writable
                | FindingKind::Damaged
        ),
        what: what.into(),
    }
}

/// Something else than a file or directory of the store.
fn foreign(kind: Kind) -> &'static str {
    match kind {
        Kind::Link => "a symbolic link, which a store never makes; move it away",
        Kind::Other => "a pipe, socket or device, which a store never makes; move it away",
        Kind::File | Kind::Dir => "not of the store; move it away",
    }
}

struct Looking<'a> {
    root: &'a Arc<Root>,
    options: &'a CheckOptions,
    found: &'a mut dyn FnMut(Finding),
    suspects: Vec<Suspect>,
    /// Without the findings, which are handed out.
    report: CheckReport,
}

impl Looking<'_> {
    fn tell(&mut self, path: impl AsRef<Path>, kind: FindingKind, what: impl Into<String>) {
        (self.found)(finding(self.root, path, kind, what));
    }

    fn suspect(&mut self, suspicion: Suspicion) -> Result<()> {
        let suspect = Suspect::new(self.root, suspicion);
        match suspect {
            Ok(Some(suspect)) => self.suspects.push(suspect),
            Ok(None) => {}
            Err(err) => self.unreadable(err)?,
        }
        if self.suspects.len() >= SUSPECTS {
            self.confirm_suspects()?;
        }
        Ok(())
    }

    fn confirm_suspects(&mut self) -> Result<()> {
        if self.suspects.is_empty() {
            return Ok(());
        }
        thread::sleep(GRACE);
        let mut young = Vec::new();
        for suspect in std::mem::take(&mut self.suspects) {
            match suspect.confirm(self.root) {
                Ok(Some(_)) if suspect.is_young() => young.push(suspect),
                confirmed => self.tell_confirmed(confirmed)?,
            }
        }
        if !young.is_empty() {
            thread::sleep(LONG_GRACE);
        }
        for suspect in young {
            self.tell_confirmed(suspect.confirm(self.root))?;
        }
        Ok(())
    }

    fn tell_confirmed(&mut self, confirmed: Result<Option<Finding>>) -> Result<()> {
        match confirmed {
            Ok(Some(finding)) => (self.found)(finding),
            Ok(None) => {}
            Err(err) => self.unreadable(err)?,
        }
        Ok(())
    }

    /// What keeps something from being looked at is a finding of its own.
    fn unreadable(&mut self, err: Error) -> Result<()> {
        match (err.io_kind(), err.path()) {
            // It went while it was looked at.
            (Some(ErrorKind::NotFound | ErrorKind::NotADirectory), _) => Ok(()),
            (Some(_), Some(path)) => {
                let path = path.to_path_buf();
                let what = match std::error::Error::source(&err) {
                    Some(cause) => format!("it cannot be read: {cause}"),
                    None => format!("it cannot be read: {err}"),
                };
                self.tell(path, FindingKind::Unreadable, what);
                Ok(())
            }
            _ => Err(err),
        }
    }

    fn marker(&mut self) -> Result<bool> {
        let what = match self.root.read_marker() {
            Ok(Some(marker)) if self.root.agrees_with(&marker) => return Ok(true),
            Ok(Some(_)) => "the marker says something else than when the store was opened".into(),
            Ok(None) => "there is no marker, so this is no store".into(),
            Err(err) => format!("the marker cannot be read: {err}"),
        };
        self.tell(MARKER, FindingKind::Marker, what);
        Ok(false)
    }

    fn furniture(&mut self) -> Result<()> {
        for (name, kind) in [
            (TMP, Kind::Dir),
            (CACHEDIR_TAG, Kind::File),
            (GC_LOCK, Kind::File),
            (SPARE, Kind::File),
        ] {
            match self.root.look_at_own(name)? {
                Some(meta) if meta.kind != kind => {
                    self.tell(name, FindingKind::Furniture, foreign(meta.kind));
                }
                // Another process may be making it.
                None => self.suspect(Suspicion::Furniture(name))?,
                Some(_) if name == CACHEDIR_TAG => match self.root.has_cachedir_tag() {
                    Ok(Some(false)) => self.suspect(Suspicion::Furniture(name))?,
                    Ok(_) => {}
                    Err(err) => self.unreadable(err)?,
                },
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn staged(&mut self) -> Result<()> {
        let listed = sys::absent_is_none(self.root.dir.list(TMP));
        let names = match listed.reading("list what is staged", || self.root.absolute(TMP)) {
            Ok(names) => names.unwrap_or_default(),
            Err(err) => return self.unreadable(err),
        };
        let mut stems = HashSet::new();
        for found in names {
            let path = Path::new(TMP).join(&found.name);
            let stem = owner(&found.name).unwrap_or_else(|| found.name.clone());
            let named = |name: &std::ffi::OsStr, prefixes: &[&str]| {
                let mut prefixes = prefixes.iter();
                prefixes.any(|prefix| temp::is_unique(name.as_bytes(), prefix))
            };
            if named(&found.name, &[dispose::DEAD_PREFIX]) {
                self.suspect(Suspicion::Dead(path))?;
            } else if named(&found.name, &[staging::FILE_PREFIX, "m-", "l-", "d-"]) {
                self.suspect(Suspicion::Staged {
                    lock: path.clone(),
                    path,
                })?;
            } else if named(&stem, &[staging::TREE_PREFIX, staging::BATCH_PREFIX]) {
                if stems.insert(stem.clone()) {
                    let lock = with_suffix(&Path::new(TMP).join(&stem), LOCK_SUFFIX);
                    self.suspect(Suspicion::Staged { lock, path })?;
                }
            } else {
                self.tell(path, FindingKind::Foreign, "not of the store; move it away");
            }
        }
        Ok(())
    }

    /// A pin is whole as soon as it has its name, so nobody at work explains another thing.
    fn pins(&mut self) -> Result<()> {
        match self.root.look_at_own(PINS)? {
            Some(meta) if meta.kind != Kind::Dir => {
                self.tell(PINS, FindingKind::Foreign, foreign(meta.kind));
                return Ok(());
            }
            _ => {}
        }
        let names = match pins::names(self.root) {
            Ok(names) => names,
            Err(err) => return self.unreadable(err),
        };
        for found in names {
            match pins::look(self.root, &found) {
                Ok(pins::Seen::Stranger) => {
                    let path = Path::new(PINS).join(&found.name);
                    let what = "it is no pin; move it away";
                    self.tell(path, FindingKind::Foreign, what);
                }
                Ok(pins::Seen::Gone | pins::Seen::Pin(_)) => {}
                Err(err) => self.unreadable(err)?,
            }
        }
        Ok(())
    }

    fn walk(&mut self) -> Result<()> {
        let mut walk = Walk::new(self.root);
        walk.start()?;
        loop {
            let looked = match walk.next() {
                Ok(None) => return Ok(()),
                Ok(Some(item)) => self.item(item),
                Err(err) => Err(err),
            };
            if let Err(err) = looked {
                self.unreadable(err)?;
            }
        }
    }

    fn item(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Entry(entry) => {
                self.report.examined += 1;
                match self.root.kind {
                    StoreKind::Files => self.value(&entry),
                    StoreKind::Dirs => self.tree(entry),
                }
            }
            Item::Beside(entry, path) => self.beside(entry, path),
            Item::Directory(path, _) => self.directory(path),
            Item::Stranger(path) => self.stranger(path),
        }
    }

    fn look(&self, path: &Path) -> Result<Option<sys::Meta>> {
        let found = self.root.dir.look(path);
        found.reading("look at", || self.root.absolute(path))
    }

    fn stranger(&mut self, path: PathBuf) -> Result<()> {
        let Some(meta) = self.look(&path)? else {
            return Ok(());
        };
        if meta.kind == Kind::File && EntryPath::checked(path.clone()).is_err() {
            let what = "no key can have this name; move it away";
            self.tell(path, FindingKind::ImpossibleName, what);
        } else {
            self.tell(path, FindingKind::Foreign, foreign(meta.kind));
        }
        Ok(())
    }

    fn directory(&mut self, path: PathBuf) -> Result<()> {
        let listed = sys::absent_is_none(self.root.dir.list(&path));
        let names = match listed {
            // The walk comes by it and says so.
            Err(err) if sys::is_refused(&err) => return Ok(()),
            names => names.reading("list a directory of the store", || {
                self.root.absolute(&path)
            })?,
        };
        if names.is_some_and(|names| names.is_empty()) {
            self.suspect(Suspicion::Empty(path))?;
        }
        Ok(())
    }

    fn beside(&mut self, entry: EntryPath, path: PathBuf) -> Result<()> {
        let Some(meta) = self.look(&path)? else {
            return Ok(());
        };
        let is_sidecar = path
            .as_os_str()
            .as_bytes()
            .ends_with(SIDECAR_SUFFIX.as_bytes());
        if meta.kind != Kind::File || (is_sidecar && self.root.kind == StoreKind::Files) {
            self.tell(path, FindingKind::Foreign, foreign(meta.kind));
            return Ok(());
        }
        let has_tree = || -> Result<bool> {
            let at = self.look(entry.value())?;
            Ok(at.is_some_and(|meta| meta.kind == Kind::Dir))
        };
        if self.root.kind == StoreKind::Dirs && has_tree()? {
            return Ok(());
        }
        self.suspect(if is_sidecar {
            Suspicion::Sidecar(entry)
        } else {
            Suspicion::Lock(entry)
        })
    }

    fn value(&mut self, entry: &EntryPath) -> Result<()> {
        let at = || self.root.absolute(entry.value());
        let opened = sys::absent_is_none(self.root.dir.open_quietly(entry.value()));
        let Some(file) = opened.reading("open the value", at)? else {
            return Ok(());
        };
        let meta = sys::fstat(&file).reading("look at the value", at)?;
        if meta.kind != Kind::File {
            return Ok(()); // it took the value's place just now
        }
        if self.root.stray_write_bits(meta.mode) != 0 {
            self.suspect(Suspicion::Writable(entry.clone()))?;
        }
        if self.root.format == Format::Raw {
            return Ok(());
        }
        self.report.digested += u64::from(self.options.digests);
        match damage_of(self.root, entry, &file, &meta, self.options.digests)? {
            Some(damage) => self.suspect(Suspicion::Value(entry.clone(), meta.id, damage)),
            None => Ok(()),
        }
    }

    fn tree(&mut self, entry: EntryPath) -> Result<()> {
        let at = || self.root.absolute(entry.value());
        let beside = sidecar::beside(self.root, &entry).reading("look at the tree", at)?;
        match beside.map(|beside| beside.said) {
            None if holds_entries(self.root, entry.value(), 0)? => {
                let what = "has other entries in it, which cannot be reached because its lock file \
                            makes it a tree; remove that if they are wanted";
                self.tell(entry.value(), FindingKind::Nested, what);
                return Ok(());
            }
            Some(Said::Torn) => return self.suspect(Suspicion::Tree(entry, false)),
            Some(Said::Whole { sidecar, .. }) if sidecar.dead => {
                return self.suspect(Suspicion::Tree(entry, false));
            }
            // Told when the walk comes by it.
            Some(Said::Foreign) => return Ok(()),
            Some(Said::FromTheFuture(line)) => {
                let what = format!("a later version wrote it: {line:?}");
                self.tell(entry.sidecar(), FindingKind::FromTheFuture, what);
                return Ok(());
            }
            Some(Said::Whole { sidecar, .. }) if self.options.digests => {
                self.report.digested += u64::from(sidecar.manifest.is_some());
            }
            None | Some(Said::Whole { .. }) => {}
        }
        // What is replaced while it is read cannot be read; under its lock it can.
        let is_whole = || matches!(is_damaged(self.root, &entry, true), Ok(false));
        if self.options.digests && !is_whole() {
            self.suspect(Suspicion::Tree(entry, true))?;
        }
        Ok(())
    }
}

/// What is wrong with a sealed value.
pub(super) fn damage_of(
    root: &Root,
    entry: &EntryPath,
    file: &std::fs::File,
    meta: &sys::Meta,
    digests: bool,
) -> Result<Option<(FindingKind, String)>> {
    let at = || root.absolute(entry.value());
    let footer = footer::read(entry, file, meta.len);
    let footer = match footer.reading("read what is known of the value", at)? {
        Ok(footer) => footer,
        Err(NoFooter::FromTheFuture(why)) => return Ok(Some((FindingKind::FromTheFuture, why))),
        Err(NoFooter::Damaged) => {
            let what = "it is torn, altered, or another key's";
            return Ok(Some((FindingKind::Damaged, what.into())));
        }
    };
    let is_whole = !digests
        || crate::digest::is_of_file(&footer.known.digest, file, footer.len)
            .reading("read the value to check it", at)?;
    let what = "it does not have the digest that it was published with";
    Ok((!is_whole).then(|| (FindingKind::Damaged, what.into())))
}

/// Whether there are sidecars in what is marked as a tree only by a lock file.
fn holds_entries(root: &Root, path: &Path, depth: usize) -> Result<bool> {
    let listed = sys::absent_is_none(root.dir.list_quietly(path));
    let names = listed.reading("look into the tree", || root.absolute(path))?;
    for found in names.unwrap_or_default() {
        let inside = path.join(&found.name);
        let nested = match found.kind {
            Some(Kind::Dir) if depth < DEEPEST_NESTED => holds_entries(root, &inside, depth + 1)?,
            Some(Kind::File) => match owner(&found.name) {
                Some(_) if found.name.as_bytes().ends_with(SIDECAR_SUFFIX.as_bytes()) => {
                    let key = inside.with_extension("");
                    let entry = EntryPath::checked(key);
                    let beside = entry.ok().map(|entry| sidecar::beside(root, &entry));
                    matches!(beside, Some(Ok(Some(beside))) if matches!(beside.said, Said::Whole { .. }))
                }
                _ => false,
            },
            _ => false,
        };
        if nested {
            return Ok(true);
        }
    }
    Ok(false)
}
