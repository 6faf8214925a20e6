//! Tests of orders, pages and cursors.

use super::*;

fn page(sort: &str, limit: usize, cursor: Option<&str>) -> Page {
    Page::parse(Some(sort), Some(limit), cursor).unwrap()
}

/// Reads all pages of a list.
fn all(sort: &str, limit: usize, entries: &[Place]) -> Vec<u128> {
    let (mut read, mut cursor) = (Vec::new(), None);
    loop {
        let list = entries.iter().map(|place| (*place, place.1)).collect();
        let (ids, next) = page(sort, limit, cursor.as_deref()).select(list);
        assert!(ids.len() <= limit);
        read.extend(ids);
        let Some(next) = next else { return read };
        assert!(next.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{next}");
        cursor = Some(next);
    }
}

#[test]
fn pages_of_any_size_have_every_entry_once_and_in_order() {
    let entries = [(5, 1), (-3, 2), (5, 3), (i128::from(u64::MAX), 4), (5, u128::MAX)];
    for limit in 1..=6 {
        assert_eq!(all("bytes", limit, &entries), [2, 1, 3, u128::MAX, 4], "{limit}");
        assert_eq!(all("-bytes", limit, &entries), [4, 1, 3, u128::MAX, 2], "{limit}");
        let by_id = entries.map(|(_, id)| (0, id));
        assert_eq!(all("id", limit, &by_id), [1, 2, 3, 4, u128::MAX], "{limit}");
        assert_eq!(all("-id", limit, &by_id), [u128::MAX, 4, 3, 2, 1], "{limit}");
    }
    assert!(all("age", 10, &[]).is_empty());
}

#[test]
fn a_cursor_stays_valid_when_sessions_begin_and_end() {
    let list = |places: &[Place]| places.iter().map(|place| (*place, place.1)).collect::<Vec<_>>();
    let (first, cursor) = page("age", 2, None).select(list(&[(1, 1), (2, 2), (3, 3), (4, 4)]));
    assert_eq!(first, [1, 2]);
    // The last entry of the page has ended, and new ones have begun before and after it.
    let (second, end) = page("age", 2, cursor.as_deref()).select(list(&[(0, 9), (1, 1), (2, 8), (3, 3)]));
    assert_eq!((second, end), (vec![8, 3], None));
}

#[test]
fn parameters_are_checked() {
    let status = |sort, limit, cursor| Page::parse(sort, limit, cursor).map_err(|problem| problem.status().as_u16());
    let newest_first = Order { key: SortKey::Age, is_descending: false };
    assert_eq!(status(None, None, None), Ok(Page { order: newest_first, after: None, limit: 100 }));
    assert!(status(Some("-messages"), Some(1000), None).is_ok());
    for sort in ["", "-", "--age", "Age", "subject"] {
        assert_eq!(status(Some(sort), None, None), Err(400), "{sort}");
    }
    for limit in [0, 1001] {
        assert_eq!(status(None, Some(limit), None), Err(400), "{limit}");
    }
    let cursor = newest_first.encode((-7, 8));
    assert_eq!(status(None, None, Some(&cursor)).unwrap().after, Some((-7, 8)));
    // A cursor continues the order of its page.
    for sort in ["-age", "id", "bytes"] {
        assert_eq!(status(Some(sort), None, Some(&cursor)).unwrap().order, newest_first, "{sort}");
    }
    for cursor in ["", "!", "00", &cursor[1..], &format!("{cursor}0"), &cursor.replace('8', "g")] {
        assert_eq!(status(None, None, Some(cursor)), Err(400), "{cursor}");
    }
}
