//! The table of ratios: `cargo bench --bench ratios`. Every figure comes from one run, in which the
//! ways of doing the same work took turns.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod batches;
mod checkpoints;
mod collecting;
mod measure;
mod plot;
mod posy;
mod raw;
mod rows;
mod verified;
mod waiters;

use std::path::{Path, PathBuf};

const USAGE: &str = "\
Usage: cargo bench --bench ratios -- [--dir DIR] [--turns N] [--svg FILE] [ROW…]

  --dir DIR    where the stores are made; what is measured depends on its file system
  --turns N    how often each way does its work [default: 25]
  --svg FILE   draws it, too
  ROW          only rows whose name contains this";

fn main() {
    let mut dir = std::env::temp_dir();
    let mut turns = 25;
    let mut svg = None;
    let mut wanted = Vec::new();
    let mut rows = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match &*word {
            "--bench" => {} // from cargo
            waiters::ROLE => {
                let (way, base) = (words.next().unwrap(), words.next().unwrap());
                return waiters::play(&way, Path::new(&base));
            }
            "--dir" => dir = PathBuf::from(words.next().expect(USAGE)),
            "--turns" => turns = words.next().and_then(|n| n.parse().ok()).expect(USAGE),
            "--svg" => svg = Some(PathBuf::from(words.next().expect(USAGE))),
            "--help" => return println!("{USAGE}"),
            _ => wanted.push(word),
        }
    }
    println!(
        "| work | way | µs | ratio | quartiles | to reach | |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    for kind in rows::KINDS {
        if !wanted.is_empty() && !wanted.iter().any(|word| kind.name.contains(word.as_str())) {
            continue;
        }
        let scratch = tempfile::tempdir_in(&dir).unwrap();
        let row = kind.row(scratch.path(), turns);
        tell(&row);
        rows.push(row);
    }
    if let Some(path) = svg {
        plot::draw(&path, &rows);
    }
}

fn tell(row: &rows::Row) {
    if row.figures.is_empty() {
        println!(
            "| {} | skipped: not to be had on this machine | | | | | |",
            row.name
        );
    }
    for figure in &row.figures {
        let goal = row.goals.iter().find(|(way, _)| *way == figure.way);
        let (goal, met) = match goal {
            None => (String::new(), ""),
            Some((_, goal)) => (
                format!("≤ {goal:.2}"),
                if figure.ratio <= *goal {
                    "met"
                } else {
                    "missed"
                },
            ),
        };
        println!(
            "| {} | {} | {:.1} | {:.3} | {:.3} to {:.3} | {goal} | {met} |",
            row.name,
            figure.way,
            figure.micros,
            figure.ratio,
            figure.quartiles[0],
            figure.quartiles[1],
        );
    }
}
