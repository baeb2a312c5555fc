//! What is wrong with a connection when trying again does not help: a certificate that is not
//! trusted, or TLS at one end alone.

use std::{error::Error, io};

use rustls::CertificateError;

/// How hyper tells that the first bytes of an answer are no HTTP; its type does not say which part
/// could not be read.
const NO_HTTP: &str = "invalid HTTP version parsed";

/// Why no connection comes about until somebody changes an address, a certificate or a setting. The
/// texts go on after the server's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionFault {
    /// The certificate leads to no authority that is trusted.
    #[error("its certificate is signed by nobody that is trusted here")]
    UnknownIssuer,
    /// The certificate is an authority's own.
    #[error("its certificate is an authority's (CA:TRUE), which no server may show as its own")]
    AuthorityAsServer,
    /// The certificate is for other names than the one that was dialled.
    #[error("its certificate is {presented}, not for {expected}")]
    OtherName {
        /// The name or number in the address.
        expected: String,
        /// What the certificate is for.
        presented: String,
    },
    /// The certificate's time is over.
    #[error("its certificate has expired")]
    Expired,
    /// The certificate's time has not begun, by this machine's clock.
    #[error("its certificate is not valid yet")]
    NotValidYet,
    /// Something else about the certificate.
    #[error("its certificate is not accepted: {0}")]
    Certificate(String),
    /// `http://` was dialled, and something else than HTTP came back.
    #[error("what it answers is no HTTP")]
    NoHttp,
    /// `https://` was dialled, and something else than TLS came back.
    #[error("what it answers is no TLS")]
    NoTls,
}

impl ConnectionFault {
    /// What to do about it, in one sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::UnknownIssuer => {
                "name a PEM file with its authority, or with the certificate itself if that signs itself, by --ca-file or GRISTMILL_CA_FILE"
            }
            Self::AuthorityAsServer => {
                "give the server a certificate with basicConstraints CA:FALSE (openssl: -addext basicConstraints=critical,CA:FALSE)"
            }
            Self::OtherName { .. } => {
                "use an address that the certificate names, or give the server a certificate for this one (subjectAltName)"
            }
            Self::Expired => "give the server a new certificate; if it has one, look at this machine's clock",
            Self::NotValidYet => "look at this machine's clock, and at the certificate's dates",
            Self::Certificate(_) => {
                "give the server another certificate; `openssl x509 -text` shows what is in it"
            }
            Self::NoHttp => "write https:// if the server has a certificate, and look at the port",
            Self::NoTls => "write http:// if the server has no certificate, and look at the port",
        }
    }

    /// What a failed call met, if it was one of these.
    pub(crate) fn of(error: &reqwest::Error) -> Option<Self> {
        let is_plain = error.url().is_some_and(|url| url.scheme() == "http");
        Self::in_causes(error).filter(|fault| is_plain || *fault != Self::NoHttp)
    }

    fn in_causes(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(cause) = next {
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::of_tls(tls);
            }
            if cause.to_string() == NO_HTTP {
                return Some(Self::NoHttp);
            }
            // An I/O error that holds another one passes over it when it is asked for its cause.
            let held = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = match held {
                Some(held) => Some(held),
                None => cause.source(),
            };
        }
        None
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Some(Self::NoTls),
            rustls::Error::InvalidCertificate(error) => Some(Self::of_certificate(error)),
            _ => None,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            // An authority that only has the same name as the issuer did not sign it either.
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                Self::UnknownIssuer
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotValidYet,
            CertificateError::NotValidForNameContext { expected, presented } => {
                Self::OtherName { expected: expected.to_str().into_owned(), presented: named(presented) }
            }
            CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
                Self::AuthorityAsServer
            }
            other => Self::Certificate(other.to_string()),
        }
    }
}

/// The names of a certificate, which come as `DnsName("a")` and `IpAddress(b)`.
fn named(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').to_owned()
    };
    let names: Vec<_> = presented.iter().map(bare).collect();
    if names.is_empty() { "for no name at all".into() } else { format!("for {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn met(error: rustls::Error) -> Option<ConnectionFault> {
        // As deep as the HTTP client hides it.
        ConnectionFault::in_causes(&io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    #[test]
    fn errors_of_certificates_are_found_below_those_of_connections() {
        let name = rustls::pki_types::ServerName::try_from("queue.example.com").expect("a name");
        let presented = vec!["DnsName(\"localhost\")".to_owned(), "IpAddress(127.0.0.1)".to_owned()];
        let other_name = CertificateError::NotValidForNameContext { expected: name, presented };
        let ca = CertificateError::Other(rustls::OtherError(Arc::new(io::Error::other("CaUsedAsEndEntity"))));
        for (error, fault, words) in [
            (CertificateError::UnknownIssuer, ConnectionFault::UnknownIssuer, "nobody that is trusted"),
            (CertificateError::BadSignature, ConnectionFault::UnknownIssuer, "nobody that is trusted"),
            (CertificateError::Expired, ConnectionFault::Expired, "expired"),
            (CertificateError::NotValidYet, ConnectionFault::NotValidYet, "not valid yet"),
            (ca, ConnectionFault::AuthorityAsServer, "CA:TRUE"),
            (
                other_name,
                ConnectionFault::OtherName {
                    expected: "queue.example.com".into(),
                    presented: "for localhost, 127.0.0.1".into(),
                },
                "is for localhost, 127.0.0.1, not for queue.example.com",
            ),
        ] {
            let found = met(error.into()).expect("a fault");
            assert_eq!(found, fault);
            assert!(found.to_string().contains(words), "{found}");
        }
        let odd = met(CertificateError::Revoked.into()).expect("a fault");
        assert!(matches!(odd, ConnectionFault::Certificate(_)), "{odd:?}");
    }

    #[test]
    fn what_may_pass_by_itself_is_no_fault() {
        assert_eq!(met(rustls::Error::HandshakeNotComplete), None);
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(ConnectionFault::in_causes(&refused), None);
    }
}
