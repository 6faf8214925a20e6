// Tests Jupyter's notebook page in Chromium behind the recipe: cells run, output streams, the notebook is saved.
'use strict';
const assert = require('assert/strict');
const fs = require('fs');
const { check, facts } = require('../node/checks');
const { launch } = require('../node/pages');

const WAIT_MS = 60_000; // the first start of a kernel takes seconds
const UPLOAD = 20 * 1024 * 1024; // bytes, in base64

const LINES = `import time
for i in range(2000):
    print("line", i)
time.sleep(1)
print("end of lines")`;

const [folder] = process.argv.slice(2);

/** Writes a notebook with these cells into the folder that Jupyter serves. */
function notebook(name, ...sources) {
  const cells = sources.map((source, i) => (
    { cell_type: 'code', id: `cell${i}`, execution_count: null, metadata: {}, outputs: [], source }));
  const kernelspec = { display_name: 'Python 3', language: 'python', name: 'python3' };
  fs.writeFileSync(`${folder}/${name}`, JSON.stringify({ cells, metadata: { kernelspec }, nbformat: 4, nbformat_minor: 5 }));
}

async function main() {
  notebook('sum.ipynb', 'print("the sum is", sum(range(101)))', LINES);
  const { base, token, chromium, spki } = await facts({});
  const browser = await launch(chromium, spki);
  const context = await browser.newContext();
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT_MS);
  const sockets = [];
  const faults = [];
  page.on('websocket', (socket) => {
    sockets.push(new URL(socket.url()).pathname);
    socket.on('socketerror', (error) => faults.push(`${socket.url()}: ${error}`));
  });
  page.on('response', (response) => { if (response.status() >= 400) faults.push(`${response.status()} ${response.url()}`); });

  await check('Jupyter: the tree is shown after a login by token', async () => {
    await page.goto(`${base}/tree?token=${token}`);
    await page.getByText('sum.ipynb').first().waitFor();
  }, WAIT_MS);
  await check('Jupyter: a cell runs in the notebook page, and its output is shown', async () => {
    await page.goto(`${base}/notebooks/sum.ipynb`);
    await page.locator('.jp-Notebook .jp-CodeCell').first().click();
    await page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').waitFor();
    await page.keyboard.press('Shift+Enter');
    await page.locator('.jp-OutputArea-output', { hasText: 'the sum is 5050' }).waitFor();
    assert.equal(sockets.some((path) => /^\/api\/kernels\/[^/]+\/channels$/.test(path)), true);
  }, WAIT_MS);
  await check('Jupyter: 2,000 lines of output arrive', async () => {
    await page.keyboard.press('Shift+Enter');
    const output = page.locator('.jp-OutputArea-output').nth(1);
    await page.locator('.jp-OutputArea-output', { hasText: 'end of lines' }).waitFor();
    assert.match(await output.textContent(), /line 0\nline 1\n[^]*line 1999\nend of lines/);
  }, WAIT_MS);
  await check('Jupyter: the notebook is saved with its output', async () => {
    const saved = page.waitForResponse((response) => response.request().method() === 'PUT' && response.ok());
    await page.keyboard.press('Control+s');
    await saved;
    assert.match(fs.readFileSync(`${folder}/sum.ipynb`, 'utf8'), /the sum is 5050/);
  }, WAIT_MS);
  await check('Jupyter: a file of 20 MiB is uploaded and downloaded', async () => {
    const content = Buffer.alloc(UPLOAD, 'tollgate ').toString('base64');
    const headers = { Authorization: `token ${token}` };
    const body = JSON.stringify({ type: 'file', format: 'base64', content });
    const put = await fetch(`${base}/api/contents/large.bin`, { method: 'PUT', body, headers });
    assert.equal(put.status, 201);
    const got = await fetch(`${base}/files/large.bin`, { headers });
    assert.equal((await got.arrayBuffer()).byteLength, UPLOAD);
  });
  await check('Jupyter: no request of the page was refused', async () => assert.deepEqual(faults, []));
  await browser.close();
  process.exit(0);
}

main().catch((error) => { console.log(`not ok Jupyter runs to completion: ${error.message}`); process.exit(1); });
