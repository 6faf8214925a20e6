//! Tests of pages that are merged from those of several nodes.

use super::*;

/// Returns a session as a node sends it, with this id.
fn session(id: u128) -> Session {
    let text = format!(
        r#"{{"id":"{id:032x}","route":"r","auth":null,"subject":"ada","address":"::1","upstream":"u","server":"s",
        "host":null,"path":"/","origin":null,"tls_version":"TLSv1_3","cipher":null,"upstream_tls_version":null,
        "started":null,"age_seconds":1.5,"idle_seconds":0.5,"activity":"open","messages_in":1,"bytes_in":2,
        "messages_out":3,"bytes_out":4,"throttled":0,"dropped":0,"reported":{{"byte_rate":2}},
        "rates":{{"messages_in":0.0,"bytes_in":0.0,"messages_out":0.0,"bytes_out":0.0}},"buffered_in_bytes":0,
        "buffered_out_bytes":0,"next_deadline":{{"in_seconds":9.0,"kind":"idle_timeout"}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// Returns the page that a node with sessions at these places answers with; `max` is the number that fits its answer.
fn answer(page: &Page, places: &[Place], max: usize) -> NodePage {
    let (mut cut, mut has_more) = page.cut(places.iter().map(|place| (*place, place.1)).collect());
    has_more |= cut.len() > max;
    cut.truncate(max);
    let sessions = cut.into_iter().map(|(place, id)| (page.order.encode(place), session(id))).collect();
    let text = serde_json::to_string(&NodePage { total: places.len(), has_more, sessions }).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Reads all pages of a list of the sessions of several nodes. Returns the ids, each with its node.
fn all(sort: &str, limit: usize, nodes: &[&[Place]], max: usize) -> Vec<(String, u128)> {
    let (mut read, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = Page::parse(Some(sort), Some(limit), cursor.as_deref()).unwrap();
        let answers = nodes.iter().enumerate().map(|(at, places)| (at.to_string(), answer(&page, places, max)));
        let merged = merge(&page, answers.collect());
        assert!(merged.sessions.len() <= limit);
        assert_eq!(merged.total, nodes.iter().map(|places| places.len()).sum::<usize>());
        let ids = merged.sessions.into_iter().map(|session| {
            let text = serde_json::to_value(&session).unwrap();
            (session.node.unwrap(), u128::from_str_radix(text["id"].as_str().unwrap(), 16).unwrap())
        });
        read.extend(ids);
        cursor = merged.cursor;
        if cursor.is_none() {
            return read;
        }
    }
}

#[test]
fn pages_of_several_nodes_have_every_session_once_and_in_order() {
    let nodes: [&[Place]; 4] = [&[(5, 1), (1, 2), (9, 3)], &[(5, 4), (7, 5)], &[], &[(0, 6), (5, 7), (8, 8), (2, 9)]];
    for limit in 1..=10 {
        for max in 1..=5 {
            let ids = |sort| all(sort, limit, &nodes, max).into_iter().map(|(_, id)| id).collect::<Vec<_>>();
            assert_eq!(ids("bytes"), [6, 2, 9, 1, 4, 7, 5, 8, 3], "{limit} {max}");
            assert_eq!(ids("-bytes"), [3, 8, 5, 1, 4, 7, 9, 2, 6], "{limit} {max}");
        }
    }
    let of_nodes = all("bytes", 3, &nodes, 5);
    assert_eq!(of_nodes[0], ("3".to_owned(), 6));
    assert!(of_nodes.contains(&("1".to_owned(), 5)));
}

#[test]
fn a_place_of_another_order_is_left_out() {
    let page = Page::parse(Some("bytes"), Some(5), None).unwrap();
    let other = Page::parse(Some("-bytes"), Some(5), None).unwrap();
    let merged = merge(
        &page,
        vec![("a".to_owned(), answer(&other, &[(1, 1)], 9)), ("b".to_owned(), answer(&page, &[(1, 2)], 9))],
    );
    assert_eq!((merged.sessions.len(), merged.cursor), (1, None));
}

#[test]
fn the_key_of_an_age_is_the_same_on_all_nodes() {
    let (now, unix, second) = (Instant::now(), Duration::from_secs(1_800_000_000), Duration::from_secs(1));
    let key = since(now + second, (now, unix));
    assert_eq!(key, -1_800_000_001_000_000_000);
    // Another process began a minute later, and its session at the same time.
    assert_eq!(since(now + second, (now + 60 * second, unix + 60 * second)), key);
    assert!(since(now, (now, unix)) > key, "the older session has the larger age");
}

#[test]
fn a_session_is_at_the_node_whose_page_has_it() {
    let page = |total: usize| format!(r#"{{"total":{total},"has_more":false,"sessions":[]}}"#).into_bytes();
    let found = |pages: &[usize], missing: &[&str]| {
        let answers = pages.iter().zip(["1-a", "2-b"]).map(|(total, node)| (node.into(), page(*total))).collect();
        elsewhere(&Answers { answers, missing: missing.iter().map(|node| (*node).into()).collect() })
    };
    assert_eq!(found(&[0, 1], &[]), Elsewhere::At("2-b".into()));
    assert_eq!(found(&[0, 1], &["3-c"]), Elsewhere::At("2-b".into()));
    assert_eq!((found(&[0, 0], &[]), found(&[], &[])), (Elsewhere::Nowhere, Elsewhere::Nowhere));
    assert_eq!(found(&[0, 0], &["3-c"]), Elsewhere::Unknown);
}
