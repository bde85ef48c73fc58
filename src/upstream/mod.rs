//! The way to the upstream.
