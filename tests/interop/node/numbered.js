// An echo server made of npm `ws` on a fixed port, which names itself in its 101: numbered.js PORT NAME.
'use strict';
const { WebSocketServer } = require('ws');

const [port, name] = process.argv.slice(2);
const server = new WebSocketServer({ host: '127.0.0.1', port: Number(port), perMessageDeflate: false });
server.on('headers', (headers) => headers.push(`X-Server: ${name}`));
server.on('connection', (socket) => {
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  socket.on('error', () => {});
});
