//! The parameters that a TLS handshake negotiated.

use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection};

/// The parameters that a TLS handshake negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsSummary {
    version: ProtocolVersion,
    suite: CipherSuite,
    resumed: bool,
}

impl TlsSummary {
    /// Reads the parameters of a connection whose handshake is complete.
    pub(super) fn of(connection: &ServerConnection) -> Self {
        Self {
            version: connection.protocol_version().unwrap_or(ProtocolVersion::Unknown(0)),
            suite: connection.negotiated_cipher_suite().map_or(CipherSuite::Unknown(0), |suite| suite.suite()),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// Returns the numbers of the version and of the cipher suite in the registries of IANA, and whether the client
    /// resumed an earlier session.
    pub fn to_codes(self) -> (u16, u16, bool) {
        (self.version.into(), self.suite.into(), self.resumed)
    }

    /// Returns the parameters with these numbers.
    pub fn from_codes((version, suite, resumed): (u16, u16, bool)) -> Self {
        Self { version: version.into(), suite: suite.into(), resumed }
    }

    /// Whether the version is TLS 1.3.
    pub fn is_tls13(self) -> bool {
        self.version == ProtocolVersion::TLSv1_3
    }

    /// Returns the version, as in `TLSv1_3`.
    pub fn version(self) -> &'static str {
        self.version.as_str().unwrap_or("unknown")
    }

    /// Returns the name of the cipher suite, as in the registry of IANA.
    pub fn cipher_suite(self) -> &'static str {
        self.suite.as_str().unwrap_or("unknown")
    }

    /// Whether the client resumed an earlier session by a ticket.
    pub fn resumed(self) -> bool {
        self.resumed
    }
}

#[cfg(test)]
impl TlsSummary {
    /// Returns the parameters of no connection, for tests.
    pub(crate) fn of_test() -> Self {
        Self { version: ProtocolVersion::TLSv1_3, suite: CipherSuite::TLS13_AES_128_GCM_SHA256, resumed: false }
    }
}
