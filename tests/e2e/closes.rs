//! Every close reason of a session (DESIGN section 5): the Close that each end receives, and the log line.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tollgate::session::{AdmissionRule, CloseReason, Side};
use tollgate::ws::violation::Violation;

use crate::support::PATIENCE;
use crate::support::every::every;
use crate::support::gate::Gate;
use crate::support::pki::token;
use crate::support::request::Request;
use crate::support::session::Session;
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::{BINARY, CLOSE, CONTINUATION, End, Frame, PING, Peer};

/// One way to end a session, with the expected results.
struct Case {
    setup: Setup,
    request: Request,
    /// Provokes the end.
    play: Box<dyn Fn(&mut Session, &Gate)>,
    /// The bytes that each end is expected to receive.
    client: Gets,
    server: Gets,
    /// The expected fields of the log line.
    by: &'static str,
    code: Option<u16>,
}

/// The frames and the end of the stream that an end receives.
#[derive(Debug, Clone, Copy)]
enum Gets {
    /// This many data frames, then a Close with this code and reason, which the end answers.
    Close(usize, u16, &'static str),
    /// A Close with this code and reason, after which the connection ends.
    LastClose(u16, &'static str),
    /// A Close without a code.
    EmptyClose,
    /// The end of the stream without a Close.
    Cut,
    /// Nothing: the end has disconnected.
    Absent,
}

fn case(play: impl Fn(&mut Session, &Gate) + 'static, gets: [Gets; 2], by: &'static str, code: Option<u16>) -> Case {
    let [client, server] = gets;
    Case { setup: Setup::new(), request: Request::to("/open/"), play: Box::new(play), client, server, by, code }
}

/// Expects the same Close at both ends, sent by the proxy.
fn ours(play: impl Fn(&mut Session, &Gate) + 'static, code: u16, reason: &'static str) -> Case {
    case(play, [Gets::Close(0, code, reason); 2], "tollgate", Some(code))
}

impl Case {
    fn limits(self, lines: &str) -> Self {
        Self { setup: self.setup.limits(lines), ..self }
    }
}

/// Write timeout after which a flood counts as blocked.
const BLOCKED: Duration = Duration::from_millis(100);

/// Returns the cases that provoke `cause`. The match is exhaustive, so that every cause has its cases.
fn cases(cause: CloseReason) -> Vec<Case> {
    match cause {
        CloseReason::Closed => closed(),
        CloseReason::Violation(side, violation) => violations(side, violation),
        CloseReason::MessageRate => {
            let two_texts = |session: &mut Session, _: &Gate| {
                session.client.send_text("one");
                session.client.send_text("two");
            };
            let both = [Gets::Close(0, 1008, "message rate exceeded"), Gets::Close(1, 1008, "message rate exceeded")];
            vec![case(two_texts, both, "tollgate", Some(1008)).limits("message_rate = \"1/h\"")]
        }
        CloseReason::OverheadRate => {
            let three_pings = |session: &mut Session, _: &Gate| {
                (0..3).for_each(|_| session.client.send_frame(Frame::new(PING, "")));
            };
            vec![ours(three_pings, 1008, "frame rate exceeded").limits("overhead_rate = \"1/h\"\noverhead_burst = 2")]
        }
        CloseReason::ByteRate(side) => {
            let frame = Frame::new(BINARY, [0; 2048]);
            let two_frames = move |session: &mut Session, _: &Gate| match side {
                Side::Client => (0..2).for_each(|_| session.client.send_frame(frame.clone())),
                Side::Upstream => (0..2).for_each(|_| session.server.send_frame(frame.clone())),
            };
            let reason = match side {
                Side::Client => "byte rate of the client exceeded",
                Side::Upstream => "byte rate of the upstream exceeded",
            };
            let gets = |receiver| Gets::Close(usize::from(side != receiver), 1008, reason);
            let both = [gets(Side::Client), gets(Side::Upstream)];
            let limits = "byte_rate = \"1KiB/h\"\nbyte_burst = \"3KiB\"";
            vec![case(two_frames, both, "tollgate", Some(1008)).limits(limits)]
        }
        // It takes a second session, so `limits.rs` has the case.
        CloseReason::Replaced => vec![],
        CloseReason::TokenExpired => {
            let exp = jsonwebtoken::get_current_timestamp() + 2;
            let request = Request::to("/room/blue").bearer(&token(&json!({ "exp": exp })));
            vec![Case { request, ..ours(|_, _| {}, 1008, "token expired") }]
        }
        CloseReason::MaxAge => {
            vec![ours(|_, _| {}, 1001, "maximum session age").limits("max_session_age = \"1s\"")]
        }
        CloseReason::IdleTimeout => vec![ours(|_, _| {}, 1001, "idle timeout").limits("idle_timeout = \"100ms\"")],
        CloseReason::NoPong(Side::Client) => {
            vec![ours(|_, _| {}, 1001, "no pong").limits("ping_interval = \"100ms\"\npong_timeout = \"100ms\"")]
        }
        CloseReason::NoPong(Side::Upstream) => {
            let both = [Gets::Close(0, 1014, "no pong"), Gets::LastClose(1001, "no pong")];
            let limits = "upstream_ping_interval = \"100ms\"\npong_timeout = \"100ms\"";
            vec![case(|_, _| {}, both, "tollgate", Some(1014)).limits(limits)]
        }
        CloseReason::Drain => vec![ours(|_, gate| gate.drain(), 1001, "going away")],
        CloseReason::Disconnected(side) => gone(side),
        // After it has given up one side, the proxy reads and discards the rest of the other side's flood.
        CloseReason::WriteStall(Side::Client) => vec![
            case(
                |session, _| {
                    session.server.stream.set_write_timeout(Some(BLOCKED)).unwrap();
                    let (_, rest) = session.server.flood();
                    session.server.stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    session.server.send(&rest);
                },
                [Gets::Absent, Gets::Close(0, 1001, "client does not read")],
                "tollgate",
                Some(1001),
            )
            .limits("write_timeout = \"1s\""),
        ],
        CloseReason::WriteStall(Side::Upstream) => vec![
            case(
                |session, _| {
                    session.client.set_timeout(BLOCKED);
                    let (_, rest) = session.client.flood();
                    session.client.set_timeout(PATIENCE);
                    session.client.send(&rest);
                },
                [Gets::Close(0, 1014, "upstream does not read"), Gets::Absent],
                "tollgate",
                Some(1014),
            )
            .limits("write_timeout = \"1s\""),
        ],
        // It takes a client that reads slowly, so `slow_clients.rs` has the case.
        CloseReason::SlowClient => vec![],
        // Sent by the admin API, whose tests have the case.
        CloseReason::Command => vec![],
        // `revocation` and `logout` have the cases.
        CloseReason::Revoked => vec![],
        CloseReason::NotAdmitted(_) => {
            let denied =
                |text: String| text.replace("auth = \"none\"", "auth = \"none\"\ndeny_addresses = [\"127.0.0.1\"]");
            let reload = move |_: &mut Session, gate: &Gate| drop(gate.reload(denied));
            let case = ours(reload, 1008, "no longer admitted");
            vec![Case { setup: case.setup.server("recheck_max = \"off\""), ..case }]
        }
        CloseReason::Removed => {
            let renamed = |text: String| text.replace("name = \"open\"", "name = \"opened\"");
            let reload = move |_: &mut Session, gate: &Gate| drop(gate.reload(renamed));
            let case = ours(reload, 1001, "route removed");
            vec![Case { setup: case.setup.server("recheck_max = \"off\""), ..case }]
        }
        CloseReason::ServerDrain => {
            let drains = |text: String| {
                let address = text.split("servers = [\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
                let drained = format!("servers = [{{ address = {address:?}, drain = true }}]");
                text.replace(&format!("servers = [{address:?}]"), &drained)
            };
            let reload = move |_: &mut Session, gate: &Gate| drop(gate.reload(drains));
            vec![ours(reload, 1012, "server drained")]
        }
        // `draining` has the case, which needs two servers.
        CloseReason::Rebalance => vec![],
        CloseReason::Aborted => vec![case(
            |session, gate| {
                gate.drain();
                session.server.expect_close(1001);
                session.client.expect_close(1001);
                gate.signal(Signal::TERM);
            },
            [Gets::Cut; 2],
            "tollgate",
            // The log keeps the code of the close; the abort after it is not logged.
            Some(1001),
        )],
    }
}

/// A Close of one end reaches the other end unchanged, and so does the answering Close.
fn closed() -> Vec<Case> {
    let client = |frame: Frame| move |session: &mut Session, _: &Gate| session.client.send_frame(frame.clone());
    let server = |frame: Frame| move |session: &mut Session, _: &Gate| session.server.send_frame(frame.clone());
    let mut cases = Vec::new();
    for (code, reason) in [(1000, ""), (4001, "see you"), (3000, "\u{1f44b}"), (1014, "")] {
        let gets = [Gets::Close(0, code, reason); 2];
        cases.push(case(client(Frame::close(code, reason)), gets, "client", Some(code)));
        cases.push(case(server(Frame::close(code, reason)), gets, "upstream", Some(code)));
    }
    cases.push(case(client(Frame::new(CLOSE, "")), [Gets::EmptyClose; 2], "client", None));
    cases.push(case(server(Frame::new(CLOSE, "")), [Gets::EmptyClose; 2], "upstream", None));
    cases
}

fn gone(side: Side) -> Vec<Case> {
    let half_a_frame = [0x82, 0x05, b'a', b'b'];
    let half_a_masked_frame = [0x82, 0x85, 0, 0, 0, 0, b'a', b'b'];
    match side {
        Side::Client => vec![
            case(
                |session, _| session.client.stream.sock.shutdown(Shutdown::Both).unwrap(),
                [Gets::Absent, Gets::Close(0, 1001, "client went away")],
                "client",
                Some(1001),
            ),
            // A close_notify alone is not a closing handshake of the WebSocket.
            case(
                |session, _| {
                    session.client.stream.conn.send_close_notify();
                    session.client.stream.flush().unwrap();
                },
                [Gets::Absent, Gets::Close(0, 1001, "client went away")],
                "client",
                Some(1001),
            ),
            // No Close can be sent inside a frame, so the upstream only sees the end of the stream.
            case(
                move |session, _| {
                    session.client.send(&half_a_masked_frame);
                    assert_eq!(session.server.take(8), half_a_masked_frame);
                    session.client.stream.sock.shutdown(Shutdown::Both).unwrap();
                },
                [Gets::Absent, Gets::Cut],
                "client",
                Some(1001),
            ),
        ],
        Side::Upstream => vec![
            case(
                |session, _| session.server.stream.shutdown(Shutdown::Both).unwrap(),
                [Gets::Close(0, 1014, "upstream went away"), Gets::Absent],
                "upstream",
                Some(1014),
            ),
            case(
                |session, _| session.server.stream.shutdown(Shutdown::Write).unwrap(),
                [Gets::Close(0, 1014, "upstream went away"), Gets::Absent],
                "upstream",
                Some(1014),
            ),
            case(
                move |session, _| {
                    session.server.send(&half_a_frame);
                    assert_eq!(session.client.take(4), half_a_frame);
                    session.server.stream.shutdown(Shutdown::Both).unwrap();
                },
                [Gets::Cut, Gets::Absent],
                "upstream",
                Some(1014),
            ),
        ],
    }
}

const SIZES: &str = "message_max_size = \"16B\"\nframe_max_size = \"10B\"\nupstream_message_max_size = \"16B\"";

fn violations(side: Side, violation: Violation) -> Vec<Case> {
    let mask = (side == Side::Client).then_some([0; 4]);
    let bytes = |frame: Frame| Frame { mask, ..frame }.bytes();
    let masked = u8::from(mask.is_some()) << 7;
    let (big, small) = (Frame::new(BINARY, [0; 40]), Frame::new(BINARY, [0; 8]));
    let offences = match violation {
        Violation::ReservedBit => [4, 2, 1].map(|rsv| bytes(Frame::text("x").rsv(rsv))).to_vec(),
        Violation::ReservedOpcode => [3, 7, 0xb, 0xf].map(|opcode| bytes(Frame::new(opcode, "x"))).to_vec(),
        Violation::LengthNotMinimal => vec![
            [&[0x82, masked | 0x7e, 0, 125][..], &[0; 40]].concat(),
            [&[0x82, masked | 0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0xff][..], &[0; 40]].concat(),
        ],
        Violation::LengthOver63Bits => vec![[&[0x82, masked | 0x7f, 0x80][..], &[0; 40]].concat()],
        // Only text from the client is checked.
        Violation::TextNotUtf8 if side == Side::Upstream => vec![],
        // Each of these is a violation on one side and required on the other.
        Violation::NotMasked | Violation::Masked if (violation == Violation::NotMasked) != (side == Side::Client) => {
            vec![]
        }
        Violation::NotMasked => vec![Frame::text("x").bytes(), Frame::new(PING, "").bytes()],
        Violation::Masked => vec![Frame::text("x").masked().bytes()],
        Violation::FragmentedControl => vec![bytes(Frame::new(PING, "").unfinished())],
        Violation::LongControl => vec![bytes(Frame::new(PING, [0; 126]))],
        Violation::UnexpectedContinuation => vec![bytes(Frame::new(CONTINUATION, "x"))],
        Violation::InterruptedMessage => vec![[bytes(Frame::text("a").unfinished()), bytes(Frame::text("x"))].concat()],
        Violation::ShortClose => vec![bytes(Frame::new(CLOSE, [3]))],
        Violation::CloseCode => {
            [0, 999, 1004, 1005, 1006, 1015, 2999, 5000].map(|code| bytes(Frame::close(code, ""))).to_vec()
        }
        Violation::CloseReason => vec![bytes(Frame::new(CLOSE, [3, 232, 0xff]))],
        Violation::TextNotUtf8 => vec![bytes(Frame::new(1, [0xc3, 0x28])), bytes(Frame::new(1, [0xc3]))],
        Violation::FrameTooBig => vec![bytes(big), {
            let mut huge = vec![0x82, masked | 0x7f];
            huge.extend_from_slice(&(i64::MAX as u64).to_be_bytes());
            huge.extend_from_slice(mask.as_ref().map_or(&[][..], |mask| mask));
            huge
        }],
        Violation::MessageTooBig => {
            let rest = Frame::new(CONTINUATION, [0; 9]);
            vec![[bytes(small.unfinished()), bytes(rest)].concat()]
        }
    };
    // Frames before the violation have been forwarded; nothing of the violating frame is.
    let before = usize::from(matches!(violation, Violation::InterruptedMessage | Violation::MessageTooBig));
    let limits = match violation {
        Violation::TextNotUtf8 => "check_utf8 = true",
        Violation::FrameTooBig | Violation::MessageTooBig => SIZES,
        _ => "",
    };
    let code = match violation {
        Violation::FrameTooBig | Violation::MessageTooBig => 1009,
        Violation::TextNotUtf8 | Violation::CloseReason => 1007,
        _ => 1002,
    };
    let (offender, other) = (Gets::Close(0, code, violation.label()), Gets::Close(before, code, violation.label()));
    let gets = if side == Side::Client { [offender, other] } else { [other, offender] };
    let offend = |offence: Vec<u8>| {
        move |session: &mut Session, _: &Gate| match side {
            Side::Client => session.client.send(&offence),
            Side::Upstream => session.server.send(&offence),
        }
    };
    offences.into_iter().map(|offence| case(offend(offence), gets, "tollgate", Some(code)).limits(limits)).collect()
}

/// Runs all cases of `causes`.
fn check(causes: impl IntoIterator<Item = CloseReason>) {
    let upstream = Upstream::bind();
    for cause in causes {
        for (number, case) in cases(cause).into_iter().enumerate() {
            let what = format!("{cause:?}, case {number}");
            let gate = case.setup.start(&upstream);
            let mut session = Session::open_with(&gate, &upstream, &case.request, &[]);
            let asked_id = session.asked.get("X-Request-Id").unwrap().to_owned();
            (case.play)(&mut session, &gate);
            // The end that caused the close answers last: one that broke a rule still gets answers to earlier messages.
            let by_upstream =
                matches!(cause, CloseReason::Violation(Side::Upstream, _) | CloseReason::ByteRate(Side::Upstream));
            let upstream_first = case.by != "upstream" && !by_upstream;
            if upstream_first {
                get(&format!("{what}: the upstream"), &mut session.server, case.server);
            }
            get(&format!("{what}: the client"), &mut session.client, case.client);
            if !upstream_first {
                get(&format!("{what}: the upstream"), &mut session.server, case.server);
            }
            expect_end(&format!("{what}: the upstream"), session.server, case.server);
            expect_end(&format!("{what}: the client"), session.client, case.client);

            let line = gate.log.next("session ended");
            assert_eq!(line["by"], case.by, "{what}: {line}");
            assert_eq!(line["code"].as_u64(), case.code.map(u64::from), "{what}: {line}");
            assert_eq!(line["request_id"], asked_id, "{what}: {line}");
            assert_eq!(line["server"], upstream.address().to_string(), "{what}: {line}");
            if cause != CloseReason::Aborted {
                assert_eq!(line["cause"], cause.label(), "{what}: {line}");
            }
        }
    }
}

fn get<S: std::io::Read + Write>(what: &str, peer: &mut Peer<S>, gets: Gets) {
    let mut frames = Vec::new();
    let close = match gets {
        Gets::Absent => return,
        Gets::Cut => return assert!(peer.rest().0.is_empty(), "{what}"),
        Gets::Close(..) | Gets::LastClose(..) | Gets::EmptyClose => loop {
            let frame = peer.frame();
            match frame.opcode {
                CLOSE => break frame,
                PING => {}
                _ => frames.push(frame),
            }
        },
    };
    let (code, reason) = close.close_payload();
    match gets {
        Gets::Close(before, expected, why) => {
            assert_eq!((code, reason.as_str()), (Some(expected), why), "{what}");
            assert_eq!(frames.len(), before, "{what}: {frames:?}");
        }
        Gets::LastClose(expected, why) => {
            return assert_eq!((code, reason.as_str(), frames.len()), (Some(expected), why, 0), "{what}");
        }
        _ => assert_eq!((code, frames.len()), (None, 0), "{what}"),
    }
    // The end that closed first reads the answer here, and its own reply may find the connection closed.
    let _ = peer.try_send_frame(Frame { mask: None, ..close });
}

/// Checks that nothing follows a Close except a clean end of the stream, and closes this end.
fn expect_end<S: std::io::Read + Write>(what: &str, mut peer: Peer<S>, gets: Gets) {
    if let Gets::Close(..) | Gets::LastClose(..) | Gets::EmptyClose = gets {
        assert_eq!(peer.rest(), (Vec::new(), End::Clean), "{what}");
    }
}

fn violations_of(side: Side) -> impl Iterator<Item = CloseReason> {
    every!(Violation {
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
    .into_iter()
    .map(move |violation| CloseReason::Violation(side, violation))
}

#[test]
fn client_violations_close_both_ends() {
    check(violations_of(Side::Client));
}

#[test]
fn upstream_violations_close_both_ends() {
    check(violations_of(Side::Upstream));
}

#[test]
fn every_other_cause_ends_the_session_as_specified() {
    let sides = || Side::BOTH.into_iter();
    check(every!(CloseReason {
        Closed,
        Violation([CloseReason::Violation(Side::Client, Violation::NotMasked)]),
        MessageRate,
        ByteRate(sides().map(CloseReason::ByteRate)),
        OverheadRate,
        TokenExpired,
        MaxAge,
        IdleTimeout,
        NoPong(sides().map(CloseReason::NoPong)),
        Drain,
        Disconnected(sides().map(CloseReason::Disconnected)),
        WriteStall(sides().map(CloseReason::WriteStall)),
        SlowClient,
        Command,
        Revoked,
        Replaced,
        NotAdmitted([CloseReason::NotAdmitted(AdmissionRule::Address)]),
        Removed,
        ServerDrain,
        Rebalance,
        Aborted,
    }));
}

/// The text becomes invalid after a part of its frame has been forwarded, and no Close can be sent inside a frame.
#[test]
fn invalid_utf8_inside_a_forwarded_frame_ends_the_upstream_without_a_close() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("check_utf8 = true").start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    client.send(&[0x81, 0x84, 0, 0, 0, 0, b'a', b'b']);
    assert_eq!(server.take(8), [0x81, 0x84, 0, 0, 0, 0, b'a', b'b']);
    client.send(&[0xff, 0xff]);
    assert_eq!(client.expect_close(1007), Violation::TextNotUtf8.label());
    assert!(server.rest().0.is_empty());
    let line = gate.log.next("session ended");
    assert_eq!((line["cause"].as_str(), line["code"].as_u64()), (Some("client_violation"), Some(1007)), "{line}");
}
