//! Which of the names whose certificates are due is ordered first.

use std::collections::HashMap;
use std::sync::Arc;

/// A section and one of its names.
type Key = (Arc<str>, Arc<str>);

/// The orders that were made for each name of a section.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    made: u64,
    names: HashMap<Key, Attempt>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Attempt {
    /// The number of its last order among all.
    last: u64,
    /// Its orders since the last one that succeeded, whatever made them fail.
    failed: u32,
}

/// The place of a name among those that may be ordered: the least is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    /// Also counts the orders that the certificate authority refused as such: its limit may concern only this name, and the
    /// pause after a refusal holds up all names. So each other name has its turn before this one is refused again.
    failed: u32,
    has_certificate: bool,
    last: u64,
}

impl Attempts {
    /// Notes that an order begins.
    pub fn begin(&mut self, section: &Arc<str>, name: &Arc<str>) {
        self.made += 1;
        self.names.entry((Arc::clone(section), Arc::clone(name))).or_default().last = self.made;
    }

    /// Notes that an order ended.
    pub fn end(&mut self, section: &Arc<str>, name: &Arc<str>, is_issued: bool) {
        let attempt = self.names.entry((Arc::clone(section), Arc::clone(name))).or_default();
        attempt.failed = if is_issued { 0 } else { attempt.failed.saturating_add(1) };
    }

    /// Forgets the names of sections that are not used.
    pub fn retain(&mut self, is_used: impl Fn(&str) -> bool) {
        self.names.retain(|(section, _), _| is_used(section));
    }

    /// Returns the place of a name.
    pub fn precedence(&self, section: &Arc<str>, name: &Arc<str>, has_certificate: bool) -> Precedence {
        let key = (Arc::clone(section), Arc::clone(name));
        let Attempt { last, failed } = self.names.get(&key).copied().unwrap_or_default();
        Precedence { failed, has_certificate, last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes this number of orders for names that are due, and returns the names in that order. Names that end in `!` are
    /// refused every time, those that begin with `+` have a certificate.
    fn ordered(names: &[&str], orders: usize) -> Vec<String> {
        let key = |name: &str| {
            let (section, name) = name.split_once('/').unwrap_or(("main", name));
            (Arc::<str>::from(section), Arc::<str>::from(name))
        };
        let (mut attempts, mut due) = (Attempts::default(), names.to_vec());
        let mut made = Vec::new();
        while made.len() < orders && !due.is_empty() {
            let place = |name: &&&str| {
                let (section, own) = key(name);
                attempts.precedence(&section, &own, own.starts_with('+'))
            };
            let next = *due.iter().min_by_key(place).unwrap();
            let (section, own) = key(next);
            attempts.begin(&section, &own);
            let is_issued = !own.ends_with('!');
            attempts.end(&section, &own, is_issued);
            due.retain(|name| *name != next || !is_issued);
            made.push(next.to_owned());
        }
        made
    }

    #[test]
    fn a_name_that_is_refused_holds_up_no_other_more_than_once() {
        let table: &[(&[&str], &[&str])] = &[
            // A name without a certificate is first, and those with one are renewed after a single refusal of it.
            (&["+a", "b!", "+c"], &["b!", "+a", "+c", "b!", "b!"]),
            (&["+a", "b", "+c"], &["b", "+a", "+c"]),
            // Two names that are refused hold up the renewals once each.
            (&["+a", "b!", "c!", "+d"], &["b!", "c!", "+a", "+d", "b!", "c!", "b!"]),
            // So does a renewal that is refused, also for names of another section with this authority.
            (&["+a!", "+b", "other/c!", "other/+d"], &["other/c!", "+a!", "+b", "other/+d", "other/c!", "+a!"]),
            // If all are refused, they take turns.
            (&["+a!", "b!", "+c!"], &["b!", "+a!", "+c!", "b!", "+a!", "+c!"]),
        ];
        for (names, expected) in table {
            assert_eq!(ordered(names, expected.len()), *expected, "{names:?}");
        }
    }

    #[test]
    fn a_name_that_succeeds_is_not_behind_others_any_more() {
        let (mut attempts, main, name) = (Attempts::default(), Arc::from("main"), Arc::from("a"));
        for is_issued in [false, false, true] {
            attempts.begin(&main, &name);
            attempts.end(&main, &name, is_issued);
        }
        assert_eq!(attempts.precedence(&main, &name, true), Precedence { failed: 0, has_certificate: true, last: 3 });
        attempts.retain(|section| section != "main");
        assert_eq!(attempts.precedence(&main, &name, true), Precedence { failed: 0, has_certificate: true, last: 0 });
    }
}
