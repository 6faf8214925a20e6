//! Counters that one thread writes and other threads read: cells, and histograms of cells.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only one thread changes. A change is a load and a store, so that it costs no locked instruction.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`. Only the thread that owns the cell may call it: a concurrent change would be lost.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts `n`. Only the thread that owns the cell may call it.
    pub fn subtract(&self, n: u64) {
        self.0.store(self.get().wrapping_sub(n), Ordering::Relaxed);
    }

    /// Returns the number. Any thread may call it.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Adds the numbers of cells to sums.
pub fn merge<const N: usize>(sums: &mut [u64; N], cells: &[Cell; N]) {
    for (sum, cell) in sums.iter_mut().zip(cells) {
        *sum = sum.wrapping_add(cell.get());
    }
}

/// The number of buckets of every histogram, including that of values above all bounds.
pub const BUCKETS: usize = 14;

/// The upper bounds of all buckets except the last, in increasing order. A value equal to a bound is within it.
pub type Bounds = [Duration; BUCKETS - 1];

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The bounds of `tollgate_upgrade_duration_seconds`: from an upstream on the same machine to the longest timeouts.
pub const UPGRADE_BOUNDS: Bounds = [
    millis(1),
    Duration::from_micros(2500),
    millis(5),
    millis(10),
    millis(25),
    millis(50),
    millis(100),
    millis(250),
    millis(500),
    millis(1000),
    millis(2500),
    millis(5000),
    millis(10_000),
];

/// The bounds of `tollgate_session_duration_seconds`: from sessions that fail at once to sessions of several days.
pub const SESSION_BOUNDS: Bounds = [
    millis(100),
    millis(1000),
    millis(5000),
    millis(15_000),
    millis(60_000),
    millis(300_000),
    millis(900_000),
    millis(1_800_000),
    millis(3_600_000),
    millis(14_400_000),
    millis(43_200_000),
    millis(86_400_000),
    millis(259_200_000),
];

/// A histogram of durations, of cells or of sums.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Histogram<T> {
    /// The number of values in each bucket, not cumulative. The total is computed from them, so that it never differs.
    pub buckets: [T; BUCKETS],
    /// The sum of all values, in microseconds.
    pub sum_micros: T,
}

impl Histogram<Cell> {
    /// Counts a value. Only the thread that owns the cells may call it.
    pub fn observe(&self, value: Duration, bounds: &Bounds) {
        let bucket = bounds.partition_point(|bound| *bound < value);
        if let Some(cell) = self.buckets.get(bucket) {
            cell.add(1);
        }
        self.sum_micros.add(u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }
}

impl Histogram<u64> {
    /// Adds the numbers of a histogram of cells.
    pub fn merge(&mut self, cells: &Histogram<Cell>) {
        merge(&mut self.buckets, &cells.buckets);
        self.sum_micros = self.sum_micros.wrapping_add(cells.sum_micros.get());
    }
}
