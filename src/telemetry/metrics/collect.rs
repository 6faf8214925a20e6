//! Collects the samples of metrics that several definitions of the table share, or that need more than a line.

use std::collections::BTreeMap;

use super::cells::{Bounds, Histogram, UPGRADE_BOUNDS};
use super::definition::Scrape;
use super::labels::{CLOSED_BY, HANDSHAKE_OUTCOMES, RESUMED, VERSIONS, status_text};
use super::samples::Samples;
use super::text::Value;
use super::worker::{Outcomes, RouteValues};
use crate::policy::limits::{LimitAction, LimitKind};

/// Calls `add` for each route.
pub(super) fn per_route(scrape: &Scrape<'_>, mut add: impl FnMut(&str, &RouteValues<u64>)) {
    scrape.merged.routes.iter().for_each(|(route, values)| add(route, values));
}

/// Adds a histogram of each route.
pub(super) fn histograms(
    scrape: &Scrape<'_>,
    samples: &mut Samples,
    bounds: &'static Bounds,
    of: fn(&RouteValues<u64>) -> &Histogram<u64>,
) {
    per_route(scrape, |route, values| samples.add([route], Value::Histogram(Box::new(of(values).clone()), bounds)));
}

/// Adds what limits in report mode would have done, where that is not 0.
pub(super) fn reported(scrape: &Scrape<'_>, samples: &mut Samples) {
    per_route(scrape, |route, values| {
        for (limit, by_action) in LimitKind::ALL.iter().zip(values.reported) {
            for (action, count) in LimitAction::ALL.iter().zip(by_action).filter(|(_, count)| *count > 0) {
                samples.count([route, limit.label(), action.label()], count);
            }
        }
    });
}

/// Adds the numbers of ended sessions that are not 0, by one of these names and by side.
pub(super) fn closes<const N: usize>(
    scrape: &Scrape<'_>,
    samples: &mut Samples,
    names: &[&str; N],
    of: fn(&RouteValues<u64>) -> &[[u64; CLOSED_BY.len()]; N],
) {
    per_route(scrape, |route, values| {
        for (name, by_side) in names.iter().zip(of(values)) {
            for (by, count) in CLOSED_BY.iter().zip(by_side).filter(|(_, count)| **count > 0) {
                samples.count([route, name, by], *count);
            }
        }
    });
}

/// Adds the numbers of TLS handshakes that are not 0.
pub(super) fn handshakes(scrape: &Scrape<'_>, samples: &mut Samples) {
    for (version, by_resumed) in VERSIONS.iter().zip(scrape.merged.handshakes) {
        for (resumed, by_outcome) in RESUMED.iter().zip(by_resumed) {
            for (outcome, count) in HANDSHAKE_OUTCOMES.iter().zip(by_outcome).filter(|(_, count)| *count > 0) {
                samples.count([version, resumed, outcome], count);
            }
        }
    }
}

/// Adds the number of requests of each route and outcome.
pub(super) fn outcomes(requests: &Outcomes, samples: &mut Samples) {
    for (route, outcomes) in requests {
        for (outcome, count) in outcomes {
            samples.count([route, outcome], *count);
        }
    }
}

/// Adds the number of ordinary requests of each route and status.
pub(super) fn requests(scrape: &Scrape<'_>, samples: &mut Samples) {
    for (route, statuses) in &scrape.merged.requests {
        for (number, count) in statuses {
            samples.count([&**route, &status_text(*number)], *count);
        }
    }
}

/// Adds the histogram of each route that has served ordinary requests.
pub(super) fn request_durations(scrape: &Scrape<'_>, samples: &mut Samples) {
    per_route(scrape, |route, values| {
        let durations = &values.request_duration;
        if durations.buckets.iter().any(|count| *count > 0) {
            samples.add([route], Value::Histogram(Box::new(durations.clone()), &UPGRADE_BOUNDS));
        }
    });
}

/// Adds the time at which the certificate of each name expires: of several with one name, the first that does.
pub(super) fn certificates(scrape: &Scrape<'_>, samples: &mut Samples) {
    let mut first = BTreeMap::new();
    for certificate in &scrape.gauges.certificates {
        let expires = first.entry(&*certificate.name).or_insert(certificate.expires);
        *expires = (*expires).min(certificate.expires);
    }
    for (name, expires) in first {
        samples.count([name], expires.as_secs());
    }
}
