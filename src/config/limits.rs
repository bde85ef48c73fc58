//! `[limits]`: what clients may use.

use std::time::Duration;

use super::{
    cursor::{Cursor, TableReader},
    units,
};

/// Limits on what clients may use. None of them limits how long a response stream may last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most connections at a time.
    pub max_connections: usize,
    /// The most headers of a request.
    pub max_header_fields: usize,
    /// The largest request headers, all together, in bytes.
    pub max_header_size: usize,
    /// The longest request target, in bytes.
    pub max_target: usize,
    /// The largest size of all buffered request bodies together, in bytes.
    pub max_bodies: usize,
    /// The longest wait for the first byte of a new connection.
    pub first_byte_timeout: Duration,
    /// The longest time from the first byte of the request headers to the last.
    pub header_timeout: Duration,
    /// How long an idle connection is kept between two requests.
    pub keep_alive_timeout: Duration,
    /// The longest silence in a request body.
    pub body_idle_timeout: Duration,
    /// The longest time from the first byte of a request body to the last.
    pub body_timeout: Duration,
    /// How long a client may stop reading its response.
    pub write_timeout: Duration,
}

/// The HTTP library's own limit.
const MOST_HEADER_FIELDS: usize = 100;

/// More connections than a process has descriptors for.
const MOST_CONNECTIONS: usize = 1_000_000;

/// The HTTP library accepts no longer targets.
const MOST_TARGET: usize = 65_534;

/// Reads the table.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Limits> {
    let mut table = cursor.table()?;
    let max_connections = table
        .required("max-connections")
        .and_then(|most| most.integer(1, MOST_CONNECTIONS));
    let max_header_fields = table
        .required("max-header-fields")
        .and_then(|most| most.integer(1, MOST_HEADER_FIELDS));
    let max_header_size = size(&mut table, "max-header-size", usize::MAX);
    let max_target = size(&mut table, "max-target", MOST_TARGET);
    let max_bodies = size(&mut table, "max-bodies", usize::MAX);
    let first_byte_timeout = time(&mut table, "first-byte-timeout");
    let header_timeout = time(&mut table, "header-timeout");
    let keep_alive_timeout = time(&mut table, "keep-alive-timeout");
    let body_idle_timeout = time(&mut table, "body-idle-timeout");
    let body_timeout = time(&mut table, "body-timeout");
    let write_timeout = time(&mut table, "write-timeout");
    table.finish();
    Some(Limits {
        max_connections: max_connections?,
        max_header_fields: max_header_fields?,
        max_header_size: max_header_size?,
        max_target: max_target?,
        max_bodies: max_bodies?,
        first_byte_timeout: first_byte_timeout?,
        header_timeout: header_timeout?,
        keep_alive_timeout: keep_alive_timeout?,
        body_idle_timeout: body_idle_timeout?,
        body_timeout: body_timeout?,
        write_timeout: write_timeout?,
    })
}

/// A size above zero.
pub(super) fn size(table: &mut TableReader<'_>, key: &'static str, most: usize) -> Option<usize> {
    let at = table.required(key)?;
    let size = at.parse("a size with its unit", "32KiB", units::size)?;
    if size == 0 || size > most {
        let most = bytesize::ByteSize(most as u64);
        return at.expected(
            &format!("a size above 0 B and up to {most}"),
            "write \"32KiB\"",
        );
    }
    Some(size)
}

/// A time above zero at `key`.
pub(super) fn time(table: &mut TableReader<'_>, key: &'static str) -> Option<Duration> {
    let at = table.required(key)?;
    let time = at.duration()?;
    if time.is_zero() {
        return at.expected("a time above zero", "write \"30s\"; no limit is a long one");
    }
    Some(time)
}
