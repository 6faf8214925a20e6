//! The entries of the streams: what one node tells the others, and until when it concerns them.

use std::fmt;
use std::time::Duration;

use redis::Value;

use crate::policy::revocation::journal::Change;
use crate::telemetry::request::RequestId;

/// The largest payload of an entry, such as a message.
pub const PAYLOAD_MAX_BYTES: usize = 64 << 10;
/// The largest text of an entry, such as a filter.
pub const TEXT_MAX_BYTES: usize = 16 << 10;
/// The largest number of sessions that one entry names.
pub const IDS_MAX: usize = 256;
/// A close that is read later than this is skipped.
pub const CLOSE_MAX_AGE: Duration = Duration::from_mins(10);
/// A message that is read later than this is not sent: its clients may take it for a current one.
pub const SEND_MAX_AGE: Duration = Duration::from_secs(10);
/// A question that is read later than this is not answered: the node that asked does not wait any more.
pub const QUESTION_MAX_AGE: Duration = Duration::from_secs(2);

/// What a node tells the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A revocation was added or removed.
    Revocation(Change),
    /// Many revocations were added: nodes load the set.
    Load,
    /// Another session has taken over the slots of these sessions.
    Replaced(Vec<RequestId>),
    /// An operation of the API.
    Operation(Operation),
}

/// The kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// Closes sessions.
    Close,
    /// Sends a message to clients.
    Send,
    /// Asks for a page of sessions.
    Question,
    /// Renews the sessions of a client.
    Renew,
}

/// An operation of the API of another node. Its content is in the form of the module that executes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Operation {
    /// The kind.
    pub kind: OperationKind,
    /// The parameters, in JSON.
    pub text: String,
    /// A message, the id of a question, or a sealed token.
    pub payload: Vec<u8>,
}

/// Shows sizes only: a filter may name a subject, and a message is its clients' own.
impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, payload) = (self.text.len(), self.payload.len());
        f.debug_struct("Operation").field("kind", &self.kind).field("text", &text).field("payload", &payload).finish()
    }
}

impl OperationKind {
    /// Whether sessions that are on their way to another process need it when they have arrived. It may be executed twice.
    pub fn is_repeated(self) -> bool {
        matches!(self, Self::Close | Self::Renew)
    }

    /// Whether it concerns this node if it was published this long ago.
    pub fn is_current(self, age: Duration) -> bool {
        age <= match self {
            Self::Close | Self::Renew => CLOSE_MAX_AGE,
            Self::Send => SEND_MAX_AGE,
            Self::Question => QUESTION_MAX_AGE,
        }
    }
}

/// The fields of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    /// The kind of the event.
    pub kind: &'static str,
    /// The text of the event.
    pub text: String,
    /// The payload of the event.
    pub payload: Vec<u8>,
}

impl Event {
    /// Returns the fields of the entry.
    pub(super) fn fields(self) -> Fields {
        let fields = |kind, text| Fields { kind, text, payload: Vec::new() };
        match self {
            Self::Revocation(change) => fields("revocation", change.line()),
            Self::Load => fields("load", String::new()),
            Self::Replaced(ids) => {
                let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
                fields("replaced", ids.join(" "))
            }
            Self::Operation(Operation { kind, text, payload }) => Fields { kind: kind.label(), text, payload },
        }
    }

    /// Whether the metrics count it. Nothing is lost with a question that is not answered.
    pub(super) fn is_counted(&self) -> bool {
        !matches!(self, Self::Operation(operation) if operation.kind == OperationKind::Question)
    }

    /// Whether only nodes that read it at once need it.
    pub(super) fn is_short_lived(&self) -> bool {
        let Self::Operation(operation) = self else { return false };
        matches!(operation.kind, OperationKind::Send | OperationKind::Question)
    }

    fn parse(kind: &str, text: &str, payload: &[u8]) -> Option<Self> {
        let operation = |kind| Self::Operation(Operation { kind, text: text.to_owned(), payload: payload.to_owned() });
        match kind {
            "revocation" => Change::parse(text.trim_end_matches('\n').as_bytes()).map(Self::Revocation),
            "load" => Some(Self::Load),
            "replaced" => {
                let ids = text.split(' ').take(IDS_MAX.saturating_add(1)).map(|id| {
                    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
                    is_id.then(|| u128::from_str_radix(id, 16).ok()).flatten().map(RequestId)
                });
                ids.collect::<Option<Vec<_>>>().filter(|ids| ids.len() <= IDS_MAX).map(Self::Replaced)
            }
            _ => OperationKind::ALL.into_iter().find(|known| known.label() == kind).map(operation),
        }
    }
}

impl OperationKind {
    const ALL: [Self; 4] = [Self::Close, Self::Send, Self::Question, Self::Renew];

    fn label(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Send => "send",
            Self::Question => "question",
            Self::Renew => "renew",
        }
    }
}

/// The id of an entry: the time of the server in milliseconds, and a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryId(pub u64, pub u64);

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl EntryId {
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let (millis, number) = text(value)?.split_once('-')?;
        Some(Self(millis.parse().ok()?, number.parse().ok()?))
    }
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its id.
    pub id: EntryId,
    /// The process that wrote it, and what it says; `None`: it is not understood.
    pub content: Option<(String, Event)>,
}

impl Entry {
    fn parse(value: &Value) -> Option<Self> {
        let [id, fields] = array(value)? else { return None };
        Some(Self { id: EntryId::parse(id)?, content: content(fields) })
    }
}

/// Returns the entries of an answer to `XRANGE`; none if it is another answer.
pub(super) fn entries(value: &Value) -> Vec<Entry> {
    array(value).unwrap_or_default().iter().filter_map(Entry::parse).collect()
}

/// Returns the entries of the stream with this key in an answer to `XREAD`.
pub(super) fn entries_of(key: &str, value: &Value) -> Vec<Entry> {
    match value {
        Value::Map(streams) => {
            streams.iter().find(|(name, _)| text(name) == Some(key)).map(|(_, list)| entries(list)).unwrap_or_default()
        }
        // The form of RESP2.
        Value::Array(streams) => {
            let pairs = streams.iter().filter_map(|pair| <&[Value; 2]>::try_from(array(pair)?).ok());
            pairs
                .into_iter()
                .find(|[name, _]| text(name) == Some(key))
                .map(|[_, list]| entries(list))
                .unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn content(fields: &Value) -> Option<(String, Event)> {
    let fields: Vec<(&Value, &Value)> = match fields {
        Value::Array(flat) => flat.as_chunks::<2>().0.iter().map(|[name, value]| (name, value)).collect(),
        Value::Map(pairs) => pairs.iter().map(|(name, value)| (name, value)).collect(),
        _ => return None,
    };
    let find = |name| fields.iter().find(|(found, _)| text(found) == Some(name)).map(|(_, value)| *value);
    let payload = match find("p") {
        Some(Value::BulkString(bytes)) if bytes.len() <= PAYLOAD_MAX_BYTES => bytes.as_slice(),
        None => &[],
        Some(_) => return None,
    };
    let short = |name| find(name).and_then(text).filter(|text| text.len() <= TEXT_MAX_BYTES);
    Some((short("n")?.to_owned(), Event::parse(short("k")?, short("d")?, payload)?))
}

fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::revocation::entry::{Kind, Revocation, RevocationId, Target};

    fn bulk(bytes: impl AsRef<[u8]>) -> Value {
        Value::BulkString(bytes.as_ref().to_vec())
    }

    fn entry(id: &str, fields: &[(&str, &[u8])]) -> Value {
        let fields = fields.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect();
        Value::Array(vec![bulk(id), Value::Array(fields)])
    }

    fn written(event: Event) -> Value {
        let Fields { kind, text, payload } = event.fields();
        let mut fields: Vec<(&str, &[u8])> = vec![("n", b"me"), ("k", kind.as_bytes()), ("d", text.as_bytes())];
        if !payload.is_empty() {
            fields.push(("p", &payload));
        }
        entry("17-2", &fields)
    }

    #[test]
    fn each_event_is_read_as_it_was_written() {
        let operation = |kind, payload: &[u8]| {
            Event::Operation(Operation { kind, text: "{\"all\":true}".to_owned(), payload: payload.to_owned() })
        };
        let revocation = Revocation {
            target: Target::new(Kind::Subject, Some("users"), "ada").unwrap(),
            issued_before: Some(Duration::from_millis(1_800_000_000_001)),
            expires: Duration::from_millis(1_900_000_000_000),
            created: Duration::from_millis(1_800_000_000_000),
            reason: Some("a\nb".into()),
        };
        for event in [
            Event::Revocation(Change::Add(revocation)),
            Event::Revocation(Change::Remove(RevocationId(7))),
            Event::Load,
            Event::Replaced(vec![RequestId(1), RequestId(u128::MAX)]),
            operation(OperationKind::Close, b""),
            operation(OperationKind::Send, &[0xff, 0, b'\n']),
            operation(OperationKind::Question, b"id"),
            operation(OperationKind::Renew, b"sealed"),
        ] {
            let list = Value::Array(vec![written(event.clone())]);
            let expected = vec![Entry { id: EntryId(17, 2), content: Some(("me".to_owned(), event)) }];
            assert_eq!(entries(&list), expected);
            let answer = Value::Map(vec![(bulk("other"), Value::Array(vec![])), (bulk("key"), list.clone())]);
            assert_eq!(entries_of("key", &answer), expected);
            let answer = Value::Array(vec![Value::Array(vec![bulk("key"), list])]);
            assert_eq!(entries_of("key", &answer), expected, "RESP2");
        }
    }

    #[test]
    fn an_entry_that_is_not_understood_has_an_id_only() {
        let large = vec![b'x'; PAYLOAD_MAX_BYTES + 1];
        let ids = vec!["0".repeat(32); IDS_MAX + 1].join(" ");
        let table: &[&[(&str, &[u8])]] = &[
            &[],
            &[("n", b"me"), ("k", b"send")],
            &[("n", b"me"), ("k", b"other"), ("d", b"")],
            &[("n", b"me"), ("k", b"send"), ("d", b"{}"), ("p", &large)],
            &[("n", b"me"), ("k", b"send"), ("d", &large)],
            &[("n", b"me"), ("k", b"send"), ("d", b"\xff")],
            &[("n", b"me"), ("k", b"revocation"), ("d", b"0123456789abcdef {}")],
            &[("n", b"me"), ("k", b"replaced"), ("d", b"+1")],
            &[("n", b"me"), ("k", b"replaced"), ("d", ids.as_bytes())],
        ];
        for fields in table {
            let list = Value::Array(vec![entry("5-0", fields), Value::Nil, entry("x", fields)]);
            assert_eq!(entries(&list), [Entry { id: EntryId(5, 0), content: None }]);
        }
        for other in
            [Value::Nil, Value::Okay, Value::Map(vec![(Value::Nil, Value::Nil)]), Value::Array(vec![Value::Nil])]
        {
            assert_eq!((entries(&other), entries_of("key", &other)), (vec![], vec![]));
        }
    }

    #[test]
    fn ids_have_the_order_of_the_stream() {
        assert!(
            EntryId(9, 9) < EntryId(10, 0) && EntryId(10, 9) < EntryId(10, 10) && EntryId::default() < EntryId(0, 1)
        );
        assert_eq!(EntryId(3, 4).to_string(), "3-4");
    }

    #[test]
    fn old_operations_are_skipped() {
        let second = Duration::from_secs(1);
        for (kind, max) in [
            (OperationKind::Close, CLOSE_MAX_AGE),
            (OperationKind::Renew, CLOSE_MAX_AGE),
            (OperationKind::Send, SEND_MAX_AGE),
            (OperationKind::Question, QUESTION_MAX_AGE),
        ] {
            assert!(
                kind.is_current(Duration::ZERO) && kind.is_current(max) && !kind.is_current(max + second),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn closes_and_fresh_tokens_are_repeated_after_an_upgrade_of_the_program() {
        let repeated = OperationKind::ALL.map(OperationKind::is_repeated);
        assert_eq!(
            (OperationKind::ALL.map(OperationKind::label), repeated),
            (["close", "send", "question", "renew"], [true, false, false, true])
        );
    }

    #[test]
    fn debug_shows_no_content() {
        let operation = Operation { kind: OperationKind::Send, text: "ada".to_owned(), payload: b"secret".to_vec() };
        let shown = format!("{operation:?}");
        assert!(!shown.contains("ada") && shown.contains('6'), "{shown}");
    }
}
