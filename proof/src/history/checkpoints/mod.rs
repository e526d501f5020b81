//! The history of a file of checkpoints: no key ever goes backwards for anybody who looks later, nothing that
//! was acknowledged is lost, and no two states have the same sequence.

mod positions;
pub(super) mod process;

use std::time::Instant;

use anyhow::{Context, bail, ensure};

use super::Options;
use crate::checkpoints::{self, FILE};
use crate::clock;
use positions::{Event, What};

/// Of what is looked at after the end. No process has it.
const LAST: u64 = u64::MAX << 32;

pub(super) fn run(options: &Options, seed: u64) -> anyhow::Result<()> {
    let scratch = crate::scratch::directory(options.scratch.as_deref(), 0)?;
    // The records are beside it, and are not to be among what a change may leave.
    let dir = process::directory(scratch.path());
    std::fs::create_dir(&dir)?;
    let began = Instant::now();
    let (dead, kills) = options.crowd(seed, scratch.path()).run()?;
    let recorded = began.elapsed();
    let mut events = Vec::new();
    for one in &dead {
        events.append(&mut positions::recorded(&one.record)?);
    }
    let what = || format!("VIOLATION: seed {seed}, after the end");
    let is_left = checkpoints::left_over(&dir).with_context(what)?;
    let store = larder::CheckpointStore::open(dir.join(FILE))?;
    for key in 0..options.keys {
        let operation = LAST | u64::from(key);
        let mut push = |what| {
            let time = clock::now();
            events.push(Event {
                time,
                operation,
                key,
                what,
            });
        };
        push(What::Looks);
        let (position, author) = checkpoints::look(&store, key).with_context(what)?;
        push(author.map_or(What::Sequence(position.sequence), What::Saw));
    }
    positions::sort(&mut events);
    for key in 0..options.keys {
        let of_key: Vec<Event> = events.iter().filter(|e| e.key == key).copied().collect();
        if let Err(violation) = positions::check(&of_key) {
            let kept = scratch.keep();
            bail!(
                "VIOLATION: seed {seed}: key {key}: {violation}\nthe file is kept in {}",
                kept.display()
            );
        }
    }
    checkpoints::go_on(&dir, options.keys, LAST | 1 << 8).with_context(what)?;
    let count = |which: fn(What) -> bool| events.iter().filter(|event| which(event.what)).count();
    let begun = count(|what| matches!(what, What::Looks | What::Changes { .. }));
    let changed = count(|what| what == What::Changed);
    let ended = count(|what| !matches!(what, What::Looks | What::Changes { .. }));
    ensure!(changed > 0, "nothing was changed, so nothing is known");
    println!(
        "history: seed {seed}: checkpoints: {ended} operations of {} processes on {} keys in {:.1} s, \
         {kills} of them killed, {} in the middle of an operation; {changed} changes acknowledged; no key \
         went backwards, and none was lost; a staged file was {}left at the end",
        options.processes + kills,
        options.keys,
        recorded.as_secs_f64(),
        begun - ended,
        if is_left { "" } else { "not " },
    );
    Ok(())
}
