// The identity provider of npm `oauth2-mock-server`. Prints {"port": N}; then each line of JSON on the input is answered by one.
'use strict';
const path = require('path');
const readline = require('readline');
const { pathToFileURL } = require('url');

async function main() {
  // An ES module, for which NODE_PATH does not count.
  const file = path.join(process.env.NODE_PATH, 'oauth2-mock-server', 'dist', 'index.mjs');
  const { OAuth2Server } = await import(pathToFileURL(file));
  const server = new OAuth2Server();
  await server.start(0, '127.0.0.1');
  const { issuer } = server;

  const commands = {
    // Makes the provider known by this URL.
    issuer: ({ url }) => {
      issuer.url = url;
    },
    // Publishes another key.
    key: ({ kid, algorithm }) => issuer.keys.generate(algorithm, { kid }),
    token: ({ kid, claims, seconds }) => {
      const scopesOrTransform = (_, payload) => Object.assign(payload, claims);
      return issuer.buildToken({ kid, expiresIn: seconds, scopesOrTransform });
    },
  };

  console.log(JSON.stringify({ port: server.address().port }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { name, ...facts } = JSON.parse(line);
    console.log(JSON.stringify((await commands[name](facts)) ?? null));
  }
  await server.stop();
}

main();
