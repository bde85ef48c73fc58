//! RFC 8628 and refresh, for any provider.
