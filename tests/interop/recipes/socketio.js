// Tests socket.io behind the recipe, with the default settings of server and client: polling first, then the upgrade.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { Server } = require('socket.io');
const { io } = require('socket.io-client');
const { check, facts, listen } = require('../node/checks');
const { launch } = require('../node/pages');

const PING_MS = 25_000; // the default pingInterval
const LARGE = 900_000; // bytes; the default maxHttpBufferSize is 1,000,000

// The page of the service, which the client script of the service connects.
const PAGE = `<!DOCTYPE html><title>the page</title><script src="/socket.io/socket.io.js"></script><script>
  const socket = io(), transports = [];
  socket.io.engine.once('open', () => transports.push(socket.io.engine.transport.name));
  socket.io.engine.once('upgrade', (transport) => transports.push(transport.name));
</script>`;

const server = http.createServer((request, response) => {
  response.setHeader('Content-Type', 'text/html');
  response.end(PAGE);
});
const backend = new Server(server);
// A second process, as far as socket.io is concerned: it does not know the clients of the first one.
const otherServer = http.createServer();
const others = new Server(otherServer);
others.on('connection', (socket) => socket.on('which', (done) => done('other')));
backend.on('connection', (socket) => {
  socket.on('which', (done) => done('first'));
  socket.on('echo', (...rest) => rest.pop()(...rest));
  socket.on('join', (room, done) => { socket.join(room); done(); });
  socket.on('say', (room, text) => backend.to(room).emit('said', text));
  socket.on('leave me', () => socket.disconnect(true));
  socket.on('who', (done) => done(socket.handshake.headers['x-forwarded-for'], socket.handshake.headers['x-forwarded-proto']));
});

const event = (socket, name) => new Promise((resolve, reject) => {
  socket.once(name, resolve);
  if (name === 'connect_error') return;
  socket.once('connect_error', (error) => reject(new Error(`${error.message}: ${error.description ?? ''}`)));
});
const ask = (socket, ...rest) => new Promise((resolve) => { socket.emit(...rest, (...answer) => resolve(answer)); });

async function main() {
  const { base, proxied, sticky, chromium, spki } = await facts({ port: await listen(server), other: await listen(otherServer) });
  const open = (options = {}, where = base) => io(where, { forceNew: true, reconnection: false, ...options });
  const begun = Date.now();
  const quiet = open({ transports: ['polling'] });
  const reasons = [];
  quiet.on('disconnect', (reason) => reasons.push(reason));
  const ping = new Promise((resolve) => { quiet.io.on('ping', () => resolve(Date.now() - begun)); });

  await check('socket.io: the client polls first and then upgrades to a WebSocket', async () => {
    const socket = open();
    const upgraded = new Promise((resolve) => { socket.io.engine.once('upgrade', (transport) => resolve(transport.name)); });
    const first = new Promise((resolve) => { socket.io.engine.once('open', () => resolve(socket.io.engine.transport.name)); });
    await event(socket, 'connect');
    assert.deepEqual(await ask(socket, 'echo', 'Grüße'), ['Grüße']);
    assert.deepEqual([await first, await upgraded], ['polling', 'websocket']);
    const [text, data] = await ask(socket, 'echo', 'Grüße', Buffer.from([0, 1, 255]));
    assert.deepEqual([text, Buffer.from(data)], ['Grüße', Buffer.from([0, 1, 255])]);
    assert.equal(socket.io.engine.transport.name, 'websocket');
    socket.close();
  });
  for (const transport of ['polling', 'websocket']) {
    await check(`socket.io: ${transport} alone carries small and large messages`, async () => {
      const socket = open({ transports: [transport] });
      await event(socket, 'connect');
      for (let i = 0; i < 20; i += 1) assert.deepEqual(await ask(socket, 'echo', i), [i]);
      const large = 'x'.repeat(LARGE);
      const [back] = await ask(socket, 'echo', large);
      assert.equal(back === large, true);
      const [binary] = await ask(socket, 'echo', Buffer.alloc(LARGE / 2, 7));
      assert.equal(Buffer.compare(Buffer.from(binary), Buffer.alloc(LARGE / 2, 7)), 0);
      assert.equal(socket.io.engine.transport.name, transport);
      socket.close();
    });
  }
  await check('socket.io: a client that polls and one with a WebSocket are in one room', async () => {
    const both = [open({ transports: ['polling'] }), open({ transports: ['websocket'] })];
    await Promise.all(both.map((socket) => event(socket, 'connect')));
    await Promise.all(both.map((socket) => ask(socket, 'join', 'lobby')));
    for (const speaker of both) {
      const said = both.map((socket) => event(socket, 'said'));
      speaker.emit('say', 'lobby', 'hello');
      assert.deepEqual(await Promise.all(said), ['hello', 'hello']);
    }
    both.forEach((socket) => socket.close());
  });
  await check('socket.io: the server disconnects a client that polls, and one with a WebSocket', async () => {
    for (const transport of ['polling', 'websocket']) {
      const socket = open({ transports: [transport] });
      await event(socket, 'connect');
      socket.emit('leave me');
      assert.equal(await event(socket, 'disconnect'), 'io server disconnect');
    }
  });
  if (proxied) {
    await check('socket.io: the service sees the address and the scheme of the client', async () => {
      for (const transport of ['polling', 'websocket']) {
        const socket = open({ transports: [transport] });
        await event(socket, 'connect');
        const [address, scheme] = await ask(socket, 'who');
        assert.deepEqual([address, scheme], ['127.0.0.1', 'https']);
        socket.close();
      }
    });
    await check('socket.io: with two servers and sticky_cookie each client stays on its server', async () => {
      const used = new Set();
      for (const transports of [['polling'], ['polling', 'websocket']]) {
        const all = Array.from({ length: 6 }, () => open({ transports, withCredentials: true }, sticky));
        await Promise.all(all.map((socket) => event(socket, 'connect')));
        for (const socket of all) {
          const [first] = await ask(socket, 'which');
          for (let i = 0; i < 10; i += 1) assert.deepEqual(await ask(socket, 'which'), [first]);
          used.add(first);
          socket.close();
        }
      }
      assert.deepEqual([...used].sort(), ['first', 'other']);
    });
    await check('socket.io: a page of another origin can neither post nor open a WebSocket', async () => {
      const headers = { Origin: 'https://evil.example' };
      const url = `${base}/socket.io/?EIO=4&transport=polling`;
      const { sid } = JSON.parse((await (await fetch(url, { headers })).text()).slice(1));
      const posted = await fetch(`${url}&sid=${sid}`, { method: 'POST', body: '40', headers });
      assert.equal(posted.status, 403);
      const error = await event(open({ transports: ['websocket'], extraHeaders: headers }), 'connect_error');
      assert.match(String(error.description?.message ?? error.message), /403/);
    });
  }
  await check('socket.io: the page and the client script are served', async () => {
    assert.equal(await (await fetch(`${base}/index.html`)).text(), PAGE);
    const script = await fetch(`${base}/socket.io/socket.io.js`);
    assert.deepEqual([script.status, /Socket\.IO/.test(await script.text())], [200, true]);
    const again = await fetch(`${base}/socket.io/socket.io.js`, { headers: { 'If-None-Match': script.headers.get('etag') } });
    assert.equal(again.status, 304);
  });
  if (chromium) {
    await check('socket.io: in Chromium the page polls and then upgrades, and sends an event', async () => {
      const browser = await launch(chromium, spki);
      const page = await browser.newPage();
      await page.goto(`${base}/`);
      await page.waitForFunction('transports.length === 2');
      assert.deepEqual(await page.evaluate('transports'), ['polling', 'websocket']);
      assert.equal(await page.evaluate('new Promise((done) => socket.emit("echo", "Grüße", done))'), 'Grüße');
      await browser.close();
    });
  }
  await check('socket.io: a poll without messages waits for the ping of the server', async () => {
    const after = await ping;
    assert.ok(after > PING_MS - 1000, `the ping came after ${after} ms`);
    assert.deepEqual(await ask(quiet, 'echo', 'still here'), ['still here']);
    assert.deepEqual(reasons, []);
    quiet.close();
  }, 2 * PING_MS);
  process.exit(0);
}

main().catch((error) => { console.log(`not ok socket.io runs to completion: ${error.message}`); process.exit(1); });
