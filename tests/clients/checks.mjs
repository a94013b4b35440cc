// What a published SDK may expect of the gateway, as checks that run unchanged in Node and in a browser: this file
// imports nothing. Each check gets its own rooms, so none depends on another.
//
// `env` is: Centrifuge (the package's class), options (for its constructor), socketUrl and httpUrl (both through the
// proxy), mint(claims, secret?) → token, send(lines) to the gateway's publisher, published(room, offset) resolves when that
// offset is in the room, cut() and restore() of the proxy. The gateway is fresh: every room starts at offset 1.

const WAIT_MS = 20_000;
const MISSED = [10, 290, 900];
const HISTORY_MESSAGES = 1000;

let roomNumber = 0;
const freshRoom = () => `sub:acme:s${++roomNumber}`;
const inMinutes = (n) => Math.floor(Date.now() / 1000) + n * 60;
const count = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

function equal(got, want, what) {
  const [g, w] = [JSON.stringify(got), JSON.stringify(want)];
  if (g !== w) throw new Error(`${what}: got ${g.slice(0, 300)}, expected ${w.slice(0, 300)}`);
}

function once(emitter, event, what = event) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`no \`${what}\` within ${WAIT_MS} ms`)), WAIT_MS);
    emitter.once(event, (context) => {
      clearTimeout(late);
      resolve(context);
    });
  });
}

/** What a subscription said, in order; `saw(test)` resolves with the first publication that passes, `reached(n)` with the n-th. */
function follow(subscription) {
  const seen = { publications: [], subscribed: [] };
  const waiting = new Set();
  subscription.on('subscribed', (context) => seen.subscribed.push(context));
  subscription.on('publication', (publication) => {
    seen.publications.push(publication);
    for (const look of waiting) look();
  });
  seen.saw = (test) =>
    new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`not among ${seen.publications.length} publications within ${WAIT_MS} ms`)), WAIT_MS);
      const look = () => {
        const found = seen.publications.find(test);
        if (found === undefined) return;
        clearTimeout(late);
        waiting.delete(look);
        resolve(found);
      };
      waiting.add(look);
      look();
    });
  seen.reached = (n) => seen.saw((_, i) => i === n - 1);
  seen.offsets = () => seen.publications.map((p) => p.offset);
  seen.numbers = () => seen.publications.map((p) => p.data.n);
  return seen;
}

/** Runs every check, tells each result and how many failed. */
export async function runChecks(env, tell) {
  const clients = [];
  const open = (options = {}) => {
    const defaults = { token: '', minReconnectDelay: 50, maxReconnectDelay: 200, ...env.options };
    const client = new env.Centrifuge(env.socketUrl, { ...defaults, ...options });
    clients.push(client);
    return client;
  };
  const admin = (more = {}) => env.mint({ sub: 'ann', tenant: 'acme', role: 'admin', exp: inMinutes(10), ...more });
  const connected = async (options = {}) => {
    const client = open({ token: await admin(), ...options });
    client.connect();
    await client.ready(WAIT_MS);
    return client;
  };
  const publish = async (room, from, to) => {
    await env.send(count(from, to).map((n) => `pub ${room} ${JSON.stringify({ n })}`).join('\n'));
  };
  const subscribed = async (client, room, options) => {
    const subscription = client.newSubscription(room, options);
    const seen = follow(subscription);
    subscription.subscribe();
    await subscription.ready(WAIT_MS);
    return { subscription, seen };
  };
  const tools = { env, open, admin, connected, publish, subscribed };

  let failed = 0;
  for (const [name, check] of CHECKS) {
    const started = Date.now();
    try {
      const told = await check(tools);
      await tell(`ok    ${name}${told ? `: ${told}` : ''} (${Date.now() - started} ms)`);
    } catch (error) {
      failed += 1;
      await tell(`FAIL  ${name}: ${error?.message ?? JSON.stringify(error)}`);
    }
    for (const client of clients.splice(0)) client.disconnect();
    await env.restore();
  }
  await tell(`${CHECKS.length - failed} of ${CHECKS.length} checks passed`);
  return failed;
}

const CHECKS = [
  ['connects, subscribes to a room and receives its messages', receives],
  ...MISSED.map((n) => [`cut off while ${n} messages are published, recovers all of them once and in order`, (t) => recovers(t, n)]),
  ['cut off for longer than the history reaches, is told so', outlivesHistory],
  ['is cut off three times in a row and still has every message once', cutsInARow],
  ['a room without the right answers 103', (t) => refuses(t, 'admin:other')],
  ['a room that has no such name answers with an error, not with silence', (t) => refuses(t, 'nonsense')],
  ['an expired token answers 109, and a fresh one connects', expiredToken],
  ['a token near its end is refreshed on the same connection', refreshes],
  ['a token with a wrong signature closes with 3500', (t) => badToken(t, () => t.env.mint({ sub: 'eve', tenant: 'acme', role: 'admin', exp: inMinutes(10) }, 'another-secret'))],
  ['a token that is none closes with 3500', (t) => badToken(t, () => 'not-a-token')],
  ['an unknown method answers 108', unknownMethod],
  ['history pages forward and backward and tells the position', history],
  ['an unsubscribed room is silent and can be subscribed again', unsubscribes],
  ['a state room read over HTTP joins its live changes without a gap', stateOverHttp],
  ['a state room needs a token over HTTP', stateNeedsToken],
  ['a map subscription has the whole state, follows it and recovers', mapSubscription],
];

async function receives({ connected, subscribed, publish }) {
  const room = freshRoom();
  const { seen } = await subscribed(await connected(), room);
  await publish(room, 1, 3);
  await seen.reached(3);
  equal(seen.offsets(), [1, 2, 3], 'offsets');
  equal(seen.numbers(), [1, 2, 3], 'data');
}

async function recovers({ env, connected, subscribed, publish }, missed) {
  const room = freshRoom();
  const client = await connected();
  const { seen } = await subscribed(client, room);
  await publish(room, 1, 5);
  await seen.reached(5);

  const cutOff = once(client, 'connecting', 'connecting after the cut');
  await env.cut();
  await cutOff;
  await publish(room, 6, 5 + missed);
  await env.published(room, 5 + missed);
  equal(seen.publications.length, 5, 'publications while cut off');
  await env.restore();
  await seen.reached(5 + missed);
  await publish(room, 6 + missed, 6 + missed);
  await seen.reached(6 + missed);

  equal(seen.offsets(), count(1, 6 + missed), 'offsets');
  equal(seen.numbers(), count(1, 6 + missed), 'data');
  const { wasRecovering, recovered } = seen.subscribed.at(-1);
  equal({ wasRecovering, recovered }, { wasRecovering: true, recovered: true }, 'the second subscribe');
  return 'recovered';
}

async function outlivesHistory({ env, connected, subscribed, publish }) {
  const room = freshRoom();
  const client = await connected();
  const { subscription, seen } = await subscribed(client, room);
  await publish(room, 1, 1);
  await seen.reached(1);
  const top = HISTORY_MESSAGES + 51;
  await env.cut();
  await publish(room, 2, top);
  await env.published(room, top);
  const again = once(subscription, 'subscribed');
  await env.restore();
  const { wasRecovering, recovered, streamPosition } = await again;
  equal({ wasRecovering, recovered, offset: streamPosition?.offset }, { wasRecovering: true, recovered: false, offset: top }, 'the second subscribe');
  await publish(room, top + 1, top + 1);
  await seen.reached(2);
  equal(seen.offsets(), [1, top + 1], 'offsets');
}

async function cutsInARow({ env, connected, subscribed, publish }) {
  const room = freshRoom();
  const client = await connected();
  const { subscription, seen } = await subscribed(client, room);
  await publish(room, 1, 2);
  await seen.reached(2);
  for (const round of [1, 2, 3]) {
    await env.cut();
    await publish(room, round * 20 + 1 - 18, round * 20 + 2);
    await env.published(room, round * 20 + 2);
    const again = once(subscription, 'subscribed');
    await env.restore();
    await again; // the next cut may come while the recovered messages are still being handed over
  }
  await seen.reached(62);
  equal(seen.offsets(), count(1, 62), 'offsets');
  equal(seen.numbers(), count(1, 62), 'data');
}

async function refuses({ connected }, room) {
  const subscription = (await connected()).newSubscription(room);
  const refused = once(subscription, 'unsubscribed');
  subscription.subscribe();
  const { code, reason } = await refused;
  if (room.includes(':')) equal(code, 103, 'code');
  else if (![102, 103, 107].includes(code)) throw new Error(`code ${code}, expected 102, 103 or 107`);
  return `${code} ${reason}`;
}

async function expiredToken({ open, admin }) {
  let asked = 0;
  const errors = [];
  const client = open({
    token: await admin({ exp: inMinutes(-60) }),
    getToken: () => {
      asked += 1;
      return admin();
    },
  });
  client.on('error', ({ error }) => errors.push(error.code));
  client.connect();
  await client.ready(WAIT_MS);
  equal(errors, [109], 'errors');
  equal(asked, 1, 'calls of getToken');
}

async function refreshes({ open, admin, env, subscribed, publish }) {
  let asked = 0;
  let refreshed;
  const renewal = new Promise((resolve) => (refreshed = resolve));
  const client = open({
    token: await admin({ exp: Math.floor(Date.now() / 1000) + 2 }),
    getToken: () => {
      asked += 1;
      setTimeout(refreshed, 500);
      return admin();
    },
  });
  const connections = [];
  client.on('connected', ({ client: id }) => connections.push(id));
  client.connect();
  await client.ready(WAIT_MS);
  await renewal;
  const room = freshRoom();
  const { seen } = await subscribed(client, room);
  await publish(room, 1, 1);
  await seen.reached(1);
  equal({ asked, connections: connections.length }, { asked: 1, connections: 1 }, 'calls of getToken and connections');
}

async function badToken({ open }, token) {
  const client = open({ token: await token(), getToken: () => Promise.reject(new Error('no other token')) });
  const closed = once(client, 'disconnected');
  client.connect();
  const { code, reason } = await closed;
  equal(code, 3500, 'code');
  return `${code} ${reason}`;
}

async function unknownMethod({ connected }) {
  const client = await connected();
  const error = await client.rpc('no-such-method', {}).then(() => null, (e) => e);
  equal(error?.code, 108, 'code');
}

async function history({ env, connected, subscribed, publish }) {
  const room = freshRoom();
  const { subscription } = await subscribed(await connected(), room);
  await publish(room, 1, 20);
  await env.published(room, 20);

  const position = await subscription.history({ limit: 0 });
  equal([position.publications.length, position.offset], [0, 20], 'position');
  if (!position.epoch) throw new Error('the history names no epoch');
  const all = await subscription.history({ limit: 100 });
  equal(all.publications.map((p) => p.data.n), count(1, 20), 'all of it');
  const page = await subscription.history({ limit: 7, since: { offset: 5, epoch: position.epoch } });
  equal(page.publications.map((p) => p.offset), count(6, 12), 'a page from 5');
  const newest = await subscription.history({ limit: 3, reverse: true });
  equal(newest.publications.map((p) => p.offset), [20, 19, 18], 'the newest three');
}

async function unsubscribes({ env, connected, subscribed, publish }) {
  const [room, other] = [freshRoom(), freshRoom()];
  const client = await connected();
  const { subscription, seen } = await subscribed(client, room);
  await publish(room, 1, 1);
  await seen.reached(1);
  subscription.unsubscribe();
  const { seen: seenOther } = await subscribed(client, other);
  await publish(room, 2, 2);
  await publish(other, 1, 1);
  await seenOther.reached(1);
  equal(seen.numbers(), [1], 'data after unsubscribe');
  subscription.subscribe();
  await subscription.ready(WAIT_MS);
  await publish(room, 3, 3);
  await seen.reached(3);
  equal(seen.numbers(), [1, 2, 3], 'data after subscribing again');
}

const STATE_KEYS = 7;
const ofState = ({ k, n }) => ({ k, n });
const stateLine = (room, n) => `set ${room} k${n % STATE_KEYS} ${JSON.stringify({ k: `k${n % STATE_KEYS}`, n })}`;
const byKey = (rows) => JSON.stringify([...rows].sort(([a], [b]) => a.localeCompare(b)));

async function readState({ env, admin }, room, token) {
  const answer = await fetch(`${env.httpUrl}/v1/rooms/${encodeURIComponent(room)}/state`, { headers: { authorization: `Bearer ${token ?? (await admin())}` } });
  if (!answer.ok) throw new Error(`the state of \`${room}\` answered ${answer.status}`);
  return answer.json();
}

async function stateOverHttp(tools) {
  const { env, connected, subscribed } = tools;
  const room = 'risk:acme';
  const set = (from, to) => env.send(count(from, to).map((n) => stateLine(room, n)).join('\n'));
  const client = await connected();
  await set(1, 40);
  await env.published(room, 40);

  const state = await readState(tools, room);
  equal(state.offset, 40, 'offset of the state');
  const rows = new Map(state.entries.map((e) => [e.key, ofState(e.data)]));
  await set(41, 80); // between the state and the subscribe: exactly what a join can lose
  await env.published(room, 80);
  const { seen } = await subscribed(client, room, { since: { offset: state.offset, epoch: state.epoch } });
  await set(81, 100);
  const last = await seen.saw((p) => p.data.n === 100);

  // A state room conflates: of two changes of one key that wait for the socket, the newer one goes. So offsets may skip,
  // but they rise, and every key ends with its newest row.
  const offsets = seen.offsets();
  if (offsets.some((offset, i) => offset <= (i === 0 ? state.offset : offsets[i - 1]))) throw new Error(`offsets do not rise from ${state.offset}: ${offsets}`);
  equal([last.offset, seen.subscribed[0].recovered], [100, true], 'the last offset, and whether the join was whole');
  for (const { data } of seen.publications) rows.set(data.k, ofState(data));
  const want = new Map(count(94, 100).map((n) => [`k${n % STATE_KEYS}`, { k: `k${n % STATE_KEYS}`, n }]));
  equal(byKey(rows), byKey(want), 'rows');

  await env.send(`del ${room} k0`);
  await env.published(room, 101);
  const after = await readState(tools, room);
  equal(after.entries.some((e) => e.key === 'k0'), false, 'a deleted key is in the state');
  return `${state.entries.length} rows, 60 changes in ${offsets.length} messages`;
}

async function stateNeedsToken({ env }) {
  const answer = await fetch(`${env.httpUrl}/v1/rooms/risk:acme/state`);
  equal(answer.status, 401, 'status without a token');
}

async function mapSubscription({ env, connected }) {
  const room = 'demand:acme';
  await env.send(count(0, 250).map((n) => `set ${room} row${n} ${JSON.stringify({ n })}`).join('\n'));
  await env.published(room, 251);

  const client = await connected();
  const subscription = client.newMapSubscription(room);
  const rows = new Map();
  const waiting = [];
  let syncs = 0;
  const look = () => waiting.forEach((w) => w());
  subscription.on('sync', ({ entries }) => {
    syncs += 1;
    rows.clear();
    for (const { key, data } of entries) rows.set(key, data);
    look();
  });
  subscription.on('update', ({ key, data, removed }) => {
    if (removed) rows.delete(key);
    else rows.set(key, data);
    look();
  });
  const until = (what, test) =>
    new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error(`${what}: not within ${WAIT_MS} ms; ${rows.size} rows`)), WAIT_MS);
      const now = () => test() && (clearTimeout(late), resolve());
      waiting.push(now);
      now();
    });

  subscription.subscribe();
  await until('251 rows of the snapshot', () => rows.size === 251 && rows.get('row250')?.n === 250);
  await env.send(`set ${room} row1 {"n":-1}`);
  await env.send(`del ${room} row2`);
  await until('a change and a removal', () => rows.get('row1')?.n === -1 && !rows.has('row2'));

  await env.cut();
  await env.send(`set ${room} row3 {"n":-3}`);
  await env.send(`del ${room} row4`);
  await env.published(room, 255);
  await env.restore();
  await until('what was missed', () => rows.get('row3')?.n === -3 && !rows.has('row4'));
  equal([syncs, rows.size], [1, 249], 'snapshots and rows');
}
