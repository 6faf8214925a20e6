// Tests refreshes in Chromium: pages of another origin of the same site renew their sessions, with a cookie and with a header.
// The pages have a server of their own, which is another origin by each of its names.
'use strict';
const assert = require('assert/strict');
const { check, facts, listen } = require('./checks');
const { echoing, launch, pagesWith } = require('./pages');

const [executablePath, spki, chain, key] = process.argv.slice(2);

const pages = pagesWith(chain, key);
const upstream = echoing();

/** In the page: sends a request, and returns its status and JSON, or the name of the error. */
const post = ([where, options]) => fetch(where, { method: 'POST', ...options })
  .then(async (answer) => [answer.status, answer.ok ? await answer.json() : null], (error) => [error.name, null]);

async function main() {
  // Before the tokens are made, so that their time does not begin too early.
  const browser = await launch(executablePath, spki);
  const own = { port: await listen(upstream), pages: await listen(pages) };
  const { url, refresh, first, fresh, expires } = await facts(own);
  const visit = async (host) => {
    const page = await (await browser.newContext()).newPage();
    await page.goto(`https://${host}:${own.pages}/`);
    return page;
  };
  const setCookie = (page, value) => page.context().addCookies([
    { name: 'session', value, url: refresh, secure: true, httpOnly: true, sameSite: 'Strict' },
  ]);
  const withHeader = (token) => ({ headers: { authorization: `Bearer ${token}` } });

  /** Opens sessions with these subprotocols in a page, by name. */
  const open = (page, offers) => page.evaluate(([where, offered]) => {
    window.sockets = Object.fromEntries(Object.entries(offered).map(([name, offer]) => [name, new WebSocket(where, offer)]));
    return Promise.all(Object.values(window.sockets).map((socket) => new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
    })));
  }, [url, offers]);
  const echo = (page, own) => page.evaluate((name) => new Promise((resolve, reject) => {
    const socket = window.sockets[name];
    socket.onmessage = ({ data }) => resolve(data);
    socket.onclose = ({ code, reason }) => reject(new Error(`${name}: closed with ${code} ${reason}`));
    socket.send(name);
  }), own);

  await check('chromium: pages of another origin renew their sessions, which outlive their first tokens', async () => {
    const [cookie, header] = [await visit('localhost'), await visit('localhost')];
    await setCookie(cookie, first.ann);
    await open(cookie, { ann: [] });
    await open(header, { bob: ['bearer', first.bob], cid: ['bearer', first.cid] });
    const end = header.evaluate(() => new Promise((resolve) => {
      window.sockets.cid.onclose = ({ code, reason }) => resolve(`${code} ${reason}`);
    })).catch((error) => error.message);
    await setCookie(cookie, fresh.ann);
    assert.deepEqual(await cookie.evaluate(post, [refresh, { credentials: 'include' }]), [200, { renewed: 1, expires }]);
    assert.deepEqual(await header.evaluate(post, [refresh, withHeader(fresh.bob)]), [200, { renewed: 1, expires }]);
    assert.equal(await end, '1008 token expired');
    assert.deepEqual([await echo(cookie, 'ann'), await echo(header, 'bob')], ['ann', 'bob']);
    await Promise.all([cookie.context().close(), header.context().close()]);
  });
  await check('chromium: a page reads the status of a refresh that is rejected', async () => {
    const page = await visit('localhost');
    assert.deepEqual(await page.evaluate(post, [refresh, {}]), [401, null]);
    assert.deepEqual(await page.evaluate(post, [refresh, withHeader('not.a.token')]), [401, null]);
    await page.context().close();
  });
  await check('chromium: a page of an origin that is not listed cannot refresh', async () => {
    const page = await visit('127.0.0.1');
    await setCookie(page, fresh.ann);
    for (const options of [{ credentials: 'include' }, withHeader(fresh.bob)]) {
      assert.deepEqual(await page.evaluate(post, [refresh, options]), ['TypeError', null]);
    }
    await page.context().close();
  });
  await browser.close();
  process.exit(0);
}

main().catch((error) => { console.log(`not ok chromium runs to completion: ${error.message}`); process.exit(1); });
