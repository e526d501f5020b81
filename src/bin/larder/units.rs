//! Sizes and ages in the units that people use, read and printed.
//!
//! Pure text. Invariant: what is printed can be read again, to the precision in which it is printed.

use std::time::{Duration, SystemTime};

const SIZE_HELP: &str = "a size is a number and B, K, M, G or T (KiB, MiB, … are the same; kB, MB, GB and \
                         TB are powers of 1000), as in 10GiB or 1.5G, or it is 0";
const AGE_HELP: &str = "a time is a number and ms, s, m, h, d or w, as in 30s or 30d, or it is 0";

const KIB: u64 = 1 << 10;

/// The binary units, smallest first.
const BINARY: [(&str, u64); 4] = [
    ("KiB", KIB),
    ("MiB", KIB * KIB),
    ("GiB", KIB * KIB * KIB),
    ("TiB", KIB * KIB * KIB * KIB),
];

/// Ages, largest first.
const AGES: [(&str, u64); 6] = [
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads a size: `10GiB`, `512B`, `1.5M`, `0`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    scaled(text, size_unit).map_err(|bad| match bad {
        Bad::Shape => SIZE_HELP.to_owned(),
        Bad::TooLarge => {
            "that is more than any disk has; the largest unit is T, as in 10TiB".into()
        }
    })
}

fn size_unit(unit: &str) -> Option<u64> {
    Some(match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => {
            let binary = BINARY.iter().find(|(name, _)| {
                let short = &name[..1];
                unit == *name || unit.eq_ignore_ascii_case(short)
            });
            return binary.map(|&(_, bytes)| bytes);
        }
    })
}

/// Reads an age or a time to wait: `30d`, `1.5h`, `250ms`, `0`.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let milliseconds = scaled(text, |unit| {
        AGES.iter()
            .find(|(name, _)| *name == unit)
            .map(|&(_, scale)| scale)
    });
    milliseconds
        .map(Duration::from_millis)
        .map_err(|bad| match bad {
            Bad::Shape => AGE_HELP.to_owned(),
            Bad::TooLarge => "that is too long; the largest unit is w, as in 52w".into(),
        })
}

/// Reads how many entries there may be.
pub(crate) fn entries(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "a number of entries is a whole number, as in 0 or 1000".to_owned())
}

/// Reads a part of a limit.
pub(crate) fn percent(text: &str) -> Result<u8, String> {
    let percent = text.parse().ok().filter(|&percent: &u8| percent <= 100);
    percent.ok_or_else(|| "a percentage is a whole number from 0 to 100".to_owned())
}

/// Why something is no size and no age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    Shape,
    TooLarge,
}

/// A number, whole or with decimals, times its unit; 0 needs none. No sign, and nothing that does not fit.
fn scaled(text: &str, unit: impl Fn(&str) -> Option<u64>) -> Result<u64, Bad> {
    if text == "0" {
        return Ok(0);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, name) = text.split_at(end.unwrap_or(text.len()));
    let scale = unit(name).ok_or(Bad::Shape)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    // More decimals than this say nothing about a size or an age.
    let has_digits = !whole.is_empty() && (1..=6).contains(&decimals.len());
    if !has_digits || decimals.contains('.') {
        return Err(Bad::Shape);
    }
    let whole: u64 = whole.parse().map_err(|_| Bad::TooLarge)?;
    let (tenths, tenth) = decimals.bytes().fold((0, 1), |(tenths, tenth), digit| {
        (10 * tenths + u128::from(digit - b'0'), 10 * tenth)
    });
    let part = tenths * u128::from(scale) / tenth;
    let whole = u128::from(whole) * u128::from(scale);
    u64::try_from(whole + part).map_err(|_| Bad::TooLarge)
}

/// A size as `ls` prints it: `4.2MiB`.
pub(crate) fn show_size(bytes: u64) -> String {
    let Some((name, unit)) = BINARY.iter().rev().find(|(_, unit)| bytes >= *unit) else {
        return format!("{bytes}B");
    };
    // Downwards, so that nothing below a limit is printed as the limit.
    let tenths = u128::from(bytes) * 10 / u128::from(*unit);
    format!("{}.{}{name}", tenths / 10, tenths % 10)
}

/// An age as `ls` prints it: in the largest unit that it fills, without weeks.
pub(crate) fn show_age(age: Duration) -> String {
    let milliseconds = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let shown = &AGES[1..5];
    let (name, unit) = shown
        .iter()
        .find(|(_, unit)| milliseconds >= *unit)
        .unwrap_or(&shown[3]);
    format!("{}{name}", milliseconds / unit)
}

/// How long ago that was. What is in the future was just now.
pub(crate) fn since(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_default()
}

/// Seconds since 1970, as JSON has times.
pub(crate) fn epoch(time: SystemTime) -> f64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("0K", 0),
            ("512B", 512),
            ("10GiB", 10 << 30),
            ("10G", 10 << 30),
            ("10g", 10 << 30),
            ("1.5KiB", 1536),
            ("2kB", 2000),
            ("3TB", 3_000_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_or_age_is_told_what_is() {
        for bad in [
            "",
            "512",
            "00",
            ".5G",
            "-1",
            "-1G",
            "G",
            "1 G",
            "1.G",
            "10X",
            "10Gib",
            "1.2.3K",
            "1e3",
            "+1",
            "1.1234567G",
            "٣G",
        ] {
            assert!(size(bad).unwrap_err().contains("10GiB"), "{bad}");
        }
        for bad in ["", "30", "-30d", "30 d", "1y", "1mo", "30D", "d"] {
            assert!(age(bad).unwrap_err().contains("30d"), "{bad}");
        }
        for large in ["99999999T", "99999999999999999999999B"] {
            assert!(size(large).unwrap_err().contains("10TiB"), "{large}");
        }
        assert!(age("99999999999999w").unwrap_err().contains("52w"));
        assert!(entries("-1").unwrap_err().contains("1000"));
        assert!(percent("101").unwrap_err().contains("100"));
    }

    #[test]
    fn ages_are_read() {
        assert_eq!(age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(age("1.5h"), Ok(Duration::from_secs(5_400)));
        assert_eq!(age("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(age("0"), Ok(Duration::ZERO));
        assert_eq!(age("2w"), Ok(Duration::from_secs(14 * 86_400)));
    }

    #[test]
    fn what_is_printed_can_be_read() {
        for bytes in [0, 1, 1023, 1024, 1536, (1 << 20) - 1, 1 << 20, 5 << 40] {
            assert!(size(&show_size(bytes)).unwrap() <= bytes, "{bytes}");
        }
        assert_eq!(show_size((1 << 20) - 1), "1023.9KiB");
        assert_eq!(show_age(Duration::from_millis(10)), "0s");
        assert_eq!(show_age(Duration::from_secs(90_000)), "1d");
        assert_eq!(show_age(Duration::from_secs(60)), "1m");
    }
}
