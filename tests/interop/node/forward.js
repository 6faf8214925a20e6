// Tests forward authentication in Chromium: a page whose login is checked by a service that answers as oauth2-proxy does, and
// which ends while the session of the page is open.
'use strict';
const assert = require('assert/strict');
const http = require('http');
const { check, facts, listen } = require('./checks');
const { echoing, launch, pagesWith } = require('./pages');

const [executablePath, spki, chain, key] = process.argv.slice(2);
const COOKIE = '_oauth2_proxy';

// oauth2-proxy has one login, whose cookie is its id with a signature that each refresh changes.
const login = { cookies: [], isIn: false, isFresh: true };
const setCookie = (response, value, more = '') => {
  response.setHeader('Set-Cookie', `${COOKIE}=${value}; Path=/; HttpOnly; Secure; SameSite=Lax${more}`);
};

/** `/oauth2/auth`, which the proxy asks. */
const auth = http.createServer((request, response) => {
  const known = (request.headers.cookie ?? '').split('; ').some((pair) => login.cookies.some((value) => pair === `${COOKIE}=${value}`));
  if (!known || !login.isIn) {
    response.writeHead(401).end('Unauthorized\n');
    return;
  }
  if (!login.isFresh) setCookie(response, login.cookies[1]);
  login.isFresh = true;
  response.writeHead(202, { 'X-Auth-Request-User': 'ada', 'X-Auth-Request-Groups': 'dev' }).end();
});

/** `/oauth2/sign_in` and `/oauth2/sign_out`, which the page visits. */
const pages = pagesWith(chain, key, (request, response) => {
  if (request.url === '/oauth2/sign_in') {
    login.isIn = true;
    setCookie(response, login.cookies[0]);
  } else if (request.url === '/oauth2/sign_out') {
    login.isIn = false;
    setCookie(response, '', '; Max-Age=0');
  }
});
const upstream = echoing();

function stop(server) {
  return new Promise((resolve) => {
    server.close(resolve);
    server.closeAllConnections();
  });
}

/** In the page: opens a session, and resolves with the code of its end if that comes first. */
const connect = (where) => new Promise((resolve) => {
  window.socket = new WebSocket(where);
  window.end = new Promise((ended) => {
    window.socket.onclose = ({ code, reason, wasClean }) => { ended([code, reason, wasClean]); resolve(code); };
  });
  window.socket.onopen = () => resolve('open');
});
const echo = (text) => new Promise((resolve, reject) => {
  window.socket.onmessage = ({ data }) => resolve(data);
  window.end.then(([code, reason]) => reject(new Error(`closed with ${code} ${reason}`)));
  window.socket.send(text);
});

async function main() {
  const browser = await launch(executablePath, spki);
  const own = { port: await listen(upstream), pages: await listen(pages), auth: await listen(auth) };
  const { url, cookies, recheckMs } = await facts(own);
  login.cookies = cookies;
  const page = await (await browser.newContext()).newPage();
  const site = `https://localhost:${own.pages}`;
  await page.goto(`${site}/`);

  await check('chromium: a page without a login cannot connect', async () => {
    assert.equal(await page.evaluate(connect, url), 1006);
  });
  await check('chromium: after the login it connects, exchanges a message, and keeps a cookie that the service refreshes', async () => {
    await page.goto(`${site}/oauth2/sign_in`);
    login.isFresh = false;
    assert.equal(await page.evaluate(connect, url), 'open');
    assert.equal(await page.evaluate(echo, 'Grüße'), 'Grüße');
    assert.deepEqual((await page.context().cookies()).map(({ name, value }) => [name, value]), [[COOKIE, cookies[1]]]);
  });
  await check('chromium: the session goes on without the service, and another page cannot connect meanwhile', async () => {
    await stop(auth);
    await new Promise((resolve) => { setTimeout(resolve, 2.5 * recheckMs); }); // the proxy asks in vain
    assert.equal(await page.evaluate(echo, 'still here'), 'still here');
    const other = await page.context().newPage();
    await other.goto(`${site}/`);
    assert.equal(await other.evaluate(connect, url), 1006);
    await new Promise((resolve) => { auth.listen(own.auth, '127.0.0.1', resolve); });
    assert.equal(await other.evaluate(connect, url), 'open');
    await other.close();
  });
  await check('chromium: a logout ends the session with 1008 and its reason, and the page cannot connect again', async () => {
    assert.equal(await page.evaluate(echo, 'again'), 'again');
    await page.evaluate((where) => fetch(where), `${site}/oauth2/sign_out`);
    assert.deepEqual(await page.evaluate(() => window.end), [1008, 'no longer admitted', true]);
    assert.equal(await page.evaluate(connect, url), 1006);
  });
  await browser.close();
  process.exit(0);
}

main().catch((error) => { console.log(`not ok chromium runs to completion: ${error.message}`); process.exit(1); });
