// Takes the picture of the README: the dashboard of `tollgate demo`, with sessions, rejections and a close.
'use strict';
const assert = require('assert/strict');
const fs = require('fs');
const { check, facts } = require('./checks');
const { launch } = require('./pages');

const MINUTE_MS = 60_000;
const PICTURE_MAX_BYTES = 200_000;

async function main() {
  const { page: demo, url, dashboard, spki, chromium, screenshots, minutes } = await facts({});
  const browser = await launch(chromium, spki);
  const client = await (await browser.newContext()).newPage();
  await client.goto(demo);
  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  await sleep(12_000); // a sample before the first session
  await client.click('#crowd');
  const end = Date.now() + minutes * MINUTE_MS;
  for (let round = 0; Date.now() < end; round += 1) {
    await client.click('#connect-token');
    await client.waitForSelector('#state[data-state=open]');
    await client.click(round % 3 === 2 ? '#send-100' : '#send');
    await sleep(4000 + (round % 4) * 2500);
    if (round % 3 !== 2) await client.click('#disconnect');
    await client.waitForSelector('#state[data-state=closed]');
    await client.evaluate(
      ([where, count]) =>
        Promise.all(
          Array.from(
            { length: count },
            () =>
              new Promise((resolve) => {
                const socket = new WebSocket(where, ['bearer', 'invalid']);
                socket.onclose = resolve;
              }),
          ),
        ),
      [url, round % 3],
    );
  }
  await check('demo: the dashboard shows its sessions within the first view, for the README', async () => {
    const page = await (
      await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: 'light' })
    ).newPage();
    await page.goto(dashboard);
    await page.waitForSelector('[data-metric="tollgate_sessions"][data-value="5"]');
    await page.waitForTimeout(2500); // a second answer, from which the rates of this moment follow
    const path = `${screenshots}/dashboard.png`;
    await page.screenshot({ path });
    assert.ok(fs.statSync(path).size < PICTURE_MAX_BYTES, `${fs.statSync(path).size} bytes`);
  });
  await browser.close();
  process.exit(0);
}

main().catch((error) => {
  console.log(`not ok dashboard_picture runs to completion: ${error.message}`);
  process.exit(1);
});
