use std::fs::File;
use std::os::unix::fs::FileExt;

/// What can be chosen.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {}

pub(crate) fn run(_options: Options) -> anyhow::Result<()> {
    anyhow::bail!("not there yet")
}

/// How many entries a log has that is being written.
pub(crate) fn entries_so_far(log: &File) -> std::io::Result<u64> {
    let mut entries = [0; 8];
    log.read_exact_at(&mut entries, 16)?;
    Ok(u64::from_le_bytes(entries))
}
