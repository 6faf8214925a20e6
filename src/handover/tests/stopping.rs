//! Moves that stop after the new process has sessions: it keeps them, and the others stay in the old process.

use tokio::sync::oneshot;

use super::*;

/// What the new process does with the second batch, after it has started the first one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Second {
    /// It acknowledges it only after the old process has asked for it back.
    LateAck,
    /// It neither acknowledges it nor gives it back.
    Silent,
    /// It breaks the protocol.
    Nonsense,
    /// It closes its end of the channel, and runs on.
    Closes,
    /// It ends.
    Ends,
}

/// Serves the first batch in order, and the second one as `second` says. A new process that stays silent keeps its end
/// of the channel open until `done`.
async fn new_process(channel: Channel, second: Second, done: oneshot::Receiver<()>) {
    let prepare = channel.receive(LONG).await.unwrap();
    assert_eq!(prepare.message.name(), "Prepare");
    channel.send(&Message::Ack(Ack { batch: 0, refused: vec![], longest_pause: 0 }), &[], LONG).await.unwrap();
    assert_eq!(channel.receive(LONG).await.unwrap().message.name(), "Commit");
    assert_eq!(channel.receive(LONG).await.unwrap().message.name(), "Prepare");
    match second {
        Second::LateAck => {
            let cancel = channel.receive(LONG).await.unwrap();
            assert_eq!(cancel.message.name(), "Cancel");
            channel.send(&Message::Ack(Ack { batch: 1, refused: vec![], longest_pause: 0 }), &[], LONG).await.unwrap();
            let cancelled = Message::Cancelled(records::decode(&[1]).unwrap());
            channel.send(&cancelled, &[], LONG).await.unwrap();
            assert_eq!(channel.receive(LONG).await.unwrap().message.name(), "End");
        }
        Second::Nonsense => {
            channel.send(&Message::Ready, &[], LONG).await.unwrap();
            done.await.unwrap();
        }
        Second::Silent => done.await.unwrap(),
        Second::Closes | Second::Ends => {}
    }
}

/// A new process that ends only if the test says so.
struct NewPeerOf(Second);

impl NewPeer for NewPeerOf {
    async fn end(&mut self) -> io::Result<PeerEnded> {
        assert_eq!(self.0, Second::Ends, "a process with sessions is not ended");
        Ok(PeerEnded::for_test())
    }

    async fn has_ended(&self, _: Duration) -> bool {
        self.0 == Second::Ends
    }
}

#[test]
fn the_new_process_keeps_what_it_has_and_a_failure_costs_at_most_its_batch() {
    for second in [Second::LateAck, Second::Silent, Second::Nonsense, Second::Closes, Second::Ends] {
        let mut worker = Worker::new(140);
        let (done, wait) = oneshot::channel();
        let ((stop, counts, finished), ()) = run(
            move |channel| new_process(channel, second, wait),
            async |channel| {
                let mut peer = NewPeerOf(second);
                let mut sender = Sender::new(&channel, &mut peer, 1).ack_within(Duration::from_millis(20));
                let stop = sender.sweep(&mut worker).await.unwrap_err();
                let counts = sender.counts();
                let finished = sender.finish(7, 0).await;
                let _ = done.send(());
                (stop, counts, finished)
            },
        );
        let fate = worker.fate.lock().unwrap().clone();
        let (first, batch): (BTreeSet<u32>, BTreeSet<u32>) = ((0..64).collect(), (64..128).collect());
        assert_eq!((&fate.erased, worker.waiting.len()), (&first, 12), "{second:?}");
        match second {
            Second::LateAck => {
                assert!(matches!(stop, Stop::SessionsLeft(_)), "{second:?}: {stop:?}");
                assert_eq!((fate.drains, fate.resumed.len()), (batch, 0), "{second:?}");
                assert_eq!((counts.moved, counts.drained, counts.failed), (64, 64, 0), "{second:?}");
                assert_eq!(finished.unwrap().drained, 71, "{second:?}");
            }
            Second::Ends => {
                assert!(matches!(stop, Stop::NewEnded(_)), "{second:?}: {stop:?}");
                assert_eq!((fate.resumed, fate.drains.len()), (batch, 0), "{second:?}");
                assert_eq!((counts.moved, counts.drained, counts.failed), (0, 0, 64), "{second:?}");
                finished.unwrap_err();
            }
            // The new process may have the keys of the second batch.
            Second::Silent | Second::Nonsense | Second::Closes => {
                assert!(matches!(stop, Stop::SessionsLeft(_)), "{second:?}: {stop:?}");
                assert_eq!((fate.resumed.len(), fate.drains.len()), (0, 0), "{second:?}");
                assert_eq!((counts.moved, counts.drained, counts.failed), (64, 0, 64), "{second:?}");
                finished.unwrap();
            }
        }
    }
}

#[test]
fn a_new_process_drops_the_batch_that_is_taken_back() {
    let ((), (adopted, started)) = run(
        |channel| adopt(channel, false),
        async |channel| {
            let mut clients = prepare(&channel, 2, |_| ()).await;
            assert!(ack(&channel).await.is_empty());
            channel.send(&Message::Cancel(records::decode(&[0]).unwrap()), &[], LONG).await.unwrap();
            let Message::Cancelled(cancelled) = channel.receive(LONG).await.unwrap().message else { panic!() };
            assert_eq!(cancelled, records::decode(&[0]).unwrap());
            for client in &mut clients {
                let mut sent = Vec::new();
                client.read_to_end(&mut sent).unwrap();
                assert!(sent.is_empty(), "a dropped session has sent nothing");
            }
            let end = super::super::wire::End { moved: 0, drained: 2, failed: 0, longest_pause: 0 };
            channel.send(&Message::End(end), &[], LONG).await.unwrap();
        },
    );
    assert!(adopted.error.is_none() && started.is_empty());
    assert_eq!((adopted.dropped, adopted.end.unwrap().drained), (2, 2));
}

#[test]
fn a_new_process_that_gives_up_says_so() {
    let (mut clients, adopted) = run(
        async |channel| {
            let mut worker = Worker2::default();
            let old = FakeOld { has_ended: false };
            Receiver::new(&channel, &old, 1).commit_within(Duration::from_millis(10)).run(&mut worker).await
        },
        async |channel| {
            let clients = prepare(&channel, 2, |_| ()).await;
            assert!(ack(&channel).await.is_empty());
            let Message::Cancelled(cancelled) = channel.receive(LONG).await.unwrap().message else { panic!() };
            assert_eq!(cancelled, records::decode(&[0]).unwrap());
            clients
        },
    );
    assert_eq!((adopted.started, adopted.dropped), (0, 2));
    assert!(matches!(adopted.error, Some(ChannelError::TimedOut(_))));
    for client in &mut clients {
        let mut sent = Vec::new();
        client.read_to_end(&mut sent).unwrap();
        assert!(sent.is_empty(), "a dropped session has sent nothing");
    }
}

#[test]
fn the_latest_counters_arrive_between_batches() {
    let ((), metrics) = run(
        async |channel| {
            let mut worker = Worker2::default();
            let adopted = Receiver::new(&channel, &FakeOld { has_ended: false }, 1).run(&mut worker).await;
            assert!(adopted.end.is_some());
            worker.metrics
        },
        async |channel| {
            for content in [b"first".to_vec(), b"second".to_vec()] {
                let record = Record { kind: 10, version: 1, content: content.into() };
                let (file, len) = write_sealed(&[record], 1 << 20).unwrap();
                let message = Message::Metrics(super::super::wire::State { version: 1, len });
                channel.send(&message, &[file.as_fd()], LONG).await.unwrap();
            }
            // Without its descriptor it has no effect.
            let message = Message::Metrics(super::super::wire::State { version: 1, len: 4 });
            channel.send(&message, &[], LONG).await.unwrap();
            let end = super::super::wire::End { moved: 0, drained: 0, failed: 0, longest_pause: 0 };
            channel.send(&Message::End(end), &[], LONG).await.unwrap();
        },
    );
    let texts: Vec<_> = metrics.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
    assert!(texts.len() == 2 && texts[0].ends_with("first") && texts[1].ends_with("second"), "{texts:?}");
}
