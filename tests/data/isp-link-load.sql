-- How a link is loaded: spells of high load, the busiest hours of a day, days with high load in a week, and what is billed by the 95th percentile.
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, region TEXT,
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', format = 'json', key = 'tenant, subscriber_id');

CREATE MATERIALIZED VIEW load_1h AS
SELECT tenant, region, window_start, window_end, SUM(bytes_down) AS bytes
FROM TUMBLE(usage, event_time, INTERVAL '1 hour')
GROUP BY tenant, region, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW load_hour AS
SELECT tenant, region, window_end AS hour_end, date_trunc('day', window_start) AS day, window_start AS hour, bytes
FROM load_1h;

-- Hours above 8.5 GB, each at its end; a quiet hour between two of them, and the spell is over.
CREATE MATERIALIZED VIEW high_load AS
SELECT tenant, region, window_start, window_end, COUNT(*) AS hours, MAX(bytes) AS peak_bytes, SUM(bytes) AS bytes
FROM SESSION(load_hour, hour_end, INTERVAL '2 hours')
WHERE bytes >= 8500000000
GROUP BY tenant, region, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW busiest_hours AS
SELECT tenant, region, day, place, hour, bytes
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY tenant, region, day ORDER BY bytes DESC, hour) AS place FROM load_hour)
WHERE place <= 3
EMIT CHANGES;

CREATE MATERIALIZED VIEW high_days_7d AS
SELECT tenant, region, window_start, window_end, COUNT(DISTINCT day) AS days, COUNT(DISTINCT day) FILTER (WHERE bytes >= 8500000000) AS high_days
FROM HOP(load_hour, hour_end, INTERVAL '1 day', INTERVAL '7 days')
GROUP BY tenant, region, window_start, window_end
EMIT ON WINDOW CLOSE;

CREATE MATERIALIZED VIEW billed_7d AS
SELECT tenant, region, window_start, window_end, COUNT(*) AS hours, median(CAST(bytes AS DOUBLE)) AS median_bytes,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY CAST(bytes AS DOUBLE)) AS p95_bytes
FROM HOP(load_hour, hour_end, INTERVAL '1 day', INTERVAL '7 days')
GROUP BY tenant, region, window_start, window_end
EMIT ON WINDOW CLOSE;
