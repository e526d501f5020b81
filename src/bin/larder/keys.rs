//! Keys as they are typed: bytes, or the path that a listing prints.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use larder::{Labelled, PathKey};

use crate::output;
use crate::stop::Stop;

/// A key, by its bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct Key {
    /// The key: any bytes. One that begins with `-` goes behind a `--`.
    key: OsString,
    /// What to call the key to those who wait and in listings; not part of the key.
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

impl Key {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.key.as_bytes()
    }

    /// The key for what writes: without `--label` it has none.
    pub(crate) fn labelled(&self) -> Box<dyn PathKey> {
        let bytes = self.bytes().to_vec();
        match &self.label {
            Some(label) => Box::new(Labelled::new(bytes, label)),
            None => Box::new(bytes),
        }
    }

    /// As it can be shown to people.
    pub(crate) fn shown(&self) -> String {
        shown(&self.key)
    }
}

/// The key of something that may be stored.
#[derive(Debug, clap::Args)]
pub(crate) struct Stored {
    /// The key: any bytes. One that begins with `-` goes behind a `--`.
    key: OsString,
    #[command(flatten)]
    by: By,
}

/// The same, and more than one of them.
#[derive(Debug, clap::Args)]
pub(crate) struct AllStored {
    /// The keys: any bytes. One that begins with `-` goes behind a `--`.
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<OsString>,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, clap::Args)]
struct By {
    /// The key is a path, as `ls`, `gc` and `pins` print it, or relative to the store. (They escape what is
    /// not printable, which is no path then.)
    #[arg(long)]
    path: bool,
}

/// The key of something in a store.
#[derive(Debug)]
pub(crate) struct Named {
    typed: OsString,
    path: PathBuf,
}

impl Stored {
    pub(crate) fn named(&self, base: &Path) -> Result<Named, Stop> {
        self.by.named(&self.key, base)
    }
}

impl AllStored {
    pub(crate) fn named(&self, base: &Path) -> Result<Vec<Named>, Stop> {
        let named = self.keys.iter().map(|key| self.by.named(key, base));
        named.collect()
    }
}

impl By {
    fn named(&self, typed: &OsStr, base: &Path) -> Result<Named, Stop> {
        let path = match self.path {
            true => {
                let path = relative(Path::new(typed), base)?;
                refuse_links(&path, base)?;
                path
            }
            false => typed.as_bytes().key(),
        };
        Ok(Named {
            typed: typed.to_owned(),
            path,
        })
    }
}

/// A path relative to the store. Whether it can be a key's is for the library to say.
fn relative(path: &Path, base: &Path) -> Result<PathBuf, Stop> {
    if path.is_relative() {
        return Ok(path.to_path_buf());
    }
    // `locks` prints paths as the system knows them.
    let real = base.canonicalize();
    let bases = [Some(base), real.as_deref().ok()];
    let mut bases = bases.into_iter().flatten();
    let inside = bases.find_map(|base| path.strip_prefix(base).ok());
    inside.map(Path::to_path_buf).ok_or_else(|| {
        let (path, base) = (path.as_os_str(), base.as_os_str());
        Stop::Usage(format!(
            "{} is not in the store {}",
            shown(path),
            shown(base)
        ))
    })
}

/// What is behind a symbolic link is not in the store, whoever has put the link there.
fn refuse_links(path: &Path, base: &Path) -> Result<(), Stop> {
    let mut above = path.ancestors().skip(1);
    let is_link = |dir: &&Path| {
        let found = base.join(dir).symlink_metadata();
        *dir != Path::new("") && found.is_ok_and(|found| found.is_symlink())
    };
    above.find(is_link).map_or(Ok(()), |link| {
        let (path, link) = (path.as_os_str(), link.as_os_str());
        Err(Stop::Usage(format!(
            "{} leads out of the store: {} is a symbolic link",
            shown(path),
            shown(link)
        )))
    })
}

impl Named {
    pub(crate) fn shown(&self) -> String {
        shown(&self.typed)
    }
}

impl PathKey for Named {
    fn key(&self) -> PathBuf {
        self.path.clone()
    }
}

fn shown(text: &OsStr) -> String {
    output::printable(&text.to_string_lossy())
}
