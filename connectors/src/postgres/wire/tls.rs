//! TLS as the connection URL asks for it, in the words of `sslmode`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::error::WireError;

/// How much of the server's identity is checked. Each asks for more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SslMode {
    Disable,
    /// TLS where the server has it.
    Prefer,
    Require,
    /// The certificate comes from a known authority.
    VerifyCa,
    /// And is this host's.
    VerifyFull,
}

#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) mode: SslMode,
    /// PEM files. Without authorities those of the web are known.
    pub(crate) authorities: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

pub(crate) fn client(tls: &Tls) -> Result<ClientConfig, WireError> {
    let provider = Arc::new(ring::default_provider());
    let failed = |error: Error| WireError::Tls(format!("setting TLS up: {error}"));
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(failed)?;
    let builder = match tls.mode {
        SslMode::VerifyFull => builder.with_root_certificates(authorities(tls)?),
        SslMode::VerifyCa => {
            let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(authorities(tls)?), Arc::clone(&provider)).build();
            let chain = Some(chain.map_err(|error| WireError::Tls(format!("setting TLS up: {error}")))?);
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Nameless { provider, chain }))
        }
        SslMode::Disable | SslMode::Prefer | SslMode::Require => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Nameless { provider, chain: None }))
        }
    };
    match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
            builder.with_client_auth_cert(certificates(certificate)?, key).map_err(failed)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(WireError::Tls("sslcert and sslkey belong together: one of them is missing".to_owned())),
    }
}

fn authorities(tls: &Tls) -> Result<RootCertStore, WireError> {
    let mut store = RootCertStore::empty();
    match &tls.authorities {
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let (known, _) = store.add_parsable_certificates(certificates(path)?);
            if known == 0 {
                return Err(WireError::Tls(format!("{} holds no certificate of an authority", path.display())));
            }
        }
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| unreadable(path, &error))?;
    if read.is_empty() { Err(WireError::Tls(format!("{} holds no certificate", path.display()))) } else { Ok(read) }
}

fn unreadable(path: &Path, error: &rustls::pki_types::pem::Error) -> WireError {
    WireError::Tls(format!("{}: {error}", path.display()))
}

/// Checks less than everything: that the server has the key of its certificate, and, where there are authorities, that one of them
/// vouches for it; never the name.
#[derive(Debug)]
struct Nameless {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Nameless {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, when the chain is found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Hash of a certificate by the algorithm that it is signed with, SHA-256 in place of older ones (RFC 5929, section 4.1); `None` where
/// the signature has no such algorithm, as Ed25519.
pub(crate) fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    /// Elements of an ASN.1 sequence: content of the first one, and what follows it.
    fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
        let (&short, rest) = der.get(1..)?.split_first()?;
        let (length, rest) = if short < 0x80 {
            (usize::from(short), rest)
        } else {
            let (length, rest) = rest.split_at_checked(usize::from(short & 0x7F))?;
            let length = length.iter().try_fold(0_usize, |sum, &byte| sum.checked_mul(256)?.checked_add(usize::from(byte)))?;
            (length, rest)
        };
        rest.split_at_checked(length)
    }
    let (body, _) = element(certificate)?;
    let (_signed_part, rest) = element(body)?;
    let (algorithm, _) = element(rest)?;
    let (identifier, _) = element(algorithm)?;
    const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04];
    let hashed = match (identifier.strip_prefix(RSA), identifier.strip_prefix(ECDSA)) {
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => Sha256::digest(certificate).to_vec(),
        (Some([12]), _) | (_, Some([3, 3])) => Sha384::digest(certificate).to_vec(),
        (Some([13]), _) | (_, Some([3, 4])) => Sha512::digest(certificate).to_vec(),
        _ => return None,
    };
    Some(hashed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_have_an_end_point_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = end_point(&bytes);
        }
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let certificate = |identifier: &[u8]| {
            let mut out = vec![0x30, 0x81, u8::try_from(identifier.len() + 7).unwrap(), 0x30, 1, 0, 0x30];
            out.extend([u8::try_from(identifier.len() + 2).unwrap(), 6, u8::try_from(identifier.len()).unwrap()]);
            out.extend(identifier);
            out
        };
        let lengths = |identifier: &[u8]| end_point(&certificate(identifier)).map(|hash| hash.len());
        assert_eq!(lengths(&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 5]), Some(32), "SHA-1 is replaced");
        assert_eq!(lengths(&[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 13]), Some(64));
        assert_eq!(lengths(&[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 3, 3]), Some(48));
        assert_eq!(lengths(&[0x2B, 0x65, 0x70]), None, "Ed25519");
    }
}
