// `node browser.mjs`: the checks in Chromium, with the file that the package ships for a <script> element. The page's
// origin is the gateway's own, as for the dashboard; only the page's files come from here, not from the gateway.
// Setting: `CHROMIUM`, the browser's path.

import { readFile } from 'node:fs/promises';
import { chromium } from 'playwright-core';
import { startGateway } from './gateway.mjs';

const FILES = {
  '/client-checks/': ['text/html', '<!doctype html><title>client checks</title>'],
  '/client-checks/centrifuge.js': ['text/javascript', await readFile(new URL('./node_modules/centrifuge/dist/centrifuge.js', import.meta.url))],
  '/client-checks/checks.mjs': ['text/javascript', await readFile(new URL('./checks.mjs', import.meta.url))],
};

const gateway = await startGateway();
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  // A page that Playwright serves has no address; Chromium takes it for a public one and would keep it from this machine.
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-features=LocalNetworkAccessChecks'],
});
try {
  const page = await browser.newPage();
  await page.route('**/client-checks/**', (route) => {
    const [contentType, body] = FILES[new URL(route.request().url()).pathname] ?? ['text/plain', ''];
    return route.fulfill({ contentType, body });
  });
  await page.goto(`${gateway.httpUrl}/client-checks/`);
  await page.addScriptTag({ url: '/client-checks/centrifuge.js' });
  for (const name of ['mint', 'send', 'published', 'cut', 'restore']) await page.exposeFunction(name, gateway[name]);
  await page.exposeFunction('tell', (line) => console.log(`chromium  ${line}`));
  const failed = await page.evaluate(async ({ socketUrl, httpUrl }) => {
    const { runChecks } = await import('/client-checks/checks.mjs');
    const { Centrifuge, mint, send, published, cut, restore, tell } = globalThis;
    return runChecks({ Centrifuge, options: {}, socketUrl, httpUrl, mint, send, published, cut, restore }, tell);
  }, { socketUrl: gateway.socketUrl, httpUrl: gateway.httpUrl });
  process.exitCode = failed === 0 ? 0 : 1;
} finally {
  await browser.close();
  await gateway.stop();
}
process.exit();
