// The gateway under test and what stands around it: its publisher, a proxy that can cut clients off, tokens.
//
// Settings (environment): `SERVE`, the command that starts the gateway and reads `pub ROOM JSON`, `set ROOM KEY JSON`
// and `del ROOM KEY` from its standard input, and prints `ready ADDRESS`; `SECRET`, its HS256 secret.

import { Centrifuge } from 'centrifuge';
import { spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { createInterface } from 'node:readline';
import WebSocket from 'ws';

const SERVE = process.env.SERVE ?? 'cargo run --quiet -p ws-gateway --example serve -- 0';
const SECRET = process.env.SECRET ?? 'test-secret';
const START_MS = 600_000; // the first start builds the gateway
const PUBLISHED_MS = 20_000;

const base64url = (value) => Buffer.from(value).toString('base64url');

export function mint(claims, secret = SECRET) {
  const unsigned = `${base64url('{"alg":"HS256","typ":"JWT"}')}.${base64url(JSON.stringify(claims))}`;
  return `${unsigned}.${createHmac('sha256', secret).update(unsigned).digest('base64url')}`;
}

/** Starts the gateway; `stop()` ends it and tells its exit. */
async function startServer() {
  const child = spawn(SERVE, { shell: true, detached: true, stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const ready = new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => line.startsWith('ready ') && resolve(line.slice(6).trim()));
    exited.then(([code]) => reject(new Error(`\`${SERVE}\` ended with ${code} before it was ready`)));
    setTimeout(() => reject(new Error(`\`${SERVE}\` was not ready within ${START_MS} ms`)), START_MS).unref();
  });
  const send = (lines) => new Promise((resolve, reject) => child.stdin.write(`${lines}\n`, (error) => (error ? reject(error) : resolve())));
  const stop = async () => {
    child.stdin.end();
    if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid, 'SIGTERM');
    await exited;
  };
  const address = (await ready).replace(/^https?:\/\//, '').replace(/^0\.0\.0\.0:/, '127.0.0.1:');
  return { address, send, stop };
}

/**
 * A TCP proxy; `choose()` gives the address for a new connection, or none, and the connection is closed. `cut()` destroys every
 * connection and refuses new ones until `restore()`.
 */
export async function startProxy(choose) {
  const sockets = new Set();
  const server = net.createServer(async (client) => {
    sockets.add(client);
    client.on('error', () => client.destroy()).on('close', () => sockets.delete(client));
    const target = await choose();
    if (target === undefined || client.destroyed) return client.destroy();
    const [host, port] = [target.slice(0, target.lastIndexOf(':')), Number(target.slice(target.lastIndexOf(':') + 1))];
    const upstream = net.connect(port, host);
    for (const [socket, other] of [[client, upstream], [upstream, client]]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => other.destroy());
      socket.on('close', () => {
        sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  });
  const listen = (at) => new Promise((resolve) => server.listen(at, '127.0.0.1', resolve));
  await listen(0);
  const at = server.address().port;
  const cut = async () => {
    if (!server.listening) return;
    const closed = once(server, 'close');
    server.close();
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  const restore = async () => {
    if (!server.listening) await listen(at);
  };
  return { address: `127.0.0.1:${at}`, cut, restore };
}

/** Looks past the proxy, so that it can tell how far a room is while the client under test is cut off. */
function startWatcher(address) {
  const client = new Centrifuge(`ws://${address}/connection/websocket`, {
    websocket: WebSocket,
    token: mint({ sub: 'watcher', tenant: 'acme', role: 'admin', exp: Math.floor(Date.now() / 1000) + 3600 }),
  });
  client.connect();
  const tops = new Map();
  const waiting = new Set();
  const watch = (room) => {
    tops.set(room, 0);
    const reached = (offset) => {
      tops.set(room, Math.max(offset, tops.get(room)));
      for (const look of waiting) look();
    };
    const subscription = client.newSubscription(room, { since: { offset: 0, epoch: '' } });
    subscription.on('subscribed', ({ streamPosition }) => reached(streamPosition?.offset ?? 0));
    subscription.on('publication', ({ offset }) => reached(offset));
    subscription.subscribe();
  };
  /** Resolves when offset `offset` is in the room. */
  const published = (room, offset) =>
    new Promise((resolve, reject) => {
      const late = setTimeout(() => {
        waiting.delete(look);
        reject(new Error(`\`${room}\` stands at ${tops.get(room)} and not at ${offset} after ${PUBLISHED_MS} ms`));
      }, PUBLISHED_MS);
      const look = () => {
        if (tops.get(room) < offset) return;
        clearTimeout(late);
        waiting.delete(look);
        resolve();
      };
      waiting.add(look);
      if (!tops.has(room)) watch(room);
      look();
    });
  return { published, close: () => client.disconnect() };
}

export async function startGateway() {
  const server = await startServer();
  const proxy = await startProxy(() => server.address);
  const watcher = startWatcher(server.address);
  const stop = async () => {
    watcher.close();
    await proxy.cut();
    await server.stop();
  };
  return {
    socketUrl: `ws://${proxy.address}/connection/websocket`,
    httpUrl: `http://${proxy.address}`,
    mint,
    send: server.send,
    published: watcher.published,
    cut: proxy.cut,
    restore: proxy.restore,
    stop,
  };
}
