//! Requests as text, so that malformed ones can be written, too.

use super::secrets;

/// The key of the example in RFC 6455 section 1.3, and its accept value below.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request under construction.
#[derive(Debug, Clone)]
pub struct Request {
    first_line: String,
    lines: Vec<String>,
}

impl Request {
    /// Returns a valid opening handshake for this target.
    pub fn to(target: &str) -> Self {
        let lines = [
            "Host: chat.example.com",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            &format!("Sec-WebSocket-Key: {KEY}"),
        ];
        Self { first_line: format!("GET {target} HTTP/1.1"), lines: lines.map(str::to_owned).to_vec() }
    }

    pub fn first_line(self, line: &str) -> Self {
        Self { first_line: line.to_owned(), ..self }
    }

    pub fn with(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        let prefix = format!("{}:", name.to_ascii_lowercase());
        self.lines.retain(|line| !line.to_ascii_lowercase().starts_with(&prefix));
        self
    }

    /// Replaces all lines with the name of this one.
    pub fn replacing(self, line: &str) -> Self {
        let name = line.split(':').next().unwrap_or_default();
        self.without(name).with(line)
    }

    pub fn bearer(self, token: &str) -> Self {
        self.with(&format!("Authorization: Bearer {token}"))
    }

    /// Returns the request as sent, and records its credentials as secrets.
    pub fn bytes(&self) -> Vec<u8> {
        self.lines.iter().chain([&self.first_line]).for_each(|line| secrets::remember_line(line));
        format!("{}\r\n{}\r\n\r\n", self.first_line, self.lines.join("\r\n")).into_bytes()
    }
}
