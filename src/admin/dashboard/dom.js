// Builds and updates elements, without markup in strings.

const SVG_NAMESPACE = 'http://www.w3.org/2000/svg';

/**
 * Creates an element: `h('a.button', { href }, 'text', child)`. Children that are null or false are left out. Of the
 * attributes, `on` holds listeners and `data` the data attributes.
 */
function h(selector, ...rest) {
  const [tag, ...classes] = selector.split('.');
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(' ');
  const isOptions =
    rest.length &&
    rest[0] !== null &&
    typeof rest[0] === 'object' &&
    !(rest[0] instanceof Node) &&
    !Array.isArray(rest[0]);
  if (isOptions) applyOptions(element, rest.shift());
  element.append(...childrenOf(rest));
  return element;
}

function applyOptions(element, { on = {}, data = {}, ...attributes }) {
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
  for (const [name, value] of Object.entries(data))
    if (value !== null && value !== undefined) element.dataset[name] = value;
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
}

function childrenOf(list) {
  return list.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Creates an SVG element. */
function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG_NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets an attribute if it differs. Null and false remove it; true is "true" in ARIA, and empty in HTML. */
function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true && !name.startsWith('aria-') ? '' : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

/** Sets the text if it differs, so that a selection in unchanged text survives. */
function setText(element, text) {
  const wanted = String(text);
  if (
    element.firstChild &&
    element.firstChild === element.lastChild &&
    element.firstChild.nodeType === Node.TEXT_NODE
  ) {
    if (element.firstChild.data !== wanted) element.firstChild.data = wanted;
  } else if (element.textContent !== wanted || element.childElementCount) element.textContent = wanted;
}

/** Replaces all children. */
function fill(element, ...children) {
  element.replaceChildren(...childrenOf(children));
  return element;
}

/**
 * Makes the children of `parent` those of `items`, in their order. Elements are reused by key, and keep their focus.
 * `create(item)` returns an element, and `update(element, item)` refreshes it.
 */
function keyed(parent, items, keyOf, create, update) {
  const focused = document.activeElement;
  const known = parent.keyedElements ?? new Map();
  const next = new Map();
  for (const item of items) {
    const key = String(keyOf(item));
    if (next.has(key)) continue;
    const element = known.get(key) ?? create(item);
    update(element, item);
    next.set(key, element);
  }
  for (const [key, element] of known) if (!next.has(key)) element.remove();
  let position = parent.firstElementChild;
  for (const element of next.values()) {
    if (element === position) position = position.nextElementSibling;
    else parent.insertBefore(element, position);
  }
  parent.keyedElements = next;
  const isLost = focused && focused !== document.activeElement && focused !== document.body && parent.contains(focused);
  if (isLost) focused.focus({ preventScroll: true });
}

/** Returns a list of terms. Each entry is `[term, description, options]`; those without a description are left out. */
function terms(entries) {
  const shown = entries.filter((entry) => entry && entry[1] !== null && entry[1] !== undefined && entry[1] !== '');
  return h(
    'dl.terms',
    shown.map(([term, description, options = {}]) => h('div', h('dt', term), h('dd', options, description))),
  );
}

/** Returns a labelled control, with a hint that a screen reader reads after the label. */
function field(label, control, hint = null) {
  const id = control.id || (control.id = uniqueId('field'));
  if (hint) control.setAttribute('aria-describedby', `${id}-hint`);
  return h('div.field', h('label', { for: id }, label), control, hint && h('p.hint', { id: `${id}-hint` }, hint));
}

/** Returns a sentence in which names between backticks are code. */
function prose(text) {
  return text.split('`').map((part, index) => (index % 2 ? h('code', part) : part));
}

let lastId = 0;

function uniqueId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

/** Returns a select with these options: texts, or pairs of a value and a text. */
function select(options, value, onChange, attributes = {}) {
  const element = h('select', { on: { change: () => onChange(element.value) }, ...attributes });
  setOptions(element, options, value);
  return element;
}

/** Replaces the options of a select. A value that is not among them is added, so that it stays chosen. */
function setOptions(element, options, value) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  if (value && !pairs.some(([own]) => own === value)) pairs.push([value, value]);
  fill(
    element,
    pairs.map(([own, text]) => h('option', { value: own, selected: own === value }, text)),
  );
  element.value = value;
}
