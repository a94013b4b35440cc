// `node failover.mjs`: two `headend run` over one Kafka serve the same rooms, and clients that lose the one go on with the other: no
// message missing, none twice, the same epoch. Rounds kill one instance after the other, or stop it in order, while events are posted.
//
// Settings: `HEADEND`, the program; `ROUNDS`, 10 without it; `HEADEND_REQUIRE_KAFKA=1`: a Kafka that does not start is a failure.
// The check starts Kafka itself and stops it. When it fails its folder stays, with what the instances and Kafka said.

import { Centrifuge } from 'centrifuge';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import WebSocket from 'ws';
import { mint, startProxy } from './gateway.mjs';

const HEADEND = process.env.HEADEND ?? 'cargo run --quiet --';
const SECRET = 'test-secret-of-the-failover-check';
const ROUNDS = Number(process.env.ROUNDS ?? 10);
const PARTITIONS = 4;
const SUBSCRIBERS = 16;
const [STREAM, STATE] = ['admin:acme', 'risk:acme'];
const EVENT_EVERY_MS = 20;
/** Every so many events one is posted to both instances, as by a sender that did not hear the first answer. */
const TWICE_EVERY = 10;
const WAIT_MS = 60_000;
const HISTORY_MESSAGES = 1000;

/**
 * How an instance ends, and when it comes back. What is back at once has its tasks again, so that they stand still and nobody else has
 * them; otherwise the other instance takes them over first. An odd number of kinds, so that each kind meets each instance in turn.
 */
const KINDS = [
  { signal: 'SIGKILL', comesBack: 'after the takeover' },
  { signal: 'SIGKILL', comesBack: 'at once' },
  { signal: 'SIGTERM', comesBack: 'after the takeover' },
  { signal: 'SIGKILL', comesBack: 'after the takeover' },
  { signal: 'SIGTERM', comesBack: 'at once' },
];

/** The package's own delays, and a client in a hurry: the one misses messages, the other finds the instance that is left unprepared. */
const CLIENTS = { patient: {}, hasty: { minReconnectDelay: 10, maxReconnectDelay: 20 } };

const file = (name) => fileURLToPath(new URL(name, import.meta.url));
const run = promisify(execFile);
const tell = (line) => console.log(`failover  ${line}`);
const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;
const token = mint({ sub: 'ann', tenant: 'acme', role: 'admin', exp: Math.floor(Date.now() / 1000) + 3 * 3600 }, SECRET);

function equal(got, want, what) {
  const [g, w] = [JSON.stringify(got), JSON.stringify(want)];
  if (g !== w) throw new Error(`${what}: got ${g.slice(0, 300)}, expected ${w.slice(0, 300)}`);
}

async function until(what, test) {
  for (const started = Date.now(); !(await test()); await sleep(5)) {
    if (Date.now() - started > WAIT_MS) throw new Error(`${what}: not within ${WAIT_MS} ms`);
  }
}

function median(values) {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}

/** Its addresses, or nothing, with a line that says so, where Kafka cannot run here. */
async function startKafka(folder) {
  try {
    const { stdout } = await run(file('../../scripts/kafka'), ['start', '--port', '0', '--dir', folder]);
    return stdout.match(/^kafka on (\S+)$/m)[1];
  } catch (error) {
    if (process.env.HEADEND_REQUIRE_KAFKA === '1') throw new Error(`Kafka does not start: ${(error.stderr || error.message).trim()}`);
    tell(`left out: Kafka does not start here: ${(error.stderr || error.message).trim()}`);
  }
}

/** A free port below those that the system gives to outgoing connections: none of these can take it while its instance is down. */
async function freePort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const server = net.createServer();
    const isFree = await new Promise((resolve) => server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true)));
    if (!isFree) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
}

/** A `headend run` that keeps its name, its address and the folder of all. */
async function defineInstance(owner, folder, brokers) {
  const address = `127.0.0.1:${await freePort()}`;
  const [config, log] = [path.join(folder, `${owner}.toml`), path.join(folder, `${owner}.err`)];
  const engine = `[engine]\njob = "${file('./failover.sql')}"\npartitions = ${PARTITIONS}\ndir = "${folder}/data"\nowner = "${owner}"\n`;
  await writeFile(config, `${engine}[log]\nkind = "kafka"\nbrokers = "${brokers}"\n[gateway]\nlisten = "${address}"\nsecret = "${SECRET}"\n`);
  let child;
  let isMeantToEnd = false;
  const ended = () => child === undefined || child.exitCode !== null || child.signalCode !== null;
  const isReady = () => fetch(`http://${address}/readyz`, { signal: AbortSignal.timeout(2_000) }).then((answer) => answer.ok, () => false);

  const start = async () => {
    const said = await open(log, 'a');
    isMeantToEnd = false;
    child = spawn(`exec ${HEADEND} run -c ${config}`, { shell: true, stdio: ['ignore', 'ignore', said.fd] });
    await said.close();
    await until(`\`${owner}\` is ready`, () => {
      if (ended()) throw new Error(`\`${owner}\` ended with ${child.exitCode} before it was ready`);
      return isReady();
    });
  };
  const end = async (signal) => {
    if (ended()) return;
    isMeantToEnd = true;
    const exited = once(child, 'exit');
    child.kill(signal);
    const [code] = await exited;
    if (signal === 'SIGTERM') equal(code, 0, `exit code of \`${owner}\` after ${signal}`);
  };
  /** What a room says: `what` is `state`, or `history` with a query. */
  const read = async (room, what) => {
    const answer = await fetch(`http://${address}/v1/rooms/${room}/${what}`, { headers: { authorization: `Bearer ${token}` } });
    if (!answer.ok) throw new Error(`${what} of \`${room}\` at \`${owner}\` answered ${answer.status}`);
    return answer.json();
  };
  const failure = () => (ended() && !isMeantToEnd ? new Error(`\`${owner}\` ended by itself with ${child.exitCode ?? child.signalCode}`) : undefined);
  return { owner, address, start, end, isReady, read, failure, log: () => readFile(log, 'utf8') };
}

/** Posts an event to an instance; false where no answer says that it was taken. A refusal of the event itself is an error. */
async function post(instance, event) {
  const body = JSON.stringify(event);
  const request = { method: 'POST', headers: { 'content-type': 'application/json' }, body, signal: AbortSignal.timeout(10_000) };
  const answer = await fetch(`http://${instance.address}/v1/events/usage`, request).catch(() => undefined);
  if (answer?.status >= 400 && answer.status < 500) throw new Error(`event ${event.bytes_down} was refused: ${answer.status} ${await answer.text()}`);
  return answer?.ok ?? false;
}

/** Posts numbered events one after the other, in turn to each instance, and again to the other where one does not answer. */
function startSender(instances) {
  const sender = { posted: 0, repeated: 0 };
  let stopped = false;
  const postUntilTaken = async (n) => {
    const event = { tenant: 'acme', subscriber_id: `s${n % SUBSCRIBERS}`, event_id: `e${n}`, event_time: new Date().toISOString(), bytes_down: n };
    for (let attempt = 0; !(await post(instances[(n + attempt) % 2], event)); attempt += 1) {
      sender.repeated += 1;
      if (attempt > 1000) throw new Error(`event ${n} is not taken`);
      await sleep(attempt === 0 ? 0 : EVENT_EVERY_MS);
    }
    if (n % TWICE_EVERY === 0) {
      sender.repeated += 1;
      await Promise.all(instances.map((instance) => post(instance, event)));
    }
  };
  const running = (async () => {
    while (!stopped) {
      await postUntilTaken(sender.posted + 1);
      sender.posted += 1;
      await sleep(EVENT_EVERY_MS);
    }
  })();
  running.catch((error) => (sender.failure = error));
  sender.stop = () => {
    stopped = true;
    return running;
  };
  return sender;
}

/**
 * One address before both instances. The package takes a list of endpoints, but moves on in it only until one has opened for the first
 * time (`_transportWasOpen`): a connection that dies later is opened again at the same endpoint for ever. So users stand a load
 * balancer before their gateways, which asks each whether it is ready. This one stays with an instance as long as that is ready, so
 * that all clients are on the one that a round ends.
 */
async function startBalancer(instances) {
  let current = instances[0];
  const proxy = await startProxy(async () => {
    for (const instance of [current, ...instances]) {
      if (!(await instance.isReady())) continue;
      current = instance;
      return instance.address;
    }
  });
  return { url: `ws://${proxy.address}/connection/websocket`, current: () => current };
}

/** A client with both rooms, and what it was told. */
function startClient(name, options, url) {
  const client = new Centrifuge(url, { websocket: WebSocket, token, ...options });
  const seen = { name, publications: [], numbers: new Set(), rows: new Map(), updates: [], syncs: 0, subscribed: { [STREAM]: [], [STATE]: [] }, away: [] };
  let lostAt;
  client.on('connecting', () => (lostAt = Date.now()));
  client.on('connected', () => seen.away.push(Date.now() - lostAt));
  const subscriptions = [client.newSubscription(STREAM), client.newMapSubscription(STATE)];
  for (const subscription of subscriptions) {
    subscription.on('subscribed', (context) => seen.subscribed[subscription.channel].push(context));
    subscription.on('unsubscribed', ({ code, reason }) => (seen.failure = new Error(`${name} was unsubscribed from \`${subscription.channel}\`: ${code} ${reason}`)));
    subscription.subscribe();
  }
  client.on('disconnected', ({ code, reason }) => (seen.failure = new Error(`${name} was disconnected: ${code} ${reason}`)));
  const [stream, map] = subscriptions;
  stream.on('publication', ({ offset, data }) => {
    seen.publications.push({ offset, n: data.n });
    seen.numbers.add(data.n);
  });
  map.on('sync', ({ entries }) => {
    seen.syncs += 1;
    seen.rows = new Map(entries.map(({ key, data }) => [key, data.n]));
  });
  map.on('update', ({ offset, key, data, removed }) => {
    seen.updates.push(offset);
    if (removed) seen.rows.delete(key);
    else seen.rows.set(key, data.n);
  });
  client.connect();
  seen.subscribes = () => Math.min(...Object.values(seen.subscribed).map((told) => told.length));
  seen.close = () => {
    client.removeAllListeners('disconnected');
    for (const subscription of subscriptions) subscription.removeAllListeners('unsubscribed');
    client.disconnect();
  };
  return seen;
}

/** All that must hold at any time: nothing is missing, nothing comes twice, and each return was a recovery under the same epoch. */
function checkClient({ name, failure, publications, numbers, updates, syncs, subscribed }) {
  if (failure) throw failure;
  for (const [i, { offset, n }] of publications.entries()) {
    if (offset !== i + 1) throw new Error(`${name}: message ${i + 1} of \`${STREAM}\` has offset ${offset} (event ${n}) and comes after ${publications[i - 1]?.offset}`);
  }
  equal(numbers.size, publications.length, `${name}: different events among the messages`);
  for (const [i, offset] of updates.entries()) {
    if (i > 0 && offset <= updates[i - 1]) throw new Error(`${name}: offset ${offset} of \`${STATE}\` comes after ${updates[i - 1]}`);
  }
  equal(syncs, 1, `${name}: snapshots of \`${STATE}\``);
  const epoch = subscribed[STREAM][0].streamPosition.epoch;
  for (const [room, told] of Object.entries(subscribed)) {
    for (const [i, { wasRecovering, recovered, streamPosition }] of told.entries()) {
      equal({ wasRecovering, recovered, epoch: streamPosition.epoch }, { wasRecovering: i > 0, recovered: i > 0, epoch }, `${name}: subscribe ${i + 1} to \`${room}\``);
    }
  }
}

/** Waits for something, unless it is seen before that something else is wrong. */
async function reached(what, { instances, sender, clients }, test) {
  await until(what, () => {
    const failure = [sender.failure, ...clients.map((client) => client.failure), ...instances.map((instance) => instance.failure())].find(Boolean);
    if (failure) throw failure;
    return test();
  });
  clients.forEach(checkClient);
}

/** Waits until every client has a message of every subscriber, and so of every task, that was posted after now. */
function messagesGoOn(what, stage) {
  const from = stage.sender.posted + 2; // the one after it may be on its way
  const numbers = Array.from({ length: SUBSCRIBERS }, (_, i) => from + i);
  return reached(what, stage, () => stage.clients.every((client) => numbers.every((n) => client.numbers.has(n))));
}

/** Starts an instance again; when it is ready it must have all that clients had before. */
async function restart(instance, { clients }) {
  const known = Math.max(...clients.map((client) => client.publications.length));
  await instance.start();
  const { offset } = await instance.read(STREAM, 'history?limit=0');
  if (offset < known) throw new Error(`\`${instance.owner}\` says that it is ready and has ${offset} messages of \`${STREAM}\`; ${known} were told before it started`);
}

/** Ends the instance that the clients are on; returns how long nothing was published. */
async function failOver(round, stage) {
  const { clients, balancer } = stage;
  const { signal, comesBack } = KINDS[(round - 1) % KINDS.length];
  const [lost, subscribes, started] = [balancer.current(), clients.map((client) => client.subscribes()), Date.now()];
  const ended = lost.end(signal);
  const back = reached('the clients are back', stage, () => clients.every((client, i) => client.subscribes() > subscribes[i]));
  const [backMs] = await Promise.all([back.then(() => Date.now() - started), ended]);
  const left = balancer.current();
  if (comesBack === 'at once') await restart(lost, stage);
  await messagesGoOn('messages go on', stage);
  const silentMs = Date.now() - started;
  if (comesBack === 'after the takeover') await restart(lost, stage);
  await messagesGoOn('messages go on with both', stage);
  tell(`round ${round}: ${signal} of \`${lost.owner}\`, back ${comesBack}: clients on \`${left.owner}\` after ${backMs} ms, all tasks told something after ${seconds(silentMs)}`);
  return silentMs;
}

/** The room's history as an instance has it, all of it. */
async function history(instance) {
  const messages = [];
  const { epoch, offset } = await instance.read(STREAM, 'history?limit=0');
  for (let since = Math.max(0, offset - HISTORY_MESSAGES); since < offset; since = messages.at(-1).offset) {
    const page = await instance.read(STREAM, `history?limit=${HISTORY_MESSAGES}&since=${since}`);
    if (page.publications.length === 0) throw new Error(`the history of \`${STREAM}\` at \`${instance.owner}\` has nothing after ${since}, and its offset is ${offset}`);
    messages.push(...page.publications);
  }
  return { epoch, offset, messages };
}

/** Both instances say the same, and what they say is what the client has. */
async function checkRooms(instances, { publications, rows, subscribed }) {
  const offset = publications.length;
  const said = async (instance) => [await history(instance), await instance.read(STATE, 'state')];
  await until('both rooms stand at their last message on both instances', async () => {
    const all = await Promise.all(instances.map(said));
    return all.flat().every((room) => room.offset === offset);
  });
  const [[stream, state], other] = await Promise.all(instances.map(said));
  equal(other, [stream, state], 'what the second instance says, against the first');
  const epoch = subscribed[STREAM][0].streamPosition.epoch;
  equal([stream.epoch, state.epoch], [epoch, epoch], 'epochs');
  equal(stream.messages.map(({ offset, data }) => ({ offset, n: data.n })), publications.slice(-HISTORY_MESSAGES), 'the history, against what the client has');
  const byKey = (entries) => [...entries].sort(([a], [b]) => a.localeCompare(b));
  equal(byKey(state.entries.map(({ key, data }) => [key, data.n])), byKey(rows), 'the rows, against what the client has');
  tell(`both instances: offset ${offset}, epoch ${epoch}, ${stream.messages.length} messages of history, ${state.entries.length} rows, all the same`);
}

/** Every event once, and each subscriber's row is of its newest event. */
async function checkAllCame(client, stage) {
  const { posted } = stage.sender;
  const events = Array.from({ length: posted }, (_, i) => i + 1);
  const isNewest = (n) => client.rows.get(`s${n % SUBSCRIBERS}`) === n;
  await reached('everything posted has come', stage, () => client.numbers.size >= posted && events.slice(-SUBSCRIBERS).every(isNewest)).catch((error) => {
    const missing = events.filter((n) => !client.numbers.has(n));
    throw new Error(`${error.message}; ${client.name} lacks ${missing.length} events: ${missing.slice(0, 20)}`);
  });
  // Different events, as many as were posted, and none beyond the last.
  equal([client.publications.length, Math.max(...client.numbers), client.rows.size], [posted, posted, SUBSCRIBERS], `${client.name}: messages, the newest event, rows`);
}

function report({ sender, clients }, silences) {
  const contexts = clients.flatMap((client) => Object.values(client.subscribed).flatMap((told) => told.slice(1)));
  const withMissed = contexts.filter((context) => context.hasRecoveredPublications).length;
  for (const { name, away } of clients) {
    const times = away.slice(1);
    tell(`${name}: ${times.length} reconnects, without a connection p50 ${median(times)} ms, max ${Math.max(0, ...times)} ms`);
  }
  tell(`${ROUNDS} rounds, ${sender.posted} events, ${sender.repeated} of them posted again, ${clients[0].publications.length} messages; gaps 0, duplicates 0`);
  tell(`${contexts.length} subscribes after a loss, all recovered, ${withMissed} of them with messages that were missed`);
  tell(`until all tasks told something again: p50 ${seconds(median(silences))}, max ${seconds(Math.max(0, ...silences))}`);
}

async function check(stage) {
  const { instances, clients, balancer } = stage;
  await Promise.all(instances.map((instance) => instance.start()));
  clients.push(...Object.entries(CLIENTS).map(([name, options]) => startClient(name, options, balancer.url)));
  await reached('the clients are subscribed', stage, () => clients.every((client) => client.subscribes() > 0));
  stage.sender = startSender(instances);
  await messagesGoOn('messages come', stage);
  const silences = [];
  for (let round = 1; round <= ROUNDS; round += 1) silences.push(await failOver(round, stage));

  await stage.sender.stop();
  for (const client of clients) await checkAllCame(client, stage);
  await checkRooms(instances, clients[0]);
  for (const client of clients) client.close();
  for (const instance of instances) {
    await instance.end('SIGTERM');
    const log = await instance.log();
    for (const sentence of ['came out differently', 'panicked', ' ERROR ']) if (log.includes(sentence)) throw new Error(`\`${instance.owner}\` says \`${sentence}\``);
  }
  report(stage, silences);
}

const folder = await mkdtemp(path.join(tmpdir(), 'headend-failover-'));
const kafka = path.join(folder, 'kafka');
const stage = { instances: [], clients: [], sender: {} };
const interrupted = new Promise((_, reject) => {
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => reject(new Error(`ended by ${signal}`)));
});
const started = Date.now();
try {
  const brokers = await Promise.race([startKafka(kafka), interrupted]);
  if (brokers !== undefined) {
    for (const owner of ['one', 'two']) stage.instances.push(await defineInstance(owner, folder, brokers));
    stage.balancer = await startBalancer(stage.instances);
    await Promise.race([check(stage), interrupted]);
    tell(`ok (${seconds(Date.now() - started)})`);
  }
} catch (error) {
  tell(`FAIL: ${error.message}; what the instances and Kafka said is in \`${folder}\``);
  process.exitCode = 1;
}
for (const instance of stage.instances) await instance.end('SIGKILL');
await run(file('../../scripts/kafka'), ['stop', '--dir', kafka, ...(process.exitCode ? [] : ['--purge'])]).catch((error) => tell(error.message.trim()));
if (!process.exitCode) await rm(folder, { recursive: true, force: true });
process.exit();
