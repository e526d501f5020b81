//! What can be typed, and the help that goes with it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum};
use larder::ArtifactHash;

use crate::keys::{AllStored, Key, Stored};
use crate::units;

const EXAMPLES: &str = "\
Examples:
  Download once, however many scripts ask at the same time:
    larder --store ~/.cache/dl get-or-set serde-1.0 -- curl -fsSL https://example.org/serde-1.0.crate
  Unpack once, and print where:
    larder --store ~/.cache/src dir get-or-set serde-1.0 -- sh -c 'tar xf serde.crate -C \"$LARDER_DIR\"'
  Build with a tree that nobody takes away meanwhile:
    larder --store ~/.cache/src dir exec serde-1.0 -- sh -c 'cargo build --manifest-path \"$LARDER_DIR/Cargo.toml\"'
  What is stored, and who waits for whom:
    larder --store ~/.cache/dl ls
    larder --store ~/.cache/dl locks

Exit status: 0 done; 1 there is no such value; 2 what was typed makes no sense; 3 any other error.
CMD's own status if CMD failed, 126 if it cannot be run, 127 if it is not found; 128+N after signal N.";

/// A cache on disk for any number of processes: one computation for each key, all or nothing.
#[derive(Debug, Parser)]
#[command(name = "larder", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Args {
    /// The store's directory.
    #[arg(long, global = true, value_name = "DIR", env = "LARDER_STORE")]
    pub(crate) store: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prints a value; if there is none, runs CMD, whose standard output is the value.
    #[command(
        override_usage = "larder get-or-set [OPTIONS] <KEY> -- <CMD>...",
        after_help = "CMD runs once among all processes that ask for the key; the others wait and print the\n\
                      same value. If CMD fails, nothing is stored, its status is returned, and the next who\n\
                      waits runs his own. With --sha256, a value that is there and has another one is\n\
                      computed again, and stays until that has succeeded.\n\n\
                      CMD finds the store in LARDER_STORE. Where this process is killed (`kill -9`), CMD goes\n\
                      on, what it prints goes nowhere, and the next who waits runs his own; `larder sweep`\n\
                      removes what was written so far.\n\n\
                      Example:\n  larder get-or-set \"weather $(date +%F)\" -- curl -fsS https://example.org/weather"
    )]
    GetOrSet(GetOrSet),
    /// Prints a value.
    #[command(after_help = "Example:\n  larder get serde-1.0 > serde.crate || echo \"not stored\"")]
    Get(Get),
    /// Stores standard input as a value, in place of one that may be there.
    #[command(
        after_help = "What comes before the end of standard input is the value, so a pipe whose first command\n\
                      fails stores a part: say `set -o pipefail` and look at the status, or use get-or-set,\n\
                      which stores nothing if its command fails.\n\n\
                      Example:\n  tar c src | larder set \"src at $(git rev-parse HEAD)\"\n  \
                      larder set --sealed --meta etag=W/1 index < index.json"
    )]
    Set(Set),
    /// Removes values, each whatever becomes of the others: status 1 if one is not there, 3 if one cannot be
    /// removed.
    #[command(after_help = "Example:\n  \
                      larder ls --unused-for 30d --json | jq -r '.[].path' | xargs -r -d '\\n' larder rm --path")]
    Rm(Rm),
    /// Prints the path of a value's file, for programs that link or map it. Not of sealed values, which
    /// are not just the file's bytes.
    Path(Stored),
    /// Reads a value or a tree and compares it with the digest that was published with it: status 3 if it
    /// is another one, or has none.
    Verify(Stored),
    /// Whether there is a value: status 0 or 1, and nothing is printed.
    Contains(Stored),
    /// The same with directories for values.
    Dir {
        #[command(subcommand)]
        command: DirCommand,
    },
    /// Lists what is stored: size, last use, whether it is pinned or leased, path, label.
    #[command(
        after_help = "Example:\n  larder ls --json | jq -r '.[] | select(.bytes > 1e9) | .path'"
    )]
    Ls(Ls),
    /// Who holds which key, and who waits. Other users' processes may stay unnamed.
    Locks(List),
    /// Removes what was not used for longest, until the limits hold.
    #[command(
        after_help = "What is leased, locked, pinned, or was used in the last two hours stays; see --min-idle, and give\n\
                      it twice the touch_after of a program that uses the store, where that is over an hour. If a\n\
                      limit does not hold because of that, the last line says by how much, and the status is 0;\n\
                      it is 3 if nothing at all may be removed by this user, or if a part of the store could not\n\
                      be read, so that nobody knows whether the limits hold.\n\n\
                      Once over a limit it goes on towards 90 % of it, so that the next run has nothing to do,\n\
                      and stops before an entry that would leave less; see --stop-at-percent.\n\n\
                      Example:\n  larder gc --max-age 30d --max-size 10GiB --min-free 5GiB --dry-run\n  \
                      larder gc --max-size 10GiB --if-due 1d"
    )]
    Gc(Gc),
    /// Keeps what is or will be stored under a key from `gc` and `clear`, until it is unpinned.
    Pin(Stored),
    /// Lets `gc` and `clear` take it again: status 1 if it is not pinned.
    Unpin(Stored),
    /// Lists the paths that are pinned.
    Pins(List),
    /// What is stored, in numbers: status 3 if some of it could not be read.
    Stats(List),
    /// Looks for what is not as it should be: status 3 if there is anything.
    #[command(
        after_help = "It changes nothing and waits for nobody; what other processes are just doing is no finding.\n\
                      In a store of files each file with a possible name is a value, whoever put it there.\n\n\
                      Example:\n  larder check --digests\n  larder check --repair"
    )]
    Check(Check),
    /// Removes what killed processes left behind, and no value.
    Sweep(Clear),
    /// Removes every value that is neither in use nor pinned.
    Clear(Clear),
    /// Prints a completion script for a shell.
    #[command(
        after_help = "Example:\n  larder completions bash > ~/.local/share/bash-completion/completions/larder"
    )]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DirCommand {
    /// Prints a tree's path; if there is none, runs CMD, which fills the directory $LARDER_DIR.
    #[command(
        override_usage = "larder dir get-or-set [OPTIONS] <KEY> -- <CMD>...",
        after_help = "What CMD prints goes to standard error.\n\nExample:\n  \
                      larder dir get-or-set zlib -- sh -c 'tar xf zlib.tar.gz -C \"$LARDER_DIR\"'"
    )]
    GetOrSet(DirGetOrSet),
    /// Runs CMD, which fills the directory $LARDER_DIR, and puts that in place of the tree that may be there.
    #[command(
        override_usage = "larder dir replace [OPTIONS] <KEY> -- <CMD>...",
        after_help = "CMD runs in any case, and does not wait for others who do the same; the last one wins. Who\n\
                      uses the old tree is waited for. What CMD prints goes to standard error."
    )]
    Replace(DirGetOrSet),
    /// Runs CMD while nobody can remove or replace the tree, whose path is in $LARDER_DIR.
    #[command(
        override_usage = "larder dir exec [OPTIONS] <KEY> -- <CMD>...",
        after_help = "CMD takes this process's place, and it and the processes that it starts hold the\ntree.\n\n\
                      Example:\n  larder dir exec zlib -- sh -c 'make -C \"$LARDER_DIR\"'"
    )]
    Exec(DirExec),
    /// Prints a tree's path. Nothing protects the tree after that: see `exec`.
    Get(Stored),
    /// Removes trees, unless they are in use.
    Rm(DirRm),
    /// Whether there is a tree: status 0 or 1, and nothing is printed.
    Contains(Stored),
}

/// What is run where there is no value.
#[derive(Debug, clap::Args)]
pub(crate) struct Cmd {
    /// The command, and its arguments.
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

impl Cmd {
    /// The program and its arguments.
    pub(crate) fn parts(&self) -> Option<(&OsStr, &[OsString])> {
        // The parser keeps the `--` before CMD if another one stood before the key.
        let command = match self.command.split_first() {
            Some((first, rest)) if first == "--" => rest,
            _ => &self.command,
        };
        let (program, args) = command.split_first()?;
        Some((program, args))
    }
}

/// How long to wait for others.
#[derive(Debug, clap::Args)]
pub(crate) struct Waiting {
    /// Gives up waiting for other processes after this long: 30s, 5m.
    #[arg(long, value_name = "TIME", value_parser = units::age, conflicts_with = "no_wait", allow_hyphen_values = true)]
    wait: Option<Duration>,
    /// Does not wait for other processes.
    #[arg(long)]
    no_wait: bool,
}

impl Waiting {
    pub(crate) fn wait(&self) -> larder::Wait {
        match self.wait {
            _ if self.no_wait => larder::Wait::TryOnce,
            Some(time) => larder::Wait::Timeout(time),
            None => larder::Wait::Block,
        }
    }
}

/// What a value survives.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Durability {
    /// After a power cut it may be torn; a sealed store sees that.
    None,
    /// After a power cut it is whole or absent.
    Data,
    /// After a power cut it is there.
    Full,
}

impl From<Durability> for larder::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::None => larder::Durability::None,
            Durability::Data => larder::Durability::Data,
            Durability::Full => larder::Durability::Full,
        }
    }
}

/// What a tree survives.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum TreeDurability {
    /// After a power cut it may be absent, and is never torn: it always has a digest.
    None,
    /// After a power cut it is whole or absent.
    Data,
    /// After a power cut it is there.
    Full,
}

impl From<TreeDurability> for larder::Durability {
    fn from(durability: TreeDurability) -> Self {
        match durability {
            TreeDurability::None => larder::Durability::None,
            TreeDurability::Data => larder::Durability::Data,
            TreeDurability::Full => larder::Durability::Full,
        }
    }
}

/// How a value is written.
#[derive(Debug, clap::Args)]
pub(crate) struct Writing {
    /// What the value survives.
    #[arg(long, value_enum, default_value = "data")]
    pub(crate) durability: Durability,
    /// If the store is a new one: keeps metadata, the label and a digest with each value.
    #[arg(long)]
    pub(crate) sealed: bool,
    /// Stores nothing unless the value has this SHA-256.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub(crate) sha256: Option<ArtifactHash>,
    /// Metadata to keep with the value, a line for each (in a sealed store).
    #[arg(long, value_name = "K=V", value_parser = OsStringValueParser::new().try_map(meta))]
    pub(crate) meta: Vec<Vec<u8>>,
}

fn sha256(text: &str) -> Result<ArtifactHash, String> {
    let hash = format!("sha256={text}").parse::<ArtifactHash>();
    hash.map_err(|_| "a SHA-256 is 64 hexadecimal digits".to_owned())
}

fn meta(text: OsString) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let is_line = !bytes.contains(&b'\n');
    match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) if at > 0 && is_line => Ok(bytes.to_vec()),
        _ => Err("metadata is NAME=VALUE, on one line".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct GetOrSet {
    #[command(flatten)]
    pub(crate) key: Key,
    #[command(flatten)]
    pub(crate) writing: Writing,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    #[command(flatten)]
    pub(crate) cmd: Cmd,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) key: Stored,
    /// Prints the value's metadata in place of the value.
    #[arg(long)]
    pub(crate) meta: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    #[command(flatten)]
    pub(crate) key: Key,
    #[command(flatten)]
    pub(crate) writing: Writing,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    pub(crate) keys: AllStored,
    /// Prints the path of what would be removed, and removes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DirRm {
    #[command(flatten)]
    pub(crate) keys: AllStored,
    /// Prints the path of what would be removed, and removes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DirGetOrSet {
    #[command(flatten)]
    pub(crate) key: Key,
    #[command(flatten)]
    pub(crate) writing: TreeWriting,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    #[command(flatten)]
    pub(crate) cmd: Cmd,
}

/// How a tree is written.
#[derive(Debug, clap::Args)]
pub(crate) struct TreeWriting {
    /// What the tree survives.
    #[arg(long, value_enum, default_value = "data")]
    pub(crate) durability: TreeDurability,
    /// Keeps a digest of everything in the tree, for `verify` and `check --digests`.
    #[arg(long)]
    pub(crate) digest: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DirExec {
    #[command(flatten)]
    pub(crate) key: Stored,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    #[command(flatten)]
    pub(crate) cmd: Cmd,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Only what has at least this size: 10MiB, 1.5G.
    #[arg(long, value_name = "SIZE", value_parser = units::size, default_value = "0", hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) min_size: u64,
    /// Only what was not used for so long: 12h, 30d.
    #[arg(long, value_name = "TIME", value_parser = units::age, allow_hyphen_values = true)]
    pub(crate) unused_for: Option<Duration>,
    #[command(flatten)]
    pub(crate) list: List,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Gc {
    /// Removes what was not used for this long: 12h, 30d.
    #[arg(long, value_name = "TIME", value_parser = units::age, allow_hyphen_values = true)]
    pub(crate) max_age: Option<Duration>,
    /// How much the store may take on disk: 500MiB, 10GiB.
    #[arg(long, value_name = "SIZE", value_parser = units::size, allow_hyphen_values = true)]
    pub(crate) max_size: Option<u64>,
    /// How many entries there may be.
    #[arg(long, value_name = "N", value_parser = units::entries, allow_hyphen_values = true)]
    pub(crate) max_entries: Option<u64>,
    /// How much is to be free on the file system.
    #[arg(long, value_name = "SIZE", value_parser = units::size, allow_hyphen_values = true)]
    pub(crate) min_free: Option<u64>,
    /// Keeps what was used within this time, whatever the limits say [default: 2h].
    #[arg(long, value_name = "TIME", value_parser = units::age, allow_hyphen_values = true)]
    pub(crate) min_idle: Option<Duration>,
    /// Goes on to this part of an exceeded limit [default: 90].
    #[arg(long, value_name = "PERCENT", value_parser = units::percent, allow_hyphen_values = true)]
    pub(crate) stop_at_percent: Option<u8>,
    /// Does nothing if a collection ended within this time. A new store counts as collected.
    #[arg(long, value_name = "TIME", value_parser = units::age, allow_hyphen_values = true)]
    pub(crate) if_due: Option<Duration>,
    /// Says what would be removed, and removes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    #[command(flatten)]
    pub(crate) told: Told,
}

/// How much is told of what was removed and kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Told {
    /// Says of everything that was kept why, not only how much that was.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) list: List,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Clear {
    /// Says what would be removed, and removes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) told: Told,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Reads all that has a digest, and compares: sealed values, and trees made with `--digest`.
    #[arg(long)]
    pub(crate) digests: bool,
    /// Mends what can be mended, and says what is left.
    #[arg(long)]
    pub(crate) repair: bool,
    /// With `--repair`: says what would be mended, and mends nothing.
    #[arg(long, requires = "repair")]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) list: List,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
