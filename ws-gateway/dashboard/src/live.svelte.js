// Everything the page shows, kept up to date from the rooms. Messages may come by the thousand; the visible state is
// replaced at most five times a second, so that a burst costs one repaint and not one per message.

import { Centrifuge, UnauthorizedError } from 'centrifuge';
import { openStateRoom, openStreamRoom } from './rooms.js';
import { fetchSession, NoSession } from './session.js';
import { seconds } from './format.js';

const REPAINT_MS = 200;
const FEED_MAX = 100;
/** An hour of windows of ten seconds. */
const DEMAND_POINTS_MAX = 360;
/** The two moving plots show this much time. */
export const WINDOW_S = 180;
/** Without a sample for this long the line is broken instead of drawn through. */
const GAP_S = 6;

export class Live {
  connection = $state.raw({ state: 'connecting', since: Date.now(), reason: '' });
  stats = $state.raw(/** @type {any} */ (null));
  /** Samples of the engine's figures by the time they came: [seconds, events/s, lag in ms]. */
  samples = $state.raw([[], [], []]);
  risk = $state.raw(/** @type {any[]} */ ([]));
  openAlerts = $state.raw(/** @type {any[]} */ ([]));
  feed = $state.raw(/** @type {{offset: number, data: any}[]} */ ([]));
  demand = $state.raw(/** @type {{key: string, region: string, latest: any, points: Map<number, number>}[]} */ ([]));
  refused = $state.raw(/** @type {string[]} */ ([]));

  #pending = new Map();
  #connectedOnce = false;
  #regions = new Map();
  #client;
  #repainting;

  /** @param {import('./session.js').Session} session
   * @param {boolean} renewable the gateway hands out sessions, so a new token can be fetched */
  constructor(session, renewable) {
    const url = new URL('connection/websocket', document.baseURI);
    url.protocol = url.protocol.replace('http', 'ws');
    this.#client = new Centrifuge(url.href, {
      token: session.token,
      getToken: () => (renewable ? newToken() : Promise.reject(new UnauthorizedError('token expired'))),
      name: 'dashboard',
      maxReconnectDelay: 5000,
    });
    this.#watchConnection();
    this.#openRooms((kind) => `${kind}:${session.tenant}`);
    this.#client.connect();
    this.#repainting = setInterval(() => this.#repaint(), REPAINT_MS);
  }

  close() {
    clearInterval(this.#repainting);
    this.#client.disconnect();
  }

  #watchConnection() {
    const become = (state, reason = '') => {
      if (state === this.connection.state && reason === this.connection.reason) return;
      const since = state === this.connection.state ? this.connection.since : Date.now();
      this.connection = { state, since, reason };
    };
    this.#client.on('connected', () => {
      this.#connectedOnce = true;
      become('connected');
    });
    this.#client.on('connecting', ({ reason }) => become(this.#connectedOnce ? 'reconnecting' : 'connecting', this.#connectedOnce ? reason : ''));
    this.#client.on('disconnected', ({ reason }) => become('offline', reason));
  }

  #openRooms(room) {
    const refused = (message) => (this.refused = [...this.refused, message]);
    const state = (kind, onChange) => openStateRoom(this.#client, room(kind), onChange, refused);
    state('stats', (rows) => this.#sample(rows.get('engine')));
    state('risk', (rows) => this.#later('risk', () => (this.risk = [...rows].map(([key, row]) => ({ subscriber_id: key, ...row, key })))));
    state('alerts', (rows) => this.#later('open', () => (this.openAlerts = [...rows].map(([key, row]) => ({ ...row, key })))));
    state('demand', (rows, key) => this.#addDemand(rows, key));
    openStreamRoom(this.#client, room('admin'), FEED_MAX, (feed) => this.#later('feed', () => (this.feed = feed)), refused);
  }

  #sample(row) {
    if (!row) return;
    this.#later('stats', () => (this.stats = row));
    const at = Date.now() / 1000;
    const [times, rates, lags] = this.samples;
    const from = times.findIndex((t) => t >= at - WINDOW_S - GAP_S);
    const kept = (column) => (from < 0 ? [] : column.slice(from));
    const gap = times.length > 0 && at - times[times.length - 1] > GAP_S;
    const next = [
      [...kept(times), ...(gap ? [at - GAP_S / 2] : []), at],
      [...kept(rates), ...(gap ? [null] : []), row.events_per_s ?? null],
      [...kept(lags), ...(gap ? [null] : []), row.lag_ms ?? null],
    ];
    this.samples = next;
  }

  /** One point per region and window: a window that is corrected moves its point, it does not add one. */
  #addDemand(rows, changed) {
    for (const [key, row] of changed === null ? rows : [[changed, rows.get(changed)]]) {
      if (!row) {
        this.#regions.delete(key);
        continue;
      }
      const entry = this.#regions.get(key) ?? { key, region: row.region ?? key, latest: row, points: new Map() };
      entry.latest = row;
      const [at, load] = [seconds(row.window_end), loadMbps(row)];
      if (at !== null && load !== null) entry.points.set(at, load);
      if (entry.points.size > DEMAND_POINTS_MAX) entry.points.delete(Math.min(...entry.points.keys()));
      this.#regions.set(key, entry);
    }
    this.#later('demand', () => {
      this.demand = [...this.#regions.values()].map((e) => ({ ...e })).sort((a, b) => a.region.localeCompare(b.region));
    });
  }

  #later(what, apply) {
    this.#pending.set(what, apply);
  }

  #repaint() {
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const apply of pending) apply();
  }
}

async function newToken() {
  try {
    return (await fetchSession()).token;
  } catch (error) {
    if (error instanceof NoSession) throw new UnauthorizedError('the gateway gives no sessions any more');
    throw error;
  }
}

/** Mean load of the row's window of ten seconds. */
function loadMbps(row) {
  return typeof row.bytes_10s === 'number' ? (row.bytes_10s * 8) / 10 / 1e6 : null;
}
