//! The commands on a store of files.

use std::io::{self, Read, Seek};

use larder::{ArtifactHash, ErrorKind, Expect, KVFileStore, Outcome, PathKey, Value};
use ring::digest;

use crate::args::{Get, GetOrSet, Rm, Set, Writing};
use crate::command;
use crate::keys::{Named, Stored};
use crate::output;
use crate::signals::Interrupt;
use crate::stop::{self, Stop};
use crate::store::{Place, WaitShown};

pub(crate) fn get_or_set(place: &Place, args: &GetOrSet) -> Result<(), Stop> {
    command::plain(&args.cmd)?;
    let store = place.create_files(&args.writing)?;
    let interrupt = Interrupt::watch()?;
    let shown = WaitShown::default();
    let found = shown
        .files(&store, &args.waiting, &interrupt)
        .get_or_set_verified(&args.key.labelled(), &expected(&args.writing), |writer| {
            shown.clear();
            set_metadata(writer, &args.writing)?;
            command::capture(&args.cmd, store.base(), writer, &interrupt)
        });
    shown.clear();
    let mut computed = found.map_err(|err| ended(err, &interrupt));
    if let (Ok(value), Some(hash)) = (&mut computed, &args.writing.sha256) {
        // A store that is not sealed compares nothing with what it has. This value is what is printed, so
        // it is this one that is hashed: its key may have another by now.
        if value.outcome() != Outcome::Computed && !has_digest(value, hash, &interrupt)? {
            let view = shown.files(&store, &args.waiting, &interrupt);
            computed = compute_in_its_place(&view, args, hash, &interrupt);
            shown.clear();
        }
    }
    let value = match computed {
        Err(Stop::Command(status, None)) if has_another_digest(&store, args, &interrupt)? => {
            let key = args.key.shown();
            let why =
                format!("what is stored under {key} has another SHA-256, and stays: CMD failed");
            return Err(Stop::Command(status, Some(why)));
        }
        computed => computed?,
    };
    interrupt.over();
    print(value)
}

/// Whether there is a value, and not the one that was meant.
fn has_another_digest(
    store: &KVFileStore,
    args: &GetOrSet,
    interrupt: &Interrupt,
) -> Result<bool, Stop> {
    let Some(hash) = &args.writing.sha256 else {
        return Ok(false);
    };
    match store.get(args.key.bytes())? {
        Some(mut value) => Ok(!has_digest(&mut value, hash, interrupt)?),
        None => Ok(false),
    }
}

/// Reads a value to its end, unless a signal comes, and goes back to its beginning.
fn has_digest(value: &mut Value, hash: &ArtifactHash, interrupt: &Interrupt) -> Result<bool, Stop> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 128 << 10];
    loop {
        interrupt.check()?;
        match value.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => context.update(&buffer[..read]),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(cannot_read(err)),
        }
    }
    value.rewind().map_err(cannot_read)?;
    Ok(context.finish().as_ref() == hash.digest())
}

fn cannot_read(err: io::Error) -> Stop {
    anyhow::Error::new(err)
        .context("cannot read the value")
        .into()
}

fn compute_in_its_place(
    store: &KVFileStore,
    args: &GetOrSet,
    hash: &ArtifactHash,
    interrupt: &Interrupt,
) -> Result<Value, Stop> {
    let locked = store.lock(&args.key.labelled());
    let lock = locked.map_err(|err| ended(err, interrupt))?;
    // Another process may have done it meanwhile.
    if let Some(there) = lock.reader()? {
        let mut value = there.detach_unlocked();
        if has_digest(&mut value, hash, interrupt)? {
            return Ok(value);
        }
    }
    let mut writer = lock.begin()?;
    writer.expect_digest(hash)?;
    if let Some(metadata) = metadata(&args.writing) {
        writer.set_metadata(&metadata)?;
    }
    command::capture(&args.cmd, store.base(), &mut writer, interrupt)?;
    Ok(writer.commit()?.detach_unlocked())
}

pub(crate) fn get(place: &Place, args: &Get) -> Result<(), Stop> {
    let store = place.files()?;
    let key = args.key.named(store.base())?;
    let value = store.get(&key)?.ok_or_else(|| absent(&key))?;
    if args.meta {
        return output::write(value.metadata());
    }
    print(value)
}

pub(crate) fn set(place: &Place, args: &Set) -> Result<(), Stop> {
    let store = place.create_files(&args.writing)?;
    let interrupt = Interrupt::watch()?;
    let shown = WaitShown::default();
    let view = shown.files(&store, &args.waiting, &interrupt);
    let set = view.set(&args.key.labelled(), |writer| {
        set_metadata(writer, &args.writing)?;
        if let Some(hash) = &args.writing.sha256 {
            writer.expect_digest(hash)?;
        }
        let progress = output::bytes_bar(None);
        let input = interrupt.reading(io::stdin().lock());
        let copied = io::copy(&mut progress.wrap_read(input), writer);
        progress.finish_and_clear();
        interrupt.check()?;
        copied?;
        Ok(())
    });
    shown.clear();
    set.map_err(|err| ended(err, &interrupt))?;
    Ok(())
}

pub(crate) fn rm(place: &Place, args: &Rm) -> Result<(), Stop> {
    let store = place.files()?;
    let interrupt = Interrupt::watch()?;
    let shown = WaitShown::default();
    let view = shown.files(&store, &args.waiting, &interrupt);
    let keys = args.keys.named(store.base())?;
    check_all(&keys, |key| store.contains(key))?;
    each(&keys, |key| {
        interrupt.check()?;
        if args.dry_run {
            let is_there = store.contains(key)?;
            if is_there {
                output::path(&store.base().join(key.key()))?;
            }
            return Ok(is_there);
        }
        let removed = view.remove(key);
        shown.clear();
        removed.map_err(|err| ended(err, &interrupt))
    })
}

/// Fails if one of them can be no key, so that nothing is done for the others. What else is wrong is told
/// where it is their turn.
pub(crate) fn check_all(
    keys: &[Named],
    contains: impl Fn(&Named) -> larder::Result<bool>,
) -> Result<(), Stop> {
    let mut looked = keys.iter().map(contains);
    let flaw = looked.find_map(|looked| {
        looked
            .err()
            .filter(|err| err.kind() == ErrorKind::InvalidKey)
    });
    flaw.map_or(Ok(()), |err| Err(err.into()))
}

/// Does something with each key that has a value, whatever becomes of the others, and tells of those that
/// have none, and of what failed.
pub(crate) fn each(
    keys: &[Named],
    mut act: impl FnMut(&Named) -> Result<bool, Stop>,
) -> Result<(), Stop> {
    let (mut missing, mut failed, mut stopped) = (Vec::new(), Vec::new(), None);
    for key in keys {
        match act(key) {
            Ok(true) => {}
            Ok(false) => missing.push(key.shown()),
            Err(Stop::Failed(err)) => failed.push(err),
            Err(stop) => {
                stopped = Some(stop);
                break;
            }
        }
    }
    let absent = match missing.is_empty() {
        true => None,
        false => Some(format!("nothing is stored under {}", missing.join(", "))),
    };
    // The last that is to be told ends the process with its status.
    let end = stopped.or_else(|| failed.pop().map(Stop::Failed));
    failed
        .iter()
        .for_each(|err| stop::tell(&format!("{err:#}")));
    match (end, absent) {
        (Some(end), absent) => {
            absent.iter().for_each(|sentence| stop::tell(sentence));
            Err(end)
        }
        (None, Some(sentence)) => Err(Stop::Absent(Some(sentence))),
        (None, None) => Ok(()),
    }
}

pub(crate) fn contains(place: &Place, key: &Stored) -> Result<(), Stop> {
    let store = place.files()?;
    match store.contains(&key.named(store.base())?)? {
        true => Ok(()),
        false => Err(Stop::Absent(None)),
    }
}

pub(crate) fn path(place: &Place, key: &Stored) -> Result<(), Stop> {
    let store = place.files()?;
    let key = key.named(store.base())?;
    match store.get(&key)? {
        Some(value) => output::path(value.raw_path()?),
        None => Err(absent(&key)),
    }
}

/// What an error means where a signal may have caused it.
pub(crate) fn ended(err: larder::Error, interrupt: &Interrupt) -> Stop {
    interrupt.check().err().unwrap_or_else(|| err.into())
}

pub(crate) fn absent(key: &Named) -> Stop {
    Stop::Absent(Some(format!("nothing is stored under {}", key.shown())))
}

fn print(value: Value) -> Result<(), Stop> {
    let len = value.len();
    output::copy(value, len)
}

fn expected(writing: &Writing) -> Expect {
    match &writing.sha256 {
        Some(hash) => Expect::new().digest(hash),
        None => Expect::new(),
    }
}

fn set_metadata(writer: &mut larder::ValueWriter, writing: &Writing) -> anyhow::Result<()> {
    if let Some(metadata) = metadata(writing) {
        writer.set_metadata(&metadata)?;
    }
    Ok(())
}

/// What was said with `--meta`, a line for each.
fn metadata(writing: &Writing) -> Option<Vec<u8>> {
    let mut metadata = writing.meta.join(&b'\n');
    metadata.push(b'\n');
    (!writing.meta.is_empty()).then_some(metadata)
}
