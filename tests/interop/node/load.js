// Opens many sessions, and lets each of them echo at once, again and again. It prints `{}` and is told
// {base, ca, sessions, rounds, bytes, parallel}; then it prints `step NAME` and waits for a line before it goes on.
'use strict';
const assert = require('assert/strict');
const fs = require('fs');
const readline = require('readline');
const { WebSocket } = require('ws');

const WAIT_MS = 60_000;
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** The suite looks at the proxy between two steps. */
async function step(name) {
  console.log(`step ${name}`);
  await lines.next();
}

async function main() {
  console.log('{}');
  const { base, ca, sessions, rounds, bytes, parallel } = JSON.parse((await lines.next()).value);
  const trust = fs.readFileSync(ca);
  setTimeout(() => { throw new Error(`no end after ${WAIT_MS} ms`); }, WAIT_MS);
  const open = [];
  let ended = 0;

  function connect() {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(`${base}/echo`, { ca: trust, perMessageDeflate: false, handshakeTimeout: 20_000 });
      socket.once('open', () => { open.push(socket); resolve(); });
      socket.once('error', reject);
      socket.once('close', () => { ended += 1; });
    });
  }
  let wanted = sessions;
  await Promise.all(Array.from({ length: parallel }, async () => {
    while (wanted > 0) { wanted -= 1; await connect(); }
  }));
  assert.equal(open.length, sessions);
  await step('idle');

  for (let round = 0; round < rounds; round += 1) {
    await Promise.all(open.map((socket, i) => new Promise((resolve, reject) => {
      const message = Buffer.alloc(bytes, `${round}/${i} `);
      socket.once('message', (back) => (message.equals(back) ? resolve() : reject(new Error(`${round}/${i} came back wrong`))));
      socket.send(message);
    })));
  }
  assert.equal(ended, 0);
  await step('busy');

  await Promise.all(open.map((socket) => new Promise((resolve, reject) => {
    socket.once('close', (code) => (code === 1000 ? resolve() : reject(new Error(`closed with ${code}`))));
    socket.close(1000);
  })));
  await step('closed');
  process.exit(0);
}

main().catch((error) => { console.log(`failed ${error.message}`); process.exit(1); });
