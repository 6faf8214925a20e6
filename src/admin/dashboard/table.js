// Tables whose rows are reused, and which are lists of cards on a narrow screen.

/** The characters of a text that a cell shows. */
const CELL_MAX = 160;
/** The shortest name that the style may cut. */
const NAME_MIN = 12;

/**
 * Creates a table. A column has a `label` and `text(row)`, and optionally `href(row)`, `title(row)`, `value(row)` (the
 * exact number, for `data-value`), `node(row)` (instead of a text), `kind` (a class of its cells; the style cuts a
 * long `name` or `server`), `sort` (the name of its order). `onSort(name)` is called by the buttons of the header.
 */
function createTable({ caption, columns, keyOf, onSort = null, empty = 'Nothing to show.', isCaptionHidden = true }) {
  const headers = columns.map((column) => headerCell(column, onSort));
  const body = h('tbody', { role: 'rowgroup' });
  const nothing = h('p.empty', { hidden: true }, empty);
  const table = h(
    'table.cards',
    { role: 'table' },
    h(isCaptionHidden ? 'caption.hidden' : 'caption', caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, headers)),
    body,
  );
  const update = (rows) => {
    keyed(
      body,
      rows,
      keyOf,
      () => createRow(columns),
      (element, row) => updateRow(element, columns, row),
    );
    nothing.hidden = rows.length > 0;
    table.hidden = rows.length === 0;
  };
  const showSort = (sort) =>
    columns.forEach((column, index) => {
      if (column.sort) showOrder(headers[index], column.sort, sort);
    });
  return {
    element: h('div.table', table, nothing),
    table,
    update,
    showSort,
  };
}

function headerCell(column, onSort) {
  const options = { role: 'columnheader', scope: 'col' };
  if (!column.sort) return h(`th.${column.kind ?? 'text'}`, options, column.label);
  const arrow = h('span.arrow', { 'aria-hidden': true });
  // That of a number is before its name, so that the name is above the numbers.
  const content = column.kind === 'value' ? [arrow, column.label] : [column.label, arrow];
  const button = h('button.sort', { type: 'button', on: { click: () => onSort(column.sort) } }, content);
  return h(`th.${column.kind ?? 'text'}`, options, button);
}

/** Shows the order `sort`: a name in its first direction, with `-` reversed. `age` and `id` begin with the smallest. */
function showOrder(cell, own, sort) {
  const isOwn = sort === own || sort === `-${own}`;
  const order = sort.startsWith('-') ? 'descending' : 'ascending';
  setAttribute(cell, 'aria-sort', isOwn ? order : 'none');
  setText(cell.querySelector('.arrow'), isOwn ? (order === 'ascending' ? '▲' : '▼') : '');
}

function createRow(columns) {
  return h(
    'tr',
    { role: 'row' },
    columns.map((column) => {
      const cell = h(`td.${column.kind ?? 'text'}`, { role: 'cell', data: { label: column.label } });
      if (column.href) cell.append(h('a'));
      return cell;
    }),
  );
}

function updateRow(element, columns, row) {
  columns.forEach((column, index) => {
    const cell = element.children[index];
    if (column.node) {
      const node = column.node(row, cell.firstElementChild);
      if (node !== cell.firstElementChild) fill(cell, node);
      return;
    }
    let target = cell;
    if (column.href) {
      const href = column.href(row);
      target = cell.firstElementChild;
      setAttribute(target, 'href', href);
    }
    const text = String(column.text(row) ?? '');
    const isCut = column.kind === 'words' && text.length > CELL_MAX;
    setText(target, isCut ? `${text.slice(0, CELL_MAX)}…` : text);
    const isLong = isCut || (['name', 'server'].includes(column.kind) && text.length > NAME_MIN);
    setAttribute(target, 'title', column.title?.(row) ?? (isLong ? text : null));
    if (column.value) setAttribute(cell, 'data-value', column.value(row));
  });
}
