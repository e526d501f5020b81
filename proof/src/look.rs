//! Looking at what a power cut left, in a process of its own, which knows nothing of what was before.
//!
//! That process may have been started in another boot: the file that says so is then a random one. (A
//! mount after the cut has another number than that before it in either case, and the same boot.)

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use larder::{KVFileStore, PathKey, StoreOptions};

use crate::content::{self, Key, Kind};
use crate::plan::{self, State};
use crate::stores::Stores;
use crate::survives::Survives;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The directory of the stores
    #[arg(long)]
    caches: PathBuf,
    #[arg(long)]
    durability: Survives,
    #[arg(long)]
    seed: u64,
}

/// What is at a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Whole(State),
    Torn(String),
    /// It is absent, because the store found it torn and took it away.
    Refused,
}

impl Found {
    fn to_line(&self) -> String {
        match self {
            Found::Whole(State::Absent) => "absent".to_owned(),
            Found::Whole(State::Value {
                number,
                len,
                metadata,
            }) => format!("value {number} {len} {metadata}"),
            Found::Whole(State::Tree { number }) => format!("tree {number}"),
            Found::Torn(how) => format!("torn {how}"),
            Found::Refused => "refused".to_owned(),
        }
    }

    fn of_line(line: &str) -> Option<Self> {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split(' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(match what {
            "absent" => Found::Whole(State::Absent),
            "value" => Found::Whole(State::Value {
                number: number()?,
                len: usize::try_from(number()?).ok()?,
                metadata: number()?,
            }),
            "tree" => Found::Whole(State::Tree { number: number()? }),
            "torn" => Found::Torn(rest.to_owned()),
            "refused" => Found::Refused,
            _ => return None,
        })
    }
}

/// In which boot it is looked, as far as a process can tell.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Boot {
    Same,
    Other,
}

impl Boot {
    /// Both, in turns.
    pub(crate) fn by_turns(turn: u64) -> Self {
        if turn.is_multiple_of(2) {
            Boot::Same
        } else {
            Boot::Other
        }
    }
}

/// Has a process look at all keys.
pub(crate) fn look(
    caches: &Path,
    survives: Survives,
    boot: Boot,
    seed: u64,
) -> anyhow::Result<BTreeMap<Key, Found>> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("look").arg("--caches").arg(caches);
    command.arg(format!("--durability={}", survives.name()));
    command.arg(format!("--seed={seed}"));
    let pretended = match boot {
        Boot::Same => None,
        Boot::Other => Some(OtherBoot::pretend(seed)?),
    };
    let output = command.stdin(Stdio::null()).output()?;
    let id = match pretended {
        None => fs::read_to_string(BOOT_ID)?,
        Some(other) => other.end()?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    let said = String::from_utf8(output.stdout)?;
    let mut lines = said.lines();
    let seen = lines.next().unwrap_or_default();
    ensure!(seen == id.trim(), "it was looked in boot {seen}, not {id}");
    let found = plan::keys().map(|key| {
        let line = lines.next().unwrap_or_default();
        let found = Found::of_line(line);
        let found = found.with_context(|| format!("`{line}` was said of {}", key.name()))?;
        Ok((key, found))
    });
    found.collect()
}

/// Another boot's id, in place of the true one for whoever shares the mounts of this process, which
/// are its own.
#[derive(Debug)]
struct OtherBoot {
    id: String,
    _file: tempfile::NamedTempFile,
}

impl OtherBoot {
    fn pretend(seed: u64) -> anyhow::Result<Self> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let digits = format!("{:032x}", rng.u128(..));
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
        let id = parts.join("-");
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), format!("{id}\n"))?;
        rustix::mount::mount_bind(file.path(), BOOT_ID).context("pretend another boot")?;
        Ok(OtherBoot { id, _file: file })
    }

    /// From now on it is the true one again.
    fn end(self) -> anyhow::Result<String> {
        let id = self.id.clone();
        drop(self);
        let now = fs::read_to_string(BOOT_ID)?;
        ensure!(now.trim() != id, "the pretended boot does not end");
        Ok(id)
    }
}

impl Drop for OtherBoot {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(BOOT_ID, rustix::mount::UnmountFlags::DETACH);
    }
}

/// The process that looks.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!("{}", fs::read_to_string(BOOT_ID)?.trim());
    let stores = Stores::open(&options.caches, &StoreOptions::new())?;
    let looker = Looker {
        // Who may not write must not see more.
        shy: match fastrand::Rng::with_seed(options.seed).bool() {
            true => Some(Stores::open(
                &options.caches,
                &StoreOptions::new().read_only(true),
            )?),
            false => None,
        },
        stores,
        survives: options.durability,
        seed: options.seed,
    };
    for key in plan::keys() {
        let found = looker.find(key);
        let found = found.with_context(|| format!("look at {}", key.name()))?;
        println!("{}", found.to_line());
    }
    Ok(())
}

struct Looker {
    stores: Stores,
    shy: Option<Stores>,
    survives: Survives,
    seed: u64,
}

impl Looker {
    fn find(&self, key: Key) -> anyhow::Result<Found> {
        let turn = self.seed.wrapping_add(key.index.into());
        if let Some(shy) = &self.shy {
            let seen = find(shy, key, turn)?;
            let found = find(&self.stores, key, turn)?;
            ensure!(
                seen == found,
                "{seen:?} for who reads only, and then {found:?}"
            );
            return Ok(found);
        }
        let found = find(&self.stores, key, turn)?;
        if matches!(found, Found::Whole(State::Value { .. })) && self.survives != Survives::None {
            let path = self.stores.files(key.kind).base().join(key.name().key());
            let mode = fs::metadata(path)?.permissions().mode();
            ensure!(mode & 0o222 == 0, "it can be written: {mode:o}");
        }
        Ok(found)
    }
}

/// What is at a key, by each of the ways to read it. They take turns in being the first, which may
/// find that the value is torn.
pub(crate) fn find(stores: &Stores, key: Key, turn: u64) -> anyhow::Result<Found> {
    match key.kind {
        Kind::Raw | Kind::Sealed => {
            let store = stores.files(key.kind);
            let damaged = store.damaged_values();
            let mut ways = [get, read, read_into];
            ways.rotate_left((turn % 3) as usize);
            let name = key.name();
            let [first, second, third] = ways.map(|way| way(store, &name));
            let found = first?;
            ensure!(
                found == second? && found == third?,
                "the ways to read it do not agree"
            );
            let Some(bytes) = found else {
                return Ok(absent(store.damaged_values() > damaged));
            };
            let value = store.get(&name)?.context("it went while it was read")?;
            find_value(key, &bytes, value.metadata())
        }
        Kind::Tree => {
            let damaged = stores.trees.damaged_trees();
            let Some(lease) = stores.trees.get(&key.name())? else {
                return Ok(absent(stores.trees.damaged_trees() > damaged));
            };
            Ok(match content::recognise_tree(&lease, key) {
                Ok(number) => Found::Whole(State::Tree { number }),
                Err(how) => Found::Torn(format!("a torn tree: {how}")),
            })
        }
    }
}

fn absent(is_refused: bool) -> Found {
    match is_refused {
        true => Found::Refused,
        false => Found::Whole(State::Absent),
    }
}

fn get(store: &KVFileStore, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(mut value) = store.get(name)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    value.read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 == value.len(), "its length is another");
    Ok(Some(bytes))
}

fn read(store: &KVFileStore, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    Ok(store.read(name)?)
}

fn read_into(store: &KVFileStore, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let mut bytes = b"what was there before".to_vec();
    let read = store.read_into(name, &mut bytes)?;
    ensure!(
        read.unwrap_or(0) == bytes.len(),
        "it is not as long as was said"
    );
    Ok(read.map(|_| bytes))
}

/// An error is what no durability excuses: a value of another key.
fn find_value(key: Key, bytes: &[u8], metadata: &[u8]) -> anyhow::Result<Found> {
    let described = match (key.kind, content::recognise(metadata)) {
        (Kind::Sealed, Some((number, place))) if place == key.metadata_place() => number,
        (Kind::Sealed, _) => bail!("its metadata is nothing that was written for it"),
        _ => 0,
    };
    Ok(match content::recognise(bytes) {
        Some((number, place)) if place == key.place(0) => Found::Whole(State::Value {
            number,
            len: bytes.len(),
            metadata: described,
        }),
        Some((number, place)) => bail!("it has what step {number} wrote to place {place:#x}"),
        None if bytes.is_empty() => Found::Whole(State::Value {
            number: 0,
            len: 0,
            metadata: described,
        }),
        None => {
            let zeros = bytes.iter().filter(|&&byte| byte == 0).count();
            Found::Torn(format!(
                "a torn value of {} bytes, {zeros} of them 0",
                bytes.len()
            ))
        }
    })
}
