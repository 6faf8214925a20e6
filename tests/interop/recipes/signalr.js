// Tests Microsoft's SignalR client behind the recipe, by each of its transports. The server is not ASP.NET Core, which the
// registries of the tests do not have: it is a small one that speaks the protocol "json" of SignalR.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { randomUUID } = require('crypto');
const { HttpTransportType, HubConnectionBuilder, LogLevel } = require('@microsoft/signalr');
const { WebSocketServer } = require('ws');
const { check, facts, listen } = require('../node/checks');

const END = '\x1e';
const TRANSPORTS = ['WebSockets', 'ServerSentEvents', 'LongPolling'];
const POLL_MS = 5000;

/** Connections by token: what the client sends goes to `receive`, and `send` takes what it gets. */
const connections = new Map();

class Connection {
  constructor() { this.waiting = []; this.send = (text) => this.waiting.push(text); }

  receive(text) {
    for (const one of text.split(END).filter(Boolean)) {
      const message = JSON.parse(one);
      if (message.protocol) this.send(`{}${END}`);
      if (message.type === 1) {
        this.send(JSON.stringify({ type: 1, target: 'said', arguments: message.arguments }) + END);
        this.send(JSON.stringify({ type: 3, invocationId: message.invocationId, result: message.arguments[0] }) + END);
      }
    }
  }

  take(send) { this.send = send; this.waiting.splice(0).forEach(send); }
}

function negotiate(response) {
  const [connectionId, connectionToken] = [randomUUID(), randomUUID()];
  connections.set(connectionToken, new Connection());
  const availableTransports = TRANSPORTS.map((transport) => ({ transport, transferFormats: ['Text'] }));
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify({ connectionId, connectionToken, negotiateVersion: 1, availableTransports }));
}

/** Answers a poll with the messages that wait, or with the next one. The first poll is answered at once. */
function poll(connection, response) {
  response.setHeader('Content-Type', 'text/plain');
  if (!connection.polled) { connection.polled = true; response.end(); return; }
  let timer;
  const keep = (text) => connection.waiting.push(text);
  const answer = () => {
    clearTimeout(timer);
    connection.send = keep;
    response.end(connection.waiting.splice(0).join(''));
  };
  if (connection.waiting.length) { answer(); return; }
  timer = setTimeout(answer, POLL_MS);
  connection.send = (text) => { keep(text); connection.send = keep; setImmediate(answer); };
}

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://localhost');
  if (request.method === 'POST' && url.pathname === '/hub/negotiate') return negotiate(response);
  const connection = connections.get(url.searchParams.get('id'));
  if (!connection) { response.statusCode = 404; return response.end(); }
  if (request.method === 'POST') {
    let text = '';
    for await (const part of request) text += part;
    connection.receive(text);
    return response.end();
  }
  if (request.method === 'DELETE') { response.statusCode = 202; return response.end(); }
  if (request.headers.accept !== 'text/event-stream') return poll(connection, response);
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' });
  response.write(':\r\n\r\n');
  return connection.take((text) => response.write(`data: ${text}\r\n\r\n`));
});
new WebSocketServer({ server, path: '/hub' }).on('connection', (socket, request) => {
  const connection = connections.get(new URL(request.url, 'http://localhost').searchParams.get('id'));
  socket.on('message', (data) => connection.receive(String(data)));
  connection.take((text) => socket.send(text));
});

async function main() {
  const { base } = await facts({ port: await listen(server) });
  for (const name of [undefined, ...TRANSPORTS]) {
    await check(`SignalR's client: ${name ?? 'the default transport'}`, async () => {
      const hub = new HubConnectionBuilder().withUrl(`${base}/hub`, name ? { transport: HttpTransportType[name] } : {})
        .configureLogging(LogLevel.None).build();
      const heard = [];
      hub.on('said', (text) => heard.push(text));
      await hub.start();
      for (let i = 0; i < 10; i += 1) assert.equal(await hub.invoke('Echo', `Grüße ${i}`), `Grüße ${i}`);
      assert.equal(heard.length, 10);
      const used = hub.connection.transport.constructor.name;
      assert.equal(used.replace('Transport', '').replace('WebSocket', 'WebSockets'), name ?? 'WebSockets');
      await hub.stop();
    });
  }
  process.exit(0);
}

main().catch((error) => { console.log(`not ok SignalR runs to completion: ${error.message}`); process.exit(1); });
