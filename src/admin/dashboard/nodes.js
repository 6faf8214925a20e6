// The nodes of the cluster.

const NODE_COLUMNS = [
  { label: 'Node', kind: 'key', text: ({ id, this: own }) => (own ? `${id} (this one)` : id) },
  { label: 'Name', kind: 'value', text: ({ name }) => name },
  { label: 'Address', kind: 'value', text: ({ address }) => address },
  { label: 'Version', kind: 'value', text: ({ version }) => version },
  { label: 'Configuration', kind: 'value', text: configurationOf },
  { label: 'Sessions', kind: 'value', text: ({ sessions }) => (isNumber(sessions) ? count(sessions) : null) },
  { label: 'Last heartbeat', kind: 'value', text: ({ silent_seconds: silent }) => `${duration(silent)} ago` },
];

function configurationOf({ config, differs, same_secret: same }) {
  return config && `${config}${differs ? ' (differs)' : ''}${same === false ? ' (secret_file differs)' : ''}`;
}

/** The nodes, each with whether its configuration differs from that of the node that answers. */
function markedNodes(nodes) {
  const own = nodes.find((node) => node.this);
  return nodes.map((node) => ({ ...node, differs: Boolean(own && node.config && node.config !== own.config) }));
}

/** The section of the nodes, which is hidden if the process is in no cluster. */
function nodesSection() {
  const state = h('p.quiet');
  const table = createTable({
    caption: 'Nodes of the cluster',
    columns: NODE_COLUMNS,
    keyOf: ({ id }) => id,
    empty: 'No node is registered yet.',
  });
  const element = h(
    'section.wide',
    { 'aria-labelledby': 'config-nodes', hidden: true },
    h('h2', { id: 'config-nodes' }, 'Nodes of the cluster'),
    state,
    table.element,
  );
  return {
    element,
    update({ server_answers: answers, server_error: error, nodes }) {
      element.hidden = answers === null;
      setText(state, `The server of the cluster ${answers ? 'answers' : failure(error)}.`);
      table.update(markedNodes(nodes));
    },
  };
}

/** What is wrong with a server that cannot be used. */
const failure = (error) => (error ? `answers with an error (${error})` : 'does not answer');

/** What an operator has to look at in the cluster. */
function nodeFindings({ server_answers: answers, server_error: error, nodes }) {
  if (typeof answers !== 'boolean') return [];
  const found = [];
  if (!answers) {
    const text = `The server of the cluster ${failure(error)}: on_outage of this node applies.`;
    found.push({ key: 'cluster', level: 'bad', href: '#/config', text });
  }
  for (const { id, name } of markedNodes(nodes).filter(({ differs }) => differs)) {
    const text = `The node ${id} (${name}) has other routes, upstreams or auth sections than this one.`;
    found.push({ key: `node ${id}`, level: 'warn', href: '#/config', text });
  }
  for (const { id, name } of nodes.filter(({ same_secret: same }) => same === false)) {
    const text = `The node ${id} (${name}) has another secret_file than this one.`;
    found.push({ key: `secret ${id}`, level: 'warn', href: '#/config', text });
  }
  return found;
}
