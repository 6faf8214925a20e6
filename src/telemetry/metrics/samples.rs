//! The series of one metric, as they are collected.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::text::Value;

/// The series of one metric: the values of its labels, and its value.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<(Vec<String>, Value)>);

impl Samples {
    pub(super) fn add<const N: usize>(&mut self, labels: [&str; N], value: Value) {
        self.0.push((labels.map(str::to_owned).to_vec(), value));
    }

    pub(super) fn count<const N: usize>(&mut self, labels: [&str; N], count: u64) {
        self.add(labels, Value::Count(count));
    }

    pub(super) fn counts<const N: usize>(&mut self, route: &str, names: &[&str; N], counts: &[u64; N]) {
        for (name, count) in names.iter().zip(counts) {
            self.count([route, name], *count);
        }
    }

    /// Adds the numbers of sessions. Names of the configuration have a series even without sessions.
    pub(super) fn with_configured<'a>(
        &mut self,
        counts: &BTreeMap<[Arc<str>; 2], u64>,
        configured: impl Iterator<Item = [&'a Arc<str>; 2]>,
    ) {
        let mut counts = counts.clone();
        for names in configured {
            counts.entry(names.map(Arc::clone)).or_default();
        }
        for ([first, second], count) in &counts {
            self.count([first, second], *count);
        }
    }

    /// Adds a number of the process that the kernel may not provide.
    pub(super) fn process(&mut self, value: Option<Value>) {
        if let Some(value) = value {
            self.add([], value);
        }
    }

    /// Returns the series.
    pub(super) fn into_series(self) -> Vec<(Vec<String>, Value)> {
        self.0
    }
}
