//! The commands on a store of directories.

use std::path::Path;

use larder::{KVDirStore, PathKey};

use crate::args::{DirCommand, DirExec, DirGetOrSet, DirRm};
use crate::command;
use crate::files::{absent, check_all, each, ended};
use crate::keys::{Named, Stored};
use crate::output;
use crate::signals::Interrupt;
use crate::stop::Stop;
use crate::store::{Place, WaitShown};

pub(crate) fn run(place: &Place, command: &DirCommand) -> Result<(), Stop> {
    match command {
        DirCommand::GetOrSet(args) => make(place, args, false),
        DirCommand::Replace(args) => make(place, args, true),
        DirCommand::Exec(args) => exec(place, args),
        DirCommand::Get(key) => get(place, key),
        DirCommand::Rm(args) => rm(place, args),
        DirCommand::Contains(key) => contains(place, key),
    }
}

fn make(place: &Place, args: &DirGetOrSet, anew: bool) -> Result<(), Stop> {
    command::plain(&args.cmd)?;
    let store = place.create_dirs(&args.writing)?;
    let interrupt = Interrupt::watch()?;
    let shown = WaitShown::default();
    let view = shown.dirs(&store, &args.waiting, &interrupt);
    let fill = |dir: &Path| {
        shown.clear();
        command::fill(&args.cmd, store.base(), dir, &interrupt)
    };
    let key = args.key.labelled();
    let leased = match anew {
        true => view.replace(&key, fill),
        false => view.get_or_set(&key, fill),
    };
    shown.clear();
    let lease = leased.map_err(|err| ended(err, &interrupt))?;
    interrupt.over();
    output::path(&lease)
}

fn exec(place: &Place, args: &DirExec) -> Result<(), Stop> {
    let mut command = command::plain(&args.cmd)?;
    let store = place.dirs()?;
    let interrupt = Interrupt::watch()?;
    let shown = WaitShown::default();
    let view = shown.dirs(&store, &args.waiting, &interrupt);
    let key = args.key.named(store.base())?;
    let leased = view.get(&key);
    shown.clear();
    let lease = leased.map_err(|err| ended(err, &interrupt))?;
    let lease = lease.ok_or_else(|| absent(&key))?;
    command::tell_of_tree(&mut command, store.base(), &lease);
    // Where the store cannot be written there may be nothing to hold.
    if lease.is_protected() {
        lease.inherit(&mut command)?;
    }
    interrupt.check()?;
    Err(command::become_it(command))
}

fn get(place: &Place, key: &Stored) -> Result<(), Stop> {
    let store = place.dirs()?;
    let key = key.named(store.base())?;
    match store.get(&key)? {
        Some(lease) => output::path(&lease),
        None => Err(absent(&key)),
    }
}

fn contains(place: &Place, key: &Stored) -> Result<(), Stop> {
    let store = place.dirs()?;
    match store.contains(&key.named(store.base())?)? {
        true => Ok(()),
        false => Err(Stop::Absent(None)),
    }
}

fn rm(place: &Place, args: &DirRm) -> Result<(), Stop> {
    let store = place.dirs()?;
    let keys = args.keys.named(store.base())?;
    check_all(&keys, |key| store.contains(key))?;
    each(&keys, |key| {
        if !args.dry_run {
            return Ok(store.remove(key)?);
        }
        let would = would_remove(&store, key)?;
        if would {
            output::path(&store.base().join(key.key()))?;
        }
        Ok(would)
    })
}

/// Whether there is a tree. An error if it could not be removed now.
fn would_remove(store: &KVDirStore, key: &Named) -> Result<bool, Stop> {
    if !store.contains(key)? {
        return Ok(false);
    }
    match store.try_lock(key)? {
        Some(_unused) => Ok(true),
        None => Err(anyhow::anyhow!("{} is in use", key.shown()).into()),
    }
}
