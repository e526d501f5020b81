//! Names in `tmp/` that nothing else has.

use std::io;
use std::path::{Path, PathBuf};

/// Calls `create` with `DIR/PREFIX-RANDOM` until it does not answer `AlreadyExists`, and returns
/// what it made with its path. `below` is only used to name things: `create` gets paths relative to
/// it.
pub(crate) fn unique<T>(
    below: &Path,
    dir: &str,
    prefix: &str,
    mut create: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    let made = tempfile::Builder::new()
        .prefix(prefix)
        .rand_bytes(10)
        .suffix("")
        .disable_cleanup(true) // what is staged removes itself, through the fault seam
        .make_in(below.join(dir), |path| {
            let name = path.file_name().unwrap_or_default();
            let relative = Path::new(dir).join(name);
            create(&relative).map(|made| (relative, made))
        })?;
    // Only the name was wanted: the path in it removes nothing when it is dropped.
    let ((relative, made), _path) = made.into_parts();
    Ok((relative, made))
}
