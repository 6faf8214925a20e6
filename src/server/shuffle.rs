//! Random numbers and orders for the times of closings.

use crate::runtime::entropy::random;

/// Returns a random number.
pub(super) fn number() -> u64 {
    u64::from_ne_bytes(random())
}

/// Puts items into a random order (Fisher and Yates).
pub(super) fn shuffle<T>(items: &mut [T]) {
    for last in (1..items.len()).rev() {
        let bound = u64::try_from(last).unwrap_or(u64::MAX).saturating_add(1);
        // The bias of the remainder is far below what a list of sessions shows.
        items.swap(last, usize::try_from(number() % bound).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_keeps_the_items_and_changes_their_order() {
        let mut items: Vec<u32> = (0..1000).collect();
        shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert!(items.into_iter().eq(0..1000));
    }
}
