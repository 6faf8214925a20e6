// Writes numbers with their units, spans and times.

const NONE = '–';
const WHOLE = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat('en', { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const HUNDREDTHS = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const CLOCK_MINUTES = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const DAY = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const DAY_AND_YEAR = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric' });
/** The time zone of all times that the page shows. */
const ZONE = new Intl.DateTimeFormat('en').resolvedOptions().timeZone;
const ZONE_NOTE =
  ZONE === 'UTC' ? 'Times are in UTC, as in the log.' : `Times are local (${ZONE}); those of the log are in UTC.`;
const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
const COUNT_UNITS = ['', ' k', ' M', ' G', ' T', ' P'];

const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);

/** Three significant digits, as far as they are after the point. */
function digits(value) {
  if (value === 0) return '0';
  if (value >= 100) return WHOLE.format(value);
  return value >= 10 ? TENTHS.format(value) : HUNDREDTHS.format(value);
}

/** A whole number with separators: 12,345. */
function count(value) {
  return isNumber(value) ? WHOLE.format(value) : NONE;
}

/** A number and a noun: "1 session", "12 sessions". */
function plural(value, noun, many = `${noun}s`) {
  return `${count(value)} ${value === 1 ? noun : many}`;
}

function scaled(value, base, units) {
  let rest = value;
  let unit = 0;
  while (rest >= base * 0.9995 && unit < units.length - 1) {
    rest /= base;
    unit += 1;
  }
  return [rest, units[unit]];
}

/** A count that stays short: 99,999, then 1.23 M. */
function shortCount(value) {
  if (!isNumber(value)) return NONE;
  if (value < 100_000) return WHOLE.format(value);
  const [rest, unit] = scaled(value, 1000, COUNT_UNITS);
  return digits(rest) + unit;
}

/** A label of an axis of counts. */
function axisCount(value) {
  const [rest, unit] = scaled(value, 1000, COUNT_UNITS);
  return Number(rest.toPrecision(3)) + unit.trim();
}

/** A rate: "0.25/s", "1.2 k/s". */
function perSecond(value) {
  if (!isNumber(value)) return NONE;
  if (value > 0 && value < 0.005) return '<0.01/s';
  const [rest, unit] = scaled(value, 1000, COUNT_UNITS);
  return `${digits(rest)}${unit}/s`;
}

/** A size: "512 B", "1.50 MiB". */
function bytes(value) {
  if (!isNumber(value)) return NONE;
  const [rest, unit] = scaled(value, 1024, BYTE_UNITS);
  return `${unit === 'B' ? WHOLE.format(rest) : digits(rest)} ${unit}`;
}

function bytesPerSecond(value) {
  return isNumber(value) ? `${bytes(value)}/s` : NONE;
}

/** A label of an axis of sizes, whose steps are round in binary units. */
function axisBytes(value) {
  const [rest, unit] = scaled(value, 1024, BYTE_UNITS);
  return `${Number(rest.toFixed(2))} ${unit}`;
}

function percent(value) {
  return isNumber(value) ? `${digits(value)} %` : NONE;
}

/** A span: "850 ms", "12.5 s", "5 min 12 s", "3 h 20 min", "2 d 3 h". */
function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  if (seconds <= 0) return '0 s';
  if (seconds < 1) return `${WHOLE.format(seconds * 1000)} ms`;
  if (seconds < 60) return `${Number.isInteger(seconds) ? seconds : TENTHS.format(seconds)} s`;
  const whole = Math.round(seconds);
  const parts = (large, largeUnit, small, smallUnit) =>
    small ? `${large} ${largeUnit} ${small} ${smallUnit}` : `${large} ${largeUnit}`;
  if (whole < 3600) return parts(Math.floor(whole / 60), 'min', whole % 60, 's');
  if (whole < 86_400) return parts(Math.floor(whole / 3600), 'h', Math.floor((whole % 3600) / 60), 'min');
  return parts(Math.floor(whole / 86_400), 'd', Math.floor((whole % 86_400) / 3600), 'h');
}

/** A span in whole seconds, whose width changes less. */
function wholeDuration(seconds) {
  return isNumber(seconds) ? duration(Math.floor(seconds)) : NONE;
}

/** The days until a time: "expired", "12 days", "over 10 years". */
function daysText(days) {
  if (!isNumber(days)) return NONE;
  if (days <= 0) return 'expired';
  return days > 3652 ? 'over 10 years' : plural(Math.floor(days), 'day');
}

/** The time of day of a Unix time. */
function clockTime(unix) {
  return CLOCK.format(new Date(unix * 1000));
}

function clockMinutes(unix) {
  return CLOCK_MINUTES.format(new Date(unix * 1000));
}

/** A time (RFC 3339 or Unix): the time of day, with the date unless it is today. */
function dateTime(value) {
  if (value === null || value === undefined) return NONE;
  const date = new Date(typeof value === 'number' ? value * 1000 : value);
  if (Number.isNaN(date.getTime())) return String(value);
  const now = new Date();
  if (date.toDateString() === now.toDateString()) return CLOCK.format(date);
  const day = date.getFullYear() === now.getFullYear() ? DAY : DAY_AND_YEAR;
  return `${day.format(date)}, ${CLOCK.format(date)}`;
}

/** Returns a time as an element whose exact value is in its attributes. */
function timeElement(value) {
  if (value === null || value === undefined) return h('span', NONE);
  const iso = typeof value === 'number' ? new Date(value * 1000).toISOString() : value;
  return h('time', { datetime: iso, title: iso }, dateTime(value));
}

/** The number of bytes of a text in UTF-8. */
function utf8Length(text) {
  return new TextEncoder().encode(text).length;
}
