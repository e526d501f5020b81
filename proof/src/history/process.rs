//! One of the processes: does what comes to its mind to a few keys, until it is killed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use larder::{
    CancelToken, CheckpointOptions, DirLease, ErrorKind, KVDirStore, KVFileStore, Outcome,
    StoreOptions, Value, Verify, Wait,
};

use super::event::{Answer, Asked, Number, Recorder};
use super::{checkpoints, content};
use crate::survives::Survives;

/// What it is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Directory of the two stores, or of the file of checkpoints
    #[arg(long)]
    pub(crate) stores: PathBuf,
    /// Where it records
    #[arg(long)]
    pub(crate) record: PathBuf,
    /// Its number among all processes of the run
    #[arg(long)]
    pub(crate) process: u32,
    /// How many keys each store has
    #[arg(long)]
    pub(crate) keys: u8,
    /// Where its choices come from
    #[arg(long)]
    pub(crate) seed: u64,
    /// As in `larder::Durability`
    #[command(flatten)]
    pub(crate) mode: Mode,
}

/// How the stores are opened.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Mode {
    /// What the stores promise; a kill may not matter to any
    #[arg(long, default_value = "none")]
    durability: Survives,
    /// Values are sealed, and they and trees are checked each time that they are found
    #[arg(long)]
    sealed: bool,
    /// Put, update, delete and read states in a file of checkpoints instead, at least with `data`
    #[arg(long, conflicts_with = "sealed")]
    pub(super) checkpoints: bool,
}

impl Mode {
    pub(crate) fn arguments(self) -> impl Iterator<Item = String> {
        let durability = format!("--durability={}", self.durability.name());
        [durability]
            .into_iter()
            .chain(self.sealed.then(|| "--sealed".to_owned()))
            .chain(self.checkpoints.then(|| "--checkpoints".to_owned()))
    }

    pub(crate) fn files(self, stores: &Path) -> larder::Result<KVFileStore> {
        let options = self.options().sealed(self.sealed);
        options.open_file_store(stores.join("files"))
    }

    pub(crate) fn trees(self, stores: &Path) -> larder::Result<KVDirStore> {
        self.options().open_dir_store(stores.join("trees"))
    }

    pub(super) fn checkpoint_options(self) -> CheckpointOptions {
        CheckpointOptions::new().durability(self.durability.of_checkpoints())
    }

    fn options(self) -> StoreOptions {
        let options = StoreOptions::new().durability(self.durability.durability());
        options.verify(match self.sealed {
            true => Verify::Always,
            false => Verify::default(),
        })
    }
}

/// Longer than anything here takes unless it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

struct Process {
    files: KVFileStore,
    trees: KVDirStore,
    recorder: Recorder,
    random: fastrand::Rng,
    keys: u8,
}

/// Ends only by being killed, or with what must not have happened.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    crate::orphan::die_with_parent()?;
    if options.mode.checkpoints {
        return checkpoints::process::run(options);
    }
    let mut process = Process {
        files: options.mode.files(&options.stores)?,
        trees: options.mode.trees(&options.stores)?,
        recorder: Recorder::create(&options.record, options.process)?,
        random: fastrand::Rng::with_seed(options.seed),
        keys: options.keys,
    };
    if process.random.bool() {
        // The other way to wait: seen, and bounded.
        let wait = Wait::Timeout(DEADLINE);
        let token = CancelToken::new();
        process.files = process.files.with_wait(wait).with_cancel(&token);
        process.trees = process.trees.with_wait(wait).with_on_wait(|_| ());
    }
    until_violation(options, || process.step())
}

/// Takes step after step. If one fails, that is what must not have happened.
pub(super) fn until_violation(
    options: &Options,
    mut step: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        if let Err(violation) = step() {
            std::fs::write(self::violation(&options.record), format!("{violation:#}"))?;
            return Err(violation);
        }
    }
}

/// Where a process says what must not have happened.
pub(crate) fn violation(record: &Path) -> PathBuf {
    record.with_extension("violation")
}

impl Process {
    fn step(&mut self) -> anyhow::Result<()> {
        let key = self.random.u8(0..self.keys);
        // Trees have the keys after those of the files.
        let tree_key = self.keys + key;
        match self.random.u32(0..1000) {
            0..250 => self.one(key, Asked::Read, |this, _| this.read(key)),
            250..400 => self.one(key, Asked::GetOrSet, |this, own| this.get_or_set(key, own)),
            400..480 => self.one(key, Asked::Set, |this, own| this.set(key, own)),
            480..560 => self.one(key, Asked::Remove, |this, _| this.remove(key)),
            560..620 => self.one(key, Asked::Update, |this, own| this.update(key, own)),
            620..650 => self.one(key, Asked::Contains, |this, _| {
                Ok(Answer::Bool(this.files.contains(&name(key))?))
            }),
            650..680 => self.batch(),
            680..690 => self.on_all(Asked::Clear),
            690..700 => self.on_all(Asked::Sweep),
            700..800 => self.one(tree_key, Asked::Read, |this, _| this.lease(key)),
            800..880 => self.one(tree_key, Asked::GetOrSet, |this, own| {
                this.get_or_make(key, own)
            }),
            880..920 => self.one(tree_key, Asked::Set, |this, own| this.replace(key, own)),
            920..970 => self.one(tree_key, Asked::Remove, |this, _| {
                refusable(this.trees.remove(&name(key)).map(Answer::Bool))
            }),
            970..985 => self.one(tree_key, Asked::Update, |this, own| this.publish(key, own)),
            _ => self.one(tree_key, Asked::Contains, |this, _| {
                Ok(Answer::Bool(this.trees.contains(&name(key))?))
            }),
        }
    }

    /// An operation on one key, with a record before it and one after it.
    fn one(
        &mut self,
        key: u8,
        asked: Asked,
        operation: impl FnOnce(&mut Self, Number) -> anyhow::Result<Answer>,
    ) -> anyhow::Result<()> {
        let own = self.recorder.next();
        self.recorder.begins(own, key, asked)?;
        let answer = operation(self, own)
            .with_context(|| format!("operation {own:#x} on key {key}, {asked:?}"))?;
        self.recorder.ends(own, key, answer)?;
        Ok(())
    }

    fn read(&mut self, key: u8) -> anyhow::Result<Answer> {
        let bytes = if self.random.bool() {
            self.files.read(&name(key))?
        } else {
            let value = self.files.get(&name(key))?;
            value.map(whole).transpose()?
        };
        let number = bytes.map(|bytes| content::number(&bytes)).transpose()?;
        Ok(Answer::Saw(number.unwrap_or(0)))
    }

    fn get_or_set(&mut self, key: u8, own: Number) -> anyhow::Result<Answer> {
        let pause = self.pause();
        let value = self.files.get_or_set(&name(key), |w| {
            let bytes = content::bytes(own);
            let (first, rest) = bytes.split_at(bytes.len() / 2);
            w.write_all(first)?;
            pause.take();
            Ok(w.write_all(rest)?)
        })?;
        let computed = value.outcome() == Outcome::Computed;
        let seen = content::number(&whole(value)?)?;
        ensure!(computed == (seen == own), "computed for nothing");
        Ok(Answer::Saw(seen))
    }

    fn set(&mut self, key: u8, own: Number) -> anyhow::Result<Answer> {
        let pause = self.pause();
        self.files.set(&name(key), |w| {
            pause.take();
            Ok(w.write_all(&content::bytes(own))?)
        })?;
        Ok(Answer::Done)
    }

    fn remove(&mut self, key: u8) -> anyhow::Result<Answer> {
        if self.random.bool() {
            return Ok(Answer::Bool(self.files.remove(&name(key))?));
        }
        Ok(Answer::Bool(
            match self.files.lock_if_exists(&name(key))? {
                Some(lock) => lock.remove()?,
                None => false,
            },
        ))
    }

    /// Reads and writes under one lock, so nobody may come in between.
    fn update(&mut self, key: u8, own: Number) -> anyhow::Result<Answer> {
        let lock = if self.random.bool() {
            self.files.lock(&name(key))?
        } else {
            match self.files.try_lock(&name(key))? {
                Some(lock) => lock,
                None => return Ok(Answer::Refused),
            }
        };
        let seen = match lock.reader()? {
            Some(reader) => content::number(&whole(reader.detach_unlocked())?)?,
            None => 0,
        };
        let mut writer = lock.begin()?;
        writer.write_all(&content::bytes(own))?;
        self.pause().take();
        writer.commit()?;
        Ok(Answer::Saw(seen))
    }

    /// Two keys at one barrier: not one step, but two.
    fn batch(&mut self) -> anyhow::Result<()> {
        let mut keys: Vec<u8> = (0..self.keys).collect();
        self.random.shuffle(&mut keys);
        keys.truncate(2);
        let mut batch = self.files.batch();
        let mut sets = Vec::new();
        for key in keys {
            let own = self.recorder.next();
            batch.set(&name(key), |w| Ok(w.write_all(&content::bytes(own))?))?;
            sets.push((own, key));
        }
        for &(own, key) in &sets {
            self.recorder.begins(own, key, Asked::Set)?;
        }
        batch.commit()?;
        for &(own, key) in &sets {
            self.recorder.ends(own, key, Answer::Done)?;
        }
        Ok(())
    }

    /// Clears or sweeps one store: that is something on each of its keys.
    fn on_all(&mut self, asked: Asked) -> anyhow::Result<()> {
        let trees = self.random.bool();
        let first = if trees { self.keys } else { 0 };
        let mut begun = Vec::new();
        for key in first..first + self.keys {
            let own = self.recorder.next();
            self.recorder.begins(own, key, asked)?;
            begun.push((own, key));
        }
        match (asked, trees) {
            (Asked::Clear, true) => self.trees.clear()?,
            (Asked::Clear, false) => self.files.clear()?,
            (_, true) => self.trees.sweep()?,
            (_, false) => self.files.sweep()?,
        };
        for (own, key) in begun {
            self.recorder.ends(own, key, Answer::Done)?;
        }
        Ok(())
    }

    /// A tree must stay what it is for as long as it is leased.
    fn lease(&mut self, key: u8) -> anyhow::Result<Answer> {
        match self.trees.get(&name(key))? {
            Some(lease) => Ok(Answer::Saw(self.held(&lease)?)),
            None => Ok(Answer::Saw(0)),
        }
    }

    fn held(&mut self, lease: &DirLease) -> anyhow::Result<Number> {
        let number = content::tree_number(lease).context("at the beginning of a lease")?;
        self.pause().take();
        let later = content::tree_number(lease).context("at the end of a lease")?;
        ensure!(
            number == later,
            "{number:#x} became {later:#x} under a lease"
        );
        Ok(number)
    }

    fn get_or_make(&mut self, key: u8, own: Number) -> anyhow::Result<Answer> {
        let pause = self.pause();
        let made = self.trees.get_or_set(&name(key), |tree: &Path| {
            pause.take();
            content::make_tree(tree, own)
        })?;
        let seen = self.held(&made)?;
        let computed = made.outcome() == Outcome::Computed;
        ensure!(computed == (seen == own), "made for nothing");
        Ok(Answer::Saw(seen))
    }

    fn replace(&mut self, key: u8, own: Number) -> anyhow::Result<Answer> {
        let make = |tree: &Path| content::make_tree(tree, own);
        let lease = self.trees.replace(&name(key), make)?;
        let seen = self.held(&lease)?;
        ensure!(seen == own, "replaced by {seen:#x}");
        Ok(Answer::Done)
    }

    /// A lock, a look and a publication, through the guard.
    fn publish(&mut self, key: u8, own: Number) -> anyhow::Result<Answer> {
        let Some(lock) = self.trees.try_lock(&name(key))? else {
            return Ok(Answer::Refused);
        };
        let seen = match lock.try_exists()? {
            true => content::tree_number(&lock)?,
            false => 0,
        };
        let tree = lock.tempdir()?;
        content::make_tree(tree.path(), own)?;
        let lease = lock.publish(tree)?;
        ensure!(self.held(&lease)? == own, "published another's");
        Ok(Answer::Saw(seen))
    }

    /// Sometimes: long enough for others to run into it.
    fn pause(&mut self) -> Pause {
        Pause::draw(&mut self.random)
    }
}

pub(super) struct Pause(Option<Duration>);

impl Pause {
    pub(super) fn draw(random: &mut fastrand::Rng) -> Pause {
        Pause(match random.u8(0..8) {
            0 => Some(Duration::from_micros(random.u64(1..300))),
            _ => None,
        })
    }

    pub(super) fn take(&self) {
        if let Some(pause) = self.0 {
            std::thread::sleep(pause);
        }
    }
}

pub(crate) fn name(key: u8) -> String {
    format!("key {key}")
}

pub(crate) fn whole(mut value: Value) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut value, &mut bytes)?;
    ensure!(bytes.len() as u64 == value.len(), "not as long as it says");
    Ok(bytes)
}

fn refusable(result: larder::Result<Answer>) -> anyhow::Result<Answer> {
    match result {
        Err(err) if err.kind() == ErrorKind::InUse => Ok(Answer::Refused),
        result => Ok(result?),
    }
}
