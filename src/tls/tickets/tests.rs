//! Tickets, the rotation of random keys, and derived keys on several nodes.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn keys(now: Instant) -> TicketKeys {
    TicketKeys::new(now).unwrap()
}

/// Random keys need no wall clock.
impl TicketKeys {
    fn seal(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.encrypt_at(plain, now, None)
    }

    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.decrypt_at(ticket, now, None)
    }
}

#[test]
fn a_ticket_is_decrypted_only_as_it_was_made() {
    let now = clock::now();
    let keys = keys(now);
    for plain in [&b""[..], b"a session", &[7; 4000]] {
        let ticket = keys.seal(plain, now).unwrap();
        assert_eq!(ticket.len(), NAME_BYTES + NONCE_BYTES + plain.len() + 16);
        assert_eq!(keys.open(&ticket, now).as_deref(), Some(plain));
        assert_ne!(keys.seal(plain, now).unwrap(), ticket, "every nonce is new");
        let positions = [0, 15, 16, 27, 28, ticket.len() - 1];
        for position in positions {
            let mut changed = ticket.clone();
            changed[position] ^= 1;
            assert_eq!(keys.open(&changed, now), None, "{position}");
        }
        for length in [0, 15, 16, 28, 43, ticket.len() - 1] {
            assert_eq!(keys.open(&ticket[..length.min(ticket.len() - 1)], now), None, "{length}");
        }
    }
    let other = TicketKeys::new(now).unwrap();
    assert_eq!(other.open(&keys.seal(b"a", now).unwrap(), now), None);
    // The same name with another key.
    let mut state = keys.export(now);
    state.current.key[0] ^= 1;
    other.import(&state, now).unwrap();
    assert_eq!(other.open(&keys.seal(b"a", now).unwrap(), now), None);
}

#[test]
fn a_key_decrypts_for_one_lifetime_after_its_rotation() {
    let start = clock::now();
    for (after, is_accepted) in [
        (LIFETIME.saturating_sub(SECOND), true),
        (LIFETIME, true),
        ((2 * LIFETIME).saturating_sub(SECOND), true),
        (2 * LIFETIME, false),
        (5 * LIFETIME, false),
    ] {
        for is_used in [false, true] {
            let keys = keys(start);
            let ticket = keys.seal(b"a", start).unwrap();
            if is_used {
                // A late rotation does not lengthen the time.
                let _ = keys.seal(b"b", start + (LIFETIME + 60 * SECOND).min(after));
            }
            let decrypted = keys.open(&ticket, start + after);
            assert_eq!(decrypted.is_some(), is_accepted, "{after:?} {is_used}");
        }
    }
}

#[test]
fn another_process_with_the_keys_decrypts_and_rotates_at_the_same_time() {
    let start = clock::now();
    let old = keys(start);
    let first = old.seal(b"first", start).unwrap();
    let later = start + LIFETIME + SECOND;
    let second = old.seal(b"second", later).unwrap();
    let state = old.export(later);
    assert_eq!(state.rotates_in, LIFETIME.saturating_sub(SECOND));
    let bytes = postcard::to_allocvec(&state).unwrap();
    let state: TicketKeysState = postcard::from_bytes(&bytes).unwrap();
    let new = keys(later);
    new.import(&state, later).unwrap();
    assert_eq!(new.open(&first, later).as_deref(), Some(&b"first"[..]));
    assert_eq!(new.open(&second, later).as_deref(), Some(&b"second"[..]));
    assert_eq!(old.open(&new.seal(b"third", later).unwrap(), later).as_deref(), Some(&b"third"[..]));
    let third = start + 2 * LIFETIME;
    assert_eq!(new.open(&first, third), None);
    assert_eq!(new.open(&second, third).as_deref(), Some(&b"second"[..]));
    // A time that is too long is shortened.
    new.import(&TicketKeysState { rotates_in: Duration::MAX, ..state }, later).unwrap();
    assert_eq!(new.export(later).rotates_in, LIFETIME);
}

#[test]
fn debug_omits_the_keys() {
    let now = clock::now();
    let state = TicketKeysState {
        current: TicketSecret::new([200; 16], [201; 32]),
        previous: Some(TicketSecret::new([200; 16], [201; 32])),
        rotates_in: LIFETIME,
    };
    let keys = TicketKeys::from_state(&state, now).unwrap();
    let derived = Node::start(START).keys;
    let text = format!("{state:?} {keys:?} {derived:?}");
    // The times may have any digits, but not the bytes of an array.
    let bytes = ["200, 200", "201, 201", "c8c8", "c9c9"];
    assert!(bytes.iter().all(|bytes| !text.contains(bytes)), "{text}");
}

/// The start of a period, since the Unix epoch.
const START: Duration = Duration::from_secs(6 * 3600 * 83_000);

/// A node of a cluster: its keys, the difference between its wall clock and the true time, and its monotonic clock.
struct Node {
    keys: TicketKeys,
    ahead: Duration,
    behind: Duration,
    began: Instant,
    began_at: Duration,
}

fn source(secret: u8, name: &str) -> SharedTicketSecret {
    SharedTicketSecret::new(&[secret; 32], [name])
}

impl Node {
    /// Starts a node at this time.
    fn start(at: Duration) -> Self {
        Self::with(source(1, "chat.example.com"), at, Duration::ZERO, Duration::ZERO)
    }

    fn with(shared: SharedTicketSecret, at: Duration, ahead: Duration, behind: Duration) -> Self {
        let began = clock::now();
        let keys = TicketKeys::derived(shared, began, Some((at + ahead).saturating_sub(behind))).unwrap();
        Self { keys, ahead, behind, began, began_at: at }
    }

    /// Returns both clocks of the node at this time.
    fn clocks(&self, at: Duration) -> (Instant, Option<Duration>) {
        (self.began + at.saturating_sub(self.began_at), Some((at + self.ahead).saturating_sub(self.behind)))
    }

    fn ticket(&self, at: Duration) -> Vec<u8> {
        let (now, unix) = self.clocks(at);
        self.keys.encrypt_at(b"a session", now, unix).unwrap()
    }

    fn accepts(&self, ticket: &[u8], at: Duration) -> bool {
        let (now, unix) = self.clocks(at);
        let plain = self.keys.decrypt_at(ticket, now, unix);
        assert!(plain.as_deref().is_none_or(|plain| plain == b"a session"));
        plain.is_some()
    }
}

fn name_of(ticket: &[u8]) -> &[u8] {
    &ticket[..NAME_BYTES]
}

#[test]
fn nodes_with_one_secret_accept_each_others_tickets() {
    // One node has run for days, and its keys rotated; the other one starts within a period.
    let (first, second) = (Node::start(START.saturating_sub(20 * LIFETIME)), Node::start(START + 1000 * SECOND));
    for after in [1001, 5000, 21_599, 21_600, 21_601, 100_000, 1_000_000].map(Duration::from_secs) {
        let at = START + after;
        let (one, other) = (first.ticket(at), second.ticket(at));
        assert_eq!(name_of(&one), name_of(&other), "both use the key of the period");
        assert!(first.accepts(&other, at) && second.accepts(&one, at), "{after:?}");
        assert!(first.accepts(&one, at) && second.accepts(&other, at), "{after:?}");
    }
}

#[test]
fn a_derived_key_decrypts_until_the_end_of_the_next_period() {
    let last = LIFETIME.saturating_sub(SECOND);
    for (made, used, is_accepted) in [
        (Duration::ZERO, last, true),
        (Duration::ZERO, LIFETIME, true),
        (Duration::ZERO, LIFETIME + last, true),
        (Duration::ZERO, 2 * LIFETIME, false),
        (last, LIFETIME, true),
        (last, LIFETIME + last, true),
        (last, 2 * LIFETIME, false),
        (last, 9 * LIFETIME, false),
    ] {
        let (maker, user) = (Node::start(START), Node::start(START));
        let ticket = maker.ticket(START + made);
        // A node that had no connection in between, and one that starts then.
        for node in [&user, &Node::start(START + used)] {
            assert_eq!(node.accepts(&ticket, START + used), is_accepted, "{made:?} {used:?}");
        }
    }
    let node = Node::start(START);
    let names: Vec<Vec<u8>> = (0..4).map(|period| name_of(&node.ticket(START + period * LIFETIME)).to_vec()).collect();
    assert!((1..4).all(|number| names[..number].iter().all(|earlier| *earlier != names[number])));
}

#[test]
fn clocks_may_differ_by_five_minutes() {
    let skew = 300 * SECOND;
    let shared = || source(1, "chat.example.com");
    let ahead = Node::with(shared(), START, skew, Duration::ZERO);
    let behind = Node::with(shared(), START, Duration::ZERO, skew);
    // From well before to well after the border of a period.
    for after in (20_000..23_000).step_by(100).map(Duration::from_secs) {
        let at = START + after;
        let (one, other) = (ahead.ticket(at), behind.ticket(at));
        assert!(ahead.accepts(&other, at) && behind.accepts(&one, at), "{after:?}");
    }
    let border = START + LIFETIME;
    assert_ne!(name_of(&ahead.ticket(border)), name_of(&behind.ticket(border)));
}

#[test]
fn other_secrets_and_other_names_are_refused() {
    let node = Node::start(START);
    let ticket = node.ticket(START);
    for shared in [source(2, "chat.example.com"), source(1, "other.example.com")] {
        let other = Node::with(shared, START, Duration::ZERO, Duration::ZERO);
        assert!(!other.accepts(&ticket, START) && !node.accepts(&other.ticket(START), START));
    }
    let random = keys(clock::now());
    assert_eq!(random.decrypt_at(&ticket, clock::now(), Some(START)), None);
}

#[test]
fn keys_are_random_until_the_clock_is_set() {
    let now = clock::now();
    let waiting = TicketKeys::derived(source(1, "chat.example.com"), now, None).unwrap();
    let early = waiting.encrypt_at(b"early", now, None).unwrap();
    let node = Node::start(START);
    assert!(!node.accepts(&early, START));
    // They rotate as random keys do.
    let rotated = waiting.encrypt_at(b"early", now + LIFETIME, None).unwrap();
    assert_ne!(name_of(&early), name_of(&rotated));
    let now = now + LIFETIME + SECOND;
    // From now on the time is known. The last random key still decrypts.
    let ticket = waiting.encrypt_at(b"a session", now, Some(START)).unwrap();
    assert!(node.accepts(&ticket, START));
    assert_eq!(waiting.decrypt_at(&rotated, now, Some(START)).as_deref(), Some(&b"early"[..]));
    assert_eq!(waiting.decrypt_at(&rotated, now, Some(START + LIFETIME)), None);
    // A clock that is lost again changes nothing.
    let last = waiting.encrypt_at(b"a session", now + 3 * LIFETIME, None).unwrap();
    assert!(node.accepts(&last, START + LIFETIME));
}

#[test]
fn derived_keys_are_not_passed_to_another_process() {
    let (node, now) = (Node::start(START), clock::now());
    let ticket = node.ticket(START);
    let state = node.keys.export(now);
    let bytes = postcard::to_allocvec(&state).unwrap();
    assert!(!bytes.windows(NAME_BYTES).any(|part| part == name_of(&ticket)));
    // A process without the secret, or with another one, refuses the tickets. One with the secret accepts them.
    let without = TicketKeys::from_state(&state, now).unwrap();
    assert_eq!(without.open(&ticket, now), None);
    let other = Node::with(source(2, "chat.example.com"), START, Duration::ZERO, Duration::ZERO);
    let same = Node::start(START);
    for (node, is_accepted) in [(&other, false), (&same, true)] {
        node.keys.import(&state, now).unwrap();
        assert_eq!(node.accepts(&ticket, START), is_accepted);
    }
    // Tickets of random keys are refused from now on.
    let random = keys(now);
    same.keys.import(&random.export(now), now).unwrap();
    assert!(!same.accepts(&random.seal(b"a session", now).unwrap(), START));
}

#[test]
fn derived_keys_are_kept_for_the_same_source_only() {
    let derived = Node::start(START).keys;
    assert!(derived.are_from(Some(&source(1, "chat.example.com"))));
    assert!(!derived.are_from(Some(&source(1, "other.example.com"))));
    assert!(!derived.are_from(Some(&source(2, "chat.example.com"))));
    assert!(!derived.are_from(None));
    let random = keys(clock::now());
    assert!(random.are_from(None) && !random.are_from(Some(&source(1, "chat.example.com"))));
}
