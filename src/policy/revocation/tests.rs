//! Tests of `revocation`: which tokens an entry concerns, the limits of the store, and the journal.

use proptest::prelude::*;

use super::entry::{Target, VALUE_MAX_CHARS};
use super::journal::{HEADER, OtherVersion, replay};
use super::written::{LATEST, WrittenError, WrittenRevocation};
use super::*;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn revocation(kind: Kind, auth: Option<&str>, value: &str) -> Revocation {
    let target = Target::new(kind, auth, value).unwrap();
    Revocation { target, issued_before: None, expires: NOW + HOUR, created: NOW, reason: None }
}

fn ids(jti: Option<&str>, sid: Option<&str>, issued: Option<Duration>) -> TokenIds {
    TokenIds::of_test(jti, sid, issued)
}

fn client<'a>(auth: &'a str, subject: Option<&'a str>, token: &'a TokenIds) -> Identity<'a> {
    Identity { auth, subject, token: Some(token) }
}

/// Checks the store and the comparison of one entry: both decide the same.
fn concerns(revocation: &Revocation, client: &Identity<'_>) -> bool {
    let store = Revocations::default();
    assert!(!store.is_revoked(client, NOW));
    store.add(revocation.clone(), NOW).unwrap();
    let is_revoked = store.is_revoked(client, NOW);
    assert_eq!(is_revoked, revocation.concerns(client), "{revocation:?}");
    is_revoked
}

#[test]
fn a_revocation_concerns_the_tokens_of_its_claim() {
    let token = ids(Some("t1"), Some("s1"), Some(NOW));
    let bare = ids(None, None, None);
    // The revocation, and whether it concerns the token of ada, her token without claims, and bob's token with hers.
    let table: &[(Kind, Option<&str>, &str, [bool; 3])] = &[
        (Kind::Subject, Some("users"), "ada", [true, true, false]),
        (Kind::Subject, Some("partners"), "ada", [false; 3]),
        (Kind::Subject, Some("users"), "Ada", [false; 3]),
        (Kind::SubjectWithoutSession, Some("users"), "ada", [false, true, false]),
        (Kind::Token, None, "t1", [true, false, true]),
        (Kind::Token, Some("users"), "t1", [true, false, true]),
        (Kind::Token, Some("partners"), "t1", [false; 3]),
        (Kind::Token, None, "s1", [false; 3]),
        (Kind::Session, None, "s1", [true, false, true]),
        (Kind::Session, Some("users"), "s1", [true, false, true]),
        (Kind::Session, Some("partners"), "s1", [false; 3]),
        (Kind::Session, None, "t1", [false; 3]),
        (Kind::Session, None, "ada", [false; 3]),
    ];
    for (kind, auth, value, expected) in table {
        let revocation = revocation(*kind, *auth, value);
        let clients = [
            client("users", Some("ada"), &token),
            client("users", Some("ada"), &bare),
            client("users", Some("bob"), &token),
        ];
        assert_eq!(clients.map(|client| concerns(&revocation, &client)), *expected, "{kind:?} {auth:?} {value}");
    }
    let without_token = Identity { auth: "users", subject: Some("ada"), token: None };
    assert!(concerns(&revocation(Kind::Subject, Some("users"), "ada"), &without_token));
    assert!(!concerns(&revocation(Kind::Token, None, "t1"), &without_token));
}

#[test]
fn a_token_that_was_issued_later_is_not_concerned_and_one_without_a_time_is() {
    let before = Revocation { issued_before: Some(NOW), ..revocation(Kind::Subject, Some("users"), "ada") };
    let second = Duration::from_secs(1);
    for (issued, expected) in [
        (Some(NOW.saturating_sub(second)), true),
        (Some(NOW), false),
        (Some(NOW + second), false),
        (None, true),
        (Some(LATEST), false),
    ] {
        let token = ids(None, None, issued);
        assert_eq!(concerns(&before, &client("users", Some("ada"), &token)), expected, "{issued:?}");
    }
}

#[test]
fn a_revocation_ends() {
    let (store, token) = (Revocations::default(), ids(Some("t1"), None, None));
    let client = client("users", None, &token);
    store.add(revocation(Kind::Token, None, "t1"), NOW).unwrap();
    assert!(store.is_revoked(&client, NOW + Duration::from_millis(3_599_999)));
    assert!(!store.is_revoked(&client, NOW + HOUR));
    // The clock cannot be right, so the entry is kept.
    assert!(store.is_revoked(&client, Duration::MAX));
    assert_eq!((store.count(Duration::MAX), store.count(NOW), store.count(NOW + HOUR)), (1, 1, 0));
}

#[test]
fn a_second_revocation_of_a_target_never_weakens_the_first() {
    let (store, early) = (Revocations::default(), NOW.saturating_sub(HOUR));
    let entry = |issued_before, expires| Revocation {
        issued_before,
        expires,
        ..revocation(Kind::Subject, Some("users"), "ada")
    };
    let add = |issued_before, expires| {
        let added = store.add(entry(issued_before, expires), NOW).unwrap();
        (added.is_new, added.revocation.issued_before, added.revocation.expires)
    };
    assert_eq!(add(Some(early), NOW + HOUR), (true, Some(early), NOW + HOUR));
    assert_eq!(add(Some(NOW), NOW + HOUR / 2), (false, Some(NOW), NOW + HOUR));
    assert_eq!(add(Some(early), NOW + 2 * HOUR), (false, Some(NOW), NOW + 2 * HOUR));
    assert_eq!(add(None, NOW + HOUR), (false, None, NOW + 2 * HOUR));
    assert_eq!(add(Some(early), NOW + HOUR), (false, None, NOW + 2 * HOUR));
    assert_eq!(store.count(NOW), 1);
}

#[test]
fn a_removed_revocation_concerns_no_token_and_frees_its_capacity() {
    let (store, token) = (Revocations::with_capacity(1), ids(Some("t1"), None, None));
    let added = store.add(revocation(Kind::Token, None, "t1"), NOW).unwrap();
    let id = added.revocation.target.id();
    assert!(store.is_revoked(&client("users", None, &token), NOW));
    assert!(store.remove(id).is_some() && store.remove(id).is_none());
    assert!(!store.is_revoked(&client("users", None, &token), NOW));
    assert!(store.add(revocation(Kind::Token, None, "t2"), NOW).is_ok());
}

#[test]
fn a_full_store_refuses_new_targets_until_one_ends() {
    let store = Revocations::with_capacity(2);
    let add = |value: &str, now| store.add(revocation(Kind::Token, None, value), now).map(|added| added.is_new);
    assert_eq!((add("a", NOW), add("b", NOW)), (Ok(true), Ok(true)));
    assert_eq!((add("c", NOW), store.refused()), (Err(Full), 1));
    assert_eq!(add("a", NOW), Ok(false), "a target that is there needs no capacity");
    assert_eq!((store.count(NOW), store.refused()), (2, 1));
    let later = Revocation { expires: NOW + 3 * HOUR, ..revocation(Kind::Token, None, "c") };
    assert!(store.add(later, NOW + HOUR).is_ok(), "the others have ended");
    assert_eq!(store.count(NOW + HOUR), 1);
}

#[test]
fn the_memory_of_the_store_is_bounded() {
    let long = |number: usize| format!("{number:0>VALUE_MAX_CHARS$}").replace('0', "𝟎");
    let bytes = revocation(Kind::Token, None, &long(1)).bytes();
    assert!(bytes > 4 * (VALUE_MAX_CHARS - 1) && bytes * ENTRIES_MAX > MEMORY_MAX_BYTES);
    let mut set = Set { bytes: MEMORY_MAX_BYTES - 2 * bytes, ..Set::default() };
    assert!(set.insert(revocation(Kind::Token, None, &long(1)), ENTRIES_MAX).is_ok());
    assert!(set.insert(revocation(Kind::Token, None, &long(1)), ENTRIES_MAX).is_ok());
    assert!(set.insert(revocation(Kind::Token, None, &long(2)), ENTRIES_MAX).is_ok());
    assert!(set.insert(revocation(Kind::Token, None, &long(3)), ENTRIES_MAX).is_err());
}

#[test]
fn the_list_of_the_file_is_apart_from_the_api() {
    let (store, token) = (Revocations::default(), ids(Some("t1"), Some("s1"), None));
    let client = client("users", None, &token);
    let (by_token, by_session) = (revocation(Kind::Token, None, "t1"), revocation(Kind::Session, None, "s1"));
    let new = |listed: &[Revocation]| store.replace_listed(listed, NOW).unwrap().len();
    assert_eq!(new(std::slice::from_ref(&by_token)), 1);
    assert_eq!(new(std::slice::from_ref(&by_token)), 0, "nothing is new");
    assert_eq!(new(&[by_token.clone(), by_session.clone()]), 1);
    assert!(store.is_listed(by_token.target.id()) && store.remove(by_token.target.id()).is_none());
    store.add(by_token.clone(), NOW).unwrap();
    assert_eq!((store.count(NOW), store.of_api(NOW).len()), (3, 1));
    assert_eq!(new(&[]), 0);
    assert!(store.is_revoked(&client, NOW), "the entry of the API");
    store.remove(by_token.target.id());
    assert!(!store.is_revoked(&client, NOW));
    let ended = Revocation { expires: NOW, ..by_session };
    assert_eq!((new(&[ended]), store.count(NOW)), (0, 0));
}

#[test]
fn pages_list_every_revocation_once_in_the_order_of_their_ends() {
    let store = Revocations::default();
    for number in 0..25_u32 {
        let expires = NOW + Duration::from_secs(u64::from(1 + number % 5));
        store.add(Revocation { expires, ..revocation(Kind::Token, None, &number.to_string()) }, NOW).unwrap();
    }
    let listed: Vec<Revocation> =
        (20..30_u32).map(|number| revocation(Kind::Token, None, &number.to_string())).collect();
    store.replace_listed(&listed, NOW).unwrap();
    for limit in [1, 2, 7, 34, 35, 100] {
        let (mut after, mut places) = (None, Vec::new());
        loop {
            let (page, has_more) = store.list(after, limit, NOW);
            assert!(page.len() <= limit && (!has_more || page.len() == limit));
            places.extend(page.iter().map(|(place, _)| *place));
            after = places.last().copied();
            if !has_more {
                break;
            }
        }
        assert_eq!(places.len(), 35, "{limit}");
        assert!(places.is_sorted() && places.windows(2).all(|pair| pair[0] != pair[1]));
    }
    assert_eq!(store.list(None, 100, NOW + Duration::from_secs(3)).0.len(), 2 * 5 + 10);
}

#[test]
fn equal_targets_have_equal_ids_and_different_ones_do_not() {
    let id = |kind, auth, value| Target::new(kind, auth, value).unwrap().id();
    let all = [
        id(Kind::Token, None, "a"),
        id(Kind::Token, Some("a"), "a"),
        id(Kind::Session, None, "a"),
        id(Kind::Subject, Some("a"), "a"),
        id(Kind::Subject, Some("ab"), "a"),
        id(Kind::Subject, Some("a"), "ba"),
        id(Kind::SubjectWithoutSession, Some("a"), "a"),
    ];
    assert!(all.iter().enumerate().all(|(at, id)| !all[..at].contains(id)), "{all:?}");
    assert_eq!(id(Kind::Token, None, "a"), all[0]);
    assert_eq!(RevocationId::parse(&all[0].to_string()), Some(all[0]));
    for text in ["", "0", &"0".repeat(33), &"g".repeat(32), &format!("+{}", "0".repeat(31))] {
        assert_eq!(RevocationId::parse(text), None, "{text}");
    }
}

fn written(json: &str) -> Result<Revocation, String> {
    let written: WrittenRevocation = serde_json::from_str(json).map_err(|error| error.to_string())?;
    written.read(NOW, NOW + HOUR).map_err(|error| error.to_string())
}

#[test]
fn a_written_revocation_names_one_claim() {
    let subject = written(r#"{"auth":"users","subject":"ada","issued_before":1800000000.25}"#).unwrap();
    assert_eq!((subject.target.kind(), subject.target.auth()), (Kind::Subject, Some("users")));
    assert_eq!((subject.issued_before, subject.expires), (Some(NOW + Duration::from_millis(250)), NOW + HOUR));
    assert_eq!(written(r#"{"jti":"t"}"#).unwrap().target.kind(), Kind::Token);
    assert_eq!(written(r#"{"sid":"s","auth":"users","expires":1.8e9}"#).unwrap().expires, NOW);
    let without = written(r#"{"auth":"users","subject":"ada","without_sid":true}"#).unwrap();
    assert_eq!(without.target.kind(), Kind::SubjectWithoutSession);
    let long = "x".repeat(257);
    let table = [
        ("{}".to_owned(), WrittenError::Claims),
        (r#"{"jti":"t","sid":"s"}"#.to_owned(), WrittenError::Claims),
        (r#"{"auth":"users"}"#.to_owned(), WrittenError::Claims),
        (r#"{"subject":"ada"}"#.to_owned(), WrittenError::SubjectWithoutAuth),
        (r#"{"subject":"ada","auth":""}"#.to_owned(), WrittenError::Auth),
        (r#"{"jti":""}"#.to_owned(), WrittenError::Value),
        (format!(r#"{{"jti":"{long}"}}"#), WrittenError::Value),
        (r#"{"jti":"t","without_sid":true}"#.to_owned(), WrittenError::WithoutSid),
        (r#"{"jti":"t","issued_before":-1}"#.to_owned(), WrittenError::Time("issued_before")),
        (r#"{"jti":"t","expires":253402300800}"#.to_owned(), WrittenError::Time("expires")),
        (format!(r#"{{"jti":"t","reason":"{long}"}}"#), WrittenError::Reason),
    ];
    for (json, error) in table {
        assert_eq!(written(&json), Err(error.to_string()), "{json}");
    }
    for json in [r#"{"jti":1}"#, r#"{"jti":"t","other":1}"#, r#"{"jti":"t","expires":"soon"}"#, "[]"] {
        assert!(written(json).is_err(), "{json}");
    }
}

#[test]
fn debug_shows_no_value() {
    let revocation = Revocation { reason: Some("secret".into()), ..revocation(Kind::Token, None, "secret") };
    let (token, written) = (ids(Some("secret"), Some("secret"), None), WrittenRevocation::of(&revocation));
    let shown = format!("{revocation:?} {token:?} {written:?} {:?}", Change::Add(revocation.clone()));
    assert!(!shown.contains("secret"), "{shown}");
}

fn journal(changes: &[Change]) -> Vec<u8> {
    let lines = changes.iter().map(Change::line);
    std::iter::once(HEADER.to_owned()).chain(lines).collect::<String>().into_bytes()
}

#[test]
fn a_journal_of_another_version_is_not_read() {
    assert_eq!(replay(b"tollgate revocations 2\n"), Err(OtherVersion));
    assert_eq!(replay(b"tollgate revocations 1\n").unwrap().changes, []);
    let damaged = replay(b"tollgaTe revocations 1\n").unwrap();
    assert_eq!((damaged.changes, damaged.damaged), (vec![], vec![1]));
}

fn any_change() -> impl Strategy<Value = Change> {
    let kind =
        prop_oneof![Just(Kind::Token), Just(Kind::Subject), Just(Kind::Session), Just(Kind::SubjectWithoutSession)];
    let time = 0..LATEST.as_millis() as u64;
    let entry =
        (kind, "\\PC{1,40}", "[a-z]{1,8}", any::<bool>(), proptest::option::of(time.clone()), time, any::<bool>());
    let add = entry.prop_map(|(kind, value, auth, any_auth, issued_before, expires, has_reason)| {
        let is_any = any_auth && matches!(kind, Kind::Token | Kind::Session);
        let millis = Duration::from_millis;
        Change::Add(Revocation {
            target: Target::new(kind, (!is_any).then_some(&*auth), &value).unwrap(),
            issued_before: issued_before.map(millis),
            expires: millis(expires),
            created: NOW,
            reason: has_reason.then(|| "a \"note\"\n".into()),
        })
    });
    prop_oneof![add, any::<u128>().prop_map(|id| Change::Remove(RevocationId(id)))]
}

proptest! {
    /// A crash may cut the file anywhere: all changes before the cut are read, and no other.
    #[test]
    fn a_cut_journal_has_exactly_the_changes_before_the_cut(changes in proptest::collection::vec(any_change(), 0..6)) {
        let whole = journal(&changes);
        let mut ends = vec![HEADER.len()];
        for change in &changes {
            ends.push(ends.last().unwrap() + change.line().len());
        }
        for cut in 0..=whole.len() {
            let replayed = replay(&whole[..cut]).unwrap();
            let count = ends.iter().filter(|end| **end <= cut).count();
            prop_assert_eq!(&replayed.changes, &changes[..count.saturating_sub(1)]);
            prop_assert_eq!(replayed.whole_bytes, ends.get(count.wrapping_sub(1)).copied().unwrap_or(0));
            prop_assert!(replayed.damaged.is_empty());
        }
    }

    /// Damage of one byte costs at most the lines that it touches, and is found.
    #[test]
    fn a_damaged_line_costs_only_its_own_change(
        changes in proptest::collection::vec(any_change(), 1..6), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = journal(&changes);
        let at = HEADER.len() + at.index(bytes.len() - HEADER.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let replayed = replay(&bytes).unwrap();
        let kept = replayed.changes.iter().filter(|change| changes.contains(change)).count();
        prop_assert_eq!(kept, replayed.changes.len(), "no change is invented");
        prop_assert!(kept + 2 >= changes.len());
        prop_assert!(!replayed.damaged.is_empty() || replayed.whole_bytes < bytes.len());
    }

    #[test]
    fn any_bytes_can_be_replayed(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = replay(&bytes);
        let _ = replay(&[HEADER.as_bytes(), &bytes].concat());
    }
}
