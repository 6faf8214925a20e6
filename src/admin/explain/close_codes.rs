//! Explains the close codes that the ends of a session choose.

use super::facts::{Facts, Words, sentence, words};
use crate::config::keys::{self, Key};
use crate::session::ClosedBy;
use crate::ws::code::CloseCode;

/// Explains a session that a side closed with this code; `None`: its Close had no code.
pub(super) fn explain(by: ClosedBy, code: Option<CloseCode>, facts: &Facts<'_>) -> Words {
    let closer = match by {
        ClosedBy::Client => "the client".to_owned(),
        ClosedBy::Upstream => facts.the_server(),
        ClosedBy::Tollgate => "Tollgate".to_owned(),
    };
    let text = match code {
        Some(CloseCode(code)) => {
            let (meaning, section) = meaning(code);
            format!("{closer} closed the session with code {code}: {meaning} ({section}).")
        }
        None => {
            format!(
                "{closer} closed the session without a code, which programs show as 1005 (RFC 6455 section \
                     7.1.5)."
            )
        }
    };
    let (advice, deciding) = advice(by, code);
    words(sentence(text), advice, deciding)
}

/// Returns the meaning of a close code, and where it is defined.
fn meaning(code: u16) -> (&'static str, &'static str) {
    let section = match code {
        1000..=1011 | 1015 => "RFC 6455 section 7.4.1",
        1012..=1014 => "IANA's registry of close codes",
        _ => "RFC 6455 section 7.4.2",
    };
    let meaning = match code {
        1000 => "normal closure, the connection has served its purpose",
        1001 => "it goes away, as does a page that is left or a server that stops",
        1002 => "it found a breach of the protocol",
        1003 => "it cannot accept data of this type",
        1005 => "there was no code",
        1006 => "the connection was cut off without a Close",
        1007 => "a message had data that does not fit its type, such as text that is not UTF-8",
        1008 => "a message violated its policy",
        1009 => "a message was too big for it",
        1010 => "an extension that it needs was not negotiated",
        1011 => "it met an error that it did not expect",
        1012 => "the service restarts",
        1013 => "the service is overloaded, and clients have to try again later",
        1014 => "as a gateway it got an invalid response from its own upstream",
        1015 => "the TLS handshake failed",
        3000..=3999 => "a code that a library or framework has registered with IANA",
        4000..=4999 => "a code that the application defines",
        _ => "a code without a defined meaning",
    };
    (meaning, section)
}

/// Returns the advice for a code of one side, and the keys that can prevent it.
fn advice(by: ClosedBy, code: Option<CloseCode>) -> (&'static str, &'static [Key]) {
    match (code.map(|code| code.0), by) {
        (None | Some(1000), _) => ("Nothing has to change.", &[]),
        (Some(1001), ClosedBy::Client) => ("Nothing has to change: the user left the page or closed the program.", &[]),
        (Some(1001 | 1012), ClosedBy::Upstream) => {
            ("Nothing has to change if the server was stopped or restarted on purpose.", &[])
        }
        (Some(1009), ClosedBy::Upstream) => (
            "Set `message_max_size` to what the server accepts, so that Tollgate closes such sessions first and the \
             log names the client's message. Or raise the limit of the server.",
            &[keys::MESSAGE_MAX_SIZE, keys::FRAME_MAX_SIZE],
        ),
        (Some(1009), _) => (
            "The server has to send smaller messages, or the client to accept larger ones. `upstream_message_max_size` \
             limits them here.",
            &[keys::UPSTREAM_MESSAGE_MAX_SIZE],
        ),
        (Some(1010), _) => (
            "Tollgate passes permessage-deflate alone, and removes it where the route has `check_utf8` or `on_excess = \
             \"drop\"`. Client and server have to work without other extensions.",
            &[keys::CHECK_UTF8, keys::ON_EXCESS],
        ),
        (Some(1008 | 3000..=4999), _) => (
            "The rules of the application decided this, and not those of Tollgate: see its documentation and its log.",
            &[],
        ),
        (Some(_), ClosedBy::Client) => (
            "Tollgate does not change messages. See the log of the client, and compare the messages that it expects \
             with those of the server.",
            &[],
        ),
        (Some(_), _) => ("Tollgate does not change messages. See the log of the server for its reason.", &[]),
    }
}
