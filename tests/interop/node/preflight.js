// Tests requests of pages of another origin in Chromium, which sends a preflight without the token of the request.
// The pages have a server of their own, which is another origin by each of its names.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { check, facts, listen } = require('./checks');
const { launch, pagesWith } = require('./pages');

const [executablePath, spki, chain, key] = process.argv.slice(2);

const pages = pagesWith(chain, key);
const asked = [];
// A service that answers preflights itself, and knows its client by a header.
const upstream = http.createServer((request, response) => {
  asked.push(`${request.method} ${request.headers['x-user-id'] ?? '-'}`);
  response.setHeader('Access-Control-Allow-Origin', request.headers.origin ?? '*');
  if (request.method === 'OPTIONS') {
    response.setHeader('Access-Control-Allow-Methods', 'PUT');
    response.setHeader('Access-Control-Allow-Headers', 'authorization');
    response.writeHead(204).end();
  } else {
    response.end(`put by ${request.headers['x-user-id']}`);
  }
});

/** In the page: sends a request that needs a preflight, and returns its status and text, or the name of the error. */
const put = ([where, token]) => fetch(where, { method: 'PUT', headers: { authorization: `Bearer ${token}` } })
  .then(async (answer) => `${answer.status} ${await answer.text()}`, (error) => error.name);

async function main() {
  const browser = await launch(executablePath, spki);
  const { passing, strict, token } = await facts({ port: await listen(upstream), pages: await listen(pages) });
  const from = async (host, where, sent = token) => {
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.goto(`https://${host}:${pages.address().port}/`);
    asked.length = 0;
    const answer = await page.evaluate(put, [where, sent]);
    await context.close();
    return [answer, asked.join()];
  };
  await check('chromium: a page of a listed origin sends its token after a preflight without one', async () => {
    assert.deepEqual(await from('localhost', passing), ['200 put by ann', 'OPTIONS -,PUT ann']);
  });
  await check('chromium: after the preflight a request without a valid token is rejected', async () => {
    assert.deepEqual(await from('localhost', passing, 'not.a.token'), ['TypeError', 'OPTIONS -']);
  });
  await check('chromium: a page of an origin that is not listed cannot send the request', async () => {
    assert.deepEqual(await from('127.0.0.1', passing), ['TypeError', '']);
  });
  await check('chromium: without bypass_cors_preflight the preflight reaches no server', async () => {
    assert.deepEqual(await from('localhost', strict), ['TypeError', '']);
  });
  await browser.close();
  process.exit(0);
}

main().catch((error) => { console.log(`not ok chromium runs to completion: ${error.message}`); process.exit(1); });
