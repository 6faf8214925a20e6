//! Reads and writes the trace context of a request: `traceparent` and `tracestate` (W3C Trace Context, level 1).

use std::fmt;
use std::num::NonZeroU128;

use serde::{Deserialize, Serialize};

use http::HeaderMap;

/// The names of the two headers.
pub const TRACEPARENT: &str = "traceparent";
/// See [`TRACEPARENT`].
pub const TRACESTATE: &str = "tracestate";

/// The flag of a request that the caller recorded, the only one that the specification defines (section 3.2.2.5.1). The
/// others must be zero in a request to the next server.
const SAMPLED: u8 = 1;
/// The version that is never valid (section 3.2.2.1).
const FORBIDDEN_VERSION: u128 = 0xff;
/// Limit on the members of `tracestate` (section 3.3.1.1).
const MEMBERS_MAX: usize = 32;
/// Limit on the length of `tracestate`: at least this much should pass (section 3.3.1.5).
const STATE_MAX_BYTES: usize = 512;
/// Longer members are the first to be removed from a `tracestate` that is too long (section 3.3.1.5).
const LONG_MEMBER_BYTES: usize = 128;

/// Identifies the trace that a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceId(NonZeroU128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The trace context of a request: the client's, or one that Tollgate created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: TraceId,
    is_sampled: bool,
    /// Whether it is the client's, so that the client's `tracestate` belongs to it.
    is_received: bool,
}

impl TraceContext {
    /// Reads the context of a client's request. Without exactly one valid `traceparent`, creates a context with a
    /// random trace id that is not sampled.
    pub fn of_request(headers: &HeaderMap, random: impl FnOnce() -> [u8; 16]) -> Self {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let received = match (values.next(), values.next()) {
            (Some(value), None) => parse(value.as_bytes()),
            _ => None,
        };
        received.unwrap_or_else(|| {
            let id = NonZeroU128::new(u128::from_be_bytes(random())).unwrap_or(NonZeroU128::MIN);
            Self { trace_id: TraceId(id), is_sampled: false, is_received: false }
        })
    }

    /// Returns the trace id, for the log.
    pub fn trace_id(self) -> TraceId {
        self.trace_id
    }

    /// Returns the `traceparent` of the request to the upstream. `span_id` must be random: it identifies that request.
    pub fn traceparent(self, span_id: [u8; 8]) -> String {
        let span_id = u64::from_be_bytes(span_id).max(1);
        format!("00-{}-{span_id:016x}-{:02x}", self.trace_id, u8::from(self.is_sampled) * SAMPLED)
    }

    /// Returns the `tracestate` of the request to the upstream: the client's without a change if its `traceparent` is
    /// valid. Whole members are removed from one of more than 512 bytes, and one with more than 32 members or with
    /// other characters than ASCII is dropped.
    pub fn tracestate(self, headers: &HeaderMap) -> Option<String> {
        if !self.is_received || !headers.contains_key(TRACESTATE) {
            return None;
        }
        let lines: Vec<&str> =
            headers.get_all(TRACESTATE).iter().map(|line| line.to_str().ok()).collect::<Option<_>>()?;
        let combined = lines.join(",");
        let members = combined.split(',').map(str::trim).filter(|member| !member.is_empty());
        let members: Vec<&str> = members.take(MEMBERS_MAX + 1).collect();
        match members.len() {
            0 => None,
            1..=MEMBERS_MAX if combined.len() <= STATE_MAX_BYTES => Some(combined),
            1..=MEMBERS_MAX => shorten(members),
            _ => None,
        }
    }
}

/// Parses a `traceparent`. Of a version after 00, the fields of version 00 count and further ones may follow (section
/// 3.2.4).
fn parse(value: &[u8]) -> Option<TraceContext> {
    let mut fields = value.splitn(5, |byte| *byte == b'-');
    let version = hex::<2>(fields.next()?)?;
    let trace_id = NonZeroU128::new(hex::<32>(fields.next()?)?)?;
    let parent_id = hex::<16>(fields.next()?)?;
    let flags = hex::<2>(fields.next()?)?;
    let has_more = fields.next().is_some();
    if version == FORBIDDEN_VERSION || parent_id == 0 || (version == 0 && has_more) {
        return None;
    }
    let is_sampled = flags & u128::from(SAMPLED) != 0;
    Some(TraceContext { trace_id: TraceId(trace_id), is_sampled, is_received: true })
}

/// Parses a number of exactly `N` hexadecimal digits. Upper case is not allowed.
fn hex<const N: usize>(text: &[u8]) -> Option<u128> {
    let digits: &[u8; N] = text.try_into().ok()?;
    digits.iter().try_fold(0, |number: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// Removes members until the rest fits: first long ones, then others, each time the last one, which was added first.
fn shorten(mut members: Vec<&str>) -> Option<String> {
    let mut len: usize = members.iter().map(|member| member.len() + 1).sum();
    for longer_than in [LONG_MEMBER_BYTES, 0] {
        // The last member has no comma.
        while len > STATE_MAX_BYTES + 1 {
            let Some(at) = members.iter().rposition(|member| member.len() > longer_than) else { break };
            len -= members.remove(at).len() + 1;
        }
    }
    (!members.is_empty()).then(|| members.join(","))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn context(lines: &[(&'static str, &str)]) -> TraceContext {
        TraceContext::of_request(&headers(lines), || [7; 16])
    }

    #[test]
    fn a_valid_traceparent_keeps_its_trace_id_and_its_sampled_flag() {
        let with = |version: &str, rest: &str| format!("{version}-{TRACE}-b7ad6b7169203331-{rest}");
        for (value, flags) in [
            (with("00", "01"), "01"),
            (with("00", "00"), "00"),
            // Undefined flags are not passed on.
            (with("00", "fe"), "00"),
            (with("00", "ff"), "01"),
            (with("01", "01"), "01"),
            (with("cc", "00-what-the-future-brings"), "00"),
            (with("fe", "01-"), "01"),
        ] {
            let context = context(&[(TRACEPARENT, &value)]);
            let sent = context.traceparent([0, 0, 0, 0, 0, 0, 0xab, 0xcd]);
            assert_eq!(sent, format!("00-{TRACE}-000000000000abcd-{flags}"), "{value}");
            assert_eq!(context.trace_id().to_string(), TRACE, "{value}");
        }
    }

    #[test]
    fn an_invalid_traceparent_is_replaced_by_a_new_one() {
        let no_trace = "0".repeat(32);
        let table = [
            String::new(),
            "00".to_owned(),
            VALID[..54].to_owned(),
            format!("{VALID}0"),
            format!("{VALID}-"),
            format!("{VALID}-00"),
            format!(" {VALID}"),
            format!("ff{}", &VALID[2..]),
            format!("ff{}-more", &VALID[2..]),
            format!("0{VALID}"),
            VALID.to_ascii_uppercase(),
            VALID.replacen("00-", "0A-", 1),
            VALID.replace("af", "aF"),
            VALID.replace("-01", "-0A"),
            VALID.replace("-01", "-1"),
            VALID.replace("-01", ".01"),
            VALID.replace("-b7", "_b7"),
            VALID.replace("b7ad", "b7ag"),
            VALID.replace("b7ad6b7169203331", "0000000000000000"),
            VALID.replace(TRACE, &no_trace),
            VALID.replace(TRACE, &TRACE[1..]),
            format!("cc{}.more", &VALID[2..]),
        ];
        let created = "07".repeat(16);
        for value in &table {
            let context = context(&[(TRACEPARENT, value), (TRACESTATE, "a=1")]);
            assert_eq!(context.traceparent([1; 8]), format!("00-{created}-0101010101010101-00"), "{value:?}");
            assert_eq!(context.tracestate(&headers(&[(TRACESTATE, "a=1")])), None, "{value:?}");
        }
        assert_eq!(context(&[(TRACEPARENT, VALID), (TRACEPARENT, VALID)]).trace_id().to_string(), created);
        assert_eq!(context(&[]).trace_id().to_string(), created);
    }

    #[test]
    fn ids_that_are_created_are_never_zero() {
        let context = TraceContext::of_request(&HeaderMap::new(), || [0; 16]);
        let (trace_id, span_id) = (format!("{:032x}", 1), format!("{:016x}", 1));
        assert_eq!(context.traceparent([0; 8]), format!("00-{trace_id}-{span_id}-00"));
    }

    #[test]
    fn a_tracestate_passes_unchanged_up_to_its_limits() {
        let state = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| (TRACESTATE, *line)).collect();
            context(&[(TRACEPARENT, VALID)]).tracestate(&headers(&lines))
        };
        let list = |count: usize, len: usize| {
            (0..count).map(|n| format!("{n:02}={:x<1$}", "", len - 3)).collect::<Vec<_>>().join(",")
        };
        let long = |n: usize| format!("long{n}={}", "y".repeat(130));
        let of = |members: &[&str]| members.join(",");
        for (lines, expected) in [
            (&[][..], None),
            (&["", " , ,"], None),
            (&["a=1 , b@c=2"], Some("a=1 , b@c=2".to_owned())),
            (&["a=1", "b=2"], Some("a=1,b=2".to_owned())),
            (&["a=\u{e9}"], None),
            (&[&list(32, 15)], Some(list(32, 15))),
            (&[&list(33, 5)], None),
            (&[&list(1, 512)], Some(list(1, 512))),
            (&[&list(1, 513)], None),
            // Members are removed from the end.
            (&[&list(32, 16)], Some(list(30, 16))),
            (&[&list(5, 120)], Some(list(4, 120))),
            // Long ones are removed first, as far as necessary.
            (
                &[&of(&["a=1", &long(1), &long(2), &long(3), &long(4), "b=2"])],
                Some(of(&["a=1", &long(1), &long(2), &long(3), "b=2"])),
            ),
            (&[&of(&[&long(1), &list(4, 110)])], Some(list(4, 110))),
        ] {
            assert_eq!(state(lines), expected, "{lines:?}");
        }
    }
}
