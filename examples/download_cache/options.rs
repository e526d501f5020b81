//! The command line.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

use crate::package::Package;

pub(crate) const HELP: &str = "\
Fetches archives with many processes through one cache.

Usage: download_cache [OPTIONS] [URL | URL#sha256=HEX]...

Without URLs it serves some archives to itself over loopback.

Options:
  --workers N   how many processes want the archives, 1 to 256 (default: 8)
  --store DIR   where the cache is (default: larder-download-cache-UID in the
                system's temporary directory); it stays there between runs
  --fresh       empty the cache first
  --help        print this
";

const MAX_WORKERS: usize = 256;

/// What this process is to do.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Run(Options),
    /// Be one of the workers. Only this program itself asks for that.
    Work {
        index: usize,
        store: PathBuf,
    },
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) workers: usize,
    /// `None` for the default, which is only then created for this user alone.
    pub(crate) store: Option<PathBuf>,
    pub(crate) fresh: bool,
    /// What to fetch, each once; empty to serve archives to itself.
    pub(crate) packages: Vec<Package>,
}

pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<Command> {
    let mut arguments = arguments;
    let mut options = Options {
        workers: 8,
        store: None,
        fresh: false,
        packages: Vec::new(),
    };
    let mut index = None;
    let mut keys = HashSet::new();
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else {
            bail!("{argument:?} is neither an option nor a URL");
        };
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(OsString::from(value))),
            _ => (text, None),
        };
        let has_value = inline.is_some();
        let mut value = || {
            inline
                .clone()
                .or_else(|| arguments.next())
                .with_context(|| format!("{name} needs a value"))
        };
        match name {
            "--workers" => options.workers = number(name, &value()?, 1, MAX_WORKERS)?,
            "--as-worker" => index = Some(number(name, &value()?, 0, MAX_WORKERS)?),
            "--store" => {
                let dir = value()?;
                ensure!(!dir.is_empty(), "--store needs a directory");
                options.store = Some(dir.into());
            }
            "--fresh" if !has_value => options.fresh = true,
            "--help" | "-h" if !has_value => return Ok(Command::Help),
            _ if name.starts_with('-') => bail!("there is no option {text:?}"),
            _ => {
                let package = Package::from_argument(text)?;
                // Who names an archive twice wants it once.
                if keys.insert(package.key.clone()) {
                    options.packages.push(package);
                }
            }
        }
    }
    match (index, options.store) {
        (Some(index), Some(store)) => Ok(Command::Work { index, store }),
        (Some(_), None) => bail!("--as-worker needs --store"),
        (None, store) => Ok(Command::Run(Options { store, ..options })),
    }
}

fn number(name: &str, value: &OsString, least: usize, most: usize) -> anyhow::Result<usize> {
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|number| (least..=most).contains(number))
        .with_context(|| format!("{name} takes a number from {least} to {most}, not {value:?}"))
}
