//! What is to be fetched: where from, under which key it is kept, and what it is called.

use anyhow::{Context, bail, ensure};
use larder::ArtifactHash;
use ureq::http::Uri;

/// One archive that every worker wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) url: String,
    /// What the archive is stored under: whatever decides which bytes are right, and nothing else.
    ///
    /// That is the URL together with the digest that is expected of it. With another digest it is
    /// another key, so a value that was right for an older lock file is not taken for the new one's.
    /// An archive that this program serves itself has its path instead of the URL, because the port
    /// is another one in every run and has no part in what the bytes are.
    pub(crate) key: String,
    /// For people. The key could hold a password, so the library would not show it by itself.
    pub(crate) label: String,
    pub(crate) sha256: Option<ArtifactHash>,
}

impl Package {
    /// From an argument, `URL` or `URL#sha256=HEX`.
    pub(crate) fn from_argument(text: &str) -> anyhow::Result<Self> {
        let (url, fragment) = match text.split_once('#') {
            Some((url, fragment)) => (url, Some(fragment)),
            None => (text, None),
        };
        let uri: Uri = url
            .parse()
            .with_context(|| format!("{text:?} is neither an option nor a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => bail!(
                "cannot fetch {url}: this example builds its HTTP client without TLS, so that it \
                 needs no certificates; only http:// works"
            ),
            _ => bail!("{text:?} is neither an option nor a URL that begins with http://"),
        }
        let sha256 = match fragment {
            None => None,
            Some(fragment) => {
                let hash: ArtifactHash = fragment.parse().with_context(|| {
                    format!("after the '#' of {text:?} there must be sha256=HEX")
                })?;
                ensure!(
                    hash.mode() == "sha256",
                    "{text:?} has a {} digest; this example checks sha256 only",
                    hash.mode()
                );
                Some(hash)
            }
        };
        Ok(Package {
            url: url.to_owned(),
            key: key(url, sha256.as_ref()),
            label: label(uri.path()),
            sha256,
        })
    }

    /// One that this program serves itself, at `url`, whose path is the same in every run.
    pub(crate) fn served(url: String, path: &str, sha256: ArtifactHash) -> Self {
        Package {
            key: key(path, Some(&sha256)),
            label: label(path),
            sha256: Some(sha256),
            url,
        }
    }

    /// For the worker that is told to fetch it. No field can have a tab or a line's end in it: they
    /// are made from URLs that were parsed.
    pub(crate) fn to_line(&self) -> String {
        let sha256 = self
            .sha256
            .as_ref()
            .map_or(String::new(), |s| s.to_string());
        format!("{}\t{}\t{}\t{sha256}", self.url, self.key, self.label)
    }

    pub(crate) fn from_line(line: &str) -> anyhow::Result<Self> {
        let fields: Vec<_> = line.split('\t').collect();
        let [url, key, label, sha256] = fields[..] else {
            bail!("{line:?} does not describe a package");
        };
        Ok(Package {
            url: url.to_owned(),
            key: key.to_owned(),
            label: label.to_owned(),
            sha256: match sha256 {
                "" => None,
                text => Some(text.parse()?),
            },
        })
    }
}

fn key(place: &str, sha256: Option<&ArtifactHash>) -> String {
    match sha256 {
        Some(sha256) => format!("{place}#{sha256}"),
        None => place.to_owned(),
    }
}

/// `/archives/serde-1.0.0.crate` is "serde 1.0.0".
fn label(path: &str) -> String {
    let name = path.rsplit('/').find(|part| !part.is_empty());
    let name = name.unwrap_or("the root");
    let stem = [".crate", ".tar.gz", ".tgz"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name);
    let version = stem
        .match_indices('-')
        .find(|(at, _)| stem[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    match version {
        Some((at, _)) => format!("{} {}", &stem[..at], &stem[at + 1..]),
        None => stem.to_owned(),
    }
}
