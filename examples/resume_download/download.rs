//! The part to read: downloads that go on where a killed process stopped.
//!
//! What has arrived of a value is in a partial file, beside the file of checkpoints. A checkpoint says of
//! which version on the server it is, and how many of its bytes are there. Two orders hold, so that it is
//! never ahead of what it speaks of: the bytes are synced before it is stored, and it is deleted before they
//! are overwritten by others. Both belong to whoever holds the lock of the value's key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use data_encoding::BASE64;
use larder::{
    ArtifactHash, CheckpointKey, CheckpointOptions, CheckpointStore, Deletion, Durability,
    ErrorKind, KVFileLock, KVFileStore, Value,
};
use serde::{Deserialize, Serialize};
use ureq::Body;
use ureq::http::Response;

/// What a restart has to fetch again is less than this.
pub(crate) const INTERVAL: u64 = 4 << 20;

const PIECE: usize = 64 << 10;

pub(crate) struct Downloads {
    store: KVFileStore,
    dir: PathBuf,
    checkpoints: CheckpointStore<Progress>,
    agent: ureq::Agent,
}

/// What a checkpoint says.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    version: Version,
    /// This many of its bytes are in the partial file.
    kept: u64,
}

/// What the server has for a URL, until it has something else.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Version {
    etag: String,
    len: u64,
    /// As `sha256=HEX`, if the server tells.
    sha256: Option<String>,
}

/// What the server sends.
struct Answer {
    /// Where the body begins.
    from: u64,
    /// `None`: nothing tells this version from the next one, so it can only be fetched whole.
    version: Option<Version>,
    promised: Promised,
    body: Body,
}

/// What the value must be, as far as the server tells.
struct Promised {
    len: Option<u64>,
    sha256: Option<String>,
}

/// What is on the disk of a download that was not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// How much of it has arrived,
    pub(crate) arrived: u64,
    /// and how much of that the checkpoint vouches for.
    pub(crate) kept: u64,
}

impl Downloads {
    /// The store comes first: a directory in which there is something else would not become one.
    pub(crate) fn open(store: KVFileStore) -> anyhow::Result<Self> {
        let dir = store.base().join("larder-partial");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .timeout_recv_body(Some(Duration::from_secs(600)))
            .http_status_as_error(false)
            // What is served here is on loopback. A real one leaves this to the environment.
            .proxy(None)
            .build();
        Ok(Downloads {
            // What was deleted must not come back with a power cut, when the bytes are others.
            checkpoints: CheckpointOptions::new()
                .durability(Durability::Full)
                .open(dir.join("downloads.json"))?,
            store,
            dir,
            agent: agent.into(),
        })
    }

    /// The value of a URL. `on_kept` is told how much a checkpoint vouches for, each time that one is stored.
    pub(crate) fn get(&self, url: &str, on_kept: impl FnMut(u64)) -> anyhow::Result<Value> {
        let key = key_of(url);
        if let Some(value) = self.store.get(url)? {
            // There is a checkpoint if who published it was killed before the last step below.
            if self.checkpoints.get(&key)?.is_none() {
                return Ok(value);
            }
        }
        let lock = self.store.lock(url)?;
        // Who held it before may have published the value.
        let value = match lock.reader()? {
            Some(value) => value.detach_unlocked(),
            None => self.download(url, &key, &lock, on_kept)?,
        };
        self.discard(&key)?;
        Ok(value)
    }

    /// Completes the partial file, and publishes a copy of it.
    fn download(
        &self,
        url: &str,
        key: &CheckpointKey,
        lock: &KVFileLock,
        on_kept: impl FnMut(u64),
    ) -> anyhow::Result<Value> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let path = self.partial(key);
        let partial = options.open(&path);
        let mut partial = partial.with_context(|| format!("cannot open {}", path.display()))?;
        let promised = self.complete(url, key, &mut partial, on_kept);
        let promised = promised.with_context(|| format!("cannot download {url}"))?;
        let mut value = lock.begin()?;
        if let Some(len) = promised.len {
            value.expect_len(len);
        }
        if let Some(sha256) = promised.sha256 {
            value.expect_digest(&sha256.parse()?)?;
        }
        partial.rewind()?;
        io::copy(&mut partial, &mut value)?;
        let published = value.commit();
        if published.as_ref().err().map(|err| err.kind()) == Some(ErrorKind::DigestMismatch) {
            // Or everybody would go on from there for ever.
            self.discard(key)?;
        }
        Ok(published?.detach_unlocked())
    }

    /// Fetches what the partial file does not have, and says what it then must be.
    fn complete(
        &self,
        url: &str,
        key: &CheckpointKey,
        partial: &mut File,
        mut on_kept: impl FnMut(u64),
    ) -> anyhow::Result<Promised> {
        let progress = self.progress(key, partial)?;
        if let Some(Progress { version, kept }) = &progress {
            if *kept == version.len {
                partial.set_len(*kept)?;
                return Ok(version.promised());
            }
        }
        let answer = self.ask(url, progress.as_ref())?;
        if answer.from == 0 {
            self.forget(key)?;
        }
        // What is there beyond the checkpoint was not synced.
        partial.set_len(answer.from)?;
        partial.seek(SeekFrom::Start(answer.from))?;
        let mut body = answer.body.into_reader();
        let mut piece = vec![0; PIECE];
        let (mut arrived, mut kept) = (answer.from, answer.from);
        loop {
            let read = body.read(&mut piece)?;
            if let Some(len) = answer.promised.len {
                ensure!(
                    arrived + read as u64 <= len,
                    "the server sends more than the {len} bytes that it told of"
                );
            }
            partial.write_all(&piece[..read])?;
            arrived += read as u64;
            // With the next piece it could be a whole interval.
            let is_due = arrived - kept + PIECE as u64 >= INTERVAL || read == 0;
            if let Some(version) = answer.version.as_ref().filter(|_| is_due) {
                partial.sync_data()?;
                let version = version.clone();
                kept = arrived;
                self.checkpoints
                    .update(key, |_| Ok(Progress { version, kept }))?;
                on_kept(kept);
            }
            if read == 0 {
                return Ok(answer.promised);
            }
        }
    }

    /// What the partial file has for certain.
    fn progress(&self, key: &CheckpointKey, partial: &File) -> anyhow::Result<Option<Progress>> {
        let stored = self.checkpoints.get(key)?;
        let progress = stored.map(|checkpoint| checkpoint.state);
        // Somebody may have taken the file away.
        let arrived = partial.metadata()?.len();
        Ok(progress.filter(|progress| progress.kept <= arrived))
    }

    /// Asks for what is missing, or for all of it where it is another version by now.
    fn ask(&self, url: &str, progress: Option<&Progress>) -> anyhow::Result<Answer> {
        let mut request = self.agent.get(url);
        if let Some(Progress { version, kept }) = progress {
            request = request
                .header("range", format!("bytes={kept}-"))
                .header("if-range", &version.etag);
        }
        let response = request.call()?;
        let (from, version, promised) = match (response.status().as_u16(), progress) {
            (200, _) => {
                let promised = Promised::by(&response)?;
                (0, promised.version(&response), promised)
            }
            (206, Some(Progress { version, kept })) if version.is_rest(&response, *kept) => {
                (*kept, Some(version.clone()), version.promised())
            }
            // It has another version, and no regard for `If-Range`.
            (206 | 416, Some(_)) => return self.ask(url, None),
            (status, _) => bail!("the server answers {status}"),
        };
        Ok(Answer {
            from,
            version,
            promised,
            body: response.into_body(),
        })
    }

    /// Takes away what was only needed until the value was there.
    fn discard(&self, key: &CheckpointKey) -> anyhow::Result<()> {
        // The checkpoint is what tells that there may be a file, so it goes last.
        #[expect(clippy::disallowed_methods, reason = "no file of the store's")]
        match fs::remove_file(self.partial(key)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(err).context("cannot remove a partial file")
            }
            _ => self.forget(key),
        }
    }

    fn forget(&self, key: &CheckpointKey) -> anyhow::Result<()> {
        if let Some(stored) = self.checkpoints.get(key)? {
            let deletion = self.checkpoints.delete(key, stored.sequence)?;
            ensure!(
                deletion == Deletion::Deleted,
                "somebody else has gone on with it"
            );
        }
        Ok(())
    }

    fn partial(&self, key: &CheckpointKey) -> PathBuf {
        self.dir.join(key.to_string())
    }

    /// For who wants to see whether all this is true.
    pub(crate) fn left(&self, url: &str) -> anyhow::Result<Left> {
        let key = key_of(url);
        let stored = self.checkpoints.get(&key)?;
        let partial = self.partial(&key).metadata();
        Ok(Left {
            arrived: partial.map_or(0, |meta| meta.len()),
            kept: stored.map_or(0, |checkpoint| checkpoint.state.kept),
        })
    }

    /// The names of all that is there.
    pub(crate) fn names(&self) -> anyhow::Result<Vec<String>> {
        ensure!(self.checkpoints.keys()?.is_empty(), "a checkpoint is left");
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }
}

impl Version {
    /// Whether this is what is missing of the same version.
    fn is_rest(&self, response: &Response<Body>, kept: u64) -> bool {
        let range = format!("bytes {kept}-{}/{}", self.len - 1, self.len);
        field(response, "etag") == Some(&self.etag)
            && field(response, "content-range") == Some(&range)
    }

    fn promised(&self) -> Promised {
        Promised {
            len: Some(self.len),
            sha256: self.sha256.clone(),
        }
    }
}

impl Promised {
    fn by(response: &Response<Body>) -> anyhow::Result<Self> {
        // A list of digests (RFC 9530), which may be in several fields.
        let fields = response.headers().get_all("repr-digest").iter();
        let mut digests = fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(','));
        let sha256 = digests.find_map(|digest| digest.trim().strip_prefix("sha-256="));
        Ok(Promised {
            len: response.body().content_length(),
            sha256: sha256.map(sha256_of).transpose()?,
        })
    }

    /// `None`: this and the next version cannot be told apart.
    fn version(&self, response: &Response<Body>) -> Option<Version> {
        // A weak one does not promise the same bytes.
        let etag = field(response, "etag").filter(|etag| !etag.starts_with("W/"))?;
        Some(Version {
            etag: etag.to_owned(),
            len: self.len?,
            sha256: self.sha256.clone(),
        })
    }
}

/// What is written as `:BASE64:`.
fn sha256_of(digest: &str) -> anyhow::Result<String> {
    let base64 = digest
        .strip_prefix(':')
        .and_then(|rest| rest.strip_suffix(':'));
    let base64 = base64.with_context(|| format!("the server's digest is no digest: {digest}"))?;
    let digest = BASE64.decode(base64.as_bytes());
    let digest = digest.context("the server's digest is not in base64")?;
    Ok(ArtifactHash::new("sha256", digest)?.to_string())
}

fn field<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn key_of(url: &str) -> CheckpointKey {
    CheckpointKey::of_parts([("url", url)])
}
