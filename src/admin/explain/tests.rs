use http::StatusCode;

use super::*;
use crate::config::keys::KEYS;
use crate::policy::framing::FramingError;
use crate::policy::logout::LogoutError;
use crate::policy::path::PathError;
use crate::policy::rejection::Rejection;
use crate::policy::token::TokenError;
use crate::session::{AdmissionRule, CloseReason, ClosedBy, Outcome, Side};
use crate::ws::code::CloseCode;
use crate::ws::handshake::{AnswerError, OpeningError};
use crate::ws::violation::Violation;

/// Lists the values of an enum, and does not compile if a variant is missing. A variant with fields has its values
/// after the `=`.
macro_rules! all {
    ($enum:ident { $($variant:ident $(= $values:expr)?),* $(,)? }) => {{
        let _ = |value: $enum| match value { $($enum::$variant { .. } => (),)* };
        let mut all: Vec<$enum> = Vec::new();
        $(all.extend(all!(@ $enum::$variant $(, $values)?));)*
        all
    }};
    (@ $one:expr) => { [$one] };
    (@ $one:expr, $values:expr) => { $values };
}

fn sides<T>(make: impl Fn(Side) -> T) -> [T; 2] {
    Side::BOTH.map(make)
}

fn statuses() -> impl Iterator<Item = StatusCode> {
    [200, 301, 400, 401, 403, 404, 421, 426, 429, 500, 503].into_iter().map(|code| StatusCode::from_u16(code).unwrap())
}

fn opening_errors() -> Vec<OpeningError> {
    all!(OpeningError {
        NotUpgrade,
        Version,
        Method,
        Body,
        Host,
        Target,
        Key,
        Protocol,
        Extensions,
        Origin,
        TooManyItems,
    })
}

fn path_errors() -> Vec<PathError> {
    all!(PathError {
        NotAbsolute,
        TooLong,
        TooManySegments,
        Delimiter,
        BadEscape,
        EncodedSlash,
        Backslash,
        Control,
        NotUtf8,
        DotSegment,
        DotParameter,
        EmptySegment,
        EncodedTwice,
        HeaderValue,
    })
}

fn token_errors() -> Vec<TokenError> {
    all!(TokenError {
        TooLong,
        NotCompact,
        Base64,
        HeaderMalformed,
        HeaderDuplicate,
        Critical,
        UnencodedPayload,
        AlgorithmUnknown,
        AlgorithmNotAllowed,
        KeyUnknown,
        KeyAmbiguous,
        Signature,
        ClaimsMalformed,
        ClaimsDuplicate,
        ExpiresMissing,
        ExpiresMalformed,
        Expired,
        NotBeforeMalformed,
        NotYetValid,
        Issuer,
        Audience,
        LogoutToken,
        SubjectMissing,
        SubjectTooLong,
    })
}

fn logout_errors() -> Vec<LogoutError> {
    all!(LogoutError {
        Form,
        Token = token_errors().into_iter().map(LogoutError::Token),
        Type,
        Claims,
        Issuer,
        Audience,
        Issued,
        Expires,
        Target,
        Events,
        Nonce,
        Id,
        Replayed,
        NotStored,
        Busy,
        NoKeys,
    })
}

fn rejections() -> Vec<Rejection> {
    all!(Rejection {
        Head = [true, false].map(|too_large| Rejection::Head { too_large }),
        Opening = opening_errors().into_iter().map(Rejection::Opening),
        Host,
        Path = path_errors().into_iter().map(Rejection::Path),
        NoRoute,
        Misdirected,
        Method,
        Address,
        UpgradeRate = [Rejection::UpgradeRate { retry_after_secs: 7 }],
        RequestRate = [Rejection::RequestRate { retry_after_secs: 7 }],
        Unsupported,
        Framing = framing_errors().into_iter().map(Rejection::Framing),
        BodyTooLarge,
        BodyTimeout,
        Origin,
        NoToken,
        TokenAmbiguous,
        Token = token_errors().into_iter().map(Rejection::Token),
        Revoked,
        Logout = logout_errors().into_iter().map(Rejection::Logout),
        AuthStatus = statuses().map(Rejection::AuthStatus),
        AuthUnavailable,
        AuthBusy,
        KeysUnavailable = [Rejection::KeysUnavailable { retry_after_secs: 7 }],
        Claims,
        AddressSessions,
        SubjectSessions,
        ClusterUnavailable,
        Full,
        RequestsFull,
        AddressRequests,
        Memory,
        Draining,
        UpstreamBusy = [Rejection::UpstreamBusy { retry_after_secs: 7 }],
        UpstreamFull = [Rejection::UpstreamFull { retry_after_secs: 7 }],
        UpstreamRate = [Rejection::UpstreamRate { retry_after_secs: 7 }],
        Unreachable,
        UpstreamMalformed,
        UpstreamTimeout,
        Answer = answer_errors().into_iter().map(Rejection::Answer),
        UpstreamStatus = statuses().map(Rejection::UpstreamStatus),
        ClientGone,
    })
}

fn framing_errors() -> Vec<FramingError> {
    all!(FramingError { LineEnd, Host, Target, Length, TransferEncoding, TooManyNames, Body })
}

fn answer_errors() -> Vec<AnswerError> {
    all!(AnswerError { Status, NotUpgrade, Accept, Protocol, Extension })
}

fn violations() -> Vec<Violation> {
    all!(Violation {
        ReservedBit,
        ReservedOpcode,
        LengthNotMinimal,
        LengthOver63Bits,
        NotMasked,
        Masked,
        FragmentedControl,
        LongControl,
        UnexpectedContinuation,
        InterruptedMessage,
        ShortClose,
        CloseCode,
        CloseReason,
        TextNotUtf8,
        FrameTooBig,
        MessageTooBig,
    })
}

fn causes() -> Vec<CloseReason> {
    let violations = violations();
    let broken = |side| violations.iter().map(move |violation| CloseReason::Violation(side, *violation));
    all!(CloseReason {
        Closed,
        Violation = Side::BOTH.into_iter().flat_map(broken),
        MessageRate,
        ByteRate = sides(CloseReason::ByteRate),
        OverheadRate,
        TokenExpired,
        MaxAge,
        IdleTimeout,
        NoPong = sides(CloseReason::NoPong),
        Drain,
        Disconnected = sides(CloseReason::Disconnected),
        WriteStall = sides(CloseReason::WriteStall),
        SlowClient,
        Command,
        Revoked,
        Replaced,
        NotAdmitted = AdmissionRule::ALL.map(CloseReason::NotAdmitted),
        Removed,
        ServerDrain,
        Rebalance,
        Aborted,
    })
}

fn outcomes() -> Vec<Outcome> {
    let codes = (1000..=1015).chain([2000, 3000, 4999]).map(|code| Some(CloseCode(code))).chain([None]);
    let sides = all!(ClosedBy { Client, Upstream, Tollgate });
    let closed = codes.flat_map(|code| {
        sides.iter().map(move |by| Outcome { by: *by, code, cause: CloseReason::Closed }).collect::<Vec<_>>()
    });
    let others =
        causes().into_iter().map(|cause| Outcome { by: ClosedBy::Tollgate, code: Some(cause.close_code()), cause });
    closed.chain(others).collect()
}

const KNOWN: Facts<'_> = Facts {
    listener: Some("0.0.0.0:443"),
    route: Some("chat"),
    auth: Some("users"),
    upstream: Some("rooms"),
    server: Some("127.0.0.1:9001"),
    origin: Some("https://evil.example"),
    host: Some("chat.example.com"),
    path: Some("/ws/blue"),
    address: Some("192.0.2.7"),
    claim: Some("scope"),
    is_claim_required: Some(true),
    has_hosts: true,
    slash_route: None,
    shares_slots: false,
    detail: Some("connection refused"),
};

/// Facts with which other words are chosen.
const OTHER: Facts<'_> = Facts {
    is_claim_required: Some(false),
    slash_route: Some("chat"),
    origin: None,
    shares_slots: true,
    detail: Some("the TLS handshake failed"),
    ..KNOWN
};

/// Returns every explanation with these facts, and the event that it explains.
fn explanations(facts: &Facts<'static>) -> Vec<(String, Explanation<'static>)> {
    let rejected = rejections().into_iter().map(|one| (format!("{one:?}"), rejection(one, facts)));
    let ended = outcomes().into_iter().map(|one| (format!("{one:?}"), end(one, "maintenance", facts)));
    rejected.chain(ended).collect()
}

#[test]
fn every_event_is_explained_in_sentences() {
    for facts in [KNOWN, OTHER, Facts::default()] {
        for (event, Explanation { text, advice, .. }) in explanations(&facts) {
            for part in [&text, &advice] {
                let starts = part.starts_with(|first: char| first.is_ascii_uppercase() || first.is_ascii_digit());
                assert!(starts || part.starts_with(['`', '[']), "{event}: {part}");
                assert!(part.ends_with('.') && !part.ends_with(".."), "{event}: {part}");
                let malformed = ["  ", " .", " ,", "\"\"", "()", "None"].iter().any(|bad| part.contains(bad));
                assert!(!malformed, "{event}: {part}");
            }
            assert!(text.matches(". ").count() < 2, "{event} has more than two sentences: {text}");
        }
    }
}

/// A text that names a key in backquotes names one that exists.
#[test]
fn every_named_key_exists() {
    let is_key = |name: &str| KEYS.iter().any(|key| key.name == name);
    for facts in [KNOWN, OTHER, Facts::default()] {
        for (event, Explanation { text, advice, settings }) in explanations(&facts) {
            for (section, key) in settings {
                let exists = KEYS.iter().any(|known| known.section == section.kind() && known.name == key);
                assert!(exists, "{event}: {section} {key}");
            }
            for quoted in format!("{text} {advice}").split('`').skip(1).step_by(2) {
                let others = ["issued_before"];
                let is_other = quoted.starts_with("tollgate ") || quoted.ends_with('=') || others.contains(&quoted);
                assert!(is_other || is_key(quoted.split(" = ").next().unwrap()), "{event}: {quoted}");
            }
        }
    }
}

#[test]
fn a_setting_whose_section_is_not_known_is_left_out() {
    let names = |facts: &Facts<'static>| {
        let settings = rejection(Rejection::NoToken, facts).settings;
        settings.iter().map(|(section, key)| format!("{section} {key}")).collect::<Vec<_>>()
    };
    assert_eq!(names(&KNOWN), ["[auth.users] token_from", "[[route]] \"chat\" auth"]);
    assert_eq!(names(&Facts { auth: None, ..KNOWN }), ["[[route]] \"chat\" auth"]);
    assert!(names(&Facts::default()).is_empty());
}

#[test]
fn a_limit_that_nodes_share_is_one_of_all_nodes() {
    for limit in [Rejection::AddressSessions, Rejection::SubjectSessions] {
        let text = |shares_slots| rejection(limit, &Facts { shares_slots, ..KNOWN }).text;
        assert!(text(true).contains(" on all nodes of the cluster together") && !text(false).contains("cluster"));
    }
    let late = rejection(Rejection::ClusterUnavailable, &KNOWN);
    assert!(late.text.contains("late, or it is away") && late.advice.contains("`on_outage = \"local\"`"), "{late:?}");
}

mod texts;
