//! The streams of events: how long they are kept, how an event is written, and where reading resumes.

use std::time::Duration;

use redis::{Pipeline, RedisResult, Script, ScriptInvocation, Value};

use super::connect::Connection;
use super::event::{Entry, EntryId, Event, Fields, entries_of};
use super::time::millis;

/// The largest number of entries of the stream that nodes read later, about.
pub(super) const CONTROL_MAX: usize = 10_000;
/// The largest number of entries of the stream that nodes read at once, about.
const SENDS_MAX: usize = 1_000;
/// How long the stream that nodes read later is kept after its last entry.
pub(super) const KEPT: Duration = Duration::from_hours(1);
/// How long the entries of the other stream are kept, which may have messages: those that are older than
/// [`SEND_MAX_AGE`](super::event::SEND_MAX_AGE) are skipped.
const SENDS_KEPT: Duration = Duration::from_mins(1);
/// The number of entries of each stream that are read at once.
const BATCH: usize = 100;

/// The scripts of the streams.
#[derive(Debug)]
pub(super) struct Scripts {
    send: Script,
    ends: Script,
}

impl Scripts {
    /// Creates the scripts.
    pub(super) fn new() -> Self {
        Self { send: Script::new(include_str!("send.lua")), ends: Script::new(include_str!("ends.lua")) }
    }

    /// Returns the script that writes an event which only nodes need that read it at once.
    pub(super) fn send(&self, streams: &[String; 2], instance: &str, event: Event) -> ScriptInvocation<'_> {
        let [_, sends] = streams;
        let Fields { kind, text, payload } = event.fields();
        let mut call = self.send.key(sends);
        call.arg(SENDS_MAX).arg(millis(SENDS_KEPT)).arg(instance).arg(kind).arg(text).arg(payload);
        call
    }
}

/// Returns the commands that write an event which nodes read later, too.
pub(super) fn write(streams: &[String; 2], instance: &str, event: Event) -> Pipeline {
    let [key, _] = streams;
    let Fields { kind, text, payload } = event.fields();
    let mut commands = redis::pipe();
    commands.cmd("XADD").arg(key).arg("MAXLEN").arg("~").arg(CONTROL_MAX).arg("*");
    commands.arg("n").arg(instance).arg("k").arg(kind).arg("d").arg(text);
    if !payload.is_empty() {
        commands.arg("p").arg(payload);
    }
    commands.ignore().cmd("PEXPIRE").arg(key).arg(millis(KEPT)).ignore();
    commands
}

/// The last entries that were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Positions(Option<[EntryId; 2]>);

impl Positions {
    /// Continues at a server that was away or may have lost its streams, or begins behind the last entries. Returns
    /// whether events may have been missed.
    pub(super) async fn resume(
        &mut self,
        scripts: &Scripts,
        streams: &[String; 2],
        connection: &mut Connection,
    ) -> RedisResult<bool> {
        let [control, sends] = streams;
        let answers: Vec<Value> = scripts.ends.key(control).key(sends).invoke_async(connection).await?;
        let ends: Vec<Option<EntryId>> = answers.iter().map(EntryId::parse).collect();
        let [first, last, first_send, last_send] = *ends.as_slice() else { return Ok(true) };
        let known = self.0;
        let (control, has_missed) = resume(known.map(|[control, _]| control), first, last);
        let (sends, _) = resume(known.map(|[_, sends]| sends), first_send, last_send);
        self.0 = Some([control, sends]);
        Ok(has_missed)
    }

    /// Reads the next entries: those to read later first. Waits for this long if there are none.
    pub(super) async fn read(
        &mut self,
        streams: &[String; 2],
        connection: &mut Connection,
        wait: Duration,
    ) -> RedisResult<Vec<Entry>> {
        let positions = self.0.get_or_insert_default();
        let mut command = redis::cmd("XREAD");
        // Zero would wait without an end.
        command.arg("COUNT").arg(BATCH).arg("BLOCK").arg(millis(wait).max(1)).arg("STREAMS").arg(streams);
        command.arg(positions.map(|id| id.to_string()).as_slice());
        let answer: Value = command.query_async(connection).await?;
        let mut all = Vec::new();
        for (stream, position) in streams.iter().zip(positions) {
            let new: Vec<Entry> =
                entries_of(stream, &answer).into_iter().filter(|entry| entry.id > *position).collect();
            // An entry that is not understood is not read again.
            *position = new.iter().map(|entry| entry.id).fold(*position, EntryId::max);
            all.extend(new);
        }
        Ok(all)
    }
}

/// Returns the entry after which reading continues in a stream with these first and last entries, and whether entries
/// behind the known one may be missing in it: it was cut off, or the server lost it.
fn resume(known: Option<EntryId>, first: Option<EntryId>, last: Option<EntryId>) -> (EntryId, bool) {
    match (known, first, last) {
        (None, _, last) => (last.unwrap_or_default(), true),
        (Some(known), Some(first), Some(last)) => (known.min(last), first > known || last < known),
        // A stream that begins anew may begin at an earlier time if another server has another clock.
        (Some(known), ..) => (EntryId::default(), known != EntryId::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_resumes_where_it_ended() {
        let id = |millis| Some(EntryId(millis, 0));
        for (known, first, last, expected) in [
            (None, None, None, (0, true)),
            (None, id(5), id(9), (9, true)),
            (id(7), id(5), id(9), (7, false)),
            (id(9), id(5), id(9), (9, false)),
            (id(5), id(5), id(9), (5, false)),
            (id(4), id(5), id(9), (4, true)),
            (id(10), id(5), id(9), (9, true)),
            (id(7), None, None, (0, true)),
            (id(0), None, None, (0, false)),
        ] {
            let expected = (EntryId(expected.0, 0), expected.1);
            assert_eq!(resume(known, first, last), expected, "{known:?} {first:?} {last:?}");
        }
    }
}
