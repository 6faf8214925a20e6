//! Ordinary requests and responses as text, and messages with a body that is delimited.

use std::io::{Read, Write};

use super::wire::{Head, Peer};

/// A message with its whole body, and the trailer section of a chunked one.
#[derive(Debug)]
pub struct Message {
    pub head: Head,
    pub body: String,
    pub trailers: Vec<String>,
}

impl<S: Read + Write> Peer<S> {
    /// Reads a line without its end.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.take(1));
        }
        String::from_utf8(line).unwrap().trim_end_matches("\r\n").to_owned()
    }

    /// Reads a chunk. `None`: the last one.
    pub fn chunk(&mut self) -> Option<String> {
        let len = usize::from_str_radix(&self.line(), 16).expect("the size of a chunk");
        if len == 0 {
            return None;
        }
        let data = self.take(len);
        assert_eq!(self.take(2), b"\r\n");
        Some(String::from_utf8(data).unwrap())
    }

    /// Reads a request or a response, whose body has a length or chunks.
    pub fn message(&mut self) -> Message {
        let head = self.head();
        let (mut body, mut trailers) = (String::new(), Vec::new());
        if head.get("Transfer-Encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                body += &chunk;
            }
            trailers.extend(std::iter::from_fn(|| Some(self.line()).filter(|line| !line.is_empty())));
        } else if let Some(length) = head.get("Content-Length") {
            body = String::from_utf8(self.take(length.parse().unwrap())).unwrap();
        }
        Message { head, body, trailers }
    }

    /// Sends a response with this body.
    pub fn respond(&mut self, lines: &str, body: &str) {
        self.send(format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    }

    /// Sends a request without a body.
    pub fn get(&mut self, target: &str) {
        self.send(get(target).as_bytes());
    }
}

/// Returns a request without a body.
pub fn get(target: &str) -> String {
    request("GET", target, "", "")
}

/// Returns a request with these lines and this body.
pub fn request(method: &str, target: &str, lines: &str, body: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: chat.example.com\r\n{lines}\r\n{body}")
}
