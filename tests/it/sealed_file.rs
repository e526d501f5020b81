//! A sealed value's file as `docs/format.md` describes it, written without the library.

use std::path::Path;

use larder::PathKey;
use ring::digest::{Context, SHA256, digest};
use rustix::fs::{AtFlags, CWD, StatxFlags};

/// Bytes of the fields, the check and the witness; of the last alone; and of what is before it.
pub(crate) const FOOTER_LEN: usize = 128;
pub(crate) const WITNESS_LEN: usize = 24;
pub(crate) const CHECK_LEN: usize = 32;

pub(crate) type Witness = [u8; WITNESS_LEN];

/// What a file says. `default` is what this version writes of an empty value.
#[derive(Clone, Debug)]
pub(crate) struct SealedFile<'a> {
    pub(crate) value: &'a [u8],
    pub(crate) metadata: &'a [u8],
    pub(crate) label: &'a str,
    /// Between the label and the fields. This version has nothing there.
    pub(crate) more: &'a [u8],
    pub(crate) algorithm: u8,
    pub(crate) flags: u8,
    pub(crate) incompatible: u32,
    pub(crate) compatible: u32,
    pub(crate) version: u32,
    pub(crate) witness: Witness,
}

impl Default for SealedFile<'_> {
    fn default() -> Self {
        SealedFile {
            value: b"",
            metadata: b"",
            label: "",
            more: b"",
            algorithm: 1,
            flags: 0,
            incompatible: 0,
            compatible: 0,
            version: 1,
            witness: [0; WITNESS_LEN],
        }
    }
}

impl SealedFile<'_> {
    /// The whole file, at the path of this key.
    pub(crate) fn bytes(&self, key: &str) -> Vec<u8> {
        let mut trailer = [self.metadata, self.label.as_bytes(), self.more].concat();
        let len = trailer.len() + FOOTER_LEN;
        trailer.extend(digest(&SHA256, self.value).as_ref());
        trailer.extend((self.value.len() as u64).to_le_bytes());
        trailer.extend((self.metadata.len() as u32).to_le_bytes());
        trailer.extend((self.label.len() as u16).to_le_bytes());
        trailer.extend([self.algorithm, self.flags]);
        trailer.extend(self.incompatible.to_le_bytes());
        trailer.extend(self.compatible.to_le_bytes());
        trailer.extend((len as u32).to_le_bytes());
        trailer.extend(self.version.to_le_bytes());
        trailer.extend(b"larder\xf0\x0d");

        let path = key.key();
        let path = path.to_str().unwrap().as_bytes();
        let mut check = Context::new(&SHA256);
        check.update(b"larder sealed value\n");
        check.update(&(path.len() as u32).to_le_bytes());
        check.update(path);
        check.update(&trailer);
        trailer.extend(check.finish().as_ref());
        trailer.extend(self.witness);
        [self.value, &trailer].concat()
    }

    /// Puts it where the key's value is, with a published value's permission bits.
    pub(crate) fn publish(&self, base: &Path, key: &str) {
        publish(&self.bytes(key), base, key);
    }
}

/// Puts any bytes where a key's value is.
pub(crate) fn publish(bytes: &[u8], base: &Path, key: &str) {
    let path = base.join(key.key());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = std::fs::remove_file(&path); // readers keep what they have opened
    std::fs::write(&path, bytes).unwrap();
    crate::support::chmod(&path, 0o444);
}

/// What speaks for a value that is written now. `None` where the system does not tell.
pub(crate) fn here(base: &Path) -> Option<Witness> {
    const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let boot = boot.trim().replace('-', "");
    let boot = data_encoding::HEXLOWER.decode(boot.as_bytes()).ok()?;
    let stat = rustix::fs::statx(CWD, base, AtFlags::empty(), MNT_ID_UNIQUE).ok()?;
    let known = stat.stx_mask & MNT_ID_UNIQUE.bits() != 0;
    let witness = [&*boot, &stat.stx_mnt_id.to_le_bytes()].concat();
    known.then(|| witness.try_into().ok()).flatten()
}
