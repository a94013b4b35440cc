-- The operator's job: churn risk, anomalies and demand of a broadband operator, as they stand after every event.
--
--   sources   what the operator's systems send
--   churn     features per subscriber, their score, its reasons
--   anomalies usage spikes, impossible travel, payment fraud, nodes that are down
--   demand    load per region, and where it stands among the last 28 days
--   alerts    which of it somebody must see
--   rooms     which of it a dashboard shows
--
-- Thresholds are written here and nowhere else: copy the file and change them. `headend explain operator.sql` prints
-- what it becomes; docs/functions.md has every function that is not Postgres's own.


-- == sources ==========================================================================================================

CREATE TABLE subscriber (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, plan_type TEXT, price_minor BIGINT, customer_since TIMESTAMPTZ,
  region TEXT, node_id TEXT, segment TEXT
) WITH (topic = 'subscriber.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, node_id TEXT, service TEXT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE SOURCE login (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, outcome TEXT, country TEXT, city TEXT, latitude DOUBLE, longitude DOUBLE,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'login.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE SOURCE payment (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, outcome TEXT, amount_minor BIGINT, currency TEXT, method TEXT, failure_code TEXT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'payment.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE SOURCE ticket (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, ticket_id TEXT, action TEXT, priority TEXT, category TEXT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'ticket.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE SOURCE session (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, action TEXT, session_id TEXT, node_id TEXT, terminate_cause TEXT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'session.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE SOURCE subscription (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, action TEXT, plan_id TEXT, price_minor BIGINT, reason TEXT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'subscription.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE SOURCE network (
  tenant TEXT, node_id TEXT, event_time TIMESTAMPTZ, region TEXT, metric TEXT, value DOUBLE,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'network.v1', format = 'json', key = 'tenant, node_id');


-- == churn ============================================================================================================

-- What was used. Windows of 30 and of 60 days that slide by a day and are told while they are open. In a join such a
-- view is one row per subscriber, that of the window which ends next: the last 29 days and today so far, moved on at
-- midnight (UTC) whether the subscriber does something or not, and gone when he has been silent for all of it.

CREATE MATERIALIZED VIEW usage_30d AS
SELECT tenant, subscriber_id, window_start, window_end, SUM(bytes_down + bytes_up) AS bytes
FROM HOP(usage, event_time, INTERVAL '1 day', INTERVAL '30 days')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT CHANGES;

CREATE MATERIALIZED VIEW usage_60d AS
SELECT tenant, subscriber_id, window_start, window_end, SUM(bytes_down + bytes_up) AS bytes
FROM HOP(usage, event_time, INTERVAL '1 day', INTERVAL '60 days')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT CHANGES;

CREATE MATERIALIZED VIEW last_login AS
SELECT tenant, subscriber_id, MAX(event_time) AS logged_in_at
FROM login
WHERE outcome = 'ok'
GROUP BY tenant, subscriber_id
EMIT CHANGES;

CREATE MATERIALIZED VIEW payment_failures_90d AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS failures
FROM HOP(payment, event_time, INTERVAL '1 day', INTERVAL '90 days')
WHERE outcome = 'failed'
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT CHANGES;

CREATE MATERIALIZED VIEW tickets_90d AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS tickets
FROM HOP(ticket, event_time, INTERVAL '1 day', INTERVAL '90 days')
WHERE action = 'opened'
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT CHANGES;

CREATE MATERIALIZED VIEW session_drops_90d AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS drops
FROM HOP(session, event_time, INTERVAL '1 day', INTERVAL '90 days')
WHERE action = 'stop' AND terminate_cause = 'Lost-Carrier'
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT CHANGES;

-- What the price did: the difference to the subscriber's price before; null for the first that is known.
CREATE MATERIALIZED VIEW price_steps AS
SELECT tenant, subscriber_id, event_time, price_minor - prev(price_minor) AS step_minor
FROM subscription
WHERE action IN ('created', 'renewed', 'upgraded', 'downgraded');

CREATE MATERIALIZED VIEW price_change_90d AS
SELECT tenant, subscriber_id, window_start, window_end, SUM(step_minor) AS change_minor
FROM HOP(price_steps, event_time, INTERVAL '1 day', INTERVAL '90 days')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT CHANGES;

CREATE MATERIALIZED VIEW subscription_now AS
SELECT tenant, subscriber_id, LAST_VALUE(action) AS action
FROM subscription
GROUP BY tenant, subscriber_id
EMIT CHANGES;

-- The features of every subscriber who has not cancelled, as they are now: an event changes them in the epoch it comes
-- in with, and the passing of time at every hour. The last seven columns are what the model takes, in its order. A side of the
-- join without a row is null; `GREATEST` passes over nulls, so that nothing counts as 0.
CREATE MATERIALIZED VIEW churn_features AS
SELECT s.tenant AS tenant, s.subscriber_id AS subscriber_id, s.region AS region, s.node_id AS node_id, s.segment AS segment,
  -- 1 − last 30 days / the 30 days before, not below −1; 0 when there were none.
  CASE WHEN u60.bytes > GREATEST(u30.bytes, 0)
    THEN GREATEST(-1.0, 1.0 - CAST(GREATEST(u30.bytes, 0) AS DOUBLE) / CAST(u60.bytes - GREATEST(u30.bytes, 0) AS DOUBLE))
    ELSE 0.0 END AS usage_decline_30d,
  -- Whole days, so that a score changes for a reason and not with every hour. Null, which the model takes as its mean, when no
  -- login is known; a year at most.
  CASE WHEN l.logged_in_at IS NOT NULL
    THEN LEAST(365.0, GREATEST(0.0, FLOOR((date_part('epoch', now()) - date_part('epoch', l.logged_in_at)) / 86400.0))) END AS days_since_login,
  CAST(GREATEST(p.failures, 0) AS DOUBLE) AS payment_failures_90d,
  CAST(GREATEST(t.tickets, 0) AS DOUBLE) AS tickets_90d,
  CAST(GREATEST(d.drops, 0) AS DOUBLE) AS session_drops_90d,
  -- Whole months of 30.4375 days.
  CASE WHEN s.customer_since IS NOT NULL
    THEN GREATEST(0.0, FLOOR((date_part('epoch', now()) - date_part('epoch', s.customer_since)) / 2629800.0)) END AS contract_age_months,
  -- As a share of the price before.
  CASE WHEN s.price_minor > c.change_minor
    THEN CAST(c.change_minor AS DOUBLE) / CAST(s.price_minor - c.change_minor AS DOUBLE)
    ELSE 0.0 END AS price_change_90d
FROM subscriber s
LEFT JOIN usage_30d u30 ON u30.tenant = s.tenant AND u30.subscriber_id = s.subscriber_id
LEFT JOIN usage_60d u60 ON u60.tenant = s.tenant AND u60.subscriber_id = s.subscriber_id
LEFT JOIN last_login l ON l.tenant = s.tenant AND l.subscriber_id = s.subscriber_id
LEFT JOIN payment_failures_90d p ON p.tenant = s.tenant AND p.subscriber_id = s.subscriber_id
LEFT JOIN tickets_90d t ON t.tenant = s.tenant AND t.subscriber_id = s.subscriber_id
LEFT JOIN session_drops_90d d ON d.tenant = s.tenant AND d.subscriber_id = s.subscriber_id
LEFT JOIN price_change_90d c ON c.tenant = s.tenant AND c.subscriber_id = s.subscriber_id
LEFT JOIN subscription_now n ON n.tenant = s.tenant AND n.subscriber_id = s.subscriber_id
WHERE n.action IS DISTINCT FROM 'cancelled'
EMIT CHANGES;

CREATE MATERIALIZED VIEW churn_risk AS
SELECT tenant, subscriber_id, region, node_id, segment,
  churn_score(usage_decline_30d, days_since_login, payment_failures_90d, tickets_90d, session_drops_90d, contract_age_months, price_change_90d) AS score,
  churn_band(churn_score(usage_decline_30d, days_since_login, payment_failures_90d, tickets_90d, session_drops_90d, contract_age_months, price_change_90d)) AS band,
  churn_reasons(usage_decline_30d, days_since_login, payment_failures_90d, tickets_90d, session_drops_90d, contract_age_months, price_change_90d) AS reasons
FROM churn_features;


-- == anomalies ========================================================================================================

-- A record far above the subscriber's own last 100. Totals of a day are of another length and no baseline.
CREATE MATERIALIZED VIEW usage_spikes AS
SELECT tenant, subscriber_id, event_time, region, node_id, bytes_down + bytes_up AS bytes,
  robust_z(CAST(bytes_down + bytes_up AS DOUBLE), 100) AS z
FROM usage
WHERE service IS DISTINCT FROM 'day_total';

-- Two successful logins of an account one after the other: how far apart, and how fast one would have had to travel.
-- Logins less than a minute apart count as a minute, so that two devices at home are no supersonic flight.
CREATE MATERIALIZED VIEW login_steps AS
SELECT tenant, subscriber_id, event_time, city, country, prev(city) AS city_before, prev(country) AS country_before,
  haversine_km(prev(latitude), prev(longitude), latitude, longitude) AS km,
  GREATEST(date_part('epoch', event_time) - date_part('epoch', prev(event_time)), 60.0) / 3600.0 AS hours
FROM login
WHERE outcome = 'ok' AND latitude IS NOT NULL AND longitude IS NOT NULL;

-- Failed payments of ten minutes, looked at every minute and while the window is open, and how often the card changed between
-- one and the next: a forgotten limit is one card, a stolen list is many.
CREATE MATERIALIZED VIEW failed_payments AS
SELECT tenant, subscriber_id, event_time, amount_minor, CASE WHEN method <> prev(method) THEN 1 ELSE 0 END AS card_changed
FROM payment
WHERE outcome = 'failed';

CREATE MATERIALIZED VIEW payment_failures_10m AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS failures, SUM(card_changed) AS card_changes, SUM(amount_minor) AS amount_minor
FROM HOP(failed_payments, event_time, INTERVAL '1 minute', INTERVAL '10 minutes')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT CHANGES;

-- What each access node last said of itself.
CREATE MATERIALIZED VIEW node_up AS
SELECT tenant, node_id, region, event_time, value AS up
FROM network
WHERE metric = 'up';


-- == demand ===========================================================================================================

-- By another key than the subscriber's: level 2. Level 1 sends partial sums, not rows.
CREATE MATERIALIZED VIEW load_5m AS
SELECT tenant, region, window_start, window_end, SUM(bytes_down + bytes_up) AS bytes, COUNT(*) AS records
FROM TUMBLE(usage, event_time, INTERVAL '5 minutes')
WHERE region IS NOT NULL
GROUP BY tenant, region, window_start, window_end
EMIT ON WINDOW CLOSE;

-- The demand factor D in [0, 1]: the share of the region's last 28 days (8,064 windows of five minutes) that were not busier.
CREATE MATERIALIZED VIEW demand_factor AS
SELECT tenant, region, window_start, window_end, bytes, records, percent_rank(CAST(bytes AS DOUBLE), 8064) AS demand
FROM load_5m;

CREATE MATERIALIZED VIEW load_10s AS
SELECT tenant, region, window_start, window_end, SUM(bytes_down + bytes_up) AS bytes, COUNT(*) AS records
FROM TUMBLE(usage, event_time, INTERVAL '10 seconds')
WHERE region IS NOT NULL AND service IS DISTINCT FROM 'day_total'
GROUP BY tenant, region, window_start, window_end
EMIT ON WINDOW CLOSE;

-- One row a region for a screen: what flows now, and where the last five minutes stood.
CREATE MATERIALIZED VIEW demand_now AS
SELECT l.tenant AS tenant, l.region AS region, l.window_end AS window_end, l.bytes AS bytes_10s, l.records AS records_10s,
  d.bytes AS bytes_5m, d.demand AS demand
FROM load_10s l
LEFT JOIN demand_factor d ON d.tenant = l.tenant AND d.region = l.region
EMIT CHANGES;


-- == alerts ===========================================================================================================

-- Two thresholds each: a score on the edge does not flap.
CREATE ALERT churn_high ON churn_risk
  RAISE WHEN score >= 0.70 CLEAR WHEN score < 0.65
  WITH (severity = 'error', kind = 'churn', rooms = 'sub:{tenant}:{subscriber_id}, admin:{tenant}',
        summary = '{subscriber_id} is likely to leave: churn risk {score}');

CREATE ALERT churn_critical ON churn_risk
  RAISE WHEN score >= 0.80 CLEAR WHEN score < 0.75
  WITH (severity = 'critical', kind = 'churn', rooms = 'sub:{tenant}:{subscriber_id}, admin:{tenant}',
        summary = '{subscriber_id} is about to leave: churn risk {score}');

CREATE ALERT usage_spike ON usage_spikes
  RAISE WHEN z >= 6 AND bytes >= 50000000 CLEAR WHEN z < 3
  WITH (severity = 'warning', kind = 'anomaly', score = 'z', min_hold = '1m', rooms = 'sub:{tenant}:{subscriber_id}, admin:{tenant}',
        summary = '{subscriber_id} moved {bytes} bytes at once, {z} robust deviations above its own median');

CREATE ALERT impossible_travel ON login_steps
  RAISE WHEN km >= 100 AND km / hours > 900 CLEAR WHEN km < 100 OR km / hours <= 900
  WITH (severity = 'error', kind = 'anomaly', score = 'km', rooms = 'sub:{tenant}:{subscriber_id}, admin:{tenant}',
        summary = '{subscriber_id} logged in from {city_before} and then from {city}, {km} km away: the account is shared or stolen');

CREATE ALERT payment_fraud ON payment_failures_10m
  RAISE WHEN failures >= 4 CLEAR WHEN failures < 4
  WITH (severity = 'critical', kind = 'anomaly', score = 'failures', rooms = 'sub:{tenant}:{subscriber_id}, admin:{tenant}',
        summary = '{subscriber_id} had {failures} failed payments within ten minutes and changed the card {card_changes} times');

CREATE ALERT node_down ON node_up
  RAISE WHEN up < 0.5 CLEAR WHEN up >= 0.5
  WITH (severity = 'critical', kind = 'outage', min_hold = '24h', rooms = 'noc:{tenant}, noc:{tenant}:{region}',
        summary = 'node {node_id} in {region} is down');


-- == rooms ============================================================================================================

CREATE SINK risk_room FROM churn_risk WITH (connector = 'room', room = 'risk:{tenant}', type = 'state', key = 'subscriber_id');
CREATE SINK demand_room FROM demand_now WITH (connector = 'room', room = 'demand:{tenant}', type = 'state', key = 'region');

-- The predictions where other programs read them: one hash a subscriber, and the history as files.
--
-- CREATE SINK risk_cache FROM churn_risk WITH (connector = 'redis', url = 'redis://127.0.0.1/', key = 'subscriber:{tenant}:{subscriber_id}', ttl = '24h');
-- CREATE SINK demand_history FROM demand_factor WITH (connector = 'parquet', path = 'out/demand');
