//! The move of sessions between two threads, over real sockets.

use std::collections::BTreeSet;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::process::getpid;
use zeroize::Zeroizing;

use super::channel::{Channel, ChannelError, pair};
use super::ended::{NewPeer, OldEnded, OldPeer, PeerEnded};
use super::memfd::{MemfdError, write_sealed};
use super::monotonic::monotonic_nanos;
use super::protocol::{Ack, Erase};
use super::receiver::{Adopt, Adopted, Receiver};
use super::records::{self, Record, SESSION};
use super::sender::{Counts, MoveError, Moving, Sender, Sessions, Stay, Stop};
use super::wire::{Entry, Message, Prepare};

mod stopping;

const LONG: Duration = Duration::from_secs(60);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Where the sessions of a test are.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Fate {
    erased: BTreeSet<u32>,
    drains: BTreeSet<u32>,
    resumed: BTreeSet<u32>,
}

/// A frozen session. Its socket is one end of a pair.
struct Old {
    id: u32,
    socket: UnixStream,
    extra: usize,
    image_bytes: Option<usize>,
    fate: Arc<Mutex<Fate>>,
}

impl Erase for Old {
    fn erase(self) {
        assert!(self.fate.lock().unwrap().erased.insert(self.id));
    }
}

impl Moving for Old {
    fn image(&self, _: u16) -> Option<Zeroizing<Vec<u8>>> {
        let padding = "7".repeat(self.image_bytes?);
        Some(records::encode(&(self.id, padding), 100 << 20).unwrap())
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd(); 1 + self.extra]
    }

    fn exported_at(&self) -> u64 {
        monotonic_nanos()
    }

    fn resume(self, stay: Stay) {
        let mut fate = self.fate.lock().unwrap();
        let to = if stay == Stay::Drains { &mut fate.drains } else { &mut fate.resumed };
        assert!(to.insert(self.id));
    }
}

/// The sessions of a worker, and the clients' ends of their sockets.
#[derive(Default)]
struct Worker {
    waiting: Vec<Old>,
    clients: Vec<UnixStream>,
    fate: Arc<Mutex<Fate>>,
}

impl Worker {
    fn new(count: u32) -> Self {
        let mut worker = Self::default();
        (0..count).for_each(|id| worker.add(id, 0, Some(100)));
        worker
    }

    fn add(&mut self, id: u32, extra: usize, image_bytes: Option<usize>) {
        let (socket, client) = UnixStream::pair().unwrap();
        self.waiting.push(Old { id, socket, extra, image_bytes, fate: self.fate.clone() });
        self.clients.push(client);
    }
}

impl Sessions for Worker {
    type Session = Old;

    async fn freeze(&mut self, max: usize) -> Vec<Old> {
        self.waiting.drain(..max.min(self.waiting.len())).collect()
    }
}

/// The new process of a test is a thread, which has closed its end of the channel before this is called.
#[derive(Default)]
struct FakeNew {
    ended: usize,
}

impl NewPeer for FakeNew {
    async fn end(&mut self) -> io::Result<PeerEnded> {
        self.ended += 1;
        Ok(PeerEnded::for_test())
    }

    async fn has_ended(&self, _: Duration) -> bool {
        true
    }
}

struct FakeOld {
    has_ended: bool,
}

impl OldPeer for FakeOld {
    async fn ended(&self, _: Duration) -> Option<OldEnded> {
        self.has_ended.then(OldEnded::for_test)
    }
}

/// The new process: a started session writes its number to its client.
#[derive(Default)]
struct Worker2 {
    started: Vec<u32>,
    metrics: Vec<Vec<u8>>,
}

impl Adopt for Worker2 {
    type Prepared = (u32, UnixStream);

    fn prepare(
        &mut self,
        _: u16,
        image: &[u8],
        mut descriptors: Vec<OwnedFd>,
        elapsed: Duration,
    ) -> Result<Self::Prepared, String> {
        assert!(elapsed < LONG);
        let (id, _): (u32, String) = records::decode(image).map_err(|error| error.to_string())?;
        Ok((id, descriptors.swap_remove(0).into()))
    }

    async fn start(&mut self, (id, socket): Self::Prepared) {
        (&socket).write_all(&id.to_le_bytes()).unwrap();
        self.started.push(id);
    }

    fn metrics(&mut self, records: &[u8]) {
        self.metrics.push(records.to_vec());
    }
}

/// Runs `old` and `new` in two threads, at the ends of a channel.
fn run<N, T: Send + 'static, R>(
    new: impl FnOnce(Channel) -> N + Send + 'static,
    old: impl AsyncFnOnce(Channel) -> R,
) -> (R, T)
where
    N: Future<Output = T>,
{
    let (own, other) = pair().unwrap();
    let new = thread::spawn(move || block_on(async move { new(Channel::of_new(other, getpid()).unwrap()).await }));
    let result = block_on(async { old(Channel::of_old(own).unwrap()).await });
    (result, new.join().unwrap())
}

async fn adopt(channel: Channel, has_ended: bool) -> (Adopted, Vec<u32>) {
    let mut worker = Worker2::default();
    let adopted = Receiver::new(&channel, &FakeOld { has_ended }, 1).run(&mut worker).await;
    (adopted, worker.started)
}

async fn send_all(channel: &Channel, worker: &mut Worker) -> (Result<(), Stop>, Counts, usize) {
    let mut peer = FakeNew::default();
    let mut sender = Sender::new(channel, &mut peer, 1).ack_within(LONG);
    let result = sender.sweep(worker).await;
    let counts = sender.counts();
    if result.is_ok() {
        sender.finish(0, 0).await.unwrap();
    } else {
        assert!(matches!(sender.sweep(&mut Worker::new(1)).await, Err(Stop::NewEnded(MoveError::Ended))));
    }
    (result, counts, peer.ended)
}

#[test]
fn all_sessions_move_and_write_to_their_own_clients() {
    let mut worker = Worker::new(150);
    let ((result, counts, ended), (adopted, started)) =
        run(|channel| adopt(channel, false), async |channel| send_all(&channel, &mut worker).await);
    result.unwrap();
    assert_eq!((counts.moved, counts.drained, counts.failed, ended), (150, 0, 0, 0));
    assert_eq!((adopted.started, adopted.refused, adopted.dropped), (150, 0, 0));
    assert_eq!(adopted.end.unwrap().moved, 150);
    assert!(adopted.error.is_none() && adopted.longest_pause > Duration::ZERO);
    assert_eq!(started, (0..150).collect::<Vec<_>>());
    assert_eq!(worker.fate.lock().unwrap().erased.len(), 150);
    for (id, client) in (0_u32..).zip(&mut worker.clients) {
        let mut number = Vec::new();
        client.read_to_end(&mut number).unwrap();
        assert_eq!(number, id.to_le_bytes());
    }
}

#[test]
fn sessions_that_cannot_move_drain_and_the_others_move() {
    let mut worker = Worker::new(3);
    worker.add(10, 2, Some(1));
    worker.add(11, 0, None);
    worker.add(12, 0, Some(records::SESSION_MAX_BYTES));
    worker.add(13, 1, Some(1));
    let ((result, counts, _), (_, started)) =
        run(|channel| adopt(channel, false), async |channel| send_all(&channel, &mut worker).await);
    result.unwrap();
    assert_eq!((counts.moved, counts.drained, counts.failed), (4, 3, 0));
    assert_eq!(started, [0, 1, 2, 13]);
    assert_eq!(worker.fate.lock().unwrap().drains, BTreeSet::from([10, 11, 12]));
}

/// The new process keeps the sessions that it has, and the move goes on.
#[test]
fn sessions_whose_images_cannot_be_written_drain_and_the_others_move() {
    let write = |records: &[Record], max: usize| {
        if records.len() < 64 { Err(MemfdError::System(Errno::MFILE)) } else { write_sealed(records, max) }
    };
    let mut worker = Worker::new(150);
    let ((counts, ended), (adopted, started)) = run(
        |channel| adopt(channel, false),
        async |channel| {
            let mut peer = FakeNew::default();
            let mut sender = Sender::new(&channel, &mut peer, 1).ack_within(LONG).write_with(write);
            sender.sweep(&mut worker).await.unwrap();
            (0..64).for_each(|id| worker.add(200 + id, 0, Some(1)));
            sender.sweep(&mut worker).await.unwrap();
            (sender.finish(0, 3).await.unwrap(), peer.ended)
        },
    );
    assert_eq!((counts.moved, counts.drained, counts.failed, ended), (192, 22, 3, 0));
    assert_eq!((adopted.started, started.len()), (192, 192));
    assert!(adopted.error.is_none() && started.contains(&263) && !started.contains(&149));
    assert_eq!(worker.fate.lock().unwrap().drains, (128..150).collect());
}

#[test]
fn large_images_are_split_into_several_batches() {
    let mut worker = Worker::default();
    (0..20).for_each(|id| worker.add(id, 0, Some(7 << 20)));
    let ((result, counts, _), (adopted, _)) =
        run(|channel| adopt(channel, false), async |channel| send_all(&channel, &mut worker).await);
    result.unwrap();
    assert_eq!((counts.moved, adopted.started), (20, 20));
}

/// Where the new process ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    AtStart,
    AfterPrepare,
    AfterAck,
    AfterCommit,
    WrongAck,
    NoAck,
}

async fn end_at(channel: Channel, end: End) {
    if end == End::AtStart {
        return;
    }
    let received = channel.receive(LONG).await.unwrap();
    assert_eq!(received.message.name(), "Prepare");
    let refused = if end == End::WrongAck { vec![64] } else { vec![1] };
    match end {
        End::AfterPrepare => return,
        // The old process gives up, and only then ends this one.
        End::NoAck => return drop(channel.receive(LONG).await),
        _ => {}
    }
    let ack = Message::Ack(Ack { batch: 0, refused, longest_pause: 0 });
    channel.send(&ack, &[], LONG).await.unwrap();
    if end == End::AfterCommit {
        assert_eq!(channel.receive(LONG).await.unwrap().message.name(), "Commit");
    }
}

#[test]
fn sessions_are_resumed_or_erased_wherever_the_new_process_ends() {
    for end in [End::AtStart, End::AfterPrepare, End::AfterAck, End::AfterCommit, End::WrongAck, End::NoAck] {
        let mut worker = Worker::new(70);
        let ((result, counts, ended), ()) = run(
            move |channel| end_at(channel, end),
            async |channel| {
                let mut peer = FakeNew::default();
                let max = if end == End::NoAck { Duration::from_millis(20) } else { LONG };
                let mut sender = Sender::new(&channel, &mut peer, 1).ack_within(max);
                let result = sender.sweep(&mut worker).await;
                (result, sender.counts(), peer.ended)
            },
        );
        assert!(result.is_err(), "{end:?}");
        assert_eq!(ended, 1, "{end:?}");
        let fate = worker.fate.lock().unwrap().clone();
        if matches!(end, End::AfterAck | End::AfterCommit) {
            let mut accepted: BTreeSet<u32> = (0..64).collect();
            accepted.remove(&1);
            assert_eq!((fate.erased, fate.drains), (accepted, BTreeSet::from([1])), "{end:?}");
            assert_eq!((counts.moved, counts.failed), (0, 63), "{end:?}");
            let second: BTreeSet<u32> = (64..70).filter(|_| !fate.resumed.is_empty()).collect();
            assert_eq!(fate.resumed, second, "{end:?}");
        } else {
            assert_eq!((fate.erased.len(), fate.resumed), (0, (0..64).collect()), "{end:?}");
            assert_eq!((counts.moved, counts.failed), (0, 0), "{end:?}");
            assert_eq!(worker.waiting.len(), 6, "{end:?}: they were never frozen");
        }
    }
}

/// A new process that is not known to have ended.
struct Unkillable;

impl NewPeer for Unkillable {
    async fn end(&mut self) -> io::Result<PeerEnded> {
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn has_ended(&self, _: Duration) -> bool {
        false
    }
}

#[test]
fn no_session_is_resumed_while_the_new_process_may_still_run() {
    let mut worker = Worker::new(3);
    let (counts, ()) = run(
        |channel| end_at(channel, End::AfterPrepare),
        async |channel| {
            let mut peer = Unkillable;
            let mut sender = Sender::new(&channel, &mut peer, 1);
            sender.sweep(&mut worker).await.unwrap_err();
            sender.counts()
        },
    );
    assert_eq!(counts.failed, 3);
    assert_eq!(*worker.fate.lock().unwrap(), Fate::default());
}

/// Sends a batch of sessions by hand, with the image changed by `change`.
async fn prepare(channel: &Channel, count: u32, change: impl FnOnce(&mut Vec<u8>)) -> Vec<UnixStream> {
    let mut bytes = Vec::new();
    for id in 0..count {
        let record = Record { kind: SESSION, version: 1, content: records::encode(&(id, "1".repeat(9)), 99).unwrap() };
        bytes.extend_from_slice(&record.header().unwrap());
        bytes.extend_from_slice(&record.content);
    }
    change(&mut bytes);
    let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(file);
    file.write_all(&bytes).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL).unwrap();
    let (sockets, clients): (Vec<_>, Vec<_>) = (0..count).map(|_| UnixStream::pair().unwrap()).unzip();
    let mut descriptors = vec![file.as_fd()];
    descriptors.extend(sockets.iter().map(|socket| socket.as_fd()));
    let entry = Entry { descriptors: 1, exported_at: monotonic_nanos() };
    let sessions = vec![entry; sockets.len()];
    let message = Message::Prepare(Prepare { batch: 0, len: bytes.len() as u64, sessions });
    channel.send(&message, &descriptors, LONG).await.unwrap();
    clients
}

async fn ack(channel: &Channel) -> Vec<u16> {
    match channel.receive(LONG).await.unwrap().message {
        Message::Ack(ack) => ack.refused,
        message => panic!("{}", message.name()),
    }
}

#[test]
fn damaged_images_are_refused_and_the_others_start() {
    let len = records::HEADER_BYTES + 11;
    for (byte, expected) in
        [(len - 1, vec![0]), (len, vec![1]), (len + 2, vec![1]), (len + 4, vec![1, 2]), (len + 9, vec![1])]
    {
        let ((refused, _clients), (adopted, started)) = run(
            |channel| adopt(channel, false),
            async |channel| {
                let clients = prepare(&channel, 3, |bytes| bytes[byte] ^= 4).await;
                let refused = ack(&channel).await;
                channel.send(&Message::Commit(records::decode(&[0]).unwrap()), &[], LONG).await.unwrap();
                (refused, clients)
            },
        );
        assert_eq!((&refused, adopted.refused), (&expected, expected.len()), "byte {byte}");
        assert_eq!(started.len() + refused.len(), 3);
        assert!(adopted.last_refusal.is_some());
    }
}

#[test]
fn a_session_of_another_version_is_refused() {
    let (refused, adopted) = run(
        async move |channel: Channel| {
            let mut worker = Worker2::default();
            Receiver::new(&channel, &FakeOld { has_ended: false }, 2).run(&mut worker).await
        },
        async |channel| {
            let _clients = prepare(&channel, 1, |_| ()).await;
            ack(&channel).await
        },
    );
    assert_eq!(refused, [0]);
    assert_eq!(adopted.last_refusal.unwrap(), "a record of kind 1 and version 1");
}

#[test]
fn prepared_sessions_start_only_if_the_old_process_has_ended() {
    for (has_ended, commit) in [(true, None), (false, None), (true, Some(1)), (false, Some(1)), (false, Some(0))] {
        let (clients, (adopted, started)) = run(
            move |channel| adopt(channel, has_ended),
            async |channel| {
                let clients = prepare(&channel, 2, |_| ()).await;
                assert!(ack(&channel).await.is_empty());
                if let Some(batch) = commit {
                    let commit = Message::Commit(records::decode(&[batch]).unwrap());
                    channel.send(&commit, &[], LONG).await.unwrap();
                }
                clients
            },
        );
        let starts = has_ended || commit == Some(0);
        assert_eq!(started.len(), if starts { 2 } else { 0 }, "{has_ended} {commit:?}");
        assert_eq!(adopted.dropped, if starts { 0 } else { 2 });
        assert!(adopted.error.is_some() && adopted.end.is_none());
        // A dropped session has sent nothing.
        for mut client in clients {
            let mut sent = Vec::new();
            client.read_to_end(&mut sent).unwrap();
            assert_eq!(!sent.is_empty(), starts);
        }
    }
}

#[test]
fn a_batch_out_of_order_or_with_missing_descriptors_ends_the_move() {
    for (batch, descriptors) in [(1, 2), (0, 1), (0, 3)] {
        let ((), (adopted, _)) = run(
            |channel| adopt(channel, true),
            async |channel| {
                let (socket, _client) = UnixStream::pair().unwrap();
                let sessions = vec![Entry { descriptors: 1, exported_at: 0 }];
                let message = Message::Prepare(Prepare { batch, len: 1, sessions });
                channel.send(&message, &vec![socket.as_fd(); descriptors], LONG).await.unwrap();
                assert!(matches!(channel.receive(LONG).await, Err(ChannelError::Closed)));
            },
        );
        assert!(matches!(adopted.error, Some(ChannelError::Unexpected("Prepare"))));
        assert_eq!(adopted.started + adopted.dropped, 0);
    }
}
