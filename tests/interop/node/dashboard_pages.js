// Visits of the dashboard in Chromium: its views, its faults, and axe-core on it.
'use strict';
const fs = require('fs');
const { launch } = require('./pages');

const WAIT_MS = 10_000;
const VIEWS = ['overview', 'sessions', 'events', 'config', 'revocations'];
const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
// Chromium logs every failed request as an error of the console, although the page shows it.
const FAILED_LOAD = /^Failed to load resource: (?:the server responded with a status of ([0-9]{3})|net::)/;

/** Starts Chromium for the dashboard at `admin`, and keeps the faults that it reports. */
async function open(executablePath, admin, spki = '') {
  const browser = await launch(executablePath, spki);
  const faults = []; // script errors, console errors and policy violations
  const external = []; // requests to other hosts

  /** Opens the page with this token. `answers` are the statuses of errors that the visit provokes; 0 is no answer. */
  async function visit(token, { answers = [], hash = '#/', ...options } = {}) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT_MS);
    page.on('pageerror', (error) => faults.push(error.stack));
    page.on('console', (message) => {
      const failed = message.text().match(FAILED_LOAD);
      const isProvoked = failed && answers.includes(Number(failed[1] ?? 0));
      if (message.type() === 'error' && !isProvoked) faults.push(message.text());
    });
    page.on('request', (request) => {
      if (new URL(request.url()).host !== new URL(admin).host) external.push(request.url());
    });
    await page.exposeFunction('reportViolation', (text) => faults.push(text));
    await page.addInitScript(() =>
      document.addEventListener('securitypolicyviolation', (event) =>
        window.reportViolation(`${event.effectiveDirective} blocked ${event.blockedURI} ${event.sample}`),
      ),
    );
    await page.goto(token ? `${admin}/#token=${token}` : `${admin}/`);
    if (token) await page.waitForSelector('#nav:not([hidden])');
    if (hash !== '#/') await go(page, hash);
    return page;
  }

  return { browser, faults, external, visit };
}

/** Goes to a view by its address, and waits until its data is there. */
async function go(page, hash) {
  await page.evaluate((to) => {
    location.hash = to;
  }, hash);
  const loaded = {
    '#/': '[data-metric="tollgate_sessions"][data-value]',
    '#/sessions': '.total[data-value]',
    '#/events': '.total:not(:text("Loading"))',
    '#/config': '.rest:not([hidden])',
    '#/revocations': '.list tr, .list .empty:not([hidden])',
  };
  await page.waitForSelector(loaded[hash.split('?')[0]] ?? 'h1', { state: 'attached' });
}

/** Returns the serious and critical findings of axe-core. It runs beside the page, whose policy admits no other script. */
async function axe(page) {
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send('Page.getFrameTree');
  const { executionContextId: contextId } = await session.send('Page.createIsolatedWorld', {
    frameId: frameTree.frame.id,
  });
  await session.send('Runtime.evaluate', { expression: AXE, contextId });
  const { result } = await session.send('Runtime.evaluate', {
    contextId,
    awaitPromise: true,
    returnByValue: true,
    expression: 'axe.run().then(({ violations, passes }) => JSON.stringify({ violations, passes: passes.length }))',
  });
  await session.detach();
  const { violations, passes } = JSON.parse(result.value);
  if (passes < 10) throw new Error(`axe-core applied only ${passes} rules`);
  return violations
    .filter(({ impact }) => ['serious', 'critical'].includes(impact))
    .map(
      ({ id, nodes }) =>
        `${id}: ${nodes
          .slice(0, 3)
          .map(({ target }) => target.join(' '))
          .join(', ')}`,
    );
}

/** Returns the texts that their cell cuts without a title, and what is too wide if the page or a table scrolls sideways. */
function wide(page) {
  return page.evaluate(() => {
    const isHidden = (element) => element.closest('.hidden, thead')?.getBoundingClientRect().width <= 1;
    const isCut = (element) =>
      element.clientWidth > 0 && element.scrollWidth > element.clientWidth + 1 && !element.title;
    const cells = [...document.querySelectorAll('main :is(td, th, dt, dd, li, p, h1, h2, h3)')];
    const isWide = (element) => element.getBoundingClientRect().right > window.innerWidth;
    const isOverflowing = ({ clientWidth, firstElementChild: table }) => table?.offsetWidth > clientWidth + 1;
    const isSideways = document.documentElement.scrollWidth > window.innerWidth;
    const name = ({ tagName, className, textContent }) => `${tagName}.${className} ${textContent.slice(0, 40)}`;
    return [
      ...cells
        .filter((element) => isCut(element) && !isHidden(element))
        .map((element) => `cut: ${name(element)}`)
        .slice(0, 5),
      ...(isSideways ? [...document.querySelectorAll('body *')].filter(isWide) : [])
        .map((element) => `too wide: ${name(element)}`)
        .slice(0, 3),
      ...[...document.querySelectorAll('.list > .table')].filter(isOverflowing).map(() => 'a table is too wide'),
      ...(isSideways ? ['the page scrolls sideways'] : []),
    ];
  });
}

/** Waits until `read()` returns something that `isWanted` accepts, and returns it. */
async function until(read, isWanted, what) {
  const end = Date.now() + WAIT_MS;
  for (;;) {
    const value = await read();
    if (isWanted(value)) return value;
    if (Date.now() > end) throw new Error(`not within ${WAIT_MS} ms: ${what}; the last was ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

module.exports = { VIEWS, axe, go, open, until, wide };
