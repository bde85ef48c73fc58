//! A burst of chats through the default config to a simulator, shown while it runs.
//!
//! [`DemoSetup`] points the default config to a simulator. [`show`] sends five requests at once and
//! keeps a table of what the clients and the upstream saw of them; [`DemoScreen`] draws it.

use std::{io, time::Duration};

use tokio::{sync::mpsc, time::interval};

mod burst;
mod home;
mod screen;
mod setup;
mod table;

use self::table::BurstTable;
pub use self::{
    burst::BurstError,
    home::Home,
    screen::DemoScreen,
    setup::{DemoSetup, SetupError, config},
    table::Totals,
};

/// How often the table is drawn between events, to update the queue times.
const TICK: Duration = Duration::from_millis(100);

/// A burst was not shown to its end.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// See [`BurstError`].
    #[error(transparent)]
    Burst(#[from] BurstError),
    /// Stdout cannot be written to.
    #[error("cannot write to stdout: {0}")]
    Screen(#[from] io::Error),
}

/// Sends a burst to the gateway at `authority` and draws its table until the last response has ended.
///
/// # Errors
///
/// The first request that failed, or an error of stdout.
///
/// # Cancel safety
///
/// Dropping the future disconnects all clients.
pub async fn show(
    setup: &DemoSetup,
    authority: &str,
    screen: &mut DemoScreen,
) -> Result<Totals, ShowError> {
    let bodies = burst::bodies(setup.model());
    let mut table = BurstTable::new(&bodies);
    let (sender, mut events) = mpsc::unbounded_channel();
    let burst = async { Ok::<_, ShowError>(burst::burst(authority, bodies, sender).await?) };
    let drawing = async {
        let mut tick = interval(TICK);
        loop {
            let event = tokio::select! {
                event = events.recv() => Some(event),
                _ = tick.tick() => None,
            };
            table.record_arrivals(&setup.arrivals());
            match event {
                // All clients are done.
                Some(None) => return Ok(screen.finish(&table)?),
                Some(Some(event)) => {
                    table.record(&event);
                    screen.event(&table, &event)?;
                }
                None => screen.draw(&table),
            }
        }
    };
    tokio::try_join!(burst, drawing)?;
    Ok(table.totals(&setup.arrivals()))
}
