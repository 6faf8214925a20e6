// Tests npm `ws` as client and as backend, through the proxy.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { once } = require('events');
const { WebSocket, WebSocketServer } = require('ws');
const { check, facts, listen } = require('./checks');

const BIG = Buffer.alloc(3 * 2 ** 20, 'tollgate');
const ends = new Map(); // path -> code and reason of the session's close at the backend

const server = http.createServer();
const backend = new WebSocketServer({
  server,
  perMessageDeflate: { threshold: 0 },
  maxPayload: 2 ** 24,
  handleProtocols: (offered) => (offered.has('chat.v1') ? 'chat.v1' : false),
});
backend.on('connection', (socket, request) => {
  const end = new Promise((resolve) => {
    socket.on('close', (code, reason) => resolve([code, reason.toString()]));
  });
  ends.set(request.url, end);
  socket.on('error', () => {});
  socket.on('message', (data, isBinary) => {
    const text = isBinary ? '' : data.toString();
    if (text === 'tell') return socket.send(JSON.stringify({ url: request.url, headers: request.headers }));
    if (text === 'ping') return socket.once('pong', (echo) => socket.send(`pong ${echo}`)).ping('and you');
    if (text === 'fragments') return ['one ', 'two ', 'three'].forEach((part, i) => socket.send(part, { fin: i === 2 }));
    if (text === 'terminate') return socket.terminate();
    if (text.startsWith('close ')) return socket.close(Number(text.slice(6, 10)), text.slice(11));
    socket.send(data, { binary: isBinary });
  });
});

async function main() {
  const { base, ca, token, short, origin } = await facts({ port: await listen(server) });
  const bearer = { Authorization: `Bearer ${token}` };

  function open(path, protocols = [], options = {}) {
    return new WebSocket(base + path, protocols, { ca, maxPayload: 2 ** 24, handshakeTimeout: 10_000, ...options });
  }
  async function opened(...rest) {
    const socket = open(...rest);
    await once(socket, 'open');
    return socket;
  }
  async function ask(socket, data) {
    socket.send(data);
    const [answer, isBinary] = await once(socket, 'message');
    return isBinary ? answer : answer.toString();
  }
  async function closed(socket) {
    const [code, reason] = await once(socket, 'close');
    return [code, reason.toString()];
  }
  function refused(...rest) {
    return new Promise((resolve, reject) => {
      const socket = open(...rest);
      socket.on('open', () => { socket.terminate(); reject(new Error('the upgrade was accepted')); });
      socket.on('unexpected-response', (request, response) => { response.resume(); request.destroy(); resolve(response); });
      socket.on('error', reject);
    });
  }

  await check('ws: a session ends with 1008 when its token expires', async () => {
    const socket = await opened('/users/echo', ['bearer', short]);
    assert.equal((await closed(socket))[0], 1008);
  });
  await check('ws: text, binary and empty messages are echoed unchanged', async () => {
    const socket = await opened('/ws/echo');
    for (const text of ['Grüße, 世界 🎉', '', 'x'.repeat(125), 'x'.repeat(126), 'x'.repeat(65536)]) {
      assert.equal(await ask(socket, text), text);
    }
    assert.deepEqual(await ask(socket, Buffer.from([0, 255, 0])), Buffer.from([0, 255, 0]));
    socket.close();
  });
  await check('ws: 3 MiB are echoed unchanged, with and without compression', async () => {
    for (const perMessageDeflate of [true, false]) {
      const socket = await opened('/ws/echo', [], { perMessageDeflate });
      assert.ok((await ask(socket, BIG)).equals(BIG));
      socket.close();
    }
  });
  await check('ws: permessage-deflate is negotiated end to end', async () => {
    const socket = await opened('/ws/echo', [], { perMessageDeflate: { serverNoContextTakeover: true, threshold: 0 } });
    assert.match(socket.extensions, /permessage-deflate/);
    for (const text of ['again and again', 'again and again']) assert.equal(await ask(socket, text), text);
    socket.close();
  });
  await check('ws: a ping between fragments is answered, and the message is echoed whole', async () => {
    const socket = await opened('/ws/echo', [], { perMessageDeflate: false });
    socket.send('one ', { fin: false });
    socket.ping('between');
    assert.equal((await once(socket, 'pong')).toString(), 'between');
    socket.send('two ', { fin: false });
    socket.send('three', { fin: true });
    assert.equal((await once(socket, 'message'))[0].toString(), 'one two three');
    assert.equal(await ask(socket, 'fragments'), 'one two three');
    socket.close();
  });
  await check('ws: a ping of the backend is answered with its payload', async () => {
    const socket = await opened('/ws/echo');
    assert.equal(await ask(socket, 'ping'), 'pong and you');
    socket.close();
  });
  await check('ws: close code and reason of the client reach the backend', async () => {
    const socket = await opened('/ws/echo?end=client');
    socket.close(4001, 'mein Grund: Ende');
    assert.deepEqual(await closed(socket), [4001, 'mein Grund: Ende']);
    assert.deepEqual(await ends.get('/ws/echo?end=client'), [4001, 'mein Grund: Ende']);
  });
  await check('ws: close code and reason of the backend reach the client', async () => {
    const socket = await opened('/ws/echo');
    socket.send('close 4002 its own reasons');
    assert.deepEqual(await closed(socket), [4002, 'its own reasons']);
  });
  await check('ws: a close without a code is forwarded without a code', async () => {
    const socket = await opened('/ws/echo?end=empty');
    socket.close();
    assert.equal((await closed(socket))[0], 1005);
    assert.deepEqual(await ends.get('/ws/echo?end=empty'), [1005, '']);
  });
  await check('ws: a backend that disconnects without a close ends the session with 1014', async () => {
    const socket = await opened('/ws/echo');
    socket.send('terminate');
    assert.equal((await closed(socket))[0], 1014);
  });
  await check('ws: a client that disconnects without a close ends the session at the backend', async () => {
    const socket = await opened('/ws/echo?end=gone');
    assert.equal(await ask(socket, 'x'), 'x');
    socket.terminate();
    await ends.get('/ws/echo?end=gone');
  });
  await check('ws: the subprotocol that the backend picks reaches the client', async () => {
    const socket = await opened('/ws/echo', ['chat.v2', 'chat.v1']);
    assert.equal(socket.protocol, 'chat.v1');
    socket.close();
  });

  const carriers = {
    header: ['/users/echo?a=1', [], { headers: bearer }],
    cookie: ['/users/echo?a=1', [], { headers: { Cookie: `theme=dark; session=${token}` } }],
    query: [`/users/echo?a=1&token=${token}`, [], {}],
    subprotocol: ['/users/echo?a=1', ['bearer', token], {}],
  };
  for (const [carrier, where] of Object.entries(carriers)) {
    await check(`ws: a token in the ${carrier} is accepted, and does not reach the backend`, async () => {
      const socket = await opened(...where);
      const seen = await ask(socket, 'tell');
      assert.ok(!seen.includes(token), seen);
      assert.equal(JSON.parse(seen).url, '/users/echo?a=1');
      assert.equal(socket.protocol, carrier === 'subprotocol' ? 'bearer' : '');
      socket.close();
    });
  }
  const refusals = {
    'no token': [401, '/users/echo', [], {}],
    'a malformed token': [401, '/users/echo', ['bearer', 'a.b.c'], {}],
    'another origin': [403, '/users/echo', [], { headers: bearer, origin: 'https://evil.example.test' }],
    'an unknown path': [404, '/nowhere', [], {}],
    'WebSocket version 8': [426, '/users/echo', [], { headers: bearer, protocolVersion: 8 }],
  };
  for (const [what, [status, ...where]] of Object.entries(refusals)) {
    await check(`ws: ${what} is rejected with ${status}`, async () => {
      assert.equal((await refused(...where)).statusCode, status);
    });
  }
  await check('ws: an allowed origin is accepted', async () => (await opened('/users/echo', [], { headers: bearer, origin })).close());

  await check('ws: a message over the size limit ends the session with 1009', async () => {
    const socket = await opened('/small/echo', [], { perMessageDeflate: false });
    socket.send('x'.repeat(1025));
    assert.equal((await closed(socket))[0], 1009);
  });
  await check('ws: fragments that exceed the size limit together end the session with 1009', async () => {
    const socket = await opened('/small/echo', [], { perMessageDeflate: false });
    for (let i = 0; i < 5; i += 1) socket.send('x'.repeat(250), { fin: false });
    assert.equal((await closed(socket))[0], 1009);
  });
  await check('ws: a client that exceeds the message rate gets 1008', async () => {
    const socket = await opened('/rate/echo');
    for (let i = 0; i < 30; i += 1) socket.send('x');
    assert.equal((await closed(socket))[0], 1008);
  });
  process.exit(0);
}

main().catch((error) => { console.log(`not ok ws runs to completion: ${error.message}`); process.exit(1); });
