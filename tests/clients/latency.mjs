// `node latency.mjs`: how long an event takes from its append to the socket of the unchanged client, at fixed rates.
//
// Usage events go through the door of one `headend run`, in requests of 10 ms each; its job counts them by subscriber and minute,
// writes the windows to Parquet, and tells the room `admin:acme` of each large event, 200 of them a second at every rate. The append time
// is the log's own (Kafka's in whole milliseconds, so up to 1 ms of each figure is its rounding); the clock is that of this machine, on
// which everything runs. Ends with 1 when a message is missing, or not every event was accepted.
//
// Settings (environment): `HEADEND`, the program; `KAFKA`, the addresses of a broker that nobody has used before, else the embedded log;
// `RATES`, events a second, one after the other (1000,10000,50000); `DURATION`, seconds of each that count (20).

import { Centrifuge } from 'centrifuge';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { createHistogram } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import WebSocket from 'ws';
import { mint } from './gateway.mjs';

const HEADEND = process.env.HEADEND ?? 'cargo run --quiet --release --';
const KAFKA = process.env.KAFKA;
const RATES = (process.env.RATES ?? '1000,10000,50000').split(',').map(Number);
const SECONDS = Number(process.env.DURATION ?? 20);
const SECRET = 'secret-of-the-latency-bench';
const REQUEST_MS = 10;
const LARGE_A_SECOND = 200;
const WARM_UP_SECONDS = 5;
const LAST_MESSAGE_MS = 30_000;
const SUBSCRIBERS = 100_000;
const LARGE_BYTES = 1_000_000_000;

const JOB = `CREATE SOURCE usage (tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds') WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW usage_1m AS
SELECT tenant, subscriber_id, window_start, window_end, SUM(bytes_down + bytes_up) AS bytes, COUNT(*) AS records
FROM TUMBLE(usage, event_time, INTERVAL '1 minute') GROUP BY tenant, subscriber_id, window_start, window_end EMIT ON WINDOW CLOSE;
CREATE MATERIALIZED VIEW large AS SELECT tenant, subscriber_id, event_id, bytes_down FROM usage WHERE bytes_down >= ${LARGE_BYTES};
CREATE SINK usage_files FROM usage_1m WITH (connector = 'parquet', path = 'out');
CREATE SINK large_room FROM large WITH (connector = 'room', room = 'admin:{tenant}', type = 'stream');
`;

async function startHeadend(folder) {
  const log = KAFKA ? `[log]\nkind = "kafka"\nbrokers = "${KAFKA}"\n` : '';
  await writeFile(path.join(folder, 'job.sql'), JOB);
  const config = path.join(folder, 'headend.toml');
  await writeFile(config, `[engine]\njob = "job.sql"\npartitions = 4\n${log}[gateway]\nlisten = "127.0.0.1:0"\nsecret = "${SECRET}"\n`);
  const child = spawn(`exec ${HEADEND} run -c ${config} --log warn`, { shell: true, stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const address = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => line.startsWith('headend runs on ') && resolve(line.slice(16).trim()));
    exited.then(([code]) => reject(new Error(`\`${HEADEND} run\` ended with ${code}`)));
  });
  return { address, stop: () => (child.kill('SIGINT'), exited) };
}

const nowUs = () => Math.round((performance.timeOrigin + performance.now()) * 1_000);

/** Collects the latency of each message in the histogram that is set. */
function listen(address) {
  const token = mint({ sub: 'bench', tenant: 'acme', role: 'admin', exp: Math.floor(Date.now() / 1000) + 3600 }, SECRET);
  const client = new Centrifuge(`${address.replace('http', 'ws')}/connection/websocket`, { websocket: WebSocket, token });
  const heard = { histogram: undefined, messages: 0, client };
  const room = client.newSubscription('admin:acme');
  room.on('publication', ({ tags }) => {
    heard.messages += 1;
    heard.histogram?.record(Math.max(1, nowUs() - Number(tags.appended_us)));
  });
  const subscribed = once(room, 'subscribed');
  room.subscribe();
  client.connect();
  return subscribed.then(() => heard);
}

/** Posts at a fixed rate: what is late is posted at once, and what was due counts. Returns how many events and large ones were accepted. */
class Poster {
  constructor(address) {
    this.url = new URL('/v1/events/usage', address);
    this.agent = new http.Agent({ keepAlive: true, maxSockets: 16 });
    Object.assign(this, { sent: 0, large: 0, refused: 0 });
  }

  body(events, largeEvery) {
    const time = new Date().toISOString();
    let lines = '';
    for (let n = 0; n < events; n += 1, this.sent += 1) {
      const isLarge = this.sent % largeEvery === 0;
      if (isLarge) this.large += 1;
      const subscriber = (this.sent * 7919) % SUBSCRIBERS;
      lines += `{"tenant":"acme","subscriber_id":"s${subscriber}","event_id":"e${this.sent}","event_time":"${time}","bytes_down":${isLarge ? LARGE_BYTES : 1500},"bytes_up":90}\n`;
    }
    return lines;
  }

  post(body) {
    return new Promise((resolve) => {
      const headers = { 'content-type': 'application/x-ndjson', 'content-length': Buffer.byteLength(body) };
      const request = http.request(this.url, { method: 'POST', agent: this.agent, headers }, (answer) => {
        if (answer.statusCode !== 200) this.refused += 1;
        answer.resume().on('end', resolve);
      });
      request.on('error', () => ((this.refused += 1), resolve())).end(body);
    });
  }

  async run(rate, seconds) {
    const [started, before, pending] = [performance.now(), this.sent, new Set()];
    for (let due = 0; due < rate * seconds; ) {
      await delay(REQUEST_MS);
      due = Math.min(rate * seconds, Math.floor(((performance.now() - started) / 1_000) * rate));
      const posted = this.post(this.body(due - (this.sent - before), Math.max(1, Math.round(rate / LARGE_A_SECOND))));
      pending.add(posted.then(() => pending.delete(posted)));
    }
    await Promise.all(pending);
    return (performance.now() - started) / 1_000;
  }
}

async function measure(rate, poster, heard) {
  heard.histogram = undefined;
  await poster.run(rate, WARM_UP_SECONDS);
  const histogram = createHistogram();
  heard.histogram = histogram;
  const seconds = await poster.run(rate, SECONDS);
  const since = Date.now();
  while (heard.messages < poster.large && Date.now() - since < LAST_MESSAGE_MS) await delay(20);
  const ms = (us) => Number((us / 1_000).toFixed(2));
  const [p50, p90, p99, max] = [...[50, 90, 99].map((p) => ms(histogram.percentile(p))), ms(histogram.max)];
  return { log: KAFKA ? 'kafka' : 'embedded', rate, posted_a_second: Math.round((rate * SECONDS) / seconds), messages: histogram.count, p50, p90, p99, max, missing: poster.large - heard.messages, refused: poster.refused };
}

const folder = await mkdtemp(path.join(tmpdir(), 'headend-latency-'));
const headend = await startHeadend(folder);
try {
  console.log(`append to socket in ms; ${availableParallelism()} cores, everything on this machine`);
  const heard = await listen(headend.address);
  const poster = new Poster(headend.address);
  for (const rate of RATES) {
    const result = await measure(rate, poster, heard);
    console.log(JSON.stringify(result));
    if (result.missing !== 0 || result.refused !== 0) process.exitCode = 1;
  }
  heard.client.disconnect();
} finally {
  await headend.stop();
  await rm(folder, { recursive: true, force: true });
}
process.exit();
