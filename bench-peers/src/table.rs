//! The result as Markdown.

use crate::args::Args;
use crate::peers::Durability;
use crate::rounds::Figure;
use crate::work::{Size, Work};

/// Where a peer is faster, or slower, than larder by more than this, and so are its quartiles, it is
/// said.
const NOTEWORTHY: f64 = 1.1;

pub(crate) fn print(args: &Args, size: &Size, figures: &[Figure]) {
    println!("\n## Values of {}, {} keys\n", size.name, size.keys);
    let columns: Vec<String> = args.processes.iter().map(processes).collect();
    println!("| work | peer | {} |", columns.join(" | "));
    println!("| --- | --- |{}", " ---: |".repeat(columns.len()));
    for &work in &args.works {
        if work.writes() {
            for durability in Durability::ALL {
                rows(args, figures, work, Some(durability));
            }
        } else {
            rows(args, figures, work, None);
        }
    }
}

fn processes(number: &usize) -> String {
    match number {
        1 => "1 process".to_owned(),
        number => format!("{number} processes"),
    }
}

fn rows(args: &Args, figures: &[Figure], work: Work, durability: Option<Durability>) {
    let durable = durability.map_or(String::new(), |durability| {
        format!(", {}", durability.name())
    });
    for variant in &args.variants {
        let row: Vec<&Figure> = figures
            .iter()
            .filter(|figure| figure.work == work && figure.variant.id == variant.id)
            .collect();
        if row.is_empty() || durability.is_some_and(|class| class != variant.durability) {
            continue;
        }
        let setting = match durability {
            Some(_) => format!(", {}", variant.setting),
            None => String::new(),
        };
        let cells: Vec<String> = row.iter().map(|figure| cell(figure)).collect();
        println!(
            "| {}{durable} | {}{setting} | {} |",
            work.name(),
            variant.engine,
            cells.join(" | ")
        );
    }
}

fn cell(figure: &Figure) -> String {
    let rate = thousands(figure.rate);
    if figure.variant.is_larder() || figure.ratio.is_nan() {
        return rate;
    }
    let [low, high] = figure.quartiles;
    let ratio = match figure.ratio {
        ratio if ratio >= 9.95 => format!("{ratio:.0}×"),
        ratio if ratio >= 0.095 => format!("{ratio:.1}×"),
        ratio => format!("{ratio:.2}×"),
    };
    if figure.ratio > NOTEWORTHY && low > 1.0 {
        format!("{rate} (**{ratio}**)")
    } else if figure.ratio < 1.0 / NOTEWORTHY && high < 1.0 {
        format!("{rate} ({ratio})")
    } else {
        format!("{rate} (≈ {ratio})")
    }
}

/// Three digits that count, and a comma between thousands.
fn thousands(number: f64) -> String {
    let scale = 10_f64.powi((number.abs().max(1.0).log10().floor() as i32 - 2).max(0));
    let digits = format!("{:.0}", (number / scale).round() * scale);
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
