//! Sessions that exchange numbered messages at fixed rates while the proxy is replaced.
//!
//! Each message has the number of its session and its own number, so that a lost, doubled or reordered one is found.
//! Latency counts from when a message was due. The maximum of a session since the last report is how long the session
//! was not served at most, within the interval of its messages; a few sessions, the probes, send more often.

use crate::client::{Client, MASK, Target};
use crate::{Opts, Res, client_config, say, wait_line, ws};
use hdrhistogram::Histogram;
use rustls::KeyLog;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HEADER: usize = 8;
const OPENING: usize = 64; // concurrent opening handshakes
const TURN: usize = 64; // messages sent before answers are read
const TICK: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(20); // for outstanding echoes and closing handshakes

/// What a session has sent and received.
#[derive(Default, Clone)]
struct Count {
    sent: u32,
    received: u32,
    worst: u64, // the maximum latency since the last report, in nanoseconds; 0 if nothing was received
}

#[derive(Default)]
struct Totals {
    updates: u64,
    wrong: u64,
    first_wrong: Option<String>,
}

/// A schedule of messages at a fixed rate over several sessions, in turn.
struct Pace {
    rate: f64,
    start: u64,
    sent: u64,
}

impl Pace {
    fn due(&self) -> u64 {
        if self.rate == 0.0 {
            return u64::MAX;
        }
        self.start + (self.sent as f64 * 1e9 / self.rate) as u64
    }
}

/// The secrets of all connections, in the format of NSS key logs.
#[derive(Debug)]
struct Secrets(Mutex<BufWriter<File>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut file = self.0.lock().unwrap();
        let _ = writeln!(file, "{label} {} {}", hex(client_random), hex(secret)).and_then(|()| file.flush());
    }
}

struct Numbered<'a> {
    o: &'a Opts,
    client: Client,
    counts: Vec<Count>,
    totals: Totals,
    /// The number of connections that are wanted.
    wanted: usize,
}

pub fn run(o: &Opts) -> Res<()> {
    if o.size < HEADER || o.size > 125 {
        return Err("--size must be 8 to 125".into());
    }
    let mut config = client_config(o)?;
    if !o.keylog.is_empty() {
        config.key_log = Arc::new(Secrets(Mutex::new(BufWriter::new(File::create(&o.keylog)?))));
    }
    let mut all = Numbered {
        o,
        client: Client::new(Target::new(&o.url, &o.headers)?, config)?,
        counts: Vec::new(),
        totals: Totals::default(),
        wanted: o.conns,
    };
    let mut settle = true;
    let lines = lines();
    let (mut others, mut probes) = (
        Pace {
            rate: o.rate,
            start: 0,
            sent: 0,
        },
        Pace {
            rate: 0.0,
            start: 0,
            sent: 0,
        },
    );
    loop {
        all.begin()?;
        if settle && all.is_open() {
            settle = false;
            // Nothing was due while connections were opened.
            let start = all.client.now();
            others = Pace {
                rate: o.rate,
                start,
                sent: 0,
            };
            probes = Pace {
                rate: o.probe_rate * o.probes as f64,
                start,
                sent: 0,
            };
            say("ready")?;
        }
        let wait = if settle {
            TICK
        } else {
            all.send_due(&mut others, &mut probes)
        };
        all.turn(wait)?;
        match lines.try_recv() {
            Ok(line) if line == "report" => say(&all.report())?,
            Ok(line) if line.starts_with("open ") => {
                all.wanted = line[5..].trim().parse()?;
                settle = true;
            }
            Ok(_) | Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {}
        }
    }
    all.finish()
}

/// Reads stdin on a thread of its own.
fn lines() -> Receiver<String> {
    let (sender, lines) = sync_channel(8);
    std::thread::spawn(move || {
        while let Ok(line) = wait_line() {
            let is_last = line.is_empty() || line == "stop";
            if sender.send(line).is_err() || is_last {
                return;
            }
        }
    });
    lines
}

impl Numbered<'_> {
    /// Opens further connections, at most 64 concurrently.
    fn begin(&mut self) -> io::Result<()> {
        while self.client.conns.len() < self.wanted {
            let opening = self.client.conns.iter().rev().take(2 * OPENING);
            if opening.filter(|conn| !conn.upgraded() && !conn.over).count() >= OPENING {
                break;
            }
            let conn = self.client.begin()?;
            (conn.may_end, conn.collects) = (true, true);
            self.counts.push(Count::default());
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.client.conns.len() == self.wanted && self.client.conns.iter().all(|conn| conn.upgraded() || conn.over)
    }

    /// Sends the messages that are due, and returns the time until the next one.
    fn send_due(&mut self, others: &mut Pace, probes: &mut Pace) -> Duration {
        for _ in 0..TURN {
            let (now, due) = (self.client.now(), others.due().min(probes.due()));
            if due > now {
                return Duration::from_nanos(due - now).min(TICK);
            }
            let first = self.o.probes.min(self.wanted);
            let (pace, first, len) = if due == others.due() {
                (&mut *others, first, self.wanted - first)
            } else {
                (&mut *probes, 0, first)
            };
            let id = (pace.sent % len.max(1) as u64) as usize;
            pace.sent += 1;
            if len > 0 {
                self.send(first + id, due);
            }
        }
        Duration::ZERO
    }

    fn send(&mut self, id: usize, due: u64) {
        let (conn, count) = (&mut self.client.conns[id], &mut self.counts[id]);
        if conn.over || !conn.upgraded() {
            return;
        }
        if self.o.updates > 0 && count.sent % self.o.updates == self.o.updates - 1 {
            if let Some(tls) = &mut conn.stream.tls {
                if tls.refresh_traffic_keys().is_ok() {
                    self.totals.updates += 1;
                }
            }
        }
        let mut payload = vec![(id + count.sent as usize) as u8; self.o.size];
        payload[..4].copy_from_slice(&(id as u32).to_be_bytes());
        payload[4..HEADER].copy_from_slice(&count.sent.to_be_bytes());
        count.sent += 1;
        // A connection that has ended is found by the next read.
        let _ = self
            .client
            .send(id, &ws::frame(ws::BINARY, &payload, Some(MASK)), 1, due);
    }

    /// Waits for events once, and checks the messages that have arrived.
    fn turn(&mut self, wait: Duration) -> io::Result<()> {
        let (counts, totals, size) = (&mut self.counts, &mut self.totals, self.o.size);
        self.client.turn(Some(wait), &[], |conn, ended, now| {
            for payload in conn.collected.chunks_exact(size).take(ended) {
                let at = |from: usize| u32::from_be_bytes(payload[from..from + 4].try_into().unwrap());
                let (id, number) = (at(0), at(4));
                let Some(count) = counts.get_mut(conn.id) else { continue };
                let is_right = id as usize == conn.id
                    && number == count.received
                    && payload[HEADER..].iter().all(|byte| *byte == (id + number) as u8);
                if !is_right {
                    totals.wrong += 1;
                    let expected = count.received;
                    let text = || format!("session {}: message {number} of {id} instead of {expected}", conn.id);
                    totals.first_wrong.get_or_insert_with(text);
                }
                count.received = number.wrapping_add(1);
                let due = conn.sent.pop_front().unwrap_or(now);
                count.worst = count.worst.max(now.saturating_sub(due)).max(1);
            }
            conn.collected.drain(..ended * size);
            Ok(())
        })
    }

    fn in_flight(&self) -> u64 {
        let open = self
            .client
            .conns
            .iter()
            .zip(&self.counts)
            .filter(|(conn, _)| !conn.over);
        open.map(|(_, count)| u64::from(count.sent.wrapping_sub(count.received)))
            .sum()
    }

    /// Returns the counts so far and the latencies since the last report as JSON.
    fn report(&mut self) -> String {
        let mut ends = BTreeMap::<String, u64>::new();
        for conn in self.client.conns.iter().filter(|conn| conn.over) {
            let end = conn
                .end
                .as_deref()
                .unwrap_or_default()
                .replace(['"', '\\', '\n', '\r'], " ");
            let end = if conn.upgraded() {
                end
            } else {
                format!("not opened: {end}")
            };
            *ends.entry(end).or_default() += 1;
        }
        let ends: Vec<_> = ends.iter().map(|(end, count)| format!("\"{end}\":{count}")).collect();
        let sum = |of: fn(&Count) -> u32| self.counts.iter().map(|count| u64::from(of(count))).sum::<u64>();
        let probes = self.o.probes.min(self.counts.len());
        let (lost, open) = (self.client.lost, self.client.conns.len() - self.client.lost);
        let line = format!(
            "{{\"open\":{open},\"lost\":{lost},\"ends\":{{{}}},\"sent\":{},\"received\":{},\"in_flight\":{},\"wrong\":{},\
             \"first_wrong\":\"{}\",\"updates\":{},\"probes\":{},\"others\":{}}}",
            ends.join(","),
            sum(|count| count.sent),
            sum(|count| count.received),
            self.in_flight(),
            self.totals.wrong,
            self.totals.first_wrong.as_deref().unwrap_or_default(),
            self.totals.updates,
            worst(&self.counts[..probes]),
            worst(&self.counts[probes..]),
        );
        self.counts.iter_mut().for_each(|count| count.worst = 0);
        line
    }

    /// Waits for the outstanding echoes, reports, and then closes each session and reports how many were closed.
    fn finish(&mut self) -> Res<()> {
        let until = self.client.now() + PATIENCE.as_nanos() as u64;
        while self.in_flight() > 0 && self.client.now() < until {
            self.turn(TICK)?;
        }
        say(&self.report())?;
        let close = ws::frame(ws::CLOSE, &1000_u16.to_be_bytes(), Some(MASK));
        let open: Vec<_> = (0..self.client.conns.len())
            .filter(|&id| !self.client.conns[id].over)
            .collect();
        for (number, &id) in open.iter().enumerate() {
            let _ = self.client.send(id, &close, 1, 0);
            if number % OPENING == 0 {
                self.turn(Duration::ZERO)?;
            }
        }
        let until = self.client.now() + PATIENCE.as_nanos() as u64;
        while open.iter().any(|&id| !self.client.conns[id].over) && self.client.now() < until {
            self.turn(TICK)?;
        }
        let is_closed = |id: &&usize| self.client.conns[**id].end.as_deref() == Some(crate::client::CLOSED);
        let closed = open.iter().filter(is_closed).count();
        Ok(say(&format!(
            "{{\"closed\":{closed},\"not_closed\":{}}}",
            open.len() - closed
        ))?)
    }
}

/// Returns the distribution over sessions of their maximum latency in milliseconds, as JSON.
fn worst(counts: &[Count]) -> String {
    let mut hist = Histogram::<u64>::new_with_bounds(1, 600_000_000_000, 3).unwrap();
    counts
        .iter()
        .filter(|count| count.worst > 0)
        .for_each(|count| hist.saturating_record(count.worst));
    let ms = |q| hist.value_at_quantile(q) as f64 / 1e6;
    format!(
        "{{\"sessions\":{},\"p50_ms\":{:.2},\"p99_ms\":{:.2},\"max_ms\":{:.2}}}",
        hist.len(),
        ms(0.5),
        ms(0.99),
        hist.max() as f64 / 1e6
    )
}
