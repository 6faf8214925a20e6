// Tests noVNC's own page in Chromium behind the recipe: it shows the desktop, and keys reach a terminal on it.
'use strict';
const assert = require('assert/strict');
const fs = require('fs');
const { check, facts } = require('../node/checks');
const { launch } = require('../node/pages');

const WAIT_MS = 15_000;
const QUIET_MS = 3000;

const [folder, size] = process.argv.slice(2);

async function main() {
  const { base, chromium, spki } = await facts({});
  const [width, height] = size.split('x').map(Number);
  const browser = await launch(chromium, spki);
  const page = await (await browser.newContext({ viewport: { width: width + 100, height: height + 100 } })).newPage();
  page.setDefaultTimeout(WAIT_MS);
  const sockets = [];
  page.on('websocket', (socket) => sockets.push(socket));
  const canvas = page.locator('canvas').first();

  await check('noVNC: its page connects, and shows a desktop of the size of the server', async () => {
    await page.goto(`${base}/vnc.html`);
    await page.locator('#noVNC_connect_button').click();
    await page.locator('html.noVNC_connected').waitFor();
    assert.equal(new URL(sockets[0].url()).pathname, '/websockify');
    await page.waitForFunction(([w, h]) => {
      const one = document.querySelector('canvas');
      return one && one.width === w && one.height === h;
    }, [width, height]);
  });
  await check('noVNC: the picture of the desktop is drawn', async () => {
    await page.waitForFunction(() => {
      const one = document.querySelector('canvas');
      const { data } = one.getContext('2d').getImageData(0, 0, one.width, one.height);
      return new Set(new Uint32Array(data.buffer)).size >= 2; // the background of the terminal, and its text
    });
  });
  await check('noVNC: what is typed in the page reaches a program on the desktop', async () => {
    await canvas.click({ position: { x: width / 4, y: height / 4 } });
    await page.keyboard.type('echo $((6*7)) > typed\n');
    const end = Date.now() + WAIT_MS;
    while (!fs.existsSync(`${folder}/typed`)) {
      if (Date.now() > end) throw new Error('the terminal wrote no file');
      await new Promise((resolve) => { setTimeout(resolve, 50); });
    }
    assert.equal(fs.readFileSync(`${folder}/typed`, 'utf8'), '42\n');
  });
  await check('noVNC: many updates of the picture arrive, and the connection lasts', async () => {
    let bytes = 0;
    sockets[0].on('framereceived', ({ payload }) => { bytes += payload.length; });
    await page.keyboard.type('for i in $(seq 20); do od -An -tx1 -N1500 /dev/urandom; sleep 0.1; done; echo done > done\n');
    const end = Date.now() + WAIT_MS;
    while (!fs.existsSync(`${folder}/done`) && Date.now() < end) await new Promise((resolve) => { setTimeout(resolve, 50); });
    await new Promise((resolve) => { setTimeout(resolve, QUIET_MS); });
    assert.equal(await page.locator('html.noVNC_connected').count(), 1);
    assert.ok(bytes > 50_000, `${bytes} bytes`);
  });
  await check('noVNC: vnc_lite.html connects, too', async () => {
    const lite = await page.context().newPage();
    await lite.goto(`${base}/vnc_lite.html`);
    await lite.locator('#status', { hasText: /Connected/ }).waitFor();
    await lite.close();
  });
  await browser.close();
  process.exit(0);
}

main().catch((error) => { console.log(`not ok noVNC runs to completion: ${error.message}`); process.exit(1); });
