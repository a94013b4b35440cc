// `node engine.mjs`: `headend run` as the gateway under test (`SERVE="node engine.mjs"`). It reads the publisher's lines and posts
// them as events, which `job.sql` turns into messages of rooms. A row of a state room is posted when the row before it is in the
// room: the engine tells what stands after an epoch, and not what stood in its middle. Settings: `HEADEND`,
// the program; `SECRET`, 16 bytes or more.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { mint } from './gateway.mjs';

const HEADEND = process.env.HEADEND ?? 'cargo run --quiet --';
const SECRET = process.env.SECRET;

const folder = await mkdtemp(path.join(tmpdir(), 'headend-clients-'));
const job = fileURLToPath(new URL('./job.sql', import.meta.url));
await writeFile(
  path.join(folder, 'headend.toml'),
  `[engine]\njob = ${JSON.stringify(job)}\npartitions = 1\n[gateway]\nlisten = "127.0.0.1:0"\nsecret = "${SECRET}"\n`,
);
const child = spawn(`exec ${HEADEND} run -c ${path.join(folder, 'headend.toml')}`, { shell: true, stdio: ['ignore', 'pipe', 'inherit'] });
const exited = once(child, 'exit');
const stop = async () => {
  child.kill('SIGINT');
  await exited;
  await rm(folder, { recursive: true, force: true });
  process.exit();
};
process.on('SIGTERM', stop);
process.on('SIGINT', stop);
exited.then(([code]) => process.exit(code ?? 1));

const base = await new Promise((resolve) => {
  createInterface({ input: child.stdout }).on('line', (line) => line.startsWith('headend runs on ') && resolve(line.slice(16).trim()));
});
console.log(`ready ${base}`);

/** A publisher's line as an event: its type, its payload, and for a row of a state room what will show it. */
function event(line) {
  const [verb, room, ...rest] = line.trim().split(' ');
  const [kind, tenant, subscriber] = room.split(':');
  const envelope = { tenant, event_time: new Date().toISOString() };
  if (verb === 'pub') return { type: 'usage', payload: { ...envelope, subscriber_id: subscriber, bytes_down: JSON.parse(rest.join(' ')).n } };
  const [key, ...json] = rest;
  const n = verb === 'set' ? JSON.parse(json.join(' ')).n : undefined;
  const record = verb === 'set' ? { segment: kind, price_minor: n } : { segment: 'gone' };
  return { type: 'subscriber', payload: { ...envelope, subscriber_id: key, ...record }, row: { room, key, n } };
}

async function post(type, events) {
  const answer = await fetch(`${base}/v1/events/${type}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(events),
  });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
}

const token = mint({ sub: 'publisher', tenant: 'acme', role: 'admin', exp: Math.floor(Date.now() / 1000) + 3600 }, SECRET);

/** Resolves when the room's state has the row, or has it no more. */
async function stands({ room, key, n }) {
  for (;;) {
    const answer = await fetch(`${base}/v1/rooms/${encodeURIComponent(room)}/state`, { headers: { authorization: `Bearer ${token}` } });
    const { entries } = await answer.json();
    if (entries.find((e) => e.key === key)?.data.n === n) return;
  }
}

// In order: messages that wait go in one request, rows one after the other.
let waiting = [];
let posting = Promise.resolve();
createInterface({ input: process.stdin })
  .on('line', (line) => {
    waiting.push(event(line));
    posting = posting.then(async () => {
      while (waiting.length > 0) {
        const other = waiting.findIndex((e) => e.row !== undefined);
        const run = waiting.splice(0, other === 0 ? 1 : other < 0 ? waiting.length : other);
        await post(run[0].type, run.map((e) => e.payload));
        if (run[0].row) await stands(run[0].row);
      }
    });
  })
  .on('close', stop);
