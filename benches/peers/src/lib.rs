//! Shared by the proxies in `src/bin`.

use std::{env, fs, net::SocketAddr, sync::Arc};

use anyhow::Context;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};

mod forward;
mod upstream;

pub use self::{
    forward::{collected, serve, without_hop_by_hop},
    upstream::{Io, Upstream},
};

/// The command line of a proxy: `LISTEN UPSTREAM [CA-FILE]`.
#[derive(Debug)]
pub struct ProxyArgs {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Scheme and authority of the upstream, without a slash at the end.
    pub upstream: String,
    /// The TLS config, with the CA to trust.
    pub tls: ClientConfig,
}

impl ProxyArgs {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// If an argument is missing or invalid, or the CA file cannot be read.
    pub fn from_args() -> anyhow::Result<Self> {
        let mut args = env::args().skip(1);
        let listen = args.next().context("no address to listen on")?.parse()?;
        let upstream = args.next().context("no upstream")?;
        let mut roots = RootCertStore::empty();
        if let Some(file) = args.next() {
            let pem = fs::read(file)?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate?)?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            listen,
            upstream,
            tls,
        })
    }
}
