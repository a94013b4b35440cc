// The bands of the churn score; a row that names its band is believed.

const MEDIUM_FROM = 0.4;
const HIGH_FROM = 0.7;

/** @param {{band?: string, score: number}} row */
export const bandOf = ({ band, score }) => band ?? (score >= HIGH_FROM ? 'high' : score >= MEDIUM_FROM ? 'medium' : 'low');
