// Tests SockJS behind the recipe: sockjs-client with its defaults, and with each transport that works outside a browser.
'use strict';
const assert = require('assert/strict');
const fs = require('fs');
const http = require('http');
const sockjs = require('sockjs');
const SockJS = require('sockjs-client');
const { WebSocket } = require('ws');
const { check, facts, listen } = require('../node/checks');
const { launch } = require('../node/pages');

const STREAMED = 200_000; // bytes; a streaming response ends after 128 KiB

const backend = sockjs.createServer({ log: () => {} });
backend.on('connection', (connection) => connection.on('data', (text) => connection.write(text)));
// A page with the client, which a build of sockjs-client has in one file.
const SCRIPT = require.resolve('sockjs-client/dist/sockjs.min.js');
const server = http.createServer((request, response) => {
  if (request.url === '/sockjs.js') { fs.createReadStream(SCRIPT).pipe(response); return; }
  response.setHeader('Content-Type', 'text/html');
  response.end('<!DOCTYPE html><title>the page</title><script src="/sockjs.js"></script>');
});
backend.installHandlers(server, { prefix: '/echo' });
// A second process, as far as SockJS is concerned: it does not know the sessions of the first one.
const others = sockjs.createServer({ log: () => {} });
others.on('connection', (connection) => connection.on('data', () => connection.write('other')));
const otherServer = http.createServer();
others.installHandlers(otherServer, { prefix: '/echo' });

async function main() {
  const { base, hashed, chromium, spki } = await facts({ port: await listen(server), other: await listen(otherServer) });

  /** Opens a connection, and resolves with it and a function that sends a message and resolves with the answer. */
  function open(transports, where = base) {
    const socket = new SockJS(`${where}/echo`, null, transports && { transports });
    const waiting = [];
    socket.onmessage = ({ data }) => waiting.shift()(data);
    const echo = (text) => new Promise((resolve) => { waiting.push(resolve); socket.send(text); });
    return new Promise((resolve, reject) => {
      socket.onopen = () => resolve([socket, echo]);
      socket.onclose = ({ code, reason }) => reject(new Error(`closed with ${code} ${reason}`));
    });
  }

  await check('SockJS: with its defaults the client uses a WebSocket', async () => {
    const [socket, echo] = await open();
    assert.equal(socket.transport, 'websocket');
    assert.equal(await echo('Grüße'), 'Grüße');
    const closed = new Promise((resolve) => { socket.onclose = resolve; });
    socket.close();
    assert.equal((await closed).code, 1000);
  });
  for (const transport of ['websocket', 'xhr-streaming', 'xhr-polling']) {
    await check(`SockJS: ${transport} carries messages both ways, beyond the end of a streaming response`, async () => {
      const [socket, echo] = await open([transport]);
      assert.equal(socket.transport, transport);
      for (let i = 0; i < 20; i += 1) assert.equal(await echo(`message ${i}`), `message ${i}`);
      const part = 'x'.repeat(20_000);
      for (let sent = 0; sent < STREAMED; sent += part.length) assert.equal(await echo(part) === part, true);
      socket.close();
    });
  }
  await check('SockJS: 100 messages at once arrive in order over xhr-streaming', async () => {
    const [socket, echo] = await open(['xhr-streaming']);
    const sent = Array.from({ length: 100 }, (_, i) => `message ${i}`);
    assert.deepEqual(await Promise.all(sent.map(echo)), sent);
    socket.close();
  });
  await check('SockJS: eventsource streams its first event at once', async () => {
    const answer = await fetch(`${base}/echo/000/${Date.now()}/eventsource`);
    assert.match(answer.headers.get('content-type'), /text\/event-stream/);
    let text = '';
    for await (const part of answer.body) {
      text += Buffer.from(part).toString();
      if (text.includes('data: o')) break; // the response goes on
    }
    assert.match(text, /data: o\r\n/);
  });
  if (chromium) {
    await check('SockJS: in Chromium each transport carries messages', async () => {
      const browser = await launch(chromium, spki);
      const page = await browser.newPage();
      await page.goto(`${base}/`);
      for (const transport of ['websocket', 'xhr-streaming', 'eventsource', 'xhr-polling']) {
        const got = await page.evaluate((name) => new Promise((resolve) => {
          const answers = [];
          const socket = new SockJS('/echo', null, { transports: [name] });
          socket.onopen = () => socket.send('message 0');
          socket.onmessage = ({ data }) => {
            if (answers.push(data) < 20) socket.send(`message ${answers.length}`); else resolve([socket.transport, answers]);
          };
          socket.onclose = ({ code, reason }) => resolve([code, reason]);
        }), transport);
        assert.deepEqual(got, [transport, Array.from({ length: 20 }, (_, i) => `message ${i}`)]);
      }
      await browser.close();
    });
  }
  if (hashed) {
    await check('SockJS: with two servers and hash:path:session each session stays on its server', async () => {
      const used = new Set();
      for (let i = 0; i < 10; i += 1) {
        const [socket, echo] = await open(['xhr-polling'], hashed);
        const first = await echo('first');
        for (let j = 0; j < 5; j += 1) assert.equal(await echo('first'), first);
        used.add(first);
        socket.close();
      }
      assert.deepEqual([...used].sort(), ['first', 'other']);
    });
  }
  await check('SockJS: greeting, /info and iframe are served, and the raw WebSocket is open', async () => {
    assert.equal(await (await fetch(`${base}/echo/`)).text(), 'Welcome to SockJS!\n');
    const info = await (await fetch(`${base}/echo/info`)).json();
    assert.equal(info.websocket, true);
    assert.equal((await fetch(`${base}/echo/iframe.html`)).status, 200);
    const raw = new WebSocket(`${base.replace('http', 'ws')}/echo/websocket`);
    const back = await new Promise((resolve, reject) => {
      raw.on('open', () => raw.send('raw'));
      raw.on('message', (data) => resolve(String(data)));
      raw.on('error', reject);
    });
    assert.equal(back, 'raw');
    raw.close();
  });
  process.exit(0);
}

main().catch((error) => { console.log(`not ok SockJS runs to completion: ${error.message}`); process.exit(1); });
