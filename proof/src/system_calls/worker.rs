//! The process that is killed: it does one operation, once, between two calls that a trace shows.

use std::path::PathBuf;

use rustix::fs::Access;

use super::operation::Operation;
use super::store::Setting;

/// Looked for before and after the operation. Nothing is there.
pub(super) const BEGIN: &str = "/larder-proof/begin";
pub(super) const END: &str = "/larder-proof/end";

/// What is done, how, and to which store.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    operation: String,
    setting: String,
    base: PathBuf,
}

/// Says one line, in fields that are separated by tabs: `OK` and a word; or `ERR`, a kind, a path and
/// a sentence; or, where what failed is no call of the library's, `OWN` and a sentence.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    // The parent is `strace`, which is killed if this hangs.
    crate::orphan::die_with_parent()?;
    let operation = Operation::named(&options.operation)?;
    let setting = Setting::ALL
        .into_iter()
        .find(|one| one.name() == options.setting);
    let setting = setting.unwrap_or(Setting::Data);
    let store = operation.store(setting, &options.base)?;
    let _ = rustix::fs::access(BEGIN, Access::EXISTS);
    let result = operation.act(setting, &options.base, store.as_ref());
    let _ = rustix::fs::access(END, Access::EXISTS);
    match result {
        Ok(word) => println!("OK\t{word}"),
        Err(err) => match err.downcast_ref::<larder::Error>() {
            Some(err) => {
                let path = err.path().map_or("-".into(), |path| path.to_string_lossy());
                println!("ERR\t{:?}\t{path}\t{err}", err.kind());
            }
            None => println!("OWN\t{err:#}"),
        },
    }
    Ok(())
}
