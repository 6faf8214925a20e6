// The figures of the last hour: merges the answers of `GET /v1/history`, and turns counters into rates.

const SPAN_SECONDS = 3600;
/** A rate is taken over at least this time, because the last point may follow a sample at once. */
const RATE_SPAN_SECONDS = 5;
/** The series of a chart: the largest, and the sum of the others. */
const SERIES_MAX = 8;

/** The points of one process. The last point may be that of the moment; all others are samples. */
function createHistory() {
  let interval = 10;
  let times = [];
  let series = new Map();

  const isSample = (time) => Math.abs(time / interval - Math.round(time / interval)) * interval < 0.001;

  /** Drops the point of the moment, and points older than the span. */
  function trim(newest) {
    const keep = times.map((time) => isSample(time) && time > newest - SPAN_SECONDS - interval);
    times = times.filter((_, index) => keep[index]);
    for (const one of series.values()) one.values = one.values.filter((_, index) => keep[index]);
  }

  function reset() {
    times = [];
    series = new Map();
  }

  function merge(answer) {
    interval = answer.interval_seconds;
    const newest = answer.times.at(-1) ?? 0;
    if (newest < (times.findLast(isSample) ?? 0)) {
      reset(); // the clock was set back: the next answer has all points
      return;
    }
    trim(newest);
    const last = times.at(-1) ?? -Infinity;
    const fresh = answer.times.map((time, index) => ({ time, index })).filter(({ time }) => time > last);
    const before = times.length;
    times.push(...fresh.map(({ time }) => time));
    for (const { name, labels, kind, values } of answer.series) {
      const key = seriesKey(name, labels);
      if (!series.has(key)) series.set(key, { name, labels, kind, values: Array(before).fill(null) });
      series.get(key).values.push(...fresh.map(({ index }) => values[index] ?? null));
    }
    for (const [key, one] of series) {
      while (one.values.length < times.length) one.values.push(null);
      if (one.values.every((value) => value === null)) series.delete(key);
    }
  }

  return {
    merge,
    reset,
    /** The time of the last sample, from which the next answer continues. */
    since: () => times.findLast(isSample) ?? null,
    times: () => times,
    all: (name) => [...series.values()].filter((one) => one.name === name),
    rates: (one, mean) => ratesOf(times, one.values, mean),
  };
}

/** The name of a series as /metrics writes it. */
function seriesKey(name, labels) {
  const parts = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  return parts.length ? `${name}{${parts.join(',')}}` : name;
}

/**
 * Returns the increase of a counter per second at each point, over at least `mean` seconds; a shorter span counts only
 * while all points together are not longer. A counter that did not exist counts from 0. A smaller value than before is a
 * reset, and gives 0.
 */
function ratesOf(times, values, mean = RATE_SPAN_SECONDS) {
  return values.map((value, index) => {
    if (value === null || index === 0) return null;
    let from = index - 1;
    while (from > 0 && times[index] - times[from] < mean) from -= 1;
    const span = times[index] - times[from];
    const isEnough = span > 0 && (span >= mean || times.at(-1) - times[0] < mean);
    return isEnough ? Math.max(0, value - (values[from] ?? 0)) / span : null;
  });
}

/** Returns the increase of a counter over the last `seconds`. */
function increaseOf(times, values, seconds) {
  const end = times.at(-1);
  const from = times.findIndex((time) => time >= end - seconds);
  return from < 0 ? 0 : Math.max(0, (values.at(-1) ?? 0) - (values[from] ?? 0));
}

function sumAt(list) {
  const length = list[0]?.length ?? 0;
  return Array.from({ length }, (_, index) => {
    const present = list.map((values) => values[index]).filter((value) => value !== null && value !== undefined);
    return present.length ? present.reduce((a, b) => a + b, 0) : null;
  });
}

/**
 * Returns the series of a chart: the largest by their rank, each with the place (`slot`) of its colour, and the sum
 * of the others. `slots` keeps the places between calls, so that a series keeps its colour.
 */
function largest(list, slots) {
  const ranked = list.slice().sort((a, b) => b.rank - a.rank || a.label.localeCompare(b.label));
  const shown = ranked.length > SERIES_MAX ? ranked.slice(0, SERIES_MAX - 1) : ranked;
  const labels = new Set(shown.map((one) => one.label));
  for (const label of slots.keys()) if (!labels.has(label)) slots.delete(label);
  const free = Array.from({ length: SERIES_MAX }, (_, slot) => slot).filter(
    (slot) => ![...slots.values()].includes(slot),
  );
  for (const one of shown) if (!slots.has(one.label)) slots.set(one.label, free.shift());
  const result = shown.map((one) => ({ ...one, slot: slots.get(one.label) }));
  const rest = ranked.slice(shown.length);
  if (rest.length) {
    result.push({
      label: `${rest.length} others`,
      slot: SERIES_MAX - 1,
      isOther: true,
      total: rest.reduce((sum, one) => sum + one.total, 0),
      values: sumAt(rest.map((one) => one.values)),
    });
  }
  return result;
}
