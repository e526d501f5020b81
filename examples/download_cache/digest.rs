//! SHA-256, as the key under which `larder` keeps an artifact.

use std::io::Read;

use anyhow::Context as _;
use larder::ArtifactHash;
use ring::digest::{Context, SHA256};

/// A digest of bytes that come piece by piece.
pub(crate) struct Sha256(Context);

impl Sha256 {
    pub(crate) fn new() -> Self {
        Sha256(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> anyhow::Result<ArtifactHash> {
        Ok(ArtifactHash::new("sha256", self.0.finish().as_ref())?)
    }
}

/// The digest of everything that is still to be read.
pub(crate) fn sha256(mut from: impl Read) -> anyhow::Result<ArtifactHash> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).context("cannot read the bytes")?;
        if read == 0 {
            return digest.finish();
        }
        digest.update(&buffer[..read]);
    }
}
