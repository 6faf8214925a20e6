//! Handshakes at a fixed rate, and bursts of upgrades.

use crate::client::{Conn, Target};
use crate::{Opts, Res, Run, client, client_config, net, say, wait_line};
use rustls::ClientConfig;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub const GRACE: Duration = Duration::from_secs(5); // for pending handshakes at the end of the storm
const BURST: Duration = Duration::from_secs(30);
const WARM: usize = 32;
const PATIENCE: Duration = Duration::from_secs(20); // for upgrades of `newcomers`
const AGAIN: Duration = Duration::from_secs(1); // the pause before a rejected client connects again

pub struct Storm {
    pub run: Run,
    pub failed: u64,
    pub failures: BTreeMap<String, u64>, // by status or kind of error
}

/// Connects, upgrades and closes `rate` times per second, independently of pending connections, until `over` is set.
/// The time of each counts from when it was due. Pending connections have `grace` left at the end.
pub fn storm(
    target: &Target,
    config: &Arc<ClientConfig>,
    rate: f64,
    grace: Duration,
    over: &AtomicBool,
) -> io::Result<Storm> {
    let (mut ep, mut buf, mut open) = (
        net::Epoll::new()?,
        vec![0; 64 << 10],
        HashMap::<usize, (Conn, Instant)>::new(),
    );
    let (mut run, mut failures, mut begun, mut ends) = (Run::new(), BTreeMap::new(), 0, None);
    let mut fail = |kind| *failures.entry(kind).or_default() += 1;
    loop {
        let now = Instant::now();
        if ends.is_none() && over.load(Ordering::Relaxed) {
            ends = Some(now + grace);
        }
        if ends.is_some_and(|at| open.is_empty() || now > at) {
            break;
        }
        let mut due = run.began + Duration::from_secs_f64(begun as f64 / rate);
        while ends.is_none() && due <= now {
            match target.connect(begun, config).map(Conn::new) {
                Ok(mut conn) => {
                    ep.add(&conn.stream.tcp, begun, true, false)?;
                    conn.flush(&ep, begun)?;
                    open.insert(begun, (conn, due));
                }
                Err(error) => fail(kind(&error)),
            }
            begun += 1;
            due = run.began + Duration::from_secs_f64(begun as f64 / rate);
        }
        let wait = due.saturating_duration_since(Instant::now());
        for i in 0..ep.wait(Some(wait.min(Duration::from_millis(10))))? {
            let id = ep.get(i).token;
            let Some((conn, due)) = open.get_mut(&id) else { continue };
            match conn.recv(&mut buf, &[]).and_then(|_| conn.flush(&ep, id)) {
                Ok(()) if !conn.upgraded() => continue,
                Ok(()) => {
                    run.hist.saturating_record(due.elapsed().as_nanos() as u64);
                    let _ = conn.stream.close();
                }
                Err(error) => fail(kind(&error)),
            }
            open.remove(&id);
        }
    }
    (0..open.len()).for_each(|_| fail("pending".to_owned()));
    let failed = failures.values().sum();
    Ok(Storm { run, failed, failures })
}

/// Returns the status of an upgrade that failed, or the kind of its error.
fn kind(error: &io::Error) -> String {
    let text = error.to_string();
    let status = text
        .strip_prefix("no upgrade: HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    status.map_or_else(|| format!("{:?}", error.kind()), str::to_owned)
}

/// Opens all connections at once and keeps them open. The time of each counts from its own connect.
pub fn burst(o: &Opts) -> Res<()> {
    let mut c = client(o)?;
    c.open(WARM)?;
    say("ready")?;
    wait_line()?;
    let mut run = Run::new();
    let total = WARM + o.messages as usize;
    while run.hist.len() + (c.lost as u64) < o.messages && run.began.elapsed() < BURST {
        for _ in 0..WARM.min(total - c.conns.len()) {
            let at = c.now();
            let conn = c.begin()?;
            conn.may_end = true;
            conn.sent.push_back(at);
        }
        let wait = if c.conns.len() < total { 0 } else { 100 };
        c.turn(Some(Duration::from_millis(wait)), &[], |conn, _, now| {
            if conn.upgraded()
                && let Some(at) = conn.sent.pop_front()
            {
                run.hist.saturating_record(now - at);
                run.end();
            }
            Ok(())
        })?;
    }
    let (served, seconds) = (run.hist.len(), run.seconds());
    let extra = format!(
        ",\"served\":{served},\"failed\":{},\"open_s\":{seconds:.3}",
        o.messages - served
    );
    Ok(run.report(served, 0, &extra)?)
}

/// Makes upgrades at a fixed rate, and closes each after its 101.
pub fn upgrades(o: &Opts) -> Res<()> {
    let (target, config) = (Target::new(&o.url, &o.headers)?, Arc::new(client_config(o)?));
    say("ready")?;
    wait_line()?;
    let over = AtomicBool::new(false);
    let storm = std::thread::scope(|s| {
        let storm = s.spawn(|| storm(&target, &config, o.rate, PATIENCE, &over));
        std::thread::sleep(Duration::from_secs_f64(o.messages as f64 / o.rate));
        over.store(true, Ordering::Relaxed);
        storm.join().expect("the storm panicked")
    })?;
    let Storm { run, failed, failures } = storm;
    let failures: Vec<String> = failures
        .iter()
        .map(|(kind, count)| format!("\"{kind}\":{count}"))
        .collect();
    let extra = format!(
        ",\"max_us\":{:.1},\"failed\":{failed},\"failures\":{{{}}}",
        run.hist.max() as f64 / 1e3,
        failures.join(",")
    );
    Ok(run.report(run.hist.len(), 0, &extra)?)
}

/// Makes upgrades at a fixed rate: first alone, and then while `hang` clients wait for an upstream that never answers.
pub fn newcomers(o: &Opts) -> Res<()> {
    let (target, config) = (Target::new(&o.url, &o.headers)?, Arc::new(client_config(o)?));
    let dead = Target::new(&format!("{}dead", o.url), &o.headers)?;
    let time = Duration::from_secs_f64(o.messages as f64 / o.rate);
    let newcomers = || {
        let over = AtomicBool::new(false);
        std::thread::scope(|s| {
            let storm = s.spawn(|| storm(&target, &config, o.rate, PATIENCE, &over));
            std::thread::sleep(time);
            over.store(true, Ordering::Relaxed);
            storm.join().expect("the storm panicked")
        })
    };
    let alone = newcomers()?;
    let (hanging, refused, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|s| {
        let crowd = s.spawn(|| hang(&dead, &config, o.hang, (&hanging, &refused), &over));
        // Waits until all `hang` clients are waiting, for at most `GRACE`, since the proxy may reject some.
        let begun = Instant::now();
        while hanging.load(Ordering::Relaxed) < o.hang && begun.elapsed() < GRACE && !crowd.is_finished() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let measured = say("ready").and_then(|()| wait_line()).and_then(|_| newcomers());
        let (hung, refused) = (hanging.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
        over.store(true, Ordering::Relaxed);
        crowd.join().expect("the crowd panicked")?;
        let Storm { run, failed, .. } = measured?;
        let ms = |r: &Run, q| r.hist.value_at_quantile(q) as f64 / 1e3;
        let extra = format!(
            ",\"max_us\":{:.1},\"alone_p50_us\":{:.1},\"alone_p99_us\":{:.1},\"alone_p999_us\":{:.1},\"alone_max_us\":{:.1},\
             \"failed\":{failed},\"hung\":{hung},\"refused\":{refused}",
            run.hist.max() as f64 / 1e3,
            ms(&alone.run, 0.5),
            ms(&alone.run, 0.99),
            ms(&alone.run, 0.999),
            alone.run.hist.max() as f64 / 1e3,
        );
        Ok(run.report(run.hist.len(), 0, &extra)?)
    })
}

/// Keeps `clients` unanswered requests pending. A request that ends is repeated after a pause.
fn hang(
    target: &Target,
    config: &Arc<ClientConfig>,
    clients: usize,
    (hanging, refused): (&AtomicUsize, &AtomicUsize),
    over: &AtomicBool,
) -> io::Result<()> {
    crate::attack::yield_to_others();
    let (mut ep, mut buf, mut nth) = (net::Epoll::new()?, vec![0; 64 << 10], 0);
    let mut slots: Vec<(Option<Conn>, Instant)> = (0..clients).map(|_| (None, Instant::now())).collect();
    while !over.load(Ordering::Relaxed) {
        let now = Instant::now();
        for (id, (conn, due)) in slots.iter_mut().enumerate() {
            if conn.is_some() || *due > now {
                continue;
            }
            nth += 1;
            *due = now + AGAIN;
            if let Ok(mut new) = target.connect(nth, config).map(Conn::new) {
                ep.add(&new.stream.tcp, id, true, false)?;
                new.flush(&ep, id)?;
                *conn = Some(new);
                hanging.fetch_add(1, Ordering::Relaxed);
            }
        }
        for i in 0..ep.wait(Some(Duration::from_millis(10)))? {
            let id = ep.get(i).token;
            let (Some(conn), due) = &mut slots[id] else { continue };
            if conn.recv(&mut buf, &[]).and_then(|_| conn.flush(&ep, id)).is_err() || conn.upgraded() {
                *due = Instant::now() + AGAIN;
                slots[id].0 = None;
                hanging.fetch_sub(1, Ordering::Relaxed);
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}
