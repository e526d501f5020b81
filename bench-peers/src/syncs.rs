//! What each variant calls to make a `set` durable: counted with strace in a process that does so many
//! sets and in one that does more, so that opening the store does not count.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::args::Args;
use crate::peers::{VARIANTS, Variant};
use crate::work::{Content, Size};

/// The first word on the command line of a process that is watched.
pub(crate) const ROLE: &str = "--sets";

const CALLS: [&str; 5] = ["fdatasync", "fsync", "msync", "syncfs", DSYNC];
/// No call of its own, but a write to a file that was opened so.
const DSYNC: &str = "O_DSYNC";

/// How many more sets the second process does: enough for SQLite to take its log over into the database,
/// which is after a thousand pages.
fn more_sets(size: &Size) -> u32 {
    if size.bytes < 8192 { 1500 } else { 150 }
}

/// The words of a command line after the role: does so many sets.
pub(crate) fn play(words: &[String]) -> Result<()> {
    let [variant, dir, size, count] = words else {
        anyhow::bail!("a variant, a directory, a size and a count are needed");
    };
    let variant = VARIANTS.iter().find(|own| own.id == variant);
    let size = Size::parse(size).context("no such size")?;
    let mut peer = (variant.context("no such variant")?.open)(Path::new(dir), size)?;
    let mut content = Content::new(size);
    for number in 0..count.parse()? {
        let key = usize::try_from(number)? % size.keys;
        peer.set(&format!("key-{key}"), content.value(key, number))?;
        peer.read(&format!("key-{key}"), &mut |value| {
            content.check(key, value, true)
        })?;
    }
    Ok(())
}

pub(crate) fn print(args: &Args, dir: &Path) -> Result<()> {
    println!("| values | durability | peer | {} |", CALLS.join(" | "));
    println!("| --- | --- | --- |{}", " ---: |".repeat(CALLS.len()));
    for size in &args.sizes {
        for variant in &args.variants {
            // The first sets make directories and files.
            let few = size.keys as u32;
            let sets = more_sets(size);
            let before = count(variant, dir, size, few)?;
            let after = count(variant, dir, size, few + sets)?;
            let each = before.iter().zip(after).map(|(before, after)| {
                let each = (f64::from(after) - f64::from(*before)) / f64::from(sets);
                match format!("{each:.3}").trim_end_matches('0') {
                    "0." => "0".to_owned(),
                    digits => digits.trim_end_matches('.').to_owned(),
                }
            });
            println!(
                "| {} | {} | {}, {} | {} |",
                size.name,
                variant.durability.name(),
                variant.engine,
                variant.setting,
                each.collect::<Vec<_>>().join(" | ")
            );
        }
    }
    Ok(())
}

/// How often each call is made in a process that does so many sets.
fn count(variant: &Variant, dir: &Path, size: &Size, sets: u32) -> Result<[u32; CALLS.len()]> {
    let dir = tempfile::tempdir_in(dir)?;
    let log = dir.path().join("calls");
    let traced = "trace=fdatasync,fsync,msync,syncfs,openat,close,write,writev,pwrite64,pwritev";
    let status = Command::new("strace")
        .args(["-f", "-qq", "-s", "0", "-e", traced, "-o"])
        .arg(&log)
        .arg(std::env::current_exe()?)
        .arg(ROLE)
        .arg(variant.id)
        .arg(dir.path().join("store"))
        .args([size.id, &sets.to_string()])
        .status()
        .context("strace is needed")?;
    ensure!(status.success(), "{}: {status}", variant.id);
    let mut counts = [0; CALLS.len()];
    let mut synchronous = HashSet::new();
    for line in fs::read_to_string(&log)?.lines() {
        // "PID NAME(ARGUMENTS) = RESULT"
        let Some((name, rest)) = line.split_once('(') else {
            continue;
        };
        let name = name.rsplit(' ').next().unwrap_or(name);
        let descriptor = || rest.split([',', ')']).next().unwrap_or("").to_owned();
        match name {
            "openat" if rest.contains(DSYNC) => {
                let opened = rest.rsplit(' ').next().unwrap_or("");
                synchronous.insert(opened.to_owned());
            }
            "close" => {
                synchronous.remove(&descriptor());
            }
            _ => {}
        }
        let name = match name {
            "write" | "writev" | "pwrite64" | "pwritev" if synchronous.contains(&descriptor()) => {
                DSYNC
            }
            name => name,
        };
        if let Some(call) = CALLS.iter().position(|call| *call == name) {
            counts[call] += 1;
        }
    }
    Ok(counts)
}
