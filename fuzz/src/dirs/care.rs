//! What looks after a store: listing, clearing, sweeping, opening it again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::{ErrorKind, GcReport, KeptReason, PathKey, Share};

use super::{Dirs, Reopening, open, options};
use crate::keys::{Key, beside};

impl Dirs {
    fn listed(&self) -> BTreeMap<PathBuf, larder::Entry> {
        let entries: Vec<_> = self.store.entries().map(Result::unwrap).collect();
        let count = entries.len();
        let listed: BTreeMap<_, _> = entries.into_iter().map(|e| (e.key(), e)).collect();
        assert_eq!(listed.len(), count, "an entry was listed twice");
        listed
    }

    pub(super) fn check_entries(&self) {
        let mut listed = self.listed();
        for (key, known) in &self.model {
            let listed = listed.remove(&key.key()).expect("an entry is not listed");
            assert_eq!(listed.path(), self.path(*key));
            assert_eq!(listed.allocated_bytes(), None);
            let sizes = known.known.then(|| known.tree.sizes());
            assert_eq!(listed.file_count(), sizes.map(|(files, _)| files));
            assert_eq!(listed.len(), sizes.map(|(_, bytes)| bytes));
            let label = known.known.then(|| key.label()).flatten();
            assert_eq!(listed.label(), label);
        }
        assert!(listed.is_empty(), "{listed:?}");
    }

    /// A listed entry is a key too.
    pub(super) fn remove_listed(&mut self, number: u8) {
        let listed = self.listed();
        let Some(entry) = listed.values().cycle().nth(number.into()) else {
            return;
        };
        let key = self.model.keys().find(|key| key.key() == entry.key());
        let key = *key.expect("it is not there");
        match self.store.remove(entry) {
            Ok(removed) => {
                assert!(removed && !self.is_in_use(key));
                self.model.remove(&key);
            }
            Err(err) => {
                assert!(self.is_in_use(key));
                assert_eq!(err.kind(), ErrorKind::InUse);
            }
        }
    }

    pub(super) fn clear(&mut self, making: Option<Key>) {
        let report = self.store.clear().unwrap();
        assert_eq!(report.examined, self.model.len() as u64);
        let (kept, removed): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.model)
            .into_iter()
            .partition(|(key, _)| self.is_in_use(*key));
        assert_eq!(report.removed, removed.len() as u64);
        let known = removed.values().filter(|entry| entry.known);
        let bytes: u64 = known.map(|entry| entry.tree.sizes().1).sum();
        assert_eq!(report.removed_bytes, bytes);
        let reported: BTreeMap<&Path, KeptReason> = report
            .kept
            .iter()
            .map(|kept| (kept.path.as_path(), kept.reason))
            .collect();
        assert_eq!(reported.len(), kept.len(), "{reported:?}");
        for key in kept.keys() {
            assert_eq!(reported[self.path(*key).as_path()], KeptReason::InUse);
        }
        self.model = kept;
        self.check_swept(&report, making);
    }

    pub(super) fn sweep(&mut self, making: Option<Key>) {
        let report = self.store.sweep().unwrap();
        assert_eq!(
            (report.examined, report.removed, report.removed_bytes),
            (0, 0, 0)
        );
        assert_eq!(report.kept, []);
        self.check_swept(&report, making);
    }

    /// `making` is a key whose tree a closure is just making.
    fn check_swept(&mut self, report: &GcReport, making: Option<Key>) {
        assert!(self.spoiled || report.swept == 0, "{report:?}");
        let base = self.scratch.base();
        let is_locked = |key: &Key| self.held.contains_key(key) || making == Some(*key);
        let is_gone = |path: PathBuf| fs::symlink_metadata(&path).is_err();
        for key in self.dead.keys().filter(|key| !is_locked(key)) {
            assert!(is_gone(base.join(key.key())), "{key:?} was not swept");
        }
        for key in self.stray.iter().filter(|key| !is_locked(key)) {
            let sidecar = beside(&key.key(), ".larder");
            assert!(is_gone(base.join(sidecar)), "{key:?} was not swept");
        }
        self.dead
            .retain(|key, _| self.held.contains_key(key) || making == Some(*key));
        self.stray
            .retain(|key| self.held.contains_key(key) || making == Some(*key));
        for path in std::mem::take(&mut self.litter) {
            assert!(is_gone(base.join(&path)), "{path:?} was not swept");
        }
    }

    pub(super) fn reopen(&mut self, how: Reopening) {
        let base = self.scratch.base();
        let other_share = match self.share {
            Share::Group => Share::Private,
            _ => Share::Group,
        };
        let options = match how {
            Reopening::Plain => options(),
            Reopening::ReadOnlyTrees => options().read_only_trees(true),
            Reopening::WithoutCreating => options().create(false),
            Reopening::SameShare => options().shared(self.share),
            Reopening::AlwaysTouching => options().touch_after(Duration::ZERO),
            Reopening::OtherShare => {
                let refused = open(&base, &options().shared(other_share));
                return assert_eq!(refused.unwrap_err().kind(), ErrorKind::FormatMismatch);
            }
            Reopening::OtherKind => {
                let refused = options().open_file_store(&base);
                return assert_eq!(refused.unwrap_err().kind(), ErrorKind::FormatMismatch);
            }
        };
        self.store = open(&base, &options).unwrap();
        self.read_only_trees = matches!(how, Reopening::ReadOnlyTrees);
    }
}
