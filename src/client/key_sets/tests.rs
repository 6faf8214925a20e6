use std::cell::{Cell, RefCell};

use futures_util::future::join_all;

use super::super::tests::{block_on, jwks};
use super::*;
use crate::policy::key::KeySet;
use crate::policy::live_keys::KeyLocation;
use crate::policy::remote::{HttpUrl, Roots};
use crate::runtime::clock;

fn remote(path: &str) -> RemoteKeys {
    let location = KeyLocation::Jwks(HttpUrl::parse(&format!("http://localhost/{path}")).unwrap());
    RemoteKeys { location, roots: Roots::System }
}

fn fetcher() -> KeyFetcher {
    KeyFetcher::new(Arc::new(LiveKeys::new(remote("a"), clock::now())), clock::now)
}

fn users() -> Vec<KeyUser> {
    vec![KeyUser { auth: "users".into(), stale_for: Duration::from_mins(1) }]
}

fn fetched(names: &[&str]) -> Result<Fetched, FetchError> {
    let body = jwks(names).into();
    Ok(Fetched { keys: KeySet::from_server(jwks(names).as_bytes()).unwrap(), body, lifetime: None })
}

fn failed() -> Result<Fetched, FetchError> {
    Err(FetchError::Timeout)
}

/// Runs `requests` while the task fetches with these results, of which the last is repeated. Returns the number of
/// fetches.
fn run<T>(
    fetcher: &KeyFetcher,
    results: impl Fn(usize) -> Result<Fetched, FetchError>,
    requests: impl Future<Output = T>,
) -> (usize, T) {
    let count = Cell::new(0);
    let changed = Notify::new();
    let fetching = fetcher.run_with(&changed, || {
        count.set(count.get() + 1);
        let result = results(count.get());
        async {
            tokio::task::yield_now().await;
            result
        }
    });
    let result = block_on(async {
        tokio::select! {
            result = requests => result,
            () = fetching => unreachable!("it runs forever"),
        }
    });
    (count.get(), result)
}

/// The need of a token whose key has this name, as its position in the sets of a test.
fn needs(fetcher: &KeyFetcher, count: usize) -> impl Fn() -> KeyNeed {
    move || match fetcher.live.current() {
        None => KeyNeed::Keys,
        Some(current) if current.keys.ids().count() < count => KeyNeed::NamedKey,
        Some(_) => KeyNeed::Nothing,
    }
}

#[test]
fn requests_wait_for_the_first_fetch() {
    let fetcher = fetcher();
    let waiting = join_all((0..100).map(|_| fetcher.wait(needs(&fetcher, 1))));
    let (count, waited) = run(&fetcher, |_| fetched(&["a"]), waiting);
    assert_eq!((count, waited), (1, vec![Waited::Current; 100]));
}

#[test]
fn requests_do_not_wait_for_another_fetch_after_one_that_failed() {
    let fetcher = fetcher();
    let (count, waited) = run(&fetcher, |_| failed(), fetcher.wait(needs(&fetcher, 1)));
    // The keys are still missing, and the next stage rejects the request.
    assert_eq!((count, waited, needs(&fetcher, 1)()), (1, Waited::Current, KeyNeed::Keys));
    let (count, waited) = run(&fetcher, |_| failed(), fetcher.wait(needs(&fetcher, 1)));
    assert_eq!((count, waited), (0, Waited::Current));
}

#[test]
fn one_fetch_serves_all_requests_that_need_a_new_key() {
    let fetcher = fetcher();
    let requests = async {
        fetcher.wait(needs(&fetcher, 1)).await;
        join_all((0..100).map(|_| fetcher.wait(needs(&fetcher, 2)))).await
    };
    let (count, waited) = run(&fetcher, |fetch| fetched(if fetch == 1 { &["a"] } else { &["a", "b"] }), requests);
    assert_eq!((count, waited), (2, vec![Waited::Current; 100]));
}

#[test]
fn a_key_that_was_published_after_a_fetch_began_is_found_by_one_more_fetch() {
    let fetcher = fetcher();
    // The fetch that is in progress when the request arrives does not have the key yet.
    let (count, waited) =
        run(&fetcher, |fetch| fetched(if fetch == 1 { &["a"] } else { &["a", "b"] }), fetcher.wait(needs(&fetcher, 2)));
    assert_eq!((count, waited, needs(&fetcher, 2)()), (2, Waited::Current, KeyNeed::Nothing));
}

#[test]
fn made_up_keys_cause_two_fetches_and_then_no_wait() {
    let fetcher = fetcher();
    let requests = async {
        fetcher.wait(needs(&fetcher, 1)).await;
        for _ in 0..10_000 {
            assert_eq!(fetcher.wait(needs(&fetcher, 2)).await, Waited::Current);
        }
    };
    let (count, ()) = run(&fetcher, |_| fetched(&["a"]), requests);
    assert_eq!(count, 3);
}

#[test]
fn a_key_that_a_failing_fetch_may_bring_is_not_unknown() {
    let fetcher = fetcher();
    let requests = async {
        fetcher.wait(needs(&fetcher, 1)).await;
        let mut waited = Vec::new();
        for _ in 0..10 {
            waited.push(fetcher.wait(needs(&fetcher, 2)).await);
        }
        assert_eq!(fetcher.wait(needs(&fetcher, 1)).await, Waited::Current, "known keys are there");
        waited
    };
    let (count, waited) = run(&fetcher, |fetch| if fetch == 1 { fetched(&["a"]) } else { failed() }, requests);
    let is_failed = |waited: &Waited| matches!(waited, Waited::Failed { retry_after_secs: 1..=31 });
    assert!(count == 3 && waited.iter().all(is_failed), "{count} fetches: {waited:?}");
}

#[test]
fn a_set_that_has_its_first_keys_or_loses_keys_is_reported() {
    let fetcher = fetcher();
    let reported = RefCell::new(Vec::new());
    for names in [&["a"][..], &["a", "b"], &["a", "b"], &["b"], &["c"]] {
        fetcher.live.schedule().start();
        reported.borrow_mut().push(fetcher.finish(fetched(names)));
    }
    fetcher.live.schedule().start();
    reported.borrow_mut().push(fetcher.finish(failed()));
    assert_eq!(*reported.borrow(), [true, false, false, true, true, false]);
}

#[test]
fn a_set_is_shared_by_its_address_and_dropped_when_no_snapshot_uses_it() {
    let sets = KeySets::new(clock::now);
    let (a, b) = (sets.get(&remote("a")), sets.get(&remote("b")));
    assert!(Arc::ptr_eq(&a, &sets.get(&remote("a"))) && !Arc::ptr_eq(&a, &b));
    sets.retain(|kept| if *kept == remote("a") { users() } else { Vec::new() });
    assert!(sets.fetcher(&remote("a")).is_some() && sets.fetcher(&remote("b")).is_none());
    assert!(Arc::ptr_eq(&a, &sets.get(&remote("a"))) && !Arc::ptr_eq(&b, &sets.get(&remote("b"))));
}

#[test]
fn the_task_of_a_set_ends_with_the_set() {
    block_on(async {
        let (sets, tasks) = (KeySets::new(clock::now), Tasks::default());
        // Nothing listens there; the task waits for its next attempt.
        let location = KeyLocation::Jwks(HttpUrl::parse("http://127.0.0.1:1/").unwrap());
        let remote = RemoteKeys { location, roots: Roots::Certificates(Vec::new().into()) };
        let live = sets.get(&remote);
        sets.retain(|_| users());
        sets.start(&tasks);
        sets.start(&tasks);
        let fetcher = sets.fetcher(&remote).unwrap();
        fetcher.ended.subscribe().changed().await.unwrap();
        assert_eq!(live.fetches(), (0, 1));
        drop(fetcher);
        sets.retain(|_| Vec::new());
        tasks.end().await;
        assert_eq!(Arc::strong_count(&live), 1);
    });
}
