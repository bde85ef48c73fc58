//! Which certificates to trust, and which protocols to offer.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{
    CertificateDer,
    pem::{Error as PemError, PemObject},
};

use super::error::ClientError;
use crate::config::{HttpVersion, Roots, Tls};

/// The TLS settings of one upstream.
pub(super) fn client_config(
    tls: &Tls,
    http: HttpVersion,
) -> Result<Arc<ClientConfig>, ClientError> {
    let mut roots = match tls.roots {
        Roots::Bundled => RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        },
        Roots::System => system_roots()?,
    };
    if let Some(file) = &tls.ca_file {
        add_file(&mut roots, file)?;
    }

    // Named explicitly, because a process that links two providers has no default.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = match http {
        HttpVersion::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        HttpVersion::H1 => vec![b"http/1.1".to_vec()],
        HttpVersion::H2 => vec![b"h2".to_vec()],
    };
    Ok(Arc::new(config))
}

/// A few invalid certificates in a system's store are normal; an empty store is not.
fn system_roots() -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(ClientError::SystemRoots(found.errors.into_iter().next()));
    }
    Ok(roots)
}

/// Unlike the system's store, this file was named on purpose: every certificate in it must be
/// valid.
fn add_file(roots: &mut RootCertStore, file: &Path) -> Result<(), ClientError> {
    let unusable = |reason: String| ClientError::CaFile {
        file: file.to_owned(),
        reason,
    };
    let pem = std::fs::read(file).map_err(|source| ClientError::UnreadableCaFile {
        file: file.to_owned(),
        source,
    })?;
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(pem_reason(&error).into()))?;
        roots
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    if roots.len() == before {
        return Err(unusable("no certificate in it".into()));
    }
    Ok(())
}

/// The parser's own text would quote the file, which may be a private key named by mistake.
fn pem_reason(error: &PemError) -> &'static str {
    match error {
        PemError::MissingSectionEnd { .. } => "a section has no end",
        PemError::Base64Decode(_) => "a section is not base64",
        _ => "not PEM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(contents: &[u8]) -> Result<Arc<ClientConfig>, ClientError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), contents).unwrap();
        let tls = Tls {
            roots: Roots::Bundled,
            ca_file: Some(file.path().to_owned()),
        };
        client_config(&tls, HttpVersion::Auto)
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused_with_a_hint() {
        for contents in [
            "",
            "no pem at all",
            "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n",
            "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n",
        ] {
            let error = with_file(contents.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("ca-file /"), "{error}");
            assert!(error.contains("hint: "), "{error}");
            assert!(!error.contains("Y2FuYXJ5"), "{error}");
        }
    }

    #[test]
    fn a_missing_ca_file_is_named() {
        let tls = Tls {
            roots: Roots::Bundled,
            ca_file: Some("/nowhere/ca.pem".into()),
        };
        let error = client_config(&tls, HttpVersion::H1).unwrap_err();
        assert!(matches!(error, ClientError::UnreadableCaFile { .. }));
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn alpn_offers_what_the_configured_version_allows() {
        let tls = Tls {
            roots: Roots::Bundled,
            ca_file: None,
        };
        let offered = |http| client_config(&tls, http).unwrap().alpn_protocols.clone();
        assert_eq!(offered(HttpVersion::Auto), [&b"h2"[..], b"http/1.1"]);
        assert_eq!(offered(HttpVersion::H1), [b"http/1.1"]);
        assert_eq!(offered(HttpVersion::H2), [b"h2"]);
    }
}
