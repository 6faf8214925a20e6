// Tests graphql-yoga and graphql-ws on one path behind the recipe: POST, GET, server-sent events and WebSocket.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { createSchema, createYoga } = require('graphql-yoga');
const { createClient } = require('graphql-ws');
const { useServer } = require('graphql-ws/use/ws');
const { WebSocket, WebSocketServer } = require('ws');
const { check, facts, listen } = require('../node/checks');

const STEPS = 5;

/** The counters by name; each step is published when a client asks for it. */
const waiting = new Map();
const schema = createSchema({
  typeDefs: /* GraphQL */ `
    type Query { greeting(name: String!): String! }
    type Mutation { step(counter: String!): Boolean! }
    type Subscription { count(counter: String!): Int! }`,
  resolvers: {
    Query: { greeting: (_, { name }) => `Grüße, ${name}` },
    Mutation: { step: (_, { counter }) => { waiting.get(counter)?.(); return waiting.has(counter); } },
    Subscription: {
      count: {
        async* subscribe(_, { counter }) {
          for (let i = 0; i <= STEPS; i += 1) {
            yield { count: i };
            if (i < STEPS) await new Promise((resolve) => { waiting.set(counter, resolve); });
          }
        },
      },
    },
  },
});
const yoga = createYoga({ schema, logging: false });
const server = http.createServer(yoga);
useServer({ schema }, new WebSocketServer({ server, path: '/graphql' }));

async function main() {
  const { base } = await facts({ port: await listen(server) });
  const url = `${base}/graphql`;
  const post = (query, variables, headers = {}) => fetch(url, {
    method: 'POST', headers: { 'Content-Type': 'application/json', ...headers }, body: JSON.stringify({ query, variables }),
  });
  const step = async (counter) => {
    const { data } = await (await post('mutation ($counter: String!) { step(counter: $counter) }', { counter })).json();
    assert.equal(data.step, true);
  };

  await check('graphql: a query by POST and by GET is answered', async () => {
    const { data } = await (await post('query ($name: String!) { greeting(name: $name) }', { name: 'Ada' })).json();
    assert.equal(data.greeting, 'Grüße, Ada');
    const query = encodeURIComponent('{ greeting(name: "Bob") }');
    const got = await (await fetch(`${url}?query=${query}`, { headers: { Accept: 'application/json' } })).json();
    assert.equal(got.data.greeting, 'Grüße, Bob');
  });
  await check('graphql: the page of GraphiQL is served', async () => {
    const page = await fetch(url, { headers: { Accept: 'text/html' } });
    assert.deepEqual([page.status, /GraphiQL/.test(await page.text())], [200, true]);
  });
  await check('graphql: a preflight of CORS is answered', async () => {
    const headers = { Origin: 'https://other.example', 'Access-Control-Request-Method': 'POST' };
    const answer = await fetch(url, { method: 'OPTIONS', headers });
    assert.deepEqual([answer.status, answer.headers.get('access-control-allow-origin')], [204, 'https://other.example']);
  });
  await check('graphql: a subscription over a WebSocket, whose steps are mutations by POST', async () => {
    const client = createClient({ url: url.replace('http', 'ws'), webSocketImpl: WebSocket, retryAttempts: 0 });
    const values = [];
    for await (const { data } of client.iterate({ query: 'subscription { count(counter: "ws") }' })) {
      values.push(data.count);
      if (data.count < STEPS) await step('ws');
    }
    assert.deepEqual(values, [0, 1, 2, 3, 4, 5]);
    await client.dispose();
  });
  await check('graphql: a subscription over server-sent events is not buffered', async () => {
    const answer = await post('subscription { count(counter: "sse") }', {}, { Accept: 'text/event-stream' });
    assert.match(answer.headers.get('content-type'), /text\/event-stream/);
    const values = [];
    let text = '';
    for await (const part of answer.body) {
      text += Buffer.from(part).toString();
      for (let found; (found = /"count":(\d)/.exec(text)); text = text.slice(found.index + found[0].length)) {
        values.push(Number(found[1]));
        if (Number(found[1]) < STEPS) await step('sse'); // the next event is sent only now
      }
    }
    assert.deepEqual(values, [0, 1, 2, 3, 4, 5]);
  });
  await check('graphql: ten queries at once over POST, and ten over one WebSocket', async () => {
    const names = Array.from({ length: 10 }, (_, i) => `client ${i}`);
    const wanted = names.map((name) => `Grüße, ${name}`);
    const query = 'query ($name: String!) { greeting(name: $name) }';
    const posted = await Promise.all(names.map(async (name) => (await (await post(query, { name })).json()).data.greeting));
    assert.deepEqual(posted, wanted);
    const client = createClient({ url: url.replace('http', 'ws'), webSocketImpl: WebSocket, retryAttempts: 0 });
    const sent = await Promise.all(names.map(async (name) => {
      for await (const { data } of client.iterate({ query, variables: { name } })) return data.greeting;
      throw new Error('no answer');
    }));
    assert.deepEqual(sent, wanted);
    await client.dispose();
  });
  process.exit(0);
}

main().catch((error) => { console.log(`not ok graphql runs to completion: ${error.message}`); process.exit(1); });
