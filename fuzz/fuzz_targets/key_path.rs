//! A key's path: whatever a client's key returns, only what the documentation of `PathKey` allows
//! is accepted, all of it is, and it is used as it is.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use larder::ErrorKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new(OsStr::from_bytes(bytes));
    match larder::__fault::check_key(path.to_path_buf()) {
        Ok(accepted) => {
            assert_eq!(accepted.as_os_str().as_bytes(), bytes, "it was changed");
            assert!(is_usable(bytes), "{path:?} was accepted");
            let base = Path::new("/base");
            let joined = base.join(&accepted);
            assert_eq!(joined.strip_prefix(base), Ok(path));
            assert!(
                joined
                    .components()
                    .skip(1)
                    .all(|part| matches!(part, Component::Normal(_)))
            );
        }
        Err(err) => {
            assert_eq!(err.kind(), ErrorKind::InvalidKey);
            assert_eq!(err.path(), Some(path));
            assert!(!err.to_string().contains(char::is_control), "{err}");
            assert!(!is_usable(bytes), "{path:?} was refused: {err}");
        }
    }
});

/// The rules, by another way than the library's.
fn is_usable(bytes: &[u8]) -> bool {
    let names: Option<Vec<&[u8]>> = Path::new(OsStr::from_bytes(bytes))
        .components()
        .map(|part| match part {
            Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect();
    let Some(names) = names else {
        return false;
    };
    // `components` forgives doubled slashes, a slash at the end, and a dot in the middle.
    let is_written_so = names.join(&b'/') == bytes;
    is_written_so
        && (1..=2048).contains(&bytes.len())
        && !bytes.contains(&0)
        && names.iter().all(|name| name.len() <= 240)
        && !names
            .iter()
            .any(|name| name.ends_with(b".lock") || name.ends_with(b".larder"))
        && !is_the_stores_own(names[0])
}

fn is_the_stores_own(name: &[u8]) -> bool {
    matches!(name, b"tmp" | b"gc" | b"gc.lock" | b"CACHEDIR.TAG") || name.starts_with(b"larder-")
}
