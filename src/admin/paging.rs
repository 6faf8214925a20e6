//! The pages of lists, and the order of a list of sessions.
//!
//! A cursor of such a list is the order of a page, and the place of its last entry: its sort key and its id. So it stays valid when
//! sessions begin and end. While the order is by counts that grow, an entry may move past the cursor: it then appears
//! twice or not at all.

use std::cmp::Ordering;

use super::problem::{Problem, Result};

/// The number of entries of a page.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// Returns the number of entries of a page of any list.
///
/// # Errors
/// If it is not from 1 to 1,000.
pub(super) fn check_limit(limit: Option<usize>) -> Result<usize> {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::bad_request(format!("`limit` is a number from 1 to {LIMIT_MAX}")))
}

/// Returns the problem of a cursor of any list that no page has.
pub(super) fn invalid_cursor() -> Box<Problem> {
    Problem::bad_request("`cursor` is not the one of a page")
}

/// The key by which a list is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SortKey {
    /// The time since the 101.
    Age,
    /// The messages of both directions.
    Messages,
    /// The bytes of both directions.
    Bytes,
    /// The id.
    Id,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    /// The key. Entries with the same key are ordered by id.
    pub(super) key: SortKey,
    /// Whether the largest key is first.
    pub(super) is_descending: bool,
}

/// The place of an entry in a list: its key and its id.
pub(super) type Place = (i128, u128);

/// The requested page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// The order of the list.
    pub(super) order: Order,
    /// The place after which the page starts.
    after: Option<Place>,
    /// The largest number of entries.
    limit: usize,
}

impl Order {
    const NAMES: [(&'static str, SortKey); 4] =
        [("age", SortKey::Age), ("messages", SortKey::Messages), ("bytes", SortKey::Bytes), ("id", SortKey::Id)];

    fn parse(text: &str) -> Option<Self> {
        let (is_descending, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        let (_, key) = Self::NAMES.into_iter().find(|(known, _)| *known == name)?;
        Some(Self { key, is_descending })
    }

    /// Returns the cursor of a place: a hexadecimal digit of the order, and 32 of each part.
    pub(super) fn encode(self, (key, id): Place) -> String {
        format!("{:x}{:032x}{id:032x}", self.digit(), key.cast_unsigned())
    }

    /// Returns the order and the place of a cursor.
    pub(super) fn decode(cursor: &str) -> Option<(Self, Place)> {
        let is_cursor = cursor.len() == 65 && cursor.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (order, place) = cursor.split_at_checked(1).filter(|_| is_cursor)?;
        let (key, id) = place.split_at_checked(32)?;
        let digit = u8::from_str_radix(order, 16).ok()?;
        let orders =
            Self::NAMES.into_iter().flat_map(|(_, key)| [false, true].map(|is_descending| Self { key, is_descending }));
        let order = orders.into_iter().find(|order| order.digit() == digit)?;
        Some((order, (u128::from_str_radix(key, 16).ok()?.cast_signed(), u128::from_str_radix(id, 16).ok()?)))
    }

    fn digit(self) -> u8 {
        (self.key as u8) << 1 | u8::from(self.is_descending)
    }

    pub(super) fn compare(self, a: Place, b: Place) -> Ordering {
        let keys = a.0.cmp(&b.0);
        let keys = if self.is_descending { keys.reverse() } else { keys };
        let ids = a.1.cmp(&b.1);
        // The keys of an order by id are all the same.
        keys.then(if self.is_descending && self.key == SortKey::Id { ids.reverse() } else { ids })
    }
}

impl Page {
    /// Reads the parameters of a query. Without `sort` the newest session is first. A cursor continues the order of its
    /// page, whatever `sort` is.
    ///
    /// # Errors
    /// If one of them is malformed.
    pub(super) fn parse(sort: Option<&str>, limit: Option<usize>, cursor: Option<&str>) -> Result<Self> {
        let order = Order::parse(sort.unwrap_or("age")).ok_or_else(|| {
            Problem::bad_request("`sort` is one of age, messages, bytes, id, with a `-` before it to reverse the order")
        })?;
        let limit = check_limit(limit)?;
        let Some(cursor) = cursor else { return Ok(Self { order, after: None, limit }) };
        let (order, after) = Order::decode(cursor).ok_or_else(invalid_cursor)?;
        Ok(Self { order, after: Some(after), limit })
    }

    /// Returns the entries of this page in their order, and the cursor of the next page if there is one.
    pub(super) fn select<T>(&self, entries: Vec<(Place, T)>) -> (Vec<T>, Option<String>) {
        let (entries, has_more) = self.cut(entries);
        let last = entries.last().filter(|_| has_more).map(|(place, _)| self.order.encode(*place));
        (entries.into_iter().map(|(_, entry)| entry).collect(), last)
    }

    /// Returns the entries of this page with their places in their order, and whether more follow.
    pub(super) fn cut<T>(&self, mut entries: Vec<(Place, T)>) -> (Vec<(Place, T)>, bool) {
        if let Some(after) = self.after {
            entries.retain(|(place, _)| self.order.compare(*place, after) == Ordering::Greater);
        }
        entries.sort_unstable_by(|(a, _), (b, _)| self.order.compare(*a, *b));
        let has_more = entries.len() > self.limit;
        entries.truncate(self.limit);
        (entries, has_more)
    }
}

#[cfg(test)]
mod tests;
