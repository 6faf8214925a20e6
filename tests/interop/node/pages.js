// Chromium, and the servers of the pages that it visits.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');
const { chromium } = require('playwright-core');
const { WebSocketServer } = require('ws');

const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];

/** Starts Chromium, which trusts certificates with the key of this hash only. */
function launch(executablePath, spki) {
  return chromium.launch({ executablePath, headless: true, args: [...FLAGS, `--ignore-certificate-errors-spki-list=${spki}`] });
}

/** Returns a TLS server of pages, which are blank. `answer` sees each request first. */
function pagesWith(chain, key, answer = () => {}) {
  return https.createServer({ cert: fs.readFileSync(chain), key: fs.readFileSync(key) }, (request, response) => {
    response.setHeader('Content-Type', 'text/html');
    answer(request, response);
    response.end('<!DOCTYPE html><title>A page</title>');
  });
}

/** Returns an upstream that echoes messages. */
function echoing() {
  const upstream = http.createServer();
  new WebSocketServer({ server: upstream }).on('connection', (socket) => {
    socket.on('error', () => {});
    socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
  return upstream;
}

module.exports = { echoing, launch, pagesWith };
