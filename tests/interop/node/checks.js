// Shared parts of the programs in this directory. Each program starts its servers, prints `{"port": N}`, reads one line of
// JSON from the suite (`base`, `ca`, tokens), and prints one line per check: `ok NAME` or `not ok NAME: why`.
'use strict';
const fs = require('fs');
const readline = require('readline');

const CHECK_MS = 20_000;

/** Sends the ports of the servers to the suite, and resolves with its answer. */
async function facts(own) {
  console.log(JSON.stringify(own));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const told = JSON.parse(line);
    if (told.ca) told.ca = fs.readFileSync(told.ca);
    return told;
  }
  throw new Error('the suite sent no facts');
}

/** Runs a check, which fails if it throws or takes longer than `limit` ms. */
async function check(name, body, limit = CHECK_MS) {
  const start = Date.now();
  let timer;
  try {
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`not finished after ${limit} ms`)), limit);
    });
    await Promise.race([body(), late]);
    console.log(`ok ${name} (${((Date.now() - start) / 1000).toFixed(2)} s)`);
  } catch (error) {
    console.log(`not ok ${name}: ${String(error.message ?? error).split('\n').join(' | ')}`);
  } finally {
    clearTimeout(timer);
  }
}

/** Listens on a free loopback port, and resolves with it. */
function listen(server) {
  return new Promise((resolve, reject) => {
    server.on('error', reject);
    server.listen(0, '127.0.0.1', () => resolve(server.address().port));
  });
}

module.exports = { check, facts, listen };
