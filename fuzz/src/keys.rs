//! A few keys of every sort.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use larder::{ArtifactHash, Labelled, PathKey};

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Text,
    Bytes,
    Empty,
    Label,
    Sha256,
    Crc,
    /// Of one component, so at the top of the store.
    Plain,
    Deep,
    /// Beside the one before.
    DeepToo,
    /// In a directory above them.
    HalfWay,
    /// Of names that are long, no text, or reserved elsewhere.
    Odd,
    /// Where `Plain` is a directory, which the documentation asks clients not to do.
    BelowPlain,
}

pub const ALL: [Key; 12] = [
    Key::Text,
    Key::Bytes,
    Key::Empty,
    Key::Label,
    Key::Sha256,
    Key::Crc,
    Key::Plain,
    Key::Deep,
    Key::DeepToo,
    Key::HalfWay,
    Key::Odd,
    Key::BelowPlain,
];

const LABEL: &str = "100 %\nof \u{1b}[1mit\u{1b}[m";

impl PathKey for Key {
    fn key(&self) -> PathBuf {
        match self {
            Key::Text => "text".key(),
            Key::Bytes => [0_u8, 255, b'/'].key(),
            Key::Empty => Vec::new().key(),
            Key::Label => Labelled::new("text with a label", LABEL).key(),
            Key::Sha256 => ArtifactHash::new("sha256", [7; 32]).unwrap().key(),
            Key::Crc => "crc=00112233".parse::<ArtifactHash>().unwrap().key(),
            Key::Plain => "plain".into(),
            Key::Deep => "wheels/linux/x86/deep/a".into(),
            Key::DeepToo => "wheels/linux/x86/deep/b".into(),
            Key::HalfWay => "wheels/linux/c".into(),
            Key::Odd => Path::new("odd/tmp/larder-store/.lock ")
                .join(OsStr::from_bytes(b"\xff\n"))
                .join("n".repeat(240)),
            Key::BelowPlain => "plain/below".into(),
        }
    }

    fn label(&self) -> Option<Cow<'_, str>> {
        (*self == Key::Label).then_some(Cow::Borrowed(LABEL))
    }
}

/// The path of something that belongs to a key's entry, beside it.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
