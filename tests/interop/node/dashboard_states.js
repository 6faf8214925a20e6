// Tests the dashboard in states that real traffic seldom makes: the answers of the API are replaced for the page.
'use strict';
const assert = require('assert/strict');
const { check } = require('./checks');
const { go, until } = require('./dashboard_pages');

/** Replaces the JSON of the answers at `path` by `edit(answer)`, or all by an error if it is a status. */
async function replace(page, path, edit) {
  await page.route(`**${path}*`, async (route) => {
    if (typeof edit === 'number') {
      await route.fulfill({
        status: edit,
        json: { title: 'Test', status: edit, detail: 'the test replaced the answer' },
      });
      return;
    }
    const response = await route.fetch();
    await route.fulfill({ response, json: edit(await response.json(), route.request()) });
  });
}

/** Checks what the overview says first. */
async function attention({ visit, tokens }) {
  await check('dashboard: all findings are visible, or counted beside a button', async () => {
    const page = await visit(tokens.full, { hash: '#/config' });
    await replace(page, '/v1/upstreams', ({ upstreams }) => ({
      upstreams: upstreams.map((upstream) => ({
        ...upstream,
        servers: Array.from({ length: 9 }, (_, index) => ({
          ...upstream.servers[0],
          address: `192.0.2.${index}:80`,
          state: 'failing',
        })),
      })),
    }));
    await go(page, '#/');
    const shown = page.locator('.attention .box > ul > li');
    await page.locator('.attention button', { hasText: /^and \d+ more$/ }).click();
    const needed = Number((await page.textContent('.attention h2')).split(' ')[0]);
    assert.equal(await shown.count(), needed);
    assert.match(await shown.first().textContent(), /The last request to the server 192\.0\.2\.0:80 .* failed/);
    const isInside = ([item, box]) => item.bottom <= box.bottom && item.right <= box.right;
    const places = await shown.evaluateAll((items) =>
      items.map((item) => [item.getBoundingClientRect(), item.closest('section').getBoundingClientRect()]),
    );
    assert.ok(places.every(isInside), 'a finding is clipped');
    await page.context().close();
  });

  await check('dashboard: what is not known is not said to be in order', async () => {
    const page = await visit(tokens.full, { hash: '#/config', answers: [503] });
    await replace(page, '/v1/certificates', 503);
    await go(page, '#/');
    await page.locator('.attention', { hasText: 'Not known at present' }).waitFor();
    assert.doesNotMatch(await page.textContent('.attention h2'), /Nothing/);
    await replace(page, '/v1/history', 503);
    await page.locator('#fresh', { hasText: /^in part from \d\d:\d\d:\d\d, retrying$/ }).waitFor();
    await page.context().close();
  });
}

/** Checks a restart, and a session that the process does not know. */
async function otherProcess({ visit, tokens }) {
  await check('dashboard: a restart is shown, and the figures of the process before it are dropped', async () => {
    const page = await visit(tokens.full);
    await go(page, '#/');
    const asked = [];
    page.on('request', (request) => {
      if (request.url().includes('/v1/history')) asked.push(new URL(request.url()).search);
    });
    await replace(page, '/v1/info', (info) => ({ ...info, started: '2001-02-03T04:05:06Z' }));
    await page.locator('#notice', { hasText: /Tollgate was restarted at 3 Feb 2001/ }).waitFor();
    await until(
      () => asked,
      (list) => list.includes(''),
      'a request for the whole history',
    );
    await page.context().close();
  });

  await check('dashboard: an upgrade is shown with both versions, and afterwards with the process before', async () => {
    const page = await visit(tokens.full, { hash: '#/config' });
    const origin = page.locator('#handed-over');
    assert.equal(await origin.isVisible(), false);
    await replace(page, '/v1/info', (info) => ({ ...info, upgrade: { pid: 8, version: '9.9.9', moved: 2 } }));
    await page.locator('#strip-version', { hasText: /^[0-9.]+ → 9\.9\.9$/ }).waitFor();
    const from = { pid: 7, version: '0.0.9', at: '2001-02-03T04:05:06Z', sessions: 3, complete: false };
    await replace(page, '/v1/info', (info) => ({ ...info, handed_over_from: from }));
    await page.locator('#strip-version', { hasText: /^0\.0\.9 → [0-9.]+$/ }).waitFor();
    await go(page, '#/');
    await page.locator('.attention', { hasText: 'takes sessions over from process 7 (version 0.0.9)' }).waitFor();
    await replace(page, '/v1/info', (info) => ({ ...info, handed_over_from: { ...from, complete: true } }));
    await page.locator('#strip-version', { hasText: /^[0-9.]+$/ }).waitFor();
    await go(page, '#/config');
    await page.locator('#handed-over', { hasText: 'from process 7 (version 0.0.9) at 3 Feb 2001' }).waitFor();
    await page.context().close();
  });

  await check('dashboard: of an unknown session the page shows only that', async () => {
    const page = await visit(tokens.full, { hash: `#/sessions/${'0'.repeat(32)}`, answers: [404] });
    await page.locator('.banner', { hasText: 'No open session has this id' }).waitFor();
    assert.equal(await page.locator('main section:visible, main button:visible').count(), 0);
    await page.context().close();
  });
}

/** Checks what a reload shows that ends more sessions than `recheck_max`. */
async function forcedReload({ visit, tokens }) {
  await check('dashboard: a forced reload names the causes in words, and that it was forced', async () => {
    const page = await visit(tokens.full, { hash: '#/config' });
    const result = {
      ...{ applied: false, generation: 1, kept: 1, changed: 0, ended: { token: 9, removed: 1 } },
      ...{ exceeds_recheck_max_percent: 20, warnings: [], listeners_added: [], listeners_removed: [] },
    };
    await page.route('**/v1/reload*', async (route) => {
      const isForced = route.request().url().includes('force=true');
      await route.fulfill({ json: { ...result, applied: isForced } });
    });
    await page.click('#reload-check');
    const ended = page.locator('.result [data-fact=ended] li');
    await ended.first().waitFor();
    assert.deepEqual(await ended.allTextContents(), ['9: invalid token', '1: route removed']);
    assert.match(await page.textContent('.result .warning'), /unless it is forced/);
    assert.equal(await page.textContent('#reload-apply'), 'Apply, ends 10 sessions');
    await page.click('#reload-apply');
    await page.click('dialog[open] button[type=submit]');
    await page.locator('.result .warning', { hasText: 'The reload was forced' }).waitFor();
    await page.context().close();
  });
}

/** Checks the buttons that drain a server. */
async function drains({ visit, tokens }) {
  await check('dashboard: a dialog drains a server, and another one undrains it', async () => {
    const page = await visit(tokens.full);
    const asked = [];
    let state = 'up';
    await replace(page, '/v1/upstreams', ({ upstreams }) => ({
      upstreams: upstreams.map((upstream) => ({
        ...upstream,
        servers: upstream.servers.slice(0, 1).map((server) => ({
          ...server,
          sessions: 3,
          max_sessions: 5000,
          state,
          drain_rate: state === 'draining' ? '20/s' : null,
        })),
        removed: [{ address: '192.0.2.7:9001', sessions: 2 }],
      })),
    }));
    await page.route('**/v1/upstreams/*/servers/*', async (route) => {
      const body = route.request().postDataJSON();
      asked.push([route.request().method(), body.state]);
      state = body.state === 'drain' ? 'draining' : 'up';
      await route.fulfill({ json: { sessions: 3, state, drain_rate: '20/s', drain_seconds: 0.2 } });
    });
    await go(page, '#/config');
    const rows = page.locator('[data-upstream]').first().locator('tbody').first().locator('tr');
    await rows.nth(1).waitFor();
    assert.match(await rows.nth(0).textContent(), /3 of 5,000/);
    assert.match(await rows.nth(1).textContent(), /192\.0\.2\.7:9001removed2/);
    assert.equal(await rows.nth(1).locator('button').count(), 0);
    // Tables stay in their cards, and the words of a button in one line.
    for (const width of [400, 1280, 1920]) {
      await page.setViewportSize({ width, height: 900 });
      const wide = () => document.documentElement.scrollWidth - document.documentElement.clientWidth;
      assert.equal(await page.evaluate(wide), 0, `${width} px`);
      const isWide = (all) => all.some((one) => one.scrollWidth > one.clientWidth);
      assert.equal(await page.locator('.block').evaluateAll(isWide), false, `${width} px`);
      assert.ok((await rows.nth(0).locator('button').boundingBox()).height < 32, `${width} px`);
    }
    for (const [name, notice] of [
      ['Drain', /drains; 3 sessions close at 20\/s/],
      ['Undrain', /gets new sessions, and keeps 3 sessions/],
    ]) {
      await page.locator('[data-upstream] button', { hasText: new RegExp(`^${name}$`) }).first().click();
      assert.match(await page.textContent('dialog[open] h2'), new RegExp(`^${name} this server`));
      if (name === 'Drain') assert.match(await page.textContent('dialog[open]'), /with 1012 at 20\/s, in about/);
      await page.click('dialog[open] button[type=submit]');
      await page.locator('#notice', { hasText: notice }).waitFor();
    }
    assert.deepEqual(asked, [
      ['PATCH', 'drain'],
      ['PATCH', 'ready'],
    ]);
    await page.context().close();
  });

  await check('dashboard: a token that may only read has no button that drains', async () => {
    const page = await visit(tokens.read, { hash: '#/config' });
    await page.locator('[data-upstream] td', { hasText: ':' }).first().waitFor();
    assert.equal(await page.locator('[data-upstream] button').count(), 0);
    await page.context().close();
  });
}

async function states(kit) {
  for (const part of [attention, otherProcess, forcedReload, drains]) await part(kit);
}

module.exports = { states };
