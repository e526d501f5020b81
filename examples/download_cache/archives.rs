//! The archives that this program serves to itself: some of those that cargo has downloaded, or, where
//! there are none, some that it makes of its own source tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use flate2::{Compression, GzBuilder};
use larder::ArtifactHash;

use crate::digest::sha256;

/// How many are served.
const WANTED: usize = 12;

/// Large enough that a download has some pieces, small enough to be held in memory.
const SIZES: std::ops::RangeInclusive<u64> = 20 << 10..=512 << 10;

/// An archive that is served, `.tar.gz` by another name.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) sha256: ArtifactHash,
}

impl Archive {
    fn new(name: String, bytes: Vec<u8>) -> anyhow::Result<Self> {
        let sha256 = sha256(&*bytes)?;
        Ok(Archive {
            name,
            bytes,
            sha256,
        })
    }
}

/// The archives to serve, the same ones in every run while their sources stay the same.
pub(crate) fn choose() -> anyhow::Result<(Vec<Archive>, &'static str)> {
    let cached = in_cargos_cache();
    if cached.len() >= WANTED {
        // Evenly from the alphabet, so that they are not all of one family.
        let archives = (0..WANTED).map(|n| &cached[n * cached.len() / WANTED]);
        let archives = archives.map(|(name, path)| {
            let bytes =
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Archive::new(name.clone(), bytes)
        });
        return Ok((archives.collect::<Result<_, _>>()?, "cargo's own cache"));
    }
    Ok((of_our_sources()?, "this example's source tree"))
}

/// What is in `registry/cache/*/*.crate` and of a moderate size, by name. Whatever cannot be looked
/// at is passed over: there is something else to serve.
fn in_cargos_cache() -> Vec<(String, PathBuf)> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let Some(home) = home else {
        return Vec::new();
    };
    let mut found = BTreeMap::new();
    for registry in list(&home.join("registry/cache")) {
        for path in list(&registry) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            // The name becomes a part of a URL.
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
            let fits = fs::metadata(&path).is_ok_and(|meta| SIZES.contains(&meta.len()));
            if name.ends_with(".crate") && name.chars().all(plain) && fits {
                found.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    found.into_iter().collect()
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// An archive for each file or directory of the library's sources.
fn of_our_sources() -> anyhow::Result<Vec<Archive>> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = ["src", "docs"].map(|dir| list(&package.join(dir)));
    let mut archives = Vec::new();
    for path in sources.iter().flatten().take(WANTED) {
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        let name = format!(
            "{}-{stem}-{}",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION")
        );
        let bytes = pack(&name, path).with_context(|| format!("cannot pack {}", path.display()))?;
        archives.push(Archive::new(format!("{name}.crate"), bytes)?);
    }
    ensure!(
        !archives.is_empty(),
        "there is nothing to serve, neither in cargo's cache nor in {}; give some URLs",
        package.display()
    );
    Ok(archives)
}

/// The same bytes whenever the sources are the same.
fn pack(name: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    let gzip = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::default());
    let mut tar = tar::Builder::new(gzip);
    tar.mode(tar::HeaderMode::Deterministic);
    for file in files_below(path) {
        let below = file.strip_prefix(path.parent().unwrap_or(path))?;
        tar.append_path_with_name(&file, Path::new(name).join(below))?;
    }
    Ok(tar.into_inner()?.finish()?)
}

fn files_below(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        list(path)
            .iter()
            .flat_map(|path| files_below(path))
            .collect()
    } else {
        vec![path.to_owned()]
    }
}
