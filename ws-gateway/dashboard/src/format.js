// Numbers, times and durations as people read them, in the browser's own locale.

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const oneDigit = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const short = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 });
const twoDigits = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const clockTime = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const dayTime = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });

/** Clocks may differ by this much; what lies farther ahead is the end of an open window. */
const AHEAD_MS = 60_000;

const known = (value) => typeof value === 'number' && Number.isFinite(value);

export const count = (value) => (known(value) ? whole.format(value) : '–');
export const compact = (value) => (known(value) ? (Math.abs(value) < 10_000 ? whole : short).format(value) : '–');
export const score = (value) => (known(value) ? twoDigits.format(value) : '–');
export const rate = (value) => (known(value) ? (value < 100 ? oneDigit : whole).format(value) : '–');

/** A figure whose size is not known beforehand, with as many digits as tell something. */
export function figure(value) {
  if (!known(value)) return '–';
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 1 ? 1 : 2;
  return new Intl.NumberFormat(undefined, { maximumFractionDigits: digits }).format(value);
}

export function lag(ms) {
  if (!known(ms)) return { value: '–', unit: '' };
  if (ms < 10_000) return { value: (ms < 10 ? oneDigit : whole).format(ms), unit: 'ms' };
  return { value: oneDigit.format(ms / 1000), unit: 's' };
}

export function bytes(n) {
  if (!known(n)) return '–';
  const [size, unit] = n >= 1e9 ? [1e9, 'GB'] : n >= 1e6 ? [1e6, 'MB'] : n >= 1e3 ? [1e3, 'kB'] : [1, 'B'];
  return `${figure(n / size)} ${unit}`;
}

export function load(mbps) {
  if (!known(mbps)) return '–';
  return mbps >= 1000 ? `${oneDigit.format(mbps / 1000)} Gbit/s` : `${figure(mbps)} Mbit/s`;
}

/** Seconds since 1970 of an RFC 3339 text or of a number in s, ms or µs; null when it is neither. */
export function seconds(time) {
  if (typeof time === 'string') {
    const ms = Date.parse(time);
    return Number.isNaN(ms) ? null : ms / 1000;
  }
  if (!known(time)) return null;
  return time > 1e14 ? time / 1e6 : time > 1e11 ? time / 1e3 : time;
}

/** The time of day; with its date when that is not today. The time of a window that is still open is its end: the day is told alone. */
export function clock(time) {
  const at = seconds(time);
  if (at === null) return '–';
  const date = new Date(at * 1000);
  if (at * 1000 > Date.now() + AHEAD_MS && date.toDateString() === new Date().toDateString()) return 'today';
  return date.toDateString() === new Date().toDateString() ? clockTime.format(date) : dayTime.format(date);
}

export function duration(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}
