//! Where stores are made that need no file system in particular.

use std::path::Path;

use tempfile::TempDir;

/// Below the directory that was chosen, or `TMPDIR`, or in memory. Removed when dropped.
pub(crate) fn directory(chosen: Option<&Path>) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("larder-proof-");
    let memory = Path::new("/dev/shm");
    Ok(match chosen {
        Some(dir) => builder.tempdir_in(dir)?,
        None if std::env::var_os("TMPDIR").is_none() && memory.is_dir() => {
            builder.tempdir_in(memory)?
        }
        None => builder.tempdir()?,
    })
}
