//! A self-made certificate for `localhost` and 127.0.0.1.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

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
    pub fn make_in(directory: &Path) -> Self {
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_string(), "127.0.0.1".to_string()])
                .expect("make a self-signed certificate");
        let certificate = directory.join("tls.crt");
        let key = directory.join("tls.key");
        std::fs::write(&certificate, made.cert.pem()).expect("write the certificate");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("write the key");
        Self {
            certificate,
            key,
            der: made.cert.der().clone(),
        }
    }

    /// A client's TLS settings that trust this certificate and nothing else, and offer these protocols by ALPN.
    pub fn trusting_client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.der.clone())
            .expect("a certificate just made can be trusted");
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
