//! A certificate authority for one run, and a leaf certificate that is valid or not on purpose.

use std::{io, sync::Arc};

use clap::ValueEnum;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// How TLS is served.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// The certificate to serve.
    pub leaf: Leaf,
    /// Names of the certificate besides `localhost`, `127.0.0.1` and `::1`.
    pub names: Vec<String>,
    /// Offer `h2` by ALPN, and not only `http/1.1`.
    pub h2: bool,
}

/// Whether the certificate is valid, and if not, why.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Leaf {
    /// Ran out years ago.
    Expired,
    /// Signed by the CA, for the names.
    #[default]
    Good,
    /// Signed by the CA, for another host's name.
    OtherName,
    /// Signed by itself, for the names.
    SelfSigned,
}

// === impl TlsOptions ===

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            leaf: Leaf::default(),
            names: Vec::new(),
            h2: true,
        }
    }
}

/// Makes the CA and the leaf; returns the acceptor and the CA certificate as PEM.
///
/// # Errors
///
/// When a name is not valid in a certificate.
pub(super) fn build(tls: &TlsOptions) -> io::Result<(TlsAcceptor, String)> {
    let (key, leaf, ca_pem) = certificates(tls).map_err(io::Error::other)?;
    // Named explicitly, because rustls panics if a process has two providers and no default.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            config
                .with_no_client_auth()
                .with_single_cert(vec![leaf], key)
        })
        .map_err(io::Error::other)?;
    let h2 = tls.h2.then(|| b"h2".to_vec());
    config.alpn_protocols = h2.into_iter().chain([b"http/1.1".to_vec()]).collect();
    Ok((TlsAcceptor::from(Arc::new(config)), ca_pem))
}

fn certificates(
    tls: &TlsOptions,
) -> Result<(PrivateKeyDer<'static>, CertificateDer<'static>, String), rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let ca_params = authority()?;
    let ca_pem = ca_params.self_signed(&ca_key)?.pem();
    let ca = Issuer::new(ca_params, ca_key);

    let key = KeyPair::generate()?;
    let params = leaf(tls)?;
    let certificate = match tls.leaf {
        Leaf::SelfSigned => params.self_signed(&key)?,
        Leaf::Expired | Leaf::Good | Leaf::OtherName => params.signed_by(&key, &ca)?,
    };
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok((key.into(), certificate.der().clone(), ca_pem))
}

fn authority() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "pacegate simulator CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf(tls: &TlsOptions) -> Result<CertificateParams, rcgen::Error> {
    let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let names = match tls.leaf {
        Leaf::OtherName => vec!["other.invalid".to_owned()],
        Leaf::Expired | Leaf::Good | Leaf::SelfSigned => {
            own.into_iter().chain(tls.names.iter().cloned()).collect()
        }
    };
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "pacegate simulator");
    params.use_authority_key_identifier_extension = tls.leaf != Leaf::SelfSigned;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if tls.leaf == Leaf::Expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    Ok(params)
}
