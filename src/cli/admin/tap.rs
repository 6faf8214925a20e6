//! `tollgate tap`: prints the frames of a session as they pass.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::Tap;
use super::client::Client;
use super::failure::Failure;
use super::output::{self, number, text};
use super::select::percent;

/// The largest event: a payload of 4 KiB as base64 and as escaped text.
const EVENT_MAX_BYTES: usize = 256 * 1024;

/// Prints each frame until the session ends. The exit code is 1 if the process cannot be reached, or has no session
/// with the id.
pub fn run(arguments: &Tap) -> ExitCode {
    output::finish("tap", tap(arguments))
}

fn tap(arguments: &Tap) -> Result<(), Failure> {
    let client = Client::new(&arguments.connection)?;
    let query = if arguments.payload { "?payload=true" } else { "" };
    let mut events = Events::default();
    client.stream(&format!("/v1/sessions/{}/frames{query}", percent(&arguments.id)), |data| {
        for (event, data) in events.take(data)? {
            if arguments.connection.json {
                output::print_json(&json!({ "event": event, "data": data }))?;
            } else {
                output::print(&format!("{}\n", output::escape(&line(&event, &data))))?;
            }
        }
        Ok(())
    })
}

/// The parser of server-sent events, as far as the API uses them: each has a name and one line of data.
#[derive(Debug, Default)]
struct Events {
    buffer: Vec<u8>,
    name: String,
}

impl Events {
    /// Takes the next bytes of the stream, and returns the events that they complete.
    fn take(&mut self, data: &[u8]) -> Result<Vec<(String, Value)>, Failure> {
        self.buffer.extend_from_slice(data);
        let mut events = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(name) = line.strip_prefix("event:") {
                name.trim().clone_into(&mut self.name);
            } else if let Some(data) = line.strip_prefix("data:") {
                events.push((self.name.clone(), serde_json::from_str(data).unwrap_or_default()));
            }
        }
        if self.buffer.len() > EVENT_MAX_BYTES {
            return Err(Failure::new("the answer has an event that is too large"));
        }
        Ok(events)
    }
}

fn line(event: &str, data: &Value) -> String {
    if event == "missed" {
        return format!("{} frames are not shown: they passed too fast", text(data, "count"));
    }
    let is = |name: &str| data.get(name) == Some(&Value::Bool(true));
    let arrow = if text(data, "direction") == "in" { "->" } else { "<-" };
    let fin = if is("fin") { "" } else { " ..." };
    let compressed = if is("compressed") { " compressed" } else { "" };
    let payload = match (data.get("text"), data.get("payload")) {
        (Some(Value::String(text)), _) => format!("  {}", text.replace('\n', "\\n")),
        (_, Some(Value::String(payload))) => format!("  base64 {payload}"),
        _ => String::new(),
    };
    let (at, opcode) = (number(data, "at_seconds"), text(data, "opcode"));
    format!(
        "{at:>10.3} s  {arrow}  {opcode:<12}  {:>10}{compressed}{fin}{payload}",
        output::bytes(number(data, "length"))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_from_parts_of_any_size() {
        let stream = b"event: frame\ndata: {\"length\":5}\n\n: keep-alive\n\nevent:missed\ndata:{\"count\":2}\n\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let read: Vec<_> = stream.chunks(size).flat_map(|part| events.take(part).unwrap()).collect();
            let expected = [("frame".to_owned(), json!({ "length": 5 })), ("missed".to_owned(), json!({ "count": 2 }))];
            assert_eq!(read, expected, "{size}");
        }
        assert!(Events::default().take("x".repeat(EVENT_MAX_BYTES + 1).as_bytes()).is_err());
    }

    #[test]
    fn a_frame_is_a_line() {
        let mut frame = json!({ "at_seconds": 1.5, "direction": "in", "opcode": "text", "fin": true, "length": 5 });
        assert_eq!(line("frame", &frame), "     1.500 s  ->  text                 5 B");
        frame["text"] = "a\nb".into();
        assert!(line("frame", &frame).ends_with("5 B  a\\nb"));
        assert!(line("missed", &json!({ "count": 3 })).starts_with("3 frames"));
    }
}
