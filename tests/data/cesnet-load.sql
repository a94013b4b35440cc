-- What an address of a research network does: spells of high load, stretches without a gap, the busiest hours of a day, at which hours it is busy, percentiles.
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, flows BIGINT, duration DOUBLE,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE MATERIALIZED VIEW busy_spell AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS hours, MAX(bytes_down) AS peak_bytes, SUM(bytes_down) AS bytes, SUM(flows) AS flows
FROM SESSION(usage, event_time, INTERVAL '2 hours')
WHERE bytes_down >= 3650000000
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;

-- An hour that is missing ends a stretch: its neighbours are exactly the gap apart.
CREATE MATERIALIZED VIEW recorded AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS hours
FROM SESSION(usage, event_time, INTERVAL '2 hours')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW usage_hour AS
SELECT tenant, subscriber_id, event_time, date_trunc('day', event_time) AS day, date_part('hour', event_time) AS hour_of_day, bytes_down, flows
FROM usage;

CREATE MATERIALIZED VIEW busiest_hours AS
SELECT tenant, subscriber_id, day, place, event_time, bytes_down, flows
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tenant, subscriber_id, day ORDER BY bytes_down DESC, event_time) AS place FROM usage_hour)
WHERE place <= 3
EMIT CHANGES;

CREATE MATERIALIZED VIEW busy_hours_of_day_28d AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(DISTINCT day) AS days,
  COUNT(DISTINCT hour_of_day) FILTER (WHERE bytes_down >= 3650000000) AS busy_hours_of_day
FROM HOP(usage_hour, event_time, INTERVAL '1 day', INTERVAL '28 days')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW load_7d AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS hours, median(CAST(bytes_down AS DOUBLE)) AS median_bytes,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY CAST(bytes_down AS DOUBLE)) AS p95_bytes, median(duration) AS median_duration
FROM HOP(usage, event_time, INTERVAL '1 day', INTERVAL '7 days')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE;
