// Who is looking, and with which token. A gateway on the operator's own machine hands out a session at `/v1/session`;
// any other answers 404 and the page asks for a token. The token stays in memory: never in a URL, never in storage.

/** @typedef {{token: string, tenant: string, rooms?: unknown, generated?: boolean}} Session */

/** The gateway gives no sessions: the user must bring a token. */
export class NoSession extends Error {}

/** @returns {Promise<Session>} */
export async function fetchSession() {
  const answer = await fetch(new URL('v1/session', document.baseURI), { cache: 'no-store' });
  if (answer.status === 404 || answer.status === 401 || answer.status === 403) throw new NoSession();
  if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
  const session = await answer.json();
  return { ...session, tenant: session.tenant ?? tenantOf(session.token) };
}

/** The tenant that a token's payload names; the gateway, not the page, decides whether the token is good.
 * @param {string} token */
export function tenantOf(token) {
  try {
    const payload = token.trim().split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
    const bytes = Uint8Array.from(atob(payload), (c) => c.charCodeAt(0));
    const { tenant } = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof tenant === 'string' && tenant) return tenant;
  } catch {
    throw new Error('This is not a token: three parts joined by dots were expected.');
  }
  throw new Error('This token names no tenant.');
}
