//! Tests of batches whose descriptors the system could not deliver.

use std::fs::File;

use rustix::process::getpid;
use zeroize::Zeroizing;

use super::*;
use crate::handover::channel::pair;
use crate::handover::ended::OldEnded;
use crate::handover::memfd::write_sealed;
use crate::handover::records::{self, Record};

struct Runs;

impl OldPeer for Runs {
    async fn ended(&self, _: Duration) -> Option<OldEnded> {
        None
    }
}

#[derive(Default)]
struct Started(Vec<u8>);

impl Adopt for Started {
    type Prepared = u8;

    fn prepare(&mut self, _: u16, image: &[u8], _: Vec<OwnedFd>, _: Duration) -> Result<u8, String> {
        Ok(image[0])
    }

    async fn start(&mut self, session: u8) {
        self.0.push(session);
    }

    fn metrics(&mut self, _: &[u8]) {}
}

/// Returns the refused indexes and the started sessions of a batch of three, of which `arrived` descriptors arrived.
fn refused(arrived: usize) -> (Vec<u16>, Vec<u8>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (old, new) = pair().unwrap();
        let (old, new) = (Channel::of_old(old).unwrap(), Channel::of_new(new, getpid()).unwrap());
        let record = |id| Record { kind: SESSION, version: 1, content: Zeroizing::new(vec![id]) };
        let (file, len) = write_sealed(&[0, 1, 2].map(record), 1 << 20).unwrap();
        let mut descriptors = vec![file];
        descriptors.extend((0..6).map(|_| File::open("/dev/null").unwrap().into()));
        descriptors.truncate(arrived);
        let sessions = vec![Entry { descriptors: 2, exported_at: 0 }; 3];
        let message = Message::Prepare(Prepare { batch: 0, len, sessions });
        let received = Received { message, descriptors, descriptors_lost: true };
        let mut started = Started::default();
        let mut side = Receiver::new(&new, &Runs, 1);
        let answer = async {
            let received = old.receive(Duration::from_secs(60)).await.unwrap();
            let Message::Ack(ack) = received.message else { panic!("{received:?}") };
            let commit = Message::Commit(records::decode(&[0]).unwrap());
            old.send(&commit, &[], Duration::from_secs(60)).await.unwrap();
            ack.refused
        };
        let (result, refused) = tokio::join!(side.batch(received, &mut started), answer);
        result.unwrap();
        (refused, started.0)
    })
}

#[test]
fn sessions_whose_descriptors_are_lost_stay_in_the_old_process() {
    assert_eq!(refused(0), (vec![0, 1, 2], vec![]));
    assert_eq!(refused(1), (vec![0, 1, 2], vec![]));
    assert_eq!(refused(2), (vec![0, 1, 2], vec![]));
    assert_eq!(refused(3), (vec![1, 2], vec![0]));
    assert_eq!(refused(6), (vec![2], vec![0, 1]));
    assert_eq!(refused(7), (vec![], vec![0, 1, 2]));
}
