// Tests the demo page in Chromium: presses its buttons and checks what it shows.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { check, facts, listen } = require('./checks');
const { launch } = require('./pages');

const WAIT_MS = 10_000;

// A page of another origin, as an attacker would serve it.
const stranger = http.createServer((request, response) => {
  response.setHeader('Content-Type', 'text/html');
  response.end('<!DOCTYPE html><title>Another origin</title>');
});

async function main() {
  const { page: address, url, token, spki, chromium: executablePath, screenshots } = await facts({ port: await listen(stranger) });
  const browser = await launch(executablePath, spki);
  const faults = []; // script errors and policy violations that the browser reports
  const external = []; // requests to other hosts

  async function visit(target, options = {}) {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT_MS);
    page.on('pageerror', (error) => faults.push(error.message));
    page.on('console', (message) => { if (/Content.Security.Policy/i.test(message.text())) faults.push(message.text()); });
    page.on('request', (request) => { if (new URL(request.url()).host !== new URL(target).host) external.push(request.url()); });
    await page.goto(target);
    return page;
  }
  const state = (page, wanted) => page.locator(`#state[data-state="${wanted}"]`).waitFor();
  const text = (page, id) => page.locator(id).textContent();

  await check('chromium: the demo page loads, and its policy blocks all other content', async () => {
    const page = await visit(address);
    assert.equal(await page.title(), 'Tollgate demo');
    assert.equal(await text(page, '#url'), url);
    const answer = await page.request.get(address, { ignoreHTTPSErrors: true });
    assert.match(answer.headers()['content-security-policy'], /default-src 'none'/);
    assert.equal(await page.locator('#send').isDisabled(), true);
    await page.screenshot({ path: `${screenshots}/demo-light.png` });
    await page.context().close();
  });
  await check('chromium: with the token it connects and receives the echo', async () => {
    const page = await visit(address, { colorScheme: 'dark' });
    await page.click('#connect-token');
    await state(page, 'open');
    assert.match(await text(page, '#log li[data-event="open"]'), /subprotocol bearer/);
    await page.fill('#message', 'Grüße aus dem Browser');
    await page.click('#send');
    await page.locator('#log li[data-event="receive"]', { hasText: 'Grüße aus dem Browser' }).waitFor();
    assert.deepEqual([await text(page, '#sent'), await text(page, '#received')], ['1', '1']);
    await page.press('#message', 'Enter');
    await page.locator('#received', { hasText: '2' }).waitFor();
    await page.screenshot({ path: `${screenshots}/demo-dark.png` });
    await page.click('#disconnect');
    await state(page, 'closed');
    assert.equal(await text(page, '#close-code'), '1000');
    await page.context().close();
  });
  await check('chromium: without the token it is rejected', async () => {
    const page = await visit(address);
    await page.click('#connect-no-token');
    await state(page, 'closed');
    assert.equal(await text(page, '#state'), 'refused');
    assert.equal(await text(page, '#close-code'), '1006');
    assert.equal(await page.locator('#log li[data-event="open"]').count(), 0);
    await page.context().close();
  });
  await check('chromium: a flood is closed with 1008, which the page shows', async () => {
    const page = await visit(address);
    await page.click('#connect-token');
    await state(page, 'open');
    await page.click('#send-100');
    await state(page, 'closed');
    assert.equal(await text(page, '#close-code'), '1008');
    assert.notEqual(await text(page, '#close-reason'), 'no reason given');
    assert.ok(Number(await text(page, '#received')) < 100);
    await page.screenshot({ path: `${screenshots}/demo-flood.png` });
    await page.click('#connect-token');
    await state(page, 'open'); // a new connection is accepted
    await page.context().close();
  });
  await check('chromium: 30 messages at once are within the limit', async () => {
    const page = await visit(address);
    await page.click('#connect-token');
    await state(page, 'open');
    for (let i = 0; i < 30; i += 1) await page.press('#message', 'Enter');
    await page.locator('#received', { hasText: '30' }).waitFor();
    await page.context().close();
  });
  await check('chromium: a binary message of 32 KiB is echoed to a page of an allowed origin', async () => {
    const page = await visit(address);
    const got = await page.evaluate(([where, secret]) => new Promise((resolve, reject) => {
      const socket = new WebSocket(where, ['bearer', secret]);
      const data = new Uint8Array(32 * 1024).map((_, i) => i % 251);
      socket.binaryType = 'arraybuffer';
      socket.onopen = () => socket.send(data);
      socket.onmessage = ({ data: back }) => {
        resolve([new Uint8Array(back).every((byte, i) => byte === i % 251), back.byteLength]);
        socket.close(4000, 'enough');
      };
      socket.onclose = ({ code, reason }) => reject(new Error(`closed with ${code} ${reason}`));
      setTimeout(() => reject(new Error('no answer')), 8000);
    }), [url, token]);
    assert.deepEqual(got, [true, 32 * 1024]);
    await page.context().close();
  });
  await check('chromium: a page of another origin is rejected, with and without the token', async () => {
    const page = await visit(`http://127.0.0.1:${stranger.address().port}/`);
    for (const protocols of [['bearer', token], []]) {
      const code = await page.evaluate(([where, offer]) => new Promise((resolve, reject) => {
        const socket = new WebSocket(where, offer);
        socket.onopen = () => reject(new Error('the upgrade was accepted'));
        socket.onclose = (event) => resolve(event.code);
      }), [url, protocols]);
      assert.equal(code, 1006);
    }
    await page.context().close();
  });
  await check('chromium: no script errors, policy violations or requests to other hosts', async () => {
    assert.deepEqual([faults, external], [[], []]);
  });
  await browser.close();
  process.exit(0);
}

main().catch((error) => { console.log(`not ok chromium runs to completion: ${error.message}`); process.exit(1); });
