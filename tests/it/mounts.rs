//! What is mounted inside a tree is not the store's: nothing in it is deleted, changed or published.

use std::io::Read;
use std::path::{Path, PathBuf};

use larder::{Durability, ErrorKind, GcPolicy, GcReport, KVDirStore, Kept, Share, StoreOptions};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use tempfile::TempDir;

use crate::support::{chmod, empty_store, is_root, listing, mode, tempdir};

/// A bind mount keeps the device's number, another file system does not.
const KINDS: [&str; 3] = ["bind", "tmpfs", "file"];

/// A store, and a directory outside it that gets mounted inside its trees.
struct Ground {
    home: TempDir,
    dir: TempDir,
}

impl Ground {
    fn new() -> Self {
        let home = tempdir();
        std::fs::write(home.path().join("precious"), "precious").unwrap();
        chmod(&home.path().join("precious"), 0o600);
        chmod(home.path(), 0o700);
        Ground {
            home,
            dir: tempdir(),
        }
    }

    fn base(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn store(&self) -> KVDirStore {
        let options = StoreOptions::new().durability(Durability::None);
        options.open_dir_store(self.base()).unwrap()
    }

    /// Puts a tree together, with a mount in the middle of it.
    fn build(&self, tree: &Path, kind: &str) {
        std::fs::create_dir_all(tree.join("a")).unwrap();
        std::fs::create_dir_all(tree.join("z")).unwrap();
        std::fs::write(tree.join("z/file"), "file").unwrap();
        let point = tree.join("m");
        match kind {
            "file" => std::fs::write(&point, "").unwrap(),
            _ => std::fs::create_dir_all(&point).unwrap(),
        }
        self.mount_at(&point, kind);
    }

    fn mount_at(&self, point: &Path, kind: &str) {
        match kind {
            "bind" => mount_bind(self.home.path(), point).unwrap(),
            "file" => mount_bind(self.home.path().join("precious"), point).unwrap(),
            _ => {
                mount("tmpfs", point, "tmpfs", MountFlags::empty(), None).unwrap();
                std::fs::write(point.join("precious"), "precious").unwrap();
                chmod(&point.join("precious"), 0o600);
            }
        }
    }

    /// The mount points in the store, wherever their trees were moved.
    fn mounted(&self) -> Vec<PathBuf> {
        let mut table = String::new();
        let mut file = std::fs::File::open("/proc/self/mountinfo").unwrap();
        file.read_to_string(&mut table).unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let ours = points.map(PathBuf::from);
        ours.filter(|point| point.starts_with(self.dir.path()))
            .collect()
    }

    /// The one mount point, where nothing was touched.
    fn intact(&self, case: &str) -> PathBuf {
        let precious = self.home.path().join("precious");
        assert_eq!(
            std::fs::read_to_string(&precious).unwrap(),
            "precious",
            "{case}"
        );
        assert_eq!(mode(&precious), 0o600, "{case}");
        let points = self.mounted();
        let [point] = &points[..] else {
            panic!("{case}: {points:?}");
        };
        let inside = match point.is_dir() {
            true => point.join("precious"),
            false => point.clone(),
        };
        assert_eq!(
            std::fs::read_to_string(&inside).unwrap(),
            "precious",
            "{case}"
        );
        assert_eq!(mode(&inside), 0o600, "{case}");
        point.clone()
    }

    fn unmount(&self) {
        for point in self.mounted() {
            unmount(&point, UnmountFlags::DETACH).unwrap();
        }
    }

    /// A sweep takes what is left once nothing is mounted there, and nothing before.
    fn is_swept_when_unmounted(&self, case: &str) {
        let store = self.store();
        let report = store.sweep().unwrap();
        let point = self.intact(case);
        is_told(&report, &point, case);
        assert_eq!(report.swept, 0, "{case}");
        let tree = point.parent().unwrap();
        assert_eq!(std::fs::read_dir(tree).unwrap().count(), 1, "{case}");
        self.unmount();
        let report = store.sweep().unwrap();
        assert_eq!((report.swept, report.kept), (1, vec![]), "{case}");
        assert_eq!(listing(&self.base()), empty_store(), "{case}");
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for point in self.mounted() {
            let _ = unmount(&point, UnmountFlags::DETACH); // before anything is deleted through it
        }
    }
}

fn is_told(report: &GcReport, point: &Path, case: &str) {
    let told: Vec<_> = report.kept.iter().map(|Kept { path, .. }| path).collect();
    assert_eq!(told, [point], "{case}: {report:?}");
    assert_eq!(format!("{:?}", report.kept[0].reason), "Mounted", "{case}");
}

/// Everything in a directory that a command had mounted into its tree was deleted when the command failed.
#[test]
fn a_staged_tree_that_is_discarded_leaves_what_is_mounted_in_it() {
    if !is_root("a_staged_tree_that_is_discarded_leaves_what_is_mounted_in_it") {
        return;
    }
    for kind in KINDS {
        let ground = Ground::new();
        let failed = ground.store().get_or_set("key", |tree| {
            ground.build(tree, kind);
            anyhow::bail!("no")
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Compute);
        ground.intact(kind);
        ground.is_swept_when_unmounted(kind);
    }
}

#[test]
fn a_sweep_leaves_what_is_mounted_in_a_tree_of_the_dead() {
    if !is_root("a_sweep_leaves_what_is_mounted_in_a_tree_of_the_dead") {
        return;
    }
    for kind in KINDS {
        for name in ["t-0123456789", "dead-0123456789"] {
            let ground = Ground::new();
            let store = ground.store();
            ground.build(&store.base().join("tmp").join(name), kind);
            let report = store.sweep().unwrap();
            is_told(&report, &ground.intact(kind), kind);
            ground.is_swept_when_unmounted(kind);
        }
    }
}

#[test]
fn a_published_tree_goes_without_what_is_mounted_in_it() {
    if !is_root("a_published_tree_goes_without_what_is_mounted_in_it") {
        return;
    }
    for kind in KINDS {
        for way in ["remove", "gc", "clear"] {
            let case = &format!("{way} with {kind}");
            let ground = Ground::new();
            let store = ground.store();
            let lease = store.get_or_set("key", |tree| {
                ground.build(tree, "tmpfs");
                ground.unmount();
                Ok(())
            });
            let tree = lease.unwrap().to_path_buf();
            if kind == "file" {
                std::fs::remove_dir(tree.join("m")).unwrap();
                std::fs::write(tree.join("m"), "").unwrap();
            }
            ground.mount_at(&tree.join("m"), kind);
            if way == "remove" {
                let said = store.remove("key").unwrap_err().to_string();
                let point = ground.intact(case);
                let named = format!("something is mounted at {}; unmount it", point.display());
                assert!(said.contains(&named), "{case}: {said}");
            } else {
                let all = GcPolicy::default().max_entries(0);
                let report = match way {
                    "gc" => store.gc(&all.min_idle(std::time::Duration::ZERO)),
                    _ => store.clear(),
                };
                let report = report.unwrap();
                assert_eq!(report.removed, 1, "{case}");
                is_told(&report, &ground.intact(case), case);
            }
            assert!(!store.contains("key").unwrap(), "{case}");
            ground.is_swept_when_unmounted(case);
        }
    }
}

/// The bits of what was mounted in a tree were changed with the tree's, and a tree was published of which a
/// part was nowhere in the store.
#[test]
fn a_tree_with_something_mounted_in_it_is_not_published() {
    if !is_root("a_tree_with_something_mounted_in_it_is_not_published") {
        return;
    }
    for kind in KINDS {
        let ground = Ground::new();
        let options = StoreOptions::new().shared(Share::Group);
        let store = options.open_dir_store(ground.base()).unwrap();
        let err = store
            .get_or_set("key", |tree| {
                ground.build(tree, kind);
                Ok(())
            })
            .unwrap_err();
        let said = err.to_string();
        assert!(said.contains("/m; unmount it"), "{kind}: {said}");
        assert!(!store.contains("key").unwrap(), "{kind}");
        ground.intact(kind);
        ground.unmount();
        store.sweep().unwrap();
        assert_eq!(
            std::fs::read_dir(store.base().join("tmp")).unwrap().count(),
            0
        );
        assert_eq!(mode(ground.home.path()), 0o700, "{kind}");
    }
}
