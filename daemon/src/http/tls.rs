//! TLS on both sides: the listener's certificate, reread on reload, and the roots that clients trust.
//!
//! One provider for the whole process (ring), installed first thing in `main`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sauti_core::config::TlsFiles;
use tokio_rustls::TlsAcceptor;

/// A certificate, key or root that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read or holds no PEM of that kind.
    #[error("{what} {path}: {why}; write the full PEM file and make it readable for the service")]
    File {
        /// Which setting.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// rustls does not take them together.
    #[error("http.certificate and http.key: {0}; do they belong together?")]
    Pair(rustls::Error),
}

fn file(what: &'static str, path: &Path, why: &impl ToString) -> TlsError {
    TlsError::File { what, path: path.to_path_buf(), why: why.to_string() }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|why| file(what, path, &why))?.collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(file(what, path, &"no certificate in it")),
        Err(why) => Err(file(what, path, &why)),
    }
}

/// Reads the listener's certificate and key.
///
/// # Errors
/// A file is missing or not PEM, or the two do not belong together.
pub fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates("http.certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|why| file("http.key", &files.key, &why))?;
    let mut config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What HTTPS and WSS clients of this process trust: the system's roots and `[http] extra_roots`.
///
/// # Errors
/// An extra root cannot be read. A system without roots is no error: a box on plain loopback needs none.
pub fn client(extra_roots: &[PathBuf]) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in extra_roots {
        for certificate in certificates("http.extra_roots", path)? {
            roots.add(certificate).map_err(|why| file("http.extra_roots", path, &why))?;
        }
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}
