// Reasons and rules in words. A feature without a phrase of its own still reads: its name, its value, what is usual.

import { bytes, count, figure } from './format.js';

const plural = (n, one, many) => `${figure(n)} ${n === 1 ? one : many}`;
const percent = (share) => `${count(Math.abs(share) * 100)} %`;

/** feature → phrase of its value */
const PHRASES = {
  usage_decline_30d: (v) => (v >= 0 ? `use down ${percent(v)} in 30 days` : `use up ${percent(v)} in 30 days`),
  days_since_login: (v) => (v < 1 ? 'logged in today' : `no login for ${plural(Math.round(v), 'day', 'days')}`),
  payment_failures_90d: (v) => (v === 0 ? 'no failed payment in 90 days' : `${plural(v, 'failed payment', 'failed payments')} in 90 days`),
  consecutive_failures: (v) => `${plural(v, 'payment', 'payments')} failed in a row`,
  tickets_90d: (v) => (v === 0 ? 'no ticket in 90 days' : `${plural(v, 'ticket', 'tickets')} in 90 days`),
  contract_age_months: (v) => (v < 1 ? 'customer for less than a month' : `customer for ${plural(Math.round(v), 'month', 'months')}`),
  active_days_30d: (v) => `active on ${figure(v)} of 30 days`,
  outage_minutes_30d: (v) => `${plural(Math.round(v), 'minute', 'minutes')} of outage in 30 days`,
  session_drops_90d: (v) => (v === 0 ? 'no dropped session in 90 days' : `${plural(v, 'dropped session', 'dropped sessions')} in 90 days`),
  plan_changes_90d: (v) => `${plural(v, 'plan change', 'plan changes')} in 90 days`,
  price_change_90d: (v) => (v === 0 ? 'price unchanged in 90 days' : `price ${v > 0 ? 'up' : 'down'} ${percent(v)} in 90 days`),
  over_limit_share: (v) => `over the limit ${percent(v)} of the time`,
  nps: (v) => `would recommend: ${figure(v)} of 10`,
  satisfaction: (v) => `satisfaction ${figure(v)}`,
  days_to_renewal: (v) => `renewal in ${plural(Math.round(v), 'day', 'days')}`,
  speed_kmh: (v) => `${figure(v)} km/h between two logins`,
  distance_km: (v) => `${figure(v)} km apart`,
  robust_z: (v) => `${figure(v)} deviations from the usual`,
  failures: (v) => plural(v, 'failed payment', 'failed payments'),
};

const SEVERITIES = ['critical', 'error', 'warning', 'info'];
const KINDS = { churn: 'may leave', anomaly: 'anomaly', outage: 'outage' };
const ACTIONS = { raise: 'raised', update: 'updated', ack: 'acknowledged', resolve: 'resolved', expire: 'expired' };

/** `impossible_travel` → `Impossible travel` */
export function title(name) {
  const text = String(name ?? '').replaceAll('_', ' ');
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export const actionWord = (action) => ACTIONS[action] ?? action ?? '';
export const kindWord = (kind) => KINDS[kind] ?? kind ?? '';

/** A rule's own sentence: long numbers in it with as many digits as tell something, bytes in their unit. */
export function summaryText(summary) {
  return String(summary ?? '')
    .replace(/\b(\d+) bytes\b/g, (_, n) => bytes(Number(n)))
    .replace(/(?<![\w.-])\d+\.\d+(?![\w.])/g, (n) => figure(Number(n)));
}

/** 0 is the gravest; a severity that is not known comes last. */
export function severityRank(severity) {
  const rank = SEVERITIES.indexOf(severity);
  return rank < 0 ? SEVERITIES.length : rank;
}

/** @param {{feature: string, value?: number | null, baseline?: number | null}} reason */
export function reasonText({ feature, value, baseline }) {
  if (typeof value !== 'number') return title(feature).toLowerCase();
  const phrase = PHRASES[feature];
  if (phrase) return phrase(value);
  const amount = feature.startsWith('bytes') ? bytes : figure;
  const usual = typeof baseline === 'number' ? ` (usual ${amount(baseline)})` : '';
  return `${title(feature).toLowerCase()} ${amount(value)}${usual}`;
}

/** The reasons that push a score up, strongest first; all of them when none does. */
export function strongest(reasons, limit) {
  const all = Array.isArray(reasons) ? reasons : [];
  const up = all.filter((r) => (r.contribution ?? 0) > 0);
  const chosen = up.length > 0 ? up : all;
  return [...chosen].sort((a, b) => Math.abs(b.contribution ?? 0) - Math.abs(a.contribution ?? 0)).slice(0, limit);
}
