// Clients made of npm `ws` behind the fault proxy of the suite, which does to the network what a line says: `hole`, `heal`, `reset`.
'use strict';
const assert = require('assert/strict');
const { once } = require('events');
const { setTimeout: pause } = require('timers/promises');
const { WebSocket } = require('ws');
const { check, facts } = require('./checks');

const COUNT = 100;
const PAUSE_MS = 20;

async function main() {
  const { base, ca, pingMs, lateMs } = await facts({});

  async function opened(path) {
    const socket = new WebSocket(base + path, { ca, handshakeTimeout: 15_000, perMessageDeflate: false });
    await once(socket, 'open');
    return socket;
  }
  /** Sends numbered messages, and resolves when as many have arrived, which have to be the same. */
  async function talk(socket, count) {
    const numbers = [];
    const all = new Promise((resolve) => {
      socket.on('message', (data) => numbers.push(Number(data)) === count && resolve());
    });
    for (let number = 0; number < count; number += 1) {
      socket.send(`${number}`);
      await pause(PAUSE_MS);
    }
    await all;
    assert.deepEqual(numbers, [...Array(count).keys()]);
  }
  /** Ends a connection on which no ping arrives for some time, as the documentation of `ws` recommends. */
  function watch(socket) {
    let timer;
    const beat = () => {
      clearTimeout(timer);
      timer = setTimeout(() => socket.terminate(), pingMs + lateMs);
    };
    socket.on('ping', beat);
    socket.on('close', () => clearTimeout(timer));
    beat();
  }

  await check(`npm ws: ${COUNT} numbered messages over a slow link with jitter return once and in order`, async () => {
    const socket = await opened('/plain/npm');
    await talk(socket, COUNT);
    socket.close(1000);
    assert.equal((await once(socket, 'close'))[0], 1000);
  });
  await check('npm ws: a client that ends its connection if no ping arrives notices a black hole, and connects again', async () => {
    const socket = await opened('/beat/npm');
    watch(socket);
    await once(socket, 'ping');
    const begun = Date.now();
    console.log('hole');
    assert.equal((await once(socket, 'close'))[0], 1006);
    console.log(`note npm ws: a client noticed a black hole after ${((Date.now() - begun) / 1000).toFixed(1)} s`);
    console.log('heal');
    const next = await opened('/beat/npm-next');
    await talk(next, 3);
    next.close();
  });
  await check('npm ws: a client whose connection is reset gets 1006, and connects again', async () => {
    const socket = await opened('/plain/npm-reset');
    await talk(socket, 3);
    console.log('reset');
    const errors = [];
    socket.on('error', (error) => errors.push(error.code));
    assert.equal((await once(socket, 'close'))[0], 1006);
    await talk(await opened('/plain/npm-last'), 3);
  });
  process.exit(0);
}

main().catch((error) => { console.log(`not ok npm ws runs to completion: ${error.message}`); process.exit(1); });
