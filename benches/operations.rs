//! Single operations beside their raw system calls and posy's algorithm: `cargo bench --bench operations`.
//!
//! For a look at one operation while working on it. Where ratios count, `ratios` lets the ways take turns.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "ratios/posy.rs"]
#[allow(dead_code)] // not all of it is about single operations
mod posy;
#[path = "ratios/raw.rs"]
#[allow(dead_code)]
mod raw;

use std::io::{Read, Write};
use std::path::PathBuf;

use divan::Bencher;
use larder::{Durability, KVDirStore, KVFileStore, PathKey, StoreOptions};
use tempfile::TempDir;

const KEY: &str = "a key";
const VALUE: [u8; 4096] = [7; 4096];

fn main() {
    divan::main();
}

/// One value in each way, in one directory that goes with it.
struct Ground {
    dir: TempDir,
    larder: KVFileStore,
    posy: posy::Store,
    raw: PathBuf,
}

fn ground(durability: Durability) -> Ground {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions::new().durability(durability);
    let larder = options.open_file_store(dir.path().join("larder")).unwrap();
    larder.set(KEY, |w| Ok(w.write_all(&VALUE)?)).unwrap();
    let posy = posy::Store::new(&dir.path().join("posy"));
    posy.set(KEY, &VALUE, false);
    let base = dir.path().join("raw");
    std::fs::create_dir(&base).unwrap();
    let raw = base.join(KEY.key());
    raw::set_new(&base.join("staged"), &raw, &VALUE, false);
    Ground {
        dir,
        larder,
        posy,
        raw,
    }
}

mod hit {
    use super::*;

    #[divan::bench]
    fn raw(bencher: Bencher<'_, '_>) {
        let ground = ground(Durability::None);
        let mut into = [0; VALUE.len()];
        bencher.bench_local(|| raw::hit(&ground.raw, &mut into));
    }

    #[divan::bench]
    fn posy(bencher: Bencher<'_, '_>) {
        let ground = ground(Durability::None);
        let mut into = Vec::new();
        bencher.bench_local(|| ground.posy.read(KEY, &mut into));
    }

    #[divan::bench]
    fn read_into(bencher: Bencher<'_, '_>) {
        let ground = ground(Durability::None);
        let mut into = Vec::new();
        bencher.bench_local(|| ground.larder.read_into(KEY, &mut into).unwrap());
    }

    #[divan::bench]
    fn get_and_read(bencher: Bencher<'_, '_>) {
        let ground = ground(Durability::None);
        let mut into = Vec::new();
        bencher.bench_local(|| {
            into.clear();
            let mut value = ground.larder.get(KEY).unwrap().unwrap();
            value.read_to_end(&mut into).unwrap()
        });
    }

    #[divan::bench]
    fn lease(bencher: Bencher<'_, '_>) {
        let dir = tempfile::tempdir().unwrap();
        let trees = KVDirStore::new(dir.path().join("trees")).unwrap();
        drop(trees.get_or_set(KEY, |_tree| Ok(())).unwrap());
        bencher.bench_local(|| drop(trees.get(KEY).unwrap().unwrap()));
    }
}

mod miss {
    use super::*;

    #[divan::bench]
    fn raw(bencher: Bencher<'_, '_>) {
        let ground = ground(Durability::None);
        let path = ground.raw.with_extension("absent");
        bencher.bench_local(|| raw::miss(&path));
    }

    #[divan::bench]
    fn get(bencher: Bencher<'_, '_>) {
        let ground = ground(Durability::None);
        bencher.bench_local(|| assert!(ground.larder.get("absent").unwrap().is_none()));
    }
}

mod set {
    use super::*;

    const DURABLE: [bool; 2] = [false, true];

    #[divan::bench(args = DURABLE)]
    fn raw(bencher: Bencher<'_, '_>, durable: bool) {
        let ground = ground(Durability::None);
        let staged = ground.dir.path().join("raw/staged");
        bencher.bench_local(|| raw::set(&staged, &ground.raw, &VALUE, durable));
    }

    #[divan::bench(args = DURABLE)]
    fn posy(bencher: Bencher<'_, '_>, durable: bool) {
        let ground = ground(Durability::None);
        bencher.bench_local(|| ground.posy.set(KEY, &VALUE, durable));
    }

    #[divan::bench(args = DURABLE)]
    fn larder(bencher: Bencher<'_, '_>, durable: bool) {
        let durability = [Durability::None, Durability::Data][usize::from(durable)];
        let ground = ground(durability);
        bencher.bench_local(|| {
            ground
                .larder
                .set(KEY, |w| Ok(w.write_all(&VALUE)?))
                .unwrap()
        });
    }
}
