//! What looks after a store: listing, clearing, sweeping, opening it again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::{Entry, ErrorKind, GcReport, KeptReason, PathKey, Share};

use super::{Files, Litter, Place, Reopening, open, options};
use crate::body::Body;
use crate::keys::{Key, beside};
use crate::scratch::{above, check_busy};

impl Files {
    fn listed(&self) -> BTreeMap<PathBuf, Entry> {
        let entries: Vec<Entry> = self.store.entries().map(Result::unwrap).collect();
        let count = entries.len();
        let listed: BTreeMap<PathBuf, Entry> = entries.into_iter().map(|e| (e.key(), e)).collect();
        assert_eq!(listed.len(), count, "an entry was listed twice");
        listed
    }

    pub(super) fn check_entries(&self) {
        let listed = self.listed();
        assert!(listed.keys().eq(self.model.keys()), "{listed:?}");
        for (path, entry) in &listed {
            assert_eq!(entry.len(), Some(self.model[path].len() as u64));
            assert_eq!(entry.path(), self.scratch.base().join(path));
            assert_eq!(entry.file_count(), None);
            assert!(entry.allocated_bytes().is_some() && entry.last_used().is_some());
        }
    }

    /// A listed entry is a key too.
    pub(super) fn remove_listed(&mut self, number: u8) {
        let listed = self.listed();
        let Some(entry) = listed.values().cycle().nth(number.into()) else {
            return;
        };
        let path = entry.key();
        let holder = self.held.keys().find(|held| held.key() == path);
        match self.store.remove(entry) {
            Ok(removed) => {
                assert!(removed && holder.is_none());
                self.model.remove(&path);
            }
            Err(err) => check_busy(&err, *holder.expect("nobody holds it")),
        }
    }

    pub(super) fn clear(&mut self) {
        self.clear_while(None);
    }

    pub(super) fn clear_while(&mut self, computing: Option<Key>) {
        let report = self.store.clear().unwrap();
        let count = self.model.len() as u64;
        let base = self.scratch.base();
        let held: Vec<PathBuf> = self.held.keys().map(Key::key).collect();
        let (kept, removed): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.model)
            .into_iter()
            .partition(|(path, _)| held.contains(path));
        assert_eq!(report.examined, count);
        assert_eq!(report.removed, removed.len() as u64);
        let bytes = removed.values().map(Vec::len).sum::<usize>();
        assert_eq!(report.removed_bytes, bytes as u64);
        let mut reported: Vec<&Path> = Vec::new();
        for left in &report.kept {
            assert_eq!(left.reason, KeptReason::InUse);
            reported.push(left.path.strip_prefix(&base).unwrap());
        }
        reported.sort_unstable();
        assert!(reported.iter().copied().eq(kept.keys()), "{reported:?}");
        self.model = kept;
        self.check_swept(&report, computing);
    }

    pub(super) fn sweep(&mut self) {
        self.sweep_while(None);
    }

    pub(super) fn sweep_while(&mut self, computing: Option<Key>) {
        let report = self.store.sweep().unwrap();
        assert_eq!(
            (report.examined, report.removed, report.removed_bytes),
            (0, 0, 0)
        );
        assert_eq!(report.kept, []);
        self.check_swept(&report, computing);
    }

    fn check_swept(&mut self, report: &GcReport, computing: Option<Key>) {
        assert!(report.swept <= self.litter.len() as u64);
        let in_use: Vec<PathBuf> = self
            .held
            .keys()
            .copied()
            .chain(computing)
            .map(|key| beside(&key.key(), ".lock"))
            .collect();
        for path in std::mem::take(&mut self.litter) {
            let left = fs::symlink_metadata(self.scratch.base().join(&path)).is_ok();
            // What it was for a while is a live process's lock file now, or its directory.
            let used = in_use.iter().any(|lock| lock.starts_with(&path))
                || self.model.keys().any(|value| value.starts_with(&path));
            assert!(!left || used, "{path:?} was not swept");
        }
    }

    pub(super) fn reopen(&mut self, how: Reopening) {
        let base = self.scratch.base();
        let other_share = match self.share {
            Share::Group => Share::Private,
            _ => Share::Group,
        };
        let opened = match how {
            Reopening::Plain => open(&base, &options()),
            Reopening::WithoutCreating => open(&base, &options().create(false)),
            Reopening::SameShare => open(&base, &options().shared(self.share)),
            Reopening::AlwaysTouching => open(&base, &options().touch_after(Duration::ZERO)),
            Reopening::OtherShare => {
                let refused = open(&base, &options().shared(other_share));
                return assert_eq!(refused.unwrap_err().kind(), ErrorKind::FormatMismatch);
            }
            Reopening::OtherFormat => {
                let refused = open(&base, &options().sealed(!self.sealed));
                return assert_eq!(refused.unwrap_err().kind(), ErrorKind::FormatMismatch);
            }
            Reopening::OtherKind => {
                let refused = options().open_dir_store(&base);
                return assert_eq!(refused.unwrap_err().kind(), ErrorKind::FormatMismatch);
            }
        };
        self.store = opened.unwrap();
    }

    /// Who may only read gets the hits and nothing else.
    pub(super) fn read_only(&mut self, key: Key, body: &Body) {
        if self.place(key, None) != Place::Free {
            return;
        }
        let store = open(&self.scratch.base(), &options().read_only(true)).unwrap();
        let model = self.model.get(&key.key());
        assert_eq!(store.read(&key).unwrap().as_ref(), model);
        assert_eq!(store.touch(&key).unwrap(), model.is_some());
        let got = store.get_or_set(&key, |_| panic!("nothing can be computed"));
        let removed = store.remove(&key);
        let locked = store.lock_if_exists(&key);
        if model.is_some() {
            got.unwrap();
            assert_eq!(removed.unwrap_err().kind(), ErrorKind::ReadOnly);
            assert_eq!(locked.unwrap_err().kind(), ErrorKind::ReadOnly);
        } else {
            assert_eq!(got.unwrap_err().kind(), ErrorKind::ReadOnly);
            assert!(!removed.unwrap());
            assert!(locked.unwrap().is_none());
        }
        let refused = [
            store.set(&key, |w| body.run(w)).unwrap_err(),
            store.lock(&key).unwrap_err(),
            store.try_lock(&key).unwrap_err(),
            store.batch().set(&key, |w| body.run(w)).unwrap_err(),
            store.clear().unwrap_err(),
            store.sweep().unwrap_err(),
        ];
        assert!(refused.iter().all(|err| err.kind() == ErrorKind::ReadOnly));
        assert_eq!(store.entries().count(), self.model.len());
    }

    pub(super) fn litter(&mut self, litter: Litter) {
        let base = self.scratch.base();
        let number = self.litter.len();
        let in_tmp = |prefix: &str| PathBuf::from(format!("tmp/{prefix}{number:010}"));
        let file = |path: &Path| fs::write(base.join(path), "larder-lock 1\npid=1\n").unwrap();
        let dir = |path: &Path| fs::create_dir_all(base.join(path)).unwrap();
        let path = match litter {
            Litter::StagedFile => in_tmp("f-"),
            Litter::Marker => in_tmp("m-"),
            Litter::StagedLock => in_tmp("l-"),
            Litter::StagedDir => in_tmp("d-"),
            Litter::Batch => in_tmp("b-"),
            Litter::Dead => in_tmp("dead-"),
            Litter::Directories => "w/x/y".into(),
            Litter::Lock(key) => {
                let path = beside(&key.key(), ".lock");
                let collides = matches!(key, Key::Plain | Key::BelowPlain);
                if collides || self.held.contains_key(&key) {
                    return;
                }
                for above in above(&path) {
                    dir(above);
                }
                path
            }
        };
        match litter {
            Litter::StagedDir | Litter::Directories => dir(&path),
            Litter::Batch | Litter::Dead => {
                dir(&path.join("d"));
                file(&path.join("0"));
                if matches!(litter, Litter::Batch) {
                    file(&beside(&path, ".lock"));
                }
            }
            _ => file(&path),
        }
        self.litter.insert(path);
        self.littered = true;
    }
}
