//! A terminal for a program to write to.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    process::Stdio,
    thread::{self, JoinHandle},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A pseudo-terminal. What is written to it is read all the time.
pub(crate) struct Terminal {
    reading: JoinHandle<String>,
    writer: File,
}

impl Terminal {
    pub(crate) fn open() -> Self {
        let reader = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&reader).unwrap();
        unlockpt(&reader).unwrap();
        let name = ptsname(&reader, Vec::new()).unwrap();
        let writer = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let reading = thread::spawn(move || {
            let (mut reader, mut text) = (File::from(reader), Vec::new());
            // An error is how the end of the last writer looks from here.
            let _end = reader.read_to_end(&mut text);
            String::from_utf8(text).unwrap()
        });
        Self { reading, writer }
    }

    /// For a child's stdout.
    pub(crate) fn stdio(&self) -> Stdio {
        self.writer.try_clone().unwrap().into()
    }

    /// What was written, once every child that writes to it has ended.
    pub(crate) fn text(self) -> String {
        drop(self.writer);
        self.reading.join().unwrap()
    }
}
