//! What a TLS handshake that failed means, for whoever opens a connection: the registry's client, sources and sinks.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsError};

/// Why the two sides do not speak; not a fault of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody whom we trust signed the server's certificate.
    Authority,
    /// The server's certificate is another host's.
    Name,
    /// The server's certificate is not valid yet or no more.
    Date,
    /// The server's certificate is none that a client can take.
    Certificate,
    /// The server does not take our certificate, or wants one.
    Client,
    /// No version or cipher in common.
    Protocol,
}

impl Refusal {
    /// The refusal among the causes of an error; `None` where there is none.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(tls) = error.downcast_ref() {
            return Self::of_tls(tls);
        }
        // What an I/O error wraps is not its source: only that one's source is.
        let inner = match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        };
        inner.and_then(Self::of)
    }

    fn of_tls(error: &TlsError) -> Option<Self> {
        use AlertDescription as Alert;
        use CertificateError as Bad;
        Some(match error {
            // The latter where an authority of the same name has another key.
            TlsError::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => Self::Authority,
            TlsError::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => Self::Name,
            TlsError::InvalidCertificate(
                Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
            ) => Self::Date,
            TlsError::InvalidCertificate(_) => Self::Certificate,
            TlsError::AlertReceived(
                Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::CertificateRequired
                | Alert::UnknownCA
                | Alert::AccessDenied
                // What it says of a certificate whose authority has the name of one it trusts, and another key.
                | Alert::DecryptError,
            ) => Self::Client,
            TlsError::AlertReceived(Alert::ProtocolVersion | Alert::HandshakeFailure) | TlsError::PeerIncompatible(_) => {
                Self::Protocol
            }
            _ => return None,
        })
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Authority => {
                "name the PEM file of the authority that signed the server's certificate (sslrootcert=… in a database's URL, \
                 `ca` of a webhook, SSL_CERT_FILE in the environment for a registry), or find out who answers in the server's place"
            }
            Self::Name => "write the host as the server's certificate names it, or have the certificate issued for this host",
            Self::Date => "have the server's certificate renewed, and compare the clocks of both machines",
            Self::Certificate => {
                "have the server's certificate issued again: X.509 version 3, for a server, signed by an authority and not the \
                 authority's own"
            }
            Self::Client => {
                "name a certificate that the server's authority signed, with its key (sslcert=… and sslkey=… in a database's URL, \
                 `client_certificate` of a webhook)"
            }
            Self::Protocol => "let the server speak TLS 1.2 or newer",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_found_among_the_causes() {
        let tls = TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = sqlx::Error::Io(io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls)));
        assert_eq!(Refusal::of(&wrapped), Some(Refusal::Authority));
        assert_eq!(Refusal::of(&sqlx::Error::Io(io::ErrorKind::ConnectionReset.into())), None);
    }
    #[test]
    fn each_fault_has_its_refusal() {
        let bad = TlsError::InvalidCertificate;
        let alert = TlsError::AlertReceived;
        for (error, refusal) in [
            (bad(CertificateError::BadSignature), Some(Refusal::Authority)),
            (bad(CertificateError::NotValidForName), Some(Refusal::Name)),
            (bad(CertificateError::Expired), Some(Refusal::Date)),
            (bad(CertificateError::BadEncoding), Some(Refusal::Certificate)),
            (alert(AlertDescription::UnknownCA), Some(Refusal::Client)),
            (alert(AlertDescription::ProtocolVersion), Some(Refusal::Protocol)),
            (alert(AlertDescription::InternalError), None),
            (TlsError::HandshakeNotComplete, None),
        ] {
            assert_eq!(Refusal::of(&error), refusal, "{error}");
        }
    }
}
