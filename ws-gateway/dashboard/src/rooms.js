// Rooms as the page sees them: a state room is a map of rows that is always whole, a stream room a list of messages.
// The SDK's map subscription does the joining of snapshot and live changes, and the recovery after a cut.

/** Keeps the rows of a state room. `onChange(rows, key)` gets the whole map; `key` is null when all of it is new.
 * @param {import('centrifuge').Centrifuge} client
 * @param {string} room
 * @param {(rows: Map<string, any>, key: string | null) => void} onChange
 * @param {(message: string) => void} onRefused */
export function openStateRoom(client, room, onChange, onRefused) {
  const rows = new Map();
  const subscription = client.newMapSubscription(room);
  subscription.on('sync', ({ entries }) => {
    rows.clear();
    for (const entry of entries) rows.set(entry.key, entry.data);
    onChange(rows, null);
  });
  subscription.on('update', ({ key, data, removed }) => {
    if (removed) rows.delete(key);
    else rows.set(key, data);
    onChange(rows, key);
  });
  subscription.on('unsubscribed', ({ reason }) => onRefused(`${room}: ${reason}`));
  subscription.subscribe();
}

/** Follows a stream room, newest messages first. What was said before the page opened comes from the room's history,
 * once; a cut is recovered by the SDK, and a history that no longer reaches back is read anew.
 * @param {import('centrifuge').Centrifuge} client
 * @param {string} room
 * @param {number} keep how many messages to keep
 * @param {(messages: {offset: number, data: any}[]) => void} onChange
 * @param {(message: string) => void} onRefused */
export function openStreamRoom(client, room, keep, onChange, onRefused) {
  let messages = [];
  const add = (publications) => {
    const byOffset = new Map([...messages, ...publications].map((m) => [m.offset ?? 0, m]));
    messages = [...byOffset.values()].sort((a, b) => (b.offset ?? 0) - (a.offset ?? 0)).slice(0, keep);
    onChange(messages);
  };
  const subscription = client.newSubscription(room);
  subscription.on('publication', (publication) => add([publication]));
  subscription.on('subscribed', async ({ recovered }) => {
    if (recovered) return;
    messages = []; // their offsets may belong to an epoch that is over
    try {
      add((await subscription.history({ limit: keep, reverse: true })).publications);
    } catch {
      // A room without history, or without the right to it: the list starts with what comes now.
    }
  });
  subscription.on('unsubscribed', ({ reason }) => onRefused(`${room}: ${reason}`));
  subscription.subscribe();
}
