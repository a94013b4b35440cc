-- expect: 11:28: `allowed_lateness` corrects windows of `TUMBLE`, `HOP` and `CUMULATE`, and a session that has ended is not opened again
-- hint: choose a longer gap, or a larger bound of the watermark
CREATE SOURCE usage (
  tenant TEXT, subscriber_id TEXT, event_id TEXT, event_time TIMESTAMPTZ, bytes_down BIGINT, bytes_up BIGINT, region TEXT, price DECIMAL(10, 2),
  WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds'
) WITH (topic = 'usage.v1', key = 'tenant, subscriber_id');
CREATE MATERIALIZED VIEW v AS
SELECT tenant, subscriber_id, window_start, window_end, COUNT(*) AS n
FROM SESSION(usage, event_time, INTERVAL '5 minutes')
GROUP BY tenant, subscriber_id, window_start, window_end
EMIT ON WINDOW CLOSE WITH (allowed_lateness = '1m');
