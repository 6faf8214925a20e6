//! Tests of the messages.

use super::*;

fn entry(descriptors: u8) -> Entry {
    Entry { descriptors, exported_at: 1 << 40 }
}

fn messages() -> Vec<Message> {
    vec![
        Message::Hello(Hello { min: 1, max: 2, build: "0.1.0".to_owned() }),
        Message::State(State { version: 1, len: 9 }),
        Message::Ready,
        Message::failed("no"),
        Message::TakeOver,
        Message::Prepare(Prepare { batch: 0, len: 8, sessions: vec![entry(1), entry(2)] }),
        Message::Ack(Ack { batch: 3, refused: vec![1, 5], longest_pause: 77 }),
        Message::Commit(records::decode(&[3]).unwrap()),
        Message::End(End { moved: 1, drained: 2, failed: 3, longest_pause: 4 }),
    ]
}

#[test]
fn messages_are_decoded_as_they_were_encoded() {
    for message in messages() {
        assert_eq!(Message::decode(&message.encode().unwrap()).unwrap(), message);
    }
}

#[test]
fn a_packet_of_another_length_is_an_error() {
    for message in messages() {
        let packet = message.encode().unwrap();
        let name = message.name();
        for len in 0..packet.len() {
            assert_eq!(Message::decode(&packet[..len]), Err(WireError::Length), "{name}");
        }
        assert_eq!(Message::decode(&[&packet[..], b"x"].concat()), Err(WireError::Length), "{name}");
        let mut longer = packet.clone();
        longer[4] += 1;
        longer.push(0);
        assert_eq!(Message::decode(&longer), Err(WireError::Content(RecordError::Trailing)), "{name}");
    }
    assert_eq!(Message::decode(&vec![0; MESSAGE_MAX_BYTES + 1]), Err(WireError::TooLong));
}

#[test]
fn unknown_kinds_and_versions_are_named() {
    let mut packet = Message::Ready.encode().unwrap();
    packet[0] = 99;
    assert_eq!(Message::decode(&packet).unwrap_err().to_string(), "messages of kind 99 are unknown");
    packet[2] = 4;
    let error = Message::decode(&packet).unwrap_err().to_string();
    assert_eq!(error, "version 4 of the messages is unknown; this program has version 1");
}

#[test]
fn numbers_above_their_limit_are_rejected() {
    let prepare = |len, sessions| Message::Prepare(Prepare { batch: 0, len, sessions });
    let cases = [
        (Message::Hello(Hello { min: 2, max: 1, build: String::new() }), "versions"),
        (Message::Hello(Hello { min: 1, max: 1, build: "x".repeat(TEXT_MAX_BYTES + 1) }), "text"),
        (Message::Failed("x".repeat(TEXT_MAX_BYTES + 1)), "text"),
        (prepare(1, vec![]), "sessions of a batch"),
        (prepare(1, vec![entry(1); BATCH_MAX + 1]), "sessions of a batch"),
        (prepare(1, vec![entry(0)]), "descriptors of a session"),
        (prepare(1, vec![entry(3)]), "descriptors of a session"),
        (prepare((BATCH_MAX_BYTES + 1) as u64, vec![entry(1)]), "the bytes of a batch"),
        (Message::Ack(Ack { batch: 0, refused: vec![0; BATCH_MAX + 1], longest_pause: 0 }), "sessions of a batch"),
        (Message::State(State { version: 1, len: (PROCESS_MAX_BYTES + 1) as u64 }), "the state of the process"),
    ];
    for (message, what) in cases {
        assert_eq!(message.encode(), Err(WireError::Limit(what)));
    }
    // The reader checks as well: this batch has no sessions.
    assert_eq!(Message::decode(&[6, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0]), Err(WireError::Limit("sessions of a batch")));
}

#[test]
fn the_largest_messages_fit() {
    let full = Entry { descriptors: 2, exported_at: u64::MAX };
    let prepare = Prepare { batch: u32::MAX, len: BATCH_MAX_BYTES as u64, sessions: vec![full; BATCH_MAX] };
    Message::Prepare(prepare).encode().unwrap();
    let text = Message::failed(&"\u{e4}".repeat(TEXT_MAX_BYTES));
    assert_eq!(Message::decode(&text.encode().unwrap()).unwrap(), text);
}

#[test]
fn the_newest_common_version_is_chosen() {
    let cases = [
        (1..=1, 1..=1, Some(1)),
        (1..=2, 2..=3, Some(2)),
        (2..=3, 1..=2, Some(2)),
        (1..=4, 2..=3, Some(3)),
        (2..=3, 1..=4, Some(3)),
        (1..=2, 3..=4, None),
        (3..=4, 1..=2, None),
    ];
    for (ours, theirs, expected) in cases {
        assert_eq!(newest_common(&ours, &theirs), expected, "{ours:?} {theirs:?}");
    }
}
