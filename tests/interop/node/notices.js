// Tests messages of an operator with npm `ws` as client and as backend, with permessage-deflate.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { once } = require('events');
const { WebSocket, WebSocketServer } = require('ws');
const { check, facts, listen } = require('./checks');

const CLIENTS = 30;
const NOTICES = 20;

const server = http.createServer();
const backend = new WebSocketServer({ server, perMessageDeflate: { threshold: 0 } });
backend.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
});

function post(socketPath, path, body) {
  return new Promise((resolve, reject) => {
    const headers = { 'Content-Type': 'application/json' };
    const request = http.request({ socketPath, path, method: 'POST', headers }, (answer) => {
      let text = '';
      answer.on('data', (part) => { text += part; });
      answer.on('end', () => resolve([answer.statusCode, JSON.parse(text)]));
    });
    request.on('error', reject);
    request.end(JSON.stringify(body));
  });
}

async function main() {
  const { base, ca, admin } = await facts({ port: await listen(server) });
  await check('ws: messages of an operator arrive once and in order between compressed messages', async () => {
    const got = [];
    const sockets = [];
    for (let number = 0; number < CLIENTS; number += 1) {
      const socket = new WebSocket(`${base}/notices`, { ca, handshakeTimeout: 10_000 });
      const notices = [];
      let sent = 0;
      const next = () => { sent += 1; socket.send(`own ${sent} ${'x'.repeat((sent * 977) % 20_000)}`); };
      socket.on('message', (data) => {
        const text = data.toString();
        if (text.startsWith('notice')) return notices.push(text);
        assert(text.startsWith(`own ${sent} `), 'an echo is missing');
        return next();
      });
      got.push(notices);
      sockets.push(socket);
      await once(socket, 'open');
      assert(socket.extensions.includes('permessage-deflate'));
      next();
    }
    const expected = Array.from({ length: NOTICES }, (_, number) => `notice ${number}`);
    for (const text of expected) {
      assert.deepEqual(await post(admin, '/v1/sessions/send', { filter: { route: 'notices' }, text }), [202, { selected: CLIENTS }]);
    }
    const until = Date.now() + 10_000;
    while (got.some((notices) => notices.length < NOTICES) && Date.now() < until) await new Promise(setImmediate);
    got.forEach((notices) => assert.deepEqual(notices, expected));
    sockets.forEach((socket) => assert.equal(socket.readyState, WebSocket.OPEN));
    await Promise.all(sockets.map((socket) => { socket.close(1000); return once(socket, 'close'); }));
  });
  process.exit(0);
}

main().catch((error) => { console.log(`not ok notices runs to completion: ${error.message}`); process.exit(1); });
