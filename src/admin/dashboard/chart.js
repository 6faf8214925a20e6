// A line chart over time, drawn in SVG, with a read-out by pointer and by arrow keys.

const CHART_HEIGHT = 112;
const GUTTER = { left: 52, right: 26, top: 8, bottom: 20 };
const LABEL_GAP = 10;
const X_STEPS = [15, 30, 60, 300, 600, 900];
const SPAN_MIN_SECONDS = 120;

/** The time that all charts of a view point at, or null. */
function createCursor() {
  const listeners = new Set();
  let time = null;
  return {
    get: () => time,
    set(value) {
      time = value;
      for (const listener of listeners) listener(time);
    },
    listen: (listener) => listeners.add(listener),
  };
}

/**
 * Creates a chart. `format` writes a value and `axis` a label of the axis; `base` is 1000 or 1024, by which the steps of
 * the axis are round. `span` is the longest time shown, in seconds.
 */
function createChart({ title, format, axis, base = 1000, span = SPAN_SECONDS, cursor, isWhole = false }) {
  const grid = svg('g', { class: 'axes' });
  const lines = svg('g', { class: 'lines' });
  const keys = svg('g', { class: 'keys' });
  const line = svg('line', { class: 'cursor', y1: GUTTER.top, y2: CHART_HEIGHT - GUTTER.bottom, visibility: 'hidden' });
  const picture = svg(
    'svg',
    { role: 'img', height: CHART_HEIGHT, width: '100%', 'aria-label': `${title}: no data yet` },
    grid,
    lines,
    keys,
    line,
  );
  const reader = h('div.reader', {
    tabindex: 0,
    role: 'slider',
    'aria-label': `${title}: values over time`,
    'aria-valuemin': 0,
    'aria-valuemax': 0,
    'aria-valuenow': 0,
    'aria-valuetext': 'no data yet',
    'aria-orientation': 'horizontal',
  });
  const element = h('div.chart', picture, reader);
  let data = { times: [], series: [] };
  let width = 0;
  let scale = null;

  function draw() {
    if (!width) return;
    const { times, series } = data;
    scale = scaleOf(times, series, width, span, base, isWhole);
    drawGrid(grid, scale, axis, width);
    drawLines(lines, series, times, scale);
    drawKeys(keys, series, scale, width);
    setAttribute(picture, 'aria-label', summary(title, series, format));
    setAttribute(reader, 'aria-valuemax', Math.max(0, times.length - 1));
    showCursor();
  }

  function showCursor() {
    const time = cursor.get();
    const index = time === null ? -1 : nearest(data.times, time);
    const isShown = index >= 0 && scale !== null && data.times[index] >= scale.start;
    line.setAttribute('visibility', isShown ? 'visible' : 'hidden');
    if (!isShown) return;
    const x = scale.x(data.times[index]);
    line.setAttribute('x1', x);
    line.setAttribute('x2', x);
    if (document.activeElement === reader) {
      setAttribute(reader, 'aria-valuenow', index);
      setAttribute(reader, 'aria-valuetext', readOut(data, index, format));
    }
  }

  function onKey(event) {
    const { times } = data;
    if (!times.length) return;
    const now = cursor.get() === null ? times.length - 1 : nearest(times, cursor.get());
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowDown: -1,
      ArrowUp: 1,
      PageDown: -30,
      PageUp: 30,
      Home: -times.length,
      End: times.length,
    };
    if (event.key === 'Escape') cursor.set(null);
    else if (event.key in steps) {
      event.preventDefault();
      const first = times.findIndex((time) => time >= scale.start);
      cursor.set(times[Math.min(times.length - 1, Math.max(first, now + steps[event.key]))]);
    }
  }

  reader.addEventListener('pointermove', (event) => {
    if (!scale || !data.times.length) return;
    const time = scale.time(event.clientX - reader.getBoundingClientRect().left);
    cursor.set(data.times[nearest(data.times, time)]);
  });
  reader.addEventListener('pointerleave', () => cursor.set(null));
  reader.addEventListener('keydown', onKey);
  reader.addEventListener('focus', () => {
    if (data.times.length && reader.matches(':focus-visible')) cursor.set(data.times.at(-1));
  });
  reader.addEventListener('blur', () => cursor.set(null));
  cursor.listen(showCursor);
  const observer = new ResizeObserver(([entry]) => {
    width = Math.round(entry.contentRect.width);
    draw();
  });
  observer.observe(element);

  return {
    element,
    update(next) {
      data = next;
      draw();
    },
    stop: () => observer.disconnect(),
  };
}

/** Returns the index of the time that is nearest, or -1 if there is none. */
function nearest(times, time) {
  let best = -1;
  for (let index = 0; index < times.length; index += 1) {
    if (best < 0 || Math.abs(times[index] - time) <= Math.abs(times[best] - time)) best = index;
  }
  return best;
}

/** A round number that is at least `value`, divisible into `parts` round steps. */
function roundUp(value, base, isWhole) {
  if (value <= 0) return 1;
  const unit = base ** Math.floor(Math.log(value) / Math.log(base));
  const rest = value / unit;
  const steps =
    base === 1024
      ? [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
      : [1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200, 300, 400, 500, 600, 800, 1000];
  const top = steps.find((step) => step >= rest * 0.9999) * unit;
  return isWhole ? Math.max(2, 2 * Math.ceil(top / 2)) : top;
}

function scaleOf(times, series, width, span, base, isWhole) {
  const end = times.at(-1) ?? 0;
  const first = times[0] ?? end;
  const length = Math.min(span, Math.max(end - first, Math.min(span, SPAN_MIN_SECONDS)));
  const start = end - length;
  let top = 0;
  for (const { values } of series)
    values.forEach((value, index) => {
      if (times[index] >= start && value > top) top = value;
    });
  const max = roundUp(top, base, isWhole);
  const plot = {
    width: Math.max(1, width - GUTTER.left - GUTTER.right),
    height: CHART_HEIGHT - GUTTER.top - GUTTER.bottom,
  };
  return {
    start,
    end,
    max,
    x: (time) => Math.round((GUTTER.left + ((time - start) / length) * plot.width) * 10) / 10,
    y: (value) => Math.round((GUTTER.top + (1 - value / max) * plot.height) * 10) / 10,
    time: (x) => start + ((x - GUTTER.left) / plot.width) * length,
  };
}

function drawGrid(group, scale, axis, width) {
  const nodes = [];
  for (const value of [0, scale.max / 2, scale.max]) {
    const y = scale.y(value);
    nodes.push(svg('line', { x1: GUTTER.left, x2: width - GUTTER.right, y1: y, y2: y }));
    nodes.push(svg('text', { x: GUTTER.left - 6, y: y + 4, 'text-anchor': 'end' }, axis(value)));
  }
  const length = scale.end - scale.start;
  const wanted = Math.max(2, Math.floor(width / 90));
  const step = X_STEPS.find((seconds) => length / seconds <= wanted) ?? X_STEPS.at(-1);
  const label = step < 60 ? clockTime : clockMinutes;
  for (let time = Math.ceil(scale.start / step) * step; time <= scale.end && scale.end > 0; time += step) {
    const x = scale.x(time);
    nodes.push(svg('line', { x1: x, x2: x, y1: CHART_HEIGHT - GUTTER.bottom, y2: CHART_HEIGHT - GUTTER.bottom + 4 }));
    if (x > GUTTER.left + 8 && x < width - 16) {
      nodes.push(svg('text', { x, y: CHART_HEIGHT - 4, 'text-anchor': 'middle' }, label(time)));
    }
  }
  group.replaceChildren(...nodes);
}

function drawLines(group, series, times, scale) {
  const nodes = [];
  for (const { values, slot } of series) {
    let path = '';
    let from = null;
    let isOpen = false;
    values.forEach((value, index) => {
      if (value === null || times[index] < scale.start) {
        isOpen = false;
        return;
      }
      path += `${isOpen ? 'L' : 'M'}${scale.x(times[index])} ${scale.y(value)}`;
      from ??= scale.x(times[index]);
      isOpen = true;
    });
    if (!path) continue;
    if (series.length === 1 && path.lastIndexOf('M') === 0) {
      const floor = scale.y(0);
      nodes.push(
        svg('path', { class: `area s${slot}`, d: `${path}L${scale.x(scale.end)} ${floor}L${from} ${floor}Z` }),
      );
    }
    nodes.push(svg('path', { class: `line s${slot}`, d: path }));
  }
  group.replaceChildren(...nodes);
}

/** Labels the end of each line with its key, moved apart where lines are close. */
function drawKeys(group, series, scale, width) {
  const ends = series
    .filter(({ key, values }) => key && values.at(-1) !== null && values.length)
    .map(({ key, slot, values }) => ({ key, slot, y: scale.y(values.at(-1)) + 3 }))
    .sort((a, b) => b.y - a.y);
  let below = CHART_HEIGHT - GUTTER.bottom + LABEL_GAP + 2;
  for (const end of ends) {
    end.y = Math.min(end.y, below - LABEL_GAP);
    below = end.y;
  }
  let above = GUTTER.top + 1;
  for (const end of ends.toReversed()) {
    end.y = Math.max(end.y, above);
    above = end.y + LABEL_GAP;
  }
  group.replaceChildren(
    ...ends.map(({ key, slot, y }) => svg('text', { class: `key s${slot}`, x: width - GUTTER.right + 4, y }, key)),
  );
}

/** Describes a chart in a sentence: for each series the current, the smallest and the largest value. */
function summary(title, series, format) {
  const parts = series.map(({ label, values }) => {
    const present = values.filter((value) => value !== null);
    if (!present.length) return `${label} has no data`;
    return `${label} now ${format(present.at(-1))}, lowest ${format(Math.min(...present))}, highest ${format(Math.max(...present))}`;
  });
  return parts.length ? `${title}: ${parts.join('; ')}` : `${title}: no data`;
}

function readOut({ times, series }, index, format) {
  return `${clockTime(times[index])}: ${series.map(({ label, values }) => `${label} ${format(values[index])}`).join(', ')}`;
}
