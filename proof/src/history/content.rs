//! Values that tell whose they are, and whether they are whole.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use super::event::Number;

/// A value's bytes: 16 to some 9,000 of them, all of one number.
pub(crate) fn bytes(number: Number) -> Vec<u8> {
    let repeats = 2 + (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize;
    number.to_le_bytes().repeat(repeats)
}

/// The number of a whole value.
pub(crate) fn number(found: &[u8]) -> anyhow::Result<Number> {
    let first = found.first_chunk().context("a value without content")?;
    let number = Number::from_le_bytes(*first);
    ensure!(
        found == bytes(number),
        "{} bytes that begin as those of {number:#x} are not all of them",
        found.len()
    );
    Ok(number)
}

const FILES: [&str; 3] = ["first", "inner/second", "third"];

/// A tree of one number.
pub(crate) fn make_tree(tree: &Path, number: Number) -> anyhow::Result<()> {
    std::fs::create_dir(tree.join("inner"))?;
    for file in FILES {
        std::fs::write(tree.join(file), bytes(number))?;
    }
    Ok(())
}

/// The number of a whole tree.
pub(crate) fn tree_number(tree: &Path) -> anyhow::Result<Number> {
    let mut numbers = FILES.iter().map(|file| {
        let path = tree.join(file);
        let found = std::fs::read(&path).with_context(|| path.display().to_string())?;
        number(&found).with_context(|| path.display().to_string())
    });
    let first = numbers.next().context("no files")??;
    for other in numbers {
        let other = other?;
        if other != first {
            bail!("{}: files of {first:#x} and of {other:#x}", tree.display());
        }
    }
    Ok(first)
}
