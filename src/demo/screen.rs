//! Where the table appears: drawn over and over on a terminal, else told line by line.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    burst::{Event, Noticed},
    table::{HEAD, Phase, Table},
};

/// Stdout.
#[derive(Debug)]
pub enum Screen {
    /// Takes lines, and nothing but text.
    Plain,
    /// Can be drawn on.
    Terminal(Terminal),
}

/// The rows are one drawing, so that all are of the same moment; the lines above are ordinary
/// output.
#[derive(Debug)]
pub struct Terminal {
    rows: ProgressBar,
    begun: bool,
    colours: bool,
}

/// Draws in a second, at most.
const RATE: u8 = 20;

// ECMA-48, select graphic rendition.
const DIM: &str = "\x1b[2m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

// === impl Screen ===

impl Screen {
    /// Whatever stdout is. Colours only where `NO_COLOR` (<https://no-color.org>) does not forbid
    /// them, escape codes only where something understands them.
    pub fn new() -> Self {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let dumb = variable("TERM").is_none_or(|kind| kind == "dumb");
        if dumb || !io::stdout().is_terminal() {
            return Self::Plain;
        }
        Self::Terminal(Terminal::new(variable("NO_COLOR").is_none()))
    }

    /// Shows what has just happened.
    pub(super) fn event(&mut self, table: &Table, event: &Event) -> io::Result<()> {
        match self {
            Self::Plain => {
                // Comes with the head.
                if let Noticed::FirstByte = event.what {
                    return Ok(());
                }
                writeln!(io::stdout().lock(), "{}", table.tell(event))
            }
            Self::Terminal(terminal) => {
                if !terminal.begun {
                    terminal.begin()?;
                }
                terminal.draw(table);
                Ok(())
            }
        }
    }

    /// Lets the seconds run on.
    pub(super) fn draw(&mut self, table: &Table) {
        if let Self::Terminal(terminal) = self {
            terminal.draw(table);
        }
    }

    /// Leaves the finished table behind, as ordinary output.
    pub(super) fn finish(&mut self, table: &Table) -> io::Result<()> {
        match self {
            Self::Plain => writeln!(io::stdout().lock(), "\n{HEAD}")?,
            Self::Terminal(terminal) => terminal.rows.finish_and_clear(),
        }
        let mut out = io::stdout().lock();
        for index in 0..table.len() {
            writeln!(out, "{}", table.line(index))?;
        }
        Ok(())
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Terminal ===

impl Terminal {
    fn new(colours: bool) -> Self {
        let target = ProgressDrawTarget::stdout_with_hz(RATE);
        let rows = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            rows.set_style(style);
        }
        Self {
            rows,
            begun: false,
            colours,
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        self.begun = true;
        writeln!(io::stdout().lock(), "{HEAD}")
    }

    fn draw(&self, table: &Table) {
        if !self.begun {
            return;
        }
        let mut rows = Vec::new();
        for index in 0..table.len() {
            let line = table.line(index);
            rows.push(match table.phase(index) {
                Phase::Waiting if self.colours => format!("{DIM}{line}{RESET}"),
                Phase::Underway if self.colours => format!("{CYAN}{line}{RESET}"),
                _ => line,
            });
        }
        self.rows.set_message(rows.join("\n"));
    }
}
