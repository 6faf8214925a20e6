// Tests mqtt.js behind the recipe: all qualities of service, retained messages, a will, keep-alive, large payloads.
'use strict';
const assert = require('assert/strict');
const mqtt = require('mqtt');
const { check, facts } = require('../node/checks');

async function main() {
  const { base } = await facts({});
  const url = `${base.replace('http', 'ws')}/mqtt`;
  const open = (options = {}) => mqtt.connectAsync(url, { reconnectPeriod: 0, ...options });
  const message = (client) => new Promise((resolve) => { client.once('message', (topic, data) => resolve([topic, data])); });

  for (const protocolVersion of [4, 5]) {
    await check(`MQTT: version ${protocolVersion === 4 ? '3.1.1' : '5'} with QoS 0, 1 and 2, and retained messages`, async () => {
      const client = await open({ protocolVersion });
      await client.subscribeAsync('room/+', { qos: 2 });
      for (const qos of [0, 1, 2]) {
        const got = message(client);
        await client.publishAsync(`room/${qos}`, `Grüße ${qos}`, { qos });
        const [topic, data] = await got;
        assert.deepEqual([topic, String(data)], [`room/${qos}`, `Grüße ${qos}`]);
      }
      await client.publishAsync('kept/one', 'retained', { retain: true, qos: 1 });
      const kept = message(client);
      await client.subscribeAsync('kept/#');
      assert.equal(String((await kept)[1]), 'retained');
      await client.endAsync();
    });
  }
  await check('MQTT: payloads of 32 KiB pass both ways', async () => {
    const client = await open();
    await client.subscribeAsync('large');
    for (let i = 0; i < 2; i += 1) {
      const sent = Buffer.alloc(32 * 1024, i); // Mosquitto 2.0 reads 4 KiB in 100 ms
      const got = message(client);
      await client.publishAsync('large', sent, { qos: 1 });
      assert.equal(Buffer.compare((await got)[1], sent), 0);
    }
    await client.endAsync();
  });
  await check('MQTT: a keep-alive of a second is answered', async () => {
    const client = await open({ keepalive: 1 });
    let answers = 0;
    client.on('packetreceive', (packet) => { if (packet.cmd === 'pingresp') answers += 1; });
    await new Promise((resolve) => { setTimeout(resolve, 3500); });
    assert.deepEqual([client.connected, answers >= 2], [true, true]);
    await client.endAsync();
  });
  await check('MQTT: the will is published when a client is gone without a DISCONNECT', async () => {
    const [watching, gone] = [await open(), await open({ will: { topic: 'gone', payload: Buffer.from('ada'), qos: 1 } })];
    await watching.subscribeAsync('gone');
    const will = message(watching);
    gone.stream.destroy();
    assert.equal(String((await will)[1]), 'ada');
    await watching.endAsync();
  });
  process.exit(0);
}

main().catch((error) => { console.log(`not ok MQTT runs to completion: ${error.message}`); process.exit(1); });
