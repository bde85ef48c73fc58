//! Log lines and metrics of the process.
//!
//! In come log settings, counts from the [`edge`](crate::edge), and the gates and
//! [`quotas`](crate::quotas) of the upstreams; out go lines on stderr and families in a Prometheus
//! registry. It calls the gates and quotas, at every scrape.

pub mod log;
pub mod metrics;
