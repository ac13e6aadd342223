//! TLS settings for upstreams.

use crate::config::Address;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// TLS for the connections of clients to `address`.
///
/// # Errors
/// A file can't be read or used, or no certificate is trusted.
pub fn client(address: &Address) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &address.ca_file {
        for certificate in certificates(file)? {
            roots.add(certificate).with_context(|| {
                format!(
                    "ca_file: {} has a certificate that can't be used",
                    file.display()
                )
            })?;
        }
    } else {
        let (_, _) =
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        bail!("no certificates to trust were found; name some by tls.ca_file");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match (&address.cert_file, &address.key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("key_file: {} has no key in PEM", key.display()))?;
            builder.with_client_auth_cert(chain, key)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// TLS for Levee's own client at `address`.
///
/// # Errors
/// A file can't be read.
pub fn certificates_of(address: &Address) -> Result<redis::TlsCertificates> {
    let read = |file: &Option<PathBuf>| {
        let Some(file) = file else { return Ok(None) };
        fs::read(file)
            .map(Some)
            .with_context(|| format!("{} can't be read", file.display()))
    };
    let client_tls =
        read(&address.cert_file)?
            .zip(read(&address.key_file)?)
            .map(|(client_cert, client_key)| redis::ClientTlsConfig {
                client_cert,
                client_key,
            });
    Ok(redis::TlsCertificates {
        client_tls,
        root_cert: read(&address.ca_file)?,
    })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || format!("{} can't be read as certificates in PEM", file.display());
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .with_context(read)?
        .collect::<Result<_, _>>()
        .with_context(read)?;
    if found.is_empty() {
        bail!("{} has no certificate in PEM", file.display());
    }
    Ok(found)
}
