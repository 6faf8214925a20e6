// The view of the configuration: its parts, and the reload.

const CONFIG_MS = 5000;

/** A section of blocks that are kept by name. A block is made again when its line or fixed facts change. */
function blockSection(title, keyOf, create, empty, kind = 'narrow') {
  const id = uniqueId('section');
  const holder = h(`div.blocks.${kind}`);
  const nothing = h('p.quiet', 'Loading');
  const blocks = new Map();
  const section = h('section', { 'aria-labelledby': id }, h('h2', { id }, title), holder, nothing);
  return {
    element: section,
    update(items, generation) {
      section.style.setProperty('--blocks', Math.max(1, items.length));
      setText(nothing, items.length ? '' : empty);
      const keyOfItem = (item) => `${keyOf(item)} ${item.line} ${generation}`;
      keyed(
        holder,
        items,
        keyOfItem,
        (item) => {
          const own = create(item);
          blocks.set(own.element, own);
          return own.element;
        },
        (element, item) => blocks.get(element).update(item),
      );
      for (const element of blocks.keys()) if (!element.isConnected) blocks.delete(element);
    },
  };
}

function listenersSection() {
  const list = h('ul.counts');
  const file = h('p.quiet', 'Loading');
  return {
    element: h(
      'section',
      { 'aria-labelledby': 'config-file' },
      h('h2', { id: 'config-file' }, 'File and listeners'),
      file,
      list,
    ),
    update(info) {
      setText(
        file,
        info.config
          ? `${info.config}, generation ${count(info.generation)}. Lines are those of the file when it was read.`
          : 'There is no configuration file.',
      );
      keyed(
        list,
        info.listeners,
        String,
        (address) => h('li', h('code', address)),
        () => {},
      );
    },
  };
}

function configView() {
  const listeners = listenersSection();
  const parts = {
    upstreams: blockSection(
      'Upstreams',
      ({ name }) => name,
      (upstream) => upstreamBlock(upstream, () => load.now()),
      'No upstream is configured.',
      'broad',
    ),
    routes: blockSection('Routes', ({ name }) => name, routeBlock, 'No route is configured.'),
    auths: blockSection('Auth sections', ({ name }) => name, authBlock, 'No auth section is configured.'),
  };
  const certificates = createTable({
    caption: 'Certificates',
    columns: CERTIFICATE_COLUMNS,
    keyOf: ({ listener, names }) => `${listener} ${names.join()}`,
    empty: 'No listener has certificates.',
  });
  const nodes = nodesSection();
  // The parts appear at once, so that none moves another.
  const rest = h(
    'div.rest.parts',
    { hidden: true },
    Object.values(parts).map(({ element }) => element),
    h(
      'section.wide',
      { 'aria-labelledby': 'config-certificates' },
      h('h2', { id: 'config-certificates' }, 'Certificates'),
      certificates.element,
    ),
    nodes.element,
  );
  const error = h('div');
  const reload = createReload(() => load.now());

  const load = poll(
    CONFIG_MS,
    async (signal) => {
      const names = ['upstreams', 'routes', 'auths', 'certificates', 'nodes'];
      const [info, ...answers] = await Promise.all(['info', ...names].map((name) => get(`/v1/${name}`, {}, signal)));
      fill(error);
      listeners.update(info);
      reload.update(info);
      const answer = Object.assign({}, ...answers);
      answer.routes.sort((a, b) => isBuiltIn(a) - isBuiltIn(b));
      for (const [name, part] of Object.entries(parts)) part.update(answer[name], info.generation);
      certificates.update(answer.certificates);
      nodes.update(answer);
      rest.hidden = false;
    },
    (failure) => failure.status && fill(error, problemBlock(failure)),
  );
  return {
    title: 'Configuration',
    content: [error, reload.element, listeners.element, rest],
    stop: () => load.stop(),
  };
}
