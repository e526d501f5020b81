//! Names in `tmp/` that nothing else has.

use std::io;
use std::path::{Path, PathBuf};

/// How many random letters and digits follow the prefix.
const RANDOM: usize = 10;

/// Whether a name is one that [`unique`] makes with this prefix.
pub(crate) fn is_unique(name: &[u8], prefix: &str) -> bool {
    name.strip_prefix(prefix.as_bytes()).is_some_and(|random| {
        random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric)
    })
}

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
        .rand_bytes(RANDOM)
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
