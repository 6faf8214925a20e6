//! The order of a list of sessions, and its pages.
//!
//! A cursor is the place of the last entry of a page: its sort key and its id. So it stays valid when sessions begin and
//! end. While the order is by counts that grow, an entry may move past the cursor: it then appears twice or not at all.

use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::problem::{Problem, Result};

/// The number of entries of a page.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

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

    fn compare(self, a: Place, b: Place) -> Ordering {
        let keys = a.0.cmp(&b.0);
        let keys = if self.is_descending { keys.reverse() } else { keys };
        let ids = a.1.cmp(&b.1);
        // The keys of an order by id are all the same.
        keys.then(if self.is_descending && self.key == SortKey::Id { ids.reverse() } else { ids })
    }

    fn name(self) -> &'static str {
        Self::NAMES.into_iter().find(|(_, key)| *key == self.key).map_or("", |(name, _)| name)
    }
}

impl Page {
    /// Reads the parameters of a query. Without `sort` the newest session is first.
    ///
    /// # Errors
    /// If one of them is malformed, or the cursor is of a list with another order.
    pub(super) fn parse(sort: Option<&str>, limit: Option<usize>, cursor: Option<&str>) -> Result<Self> {
        let order = Order::parse(sort.unwrap_or("age")).ok_or_else(|| {
            Problem::bad_request("`sort` is one of age, messages, bytes, id, with a `-` before it to reverse the order")
        })?;
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Problem::bad_request(format!("`limit` is a number from 1 to {LIMIT_MAX}")));
        }
        let invalid = || Problem::bad_request("`cursor` is not of a list with this order");
        let after = cursor.map(|cursor| decode(order, cursor).ok_or_else(invalid)).transpose()?;
        Ok(Self { order, after, limit })
    }

    /// Returns the entries of this page in their order, and the cursor of the next page if there is one.
    pub(super) fn select<T>(&self, mut entries: Vec<(Place, T)>) -> (Vec<T>, Option<String>) {
        if let Some(after) = self.after {
            entries.retain(|(place, _)| self.order.compare(*place, after) == Ordering::Greater);
        }
        entries.sort_unstable_by(|(a, _), (b, _)| self.order.compare(*a, *b));
        let has_more = entries.len() > self.limit;
        entries.truncate(self.limit);
        let last = entries.last().filter(|_| has_more).map(|(place, _)| encode(self.order, *place));
        (entries.into_iter().map(|(_, entry)| entry).collect(), last)
    }
}

fn encode(order: Order, (key, id): Place) -> String {
    let sign = if order.is_descending { "-" } else { "" };
    URL_SAFE_NO_PAD.encode(format!("{sign}{}:{key}:{id:x}", order.name()))
}

fn decode(order: Order, cursor: &str) -> Option<Place> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let mut parts = text.split(':');
    let (sort, key, id) = (parts.next()?, parts.next()?, parts.next()?);
    let place = (key.parse().ok()?, u128::from_str_radix(id, 16).ok()?);
    (parts.next().is_none() && Order::parse(sort) == Some(order)).then_some(place)
}

#[cfg(test)]
mod tests;
