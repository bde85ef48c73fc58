//! A third program that only reads the file.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

/// Reads the file again and again, as any program may. Each reading has to be whole.
pub(super) struct Reader {
    reading: Option<thread::JoinHandle<usize>>,
    stop: Arc<AtomicBool>,
}

impl Reader {
    pub(super) fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let reading = thread::spawn(move || {
            let mut reads = 0;
            while !told.load(Ordering::Relaxed) {
                let text = fs::read(&path).unwrap();
                let file: Value = serde_json::from_slice(&text)
                    .unwrap_or_else(|error| panic!("a torn file: {error} "));
                for field in ["access_token", "refresh_token", "token_type"] {
                    assert!(file[field].is_string(), "no {field}");
                }
                assert!(file["expiry_date"].is_u64(), "no expiry_date");
                reads += 1;
                // Often enough to meet any write, and little enough to leave them a processor.
                thread::sleep(Duration::from_micros(300));
            }
            reads
        });
        Self {
            reading: Some(reading),
            stop,
        }
    }

    /// How often it has read.
    pub(super) fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let reading = self.reading.take().unwrap();
        reading.join().expect("a reading was not whole")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reading) = self.reading.take() {
            let _nobody_asks = reading.join();
        }
    }
}
