//! The same work done by larder and by its peers: how, and what came out, is in README.md.

// A benchmark counts in floating point.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]

mod peers;
mod work;
mod worker;
mod crew;
mod args;
mod rounds;
mod table;
mod syncs;

use std::time::Instant;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((role, words)) if role == worker::ROLE => return worker::play(words),
        Some((role, words)) if role == syncs::ROLE => return syncs::play(words),
        _ => {}
    }
    let Some(args) = args::Args::parse()? else {
        println!("{}", args::USAGE);
        return Ok(());
    };
    if args.syncs {
        let scratch = tempfile::tempdir_in(&args.dir).context("--dir")?;
        return syncs::print(&args, scratch.path());
    }
    let began = Instant::now();
    for size in &args.sizes {
        let scratch = tempfile::tempdir_in(&args.dir).context("--dir")?;
        let figures = rounds::measure(&args, scratch.path(), size)?;
        table::print(&args, size, &figures);
    }
    eprintln!("{} s", began.elapsed().as_secs());
    Ok(())
}
