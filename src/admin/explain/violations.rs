//! Explains the rules of the protocol and the sizes that a side of a session can exceed.

use super::facts::{Facts, Words, sentence, words};
use crate::config::keys;
use crate::session::Side;
use crate::ws::violation::Violation;

/// Explains a violation by a side.
pub(super) fn explain(side: Side, violation: Violation, facts: &Facts<'_>) -> Words {
    let (rule, section) = match violation {
        Violation::FrameTooBig | Violation::MessageTooBig => return too_big(side, violation, facts),
        Violation::TextNotUtf8 => return not_utf8(side, facts),
        Violation::ReservedBit => ("a frame has a reserved bit that no negotiated extension defines", "5.2"),
        Violation::ReservedOpcode => ("a frame has an opcode that is reserved", "5.2"),
        Violation::LengthNotMinimal => ("the length of a frame is not in its shortest form", "5.2"),
        Violation::LengthOver63Bits => ("the length of a frame has more than 63 bits", "5.2"),
        Violation::NotMasked => ("a frame of a client is not masked", "5.1"),
        Violation::Masked => ("a frame of a server is masked", "5.1"),
        Violation::FragmentedControl => ("a control frame is fragmented", "5.5"),
        Violation::LongControl => ("a control frame has more than 125 bytes", "5.5"),
        Violation::UnexpectedContinuation => ("a continuation frame arrived outside a message", "5.4"),
        Violation::InterruptedMessage => ("a message began inside another one", "5.4"),
        Violation::ShortClose => ("a Close has a payload of one byte", "5.5.1"),
        Violation::CloseCode => ("a Close has a code that must not be sent", "7.4"),
        Violation::CloseReason => ("the reason in a Close is not UTF-8", "5.5.1"),
    };
    let text = format!("{} broke a rule of the protocol: {rule} (RFC 6455 section {section}).", the_side(side, facts));
    let advice = match side {
        Side::Client => {
            "The client's WebSocket library has to be corrected, or a device in front of Tollgate that changes \
             frames. Nothing has to change if this was an attack: no part of the frame reached the upstream."
        }
        Side::Upstream => "The server's WebSocket software has to be corrected, or a proxy between Tollgate and it.",
    };
    words(sentence(text), advice, &[])
}

fn too_big(side: Side, violation: Violation, facts: &Facts<'_>) -> Words {
    let what = if violation == Violation::FrameTooBig { "frame" } else { "message" };
    match side {
        Side::Client if violation == Violation::FrameTooBig => words(
            format!(
                "The client sent a frame that is larger than the `frame_max_size` of {}, which is `message_max_size` \
                 unless it is set.",
                facts.the_route()
            ),
            "If the application needs such messages, raise `message_max_size`, and `frame_max_size` if it is set. \
             Compressed messages count with their compressed size. `mode = \"report\"` shows what a limit would do \
             before it acts.",
            &[keys::FRAME_MAX_SIZE, keys::MESSAGE_MAX_SIZE, keys::LIMIT_MODE],
        ),
        Side::Client => words(
            format!("The client sent a message that is larger than the `message_max_size` of {}.", facts.the_route()),
            "If the application needs such messages, raise `message_max_size`. Compressed messages count with their \
             compressed size. `mode = \"report\"` shows what a limit would do before it acts.",
            &[keys::MESSAGE_MAX_SIZE, keys::FRAME_MAX_SIZE, keys::LIMIT_MODE],
        ),
        Side::Upstream => words(
            sentence(format!(
                "{} sent a {what} that is larger than the `upstream_message_max_size` of {}.",
                facts.the_server(),
                facts.the_route()
            )),
            "If the application needs such messages, raise the limit, or set it to \"off\".",
            &[keys::UPSTREAM_MESSAGE_MAX_SIZE, keys::LIMIT_MODE],
        ),
    }
}

fn not_utf8(side: Side, facts: &Facts<'_>) -> Words {
    words(
        sentence(format!("{} sent a text message that is not UTF-8 (RFC 6455 section 8.1).", the_side(side, facts))),
        "The sender has to send other data as binary messages. If the upstream checks texts itself, `check_utf8 = \
         false` leaves this to it, and permits compression.",
        &[keys::CHECK_UTF8],
    )
}

fn the_side(side: Side, facts: &Facts<'_>) -> String {
    match side {
        Side::Client => "the client".to_owned(),
        Side::Upstream => facts.the_server(),
    }
}
