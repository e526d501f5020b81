//! Whether a tree is what was published, where a power cut may have left something else.
//!
//! Reads what `sidecar` and `manifest` tell; under a lock, writes down that a tree was checked.
//! Invariant: a tree that may be torn is `Damaged` unless its manifest says otherwise.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::digest;
use crate::durable;
use crate::error::{Error, IoContext, Result};
use crate::layout::EntryPath;
use crate::lock::KeyLock;
use crate::manifest::{self, TreeReport};
use crate::options::Verify;
use crate::outcome::Integrity;
use crate::presence::{self, Seen};
use crate::root::Root;
use crate::sidecar::{Beside, ManifestId, Said, Sidecar, TreeId};
use crate::staging::StagedFile;
use crate::sys;
use crate::trust::{Claim, Standing};

/// Looks at an entry's path. If it has to be, the tree is checked, which reads all of it.
pub(crate) fn look(root: &Arc<Root>, entry: &EntryPath) -> Result<Seen> {
    check(root, entry, false)
}

/// The same under the entry's lock: what was found is written down for others.
pub(crate) fn look_under(lock: &KeyLock) -> Result<Seen> {
    check(lock.root(), lock.entry(), true)
}

fn check(root: &Arc<Root>, entry: &EntryPath, locked: bool) -> Result<Seen> {
    let seen = presence::look(root, entry)?;
    let Seen::Tree {
        beside: Some(beside),
    } = &seen
    else {
        return Ok(seen);
    };
    if let Said::FromTheFuture(line) = &beside.said {
        let why = format!("it begins with {line:?}, which this version does not know");
        return Err(Error::from_the_future(root.absolute(entry.sidecar()), why));
    }
    let believed = is_believed(root, entry, beside, locked)
        .reading("check the tree", || root.absolute(entry.value()))?;
    Ok(if believed { seen } else { Seen::Damaged })
}

fn is_believed(
    root: &Arc<Root>,
    entry: &EntryPath,
    beside: &Beside,
    locked: bool,
) -> io::Result<bool> {
    match (root.options.verify, &beside.said) {
        (Verify::Never, _) => return Ok(true),
        // The hit on a tree that a barrier went before: whichever tree it is, it is on the disk.
        (Verify::OncePerBoot, Said::Whole { sidecar, .. })
            if sidecar.standing.barrier && sidecar.replaces.is_none() =>
        {
            return Ok(true);
        }
        _ => {}
    }
    let Some(meta) = root.dir.look(entry.value())? else {
        return Ok(true); // somebody took it away; who looks again sees that
    };
    let tree = TreeId::of(root, entry.value(), &meta);
    let (standing, sidecar) = known_of(&tree, beside);
    let manifest = sidecar.and_then(|known| known.sidecar.manifest);
    let claim = Claim {
        id: meta.id,
        digest: manifest.map_or([0; digest::OURS_LEN], |manifest| manifest.digest),
        standing,
    };
    if !root.trust.is_due(root.options.verify, &claim, root.witness) {
        return Ok(true);
    }
    let stands = standing.speaks_for_itself(root.witness);
    let (Some(known), Some(id)) = (sidecar, manifest) else {
        return Ok(stands); // nothing to compare it with
    };
    let now = match manifest::of_tree(root, entry.value(), None) {
        Err(err) if is_about_contents(&err) => return Ok(false),
        now => now?,
    };
    if ManifestId::of(&now) != id {
        return Ok(false);
    }
    // This process need not check it again; nor, until the next boot, need others.
    root.trust.note_whole(root.options.verify, &claim);
    if locked && !stands {
        // Not allowed everywhere; then the others check for themselves.
        let _ = mark(root, entry, tree, known.sidecar, &now);
    }
    Ok(true)
}

/// Something in it went, or became shorter, while it was read.
fn is_about_contents(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
    )
}

/// More of a manifest is not read, only compared. It is enough for a million files.
const MAX_MANIFEST: u64 = 256 << 20;

/// A sidecar that is about a tree, and its manifest.
#[derive(Clone, Copy)]
struct Known<'a> {
    sidecar: &'a Sidecar,
    file: &'a File,
    manifest_at: u64,
}

impl Known<'_> {
    /// `None`: it is not whole.
    fn manifest(self, id: &ManifestId) -> io::Result<Option<String>> {
        if id.len > MAX_MANIFEST {
            return Ok(None);
        }
        let bytes = sys::read_range(self.file, self.manifest_at, id.len)?;
        if digest::of_parts(&[&bytes]) != id.digest {
            return Ok(None);
        }
        Ok(String::from_utf8(bytes).ok())
    }
}

/// How the tree that is there was published, as far as what is beside it tells, and what is known of
/// it if that is about this tree.
fn known_of<'a>(tree: &TreeId, beside: &'a Beside) -> (Standing, Option<Known<'a>>) {
    let (sidecar, known) = match &beside.said {
        Said::Whole {
            sidecar,
            file,
            manifest_at,
        } => (
            sidecar,
            Known {
                sidecar,
                file,
                manifest_at: *manifest_at,
            },
        ),
        Said::Torn => return (Standing::default(), None),
        // Not one at all; or for that version to judge.
        Said::Foreign | Said::FromTheFuture(_) => return (Standing::DURABLE, None),
    };
    match &sidecar.replaces {
        _ if sidecar.tree.is(tree) => (sidecar.standing, Some(known)),
        Some((replaced, standing)) if replaced.is(tree) => (*standing, None),
        // It was moved here, by a backup for example, and everything got other inodes.
        _ if sidecar.standing.barrier => (Standing::DURABLE, Some(known)),
        _ => (Standing::default(), Some(known)),
    }
}

/// Whether the sidecar is of a tree that is not there.
pub(crate) fn is_about_another(tree: &TreeId, beside: &Beside) -> bool {
    let Said::Whole { sidecar, .. } = &beside.said else {
        return false;
    };
    let replaced = sidecar.replaces.as_ref().map(|(replaced, _)| replaced);
    !sidecar.dead && !sidecar.tree.is(tree) && !replaced.is_some_and(|replaced| replaced.is(tree))
}

/// How the tree that is there was published.
pub(crate) fn standing_of(tree: &TreeId, beside: Option<&Beside>) -> Standing {
    // Without a sidecar it is a client's own, who published it as he wanted it.
    beside.map_or(Standing::DURABLE, |beside| known_of(tree, beside).0)
}

/// Writes down beside the tree that it was whole in this boot. Whoever else holds the lock with us
/// would write the same.
fn mark(
    root: &Arc<Root>,
    entry: &EntryPath,
    tree: TreeId,
    known: &Sidecar,
    manifest: &str,
) -> io::Result<()> {
    let Some(witness) = root.witness.filter(|_| !root.options.read_only) else {
        return Ok(());
    };
    let mut sidecar = known.clone();
    sidecar.tree = tree;
    sidecar.replaces = None;
    sidecar.standing.witness = witness;
    let staged = StagedFile::new(root)?;
    write(staged.file(), &sidecar, Some(manifest))?;
    // It replaces one that is on the disk, and without which the tree would not be believed.
    durable::data(staged.file())?;
    root.dir.rename(staged.path(), entry.sidecar())?;
    staged.into_published();
    Ok(())
}

/// Writes a sidecar and its manifest into an empty file.
pub(crate) fn write(file: &File, sidecar: &Sidecar, manifest: Option<&str>) -> io::Result<()> {
    let mut text = sidecar.render();
    text.push_str(manifest.unwrap_or_default());
    sys::write_at(file, text.as_bytes(), 0)
}

/// What became of the tree that is there, whoever published it and how. `None`: there is none.
pub(crate) fn examine(root: &Arc<Root>, entry: &EntryPath) -> Result<Option<TreeReport>> {
    let at = || root.absolute(entry.value());
    let beside = match presence::look(root, entry)? {
        Seen::Tree { beside } => beside,
        Seen::Nothing | Seen::Dead | Seen::Damaged => return Ok(None),
    };
    let Some(beside) = beside else {
        return Ok(Some(TreeReport::of(Integrity::Unknown)));
    };
    let tree = TreeId::at(root, entry.value()).reading("check the tree", at)?;
    let known = match known_of(&tree, &beside) {
        (_, Some(known)) => known,
        (standing, None) if standing.speaks_for_itself(root.witness) => {
            return Ok(Some(TreeReport::of(Integrity::Unknown)));
        }
        (_, None) => return Ok(Some(TreeReport::of(Integrity::Damaged))),
    };
    let Some(id) = known.sidecar.manifest else {
        return Ok(Some(TreeReport::of(Integrity::Unknown)));
    };
    let now = manifest::of_tree(root, entry.value(), None).reading("check the tree", at)?;
    if ManifestId::of(&now) == id {
        return Ok(Some(TreeReport::of(Integrity::Whole)));
    }
    let then = known.manifest(&id).reading("check the tree", at)?;
    let Some(then) = then else {
        return Ok(Some(TreeReport::of(Integrity::Damaged)));
    };
    Ok(Some(TreeReport::between(&then, &now)))
}

/// The manifest of a staged tree, for a store that is to have one. `None` where its owner himself may
/// not read all of it.
pub(crate) fn manifest_of_staged(
    root: &Root,
    staged: &Path,
    root_mode: u32,
) -> io::Result<Option<String>> {
    if root.standing().barrier && !root.options.digest_trees {
        return Ok(None);
    }
    match manifest::of_tree(root, staged, Some(root_mode)) {
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        listed => listed.map(Some),
    }
}
