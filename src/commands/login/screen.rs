//! The output of a login: on a terminal a QR code and a countdown line, else plain lines.

use std::{
    convert::Infallible,
    env,
    io::{self, IsTerminal, Write},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use http::Uri;
use pacegate_layers::error::chain_text;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    config::{Upstream, show_duration},
    credentials::store::{CredentialsFile, OAuthCredentials},
    oauth::device::{DeviceAuthorization, PollEvent},
};

/// Stdout.
#[derive(Debug)]
pub(super) struct LoginScreen {
    /// Stdout is a terminal that understands escape codes.
    terminal: bool,
}

// ECMA-48: erase to the end of the line; black on white, because a scanner needs dark on light
// whatever the terminal's colours are; reset.
const ERASE: &str = "\x1b[K";
const PAPER: &str = "\x1b[30;107m";
const RESET: &str = "\x1b[0m";

// === impl LoginScreen ===

impl LoginScreen {
    pub(super) fn new() -> Self {
        let dumb = env::var_os("TERM").is_none_or(|kind| kind.is_empty() || kind == "dumb");
        Self {
            terminal: !dumb && io::stdout().is_terminal(),
        }
    }

    /// Shows the page, and opens it if there is a browser.
    pub(super) fn ask(
        &self,
        upstream: &Upstream,
        login: &DeviceAuthorization,
        no_browser: bool,
    ) -> io::Result<()> {
        let page = login
            .verification_uri_complete
            .as_ref()
            .unwrap_or(&login.verification_uri);
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "log in to {} on this page:\n\n  {page}\n",
            upstream.name
        )?;
        if self.terminal
            && let Some(code) = qr(&page.to_string())
        {
            writeln!(out, "{code}")?;
        }
        writeln!(out, "and confirm the code {}", login.user_code)?;
        if login.verification_uri_complete.is_some() {
            writeln!(out, "(or type it in at {})", login.verification_uri)?;
        }
        if self.terminal && !no_browser && browse(page) {
            writeln!(out, "the page was opened in a browser")?;
        }
        if !self.terminal {
            let left = whole_seconds(
                login.expires.saturating_duration_since(Instant::now())
                    + Duration::from_millis(500),
            );
            writeln!(out, "waiting for that; the code expires in {left}")?;
        }
        out.flush()
    }

    /// Draws the remaining time every second, for ever; without a terminal, draws nothing.
    pub(super) async fn count_down(&self, expires: Instant) -> Infallible {
        if !self.terminal {
            return std::future::pending().await;
        }
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let left = whole_seconds(expires.saturating_duration_since(Instant::now()));
            self.draw(&format!("waiting; the code expires in {left}"));
        }
    }

    /// Shows what was wrong with a poll.
    pub(super) fn trouble(&self, trouble: &PollEvent) {
        let text = match trouble {
            PollEvent::SlowDown(interval) => {
                let interval = show_duration(*interval);
                format!("asked to slow down: asking every {interval} from now on")
            }
            PollEvent::Transient(error) => {
                format!("no usable answer, asking again: {}", chain_text(&**error))
            }
        };
        self.end_line();
        // A closed stdout must not end a login that the user may confirm elsewhere.
        let _closed = writeln!(io::stdout().lock(), "{text}");
    }

    /// Ends the countdown line.
    pub(super) fn end_line(&self) {
        if self.terminal {
            self.draw("");
        }
    }

    /// Shows where the login was saved.
    pub(super) fn done(
        &self,
        file: &CredentialsFile,
        credentials: &OAuthCredentials,
    ) -> io::Result<()> {
        let left = whole_seconds(credentials.valid_for(SystemTime::now()));
        let path = file.path().display();
        writeln!(
            io::stdout().lock(),
            "logged in; saved to {path}, valid for {left}; a running pacegate takes it up by itself"
        )
    }

    fn draw(&self, text: &str) {
        let mut out = io::stdout().lock();
        let _closed = write!(out, "\r{text}{ERASE}").and_then(|()| out.flush());
    }
}

/// A duration in whole seconds, as text.
fn whole_seconds(life: Duration) -> String {
    show_duration(Duration::from_secs(life.as_secs()))
}

/// A QR code in half blocks, two modules to a character.
fn qr(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let blocks = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Dark)
        .light_color(Dense1x2::Light)
        .build();
    let line = |line: &str| format!("  {PAPER}{line}{RESET}\n");
    Some(blocks.lines().map(line).collect())
}

/// Starts a browser; whether one was started. It is not waited for, and its output is dropped.
fn browse(page: &Uri) -> bool {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if ["DISPLAY", "WAYLAND_DISPLAY"]
        .map(env::var_os)
        .iter()
        .any(Option::is_some)
    {
        "xdg-open"
    } else {
        return false;
    };
    // An http(s) URL, so neither an option nor a file, and no shell parses it.
    Command::new(program)
        .arg(page.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qr_code_is_dark_on_paper_with_a_quiet_border() {
        let code = qr("https://id.example/authorize?user_code=ABCD-EFGH").unwrap();
        let lines: Vec<_> = code
            .lines()
            .map(|line| {
                line.trim_start()
                    .strip_prefix(PAPER)
                    .unwrap()
                    .strip_suffix(RESET)
                    .unwrap()
            })
            .collect();
        // The border is paper, so it is spaces; the first corner begins below and beside it.
        assert!(lines[..2].iter().all(|line| line.trim().is_empty()));
        assert!(
            lines
                .iter()
                .all(|line| line.starts_with("    ") && line.ends_with("    "))
        );
        assert!(
            lines[2].starts_with("    \u{2588}\u{2580}\u{2580}\u{2580}\u{2580}\u{2580}\u{2588}")
        );
    }
}
