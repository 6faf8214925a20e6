// Tests a graphql-ws server behind the proxy with the graphql-ws client: the subprotocol graphql-transport-ws.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { WebSocket, WebSocketServer } = require('ws');
const { GraphQLInt, GraphQLNonNull, GraphQLObjectType, GraphQLSchema, GraphQLString } = require('graphql');
const { createClient } = require('graphql-ws');
const { useServer } = require('graphql-ws/use/ws');
const { check, facts, listen } = require('./checks');

const schema = new GraphQLSchema({
  query: new GraphQLObjectType({
    name: 'Query',
    fields: { greeting: { type: GraphQLString, resolve: () => 'Grüße' } },
  }),
  subscription: new GraphQLObjectType({
    name: 'Subscription',
    fields: {
      countdown: {
        type: GraphQLInt,
        args: { from: { type: new GraphQLNonNull(GraphQLInt) } },
        async* subscribe(_, { from }) {
          for (let i = from; i >= 0; i -= 1) yield { countdown: i };
        },
      },
      never: {
        type: GraphQLInt,
        async* subscribe() { await new Promise(() => {}); yield { never: 0 }; },
      },
    },
  }),
});
const server = http.createServer();
const backend = new WebSocketServer({ server, path: '/graphql' });
useServer({ schema, onConnect: ({ connectionParams }) => connectionParams?.door !== 'wrong' }, backend);

async function main() {
  const { base, ca, token } = await facts({ port: await listen(server) });

  function client(options = {}, headers = { Authorization: `Bearer ${token}` }) {
    class Trusting extends WebSocket {
      constructor(url, protocols) { super(url, protocols, { ca, headers }); }
    }
    return createClient({ url: `${base}/graphql`, webSocketImpl: Trusting, retryAttempts: 0, ...options });
  }
  const collect = async (source, query) => {
    const values = [];
    for await (const value of source.iterate({ query })) values.push(value);
    return values;
  };
  const failed = (promise) => promise.then(() => { throw new Error('the connection was accepted'); }, (error) => error);

  await check('graphql-ws: a query is answered', async () => {
    const source = client();
    const [{ data }] = await collect(source, '{ greeting }');
    assert.equal(data.greeting, 'Grüße');
    await source.dispose();
  });
  await check('graphql-ws: a subscription runs to its end', async () => {
    const source = client();
    const values = await collect(source, 'subscription { countdown(from: 5) }');
    assert.deepEqual(values.map(({ data }) => data.countdown), [5, 4, 3, 2, 1, 0]);
    await source.dispose();
  });
  await check('graphql-ws: ten subscriptions share one session', async () => {
    const source = client();
    const all = await Promise.all(Array.from({ length: 10 }, () => collect(source, 'subscription { countdown(from: 2) }')));
    all.forEach((values) => assert.equal(values.length, 3));
    await source.dispose();
  });
  await check('graphql-ws: pings of the library are answered', async () => {
    let pongs = 0;
    const source = client({ lazy: false, keepAlive: 100, on: { pong: () => { pongs += 1; } } });
    await new Promise((done) => { setTimeout(done, 700); });
    await source.dispose();
    assert.ok(pongs >= 3, `${pongs} pongs`);
  });
  await check('graphql-ws: the close code 4403 of the server reaches the client', async () => {
    const error = await failed(collect(client({ connectionParams: { door: 'wrong' } }), '{ greeting }'));
    assert.deepEqual([error.code, error.reason], [4403, 'Forbidden']);
  });
  await check('graphql-ws: without a token no session is opened', async () => {
    const error = await failed(collect(client({}, {}), '{ greeting }'));
    assert.match(error.message, /401/);
  });
  process.exit(0);
}

main().catch((error) => { console.log(`not ok graphql-ws runs to completion: ${error.message}`); process.exit(1); });
