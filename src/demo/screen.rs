//! Shows the table: redrawn on a terminal, else one line for each event.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    burst::{ClientEvent, ClientEventKind},
    table::{BurstTable, HEADING, RowState},
};

/// Stdout.
#[derive(Debug)]
pub enum DemoScreen {
    /// No terminal: plain lines.
    Plain,
    /// A terminal that understands escape codes.
    Terminal(Terminal),
}

/// All rows are drawn at once, so that they show the same moment; the lines above are ordinary
/// output.
#[derive(Debug)]
pub struct Terminal {
    rows: ProgressBar,
    begun: bool,
    colours: bool,
}

/// The most draws in a second.
const RATE: u8 = 20;

// ECMA-48, select graphic rendition.
const DIM: &str = "\x1b[2m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

// === impl DemoScreen ===

impl DemoScreen {
    /// The kind of screen that stdout is. Colours unless `NO_COLOR` (<https://no-color.org>) is set,
    /// escape codes only on a terminal that understands them.
    pub fn new() -> Self {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let dumb = variable("TERM").is_none_or(|kind| kind == "dumb");
        if dumb || !io::stdout().is_terminal() {
            return Self::Plain;
        }
        Self::Terminal(Terminal::new(variable("NO_COLOR").is_none()))
    }

    /// Shows an event.
    pub(super) fn event(&mut self, table: &BurstTable, event: &ClientEvent) -> io::Result<()> {
        match self {
            Self::Plain => {
                // Follows the response headers at once.
                if let ClientEventKind::FirstByte = event.kind {
                    return Ok(());
                }
                writeln!(io::stdout().lock(), "{}", table.describe(event))
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

    /// Updates the times.
    pub(super) fn draw(&mut self, table: &BurstTable) {
        if let Self::Terminal(terminal) = self {
            terminal.draw(table);
        }
    }

    /// Prints the finished table as ordinary output.
    pub(super) fn finish(&mut self, table: &BurstTable) -> io::Result<()> {
        match self {
            Self::Plain => writeln!(io::stdout().lock(), "\n{HEADING}")?,
            Self::Terminal(terminal) => terminal.rows.finish_and_clear(),
        }
        let mut out = io::stdout().lock();
        for index in 0..table.len() {
            writeln!(out, "{}", table.line(index))?;
        }
        Ok(())
    }
}

impl Default for DemoScreen {
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
        writeln!(io::stdout().lock(), "{HEADING}")
    }

    fn draw(&self, table: &BurstTable) {
        if !self.begun {
            return;
        }
        let mut rows = Vec::new();
        for index in 0..table.len() {
            let line = table.line(index);
            rows.push(match table.state(index) {
                RowState::Waiting if self.colours => format!("{DIM}{line}{RESET}"),
                RowState::Underway if self.colours => format!("{CYAN}{line}{RESET}"),
                _ => line,
            });
        }
        self.rows.set_message(rows.join("\n"));
    }
}
