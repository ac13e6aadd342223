//! A self-signed certificate for `localhost` and 127.0.0.1.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::error::{Context, Result};

/// A certificate and its key, as PEM files in a directory of the caller's.
#[derive(Debug)]
pub struct Certificate {
    /// PEM file of the certificate.
    pub certificate: PathBuf,
    /// PEM file of the private key.
    pub key: PathBuf,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// Makes one in `directory`, as `tls.crt` and `tls.key`.
    pub fn make_in(directory: &Path) -> Result<Self> {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_string(), "127.0.0.1".to_string()])
                .context("make a self-signed certificate")?;
        let certificate = directory.join("tls.crt");
        let key = directory.join("tls.key");
        std::fs::write(&certificate, made.cert.pem()).context("write the certificate")?;
        std::fs::write(&key, made.signing_key.serialize_pem()).context("write the key")?;
        Ok(Self {
            certificate,
            key,
            der: made.cert.der().clone(),
        })
    }

    /// TLS settings of a client that trusts only this certificate and offers these protocols by ALPN.
    pub fn trusting_client(&self, alpn: &[&str]) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.der.clone())
            .context("trust the certificate")?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("choose the versions of TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}
