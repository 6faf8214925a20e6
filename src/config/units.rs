//! Parses and formats durations, sizes, rates and shares: `"30s"`, `"64KiB"`, `"50/s"`, `"1MiB/s"`, `"20%"`, `"5%/m"`.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::policy::quota::Rate;

const DURATIONS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const PERIODS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];

/// Returns a regular expression of ECMA-262 for the text of a duration, without its bounds.
pub(super) fn duration_pattern() -> String {
    scaled_pattern(&DURATIONS)
}

/// Returns a regular expression for the text of a size, without its bounds.
pub(super) fn size_pattern() -> String {
    scaled_pattern(&SIZES)
}

/// Returns a regular expression for the text of a rate, without the bounds of its count.
pub(super) fn rate_pattern() -> String {
    format!("^[0-9]+/({})$", names(&PERIODS))
}

/// Returns a regular expression for the text of a rate of bytes, without the bounds of its size.
pub(super) fn byte_rate_pattern() -> String {
    format!("^[0-9]+({})/({})$", names(&SIZES), names(&PERIODS))
}

/// Returns the regular expression of a share, without its bounds.
pub(super) fn percent_pattern() -> String {
    "^[0-9]+%$".to_owned()
}

/// Returns the regular expression of a share in a time, without its bounds.
pub(super) fn percent_rate_pattern() -> String {
    format!("^[0-9]+%/({})$", names(&PERIODS))
}

fn scaled_pattern(units: &[(&str, u64)]) -> String {
    format!("^[0-9]+({})$", names(units))
}

fn names(units: &[(&str, u64)]) -> String {
    units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("|")
}

/// Parses a duration within inclusive bounds.
///
/// # Errors
/// Returns what was expected: the label at the caret.
pub fn duration(text: &str, bounds: &RangeInclusive<Duration>) -> Result<Duration, String> {
    const FORM: &str = "expected a whole number and a unit (ms, s, m, h, d), as in \"30s\"";
    let duration = Duration::from_millis(scaled(text, &DURATIONS, FORM)?);
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    Err(format!("must be between {} and {}", show_duration(*bounds.start()), show_duration(*bounds.end())))
}

/// Parses a size within inclusive bounds, in bytes.
pub(super) fn size(text: &str, bounds: &RangeInclusive<u64>) -> Result<u64, String> {
    const FORM: &str = "expected a whole number and a binary unit (B, KiB, MiB, GiB), as in \"64KiB\"";
    let bytes = scaled(text, &SIZES, FORM)?;
    if bounds.contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("must be between {} and {}", show_size(*bounds.start()), show_size(*bounds.end())))
}

/// Parses a rate whose count is at least 1 and at most `count_max`.
pub(super) fn rate(text: &str, count_max: u32) -> Result<Rate, String> {
    const FORM: &str = "expected a whole number and a period (s, m, h), as in \"50/s\"";
    let (count, period) = text.split_once('/').ok_or(FORM)?;
    let (_, seconds) = PERIODS.iter().find(|(unit, _)| *unit == period).ok_or(FORM)?;
    let bounds = || format!("the count must be between 1 and {count_max}");
    let count = number(count).ok_or(FORM)?.ok_or_else(bounds)?;
    let count = u32::try_from(count).ok().filter(|count| *count <= count_max).and_then(NonZeroU32::new);
    Ok(Rate { count: count.ok_or_else(bounds)?, period: Duration::from_secs(*seconds) })
}

/// Parses a rate of bytes whose size is within inclusive bounds, of at most 32 bits. Its count is the number of bytes.
pub(super) fn byte_rate(text: &str, bounds: &RangeInclusive<u64>) -> Result<Rate, String> {
    const FORM: &str = "expected a size and a period (s, m, h), as in \"1MiB/s\"";
    let (bytes, period) = text.split_once('/').ok_or(FORM)?;
    let (_, seconds) = PERIODS.iter().find(|(unit, _)| *unit == period).ok_or(FORM)?;
    let bytes = size(bytes, bounds)?;
    let count = u32::try_from(bytes).ok().and_then(NonZeroU32::new).ok_or(FORM)?;
    Ok(Rate { count, period: Duration::from_secs(*seconds) })
}

/// Parses a share in percent, from 0 to 100.
pub(super) fn percent(text: &str) -> Result<u8, String> {
    const FORM: &str = "expected a whole number and a percent sign, as in \"20%\"";
    let digits = text.strip_suffix('%').ok_or(FORM)?;
    let share = number(digits).ok_or(FORM)?.and_then(|share| u8::try_from(share).ok());
    share.filter(|share| *share <= 100).ok_or_else(|| "must be between 0% and 100%".to_owned())
}

/// Parses a share from 1 to 100 percent, and the time for it.
pub(super) fn percent_rate(text: &str) -> Result<(u8, Duration), String> {
    const FORM: &str = "expected a share and a period (s, m, h), as in \"5%/m\"";
    let (share, period) = text.split_once('/').ok_or(FORM)?;
    let (_, seconds) = PERIODS.iter().find(|(unit, _)| *unit == period).ok_or(FORM)?;
    match percent(share)? {
        0 => Err("the share must be between 1% and 100%".to_owned()),
        share => Ok((share, Duration::from_secs(*seconds))),
    }
}

/// Formats a duration in the largest unit that gives a whole number.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 { "0s".to_owned() } else { show(millis, &DURATIONS) }
}

/// Formats a size in the largest unit that gives a whole number.
pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES)
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    match units.iter().find(|(_, scale)| value >= *scale && value.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", value / scale),
        None => value.to_string(),
    }
}

fn scaled(text: &str, units: &[(&str, u64)], form: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit).ok_or(form)?;
    number(count)
        .ok_or(form)?
        .and_then(|count| count.checked_mul(*scale))
        .ok_or_else(|| "the number is too large".into())
}

/// Parses a number of digits only: `from_str` would accept a sign. The inner `None` is a number that is too large.
#[expect(clippy::option_option, reason = "not a number and too large a number are different errors")]
fn number(digits: &str) -> Option<Option<u64>> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let bounds = Duration::from_secs(1)..=Duration::from_secs(86_400);
        for (text, seconds) in [("1s", 1), ("1000ms", 1), ("5m", 300), ("1h", 3600), ("1d", 86_400), ("007s", 7)] {
            assert_eq!(duration(text, &bounds), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "5", "5 s", " 5s", "5S", "-5s", "+5s", "1.5s", "5sec", "1h30m", "٣s"] {
            assert!(duration(text, &bounds).unwrap_err().starts_with("expected a whole number"), "{text}");
        }
        for text in ["999ms", "86401s", "2d"] {
            assert_eq!(duration(text, &bounds).unwrap_err(), "must be between 1s and 1d", "{text}");
        }
        for text in ["99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(duration(text, &bounds).unwrap_err(), "the number is too large", "{text}");
        }
    }

    #[test]
    fn sizes() {
        let bounds = 1..=1 << 30;
        for (text, bytes) in [("1B", 1), ("512B", 512), ("64KiB", 65_536), ("1MiB", 1 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(size(text, &bounds), Ok(bytes), "{text}");
        }
        for text in ["64", "64KB", "64kib", "64K", "1TiB", "-1B", ""] {
            assert!(size(text, &bounds).unwrap_err().contains("binary unit"), "{text}");
        }
        assert_eq!(size("0B", &bounds).unwrap_err(), "must be between 1B and 1GiB");
    }

    #[test]
    fn rates() {
        let read = |text| rate(text, 1000).map(|rate| (rate.count.get(), rate.period.as_secs()));
        assert_eq!(read("50/s"), Ok((50, 1)));
        assert_eq!(read("600/m"), Ok((600, 60)));
        assert_eq!(read("10/h"), Ok((10, 3600)));
        for text in ["", "50", "/s", "50/", "50/d", "50 / s", "-1/s", "1.5/s", "50/s/s"] {
            assert!(read(text).unwrap_err().starts_with("expected a whole number"), "{text}");
        }
        for text in ["0/s", "1001/s", "99999999999999999999/s"] {
            assert_eq!(read(text).unwrap_err(), "the count must be between 1 and 1000", "{text}");
        }
    }

    #[test]
    fn byte_rates() {
        let read = |text| byte_rate(text, &(1024..=1 << 30)).map(|rate| (rate.count.get(), rate.period.as_secs()));
        assert_eq!(read("1MiB/s"), Ok((1 << 20, 1)));
        assert_eq!(read("1024B/m"), Ok((1024, 60)));
        assert_eq!(read("1GiB/h"), Ok((1 << 30, 3600)));
        for text in ["", "1MiB", "1MiB/", "1MiB/d", "1MiB/s/s"] {
            assert!(read(text).unwrap_err().starts_with("expected a size and a period"), "{text}");
        }
        for text in ["/s", "1/s", "1MB/s", "1MiB /s", "-1MiB/s"] {
            assert!(read(text).unwrap_err().contains("binary unit"), "{text}");
        }
        for text in ["1023B/s", "2GiB/s", "0B/s"] {
            assert_eq!(read(text).unwrap_err(), "must be between 1KiB and 1GiB", "{text}");
        }
    }

    #[test]
    fn percents() {
        assert_eq!((percent("0%"), percent("20%"), percent("100%")), (Ok(0), Ok(20), Ok(100)));
        for text in ["", "%", "20", "20 %", "-1%", "1.5%", "%20"] {
            assert!(percent(text).unwrap_err().starts_with("expected a whole number"), "{text}");
        }
        for text in ["101%", "256%", "99999999999999999999%"] {
            assert_eq!(percent(text).unwrap_err(), "must be between 0% and 100%", "{text}");
        }
    }

    #[test]
    fn percent_rates() {
        let read = |text| percent_rate(text).map(|(share, period)| (share, period.as_secs()));
        assert_eq!(read("5%/m"), Ok((5, 60)));
        assert_eq!(read("100%/s"), Ok((100, 1)));
        for text in ["", "5%", "5%/", "5%/d", "5%/m/s"] {
            assert!(read(text).unwrap_err().starts_with("expected a share and a period"), "{text}");
        }
        for text in ["5/m", "/m", "-5%/m", "0.5%/m"] {
            assert!(read(text).unwrap_err().starts_with("expected a whole number and a percent sign"), "{text}");
        }
        assert_eq!(read("0%/m").unwrap_err(), "the share must be between 1% and 100%");
        assert_eq!(read("101%/m").unwrap_err(), "must be between 0% and 100%");
    }

    #[test]
    fn values_show_in_the_largest_whole_unit() {
        assert_eq!(show_duration(Duration::ZERO), "0s");
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::from_secs(120)), "2m");
        assert_eq!(show_size(1 << 40), "1024GiB");
        assert_eq!(show_size(1500), "1500B");
    }
}
