//! A disk on which `fsync` takes its time, for the state directory of one process.

use std::{
    ffi::OsString,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::OnceLock,
};

use tempfile::TempDir;

/// The delays of one gateway's state directory, in milliseconds.
pub(crate) struct SlowDisk {
    home: PathBuf,
    millis: RangeInclusive<u64>,
}

// === impl SlowDisk ===

impl SlowDisk {
    /// For the gateway whose folder is `home`.
    pub(crate) fn new(home: &TempDir, millis: RangeInclusive<u64>) -> Self {
        // The kernel names files without symbolic links.
        let home = fs::canonicalize(home.path()).unwrap();
        Self { home, millis }
    }

    /// What the gateway needs in its environment.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let (least, most) = (self.millis.start(), self.millis.end());
        vec![
            ("LD_PRELOAD", library().into()),
            ("SLOW_FSYNC_DIR", self.home.join(".local/state").into()),
            ("SLOW_FSYNC_LOG", self.log().into()),
            ("SLOW_FSYNC_MIN", least.to_string().into()),
            ("SLOW_FSYNC_MAX", most.to_string().into()),
        ]
    }

    /// How many calls were delayed so far. A static program delays none, and proves nothing.
    pub(crate) fn delayed(&self) -> usize {
        fs::read(self.log()).map_or(0, |notes| notes.len())
    }

    fn log(&self) -> PathBuf {
        self.home.join("fsyncs")
    }
}

/// Compiled once in each test run.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let library = folder.join("slow_fsync.so");
        // In one piece: another test run may use it.
        let half = folder.join(format!("slow_fsync.{}", process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/slow_fsync.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
            .arg(&half)
            .arg(source)
            .status()
            .expect("no C compiler");
        assert!(compiled.success());
        fs::rename(half, &library).unwrap();
        library
    })
}
