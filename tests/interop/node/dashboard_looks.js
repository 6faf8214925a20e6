// Tests the looks of the dashboard: every view with axe-core, at two widths and in both themes, and takes screenshots.
'use strict';
const assert = require('assert/strict');
const { check } = require('./checks');
const { VIEWS, axe, go, wide } = require('./dashboard_pages');

/** Checks all views with axe-core and on a narrow screen, and takes screenshots. */
async function looks({ visit, api, sessionOf, tokens, screenshots }) {
  const { events } = await api('/v1/events');
  const views = [
    ...VIEWS.map((view) => [view, view === 'overview' ? '#/' : `#/${view}`]),
    ['session', `#/sessions/${(await sessionOf('bob')).id}`],
    ['event', `#/events/${events.find(({ origin }) => origin?.startsWith('https://longlong')).sequence}`],
  ];
  for (const [width, height] of [
    [1280, 800],
    [320, 720],
  ]) {
    for (const colorScheme of ['light', 'dark']) {
      const name = `at ${width} px in the ${colorScheme} theme`;
      await check(`dashboard: ${name} axe-core finds nothing serious, and no view scrolls sideways`, async () => {
        const found = [];
        const examine = async (page, view) => {
          found.push(...[...(await axe(page)), ...(await wide(page))].map((finding) => `${view}: ${finding}`));
          await page.screenshot({ path: `${screenshots}/dashboard-${view}-${width}-${colorScheme}.png` });
        };
        const page = await visit(tokens.full, { colorScheme, viewport: { width, height } });
        for (const [view, hash] of views) {
          await go(page, hash);
          await page.waitForTimeout(300); // the first answers
          await examine(page, view);
        }
        await go(page, '#/sessions');
        await page.click('#close-all');
        await page.waitForSelector('dialog[open]');
        await examine(page, 'dialog');
        await page.keyboard.press('Escape');
        await page.click('#forget');
        await page.waitForSelector('input[type=password]');
        await examine(page, 'form');
        await page.context().close();
        assert.deepEqual(found, []);
      });
    }
  }
}

module.exports = { looks };
