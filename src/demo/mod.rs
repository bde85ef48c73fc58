//! A burst of chats through the shipped default, beside a fake upstream, shown as it happens.
//!
//! [`Stage`] is the default config turned towards a simulator. [`show`] sends five requests at once
//! and keeps a table of what the clients saw of them and what the upstream saw; [`Screen`]
//! draws it.

use std::{io, time::Duration};

use tokio::{sync::mpsc, time::interval};

mod burst;
mod home;
mod screen;
mod stage;
mod table;

use self::table::Table;
pub use self::{
    burst::BurstError,
    home::Home,
    screen::Screen,
    stage::{Stage, StageError, config},
    table::Totals,
};

/// How often the table is drawn while nothing happens: the seconds of those who wait run on.
const TICK: Duration = Duration::from_millis(100);

/// What kept a burst from being shown to its end.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// See [`BurstError`].
    #[error(transparent)]
    Burst(#[from] BurstError),
    /// The screen is gone.
    #[error("cannot write to stdout: {0}")]
    Screen(#[from] io::Error),
}

/// Sends a burst to the gateway at `authority` and draws its table until the last answer is there.
///
/// # Errors
///
/// The first request that failed, or a screen that cannot be drawn on.
///
/// # Cancel safety
///
/// Dropping the future makes all clients leave.
pub async fn show(
    stage: &Stage,
    authority: &str,
    screen: &mut Screen,
) -> Result<Totals, ShowError> {
    let bodies = burst::bodies(stage.model());
    let mut table = Table::new(&bodies);
    let (tell, mut events) = mpsc::unbounded_channel();
    let burst = async { Ok::<_, ShowError>(burst::burst(authority, bodies, tell).await?) };
    let drawing = async {
        let mut tick = interval(TICK);
        loop {
            let event = tokio::select! {
                event = events.recv() => Some(event),
                _ = tick.tick() => None,
            };
            table.see(&stage.arrivals());
            match event {
                // All clients are done.
                Some(None) => return Ok(screen.finish(&table)?),
                Some(Some(event)) => {
                    table.note(&event);
                    screen.event(&table, &event)?;
                }
                None => screen.draw(&table),
            }
        }
    };
    tokio::try_join!(burst, drawing)?;
    Ok(table.totals(&stage.arrivals()))
}
