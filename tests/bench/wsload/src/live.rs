//! Paced traffic, measured alone and then next to noisy neighbours, stalled readers, a handshake storm or attackers.

use crate::attack::{self, Attack};
use crate::client::{Client, MASK, Target};
use crate::{Opts, Res, Run, client, client_config, echo_round, payload, record, say, storm, wait_line, ws};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const TURN: usize = 64; // messages sent before answers are read
const LATE: u64 = 60_000_000_000;
const STREAM: &[u8] = b"flood 65536 100000";

pub fn run(o: &Opts) -> Res<()> {
    let mut c = client(o)?;
    c.open(o.conns)?;
    let others = o.conns - o.noisy - o.stalled;
    echo_round(&mut c, o, &mut Run::new(), o.conns as u64)?;
    // Wakes up when each message is due, not up to 50 µs later.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let mut alone = Run::new();
    let shorter = Opts {
        messages: o.messages / if o.attackers > 0 { 4 } else { 1 },
        ..o.clone()
    };
    pace(&mut c, &shorter, &mut alone, others, 0.0)?;
    say("ready")?;
    wait_line()?;

    for id in others..o.conns {
        c.conns[id].may_end = true;
    }
    for id in o.conns - o.stalled..o.conns {
        c.send(id, &ws::frame(ws::TEXT, STREAM, Some(MASK)), 1, 0)?;
        c.stall(id)?;
    }
    if o.stalled > 0 {
        // Until the buffers of the system are full the stalled connections still receive. Only the time after that
        // counts.
        pace(&mut c, o, &mut Run::new(), others, 0.0)?;
    }
    let (target, config) = (Target::new(&o.url, &o.headers)?, Arc::new(client_config(o)?));
    let kind = (o.attackers > 0).then(|| o.attack.parse()).transpose()?;
    let (mut run, ready, over) = (Run::new(), AtomicUsize::new(0), AtomicBool::new(false));
    let (noise, storm, attack) = std::thread::scope(|s| {
        let storm = (o.storm > 0.0).then(|| s.spawn(|| storm::storm(&target, &config, o.storm, storm::GRACE, &over)));
        let (ready, over) = (&ready, &over);
        let attack = kind.map(|kind| s.spawn(move || attack::run(o, kind, ready, over).map_err(|e| e.to_string())));
        let noise = pace(&mut c, o, &mut run, others, o.noisy_rate);
        over.store(true, Ordering::Relaxed);
        let storm = storm.map(|s| s.join().expect("the storm panicked")).transpose();
        (
            noise,
            storm,
            attack.map(|a| a.join().expect("the attack panicked")).transpose(),
        )
    });
    let (noise, storm, attack, seconds) = (noise?, storm?, attack?, run.seconds());
    let us = |r: &Run, q| r.hist.value_at_quantile(q) as f64 / 1e3;
    let mut extra = format!(
        ",\"alone_p50_us\":{:.1},\"alone_p99_us\":{:.1},\"alone_p999_us\":{:.1}",
        us(&alone, 0.5),
        us(&alone, 0.99),
        us(&alone, 0.999)
    );
    if o.noisy + o.stalled > 0 {
        extra += &format!(",\"cut\":{}", c.lost);
    }
    if o.noisy > 0 {
        let per_s = |n: u64| n as f64 / seconds;
        extra += &format!(
            ",\"noisy_due_s\":{:.0},\"noisy_s\":{:.0}",
            per_s(noise.due),
            per_s(noise.back)
        );
    }
    if let Some(Attack {
        upgraded, refused, cut, ..
    }) = attack
    {
        extra += &format!(
            ",\"max_us\":{:.1},\"alone_max_us\":{:.1},\"upgraded\":{upgraded},\"refused\":{refused},\"attackers_cut\":{cut}",
            run.hist.max() as f64 / 1e3,
            alone.hist.max() as f64 / 1e3,
        );
    }
    if let Some(storm) = storm {
        extra += &format!(
            ",\"served\":{},\"failed\":{},\"storm_p99_us\":{:.1}",
            storm.run.hist.len(),
            storm.failed,
            us(&storm.run, 0.99)
        );
    }
    Ok(run.report(o.messages, o.size, &extra)?)
}

/// The schedule of messages at a fixed rate.
struct Pace {
    start: u64,
    rate: f64,
    sent: u64,
    end: u64, // the maximum number of messages
}

impl Pace {
    fn due(&self) -> u64 {
        if self.sent == self.end || self.rate == 0.0 {
            return u64::MAX;
        }
        self.start + (self.sent as f64 * 1e9 / self.rate) as u64
    }
}

struct Noise {
    due: u64,
    back: u64,
}

/// Sends `messages` over the first `others` connections, with latencies counted from when each was due, and noise over
/// the following ones. A noisy message is skipped if its connection is blocked.
fn pace(c: &mut Client, o: &Opts, run: &mut Run, others: usize, noisy_rate: f64) -> Res<Noise> {
    let data = payload(o.size);
    let frame = ws::frame(ws::BINARY, &data, Some(MASK));
    let start = c.now();
    let limit = start + (o.messages as f64 * 1e9 / o.rate) as u64 + LATE;
    let (mut got, mut back) = (0, 0);
    let mut live = Pace {
        start,
        rate: o.rate,
        sent: 0,
        end: o.messages,
    };
    let mut noise = Pace {
        start,
        rate: noisy_rate,
        sent: 0,
        end: u64::MAX,
    };
    while got < o.messages {
        let mut wait = Some(Duration::ZERO);
        for _ in 0..TURN {
            let (now, due) = (c.now(), live.due().min(noise.due()));
            if due > limit {
                wait = None;
                break;
            } else if due > now {
                wait = Some(Duration::from_nanos(due - now));
                break;
            } else if due == live.due() {
                c.send(live.sent as usize % others, &frame, 1, due)?;
                live.sent += 1;
            } else {
                let id = others + noise.sent as usize % o.noisy;
                noise.sent += 1;
                if !c.conns[id].over && !c.conns[id].blocked() {
                    let _ = c.send(id, &frame, 1, due); // a closed connection is found by the next read
                }
            }
        }
        c.turn(wait, &data, |conn, ended, now| {
            if conn.may_end {
                conn.sent.drain(..ended.min(conn.sent.len()));
                back += ended as u64;
            } else {
                record(run, conn, ended, now);
                got += ended as u64;
            }
            Ok(())
        })?;
        if c.now() > limit {
            return Err(format!("{} of {} messages were echoed", got, o.messages).into());
        }
    }
    run.end();
    Ok(Noise { due: noise.sent, back })
}
