// Tests the dashboard in Chromium against the admin API, /metrics and real clients.
'use strict';
const assert = require('assert/strict');
const fs = require('fs');
const { WebSocket } = require('ws');
const { check, facts, listen } = require('./checks');
const { looks } = require('./dashboard_looks');
const { go, open, until } = require('./dashboard_pages');
const { states } = require('./dashboard_states');
const { echoing } = require('./pages');
const { parse, sum } = require('./samples');

const RATE_BURST = 10; // message_burst of the suite's route
const STRANGER = 'https://evil.example.test';
const LONG_STRANGER = `https://${'long'.repeat(60)}.test`;

/** Starts Chromium, and returns the values that the checks share. */
async function begin() {
  const told = await facts({ port: await listen(echoing()) });
  const { admin, url, ca, file, tokens, chromium } = told;
  const { browser, faults, external, visit } = await open(chromium, admin);
  const api = async (path, method = 'GET') => {
    const answer = await fetch(admin + path, { method, headers: { Authorization: `Bearer ${tokens.full}` } });
    return answer.headers.get('content-type').includes('json') ? answer.json() : answer.text();
  };

  /** Opens a client. `ended` resolves with the code and the reason of its close. */
  async function client(user, { origin = told.origin, path = '/live' } = {}) {
    const socket = new WebSocket(url + path, { ca, origin, headers: { Authorization: `Bearer ${tokens[user]}` } });
    const messages = [];
    socket.on('message', (data) => messages.push(data.toString()));
    const ended = new Promise((resolve) => {
      socket.on('close', (code, reason) => resolve([code, reason.toString()]));
    });
    await new Promise((resolve, reject) => {
      socket.on('open', resolve);
      socket.on('error', reject);
    });
    return { socket, messages, ended };
  }
  const sessionOf = async (user) =>
    (
      await until(
        () => api(`/v1/sessions?subject=${user}&auth=users`),
        ({ sessions }) => sessions.length === 1,
        user,
      )
    ).sessions[0];
  const lineOf = (text) =>
    1 +
    fs
      .readFileSync(file, 'utf8')
      .split('\n')
      .findIndex((line) => line.startsWith(text));
  return { ...told, browser, faults, external, visit, api, client, sessionOf, lineOf };
}

const notice = (page, text) => page.locator('#notice', { hasText: text }).waitFor();
const confirm = (page) => page.click('dialog[open] button[type=submit]');

/** Opens clients, of which two stay, one is rejected and one exceeds its rate. */
async function traffic({ client }) {
  const ann = await client('ann');
  const bob = await client('bob');
  for (const text of ['one', 'two', 'three']) ann.socket.send(text);
  await until(
    () => ann.messages.length,
    (length) => length === 3,
    'the echo',
  );
  for (const origin of [LONG_STRANGER, STRANGER])
    await client('ann', { origin }).then(
      () => assert.fail('admitted'),
      () => {},
    );
  const flood = await client('cid');
  for (let i = 0; i < RATE_BURST + 5; i += 1) flood.socket.send('flood');
  await flood.ended;
  return { ann, bob };
}

/** Checks the form, and the token in the address. */
async function access({ visit, admin, tokens }) {
  await check('dashboard: without a token, and with a wrong one, the page shows only the form', async () => {
    const page = await visit(null, { answers: [401] });
    const isBare = async () => {
      assert.deepEqual(
        [await page.locator('#nav').isVisible(), await page.locator('#strip').isVisible()],
        [false, false],
      );
      assert.equal(await page.locator('main > :not(form)').count(), 0);
      assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    };
    await page.waitForSelector('input[type=password]');
    await isBare();
    await page.fill('input[type=password]', `${tokens.full}x`);
    await page.keyboard.press('Enter');
    await page.locator('.login .error', { hasText: 'does not accept' }).waitFor();
    await isBare();
    await page.fill('input[type=password]', 'tökén');
    await page.keyboard.press('Enter');
    await page.locator('.login .error', { hasText: 'ASCII' }).waitFor();
    await page.fill('input[type=password]', tokens.full);
    await page.keyboard.press('Enter');
    await page.waitForSelector('#nav:not([hidden])');
    assert.equal(await page.evaluate(() => document.activeElement.tagName), 'H1');
    await page.click('#forget');
    await page.waitForSelector('input[type=password]');
    await isBare();
    await page.context().close();
  });

  await check('dashboard: a token in the address is taken once, and removed from it', async () => {
    const page = await visit(tokens.full);
    assert.equal(page.url(), `${admin}/#/`);
    await page.reload();
    await page.waitForSelector('#nav:not([hidden])');
    await page.evaluate((value) => {
      location.hash = `#token=${value}`;
    }, tokens.read);
    await page.locator('#rights', { hasText: 'Read-only token' }).waitFor();
    await page.context().close();
    const malformed = await visit(null, { answers: [401], hash: '' });
    await malformed.goto(`${admin}/#token=%E0%A4%A`);
    await malformed.reload();
    await malformed.waitForSelector('input[type=password]');
    assert.equal(malformed.url(), `${admin}/#/`);
    await malformed.context().close();
  });
}

/** Compares the page with the metrics and the API. */
async function figures({ visit, api, sessionOf, tokens }) {
  await check('dashboard: every figure equals /metrics at that moment', async () => {
    const page = await visit(tokens.full);
    await go(page, '#/');
    const shown = () =>
      page.$$eval('[data-metric][data-value]', (list) =>
        list.map(({ dataset }) => [dataset.metric, Number(dataset.value)]),
      );
    const differing = async () => {
      const [figures, metrics] = [await shown(), parse(await api('/metrics'))];
      assert.ok(figures.length >= 25, `${figures.length} figures`);
      return figures
        .filter(([name]) => !name.startsWith('process_'))
        .map(([name, value]) => [name, value, sum(metrics, name)])
        .filter(([, value, own]) => value !== own);
    };
    await until(differing, (list) => list.length === 0, 'all figures are those of /metrics');
    const names = (await shown()).map(([name]) => name);
    for (const name of [
      'tollgate_sessions',
      'tollgate_upgrades_total{outcome="origin"}',
      'tollgate_messages_total{direction="in"}',
      'tollgate_config_generation',
    ])
      assert.ok(names.includes(name), name);
    const memory = Number(await page.getAttribute('[data-metric=process_resident_memory_bytes]', 'data-value'));
    assert.ok(Math.abs(memory / sum(parse(await api('/metrics')), 'process_resident_memory_bytes') - 1) < 0.2);
    assert.equal(Number(await page.getAttribute('#strip-sessions', 'data-value')), (await api('/v1/info')).sessions);
    await page.context().close();
  });

  await check('dashboard: the list and a session equal the API', async () => {
    const page = await visit(tokens.full, { hash: '#/sessions' });
    const { sessions, total } = await api('/v1/sessions');
    assert.equal(Number(await page.getAttribute('.total', 'data-value')), total);
    assert.deepEqual(
      await page.$$eval('.list tbody tr a', (links) => links.map((link) => link.title)),
      sessions.map(({ id }) => id),
    );
    const { id } = await sessionOf('ann');
    await page.click(`.list a[title="${id}"]`);
    const own = await api(`/v1/sessions/${id}`);
    const fact = (name) => page.getAttribute(`[data-fact=${name}]`, 'data-value').then(Number);
    assert.deepEqual([await fact('messages_in'), await fact('bytes_out')], [own.messages_in, own.bytes_out]);
    const text = await page.textContent('main');
    for (const value of [own.subject, own.address, own.path, own.origin, own.server, own.cipher, '20.0/s'])
      assert.ok(text.includes(value), value);
    await page.context().close();
  });
}

/** Changes sessions from the page. */
async function operations({ visit, client, sessionOf, tokens, ann, bob }) {
  await check('dashboard: a tap lists the frames, with payloads if chosen', async () => {
    const page = await visit(tokens.full, { hash: `#/sessions/${(await sessionOf('ann')).id}` });
    await page.check('#tap-payload');
    await page.click('#tap-start');
    await page.locator('text=The tap runs').waitFor();
    await page.waitForTimeout(200); // the stream opens after the press
    ann.socket.send('grüße');
    const row = page.locator('.frames tbody tr', { hasText: 'grüße' });
    await row.first().waitFor();
    assert.deepEqual(
      await row
        .last()
        .locator('td')
        .allTextContents()
        .then((cells) => cells.slice(1)),
      ['→ in', 'text', '7 B', 'fin', 'grüße'],
    );
    await page.click('#tap-start');
    await page.locator('text=The tap is stopped').waitFor();
    await page.context().close();
  });

  await check('dashboard: a message reaches the client', async () => {
    const page = await visit(tokens.full, { hash: `#/sessions/${(await sessionOf('ann')).id}` });
    await page.click('#send-one');
    await page.fill('dialog textarea', 'from the operator');
    await confirm(page);
    await notice(page, 'sent to 1 session');
    await until(
      () => ann.messages,
      (messages) => messages.includes('from the operator'),
      'the message',
    );
    await page.context().close();
  });

  await check(
    'dashboard: a close ends the session with that code and reason, and the page links to the explanation',
    async () => {
      const page = await visit(tokens.full, { hash: `#/sessions/${(await sessionOf('ann')).id}`, answers: [404] });
      await page.click('#close-one');
      assert.match(await page.textContent('dialog'), /This ends 1 session/);
      await page.keyboard.press('Escape');
      await page.waitForSelector('dialog', { state: 'detached' });
      assert.equal(ann.socket.readyState, WebSocket.OPEN);
      await page.click('#close-one');
      await page.fill('dialog [name=code]', '4001');
      await page.fill('dialog [name=reason]', 'maintenance');
      await confirm(page);
      assert.deepEqual(await ann.ended, [4001, 'maintenance']);
      const banner = page.locator('.banner', { hasText: 'This session has ended' });
      await banner.waitFor();
      assert.equal(await banner.evaluate((element) => element === document.activeElement), true);
      assert.equal(await page.textContent('[data-fact=state]'), 'ended');
      assert.equal(await page.locator('[data-fact=deadline], #tap-start, .bars.limits').count(), 0);
      await page.locator('h2', { hasText: 'At its end' }).waitFor();
      await page.click('text=Why it ended');
      await page.locator('.explanation', { hasText: 'operator' }).waitFor();
      await page.context().close();
    },
  );

  await check('dashboard: a close of all that match shows their number first, and ends no other session', async () => {
    const many = await Promise.all(Array.from({ length: 5 }, () => client('dan')));
    const page = await visit(tokens.full, { hash: '#/sessions' });
    await page.fill('[name=search]', 'DAN');
    await page.locator('.total[data-value="5"]').waitFor();
    await page.click('#close-all');
    assert.equal(await page.textContent('dialog h2'), 'Close 5 sessions?');
    await page.fill('dialog [name=code]', '1012');
    await confirm(page);
    await notice(page, '5 sessions close');
    for (const { ended } of many) assert.equal((await ended)[0], 1012);
    assert.equal(bob.socket.readyState, WebSocket.OPEN);
    await page.context().close();
  });
}

/** Checks the explanations of events. */
async function explanations({ visit, lineOf, tokens }) {
  await check('dashboard: a rejected origin is explained with the key and its line', async () => {
    const page = await visit(tokens.full, { hash: '#/events?kind=rejection&cause=origin' });
    const [shown] = (await page.textContent('.total')).split(' ');
    await page.selectOption('[name=cause]', '');
    await page.selectOption('[name=kind]', '');
    assert.ok(Number((await page.textContent('.total')).match(/^(\d+) events?$/)[1]) > Number(shown));
    const causes = await page.locator('td.cause a').allTextContents();
    assert.deepEqual(
      causes.filter((text) => text.includes('_')),
      [],
      'causes without words',
    );
    await page.locator('td.cause a', { hasText: 'origin not allowed' }).first().click();
    const explanation = page.locator('.explanation');
    assert.match(await explanation.textContent(), new RegExp(`origin ${STRANGER}`));
    const setting = explanation.locator('li', { hasText: 'origins' }).first();
    assert.equal(Number(await setting.getAttribute('data-line')), lineOf('origins'));
    await page.context().close();
  });

  await check(
    'dashboard: a session that exceeded its message rate is explained with the key and its line',
    async () => {
      const page = await visit(tokens.full, { hash: '#/events?kind=end&cause=message_rate' });
      await page.click('td.cause a');
      const setting = page.locator('.explanation li', { hasText: 'message_rate' }).first();
      assert.equal(Number(await setting.getAttribute('data-line')), lineOf('message_rate'));
      assert.match(await page.textContent('.event-title'), /1008/);
      await page.context().close();
    },
  );
}

/** Checks the page of a token that may only read. */
async function reading({ visit, sessionOf, tokens }) {
  await check('dashboard: a read token shows no controls', async () => {
    const page = await visit(tokens.read);
    for (const view of ['sessions', `sessions/${(await sessionOf('bob')).id}`, 'config', 'revocations']) {
      await go(page, `#/${view}`);
      await page.locator('.readonly').waitFor();
      assert.equal(
        await page
          .locator('.danger, #send-all, #send-one, #reload-check, #reload-apply, #revoke, #tap-payload')
          .count(),
        0,
        view,
      );
    }
    await page.context().close();
  });
}

/** Reloads the configuration, and revokes tokens. */
async function configuration({ visit, api, client, file, tokens }) {
  await check('dashboard: a reload is applied only after its dry run', async () => {
    const page = await visit(tokens.full, { hash: '#/config', answers: [422] });
    const before = fs.readFileSync(file, 'utf8');
    const { generation } = await api('/v1/info');
    assert.equal(await page.isDisabled('#reload-apply'), true);
    fs.writeFileSync(file, before.replace('message_rate', 'mesage_rate'));
    await page.click('#reload-check');
    assert.match(await page.textContent('pre'), /mesage_rate/);
    assert.equal(await page.isDisabled('#reload-apply'), true);
    fs.writeFileSync(file, before.replace(/message_rate = .*/, 'message_rate = "30/s"'));
    await page.click('#reload-check');
    await page.locator('[data-fact=changed]', { hasText: String((await api('/v1/info')).sessions) }).waitFor();
    assert.equal(await page.textContent('#reload-apply'), 'Apply');
    assert.equal((await api('/v1/info')).generation, generation);
    await page.click('#reload-apply');
    await confirm(page);
    await page.locator('.result', { hasText: `Generation ${generation + 1} is in use` }).waitFor();
    assert.equal((await api('/v1/info')).generation, generation + 1);
    await page.locator('.settings', { hasText: '"30/s"' }).waitFor();
    await page.context().close();
  });

  await check('dashboard: a revocation ends the sessions of its subject, and can be removed', async () => {
    const eve = await client('eve');
    const page = await visit(tokens.full, { hash: '#/revocations' });
    await page.click('#revoke');
    await page.locator('dialog [name=auth] option[value=users]').waitFor({ state: 'attached' });
    assert.equal(await page.inputValue('dialog [name=auth]'), 'users');
    await page.fill('dialog [name=value]', 'eve');
    await page.locator('dialog', { hasText: '1 open session matches now' }).waitFor();
    await confirm(page);
    await notice(page, '1 session ends');
    assert.deepEqual(await eve.ended, [1008, 'revoked']);
    await client('eve').then(
      () => assert.fail('admitted'),
      () => {},
    );
    await page.click('tr:has-text("eve") button');
    await confirm(page);
    await notice(page, 'removed');
    (await client('eve')).socket.close();
    await go(page, '#/events?kind=end&cause=revoked');
    await page.click('td.cause a');
    assert.equal(await page.getAttribute('.explanation a', 'href'), '#/revocations');
    await page.context().close();
  });
}

/** Checks keyboard, history, and the page of a process that does not answer. */
async function handling({ visit, tokens }) {
  await check('dashboard: charts and dialogs work by keyboard only, and links by the history', async () => {
    const page = await visit(tokens.full);
    await go(page, '#/');
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'skip');
    await page.focus('#messages .reader');
    await page.keyboard.press('ArrowLeft');
    assert.match(
      await page.getAttribute('#messages .reader', 'aria-valuetext'),
      /^[0-9:]{8}: from clients .*, to clients /,
    );
    await page.focus('#messages summary');
    await page.keyboard.press('Enter');
    await page.locator('#messages details tbody tr').first().waitFor();
    await page.focus('#nav a[data-view=sessions]');
    await page.keyboard.press('Enter');
    await until(
      () => page.evaluate(() => document.activeElement.textContent),
      (text) => text === 'Sessions',
      'the heading has focus',
    );
    await page.goBack();
    await until(
      () => page.title(),
      (title) => title.startsWith('Overview'),
      'the view before',
    );
    await page.context().close();
  });

  await check(
    'dashboard: while the process does not answer, the page keeps its data and shows that the connection is lost',
    async () => {
      const page = await visit(tokens.full, { answers: [0] });
      await go(page, '#/');
      await page.context().setOffline(true);
      await page.locator('body.lost').waitFor();
      assert.match(await page.textContent('#fresh'), /connection lost/);
      assert.equal(await page.textContent('#phase'), 'Unknown');
      assert.equal((await page.locator('[data-metric="tollgate_sessions"][data-value]').count()) > 0, true);
      for (const view of ['sessions', 'events', 'config', 'revocations']) {
        await page.click(`#nav a[data-view=${view}]`);
        await page.locator('main', { hasText: 'No connection to Tollgate' }).waitFor();
        assert.doesNotMatch(await page.textContent('main'), /Loading/);
      }
      await page.context().setOffline(false);
      await page.locator('body:not(.lost)').waitFor();
      assert.equal(await page.textContent('#phase'), 'Serving');
      await page.context().close();
    },
  );
}

async function main() {
  const kit = await begin();
  const { browser, faults, external } = kit;
  await access(kit);
  Object.assign(kit, await traffic(kit));
  for (const part of [figures, operations, explanations, reading, configuration, handling, states, looks])
    await part(kit);
  await check('dashboard: no script errors, console errors, policy violations or requests to other hosts', async () => {
    assert.deepEqual([faults, external], [[], []]);
  });
  await browser.close();
  process.exit(0);
}
main().catch((error) => {
  console.log(`not ok dashboard runs to completion: ${error.message}`);
  process.exit(1);
});
