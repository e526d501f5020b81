//! The marker of a store: its text, and what it lets this version do.
//!
//! Pure. Owns the format of `larder-store`; `root` reads and writes the file. Invariant: what this
//! version does not understand is never taken for something it does.

use std::fmt;

/// A store's marker is small; a longer file is not one.
pub(crate) const MAX_BYTES: usize = 16 * 1024;

const FIRST_LINE: &str = "larder-store 1";
/// What the first line of any version begins with.
const ANY_VERSION: &str = "larder-store ";

/// Whether a file that begins like this is a marker, of any version.
pub(crate) fn is_any(start: &[u8]) -> bool {
    start.starts_with(ANY_VERSION.as_bytes())
}

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names)]
pub(crate) enum StoreKind {
    Files,
    Dirs,
}

impl StoreKind {
    fn name(self) -> &'static str {
        match self {
            StoreKind::Files => "files",
            StoreKind::Dirs => "directories",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a store of {}", self.name())
    }
}

/// What is in a store's files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// The values, and nothing else.
    #[default]
    Raw,
    /// After each value, what the store knows of it.
    Sealed,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Sealed => "sealed",
        }
    }
}

/// Who may use a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Share {
    /// Whoever the umask of the process that writes lets in.
    #[default]
    Private,
    /// The base directory's group, to read and to write, whatever the umask of each writer.
    Group,
}

impl Share {
    fn name(self) -> &'static str {
        match self {
            Share::Private => "private",
            Share::Group => "group",
        }
    }
}

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) kind: StoreKind,
    pub(crate) format: Format,
    pub(crate) share: Share,
    /// Who does not know one of these must not open the store.
    incompatible: Vec<String>,
    /// Who does not know one of these may read the store and not write it.
    read_only_compatible: Vec<String>,
    /// Who does not know one of these may ignore it.
    compatible: Vec<String>,
}

/// The features this version knows, by list. There are none yet.
const KNOWN_INCOMPATIBLE: [&str; 0] = [];
const KNOWN_READ_ONLY_COMPATIBLE: [&str; 0] = [];

impl Marker {
    pub(crate) fn new(kind: StoreKind, format: Format, share: Share) -> Self {
        Marker {
            kind,
            format,
            share,
            incompatible: Vec::new(),
            read_only_compatible: Vec::new(),
            compatible: Vec::new(),
        }
    }

    /// The marker's text.
    pub(crate) fn render(&self) -> String {
        format!(
            "{FIRST_LINE}\nkind={}\nformat={}\nshare={}\nincompatible={}\n\
             read-only-compatible={}\ncompatible={}\nend\n",
            self.kind.name(),
            self.format.name(),
            self.share.name(),
            self.incompatible.join(","),
            self.read_only_compatible.join(","),
            self.compatible.join(","),
        )
    }

    /// Reads a marker. The error says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err(garbage("is empty, as after a power cut"));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| garbage("is not text, so it is not this crate's"))?;
        let mut lines = text.split('\n');
        match lines.next() {
            Some(FIRST_LINE) => {}
            Some(other) if other.starts_with(ANY_VERSION) => {
                return Err(format!(
                    "its marker is of format {other:?}, and this version knows {FIRST_LINE:?}; use a newer one"
                ));
            }
            _ => return Err(garbage("is not one of this crate's")),
        }
        let (mut kind, mut format, mut share, mut ended) = (None, None, None, false);
        let mut lists: [Option<Vec<String>>; 3] = [None, None, None];
        for line in lines {
            if ended {
                // Nothing but the end of the last line may follow.
                if !line.is_empty() {
                    return Err(garbage("goes on after its end"));
                }
                continue;
            }
            if line == "end" {
                ended = true;
                continue;
            }
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| garbage(&format!("has a line {line:?} without '='")))?;
            let unknown = || format!("its marker says {line:?}, which this version does not know");
            let repeated = match name {
                "kind" => {
                    let known = [StoreKind::Files, StoreKind::Dirs];
                    let found = known.into_iter().find(|kind| kind.name() == value);
                    kind.replace(found.ok_or_else(unknown)?).is_some()
                }
                "share" => {
                    let known = [Share::Private, Share::Group];
                    let found = known.into_iter().find(|share| share.name() == value);
                    share.replace(found.ok_or_else(unknown)?).is_some()
                }
                "format" => {
                    let known = [Format::Raw, Format::Sealed];
                    let found = known.into_iter().find(|format| format.name() == value);
                    format.replace(found.ok_or_else(unknown)?).is_some()
                }
                "incompatible" => lists[0].replace(features(value)).is_some(),
                "read-only-compatible" => lists[1].replace(features(value)).is_some(),
                "compatible" => lists[2].replace(features(value)).is_some(),
                // A later version may say more; what must be understood is in the lists.
                _ => false,
            };
            if repeated {
                return Err(garbage(&format!("says {name:?} twice")));
            }
        }
        let [incompatible, read_only_compatible, compatible] = lists;
        match (
            kind,
            format,
            share,
            incompatible,
            read_only_compatible,
            compatible,
        ) {
            (
                Some(kind),
                Some(format),
                Some(share),
                Some(incompatible),
                Some(read_only_compatible),
                Some(compatible),
            ) if ended => Ok(Marker {
                kind,
                format,
                share,
                incompatible,
                read_only_compatible,
                compatible,
            }),
            _ => Err(garbage("is not whole")),
        }
    }

    /// A feature because of which this version must not open the store at all.
    pub(crate) fn unknown_incompatible(&self) -> Option<&str> {
        first_unknown(&self.incompatible, &KNOWN_INCOMPATIBLE)
    }

    /// A feature because of which this version must not write the store.
    pub(crate) fn unknown_read_only(&self) -> Option<&str> {
        first_unknown(&self.read_only_compatible, &KNOWN_READ_ONLY_COMPATIBLE)
    }
}

/// What to say of a marker that no version wrote so.
pub(crate) fn garbage(what: &str) -> String {
    format!(
        "its marker {what}; what it held cannot be known, so delete the whole directory if it is only a \
         cache, or bring the marker back from a copy"
    )
}

fn features(value: &str) -> Vec<String> {
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn first_unknown<'a>(features: &'a [String], known: &[&str]) -> Option<&'a str> {
    features
        .iter()
        .map(String::as_str)
        .find(|feature| !known.contains(feature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for kind in [StoreKind::Files, StoreKind::Dirs] {
            for share in [Share::Private, Share::Group] {
                for format in [Format::Raw, Format::Sealed] {
                    let marker = Marker::new(kind, format, share);
                    assert_eq!(Marker::parse(marker.render().as_bytes()), Ok(marker));
                }
            }
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let text = Marker::new(StoreKind::Files, Format::Raw, Share::Private).render();
        for len in 0..text.len() - 1 {
            assert!(Marker::parse(&text.as_bytes()[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn unknown_features_and_values_are_named() {
        let text = Marker::new(StoreKind::Files, Format::Raw, Share::Private).render();
        let marker = Marker::parse(
            text.replace("\nincompatible=", "\nincompatible=zip,")
                .as_bytes(),
        );
        assert_eq!(marker.unwrap().unknown_incompatible(), Some("zip"));
        let marker = Marker::parse(
            text.replace("read-only-compatible=", "read-only-compatible=x")
                .as_bytes(),
        );
        assert_eq!(marker.unwrap().unknown_read_only(), Some("x"));
        let more = text.replace("\nend", "\nlater=1\nend");
        assert!(Marker::parse(more.as_bytes()).is_ok());
        for (from, to) in [
            ("format=raw", "format=zip"),
            ("kind=files", "kind=sockets"),
            ("share=private", "share=world"),
            ("larder-store 1", "larder-store 2"),
            ("share=private", "share=private\nshare=group"),
            ("end\n", "end\nmore\n"),
        ] {
            assert!(
                Marker::parse(text.replace(from, to).as_bytes()).is_err(),
                "{to}"
            );
        }
    }
}
