// A figure of the overview: its number, its chart, a legend with the value of each series, and its table.

/**
 * Creates a card. `rows` is the number of rows of the legend for which space is reserved. `total` writes the total of a
 * counter; without it the legend has no totals.
 */
function createCard({
  id,
  title,
  format,
  axis,
  base,
  isWhole,
  cursor,
  rows,
  total = null,
  figureMetric = null,
  gridNote = '',
}) {
  const chart = createChart({ title, format, axis, base, cursor, isWhole });
  const figure = h('span.number', { data: { metric: figureMetric } }, NONE);
  const note = h('span.note', gridNote);
  const when = h('th.value', { scope: 'col' }, 'now');
  const legend = h('tbody');
  const nothing = h('p.quiet', 'None since the start.');
  const table = lazyTable(title, format);
  const titleId = `${id}-title`;
  const element = h(
    'figure.card',
    { id, 'aria-labelledby': titleId },
    h('figcaption', { id: titleId }, h('h3', title), h('p.figure', figure, note)),
    chart.element,
    h(
      `div.legend.rows-${rows}`,
      h(
        'table',
        h('caption.hidden', `${title}: series`),
        h(
          'thead',
          h(
            'tr',
            h('th', { scope: 'col' }, h('span.hidden', 'Series')),
            when,
            total && h('th.value', { scope: 'col' }, 'since start'),
          ),
        ),
        legend,
      ),
      nothing,
    ),
    table.element,
  );
  let data = { times: [], series: [] };

  function updateLegend() {
    nothing.hidden = data.series.length > 0;
    const time = cursor.get();
    const index = time === null ? data.times.length - 1 : nearest(data.times, time);
    setText(when, time === null || index < 0 ? 'now' : `at ${clockTime(data.times[index])}`);
    keyed(
      legend,
      data.series,
      (one) => one.label,
      () => legendRow(total !== null),
      (row, one) => {
        const [name, value, sum] = row.children;
        setAttribute(name.firstChild.firstChild, 'class', `line s${one.slot}`);
        setText(name.querySelector('.key'), one.key ?? '');
        const label = name.lastChild;
        setText(label, one.label);
        setAttribute(label, 'href', one.href ?? null);
        setAttribute(label, 'title', one.title ?? null);
        setText(value, format(one.values[index] ?? null));
        if (!total) describe(value, one.metric, one.isOther ? null : one.values.at(-1));
        else {
          setText(sum, total(one.total));
          describe(sum, one.metric, one.total);
        }
      },
    );
  }

  cursor.listen(updateLegend);
  return {
    element,
    /** Shows the series, and the number with its exact value and a note. */
    update(next, { value, text, noteText = gridNote }) {
      data = next;
      chart.update(next);
      updateLegend();
      setText(figure, text);
      setAttribute(figure, 'data-value', value);
      setText(note, noteText);
      table.update(next);
    },
    stop: () => chart.stop(),
  };
}

function describe(cell, metric, value) {
  setAttribute(cell, 'data-metric', metric ?? null);
  setAttribute(cell, 'data-value', value ?? null);
}

function legendRow(hasTotal) {
  const swatch = svg(
    'svg',
    { class: 'swatch', width: 22, height: 10, 'aria-hidden': 'true' },
    svg('line', { x1: 0, x2: 22, y1: 5, y2: 5 }),
  );
  return h(
    'tr',
    h('th', { scope: 'row' }, swatch, h('span.key', { 'aria-hidden': true }), h('a.name')),
    h('td.value'),
    hasTotal && h('td.value'),
  );
}

/** A table of all points, which is only filled while it is open. */
function lazyTable(title, format) {
  const head = h('tr', { role: 'row' });
  const body = h('tbody', { role: 'rowgroup' });
  const holder = h(
    'div.scroll',
    { tabindex: 0, role: 'region', 'aria-label': `${title} as a table` },
    h(
      'table.cards',
      { role: 'table' },
      h('caption.hidden', `${title} over the last hour, newest first`),
      h('thead', { role: 'rowgroup' }, head),
      body,
    ),
  );
  const details = h('details', h('summary', 'Show as table'), holder);
  let data = { times: [], series: [] };

  function show() {
    if (!details.open) {
      fill(head);
      keyed(body, [], String, null, null);
      return;
    }
    const labels = ['Time', ...data.series.map((one) => one.label)];
    fill(
      head,
      labels.map((label) => h('th', { role: 'columnheader', scope: 'col' }, label)),
    );
    const points = data.times.map((time, index) => ({ time, index })).reverse();
    keyed(
      body,
      points,
      ({ time }) => `${time} ${labels.join()}`,
      () =>
        h(
          'tr',
          { role: 'row' },
          labels.map((label) => h('td', { role: 'cell', data: { label } })),
        ),
      (row, { time, index }) => {
        setText(row.children[0], clockTime(time));
        data.series.forEach((one, place) => setText(row.children[place + 1], format(one.values[index])));
      },
    );
  }

  details.addEventListener('toggle', show);
  return {
    element: details,
    update(next) {
      data = next;
      if (details.open) show();
    },
  };
}
