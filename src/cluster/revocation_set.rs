//! The revocations at the server: a set of all, which a node loads that was away, and scripts that change it together
//! with the stream of events.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Script, ScriptInvocation, Value};

use super::connect::Connection;
use super::event::{TEXT_MAX_BYTES, text};
use super::keys::Keys;
use super::stream::{CONTROL_MAX, KEPT};
use super::time::{millis, of_millis};
use crate::policy::revocation::ENTRIES_MAX;
use crate::policy::revocation::entry::{Revocation, RevocationId};
use crate::policy::revocation::journal::Change;

/// The longest time to live of the set. It begins anew with each change.
const LIVE_MAX: Duration = Duration::from_hours(24 * 366);
/// The number of elements that one command reads, about.
const SCAN: usize = 500;
/// The largest number of ids: of revocations, and of removed ones that have not ended.
const IDS_MAX: usize = 2 * ENTRIES_MAX;
/// The `issued_before` of a revocation of all tokens: the largest number that a script can count to.
const ALL_TOKENS: u64 = (1 << 53) - 1;

/// A change, and the end of the revocation that it adds or removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SharedChange {
    /// The change.
    pub change: Change,
    /// The time at which it was made, since the Unix epoch.
    pub made: Duration,
    /// The end, since the Unix epoch.
    pub end: Duration,
    /// Whether the stream gets it, too.
    pub is_event: bool,
}

impl SharedChange {
    /// Returns the addition of a revocation.
    pub(super) fn add(revocation: Revocation, is_event: bool) -> Self {
        Self { made: revocation.created, end: revocation.expires, change: Change::Add(revocation), is_event }
    }

    /// Returns the id of the revocation.
    pub(super) fn id(&self) -> RevocationId {
        match &self.change {
            Change::Add(revocation) => revocation.target.id(),
            Change::Remove(id) => *id,
        }
    }
}

/// The set as it is at the server.
#[derive(Debug, Default)]
pub(super) struct StoredSet {
    /// The revocations; those of one id cover each other only together.
    pub revocations: HashMap<RevocationId, Vec<Revocation>>,
    /// The times of removals.
    pub removed: HashMap<RevocationId, Duration>,
}

impl StoredSet {
    /// Whether a revocation was removed after it was made.
    pub(super) fn has_removed(&self, revocation: &Revocation) -> bool {
        self.removed.get(&revocation.target.id()).is_some_and(|removed| revocation.created < *removed)
    }

    /// Whether it has a revocation.
    pub(super) fn covers(&self, revocation: &Revocation) -> bool {
        let stored = self.revocations.get(&revocation.target.id());
        stored.is_some_and(|stored| stored.iter().any(|stored| stored.covers(revocation)))
    }
}

/// The scripts, and the names of their keys.
#[derive(Debug)]
pub(super) struct RevocationSet {
    keys: [String; 4],
    stream: String,
    instance: Arc<str>,
    add: Script,
    remove: Script,
    mark: Script,
}

impl RevocationSet {
    /// Creates the set of a process.
    pub(super) fn new(keys: &Keys, instance: Arc<str>) -> Self {
        let [stream, _] = keys.streams();
        Self {
            keys: keys.revocations(),
            stream,
            instance,
            add: Script::new(include_str!("add.lua")),
            remove: Script::new(include_str!("remove.lua")),
            mark: Script::new(include_str!("mark.lua")),
        }
    }

    /// Returns the script of a change, whose answer is 0 if the set is full. `is_new` is whether the change is made now;
    /// an earlier one has no effect if another node has made the opposite change meanwhile.
    pub(super) fn script(&self, shared: &SharedChange, is_new: bool) -> ScriptInvocation<'_> {
        let [ends, revocations, removed, _] = &self.keys;
        let script = if matches!(shared.change, Change::Add(_)) { &self.add } else { &self.remove };
        let mut call = script.key(ends);
        call.key(revocations).key(removed).key(&self.stream);
        call.arg(shared.id().to_string()).arg(shared.change.line().trim_end());
        call.arg(millis(shared.made)).arg(millis(shared.end)).arg(u8::from(is_new));
        call.arg(IDS_MAX).arg(millis(LIVE_MAX));
        call.arg(u8::from(shared.is_event)).arg(&*self.instance).arg(CONTROL_MAX).arg(millis(KEPT));
        if let Change::Add(Revocation { issued_before, .. }) = &shared.change {
            call.arg(issued_before.map_or(ALL_TOKENS, millis));
        }
        call
    }

    /// Returns the script whose answer is the mark of the server's data: another one if they were lost.
    pub(super) fn mark(&self, new: &str) -> ScriptInvocation<'_> {
        let [.., mark] = &self.keys;
        let mut call = self.mark.key(mark);
        call.arg(new).arg(millis(KEPT));
        call
    }

    /// Loads the set. Elements that are not understood are left out.
    pub(super) async fn load(&self, connection: &mut Connection) -> RedisResult<StoredSet> {
        let [_, revocations, removed, _] = &self.keys;
        let mut set = StoredSet::default();
        for (id, value) in scan(connection, revocations).await? {
            let lines = value.lines().filter_map(stored);
            for revocation in lines.filter(|revocation| revocation.target.id() == id) {
                set.revocations.entry(id).or_default().push(revocation);
            }
        }
        for (id, value) in scan(connection, removed).await? {
            if let Ok(made) = value.parse() {
                set.removed.insert(id, of_millis(made));
            }
        }
        Ok(set)
    }
}

/// Reads a revocation in the form of the script: "before end made line".
fn stored(entry: &str) -> Option<Revocation> {
    let line = entry.splitn(4, ' ').nth(3)?;
    match Change::parse(line.as_bytes())? {
        Change::Add(revocation) => Some(revocation),
        Change::Remove(_) => None,
    }
}

/// Reads all values of a hash, a part at a time. One may be read twice.
async fn scan(connection: &mut Connection, key: &str) -> RedisResult<HashMap<RevocationId, String>> {
    let (mut values, mut cursor) = (HashMap::new(), 0_u64);
    loop {
        let (next, part): (u64, Vec<Value>) =
            redis::cmd("HSCAN").arg(key).arg(cursor).arg("COUNT").arg(SCAN).query_async(connection).await?;
        let (pairs, _) = part.as_chunks::<2>();
        values.extend(pairs.iter().filter_map(|[id, value]| {
            let value = text(value).filter(|value| value.len() <= TEXT_MAX_BYTES)?;
            Some((RevocationId::parse(text(id)?)?, value.to_owned()))
        }));
        cursor = next;
        if cursor == 0 || values.len() >= IDS_MAX {
            return Ok(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::revocation::entry::{Kind, Target};

    fn revocation(created: u64, issued_before: Option<u64>, expires: u64) -> Revocation {
        Revocation {
            target: Target::new(Kind::Token, None, "t").unwrap(),
            issued_before: issued_before.map(Duration::from_secs),
            expires: Duration::from_secs(expires),
            created: Duration::from_secs(created),
            reason: None,
        }
    }

    #[test]
    fn a_stored_revocation_is_read_as_it_was_written() {
        let added = revocation(5, Some(4), 9);
        let line = Change::Add(added.clone()).line();
        assert_eq!(stored(&format!("4000 9000 5000 {}", line.trim_end())), Some(added));
        let removed = Change::Remove(RevocationId(1)).line();
        for other in ["", "1 2 3", "1 2 3 x", &format!("1 2 3 {}", removed.trim_end())] {
            assert_eq!(stored(other), None, "{other}");
        }
    }

    #[test]
    fn a_set_covers_what_a_stored_revocation_covers() {
        let id = revocation(0, None, 1).target.id();
        let stored = vec![revocation(5, Some(4), 9), revocation(6, Some(8), 7)];
        let set = StoredSet { revocations: [(id, stored)].into(), removed: [(id, Duration::from_secs(6))].into() };
        for (issued_before, expires, expected) in [
            (Some(4), 9, true),
            (Some(3), 8, true),
            (Some(8), 7, true),
            (Some(5), 8, false),
            (None, 7, false),
            (Some(1), 10, false),
        ] {
            assert_eq!(set.covers(&revocation(1, issued_before, expires)), expected, "{issued_before:?} {expires}");
        }
        assert!(!StoredSet::default().covers(&revocation(1, Some(1), 1)));
        assert!(set.has_removed(&revocation(5, None, 9)) && !set.has_removed(&revocation(6, None, 9)));
    }
}
