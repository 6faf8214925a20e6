//! Tests of `revocations`: what a journal on disk keeps over a restart, damage and failed writes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::policy::revocation::entry::{Kind, Revocation, Target};

const NOW: Duration = Duration::from_secs(1_800_000_000);

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-journal-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> (Journal, Revocations) {
        let store = Revocations::default();
        (Journal::open(&self.0, None, &store, NOW).unwrap(), store)
    }

    fn read(&self) -> Vec<u8> {
        fs::read(self.0.join(JOURNAL)).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn revocation(value: &str) -> Revocation {
    let target = Target::new(Kind::Token, None, value).unwrap();
    Revocation { target, issued_before: None, expires: NOW + Duration::from_secs(60), created: NOW, reason: None }
}

fn make(journal: &mut Journal, store: &Revocations, change: Change) -> io::Result<()> {
    let line = change.line();
    store.apply(change, NOW).unwrap();
    journal.store(line.as_bytes(), store, NOW)
}

fn values(store: &Revocations) -> Vec<String> {
    let mut values: Vec<String> = store.of_api(NOW).iter().map(|entry| entry.target.value().to_owned()).collect();
    values.sort_unstable();
    values
}

#[test]
fn changes_outlive_the_process() {
    let directory = Directory::new("restart");
    let (mut journal, store) = directory.open();
    for value in ["a", "b", "c"] {
        make(&mut journal, &store, Change::Add(revocation(value))).unwrap();
    }
    make(&mut journal, &store, Change::Remove(revocation("b").target.id())).unwrap();
    assert_eq!(fs::metadata(directory.0.join(JOURNAL)).unwrap().mode() & 0o777, MODE);
    drop(journal);
    let (journal, store) = directory.open();
    assert_eq!(values(&store), ["a", "c"]);
    assert_eq!(directory.read().len() as u64, journal.bytes);
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let directory = Directory::new("lock");
    let (journal, _) = directory.open();
    let second = Journal::open(&directory.0, None, &Revocations::default(), NOW);
    assert!(matches!(second, Err(JournalError::Locked(_))), "{second:?}");
    drop(journal);
    directory.open();
}

#[test]
fn a_line_that_was_not_complete_is_cut_and_a_damaged_one_costs_only_itself() {
    let directory = Directory::new("damage");
    let (mut journal, store) = directory.open();
    for value in ["first", "second", "third"] {
        make(&mut journal, &store, Change::Add(revocation(value))).unwrap();
    }
    drop(journal);
    let mut content = directory.read();
    content.extend(&Change::Add(revocation("fourth")).line().as_bytes()[..30]);
    let at = content.windows(6).position(|bytes| bytes == b"second").unwrap();
    content[at] ^= 1;
    fs::write(directory.0.join(JOURNAL), &content).unwrap();
    let (journal, store) = directory.open();
    assert_eq!(values(&store), ["first", "third"]);
    assert_eq!(fs::read(directory.0.join(DAMAGED)).unwrap(), content, "a copy is kept");
    drop(journal);
    assert_eq!(values(&directory.open().1), ["first", "third"]);
}

#[test]
fn the_journal_stays_in_proportion_to_its_revocations() {
    let directory = Directory::new("rewrite");
    let (mut journal, store) = directory.open();
    let id = revocation("a").target.id();
    let lines = Change::Add(revocation("a")).line().repeat(1000);
    for _ in 0..30 {
        make(&mut journal, &store, Change::Add(revocation("a"))).unwrap();
        journal.store(lines.as_bytes(), &store, NOW).unwrap();
    }
    assert!(journal.bytes <= limit(2000) && directory.read().len() as u64 == journal.bytes, "{}", journal.bytes);
    make(&mut journal, &store, Change::Remove(id)).unwrap();
    drop(journal);
    assert!(values(&directory.open().1).is_empty());
}

#[test]
fn a_failed_write_is_reported_and_the_next_one_stores_everything() {
    let directory = Directory::new("failure");
    let (mut journal, store) = directory.open();
    make(&mut journal, &store, Change::Add(revocation("a"))).unwrap();
    // A descriptor that cannot be written takes the place of a full disk.
    let sound = std::mem::replace(&mut journal.file, File::open(directory.0.join(JOURNAL)).unwrap());
    assert!(make(&mut journal, &store, Change::Add(revocation("b"))).is_err());
    drop(sound);
    make(&mut journal, &store, Change::Add(revocation("c"))).unwrap();
    drop(journal);
    assert_eq!(values(&directory.open().1), ["a", "b", "c"]);
}

#[test]
fn revocations_that_have_ended_are_not_loaded() {
    let directory = Directory::new("ended");
    let (mut journal, store) = directory.open();
    make(&mut journal, &store, Change::Add(revocation("a"))).unwrap();
    drop(journal);
    let store = Revocations::default();
    Journal::open(&directory.0, None, &store, NOW + Duration::from_secs(60)).unwrap();
    assert_eq!((values(&store), directory.read()), (vec![], HEADER.as_bytes().to_vec()));
}

#[test]
fn a_directory_that_cannot_be_used_is_an_error() {
    let missing = std::env::temp_dir().join(format!("tollgate-journal-{}-missing/below", std::process::id()));
    let error = Journal::open(&missing, None, &Revocations::default(), NOW).unwrap_err();
    assert!(error.to_string().contains(LOCK), "{error}");
    let directory = Directory::new("version");
    fs::write(directory.0.join(JOURNAL), "tollgate revocations 9\n").unwrap();
    let other = Journal::open(&directory.0, None, &Revocations::default(), NOW);
    assert!(matches!(other, Err(JournalError::OtherVersion(_))), "{other:?}");
}

#[test]
fn the_lock_passes_to_the_process_that_replaces_this_one() {
    let directory = Directory::new("handover");
    let (mut old, old_store) = directory.open();
    make(&mut old, &old_store, Change::Add(revocation("a"))).unwrap();
    let before = directory.read();
    let take_over = |store: &Revocations| {
        let lock = old.lock.try_clone().unwrap().into();
        Journal::open(&directory.0, Some(lock), store, NOW)
    };
    let failed = take_over(&Revocations::default()).unwrap();
    drop(failed);
    assert_eq!(directory.read(), before, "the new process may fail, and the old one goes on");
    let third = Journal::open(&directory.0, None, &Revocations::default(), NOW);
    assert!(matches!(third, Err(JournalError::Locked(_))), "the old process still has the lock");
    let store = Revocations::default();
    let mut new = take_over(&store).unwrap();
    drop(old);
    assert_eq!(values(&store), ["a"]);
    make(&mut new, &store, Change::Add(revocation("b"))).unwrap();
    make(&mut new, &store, Change::Add(revocation("c"))).unwrap();
    let third = Journal::open(&directory.0, None, &Revocations::default(), NOW);
    assert!(matches!(third, Err(JournalError::Locked(_))), "the new process has the lock");
    drop(new);
    assert_eq!(values(&directory.open().1), ["a", "b", "c"]);
}

#[test]
fn the_lock_of_another_directory_is_not_used() {
    let (directory, other) = (Directory::new("own-lock"), Directory::new("other-lock"));
    let (_running, _store) = directory.open();
    let (passed, _store) = other.open();
    let lock = passed.lock.try_clone().unwrap().into();
    let opened = Journal::open(&directory.0, Some(lock), &Revocations::default(), NOW);
    assert!(matches!(opened, Err(JournalError::Locked(_))));
}

#[test]
fn revocations_of_a_process_that_failed_are_made_again() {
    let store = Revocations::default();
    let until = |seconds, value| Revocation { expires: NOW + Duration::from_secs(seconds), ..revocation(value) };
    store.add(until(60, "known"), NOW).unwrap();
    store.add(until(60, "longer"), NOW).unwrap();
    let added = [until(60, "known"), until(90, "longer"), until(60, "new"), until(60, "removed"), until(0, "ended")];
    let removed = Change::Remove(revocation("removed").target.id());
    let changes = added.into_iter().map(Change::Add).chain([removed]).collect();
    let mut missing: Vec<_> =
        super::missing(&store, changes, NOW).iter().map(|entry| entry.target.value().to_owned()).collect();
    missing.sort_unstable();
    assert_eq!(missing, ["longer", "new"]);
}

/// A new process that fails may have written the journal anew, so that the file of this process has no name any more.
#[test]
fn a_journal_that_another_process_has_replaced_is_written_anew() {
    let directory = Directory::new("replaced");
    let (mut journal, store) = directory.open();
    make(&mut journal, &store, Change::Add(revocation("ada"))).unwrap();
    let lock = journal.lock.try_clone().unwrap().into();
    let other = Revocations::default();
    let mut replacing = Journal::open(&directory.0, Some(lock), &other, NOW).unwrap();
    make(&mut replacing, &other, Change::Add(revocation("bob"))).unwrap();
    drop(replacing);
    make(&mut journal, &store, Change::Add(revocation("bob"))).unwrap();
    make(&mut journal, &store, Change::Add(revocation("eve"))).unwrap();
    drop(journal);
    assert_eq!(values(&directory.open().1), ["ada", "bob", "eve"]);
}
