//! TLS towards clients.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// The certificate or the key of `listen-tls` cannot be used. No text quotes a file: one of them is
/// a secret.
#[derive(Debug, thiserror::Error)]
pub enum ListenTlsError {
    /// The certificate file contains no certificate.
    #[error(
        "listen-tls: no certificate in {}\n  hint: it must hold a certificate in PEM form (-----BEGIN CERTIFICATE-----), \
         then those that lead to a root", .0.display()
    )]
    NoCertificate(PathBuf),
    /// The key file contains no private key.
    #[error(
        "listen-tls: no private key in {}\n  hint: it must hold one in PEM form (-----BEGIN PRIVATE KEY-----), \
         without a passphrase", .0.display()
    )]
    NoKey(PathBuf),
    /// One of the files cannot be read.
    #[error("listen-tls: cannot read {}: {reason}\n  hint: check the path and its permissions", file.display())]
    Unreadable {
        /// The file as configured.
        file: PathBuf,
        /// The cause.
        reason: io::Error,
    },
    /// The key does not belong to the certificate.
    #[error(
        "listen-tls: {} and {} cannot be used: {reason}\n  hint: the first certificate of cert-file \
         must be the one that key-file was made for", cert.display(), key.display()
    )]
    Unusable {
        /// The certificate file as configured.
        cert: PathBuf,
        /// The key file as configured.
        key: PathBuf,
        /// The cause.
        reason: rustls::Error,
    },
}

/// Serves with the certificates in `cert_file` and their key in `key_file`, both PEM. ALPN offers
/// HTTP/1.1 only.
pub(crate) fn server_config(
    cert_file: &Path,
    key_file: &Path,
) -> Result<Arc<ServerConfig>, ListenTlsError> {
    let pem = read(cert_file)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .unwrap_or_default();
    if chain.is_empty() {
        return Err(ListenTlsError::NoCertificate(cert_file.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
        .map_err(|_| ListenTlsError::NoKey(key_file.to_owned()))?;
    // Named explicitly, because a process that links two providers has no default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|reason| ListenTlsError::Unusable {
            cert: cert_file.to_owned(),
            key: key_file.to_owned(),
            reason,
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(file: &Path) -> Result<Vec<u8>, ListenTlsError> {
    fs::read(file).map_err(|reason| ListenTlsError::Unreadable {
        file: file.to_owned(),
        reason,
    })
}
