//! The metrics of certificates that ACME gets.

use super::definition::Definition;
use super::text::Kind;

/// The orders.
pub(super) const ORDERS: Definition = Definition {
    name: "tollgate_acme_orders_total",
    kind: Kind::Counter,
    labels: &["acme", "outcome"],
    unit: None,
    help: "Orders of certificates of an `[acme]` section, by outcome: `issued` or `failed`",
    collect: |scrape, samples| {
        for section in &scrape.gauges.acmes {
            samples.count([&*section.acme, "issued"], section.issued);
            samples.count([&*section.acme, "failed"], section.failed);
        }
    },
};

/// Whether each name has a certificate.
pub(super) const VALID: Definition = Definition {
    name: "tollgate_acme_certificate_valid",
    kind: Kind::Gauge,
    labels: &["acme", "name"],
    unit: None,
    help: "1 if a name of an `[acme]` section has a certificate that is valid now, 0 if its clients cannot connect",
    collect: |scrape, samples| {
        for section in &scrape.gauges.acmes {
            for (name, is_valid) in &section.names {
                samples.count([&section.acme, name], u64::from(*is_valid));
            }
        }
    },
};
