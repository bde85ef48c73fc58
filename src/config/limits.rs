//! `[limits]`: what a client may take up.

use std::time::Duration;

use super::{
    cursor::{Cursor, Fields},
    units,
};

/// What a client may take up. Nothing here bounds a stream that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at once.
    pub max_connections: usize,
    /// Most header fields of a request.
    pub max_header_fields: usize,
    /// The largest header, all fields together, in bytes.
    pub max_header_size: usize,
    /// The longest request target, in bytes.
    pub max_target: usize,
    /// The most that request bodies may weigh together, in bytes.
    pub max_bodies: usize,
    /// How long a new connection may be silent.
    pub first_byte_timeout: Duration,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// How long a connection is kept between two requests.
    pub keep_alive_timeout: Duration,
    /// The longest silence in a request body.
    pub body_idle_timeout: Duration,
    /// From the first byte of a body to its last.
    pub body_timeout: Duration,
    /// How long a client may take nothing of an answer that is there for it.
    pub write_timeout: Duration,
}

/// The HTTP library's own limit.
const MOST_HEADER_FIELDS: usize = 100;

/// More connections than a process has descriptors for.
const MOST_CONNECTIONS: usize = 1_000_000;

/// The HTTP library takes no longer targets.
const MOST_TARGET: usize = 65_534;

/// Reads the table.
pub(super) fn read(cursor: &Cursor<'_>) -> Option<Limits> {
    let mut fields = cursor.fields()?;
    let max_connections = fields
        .required("max-connections")
        .and_then(|most| most.integer(1, MOST_CONNECTIONS));
    let max_header_fields = fields
        .required("max-header-fields")
        .and_then(|most| most.integer(1, MOST_HEADER_FIELDS));
    let max_header_size = size(&mut fields, "max-header-size", usize::MAX);
    let max_target = size(&mut fields, "max-target", MOST_TARGET);
    let max_bodies = size(&mut fields, "max-bodies", usize::MAX);
    let first_byte_timeout = time(&mut fields, "first-byte-timeout");
    let header_timeout = time(&mut fields, "header-timeout");
    let keep_alive_timeout = time(&mut fields, "keep-alive-timeout");
    let body_idle_timeout = time(&mut fields, "body-idle-timeout");
    let body_timeout = time(&mut fields, "body-timeout");
    let write_timeout = time(&mut fields, "write-timeout");
    fields.finish();
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

/// A size that lets something through.
pub(super) fn size(fields: &mut Fields<'_>, key: &'static str, most: usize) -> Option<usize> {
    let at = fields.required(key)?;
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

fn time(fields: &mut Fields<'_>, key: &'static str) -> Option<Duration> {
    let at = fields.required(key)?;
    let time = at.duration()?;
    if time.is_zero() {
        return at.expected("a time above zero", "write \"30s\"; no limit is a long one");
    }
    Some(time)
}
