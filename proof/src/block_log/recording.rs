//! Recording: `qemu-storage-daemon` shows an image as a plain file, and logs what is written to it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A daemon that records. Stopped when it is dropped.
#[derive(Debug)]
pub(super) struct Recorder {
    daemon: Child,
    export: PathBuf,
}

impl Recorder {
    /// Shows `image` at `export`, and records to `log` what is written there.
    pub(super) fn start(image: &Path, log: &Path, export: &Path) -> anyhow::Result<Self> {
        let bytes = fs::metadata(image)?.len();
        File::create(log)?;
        File::create(export)?;
        let (image, log) = (image.display(), log.display());
        // `setpriv` ends it with this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "qemu-storage-daemon"]);
        for node in [
            format!("driver=file,node-name=image,filename={image}"),
            format!("driver=file,node-name=log,filename={log}"),
            // The super block is written with each entry, so that it says how many there are.
            "driver=blklogwrites,node-name=logged,file=image,log=log,log-sector-size=512,\
             log-super-update-interval=1"
                .to_owned(),
        ] {
            command.args(["--blockdev", &node]);
        }
        let shown = format!(
            "type=fuse,id=export,node-name=logged,mountpoint={},writable=on",
            export.display()
        );
        command.args(["--export", &shown]).stdin(Stdio::null());
        let daemon = command.spawn().context("start qemu-storage-daemon")?;
        let mut recorder = Recorder {
            daemon,
            export: export.to_path_buf(),
        };
        let started = Instant::now();
        while fs::metadata(export)?.len() != bytes {
            if let Some(status) = recorder.daemon.try_wait()? {
                bail!("qemu-storage-daemon ended with {status}, see above");
            }
            ensure!(
                started.elapsed() < Duration::from_secs(20),
                "qemu-storage-daemon does not show the image"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(recorder)
    }

    pub(super) fn export(&self) -> &Path {
        &self.export
    }

    /// Ends the record.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let status = self.end()?;
        ensure!(status, "qemu-storage-daemon failed, see above");
        Ok(())
    }

    fn end(&mut self) -> std::io::Result<bool> {
        if self.daemon.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.daemon), Signal::TERM)?;
        }
        Ok(self.daemon.wait()?.success())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// How many entries a log has that is being written.
pub(crate) fn entries_so_far(log: &File) -> std::io::Result<u64> {
    let mut entries = [0; 8];
    log.read_exact_at(&mut entries, 16)?;
    Ok(u64::from_le_bytes(entries))
}
