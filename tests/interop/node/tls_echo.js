// An echo server over TLS: npm `ws` on Node's `https`. Arguments: chain, key, lowest and highest version of TLS, and the CA
// whose client certificates it demands, if it does. Prints `{"port": N}`. It answers `tls?` with the parameters of its
// connection.
'use strict';
const fs = require('fs');
const https = require('https');
const { WebSocketServer } = require('ws');

const [cert, key, minVersion, maxVersion, ca] = process.argv.slice(2);
const client = ca ? { ca: fs.readFileSync(ca), requestCert: true, rejectUnauthorized: true } : {};
const server = https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key), minVersion, maxVersion, ...client });
const sockets = new WebSocketServer({ server, maxPayload: 2 ** 26 });
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })));
sockets.on('connection', (socket, request) => {
  const tls = request.socket;
  socket.on('message', (data, isBinary) => {
    if (String(data) === 'tls?') {
      const subject = ca ? tls.getPeerCertificate().subject.CN : null;
      return socket.send(JSON.stringify({ version: tls.getProtocol(), resumed: tls.isSessionReused(), sni: tls.servername || null, subject }));
    }
    return socket.send(data, { binary: isBinary });
  });
  socket.on('error', () => {});
});
