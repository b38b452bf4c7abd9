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
    /// The SIP listener does not take them.
    #[error("sip.certificate and sip.key cannot be used; the old ones stay")]
    Unusable,
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

/// Reads certificate and key of the SIP listener as PEM, the key as PKCS #8 or PKCS #1, which is what its library takes.
///
/// # Errors
/// A file is missing or not PEM, the two do not belong together, or the key is in another form.
pub fn pem(files: &TlsFiles) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let chain = certificates("sip.certificate", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|why| file("sip.key", &files.key, &why))?;
    if matches!(key, PrivateKeyDer::Sec1(_)) {
        let why = "it is in SEC 1 form; turn it into PKCS #8 with `openssl pkcs8 -topk8 -nodes`";
        return Err(file("sip.key", &files.key, &why));
    }
    ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).map_err(TlsError::Pair)?;
    let read = |what, path: &Path| std::fs::read(path).map_err(|why| file(what, path, &why));
    Ok((read("sip.certificate", &files.certificate)?, read("sip.key", &files.key)?))
}

/// The same roots as [`client`], as one PEM text, for the SIP library.
///
/// # Errors
/// As [`client`].
pub fn roots_pem(extra_roots: &[PathBuf]) -> Result<Vec<u8>, TlsError> {
    use base64::Engine as _;
    let mut all: Vec<CertificateDer<'static>> = rustls_native_certs::load_native_certs().certs;
    for path in extra_roots {
        all.extend(certificates("http.extra_roots", path)?);
    }
    let mut text = String::new();
    for certificate in all {
        let base64 = base64::engine::general_purpose::STANDARD.encode(&certificate);
        text.push_str(&format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n"));
    }
    Ok(text.into_bytes())
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
