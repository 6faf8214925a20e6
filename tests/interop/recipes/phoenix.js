// Tests Phoenix's client behind the recipe, by WebSocket and by long polling. The server is not Phoenix, which the registries
// of the tests do not have: it is a small one that speaks version 2 of its protocol.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { randomUUID } = require('crypto');
const { WebSocket, WebSocketServer } = require('ws');
const { LongPoll, Socket } = require('phoenix');
const { check, facts, listen } = require('../node/checks');

const WINDOW_MS = 10_000; // the default of Phoenix

/** Answers a message of the client with what the server sends for it. */
function answers([join, ref, topic, event, payload]) {
  const reply = [join, ref, topic, 'phx_reply', { status: 'ok', response: event === 'echo' ? payload : {} }];
  return event === 'say' ? [reply, [null, null, topic, 'said', payload]] : [reply];
}

const polls = new Map(); // by token: the messages that wait, and the poll that waits
const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://localhost');
  const json = (value) => { response.setHeader('Content-Type', 'application/json'); response.end(JSON.stringify(value)); };
  if (url.pathname !== '/socket/longpoll') { response.setHeader('Content-Type', 'text/html'); return response.end('the page'); }
  const token = url.searchParams.get('token');
  const session = polls.get(token);
  if (!session) {
    const fresh = randomUUID();
    polls.set(fresh, { messages: [], wake: undefined });
    return json({ status: 410, token: fresh, messages: [] });
  }
  if (request.method === 'POST') {
    let text = '';
    for await (const part of request) text += part;
    const sent = request.headers['content-type'] === 'application/x-ndjson' ? text.split('\n') : [text];
    sent.flatMap((one) => answers(JSON.parse(one))).forEach((one) => session.messages.push(JSON.stringify(one)));
    session.wake?.();
    return json({ status: 200 });
  }
  if (!session.messages.length) {
    await new Promise((resolve) => { session.wake = resolve; setTimeout(resolve, WINDOW_MS); });
  }
  const messages = session.messages.splice(0);
  return json({ status: messages.length ? 200 : 204, token, messages });
});
new WebSocketServer({ server, path: '/socket/websocket' }).on('connection', (socket) => {
  socket.on('message', (data) => answers(JSON.parse(String(data))).forEach((one) => socket.send(JSON.stringify(one))));
});

const pushed = (push) => new Promise((resolve, reject) => {
  push.receive('ok', resolve).receive('error', reject).receive('timeout', () => reject(new Error('no answer')));
});

async function main() {
  const { base } = await facts({ port: await listen(server) });
  for (const [name, transport] of [['WebSocket', WebSocket], ['LongPoll', LongPoll]]) {
    await check(`Phoenix's client: ${name}`, async () => {
      const socket = new Socket(`${base.replace('http', 'ws')}/socket`, { transport, heartbeatIntervalMs: 500 });
      const states = [];
      socket.onError((error) => states.push(String(error?.message ?? error)));
      socket.connect();
      const channel = socket.channel('room:lobby', {});
      await pushed(channel.join());
      for (let i = 0; i < 10; i += 1) {
        assert.deepEqual(await pushed(channel.push('echo', { text: `Grüße ${i}` })), { text: `Grüße ${i}` });
      }
      const said = new Promise((resolve) => { channel.on('said', resolve); });
      await pushed(channel.push('say', { text: 'hello' }));
      assert.deepEqual(await said, { text: 'hello' });
      await new Promise((resolve) => { setTimeout(resolve, 1500); }); // heartbeats
      assert.deepEqual([socket.isConnected(), channel.state, states], [true, 'joined', []]);
      await new Promise((resolve) => { socket.disconnect(resolve); });
    });
  }
  await check('Phoenix: a page is served beside them', async () => {
    assert.equal(await (await fetch(`${base}/rooms`)).text(), 'the page');
  });
  process.exit(0);
}

main().catch((error) => { console.log(`not ok Phoenix runs to completion: ${error.message}`); process.exit(1); });
