// Tests a socket.io server behind the proxy with the socket.io client; WebSocket transport only.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { Server } = require('socket.io');
const { io } = require('socket.io-client');
const { check, facts, listen } = require('./checks');

const server = http.createServer();
const backend = new Server(server, { transports: ['websocket'], pingInterval: 300, pingTimeout: 2000 });
backend.on('connection', (socket) => {
  socket.on('echo', (...rest) => rest.pop()(...rest));
  socket.on('join', (room, done) => { socket.join(room); done(); });
  socket.on('say', (room, text) => backend.to(room).emit('said', text));
  socket.on('leave me', () => socket.disconnect(true));
});

async function main() {
  const { base, ca, token } = await facts({ port: await listen(server) });
  const connect = (options = {}) => io(base, {
    transports: ['websocket'], ca, forceNew: true, reconnection: false, timeout: 10_000,
    extraHeaders: { Authorization: `Bearer ${token}` }, ...options,
  });
  const event = (socket, name) => new Promise((resolve, reject) => {
    socket.once(name, resolve);
    if (name !== 'connect_error') socket.once('connect_error', reject);
  });

  await check('socket.io: an event with text and binary parts is acknowledged', async () => {
    const socket = connect();
    await event(socket, 'connect');
    const [text, data] = await new Promise((resolve) => {
      socket.emit('echo', 'Grüße', Buffer.from([0, 1, 255]), (...rest) => resolve(rest));
    });
    assert.equal(text, 'Grüße');
    assert.deepEqual(Buffer.from(data), Buffer.from([0, 1, 255]));
    socket.close();
  });
  await check('socket.io: both members of a room receive its messages', async () => {
    const both = [connect(), connect()];
    await Promise.all(both.map((socket) => event(socket, 'connect')));
    await Promise.all(both.map((socket) => new Promise((done) => socket.emit('join', 'lobby', done))));
    const said = both.map((socket) => event(socket, 'said'));
    both[0].emit('say', 'lobby', 'hello');
    assert.deepEqual(await Promise.all(said), ['hello', 'hello']);
    both.forEach((socket) => socket.close());
  });
  await check('socket.io: the heartbeat of the library keeps a session alive beyond its timeout', async () => {
    const socket = connect();
    await event(socket, 'connect');
    await new Promise((done) => { setTimeout(done, 3000); });
    assert.ok(socket.connected);
    socket.close();
  });
  await check('socket.io: the server disconnects a client', async () => {
    const socket = connect();
    await event(socket, 'connect');
    socket.emit('leave me');
    assert.equal(await event(socket, 'disconnect'), 'io server disconnect');
  });
  await check('socket.io: without a token no session is opened', async () => {
    const error = await event(connect({ extraHeaders: {} }), 'connect_error');
    assert.match(error.description?.message ?? error.message, /401/);
  });
  process.exit(0);
}

main().catch((error) => { console.log(`not ok socket.io runs to completion: ${error.message}`); process.exit(1); });
