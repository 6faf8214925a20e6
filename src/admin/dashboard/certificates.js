// The bars of certificates by the days that are left.

/** The bars of certificates by days left. */
function createCertificateCard() {
  const list = h('ul.bars', { 'aria-label': 'Certificates by days left' });
  const number = h('span.number', NONE);
  const element = h(
    'figure.card.certificates',
    { id: 'certificates', 'aria-labelledby': 'certificates-title' },
    h(
      'figcaption',
      { id: 'certificates-title' },
      h('h3', 'Certificates'),
      h('p.figure', number, ' ', h('span.note', 'until the first expires')),
    ),
    h('div.scroll', { tabindex: 0, role: 'region', 'aria-label': 'Certificates' }, list),
  );
  return {
    element,
    update(certificates) {
      const sorted = certificates.slice().sort((a, b) => (a.days_left ?? Infinity) - (b.days_left ?? Infinity));
      setText(number, sorted.length && isNumber(sorted[0].days_left) ? daysText(sorted[0].days_left) : 'none');
      keyed(
        list,
        sorted,
        (one) => `${one.listener} ${one.names.join()}`,
        () => certificateBar(),
        updateBar,
      );
    },
  };
}

function certificateBar() {
  return h('li', h('span.name'), h('span.days'), h('div.bar', { 'aria-hidden': true }, h('div')));
}

function certificateLevel(days) {
  if (!isNumber(days)) return 'none';
  return days < CERTIFICATE_BAD_DAYS ? 'bad' : days < CERTIFICATE_WARN_DAYS ? 'warn' : 'good';
}

function updateBar(row, { names, days_left: days, listener }) {
  const more = names.length > 1 ? ` and ${names.length - 1} more` : '';
  setText(row.children[0], `${names[0] ?? 'no name'}${more}, ${listener}`);
  setAttribute(row.children[0], 'title', names.join(', '));
  setText(row.children[1], daysText(days));
  row.dataset.level = certificateLevel(days);
  row.dataset.value = days;
  row.querySelector('.bar > div').style.width = `${Math.max(1, Math.min(100, ((days ?? 0) / 90) * 100))}%`;
}
