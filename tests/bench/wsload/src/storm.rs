//! Handshakes by the clock, and upgrades in a burst.

use crate::client::{Conn, Target};
use crate::{Opts, Res, Run, client, net, say, wait_line};
use rustls::ClientConfig;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const GRACE: Duration = Duration::from_secs(5); // for handshakes under way when the storm is over
const BURST: Duration = Duration::from_secs(30);
const WARM: usize = 32;

pub struct Storm {
    pub run: Run,
    pub failed: u64,
}

/// Connects, upgrades and closes, `rate` times a second whatever becomes of those before, until it is `over`. The time
/// of each counts from when it was due.
pub fn storm(target: &Target, config: &Arc<ClientConfig>, rate: f64, over: &AtomicBool) -> io::Result<Storm> {
    let (mut ep, mut buf, mut open) = (
        net::Epoll::new()?,
        vec![0; 64 << 10],
        HashMap::<usize, (Conn, Instant)>::new(),
    );
    let (mut run, mut failed, mut begun, mut ends) = (Run::new(), 0, 0, None);
    loop {
        let now = Instant::now();
        if ends.is_none() && over.load(Ordering::Relaxed) {
            ends = Some(now + GRACE);
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
                Err(_) => failed += 1,
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
                Err(_) => failed += 1,
            }
            open.remove(&id);
        }
    }
    failed += open.len() as u64;
    Ok(Storm { run, failed })
}

/// All at once, and all are to stay. The time of each counts from its own connect.
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
