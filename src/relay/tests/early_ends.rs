//! Sessions that are reported because their server disconnects soon after its 101.

use super::*;

/// The end of a session counts against its server only if the server disconnects within a second, while the session is
/// open: a client that closes or disconnects causes no such end.
#[test]
fn a_server_that_disconnects_from_an_open_session_soon_after_its_101_is_reported() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let (close, masked_close) = (vec![0x88, 0], vec![0x88, 0x80, 0, 0, 0, 0]);
    let silent = || Peer::new(Vec::new(), Then::IsSilent);
    let ended = |says: &[u8]| Peer::new(says.to_vec(), Then::Ends);
    let cases = [
        ("the server disconnects", silent(), ended(b""), 0, true),
        ("after a message", silent(), ended(b"\x82\x01a"), 0, true),
        ("within a frame", silent(), ended(b"\x82\x05a"), 0, true),
        ("late", silent(), ended(b""), 1, false),
        ("after a Close of the server", silent(), ended(&close), 0, false),
        ("after a Close of the client", Peer::new(masked_close, Then::IsSilent), ended(b""), 0, false),
        ("after the client", ended(b""), ended(b""), 0, false),
        ("nothing ends", silent(), silent(), 0, false),
    ];
    for (what, client, upstream, age_seconds, is_reported) in cases {
        let (early_ends, mut reports) = EarlyEnds::channel();
        let opened = clock::now().checked_sub(Duration::from_secs(age_seconds)).unwrap();
        let worker = SessionContext::default();
        let mut relay = relay_reporting(early_ends, &worker, terms(limits()), (client, upstream), opened);
        for _ in 0..3 {
            let _ = Pin::new(&mut relay).poll(&mut cx);
        }
        let report = reports.try_recv().ok();
        assert_eq!(
            report.map(|end| (end.server.to_string(), end.opened)),
            is_reported.then(|| ("server".to_owned(), opened)),
            "{what}"
        );
        assert!(reports.try_recv().is_err(), "{what} is reported twice");
    }
}
