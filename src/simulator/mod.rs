//! The fake upstream.
