//! Which store, and how it is opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, anyhow};
use indicatif::ProgressBar;
use larder::{KVDirStore, KVFileStore, StoreOptions, WaitInfo};

use crate::args::{self, TreeWriting, Writing};
use crate::output;
use crate::signals::Interrupt;
use crate::stop::Stop;

/// The file that makes a directory a store, and says of which kind; see `docs/format.md`.
const MARKER: &str = "larder-store";

/// Where the store is, if that was said.
pub(crate) struct Place(Option<PathBuf>);

/// An existing store, of whichever kind.
pub(crate) enum Any {
    Files(KVFileStore),
    Dirs(KVDirStore),
}

/// The same call on a store of either kind.
macro_rules! either {
    ($any:expr, $store:ident => $call:expr) => {
        match $any {
            $crate::store::Any::Files($store) => $call,
            $crate::store::Any::Dirs($store) => $call,
        }
    };
}
pub(crate) use either;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Files,
    Dirs,
}

struct Marker {
    kind: Kind,
    is_raw: bool,
}

impl Place {
    pub(crate) fn new(dir: Option<PathBuf>) -> Self {
        Place(dir.filter(|dir| !dir.as_os_str().is_empty()))
    }

    fn dir(&self) -> Result<&Path, Stop> {
        let missing =
            || Stop::Usage("which store? Say --store DIR, or set LARDER_STORE".to_owned());
        self.0.as_deref().ok_or_else(missing)
    }

    /// The store of files, made if there is none.
    pub(crate) fn create_files(&self, writing: &Writing) -> Result<KVFileStore, Stop> {
        self.refuse(Kind::Dirs)?;
        if !writing.meta.is_empty() && !writing.sealed {
            match self.marker()? {
                None => {
                    let why = "a new store keeps metadata if it is made with --sealed";
                    return Err(Stop::Usage(why.to_owned()));
                }
                Some(marker) if marker.is_raw => {
                    let dir = self.dir()?.display();
                    let why = "keeps no metadata, because it was not made with --sealed";
                    return Err(anyhow!(
                        "the store in {dir} {why}; leave out --meta, or take a new one"
                    )
                    .into());
                }
                Some(_) => {}
            }
        }
        let mut options = StoreOptions::new().durability(writing.durability.into());
        if writing.sealed {
            options = options.sealed(true);
        }
        Ok(options.open_file_store(self.dir()?)?)
    }

    /// The store of directories, made if there is none.
    pub(crate) fn create_dirs(&self, writing: &TreeWriting) -> Result<KVDirStore, Stop> {
        self.refuse(Kind::Files)?;
        let options = StoreOptions::new().durability(writing.durability.into());
        let options = options.digest_trees(writing.digest);
        Ok(options.open_dir_store(self.dir()?)?)
    }

    pub(crate) fn files(&self) -> Result<KVFileStore, Stop> {
        self.existing(Kind::Files)?;
        Ok(existing().open_file_store(self.dir()?)?)
    }

    pub(crate) fn dirs(&self) -> Result<KVDirStore, Stop> {
        self.existing(Kind::Dirs)?;
        Ok(existing().open_dir_store(self.dir()?)?)
    }

    /// The store, of whichever kind, to be changed.
    pub(crate) fn any(&self) -> Result<Any, Stop> {
        self.open_any(&existing())
    }

    /// The same to be looked at: nothing in it is written.
    pub(crate) fn any_read_only(&self) -> Result<Any, Stop> {
        self.open_any(&existing().read_only(true))
    }

    fn open_any(&self, options: &StoreOptions) -> Result<Any, Stop> {
        let dir = self.dir()?;
        Ok(match self.kind()? {
            Some(Kind::Dirs) => Any::Dirs(options.open_dir_store(dir)?),
            Some(Kind::Files) => Any::Files(options.open_file_store(dir)?),
            None => return Err(no_store(dir)),
        })
    }

    /// Fails unless there is a store of this kind. The library would adopt what looks like one.
    fn existing(&self, kind: Kind) -> Result<(), Stop> {
        match self.kind()? {
            None => Err(no_store(self.dir()?)),
            Some(found) if found == kind => Ok(()),
            Some(found) => self.refuse(found),
        }
    }

    fn refuse(&self, kind: Kind) -> Result<(), Stop> {
        if self.kind()? != Some(kind) {
            return Ok(());
        }
        let dir = self.dir()?.display();
        let why = match kind {
            Kind::Files => format!("{dir} is a store of files: use the commands without `dir`"),
            Kind::Dirs => format!("{dir} is a store of directories: use `larder dir …`"),
        };
        Err(anyhow!(why).into())
    }

    fn kind(&self) -> Result<Option<Kind>, Stop> {
        Ok(self.marker()?.map(|marker| marker.kind))
    }

    /// What the marker says; what else is wrong with it is for the library to say.
    fn marker(&self) -> Result<Option<Marker>, Stop> {
        let path = self.dir()?.join(MARKER);
        let read = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => fs::read(&path),
            Ok(_) => Ok(Vec::new()),
            Err(err) => Err(err),
        };
        match read {
            Ok(text) => {
                let says = |this: &[u8]| text.split(|&byte| byte == b'\n').any(|line| line == this);
                Ok(Some(Marker {
                    kind: match says(b"kind=directories") {
                        true => Kind::Dirs,
                        false => Kind::Files,
                    },
                    is_raw: says(b"format=raw"),
                }))
            }
            Err(err)
                if matches!(
                    err.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(err) => {
                let read = Err::<(), _>(err);
                let read = read.with_context(|| format!("cannot read {}", path.display()));
                read.map(|()| None).map_err(Stop::from)
            }
        }
    }
}

fn existing() -> StoreOptions {
    StoreOptions::new().create(false)
}

fn no_store(dir: &Path) -> Stop {
    anyhow!(
        "there is no store in {} (`set` and `get-or-set` make one)",
        dir.display()
    )
    .into()
}

/// Shows a terminal who is being waited for.
#[derive(Clone, Default)]
pub(crate) struct WaitShown(Arc<OnceLock<ProgressBar>>);

impl WaitShown {
    pub(crate) fn files(
        &self,
        store: &KVFileStore,
        waiting: &args::Waiting,
        interrupt: &Interrupt,
    ) -> KVFileStore {
        let store = store
            .with_wait(waiting.wait())
            .with_cancel(interrupt.token());
        store.with_on_wait(self.callback())
    }

    pub(crate) fn dirs(
        &self,
        store: &KVDirStore,
        waiting: &args::Waiting,
        interrupt: &Interrupt,
    ) -> KVDirStore {
        let store = store
            .with_wait(waiting.wait())
            .with_cancel(interrupt.token());
        store.with_on_wait(self.callback())
    }

    pub(crate) fn callback(&self) -> impl Fn(&WaitInfo) + Send + Sync + 'static {
        let shown = self.clone();
        move |info| {
            let whom = match &info.holder {
                Some(holder) => holder.to_string(),
                None => "another process".to_owned(),
            };
            let spinner = shown.0.get_or_init(output::spinner);
            spinner.set_message(format!("waiting for {whom}"));
        }
    }

    /// The wait is over.
    pub(crate) fn clear(&self) {
        if let Some(spinner) = self.0.get() {
            spinner.finish_and_clear();
        }
    }
}
