// Tests nats.ws behind the recipe: messages, requests, the largest payload, and a connection that is quiet.
'use strict';
const assert = require('assert/strict');
const { WebSocket } = require('ws');
const { check, facts } = require('../node/checks');

const CLIENT = '127.0.0.7'; // Tollgate connects from 127.0.0.1

// nats.ws expects the WebSocket of a browser.
globalThis.WebSocket = class extends WebSocket {
  constructor(url) { super(url, { localAddress: CLIENT, family: 4 }); }
};
const { connect, StringCodec } = require('nats.ws');

async function main() {
  const { base } = await facts({});
  const url = base.replace('http', 'ws');
  const text = StringCodec();
  const open = () => connect({ servers: url, reconnect: false });

  await check('NATS: messages arrive in order at two subscribers', async () => {
    const [publisher, ...subscribers] = await Promise.all([open(), open(), open()]);
    const all = subscribers.map((connection) => connection.subscribe('numbers', { max: 1000 }));
    await Promise.all(subscribers.map((connection) => connection.flush()));
    for (let i = 0; i < 1000; i += 1) publisher.publish('numbers', text.encode(String(i)));
    for (const subscription of all) {
      let next = 0;
      for await (const message of subscription) assert.equal(text.decode(message.data), String(next++));
      assert.equal(next, 1000);
    }
    await Promise.all([publisher, ...subscribers].map((connection) => connection.close()));
  });
  await check('NATS: a request is answered', async () => {
    const [asking, answering] = await Promise.all([open(), open()]);
    answering.subscribe('echo', { callback: (_, message) => message.respond(message.data) });
    await answering.flush();
    const answer = await asking.request('echo', text.encode('Grüße'), { timeout: 5000 });
    assert.equal(text.decode(answer.data), 'Grüße');
    await Promise.all([asking.close(), answering.close()]);
  });
  await check('NATS: payloads of the server\'s max_payload pass both ways', async () => {
    const connection = await open();
    const size = connection.info.max_payload;
    assert.equal(size, 1024 * 1024);
    const subscription = connection.subscribe('large', { max: 8 });
    for (let i = 0; i < 8; i += 1) connection.publish('large', new Uint8Array(size).fill(i));
    let next = 0;
    for await (const { data } of subscription) {
      assert.deepEqual([data.length, data.every((byte) => byte === next)], [size, true]);
      next += 1;
    }
    await connection.close();
  });
  await check('NATS: a connection drains and ends without an error', async () => {
    const connection = await open();
    const closed = connection.closed();
    await connection.drain();
    assert.equal(await closed, undefined);
  });
  process.exit(0);
}

main().catch((error) => { console.log(`not ok NATS runs to completion: ${error.message}`); process.exit(1); });
