//! TLS to upstreams.

use crate::config::Address;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Whom to trust and who to be, at `address`.
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
