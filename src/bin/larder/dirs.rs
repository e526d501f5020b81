//! The commands on a store of directories.

use larder::{KVDirStore, PathKey};

use crate::args::{DirCommand, DirExec, DirGetOrSet, DirRm, Key};
use crate::command;
use crate::files::{absent, ended};
use crate::output;
use crate::signals::Interrupt;
use crate::stop::Stop;
use crate::store::{Place, WaitShown};

pub(crate) fn run(place: &Place, command: &DirCommand) -> Result<(), Stop> {
    match command {
        DirCommand::GetOrSet(args) => get_or_set(place, args),
        DirCommand::Exec(args) => exec(place, args),
        DirCommand::Get(key) => get(place, key),
        DirCommand::Rm(args) => rm(place, args),
        DirCommand::Contains(key) => match place.dirs()?.contains(key.bytes())? {
            true => Ok(()),
            false => Err(Stop::Absent(None)),
        },
    }
}

fn get_or_set(place: &Place, args: &DirGetOrSet) -> Result<(), Stop> {
    command::plain(&args.cmd)?;
    let store = place.create_dirs(&args.writing)?;
    let interrupt = Interrupt::watch()?;
    let shown = WaitShown::default();
    let view = shown.dirs(&store, &args.waiting, &interrupt);
    let leased = view.get_or_set(&args.key.labelled(), |dir| {
        shown.clear();
        command::fill(&args.cmd, dir, &interrupt)
    });
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
    let leased = view.get(args.key.bytes());
    shown.clear();
    let lease = leased.map_err(|err| ended(err, &interrupt))?;
    let lease = lease.ok_or_else(|| absent(&args.key))?;
    command.env(command::DIR_VARIABLE, &*lease);
    // Where the store cannot be written there may be nothing to hold.
    if lease.is_protected() {
        lease.inherit(&mut command)?;
    }
    interrupt.check()?;
    Err(command::become_it(command))
}

fn get(place: &Place, key: &Key) -> Result<(), Stop> {
    let store = place.dirs()?;
    match store.get(key.bytes())? {
        Some(lease) => output::path(&lease),
        None => Err(absent(key)),
    }
}

fn rm(place: &Place, args: &DirRm) -> Result<(), Stop> {
    let store = place.dirs()?;
    let key = args.key.bytes();
    let removed = match args.dry_run {
        true => would_remove(&store, &args.key)?,
        false => store.remove(key)?,
    };
    match removed {
        true if args.dry_run => output::path(&store.base().join(key.key())),
        true => Ok(()),
        false => Err(absent(&args.key)),
    }
}

/// Whether there is a tree. An error if it could not be removed now.
fn would_remove(store: &KVDirStore, key: &Key) -> Result<bool, Stop> {
    if !store.contains(key.bytes())? {
        return Ok(false);
    }
    match store.try_lock(key.bytes())? {
        Some(_unused) => Ok(true),
        None => Err(anyhow::anyhow!("{} is in use", key.shown()).into()),
    }
}
